//! The HTTP upgrade (RFC 6455 section 4), both ends, as little of it as works.

use std::net::SocketAddr;

/// The client's key; a constant, so that the answer is one too.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
/// What a server must answer to [`KEY`]; both are the example of RFC 6455 section 1.3.
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// Where the blank line after a head ends; none if the head is not complete.
pub fn head_end(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4)
}

/// The request of a client for `/ws/chat/`.
pub fn request(host: SocketAddr) -> String {
    format!(
        "GET /ws/chat/ HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
}

/// Whether `head` grants [`request`].
pub fn granted(head: &[u8]) -> bool {
    head.starts_with(b"HTTP/1.1 101 ") && head.windows(ACCEPT.len()).any(|window| window == ACCEPT.as_bytes())
}

/// The floor's answer to the request `head`; none without a key.
pub fn response(head: &[u8]) -> Option<String> {
    let key = std::str::from_utf8(head).ok()?.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("sec-websocket-key").then_some(value.trim())
    })?;
    let accept = tungstenite::handshake::derive_accept_key(key.as_bytes());
    Some(format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_agree() {
        let request = request("127.0.0.1:80".parse().unwrap());
        assert_eq!(head_end(request.as_bytes()), Some(request.len()));
        let response = response(request.as_bytes()).unwrap();
        assert!(granted(response.as_bytes()));
        assert!(!granted(b"HTTP/1.1 503 Service Unavailable\r\n\r\n"));
    }
}
