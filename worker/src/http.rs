//! HTTP/1.1: the routes, one match, and what every answer has in common.

pub(crate) mod admin;
mod connection;
mod ending;
mod error;
mod handshake;
mod health;
mod index;
mod metrics;
mod progress;
mod status;
mod test;
mod upgrade;
mod wire;

use std::convert::Infallible;
use std::future::ready;

use bytes::Bytes;
use futures_util::future::Either;
use http_body_util::Full;
use hyper::body::{Body, Incoming};
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Method, Request, StatusCode, Version};

use crate::accept::Handshake;
use crate::app::App;
use crate::proxies::Client;
use crate::token::Token;
use crate::worker::Shared;
use progress::Progress;

pub(crate) use connection::{Departures, Moved, serve};

pub(crate) type Response = hyper::Response<Full<Bytes>>;

/// Ties log lines, proxies and clients together.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Answers one request: at once, unless it is for operators.
fn answer<A: App>(
    handshake: &Handshake<A>,
    progress: &Progress,
    request: Request<Incoming>,
) -> impl Future<Output = Result<Response, Infallible>> {
    progress.asked(!request.body().is_end_stream());
    let request_id = request_id(&request);
    let Handshake { shared, peer, .. } = handshake;
    let client = Client::of(*peer, request.headers(), &shared.hub.borrow().settings.trusted_proxies);
    if admin::owns(request.uri().path()) && names_its_host(&request) {
        // On the heap: clients that become WebSockets need no room for it.
        return Either::Right(Box::pin(admin::answer(shared, progress, request, request_id, client)));
    }
    let response = route(handshake, progress, &request, &request_id, client);
    let mut response = finish(shared, &request, &request_id, client, response);
    progress.answered(&mut response);
    Either::Left(ready(Ok(response)))
}

/// What every answer has, and what is noted of it.
fn finish<A: App, B>(
    shared: &Shared<A>,
    request: &Request<B>,
    request_id: &Token,
    client: Client,
    response: Response,
) -> Response {
    let response = stamp(shared, request_id, response);
    tracing::debug!(
        method = %request.method(),
        path = %admin::without_token(request.uri().path()),
        status = response.status().as_u16(),
        request_id = request_id.spelling(),
        %client,
        tls = client.tls,
        "request"
    );
    response
}

/// Adds the fields that every answer has, and counts it.
fn stamp<A: App>(shared: &Shared<A>, request_id: &Token, mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(REQUEST_ID, header_value(request_id));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    shared.hub.borrow().metrics.request(response.status().as_u16());
    response
}

fn route<A: App>(
    handshake: &Handshake<A>,
    progress: &Progress,
    request: &Request<Incoming>,
    request_id: &Token,
    client: Client,
) -> Response {
    if !names_its_host(request) {
        return error::error(StatusCode::BAD_REQUEST, "bad_request", "HTTP/1.1 requires exactly one Host field");
    }
    let shared = &handshake.shared;
    let path = request.uri().path();
    let page: fn(&Shared<A>) -> Response = match path {
        "/ws/chat/" => {
            return match *request.method() {
                Method::GET => upgrade::upgrade(handshake, progress, request, request_id, client),
                _ => error::method_not_allowed("GET"),
            };
        }
        "/" => {
            return match *request.method() {
                Method::GET | Method::HEAD => index::index(shared, request),
                _ => error::method_not_allowed("GET, HEAD"),
            };
        }
        "/healthz" => |_| health::alive(),
        "/readyz" => health::ready,
        "/status" => status::status,
        "/metrics" => metrics::metrics,
        "/test/" => test::page,
        "/test/page.js" => |_| test::script(),
        "/test/page.css" => |_| test::style(),
        "/test" => |_| error::redirect("/test/"),
        _ => return error::error(StatusCode::NOT_FOUND, "not_found", &nothing_at(path)),
    };
    match *request.method() {
        // For HEAD hyper sends the head of the answer alone.
        Method::GET | Method::HEAD => page(shared),
        _ => error::method_not_allowed("GET, HEAD"),
    }
}

/// Paths that are often asked for with a slash too many, or without one that belongs to them.
const PATHS: [&str; 5] = ["/ws/chat/", "/healthz", "/readyz", "/status", "/metrics"];

/// Why there is nothing at a path.
fn nothing_at(path: &str) -> String {
    let bare = |path: &str| path.strip_suffix('/').unwrap_or(path).to_owned();
    match PATHS.iter().find(|known| bare(known) == bare(path)) {
        Some(known) if known.ends_with('/') => format!("the path is {known}, with a slash at its end"),
        Some(known) => format!("the path is {known}, without a slash at its end"),
        None => "there is nothing at this path; GET / lists the paths".to_owned(),
    }
}

/// HTTP/1.1 requires exactly one `Host`, and a server to say so (RFC 9112 section 3.2).
fn names_its_host(request: &Request<Incoming>) -> bool {
    request.version() < Version::HTTP_11 || request.headers().get_all(header::HOST).iter().count() == 1
}

/// The client's own, if it is one that may stand in a log; else a new one. A client may take the token of its session for its
/// requests as well: then it may not.
fn request_id(request: &Request<Incoming>) -> Token {
    let target = request.uri().path_and_query().map_or("", |target| target.as_str());
    let given = request.headers().get(REQUEST_ID).and_then(|value| value.to_str().ok());
    let given = given.filter(|given| !names_session(target, given));
    given.and_then(|given| given.parse().ok()).unwrap_or_else(Token::random)
}

/// Whether a part of a request's target is this text.
fn names_session(target: &str, text: &str) -> bool {
    target.split(['/', '?', '&', '=']).any(|part| part == text)
}

fn header_value(token: &Token) -> HeaderValue {
    // Tokens are made of characters that a header may hold.
    HeaderValue::from_str(&token.spelling()).unwrap_or(HeaderValue::from_static(""))
}

/// An answer with a body.
fn with_body(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

fn json(status: StatusCode, value: &serde_json::Value) -> Response {
    with_body(status, "application/json", value.to_string())
}
