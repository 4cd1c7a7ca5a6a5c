//! Sweeps expired sessions out of the store, a slice at a time, by whichever worker comes first.
//!
//! A pass over all sessions takes a bounded time, however many there are: the more of them, the shorter the rest between
//! two slices. While the store is nearly full it takes seconds.

use std::ops::Bound;
use std::time::Duration;

use super::{Aim, BackplaneError, Embedded, Expiry, Need, PAGES_PER_COMMIT, Record, Room, room_for};
use crate::heartbeat::wall_ms;

/// Records that one slice reads, without the lock: about half a millisecond.
const READ_AT_ONCE: usize = 4096;

/// Records that one slice deletes, under the lock: about half a millisecond.
const DELETED_AT_ONCE: usize = 512;

/// The longest rest between two slices, and how often a worker looks whether another still sweeps (milliseconds).
const LONGEST_REST: u64 = 1000;

/// How long a pass over a store that is nearly full takes, and the longest rest after it (milliseconds).
const FULL_PASS: u64 = 5000;

/// The entry of the table `meta`: a [`Mark`].
const ENTRY: &[u8] = b"sweep";

/// How far the sweep has come: the time, the number of records in the last slice, and the key to go on after, in this
/// order, little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark<'a> {
    /// When the last slice ended (milliseconds since 1970).
    ended: u64,
    /// How many records it has read.
    read: u64,
    /// Empty: it was the last of a pass.
    cursor: &'a [u8],
}

impl<'a> Mark<'a> {
    fn decode(entry: &'a [u8]) -> Option<Mark<'a>> {
        let (ended, rest) = entry.split_first_chunk()?;
        let (read, cursor) = rest.split_first_chunk()?;
        Some(Mark { ended: u64::from_le_bytes(*ended), read: u64::from_le_bytes(*read), cursor })
    }

    fn encode(self) -> Vec<u8> {
        [&self.ended.to_le_bytes()[..], &self.read.to_le_bytes(), self.cursor].concat()
    }

    /// How long to rest after this slice (milliseconds): `lifetime` is the shortest of a session, in seconds.
    fn rest(self, sessions: u64, lifetime: u64, is_full: bool) -> u64 {
        // Within a twentieth of the time to live, from a second to a minute.
        let pass = (lifetime.saturating_mul(1000) / 20).clamp(1000, 60_000);
        let pass = if is_full { pass.min(FULL_PASS) } else { pass };
        if self.cursor.is_empty() {
            return pass;
        }
        (pass.saturating_mul(self.read) / sessions.max(1)).clamp(1, LONGEST_REST)
    }

    /// How long until the next slice is due at this time. A slice that ended later is that of a clock that was set back.
    fn wait(self, now: u64, rest: u64) -> u64 {
        now.checked_sub(self.ended).map_or(0, |age| rest.saturating_sub(age))
    }
}

/// What a slice has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Swept {
    /// Sessions that were deleted.
    pub(crate) gone: usize,
    /// How long to wait before the next slice.
    pub(crate) wait: Duration,
}

