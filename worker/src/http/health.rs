//! `/healthz`: the process runs. `/readyz`: it serves.

use hyper::StatusCode;
use serde_json::json;

use super::{Response, json as answer};
use crate::app::App;
use crate::worker::Shared;

pub(super) fn alive() -> Response {
    answer(StatusCode::OK, &json!({ "status": "ok" }))
}

/// 200, or 503 with the reasons.
pub(super) fn ready<A: App>(shared: &Shared<A>) -> Response {
    let hub = shared.hub.borrow();
    let mut reasons = Vec::new();
    if hub.draining {
        reasons.push("draining");
    }
    if !hub.store_ok() {
        reasons.push("store_failing");
    }
    if hub.connections.len() >= shared.max_connections() {
        reasons.push("connection_limit");
    }
    let status = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    answer(status, &json!({ "ready": reasons.is_empty(), "reasons": reasons }))
}
