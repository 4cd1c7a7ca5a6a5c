//! What happens now: read off the scoreboard, whichever worker is asked.

use hyper::StatusCode;
use serde_json::json;

use super::notice::Notice;
use super::visit::{Operator, Visit};
use super::{Response, audit, page};
use crate::app::App;
use crate::http::{json as answer, status};
use crate::metrics::{self, DURATION, ERRORS, MESSAGES};

/// The first page.
pub(super) fn page<A: App>(visit: &Visit<'_, A>, operator: &Operator) -> Response {
    let notice = Notice::of_query(visit.query);
    let (acts, refusals) = (audit::last_acts(visit), audit::last_refusals(visit));
    page::overview(operator, notice.as_ref(), &status::value(visit.shared), &acts, &refusals)
}

/// For its script: `/status`, and what the charts need beside it: counters, whose rates are for the page to draw.
pub(super) fn live<A: App>(visit: &Visit<'_, A>) -> Response {
    let mut value = status::value(visit.shared);
    let hub = visit.shared.hub.borrow();
    let board = hub.metrics.board();
    let [messages, errors] = [&MESSAGES, &ERRORS].map(|family| metrics::by_label(board, family));
    value["counters"] = json!({ "messages": messages, "errors": errors });
    let (bounds, counts) = metrics::buckets(board, &DURATION);
    value["duration"] = json!({ "bounds_seconds": bounds, "counts": counts });
    answer(StatusCode::OK, &value)
}
