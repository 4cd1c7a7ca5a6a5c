//! The line to a supervisor: find its socket, ask, read the answer.

use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use baton_ipc::control::{CONTROL_VERSION, Command, ErrorCode, Output, Reply, Request, Status};
use baton_ipc::{Side, Slot, private};
use thiserror::Error;

use super::interrupt::{Interrupts, Wait};

/// Colors a generation can have.
pub(crate) const COLORS: [&str; 2] = ["blue", "green"];

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a supervisor may take for an answer that it has at hand.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a command did not succeed.
#[derive(Debug, Error)]
pub(crate) enum Error {
    /// No socket takes a connection.
    #[error("no supervisor answers in {}: is it running? (start: baton run; elsewhere: --runtime-dir)", list(.0))]
    Unreachable(Vec<PathBuf>),
    /// Two generations run.
    #[error("{} are running: choose one with --color", .0.join(" and "))]
    Several(Vec<String>),
    /// The socket's permissions, or the supervisor's own check, keep this user out.
    #[error("permission denied by {0}: be root, the user the service runs as, or in its control-group")]
    Denied(String),
    /// Somebody else answers at the socket, or could.
    #[error("cannot trust {}: {reason}", path.display())]
    Untrusted { path: PathBuf, reason: String },
    /// It does not answer.
    #[error("the supervisor does not answer within {} s: is it stopped or stuck?", ANSWER_TIMEOUT.as_secs())]
    Silent,
    /// It went away in the middle of an answer.
    #[error("the supervisor closed the connection before it had answered{0}")]
    Lost(String),
    /// Whoever asked does not want to wait any longer. What was asked for goes on.
    #[error("interrupted: the supervisors finish by themselves; see how far they are with: batonctl status")]
    Interrupted,
    /// Whoever asked has called it off by Ctrl-C.
    #[error("interrupted: {0}")]
    CalledOff(String),
    /// Its answer cannot be read.
    #[error("cannot understand the supervisor's answer: it is of another version than this batonctl ({VERSION}); use the one installed with it. ({0})", VERSION = crate::config::VERSION)]
    Foreign(String),
    /// It said no.
    #[error("{message}")]
    Refused { code: ErrorCode, message: String },
    /// The command cannot be right, whoever is asked.
    #[error("{0}")]
    Usage(String),
    /// Standard output takes no more.
    #[error("cannot write the answer: {0}")]
    Output(io::Error),
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" or ")
}

/// A ring of log lines: a slot's or the supervisor's, and which of the two, in which processes take turns.
pub(crate) type Ring = (Option<Slot>, Side);

/// The rings of the supervisor and of these slots.
pub(crate) fn rings(slots: impl IntoIterator<Item = Slot>) -> impl Iterator<Item = Ring> {
    let places = std::iter::once(None).chain(slots.into_iter().map(Some));
    places.flat_map(rings_of)
}

/// Both rings of a place.
pub(crate) fn rings_of(place: Option<Slot>) -> impl Iterator<Item = Ring> {
    Side::ALL.into_iter().map(move |side| (place, side))
}

/// Log lines.
pub(crate) struct Tail {
    /// Whole lines, newline included.
    pub(crate) text: String,
    /// Where to read on.
    pub(crate) next: u64,
    /// Bytes that were overwritten before they could be read.
    pub(crate) missed: u64,
}

/// A connection to one supervisor.
pub(crate) struct Client {
    /// Its color.
    pub(crate) color: String,
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects to the supervisor of this color, or to the only one there is.
    pub(crate) fn connect(directories: &[PathBuf], color: Option<&str>) -> Result<Client, Error> {
        let mut clients = Client::connect_all(directories, color)?;
        match clients.len() {
            1 => Ok(clients.remove(0)),
            _ => Err(Error::Several(clients.into_iter().map(|client| client.color).collect())),
        }
    }

