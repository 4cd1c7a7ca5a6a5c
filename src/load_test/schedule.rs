//! When the things of a run are due, so many a second, and how such a rate is written.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Every `step`th of a series of so many a second, beginning with the `first`: several processes share one series, and
/// together keep its even distances.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Schedule {
    per_second: f64,
    first: u32,
    step: u32,
}

impl Schedule {
    pub(super) fn new(per_second: f64, first: u32, step: u32) -> Schedule {
        Schedule { per_second, first, step }
    }

    /// When the `n`th (from 0) is due, after the series began. Not a sum of distances: no error adds up.
    pub(super) fn due(&self, n: u64) -> Duration {
        let place = f64::from(self.first) + n as f64 * f64::from(self.step);
        Duration::from_secs_f64(place / self.per_second)
    }
}

/// A rate as it is written: `1000/s`, `1000`, `600/m`; in events per second.
pub(super) fn rate(text: &str) -> Result<f64, String> {
    const MOST: f64 = 10_000_000.0;
    let (number, seconds) = match text.split_once('/') {
        None => (text, 1.0),
        Some((number, "s")) => (number, 1.0),
        Some((number, "m")) => (number, 60.0),
        Some((number, "h")) => (number, 3600.0),
        Some(_) => ("", 1.0),
    };
    // What a float may be written like otherwise, such as `inf` or `1e5`, is no rate.
    let written = number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let rate = number.parse::<f64>().ok().filter(|_| written).map(|number| number / seconds);
    rate.filter(|rate| *rate > 0.0 && *rate <= MOST).ok_or_else(|| {
        "a number above 0 and its unit of time, such as 1000/s, 600/m or 10/h, at most 10000000/s".to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_written_with_their_unit() {
        for (text, per_second) in [("1000/s", 1000.0), ("5", 5.0), ("0.5/s", 0.5), ("600/m", 10.0), ("36/h", 0.01)] {
            assert_eq!(rate(text), Ok(per_second), "{text}");
        }
        for text in ["", "/s", "0", "0/s", "-1/s", "1000/d", "1000/", "inf", "NaN", "1e3", "1.2.3", "99999999999/s"] {
            assert!(rate(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_due_keeps_even_distances() {
        let schedule = Schedule::new(1000.0, 0, 1);
        assert_eq!([0, 1, 2, 60_000].map(|n| schedule.due(n).as_millis()), [0, 1, 2, 60_000]);
    }

    #[test]
    fn processes_share_one_series() {
        let one = Schedule::new(3000.0, 0, 1);
        let shares = [0, 1, 2].map(|first| Schedule::new(3000.0, first, 3));
        let mut together: Vec<Duration> = (0..100).flat_map(|n| shares.map(|share| share.due(n))).collect();
        together.sort();
        assert_eq!(together, (0..300).map(|n| one.due(n)).collect::<Vec<_>>());
    }
}
