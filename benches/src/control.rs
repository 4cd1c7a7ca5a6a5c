//! The control socket of a generation, asked as `batonctl` asks it: one JSON object a line, both ways.
//!
//! Not through `batonctl`, since the start of a program would take its share of the core that is measured.

use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Deserialize;

/// What is asked.
#[derive(Clone, Copy, Debug)]
enum Command {
    Status,
    Connections,
    Promote,
}

impl Command {
    fn line(self) -> &'static str {
        match self {
            Command::Status => "{\"version\":1,\"command\":\"status\"}\n",
            Command::Connections => "{\"version\":1,\"command\":\"connections\",\"limit\":1000000}\n",
            Command::Promote => {
                "{\"version\":1,\"command\":\"promote\",\"canary\":null,\"watch_ms\":0,\"keep_old\":false}\n"
            }
        }
    }
}

/// One line of an answer.
#[derive(Debug, Deserialize)]
#[serde(tag = "reply", rename_all = "lowercase")]
enum Reply {
    Step {},
    Progress {},
    Done { output: Output },
    Error { message: String },
}

/// The end of an answer, as much of it as the bench needs.
#[derive(Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Output {
    Status(Status),
    Connections { rows: Vec<Connection> },
    Takeover(Receipt),
}

impl Output {
    fn kind(&self) -> &'static str {
        match self {
            Output::Status(_) => "a status",
            Output::Connections { .. } => "a list of connections",
            Output::Takeover(_) => "a receipt",
        }
    }

    /// What comes instead of the answer to another question.
    fn unexpected(&self) -> io::Error {
        io::Error::new(ErrorKind::InvalidData, format!("answered with {}", self.kind()))
    }
}

/// How a generation is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Status {
    /// In which phase of its life.
    pub phase: String,
    /// Its slots, in order.
    pub slots: Vec<Slot>,
}

/// One slot.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Slot {
    /// Its number.
    pub slot: u16,
    /// Of the worker in it.
    pub pid: Option<u32>,
    /// WebSockets open now.
    pub connections: u64,
}

/// One connection.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Connection {
    /// The slot that serves it.
    pub slot: u16,
    /// The client's address.
    pub client: String,
}

/// What a takeover says of itself.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Receipt {
    /// Connections that go on in the new generation.
    pub handed: u64,
    /// Connections that were told to come back, by why.
    pub drained: Vec<(String, u64)>,
    /// Connections that were lost.
    pub dropped: u64,
    /// The longest time for which one was not read, in microseconds.
    pub longest_pause_us: u64,
    /// What 99 of 100 did not exceed.
    pub p99_pause_us: u64,
    /// Each step, with its milliseconds.
    pub steps: Vec<(String, u64)>,
}

impl Receipt {
    /// From the moment that the old generation is told to accept no more until the last connection has come over.
    pub fn switch_and_handover(&self) -> Duration {
        Duration::from_millis(self.step("switch") + self.step("handover"))
    }

    /// Whether everybody came along.
    pub fn is_complete(&self) -> bool {
        self.drained.is_empty() && self.dropped == 0
    }

    fn step(&self, name: &str) -> u64 {
        let of_that_name = |said: &str| said.split_once(':').is_some_and(|(first, _)| first == name);
        self.steps.iter().filter(|(said, _)| of_that_name(said)).map(|(_, ms)| ms).sum()
    }
}

/// How the generation behind `socket` is.
///
/// # Errors
/// Nobody answers there yet, or not this.
pub fn status(socket: &Path, patience: Duration) -> io::Result<Status> {
    match ask(socket, Command::Status, patience)? {
        Output::Status(status) => Ok(status),
        other => Err(other.unexpected()),
    }
}

/// The connections of the generation behind `socket`, as many of them as it tells.
///
/// # Errors
/// Nobody answers there, or not this.
pub fn connections(socket: &Path, patience: Duration) -> io::Result<Vec<Connection>> {
    match ask(socket, Command::Connections, patience)? {
        Output::Connections { rows } => Ok(rows),
        other => Err(other.unexpected()),
    }
}

/// Has the generation behind `socket` take over, and returns when it has.
///
/// # Errors
/// It could not, and says why; or it does not come to an end within `patience`.
pub fn promote(socket: &Path, patience: Duration) -> io::Result<Receipt> {
    match ask(socket, Command::Promote, patience)? {
        Output::Takeover(receipt) => Ok(receipt),
        other => Err(other.unexpected()),
    }
}

fn ask(socket: &Path, command: Command, patience: Duration) -> io::Result<Output> {
    let deadline = Instant::now() + patience;
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(patience))?;
    stream.write_all(command.line().as_bytes())?;
    for line in BufReader::new(stream).lines() {
        match serde_json::from_str(&line?)? {
            Reply::Step {} | Reply::Progress {} if Instant::now() < deadline => {}
            Reply::Step {} | Reply::Progress {} => return Err(ErrorKind::TimedOut.into()),
            Reply::Done { output } => return Ok(output),
            Reply::Error { message } => return Err(io::Error::other(message)),
        }
    }
    Err(ErrorKind::UnexpectedEof.into())
}

#[cfg(test)]
mod tests {
    use baton_ipc::control;

    use super::*;

    #[test]
    fn a_receipt_is_read_from_the_last_line() {
        let line = r#"{"reply":"done","output":{"kind":"takeover","from":{"color":"blue","pid":1,"version":"1"},
            "to":{"color":"green","pid":2,"version":"1"},"handed":7,"drained":[],"dropped":0,"longest_pause_us":9,
            "p99_pause_us":8,"steps":[["preflight: all",3],["switch: here",4],["handover: 7",5]],"kept":false}}"#;
        let Reply::Done { output: Output::Takeover(receipt) } = serde_json::from_str(line).unwrap() else {
            panic!("no receipt");
        };
        assert_eq!(receipt.switch_and_handover(), Duration::from_millis(9));
        assert!(receipt.is_complete());
        assert!(!Receipt { drained: vec![("no room".to_owned(), 1)], ..receipt.clone() }.is_complete());
        assert!(!Receipt { dropped: 1, ..receipt }.is_complete());
    }

    #[test]
    fn connections_are_read_as_baton_writes_them() {
        let row = control::ConnectionRow {
            slot: 3,
            connection_id: "498d9818ebb65b16".to_owned(),
            session_uuid: "client-1".to_owned(),
            client: "127.0.0.1:48970".to_owned(),
            age_seconds: 8.6,
            messages: 84,
            queued_bytes: 0,
        };
        let output = control::Output::Connections { total: 1, rows: vec![row] };
        let line = serde_json::to_string(&control::Reply::Done { output }).unwrap();
        let Reply::Done { output: Output::Connections { rows } } = serde_json::from_str(&line).unwrap() else {
            panic!("no connections: {line}");
        };
        assert_eq!(rows, [Connection { slot: 3, client: "127.0.0.1:48970".to_owned() }]);
    }

    #[test]
    fn a_refusal_is_an_error_with_its_words() {
        let reply = r#"{"reply":"error","code":"failed","message":"it serves already"}"#;
        assert!(
            matches!(serde_json::from_str(reply).unwrap(), Reply::Error { message } if message == "it serves already")
        );
    }
}
