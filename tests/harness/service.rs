//! One baton: supervisor, workers, directories, log.

use std::ffi::OsString;
use std::fs::{self, File, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use baton_ipc::Slot;
use baton_ipc::control::{ConnectionRow, Output as Answer, Reply, Status};
use baton_ipc::scoreboard::State;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use super::procfs::{children, is_alive};
use super::{Client, Redis, SOON, eventually, executable, http, within};

/// What to start, and how. A clone starts another one in the same directory: after the first has ended, or beside it.
#[derive(Clone)]
pub struct Builder {
    program: PathBuf,
    /// The program that starts it, and its arguments.
    outer: Vec<OsString>,
    args: Vec<String>,
    env: Vec<(String, String)>,
    dir: Arc<TempDir>,
    user: Option<u32>,
    state_dir: Option<PathBuf>,
    listen: Option<String>,
    /// The soft limit and the hard one; none: ours.
    descriptors: Option<(u64, u64)>,
}

/// A running baton. Dropping it kills all its processes.
pub struct Service {
    child: Child,
    dir: Arc<TempDir>,
    /// The color that it was given, if any.
    color: Option<String>,
    /// Where it listens.
    pub address: SocketAddr,
}

/// The program `baton`.
pub fn baton() -> PathBuf {
    env!("CARGO_BIN_EXE_baton").into()
}

/// An interval whose next heartbeat, which comes at its multiples of the wall clock, is hours away.
fn quiet_interval() -> String {
    let now = SystemTime::UNIX_EPOCH.elapsed().expect("a clock after 1970").as_secs() / 3600;
    let hours = (1..=24).max_by_key(|hours| hours - now % hours).expect("some");
    format!("{hours}h")
}

impl Builder {
    /// `baton run` on a free port, logging at info, without a heartbeat for hours.
    pub fn new() -> Builder {
        let dir = tempfile::Builder::new().prefix("baton-test-").tempdir().expect("a temporary directory");
        Builder {
            program: baton(),
            outer: Vec::new(),
            args: Vec::new(),
            env: Vec::new(),
            dir: Arc::new(dir),
            user: None,
            state_dir: None,
            listen: None,
            descriptors: None,
        }
        .with("--heartbeat-interval", quiet_interval())
    }

    /// Another program with baton's commands.
    pub fn program(mut self, path: PathBuf) -> Builder {
        self.program = path;
        self
    }

    /// In the directory of a service that there is.
    pub fn dir_of(mut self, service: &Service) -> Builder {
        self.dir = Arc::clone(&service.dir);
        self
    }

    /// Started by another program, with these arguments before its own.
    pub fn within(mut self, outer: Command) -> Builder {
        let words = std::iter::once(outer.get_program()).chain(outer.get_args());
        self.outer = words.map(|word| word.to_os_string()).collect();
        self
    }

    /// A flag and its value; the last one of a name wins.
    pub fn with(mut self, flag: &str, value: impl ToString) -> Builder {
        if let Some(at) = self.args.iter().position(|arg| arg == flag) {
            self.args.drain(at..at + 2);
        }
        self.args.extend([flag.to_owned(), value.to_string()]);
        self
    }

    /// Without a flag that [`Builder::new`] gives.
    pub fn without(mut self, flag: &str) -> Builder {
        if let Some(at) = self.args.iter().position(|arg| arg == flag) {
            self.args.drain(at..at + 2);
        }
        self
    }

    /// An environment variable.
    pub fn env(mut self, name: &str, value: impl ToString) -> Builder {
        self.env.push((name.into(), value.to_string()));
        self
    }

    /// Shares sessions and heartbeats by this Redis.
    pub fn with_redis(self, redis: &Redis) -> Builder {
        let builder = self.with("--redis-url", redis.url());
        match redis.ca_file() {
            Some(file) => builder.with("--redis-ca-file", file.display()),
            None => builder,
        }
    }

    /// A state directory that outlives the service.
    pub fn state_dir(mut self, path: &Path) -> Builder {
        self.state_dir = Some(path.into());
        self
    }

    /// An address instead of a free port.
    pub fn listen(mut self, address: SocketAddr) -> Builder {
        self.listen = Some(address.to_string());
        self
    }

    /// Another user than root, which the tests must run as; the directory is given to that user.
    pub fn user(mut self, uid: u32) -> Builder {
        chown(self.dir.path(), Some(uid), Some(uid)).expect("root may give files away");
        // Where this was built may be closed to others.
        self.program = open_to_all(&self.program, self.dir.path());
        self.user = Some(uid);
        self
    }

    /// The directory that everything of the service is in.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// With so many descriptors a process, `RLIMIT_NOFILE`.
    pub fn descriptors(mut self, limit: u64) -> Builder {
        self.descriptors = Some((limit, limit));
        self
    }

    /// With so many descriptors a process that it may raise to so many itself.
    pub fn descriptors_of_shell(mut self, soft: u64, hard: u64) -> Builder {
        self.descriptors = Some((soft, hard));
        self
    }

    /// The command, ready to run; its standard error goes to `log`.
    pub fn command(&self) -> Command {
        let mut words = self.outer.iter().map(OsString::as_os_str).chain([self.program.as_os_str()]);
        let mut command = Command::new(words.next().expect("a program"));
        command.args(words);
        let log = File::options().create(true).append(true).open(self.dir.path().join("log")).expect("a log file");
        let state = self.state_dir.clone().unwrap_or_else(|| self.dir.path().join("state"));
        command
            .args(["run", "--listen", self.listen.as_deref().unwrap_or("127.0.0.1:0")])
            .arg("--runtime-dir")
            .arg(self.dir.path().join("run"))
            .arg("--state-dir")
            .arg(state)
            .args(&self.args);
        forget_settings(&mut command);
        command
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        if let Some(uid) = self.user {
            command.uid(uid).gid(uid);
        }
        if let Some((soft, hard)) = self.descriptors {
            let act = move || setrlimit(Resource::RLIMIT_NOFILE, soft, hard).map_err(Into::into);
            // SAFETY: one system call, which is all that may be done between fork and exec.
            unsafe { command.pre_exec(act) };
        }
        die_with_us(&mut command);
        command
    }

    /// Runs it to an end that it must come to by itself: the exit status, and what it has logged meanwhile.
    #[track_caller]
    pub fn refused(&self) -> (ExitStatus, String) {
        let before = log_of(&self.dir).len();
        let mut child = self.command().spawn().expect("baton starts");
        let end = Instant::now() + SOON;
        let status = loop {
            match child.try_wait().expect("a child of ours") {
                Some(status) => break status,
                None if Instant::now() < end => std::thread::park_timeout(Duration::from_millis(10)),
                None => {
                    let _ = child.kill();
                    panic!("baton runs on:\n{}", log_of(&self.dir));
                }
            }
        };
        (status, log_of(&self.dir)[before..].to_owned())
    }

    /// Starts it and waits until `/readyz` says 200.
    #[track_caller]
    pub fn start(self) -> Service {
        let service = self.spawn();
        service.wait_ready();
        service
    }

    /// Starts it and waits until it listens.
    #[track_caller]
    pub fn spawn(self) -> Service {
        let before = log_of(&self.dir).len();
        let child = self.command().spawn().expect("baton starts");
        let color = self.args.iter().skip_while(|arg| *arg != "--color").nth(1).cloned();
        let mut service = Service { child, dir: self.dir, color, address: SocketAddr::from(([0, 0, 0, 0], 0)) };
        service.address = eventually("listening", || {
            if let Ok(Some(status)) = service.child.try_wait() {
                panic!("baton ended with {status}:\n{}", service.log());
            }
            let log = service.log();
            let mut lines = log[before..].lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            lines.find(|line| line["message"] == "listening")?["address"].as_str()?.parse().ok()
        });
        service
    }
}

/// Standard error, and the files in `logs` if that is the log directory.
fn log_of(dir: &TempDir) -> String {
    let mut log = fs::read_to_string(dir.path().join("log")).unwrap_or_default();
    let mut files: Vec<PathBuf> = fs::read_dir(dir.path().join("logs"))
        .into_iter()
        .flatten()
        .filter_map(|file| Some(file.ok()?.path()))
        .collect();
    files.sort();
    log.extend(files.iter().filter_map(|file| fs::read_to_string(file).ok()));
    log
}

/// A copy of a program in a directory, that any user may run there.
pub fn open_to_all(program: &Path, dir: &Path) -> PathBuf {
    fs::set_permissions(dir, Permissions::from_mode(0o755)).expect("a directory of ours");
    let copy = dir.join(program.file_name().expect("a program"));
    executable::copy(program, &copy);
    copy
}

/// What the environment and the machine say about baton is not what a test says.
pub fn forget_settings(command: &mut Command) {
    const OURS: [&str; 6] = ["DEBUG", "REDIS_URL", "RUNTIME_DIRECTORY", "SECRET_KEY", "STATE_DIRECTORY", "WS_BASE_URL"];
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("BATON_") || OURS.contains(&name)) {
            command.env_remove(name);
        }
    }
    // Instead of the machine's own file.
    command.env("BATON_CONFIG", "/dev/null");
}

