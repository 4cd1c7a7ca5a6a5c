//! One HTTP connection: hyper drives it until it is over, is a WebSocket, or goes on in another process.

#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::future::poll_fn;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::Poll;

use hyper::server::conn::http1::{self, Parts};
use hyper::service::service_fn;
use hyper_util::rt::TokioTimer;
use tokio::sync::mpsc;

use super::answer;
use super::upgrade::{self, Accepted};
use super::wire::Wire;
use crate::accept::{Handshake, IntoSocket};
use crate::app::App;

/// The largest head of a request, in bytes; a larger one is 431.
const MAX_HEAD: usize = 16 * 1024;

/// The most header fields; more are 431.
const MAX_FIELDS: usize = 100;

/// An HTTP connection that has left hyper between two requests, for another process.
pub(crate) struct Moved<A: App> {
    pub(crate) socket: OwnedFd,
    /// What was read and not handled: a part of a head, or requests that wait behind one that is answered.
    pub(crate) unread: Vec<u8>,
    /// It counts among the handshakes of this process until it is gone.
    _handshake: Handshake<A>,
}

/// Where they go.
pub(crate) type Departures<A> = mpsc::UnboundedSender<Moved<A>>;

/// How a connection stands, noted by those who see it.
#[derive(Default)]
pub(super) struct Progress {
    /// The client leaves output untaken.
    stuck: Cell<bool>,
    /// The last request has a body, of which only hyper knows how much is still to come.
    pub(super) has_body: Cell<bool>,
    /// An answer is being made.
    pub(super) answering: Cell<bool>,
    /// The last answer is a 101.
    pub(super) accepted: Cell<Option<Accepted>>,
}

/// Why hyper is not asked to wait for the client any longer.
enum Stop {
    /// The connection is over, or its 101 is out.
    Ended(hyper::Result<()>),
    /// It is between two requests, and can leave.
    Movable,
    /// It should leave and cannot: it is to end after its answer.
    InBody,
}

impl Progress {
    /// What becomes of a connection that should leave, once hyper waits for the client, or for an answer.
    fn leave(&self) -> Poll<Stop> {
        if self.answering.get() {
            Poll::Pending
        } else if self.has_body.get() {
            Poll::Ready(Stop::InBody)
        } else if self.stuck.get() {
            Poll::Pending
        } else {
            Poll::Ready(Stop::Movable)
        }
    }
}

/// Serves one connection, of which `unread` was read before, until it ends, is a WebSocket or leaves.
pub(crate) async fn serve<A: App>(handshake: Handshake<A>, socket: impl IntoSocket, unread: Vec<u8>) {
    let (shared, peer) = (handshake.shared.clone(), handshake.peer);
    let progress = Progress::default();
    let service = service_fn(|request| answer(&handshake, &progress, request));
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(shared.hub.borrow().settings.limits.handshake_timeout)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_FIELDS)
        .keep_alive(!handshake.once)
        .serve_connection(Wire::new(socket, unread, &progress.stuck), service);
    let (mut closing, mut leaving) = (shared.closing(), shared.leaving());
    let outcome = loop {
        let departures = leaving.borrow_and_update().clone();
        let stop = poll_fn(|context| match Pin::new(&mut connection).poll(context) {
            Poll::Ready(outcome) => Poll::Ready(Stop::Ended(outcome)),
            Poll::Pending if departures.as_ref().is_some_and(|to| !to.is_closed()) => progress.leave(),
            Poll::Pending => Poll::Pending,
        });
        tokio::select! {
            biased;
            stop = stop => match stop {
                Stop::Ended(outcome) => break outcome.map(|()| None),
                Stop::Movable => break Ok(departures),
                Stop::InBody => {}
            },
            _ = closing.wait_for(|closing| *closing) => {}
            Ok(()) = leaving.changed() => continue,
        }
        Pin::new(&mut connection).graceful_shutdown();
        break (&mut connection).await.map(|()| None);
    };
    let Parts { io, read_buf, .. } = connection.into_parts();
    let (socket, rest) = io.into_parts();
    let unread = [read_buf, rest].concat();
    match (outcome, progress.accepted.take()) {
        (Err(error), _) => tracing::debug!(%error, %peer, "an HTTP connection ended early"),
        (Ok(Some(departures)), _) => depart(&departures, handshake, socket, unread),
        (Ok(None), Some(accepted)) => upgrade::adopt(&shared, accepted, socket, unread),
        // hyper has shut it down.
        (Ok(None), None) => {}
    }
}

fn depart<A: App>(departures: &Departures<A>, handshake: Handshake<A>, socket: impl IntoSocket, unread: Vec<u8>) {
    match socket.into_socket() {
        // If nobody waits for it any more it is closed.
        Ok(socket) => drop(departures.send(Moved { socket, unread, _handshake: handshake })),
        Err(error) => tracing::warn!(%error, "an HTTP connection was lost on its way out"),
    }
}
