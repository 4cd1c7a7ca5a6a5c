//! What is said on one connection while it is open.

use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::time::timeout;
use tungstenite::{Error, Message};

use super::{Connection, End, Sent};
use crate::load_test::dial::{Socket, describe};
use crate::load_test::expectation::{Expect, Verdict};
use crate::load_test::lane::Phase;
use crate::load_test::plan::monotonic;
use crate::load_test::tally::{Fault, rfc3339};

/// What a connection wants to do now.
enum Intent {
    Wait,
    /// A message that should have been sent at this time.
    Send(Duration),
    /// To end without a close, and resume.
    Drop,
    /// To close, and then to resume if there is more to do.
    Leave,
    GiveUp,
}

/// What happens next on a connection.
enum Happening {
    Heard(Message),
    Failed(Error),
    Ended,
    Dropped,
    Leaving,
    GivenUp,
}

impl Connection {
    /// Sends and listens.
    pub(super) async fn converse(&mut self, socket: &mut Socket) -> End {
        loop {
            match poll_fn(|context| self.poll(socket, context)).await {
                Happening::Heard(Message::Text(text)) => self.heard(text.as_str()),
                Happening::Heard(Message::Binary(bytes)) => match self.shared.plan.expect {
                    Expect::Any => self.heard(""),
                    Expect::Count | Expect::Echo => {
                        self.shared.tally.borrow_mut().received += 1;
                        self.fault(Fault::WrongAnswer, 1, || format!("a binary message of {} bytes", bytes.len()));
                    }
                },
                Happening::Heard(Message::Close(frame)) => {
                    // So that the answer goes out, and the server ends the connection.
                    let _ = timeout(self.shared.plan.timeout, async { while let Some(Ok(_)) = socket.next().await {} })
                        .await;
                    return match frame {
                        Some(frame) => End::Closed(frame.code.into(), frame.reason.as_str().to_owned()),
                        None => End::Closed(1005, String::new()),
                    };
                }
                Happening::Heard(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => {}
                Happening::Failed(error) => return End::Failed(describe(&error)),
                Happening::Ended => {
                    return End::Failed((Fault::Lost, "ended by the server, without a close".to_owned()));
                }
                Happening::Dropped => return End::Dropped,
                Happening::Leaving if self.shared.phase() >= Phase::Closing => return End::Done,
                Happening::Leaving => {
                    return match self.leave(socket).await {
                        End::Done => End::Dropped,
                        other => other,
                    };
                }
                Happening::GivenUp => {
                    self.lane.overdue.set(false);
                    let (number, lost) = (self.unanswered.front().map_or(0, |sent| sent.number), self.unanswered.len());
                    let example = || format!("to message {number} within {:?}", self.shared.plan.timeout);
                    self.fault(Fault::NoReply, lost as u64, example);
                    self.expectation.lost(lost as u64);
                    self.unanswered.clear();
                    self.note_oldest();
                    return End::GivenUp;
                }
            }
        }
    }

    fn poll(&mut self, socket: &mut Socket, context: &mut Context<'_>) -> Poll<Happening> {
        self.lane.attend(context);
        match socket.poll_next_unpin(context) {
            Poll::Ready(Some(Ok(message))) => return Poll::Ready(Happening::Heard(message)),
            Poll::Ready(Some(Err(error))) => return Poll::Ready(Happening::Failed(error)),
            Poll::Ready(None) => return Poll::Ready(Happening::Ended),
            Poll::Pending => {}
        }
        loop {
            if self.unflushed {
                match socket.poll_flush_unpin(context) {
                    Poll::Ready(Ok(())) => self.unflushed = false,
                    Poll::Ready(Err(error)) => return Poll::Ready(Happening::Failed(error)),
                    // Messages that are due wait, and their time goes on.
                    Poll::Pending if self.lane.overdue.get() => return Poll::Ready(Happening::GivenUp),
                    Poll::Pending if self.shared.phase() >= Phase::Closing => return Poll::Ready(Happening::Leaving),
                    Poll::Pending => return Poll::Pending,
                }
            }
            match self.intent() {
                Intent::Wait => {
                    self.note_oldest();
                    return Poll::Pending;
                }
                Intent::Drop => return Poll::Ready(Happening::Dropped),
                Intent::Leave => return Poll::Ready(Happening::Leaving),
                Intent::GiveUp => return Poll::Ready(Happening::GivenUp),
                Intent::Send(due) => {
                    if let Err(error) = self.send(socket, due) {
                        return Poll::Ready(Happening::Failed(error));
                    }
                }
            }
        }
    }

    fn intent(&self) -> Intent {
        let (plan, phase) = (&self.shared.plan, self.shared.phase());
        if self.lane.overdue.get() {
            return Intent::GiveUp;
        }
        if phase >= Phase::Closing {
            return Intent::Leave;
        }
        let due = self.lane.due.borrow().front().copied();
        let more = plan.messages.is_none_or(|messages| self.sent < messages);
        let drops = plan.reconnect.is_some_and(|every| self.replies >= every) && phase == Phase::Sending && more;
        match drops {
            // By turns: with a close when all is answered, and without when something is under way.
            true if self.drops.is_multiple_of(2) && self.unanswered.is_empty() => return Intent::Leave,
            true if !self.drops.is_multiple_of(2) && !self.unanswered.is_empty() => return Intent::Drop,
            true | false => {}
        }
        match (due, plan.pace) {
            (Some(due), _) => Intent::Send(due),
            (None, Some(_)) => Intent::Wait,
            (None, None) if phase == Phase::Sending && more && self.unanswered.is_empty() => Intent::Send(monotonic()),
            (None, None) => Intent::Wait,
        }
    }

    fn send(&mut self, socket: &mut Socket, due: Duration) -> Result<(), Error> {
        let number = self.sent + 1;
        let text = match self.shared.plan.expect {
            Expect::Echo => super::text(self.shared.plan.payload, Some((self.number, number))),
            Expect::Count | Expect::Any => self.payload.clone(),
        };
        let at = monotonic();
        socket.start_send_unpin(Message::Text(text))?;
        self.unflushed = true;
        self.lane.due.borrow_mut().pop_front();
        self.sent = number;
        self.unanswered.push_back(Sent { due, at, number });
        self.note_oldest();
        let mut tally = self.shared.tally.borrow_mut();
        tally.sent += 1;
        tally.lateness.record(at.saturating_sub(due));
        Ok(())
    }

    /// A message of the server.
    pub(super) fn heard(&mut self, text: &str) {
        let now = monotonic();
        self.shared.tally.borrow_mut().received += 1;
        let sent = match (self.shared.plan.expect, self.unanswered.front()) {
            (Expect::Echo, Some(sent)) => Some(super::text(self.shared.plan.payload, Some((self.number, sent.number)))),
            _ => None,
        };
        let unanswered = self.unanswered.len() as u64;
        match self.expectation.judge(text, unanswered, sent.as_deref()) {
            Verdict::Reply { skipped } => {
                let first = self.unanswered.front().map_or(0, |sent| sent.number);
                self.unanswered.drain(..skipped as usize);
                self.fault(Fault::NoReply, skipped, || {
                    format!("to message {first}, and a later one was answered: {text}")
                });
                self.replied(now);
            }
            Verdict::WrongReply(example) => {
                self.unanswered.pop_front();
                self.replies += 1;
                self.fault(Fault::WrongAnswer, 1, || example);
            }
            Verdict::Wrong(example) => self.fault(Fault::WrongAnswer, 1, || example),
            Verdict::Heartbeat(at_ms) => self.beat(at_ms, now),
            Verdict::Bye => self.bye = true,
            Verdict::Notice => self.shared.tally.borrow_mut().notices += 1,
        }
        self.note_oldest();
    }

    fn replied(&mut self, now: Duration) {
        let Some(sent) = self.unanswered.pop_front() else { return };
        self.replies += 1;
        let mut tally = self.shared.tally.borrow_mut();
        tally.answered += 1;
        tally.last_answered = now;
        tally.latency.record(now.saturating_sub(sent.due));
    }

    fn beat(&mut self, at_ms: u64, now: Duration) {
        if at_ms <= self.last_beat {
            let (at, last) = (rfc3339(at_ms), rfc3339(self.last_beat));
            return self.fault(Fault::WrongHeartbeat, 1, || format!("{at} after {last}"));
        }
        self.last_beat = at_ms;
        self.shared.tally.borrow_mut().beat(at_ms, now);
    }
}
