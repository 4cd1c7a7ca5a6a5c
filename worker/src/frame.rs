//! Frames that the server sends: unmasked, unfragmented (RFC 6455 section 5).

use tungstenite::protocol::frame::Frame;

/// The longest reason of a close frame, in bytes: 125 of a control frame less the code.
const MAX_REASON: usize = 123;

/// The bit of a message's last, here only, frame.
const FINAL: u8 = 0x80;

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Text,
    Binary,
    Ping,
    Pong,
}

impl Kind {
    fn opcode(self) -> u8 {
        match self {
            Kind::Text => 1,
            Kind::Binary => 2,
            Kind::Ping => 9,
            Kind::Pong => 10,
        }
    }
}

/// Appends one whole frame to `out`.
pub(crate) fn append(out: &mut Vec<u8>, kind: Kind, payload: &[u8]) {
    append_parts(out, kind, [payload]);
}

/// Appends one whole frame whose payload lies in parts.
#[inline]
pub(crate) fn append_parts<const N: usize>(out: &mut Vec<u8>, kind: Kind, payload: [&[u8]; N]) {
    append_header(out, kind, payload.iter().map(|part| part.len()).sum());
    for part in payload {
        out.extend_from_slice(part);
    }
}

/// Appends a frame whose payload `write` writes where it belongs, without a copy for one that is short.
pub(crate) fn append_with(out: &mut Vec<u8>, kind: Kind, write: impl FnOnce(&mut Vec<u8>)) {
    let begin = out.len();
    out.extend_from_slice(&[FINAL | kind.opcode(), 0]);
    write(out);
    let length = out.len() - begin - 2;
    match u8::try_from(length) {
        Ok(short @ 0..126) => out[begin + 1] = short,
        Ok(_) | Err(_) => {
            let payload = out.split_off(begin + 2);
            out.truncate(begin);
            append_header(out, kind, length);
            out.extend_from_slice(&payload);
        }
    }
}

/// RFC 6455 section 5.2: the length in 7 bits, or 126 and 16, or 127 and 64; no mask.
#[inline]
fn append_header(out: &mut Vec<u8>, kind: Kind, length: usize) {
    let first = FINAL | kind.opcode();
    match length {
        0..126 => out.extend_from_slice(&[first, length as u8]),
        126..65_536 => {
            out.extend_from_slice(&[first, 126]);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        _ => {
            out.extend_from_slice(&[first, 127]);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
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
    use tungstenite::protocol::frame::coding::{Data, OpCode};

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

    #[test]
    fn lengths_are_those_that_tungstenite_writes() {
        for length in [0, 1, 125, 126, 127, 128, 255, 256, 65_535, 65_536, 70_000] {
            let payload = vec![b'x'; length];
            let (mut theirs, mut ours, mut written) = (Vec::new(), b"before".to_vec(), b"before".to_vec());
            let opcode = OpCode::Data(Data::Text);
            Frame::message(payload.clone(), opcode, true).format(&mut theirs).unwrap();
            append(&mut ours, Kind::Text, &payload);
            append_with(&mut written, Kind::Text, |out| out.extend_from_slice(&payload));
            assert_eq!((&ours[6..], &written[6..]), (&theirs[..], &theirs[..]), "{length}");
            let mut joined = Vec::new();
            let (begin, end) = payload.split_at(length / 3);
            append_parts(&mut joined, Kind::Text, [begin, b"", end]);
            assert_eq!(joined, theirs, "{length} in parts");
        }
    }
}
