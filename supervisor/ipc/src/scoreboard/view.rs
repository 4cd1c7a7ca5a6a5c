//! A slot as its readers see it.

use super::{Cause, Row, Side, Word};

/// Both sides of a slot. What can be added up is: a client does not care which of two processes serves it. What cannot
/// (state, pid, start, tick, last cause) is read off the row of the current side, or of each.
#[derive(Clone, Copy, Debug)]
pub struct SlotView<'a> {
    rows: [Row<'a>; Side::ALL.len()],
    current: Side,
}

impl<'a> SlotView<'a> {
    pub(super) fn new(rows: [Row<'a>; Side::ALL.len()], current: Side) -> SlotView<'a> {
        SlotView { rows, current }
    }

    /// The row of the side that stands for the slot.
    pub fn current(&self) -> Row<'a> {
        self.rows[self.current as usize]
    }

    /// The rows of both sides.
    pub fn rows(&self) -> [Row<'a>; Side::ALL.len()] {
        self.rows
    }

    /// A counter of both sides, below [`super::COUNTERS`].
    pub fn counter(&self, index: usize) -> u64 {
        self.sum(|row| row.counter(index))
    }

    /// A gauge of both sides, below [`super::GAUGES`]. That of a side without a worker is 0.
    pub fn gauge(&self, index: usize) -> u64 {
        self.sum(|row| row.gauge(index))
    }

    /// How many workers of this slot ended for this cause.
    pub fn restarts(&self, cause: Cause) -> u64 {
        self.sum(|row| row.restarts(cause))
    }

    fn sum(&self, word: impl Fn(Row<'a>) -> &'a Word) -> u64 {
        self.rows.into_iter().fold(0, |sum, row| sum.wrapping_add(word(row).get()))
    }
}

#[cfg(test)]
mod tests {
    use crate::Scoreboard;
    use crate::scoreboard::{COUNTER_MESSAGES, Cause, GAUGE_CONNECTIONS, Side, State};

    #[test]
    fn both_sides_add_up_and_the_current_one_stands_for_the_slot() {
        let ours = Scoreboard::create(2).unwrap();
        let theirs = Scoreboard::adopt(ours.memfd().try_clone_to_owned().unwrap()).unwrap();
        for (board, side, n) in [(&ours, Side::A, 30), (&theirs, Side::B, 4)] {
            let row = board.row(1, side);
            row.counter(COUNTER_MESSAGES).add(n);
            row.gauge(GAUGE_CONNECTIONS).set(n * 10);
            row.ended(Cause::Requested);
        }
        ours.row(1, Side::A).set_state(State::Draining, 7);
        theirs.row(1, Side::B).set_state(State::Serving, 8);
        for board in [&ours, &theirs] {
            let view = board.slot(1);
            assert_eq!((view.counter(COUNTER_MESSAGES), view.gauge(GAUGE_CONNECTIONS)), (34, 340));
            assert_eq!((view.restarts(Cause::Requested), view.restarts(Cause::Hang)), (2, 0));
            assert_eq!((view.current().state(), view.current().pid()), (State::Draining, Some(7)));
            assert_eq!(view.rows().map(|row| row.pid()), [Some(7), Some(8)]);
            assert_eq!((board.slot(0).counter(COUNTER_MESSAGES), board.slot(0).current().pid()), (0, None));
        }
        theirs.set_current(Some(1), Side::B);
        let row = ours.slot(1).current();
        assert_eq!((row.state(), row.pid()), (State::Serving, Some(8)));
        ours.clear(1, Side::A);
        assert_eq!((theirs.slot(1).counter(COUNTER_MESSAGES), theirs.slot(1).gauge(GAUGE_CONNECTIONS)), (34, 40));
    }
}
