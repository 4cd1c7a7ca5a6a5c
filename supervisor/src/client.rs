//! One client of the control socket: lines in, lines out, and a bound for everything.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use baton_ipc::control::{CONTROL_VERSION, ErrorCode, MAX_REQUEST, Reply, Request};
use nix::poll::PollFlags;

/// A request that has begun must be complete by then.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// A client that has taken nothing of its answer for so long is dropped.
pub(crate) const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long to wait for a refused client to read why. To close at once could cost it the answer: what it still sends
/// would turn its reading into ECONNRESET.
const LINGER: Duration = Duration::from_secs(1);

/// The most that may wait to be written; the longest answer is a `tail` of 64 KiB, escaped.
const MAX_OUTPUT: usize = 1024 * 1024;

/// One connection.
#[derive(Debug)]
pub(crate) struct Client {
    stream: UnixStream,
    input: Vec<u8>,
    output: Vec<u8>,
    state: State,
    // The peer has finished sending.
    ended: bool,
    // When the request that has begun must be complete.
    request_by: Option<Instant>,
    // When some more of the output must have been taken.
    taken_by: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// May send a request.
    Idle,
    /// Its request is being worked on; what it sends meanwhile waits in the socket.
    Busy,
    /// Gets its last answer; what it still sends is thrown away.
    Refused { until: Instant },
    /// Over.
    Gone,
}

impl Client {
    /// A client that is let in.
    pub(crate) fn new(stream: UnixStream) -> io::Result<Client> {
        stream.set_nonblocking(true)?;
        Ok(Client {
            stream,
            input: vec![],
            output: vec![],
            state: State::Idle,
            ended: false,
            request_by: None,
            taken_by: None,
        })
    }

    /// Says why, and closes.
    pub(crate) fn refuse(&mut self, code: ErrorCode, message: &str, now: Instant) {
        self.reply(&Reply::Error { code, message: message.to_owned() }, now);
        if self.state != State::Gone {
            self.state = State::Refused { until: now + LINGER };
            self.input = vec![];
            self.request_by = None;
        }
    }

    /// What to wait for.
    pub(crate) fn interest(&self) -> PollFlags {
        let reads = match self.state {
            State::Idle => !self.ended,
            State::Refused { .. } => !self.ended,
            State::Busy | State::Gone => false,
        };
        let mut interest = PollFlags::empty();
        interest.set(PollFlags::POLLIN, reads);
        interest.set(PollFlags::POLLOUT, !self.output.is_empty());
        interest
    }

    /// The socket has news.
    pub(crate) fn attend(&mut self, events: PollFlags, now: Instant) {
        if events.contains(PollFlags::POLLOUT) {
            self.flush(now);
        }
        let hung_up = events.intersects(PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL);
        match self.state {
            State::Idle if events.contains(PollFlags::POLLIN) => self.read(now),
            State::Refused { .. } if events.contains(PollFlags::POLLIN) => self.discard(),
            // Nobody is left to read the answer. What was begun goes on.
            State::Idle | State::Busy | State::Refused { .. } if hung_up => self.state = State::Gone,
            State::Idle | State::Busy | State::Refused { .. } | State::Gone => {}
        }
        self.settle();
    }

    fn read(&mut self, now: Instant) {
        let mut chunk = [0; 16 * 1024];
        match (&self.stream).read(&mut chunk) {
            Ok(0) => self.ended = true,
            Ok(length) => {
                self.input.extend_from_slice(&chunk[..length]);
                self.request_by.get_or_insert(now + REQUEST_TIMEOUT);
            }
            Err(error) if is_temporary(&error) => {}
            Err(_) => self.state = State::Gone,
        }
    }

    fn discard(&mut self) {
        match (&self.stream).read(&mut [0; 16 * 1024]) {
            Ok(0) => self.ended = true,
            Ok(_) => {}
            Err(error) if is_temporary(&error) => {}
            Err(_) => self.state = State::Gone,
        }
    }

    /// Takes the next complete request. Lines that are none are answered here.
    pub(crate) fn take_request(&mut self, now: Instant) -> Option<Request> {
        while self.state == State::Idle {
            let end = self.input.iter().position(|byte| *byte == b'\n');
            let line: Vec<u8> = match end {
                Some(end) if end < MAX_REQUEST => self.input.drain(..=end).collect(),
                None if self.input.len() < MAX_REQUEST => {
                    if !self.ended || self.input.is_empty() {
                        break;
                    }
                    // The end of what it sends ends a line too.
                    std::mem::take(&mut self.input)
                }
                Some(_) | None => {
                    let message = format!("a request is one line of at most {MAX_REQUEST} bytes");
                    self.refuse(ErrorCode::BadRequest, &message, now);
                    break;
                }
            };
            self.request_by = (!self.input.is_empty()).then_some(now + REQUEST_TIMEOUT);
            if line.trim_ascii().is_empty() {
                continue;
            }
            match parse(&line) {
                Ok(request) => {
                    self.state = State::Busy;
                    self.request_by = None;
                    return Some(request);
                }
                Err(reply) => self.reply(&reply, now),
            }
        }
        self.settle();
        None
    }

