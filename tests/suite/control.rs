//! The control socket: who may speak, and that nothing that is said hurts the service.

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;

use baton_ipc::control::{ErrorCode, Output as Answer, Reply};
use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Gid, Group};

use crate::harness::service::{Builder, open_to_all};
use crate::harness::{SOON, Service, eventually, is_root};

/// A user without any rights, on every Linux.
const NOBODY: u32 = 65534;

/// A user who is neither root nor nobody; it need not exist.
const SOMEBODY: u32 = 64321;

const STATUS: &str = r#"{"version":1,"command":"status"}"#;
const VERSION: &str = r#"{"version":1,"command":"version"}"#;

fn socket(service: &Service) -> PathBuf {
    service.dir().join("run/blue.sock")
}

fn dial(service: &Service) -> UnixStream {
    let stream = UnixStream::connect(socket(service)).expect("the supervisor listens");
    stream.set_read_timeout(Some(SOON)).expect("a socket");
    stream
}

/// The next answer, or nothing at the end.
fn read(stream: &mut impl BufRead) -> Option<Reply> {
    let mut line = String::new();
    match stream.read_line(&mut line) {
        Ok(0) => None,
        Ok(_) => Some(serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))),
        // What a refused client had sent was thrown away; it has read its answer by now.
        Err(error) if error.kind() == ErrorKind::ConnectionReset => None,
        Err(error) => panic!("no answer: {error}"),
    }
}

/// Sends bytes and returns the first answer.
fn ask(service: &Service, bytes: &[u8]) -> Reply {
    let mut stream = dial(service);
    let mut writer = stream.try_clone().expect("a descriptor");
    thread::scope(|scope| {
        // A refusal may come, and the connection end, before everything is written.
        scope.spawn(move || drop(writer.write_all(bytes).and_then(|()| writer.shutdown(Shutdown::Write))));
        read(&mut BufReader::new(&mut stream)).expect("an answer")
    })
}

fn code(reply: &Reply) -> Option<ErrorCode> {
    if let Reply::Error { code, .. } = reply { Some(*code) } else { None }
}

fn is_status(reply: &Reply) -> bool {
    matches!(reply, Reply::Done { output: Answer::Status(_) })
}

/// Two workers are enough to see that none was replaced.
fn small() -> Builder {
    Builder::new().with("--workers", 2)
}

/// What runs here, and a check that it still does, that it answers, and that nothing was logged as an error.
struct Unhurt<'a>(&'a Service, Vec<nix::unistd::Pid>);

impl Unhurt<'_> {
    fn now(service: &Service) -> Unhurt<'_> {
        Unhurt(service, service.worker_pids())
    }

    #[track_caller]
    fn check(self) {
        let Unhurt(service, pids) = self;
        assert_eq!(service.worker_pids(), pids, "workers are the same");
        assert!(is_status(&ask(service, format!("{STATUS}\n").as_bytes())));
        let bad = service.log_lines().find(|line| line["level"] == "ERROR");
        assert_eq!(bad, None);
    }
}

