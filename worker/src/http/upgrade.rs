//! `GET /ws/chat/`: from an HTTP request to a WebSocket (RFC 6455 section 4.2).

use std::time::Duration;

use hyper::body::{Body, Incoming};
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Request, StatusCode};

use super::error::error;
use super::progress::Progress;
use super::{Response, handshake, header_value};
use crate::accept::Handshake;
use crate::addresses::{Counted, Exceeded};
use crate::app::App;
use crate::hub;
use crate::metrics::Refused;
use crate::proxies::Client;
use crate::socket::IntoSocket;
use crate::token::Token;
use crate::worker::Shared;

const SESSION: HeaderName = HeaderName::from_static("x-session-uuid");

/// What stands for the session in logs, so that a proxy can log it too.
const SESSION_HASH: HeaderName = HeaderName::from_static("x-session-hash");

/// Why a client gets no WebSocket.
struct Refusal {
    status: StatusCode,
    name: &'static str,
    detail: String,
    reason: Refused,
    /// The least time after which to come back.
    wait: Duration,
}

/// What the hub needs to know of a WebSocket whose 101 is on its way.
pub(super) struct Accepted {
    token: Token,
    request_id: Token,
    client: Client,
    /// It is counted for the client's address, where there is one.
    counted: Option<Counted>,
    /// The client named its session.
    resumed: bool,
}

/// Answers 101 and notes that the connection is a WebSocket then, or tells why not.
pub(super) fn upgrade<A: App>(
    handshake: &Handshake<A>,
    progress: &Progress,
    request: &Request<Incoming>,
    request_id: &Token,
    client: Client,
) -> Response {
    let shared = &handshake.shared;
    let examined = examine(shared, request).and_then(|(response, token)| {
        let counted = count(handshake, client, token.as_ref())?;
        Ok((response, token, counted))
    });
    let (mut response, token, counted) = match examined {
        Ok(accepted) => accepted,
        Err(refusal) => return refuse(shared, refusal),
    };
    let resumed = token.is_some();
    let token = token.unwrap_or_else(Token::random);
    response.headers_mut().insert(SESSION, header_value(&token));
    let hash = HeaderValue::from_str(&token.fingerprint().to_string());
    response.headers_mut().insert(SESSION_HASH, hash.unwrap_or(HeaderValue::from_static("")));
    progress.accepted.set(Some(Accepted { token, request_id: request_id.clone(), client, counted, resumed }));
    response
}

/// Gives a WebSocket to the hub. Its 101 is out, and `early` is what came behind the request.
pub(super) fn adopt<A: App>(shared: &Shared<A>, accepted: Accepted, socket: impl IntoSocket, early: Vec<u8>) {
    let Accepted { token, request_id, client, counted, resumed } = accepted;
    let adopted = socket.into_socket().and_then(|socket| {
        let mut hub = shared.hub.borrow_mut();
        hub.adopt(hub::Upgraded { socket, token, request_id, client, counted, resumed, early })
    });
    if let Err(error) = adopted {
        tracing::warn!(%error, "a WebSocket was lost right after its handshake");
    }
}

/// Counts the connection of a client, and its session if it begins one, as far as its address may have them. Whether a
/// session that is named is new can only be known here if the store is on this host; the hub finds out about others.
fn count<A: App>(handshake: &Handshake<A>, client: Client, token: Option<&Token>) -> Result<Option<Counted>, Refusal> {
    let hub = handshake.shared.hub.borrow();
    let Some(address) = client.address() else { return Ok(None) };
    let limits = &hub.settings.per_address;
    let (counted, from_the_start) = match handshake.counted.take() {
        Some(counted) => (counted, true),
        None => (hub.addresses.count(address), false),
    };
    let begins = match token {
        None => true,
        Some(token) => hub.backplane.knows(token) == Some(false),
    };
    let within = hub.addresses.check_connections(address, limits);
    let within = within.and_then(|()| if begins { hub.addresses.begin_session(address, limits) } else { Ok(()) });
    let Err(exceeded) = within else { return Ok(Some(counted)) };
    if from_the_start {
        // It is still a connection of its client's.
        handshake.counted.set(Some(counted));
    }
    Err(Refusal {
        status: StatusCode::TOO_MANY_REQUESTS,
        name: match exceeded {
            Exceeded::Connections { .. } => "too_many_connections",
            Exceeded::NewSessions { .. } => "too_many_new_sessions",
        },
        detail: exceeded.to_string(),
        reason: exceeded.reason(),
        wait: exceeded.wait(),
    })
}

