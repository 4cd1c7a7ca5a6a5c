//! One HTTP connection: hyper drives it until it is over, is a WebSocket, or goes on in another process.

#[cfg(test)]
mod tests;

use std::error::Error;
use std::future::poll_fn;
use std::os::fd::OwnedFd;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::rt::{Read, Write};
use hyper::server::conn::http1::{self, Connection, Parts};
use hyper::service::{HttpService, service_fn};
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::answer;
use super::ending::{self, Refusal};
use super::progress::{Leave, Patience, Progress, Wait};
use super::upgrade;
use super::wire::Wire;
use crate::accept::Handshake;
use crate::app::App;
use crate::socket::IntoSocket;

/// The most header fields; more are 431.
const FIELDS_MAX: usize = 100;

/// The least room for a head and for an answer that hyper can work with, in bytes.
const HYPER_BUFFER_MIN: usize = 8192;

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

/// Why hyper is not asked to wait for the client any longer.
enum Stop {
    /// The connection is over, or its 101 is out.
    Over(hyper::Result<()>),
    /// The client took too long for this.
    Late(Wait),
    /// It is between two requests, and can leave.
    Movable,
    /// It should leave and cannot: it is to end after its answer.
    InBody,
}

/// What hyper leaves behind.
enum Ended<A: App> {
    Over(hyper::Result<()>),
    Late(Wait),
    /// The connection goes on in another process.
    Left(Option<Departures<A>>),
}

/// Serves one connection until it ends, is a WebSocket or leaves. `read_before` is what another process has read of it and
/// not handled; none: it is new.
pub(crate) async fn serve<A: App>(handshake: Handshake<A>, socket: impl IntoSocket, read_before: Option<Vec<u8>>) {
    let (shared, peer) = (handshake.shared.clone(), handshake.peer);
    let limits = shared.hub.borrow().settings.limits.clone();
    let progress = Progress::new(read_before.as_deref());
    let service = service_fn(|request| answer(&handshake, &progress, request));
    // No timer: hyper would give an idle connection the time of a head, and a client that does not read any time it likes.
    let mut connection = http1::Builder::new()
        .max_buf_size(limits.max_header_size.max(HYPER_BUFFER_MIN))
        .max_header_size(limits.max_header_size)
        .max_headers(FIELDS_MAX)
        .keep_alive(!handshake.once)
        .serve_connection(Wire::new(socket, read_before.unwrap_or_default(), &progress), service);
    let ended = drive(&handshake, Patience::new(&limits), &progress, &mut connection).await;
    let Parts { io, read_buf, .. } = connection.into_parts();
    let (socket, rest) = io.into_parts();
    let unread = [read_buf, rest].concat();
    // On the heap, as few connections come there.
    match ended {
        Ended::Left(Some(departures)) => depart(&departures, handshake, socket, unread),
        // It is not left unless there is somewhere to go.
        Ended::Left(None) => {}
        Ended::Over(Ok(())) => match progress.accepted.take() {
            Some(accepted) => upgrade::adopt(&shared, accepted, socket, unread),
            None if progress.has_body.get() || progress.is_used_up() || !unread.is_empty() => {
                Box::pin(ending::linger(socket, limits.close_timeout)).await;
            }
            None => {}
        },
        Ended::Over(Err(error)) if error.is_parse() && !progress.is_answering() => {
            let refusal = match error.is_parse_too_large() {
                true => Refusal::TooLarge { bytes: limits.max_header_size, fields: FIELDS_MAX },
                false => Refusal::Malformed(error.to_string()),
            };
            Box::pin(ending::refuse(&shared, peer, socket, &refusal)).await;
        }
        Ended::Over(Err(error)) => tracing::debug!(%error, %peer, "an HTTP connection ended early"),
        Ended::Late(Wait::Head) => {
            Box::pin(ending::refuse(&shared, peer, socket, &Refusal::Late(limits.handshake_timeout))).await;
        }
        Ended::Late(Wait::Reader) => {
            tracing::debug!(%peer, "an HTTP connection was reset: its answer was not read in time");
            ending::reset(socket);
        }
        Ended::Late(wait @ (Wait::First | Wait::Next | Wait::Answer | Wait::Sending | Wait::Sent)) => {
            tracing::debug!(%peer, ?wait, "an idle HTTP connection was closed");
        }
    }
}

/// Has hyper serve a connection as long as it may.
async fn drive<A, I, S>(
    handshake: &Handshake<A>,
    patience: Patience,
    progress: &Progress,
    connection: &mut Connection<I, S>,
) -> Ended<A>
where
    A: App,
    I: Read + Write + Unpin,
    S: HttpService<Incoming, ResBody = Full<Bytes>>,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let (mut closing, mut leaving) = (handshake.shared.closing(), handshake.shared.leaving());
    let mut idle = false;
    // Set once it is known what is waited for.
    let mut timer = pin!(sleep(Duration::ZERO));
    // It ends after the answer that is under way.
    let mut last = false;
    loop {
        let departures = leaving.borrow_and_update().clone();
        let leaves = !last && departures.as_ref().is_some_and(|to| !to.is_closed());
        let stop = poll_fn(|context| {
            if let Poll::Ready(outcome) = Pin::new(&mut *connection).poll(context) {
                return Poll::Ready(Stop::Over(outcome));
            }
            let waits = progress.wait() == Wait::Next;
            if waits != idle {
                idle = waits;
                handshake.set_idle(waits);
            }
            match progress.leave() {
                Leave::Now if leaves => Poll::Ready(Stop::Movable),
                Leave::InBody if leaves => Poll::Ready(Stop::InBody),
                Leave::Now | Leave::InBody | Leave::Later => {
                    progress.poll_late(patience, timer.as_mut(), context).map(Stop::Late)
                }
            }
        });
        tokio::select! {
            biased;
            stop = stop => match stop {
                Stop::Over(outcome) => return Ended::Over(outcome),
                Stop::Late(wait) => return Ended::Late(wait),
                Stop::Movable => return Ended::Left(departures),
                Stop::InBody => {}
            },
            _ = closing.wait_for(|closing| *closing), if !last => {}
            Ok(()) = leaving.changed(), if !last => continue,
        }
        Pin::new(&mut *connection).graceful_shutdown();
        last = true;
    }
}

fn depart<A: App>(departures: &Departures<A>, handshake: Handshake<A>, socket: impl IntoSocket, unread: Vec<u8>) {
    match socket.into_socket() {
        // If nobody waits for it any more it is closed.
        Ok(socket) => drop(departures.send(Moved { socket, unread, _handshake: handshake })),
        Err(error) => tracing::warn!(%error, "an HTTP connection was lost on its way out"),
    }
}
