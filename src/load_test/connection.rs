//! One connection, from its begin to its end, and all those that resume its session.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{sleep, timeout};
use tungstenite::protocol::CloseFrame;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::{Error, Message, Utf8Bytes};

use super::dial::{Failure, Socket, describe};
use super::expectation::Expectation;
use super::lane::{Lane, Phase, Shared, Stage};
use super::plan::monotonic;
use super::tally::Fault;

mod conversation;

/// The close code that is never sent: the connection ended without one (RFC 6455, section 7.4.1).
const ABNORMAL: u16 = 1006;

/// Between two attempts to resume, in milliseconds; doubled up to the second.
const BACKOFF: (u64, u64) = (50, 1000);

/// A session that cannot be resumed for so many timeouts is given up.
const RESUME_PATIENCE: u32 = 3;

/// A connection, and what it has in mind.
pub(super) struct Connection {
    shared: Rc<Shared>,
    lane: Rc<Lane>,
    /// Unique in the whole run.
    number: u32,
    session: Option<String>,
    expectation: Expectation,
    /// The text of every message that need not be told from others.
    payload: Utf8Bytes,
    sent: u64,
    unanswered: VecDeque<Sent>,
    /// Replies since it was opened.
    replies: u64,
    /// Times that it was dropped.
    drops: u64,
    last_beat: u64,
    /// The server has said goodbye: what is unanswered was not counted.
    bye: bool,
    /// Bytes that the socket has not taken.
    unflushed: bool,
}

/// A message without a reply.
struct Sent {
    due: Duration,
    at: Duration,
    number: u64,
}

/// How a connection has ended.
enum End {
    /// By this client; nothing more is to do.
    Done,
    /// By this client, which goes on with another.
    Dropped,
    /// By the server: code, reason.
    Closed(u16, String),
    Failed(Failure),
    /// By this client, which was not answered.
    GivenUp,
}

impl Connection {
    pub(super) fn new(shared: Rc<Shared>, lane: Rc<Lane>, place: u32) -> Connection {
        let number = shared.plan.first + place;
        let session = shared.plan.session.as_ref().map(|run| format!("{run}-{number}"));
        let expectation = Expectation::new(shared.plan.expect);
        let payload = text(shared.plan.payload, None);
        Connection {
            shared,
            lane,
            number,
            session,
            expectation,
            payload,
            sent: 0,
            unanswered: VecDeque::new(),
            replies: 0,
            drops: 0,
            last_beat: 0,
            bye: false,
            unflushed: false,
        }
    }

    /// All of it, from when it was due. The permit is one to begin a connection.
    pub(super) async fn run(mut self, due: Duration, permit: Option<OwnedSemaphorePermit>) {
        self.live(due, permit).await;
        let unsent = match self.shared.plan.messages {
            // In a closed loop nobody else knows of them.
            Some(messages) if self.shared.plan.pace.is_none() && self.shared.phase() < Phase::Draining => {
                messages.saturating_sub(self.sent)
            }
            Some(_) | None => self.lane.due.borrow().len() as u64,
        };
        self.lane.due.borrow_mut().clear();
        self.fault(Fault::NotSent, unsent, || format!("{unsent} messages, since there was no connection"));
        self.shared.advance(&self.lane, Stage::Ended);
    }

    async fn live(&mut self, due: Duration, permit: Option<OwnedSemaphorePermit>) {
        let shared = Rc::clone(&self.shared);
        let attempt = self.dial().await;
        drop(permit);
        let mut socket = match attempt {
            Ok(socket) => socket,
            Err((fault, example)) => return self.fault(fault, 1, || example),
        };
        let now = monotonic();
        {
            let mut tally = shared.tally.borrow_mut();
            tally.opened += 1;
            tally.last_opened = now;
            tally.connect.record(now - due);
        }
        shared.advance(&self.lane, Stage::Settled);
        loop {
            let opened = monotonic();
            let end = self.converse(&mut socket).await;
            let end = match end {
                End::Done => self.leave(&mut socket).await,
                other => other,
            };
            let closed = monotonic();
            shared.tally.borrow_mut().open.push((opened.as_millis() as u64, closed.as_millis() as u64));
            drop(socket);
            let done = matches!(end, End::Done | End::Dropped);
            match self.after(end).await {
                Some(next) => socket = next,
                // At the end of a run nothing is resumed any more.
                None if done || shared.phase() >= Phase::Closing => return,
                None => {
                    shared.tally.borrow_mut().broken += 1;
                    return;
                }
            }
        }
    }

