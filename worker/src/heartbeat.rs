//! When heartbeats are due: at wall-clock multiples of the interval, so that every worker of every host says the same.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970.
pub(crate) fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// The beats of one worker.
#[derive(Debug)]
pub(crate) struct Beats {
    interval_ms: u64,
    last_ms: u64,
    /// How far, in milliseconds, the last one may be in the future without the clock having been set back.
    slack_ms: u64,
}

/// How far, in milliseconds, the clock of another host may be ahead.
pub(crate) const AHEAD_MS: u64 = 5000;

/// Whose clock says when a heartbeat is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Clocks {
    /// That of this host alone.
    Own,
    /// Those of other hosts too, see [`AHEAD_MS`].
    Several,
}

impl Clocks {
    /// How far, in milliseconds, the time of a heartbeat may be in the future.
    pub(crate) fn ahead_ms(self) -> u64 {
        match self {
            Clocks::Own => 0,
            Clocks::Several => AHEAD_MS,
        }
    }
}

/// What to do at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Beat {
    /// Send the heartbeat of this time (milliseconds since 1970).
    Now(u64),
    /// Nothing for so long.
    Wait(Duration),
    /// Begin anew: the clock was set back, and what had a heartbeat of a time to come has not had those that come now.
    SetBack,
}

impl Beats {
    /// The first beat is the next multiple after `now_ms`.
    pub(crate) fn new(interval: Duration, clocks: Clocks, now_ms: u64) -> Beats {
        let interval_ms = (interval.as_millis() as u64).max(1);
        let slack_ms = interval_ms.max(clocks.ahead_ms());
        Beats { interval_ms, last_ms: now_ms - now_ms % interval_ms, slack_ms }
    }

    /// The last one that is not to be made any more; at first the one before the worker began.
    pub(crate) fn last(&self) -> u64 {
        self.last_ms
    }

    /// Decides. A clock that is set back by less than an interval makes no second beat of the same time, and the next one is
    /// later by that much; one that is set back further begins anew from there, rather than being silent until the old time.
    /// One that is set forward skips what it jumped over.
    pub(crate) fn at(&mut self, now_ms: u64) -> Beat {
        let due = now_ms - now_ms % self.interval_ms;
        if due > self.last_ms {
            self.last_ms = due;
            return Beat::Now(due);
        }
        if now_ms.saturating_add(self.slack_ms) < self.last_ms {
            self.last_ms = due;
            return Beat::SetBack;
        }
        Beat::Wait(self.until_next(now_ms))
    }

    /// How long it is to the next one, if the clock is not set meanwhile.
    pub(crate) fn until_next(&self, now_ms: u64) -> Duration {
        Duration::from_millis((self.last_ms + self.interval_ms).saturating_sub(now_ms))
    }

    /// Somebody else says that this beat is due. `true`: it was not sent yet, and can be one. A clock elsewhere may be ahead
    /// a little; one that is far ahead must not silence us until its time.
    pub(crate) fn heard(&mut self, at_ms: u64, now_ms: u64) -> bool {
        let new = at_ms > self.last_ms && at_ms.is_multiple_of(self.interval_ms) && at_ms <= now_ms + AHEAD_MS;
        if new {
            self.last_ms = at_ms;
        }
        new
    }
}

