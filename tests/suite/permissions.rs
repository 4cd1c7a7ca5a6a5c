//! What other users of the machine can do to a service, which is nothing.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

use nix::fcntl::{Flock, FlockArg};
use nix::libc;
use nix::sys::stat::{Mode, umask};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::harness::service::Builder;
use crate::harness::{Service, eventually, is_root};

/// A user who has nothing to do with the service.
const NOBODY: u32 = 65534;

/// Makes a directory of the service's, with these permissions.
fn directory(builder: &Builder, name: &str, mode: u32) -> PathBuf {
    let path = builder.dir().join(name);
    fs::create_dir(&path).expect("a directory of ours");
    fs::set_permissions(&path, Permissions::from_mode(mode)).expect("a directory of ours");
    path
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).mode() & 0o777
}

/// Another user who locks a file or a directory for as long as this lives.
struct Locker(Child);

impl Locker {
    /// None: that user cannot even open it.
    fn start(path: &Path) -> Option<Locker> {
        let mut command = Command::new("flock");
        command.args(["--exclusive", "--nonblock"]).arg(path).args(["sh", "-c", "echo locked; exec cat"]);
        command.uid(NOBODY).gid(NOBODY).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("flock(1) is installed");
        let mut said = [0; 6];
        let stdout = child.stdout.as_mut().expect("a pipe");
        let locked = std::io::Read::read_exact(stdout, &mut said).is_ok();
        let locker = Locker(child);
        locked.then_some(locker)
    }
}

