//! Rate limits that all workers of the host share: see `http::admin::attempts`.

use heed::RwTxn;

use super::{Aim, BackplaneError, Embedded, Table};

/// What the keys in the table `meta` begin with; then come kind and number. The value: when the bucket is full again
/// (milliseconds since 1970, little-endian).
const PREFIX: &[u8] = b"bucket";

/// A bucket of attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bucket {
    pub(crate) kind: u8,
    pub(crate) number: u16,
    /// So many at once.
    pub(crate) burst: u64,
    /// And one more after each such time.
    pub(crate) interval_ms: u64,
}

impl Bucket {
    fn key(self) -> [u8; 9] {
        let mut key = [0; 9];
        key[..6].copy_from_slice(PREFIX);
        key[6] = self.kind;
        key[7..].copy_from_slice(&self.number.to_be_bytes());
        key
    }

    /// When it is full again, if one more is taken now; or for how long (milliseconds) none can be.
    fn after(self, full_at: u64, now: u64) -> Result<u64, u64> {
        let room = self.burst * self.interval_ms;
        // A time further ahead is that of a clock that was set back.
        let full_at = if full_at > now + room { now + room } else { full_at.max(now) };
        let next = full_at + self.interval_ms;
        if next > now + room { Err(next - now - room) } else { Ok(next) }
    }
}

impl Embedded {
    /// Takes one from each bucket, or from none. `Some`: one of them is empty, for so many milliseconds.
    pub(crate) fn take_from(&mut self, buckets: &[Bucket], now: u64) -> Result<Option<u64>, BackplaneError> {
        self.write(Aim::Upkeep, buckets.len(), 0, |txn, tables| {
            let mut taken = Vec::with_capacity(buckets.len());
            for bucket in buckets {
                match bucket.after(full_at(tables.meta, txn, *bucket)?, now) {
                    Ok(next) => taken.push((bucket.key(), next)),
                    Err(wait) => return Ok(Some(wait)),
                }
            }
            for (key, next) in taken {
                tables.meta.put(txn, &key, &next.to_le_bytes())?;
            }
            Ok(None)
        })
    }

    /// Gives one back to each bucket.
    pub(crate) fn put_back(&mut self, buckets: &[Bucket]) -> Result<(), BackplaneError> {
        self.write(Aim::Upkeep, buckets.len(), 0, |txn, tables| {
            for bucket in buckets {
                let full_at = full_at(tables.meta, txn, *bucket)?.saturating_sub(bucket.interval_ms);
                tables.meta.put(txn, &bucket.key(), &full_at.to_le_bytes())?;
            }
            Ok(())
        })
    }
}

fn full_at(meta: Table, txn: &RwTxn<'_>, bucket: Bucket) -> Result<u64, heed::Error> {
    Ok(meta.get(txn, &bucket.key())?.and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_at_once_and_then_one_each_interval() {
        let bucket = Bucket { kind: b'a', number: 1, burst: 3, interval_ms: 1000 };
        let (mut full_at, now) = (0, 10_000_000);
        for _ in 0..3 {
            full_at = bucket.after(full_at, now).unwrap();
        }
        assert_eq!(bucket.after(full_at, now), Err(1000));
        assert_eq!(bucket.after(full_at, now + 999), Err(1));
        full_at = bucket.after(full_at, now + 1000).unwrap();
        assert_eq!(bucket.after(full_at, now + 1000), Err(1000));
        assert!(bucket.after(full_at, now + 4000).is_ok(), "full again");
        // The clock was set back by an hour.
        assert_eq!(bucket.after(full_at, now - 3_600_000), Err(1000));
    }
}