/// RFC 3339 in UTC with milliseconds: `2026-01-01T12:00:00.000Z`.
pub(crate) fn rfc3339(ms: u64) -> String {
    let (days, ms_of_day) = (ms / 86_400_000, ms % 86_400_000);
    // Days to civil date: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", days_from_civil's inverse.
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (ms_of_day / 3_600_000, ms_of_day / 60_000 % 60, ms_of_day / 1000 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", ms_of_day % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn dates() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(951_782_399_999), "2000-02-28T23:59:59.999Z");
        assert_eq!(rfc3339(951_782_400_000), "2000-02-29T00:00:00.000Z");
        assert_eq!(rfc3339(1_767_268_800_000), "2026-01-01T12:00:00.000Z");
        assert_eq!(rfc3339(4_107_542_400_000), "2100-03-01T00:00:00.000Z");
    }

    #[test]
    fn a_beat_is_at_a_multiple_once() {
        let mut beats = Beats::new(Duration::from_secs(30), Clocks::Own, 100_000);
        assert_eq!(beats.at(100_000), Beat::Wait(Duration::from_secs(20)));
        assert_eq!(beats.at(120_004), Beat::Now(120_000));
        assert_eq!(beats.at(120_004), Beat::Wait(Duration::from_millis(29_996)));
        assert_eq!(beats.at(119_990), Beat::Wait(Duration::from_millis(30_010)), "set back a little");
        assert_eq!(beats.at(300_001), Beat::Now(300_000), "set forward");
        assert_eq!(beats.at(60_000), Beat::SetBack);
        assert_eq!(beats.at(60_000), Beat::Wait(Duration::from_secs(30)), "set back a lot");
        assert_eq!(beats.at(90_000), Beat::Now(90_000));
    }

    #[test]
    fn a_clock_that_another_one_is_ahead_of_was_not_set_back() {
        let second = Duration::from_secs(1);
        let mut beats = Beats::new(second, Clocks::Several, 100_000);
        assert!(beats.heard(104_000, 100_010));
        assert_eq!(beats.at(100_010), Beat::Wait(Duration::from_millis(4990)));
        assert_eq!(beats.at(98_900), Beat::SetBack);
        let mut alone = Beats::new(second, Clocks::Own, 100_000);
        assert_eq!(alone.at(98_900), Beat::SetBack);
        assert_eq!(alone.at(99_000), Beat::Now(99_000));
    }

    #[test]
    fn a_beat_that_was_heard_is_not_made_again() {
        let mut beats = Beats::new(Duration::from_secs(30), Clocks::Several, 100_000);
        assert!(beats.heard(120_000, 119_900), "another clock is a little ahead");
        assert!(!beats.heard(120_000, 119_950));
        assert_eq!(beats.at(120_000), Beat::Wait(Duration::from_secs(30)));
        assert_eq!(beats.at(150_001), Beat::Now(150_000));
        assert!(!beats.heard(150_000, 150_200), "late");
        assert!(!beats.heard(990_000, 160_000), "a clock that is far ahead");
        assert!(!beats.heard(151_000, 160_000), "another interval");
    }

    proptest! {
        #[test]
        fn no_beat_comes_twice_while_the_clock_goes_forward(steps in prop::collection::vec(0..5_000u64, 1..100)) {
            let (mut now, mut last) = (1_000_000, 0);
            let mut beats = Beats::new(Duration::from_secs(1), Clocks::Own, now);
            for step in steps {
                now += step;
                match beats.at(now) {
                    Beat::Now(at) => {
                        prop_assert!(at > last && at % 1000 == 0 && at <= now && now - at < 1000);
                        last = at;
                    }
                    Beat::Wait(wait) => prop_assert!(wait <= Duration::from_secs(1)),
                    Beat::SetBack => prop_assert!(false, "it was not"),
                }
            }
        }

        #[test]
        fn no_setting_of_the_clock_silences_for_more_than_two_intervals(
            clocks in prop_oneof![Just(Clocks::Own), Just(Clocks::Several)],
            set_to in prop::collection::vec(0..10_000_000u64, 1..20),
        ) {
            let interval = 10_000;
            let mut beats = Beats::new(Duration::from_millis(interval), clocks, 5_000_000);
            for now in set_to {
                let beat = |beats: &mut Beats, now| match beats.at(now) {
                    Beat::SetBack => beats.at(now),
                    beat => beat,
                };
                if let Beat::Wait(wait) = beat(&mut beats, now) {
                    prop_assert!(wait <= Duration::from_millis(2 * interval), "{wait:?}");
                    let then = now + wait.as_millis() as u64;
                    prop_assert_eq!(beat(&mut beats, then), Beat::Now(then));
                }
            }
        }
    }
}
