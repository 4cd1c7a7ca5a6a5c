//! A fresh worker in the place of one that serves, and nobody notices: it starts beside it, accepts in its stead, gets
//! all its connections, and only then does the old one go.
//!
//! ```text
//!   Due ── fork ──▶ Starting ── Ready ──▶ Handing ── all given ──▶ it holds the slot, the old one leaves
//! ```
//!
//! Should it fail on the way, the old worker serves on; should the old one die, it holds the slot at once.

use std::time::{Duration, Instant};

use baton_ipc::messages::{Amount, ToWorker};
use baton_ipc::scoreboard::{Cause, Side, State};
use baton_ipc::{Channel, Slot as SlotId};
use nix::sys::signal::Signal;

use crate::process::{self, Fork, Worker};
use crate::slot::{DRAIN_GRACE, Event, FORK_RETRY, KILL_AGAIN, Slot};
use crate::supervisor::{Birth, Supervisor};
use crate::transfer::{Purpose, Receipt, Who};

/// How long a handing over may take.
const HANDING: Duration = Duration::from_secs(30);

/// How far a relief has come.
#[derive(Debug)]
pub(crate) enum Relief {
    /// Not forked: its side of the slot may be in use by one that leaves.
    Due { at: Instant },
    /// Has until `deadline` to be ready.
    Starting { worker: Worker, deadline: Instant },
    /// Serves already; the connections are on their way to it.
    Handing { worker: Worker, deadline: Instant },
}

/// A worker that has nothing to do with its slot any more, except that it must be gone.
#[derive(Debug)]
pub(crate) struct Leaving {
    pub(crate) worker: Worker,
    pub(crate) deadline: Instant,
}

impl Relief {
    pub(crate) fn worker(&self) -> Option<&Worker> {
        match self {
            Relief::Due { .. } => None,
            Relief::Starting { worker, .. } | Relief::Handing { worker, .. } => Some(worker),
        }
    }

    pub(crate) fn worker_mut(&mut self) -> Option<&mut Worker> {
        match self {
            Relief::Due { .. } => None,
            Relief::Starting { worker, .. } | Relief::Handing { worker, .. } => Some(worker),
        }
    }

    pub(crate) fn into_worker(self) -> Option<Worker> {
        match self {
            Relief::Due { .. } => None,
            Relief::Starting { worker, .. } | Relief::Handing { worker, .. } => Some(worker),
        }
    }

    pub(crate) fn deadline(&self) -> Instant {
        match self {
            Relief::Due { at: deadline } => *deadline,
            Relief::Starting { deadline, .. } | Relief::Handing { deadline, .. } => *deadline,
        }
    }
}

