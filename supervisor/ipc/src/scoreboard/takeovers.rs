//! What became of takeovers. It is in the header, and goes from generation to generation with the rest.

use super::Word;

/// How a takeover ended. What a generation sees of another's end it counts itself, so that each is counted once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Outcome {
    /// The successor serves.
    Completed = 0,
    /// Given up before the switch: the incumbent has served all the time.
    Failed = 1,
    /// Given up after the switch: the connections went back.
    RolledBack = 2,
    /// An operator had a generation that was kept take everything back.
    Reverted = 3,
    /// The incumbent did not let the successor in.
    Refused = 4,
    /// The successor ended as it was asked to, and had not taken over.
    Withdrawn = 5,
    /// The successor died, or left without a word, and had not taken over.
    Lost = 6,
}

impl Outcome {
    /// Every outcome, in the order of the numbers.
    pub const ALL: [Outcome; 7] = [
        Outcome::Completed,
        Outcome::Failed,
        Outcome::RolledBack,
        Outcome::Reverted,
        Outcome::Refused,
        Outcome::Withdrawn,
        Outcome::Lost,
    ];

    /// The name used as a metric's label.
    pub fn label(self) -> &'static str {
        match self {
            Outcome::Completed => "completed",
            Outcome::Failed => "failed",
            Outcome::RolledBack => "rolled_back",
            Outcome::Reverted => "reverted",
            Outcome::Refused => "refused",
            Outcome::Withdrawn => "withdrawn",
            Outcome::Lost => "lost",
        }
    }
}

/// What became of a connection in a takeover that was completed or reverted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Fate {
    /// It is in the other generation.
    HandedOver = 0,
    /// It stayed, and was told to come back.
    Drained = 1,
    /// Nobody knows what became of it.
    Dropped = 2,
}

impl Fate {
    /// Every fate, in the order of the numbers.
    pub const ALL: [Fate; 3] = [Fate::HandedOver, Fate::Drained, Fate::Dropped];

    /// The name used as a metric's label.
    pub fn label(self) -> &'static str {
        match self {
            Fate::HandedOver => "handed_over",
            Fate::Drained => "drained",
            Fate::Dropped => "dropped",
        }
    }
}

const FATES: usize = 8;
const DURATION_MS: usize = 15;
/// Words that one side has.
pub(super) const WORDS: usize = 16;

const _: () = assert!(Outcome::ALL.len() <= FATES && FATES + Fate::ALL.len() <= DURATION_MS && DURATION_MS < WORDS);

/// What the supervisor on one side has counted.
#[derive(Clone, Copy, Debug)]
pub struct Takeovers<'a> {
    words: &'a [Word],
}

impl<'a> Takeovers<'a> {
    pub(super) fn new(words: &'a [Word]) -> Takeovers<'a> {
        Takeovers { words }
    }

    /// How many ended like this.
    pub fn outcome(&self, outcome: Outcome) -> &'a Word {
        &self.words[outcome as usize]
    }

    /// How many ended, in whichever way.
    pub fn ended(&self) -> u64 {
        Outcome::ALL.into_iter().map(|outcome| self.outcome(outcome).get()).fold(0, u64::wrapping_add)
    }

    /// How many connections met this fate.
    pub fn fate(&self, fate: Fate) -> &'a Word {
        &self.words[FATES + fate as usize]
    }

    /// How long those that were completed took together, in milliseconds.
    pub fn duration_ms(&self) -> &'a Word {
        &self.words[DURATION_MS]
    }
}

#[cfg(test)]
mod tests {
    use super::{Fate, Outcome};
    use crate::scoreboard::{Scoreboard, Side, State};

    #[test]
    fn each_side_and_each_number_has_its_own_memory() {
        let board = Scoreboard::create(1).unwrap();
        board.row(0, Side::A).set_state(State::Serving, 7);
        let (id, started) = (board.id(), board.started_ms());
        let all = || Side::ALL.into_iter().flat_map(|side| words(&board, side));
        for (word, n) in all().zip(1..) {
            word.set(n);
        }
        for (word, n) in all().zip(1..) {
            assert_eq!(word.get(), n);
        }
        assert_eq!(board.takeovers(Side::A).ended(), (1..=7).sum::<u64>());
        assert_eq!((board.id(), board.started_ms(), board.slots()), (id, started, 1));
        assert_eq!((board.current(None), board.ring(None, Side::A).read(None).text.len()), (Side::A, 0));
        assert_eq!(board.row(0, Side::A).pid(), Some(7));
    }

    fn words(board: &Scoreboard, side: Side) -> Vec<&crate::scoreboard::Word> {
        let takeovers = board.takeovers(side);
        let outcomes = Outcome::ALL.into_iter().map(|outcome| takeovers.outcome(outcome));
        let fates = Fate::ALL.into_iter().map(|fate| takeovers.fate(fate));
        outcomes.chain(fates).chain([takeovers.duration_ms()]).collect()
    }
}
