//! Listeners of slots that are down, lent to neighbours that serve.
//!
//! The kernel goes on routing connections to every socket of a `SO_REUSEPORT` group. Those of a worker that is replaced
//! at once wait in its queue; where it takes longer, a neighbour accepts them.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use baton_ipc::messages::ToWorker;
use baton_ipc::{Endpoint, Slot as SlotId};

use crate::slot::Slot;
use crate::supervisor::{Phase, Supervisor};
use crate::transfer::Who;

/// A slot that will be down for longer than this lends its listeners.
const MOMENT: Duration = Duration::from_millis(200);

/// A start may take this long before the queue is taken care of.
const START_MOMENT: Duration = Duration::from_secs(1);

/// Whether the clients of a slot should not wait for it any longer.
fn needs_help(slot: &Slot, down_for: Duration, now: Instant) -> bool {
    match slot {
        Slot::Serving { .. } => false,
        Slot::Vacant { retry_at } => *retry_at > now + MOMENT || down_for > START_MOMENT,
        Slot::Starting { .. } => down_for > START_MOMENT,
        Slot::Killed { .. } => down_for > MOMENT,
        // It has stopped accepting, or there is nobody to accept.
        Slot::Draining { .. } | Slot::Stopped | Slot::Fatal { .. } => true,
    }
}

/// The next slot, going round, that serves.
fn borrower(serving: &[bool], slot: SlotId) -> Option<SlotId> {
    let count = serving.len();
    let round = (1..count).map(|step| (usize::from(slot) + step) % count);
    round.into_iter().find(|index| serving[*index]).map(|index| index as SlotId)
}

impl Supervisor<'_> {
    /// Lends what has to be lent and takes back what has not.
    pub(crate) fn arrange_lending(&mut self) {
        if self.phase == Phase::Draining {
            return;
        }
        for slot in 0..self.places.len() as SlotId {
            let place = self.place(slot);
            let lent_to = place.lent_to.filter(|(to, pid)| self.place(*to).slot.is_serving_as(*pid));
            let serves = matches!(place.slot, Slot::Serving { .. });
            let down_for = place.down_since.map_or(Duration::ZERO, |since| self.now.saturating_duration_since(since));
            let needs_help = needs_help(&place.slot, down_for, self.now);
            // A borrower that is gone has closed what it had.
            self.place_mut(slot).lent_to = lent_to;
            match lent_to {
                Some((to, _)) if serves => {
                    self.place_mut(slot).lent_to = None;
                    self.tell(to, &ToWorker::Return { slot });
                    tracing::info!(slot, to, "listeners returned");
                }
                None if needs_help => self.lend(slot),
                Some(_) | None => {}
            }
        }
    }

    fn lend(&mut self, slot: SlotId) {
        let serving: Vec<bool> = self.places.iter().map(|p| matches!(p.slot, Slot::Serving { .. })).collect();
        let Some(to) = borrower(&serving, slot) else { return };
        // A Unix socket is the same for all slots: the neighbour has it already.
        let own = self.listeners.of(slot).iter().filter(|listener| matches!(listener.endpoint, Endpoint::Tcp(_)));
        let Some(worker) = &self.place(to).worker else { return };
        let pid = worker.pid;
        let mut outcome = Ok(());
        let mut count = 0;
        for listener in own {
            let message = ToWorker::Lend { slot, endpoint: listener.endpoint.clone() };
            outcome = outcome.and_then(|()| worker.channel.send(&message, &[listener.socket.as_fd()]));
            count += 1;
        }
        if count == 0 {
            return;
        }
        match outcome {
            Ok(()) => {
                self.place_mut(slot).lent_to = Some((to, pid));
                tracing::warn!(slot, to, "slot is down: its listeners are lent to a neighbour");
            }
            Err(error) => self.undelivered(Who { slot: to, pid }, &error),
        }
    }
}

#[cfg(test)]
mod tests {
    use nix::unistd::Pid;

    use super::*;

    #[test]
    fn the_next_neighbour_that_serves_borrows() {
        assert_eq!(borrower(&[true, false, true, true], 1), Some(2));
        assert_eq!(borrower(&[true, false, false, false], 3), Some(0));
        assert_eq!(borrower(&[false, true, false], 1), None, "never oneself");
        assert_eq!(borrower(&[true], 0), None);
    }

    #[test]
    fn a_moment_is_waited_for() {
        let (now, pid) = (Instant::now(), Pid::from_raw(1));
        let short = Duration::from_millis(50);
        assert!(!needs_help(&Slot::Vacant { retry_at: now + MOMENT / 2 }, short, now));
        assert!(needs_help(&Slot::Vacant { retry_at: now + MOMENT * 2 }, short, now));
        assert!(!needs_help(&Slot::Starting { pid, deadline: now }, short, now));
        assert!(needs_help(&Slot::Starting { pid, deadline: now }, START_MOMENT * 2, now));
        assert!(!needs_help(&Slot::Serving { pid, since: now }, START_MOMENT * 2, now));
        assert!(needs_help(&Slot::Stopped, Duration::ZERO, now));
        assert!(needs_help(&Slot::Fatal { cause: String::new() }, Duration::ZERO, now));
    }
}
