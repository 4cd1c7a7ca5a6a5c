//! The servers that are measured, and how each is started.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::child::Running;
use crate::control;

const PATIENCE: Duration = Duration::from_secs(10);

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The bare epoll loop, a `send` per reply.
    Floor,
    /// The bare epoll loop, a `send` per burst.
    BurstFloor,
    /// `baton run --workers 1`, embedded store with group commit.
    Baton,
    /// fastwebsockets with hyper.
    Fastwebsockets,
    /// Stock tokio-tungstenite.
    TokioTungstenite,
}

impl Target {
    /// Its name in the table.
    pub fn name(self) -> &'static str {
        match self {
            Target::Floor => "floor",
            Target::BurstFloor => "floor --burst",
            Target::Baton => "baton",
            Target::Fastwebsockets => "fastwebsockets",
            Target::TokioTungstenite => "tokio-tungstenite",
        }
    }

    /// Starts it, on one core if one is given, and waits until it serves.
    ///
    /// # Errors
    /// It cannot be started or does not serve in time.
    pub fn start(self, programs: &Programs, core: Option<usize>) -> io::Result<Server> {
        let (program, arguments) = match self {
            Target::Baton => return programs.baton(1, "30s")?.start(core),
            Target::Floor => ("floor", vec!["0"]),
            Target::BurstFloor => ("floor", vec!["0", "--burst"]),
            Target::Fastwebsockets => ("fastwebsockets_server", vec!["0"]),
            Target::TokioTungstenite => ("tungstenite_server", vec!["0"]),
        };
        let mut command = Command::new(programs.directory.join(program));
        command.args(arguments);
        let mut process = Running::start(command, core)?;
        let line = process.line(PATIENCE)?;
        let address = line.strip_prefix("listening ").and_then(|address| address.parse().ok());
        let address = address.ok_or_else(|| process.failure(ErrorKind::InvalidData, &format!("said {line:?}")))?;
        Ok(Server { address, process, start_up: Duration::ZERO, control: None, _directory: None })
    }
}

/// Where the programs are.
#[derive(Clone, Debug)]
pub struct Programs {
    /// The reference servers and the client.
    pub directory: PathBuf,
    /// `baton`.
    pub baton: PathBuf,
}

impl Programs {
    /// A client: `arguments` are those of `bench_client`.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn client<'a>(&self, core: Option<usize>, arguments: impl IntoIterator<Item = &'a str>) -> io::Result<Running> {
        let mut command = Command::new(self.directory.join("bench_client"));
        command.args(arguments);
        Running::start(command, core)
    }

    /// A baton to be started, with directories of its own.
    ///
    /// # Errors
    /// No temporary directory, no free port.
    pub fn baton(&self, workers: u16, heartbeat: &'static str) -> io::Result<Baton<'_>> {
        let directory = tempfile::Builder::new().prefix("baton-bench-").tempdir()?;
        Ok(Baton { program: &self.baton, workers, heartbeat, redis: None, directory })
    }
}

/// A baton to be started.
pub struct Baton<'a> {
    program: &'a Path,
    workers: u16,
    heartbeat: &'static str,
    redis: Option<String>,
    directory: TempDir,
}

