//! The last acts of operators, for their page. The log has all of them.

use std::ops::Bound;

use super::{Aim, BackplaneError, Embedded};

/// What the keys in the table `meta` begin with; then a number, big-endian.
const PREFIX: &[u8] = b"act";

/// So many are kept.
const KEPT: u64 = 100;

/// More bytes of one are not.
const MOST: usize = 512;

fn key(number: u64) -> [u8; 11] {
    let mut key = [0; 11];
    key[..3].copy_from_slice(PREFIX);
    key[3..].copy_from_slice(&number.to_be_bytes());
    key
}

fn number(key: &[u8]) -> Option<u64> {
    key.strip_prefix(PREFIX)?.try_into().ok().map(u64::from_be_bytes)
}

impl Embedded {
    /// Keeps one more, and drops the oldest if there are too many.
    pub(crate) fn note_act(&mut self, act: &str) -> Result<(), BackplaneError> {
        if act.len() > MOST {
            return Ok(());
        }
        self.write(Aim::Upkeep, 2, MOST, |txn, tables| {
            let last = {
                let range = (Bound::Included(&key(0)[..]), Bound::Included(&key(u64::MAX)[..]));
                let entry = tables.meta.rev_range(txn, &range)?.next().transpose()?;
                entry.and_then(|(key, _)| number(key)).unwrap_or(0)
            };
            tables.meta.put(txn, &key(last + 1), act.as_bytes())?;
            if last >= KEPT {
                tables.meta.delete(txn, &key(last - KEPT))?;
            }
            Ok(())
        })
    }

    /// The last ones, newest first.
    pub(crate) fn last_acts(&self, most: usize) -> Result<Vec<String>, BackplaneError> {
        let txn = self.env.read_txn()?;
        let range = (Bound::Included(&key(0)[..]), Bound::Included(&key(u64::MAX)[..]));
        let mut acts = Vec::new();
        for entry in self.meta.rev_range(&txn, &range)?.take(most) {
            acts.push(String::from_utf8_lossy(entry?.1).into_owned());
        }
        Ok(acts)
    }
}
