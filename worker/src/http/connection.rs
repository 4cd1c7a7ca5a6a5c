//! One HTTP connection: hyper drives it until it is over or a WebSocket.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::ready;
use std::pin::Pin;

use hyper::server::conn::http1::{self, Parts};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};

use super::answer;
use super::upgrade::{self, Accepted};
use crate::accept::{Handshake, IntoSocket};
use crate::app::App;

/// The largest head of a request, in bytes; a larger one is 431.
const MAX_HEAD: usize = 16 * 1024;

/// The most header fields; more are 431.
const MAX_FIELDS: usize = 100;

/// How a connection stands, noted by those who see it.
#[derive(Default)]
pub(super) struct Progress {
    /// The last answer is a 101.
    pub(super) accepted: Cell<Option<Accepted>>,
}

/// Serves one connection until it ends or is a WebSocket.
pub(crate) async fn serve<A: App>(handshake: Handshake<A>, socket: impl IntoSocket) {
    let (shared, peer) = (handshake.shared.clone(), handshake.peer);
    let progress = Progress::default();
    let service = service_fn(|request| ready(Ok::<_, Infallible>(answer(&handshake, &progress, request))));
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(shared.hub.borrow().settings.limits.handshake_timeout)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_FIELDS)
        .serve_connection(TokioIo::new(socket), service);
    let mut closing = shared.closing();
    let ended = tokio::select! {
        outcome = &mut connection => Some(outcome),
        _ = closing.wait_for(|closing| *closing) => None,
    };
    let outcome = match ended {
        Some(outcome) => outcome,
        None => {
            Pin::new(&mut connection).graceful_shutdown();
            (&mut connection).await
        }
    };
    let Parts { io, read_buf, .. } = connection.into_parts();
    match (outcome, progress.accepted.take()) {
        (Err(error), _) => tracing::debug!(%error, ?peer, "an HTTP connection ended early"),
        (Ok(()), Some(accepted)) => upgrade::adopt(&shared, accepted, io.into_inner(), read_buf.to_vec()),
        // hyper has shut it down.
        (Ok(()), None) => {}
    }
}
