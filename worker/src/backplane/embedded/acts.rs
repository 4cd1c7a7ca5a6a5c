//! Keeps the last acts of operators, for their page, and apart from them the last attempts to log in that were refused:
//! however many those are, they push out nothing else. The log has all of them.

use std::ops::Bound;

use super::{Aim, BackplaneError, Embedded, Need};

/// More bytes of one are not kept.
const MOST: usize = 512;

/// A list of which only the last ones are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ring {
    /// What operators did.
    Acts,
    /// Attempts to log in that were refused.
    Refusals,
}

/// The length of what keys begin with.
const PREFIX: usize = 3;

impl Ring {
    /// What its keys in the table `meta` begin with; then a number, big-endian.
    fn prefix(self) -> [u8; PREFIX] {
        match self {
            Ring::Acts => *b"act",
            Ring::Refusals => *b"ref",
        }
    }

    /// So many are kept.
    fn kept(self) -> u64 {
        match self {
            Ring::Acts => 100,
            Ring::Refusals => 50,
        }
    }

    fn key(self, number: u64) -> [u8; PREFIX + 8] {
        let mut key = [0; PREFIX + 8];
        key[..PREFIX].copy_from_slice(&self.prefix());
        key[PREFIX..].copy_from_slice(&number.to_be_bytes());
        key
    }

    fn number(self, key: &[u8]) -> Option<u64> {
        key.strip_prefix(&self.prefix())?.try_into().ok().map(u64::from_be_bytes)
    }
}

impl Embedded {
    /// Keeps one more, and drops the oldest if there are too many.
    pub(crate) fn note_act(&mut self, ring: Ring, text: &str) -> Result<(), BackplaneError> {
        if text.len() > MOST {
            return Ok(());
        }
        self.write(Aim::Upkeep, Need::records(2).and_bytes(MOST), |txn, tables| {
            let last = {
                let (first, last) = (ring.key(0), ring.key(u64::MAX));
                let range = (Bound::Included(&first[..]), Bound::Included(&last[..]));
                let entry = tables.meta.rev_range(txn, &range)?.next().transpose()?;
                entry.and_then(|(key, _)| ring.number(key)).unwrap_or(0)
            };
            tables.meta.put(txn, &ring.key(last + 1), text.as_bytes())?;
            if last >= ring.kept() {
                tables.meta.delete(txn, &ring.key(last - ring.kept()))?;
            }
            Ok(())
        })
    }

    /// The last ones, newest first.
    pub(crate) fn last_acts(&self, ring: Ring, most: usize) -> Result<Vec<String>, BackplaneError> {
        let txn = self.env.read_txn()?;
        let (first, last) = (ring.key(0), ring.key(u64::MAX));
        let range = (Bound::Included(&first[..]), Bound::Included(&last[..]));
        let mut texts = Vec::new();
        for entry in self.meta.rev_range(&txn, &range)?.take(most) {
            texts.push(String::from_utf8_lossy(entry?.1).into_owned());
        }
        Ok(texts)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Directory;
    use super::*;

    #[test]
    fn refusals_push_out_no_acts() {
        let directory = Directory::new();
        let mut embedded = directory.open();
        embedded.note_act(Ring::Acts, "an act").unwrap();
        for n in 0..120 {
            embedded.note_act(Ring::Refusals, &format!("refusal {n}")).unwrap();
        }
        assert_eq!(embedded.last_acts(Ring::Acts, 1000).unwrap(), ["an act"]);
        let refusals = embedded.last_acts(Ring::Refusals, 1000).unwrap();
        assert_eq!((refusals.len(), refusals[0].as_str()), (51, "refusal 119"));
    }
}
