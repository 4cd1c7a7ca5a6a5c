//! Answers that refuse: always JSON, always with the right status.

use hyper::StatusCode;
use hyper::header::{self, HeaderValue};

use super::{Response, json};

/// `{"error":"…","detail":"…"}`.
pub(super) fn error(status: StatusCode, name: &str, detail: &str) -> Response {
    json(status, &serde_json::json!({ "error": name, "detail": detail }))
}

/// 405 with the methods that there are (RFC 9110 section 15.5.6).
pub(super) fn method_not_allowed(allow: &'static str) -> Response {
    let mut response = error(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", &format!("use {allow}"));
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allow));
    response
}

/// 308: the same request, elsewhere.
pub(super) fn redirect(to: &'static str) -> Response {
    let mut response = error(StatusCode::PERMANENT_REDIRECT, "moved", to);
    response.headers_mut().insert(header::LOCATION, HeaderValue::from_static(to));
    response
}