impl Drop for Locker {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

#[test]
fn locks_of_other_users_stop_nobody() {
    if !is_root() {
        return;
    }
    let builder = Builder::new().with("--workers", 1).with("--checkpoint-interval", "100ms");
    fs::set_permissions(builder.dir(), Permissions::from_mode(0o755)).expect("a directory of ours");
    let (run, state) = (directory(&builder, "run", 0o755), directory(&builder, "state", 0o755));
    let _locker = Locker::start(&run).expect("whoever may enter a directory may lock it");
    let _other = Locker::start(&state).expect("whoever may enter a directory may lock it");
    let service = builder.start();
    eventually("a checkpoint", || state.join("checkpoint.mdb").exists().then_some(()));
    let locks =
        [run.join("start.lock"), state.join("checkpoint.lock"), state.join("store.lock"), state.join("users.lock")];
    for lock in locks {
        assert_eq!(mode(&lock), 0o600, "{}", lock.display());
        assert!(Locker::start(&lock).is_none(), "{} is locked by somebody else", lock.display());
    }
    let restarted = service.ctl(&["restart", "0"]);
    assert!(restarted.status.success(), "{restarted:?}");
}

#[test]
fn a_start_that_finds_another_one_stuck_says_who_that_is() {
    let builder = Builder::new();
    let run = directory(&builder, "run", 0o755);
    let lock = run.join("start.lock");
    fs::write(&lock, "4711\n").expect("a file of ours");
    let file = File::open(&lock).expect("a file of ours");
    let _held = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno).expect("nobody has it");
    let mut child = builder.command().spawn().expect("baton starts");
    let log = || fs::read_to_string(builder.dir().join("log")).unwrap_or_default();
    eventually("it says what it waits for", || log().contains(r#""event":"waiting_for_lock""#).then_some(()));
    let status = eventually("its deadline", || child.try_wait().expect("a child of ours"));
    assert_eq!(status.code(), Some(1));
    let said = log();
    let last = said.lines().last().unwrap_or_default();
    assert!(last.starts_with("baton: ") && last.contains("pid 4711") && last.contains("start.lock"), "{said}");
}

#[test]
fn directories_that_others_may_write_to_or_own_are_refused() {
    for name in ["run", "state", "logs"] {
        for change in [0o775, 0o757, 0o1777] {
            let builder = Builder::new();
            let path = directory(&builder, name, change);
            refused(&builder, &path, &format!("{change:04o}"));
        }
        if is_root() {
            let builder = Builder::new();
            let path = directory(&builder, name, 0o755);
            std::os::unix::fs::chown(&path, Some(NOBODY), None).expect("root may give files away");
            refused(&builder, &path, "belongs to user 65534");
        }
    }
}

#[track_caller]
fn refused(builder: &Builder, path: &Path, what: &str) {
    let builder = builder.clone().with("--log-dir", builder.dir().join("logs").display());
    let (status, said) = builder.refused();
    let last = said.lines().last().unwrap_or_default();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains(&path.display().to_string()) && said.contains(what), "{what}: {last}");
    assert!(!said.contains("\"listening\""), "{said}");
}

#[test]
fn no_link_is_followed_when_files_are_made() {
    let builder = Builder::new().with("--workers", 1).with("--checkpoint-interval", "100ms");
    let (run, state) = (directory(&builder, "run", 0o755), directory(&builder, "state", 0o755));
    let precious = builder.dir().join("precious");
    fs::write(&precious, "data").expect("a file of ours");
    // What is made anew replaces a link.
    symlink(&precious, state.join("baton-store.tmp")).expect("a directory of ours");
    let service = builder.clone().start();
    eventually("no checkpoint is under way", || symlink(&precious, state.join("checkpoint.tmp")).ok());
    fs::remove_file(state.join("checkpoint.mdb")).ok();
    let url = service.session_url("a");
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(async {
        let mut client = crate::harness::Client::connect(&url).await;
        client.send("something to copy").await;
        assert_eq!(client.count().await, 1);
    });
    eventually("a checkpoint", || state.join("checkpoint.mdb").exists().then_some(()));
    assert!(fs::symlink_metadata(state.join("checkpoint.mdb")).expect("it is there").is_file());
    assert_eq!(fs::read_to_string(&precious).expect("a file of ours"), "data");
    service.stop();

    // What is opened is refused as a link.
    fs::remove_file(state.join("users.lock")).expect("a file of ours");
    symlink(&precious, state.join("users.lock")).expect("a directory of ours");
    let (status, said) = builder.refused();
    assert!(status.code() == Some(1) && said.contains("users.lock") && said.contains("symbolic link"), "{said}");
    assert_eq!(fs::read_to_string(&precious).expect("a file of ours"), "data");
    assert!(!run.join("blue.sock").exists());
}

#[test]
fn files_are_closed_to_others_whatever_the_umask() {
    let builder = Builder::new().with("--workers", 1).with("--checkpoint-interval", "100ms");
    let builder = builder.clone().with("--log-dir", builder.dir().join("logs").display());
    let mut command = builder.command();
    let open = || {
        umask(Mode::empty());
        Ok(())
    };
    // SAFETY: one system call, which is all that may be done between fork and exec.
    unsafe { command.pre_exec(open) };
    let mut child = command.spawn().expect("baton starts");
    let at = |name: &str| builder.dir().join(name);
    eventually("a checkpoint", || at("state/checkpoint.mdb").exists().then_some(()));
    let modes = |directory: &str| -> Vec<(PathBuf, u32)> {
        let entries = fs::read_dir(at(directory)).expect("a directory of ours").flatten();
        entries.filter(|entry| entry.path().is_file()).map(|entry| (entry.path(), mode(&entry.path()))).collect()
    };
    let (state, logs) = (modes("state"), modes("logs"));
    assert!(state.len() >= 5 && logs.len() == 2, "{state:?} {logs:?}");
    assert!(state.iter().all(|(_, mode)| *mode == 0o600), "{state:?}");
    assert!(logs.iter().all(|(_, mode)| *mode == 0o640), "{logs:?}");
    assert_eq!((mode(&at("state")), mode(&at("run"))), (0o700, 0o755));
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id() as i32), nix::sys::signal::Signal::SIGTERM)
        .expect("it runs");
    eventually("the end", || child.try_wait().expect("a child of ours"));
}

