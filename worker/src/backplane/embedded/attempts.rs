//! Rate limits that all workers of the host share: see `http::admin::attempts`.
//!
//! The generic cell rate algorithm (ITU-T I.371): for each bucket the time is kept at which it will be full again, and an
//! attempt moves it by an interval. A bucket that is full is not kept, and every attempt looks for some that are.

use std::ops::{Bound, ControlFlow};

use heed::{RoTxn, RwTxn};

use super::{Aim, BackplaneError, Embedded, Need, Table};

/// What the keys in the table `meta` begin with; then come kind and number. The value: when the bucket is full again
/// (milliseconds since 1970, little-endian).
const PREFIX: &[u8] = b"bucket";

/// The length of a key.
const KEY: usize = PREFIX.len() + 9;

/// The entry of the table `meta` that counts them (little-endian).
const COUNT: &[u8] = b"attempts";

/// So many are kept, about a megabyte. More that are not full would be those of an attack from thousands of networks.
const KEPT: u64 = 16_384;

/// Records that may change for each that is taken from: itself, and neighbours that leave.
const CHANGES: usize = 4;

/// So many are looked at for each that is taken from.
const SWEPT: usize = 16;

/// And so many if there is no room for more.
const SWEPT_WHEN_FULL: usize = 256;

/// How long to wait if there is still none (milliseconds).
const WAIT_FOR_ROOM: u64 = 1000;

/// A bucket of attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bucket {
    pub(crate) kind: u8,
    /// Which of this kind: wide enough that two never share one.
    pub(crate) number: u64,
    /// So many at once.
    pub(crate) burst: u64,
    /// And one more after each such time.
    pub(crate) interval_ms: u64,
    /// It is kept even if there are too many: what makes one is not anybody's to have.
    pub(crate) always_kept: bool,
}

impl Bucket {
    fn key(self) -> [u8; KEY] {
        let mut key = [0; KEY];
        key[..PREFIX.len()].copy_from_slice(PREFIX);
        key[PREFIX.len()] = self.kind;
        key[PREFIX.len() + 1..].copy_from_slice(&self.number.to_be_bytes());
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
        // Whoever tries too often is turned away without the lock that all workers share.
        let txn = self.env.read_txn()?;
        if let ControlFlow::Break(wait) = look(self.meta, &txn, buckets, now)? {
            return Ok(Some(wait));
        }
        drop(txn);
        self.write(Aim::Upkeep, Need::records(buckets.len() * CHANGES + 1), |txn, tables| {
            let taken = match look(tables.meta, txn, buckets, now)? {
                ControlFlow::Continue(taken) => taken,
                ControlFlow::Break(wait) => return Ok(Some(wait)),
            };
            let mut count = count(tables.meta, txn)?;
            for (bucket, _) in &taken {
                count = count.saturating_sub(sweep(tables.meta, txn, &bucket.key(), SWEPT, now)?);
            }
            let mut fresh = 0;
            for (bucket, _) in &taken {
                fresh += u64::from(tables.meta.get(txn, &bucket.key())?.is_none());
            }
            if count + fresh > KEPT {
                count = count.saturating_sub(sweep(tables.meta, txn, PREFIX, SWEPT_WHEN_FULL, now)?);
            }
            let room = count + fresh <= KEPT || buckets.iter().all(|bucket| bucket.always_kept);
            if room {
                for (bucket, next) in taken {
                    tables.meta.put(txn, &bucket.key(), &next.to_le_bytes())?;
                }
                count += fresh;
            }
            tables.meta.put(txn, COUNT, &count.to_le_bytes())?;
            Ok((!room).then_some(WAIT_FOR_ROOM))
        })
    }

    /// Gives one back to each bucket.
    pub(crate) fn put_back(&mut self, buckets: &[Bucket], now: u64) -> Result<(), BackplaneError> {
        self.write(Aim::Upkeep, Need::records(buckets.len() + 1), |txn, tables| {
            let mut count = count(tables.meta, txn)?;
            for bucket in buckets {
                let key = bucket.key();
                let Some(full_at) = number(tables.meta.get(txn, &key)?) else { continue };
                let full_at = full_at.saturating_sub(bucket.interval_ms);
                if full_at > now {
                    tables.meta.put(txn, &key, &full_at.to_le_bytes())?;
                } else if tables.meta.delete(txn, &key)? {
                    count = count.saturating_sub(1);
                }
            }
            tables.meta.put(txn, COUNT, &count.to_le_bytes())?;
            Ok(())
        })
    }
}

/// When each bucket would be full again; or for how long none can be taken.
fn look(
    meta: Table,
    txn: &RoTxn<'_>,
    buckets: &[Bucket],
    now: u64,
) -> Result<ControlFlow<u64, Vec<(Bucket, u64)>>, heed::Error> {
    let (mut taken, mut wait) = (Vec::with_capacity(buckets.len()), None);
    for bucket in buckets {
        match bucket.after(number(meta.get(txn, &bucket.key())?).unwrap_or(0), now) {
            Ok(next) => taken.push((*bucket, next)),
            Err(ms) => wait = wait.max(Some(ms)),
        }
    }
    Ok(wait.map_or(ControlFlow::Continue(taken), ControlFlow::Break))
}

