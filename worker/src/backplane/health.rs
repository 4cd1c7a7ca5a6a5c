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
    /// Why it publishes nothing for this worker, though it is there.
    pub(crate) mute: Option<Reason>,
    /// Why it refuses sessions that it does not have, though it counts the others.
    pub(crate) refuses: Option<Reason>,
    /// Why it is away, in the words of whoever noticed. The cause is kept: that a connection breaks is what follows from it.
    pub(crate) detail: String,
    /// Since when it is there, or away.
    pub(crate) since: Instant,
    /// Since when it is degraded, if it is: milliseconds since 1970.
    pub(crate) degraded_since: u64,
    /// How long it was away before that, altogether.
    pub(crate) away_before: Duration,
    /// How much of that the metrics know.
    pub(crate) told_away: Duration,
    /// Whether `detail` is what a server has said that does not want us.
    pub(crate) cause_is_kept: bool,
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

/// What of a failure is to be logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// It was there before.
    Away,
    /// It is away for a reason that an operator has to mend, and was away for another one.
    Cause,
    Nothing,
}

impl Health {
    pub(crate) fn new(kind: &'static str, target: String) -> Health {
        Health {
            kind,
            target,
            away: None,
            deaf: None,
            mute: None,
            refuses: None,
            detail: String::new(),
            cause_is_kept: false,
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

    /// It is away. Says what of that is news.
    pub(crate) fn down(&mut self, failure: &Failure) -> News {
        let first = self.away.is_none();
        if self.cause_is_kept && failure.is_severed() {
            return News::Nothing;
        }
        let changed = self.away.is_some_and(|before| before != failure.reason);
        self.cause_is_kept = failure.is_refusal();
        self.degrade();
        self.away = Some(failure.reason);
        self.mute = None;
        self.lease_holder = None;
        self.detail.clone_from(&failure.detail);
        if first {
            self.since = Instant::now();
        }
        match (first, changed && failure.is_refusal()) {
            (true, _) => News::Away,
            (false, true) => News::Cause,
            (false, false) => News::Nothing,
        }
    }

    /// It is there, but the other hosts are not heard. `true`: they were before.
    pub(crate) fn cannot_hear(&mut self, reason: Reason) -> bool {
        self.degrade();
        self.deaf.replace(reason).is_none()
    }

    /// It is there, and publishes for this worker, or refuses to. Logs it when that changes, unless the same is known
    /// of hearing.
    pub(crate) fn note_publishing(&mut self, refused: Option<&Failure>) {
        match (self.mute, refused) {
            (None, Some(failure)) => {
                if self.deaf != Some(failure.reason) {
                    let (reason, detail) = (failure.reason.label(), &failure.detail);
                    tracing::warn!(
                        event = "redis_mute",
                        reason,
                        detail,
                        "the other hosts are not reached: redis counts, but publishes nothing for this user"
                    );
                }
                self.degrade();
                self.mute = Some(failure.reason);
            }
            (Some(reason), None) => {
                tracing::info!(event = "redis_publishes", reason = reason.label(), "the other hosts are reached again");
                self.mute = None;
            }
            (Some(_), Some(_)) | (None, None) => {}
        }
    }

    /// Why it is degraded, if it is.
    pub(crate) fn degraded(&self) -> Option<Reason> {
        self.away.or(self.refuses).or(self.mute).or(self.deaf)
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
        self.cause_is_kept = false;
        Some(away)
    }

    /// How long it was away, altogether.
    pub(crate) fn away_for(&self) -> Duration {
        self.away_before + self.away.map_or(Duration::ZERO, |_| self.since.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use redis::RedisError;

    use super::*;

    #[test]
    fn the_cause_is_kept_and_logged_once() {
        let broken = Failure::from(&RedisError::from(std::io::Error::from(std::io::ErrorKind::BrokenPipe)));
        let password = Failure::new(Reason::NoAuth, "WRONGPASS");
        let gone = Failure::new(Reason::Unreachable, "Connection refused");
        let mut health = Health::new("redis", String::new());
        let seen = [&broken, &password, &broken, &password, &gone, &broken, &password].map(|failure| {
            let news = health.down(failure);
            (news, health.away, health.detail.clone())
        });
        let kept = |news, failure: &Failure| (news, Some(failure.reason), failure.detail.clone());
        let expected = [
            kept(News::Away, &broken),
            kept(News::Cause, &password),
            kept(News::Nothing, &password),
            kept(News::Nothing, &password),
            kept(News::Nothing, &gone),
            kept(News::Nothing, &broken),
            kept(News::Cause, &password),
        ];
        assert_eq!(seen, expected);
        health.up();
        assert_eq!(health.down(&broken), News::Away);
        assert_eq!(health.away, Some(Reason::Unreachable), "of another outage");
    }

    #[test]
    fn who_may_not_publish_is_degraded_and_not_away() {
        let mut health = Health::new("redis", String::new());
        health.note_publishing(Some(&Failure::new(Reason::NoPermission, "NOPERM")));
        assert_eq!((health.away, health.degraded()), (None, Some(Reason::NoPermission)));
        assert!(health.degraded_since > 0);
        health.note_publishing(None);
        assert_eq!(health.degraded(), None);
    }
}
