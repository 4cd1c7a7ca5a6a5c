//! What workers say to each other through Redis. Pub/sub is at most once, so every message goes out behind a number.

use serde::{Deserialize, Serialize};

/// One message, as JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Message {
    /// For everyone in a room.
    Room {
        /// The room.
        room: String,
        /// The text.
        text: String,
    },
    /// For every connection.
    Broadcast {
        /// The generation whose workers have had it already.
        from: u64,
        /// The text.
        text: String,
    },
    /// Close every connection of this session.
    Disconnect {
        /// The generation whose workers have done it already.
        from: u64,
        /// The session's token.
        session: String,
    },
    /// The heartbeat of this time (milliseconds since 1970).
    Beat(u64),
    /// Who holds the lease; said every second.
    Lease(String),
}

impl Message {
    /// As it is published.
    pub(super) fn encode(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// From a payload: its number, and the message if it is one.
    pub(super) fn decode(payload: &[u8]) -> Option<(u64, Option<Message>)> {
        let text = std::str::from_utf8(payload).ok()?;
        let (number, text) = text.split_once(' ')?;
        // Another version may say what this one does not know.
        Some((number.parse().ok()?, serde_json::from_str(text).ok()))
    }
}

/// Tells from the numbers what was missed.
#[derive(Debug, Default)]
pub(super) struct Numbers(Option<u64>);

impl Numbers {
    /// This one has come: how many went missing before it.
    pub(super) fn missed(&mut self, number: u64) -> u64 {
        self.missed_up_to(number.saturating_sub(1), number)
    }

    /// This was the last one: how many went missing.
    pub(super) fn missed_with(&mut self, last: u64) -> u64 {
        self.missed_up_to(last, last)
    }

    fn missed_up_to(&mut self, number: u64, now: u64) -> u64 {
        // A Redis that has lost its memory begins anew.
        self.0.replace(now).map_or(0, |last| number.saturating_sub(last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_missed_is_told_by_the_numbers() {
        let mut numbers = Numbers::default();
        assert_eq!([7, 8, 12, 1, 2].map(|number| numbers.missed(number)), [0, 0, 3, 0, 0]);
        assert_eq!([2, 2, 5, 5].map(|number| numbers.missed_with(number)), [0, 0, 3, 0]);
        assert_eq!((numbers.missed(6), numbers.missed_with(0), numbers.missed(1)), (0, 0, 0));
    }

    #[test]
    fn messages_come_back_as_they_went() {
        for message in [
            Message::Room { room: "a b".into(), text: "{\"x\": \"ü\"}\n".into() },
            Message::Broadcast { from: u64::MAX, text: String::new() },
            Message::Disconnect { from: 1, session: "abc".into() },
            Message::Beat(1_767_268_800_000),
            Message::Lease("me".into()),
        ] {
            let payload = format!("41 {}", message.encode());
            assert_eq!(Message::decode(payload.as_bytes()), Some((41, Some(message))));
        }
        assert_eq!(Message::decode(b"3 {\"later\":1}"), Some((3, None)));
        for garbage in [&b""[..], b"x", b"x {}", b"\xff 1"] {
            assert_eq!(Message::decode(garbage), None);
        }
    }
}
