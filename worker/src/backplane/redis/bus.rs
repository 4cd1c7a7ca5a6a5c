//! What workers say to each other through Redis. Pub/sub is at most once, so every message goes out behind a number.

use serde::{Deserialize, Serialize};

use crate::heartbeat;
use crate::publication::{self, Reason, Rejection};
use crate::redis::Payload;
use crate::token::Token;

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

    /// Whether a host of this service may have published it. Anybody may who can write to Redis.
    fn check(&self, max_text: usize, now_ms: u64) -> Result<(), Reason> {
        let is_plausible = match self {
            Message::Room { room, text } => {
                return publication::check(room, text, max_text).map_err(|e| Rejection::from(e).reason);
            }
            Message::Broadcast { from: _, text } if text.len() > max_text => return Err(Reason::TooLarge),
            Message::Broadcast { .. } => true,
            Message::Disconnect { from: _, session } => session.parse::<Token>().is_ok(),
            Message::Beat(at) => *at <= now_ms.saturating_add(heartbeat::AHEAD_MS),
            // It is shown on operators' terminals.
            Message::Lease(holder) => holder.len() <= MAX_HOLDER_BYTES && !holder.contains(char::is_control),
        };
        if is_plausible { Ok(()) } else { Err(Reason::Malformed) }
    }
}

/// The longest name of a holder of the lease: a host's has 64 bytes at most.
const MAX_HOLDER_BYTES: usize = 256;

/// More than this cannot have been missed: the numbers are those of another series.
const MAX_GAP: u64 = 1 << 32;

/// Bytes of the largest payload that can hold a text of so many: JSON makes six of one at worst.
pub(super) fn max_payload(max_text: usize) -> usize {
    const ENVELOPE_BYTES: usize = 256;
    6 * (max_text + publication::MAX_ROOM_BYTES) + ENVELOPE_BYTES
}

/// A payload as it was understood.
#[derive(Debug, PartialEq)]
pub(super) struct Heard {
    /// Its place in the series of all publications; none: it is no message of any version.
    pub(super) number: Option<u64>,
    /// None: another version may publish what this one does not know.
    pub(super) message: Result<Option<Message>, Rejection>,
}

/// Reads a payload, and believes no more of it than a host of this service would have published.
pub(super) fn decode(payload: &Payload, max_text: usize, now_ms: u64) -> Heard {
    let bytes = payload.len();
    let head = payload.beginning();
    let space = head.iter().take(MAX_DIGITS + 1).position(|byte| *byte == b' ');
    let number = space.and_then(|space| {
        // Redis counts in 64 bits with a sign.
        std::str::from_utf8(&head[..space]).ok()?.parse().ok().filter(|number| *number <= i64::MAX as u64)
    });
    let reject = |reason| Err(Rejection { reason, bytes });
    let message = match (payload, number, space) {
        (Payload::Cut { .. }, _, _) => reject(Reason::TooLarge),
        (Payload::Whole(_), Some(_), Some(space)) => match serde_json::from_slice::<Message>(&head[space + 1..]) {
            Ok(message) => match message.check(max_text, now_ms) {
                Ok(()) => Ok(Some(message)),
                Err(reason) => reject(reason),
            },
            Err(error) if error.is_data() => Ok(None),
            Err(_) => reject(Reason::Malformed),
        },
        (Payload::Whole(_), _, _) => reject(Reason::Malformed),
    };
    Heard { number, message }
}

