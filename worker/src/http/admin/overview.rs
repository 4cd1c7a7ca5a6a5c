//! What happens now: read off the scoreboard, whichever worker is asked.

use hyper::StatusCode;
use serde_json::{Value, json};

use super::notice::Notice;
use super::visit::{Operator, Visit};
use super::{Response, audit, page};
use crate::app::App;
use crate::http::{json as answer, status};
use crate::metrics::{self, DURATION, ERRORS, MESSAGES};

/// The first page.
pub(super) fn page<A: App>(visit: &Visit<'_, A>, operator: &Operator) -> Response {
    let notice = Notice::of_query(visit.query);
    page::overview(operator, notice.as_ref(), &now(visit), &audit::last(visit))
}

/// The numbers of it, for its script.
pub(super) fn live<A: App>(visit: &Visit<'_, A>) -> Response {
    answer(StatusCode::OK, &now(visit))
}

/// `/status`, and what the charts need beside it: counters, whose rates are for the page to draw.
fn now<A: App>(visit: &Visit<'_, A>) -> Value {
    let mut value = status::value(visit.shared);
    let hub = visit.shared.hub.borrow();
    let board = hub.metrics.board();
    let [messages, errors] = [&MESSAGES, &ERRORS].map(|family| metrics::by_label(board, family));
    value["counters"] = json!({ "messages": messages, "errors": errors });
    let (bounds, counts) = metrics::buckets(board, &DURATION);
    value["duration"] = json!({ "bounds_seconds": bounds, "counts": counts });
    value
}
