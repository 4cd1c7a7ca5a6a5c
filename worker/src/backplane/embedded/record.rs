//! What the store keeps of a session.
#![allow(unsafe_code)] // Writing where a cursor stands: nothing of the page may be borrowed meanwhile.

use std::ops::Bound;

use heed::RwTxn;

use super::Table;
use crate::batch::Increment;
use crate::count;

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

impl Record {
    const LENGTH: usize = 25;

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
        expired_before: u64,
    ) -> Result<Option<Record>, heed::Error> {
        let record = table.get(txn, key)?.and_then(Record::decode);
        Ok(record.filter(|record| record.touched >= expired_before))
    }

    /// Replaces the session's record, makes one, or leaves it, with one search for all.
    pub(super) fn alter(
        table: Table,
        txn: &mut RwTxn<'_>,
        key: &[u8],
        expired_before: u64,
        new: impl FnOnce(Option<Record>) -> Option<Record>,
    ) -> Result<Option<Record>, heed::Error> {
        // An end of the range would be one more thing to allocate and compare.
        let range = (Bound::Included(key), Bound::Unbounded);
        let mut entries = table.range_mut(txn, &range)?;
        let Some((_, value)) = entries.next().transpose()?.filter(|(found, _)| *found == key) else {
            drop(entries);
            let record = new(None);
            record.map_or(Ok(()), |record| record.put(table, txn, key))?;
            return Ok(record);
        };
        let record = new(Record::decode(value).filter(|record| record.touched >= expired_before));
        if let Some(record) = record {
            // SAFETY: neither the key nor the bytes are borrowed from the store, and the value is not used any more.
            unsafe { entries.put_current(key, &record.encode())? };
        }
        Ok(record)
    }

    /// Counts what the increment says, which may be nothing; the count after it. So many messages wait for Redis.
    pub(super) fn count(
        table: Table,
        txn: &mut RwTxn<'_>,
        key: &[u8],
        expired_before: u64,
        now: u64,
        waits: u64,
        increment: &Increment,
    ) -> Result<u64, heed::Error> {
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
        let record = Record::alter(table, txn, key, expired_before, counted)?;
        Ok(record.map_or(0, |record| record.count).max(floor))
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
