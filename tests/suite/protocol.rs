//! What a client sees (docs/API.md).

mod closing;
mod counting;
mod framing;
mod handshake;
mod heartbeat;
mod origins;
mod upgrade;

/// First byte of a frame: the last of its message, and its opcode (RFC 6455 section 5.2).
const TEXT: u8 = 0x81;
const BINARY: u8 = 0x82;
const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;
const PONG: u8 = 0x8a;
/// The same, not the last.
const BEGIN_TEXT: u8 = 0x01;
const CONTINUE: u8 = 0x00;
const CONTINUE_LAST: u8 = 0x80;

/// The frame that answers the `n`-th message.
fn count(n: u64) -> Option<(u8, Vec<u8>)> {
    Some((TEXT, format!(r#"{{"count":{n}}}"#).into_bytes()))
}
