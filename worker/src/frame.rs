//! Frames that the server sends: unmasked, unfragmented (RFC 6455 section 5).

use tungstenite::protocol::frame::coding::{Control, Data, OpCode};
use tungstenite::protocol::frame::{Frame, FrameHeader};

/// The longest reason of a close frame, in bytes: 125 of a control frame less the code.
const MAX_REASON: usize = 123;

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Text,
    Binary,
    Ping,
    Pong,
}

/// Appends one whole frame to `out`.
pub(crate) fn append(out: &mut Vec<u8>, kind: Kind, payload: &[u8]) {
    let opcode = match kind {
        Kind::Text => OpCode::Data(Data::Text),
        Kind::Binary => OpCode::Data(Data::Binary),
        Kind::Ping => OpCode::Control(Control::Ping),
        Kind::Pong => OpCode::Control(Control::Pong),
    };
    let header = FrameHeader { opcode, ..FrameHeader::default() };
    header.format(payload.len() as u64, out).expect("writing to memory succeeds");
    out.extend_from_slice(payload);
}

/// Appends a close frame; a reason that is too long is cut at a character. Without a code the frame is empty.
pub(crate) fn append_close(out: &mut Vec<u8>, code: Option<u16>, reason: &str) {
    let close = code.map(|code| tungstenite::protocol::CloseFrame {
        code: code.into(),
        reason: reason[..reason.floor_char_boundary(MAX_REASON)].into(),
    });
    Frame::close(close).format(out).expect("writing to memory succeeds");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_those_of_the_rfc() {
        let mut out = Vec::new();
        append(&mut out, Kind::Text, b"Hello");
        assert_eq!(out, b"\x81\x05Hello", "RFC 6455 section 5.7");
        out.clear();
        append(&mut out, Kind::Binary, &[7; 256]);
        assert_eq!(out[..4], [0x82, 0x7e, 0x01, 0x00], "RFC 6455 section 5.7");
        out.clear();
        append_close(&mut out, Some(1001), &"ä".repeat(100));
        assert_eq!((out[0], out[1], out.len()), (0x88, 124, 126), "cut to 61 characters of two bytes");
        assert!(std::str::from_utf8(&out[4..]).is_ok());
        out.clear();
        append_close(&mut out, None, "");
        assert_eq!(out, [0x88, 0]);
    }
}
