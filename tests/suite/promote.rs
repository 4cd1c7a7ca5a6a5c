//! `baton promote` and `batonctl promote`: what they say and how they end, with supervisors that keep to a script where the
//! takeover itself is not what matters.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;

use baton_ipc::control::{
    Command as Asked, ErrorCode, Generation, Output as Answer, PeerStatus, Reply, Request, Status, TakeoverReceipt,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::harness::service::{Builder, baton, batonctl, promotion};
use crate::harness::terminal::Terminal;
use crate::harness::{SOON, Service, eventually, executable};

/// A place where nothing runs yet.
struct Place(TempDir);

impl Place {
    fn new() -> Place {
        let dir = tempfile::tempdir().expect("a temporary directory");
        fs::create_dir(dir.path().join("run")).expect("a directory");
        Place(dir)
    }

    fn run(&self) -> PathBuf {
        self.0.path().join("run")
    }

    fn baton(&self, args: &[&str]) -> Command {
        promotion(self.0.path(), args)
    }

    fn batonctl(&self, args: &[&str]) -> Command {
        batonctl(self.0.path(), args)
    }

    /// A supervisor that is in this phase and answers `promote` and `rollback` with these lines, then hangs up if it is
    /// `lost`. What it is asked, beside how it is, comes out of the channel.
    fn supervisor(&self, color: &str, phase: &str, script: Script) -> mpsc::Receiver<Asked> {
        let listener = UnixListener::bind(self.run().join(format!("{color}.sock"))).expect("a socket");
        let (sender, receiver) = mpsc::channel();
        let status = status(color, phase);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (sender, status, script) = (sender.clone(), status.clone(), script.clone());
                thread::spawn(move || converse(&stream.expect("a client"), &sender, status, &script));
            }
        });
        receiver
    }
}

/// How a scripted supervisor answers.
#[derive(Clone, Default)]
struct Script {
    replies: Vec<Reply>,
    /// The connection stays open after the last reply, though it was none.
    unfinished: bool,
    peer: Option<PeerStatus>,
}

fn converse(stream: &UnixStream, sender: &mpsc::Sender<Asked>, mut status: Status, script: &Script) {
    let say = |reply: &Reply| {
        let line = serde_json::to_string(reply).expect("JSON") + "\n";
        let _ = { stream }.write_all(line.as_bytes());
    };
    for line in BufReader::new(stream).lines().map_while(Result::ok) {
        let request: Request = serde_json::from_str(&line).expect("a request");
        if request.command == Asked::Status {
            status.peer.clone_from(&script.peer);
            say(&Reply::Done { output: Answer::Status(Box::new(status.clone())) });
            continue;
        }
        let _ = sender.send(request.command);
        script.replies.iter().for_each(say);
        if !script.unfinished {
            return;
        }
    }
}

fn status(color: &str, phase: &str) -> Status {
    Status {
        color: color.into(),
        version: "0.1.0".into(),
        // Of a process that there is, and that is in no unit of ours.
        pid: std::process::id(),
        uptime_seconds: 1.0,
        phase: phase.into(),
        peer: None,
        program: None,
        settings: None,
        outdated: false,
        upgrade: None,
        last_takeover: None,
        listen: vec![],
        backplane: "embedded".into(),
        backplane_degraded: None,
        slots: vec![],
    }
}

/// What was printed and what was complained of, of a command that must end with this code.
#[track_caller]
fn ended(command: &mut Command, code: i32) -> (String, String) {
    let Output { status, stdout, stderr } = command.output().expect("it runs");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    let (stdout, stderr) = (text(stdout), text(stderr));
    assert_eq!(status.code(), Some(code), "{command:?}\n{stdout}\n{stderr}");
    (stdout, stderr)
}

fn step(message: &str) -> Reply {
    Reply::Step { message: message.into() }
}

fn receipt(dropped: u64) -> Reply {
    let generation = |color: &str| Generation { color: color.into(), pid: 1, version: "0.1.0".into() };
    let receipt = TakeoverReceipt {
        from: generation("blue"),
        to: generation("green"),
        handed: 300,
        drained: vec![],
        dropped,
        longest_pause_us: 1500,
        p99_pause_us: 500,
        steps: vec![("handing over".into(), 40)],
        kept: false,
    };
    Reply::Done { output: Answer::Takeover(Box::new(receipt)) }
}

/// Steps and progress, and how it ends.
fn takeover(end: Reply) -> Script {
    let progress = |done| Reply::Progress { done, total: 300 };
    let replies = vec![step("preflight"), progress(100), progress(101), progress(300), step("blue is retired"), end];
    Script { replies, ..Script::default() }
}

