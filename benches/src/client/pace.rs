//! An open loop: when each thing is due, whatever became of those before it.
//!
//! Latency is counted from when something was due, not from when it was done: a client that waits for a server that
//! pauses, and only then goes on, would see the pause once, where a thousand users see it.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// So many a second, evenly.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    start: Instant,
    per_second: f64,
}

impl Pace {
    /// Begins now.
    pub fn of(per_second: f64) -> Pace {
        Pace { start: Instant::now(), per_second }
    }

    /// All at once, now.
    pub fn at_once() -> Pace {
        Pace::of(f64::INFINITY)
    }

    /// When the `nth` is due; the first is number 0.
    #[inline]
    pub fn due(&self, nth: u64) -> Instant {
        self.start + Duration::from_secs_f64(nth as f64 / self.per_second)
    }
}

/// Latencies of all that was due in some stretch of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latencies {
    /// How many.
    pub number: u64,
    /// Half of them were not above this, in microseconds.
    pub p50_us: u32,
    /// 99 of 100.
    pub p99_us: u32,
    /// 999 of 1000.
    pub p999_us: u32,
    /// All of them.
    pub longest_us: u32,
    /// By how much the client itself was late, at most. It is part of the latencies.
    pub late_us: u32,
}

/// What was due in one stretch. Every sample is kept: a run is bounded by its rate and its time.
#[derive(Debug, Default)]
struct Stretch {
    samples: Vec<u32>,
    late_us: u32,
}

impl Stretch {
    fn latencies(mut self) -> Latencies {
        self.samples.sort_unstable();
        let quantile = |share: f64| {
            let place = (share * self.samples.len() as f64).ceil() as usize;
            self.samples.get(place.saturating_sub(1)).copied().unwrap_or(0)
        };
        Latencies {
            number: self.samples.len() as u64,
            p50_us: quantile(0.5),
            p99_us: quantile(0.99),
            p999_us: quantile(0.999),
            longest_us: quantile(1.0),
            late_us: self.late_us,
        }
    }
}

/// A stretch with a figure of its own.
#[derive(Debug)]
struct Mark {
    from: Instant,
    /// None: it goes on.
    until: Option<Instant>,
    stretch: Stretch,
}

/// All latencies of a run: those of the stretches that were marked, and the rest.
#[derive(Debug, Default)]
pub(crate) struct Record {
    marks: Vec<Mark>,
    rest: Stretch,
}

impl Record {
    /// A stretch begins.
    pub(crate) fn mark(&mut self, now: Instant) {
        self.unmark(now);
        self.marks.push(Mark { from: now, until: None, stretch: Stretch::default() });
    }

    /// It ends, if there is one.
    pub(crate) fn unmark(&mut self, now: Instant) {
        if let Some(mark) = self.marks.last_mut() {
            mark.until.get_or_insert(now);
        }
    }

    /// What was `due` is begun `now`.
    pub(crate) fn begun(&mut self, due: Instant, now: Instant) {
        let stretch = self.stretch(due);
        stretch.late_us = stretch.late_us.max(micros(due, now));
    }

    /// What was `due` is done `now`.
    pub(crate) fn done(&mut self, due: Instant, now: Instant) {
        self.stretch(due).samples.push(micros(due, now));
    }

    /// Those of each stretch, and of the rest.
    pub(crate) fn finish(self) -> (Vec<Latencies>, Latencies) {
        (self.marks.into_iter().map(|mark| mark.stretch.latencies()).collect(), self.rest.latencies())
    }

    fn stretch(&mut self, due: Instant) -> &mut Stretch {
        let within = |mark: &&mut Mark| mark.from <= due && mark.until.is_none_or(|until| due < until);
        self.marks.iter_mut().rev().find(within).map_or(&mut self.rest, |mark| &mut mark.stretch)
    }
}

fn micros(due: Instant, now: Instant) -> u32 {
    u32::try_from(now.saturating_duration_since(due).as_micros()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thousand_a_second_are_due_every_millisecond() {
        let pace = Pace::of(1_000.0);
        assert_eq!(pace.due(5) - pace.due(2), Duration::from_millis(3));
        let pace = Pace::at_once();
        assert_eq!(pace.due(5), pace.due(0));
    }

    #[test]
    fn a_late_answer_belongs_to_the_time_when_it_was_due() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut record = Record::default();
        record.done(at(1), at(2));
        record.mark(at(10));
        record.begun(at(10), at(11));
        record.done(at(10), at(90));
        record.unmark(at(20));
        record.done(at(15), at(95));
        record.done(at(20), at(21));
        let (marked, rest) = record.finish();
        let slow = Latencies {
            number: 2,
            p50_us: 80_000,
            p99_us: 80_000,
            p999_us: 80_000,
            longest_us: 80_000,
            late_us: 1_000,
        };
        assert_eq!(marked, [slow]);
        assert_eq!((rest.number, rest.longest_us, rest.late_us), (2, 1_000, 0));
    }

    #[test]
    fn quantiles_are_samples() {
        let stretch = Stretch { samples: (1..=1000).rev().collect(), late_us: 0 };
        let latencies = stretch.latencies();
        assert_eq!(
            (latencies.p50_us, latencies.p99_us, latencies.p999_us, latencies.longest_us),
            (500, 990, 999, 1000)
        );
        assert_eq!(Stretch::default().latencies(), Latencies::default());
    }
}
