//! How a backplane is, for those who watch it.

use std::time::{Duration, Instant};

use crate::heartbeat::wall_ms;
use crate::redis::{Failure, Reason};

/// What a worker knows of its backplane.
#[derive(Clone, Debug)]
pub(crate) struct Health {
    /// `embedded` or `redis`.
    pub(crate) kind: &'static str,
    /// Where it is, without secrets.
    pub(crate) target: String,
    /// Why it is away; none: it is there.
    pub(crate) away: Option<Reason>,
    /// Why the other hosts are not heard, though it is there.
    pub(crate) deaf: Option<Reason>,
    /// Why it refuses sessions that it does not have, though it counts the others.
    pub(crate) refuses: Option<Reason>,
    /// Why it is away, in the words of whoever noticed.
    pub(crate) detail: String,
    /// Since when it is there, or away.
    pub(crate) since: Instant,
    /// Since when it is degraded, if it is: milliseconds since 1970.
    pub(crate) degraded_since: u64,
    /// How long it was away before that, altogether.
    pub(crate) away_before: Duration,
    /// How much of that the metrics know.
    pub(crate) told_away: Duration,
    /// Of the last commit.
    pub(crate) latency: Option<Duration>,
    /// Who publishes heartbeats.
    pub(crate) lease_holder: Option<String>,
    /// Whether that is this worker.
    pub(crate) holds_lease: bool,
    /// Times that it came back.
    pub(crate) reconnects: u64,
    /// Times that the subscription was made anew.
    pub(crate) resubscribed: u64,
    /// Messages counted on this host that it does not have yet.
    pub(crate) pending: u64,
}

impl Health {
    pub(crate) fn new(kind: &'static str, target: String) -> Health {
        Health {
            kind,
            target,
            away: None,
            deaf: None,
            refuses: None,
            detail: String::new(),
            since: Instant::now(),
            degraded_since: 0,
            away_before: Duration::ZERO,
            told_away: Duration::ZERO,
            latency: None,
            lease_holder: None,
            holds_lease: false,
            reconnects: 0,
            resubscribed: 0,
            pending: 0,
        }
    }

    /// It is away. `true`: it was not before.
    pub(crate) fn down(&mut self, failure: &Failure) -> bool {
        let first = self.away.is_none();
        self.degrade();
        self.away = Some(failure.reason);
        self.lease_holder = None;
        self.detail.clone_from(&failure.detail);
        if first {
            self.since = Instant::now();
        }
        first
    }

    /// It is there, but the other hosts are not heard. `true`: they were before.
    pub(crate) fn cannot_hear(&mut self, reason: Reason) -> bool {
        self.degrade();
        self.deaf.replace(reason).is_none()
    }

    /// Why it is degraded, if it is.
    pub(crate) fn degraded(&self) -> Option<Reason> {
        self.away.or(self.refuses).or(self.deaf)
    }

    /// Redis is at its maxmemory, or is not: then it refuses sessions that it does not have. Logs it when that changes.
    pub(crate) fn note_memory(&mut self, is_full: bool) {
        if self.refuses.is_some() == is_full {
            return;
        }
        if is_full {
            self.degrade();
            tracing::warn!(
                event = "redis_full",
                "redis has reached its maxmemory: sessions that it does not have are refused"
            );
        } else {
            tracing::info!(event = "redis_has_room", "redis takes new sessions again");
        }
        self.refuses = is_full.then_some(Reason::OutOfMemory);
    }

    /// The same, of one that refuses new sessions since then (milliseconds since 1970), unless something worse is wrong.
    pub(crate) fn refusing(mut self, reason: Reason, since: u64) -> Health {
        if self.degraded().is_none() {
            self.degraded_since = since;
        }
        self.refuses.get_or_insert(reason);
        self
    }

    fn degrade(&mut self) {
        if self.degraded().is_none() {
            self.degraded_since = wall_ms();
        }
    }

    /// It is there. For how long it was away, if it was.
    pub(crate) fn up(&mut self) -> Option<Duration> {
        self.away.take()?;
        let away = self.since.elapsed();
        self.away_before += away;
        self.since = Instant::now();
        self.reconnects += 1;
        self.detail.clear();
        Some(away)
    }

    /// How long it was away, altogether.
    pub(crate) fn away_for(&self) -> Duration {
        self.away_before + self.away.map_or(Duration::ZERO, |_| self.since.elapsed())
    }
}