const SERVES: fn() -> Script = Script::default;

#[test]
fn where_nothing_runs_it_says_how_to_start() {
    let place = Place::new();
    let (stdout, said) = ended(&mut place.baton(&[]), 1);
    assert!(said.contains(&format!("no supervisor answers in {}", place.run().display())), "{said}");
    assert!(said.contains("`make up` or `baton run`") && stdout.is_empty(), "{said}");
    // A socket that was left behind is nobody.
    drop(UnixListener::bind(place.run().join("blue.sock")).expect("a socket"));
    ended(&mut place.baton(&[]), 1);
}

#[test]
fn a_wrong_configuration_is_refused_before_anything_starts() {
    let place = Place::new();
    let asked = place.supervisor("blue", "running", SERVES());
    let (_, said) = ended(&mut place.baton(&["--workers=0", "--drain-timeout=1h"]), 64);
    assert!(said.starts_with("baton: the configuration is refused:\n"), "{said}");
    assert!(said.contains("workers = \"0\" (flag --workers)") && said.contains("drain-timeout"), "{said}");
    assert!(asked.try_recv().is_err() && !place.run().join("green.start").exists());
    let (_, said) = ended(&mut place.baton(&["--max-generations=1"]), 1);
    assert!(said.contains("max-generations is 1"), "{said}");
    let (_, said) = ended(&mut place.baton(&["--color=green"]), 2);
    assert!(said.contains("--color"), "{said}");
}

#[test]
fn what_cannot_be_relieved_is_named() {
    let place = Place::new();
    let _blue = place.supervisor("blue", "reloading", SERVES());
    let (_, said) = ended(&mut place.baton(&[]), 1);
    assert!(said.contains("blue (pid ") && said.contains(" is reloading: a takeover needs"), "{said}");

    let place = Place::new();
    let generation = Generation { color: "blue".into(), pid: 7, version: "0.1.0".into() };
    let peer = Some(PeerStatus { generation, role: "is kept for a rollback".into() });
    let asked = place.supervisor("green", "running", Script { peer, ..takeover(receipt(0)) });
    let _blue = place.supervisor("blue", "standby", SERVES());
    let (_, said) = ended(&mut place.baton(&[]), 1);
    assert!(said.contains("blue is kept for a rollback") && asked.try_recv().is_err(), "{said}");
    // The one that can give everything back is found among the two.
    let (page, _) = ended(&mut place.batonctl(&["rollback"]), 0);
    assert!(page.contains("blue (pid 1, baton 0.1.0) -> green"), "{page}");
    assert_eq!(asked.recv(), Ok(Asked::Rollback));
    // And what they are is shown of both.
    let (page, _) = ended(&mut place.batonctl(&["status"]), 3);
    assert!(page.contains("blue  standby") && page.contains("\n\ngreen  running"), "{page}");
    assert!(page.contains("peer       blue (pid 7) is kept for a rollback\n"), "{page}");
}

#[test]
fn one_that_stands_by_takes_over() {
    let place = Place::new();
    let _blue = place.supervisor("blue", "running", SERVES());
    let asked = place.supervisor("green", "standby", takeover(receipt(0)));
    let (page, said) = ended(&mut place.baton(&["--canary", "5%", "--watch", "20s", "--keep-old"]), 0);
    let careful = Asked::Promote { canary: Some(5.0), watch_ms: 20_000, keep_old: true };
    assert_eq!((asked.recv(), said.as_str()), (Ok(careful), ""));
    let lines: Vec<&str> = page.lines().map(|line| line.split_once("s  ").map_or(line, |(_, text)| text)).collect();
    assert!(lines[0].starts_with("green (pid ") && lines[0].ends_with(") stands by already and is used"), "{page}");
    assert_eq!(lines[1], "preflight");
    assert_eq!(lines[2], "100 of 300 connections are handed over (30 %)");
    assert_eq!(lines[3], "300 of 300 connections are handed over (100 %)");
    assert_eq!(lines[4..7], ["blue is retired", "", "blue (pid 1, baton 0.1.0) -> green (pid 1, baton 0.1.0) in 40ms"]);
    assert!(page.contains("        300        0        0         1.50ms     0.50ms\n"), "{page}");

    // By batonctl, which finds the right one of the two.
    let (page, _) = ended(&mut place.batonctl(&["promote"]), 0);
    assert_eq!(asked.recv(), Ok(Asked::Promote { canary: None, watch_ms: 0, keep_old: false }));
    assert!(page.starts_with("preflight\n100 of 300 connections are handed over (30 %)\n"), "{page}");
    assert!(page.contains("\n300 of 300 ") && page.contains("HANDED OVER"), "{page}");
}

