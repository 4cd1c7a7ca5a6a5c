//! The receiving half of one WebSocket connection, sans I/O: bytes in, messages out (RFC 6455 section 5).
//!
//! Whole frames are unmasked and handed on where they lie, in the buffer they were read into. Only what is incomplete
//! at the end of a read is copied, so that a connection at rest owns nothing.

use serde::{Deserialize, Serialize};

use crate::growth;

/// The longest frame header: two bytes, eight of length, four of mask.
const MAX_HEADER: usize = 14;
/// The longest payload of a control frame (RFC 6455 section 5.5).
const MAX_CONTROL: u8 = 125;

/// What arrived.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Incoming<'a> {
    Text(&'a str),
    Binary(&'a [u8]),
    Ping(&'a [u8]),
    Pong,
    /// A frame is complete that is not the last of its message: nothing to act on, but to be counted.
    Fragment,
    /// The peer's close, with its code if it gave one.
    Close(Option<u16>),
}

/// Whether to go on with what was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    Continue,
    Stop,
}

/// Why a connection must fail (RFC 6455 section 7.1.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Violation {
    #[error("{0}")]
    Protocol(&'static str),
    #[error("the text is not valid UTF-8")]
    InvalidUtf8,
    #[error("the message is larger than {0} bytes")]
    TooBig(usize),
    #[error("the message has more than {0} fragments")]
    TooManyFragments(u32),
}

impl Violation {
    /// The close code (RFC 6455 section 7.4.1).
    pub(crate) fn code(self) -> u16 {
        match self {
            Violation::Protocol(_) => 1002,
            Violation::InvalidUtf8 => 1007,
            Violation::TooManyFragments(_) => 1008,
            Violation::TooBig(_) => 1009,
        }
    }
}

/// What one message may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) message_size: usize,
    pub(crate) fragments: u32,
}

/// What has arrived of the message, frame or header that is incomplete; nothing for a connection at rest.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Inbox(Option<Box<Partial>>);

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Partial {
    /// When its first byte was read, in milliseconds of `CLOCK_MONOTONIC`.
    since_ms: u64,
    /// Bytes of a header that is incomplete.
    header: Vec<u8>,
    /// The frame whose payload is incomplete.
    frame: Option<FrameLeft>,
    /// Payload so far of a control frame.
    control: Vec<u8>,
    /// The message so far, over all its frames.
    message: Option<Message>,
}

/// A frame after its header.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct FrameLeft {
    opcode: u8,
    last: bool,
    /// Turned so that its first byte goes with the next byte of payload.
    mask: [u8; 4],
    left: u64,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Message {
    text: bool,
    data: Vec<u8>,
    /// How much of a text is known to be UTF-8.
    checked: usize,
    fragments: u32,
}

impl Inbox {
    /// Takes `input`, which was read at `now_ms`, hands on each complete item, keeps what is incomplete. After `Stop` or an
    /// error nothing more may be fed.
    pub(crate) fn feed(
        &mut self,
        mut input: &mut [u8],
        now_ms: u64,
        bounds: Bounds,
        mut take: impl FnMut(Incoming<'_>) -> Flow,
    ) -> Result<Flow, Violation> {
        while !input.is_empty() {
            if self.0.is_none() {
                match whole_frame(input, bounds)? {
                    Some((frame, header, length)) => {
                        let (this, rest) = std::mem::take(&mut input).split_at_mut(header + length);
                        input = rest;
                        let payload = &mut this[header..];
                        unmask(payload, frame.mask);
                        if take(complete(frame.opcode, payload)?) == Flow::Stop {
                            return Ok(Flow::Stop);
                        }
                        continue;
                    }
                    None => self.0 = Some(Box::new(Partial { since_ms: now_ms, ..Partial::default() })),
                }
            }
            let Some(partial) = self.0.as_mut() else { continue };
            let (taken, flow) = partial.step(input, bounds, &mut take)?;
            input = &mut std::mem::take(&mut input)[taken..];
            if partial.is_idle() {
                self.0 = None;
            }
            if flow == Flow::Stop {
                return Ok(Flow::Stop);
            }
        }
        Ok(Flow::Continue)
    }

    /// Bytes that it holds.
    pub(crate) fn held(&self) -> usize {
        self.0.as_ref().map_or(0, |partial| {
            let message = partial.message.as_ref().map_or(0, |message| message.data.len());
            size_of::<Partial>() + partial.header.len() + partial.control.len() + message
        })
    }

    /// Since when it holds a message, frame or header that is incomplete, in milliseconds of `CLOCK_MONOTONIC`.
    pub(crate) fn since_ms(&self) -> Option<u64> {
        self.0.as_ref().map(|partial| partial.since_ms)
    }
}

impl Partial {
    fn is_idle(&self) -> bool {
        self.header.is_empty() && self.frame.is_none() && self.message.is_none()
    }