/// `baton promote` for the service in a directory.
pub fn promotion(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(baton());
    forget_settings(&mut command);
    let (run, state) = (dir.join("run"), dir.join("state"));
    command.args(["promote", "--runtime-dir"]).arg(run).arg("--state-dir").arg(state).args(args);
    command.stdin(Stdio::null());
    die_with_us(&mut command);
    command
}

/// `batonctl` for whichever generations of the service in a directory there are.
pub fn batonctl(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_batonctl"));
    forget_settings(&mut command);
    command.arg("--runtime-dir").arg(dir.join("run")).args(args).stdin(Stdio::null());
    die_with_us(&mut command);
    command
}

/// A test that panics or is killed leaves nothing behind: the kernel ends the child with the thread that began it.
pub fn die_with_us(command: &mut Command) {
    let act = || nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(Into::into);
    // SAFETY: one system call, which is all that may be done between fork and exec.
    unsafe { command.pre_exec(act) };
}

impl Service {
    /// A service with these flags and otherwise the defaults of [`Builder::new`].
    #[track_caller]
    pub fn start(flags: &[(&str, &str)]) -> Service {
        flags.iter().fold(Builder::new(), |builder, (flag, value)| builder.with(flag, value)).start()
    }

    /// Waits until `/readyz` says 200.
    #[track_caller]
    pub fn wait_ready(&self) {
        eventually("/readyz 200", || http::get(self.address, "/readyz").ok().filter(|answer| answer.status == 200));
    }

