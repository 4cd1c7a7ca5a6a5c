//! Adds up attempts to log in that were refused, so that a guesser neither floods the log nor hides in it: the first of its
//! kind is reported at once, those that follow within a minute as one number.

use super::audit::Action;
use crate::superusers::Name;

/// How long attempts are added up (milliseconds).
pub(super) const WINDOW_MS: u64 = 60_000;

/// Kinds that are kept apart. More are those of an attack from many networks, and are added up as one.
const KINDS_MAX: usize = 16;

/// Which attempts are added up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Kind {
    pub(super) action: Action,
    /// If there is such a user.
    pub(super) user: Option<Name>,
    /// By its number.
    pub(super) network: u64,
}

/// One line of the log, and on the page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Report {
    pub(super) action: Action,
    pub(super) user: Option<Name>,
    /// The address of the first of them; none: they came from many networks.
    pub(super) from: Option<String>,
    pub(super) attempts: u64,
}

/// Attempts of one kind that came after the first.
#[derive(Debug)]
struct Sum {
    kind: Kind,
    from: String,
    until: u64,
    more: u64,
}

/// Attempts of any kind, beyond those that are kept apart.
#[derive(Debug)]
struct Others {
    action: Action,
    until: u64,
    attempts: u64,
}

/// What has not been reported yet.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    sums: Vec<Sum>,
    others: Vec<Others>,
}

impl Refusals {
    /// Counts one more. Returns it if it is to be reported at once.
    pub(super) fn count(&mut self, kind: Kind, from: &str, now: u64) -> Option<Report> {
        if let Some(sum) = self.sums.iter_mut().find(|sum| sum.kind == kind) {
            sum.more += 1;
            return None;
        }
        if self.sums.len() < KINDS_MAX {
            let Kind { action, user, .. } = kind.clone();
            self.sums.push(Sum { kind, from: from.to_owned(), until: now + WINDOW_MS, more: 0 });
            return Some(Report { action, user, from: Some(from.to_owned()), attempts: 1 });
        }
        match self.others.iter_mut().find(|others| others.action == kind.action) {
            Some(others) => others.attempts += 1,
            None => self.others.push(Others { action: kind.action, until: now + WINDOW_MS, attempts: 1 }),
        }
        None
    }

    /// Takes the sums whose time is over.
    pub(super) fn due(&mut self, now: u64) -> Vec<Report> {
        // A time further ahead is that of a clock that was set back.
        let over = |until: u64| until <= now || until > now + WINDOW_MS;
        let sums = self.sums.extract_if(.., |sum| over(sum.until)).filter(|sum| sum.more > 0);
        let mut reports: Vec<Report> = sums
            .map(|Sum { kind: Kind { action, user, .. }, from, more, .. }| Report {
                action,
                user,
                from: Some(from),
                attempts: more,
            })
            .collect();
        let others = self.others.extract_if(.., |others| over(others.until));
        reports.extend(others.map(|Others { action, attempts, .. }| Report {
            action,
            user: None,
            from: None,
            attempts,
        }));
        reports
    }

    /// Takes all sums: there will be no other time.
    pub(super) fn rest(&mut self) -> Vec<Report> {
        self.due(u64::MAX - WINDOW_MS)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn kind(network: u64) -> Kind {
        Kind { action: Action::LoginRefused, user: None, network }
    }

    #[test]
    fn the_first_is_reported_at_once_and_the_others_as_a_sum() {
        let mut refusals = Refusals::default();
        assert_eq!(refusals.count(kind(1), "192.0.2.1", 0).map(|report| report.attempts), Some(1));
        for now in 1..=57 {
            assert_eq!(refusals.count(kind(1), "192.0.2.1", now), None);
        }
        let limited = Kind { action: Action::LoginLimited, ..kind(1) };
        assert!(refusals.count(limited, "192.0.2.1", 60).is_some(), "of another kind");
        assert_eq!(refusals.due(WINDOW_MS - 1), []);
        let from = Some("192.0.2.1".to_owned());
        let sum = Report { action: Action::LoginRefused, user: None, from, attempts: 57 };
        assert_eq!(refusals.due(WINDOW_MS), [sum]);
        assert_eq!(refusals.due(2 * WINDOW_MS), [], "one alone has no sum");
        assert!(refusals.count(kind(1), "192.0.2.1", 2 * WINDOW_MS).is_some(), "the next one begins anew");
    }

    #[test]
    fn a_clock_that_is_set_back_ends_the_minute() {
        let mut refusals = Refusals::default();
        refusals.count(kind(1), "192.0.2.1", 10 * WINDOW_MS);
        refusals.count(kind(1), "192.0.2.1", 10 * WINDOW_MS);
        assert_eq!(refusals.due(0).len(), 1);
    }

    proptest! {
        #[test]
        fn few_reports_tell_of_all_attempts(steps in prop::collection::vec((0u64..60, 0u64..500), 1..2000)) {
            let mut refusals = Refusals::default();
            let (mut now, mut reports, mut windows) = (0, Vec::new(), 1);
            for (network, after) in &steps {
                now += after;
                windows = now / WINDOW_MS + 1;
                reports.extend(refusals.due(now));
                reports.extend(refusals.count(kind(*network), "from", now));
                prop_assert!(refusals.sums.len() <= KINDS_MAX);
            }
            reports.extend(refusals.rest());
            prop_assert_eq!(reports.iter().map(|report| report.attempts).sum::<u64>(), steps.len() as u64);
            prop_assert!(reports.len() as u64 <= (windows + 1) * (2 * KINDS_MAX as u64 + 1));
        }
    }
}
