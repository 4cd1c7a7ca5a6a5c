//! How the backplane stands, as this worker sees it, and that the supervisor hears when that changes.

use baton_ipc::messages::FromWorker;
use baton_ipc::scoreboard::monotonic_ms;

use super::Shared;
use crate::app::App;

/// What is known of the backplane.
#[derive(Debug)]
pub(crate) struct Standing {
    /// Why it is degraded, in words; none: it is not.
    pub(crate) degraded: Option<String>,
    /// Since when it is, or is not, in milliseconds of `CLOCK_MONOTONIC`.
    pub(crate) since_ms: u64,
    /// The supervisor knows. It takes a backplane to be well of which nobody says otherwise.
    told: bool,
}

impl Standing {
    /// Well, as everybody assumes.
    pub(super) fn new() -> Standing {
        Standing { degraded: None, since_ms: monotonic_ms(), told: true }
    }

    /// Notes how it stands now, at little cost if nothing has changed.
    fn note(&mut self, degraded: Option<&str>) {
        if self.degraded.as_deref() == degraded {
            return;
        }
        if self.degraded.is_some() != degraded.is_some() {
            self.since_ms = monotonic_ms();
        }
        self.degraded = degraded.map(str::to_owned);
        self.told = false;
    }
}

impl<A: App> Shared<A> {
    /// Notes how the backplane stands now: why it is degraded, in words, or that it is not. The supervisor hears of a
    /// change, or, if it does not read just now, at the next call.
    fn backplane_stands(&self, degraded: Option<&str>) {
        let mut standing = self.standing.borrow_mut();
        standing.note(degraded);
        if !standing.told {
            let message = FromWorker::Backplane { degraded: standing.degraded.clone() };
            standing.told = self.tell_supervisor(&message).is_ok();
        }
    }

    /// Looks at the backplane. Called every second, and when its line is there or lost.
    pub(super) fn look_at_backplane(&self) {
        let complaint = self.hub.borrow_mut().complaint();
        self.backplane_stands(complaint.as_deref());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_when_is_kept_while_only_the_reason_changes() {
        let mut standing = Standing { since_ms: 1, ..Standing::new() };
        standing.note(None);
        assert!(standing.since_ms == 1 && standing.told, "nothing new");
        standing.note(Some("unreachable"));
        assert!(standing.since_ms > 1 && !standing.told);
        standing = Standing { since_ms: 1, told: true, ..standing };
        standing.note(Some("loading"));
        assert_eq!((standing.since_ms, standing.told, standing.degraded.as_deref()), (1, false, Some("loading")));
        standing.note(None);
        assert!(standing.since_ms > 1);
    }
}
