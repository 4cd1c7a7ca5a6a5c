//! Dealing with workers: what they say, how they end, and doing what [`crate::slot::step`] decides.

use baton_ipc::Slot as SlotId;
use baton_ipc::channel::ChannelError;
use baton_ipc::messages::{FromWorker, ToWorker};
use baton_ipc::scoreboard::{Cause, State, StorePhase, monotonic_ms};
use std::time::Duration;

use crate::place::Place;
use crate::relief::Relief;
use crate::slot::{Action, Event, Slot, step};
use crate::supervisor::{Phase, Supervisor};
use crate::transfer::Who;
use crate::watchdog::{Sample, is_well, judge};

/// So many messages of one worker in a row, then the others get their turn.
const MAX_BURST: usize = 64;

impl Supervisor<'_> {
    /// One event for one slot: step, then perform.
    pub(crate) fn apply(&mut self, slot: SlotId, event: Event) {
        let (now, terms) = (self.now, self.terms());
        let place = self.place_mut(slot);
        let old = std::mem::replace(&mut place.slot, Slot::Stopped);
        let before = (old.state(), old.pid());
        let (next, actions) = step(old, &mut place.deaths, event, now, &terms);
        let after = (next.state(), next.pid());
        place.down_since = match next {
            Slot::Serving { .. } => None,
            _ => place.down_since.or(Some(now)),
        };
        place.slot = next;
        let pid = after.1.map_or(0, |pid| pid.as_raw() as u32);
        self.row(slot).set_state(after.0, pid);
        for action in actions {
            self.perform(slot, action);
        }
        if before != after {
            self.log_change(slot, after.0);
        }
    }

    fn perform(&mut self, slot: SlotId, action: Action) {
        match action {
            Action::Fork => {
                self.to_fork.insert(slot);
            }
            Action::Drain { within } => {
                let within_ms = within.as_millis().try_into().unwrap_or(u64::MAX);
                self.tell(slot, &ToWorker::Drain { within_ms });
            }
            Action::Signal(signal) => {
                let Some(worker) = &self.place(slot).worker else { return };
                tracing::warn!(slot, pid = worker.pid.as_raw(), signal = signal.as_str(), "killing a worker");
                if let Err(error) = worker.signal(signal) {
                    tracing::error!(slot, pid = worker.pid.as_raw(), %error, "cannot signal a worker");
                }
            }
            Action::Ended { cause, words } => self.note_end(slot, cause, words),
        }
    }

    fn note_end(&mut self, slot: SlotId, kind: Cause, cause: String) {
        self.row(slot).ended(kind);
        match kind {
            Cause::Requested => tracing::info!(slot, cause, "worker exited"),
            Cause::Exit | Cause::Signal | Cause::Hang | Cause::StartTimeout => {
                self.place_mut(slot).unasked += 1;
                tracing::warn!(slot, cause, kind = kind.label(), "worker died");
            }
        }
        if kind == Cause::Hang {
            // Those who waited for it could not speak: their silence begins anew.
            self.watch_from = self.now;
        }
        self.place_mut(slot).last_cause = Some(cause);
    }

    fn log_change(&self, slot: SlotId, state: State) {
        let place = self.place(slot);
        let pid = place.slot.pid().map_or(0, nix::unistd::Pid::as_raw);
        match state {
            State::Starting => tracing::info!(slot, pid, "worker started"),
            State::Serving => tracing::info!(slot, pid, "worker ready"),
            State::Draining => tracing::info!(slot, pid, "worker drains"),
            State::Fatal => {
                let cause = place.last_cause.as_deref().unwrap_or_default();
                tracing::error!(slot, cause, "slot is FATAL: its workers died again and again; `start` tries again");
            }
            State::Backoff => {
                let wait = place.slot.deadline().map_or(Duration::ZERO, |at| at.saturating_duration_since(self.now));
                tracing::debug!(slot, retry_in_ms = wait.as_millis() as u64, "slot is vacant");
            }
            State::Stopped | State::Killed => tracing::debug!(slot, pid, ?state, "slot changed"),
        }
    }

    /// Takes what a worker has said.
    pub(crate) fn listen(&mut self, who: Who) {
        for _ in 0..MAX_BURST {
            let place = self.place_mut(who.slot);
            let Some(worker) = place.worker_mut(who.pid).filter(|worker| !worker.mute) else { return };
            match worker.channel.recv::<FromWorker>() {
                Ok(Some((message, _))) => self.hear(who, message),
                Ok(None) => return,
                Err(ChannelError::Closed | ChannelError::Io(_)) => {
                    worker.mute = true;
                    // Most likely it is dead, and then its exit status says more.
                    if !self.reap(who) && self.holds(who) {
                        self.apply(who.slot, Event::Lost);
                    }
                    return;
                }
                Err(error) => {
                    let slot = who.slot;
                    tracing::warn!(slot, %error, "a worker said something that cannot be understood");
                }
            }
        }
    }

    /// Whether this is the worker that the slot is about, and not one that comes or leaves.
    fn holds(&self, who: Who) -> bool {
        self.place(who.slot).holder() == Some(who)
    }

    fn hear(&mut self, who: Who, message: FromWorker) {
        let slot = who.slot;
        match message {
            FromWorker::Ready if self.holds(who) => {
                self.apply(slot, Event::Ready);
                self.review_backplane();
            }
            FromWorker::Ready => self.relief_is_ready(who),
            FromWorker::Failed { cause } => {
                tracing::warn!(slot, cause, "worker cannot start");
                if let Some(worker) = self.place_mut(slot).worker_mut(who.pid) {
                    worker.complaint = Some(cause);
                }
            }
            FromWorker::Backplane { degraded } => {
                if let Some(worker) = self.place_mut(slot).worker_mut(who.pid) {
                    worker.degraded = degraded;
                }
                self.review_backplane();
            }
            FromWorker::Answer { id, answer } => {
                if let Some(inquiry) = self.inquiries.iter_mut().find(|inquiry| inquiry.id == id) {
                    inquiry.hear(slot, answer);
                }
                self.finish_inquiries();
            }
            FromWorker::Ask { id, question } => self.ask_for(who, id, question),
            FromWorker::Given { id, handed, stayed } => self.heard_given(id, handed, stayed),
            FromWorker::Taken { lane, pauses } => self.heard_taken(lane, &pauses),
            FromWorker::Drained(report) => {
                tracing::info!(slot, closed = report.closed, cut = report.cut, "worker has drained");
            }
        }
    }

    /// Takes the exit status of a worker; false if it still runs.
    pub(crate) fn reap(&mut self, who: Who) -> bool {
        let slot = who.slot;
        let Some(worker) = self.place_mut(slot).worker_mut(who.pid) else { return true };
        let (cause, mut words) = match worker.reap() {
            Ok(Some(end)) => end,
            Ok(None) => return false,
            Err(error) => {
                tracing::error!(slot, %error, "cannot take the exit status of a worker");
                return false;
            }
        };
        if let Some(complaint) = worker.complaint.take() {
            words = format!("{words}: {complaint}");
        }
        let side = worker.side;
        self.board.clear(slot, side);
        let (held, now) = (self.holds(who), self.now);
        let place = self.place_mut(slot);
        if held {
            place.worker = None;
            self.inquiries.iter_mut().for_each(|inquiry| inquiry.forget(slot));
            self.apply(slot, Event::Exited { cause, words: words.clone() });
            self.relief_without_holder(slot);
            self.lost_a_worker(slot, &words);
        } else if place.relief.as_ref().and_then(Relief::worker).is_some_and(|worker| worker.pid == who.pid) {
            // Nobody is to be killed any more.
            if let Some(Relief::Starting { .. } | Relief::Handing { .. }) = place.relief.take() {
                place.relief = Some(Relief::Due { at: now });
            }
            self.board.row(slot, side).set_state(State::Stopped, 0);
            self.board.row(slot, side).ended(cause);
            self.relief_failed(slot, &words);
        } else {
            place.leaving.retain(|leaving| leaving.worker.pid != who.pid);
            self.left(slot, side, &words);
        }
        self.transfers_without(who);
        self.review_backplane();
        true
    }

    /// Sends the worker that holds a slot a message. One that is gone will be noticed otherwise.
    pub(crate) fn tell(&mut self, slot: SlotId, message: &ToWorker) -> bool {
        self.place(slot).holder().is_some_and(|who| self.tell_one(who, message))
    }

    /// Sends a worker a message, whether it holds its slot, comes or leaves.
    pub(crate) fn tell_one(&mut self, who: Who, message: &ToWorker) -> bool {
        let Some(worker) = self.place(who.slot).find_worker(who.pid) else { return false };
        match worker.channel.send(message, &[]) {
            Ok(()) => true,
            Err(error) => {
                self.undelivered(who, &error);
                false
            }
        }
    }

    /// A message could not be sent.
    pub(crate) fn undelivered(&mut self, who: Who, error: &ChannelError) {
        let slot = who.slot;
        match error {
            ChannelError::Closed => {}
            ChannelError::Full => {
                tracing::warn!(slot, "a worker does not read its channel");
                // Those that come or leave have deadlines.
                if self.holds(who) {
                    self.apply(slot, Event::Hung);
                }
            }
            ChannelError::TooLarge(_) | ChannelError::Io(_) | ChannelError::Malformed(_) => {
                tracing::error!(slot, %error, "cannot send to a worker");
            }
            ChannelError::Version { .. } | ChannelError::Truncated(_) => {
                tracing::error!(slot, %error, "cannot send to a worker");
            }
        }
    }

    /// Whether the service manager shall hear that this generation is alive.
    pub(crate) fn is_well(&self) -> bool {
        let down =
            |place: &Place| place.down_since.map_or(Duration::ZERO, |since| self.now.saturating_duration_since(since));
        let slots = self.active().iter().map(|place| (&place.slot, down(place)));
        // A start may take that long, and so may another one after it.
        self.phase == Phase::Draining || is_well(slots, 2 * self.settings.start_timeout)
    }

    /// Looks at all event loops.
    pub(crate) fn watch(&mut self) {
        let now_ms = monotonic_ms();
        let mut samples = Vec::new();
        for (slot, place) in self.places.iter().enumerate() {
            let Some(worker) = &place.worker else { continue };
            let row = self.board.row(slot as SlotId, place.side);
            let (phase, since_ms) = row.store_phase();
            let age = |ms: u64| Duration::from_millis(now_ms.saturating_sub(ms));
            let silent = match place.slot {
                Slot::Serving { since, .. } => {
                    let from = since.max(self.watch_from);
                    Some(age(row.tick().get()).min(self.now.saturating_duration_since(from)))
                }
                _ => None,
            };
            samples.push(Sample {
                slot: slot as SlotId,
                silent,
                dying: matches!(place.slot, Slot::Killed { .. }),
                phase,
                phase_for: if phase == StorePhase::Idle { Duration::ZERO } else { age(since_ms) },
                // Costs a file to read, so only where it can matter.
                stopped: silent.is_none_or(|silent| silent > self.settings.hang_timeout / 2) && worker.is_stopped(),
            });
        }
        for slot in judge(&samples, self.settings.hang_timeout) {
            let silent = samples.iter().find(|sample| sample.slot == slot).and_then(|sample| sample.silent);
            let silent_ms = silent.map_or(0, |silent| silent.as_millis() as u64);
            tracing::warn!(slot, silent_ms, "a worker's event loop hangs");
            self.apply(slot, Event::Hung);
        }
    }
}
