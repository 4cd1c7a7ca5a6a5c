//! Commits: what was gathered is committed, and while that is under way the next is gathered (group commit).

use std::time::Instant;

use baton_ipc::scoreboard::monotonic_ms;

use super::Hub;
use crate::app::App;
use crate::backplane::{BackplaneError, Progress, Settlement};
use crate::batch::Batch;
use crate::metrics::{BATCH, COMMIT, Errors, Gauge, Messages, Single};

impl<A: App> Hub<A> {
    /// Commits what was gathered, unless a commit is under way, and lets the replies leave.
    pub(super) fn finish(&mut self, begun: Instant) {
        // Once a turn, not once a message.
        self.metrics.messages(Messages::Received, std::mem::take(&mut self.received));
        let idle = self.batch.is_empty();
        if !idle {
            self.batch.begun.get_or_insert(begun);
        }
        match self.under_way {
            Some(_) => {}
            None if idle => {
                self.backplane.rest();
                self.work_off();
            }
            None => self.dispatch(),
        }
        self.settle();
        self.say_late_byes();
    }

    /// Commits what was gathered.
    fn dispatch(&mut self) {
        let batch = std::mem::replace(&mut self.batch, std::mem::take(&mut self.spare));
        if batch.has_store_work() { self.commit(batch) } else { self.deliver(batch) }
    }

    fn commit(&mut self, mut batch: Batch) {
        let begun = Instant::now();
        batch.committing = Some(begun);
        match self.backplane.commit(&mut batch) {
            Ok(Progress::Begun) => self.under_way = Some(batch),
            outcome => {
                self.note(&batch, begun, outcome.map(drop));
                self.deliver(batch);
            }
        }
    }

    /// The commit that was under way is over: its replies leave. What was gathered meanwhile is committed by the next turn.
    pub(crate) fn settled(&mut self, settlement: Settlement) {
        self.now_ms = monotonic_ms();
        let mut batch = self.under_way.take().unwrap_or_default();
        let outcome = self.backplane.settle(&mut batch, settlement);
        let begun = batch.committing.unwrap_or_else(Instant::now);
        self.note(&batch, begun, outcome);
        self.deliver(batch);
        self.settle();
        self.say_late_byes();
    }

    /// While nothing is under way, commits what could not be committed before.
    fn work_off(&mut self) {
        let mut batch = std::mem::take(&mut self.spare);
        let begun = Instant::now();
        batch.committing = Some(begun);
        match self.backplane.work_off() {
            Ok(Progress::Begun) => self.under_way = Some(batch),
            Ok(Progress::Done) => self.spare = batch,
            Err(error) => self.note(&batch, begun, Err(error)),
        }
    }

    /// Notes how a commit has ended.
    fn note(&mut self, batch: &Batch, begun: Instant, outcome: Result<(), BackplaneError>) {
        self.metrics.observe(&COMMIT, begun.elapsed(), 1);
        self.metrics.add(Single::Commits, 1);
        match outcome {
            Ok(()) => {
                let (counted, failed) = batch.counted();
                self.metrics.add(Single::Increments, counted);
                self.metrics.observe_value(&BATCH, counted, 1);
                self.metrics.error(Errors::Store, failed);
            }
            Err(ref error) => {
                self.metrics.add(Single::StoreFailures, 1);
                self.metrics.error(Errors::Store, batch.messages());
                if self.store_ok {
                    tracing::error!(%error, "the store refuses to count; clients that send are closed with 1013");
                }
            }
        }
        if outcome.is_ok() && !batch.grows() {
            // That works in a store that is full, too.
            return;
        }
        if outcome.is_ok() && !self.store_ok {
            tracing::warn!("the store counts again");
        }
        self.store_ok = outcome.is_ok();
        self.metrics.gauge(Gauge::StoreOk, self.store_ok.into());
    }

    /// While the store fails or refuses new sessions, tries it without waiting for a client: nobody sends clients to a
    /// worker that is not ready.
    pub(crate) fn try_store_again(&mut self) {
        if (!self.store_ok || self.backplane.host().is_short()) && self.under_way.is_none() {
            self.commit(Batch::default());
        }
    }
}