    /// Writes one line; any but a step makes it the client's turn again.
    pub(crate) fn reply(&mut self, reply: &Reply, now: Instant) {
        if self.state == State::Gone {
            return;
        }
        match serde_json::to_vec(reply) {
            Ok(line) => self.output.extend(line),
            Err(error) => tracing::error!(%error, "an answer cannot be written as JSON"),
        }
        self.output.push(b'\n');
        if self.output.len() > MAX_OUTPUT {
            self.state = State::Gone;
            return;
        }
        self.taken_by.get_or_insert(now + WRITE_TIMEOUT);
        let last = !matches!(reply, Reply::Step { .. } | Reply::Progress { .. });
        if last && self.state == State::Busy {
            self.state = State::Idle;
            self.request_by = (!self.input.is_empty()).then_some(now + REQUEST_TIMEOUT);
        }
        self.flush(now);
        self.settle();
    }

    fn flush(&mut self, now: Instant) {
        let mut written = 0;
        while written < self.output.len() {
            match (&self.stream).write(&self.output[written..]) {
                Ok(length) => written += length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => {
                    self.state = State::Gone;
                    return;
                }
            }
        }
        self.output.drain(..written);
        if self.output.is_empty() {
            self.taken_by = None;
        } else if written > 0 {
            self.taken_by = Some(now + WRITE_TIMEOUT);
        }
    }

    /// Nothing to read any more and nothing to write: over.
    fn settle(&mut self) {
        if self.ended && self.output.is_empty() && self.input.is_empty() {
            match self.state {
                State::Idle | State::Refused { .. } => self.state = State::Gone,
                State::Busy | State::Gone => {}
            }
        }
    }

    /// Time has passed.
    pub(crate) fn expire(&mut self, now: Instant) {
        if self.taken_by.is_some_and(|by| now >= by) {
            self.state = State::Gone;
        }
        if self.request_by.is_some_and(|by| now >= by) && self.state == State::Idle {
            let message = format!("half a request: the line was not finished within {} s", REQUEST_TIMEOUT.as_secs());
            self.refuse(ErrorCode::BadRequest, &message, now);
        }
        match self.state {
            State::Refused { until } if now >= until => self.state = State::Gone,
            State::Refused { .. } | State::Idle | State::Busy | State::Gone => {}
        }
    }

    /// When [`Client::expire`] will change something.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let linger = match self.state {
            State::Refused { until } => Some(until),
            State::Idle | State::Busy | State::Gone => None,
        };
        [self.request_by, self.taken_by, linger].into_iter().flatten().min()
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.state == State::Gone
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