#[test]
fn requests_that_are_none_get_an_error_and_hurt_nothing() {
    let service = small().start();
    let unhurt = Unhurt::now(&service);
    let mut half = dial(&service);
    half.write_all(&STATUS.as_bytes()[..20]).expect("sent");

    use ErrorCode::{BadRequest, NotFound, Version};
    let text = |text: &str| format!("{text}\n").into_bytes();
    let command = |rest: &str| text(&format!(r#"{{"version":1,"command":{rest}}}"#));
    let cases: Vec<(&str, Vec<u8>, ErrorCode)> = vec![
        ("garbage", text("status"), BadRequest),
        ("HTTP", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), BadRequest),
        ("binary", (0..=255u8).chain([b'\n']).collect(), BadRequest),
        ("zeros", [vec![0; 4096], vec![b'\n']].concat(), BadRequest),
        ("no UTF-8", [b"{\"version\":1,\"command\":\"\xff\xfe\"}\n".to_vec()].concat(), BadRequest),
        ("no object", text("[1]"), BadRequest),
        ("deep", text(&"[".repeat(60_000)), BadRequest),
        ("huge", [vec![b'x'; 1024 * 1024], vec![b'\n']].concat(), BadRequest),
        ("huge and valid", text(&format!("{}{STATUS}", " ".repeat(1024 * 1024))), BadRequest),
        ("half", STATUS.as_bytes()[..20].to_vec(), BadRequest),
        ("no version", text(r#"{"command":"status"}"#), BadRequest),
        ("a version that is no number", text(r#"{"version":"1","command":"status"}"#), BadRequest),
        ("another version", text(r#"{"version":2,"command":"status"}"#), Version),
        ("another version, another command", text(r#"{"version":999,"command":"fly"}"#), Version),
        ("no command", text(r#"{"version":1}"#), BadRequest),
        ("unknown command", command(r#""fly""#), BadRequest),
        ("a command that is no text", command("7"), BadRequest),
        ("a slot that is no number", command(r#""stop","slots":["x"]"#), BadRequest),
        ("a slot below zero", command(r#""stop","slots":[-1]"#), BadRequest),
        ("a slot above all", command(r#""stop","slots":[65536]"#), BadRequest),
        ("a slot that is not there", command(r#""stop","slots":[2]"#), NotFound),
        ("one slot that is there, one not", command(r#""stop","slots":[0,2]"#), NotFound),
        ("no slots", command(r#""stop""#), BadRequest),
        ("no workers", command(r#""scale","workers":0"#), BadRequest),
        ("too many workers", command(r#""scale","workers":65"#), BadRequest),
        ("half a worker", command(r#""scale","workers":1.5"#), BadRequest),
        ("a signal that is none", command(r#""signal","signal":"HUGO","slots":[]"#), NotFound),
        ("a signal for the supervisor", command(r#""signal","signal":"TERM","slots":[]"#), NotFound),
        ("an order that is none", command(r#""connections","order":"nicest""#), BadRequest),
        ("the backplane, misspelt", command(r#""Backplane""#), BadRequest),
        ("the session of nobody", command(r#""disconnect","session":"nobody","relay":true"#), NotFound),
        ("the log of nobody", command(r#""tail","slot":64"#), NotFound),
    ];
    for (name, bytes, expected) in cases {
        let reply = ask(&service, &bytes);
        assert_eq!(code(&reply), Some(expected), "{name}: {reply:?}");
    }
    // What is at the edge of the allowed, and far beyond what exists.
    let most = text(&format!("{}{STATUS}", " ".repeat(64 * 1024 - STATUS.len() - 1)));
    assert_eq!(most.len(), 64 * 1024);
    assert!(is_status(&ask(&service, &most)));
    for harmless in [
        r#""tail","from":18446744073709551615"#,
        r#""connections","limit":18446744073709551615"#,
        r#""backplane","kind":"redis","slots":[99]"#,
        r#""broadcast","message":null,"relay":7"#,
    ] {
        assert_eq!(code(&ask(&service, &command(harmless))), None, "{harmless}");
    }

    let reply = read(&mut BufReader::new(half)).expect("half a request is not waited for without end");
    assert_eq!(code(&reply), Some(BadRequest), "{reply:?}");
    unhurt.check();
}

#[test]
fn after_an_error_the_connection_goes_on() {
    let service = small().start();
    let mut stream = dial(&service);
    let lines = [VERSION, "garbage", "", STATUS, r#"{"version":1,"command":"stop","slots":[9]}"#];
    let mut bytes = format!("{}\n", lines.join("\n")).repeat(50).into_bytes();
    // The last one needs no newline.
    bytes.extend(STATUS.as_bytes());
    stream.write_all(&bytes).expect("sent");
    stream.shutdown(Shutdown::Write).expect("connected");
    let mut stream = BufReader::new(stream);
    for round in 0..50 {
        let mut next = || read(&mut stream).unwrap_or_else(|| panic!("an end in round {round}"));
        assert!(matches!(next(), Reply::Done { output: Answer::Version { .. } }));
        assert_eq!(code(&next()), Some(ErrorCode::BadRequest));
        assert!(is_status(&next()));
        assert_eq!(code(&next()), Some(ErrorCode::NotFound));
    }
    assert!(is_status(&read(&mut stream).expect("the last answer")));
    assert_eq!(read(&mut stream), None);
}

#[test]
fn a_hundred_at_once_are_served_or_told_to_come_back() {
    let service = small().start();
    let unhurt = Unhurt::now(&service);
    let mut clients: Vec<UnixStream> = (0..100).map(|_| dial(&service)).collect();
    for client in &mut clients {
        // The ones that are refused may be gone by now.
        let _ = client.write_all(format!("{STATUS}\n").as_bytes());
    }
    let replies: Vec<Reply> =
        clients.iter().map(|client| read(&mut BufReader::new(client)).expect("an answer")).collect();
    let served = replies.iter().filter(|reply| is_status(reply)).count();
    let busy = replies.iter().filter(|reply| code(reply) == Some(ErrorCode::Busy)).count();
    assert!(served >= 16 && served + busy == 100, "{served} served, {busy} busy");
    drop(clients);
    eventually("room again", || is_status(&ask(&service, format!("{STATUS}\n").as_bytes())).then_some(()));
    // Those that come and go one after another all have room, however many at once try.
    thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                for _ in 0..50 {
                    assert!(is_status(&ask(&service, format!("{STATUS}\n").as_bytes())));
                }
            });
        }
    });
    unhurt.check();
}

#[test]
fn a_client_that_never_reads_is_dropped_and_holds_nobody_up() {
    let service = small().start();
    let unhurt = Unhurt::now(&service);
    let mut deaf = dial(&service);
    deaf.set_nonblocking(true).expect("a socket");
    let requests = format!("{STATUS}\n").repeat(100);
    eventually("the end of a client that does not read", || {
        assert!(is_status(&ask(&service, format!("{STATUS}\n").as_bytes())), "others are served meanwhile");
        match deaf.write(requests.as_bytes()) {
            Ok(_) => None,
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::BrokenPipe);
                Some(())
            }
        }
    });
    unhurt.check();
}

#[test]
fn a_client_that_leaves_in_the_middle_stops_nothing() {
    let service = small().start();
    let pids = service.worker_pids();
    let mut stream = dial(&service);
    stream.write_all(b"{\"version\":1,\"command\":\"restart\",\"slots\":[]}\n").expect("sent");
    drop(stream);
    eventually("all workers are new", || {
        let new = service.worker_pids();
        (new.len() == 2 && new.iter().all(|pid| !pids.contains(pid))).then_some(())
    });
    eventually("the restart is over", || is_status(&ask(&service, STATUS.as_bytes())).then_some(()));
}

#[test]
fn while_something_long_goes_on_another_one_is_refused_and_questions_are_answered() {
    // A connection that does not answer bye keeps its worker draining.
    let service = small().with("--close-timeout", "9s").with("--drain-timeout", "9s").start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let _deaf = runtime.block_on(crate::harness::client::Raw::connect(service.address, "/ws/chat/", b""));
    let mut first = dial(&service);
    first.write_all(b"{\"version\":1,\"command\":\"stop\",\"slots\":[]}\n").expect("sent");
    let refused = eventually("busy", || {
        let reply = ask(&service, b"{\"version\":1,\"command\":\"scale\",\"workers\":3}\n");
        if let Reply::Error { code: ErrorCode::Busy, message } = reply { Some(message) } else { panic!("{reply:?}") }
    });
    assert_eq!(refused, "stop is not finished yet");
    assert!(is_status(&ask(&service, STATUS.as_bytes())));
}

#[test]
fn the_socket_of_a_supervisor_that_was_killed_is_replaced() {
    let builder = small();
    let mut first = builder.clone().start();
    let workers = first.worker_pids();
    first.signal(Signal::SIGKILL);
    first.wait(SOON);
    assert!(socket(&first).exists(), "nobody was there to remove it");
    assert_eq!(UnixStream::connect(socket(&first)).map_err(|e| e.kind()).err(), Some(ErrorKind::ConnectionRefused));
    assert_eq!(first.ctl(&["status"]).status.code(), Some(4));
    // At once: its workers may still be on their way out.
    let second = builder.start();
    let status = second.status();
    assert_eq!((status.pid, status.phase.as_str()), (second.pid().as_raw() as u32, "running"));
    eventually("the orphans are gone", || workers.iter().all(|pid| kill(*pid, None).is_err()).then_some(()));
    assert!(socket(&second).exists(), "who is gone does not take the new socket away");
    assert_eq!(second.ctl(&["status"]).status.code(), Some(0));
}

#[test]
fn two_of_one_color_are_one_too_many() {
    let builder = small();
    let first = builder.clone().start();
    let (status, log) = builder.refused();
    assert_eq!(status.code(), Some(1));
    assert!(log.contains(&format!("blue already runs with pid {}", first.pid())), "{log}");
    assert_eq!(first.ctl(&["status"]).status.code(), Some(0));
}

/// Runs `batonctl` as another user: the same binary, where that user may run it.
struct Stranger<'a> {
    service: &'a Service,
    batonctl: PathBuf,
}

impl Stranger<'_> {
    fn of(service: &Service) -> Stranger<'_> {
        Stranger { service, batonctl: open_to_all(Path::new(env!("CARGO_BIN_EXE_batonctl")), service.dir()) }
    }

    /// setpriv(1) drops what root has, in one step, supplementary groups too.
    fn status(&self, uid: u32, gid: u32, groups: &[u32]) -> Output {
        let mut command = Command::new("setpriv");
        command.args([format!("--reuid={uid}"), format!("--regid={gid}")]);
        match groups {
            [] => command.arg("--clear-groups"),
            _ => command.arg(format!("--groups={}", groups.iter().map(u32::to_string).collect::<Vec<_>>().join(","))),
        };
        command.arg(&self.batonctl).arg("--runtime-dir").arg(self.service.dir().join("run")).arg("status");
        command.output().expect("setpriv(1) is installed")
    }

    #[track_caller]
    fn is_refused(&self, output: &Output, by: &str) {
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(5), "{said}");
        assert!(said.contains(&format!("permission denied by {by}")), "{said}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn another_user_is_refused() {
    if !is_root() {
        return;
    }
    let service = small().start();
    let unhurt = Unhurt::now(&service);
    let stranger = Stranger::of(&service);
    // By the permissions of the socket …
    let path = socket(&service).display().to_string();
    stranger.is_refused(&stranger.status(NOBODY, NOBODY, &[]), &path);
    assert_eq!(fs::metadata(&path).expect("a socket").permissions().mode() & 0o777, 0o600);
    // … and, where somebody has opened those, by the supervisor, who asks the kernel.
    fs::set_permissions(&path, Permissions::from_mode(0o666)).expect("a socket of ours");
    stranger.is_refused(&stranger.status(NOBODY, NOBODY, &[]), "the supervisor");
    // The group of root is not root.
    stranger.is_refused(&stranger.status(NOBODY, 0, &[0]), "the supervisor");
    let refusal = service.wait_log("refused a client of the control socket");
    assert_eq!((refusal["level"].as_str(), refusal["peer_uid"].as_u64()), (Some("WARN"), Some(NOBODY.into())));
    assert!(refusal["peer_pid"].as_u64().is_some_and(|pid| pid > 0));
    unhurt.check();
}

#[test]
fn members_of_the_control_group_are_let_in() {
    if !is_root() {
        return;
    }
    let (gid, other) = (1, 2);
    let group = Group::from_gid(Gid::from_raw(gid)).expect("a list of groups").expect("a group with number 1");
    let service = small().with("--control-group", &group.name).start();
    let stranger = Stranger::of(&service);
    let socket = socket(&service);
    assert_eq!(fs::metadata(&socket).expect("a socket").permissions().mode() & 0o777, 0o660);
    let by_primary = stranger.status(NOBODY, gid, &[]);
    assert_eq!(by_primary.status.code(), Some(0), "{by_primary:?}");
    let by_supplementary = stranger.status(NOBODY, NOBODY, &[other, gid]);
    assert_eq!(by_supplementary.status.code(), Some(0), "{by_supplementary:?}");
    let path = socket.display().to_string();
    stranger.is_refused(&stranger.status(NOBODY, NOBODY, &[other]), &path);
    fs::set_permissions(&socket, Permissions::from_mode(0o666)).expect("a socket of ours");
    stranger.is_refused(&stranger.status(NOBODY, NOBODY, &[other]), "the supervisor");
}

#[test]
fn the_services_own_user_and_root_are_let_in() {
    if !is_root() {
        return;
    }
    let service = small().user(SOMEBODY).start();
    let stranger = Stranger::of(&service);
    let own = stranger.status(SOMEBODY, SOMEBODY, &[]);
    assert_eq!(own.status.code(), Some(0), "{own:?}");
    assert_eq!(service.ctl(&["status"]).status.code(), Some(0), "root");
    let path = socket(&service);
    fs::set_permissions(&path, Permissions::from_mode(0o666)).expect("root may");
    stranger.is_refused(&stranger.status(NOBODY, SOMEBODY, &[SOMEBODY]), "the supervisor");
}

#[test]
fn a_refused_client_cannot_slip_a_command_in() {
    if !is_root() {
        return;
    }
    let service = small().start();
    let unhurt = Unhurt::now(&service);
    fs::set_permissions(socket(&service), Permissions::from_mode(0o666)).expect("a socket of ours");
    fs::set_permissions(service.dir(), Permissions::from_mode(0o755)).expect("a directory of ours");
    let mut stream = connect_as(NOBODY, &socket(&service));
    let stop = r#"{"version":1,"command":"stop","slots":[]}"#;
    // It may be refused and cut off while it still writes.
    let _ = stream.write_all(format!("{stop}\n").repeat(1000).as_bytes());
    let mut stream = BufReader::new(stream);
    let reply = read(&mut stream).expect("an answer");
    assert_eq!(code(&reply), Some(ErrorCode::PermissionDenied));
    assert_eq!(read(&mut stream), None);
    unhurt.check();
}

/// A connection that another user has made: the kernel notes who calls connect(2).
fn connect_as(uid: u32, path: &Path) -> UnixStream {
    let connect = || {
        // SAFETY: a system call without pointers. Without libc's wrapper it is this thread alone that becomes another
        // user, and the thread ends here.
        let failed = unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) } != 0;
        assert!(!failed, "root may become anybody");
        UnixStream::connect(path)
    };
    let connected = thread::scope(|scope| scope.spawn(connect).join());
    connected.expect("no panic").expect("everybody may connect")
}
