//! The page an operator wants at 3 a.m.

use baton_ipc::Slot as SlotId;
use baton_ipc::control::{Degraded, PastTakeover, SlotStatus, Status};
use baton_ipc::scoreboard::{COUNTER_MESSAGES, GAUGE_CONNECTIONS};

use crate::process::Worker;
use crate::program;
use crate::slot::Slot;
use crate::supervisor::{Phase, Supervisor};
use crate::takeover::Role;

impl Supervisor<'_> {
    /// Everything as it is now. A slot that was scaled away is told of until its worker is gone.
    pub(crate) fn status(&self) -> Status {
        let reloading = self.operation.as_ref().is_some_and(|operation| operation.verb == "reload");
        let phase = match self.phase {
            Phase::Draining => "draining",
            Phase::Starting => "starting",
            Phase::Standby => "standby",
            Phase::Running if self.peer.as_ref().is_some_and(|peer| peer.role == Role::Serving) => "standby",
            Phase::Running if self.peer.as_ref().is_some_and(|peer| peer.role == Role::Taking) => "handing-over",
            Phase::Running if reloading => "reloading",
            Phase::Running => "running",
        };
        Status {
            color: self.settings.color.clone(),
            version: self.settings.version.to_owned(),
            pid: std::process::id(),
            uptime_seconds: self.now.duration_since(self.started).as_secs_f64(),
            phase: phase.to_owned(),
            peer: self.peer_status(),
            program: program::status(&self.program).ok(),
            settings: Some(self.settings.digest.clone()),
            outdated: self.phase == Phase::Standby
                && self.service.digest_now().is_some_and(|now| now != self.settings.digest),
            upgrade: self.upgrade_status(),
            last_takeover: self.last_takeover.as_ref().map(|(done, receipt)| PastTakeover {
                seconds_ago: self.now.saturating_duration_since(*done).as_secs_f64(),
                receipt: receipt.clone(),
            }),
            listen: self.listeners.endpoints().to_vec(),
            backplane: self.settings.backplane.clone(),
            backplane_degraded: self.degraded(),
            slots: (0..self.places.len() as SlotId)
                .filter(|slot| *slot < self.settings.workers || self.place(*slot).worker.is_some())
                .map(|slot| self.slot_status(slot))
                .collect(),
        }
    }

    /// What workers say that their backplane fails; none if all are well.
    fn degraded(&self) -> Option<Degraded> {
        let said = self
            .places
            .iter()
            .zip(0..)
            .filter_map(|(place, slot)| Some((slot, place.worker.as_ref()?.degraded.as_ref()?)));
        let (slots, reasons): (Vec<SlotId>, Vec<&String>) = said.unzip();
        let reason = (*reasons.first()?).clone();
        let since = self.degraded_since.map(|since| self.now.saturating_duration_since(since));
        Some(Degraded { since_seconds: since.unwrap_or_default().as_secs_f64(), reason, slots })
    }

    /// Notes, and logs once for all workers, when the backplane begins to fail some and when it fails nobody any more.
    /// That a worker is gone does not heal it: somebody must serve and have no complaint.
    pub(crate) fn review_backplane(&mut self) {
        let somebody_serves = self.places.iter().any(|place| matches!(place.slot, Slot::Serving { .. }));
        match (self.degraded_since, self.degraded()) {
            (None, Some(Degraded { reason, slots, .. })) => {
                self.degraded_since = Some(self.now);
                tracing::warn!(reason, ?slots, "the backplane is degraded");
            }
            (Some(since), None) if somebody_serves => {
                self.degraded_since = None;
                let for_ms = self.now.saturating_duration_since(since).as_millis() as u64;
                tracing::info!(for_ms, "the backplane is no longer degraded");
            }
            (None, None) | (Some(_), Some(_) | None) => {}
        }
    }

    fn slot_status(&self, slot: SlotId) -> SlotStatus {
        let (place, view) = (self.place(slot), self.board.slot(slot));
        let uptime = place.worker.as_ref().map(|worker| self.now.saturating_duration_since(worker.forked));
        let retry_in = match &place.slot {
            Slot::Vacant { retry_at } => Some(retry_at.saturating_duration_since(self.now).as_secs_f64()),
            Slot::Starting { .. } | Slot::Serving { .. } | Slot::Draining { .. } => None,
            Slot::Killed { .. } | Slot::Stopped | Slot::Fatal { .. } => None,
        };
        // The other side may be the other generation's.
        let of = |worker: &Worker| self.board.row(slot, worker.side).gauge(GAUGE_CONNECTIONS).get();
        let connections = place.workers().map(of).sum();
        SlotStatus {
            slot,
            state: place.slot.state(),
            pid: place.slot.pid().map(|pid| pid.as_raw() as u32),
            uptime_seconds: uptime.map_or(0.0, |uptime| uptime.as_secs_f64()),
            connections,
            messages: view.counter(COUNTER_MESSAGES),
            messages_per_second: place.rate.per_second(),
            restarts: place.unasked,
            last_cause: place
                .worker
                .as_ref()
                .and_then(|worker| worker.complaint.clone())
                .or_else(|| place.last_cause.clone()),
            last_cause_kind: view.current().last_cause(),
            retry_in_seconds: retry_in,
            lent_to: place.lent_to.map(|(to, _)| to),
        }
    }
}
