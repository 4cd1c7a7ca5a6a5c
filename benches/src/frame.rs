//! The few frames of RFC 6455 (section 5.2) that a measurement needs. Not a WebSocket implementation: no fragments, and
//! a length over 65,535 is refused.

use std::io;

/// Opcode of a text message.
pub const TEXT: u8 = 0x1;
/// Opcode of a binary message.
pub const BINARY: u8 = 0x2;
/// Opcode of a close.
pub const CLOSE: u8 = 0x8;
/// Opcode of a ping.
pub const PING: u8 = 0x9;

/// The same key for every frame: the server cannot know, and masking costs it the same.
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// One unfragmented frame at the start of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Low four bits of the first byte.
    pub opcode: u8,
    /// The masking key, which only clients send.
    pub mask: Option<[u8; 4]>,
    /// Where the payload begins in the buffer.
    pub start: usize,
    /// Where it ends, and with it the frame.
    pub end: usize,
}

impl Frame {
    /// The frame that `buffer` begins with; none if it is not complete.
    ///
    /// # Errors
    /// `InvalidData` for a fragment, a reserved bit or a length that no measurement uses.
    #[inline]
    pub fn parse(buffer: &[u8]) -> io::Result<Option<Frame>> {
        let [first, second, ..] = *buffer else { return Ok(None) };
        if first & 0xf0 != 0x80 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a frame that begins with {first:#04x}")));
        }
        let (length, mut start) = match second & 0x7f {
            126 => {
                let Some(&[high, low]) = buffer.get(2..4).and_then(|bytes| bytes.first_chunk()) else {
                    return Ok(None);
                };
                (usize::from(u16::from_be_bytes([high, low])), 4)
            }
            127 => return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame of more than 65,535 bytes")),
            short => (usize::from(short), 2),
        };
        let mut mask = None;
        if second & 0x80 != 0 {
            let Some(key) = buffer.get(start..start + 4).and_then(|bytes| bytes.first_chunk()) else { return Ok(None) };
            mask = Some(*key);
            start += 4;
        }
        let end = start + length;
        Ok((buffer.len() >= end).then_some(Frame { opcode: first & 0x0f, mask, start, end }))
    }

    /// Takes the mask off the payload in place, if there is one.
    #[inline]
    pub fn unmask(&self, buffer: &mut [u8]) {
        if let Some(mask) = self.mask {
            for (byte, key) in buffer[self.start..self.end].iter_mut().zip(mask.iter().cycle()) {
                *byte ^= key;
            }
        }
    }
}

/// A client's frame: final, masked. `payload` is at most 125 bytes.
pub fn masked(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).ok().filter(|length| *length < 126).expect("a short payload");
    let mut frame = vec![0x80 | opcode, 0x80 | length];
    frame.extend_from_slice(&MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, key)| byte ^ key));
    frame
}

/// Appends a server's frame: final, bare. `payload` is at most 125 bytes.
pub fn push_bare(out: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    let length = u8::try_from(payload.len()).ok().filter(|length| *length < 126).expect("a short payload");
    out.extend_from_slice(&[0x80 | opcode, length]);
    out.extend_from_slice(payload);
}

/// Appends the text frame `{"count":n}`; by hand, since this is in the inner loop of the floor.
#[inline]
pub fn push_count(out: &mut Vec<u8>, count: u64) {
    let mut digits = [0u8; 20];
    let mut first = digits.len();
    let mut rest = count;
    loop {
        first -= 1;
        digits[first] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    let digits = &digits[first..];
    let length = COUNT_HEAD.len() + digits.len() + 1;
    out.extend_from_slice(&[0x80 | TEXT, length as u8]);
    out.extend_from_slice(COUNT_HEAD);
    out.extend_from_slice(digits);
    out.push(b'}');
}

const COUNT_HEAD: &[u8] = br#"{"count":"#;

/// The n of `{"count":n}`; none if the payload is anything else.
#[inline]
pub fn count_of(payload: &[u8]) -> Option<u64> {
    let digits = payload.strip_prefix(COUNT_HEAD)?.strip_suffix(b"}")?;
    if digits.is_empty() || digits.len() > 18 {
        return None;
    }
    digits.iter().try_fold(0, |count, digit| digit.is_ascii_digit().then(|| count * 10 + u64::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_writes_a_server_reads() {
        let mut bytes = masked(TEXT, b"hello");
        let whole = bytes.len();
        for cut in 0..whole {
            assert_eq!(Frame::parse(&bytes[..cut]).unwrap(), None, "cut at {cut}");
        }
        let frame = Frame::parse(&bytes).unwrap().unwrap();
        assert_eq!((frame.opcode, frame.end), (TEXT, whole));
        frame.unmask(&mut bytes);
        assert_eq!(&bytes[frame.start..frame.end], b"hello");
    }

    #[test]
    fn counts_go_there_and_back() {
        for count in [0, 1, 9, 10, 12_345, 999_999_999_999_999_999] {
            let mut bytes = Vec::new();
            push_count(&mut bytes, count);
            let frame = Frame::parse(&bytes).unwrap().unwrap();
            assert_eq!(count_of(&bytes[frame.start..frame.end]), Some(count));
        }
        for other in [&br#"{"count":}"#[..], br#"{"count":1"#, br#"{"count":-1}"#, br#"{"ts":1}"#, b""] {
            assert_eq!(count_of(other), None);
        }
    }

    #[test]
    fn what_no_measurement_uses_is_refused() {
        assert!(Frame::parse(&[0x01, 0x00]).is_err(), "a fragment");
        assert!(Frame::parse(&[0x81, 127]).is_err(), "a length of 64 bits");
    }
}
