//! Real Redis servers of a test's own, which can be killed, stopped, emptied and cut off, and are always ended.

mod cluster;
mod link;
mod resp;
mod sentinel;

use std::fmt::Display;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::service::die_with_us;
use super::{SOON, eventually, free_address, tls};

pub use cluster::Cluster;
pub use link::{Cut, Link};
pub use sentinel::Sentinel;

/// What to start, and how.
#[derive(Clone)]
pub struct Setup {
    /// Lines of the configuration file.
    lines: Vec<String>,
    password: Option<String>,
    tls: bool,
    sentinel: bool,
    /// Where, if that matters.
    address: Option<SocketAddr>,
}

/// A private Redis server. Its address and data stay its own while it is down; dropping it kills it.
pub struct Redis {
    child: Child,
    setup: Setup,
    dir: TempDir,
    /// Where it listens, with TLS or without.
    pub address: SocketAddr,
}

impl Setup {
    /// A server that keeps nothing on disk.
    pub fn new() -> Setup {
        let setup = Setup { lines: Vec::new(), password: None, tls: false, sentinel: false, address: None };
        // Who looks from outside is let in, whatever a test does to the user that the service is.
        setup.with("user", "lab on nopass ~* &* +@all").with("save", "\"\"").with("appendonly", "no")
    }

    /// A setting as `redis.conf` has it; the last one of a name wins.
    pub fn with(mut self, name: &str, value: impl Display) -> Setup {
        self.lines.push(format!("{name} {value}"));
        self
    }

    /// Every write is on disk before it is answered.
    pub fn durable(self) -> Setup {
        self.with("appendonly", "yes").with("appendfsync", "always")
    }

    /// Who connects must know this password.
    pub fn password(mut self, password: &str) -> Setup {
        self.password = Some(password.to_owned());
        self.with("requirepass", password)
    }

    /// Only TLS, with a certificate that [`Redis::ca_file`] vouches for.
    pub fn tls(mut self) -> Setup {
        self.tls = true;
        self
    }

    /// Here, and not where nobody else is.
    pub fn at(mut self, address: SocketAddr) -> Setup {
        self.address = Some(address);
        self
    }

    /// Starts it and waits until it answers.
    #[track_caller]
    pub fn start(self) -> Redis {
        let redis = self.spawn();
        redis.wait_ready();
        redis
    }

    #[track_caller]
    fn spawn(self) -> Redis {
        let dir = tempfile::Builder::new().prefix("baton-redis-").tempdir().expect("a temporary directory");
        let address = self.address.unwrap_or_else(free_address);
        if self.tls {
            tls::make_certificates(dir.path(), "redis", address.ip());
        }
        let child = run(&self, &dir, address);
        Redis { child, setup: self, dir, address }
    }
}

/// Writes the configuration anew and runs the server with it.
#[track_caller]
fn run(setup: &Setup, dir: &TempDir, address: SocketAddr) -> Child {
    let path = |name: &str| dir.path().join(name).display().to_string();
    let mut lines = vec![
        format!("bind {}", address.ip()),
        // The way in for the tests, which no cut and no certificate is in.
        format!("unixsocket {}", path("socket")),
        format!("dir {}", path("data")),
        "daemonize no".to_owned(),
    ];
    // What others shall call it; of its connections they would see 127.0.0.1.
    let announce: &[&str] =
        if setup.sentinel { &["sentinel announce-ip"] } else { &["replica-announce-ip", "cluster-announce-ip"] };
    lines.extend(announce.iter().map(|name| format!("{name} {}", address.ip())));
    if setup.tls {
        lines.push(format!("port 0\ntls-port {}\ntls-auth-clients no", address.port()));
        lines.push(format!("tls-cert-file {}\ntls-key-file {}", path("redis.crt"), path("redis.key")));
        lines.push(format!("tls-ca-cert-file {}", path("ca.crt")));
    } else {
        lines.push(format!("port {}", address.port()));
    }
    lines.extend(setup.lines.iter().cloned());
    fs::create_dir_all(dir.path().join("data")).expect("a directory of ours");
    fs::write(dir.path().join("redis.conf"), lines.join("\n") + "\n").expect("a file of ours");
    // A socket of the one before: whoever connects to it now must not take it for a server.
    let _ = fs::remove_file(dir.path().join("socket"));
    let log = File::options().create(true).append(true).open(dir.path().join("log")).expect("a log file");
    let mut command = Command::new("redis-server");
    command.arg(dir.path().join("redis.conf")).args(setup.sentinel.then_some("--sentinel"));
    command.stdin(Stdio::null()).stdout(log).stderr(Stdio::null());
    die_with_us(&mut command);
    command.spawn().expect("redis-server is installed")
}

