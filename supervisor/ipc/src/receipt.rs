//! What became of connections that were handed over.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Buckets an octave: a bound is at most a tenth above what is in its bucket.
const FINENESS: f64 = 8.0;

/// For how long connections were not read while they were handed over: a histogram, small enough for a message.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pauses {
    /// Bucket → connections.
    buckets: BTreeMap<u16, u64>,
    /// The longest, in microseconds.
    longest_us: u64,
}

impl Pauses {
    /// Notes one.
    pub fn note(&mut self, us: u64) {
        *self.buckets.entry(bucket(us)).or_default() += 1;
        self.longest_us = self.longest_us.max(us);
    }

    /// Adds those of others.
    pub fn add(&mut self, others: &Pauses) {
        for (bucket, count) in &others.buckets {
            *self.buckets.entry(*bucket).or_default() += count;
        }
        self.longest_us = self.longest_us.max(others.longest_us);
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.buckets.values().sum()
    }

    /// The longest, in microseconds; 0 if there was none.
    pub fn longest_us(&self) -> u64 {
        self.longest_us
    }

    /// What this share of them (0 to 1) did not exceed, in microseconds, rounded up by at most a tenth.
    pub fn quantile_us(&self, share: f64) -> u64 {
        let wanted = (share * self.count() as f64).ceil() as u64;
        let mut seen = 0;
        let found = self.buckets.iter().find(|(_, count)| {
            seen += *count;
            seen >= wanted
        });
        found.map_or(0, |(bucket, _)| bound(*bucket).min(self.longest_us))
    }
}

fn bucket(us: u64) -> u16 {
    ((us.max(1) as f64).log2() * FINENESS).ceil() as u16
}

fn bound(bucket: u16) -> u64 {
    (f64::from(bucket) / FINENESS).exp2().ceil() as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_quantile_is_at_most_a_tenth_too_high(mut pauses in prop::collection::vec(0..10_000_000u64, 1..300)) {
            let (mut one, mut other) = (Pauses::default(), Pauses::default());
            for (index, us) in pauses.iter().enumerate() {
                if index % 2 == 0 { one.note(*us) } else { other.note(*us) }
            }
            one.add(&other);
            pauses.sort_unstable();
            prop_assert_eq!(one.count(), pauses.len() as u64);
            prop_assert_eq!(one.longest_us(), *pauses.last().unwrap());
            prop_assert_eq!(one.quantile_us(1.0), one.longest_us());
            for share in [0.5, 0.99] {
                let exact = pauses[((share * pauses.len() as f64).ceil() as usize).saturating_sub(1)];
                let told = one.quantile_us(share);
                prop_assert!(told >= exact && told as f64 <= exact as f64 * 1.1 + 2.0, "{} for {}", told, exact);
            }
        }
    }

    #[test]
    fn of_nothing_there_is_nothing_to_tell() {
        assert_eq!((Pauses::default().quantile_us(0.99), Pauses::default().longest_us()), (0, 0));
    }
}
