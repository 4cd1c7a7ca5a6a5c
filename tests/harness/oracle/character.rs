//! Who is in the crowd, and what each does next. All of it is drawn from the connection's own generator.

use std::fmt::{self, Display};
use std::time::Duration;

use super::pen::Pen;

/// How a connection behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Character {
    /// One message after the other, with gaps.
    Talker,
    /// Many messages at once.
    Burster,
    /// Messages in fragments, pings between these, everything cut where it comes.
    Fragmenter,
    /// A frame a few bytes at a time.
    Dribbler,
    /// Pings, whose pongs must come in order.
    Pinger,
    /// Text that announces JSON and is none.
    Malformer,
    /// Leaves replies unread until the server has output that no socket takes, then reads on.
    SlowReader,
    /// Nothing but heartbeats.
    Idler,
    /// Messages of more than 100 KB, slowly.
    Big,
    /// Is half-way in its handshake for a while, stays a little, leaves, and comes anew.
    Newcomer,
}

/// What follows on an act.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// The next act.
    GoOn,
    /// The next act, with replies left unread.
    LeaveUnread,
    /// The next act, as soon as everything is answered and read.
    ReadAll,
    /// The connection's close.
    Leave,
}

use Character::{Big, Burster, Dribbler, Fragmenter, Idler, Malformer, Newcomer, Pinger, SlowReader, Talker};

/// All of them, in the shares that a service is likely to see. A tenth are newcomers.
pub const EVERYBODY: &[Character] = &[
    Talker, Talker, Talker, Talker, Talker, Talker, Talker, Talker, Talker, Talker, Talker, Talker, //
    Burster, Burster, Burster, Burster, //
    Fragmenter, Fragmenter, Fragmenter, Fragmenter, Fragmenter, Fragmenter, Fragmenter, //
    Dribbler, Dribbler, Dribbler, Dribbler, //
    Pinger, Pinger, Pinger, Pinger, Pinger, //
    Malformer, Malformer, Malformer,  //
    SlowReader, //
    Idler, Idler, Idler, Idler, Idler, Idler, Idler, //
    Big, Big, //
    Newcomer, Newcomer, Newcomer, Newcomer, Newcomer,
];

/// So many bytes of replies a slow reader leaves unread. Its sockets hold 50 KB together, see [`super::wire`]; a server
/// that keeps 256 KiB for a client (`max-output`) does not lose patience.
const PILE: usize = 150_000;

impl Character {
    /// Writes the next act.
    pub(super) fn act(self, pen: &mut Pen<'_>) -> Then {
        let gap = pen.gap;
        match self {
            Talker => {
                pen.message(0..200);
                pen.rest(gap);
                Then::GoOn
            }
            Burster => {
                for _ in 0..pen.random.usize(8..=64) {
                    pen.message(0..100);
                }
                let cuts = pen.random.usize(0..4);
                pen.cut(cuts, gap / 10);
                pen.rest(gap * 30);
                Then::GoOn
            }
            Fragmenter => {
                let fragments = pen.random.usize(2..=6);
                pen.fragments(fragments);
                let cuts = pen.random.usize(2..8);
                pen.cut(cuts, gap / 2);
                pen.rest(gap * 3);
                Then::GoOn
            }
            Dribbler => {
                match pen.random.u8(0..4) {
                    0 => pen.ping(),
                    _ => pen.message(0..60),
                }
                pen.dribble_from(0, 1..6, gap / 2);
                pen.rest(gap * 2);
                Then::GoOn
            }
            Pinger => {
                for _ in 0..pen.random.usize(1..=6) {
                    match pen.random.u8(0..4) {
                        0 => pen.message(0..50),
                        _ => pen.ping(),
                    }
                }
                let cuts = pen.random.usize(0..3);
                pen.cut(cuts, gap / 2);
                pen.rest(gap * 3);
                Then::GoOn
            }
            Malformer => {
                for _ in 0..pen.random.usize(1..=4) {
                    match pen.random.u8(0..3) {
                        0 => pen.message(0..50),
                        _ => pen.invalid_json(),
                    }
                }
                pen.cut(1, gap / 2);
                pen.rest(gap * 5);
                Then::GoOn
            }
            SlowReader if pen.unread < PILE => {
                for _ in 0..pen.random.usize(40..80) {
                    match pen.random.u8(0..4) {
                        0 => pen.message(0..50),
                        _ => pen.ping(),
                    }
                }
                pen.rest(gap);
                Then::LeaveUnread
            }
            SlowReader => {
                pen.rest(gap * 10);
                Then::ReadAll
            }
            Idler => {
                pen.rest(gap * 20);
                Then::GoOn
            }
            Big => {
                pen.message(100_000..200_000);
                pen.dribble_from(0, 4_000..16_000, gap / 2);
                pen.rest(gap * 10);
                Then::ReadAll
            }
            Newcomer => {
                pen.message(0..100);
                pen.rest(gap * 2);
                if pen.random.u8(0..8) == 0 { Then::Leave } else { Then::GoOn }
            }
        }
    }

    /// In how many places the request is cut, and for how long. In all it is less than the server's `handshake-timeout`.
    pub(super) fn ask(self, pen: &mut Pen<'_>) {
        match self {
            Newcomer => {
                let half = pen.random.usize(1..pen.out.len());
                pen.pause_at(half, pen.gap * 10);
                pen.dribble_from(half, 20..100, pen.gap / 2);
            }
            Dribbler | Fragmenter => pen.cut(2, pen.gap / 2),
            Talker | Burster | Pinger | Malformer | SlowReader | Idler | Big => {}
        }
    }

    /// Whether its buffers are to be small.
    pub(super) fn is_slow(self) -> bool {
        match self {
            SlowReader => true,
            Talker | Burster | Fragmenter | Dribbler | Pinger | Malformer | Idler | Big | Newcomer => false,
        }
    }

    /// How long it is away before it comes anew; the others stay.
    pub(super) fn absence(self, gap: Duration) -> Option<Duration> {
        match self {
            Newcomer => Some(gap),
            Talker | Burster | Fragmenter | Dribbler | Pinger | Malformer | SlowReader | Idler | Big => None,
        }
    }
}

impl Display for Character {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Talker => "talker",
            Burster => "burster",
            Fragmenter => "fragmenter",
            Dribbler => "dribbler",
            Pinger => "pinger",
            Malformer => "malformer",
            SlowReader => "slow reader",
            Idler => "idler",
            Big => "big one",
            Newcomer => "newcomer",
        };
        f.pad(name)
    }
}
