//! How long most took: quantiles out of counted buckets.

/// Cumulative counts by upper bound, in the unit of the metric.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Histogram {
    buckets: Vec<(f64, f64)>,
}

/// What a share of the observations did not exceed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Quantile {
    /// About so much.
    About(f64),
    /// More than the highest bound, which is this.
    Over(f64),
}

impl Histogram {
    /// Bounds in ascending order, the last one infinite.
    pub(super) fn new(buckets: Vec<(f64, f64)>) -> Histogram {
        Histogram { buckets }
    }

    /// What came since an earlier reading of the same histogram.
    pub(super) fn since(&self, earlier: &Histogram) -> Histogram {
        let before = |bound: f64| earlier.buckets.iter().find(|(at, _)| *at == bound).map_or(0.0, |(_, count)| *count);
        let buckets = self.buckets.iter().map(|(bound, count)| (*bound, (count - before(*bound)).max(0.0)));
        Histogram::new(buckets.collect())
    }

    /// How many observations.
    pub(super) fn count(&self) -> f64 {
        self.buckets.last().map_or(0.0, |(_, count)| *count)
    }

    /// What this share did not exceed, by linear interpolation within its bucket, as Prometheus'
    /// `histogram_quantile` does it; none of nothing.
    pub(super) fn quantile(&self, share: f64) -> Option<Quantile> {
        let rank = share * self.count();
        if rank <= 0.0 {
            return None;
        }
        let (mut below, mut counted) = (0.0, 0.0);
        for (bound, count) in &self.buckets {
            if *count >= rank {
                return Some(match bound.is_infinite() {
                    true => Quantile::Over(below),
                    false => Quantile::About(below + (bound - below) * (rank - counted) / (count - counted)),
                });
            }
            (below, counted) = (*bound, *count);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram(counts: [f64; 3]) -> Histogram {
        Histogram::new(vec![(1.0, counts[0]), (2.0, counts[1]), (f64::INFINITY, counts[2])])
    }

    #[test]
    fn quantiles_are_interpolated() {
        let all = histogram([50.0, 90.0, 100.0]);
        assert_eq!(all.quantile(0.5), Some(Quantile::About(1.0)));
        assert_eq!(all.quantile(0.7), Some(Quantile::About(1.5)));
        assert_eq!(all.quantile(0.99), Some(Quantile::Over(2.0)));
        assert_eq!(histogram([0.0; 3]).quantile(0.5), None);
        assert_eq!(Histogram::default().quantile(0.5), None);
    }

    #[test]
    fn a_later_reading_less_an_earlier_one() {
        let came = histogram([10.0, 30.0, 30.0]).since(&histogram([10.0, 20.0, 20.0]));
        assert_eq!((came.clone(), came.count()), (histogram([0.0, 10.0, 10.0]), 10.0));
        assert_eq!(came.quantile(0.5), Some(Quantile::About(1.5)));
        // Another service than before: never less than nothing.
        assert_eq!(histogram([1.0, 1.0, 1.0]).since(&histogram([9.0, 9.0, 9.0])), histogram([0.0; 3]));
    }
}