#[test]
fn programs_get_the_supervisors_lines() {
    let place = Place::new();
    let _blue = place.supervisor("blue", "running", SERVES());
    let script = takeover(receipt(0));
    let _green = place.supervisor("green", "standby", script.clone());
    let (page, _) = ended(&mut place.baton(&["--json"]), 0);
    let lines: Vec<Reply> = page.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines, script.replies);
}

#[test]
fn a_loss_is_a_failure() {
    let place = Place::new();
    let _blue = place.supervisor("blue", "running", SERVES());
    let _green = place.supervisor("green", "standby", takeover(receipt(2)));
    let (page, _) = ended(&mut place.baton(&[]), 1);
    assert!(page.contains("        300        0        2 "), "{page}");
    ended(&mut place.batonctl(&["promote"]), 3);
}

#[test]
fn a_failure_says_who_serves() {
    let place = Place::new();
    let _blue = place.supervisor("blue", "running", SERVES());
    let failed = Reply::Error { code: ErrorCode::Failed, message: "the canary failed".into() };
    let _green = place.supervisor("green", "standby", takeover(failed));
    let (_, said) = ended(&mut place.baton(&[]), 1);
    let pid = std::process::id();
    assert_eq!(said, format!("baton: the canary failed\nblue (pid {pid}) serves, as before (baton 0.1.0)\n"));
}

#[test]
fn a_supervisor_that_is_lost_in_the_middle_is_asked_for() {
    let place = Place::new();
    let _blue = place.supervisor("blue", "running", SERVES());
    let script = Script { replies: vec![step("preflight")], ..Script::default() };
    let _green = place.supervisor("green", "standby", script);
    let (page, said) = ended(&mut place.baton(&[]), 1);
    assert!(page.contains("preflight"), "{page}");
    assert!(said.contains("the answer of green was lost: ") && said.contains(" serves, as before"), "{said}");
}

#[test]
fn ctrl_c_does_not_leave_it_unexplained() {
    let place = Place::new();
    let _blue = place.supervisor("blue", "running", SERVES());
    let script = Script { replies: vec![step("preflight")], unfinished: true, ..Script::default() };
    let asked = place.supervisor("green", "standby", script);
    for mut command in [place.baton(&[]), place.batonctl(&["promote"])] {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
        asked.recv().expect("a request");
        kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).expect("it lives");
        eventually("its end", || child.try_wait().expect("a child of ours"));
        let Output { status, stderr, .. } = child.wait_with_output().expect("it has ended");
        let said = String::from_utf8_lossy(&stderr);
        assert_eq!(status.code(), Some(130), "{said}");
        assert!(said.contains("by themselves") && said.contains("batonctl status"), "{said}");
    }
}

#[test]
fn on_a_terminal_there_is_a_bar() {
    let place = Place::new();
    let _blue = place.supervisor("blue", "running", SERVES());
    let _green = place.supervisor("green", "standby", takeover(receipt(0)));
    let mut command = place.baton(&[]);
    command.env("NO_COLOR", "1");
    let mut terminal = Terminal::start(command);
    terminal.wait_for("preflight");
    terminal.wait_for("300 of 300 connections");
    terminal.wait_for("blue is retired");
    terminal.wait_for("HANDED OVER");
    assert!(terminal.wait().success());
}

#[test]
fn a_new_generation_that_cannot_start_disturbs_nobody() {
    let service = Builder::new().with("--workers", 1).start();
    let before = service.worker_pids();
    // No address of this machine (RFC 5737).
    let (page, said) = ended(&mut promotion(service.dir(), &["--listen", "192.0.2.1:9"]), 1);
    let pid = service.pid();
    assert!(page.contains(&format!("starting green beside blue (pid {pid})")), "{page}");
    assert!(said.contains(&format!("green did not start: blue (pid {pid}) goes on serving")), "{said}");
    let log = service.log();
    let reason = log.lines().find(|line| line.starts_with("baton: ")).expect("a reason, where blue logs");
    assert!(said.contains(reason), "{said}\n{log}");
    assert!(page.contains(&format!("green logs to {}", service.dir().join("log").display())), "{page}");
    assert_eq!(service.worker_pids(), before);
    still_serves(&service);
}

fn still_serves(service: &Service) {
    assert_eq!(service.status().phase, "running");
    service.wait_ready();
}

