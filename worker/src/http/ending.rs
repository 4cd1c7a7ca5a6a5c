//! Ends HTTP connections that hyper is done with: with an answer to a head that no route can have, with time for the client
//! to read its last answer, or at once.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Poll, ready};
use std::time::{Duration, SystemTime};

use http_body_util::BodyExt;
use hyper::StatusCode;
use hyper::header;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::timeout;

use super::error::error;
use super::{Response, stamp};
use crate::app::App;
use crate::proxies::Peer;
use crate::socket::IntoSocket;
use crate::token::Token;
use crate::worker::Shared;

/// Bytes that are read from a client after its last answer, and thrown away. Whoever sends more is reset.
const DISCARDED_MAX: usize = 256 * 1024;

/// Why a head is refused before there is a request.
#[derive(Debug)]
pub(super) enum Refusal {
    /// It is larger than `max-header-size`, or has more fields than there may be.
    TooLarge { bytes: usize, fields: usize },
    /// It is not HTTP/1.1, as hyper puts it.
    Malformed(String),
    /// It was not complete in time.
    Late(Duration),
}

impl Refusal {
    fn response(&self) -> Response {
        match self {
            Refusal::TooLarge { bytes, fields } => {
                let detail = format!("the head of a request may have {bytes} bytes and {fields} fields");
                error(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "head_too_large", &detail)
            }
            Refusal::Malformed(reason) => error(StatusCode::BAD_REQUEST, "bad_request", reason),
            Refusal::Late(within) => {
                let detail = format!("the head of the request was not complete within {} s", within.as_secs_f64());
                error(StatusCode::REQUEST_TIMEOUT, "timeout", &detail)
            }
        }
    }
}

/// Answers a head that was refused, and ends the connection.
pub(super) async fn refuse<A: App>(shared: &Shared<A>, peer: Peer, mut socket: impl IntoSocket, refusal: &Refusal) {
    let request_id = Token::random();
    let response = stamp(shared, &request_id, refusal.response());
    tracing::debug!(status = response.status().as_u16(), request_id = request_id.spelling(), client = %peer, ?refusal, "request refused");
    let (patience, lingering) = {
        let limits = &shared.hub.borrow().settings.limits;
        (limits.write_timeout, limits.close_timeout)
    };
    let bytes = encode(response).await;
    if let Ok(Ok(())) = timeout(patience, write_all(&mut socket, &bytes)).await {
        linger(socket, lingering).await;
    }
}

/// Sends the end of the stream, and reads on until the client has ended its own: closing with bytes unread would be a reset
/// that overtakes the answer (RFC 9112 section 9.6).
pub(super) async fn linger(mut socket: impl IntoSocket, within: Duration) {
    let end = async {
        poll_fn(|context| Pin::new(&mut socket).poll_shutdown(context)).await?;
        let mut discarded = 0;
        while discarded < DISCARDED_MAX {
            match discard(&mut socket).await? {
                0 => break,
                n => discarded += n,
            }
        }
        io::Result::Ok(())
    };
    // A client that stays longer, or is gone, is not waited for.
    let _ = timeout(within, end).await;
}

/// Closes a connection, and has the kernel forget what the client has not taken.
pub(super) fn reset(socket: impl IntoSocket) {
    let reset = socket.into_socket().and_then(|socket| SockRef::from(&socket).set_linger(Some(Duration::ZERO)));
    if let Err(error) = reset {
        tracing::debug!(%error, "an HTTP connection could not be reset");
    }
}

/// The bytes of an answer behind which the connection ends.
async fn encode(response: Response) -> Vec<u8> {
    let (head, body) = response.into_parts();
    let body = match body.collect().await {
        Ok(body) => body.to_bytes(),
        Err(never) => match never {},
    };
    let reason = head.status.canonical_reason().unwrap_or_default();
    let mut bytes = format!("HTTP/1.1 {} {reason}\r\n", head.status.as_u16()).into_bytes();
    let (length, date) = (body.len().to_string(), httpdate::fmt_http_date(SystemTime::now()));
    let own = [(header::CONTENT_LENGTH, length), (header::CONNECTION, "close".to_owned()), (header::DATE, date)];
    let own = own.iter().map(|(name, value)| (name, value.as_bytes()));
    for (name, value) in head.headers.iter().map(|(name, value)| (name, value.as_bytes())).chain(own) {
        for part in [name.as_str().as_bytes(), b": ", value, b"\r\n"] {
            bytes.extend_from_slice(part);
        }
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(&body);
    bytes
}

async fn write_all(socket: &mut (impl AsyncWrite + Unpin), mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let n = poll_fn(|context| Pin::new(&mut *socket).poll_write(context, bytes)).await?;
        if n == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        bytes = &bytes[n..];
    }
    Ok(())
}

/// Reads some bytes, and returns how many.
async fn discard(socket: &mut (impl AsyncRead + Unpin)) -> io::Result<usize> {
    poll_fn(|context| {
        let mut bytes = [0; 4096];
        let mut read = ReadBuf::new(&mut bytes);
        ready!(Pin::new(&mut *socket).poll_read(context, &mut read))?;
        Poll::Ready(Ok(read.filled().len()))
    })
    .await
}
