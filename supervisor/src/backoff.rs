//! How long a slot waits after a death, and when it gives up. Pure.
//!
//! The first death is answered at once: a single crash must cost its clients nothing but a reconnect. After that the
//! delay doubles, with jitter, so that slots which fail for one common reason do not come back in step.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The delay after the second death in a row.
pub(crate) const FIRST_DELAY: Duration = Duration::from_millis(100);

/// No delay is longer.
pub(crate) const LONGEST_DELAY: Duration = Duration::from_secs(30);

/// This many deaths within [`WINDOW`] and the slot gives up.
pub(crate) const BREAKER: usize = 10;

/// See [`BREAKER`].
pub(crate) const WINDOW: Duration = Duration::from_secs(60);

/// A worker that served this long was healthy: what came before it is forgotten.
pub(crate) const HEALTHY: Duration = Duration::from_secs(10);

/// The deaths of a slot's workers since the last healthy one.
#[derive(Clone, Debug)]
pub(crate) struct Deaths {
    // Deaths in a row, also those that have left the window: a worker that takes long to die must still be waited
    // for longer and longer.
    streak: u32,
    recent: VecDeque<Instant>,
    random: fastrand::Rng,
}

/// What follows from a death.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Try again after this delay.
    Retry(Duration),
    /// No more tries.
    GiveUp,
}

impl Deaths {
    /// None yet. `seed` makes the jitter differ from slot to slot.
    pub(crate) fn none(seed: u64) -> Deaths {
        Deaths { streak: 0, recent: VecDeque::new(), random: fastrand::Rng::with_seed(seed) }
    }

    /// A worker has ended its service after this time.
    pub(crate) fn served(&mut self, time: Duration) {
        if time >= HEALTHY {
            self.forget();
        }
    }

    /// An operator says that the reason is gone.
    pub(crate) fn forget(&mut self) {
        self.streak = 0;
        self.recent.clear();
    }

    /// Notes a death.
    pub(crate) fn died(&mut self, now: Instant) -> Verdict {
        self.streak = self.streak.saturating_add(1);
        self.recent.push_back(now);
        self.recent.retain(|death| now.saturating_duration_since(*death) < WINDOW);
        if self.recent.len() >= BREAKER {
            return Verdict::GiveUp;
        }
        let Some(doublings) = self.streak.checked_sub(2) else { return Verdict::Retry(Duration::ZERO) };
        let delay = FIRST_DELAY.saturating_mul(1 << doublings.min(16)).min(LONGEST_DELAY);
        Verdict::Retry(delay.mul_f64(0.5 + self.random.f64() / 2.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delay(verdict: Verdict) -> Duration {
        match verdict {
            Verdict::Retry(delay) => delay,
            Verdict::GiveUp => panic!("gave up"),
        }
    }

    #[test]
    fn the_first_restart_is_at_once_then_delays_double_up_to_the_cap() {
        let (mut deaths, mut now) = (Deaths::none(1), Instant::now());
        assert_eq!(delay(deaths.died(now)), Duration::ZERO);
        let mut full = FIRST_DELAY;
        for _ in 0..40 {
            now += WINDOW; // too slow for the breaker
            let delay = delay(deaths.died(now));
            assert!(delay >= full / 2 && delay <= full, "{delay:?} is not about {full:?}");
            full = (full * 2).min(LONGEST_DELAY);
        }
        assert_eq!(full, LONGEST_DELAY);
    }

    #[test]
    fn ten_deaths_in_a_minute_trip_the_breaker() {
        let (mut deaths, mut now) = (Deaths::none(2), Instant::now());
        let start = now;
        for _ in 1..BREAKER {
            now += delay(deaths.died(now));
        }
        assert!(now - start < WINDOW, "the breaker must be reachable by a worker that dies at once");
        assert_eq!(deaths.died(now), Verdict::GiveUp);
        deaths.forget();
        assert_eq!(deaths.died(now), Verdict::Retry(Duration::ZERO));
    }

    #[test]
    fn a_healthy_service_is_a_new_beginning_and_a_short_one_is_not() {
        let (mut deaths, now) = (Deaths::none(3), Instant::now());
        deaths.died(now);
        deaths.served(HEALTHY - Duration::from_millis(1));
        assert!(delay(deaths.died(now)) > Duration::ZERO);
        deaths.served(HEALTHY);
        assert_eq!(deaths.died(now), Verdict::Retry(Duration::ZERO));
    }

    #[test]
    fn jitter_differs_between_slots() {
        let now = Instant::now();
        let second = |seed| {
            let mut deaths = Deaths::none(seed);
            deaths.died(now);
            delay(deaths.died(now))
        };
        assert_ne!(second(1), second(2));
    }
}
