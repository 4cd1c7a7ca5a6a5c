//! What the store keeps of a session.
#![allow(unsafe_code)] // Writing where a cursor stands: nothing of the page may be borrowed meanwhile.

use std::ops::Bound;

use heed::RwTxn;

use super::Table;
use super::room::Room;
use crate::batch::Increment;
use crate::count;
use crate::lifetimes::{self, Lifetimes};

/// The layout of a record; more may follow the fields of this version. Version 1 ended before `confirmed`.
const VERSION: u8 = 2;

/// A session: version, then these in their order, little-endian.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Record {
    /// The highest count that may have been shown here.
    pub(super) count: u64,
    /// Seconds since 1970 of the last message or close.
    pub(super) touched: u64,
    /// The highest count that is beyond doubt: with the embedded backplane the same (see [`super::ledger`]).
    pub(super) confirmed: u64,
}

/// Tells sessions that have expired from those that have not, at a time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expiry {
    /// Seconds since 1970.
    pub(super) now: u64,
    pub(super) lifetimes: Lifetimes,
}

/// What has become of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Altered {
    /// It is this one now.
    Record(Record),
    /// There is none, and none was wanted.
    Nothing,
    /// There is none, and the store has no room for one.
    NoRoom,
}

impl Record {
    const LENGTH: usize = 25;

    /// Whether the session is over. The one place where that is decided.
    ///
    /// A session of one message lives shorter, but not before that message is beyond doubt: until then Redis may not
    /// have it, and this record is all that is known of it.
    pub(super) fn has_expired(&self, expiry: Expiry) -> bool {
        let Lifetimes { session, new } = expiry.lifetimes;
        let is_new = lifetimes::is_new(self.count) && self.confirmed >= self.count;
        self.touched.saturating_add(if is_new { new } else { session }) < expiry.now
    }

    /// Redis has answered with this count.
    pub(super) fn confirmed_at(self, answer: u64) -> Record {
        let confirmed = self.confirmed.max(answer);
        Record { count: self.count.max(confirmed), confirmed, ..self }
    }

    /// The session's record, unless it has expired or is not one.
    pub(super) fn get(
        table: Table,
        txn: &heed::RoTxn<'_>,
        key: &[u8],
        expiry: Expiry,
    ) -> Result<Option<Record>, heed::Error> {
        let record = table.get(txn, key)?.and_then(Record::decode);
        Ok(record.filter(|record| !record.has_expired(expiry)))
    }

    /// Replaces the session's record, leaves it, or makes one if it `may_add`, with one search for all.
    pub(super) fn alter(
        table: Table,
        txn: &mut RwTxn<'_>,
        key: &[u8],
        expiry: Expiry,
        may_add: bool,
        new: impl FnOnce(Option<Record>) -> Option<Record>,
    ) -> Result<Altered, heed::Error> {
        // An end of the range would be one more thing to allocate and compare.
        let range = (Bound::Included(key), Bound::Unbounded);
        let mut entries = table.range_mut(txn, &range)?;
        let Some((_, value)) = entries.next().transpose()?.filter(|(found, _)| *found == key) else {
            drop(entries);
            return Ok(match new(None) {
                None => Altered::Nothing,
                Some(_) if !may_add => Altered::NoRoom,
                Some(record) => {
                    record.put(table, txn, key)?;
                    Altered::Record(record)
                }
            });
        };
        // One that has expired and was not swept yet is replaced where it is: that takes no room.
        let Some(record) = new(Record::decode(value).filter(|record| !record.has_expired(expiry))) else {
            return Ok(Altered::Nothing);
        };
        // SAFETY: neither the key nor the bytes are borrowed from the store, and the value is not used any more.
        unsafe { entries.put_current(key, &record.encode())? };
        Ok(Altered::Record(record))
    }

    /// Counts what the increment says, which may be nothing; the count after it, or none if there is no room for a session
    /// that has no record yet. So many messages wait for Redis.
    pub(super) fn count(
        table: Table,
        txn: &mut RwTxn<'_>,
        key: &[u8],
        expiry: Expiry,
        room: Room,
        waits: u64,
        increment: &Increment,
    ) -> Result<Option<u64>, heed::Error> {
        let now = expiry.now;
        let floor = increment.floor.unwrap_or(0);
        let counted = |old: Option<Record>| match (old, increment.by) {
            // To look is no use of a session that nobody has used.
            (None, 0) => None,
            (Some(record), 0) => Some(Record { touched: now, ..record }),
            (old, by) => {
                let count = old.map_or(0, |record| record.count).max(floor) + u64::from(by);
                Some(Record { count, touched: now, confirmed: count::without(count, waits) })
            }
        };
        Ok(match Record::alter(table, txn, key, expiry, room.admits(increment.floor), counted)? {
            Altered::Record(record) => Some(record.count.max(floor)),
            Altered::Nothing => Some(floor),
            Altered::NoRoom => None,
        })
    }

    pub(super) fn put(self, table: Table, txn: &mut RwTxn<'_>, key: &[u8]) -> Result<(), heed::Error> {
        table.put(txn, key, &self.encode())
    }

    fn encode(self) -> [u8; Record::LENGTH] {
        let mut bytes = [0; Record::LENGTH];
        bytes[0] = VERSION;
        bytes[1..9].copy_from_slice(&self.count.to_le_bytes());
        bytes[9..17].copy_from_slice(&self.touched.to_le_bytes());
        bytes[17..].copy_from_slice(&self.confirmed.to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Record> {
        let (version, rest) = bytes.split_first()?;
        let (count, rest) = rest.split_first_chunk::<8>()?;
        let (touched, rest) = rest.split_first_chunk::<8>()?;
        let (count, touched) = (u64::from_le_bytes(*count), u64::from_le_bytes(*touched));
        let confirmed = match *version {
            1 => count,
            VERSION => u64::from_le_bytes(*rest.first_chunk()?),
            _ => return None,
        };
        Some(Record { count, touched, confirmed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::count::RESET;

    #[test]
    fn a_session_of_one_message_expires_sooner_once_it_is_beyond_doubt() {
        let lifetimes = Lifetimes { session: 100, new: 10 };
        let lives = |count, confirmed| {
            let record = Record { count, touched: 1000, confirmed };
            let expired = |now| record.has_expired(Expiry { now, lifetimes });
            assert!(!expired(0), "a clock that was set back expires nothing");
            (1000..).find(|now| expired(*now)).unwrap() - 1000
        };
        assert_eq!(lives(1, 1), 11);
        assert_eq!(lives(1, 0), 101, "Redis has not answered yet");
        assert_eq!(lives(2, 2), 101);
        assert_eq!(lives(RESET, RESET), 101, "it must not be forgotten that it was reset");
        assert_eq!(lives(RESET + 1, RESET + 1), 101);
        let forever = Record { count: 5, touched: u64::MAX, confirmed: 5 };
        assert!(!forever.has_expired(Expiry { now: u64::MAX, lifetimes }));
    }
}