impl Supervisor<'_> {
    /// Brings a fresh worker into a slot: beside the one that serves, or as the next one.
    pub(crate) fn renew(&mut self, slot: SlotId) {
        let now = self.now;
        let place = self.place_mut(slot);
        place.note = None;
        match place.slot {
            Slot::Serving { .. } => {
                place.relief.get_or_insert(Relief::Due { at: now });
            }
            Slot::Vacant { .. }
            | Slot::Starting { .. }
            | Slot::Draining { .. }
            | Slot::Killed { .. }
            | Slot::Stopped
            | Slot::Fatal { .. } => self.apply(slot, Event::Restart),
        }
    }

    /// Empties slots that go: what their workers have, those of the others get, and then they are stopped.
    pub(crate) fn evacuate(&mut self, slots: &[SlotId]) {
        let takers: Vec<(Who, u32)> =
            self.serving().into_iter().filter(|who| !slots.contains(&who.slot)).map(|who| (who, 1)).collect();
        for slot in slots.iter().copied() {
            let place = self.place_mut(slot);
            place.note = None;
            let giver = place.holder().filter(|_| matches!(place.slot, Slot::Serving { .. }));
            let Some(giver) = giver.filter(|_| !takers.is_empty()) else {
                self.apply(slot, Event::Stop);
                continue;
            };
            // Its listeners are lent when it is gone; until then clients wait in the queue.
            self.tell_one(giver, &ToWorker::Accept { accept: false });
            if let Err(error) = self.transfer(Purpose::Evacuation, giver, &takers, Amount::All) {
                tracing::warn!(slot, %error, "no lane: its clients are told to come back");
                self.apply(slot, Event::Stop);
            }
        }
    }

    /// Forks what is due. In the child: what it is.
    pub(crate) fn fork_reliefs(&mut self) -> Option<(Birth, Channel)> {
        for slot in 0..self.places.len() as SlotId {
            let place = self.place(slot);
            let side = place.side.other();
            let Some(Relief::Due { at }) = place.relief else { continue };
            if self.now < at || place.leaving.iter().any(|leaving| leaving.worker.side == side) {
                continue;
            }
            self.board.clear(slot, side);
            self.board.row(slot, side).started().set(baton_ipc::scoreboard::monotonic_ms());
            match process::fork(side, self.now) {
                Ok(Fork::Child(channel)) => return Some((Birth { slot, side, accepting: false }, channel)),
                Ok(Fork::Parent(worker)) => {
                    let pid = worker.pid;
                    self.board.row(slot, side).set_state(State::Starting, pid.as_raw() as u32);
                    tracing::info!(slot, pid = pid.as_raw(), "worker started to relieve the one that serves");
                    let deadline = self.now + self.settings.start_timeout;
                    self.place_mut(slot).relief = Some(Relief::Starting { worker, deadline });
                }
                Err(error) => {
                    tracing::error!(slot, %error, "cannot fork a worker; trying again in a second");
                    self.place_mut(slot).last_cause = Some(format!("cannot fork: {error}"));
                    let at = self.now + FORK_RETRY;
                    self.place_mut(slot).relief = Some(Relief::Due { at });
                }
            }
        }
        None
    }

    /// The fresh one is ready: it accepts, and gets the connections.
    pub(crate) fn relief_is_ready(&mut self, fresh: Who) {
        let slot = fresh.slot;
        let place = self.place_mut(slot);
        let ready = |relief: &mut Relief| matches!(relief, Relief::Starting { worker, .. } if worker.pid == fresh.pid);
        let Some(Relief::Starting { worker, .. }) = place.relief.take_if(ready) else { return };
        let Some(giver) = place.holder() else {
            // It was to relieve nobody: it has the slot by now.
            return self.leave(slot, worker);
        };
        let deadline = self.now + HANDING;
        self.place_mut(slot).relief = Some(Relief::Handing { worker, deadline });
        let accept = self.accepting();
        self.tell_one(fresh, &ToWorker::Accept { accept });
        self.tell_one(giver, &ToWorker::Accept { accept: false });
        if let Err(error) = self.transfer(Purpose::Relief, giver, &[(fresh, 1)], Amount::All) {
            self.relief_failed(slot, &format!("no lane to it: {error}"));
        }
    }

    /// The connections have been given, as far as they could be: the fresh one holds the slot.
    pub(crate) fn relief_is_over(&mut self, fresh: Who, receipt: &Receipt) {
        let slot = fresh.slot;
        let place = self.place_mut(slot);
        // Of a relief that has failed meanwhile it may come late.
        let over = |relief: &mut Relief| matches!(relief, Relief::Handing { worker, .. } if worker.pid == fresh.pid);
        let Some(Relief::Handing { worker, .. }) = place.relief.take_if(over) else { return };
        place.note = Some(receipt.to_string());
        self.succeed(slot, worker);
    }

    /// A fresh worker holds the slot from now on; the old one says goodbye to whom it still has.
    fn succeed(&mut self, slot: SlotId, fresh: Worker) {
        let (pid, side) = (fresh.pid, fresh.side);
        let place = self.place_mut(slot);
        place.side = side;
        let old = place.worker.replace(fresh);
        self.board.set_current(Some(slot), side);
        self.apply(slot, Event::Relieved { pid });
        if let Some(old) = old {
            self.leave(slot, old);
        }
        self.review_backplane();
    }

    /// A worker has to go, whatever it still has.
    pub(crate) fn leave(&mut self, slot: SlotId, worker: Worker) {
        let within = self.settings.drain_timeout;
        let who = Who { slot, pid: worker.pid };
        let deadline = self.now + within + DRAIN_GRACE;
        self.board.row(slot, worker.side).set_state(State::Draining, worker.pid.as_raw() as u32);
        self.place_mut(slot).leaving.push(Leaving { worker, deadline });
        let within_ms = within.as_millis().try_into().unwrap_or(u64::MAX);
        self.tell_one(who, &ToWorker::Drain { within_ms });
    }

    /// The fresh worker is no good: the old one serves on.
    pub(crate) fn relief_failed(&mut self, slot: SlotId, cause: &str) {
        let accept = self.accepting();
        let place = self.place_mut(slot);
        let Some(relief) = place.relief.take() else { return };
        place.failed_reliefs += 1;
        place.last_cause = Some(cause.to_owned());
        let holder = place.holder();
        tracing::error!(slot, cause, "the worker was not relieved: it serves on");
        if let Some(holder) = holder {
            self.tell_one(holder, &ToWorker::Accept { accept });
        }
        match relief {
            Relief::Due { .. } => {}
            Relief::Starting { worker, .. } => self.kill_leaving(slot, worker),
            // It has clients.
            Relief::Handing { worker, .. } => self.leave(slot, worker),
        }
    }

    /// The worker in the slot is gone, or is to go: one that was to relieve it takes its place, or goes with it.
    pub(crate) fn relief_without_holder(&mut self, slot: SlotId) {
        let wanted = matches!(self.place(slot).slot, Slot::Vacant { .. });
        match self.place_mut(slot).relief.take() {
            None | Some(Relief::Due { .. }) => {}
            Some(Relief::Starting { worker, .. } | Relief::Handing { worker, .. }) if !wanted => {
                self.leave(slot, worker);
            }
            Some(Relief::Starting { worker, .. }) => {
                self.inherit(slot, worker);
            }
            Some(Relief::Handing { worker, .. }) => {
                self.inherit(slot, worker);
                self.apply(slot, Event::Ready);
            }
        }
    }

    fn inherit(&mut self, slot: SlotId, worker: Worker) {
        let who = Who { slot, pid: worker.pid };
        let accept = self.accepting();
        let place = self.place_mut(slot);
        place.side = worker.side;
        place.worker = Some(worker);
        let side = place.side;
        self.to_fork.remove(&slot);
        self.board.set_current(Some(slot), side);
        self.apply(slot, Event::Forked { pid: who.pid });
        self.tell_one(who, &ToWorker::Accept { accept });
    }

    /// What depends on the clock.
    pub(crate) fn look_at_reliefs(&mut self) {
        for slot in 0..self.places.len() as SlotId {
            let late = self.place(slot).relief.as_ref().is_some_and(|relief| self.now >= relief.deadline());
            match &self.place(slot).relief {
                Some(Relief::Starting { .. }) if late => self.relief_failed(slot, "it was not ready in time"),
                Some(Relief::Handing { .. }) if late => self.relief_failed(slot, "the handing over takes too long"),
                Some(Relief::Due { .. } | Relief::Starting { .. } | Relief::Handing { .. }) | None => {}
            }
            let now = self.now;
            for leaving in self.place_mut(slot).leaving.iter_mut().filter(|leaving| leaving.deadline <= now) {
                leaving.deadline = now + KILL_AGAIN;
                tracing::warn!(slot, pid = leaving.worker.pid.as_raw(), "a worker does not leave: killing it");
                if let Err(error) = leaving.worker.signal(Signal::SIGKILL) {
                    tracing::error!(slot, %error, "cannot signal a worker");
                }
            }
        }
    }

    fn kill_leaving(&mut self, slot: SlotId, worker: Worker) {
        let deadline = self.now;
        self.place_mut(slot).leaving.push(Leaving { worker, deadline });
    }

    /// A worker that only had to be gone is.
    pub(crate) fn left(&mut self, slot: SlotId, side: Side, words: &str) {
        let row = self.board.row(slot, side);
        row.set_state(State::Stopped, 0);
        row.ended(Cause::Requested);
        tracing::info!(slot, cause = words, "worker exited");
    }
}
