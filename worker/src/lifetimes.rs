//! Decides how long a session is kept after its last use.

use std::time::Duration;

/// How long sessions are kept, in whole seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lifetimes {
    /// A session that is in use.
    pub(crate) session: u64,
    /// A session of one message: most of those never come back. Never longer than the other.
    pub(crate) new: u64,
}

impl Lifetimes {
    /// The shorter of the two is what a new session gets, whatever the settings say.
    pub(crate) fn new(session: Duration, new: Duration) -> Lifetimes {
        Lifetimes { session: session.as_secs(), new: new.min(session).as_secs() }
    }

    /// The seconds for which a session of this count is kept.
    pub(crate) fn of(self, count: u64) -> u64 {
        if is_new(count) { self.new } else { self.session }
    }

    /// The same sessions, each kept for this much longer.
    pub(crate) fn plus(self, seconds: u64) -> Lifetimes {
        Lifetimes { session: self.session + seconds, new: self.new + seconds }
    }
}

/// Whether a session of this count (as it is kept) has had one message at most.
///
/// One that an operator has reset is not new, though its clients are shown 0: what is kept of it says that it was reset,
/// and must outlive whoever remembers the count of before.
pub(crate) fn is_new(count: u64) -> bool {
    count <= 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::count::{self, RESET};

    #[test]
    fn one_message_lives_shorter_and_a_reset_does_not_make_a_session_new() {
        let lifetimes = Lifetimes::new(Duration::from_secs(100), Duration::from_secs(7));
        assert_eq!([0, 1, 2, 3, 1000].map(|count| lifetimes.of(count)), [7, 7, 100, 100, 100]);
        for messages in 0..3 {
            assert_eq!(lifetimes.of(count::reset(1).unwrap() + messages), 100);
        }
        assert_eq!(lifetimes.of(RESET), 100);
    }

    #[test]
    fn the_shorter_of_two_settings_is_that_of_new_sessions() {
        let lifetimes = Lifetimes::new(Duration::from_secs(3), Duration::from_secs(3600));
        assert_eq!(lifetimes, Lifetimes { session: 3, new: 3 });
        assert_eq!(lifetimes.plus(1), Lifetimes { session: 4, new: 4 });
    }
}
