//! `/test/`: a page to try the service in the browser. No assets from elsewhere, no inline script.

use hyper::StatusCode;
use hyper::header::{self, HeaderValue};

use super::{Response, with_body};
use crate::app::App;
use crate::worker::Shared;

/// The page talks to the service and to nobody else.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; \
                      connect-src 'self' ws: wss:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

pub(super) fn page<A: App>(shared: &Shared<A>) -> Response {
    let hub = shared.hub.borrow();
    // The address was validated as a URL of schema and authority, which holds no character that HTML would need escaped.
    let html = include_str!("test/page.html").replace("{{ws_base_url}}", &hub.settings.ws_base_url);
    let mut response = with_body(StatusCode::OK, "text/html; charset=utf-8", html);
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    response
}

pub(super) fn script() -> Response {
    with_body(StatusCode::OK, "text/javascript; charset=utf-8", include_str!("test/page.js"))
}

pub(super) fn style() -> Response {
    let style = concat!(include_str!("theme.css"), include_str!("test/page.css"));
    with_body(StatusCode::OK, "text/css; charset=utf-8", style)
}