/// Looks at buckets from a key on, goes on at the first one after the last, and drops those that are full. Returns how
/// many went.
fn sweep(meta: Table, txn: &mut RwTxn<'_>, from: &[u8], most: usize, now: u64) -> Result<u64, heed::Error> {
    let mut full = Vec::new();
    let mut seen = 0;
    for begin in [from, PREFIX] {
        let end = [PREFIX, &[0xff; 10]].concat();
        for entry in meta.range(txn, &(Bound::Included(begin), Bound::Included(&end[..])))?.take(most - seen) {
            let (key, value) = entry?;
            seen += 1;
            if key.len() == KEY && number(Some(value)).is_none_or(|full_at| full_at <= now) {
                full.push(key.to_owned());
            }
        }
        if from == PREFIX {
            break;
        }
    }
    full.sort();
    full.dedup();
    for key in &full {
        meta.delete(txn, key)?;
    }
    Ok(full.len() as u64)
}

fn count(meta: Table, txn: &RoTxn<'_>) -> Result<u64, heed::Error> {
    Ok(number(meta.get(txn, COUNT)?).unwrap_or(0))
}

fn number(bytes: Option<&[u8]>) -> Option<u64> {
    bytes?.try_into().ok().map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::super::testing::Directory;
    use super::*;

    fn bucket(number: u64) -> Bucket {
        Bucket { kind: b'a', number, burst: 3, interval_ms: 1000, always_kept: false }
    }

    fn kept(embedded: &Embedded) -> (u64, u64) {
        let txn = embedded.env.read_txn().unwrap();
        let entries = embedded.meta.prefix_iter(&txn, PREFIX).unwrap().count() as u64;
        (entries, count(embedded.meta, &txn).unwrap())
    }

    #[test]
    fn so_many_at_once_and_then_one_each_interval() {
        let bucket = bucket(1);
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

    #[test]
    fn all_buckets_must_have_room_or_none_is_taken_from() {
        let directory = Directory::new();
        let mut embedded = directory.open();
        let now = 10_000_000;
        let (full, empty) = (bucket(1), bucket(2));
        for _ in 0..3 {
            assert_eq!(embedded.take_from(&[empty], now).unwrap(), None);
        }
        assert_eq!(embedded.take_from(&[full, empty], now).unwrap(), Some(1000));
        assert_eq!(kept(&embedded), (1, 1), "nothing was taken from the other");
        embedded.put_back(&[empty], now).unwrap();
        assert_eq!(embedded.take_from(&[full, empty], now).unwrap(), None);
        // Given back in full they are not kept.
        embedded.put_back(&[full], now).unwrap();
        assert_eq!(kept(&embedded), (1, 1));
        embedded.put_back(&[full], now).unwrap();
        assert_eq!(kept(&embedded), (1, 1), "what is not there cannot be given back");
        for _ in 0..3 {
            embedded.put_back(&[empty], now).unwrap();
        }
        assert_eq!(kept(&embedded), (0, 0));
    }

    #[test]
    fn full_buckets_leave_the_store_and_others_stay() {
        let directory = Directory::new();
        let mut embedded = directory.open();
        let mut now = 10_000_000;
        let mut taken = HashMap::new();
        for n in 0..2000u64 {
            // Numbers as they are: spread over all there are.
            let number = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            assert_eq!(embedded.take_from(&[bucket(number)], now).unwrap(), None);
            taken.insert(number, now);
            now += 10;
        }
        let (entries, count) = kept(&embedded);
        assert_eq!(entries, count);
        // A hundred are not full; of the others few are left.
        assert!((100..400).contains(&entries), "{entries}");
        let txn = embedded.env.read_txn().unwrap();
        for (number, at) in taken.into_iter().filter(|(_, at)| at + 1000 > now) {
            assert!(embedded.meta.get(&txn, &bucket(number).key()).unwrap().is_some(), "{number} of {at}");
        }
    }

    #[test]
    fn with_too_many_buckets_only_those_that_are_always_kept_get_one() {
        let directory = Directory::new();
        let mut embedded = directory.open();
        let now = 10_000_000;
        let all: Vec<Bucket> = (0..KEPT).map(bucket).collect();
        for some in all.chunks(1024) {
            assert_eq!(embedded.take_from(some, now).unwrap(), None);
        }
        assert_eq!(kept(&embedded), (KEPT, KEPT));
        assert_eq!(embedded.take_from(&[bucket(KEPT)], now).unwrap(), Some(WAIT_FOR_ROOM));
        assert_eq!(embedded.take_from(&[bucket(7)], now).unwrap(), None, "one that is there");
        let known = Bucket { kind: b'k', always_kept: true, ..bucket(1) };
        assert_eq!(embedded.take_from(&[known], now).unwrap(), None);
        // As soon as some are full there is room.
        assert_eq!(embedded.take_from(&[bucket(KEPT)], now + 1000).unwrap(), None);
        let (entries, count) = kept(&embedded);
        assert!(entries == count && entries < KEPT, "{entries} {count}");
    }
}
