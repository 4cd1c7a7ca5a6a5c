//! Decides what a transaction may take of a store that is nearly full.
//!
//! A record is rewritten by copying its page, and so even a transaction that adds nothing needs free pages. The last
//! pages are therefore a reserve:
//!
//! | pages left | sessions that have a record | sessions that have none | sweeping, noting, operators |
//! |---|---|---|---|
//! | more than the reserve | yes | yes | yes |
//! | more than half of it | yes | no | yes |
//! | less | no | no | yes |
//!
//! So clients that send new sessions without end cannot keep the others from counting, and nobody can keep the store
//! from being swept, which is what makes room again.

use std::fmt;

use super::transaction::{PAGES_PER_CHANGE, PAGES_PER_COMMIT};

/// What there is too little of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shortage {
    /// The store has reached the size that it may have, in bytes.
    Size(u64),
    /// The disk, or the quota, is full.
    Disk,
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Shortage::Size(allowed) => write!(f, "it has reached its allowed {allowed} bytes (store-max-size)"),
            Shortage::Disk => write!(f, "no space left on its disk"),
        }
    }
}

/// What a transaction may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// Records may be added.
    Plenty,
    /// Only the reserve is left, which is for sessions that have a record.
    Scarce(Shortage),
    /// Less than half of the reserve is left, which is for upkeep.
    Full(Shortage),
}

/// What a turn of the event loop needs, in pages. A smaller transaction is treated alike: whether there is room must not
/// change from one commit to the next.
const USUAL: u64 = PAGES_PER_COMMIT + 32 * PAGES_PER_CHANGE;

impl Room {
    /// What may be taken by a transaction that needs so many pages when so many are left.
    pub(super) fn new(left: u64, needed: u64, reserve: u64, shortage: Shortage) -> Room {
        if left >= needed.max(USUAL) + reserve {
            Room::Plenty
        } else if left >= needed + reserve / 2 {
            Room::Scarce(shortage)
        } else {
            Room::Full(shortage)
        }
    }

    /// The lesser of two; of equals this one.
    pub(super) fn and(self, other: Room) -> Room {
        if other.rank() < self.rank() { other } else { self }
    }

    fn rank(self) -> u8 {
        match self {
            Room::Full(_) => 0,
            Room::Scarce(_) => 1,
            Room::Plenty => 2,
        }
    }

    /// Why records may not be added; none: they may.
    pub(super) fn shortage(self) -> Option<Shortage> {
        match self {
            Room::Plenty => None,
            Room::Scarce(shortage) | Room::Full(shortage) => Some(shortage),
        }
    }

    /// Whether a record may be added for a session of which somebody knows this count.
    pub(super) fn admits(self, known: Option<u64>) -> bool {
        self == Room::Plenty || known.is_some_and(|count| count > 0)
    }
}

/// The pages of a store of this size that are kept for sessions that have a record, and for upkeep.
pub(super) fn reserve(allowed: u64) -> u64 {
    allowed / 8
}

/// The pages on the disk that are kept for the same.
pub(super) fn disk_reserve(allowed: u64) -> u64 {
    reserve(allowed).min(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_is_for_sessions_that_have_a_record_and_half_of_it_for_upkeep() {
        let room = |left| Room::new(left, 10, 100, Shortage::Disk);
        assert_eq!([room(u64::MAX), room(USUAL + 100)], [Room::Plenty; 2]);
        assert_eq!([room(USUAL + 99), room(60)], [Room::Scarce(Shortage::Disk); 2]);
        assert_eq!([room(59), room(9), room(0)], [Room::Full(Shortage::Disk); 3]);
        let large = |left| Room::new(left, USUAL + 1000, 100, Shortage::Disk);
        assert_eq!([large(USUAL + 1100), large(USUAL + 1099)], [Room::Plenty, Room::Scarce(Shortage::Disk)]);
    }

    #[test]
    fn less_left_or_more_needed_never_gives_more() {
        let rank = |left, needed| Room::new(left, needed, 64, Shortage::Disk).rank();
        for left in (0..1000).step_by(7) {
            for needed in (0..1000).step_by(11) {
                assert!(rank(left, needed) <= rank(left + 1, needed) && rank(left, needed) >= rank(left, needed + 1));
            }
        }
    }

    #[test]
    fn the_lesser_room_counts() {
        let (size, disk) = (Shortage::Size(1), Shortage::Disk);
        assert_eq!(Room::Plenty.and(Room::Scarce(disk)), Room::Scarce(disk));
        assert_eq!(Room::Scarce(size).and(Room::Scarce(disk)), Room::Scarce(size));
        assert_eq!(Room::Full(size).and(Room::Plenty), Room::Full(size));
        assert_eq!(Room::Scarce(size).and(Room::Full(disk)), Room::Full(disk));
    }

    #[test]
    fn who_has_seen_a_count_has_a_session_already() {
        let scarce = Room::Scarce(Shortage::Disk);
        assert_eq!([None, Some(0), Some(1)].map(|known| scarce.admits(known)), [false, false, true]);
        assert!(Room::Plenty.admits(None));
    }
}