    /// The connection that goes on, if there is one.
    async fn after(&mut self, end: End) -> Option<Socket> {
        let resumes = self.shared.plan.reconnect.is_some();
        let pause = match end {
            End::Done => return None,
            End::GivenUp => None,
            End::Dropped => {
                self.drops += 1;
                self.shared.tally.borrow_mut().dropped += 1;
                self.shared.tally.borrow_mut().abandoned += self.unanswered.len() as u64;
                self.expectation.lost(self.unanswered.len() as u64);
                self.unanswered.clear();
                None
            }
            End::Closed(code, reason) => {
                *self.shared.tally.borrow_mut().closed_by_server.entry(code).or_default() += 1;
                if !resumes {
                    self.fault(Fault::Lost, 1, || format!("closed by the server: {code} {reason}"));
                }
                self.unanswered_at_the_end(code, resumes);
                retry_hint(&reason)
            }
            End::Failed((fault, example)) => {
                if fault == Fault::Lost {
                    *self.shared.tally.borrow_mut().closed_by_server.entry(ABNORMAL).or_default() += 1;
                }
                if fault != Fault::Lost || !resumes {
                    self.fault(fault, 1, || example);
                }
                self.unanswered_at_the_end(ABNORMAL, resumes);
                None
            }
        };
        self.note_oldest();
        if !resumes || self.shared.phase() >= Phase::Closing {
            return None;
        }
        sleep(pause.unwrap_or_default()).await;
        self.resume().await
    }

    /// What becomes of messages without a reply when the server has ended the connection.
    fn unanswered_at_the_end(&mut self, code: u16, resumes: bool) {
        let lost = self.unanswered.len() as u64;
        // After these they were not counted, and may be sent again.
        if resumes && (self.bye || matches!(code, 1001 | 1013)) {
            let again = self.unanswered.drain(..).map(|message| message.due).rev();
            let mut due = self.lane.due.borrow_mut();
            again.for_each(|at| due.push_front(at));
            self.sent -= lost;
            self.shared.tally.borrow_mut().sent -= lost;
            return;
        }
        self.expectation.lost(lost);
        let first = self.unanswered.front().map_or(0, |message| message.number);
        self.unanswered.clear();
        self.fault(Fault::NoReply, lost, || {
            format!("to {lost} messages from message {first} on, the connection being lost")
        });
    }

    /// Connects to its session again and again, until its patience ends.
    async fn resume(&mut self) -> Option<Socket> {
        let shared = Rc::clone(&self.shared);
        let patience = monotonic() + RESUME_PATIENCE * shared.plan.timeout;
        let mut pause = BACKOFF.0;
        (self.replies, self.last_beat, self.bye, self.unflushed) = (0, 0, false, false);
        loop {
            let (fault, example) = match self.dial().await {
                Ok(socket) => {
                    shared.tally.borrow_mut().resumed += 1;
                    return Some(socket);
                }
                Err(failure) => failure,
            };
            if monotonic() > patience || shared.phase() >= Phase::Closing || fault.is_wrong() {
                self.fault(fault, 1, || format!("its session cannot be resumed: {example}"));
                return None;
            }
            sleep(Duration::from_millis(fastrand::u64(pause / 2..pause))).await;
            pause = (pause * 2).min(BACKOFF.1);
        }
    }

