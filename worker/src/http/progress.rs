//! Follows an HTTP connection: for what it waits, and for how long it may.

use std::cell::Cell;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::header::{self, HeaderValue};
use hyper::{Response, StatusCode};
use tokio::time::{Instant, Sleep};

use super::upgrade::Accepted;
use crate::settings::Limits;

/// The most requests on one connection: whoever has more of them opens another, so that no client keeps a worker for
/// itself. nginx has the same number (`keepalive_requests`).
const REQUESTS_MAX: u32 = 1000;

/// What a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// The first byte of the first request.
    First,
    /// The first byte of a later request.
    Next,
    /// The rest of a head.
    Head,
    /// The answer to a request, or the body that it needs.
    Answer,
    /// The first bytes of an answer to go to the kernel.
    Sending,
    /// The rest of an answer to go to the kernel.
    Sent,
    /// The client, to take what the kernel has no room for.
    Reader,
}

/// What happens to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// Bytes came.
    Read,
    /// A head was complete.
    Asked,
    /// The answer was made.
    Answered,
    /// The kernel took bytes.
    Written,
    /// The kernel took none.
    Blocked,
    /// All that was to be written is with the kernel.
    Flushed,
}

impl Wait {
    /// What the connection waits for after an event.
    fn after(self, event: Event) -> Wait {
        match (self, event) {
            (Wait::First | Wait::Next, Event::Read) => Wait::Head,
            // Of requests in one packet the later ones are never waited for.
            (_, Event::Asked) => Wait::Answer,
            (Wait::Answer, Event::Answered) => Wait::Sending,
            (Wait::Sending | Wait::Sent | Wait::Reader, Event::Written) => Wait::Sent,
            (Wait::Sending | Wait::Sent | Wait::Reader, Event::Blocked) => Wait::Reader,
            (Wait::Sent, Event::Flushed) => Wait::Next,
            // What comes behind a request is not looked at before it is answered; `100 Continue` is no answer; and hyper
            // flushes when there is nothing to flush.
            (wait, Event::Read | Event::Answered | Event::Written | Event::Blocked | Event::Flushed) => wait,
        }
    }

    /// Whether a request is being answered: what hyper writes is ours.
    fn is_answering(self) -> bool {
        match self {
            Wait::First | Wait::Next | Wait::Head => false,
            Wait::Answer | Wait::Sending | Wait::Sent | Wait::Reader => true,
        }
    }
}

/// For how long a client is waited for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    head: Duration,
    next: Duration,
    reader: Duration,
}

impl Patience {
    pub(super) fn new(limits: &Limits) -> Patience {
        Patience { head: limits.handshake_timeout, next: limits.keep_alive_timeout, reader: limits.write_timeout }
    }

    /// None: the client is not waited for.
    fn with(self, wait: Wait) -> Option<Duration> {
        match wait {
            Wait::First | Wait::Head => Some(self.head),
            Wait::Next => Some(self.next),
            Wait::Reader => Some(self.reader),
            Wait::Answer | Wait::Sending | Wait::Sent => None,
        }
    }
}

/// How a connection stands, as its socket and its requests see it.
pub(super) struct Progress {
    wait: Cell<Wait>,
    since: Cell<Instant>,
    requests: Cell<u32>,
    /// The last request has a body, of which only hyper knows how much is still to come.
    pub(super) has_body: Cell<bool>,
    /// The last answer is a 101.
    pub(super) accepted: Cell<Option<Accepted>>,
}

/// Whether a connection can leave this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leave {
    /// It is between two requests.
    Now,
    /// Not before an answer is made, or taken by the client.
    Later,
    /// Never: it is in a body, and is to end after its answer.
    InBody,
}

impl Progress {
    /// Begins with a new connection, or with what another process has read and not handled.
    pub(super) fn new(read_before: Option<&[u8]>) -> Progress {
        let wait = match read_before {
            None => Wait::First,
            Some([]) => Wait::Next,
            Some(_) => Wait::Head,
        };
        Progress {
            wait: Cell::new(wait),
            since: Cell::new(Instant::now()),
            requests: Cell::new(0),
            has_body: Cell::new(false),
            accepted: Cell::new(None),
        }
    }

    pub(super) fn wait(&self) -> Wait {
        self.wait.get()
    }

    pub(super) fn is_answering(&self) -> bool {
        self.wait.get().is_answering()
    }

    /// Records an event, and when the waiting for something else began. The first head has one time, from its connect on.
    pub(super) fn on(&self, event: Event) {
        let (before, after) = (self.wait.get(), self.wait.get().after(event));
        if before != after {
            self.wait.set(after);
            if before != Wait::First {
                self.since.set(Instant::now());
            }
        }
    }

    /// Records a request.
    pub(super) fn asked(&self, has_body: bool) {
        self.on(Event::Asked);
        self.has_body.set(has_body);
        self.requests.set(self.requests.get().saturating_add(1));
    }