/// Digits of the largest number.
const MAX_DIGITS: usize = 19;

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
        let missed = self.0.replace(now).map_or(0, |last| number.saturating_sub(last));
        if missed > MAX_GAP { 0 } else { missed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
            Message::Room { room: "a b".into(), text: "{\"ü\"}\n".into() },
            Message::Broadcast { from: u64::MAX, text: "12345678".into() },
            Message::Disconnect { from: 1, session: "abc".into() },
            Message::Beat(1_767_268_800_000),
            Message::Lease("me".into()),
        ] {
            assert_eq!(
                heard(&format!("41 {}", message.encode())),
                Heard { number: Some(41), message: Ok(Some(message)) }
            );
        }
        assert_eq!(heard("3 {\"later\":1}"), Heard { number: Some(3), message: Ok(None) });
        assert_eq!(heard("3 {\"beat\":\"later\"}"), Heard { number: Some(3), message: Ok(None) });
    }

    const NOW: u64 = 1_767_268_800_000;
    const MAX_TEXT: usize = 8;

    fn heard(payload: &str) -> Heard {
        decode(&Payload::Whole(payload.as_bytes().to_vec()), MAX_TEXT, NOW)
    }

    #[test]
    fn what_no_host_publishes_is_rejected() {
        use Reason::{Malformed, TooLarge};
        let encoded = |message: Message| format!("7 {}", message.encode());
        let room = |room: String, text: &str| encoded(Message::Room { room, text: text.into() });
        let cases = [
            (String::new(), None, Malformed),
            ("x".into(), None, Malformed),
            ("x {\"beat\":1}".into(), None, Malformed),
            ("-1 {\"beat\":1}".into(), None, Malformed),
            (" {\"beat\":1}".into(), None, Malformed),
            ("9223372036854775808 {\"beat\":1}".into(), None, Malformed),
            ("18446744073709551616 {\"beat\":1}".into(), None, Malformed),
            ("7 {\"beat\":".into(), Some(7), Malformed),
            (room("r".repeat(1024 * 1024), "x"), Some(7), Malformed),
            (room("r".into(), "123456789"), Some(7), TooLarge),
            (encoded(Message::Broadcast { from: 1, text: "123456789".into() }), Some(7), TooLarge),
            (encoded(Message::Disconnect { from: 1, session: "a/b".into() }), Some(7), Malformed),
            (encoded(Message::Beat(NOW + 60_000)), Some(7), Malformed),
            (encoded(Message::Beat(u64::MAX)), Some(7), Malformed),
            (encoded(Message::Lease("me \u{1b}[2J".into())), Some(7), Malformed),
            (encoded(Message::Lease("m".repeat(257))), Some(7), Malformed),
        ];
        for (payload, number, reason) in cases {
            let expected = Heard { number, message: Err(Rejection { reason, bytes: payload.len() }) };
            assert_eq!(heard(&payload), expected, "{payload:.100}");
        }
        assert_eq!(heard("9223372036854775807 {\"beat\":1}").number, Some(i64::MAX as u64));
        // Of what is too large the beginning is left, and with it the number.
        let cut = Payload::Cut { beginning: b"41 {\"room\":".to_vec(), bytes: 1 << 23 };
        let message = Err(Rejection { reason: TooLarge, bytes: 1 << 23 });
        assert_eq!(decode(&cut, MAX_TEXT, NOW), Heard { number: Some(41), message });
    }

    proptest! {
        #[test]
        fn a_payload_never_takes_more_than_its_bound(text in ".*", room in ".{0,256}") {
            let longest = text.len();
            let message = Message::Room { room, text };
            let payload = format!("{} {}", i64::MAX, message.encode());
            prop_assert!(payload.len() <= max_payload(longest), "{}", payload.len());
            let heard = decode(&Payload::Whole(payload.into_bytes()), longest, NOW);
            prop_assert_eq!(heard, Heard { number: Some(i64::MAX as u64), message: Ok(Some(message)) });
        }

        #[test]
        fn nothing_that_comes_is_too_odd(payload in prop::collection::vec(any::<u8>(), 0..100), digits in "[0-9 ]{0,30}") {
            let whole = [digits.as_bytes(), &payload].concat();
            decode(&Payload::Whole(whole.clone()), MAX_TEXT, NOW);
            decode(&Payload::Cut { beginning: whole, bytes: usize::MAX }, MAX_TEXT, NOW);
        }

        #[test]
        fn numbers_never_lead_to_an_implausible_gap(numbers in prop::collection::vec(any::<u64>(), 0..20)) {
            let mut series = Numbers::default();
            for number in numbers {
                prop_assert!(series.missed(number) <= MAX_GAP && series.missed_with(number) <= MAX_GAP);
            }
        }
    }
}
