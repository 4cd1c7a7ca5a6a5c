//! One slot as the supervisor holds it: its state, its process, and what `status` tells about it.

use std::collections::VecDeque;
use std::time::Instant;

use baton_ipc::{Side, Slot as SlotId};
use nix::unistd::Pid;

use crate::backoff::Deaths;
use crate::operation::View;
use crate::process::Worker;
use crate::relief::{Leaving, Relief};
use crate::slot::Slot;
use crate::transfer::Who;

/// Over so many samples, one a second, the message rate is taken.
const RATE_SAMPLES: usize = 6;

/// A slot and all that belongs to it.
#[derive(Debug)]
pub(crate) struct Place {
    /// Which slot.
    pub(crate) number: SlotId,
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
    /// Who comes in place of the worker.
    pub(crate) relief: Option<Relief>,
    /// Those who were here before.
    pub(crate) leaving: Vec<Leaving>,
    /// Reliefs that came to nothing.
    pub(crate) failed_reliefs: u64,
    /// What is to be told of the last relief.
    pub(crate) note: Option<String>,
    /// Why the last worker ended.
    pub(crate) last_cause: Option<String>,
    /// How many ended unasked.
    pub(crate) unasked: u64,
    pub(crate) rate: Rate,
}

impl Place {
    /// A new one, in this state.
    pub(crate) fn new(number: SlotId, slot: Slot, now: Instant) -> Place {
        let seed = (u64::from(std::process::id()) << 16) + u64::from(number);
        Place {
            number,
            slot,
            side: Side::A,
            deaths: Deaths::none(seed),
            worker: None,
            down_since: Some(now),
            lent_to: None,
            relief: None,
            leaving: vec![],
            failed_reliefs: 0,
            note: None,
            last_cause: None,
            unasked: 0,
            rate: Rate::default(),
        }
    }

    pub(crate) fn view(&self) -> View<'_> {
        View {
            slot: &self.slot,
            deaths: self.unasked,
            failed_reliefs: self.failed_reliefs,
            last_cause: self.last_cause.as_deref(),
            note: self.note.as_deref(),
        }
    }

    /// Who holds the slot.
    pub(crate) fn holder(&self) -> Option<Who> {
        let slot = self.number;
        self.worker.as_ref().map(|worker| Who { slot, pid: worker.pid })
    }

    /// All processes of the slot that are not reaped.
    pub(crate) fn workers(&self) -> impl Iterator<Item = &Worker> {
        let relief = self.relief.as_ref().and_then(Relief::worker);
        self.worker.iter().chain(relief).chain(self.leaving.iter().map(|leaving| &leaving.worker))
    }

    pub(crate) fn find_worker(&self, pid: Pid) -> Option<&Worker> {
        self.workers().find(|worker| worker.pid == pid)
    }

    pub(crate) fn worker_mut(&mut self, pid: Pid) -> Option<&mut Worker> {
        let relief = self.relief.as_mut().and_then(Relief::worker_mut);
        let leaving = self.leaving.iter_mut().map(|leaving| &mut leaving.worker);
        self.worker.iter_mut().chain(relief).chain(leaving).find(|worker| worker.pid == pid)
    }

    /// When something has to be done about those who come and those who leave.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let relief = self.relief.as_ref().map(Relief::deadline);
        relief.into_iter().chain(self.leaving.iter().map(|leaving| leaving.deadline)).min()
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
