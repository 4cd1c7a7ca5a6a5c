//! Real Redis servers for the tests, each in a directory and on an address of its own, ended with the test.
#![allow(unsafe_code)] // pre_exec: a server must not outlive the test that is killed.

use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::Settings;

/// One server. Dropped, it is killed.
pub(crate) struct Server {
    dir: TempDir,
    address: SocketAddrV4,
    arguments: Vec<String>,
    child: Child,
}

impl Server {
    /// Starts one that is ready when this returns, with these arguments beside those of every test.
    pub(crate) fn start(arguments: &[&str]) -> Server {
        Server::start_with(arguments, |_| {})
    }

    /// The same, with files that `prepare` puts into its directory, where it also runs.
    pub(crate) fn start_with(arguments: &[&str], prepare: impl FnOnce(&Path)) -> Server {
        let dir = tempfile::tempdir().unwrap();
        prepare(dir.path());
        let address = free_address();
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect::<Vec<_>>();
        let child = spawn(dir.path(), address, &arguments);
        Server { dir, address, arguments, child }
    }

    /// Starts it again, after [`Server::kill`], where it was and with what it kept.
    pub(crate) fn restart(&mut self) {
        self.child = spawn(self.dir.path(), self.address, &self.arguments);
    }

    pub(crate) fn address(&self) -> SocketAddrV4 {
        self.address
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("redis.sock")
    }

    /// `redis://…` of it.
    pub(crate) fn url(&self) -> String {
        format!("redis://{}/0", self.address)
    }

    /// What a worker is told about it.
    pub(crate) fn settings(&self) -> Settings {
        settings(&self.url())
    }

    /// SIGKILL. All of its connections are gone when this returns.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGSTOP: connections stay, answers do not come.
    pub(crate) fn stop(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// SIGCONT.
    pub(crate) fn resume(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// `redis-cli ARGUMENTS`, and what it prints.
    pub(crate) fn cli(&self, arguments: &[&str]) -> String {
        let output = Command::new("redis-cli").arg("-s").arg(self.socket()).args(arguments).output().unwrap();
        String::from_utf8(output.stdout).unwrap() + &String::from_utf8_lossy(&output.stderr)
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// What a worker is told about this address, with the prefix `test` and half a second.
pub(crate) fn settings(url: &str) -> Settings {
    let address = url.parse().unwrap();
    Settings { address, prefix: "test".to_owned(), timeout: Duration::from_millis(500), ca_file: None }
}

/// A port that nobody has, of an address that hardly anybody else tries.
pub(crate) fn free_address() -> SocketAddrV4 {
    let host = Ipv4Addr::new(127, fastrand::u8(1..255), fastrand::u8(..), fastrand::u8(1..255));
    let port = TcpListener::bind((host, 0)).unwrap().local_addr().unwrap().port();
    SocketAddrV4::new(host, port)
}

/// Waits for the line that says that it is ready. Arguments that come last win.
fn spawn(dir: &Path, address: SocketAddrV4, arguments: &[String]) -> Child {
    let mut command = Command::new("redis-server");
    command.current_dir(dir).stdin(Stdio::null()).stdout(Stdio::piped());
    // A configuration file, of a sentinel, comes before all options.
    let (file, arguments) = match arguments.first() {
        Some(first) if !first.starts_with("--") => (Some(first), &arguments[1..]),
        _ => (None, arguments),
    };
    let (host, port) = (address.ip().to_string(), address.port().to_string());
    // What it connects to finds it at the address it comes from: masters, sentinels and nodes of a cluster do.
    command.args(file).args(["--port", &port, "--bind", &host, "--bind-source-addr", &host]);
    command.args(["--unixsocket", "redis.sock", "--save", "", "--daemonize", "no", "--logfile", ""]).args(arguments);
    let act = || prctl::set_pdeathsig(Signal::SIGKILL).map_err(Into::into);
    // SAFETY: between fork and exec it makes one system call and allocates nothing.
    unsafe { command.pre_exec(act) };
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut said = String::new();
    // A sentinel says the latter.
    while !said.contains("Ready to accept connections") && !said.contains("Sentinel ID is") {
        if lines.read_line(&mut said).unwrap() == 0 {
            child.wait().unwrap();
            panic!("redis-server has ended: {said}");
        }
    }
    // It must not be held up by what nobody reads.
    std::thread::spawn(move || lines.read_to_end(&mut Vec::new()));
    child
}