    /// Waits until every slot serves, and not only the first.
    #[track_caller]
    pub fn wait_all_serve(&self) {
        let serve = |status: &Status| status.slots.iter().all(|slot| slot.state == State::Serving);
        eventually("every slot serves", || Some(self.status()).filter(serve));
    }

    /// The URL of the WebSocket.
    pub fn url(&self) -> String {
        format!("ws://{}/ws/chat/", self.address)
    }

    /// The URL that resumes a session.
    pub fn session_url(&self, session: &str) -> String {
        format!("{}?session_uuid={session}", self.url())
    }

    /// Connects to one session until every worker has a connection of it.
    pub async fn connect_to_all_workers(&self, session: &str) -> Vec<Client> {
        let mut clients = Vec::new();
        loop {
            for _ in 0..10 {
                clients.push(Client::connect(&self.session_url(session)).await);
            }
            if self.status().slots.iter().all(|slot| slot.connections > 0) {
                return clients;
            }
            assert!(clients.len() < 500, "some worker gets no connection: {:?}", self.status().slots);
        }
    }

    /// One more message of a session, on a connection of its own: the count that comes back.
    pub async fn count_one(&self, session: &str) -> u64 {
        let mut client = Client::connect(&self.session_url(session)).await;
        client.send("one more").await;
        client.count().await
    }

    /// The directory that everything of the service is in.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Pid of the supervisor.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }

    /// Pids of its living children, by `/proc`, so also when the supervisor does not answer.
    pub fn worker_pids(&self) -> Vec<Pid> {
        children(self.pid())
    }

