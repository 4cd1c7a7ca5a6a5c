//! The opening handshake (RFC 6455, section 4.1), by hand: the request is cut anywhere.

use thiserror::Error;

/// The sample of RFC 6455, and what must be made of it.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// No answer has a longer head.
const LONGEST: usize = 4096;

/// An answer that does not grant what was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refused {
    /// Not 101, or without what must be in it.
    #[error("the handshake is answered with {0:?}")]
    Answer(String),
    /// Another session than the one that was named.
    #[error("the handshake is answered for session {0:?}")]
    Session(String),
    /// Before the request was complete.
    #[error("the handshake is answered before it is complete")]
    Early,
}

/// Appends the request of a session.
pub(super) fn push_request(out: &mut Vec<u8>, session: &str) {
    let head = format!(
        "GET /ws/chat/?session_uuid={session} HTTP/1.1\r\nHost: oracle\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    );
    out.extend_from_slice(head.as_bytes());
}

/// Where the first frame begins if `buffer` holds the whole answer; none if it is not complete.
pub(super) fn granted(buffer: &[u8], session: &str) -> Result<Option<usize>, Refused> {
    let answer = || Refused::Answer(String::from_utf8_lossy(buffer).into_owned());
    let Some(end) = buffer.windows(4).position(|bytes| bytes == b"\r\n\r\n") else {
        return if buffer.len() > LONGEST { Err(answer()) } else { Ok(None) };
    };
    let head = str::from_utf8(&buffer[..end]).map_err(|_| answer())?;
    let mut lines = head.split("\r\n");
    if !lines.next().is_some_and(|status| status.starts_with("HTTP/1.1 101 ")) {
        return Err(answer());
    }
    let (mut accept, mut named) = (None, None);
    for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
        if name.eq_ignore_ascii_case("sec-websocket-accept") {
            accept = Some(value);
        } else if name.eq_ignore_ascii_case("x-session-uuid") {
            named = Some(value);
        }
    }
    if accept != Some(ACCEPT) {
        return Err(answer());
    }
    match named {
        Some(named) if named == session => Ok(Some(end + 4)),
        named => Err(Refused::Session(named.unwrap_or_default().to_owned())),
    }
}
