//! What a form has sent: bounded in size and time, and only from a page of ours.

use std::collections::HashMap;

use http_body_util::{BodyExt, Limited};
use hyper::body::{Body, Incoming};
use hyper::header;
use hyper::{Request, StatusCode};

use super::visit::Visit;
use super::{Progress, Response, page};
use crate::app::App;
use crate::http::error::error;

/// The largest body, in bytes: a notice to all clients, as a browser encodes it.
const MAX_BODY: usize = 64 * 1024;

/// The name of the field with the token.
pub(super) const TOKEN: &str = "token";

/// A form's fields; of two with the same name the first.
pub(super) struct Form(HashMap<String, String>);

impl Form {
    /// A field; empty if it is not there.
    pub(super) fn get(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    /// Whether only a page that this visitor was shown can have sent it.
    pub(super) fn is_ours<A: App>(&self, visit: &Visit<'_, A>) -> bool {
        visit.cookie.as_ref().is_some_and(|cookie| cookie.accepts(&visit.admin.key, self.get(TOKEN)))
    }
}

/// Reads it, whoever has sent it.
pub(super) async fn read<A: App>(
    visit: &Visit<'_, A>,
    progress: &Progress,
    head: &Request<()>,
    body: Incoming,
) -> Result<Form, Response> {
    let content_type =
        head.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
        let detail = "send application/x-www-form-urlencoded";
        return Err(error(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail));
    }
    let too_large = || error(StatusCode::PAYLOAD_TOO_LARGE, "too_large", &format!("at most {MAX_BODY} bytes"));
    if body.size_hint().lower() > MAX_BODY as u64 {
        return Err(too_large());
    }
    let patience = visit.shared.hub.borrow().settings.limits.handshake_timeout;
    let collected = match tokio::time::timeout(patience, Limited::new(body, MAX_BODY).collect()).await {
        Ok(Ok(collected)) => collected.to_bytes(),
        Ok(Err(failure)) if failure.is::<http_body_util::LengthLimitError>() => return Err(too_large()),
        Ok(Err(_)) => return Err(error(StatusCode::BAD_REQUEST, "bad_request", "the body ended early")),
        Err(_) => return Err(error(StatusCode::REQUEST_TIMEOUT, "timeout", "the body did not come in time")),
    };
    // All of it was taken: between two requests the connection can move.
    progress.has_body.set(false);
    let mut fields = HashMap::new();
    for (name, value) in form_urlencoded::parse(&collected) {
        fields.entry(name.into_owned()).or_insert_with(|| value.into_owned());
    }
    Ok(Form(fields))
}

/// Reads one that only a page which this operator was shown can have sent.
pub(super) async fn read_checked<A: App>(
    visit: &Visit<'_, A>,
    progress: &Progress,
    head: &Request<()>,
    body: Incoming,
) -> Result<Form, Response> {
    let form = read(visit, progress, head, body).await?;
    if form.is_ours(visit) { Ok(form) } else { Err(page::strange_form()) }
}
