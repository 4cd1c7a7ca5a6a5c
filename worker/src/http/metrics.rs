//! `/metrics`: OpenMetrics text for the whole generation.

use hyper::StatusCode;

use super::{Response, with_body};
use crate::app::App;
use crate::metrics::{About, encode};
use crate::worker::Shared;

pub(super) fn metrics<A: App>(shared: &Shared<A>) -> Response {
    // The others tell it every second.
    shared.hub.borrow_mut().tell_health();
    let hub = shared.hub.borrow();
    let settings = &hub.settings;
    let about = About {
        color: settings.color.clone(),
        version: settings.version,
        heartbeat_interval: settings.heartbeat_interval,
    };
    let (text, content_type) = encode(hub.metrics.board(), about);
    with_body(StatusCode::OK, content_type, text)
}