impl Baton<'_> {
    /// With the Redis at this URL instead of the embedded store alone.
    #[must_use]
    pub fn with_redis(self, url: String) -> Self {
        Baton { redis: Some(url), ..self }
    }

    /// Starts it, on one core if one is given, and waits until `/readyz` is 200.
    ///
    /// # Errors
    /// It cannot be started or is not ready in time.
    pub fn start(self, core: Option<usize>) -> io::Result<Server> {
        let (address, process, start_up) = self.launch(core, &[])?;
        Ok(Server::of(address, process, start_up, self))
    }

    /// As [`Baton::start`], with these flags as well, and the directories kept for others that are to share them.
    pub(crate) fn launch(&self, core: Option<usize>, flags: &[&str]) -> io::Result<(SocketAddr, Running, Duration)> {
        let address = free_address()?;
        let started = Instant::now();
        let mut process = Running::start(self.command(address, flags), core)?;
        while !ready(address) {
            if let Ok(status) = process.wait(Duration::from_millis(1)) {
                return Err(process.failure(ErrorKind::Other, &format!("{status} before it was ready")));
            }
            if started.elapsed() > PATIENCE {
                return Err(process.failure(ErrorKind::TimedOut, "/readyz is not 200"));
            }
        }
        Ok((address, process, started.elapsed()))
    }

    /// What starts it at `address`.
    pub(crate) fn command(&self, address: SocketAddr, flags: &[&str]) -> Command {
        let mut command = Command::new(self.program);
        command
            .arg("run")
            .args(["--listen", &address.to_string()])
            .args(["--workers", &self.workers.to_string()])
            .arg("--runtime-dir")
            .arg(self.runtime_directory())
            .arg("--state-dir")
            .arg(self.directory.path().join("state"))
            .args(["--heartbeat-interval", self.heartbeat])
            .args(["--max-message-rate", "0"])
            .args(["--log-level", "warn"])
            .args(["--redis-url", self.redis.as_deref().unwrap_or("none")])
            .args(flags);
        // What the shell that runs the bench has set is not what is measured.
        for (name, _) in std::env::vars_os() {
            let name_text = name.to_string_lossy();
            if name_text.starts_with("BATON_") || matches!(&*name_text, "REDIS_URL" | "SECRET_KEY" | "DEBUG") {
                command.env_remove(&name);
            }
        }
        command
    }

    /// Where its sockets are.
    pub(crate) fn runtime_directory(&self) -> PathBuf {
        self.directory.path().join("run")
    }
}

/// A server that serves; dropped, it is killed and its directories are removed.
pub struct Server {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its first process.
    pub process: Running,
    /// From its start until it served; zero if nobody looked.
    pub start_up: Duration,
    /// Its control socket, if it is a baton that was started as the first of its generations.
    control: Option<PathBuf>,
    /// Declared after the process, so that it is removed after its end.
    _directory: Option<TempDir>,
}

impl Server {
    /// One that serves already, with the directories of the baton that it is.
    pub(crate) fn of(address: SocketAddr, process: Running, start_up: Duration, baton: Baton<'_>) -> Server {
        let control = Some(baton.runtime_directory().join("blue.sock"));
        Server { address, process, start_up, control, _directory: Some(baton.directory) }
    }

    /// Its slots, as it tells them over its control socket.
    ///
    /// # Errors
    /// It has none, or does not answer.
    pub fn slots(&self) -> io::Result<Vec<control::Slot>> {
        Ok(control::status(self.control()?, PATIENCE)?.slots)
    }

    /// The clients' addresses of its connections, with the slot that serves each; of no more than 300 in a slot.
    ///
    /// # Errors
    /// It has no control socket, or does not answer.
    pub fn connections(&self) -> io::Result<Vec<control::Connection>> {
        control::connections(self.control()?, PATIENCE)
    }

    fn control(&self) -> io::Result<&Path> {
        self.control.as_deref().ok_or_else(|| io::Error::other("a server without a control socket"))
    }

    /// The processes that serve: all but the supervisor.
    pub fn workers(&self) -> Vec<u32> {
        self.process.family().split_off(1)
    }

    /// SIGTERM, then waits until it is gone, and says how long that took.
    ///
    /// # Errors
    /// It does not go in time, or not with exit code 0.
    pub fn shut_down(mut self, patience: Duration) -> io::Result<Duration> {
        let started = Instant::now();
        self.process.signal(Signal::SIGTERM)?;
        let status = self.process.wait(patience)?;
        let took = started.elapsed();
        if status.success() { Ok(took) } else { Err(self.process.failure(ErrorKind::Other, &status.to_string())) }
    }
}

/// A port that nobody listened on a moment ago.
fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

fn ready(address: SocketAddr) -> bool {
    let ask = || -> io::Result<bool> {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_millis(100))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        write!(stream, "GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
        let mut status = [0; 12];
        stream.read_exact(&mut status)?;
        Ok(&status == b"HTTP/1.1 200")
    };
    ask().unwrap_or(false)
}