fn is_temporary(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// Understands one line, or says what is wrong with it.
pub(crate) fn parse(line: &[u8]) -> Result<Request, Reply> {
    let bad = |message: String| Reply::Error { code: ErrorCode::BadRequest, message };
    let value: serde_json::Value =
        serde_json::from_slice(line).map_err(|error| bad(format!("the request is not valid JSON: {error}")))?;
    // Before anything else: another version may have other commands.
    match value.get("version").and_then(serde_json::Value::as_u64) {
        Some(version) if version == u64::from(CONTROL_VERSION) => {}
        Some(version) => {
            let message = format!("this supervisor speaks version {CONTROL_VERSION} of the protocol, not {version}");
            return Err(Reply::Error { code: ErrorCode::Version, message });
        }
        None => {
            let example = format!(r#"{{"version":{CONTROL_VERSION},"command":"status"}}"#);
            return Err(bad(format!("the request has no version; an example is {example}")));
        }
    }
    // Serde takes a number for the variant in that place: 13 would be a shutdown.
    if !value.get("command").is_some_and(serde_json::Value::is_string) {
        return Err(bad("the request has no command, which is a text such as \"status\"".to_owned()));
    }
    serde_json::from_value(value).map_err(|error| bad(format!("the request cannot be understood: {error}")))
}

#[cfg(test)]
mod tests {
    use baton_ipc::control::{Command, Output};

    use super::*;

    const STATUS: &[u8] = b"{\"version\":1,\"command\":\"status\"}\n";

    fn pair() -> (Client, UnixStream, Instant) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        theirs.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        (Client::new(ours).unwrap(), theirs, Instant::now())
    }

    fn code(reply: Result<Request, Reply>) -> ErrorCode {
        match reply {
            Err(Reply::Error { code, .. }) => code,
            other => panic!("{other:?}"),
        }
    }

    fn answer(peer: &mut UnixStream) -> String {
        let mut buffer = [0; 4096];
        let length = peer.read(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }

    #[test]
    fn lines_are_understood_or_refused_with_a_reason() {
        assert_eq!(parse(STATUS).unwrap().command, Command::Status);
        let stop = parse(br#"{"version":1,"command":"stop","slots":[0,3]}"#).unwrap();
        assert_eq!(stop.command, Command::Stop { slots: vec![0, 3] });
        assert_eq!(code(parse(b"status")), ErrorCode::BadRequest);
        assert_eq!(code(parse(b"\xff\xfe\0")), ErrorCode::BadRequest);
        assert_eq!(code(parse(&[b'['; 10_000])), ErrorCode::BadRequest);
        assert_eq!(code(parse(br#"{"command":"status"}"#)), ErrorCode::BadRequest);
        assert_eq!(code(parse(br#"{"version":2,"command":"fly"}"#)), ErrorCode::Version);
        assert_eq!(code(parse(br#"{"version":1,"command":"fly"}"#)), ErrorCode::BadRequest);
        assert_eq!(code(parse(br#"{"version":1,"command":13}"#)), ErrorCode::BadRequest);
        assert_eq!(code(parse(br#"{"version":1,"command":"scale","workers":-1}"#)), ErrorCode::BadRequest);
        assert_eq!(code(parse(br#"{"version":1,"command":"stop","slots":["x"]}"#)), ErrorCode::BadRequest);
    }

    #[test]
    fn garbage_gets_an_error_and_the_next_request_is_served() {
        let (mut client, mut peer, now) = pair();
        peer.write_all(b"garbage\n\n").unwrap();
        peer.write_all(STATUS).unwrap();
        client.attend(PollFlags::POLLIN, now);
        assert_eq!(client.take_request(now).unwrap().command, Command::Status);
        assert!(answer(&mut peer).contains("bad_request"));
        assert_eq!(client.interest(), PollFlags::empty(), "one request at a time");
        client.reply(&Reply::Step { message: "on it".into() }, now);
        assert!(client.take_request(now).is_none());
        client.reply(&Reply::Done { output: Output::Text { message: "done".into() } }, now);
        assert_eq!(client.interest(), PollFlags::POLLIN);
    }

    #[test]
    fn pipelined_requests_are_answered_one_after_another() {
        let (mut client, mut peer, now) = pair();
        peer.write_all(&STATUS.repeat(2)).unwrap();
        client.attend(PollFlags::POLLIN, now);
        assert!(client.take_request(now).is_some());
        assert!(client.take_request(now).is_none());
        client.reply(&Reply::Done { output: Output::Text { message: "1".into() } }, now);
        assert!(client.take_request(now).is_some());
    }

    #[test]
    fn a_line_without_end_is_refused_when_it_is_too_long() {
        let (mut client, mut peer, now) = pair();
        for _ in 0..MAX_REQUEST / 4096 {
            peer.write_all(&[b'x'; 4096]).unwrap();
            client.attend(PollFlags::POLLIN, now);
            assert!(client.take_request(now).is_none());
        }
        assert!(answer(&mut peer).contains("at most 65536 bytes"));
        client.expire(now + LINGER);
        assert!(client.is_gone());
    }

    #[test]
    fn half_a_request_is_waited_for_but_not_forever() {
        let (mut client, mut peer, now) = pair();
        peer.write_all(&STATUS[..9]).unwrap();
        client.attend(PollFlags::POLLIN, now);
        assert!(client.take_request(now).is_none());
        assert_eq!(client.deadline(), Some(now + REQUEST_TIMEOUT));
        client.expire(now + REQUEST_TIMEOUT);
        assert!(answer(&mut peer).contains("half a request"));
    }

    #[test]
    fn a_last_line_needs_no_newline() {
        let (mut client, mut peer, now) = pair();
        peer.write_all(STATUS.trim_ascii()).unwrap();
        peer.shutdown(std::net::Shutdown::Write).unwrap();
        client.attend(PollFlags::POLLIN, now);
        client.attend(PollFlags::POLLIN, now);
        assert!(client.take_request(now).is_some());
        assert!(!client.is_gone());
        client.reply(&Reply::Done { output: Output::Text { message: "done".into() } }, now);
        assert!(client.is_gone() && answer(&mut peer).contains("done"));
    }

    #[test]
    fn who_does_not_read_is_dropped() {
        let (mut client, _peer, now) = pair();
        let step = Reply::Step { message: "x".repeat(64 * 1024) };
        while client.interest() != PollFlags::POLLIN | PollFlags::POLLOUT {
            client.reply(&step, now);
        }
        client.expire(now + WRITE_TIMEOUT);
        assert!(client.is_gone());
        let (mut client, _peer, now) = pair();
        (0..40).for_each(|_| client.reply(&step, now));
        assert!(client.is_gone(), "bounded also before the time is up");
    }
}
