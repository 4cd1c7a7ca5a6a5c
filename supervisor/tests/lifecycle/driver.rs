//! Starts a supervisor in a directory of its own, talks to it, and always ends it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use baton_ipc::Endpoint;
use baton_ipc::control::{Output, Reply, Status};
use baton_ipc::scoreboard::State;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::stub::{DEGRADED, FORBIDDEN, SERVE};

/// Nothing here takes longer, also on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running supervisor.
pub(crate) struct Generation {
    child: Child,
    directory: Option<TempDir>,
    workers: u16,
}

impl Generation {
    /// Starts one and waits until it runs.
    pub(crate) fn start(workers: u16, environment: &[(&str, &str)]) -> Generation {
        let generation = Generation::launch(workers, environment);
        generation.wait_for("it to run", |status| status.phase == "running");
        generation
    }

    /// Starts one and waits for its control socket. `FAIL` in the environment: no worker can start.
    pub(crate) fn launch(workers: u16, environment: &[(&str, &str)]) -> Generation {
        let directory = tempfile::tempdir().unwrap();
        if environment.iter().any(|(name, _)| *name == "FAIL") {
            std::fs::write(directory.path().join(FORBIDDEN), "").unwrap();
        }
        Generation::spawn(directory, "127.0.0.1:0", workers, environment)
    }

    fn spawn(directory: TempDir, address: &str, workers: u16, environment: &[(&str, &str)]) -> Generation {
        let mut command = command("blue", address, workers, &directory);
        let child = command.envs(environment.iter().copied()).spawn().unwrap();
        let generation = Generation { child, directory: Some(directory), workers };
        let began = Instant::now();
        while UnixStream::connect(generation.socket()).is_err() {
            assert!(began.elapsed() < PATIENCE, "no control socket");
            std::thread::sleep(Duration::from_millis(5));
        }
        generation
    }

    /// After the end of this one: another in its place.
    pub(crate) fn restart_on(mut self, address: SocketAddr) -> Generation {
        let directory = self.directory.take().unwrap();
        let generation = Generation::spawn(directory, &address.to_string(), self.workers, &[]);
        generation.wait_for("it to run", |status| status.phase == "running");
        generation
    }

    /// Tries to start another in the same directory: exit code and what it printed.
    pub(crate) fn start_another(&self, color: &str, address: &str) -> (i32, String) {
        let output = command(color, address, 1, self.directory.as_ref().unwrap()).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.as_ref().unwrap().path().join("blue.sock")
    }

    pub(crate) fn forbid_starts(&self) {
        std::fs::write(self.directory.as_ref().unwrap().path().join(FORBIDDEN), "").unwrap();
    }

    pub(crate) fn allow_starts(&self) {
        std::fs::remove_file(self.directory.as_ref().unwrap().path().join(FORBIDDEN)).unwrap();
    }

    /// The backplane fails the worker in this slot for a reason, or not any more.
    pub(crate) fn degrade(&self, slot: u16, reason: Option<&str>) {
        let path = self.directory.as_ref().unwrap().path().join(format!("{DEGRADED}{slot}"));
        match reason {
            // In one step: a worker may read at any time.
            Some(reason) => {
                std::fs::write(path.with_extension("new"), reason).unwrap();
                std::fs::rename(path.with_extension("new"), path).unwrap();
            }
            None => std::fs::remove_file(path).unwrap(),
        }
    }

    pub(crate) fn connect(&self) -> BufReader<UnixStream> {
        let stream = UnixStream::connect(self.socket()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        BufReader::new(stream)
    }

    /// One command, without its version, and the last line of the answer.
    pub(crate) fn ask(&self, command: &str) -> Reply {
        let mut client = self.connect();
        send(&mut client, command);
        answer(&mut client)
    }

    pub(crate) fn status(&self) -> Status {
        match self.ask(r#""command":"status""#) {
            Reply::Done { output: Output::Status(status) } => *status,
            other => panic!("{other:?}"),
        }
    }

    /// Asks for the status until it is as wanted.
    pub(crate) fn wait_for(&self, what: &str, wanted: impl Fn(&Status) -> bool) -> Status {
        let began = Instant::now();
        loop {
            let status = self.status();
            if wanted(&status) {
                return status;
            }
            assert!(began.elapsed() < PATIENCE, "waited in vain for {what}: {status:#?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Of the serving workers.
    pub(crate) fn pids(&self) -> Vec<u32> {
        let slots = self.status().slots.into_iter();
        slots.filter(|slot| slot.state != State::Stopped).map(|slot| slot.pid.unwrap_or(0)).collect()
    }

    pub(crate) fn address(&self) -> SocketAddr {
        match self.status().listen[0] {
            Endpoint::Tcp(address) => address,
            Endpoint::Unix(_) => panic!("not TCP"),
        }
    }

    /// Connects, and hears from a worker: its slot and pid.
    pub(crate) fn visit(&self) -> (u16, u32) {
        let mut stream = TcpStream::connect(self.address()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (slot, pid) = text.trim().split_once(' ').unwrap();
        (slot.parse().unwrap(), pid.parse().unwrap())
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    /// Waits for the end.
    pub(crate) fn exit_code(&mut self) -> i32 {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code().unwrap_or(-1);
            }
            assert!(began.elapsed() < PATIENCE, "it does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            // The workers see the end of their channels.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn command(color: &str, address: &str, workers: u16, directory: &TempDir) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([SERVE, color, address, &workers.to_string()]).arg(directory.path());
    command.stdin(Stdio::null());
    command
}

/// Sends a command.
pub(crate) fn send(client: &mut BufReader<UnixStream>, command: &str) {
    client.get_mut().write_all(format!("{{\"version\":1,{command}}}\n").as_bytes()).unwrap();
}

/// The last line of an answer.
pub(crate) fn answer(client: &mut BufReader<UnixStream>) -> Reply {
    loop {
        let mut line = String::new();
        client.read_line(&mut line).unwrap();
        match serde_json::from_str(&line).unwrap() {
            Reply::Step { .. } => {}
            last => return last,
        }
    }
}
