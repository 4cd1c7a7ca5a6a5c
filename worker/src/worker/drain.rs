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

/// Says bye to every connection, waits until they have answered or the time is over, and cuts the rest.
pub(super) async fn drain<A: App>(shared: &Rc<Shared<A>>, within: Duration) -> DrainReport {
    let deadline = Instant::now() + within.saturating_sub(MARGIN);
    let mut report = DrainReport::default();
    shared.hub.borrow_mut().draining = true;
    shared.closing.send_replace(true);
    let keys = shared.hub.borrow().open_connections(|_| true);
    tracing::info!(connections = keys.len(), within_ms = within.as_millis() as u64, "draining");
    let before = shared.hub.borrow().connections.len() as u64;
    for slice in keys.chunks(SLICE) {
        if let Err(error) = shared.hub.borrow_mut().say_bye(slice) {
            tracing::error!(%error, "totals cannot be read; connections are closed without");
        }
        yield_now().await;
    }
    while !shared.hub.borrow().connections.is_empty() {
        if timeout_at(deadline, shared.emptied.notified()).await.is_err() {
            report.cut = shared.hub.borrow_mut().cut_all();
        }
    }
    while shared.handshakes.len() > 0 && Instant::now() < deadline {
        yield_now().await;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    report.closed = before - report.cut.min(before);
    report
}
