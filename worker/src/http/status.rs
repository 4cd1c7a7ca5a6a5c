//! `/status`: the generation in JSON, read off the scoreboard by whichever worker is asked.

use baton_ipc::scoreboard::{COUNTER_MESSAGES, Cause, GAUGE_CONNECTIONS, State, monotonic_ms};
use hyper::StatusCode;
use serde_json::json;

use super::{Response, json as answer};
use crate::app::App;
use crate::metrics::Gauge;
use crate::worker::Shared;

pub(super) fn status<A: App>(shared: &Shared<A>) -> Response {
    let hub = shared.hub.borrow();
    let (board, now) = (hub.metrics.board(), monotonic_ms());
    let seconds_since = |ms: u64| if ms == 0 { 0.0 } else { now.saturating_sub(ms) as f64 / 1000.0 };
    let (mut connections, mut messages) = (0, 0);
    let workers: Vec<_> = board
        .rows()
        .map(|(slot, row)| {
            connections += row.gauge(GAUGE_CONNECTIONS).get();
            messages += row.counter(COUNTER_MESSAGES).get();
            let ended = |cause: &Cause| *cause != Cause::Requested;
            json!({
                "slot": slot,
                "state": row.state(),
                "pid": row.pid(),
                "uptime_seconds": if row.pid().is_some() { seconds_since(row.started().get()) } else { 0.0 },
                "connections": row.gauge(GAUGE_CONNECTIONS).get(),
                "messages": row.counter(COUNTER_MESSAGES).get(),
                "restarts": Cause::ALL.iter().filter(|c| ended(c)).map(|c| row.restarts(*c).get()).sum::<u64>(),
                "last_cause": row.last_cause(),
            })
        })
        .collect();
    let mut serving = board.rows().filter(|(_, row)| row.state() == State::Serving);
    let store_ok = serving.all(|(_, row)| row.gauge(Gauge::StoreOk as usize).get() == 1);
    let value = json!({
        "color": hub.settings.color,
        "version": hub.settings.version,
        "answered_by": shared.slot,
        "uptime_seconds": seconds_since(board.started_ms()),
        "connections": connections,
        "messages": messages,
        "heartbeat_interval_seconds": hub.settings.heartbeat_interval.as_secs_f64(),
        "backplane": { "kind": "embedded", "ok": store_ok },
        "workers": workers,
    });
    answer(StatusCode::OK, &value)
}
