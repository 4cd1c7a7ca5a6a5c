//! `GET /`: where to look. Load balancers probe it, and people begin there.

use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Request, StatusCode};
use serde_json::json;

use super::error::error;
use super::{Response, json as answer};
use crate::app::App;
use crate::header_list;
use crate::worker::Shared;

/// 200 with the paths; a browser of a developer is sent to the test page.
pub(super) fn index<A: App, B>(shared: &Shared<A>, request: &Request<B>) -> Response {
    let settings = &shared.hub.borrow().settings;
    if settings.debug && wants_html(request.headers()) {
        // Not for ever, as browsers remember it: the next service at this address may be another.
        let mut response = error(StatusCode::TEMPORARY_REDIRECT, "moved", "/test/");
        response.headers_mut().insert(header::LOCATION, HeaderValue::from_static("/test/"));
        return response;
    }
    let body = json!({
        "service": "baton",
        "version": settings.version,
        "websocket": "/ws/chat/",
        "health": "/healthz",
        "ready": "/readyz",
        "status": "/status",
        "metrics": "/metrics",
        "test": "/test/",
        "admin": shared.admin.as_ref().map(|_| "/admin/"),
    });
    answer(StatusCode::OK, &body)
}

/// Whether a browser asks, for its user to read the answer (RFC 9110 section 12.5.1).
fn wants_html(headers: &HeaderMap) -> bool {
    header_list::elements(headers, &header::ACCEPT).any(|range| {
        let kind = range.split(|byte| *byte == b';').next().unwrap_or_default();
        kind.trim_ascii().eq_ignore_ascii_case(b"text/html")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn browsers_ask_for_html() {
        let wants = |accept| wants_html(&HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(accept))]));
        assert!(wants("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"));
        assert!(wants("application/json, Text/HTML ;q=0.5"));
        assert!(!wants("*/*") && !wants("application/json") && !wants("text/plain") && !wants(""));
        assert!(!wants_html(&HeaderMap::new()));
    }
}