impl Embedded {
    /// Looks at the next sessions and deletes those that have expired, unless it is too early, or another worker does.
    pub(crate) fn sweep(&mut self) -> Result<Swept, BackplaneError> {
        let now = wall_ms();
        let expiry = self.expiry(now / 1000);
        let txn = self.env.read_txn()?;
        let found = self.meta.get(&txn, ENTRY)?;
        let mark = found.and_then(Mark::decode).unwrap_or(Mark { ended: 0, read: 0, cursor: &[] });
        let room = room_for(self.tables(), &self.env, &txn, PAGES_PER_COMMIT, self.options.max_size)?;
        let (is_full, sessions) = (self.is_short() || room != Room::Plenty, self.sessions.len(&txn)?);
        let rest = |mark: Mark<'_>| mark.rest(sessions, expiry.lifetimes.new, is_full);
        if mark.wait(now, rest(mark)) > 0 {
            return Ok(Swept { gone: 0, wait: Duration::from_millis(LONGEST_REST) });
        }
        // LMDB knows no empty key.
        let begin = if mark.cursor.is_empty() { Bound::Unbounded } else { Bound::Excluded(mark.cursor) };
        let (mut expired, mut read, mut reached, mut through) = (Vec::new(), 0, Vec::new(), true);
        for entry in self.sessions.range(&txn, &(begin, Bound::Unbounded))? {
            let (key, value) = entry?;
            read += 1;
            if has_expired(Some(value), expiry) {
                expired.push(key.to_owned());
            }
            if read == READ_AT_ONCE || expired.len() == DELETED_AT_ONCE {
                reached = key.to_owned();
                through = false;
                break;
            }
        }
        let before = found.map(<[u8]>::to_vec);
        drop(txn);
        let mark = Mark { ended: now, read: read as u64, cursor: if through { &[] } else { &reached } };
        let need = Need::neighbours(expired.len()).and_records(1);
        let gone = self.write(Aim::Upkeep, need, |txn, tables| {
            if tables.meta.get(txn, ENTRY)? != before.as_deref() {
                // Another worker was first.
                return Ok(0);
            }
            let mut gone = 0;
            for key in &expired {
                // Looked at again under the lock: its client may have come back.
                if has_expired(tables.sessions.get(txn, key)?, expiry) {
                    gone += usize::from(tables.sessions.delete(txn, key)?);
                }
            }
            tables.meta.put(txn, ENTRY, &mark.encode())?;
            Ok(gone)
        })?;
        Ok(Swept { gone, wait: Duration::from_millis(rest(mark).min(LONGEST_REST)) })
    }
}

/// Whether there is nothing to keep: what is no record is of no use either.
fn has_expired(value: Option<&[u8]>, expiry: Expiry) -> bool {
    value.and_then(Record::decode).is_none_or(|record| record.has_expired(expiry))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(read: u64, cursor: &[u8]) -> Mark<'_> {
        Mark { ended: 1_000_000, read, cursor }
    }

    /// Milliseconds that a pass over so many sessions takes, if all are read in slices of this size.
    fn pass(sessions: u64, slice: usize, lifetime: u64, is_full: bool) -> u64 {
        sessions.div_ceil(slice as u64) * mark(slice as u64, b"x").rest(sessions, lifetime, is_full)
    }

    #[test]
    fn a_pass_takes_a_bounded_time_however_many_sessions_there_are() {
        for sessions in [10_000, 100_000, 1_000_000, 10_000_000] {
            for slice in [DELETED_AT_ONCE, READ_AT_ONCE] {
                let took = pass(sessions, slice, 3600, false);
                // A slice is not read in no time: a millisecond is the shortest rest.
                assert!(took <= 66_000, "{sessions} in {slice}: {took} ms");
                // At least as fast as 512 a second, which it was once.
                assert!(took <= sessions * 1000 / 512 + 1000, "{sessions} in {slice}: {took} ms");
                assert!(pass(sessions, slice, 3600, true) <= 5500.max(sessions.div_ceil(slice as u64)));
            }
        }
        assert!(pass(100_000, READ_AT_ONCE, 60, false) <= 3500, "a twentieth of a minute");
    }

    #[test]
    fn it_never_rests_for_nothing_or_for_long() {
        for sessions in [0, 1, 511, u64::MAX] {
            for lifetime in [0, 1, 3600, u64::MAX] {
                for is_full in [false, true] {
                    let between = mark(512, b"x").rest(sessions, lifetime, is_full);
                    let after = mark(512, b"").rest(sessions, lifetime, is_full);
                    assert!((1..=1000).contains(&between) && (1000..=60_000).contains(&after));
                    assert!(after <= 5000 || !is_full);
                }
            }
        }
    }

    #[test]
    fn a_mark_is_read_as_it_was_written_and_waits_for_its_rest() {
        let mark = mark(77, b"key");
        assert_eq!(Mark::decode(&mark.encode()), Some(mark));
        assert_eq!(Mark::decode(&[0; 15]), None);
        assert_eq!([1_000_000, 1_000_400, 1_000_500, 2_000_000].map(|now| mark.wait(now, 500)), [500, 100, 0, 0]);
        assert_eq!(mark.wait(999_999, 500), 0, "the clock was set back");
    }
}
