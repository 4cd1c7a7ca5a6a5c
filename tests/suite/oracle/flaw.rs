//! What a server may do wrong, and what the oracle should say of it.

use std::io::ErrorKind;

use crate::harness::oracle::{Character, Expected, Irregular, Malformed, Refused, What};

/// The count, the pong and the heartbeat that are wrong, counted from 1.
pub(super) const WRONG: u64 = 5;

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flaw {
    None,
    Refusal,
    OtherSession,
    EarlyAnswer,
    WrongCount,
    DoubledCount,
    LostReply,
    UnaskedText,
    CountForBadJson,
    SwappedPongs,
    OtherPong,
    Silence,
    Fragment,
    ReservedBit,
    Mask,
    LongForm,
    HeartbeatTwice,
    HeartbeatLeftOut,
    HeartbeatOffBeat,
    HeartbeatEarly,
    HeartbeatBackward,
    HeartbeatsCease,
    Reset,
    Eof,
    HalfFrame,
    Close1001,
    OtherCloseCode,
    TextBehindClose,
    NoEnd,
}

impl Flaw {
    pub(super) const ALL: &[Flaw] = &[
        Flaw::None,
        Flaw::Refusal,
        Flaw::OtherSession,
        Flaw::EarlyAnswer,
        Flaw::WrongCount,
        Flaw::DoubledCount,
        Flaw::LostReply,
        Flaw::UnaskedText,
        Flaw::CountForBadJson,
        Flaw::SwappedPongs,
        Flaw::OtherPong,
        Flaw::Silence,
        Flaw::Fragment,
        Flaw::ReservedBit,
        Flaw::Mask,
        Flaw::LongForm,
        Flaw::HeartbeatTwice,
        Flaw::HeartbeatLeftOut,
        Flaw::HeartbeatOffBeat,
        Flaw::HeartbeatEarly,
        Flaw::HeartbeatBackward,
        Flaw::HeartbeatsCease,
        Flaw::Reset,
        Flaw::Eof,
        Flaw::HalfFrame,
        Flaw::Close1001,
        Flaw::OtherCloseCode,
        Flaw::TextBehindClose,
        Flaw::NoEnd,
    ];

    /// Who notices.
    pub(super) fn cast(self) -> &'static [Character] {
        match self {
            Flaw::EarlyAnswer => &[Character::Newcomer],
            Flaw::CountForBadJson => &[Character::Malformer],
            Flaw::SwappedPongs | Flaw::OtherPong => &[Character::Pinger],
            _ => &[Character::Talker],
        }
    }

    /// Whether it shows only when the client leaves.
    pub(super) fn is_at_the_end(self) -> bool {
        matches!(self, Flaw::None | Flaw::OtherCloseCode | Flaw::TextBehindClose | Flaw::NoEnd)
    }

    /// Whether this is what the oracle should say of it.
    pub(super) fn is(self, what: &What) -> bool {
        match self {
            Flaw::None => false,
            Flaw::Refusal => matches!(what, What::Refused(Refused::Answer(answer)) if answer.contains("503")),
            Flaw::OtherSession => matches!(what, What::Refused(Refused::Session(named)) if named == "another"),
            Flaw::EarlyAnswer => *what == What::Refused(Refused::Early),
            Flaw::WrongCount | Flaw::LostReply => is_instead_of(what, Expected::Count(WRONG)),
            // Perhaps the next message was under way already.
            Flaw::DoubledCount => {
                is_surprise(what, r#""count\":5}"#) || is_instead_of(what, Expected::Count(WRONG + 1))
            }
            Flaw::UnaskedText => is_surprise(what, "bye"),
            Flaw::CountForBadJson => is_instead_of(what, Expected::InvalidJson),
            Flaw::SwappedPongs | Flaw::OtherPong => {
                matches!(what, What::Wrong { expected: Expected::Pong(_), .. })
            }
            Flaw::Silence => *what == What::Stalled(Expected::Count(WRONG).to_string()),
            Flaw::Fragment => *what == What::Malformed(Malformed::First(0x01)),
            Flaw::ReservedBit => *what == What::Malformed(Malformed::First(0xc1)),
            Flaw::Mask => *what == What::Malformed(Malformed::Masked),
            Flaw::LongForm => matches!(what, What::Malformed(Malformed::LongForm(_))),
            Flaw::HeartbeatTwice => matches!(what, What::Heartbeat(Irregular::Twice(_))),
            Flaw::HeartbeatLeftOut => matches!(what, What::Heartbeat(Irregular::LeftOut(_, _))),
            Flaw::HeartbeatOffBeat => matches!(what, What::Heartbeat(Irregular::OffBeat(_))),
            Flaw::HeartbeatEarly => matches!(what, What::Heartbeat(Irregular::Early(_, _))),
            Flaw::HeartbeatBackward => matches!(what, What::Heartbeat(Irregular::Backward(_, _))),
            Flaw::HeartbeatsCease => matches!(what, What::Heartbeat(Irregular::Overdue(_, _))),
            Flaw::Reset => *what == What::Lost(ErrorKind::ConnectionReset),
            Flaw::Eof | Flaw::HalfFrame => *what == What::Ended,
            Flaw::Close1001 => *what == What::Closed { code: 1001, reason: "retry_ms=100".to_owned() },
            Flaw::OtherCloseCode => matches!(what, What::Closed { code: 1001, .. }),
            Flaw::TextBehindClose => matches!(what, What::AfterClose(_)),
            Flaw::NoEnd => *what == What::Stalled("the end of the stream".to_owned()),
        }
    }
}

fn is_instead_of(what: &What, due: Expected) -> bool {
    matches!(what, What::Wrong { expected, .. } if *expected == due)
}

/// A frame that nobody asked for, or that came before the one that was due.
fn is_surprise(what: &What, text: &str) -> bool {
    matches!(what, What::Unasked(got) | What::Wrong { got, .. } if got.contains(text))
}