    /// Connects to every supervisor of this color, or of any: one at least.
    pub(crate) fn connect_all(directories: &[PathBuf], color: Option<&str>) -> Result<Vec<Client>, Error> {
        let colors = color.map_or(COLORS.to_vec(), |color| vec![color]);
        let mut clients = Vec::new();
        let mut denied = None;
        for directory in directories {
            for color in &colors {
                let path = directory.join(format!("{color}.sock"));
                match open(&path) {
                    Ok(stream) => clients.push(Client { color: (*color).to_owned(), stream: BufReader::new(stream) }),
                    Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                        denied = Some(path.display().to_string())
                    }
                    // Nothing is asked of somebody who only says that he is the service.
                    Err(error) if error.kind() == ErrorKind::InvalidData => {
                        return Err(Error::Untrusted { path, reason: error.to_string() });
                    }
                    // Not there, or left behind by a supervisor that was killed.
                    Err(_) => {}
                }
            }
        }
        match (clients.is_empty(), denied) {
            (true, Some(path)) => Err(Error::Denied(path)),
            (true, None) => Err(Error::Unreachable(directories.to_vec())),
            (false, _) => Ok(clients),
        }
    }

    /// Asks how it is.
    pub(crate) fn status(&mut self, interrupts: Option<&Interrupts>) -> Result<Status, Error> {
        match self.ask_until(interrupts, Command::Status, |_, _| Ok(()))? {
            Output::Status(status) => Ok(*status),
            _ => Err(Error::Foreign("no status in it".to_owned())),
        }
    }

    /// Asks for the log lines of a ring from a position on, as an earlier answer gave it; none: as far back as there are. The
    /// answer as it came is given to `each`.
    pub(crate) fn tail(
        &mut self,
        (slot, side): Ring,
        from: Option<u64>,
        mut each: impl FnMut(&str),
    ) -> Result<Tail, Error> {
        let output = self.ask(Command::Tail { slot, side: Some(side), from }, |line, _| {
            each(line);
            Ok(())
        })?;
        match output {
            Output::Tail { text, next, missed } => Ok(Tail { text, next, missed }),
            _ => Err(Error::Foreign("no log lines in it".to_owned())),
        }
    }

    /// Asks, gives every line of the answer to `each` as it comes, and returns what the last one says.
    pub(crate) fn ask(
        &mut self,
        command: Command,
        each: impl FnMut(&str, &Reply) -> io::Result<()>,
    ) -> Result<Output, Error> {
        self.ask_until(None, command, each)
    }

    /// As [`Client::ask`], until Ctrl-C at the latest.
    pub(crate) fn ask_until(
        &mut self,
        interrupts: Option<&Interrupts>,
        command: Command,
        mut each: impl FnMut(&str, &Reply) -> io::Result<()>,
    ) -> Result<Output, Error> {
        let patience = if takes_its_time(&command) { None } else { Some(ANSWER_TIMEOUT) };
        self.stream.get_ref().set_read_timeout(patience).map_err(lost)?;
        self.send(&Request { version: CONTROL_VERSION, command })?;
        self.read_answer(interrupts, patience, &mut each)
    }

    /// Goes on reading the answer to a long command, after [`Error::Interrupted`].
    pub(crate) fn go_on(
        &mut self,
        interrupts: Option<&Interrupts>,
        mut each: impl FnMut(&str, &Reply) -> io::Result<()>,
    ) -> Result<Output, Error> {
        self.read_answer(interrupts, None, &mut each)
    }

    fn read_answer(
        &mut self,
        interrupts: Option<&Interrupts>,
        patience: Option<Duration>,
        each: &mut impl FnMut(&str, &Reply) -> io::Result<()>,
    ) -> Result<Output, Error> {
        loop {
            let line = self.receive(interrupts, patience)?;
            let reply: Reply = serde_json::from_str(&line).map_err(|error| Error::Foreign(error.to_string()))?;
            each(&line, &reply).map_err(Error::Output)?;
            match reply {
                Reply::Step { .. } | Reply::Progress { .. } => {}
                Reply::Done { output } => return Ok(output),
                Reply::Error { code: ErrorCode::PermissionDenied, .. } => {
                    return Err(Error::Denied("the supervisor".to_owned()));
                }
                Reply::Error { code, message } => return Err(Error::Refused { code, message }),
            }
        }
    }

    fn send(&mut self, request: &Request) -> Result<(), Error> {
        let mut line = serde_json::to_string(request).map_err(|error| Error::Usage(error.to_string()))?;
        line.push('\n');
        match self.stream.get_mut().write_all(line.as_bytes()) {
            // It may have refused us and gone already: what it said then is still to be read.
            Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(lost(error)),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn receive(&mut self, interrupts: Option<&Interrupts>, patience: Option<Duration>) -> Result<String, Error> {
        // Lines that came together are read together: of those after the first the socket says nothing.
        if let (Some(interrupts), []) = (interrupts, self.stream.buffer()) {
            match interrupts.until_readable(self.stream.get_ref().as_fd(), patience) {
                Ok(Wait::Over) => {}
                Ok(Wait::Interrupted) => return Err(Error::Interrupted),
                Err(error) => return Err(broken(error)),
            }
        }
        let mut line = String::new();
        match self.stream.read_line(&mut line) {
            Ok(0) => Err(Error::Lost(String::new())),
            Ok(_) => Ok(line),
            Err(error) => Err(broken(error)),
        }
    }
}

/// A wait that has come to nothing.
fn broken(error: io::Error) -> Error {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => Error::Silent,
        _ => lost(error),
    }
}

