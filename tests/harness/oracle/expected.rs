//! What must come back for what was sent. The server answers in the order of the messages, so it is one known sequence.

use std::fmt::{self, Display};
use std::io::Write;

use fastrand::Rng;
use serde_json::Value;

use super::frame::{Frame, LONGEST_CONTROL, Opcode};

/// One answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// `{"count":n}`.
    Count(u64),
    /// A pong with the payload that belongs to this number.
    Pong(u64),
    /// `{"error":"invalid_json",…}`.
    InvalidJson,
    /// The answer to the close, with its code.
    Close(u16),
}

impl Expected {
    /// Whether this frame is it.
    pub(super) fn is(self, frame: Frame<'_>) -> bool {
        match (self, frame.opcode) {
            (Expected::Count(n), Opcode::Text) => is_count(n, frame.payload),
            (Expected::Pong(number), Opcode::Pong) => {
                let mut room = [0; LONGEST_CONTROL];
                frame.payload == ping_payload(number, &mut room)
            }
            (Expected::InvalidJson, Opcode::Text) => is_invalid_json(frame.payload),
            (Expected::Close(code), Opcode::Close) => frame.payload == code.to_be_bytes(),
            (_, Opcode::Text | Opcode::Pong | Opcode::Close) => false,
        }
    }

    /// How many bytes of the reply stream it takes: exactly, but for the text of an error.
    pub(super) fn size(self) -> usize {
        match self {
            Expected::Count(n) => 2 + r#"{"count":}"#.len() + n.checked_ilog10().unwrap_or(0) as usize + 1,
            Expected::Pong(number) => 2 + ping_payload(number, &mut [0; LONGEST_CONTROL]).len(),
            Expected::InvalidJson => 80,
            Expected::Close(_) => 4,
        }
    }

    /// Whether it answers a message, and so tells how long messages wait.
    pub(super) fn is_reply(self) -> bool {
        match self {
            Expected::Count(_) | Expected::InvalidJson => true,
            Expected::Pong(_) | Expected::Close(_) => false,
        }
    }
}

impl Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Expected::Count(n) => write!(f, "count {n}"),
            Expected::Pong(number) => {
                write!(f, "pong {:?}", String::from_utf8_lossy(ping_payload(*number, &mut [0; LONGEST_CONTROL])))
            }
            Expected::InvalidJson => write!(f, "invalid_json"),
            Expected::Close(code) => write!(f, "close {code}"),
        }
    }
}

/// The payload of the ping with this number: made anew for the pong, rather than kept for each that is under way.
pub(super) fn ping_payload(number: u64, room: &mut [u8; LONGEST_CONTROL]) -> &[u8] {
    let mut random = Rng::with_seed(number);
    let length = random.usize(..=LONGEST_CONTROL);
    random.fill(&mut room[..length]);
    &room[..length]
}

fn is_count(n: u64, payload: &[u8]) -> bool {
    let mut text = [0; 32];
    let mut rest = &mut text[..];
    write!(rest, r#"{{"count":{n}}}"#).expect("room for 20 digits");
    let unused = rest.len();
    payload == &text[..text.len() - unused]
}

fn is_invalid_json(payload: &[u8]) -> bool {
    let Ok(Value::Object(fields)) = serde_json::from_slice(payload) else { return false };
    let is_text = |name: &str| fields.get(name).and_then(Value::as_str).is_some_and(|text| !text.is_empty());
    fields.len() == 2 && fields["error"] == "invalid_json" && is_text("detail")
}
