//! What signals do (habits of nginx and gunicorn), and the way out.

use baton_ipc::Slot as SlotId;
use baton_ipc::control::{ErrorCode, Reply};
use nix::sys::signal::Signal;

use crate::control::ClientId;
use crate::operation::{Goal, Operation, Task};
use crate::slot::Event;
use crate::supervisor::{Phase, Supervisor};

/// How many wishes that came by signal may wait for the operation before them.
const MAX_WISHES: usize = 8;

/// What was asked for by signal, where nobody waits for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    Reload,
    More,
    Fewer,
}

impl Supervisor<'_> {
    pub(crate) fn signal(&mut self, signal: Signal) {
        tracing::info!(signal = signal.as_str(), "signal");
        match signal {
            Signal::SIGTERM | Signal::SIGINT if self.phase == Phase::Draining => self.kill_all(),
            Signal::SIGTERM | Signal::SIGINT => self.shut_down(None),
            Signal::SIGQUIT => {
                self.shut_down(None);
                self.kill_all();
            }
            Signal::SIGHUP => self.wish(Wish::Reload),
            Signal::SIGTTIN => self.wish(Wish::More),
            Signal::SIGTTOU => self.wish(Wish::Fewer),
            Signal::SIGUSR1 => self.reopen_logs(),
            Signal::SIGUSR2 => {
                if let Err((_, message)) = self.upgrade(None) {
                    tracing::error!("{message}");
                }
            }
            other => tracing::warn!(signal = other.as_str(), "a signal that means nothing here"),
        }
    }

    fn wish(&mut self, wish: Wish) {
        if self.phase == Phase::Draining || self.wishes.len() >= MAX_WISHES {
            tracing::warn!(?wish, "ignored: draining, or too much waits to be done already");
        } else if wish != Wish::Reload || !self.wishes.contains(&wish) {
            self.wishes.push_back(wish);
        }
    }

    /// Drains everything; the loop ends when nobody is left.
    pub(crate) fn shut_down(&mut self, client: Option<ClientId>) {
        if self.driver.is_some() {
            // Clients that have come over in the middle of a takeover go back first; then this is called again.
            self.end_wanted = true;
            return self.roll_back("it was asked to end");
        }
        self.probe_wanted = None;
        self.end_probe();
        self.tally_withdrawal();
        self.end_upgrade();
        if self.phase != Phase::Draining {
            tracing::info!("draining");
            self.phase = Phase::Draining;
            if self.successor.is_none() {
                // For an upgrade: the service goes on in another process.
                self.notifier.stopping();
            }
        }
        self.wishes.clear();
        if let Some(rebalance) = self.rebalance.take() {
            let message = "rebalance was given up: the service is shutting down".to_owned();
            self.reply(Some(rebalance.client), Reply::Error { code: ErrorCode::Busy, message });
        }
        for slot in 0..self.places.len() as SlotId {
            if let Some(relief) = self.place_mut(slot).relief.take()
                && let Some(worker) = relief.into_worker()
            {
                self.leave(slot, worker);
            }
        }
        if let Some(interrupted) = self.operation.take() {
            let message = format!("{} was given up: the service is shutting down", interrupted.verb);
            self.reply(interrupted.client, Reply::Error { code: ErrorCode::Busy, message });
        }
        let all = 0..self.places.len() as SlotId;
        self.operation = Some(Operation::new("shutdown", client, vec![Task::new(Goal::Down, all)]));
    }

    fn kill_all(&mut self) {
        tracing::warn!("ending at once: workers are killed");
        for slot in 0..self.places.len() as SlotId {
            self.apply(slot, Event::Kill);
            let now = self.now;
            self.place_mut(slot).leaving.iter_mut().for_each(|leaving| leaving.deadline = now);
        }
    }
}