    /// Signals the supervisor.
    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("the supervisor lives");
    }

    /// Runs `batonctl` and returns what it said.
    pub fn ctl(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_batonctl"));
        command.arg("--runtime-dir").arg(self.dir.path().join("run")).stdin(Stdio::null());
        if let Some(color) = &self.color {
            command.args(["--color", color]);
        }
        command.args(args);
        command.output().expect("batonctl runs")
    }

    /// What `batonctl --json` answers in the end.
    #[track_caller]
    pub fn ask(&self, args: &[&str]) -> Answer {
        let output = self.ctl(&[&["--json"], args].concat());
        let text = String::from_utf8_lossy(&output.stdout);
        let reply: Reply = serde_json::from_str(text.trim().lines().last().unwrap_or_default())
            .unwrap_or_else(|error| panic!("{error}: {output:?}"));
        match reply {
            Reply::Done { output } => output,
            other => panic!("batonctl {args:?}: {other:?}"),
        }
    }

    /// `batonctl status`.
    #[track_caller]
    pub fn status(&self) -> Status {
        match self.ask(&["status"]) {
            Answer::Status(status) => *status,
            other => panic!("no status: {other:?}"),
        }
    }

    /// Pid of the worker that serves in a slot.
    #[track_caller]
    pub fn worker_in(&self, slot: Slot) -> Option<Pid> {
        let slots = self.status().slots;
        let row = slots.into_iter().find(|row| row.slot == slot && row.state == State::Serving)?;
        row.pid.map(|pid| Pid::from_raw(pid as i32))
    }

    /// `batonctl connections`: the 300 oldest.
    #[track_caller]
    pub fn connections(&self) -> Vec<ConnectionRow> {
        match self.ask(&["connections", "--limit", "300"]) {
            Answer::Connections { rows, .. } => rows,
            other => panic!("no connections: {other:?}"),
        }
    }

    /// The slot that serves the one connection of a session.
    #[track_caller]
    pub fn slot_of(&self, session: &str) -> Slot {
        let rows = self.connections();
        let slots: Vec<Slot> = rows.iter().filter(|row| row.session_uuid == session).map(|row| row.slot).collect();
        match slots[..] {
            [slot] => slot,
            _ => panic!("{session} has connections in {slots:?}"),
        }
    }

    /// One metric's value, such as `websocket_errors_total{type="store"}`; 0 if it is not there.
    #[track_caller]
    pub fn metric(&self, name: &str) -> f64 {
        let answer = http::get(self.address, "/metrics").expect("/metrics answers");
        let line = answer.body.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
        line.unwrap_or(0.0)
    }

    /// The whole log.
    pub fn log(&self) -> String {
        log_of(&self.dir)
    }

    /// The log's lines that are JSON.
    pub fn log_lines(&self) -> impl Iterator<Item = Value> {
        self.log().lines().filter_map(|line| serde_json::from_str(line).ok()).collect::<Vec<_>>().into_iter()
    }

    /// Waits for a log line with this message.
    #[track_caller]
    pub fn wait_log(&self, message: &str) -> Value {
        self.wait_log_line(message, |_| true)
    }

    /// As [`Service::wait_log`], for one that is also otherwise as it should be: lines are written by a thread of their own,
    /// and may come after what they tell of.
    #[track_caller]
    pub fn wait_log_line(&self, message: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        let says = |line: &Value| line["message"].as_str().is_some_and(|text| text.contains(message));
        eventually(&format!("log line {message:?}"), || self.log_lines().find(|line| says(line) && is_it(line)))
    }

    /// `batonctl status`, if it answers at all.
    pub fn try_status(&self) -> Option<Status> {
        let output = self.ctl(&["--json", "status"]);
        let reply = serde_json::from_slice(&output.stdout).ok()?;
        match reply {
            Reply::Done { output: Answer::Status(status) } => Some(*status),
            Reply::Done { .. } | Reply::Step { .. } | Reply::Progress { .. } | Reply::Error { .. } => None,
        }
    }

    /// Waits until it has ended by itself.
    #[track_caller]
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        within(limit, "the end of baton", || self.child.try_wait().expect("a child of ours"))
    }

    /// SIGTERM, and waits for the end.
    #[track_caller]
    pub fn stop(mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.wait(Duration::from_secs(15))
    }

    /// SIGKILL to everything at once, and waits until it is gone.
    pub fn kill_all(&mut self) {
        // What has been reaped has no pid any more: by now it may be somebody else's, and so may those below it.
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        let workers = self.worker_pids();
        let _ = self.child.kill();
        for pid in &workers {
            let _ = kill(*pid, Signal::SIGKILL);
        }
        let _ = self.child.wait();
        // Somebody else reaps them. Until they are gone they hold their files, and the store is in use.
        let end = Instant::now() + SOON;
        while workers.iter().any(|pid| is_alive(*pid)) && Instant::now() < end {
            std::thread::park_timeout(Duration::from_millis(1));
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(40).collect();
            eprintln!("--- the log's end:");
            tail.iter().rev().for_each(|line| eprintln!("{line}"));
        }
        self.kill_all();
    }
}