/// The 101, and the session's token if the client named it, if all is as it must be.
fn examine<A: App>(shared: &Shared<A>, request: &Request<Incoming>) -> Result<(Response, Option<Token>), Refusal> {
    let refusal = |status, name, detail: &str, reason| Refusal {
        status,
        name,
        detail: detail.to_owned(),
        reason,
        wait: Duration::ZERO,
    };
    let token = session(request.uri().query())
        .map_err(|detail| refusal(StatusCode::BAD_REQUEST, "invalid_session_uuid", &detail, Refused::Session))?;
    let hub = shared.hub.borrow();
    let allowed = &hub.settings.allowed_origins;
    // A client that is no browser sends no Origin, and no page can make a browser leave it out.
    let mut sent = request.headers().get_all(header::ORIGIN).iter().map(HeaderValue::as_bytes);
    if !allowed.is_empty() && !sent.all(|sent| allowed.iter().any(|allowed| allowed.allows(sent))) {
        return Err(refusal(StatusCode::FORBIDDEN, "origin_not_allowed", "see --allowed-origins", Refused::Origin));
    }
    let has_body = !request.body().is_end_stream();
    let accept = handshake::accept(request.version(), request.headers(), has_body)
        .map_err(|fault| refusal(fault.status(), fault.name(), fault.detail(), Refused::Upgrade))?;
    if hub.draining {
        return Err(refusal(StatusCode::SERVICE_UNAVAILABLE, "draining", "try again", Refused::Draining));
    }
    if hub.connections.len() >= shared.max_connections() {
        let detail = "too many connections, try again later";
        return Err(refusal(StatusCode::SERVICE_UNAVAILABLE, "connection_limit", detail, Refused::Connections));
    }
    Ok((switching(accept), token))
}

/// 101, as RFC 6455 section 4.2.2 has it.
fn switching(accept: HeaderValue) -> Response {
    let mut response = Response::default();
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    response
}

fn refuse<A: App>(shared: &Shared<A>, refusal: Refusal) -> Response {
    let Refusal { status, name, detail, reason, wait } = refusal;
    shared.hub.borrow().metrics.refused(reason);
    let mut response = error(status, name, &detail);
    let headers = response.headers_mut();
    match status {
        // RFC 6455 section 4.4, RFC 9110 section 15.5.22.
        StatusCode::UPGRADE_REQUIRED => {
            headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        }
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => {
            // Spread, so that those who are refused together do not come back together.
            headers.insert(header::RETRY_AFTER, HeaderValue::from(wait.as_secs() + fastrand::u64(1..=5)));
        }
        _ => {}
    }
    response
}

/// The token of `?session_uuid=`; none if it is not given. It is taken as it stands: nothing that is allowed in it
/// needs percent-encoding.
fn session(query: Option<&str>) -> Result<Option<Token>, String> {
    let mut given = query.unwrap_or_default().split('&').filter_map(|pair| match pair.split_once('=') {
        Some(("session_uuid", value)) => Some(value),
        Some(_) => None,
        None => (pair == "session_uuid").then_some(""),
    });
    let Some(first) = given.next() else { return Ok(None) };
    if given.next().is_some() {
        return Err("session_uuid is given twice".to_owned());
    }
    Token::of_session(first).map(Some).map_err(|error| format!("session_uuid {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_session_is_what_the_query_says() {
        assert_eq!(session(None), Ok(None));
        assert_eq!(session(Some("a=b&c")), Ok(None));
        assert_eq!(session(Some("x=1&session_uuid=abc123")), Ok("abc123".parse().ok()));
        for bad in [
            "session_uuid=",
            "session_uuid",
            "session_uuid=a%20b",
            "session_uuid=a&session_uuid=a",
            "session_uuid=null",
        ] {
            assert!(session(Some(bad)).is_err(), "{bad}");
        }
    }
}
