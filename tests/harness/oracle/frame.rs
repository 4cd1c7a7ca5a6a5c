//! Frames (RFC 6455, section 5.2): those of the crowd, and a strict reader of those of the server.

use thiserror::Error;

/// First byte of a whole text message.
pub(super) const TEXT: u8 = 0x81;
/// First byte of the first fragment of a text message.
pub(super) const BEGIN_TEXT: u8 = 0x01;
/// First byte of a fragment that is neither the first nor the last.
pub(super) const CONTINUE: u8 = 0x00;
/// First byte of the last fragment.
pub(super) const CONTINUE_LAST: u8 = 0x80;
/// First byte of a close.
pub(super) const CLOSE: u8 = 0x88;
/// First byte of a ping.
pub(super) const PING: u8 = 0x89;
/// First byte of a pong.
const PONG: u8 = 0x8a;

/// No reply to the crowd is longer; without a bound a wrong length would be waited for.
const LONGEST: usize = 4096;
/// The longest payload of a control frame.
pub(super) const LONGEST_CONTROL: usize = 125;

/// What the server may send to the crowd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opcode {
    Text,
    Close,
    Pong,
}

/// One frame of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame<'a> {
    pub(super) opcode: Opcode,
    pub(super) payload: &'a [u8],
}

/// Bytes that are no frame the crowd should be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Malformed {
    /// A fragment, a reserved bit, or an opcode that the server has no reason to use.
    #[error("a frame that begins with {0:#04x}")]
    First(u8),
    /// Servers do not mask.
    #[error("a masked frame")]
    Masked,
    /// A long form of the length for a short length.
    #[error("a length of {0} in a longer form than needed")]
    LongForm(u64),
    /// Longer than anything that was asked for.
    #[error("a frame of {0} bytes")]
    TooLong(u64),
}

/// The frame that `buffer` begins with and its whole length; none if it is not complete. What is wrong is told with the
/// first byte that shows it.
pub(super) fn parse(buffer: &[u8]) -> Result<Option<(Frame<'_>, usize)>, Malformed> {
    let Some(&first) = buffer.first() else { return Ok(None) };
    let opcode = match first {
        TEXT => Opcode::Text,
        CLOSE => Opcode::Close,
        PONG => Opcode::Pong,
        other => return Err(Malformed::First(other)),
    };
    let Some(&second) = buffer.get(1) else { return Ok(None) };
    let (length, start) = match second {
        0x80.. => return Err(Malformed::Masked),
        127 => {
            let Some(bytes) = buffer.get(2..).and_then(|rest| rest.first_chunk()) else { return Ok(None) };
            (u64::from_be_bytes(*bytes), 10)
        }
        126 => {
            let Some(bytes) = buffer.get(2..).and_then(|rest| rest.first_chunk()) else { return Ok(None) };
            (u64::from(u16::from_be_bytes(*bytes)), 4)
        }
        short => (u64::from(short), 2),
    };
    if (start == 4 && length < 126) || (start == 10 && length < 65536) {
        return Err(Malformed::LongForm(length));
    }
    let longest = match opcode {
        Opcode::Text => LONGEST,
        Opcode::Close | Opcode::Pong => LONGEST_CONTROL,
    };
    if length > longest as u64 {
        return Err(Malformed::TooLong(length));
    }
    let end = start + length as usize;
    Ok(buffer.get(start..end).map(|payload| (Frame { opcode, payload }, end)))
}