    /// Records its answer, which says so if it is the last one.
    pub(super) fn answered<B>(&self, response: &mut Response<B>) {
        self.on(Event::Answered);
        if self.is_used_up() && response.status() != StatusCode::SWITCHING_PROTOCOLS {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
    }

    /// Whether the connection has had all its requests.
    pub(super) fn is_used_up(&self) -> bool {
        self.requests.get() >= REQUESTS_MAX
    }

    /// Whether it can leave, once hyper waits for something.
    pub(super) fn leave(&self) -> Leave {
        match self.wait.get() {
            Wait::Answer => Leave::Later,
            _ if self.has_body.get() => Leave::InBody,
            Wait::Sending | Wait::Sent | Wait::Reader => Leave::Later,
            Wait::First | Wait::Next | Wait::Head => Leave::Now,
        }
    }

    /// Ready once the client has been waited for long enough.
    pub(super) fn poll_late(
        &self,
        patience: Patience,
        mut timer: Pin<&mut Sleep>,
        context: &mut Context<'_>,
    ) -> Poll<Wait> {
        let wait = self.wait.get();
        let Some(within) = patience.with(wait) else { return Poll::Pending };
        let due = self.since.get() + within;
        if timer.deadline() != due {
            timer.as_mut().reset(due);
        }
        timer.poll(context).map(|()| wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use Event::{Answered, Asked, Blocked, Flushed, Read, Written};

    fn after(first: Wait, events: &[Event]) -> Wait {
        events.iter().fold(first, |wait, event| wait.after(*event))
    }

    #[test]
    fn a_connection_waits_for_one_thing_after_the_other() {
        for (events, expected) in [
            (&[][..], Wait::First),
            (&[Flushed], Wait::First),
            (&[Read, Read, Flushed], Wait::Head),
            (&[Read, Asked, Read, Flushed], Wait::Answer),
            (&[Read, Asked, Written, Flushed], Wait::Answer),
            (&[Read, Asked, Answered, Flushed], Wait::Sending),
            (&[Read, Asked, Answered, Blocked, Flushed], Wait::Reader),
            (&[Read, Asked, Answered, Blocked, Written], Wait::Sent),
            (&[Read, Asked, Answered, Written, Blocked], Wait::Reader),
            (&[Read, Asked, Answered, Written, Read, Flushed], Wait::Next),
            // Two in one packet.
            (&[Read, Asked, Answered, Written, Flushed, Asked], Wait::Answer),
            (&[Read, Asked, Answered, Written, Flushed, Read], Wait::Head),
        ] {
            assert_eq!(after(Wait::First, events), expected, "{events:?}");
        }
    }

    #[test]
    fn only_clients_are_waited_for() {
        let limits = Limits::default();
        let patience = Patience::new(&limits);
        assert_eq!(patience.with(Wait::First), Some(limits.handshake_timeout));
        assert_eq!(patience.with(Wait::Head), Some(limits.handshake_timeout));
        assert_eq!(patience.with(Wait::Next), Some(limits.keep_alive_timeout));
        assert_eq!(patience.with(Wait::Reader), Some(limits.write_timeout));
        for wait in [Wait::Answer, Wait::Sending, Wait::Sent] {
            assert_eq!(patience.with(wait), None);
        }
    }

    #[test]
    fn the_first_head_has_one_time_and_later_ones_their_own() {
        let progress = Progress::new(None);
        let begun = progress.since.get();
        progress.on(Read);
        assert_eq!((progress.wait(), progress.since.get()), (Wait::Head, begun));
        progress.asked(false);
        progress.answered(&mut Response::new(()));
        progress.on(Written);
        progress.on(Flushed);
        let answered = progress.since.get();
        assert_eq!(progress.wait(), Wait::Next);
        assert!(answered > begun);
        progress.on(Read);
        assert_eq!(progress.wait(), Wait::Head);
        assert!(progress.since.get() > answered);
    }

    #[test]
    fn a_reader_that_takes_something_has_its_time_anew() {
        let progress = Progress::new(Some(b"GET"));
        progress.asked(false);
        progress.answered(&mut Response::new(()));
        progress.on(Blocked);
        let blocked = progress.since.get();
        progress.on(Blocked);
        assert_eq!((progress.wait(), progress.since.get()), (Wait::Reader, blocked));
        progress.on(Written);
        progress.on(Blocked);
        assert_eq!(progress.wait(), Wait::Reader);
        assert!(progress.since.get() > blocked);
    }

    #[test]
    fn the_last_answer_says_that_it_is() {
        let progress = Progress::new(None);
        let mut closes = 0;
        for _ in 0..REQUESTS_MAX {
            progress.asked(false);
            let mut response = Response::new(());
            progress.answered(&mut response);
            closes += u32::from(response.headers().contains_key(header::CONNECTION));
        }
        assert_eq!((closes, progress.is_used_up()), (1, true));
        progress.asked(false);
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        progress.answered(&mut response);
        assert!(!response.headers().contains_key(header::CONNECTION));
    }
}