fn lost(error: io::Error) -> Error {
    Error::Lost(format!(": {error}"))
}

/// Waits for workers to drain and start: as long as the supervisor lets them.
fn takes_its_time(command: &Command) -> bool {
    match command {
        Command::Start { .. }
        | Command::Stop { .. }
        | Command::Restart { .. }
        | Command::Reload
        | Command::Promote { .. }
        | Command::Rollback
        | Command::Upgrade
        | Command::Rebalance
        | Command::Scale { .. }
        | Command::Shutdown => true,
        Command::Status
        | Command::Pid { .. }
        | Command::Tail { .. }
        | Command::Signal { .. }
        | Command::ReopenLogs
        | Command::Connections { .. }
        | Command::Backplane
        | Command::Disconnect { .. }
        | Command::Broadcast { .. }
        | Command::Version => false,
    }
}

/// Connects within a bound: `connect(2)` to a Unix socket whose backlog is full blocks for as long as it is. That somebody else
/// than the service is at the other end is `InvalidData`.
fn open(path: &Path) -> io::Result<UnixStream> {
    let (sender, receiver) = mpsc::channel();
    let to = path.to_owned();
    thread::spawn(move || sender.send(UnixStream::connect(to)));
    let stream = receiver.recv_timeout(CONNECT_TIMEOUT).unwrap_or(Err(ErrorKind::TimedOut.into()))?;
    let directory = path.parent().unwrap_or(Path::new("."));
    private::ensure_owners(stream.as_fd(), directory)
        .map_err(|error| io::Error::new(ErrorKind::InvalidData, error.to_string()))?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    /// A supervisor that answers every request with these lines, after having read it.
    fn supervisor(path: &Path, answer: &'static str) -> thread::JoinHandle<String> {
        let listener = UnixListener::bind(path).unwrap();
        thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut request = String::new();
            BufReader::new(&stream).read_line(&mut request).unwrap();
            (&stream).write_all(answer.as_bytes()).unwrap();
            request
        })
    }

    fn ask(answer: &'static str) -> (Result<Output, Error>, Vec<String>, String) {
        let directory = tempfile::tempdir().unwrap();
        let thread = supervisor(&directory.path().join("green.sock"), answer);
        let mut client = Client::connect(&[directory.path().to_owned()], None).unwrap();
        assert_eq!(client.color, "green");
        let mut lines = Vec::new();
        let outcome = client.ask(Command::Reload, |line, _| {
            lines.push(line.trim_end().to_owned());
            Ok(())
        });
        (outcome, lines, thread.join().unwrap())
    }

    #[test]
    fn steps_come_before_the_outcome() {
        let step = r#"{"reply":"step","message":"slot 0: draining"}"#;
        let (outcome, lines, request) = ask(concat!(
            "{\"reply\":\"step\",\"message\":\"slot 0: draining\"}\n",
            "{\"reply\":\"progress\",\"done\":1,\"total\":2}\n",
            "{\"reply\":\"done\",\"output\":{\"kind\":\"text\",\"message\":\"reloaded\"}}\n",
        ));
        assert_eq!(outcome.unwrap(), Output::Text { message: "reloaded".into() });
        assert_eq!((lines.len(), lines[0].as_str()), (3, step));
        assert_eq!(request, format!("{{\"version\":{CONTROL_VERSION},\"command\":\"reload\"}}\n"));
    }

    #[test]
    fn refusals_strangers_and_losses_are_told_apart() {
        let (outcome, ..) = ask("{\"reply\":\"error\",\"code\":\"permission_denied\",\"message\":\"no\"}\n");
        assert!(matches!(outcome, Err(Error::Denied(_))));
        let (outcome, ..) = ask("{\"reply\":\"error\",\"code\":\"busy\",\"message\":\"a reload is running\"}\n");
        assert!(matches!(outcome, Err(Error::Refused { code: ErrorCode::Busy, .. })));
        let (outcome, ..) = ask("{\"reply\":\"later\"}\n");
        assert!(matches!(outcome, Err(Error::Foreign(_))));
        let (outcome, ..) = ask("");
        assert!(matches!(outcome, Err(Error::Lost(_))));
    }

    #[test]
    fn ctrl_c_ends_the_asking() {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("blue.sock")).unwrap();
        let interrupts = Interrupts::catch().unwrap();
        let mut client = Client::connect(&[directory.path().to_owned()], None).unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        let step = "{\"reply\":\"step\",\"message\":\"one of two\"}\n";
        stream.write_all(format!("{step}{step}").as_bytes()).unwrap();
        let mut steps = 0;
        let outcome = client.ask_until(Some(&interrupts), Command::Rollback, |_, _| {
            steps += 1;
            if steps == 2 {
                // To this thread alone: others have not blocked it.
                nix::sys::pthread::pthread_kill(nix::sys::pthread::pthread_self(), nix::sys::signal::SIGINT).unwrap();
            }
            Ok(())
        });
        assert!(matches!(outcome, Err(Error::Interrupted)), "{outcome:?}");
        assert_eq!(steps, 2);
    }

    #[test]
    fn nobody_one_or_several() {
        let directory = tempfile::tempdir().unwrap();
        let directories = [directory.path().to_owned()];
        let connect = |color| Client::connect(&directories, color);
        assert!(matches!(connect(None), Err(Error::Unreachable(_))));
        // A socket file that nobody listens on any more.
        drop(UnixListener::bind(directory.path().join("blue.sock")).unwrap());
        assert!(matches!(connect(None), Err(Error::Unreachable(_))));
        let _green = UnixListener::bind(directory.path().join("green.sock")).unwrap();
        assert_eq!(connect(None).unwrap().color, "green");
        std::fs::remove_file(directory.path().join("blue.sock")).unwrap();
        let _blue = UnixListener::bind(directory.path().join("blue.sock")).unwrap();
        assert!(matches!(connect(None), Err(Error::Several(colors)) if colors == ["blue", "green"]));
        assert_eq!(Client::connect_all(&directories, None).unwrap().len(), 2);
        assert_eq!(connect(Some("blue")).unwrap().color, "blue");
    }
}
