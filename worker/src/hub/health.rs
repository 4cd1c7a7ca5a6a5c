//! What is told of the backplane.

use std::time::Duration;

use super::Hub;
use crate::app::App;
use crate::backplane::Health;
use crate::metrics::{Gauge, Single};
use crate::redis::Reason;

impl<A: App> Hub<A> {
    /// What is wrong with the backplane, in words.
    pub(crate) fn complaint(&mut self) -> Option<String> {
        if !self.store_ok {
            return Some("the store refuses to count".to_owned());
        }
        let health = self.backplane.health();
        let away = health.away.map(|reason| format!("{} {}", health.kind, reason.words()));
        let deaf = |reason: Reason| format!("the other hosts are not heard: {} {}", health.kind, reason.words());
        let refuses = health.refuses.map(|reason| {
            let what = if reason == Reason::StoreFull { "the store" } else { health.kind };
            format!("{what} {}: new sessions are refused", reason.words())
        });
        let mute = |reason: Reason| format!("the other hosts are not reached: {} {}", health.kind, reason.words());
        away.or(refuses).or(health.mute.map(mute)).or(health.deaf.map(deaf))
    }

    /// Tells the metrics how the backplane is. Called every second, and when that has changed.
    pub(crate) fn tell_health(&mut self) -> Health {
        let now = self.backplane.health();
        let before = self.told.take().unwrap_or_else(|| Health::new(now.kind, String::new()));
        self.metrics.add(Single::Reconnects, now.reconnects - before.reconnects);
        self.metrics.add(Single::Resubscribed, now.resubscribed - before.resubscribed);
        let away = now.away_for().saturating_sub(before.told_away);
        self.metrics.add(Single::DegradedMs, away.as_millis() as u64);
        self.metrics.gauge(Gauge::Pending, now.pending);
        self.metrics.add(Single::Merged, self.backplane.take_merged());
        self.metrics.gauge(Gauge::LeaseHeld, now.holds_lease.into());
        let degraded = now.degraded();
        self.metrics.gauge(Gauge::Degraded, degraded.is_some().into());
        self.metrics.gauge(Gauge::DegradedWhy, degraded.map_or(0, Reason::code));
        self.metrics.gauge(Gauge::DegradedSince, degraded.map_or(0, |_| now.degraded_since));
        // Whole milliseconds: the rest is told next time.
        let told_away = before.told_away + Duration::from_millis(away.as_millis() as u64);
        self.told = Some(Health { told_away, ..now.clone() });
        now
    }
}
