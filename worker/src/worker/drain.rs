//! The end of a worker: everybody is told, nobody can hold it up.

use std::rc::Rc;
use std::time::Duration;

use baton_ipc::messages::DrainReport;
use tokio::task::yield_now;
use tokio::time::{Instant, timeout_at};

use super::Shared;
use crate::app::App;

/// Connections that are told at once, before others get their turn.
const SLICE: usize = 256;

/// Of the time given, what is kept for leaving the store and exiting.
const MARGIN: Duration = Duration::from_millis(200);

/// For a client whose request is on its way when accepting has stopped.
const GRACE: Duration = Duration::from_millis(100);

/// Of the time given, at most this much goes to HTTP connections that do not come to an end.
const PATIENCE: Duration = Duration::from_secs(1);

/// One part in so many of the time given is for what has arrived and is to be answered.
const READING: u32 = 8;

/// Says bye to every connection, waits until they have answered or the time is over, and cuts the rest. Accepting has
/// stopped before.
pub(super) async fn drain<A: App>(shared: &Rc<Shared<A>>, within: Duration) -> DrainReport {
    let deadline = Instant::now() + within.saturating_sub(MARGIN);
    handshakes_end(shared, (Instant::now() + GRACE).min(deadline)).await;
    shared.closing.send_replace(true);
    shared.hub.borrow_mut().draining = true;
    let before = shared.hub.borrow().metrics.drained();
    let keys = shared.hub.borrow().open_connections(|_| true);
    let read_until = std::time::Instant::now() + within / READING;
    tracing::info!(connections = keys.len(), within_ms = within.as_millis() as u64, "draining");
    for slice in keys.chunks(SLICE) {
        shared.hub.borrow_mut().say_bye(slice, read_until);
        yield_now().await;
    }
    // Who comes out of a handshake now is told at once, by the hub.
    handshakes_end(shared, (Instant::now() + PATIENCE).min(deadline)).await;
    shared.handshakes.abort_all();
    let mut cut = 0;
    while !shared.hub.borrow().connections.is_empty() {
        if timeout_at(deadline, shared.emptied.notified()).await.is_err() {
            cut += shared.hub.borrow_mut().cut_all();
        }
    }
    let closed = shared.hub.borrow().metrics.drained() - before;
    DrainReport { closed, cut }
}

/// Waits until no HTTP connection is open, at most until `deadline`.
async fn handshakes_end<A: App>(shared: &Rc<Shared<A>>, deadline: Instant) {
    while shared.handshakes.len() > 0 && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