    /// Closes, and waits for the end.
    async fn leave(&mut self, socket: &mut Socket) -> End {
        let lost = self.unanswered.len() as u64;
        if self.shared.phase() >= Phase::Closing {
            self.fault(Fault::NoReply, lost, || format!("to the last {lost} messages, at the end"));
            self.unanswered.clear();
        }
        let goodbye = CloseFrame { code: CloseCode::Normal, reason: "".into() };
        let limit = self.shared.plan.timeout;
        let answer = timeout(limit, async {
            socket.send(Message::Close(Some(goodbye))).await?;
            loop {
                match socket.next().await {
                    Some(Ok(Message::Close(frame))) => {
                        // The server ends the connection, so that it is the one with the TIME_WAIT.
                        while let Some(Ok(_)) = socket.next().await {}
                        return Ok(frame.map(|frame| u16::from(frame.code)));
                    }
                    Some(Ok(Message::Text(text))) => self.heard(text.as_str()),
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Err(error),
                    None => return Err(Error::ConnectionClosed),
                }
            }
        });
        match answer.await {
            Ok(Ok(code)) => {
                let code = code.unwrap_or(1005);
                *self.shared.tally.borrow_mut().closes_answered.entry(code).or_default() += 1;
                if code != u16::from(CloseCode::Normal) {
                    self.fault(Fault::Close, 1, || format!("1000 was answered with {code}"));
                }
            }
            Ok(Err(error)) => self.fault(Fault::Close, 1, || describe(&error).1),
            Err(_) => self.fault(Fault::Close, 1, || format!("within {limit:?}")),
        }
        End::Done
    }

    /// Tells the outside since when this connection waits, and how far it is.
    fn note_oldest(&self) {
        self.lane.oldest.set(self.unanswered.front().map(|sent| sent.at));
        // A reply that came just in time.
        self.lane.overdue.set(false);
        if !self.unanswered.is_empty() || !self.lane.due.borrow().is_empty() {
            return;
        }
        let (plan, phase) = (&self.shared.plan, self.shared.phase());
        if phase >= Phase::Draining {
            self.shared.advance(&self.lane, Stage::Drained);
        } else if plan.messages.is_some_and(|messages| self.sent >= messages) {
            self.shared.advance(&self.lane, Stage::Sent);
        }
    }

    fn fault(&self, fault: Fault, number: u64, example: impl FnOnce() -> String) {
        let who = || match &self.session {
            Some(session) => format!("connection {} (session {session}): {}", self.number, example()),
            None => format!("connection {}: {}", self.number, example()),
        };
        self.shared.tally.borrow_mut().fault(fault, number, who);
    }

    /// One attempt to connect, within its time.
    async fn dial(&self) -> Result<Socket, Failure> {
        let limit = self.shared.plan.timeout;
        let attempt = timeout(limit, self.shared.dialer.dial(self.number, self.session.as_deref()));
        attempt.await.unwrap_or_else(|_| Err((Fault::Connect, format!("not upgraded within {limit:?}"))))
    }
}

/// A message of so many bytes; one that can be told from others says where it is from, as far as there is room.
fn text(size: usize, of: Option<(u32, u64)>) -> Utf8Bytes {
    let mut text = of.map_or_else(String::new, |(connection, message)| format!("{message}:{connection} "));
    text.truncate(size);
    text.extend(std::iter::repeat_n('x', size - text.len()));
    text.into()
}

/// How long the server asks to wait before coming back, if it does: `retry_ms=1834`.
fn retry_hint(reason: &str) -> Option<Duration> {
    let digits = reason.split("retry_ms=").nth(1)?;
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    digits[..end].parse().ok().map(|ms: u64| Duration::from_millis(ms.min(60_000)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_have_their_size_and_can_be_told_apart() {
        assert_eq!(text(4, None), "xxxx");
        assert_eq!(text(0, Some((1, 2))), "");
        assert_eq!(text(12, Some((17, 3))), "3:17 xxxxxxx");
        assert_ne!(text(12, Some((17, 3))), text(12, Some((17, 4))));
    }

    #[test]
    fn hints_are_found_and_bounded() {
        assert_eq!(retry_hint("retry_ms=1834"), Some(Duration::from_millis(1834)));
        assert_eq!(retry_hint("bye; retry_ms=5, soon"), Some(Duration::from_millis(5)));
        assert_eq!(retry_hint("retry_ms=99999999"), Some(Duration::from_secs(60)));
        assert_eq!(retry_hint("bye"), None);
        assert_eq!(retry_hint("retry_ms=x"), None);
    }
}
