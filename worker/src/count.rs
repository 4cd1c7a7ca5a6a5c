//! A session's count, as it is kept and as clients are shown it.
//!
//! What is kept only ever grows, and so nobody who remembers a highest count (a connection, the ledger of a host, a unit on
//! its way to Redis) can take back what an operator has done: a reset leads to the next multiple of [`RESET`], which is
//! above all that was before, and clients are shown what is above that multiple.

/// Messages that a session may count from one reset to the next: 4,398,046,511,104.
pub(crate) const RESET: u64 = 1 << 42;

/// Redis counts in doubles: beyond this they skip some.
pub(crate) const MOST: u64 = 1 << 53;

/// What clients are shown of a count.
pub(crate) fn shown(kept: u64) -> u64 {
    kept % RESET
}

/// The count of a session that an operator has reset. None: it was reset too often, some 2,000 times.
pub(crate) fn reset(kept: u64) -> Option<u64> {
    Some((kept / RESET + 1) * RESET).filter(|next| *next < MOST)
}

/// So many messages fewer, but not from before the last reset.
pub(crate) fn without(kept: u64, messages: u64) -> u64 {
    kept - messages.min(shown(kept))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reset_is_above_all_that_was_and_begins_at_nothing() {
        let mut kept = 17;
        for _ in 0..2000 {
            let next = reset(kept).unwrap();
            assert!(next > kept && shown(next) == 0 && shown(next + 5) == 5);
            assert_eq!((without(next + 5, 3), without(next + 5, 9), without(next, 1)), (next + 2, next, next));
            kept = next + 12_345;
        }
        assert_eq!(reset(MOST - 1), None);
        assert_eq!((without(17, 3), without(17, 18)), (14, 0));
    }
}
