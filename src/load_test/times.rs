//! Durations by the thousand: an HDR histogram, that can travel and be drawn.

use std::fmt::Write;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Nothing is longer: what is counts as this long.
const MOST: Duration = Duration::from_secs(3600);

/// Rows of a drawing.
const ROWS: usize = 12;

/// Width of the longest bar, in characters.
const BAR: usize = 40;

/// Durations in nanoseconds, to three digits.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Times(Histogram<u64>);

impl Default for Times {
    fn default() -> Times {
        let bounds = (1, MOST.as_nanos() as u64);
        Times(Histogram::new_with_bounds(bounds.0, bounds.1, 3).expect("bounds that a histogram may have"))
    }
}

impl Times {
    #[inline]
    pub(super) fn record(&mut self, time: Duration) {
        self.0.saturating_record((time.as_nanos() as u64).max(1));
    }

    pub(super) fn add(&mut self, other: &Times) {
        self.0 += &other.0;
    }

    pub(super) fn count(&self) -> u64 {
        self.0.len()
    }

    pub(super) fn max(&self) -> Duration {
        Duration::from_nanos(self.0.max())
    }

    pub(super) fn mean(&self) -> Duration {
        Duration::from_nanos(self.0.mean() as u64)
    }

    /// The time that so many percent are not above.
    pub(super) fn percentile(&self, percent: f64) -> Duration {
        Duration::from_nanos(self.0.value_at_percentile(percent)).min(self.max())
    }

    /// How they are spread: a row for each doubling, or, of times that are far apart, for several.
    pub(super) fn drawing(&self) -> String {
        if self.count() == 0 {
            return String::new();
        }
        // In microseconds: what is below one is not told apart.
        let octave = |nanoseconds: u64| (nanoseconds / 1000).max(1).ilog2() as usize;
        let (least, most) = (octave(self.0.min()), octave(self.0.max()));
        let per_row = (most - least + 1).div_ceil(ROWS);
        let mut rows = vec![0u64; (most - least) / per_row + 1];
        for step in self.0.iter_recorded() {
            let row = octave(step.value_iterated_to()).clamp(least, most) - least;
            rows[row / per_row] += step.count_at_value();
        }
        let longest = rows.iter().copied().max().unwrap_or(1).max(1);
        let mut text = String::new();
        for (row, number) in rows.iter().enumerate() {
            let below = Duration::from_micros(1 << (least + (row + 1) * per_row));
            let share = 100.0 * *number as f64 / self.count() as f64;
            // What there is at all can be seen.
            let bar = (*number as usize * BAR).div_ceil(longest as usize);
            let line = format!("  < {:>9}  {share:6.2} %  {}", show(below), "█".repeat(bar));
            let _ = writeln!(text, "{}", line.trim_end());
        }
        text
    }
}

/// A duration to three digits, in the unit that suits it.
pub(super) fn show(time: Duration) -> String {
    let nanoseconds = time.as_nanos() as f64;
    let (value, unit) = match time.as_nanos() {
        0..1_000_000 => (nanoseconds / 1e3, "µs"),
        1_000_000..1_000_000_000 => (nanoseconds / 1e6, "ms"),
        _ => (nanoseconds / 1e9, "s"),
    };
    let digits = match value {
        v if v < 9.995 => 2,
        v if v < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.digits$} {unit}")
}

/// As pairs of value and number, which is short, since few values occur.
impl Serialize for Times {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter_recorded().map(|step| (step.value_iterated_to(), step.count_at_value())))
    }
}

impl<'de> Deserialize<'de> for Times {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Times, D::Error> {
        let mut times = Times::default();
        for (value, number) in Vec::<(u64, u64)>::deserialize(deserializer)? {
            times.0.saturating_record_n(value, number);
        }
        Ok(times)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(milliseconds: impl IntoIterator<Item = u64>) -> Times {
        let mut times = Times::default();
        milliseconds.into_iter().for_each(|ms| times.record(Duration::from_millis(ms)));
        times
    }

    fn near(a: Duration, b: Duration) -> bool {
        a.abs_diff(b) <= b / 500
    }

    #[test]
    fn merged_histograms_are_as_if_one_had_recorded_all() {
        let mut merged = times(1..=500);
        // As it comes from another process.
        let line = serde_json::to_string(&times(501..=1000)).unwrap();
        merged.add(&serde_json::from_str(&line).unwrap());
        let one = times(1..=1000);
        assert_eq!(merged.count(), 1000);
        for percent in [0.1, 50.0, 95.0, 99.0, 99.9, 100.0] {
            let expected = Duration::from_micros((percent * 10_000.0) as u64);
            assert!(near(merged.percentile(percent), expected), "{percent}: {:?}", merged.percentile(percent));
            assert!(near(one.percentile(percent), expected));
        }
        assert!(near(merged.mean(), Duration::from_micros(500_500)));
    }

    #[test]
    fn none_and_too_long() {
        let none = times([]);
        assert_eq!((none.count(), none.max(), none.percentile(99.0)), (0, Duration::ZERO, Duration::ZERO));
        assert_eq!(none.drawing(), "");
        assert!(near(times([36_000_000]).max(), MOST));
    }

    #[test]
    fn a_drawing_has_a_row_for_each_doubling() {
        let mut some = times([3; 30]);
        some.add(&times([5; 60]));
        some.add(&times([17; 10]));
        let drawing = "  <   4.10 ms   30.00 %  ████████████████████\n  \
                         <   8.19 ms   60.00 %  ████████████████████████████████████████\n  \
                         <   16.4 ms    0.00 %\n  \
                         <   32.8 ms   10.00 %  ███████\n";
        assert_eq!(some.drawing(), drawing);
        assert!(times((0..28).map(|power| 1 << power)).drawing().lines().count() <= ROWS);
    }

    #[test]
    fn durations_have_three_digits() {
        let cases =
            [(0, "0.00 µs"), (1_234, "1.23 µs"), (45_678, "45.7 µs"), (999_000, "999 µs"), (1_000_000, "1.00 ms")];
        for (nanoseconds, text) in cases.into_iter().chain([(12_345_678, "12.3 ms"), (60_000_000_000, "60.0 s")]) {
            assert_eq!(show(Duration::from_nanos(nanoseconds)), text);
        }
    }
}