/// A real service, and the settings that a promotion must be given to make the same.
struct Real {
    builder: Builder,
    service: Service,
}

const SAME: [&str; 5] =
    ["--listen=127.0.0.1:0", "--heartbeat-interval=1h", "--workers=1", "--retry-spread=1s", "--log-level=info"];

impl Real {
    #[track_caller]
    fn start(change: impl FnOnce(Builder) -> Builder) -> Real {
        let builder = Builder::new().without("--heartbeat-interval").with("--heartbeat-interval", "1h");
        let builder = builder.with("--workers", 1).with("--retry-spread", "1s").with("--log-level", "info");
        let service = change(builder.clone()).start();
        Real { builder, service }
    }

    #[track_caller]
    fn standby(&self, change: impl FnOnce(Builder) -> Builder) -> Service {
        let standby = change(self.builder.clone().with("--color", "green").with("--takeover", "wait")).spawn();
        eventually("green stands by", || standby.try_status().filter(|status| status.phase == "standby"));
        standby
    }

    /// Promotes, waits for the end of blue, and ends green, whose status it returns with what was said.
    #[track_caller]
    fn promote(mut self, args: &[&str]) -> (Status, String, String) {
        let output = promotion(self.service.dir(), args).output().expect("it runs");
        let (page, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{page}{said}");
        let asked = batonctl(self.service.dir(), &["--color=green", "--json", "status"]).output().expect("it runs");
        assert!(
            batonctl(self.service.dir(), &["--color=green", "shutdown"]).output().expect("it runs").status.success()
        );
        self.service.wait(SOON);
        let Ok(Reply::Done { output: Answer::Status(status) }) = serde_json::from_slice(&asked.stdout) else {
            panic!("{asked:?}")
        };
        (*status, page.into_owned(), said.into_owned())
    }
}

#[test]
fn a_standby_with_other_settings_is_started_anew() {
    let real = Real::start(|builder| builder);
    let mut standby = real.standby(|builder| builder.with("--workers", 2));
    let old = standby.status().pid;
    let (green, page, _) = real.promote(&SAME);
    assert!(page.contains("green stands by already, but has other settings"), "{page}");
    assert!(green.pid != old && green.slots.len() == 1, "{green:?}");
    assert!(standby.wait(SOON).success());
}

#[test]
fn a_standby_of_another_program_is_started_anew_and_the_right_one_is_used() {
    let real = Real::start(|builder| builder);
    let program = real.service.dir().join("old-baton");
    executable::copy(&baton(), &program);
    let mut standby = real.standby(|builder| builder.program(program.clone()));
    let (green, page, _) = real.promote(&SAME);
    assert!(
        page.contains(&format!("runs another program, baton {} from {}", green.version, program.display())),
        "{page}"
    );
    assert!(standby.wait(SOON).success());
    let file = green.program.expect("it says").file;
    assert!(page.contains(&format!("green (pid {}) serves: baton {}, {file}", green.pid, green.version)), "{page}");

    let real = Real::start(|builder| builder);
    let standby = real.standby(|builder| builder);
    let (green, page, _) = real.promote(&SAME);
    assert!(page.contains("stands by already and is used"), "{page}");
    assert_eq!(green.pid, standby.pid().as_raw() as u32);
}

#[test]
fn a_promoted_generation_logs_where_the_old_one_did() {
    let real = Real::start(|builder| builder);
    let (dir, log) = (real.service.dir().to_owned(), real.service.dir().join("log"));
    let kept = real.builder.clone();
    let (green, page, _) = real.promote(&SAME);
    assert!(page.contains(&format!("green logs to {}", log.display())), "{page}");
    let lines = fs::read_to_string(log).expect("a log");
    assert!(lines.lines().any(|line| line.contains("taken over") && line.contains(&green.pid.to_string())), "{lines}");
    let left: Vec<_> = fs::read_dir(dir.join("run")).expect("a directory").filter_map(|file| file.ok()).collect();
    assert!(
        left.iter().all(|file| !file.file_type().expect("a type").is_file() || file.metadata().expect("it").len() < 64)
    );
    drop(kept);
}

#[test]
fn an_address_that_the_new_generation_does_not_have_is_warned_of() {
    let dir = tempfile::tempdir().expect("a directory");
    let address = format!("unix:{}", dir.path().join("http.sock").display());
    let real = Real::start(|builder| builder.with("--listen", &address));
    let (_, _, said) = real.promote(&SAME);
    assert!(said.contains("WARNING: green does not listen on") && said.contains("http.sock"), "{said}");
}
