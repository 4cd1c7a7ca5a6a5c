//! Expired sessions leave the store, a few at a time, by whichever worker comes first.

use std::ops::Bound;

use super::{Aim, BackplaneError, Embedded, Record, unix_seconds};

/// Records looked at in one transaction: about a tenth of a millisecond.
const AT_ONCE: usize = 512;

/// The entry of the table `meta`: when to sweep next (seconds since 1970, little-endian), then the key to go on after.
const ENTRY: &[u8] = b"sweep";

impl Embedded {
    /// Looks at the next few sessions and deletes those whose time to live is over, unless another worker just did.
    /// Returns how many went.
    pub(crate) fn sweep(&mut self) -> Result<usize, BackplaneError> {
        let now = unix_seconds();
        let ttl = self.options.session_ttl.as_secs();
        let txn = self.env.read_txn()?;
        let Some(cursor) = due(self.meta.get(&txn, ENTRY)?, now) else { return Ok(0) };
        // LMDB knows no empty key.
        let begin = if cursor.is_empty() { Bound::Unbounded } else { Bound::Excluded(cursor) };
        let range = (begin, Bound::Unbounded);
        let (mut expired, mut seen, mut reached) = (Vec::new(), 0, Vec::new());
        for entry in self.sessions.range(&txn, &range)?.take(AT_ONCE) {
            let (key, value) = entry?;
            seen += 1;
            reached = key.to_owned();
            if Record::decode(value).is_none_or(|record| record.touched < now.saturating_sub(ttl)) {
                expired.push(reached.clone());
            }
        }
        drop(txn);
        // Through the whole table: rest for a twentieth of the time to live, from a second to a minute.
        let through = seen < AT_ONCE;
        let next = if through { now + (ttl / 20).clamp(1, 60) } else { now + 1 };
        let entry = [&next.to_le_bytes()[..], if through { &[] } else { &reached }].concat();
        self.write(Aim::Upkeep, expired.len() + 1, entry.len(), |txn, tables| {
            let mut gone = 0;
            for key in &expired {
                // Looked at again under the lock: its client may have come back.
                let record = tables.sessions.get(txn, key)?.and_then(Record::decode);
                if record.is_none_or(|record| record.touched < now.saturating_sub(ttl)) {
                    gone += usize::from(tables.sessions.delete(txn, key)?);
                }
            }
            tables.meta.put(txn, ENTRY, &entry)?;
            Ok(gone)
        })
    }
}

/// The key to go on after, if it is time.
fn due(entry: Option<&[u8]>, now: u64) -> Option<&[u8]> {
    let Some((next, cursor)) = entry.and_then(|entry| entry.split_first_chunk::<8>()) else { return Some(&[]) };
    let wait = u64::from_le_bytes(*next).saturating_sub(now);
    // A time far ahead is that of a clock that was set back.
    (wait == 0 || wait > 120).then_some(cursor)
}
