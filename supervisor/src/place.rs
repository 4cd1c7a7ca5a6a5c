//! One slot as the supervisor holds it: its state, its process, and what `status` tells about it.

use std::collections::VecDeque;
use std::time::Instant;

use baton_ipc::{Side, Slot as SlotId};
use nix::unistd::Pid;

use crate::backoff::Deaths;
use crate::operation::View;
use crate::process::Worker;
use crate::slot::Slot;

/// Over so many samples, one a second, the message rate is taken.
const RATE_SAMPLES: usize = 6;

/// A slot and all that belongs to it.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) slot: Slot,
    /// Where the process writes on the scoreboard.
    pub(crate) side: Side,
    pub(crate) deaths: Deaths,
    /// The process, until it is reaped.
    pub(crate) worker: Option<Worker>,
    /// Since when nobody serves here.
    pub(crate) down_since: Option<Instant>,
    /// Which worker accepts for this slot.
    pub(crate) lent_to: Option<(SlotId, Pid)>,
    /// What the worker said about why it cannot start.
    pub(crate) complaint: Option<String>,
    /// What the worker said about why its backplane is degraded, while it is.
    pub(crate) degraded: Option<String>,
    /// Why the last worker ended.
    pub(crate) last_cause: Option<String>,
    /// How many ended unasked.
    pub(crate) unasked: u64,
    pub(crate) rate: Rate,
}

impl Place {
    /// A new one, in this state.
    pub(crate) fn new(slot: Slot, seed: u64, now: Instant) -> Place {
        Place {
            slot,
            side: Side::A,
            deaths: Deaths::none(seed),
            worker: None,
            down_since: Some(now),
            lent_to: None,
            complaint: None,
            degraded: None,
            last_cause: None,
            unasked: 0,
            rate: Rate::default(),
        }
    }

    pub(crate) fn view(&self) -> View<'_> {
        View { slot: &self.slot, deaths: self.unasked, last_cause: self.last_cause.as_deref() }
    }

    /// It has never served, and has not failed to either.
    pub(crate) fn is_new(&self) -> bool {
        self.unasked == 0 && matches!(self.slot, Slot::Vacant { .. } | Slot::Starting { .. })
    }
}

/// Messages per second over the last few seconds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rate {
    samples: VecDeque<(Instant, u64)>,
}

impl Rate {
    /// Notes the counter, once a second.
    pub(crate) fn sample(&mut self, now: Instant, count: u64) {
        self.samples.push_back((now, count));
        if self.samples.len() > RATE_SAMPLES {
            self.samples.pop_front();
        }
    }

    pub(crate) fn per_second(&self) -> f64 {
        match (self.samples.front(), self.samples.back()) {
            (Some((from, first)), Some((to, last))) if to > from => {
                last.saturating_sub(*first) as f64 / to.duration_since(*from).as_secs_f64()
            }
            _ => 0.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_rate_is_of_the_last_seconds_only() {
        let (mut rate, now) = (Rate::default(), Instant::now());
        assert_eq!(rate.per_second(), 0.0);
        for second in 0..20 {
            let count = if second < 10 { 1000 * second } else { 9000 + 10 * (second - 9) };
            rate.sample(now + Duration::from_secs(second), count);
        }
        assert_eq!(rate.per_second(), 10.0);
    }
}