    /// Takes some of `input`: as much as completes the header, or the payload, that is incomplete.
    fn step(
        &mut self,
        input: &mut [u8],
        bounds: Bounds,
        take: &mut impl FnMut(Incoming<'_>) -> Flow,
    ) -> Result<(usize, Flow), Violation> {
        let Some(mut frame) = self.frame else {
            return Ok((self.take_header(input, bounds)?, self.end_empty_frame(take)?));
        };
        let length = frame.left.min(input.len() as u64) as usize;
        let payload = &mut input[..length];
        unmask(payload, frame.mask);
        frame.mask.rotate_left(length % 4);
        frame.left -= length as u64;
        self.frame = Some(frame);
        match &mut self.message {
            _ if is_control(frame.opcode) => growth::append(&mut self.control, payload),
            Some(message) => {
                growth::append(&mut message.data, payload);
                message.check(false)?;
            }
            None => return Err(Violation::Protocol("a payload without a message")),
        }
        let flow = if frame.left == 0 { self.end_frame(frame, take)? } else { Flow::Continue };
        Ok((length, flow))
    }

    /// Completes the header if it can; then the frame begins. Returns how much of `input` it took.
    fn take_header(&mut self, input: &[u8], bounds: Bounds) -> Result<usize, Violation> {
        let had = self.header.len();
        let mut bytes = [0; MAX_HEADER];
        bytes[..had].copy_from_slice(&self.header);
        let more = input.len().min(MAX_HEADER - had);
        bytes[had..had + more].copy_from_slice(&input[..more]);
        let Some((frame, length)) = parse(&bytes[..had + more])? else {
            self.header.extend_from_slice(&input[..more]);
            return Ok(more);
        };
        self.header.clear();
        if !is_control(frame.opcode) {
            self.begin_data(frame, bounds)?;
        }
        self.frame = Some(frame);
        Ok(length - had)
    }

    fn begin_data(&mut self, frame: FrameLeft, bounds: Bounds) -> Result<(), Violation> {
        let message = match (frame.opcode, &mut self.message) {
            (CONTINUATION, Some(message)) => message,
            (CONTINUATION, None) => return Err(Violation::Protocol("a continuation of nothing")),
            (_, Some(_)) => return Err(Violation::Protocol("a new message inside a fragmented one")),
            (opcode, none) => none.insert(Message { text: opcode == TEXT, data: Vec::new(), checked: 0, fragments: 0 }),
        };
        message.fragments += 1;
        if message.fragments > bounds.fragments {
            return Err(Violation::TooManyFragments(bounds.fragments));
        }
        if frame.left.saturating_add(message.data.len() as u64) > bounds.message_size as u64 {
            return Err(Violation::TooBig(bounds.message_size));
        }
        Ok(())
    }

    /// A frame without payload is complete with its header.
    fn end_empty_frame(&mut self, take: &mut impl FnMut(Incoming<'_>) -> Flow) -> Result<Flow, Violation> {
        match self.frame {
            Some(frame) if frame.left == 0 => self.end_frame(frame, take),
            Some(_) | None => Ok(Flow::Continue),
        }
    }

    fn end_frame(&mut self, frame: FrameLeft, take: &mut impl FnMut(Incoming<'_>) -> Flow) -> Result<Flow, Violation> {
        self.frame = None;
        if is_control(frame.opcode) {
            return Ok(take(complete(frame.opcode, &std::mem::take(&mut self.control))?));
        }
        if !frame.last {
            return Ok(take(Incoming::Fragment));
        }
        let Some(mut message) = self.message.take() else { return Ok(Flow::Continue) };
        message.check(true)?;
        let opcode = if message.text { TEXT } else { BINARY };
        Ok(take(complete(opcode, &message.data)?))
    }
}

impl Message {
    /// Fails at the first byte that cannot be text (RFC 6455 section 8.1), not only at the end of the message.
    fn check(&mut self, complete: bool) -> Result<(), Violation> {
        if !self.text {
            return Ok(());
        }
        match std::str::from_utf8(&self.data[self.checked..]) {
            Ok(_) => self.checked = self.data.len(),
            Err(error) if error.error_len().is_none() && !complete => self.checked += error.valid_up_to(),
            Err(_) => return Err(Violation::InvalidUtf8),
        }
        Ok(())
    }
}

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

fn is_control(opcode: u8) -> bool {
    opcode >= 8
}

/// A frame that lies whole in `input` and needs nothing before or after it: with its header's and payload's lengths.
#[inline]
fn whole_frame(input: &[u8], bounds: Bounds) -> Result<Option<(FrameLeft, usize, usize)>, Violation> {
    let Some((frame, header)) = parse(input)? else { return Ok(None) };
    if !is_control(frame.opcode) {
        if frame.opcode == CONTINUATION {
            return Err(Violation::Protocol("a continuation of nothing"));
        }
        if frame.left > bounds.message_size as u64 {
            return Err(Violation::TooBig(bounds.message_size));
        }
        if !frame.last {
            return Ok(None);
        }
    }
    let length = frame.left as usize;
    Ok((input.len() - header >= length).then_some((frame, header, length)))
}

/// The header at the beginning of `input` and its length; `None`: more bytes are needed (RFC 6455 section 5.2).
#[inline]
fn parse(input: &[u8]) -> Result<Option<(FrameLeft, usize)>, Violation> {
    let [first, second, rest @ ..] = input else { return Ok(None) };
    let (opcode, last) = (first & 0x0f, first & 0x80 != 0);
    if first & 0x70 != 0 {
        return Err(Violation::Protocol("a reserved bit is set"));
    }
    if !matches!(opcode, CONTINUATION | TEXT | BINARY | CLOSE | PING | PONG) {
        return Err(Violation::Protocol("a reserved opcode"));
    }
    if second & 0x80 == 0 {
        return Err(Violation::Protocol("a frame from a client must be masked"));
    }
    let short = second & 0x7f;
    if is_control(opcode) {
        if !last {
            return Err(Violation::Protocol("a fragmented control frame"));
        }
        if short > MAX_CONTROL {
            return Err(Violation::Protocol("a control frame of more than 125 bytes"));
        }
    }
    let (left, extended) = match short {
        0..126 => (u64::from(short), 0),
        126 => match rest.first_chunk() {
            Some(bytes) => (u64::from(u16::from_be_bytes(*bytes)), 2),
            None => return Ok(None),
        },
        127.. => match rest.first_chunk() {
            Some(bytes) => (u64::from_be_bytes(*bytes), 8),
            None => return Ok(None),
        },
    };
    if left > i64::MAX as u64 {
        return Err(Violation::Protocol("a length with its highest bit set"));
    }
    if (extended == 2 && left < 126) || (extended == 8 && left < 65_536) {
        return Err(Violation::Protocol("a length that is not in its shortest form"));
    }
    let Some(mask) = rest[extended..].first_chunk() else { return Ok(None) };
    Ok(Some((FrameLeft { opcode, last, mask: *mask, left }, 2 + extended + mask.len())))
}

/// One item, complete and unmasked.
#[inline]
fn complete(opcode: u8, payload: &[u8]) -> Result<Incoming<'_>, Violation> {
    Ok(match opcode {
        TEXT => Incoming::Text(text(payload)?),
        BINARY => Incoming::Binary(payload),
        PING => Incoming::Ping(payload),
        PONG => Incoming::Pong,
        CLOSE => Incoming::Close(close_code(payload)?),
        _ => return Err(Violation::Protocol("a reserved opcode")),
    })
}

/// Text must be UTF-8 (RFC 6455 section 8.1).
#[inline]
fn text(payload: &[u8]) -> Result<&str, Violation> {
    if payload.is_ascii() {
        // SAFETY: ASCII is UTF-8. The general check takes some 50 instructions more for the few bytes of most messages.
        #[allow(unsafe_code)]
        return Ok(unsafe { std::str::from_utf8_unchecked(payload) });
    }
    std::str::from_utf8(payload).map_err(|_| Violation::InvalidUtf8)
}

/// RFC 6455 section 5.5.1: nothing, or a code that may be sent and a reason in UTF-8.
fn close_code(payload: &[u8]) -> Result<Option<u16>, Violation> {
    let Some((code, reason)) = payload.split_first_chunk::<2>() else {
        return if payload.is_empty() { Ok(None) } else { Err(Violation::Protocol("a close frame of one byte")) };
    };
    let code = u16::from_be_bytes(*code);
    // RFC 6455 section 7.4 and the registry that it began, which has gone on to 1014.
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(Violation::Protocol("a close code that may not be sent"));
    }
    std::str::from_utf8(reason).map_err(|_| Violation::InvalidUtf8)?;
    Ok(Some(code))
}

/// RFC 6455 section 5.3, eight bytes at a time.
#[inline]
fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    let [a, b, c, d] = mask;
    let wide = [a, b, c, d, a, b, c, d];
    let (words, rest) = payload.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ u64::from_ne_bytes(wide)).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(&wide) {
        *byte ^= mask;
    }
}

#[cfg(test)]
#[path = "connection/tests.rs"]
mod tests;