impl Redis {
    /// A server with nothing special about it.
    #[track_caller]
    pub fn start() -> Redis {
        Setup::new().start()
    }

    /// Waits until it answers, and has loaded what it had on disk.
    #[track_caller]
    pub fn wait_ready(&self) {
        eventually(&format!("an answer of Redis:\n{}", self.log_end()), || {
            self.try_ask(&["PING"]).is_ok_and(|pong| pong == "PONG").then_some(())
        });
    }

    /// What a client is told: scheme, password and address.
    pub fn url(&self) -> String {
        let scheme = if self.setup.tls { "rediss" } else { "redis" };
        let password = self.setup.password.as_ref().map(|password| format!(":{password}@")).unwrap_or_default();
        format!("{scheme}://{password}{}", self.address)
    }

    /// The same by its Unix socket.
    pub fn unix_url(&self) -> String {
        format!("redis+unix://{}", self.dir.path().join("socket").display())
    }

    /// The certificate that a client of [`Setup::tls`] must trust.
    pub fn ca_file(&self) -> Option<PathBuf> {
        self.setup.tls.then(|| self.dir.path().join("ca.crt"))
    }

    /// Where it keeps its data.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// What a command is answered, as text; elements of a list are lines.
    #[track_caller]
    pub fn ask(&self, command: &[&str]) -> String {
        self.try_ask(command).unwrap_or_else(|error| panic!("{command:?}: {error}\n{}", self.log_end()))
    }

    /// As [`Redis::ask`]; says what went wrong.
    pub fn try_ask(&self, command: &[&str]) -> Result<String, String> {
        let stream = UnixStream::connect(self.dir.path().join("socket")).map_err(|error| error.to_string())?;
        stream.set_read_timeout(Some(SOON)).expect("a socket");
        resp::ask(&stream, &["AUTH", "lab", "any"])?;
        resp::ask(&stream, command)
    }

    /// A field of `INFO`.
    #[track_caller]
    pub fn info(&self, field: &str) -> String {
        self.try_info(field).unwrap_or_else(|error| panic!("{error}\n{}", self.log_end()))
    }

    /// As [`Redis::info`]; says what went wrong. A sentinel that gives a server another role ends its clients.
    pub fn try_info(&self, field: &str) -> Result<String, String> {
        let info = self.try_ask(&["INFO", "everything"])?;
        let value = info.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        value.map(|value| value.trim().to_owned()).ok_or_else(|| format!("no {field} in {info}"))
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }

    /// SIGKILL; it is gone when this returns.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGSTOP: its sockets stay, and nothing comes out of them.
    #[track_caller]
    pub fn stop(&self) {
        kill(self.pid(), Signal::SIGSTOP).expect("it runs");
        // Until it really stands still.
        let flags = WaitPidFlag::WSTOPPED | WaitPidFlag::WNOWAIT;
        waitid(Id::Pid(self.pid()), flags).expect("a child of ours");
    }

    /// SIGCONT.
    #[track_caller]
    pub fn cont(&self) {
        kill(self.pid(), Signal::SIGCONT).expect("it is there");
    }

    /// Starts it again, at its address, with what it has on disk; waits until it has loaded that.
    #[track_caller]
    pub fn restart(&mut self) {
        self.restart_slowly();
        self.wait_ready();
    }

    /// As [`Redis::restart`], but does not wait.
    #[track_caller]
    pub fn restart_slowly(&mut self) {
        self.kill();
        self.child = run(&self.setup, &self.dir, self.address);
    }

    /// Starts it again, having lost everything.
    #[track_caller]
    pub fn restart_empty(&mut self) {
        self.kill();
        fs::remove_dir_all(self.data_dir()).expect("a directory of ours");
        self.restart();
    }

    fn log_end(&self) -> String {
        let log = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the end of the log of Redis at {}:\n{}", self.address, self.log_end());
        }
        self.kill();
    }
}
