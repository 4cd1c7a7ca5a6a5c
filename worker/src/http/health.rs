//! `/healthz`: the process runs. `/readyz`: it serves.

use baton_ipc::scoreboard::{Row, State};
use hyper::StatusCode;
use serde_json::json;

use super::{Response, json as answer};
use crate::app::App;
use crate::metrics::Gauge;
use crate::redis::Reason;
use crate::worker::Shared;

pub(super) fn alive() -> Response {
    answer(StatusCode::OK, &json!({ "status": "ok" }))
}

/// 200, or 503 with the reasons. Any worker answers for the generation: one that drains has neighbours that serve.
pub(super) fn ready<A: App>(shared: &Shared<A>) -> Response {
    let hub = shared.hub.borrow();
    let serving =
        || hub.metrics.board().views().map(|(_, slot)| slot).filter(|slot| slot.current().state() == State::Serving);
    let sum = |gauge: Gauge| serving().map(|slot| slot.gauge(gauge as usize)).sum::<u64>();
    let mut reasons = Vec::new();
    if serving().next().is_none() {
        reasons.push(if hub.draining { "draining" } else { "no_worker_serves" });
    } else {
        if serving().any(|slot| slot.current().gauge(Gauge::StoreOk as usize).get() == 0) {
            reasons.push("store_failing");
        }
        if sum(Gauge::Connections) >= sum(Gauge::Limit) {
            reasons.push("connection_limit");
        }
    }
    // Clients are served all the same: no reason to take the service out of a rotation.
    let why = |row: Row<'_>| Reason::from_code(row.gauge(Gauge::DegradedWhy as usize).get());
    let away = serving().filter_map(|slot| why(slot.current()));
    let words = |reason: Reason| match reason {
        Reason::StoreFull => reason.label().to_owned(),
        _ => format!("redis: {}", reason.label()),
    };
    let mut degraded: Vec<String> = away.map(words).collect();
    degraded.sort();
    degraded.dedup();
    let status = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    answer(status, &json!({ "ready": reasons.is_empty(), "reasons": reasons, "degraded": degraded }))
}