/// Another user who listens at a path, for as long as this lives.
fn impostor(path: &Path, kind: Type) -> Socket {
    let socket = Socket::new(Domain::UNIX, kind, None).expect("a socket");
    socket.bind(&SockAddr::unix(path).expect("a short path")).expect("a directory of ours");
    thread::scope(|scope| {
        let listen = scope.spawn(|| {
            // The wrapper of the C library would change all threads; this changes one, which ends.
            // SAFETY: takes integers.
            let changed = unsafe { libc::syscall(libc::SYS_setresuid, -1, NOBODY, -1) };
            assert_eq!(changed, 0);
            // The kernel remembers who called this.
            socket.listen(8).expect("a bound socket");
        });
        listen.join().expect("no panic");
    });
    socket
}

#[test]
fn nothing_is_asked_of_somebody_who_listens_in_place_of_the_service() {
    if !is_root() {
        return;
    }
    let builder = Builder::new();
    let run = directory(&builder, "run", 0o755);
    let _control = impostor(&run.join("blue.sock"), Type::STREAM);
    let output = Command::new(env!("CARGO_BIN_EXE_batonctl"))
        .arg("--runtime-dir")
        .arg(&run)
        .arg("status")
        .output()
        .expect("batonctl runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(5), "{said}");
    assert!(said.contains("blue.sock") && said.contains("user 65534 listens there"), "{said}");

    let _door = impostor(&run.join("blue.takeover"), Type::SEQPACKET);
    let (status, said) = builder.with("--color", "green").with("--takeover", "wait").refused();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("blue.takeover") && said.contains("user 65534 listens there"), "{said}");
}

#[test]
fn the_owner_of_the_runtime_directory_is_believed() {
    if !is_root() {
        return;
    }
    // As when root asks a service that runs as a user of its own.
    let service = Builder::new().with("--workers", 1).user(NOBODY).start();
    assert!(service.ctl(&["status"]).status.success());
    let run = service.dir().join("run");
    fs::set_permissions(&run, Permissions::from_mode(0o777)).expect("root may");
    let output = service.ctl(&["status"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(5) && said.contains("0777"), "{output:?}");
}

#[test]
fn secrets_in_a_file_that_everybody_may_read_are_warned_of() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("baton.toml");
    let check = |text: &str, mode: u32| {
        fs::write(&file, text).expect("a file of ours");
        fs::set_permissions(&file, Permissions::from_mode(mode)).expect("a file of ours");
        let mut command = Command::new(crate::harness::service::baton());
        crate::harness::service::forget_settings(&mut command);
        command.args(["check-config", "--config"]).arg(&file).arg("--runtime-dir").arg(dir.path());
        let output = command.arg("--state-dir").arg(dir.path()).output().expect("baton runs");
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        String::from_utf8(output.stderr).expect("UTF-8")
    };
    let key = "secret-key = 'b3f0Yc1vQm9uZGx5IG5vdA'\n";
    let warning = check(key, 0o644);
    assert!(warning.contains("warning") && warning.contains("secret-key") && warning.contains("0644"), "{warning}");
    assert!(!warning.contains("b3f0"), "{warning}");
    let warning = check("redis-url = 'redis://:b3f0Yc1v@127.0.0.1:1'\n", 0o604);
    assert!(warning.contains("redis-url") && !warning.contains("b3f0"), "{warning}");
    for (text, mode) in [(key, 0o640), ("workers = 2\n", 0o644), ("redis-url = 'redis://127.0.0.1:1'\n", 0o644)] {
        assert_eq!(check(text, mode), "", "{text}");
    }
}

#[tokio::test]
async fn names_of_wake_up_sockets_cannot_be_guessed() {
    let service = Service::start(&[("--workers", "2")]);
    let pids = service.worker_pids();
    let sockets = fs::read_to_string("/proc/net/unix").expect("procfs");
    for pid in pids {
        let prefix = format!("@baton-bus-{pid}-");
        let names: Vec<&str> =
            sockets.lines().filter_map(|line| line.split_once(&prefix)).map(|(_, rest)| rest).collect();
        assert!(matches!(names[..], [random] if random.len() == 32), "{names:?}");
    }
}
