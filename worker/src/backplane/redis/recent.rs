//! Remembers for a while what a master has counted, in case it is replaced by one that has not received all of it.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::backplane::embedded::ledger::{Answered, Item, Unit, UnitId};
use crate::token::Key;

/// Longer than sentinels take to replace a master that clients still reach.
const KEPT: Duration = Duration::from_secs(15);

/// More sessions than this are not remembered: the oldest are forgotten first.
const MAX_SESSIONS: usize = 65_536;

/// Sessions that one unit raises.
const SESSIONS_PER_UNIT: usize = 512;

/// Units and their counts, as they were answered.
#[derive(Debug, Default)]
pub(super) struct Recent {
    answered: VecDeque<(Instant, Rc<Unit>, Vec<u64>)>,
    sessions: usize,
}

impl Recent {
    pub(super) fn push(&mut self, now: Instant, (unit, counts): Answered) {
        if let Some(counts) = counts.filter(|counts| !counts.is_empty()) {
            self.sessions += counts.len();
            self.answered.push_back((now, unit, counts));
        }
        self.forget(now);
    }

    fn forget(&mut self, now: Instant) {
        while let Some((at, _, counts)) = self.answered.front()
            && (self.sessions > MAX_SESSIONS || now.duration_since(*at) > KEPT)
        {
            self.sessions -= counts.len();
            self.answered.pop_front();
        }
    }

    /// Units that add nothing, and raise each of the sessions to the highest count that it had. They do no harm where
    /// nothing was lost.
    pub(super) fn raise(&mut self, now: Instant) -> Vec<Unit> {
        self.forget(now);
        let mut highest: HashMap<Key, u64> = HashMap::new();
        for (_, unit, counts) in &self.answered {
            for (item, count) in unit.items.iter().zip(counts).filter(|(_, count)| **count > 0) {
                let known = highest.entry(item.session).or_default();
                *known = (*known).max(*count);
            }
        }
        let items: Vec<Item> = highest.into_iter().map(|(session, count)| Item::known(session, count)).collect();
        let unit = |items: &[Item]| Unit {
            // Each is a sender of its own: there is no order among them.
            id: UnitId { source: fastrand::u64(..), number: 1 },
            order: 0,
            group: 0,
            items: items.to_vec(),
        };
        items.chunks(SESSIONS_PER_UNIT).map(unit).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backplane::conformance::token;

    fn answered(sessions: &[(&str, u64)]) -> Answered {
        let items = sessions.iter().map(|(name, _)| Item::new(token(name).key(), 1)).collect();
        let unit = Unit { id: UnitId { source: 1, number: 1 }, order: 1, group: 0, items };
        (Rc::new(unit), Some(sessions.iter().map(|(_, count)| *count).collect()))
    }

    #[test]
    fn the_highest_count_of_each_session_is_raised_while_it_is_recent() {
        let (mut recent, start) = (Recent::default(), Instant::now());
        recent.push(start, answered(&[("a", 1), ("b", 7)]));
        recent.push(start + KEPT / 2, answered(&[("a", 3), ("odd", 0)]));
        recent.push(start + KEPT / 2, answered(&[("a", 2)]));
        let mut items: Vec<Item> = recent.raise(start + KEPT).into_iter().flat_map(|unit| unit.items).collect();
        items.sort_by_key(|item| item.floor);
        assert_eq!(items, [Item::known(token("a").key(), 3), Item::known(token("b").key(), 7)]);
        let later: Vec<Item> = recent.raise(start + KEPT * 5 / 4).into_iter().flat_map(|unit| unit.items).collect();
        assert_eq!(later, [Item::known(token("a").key(), 3)]);
        assert_eq!(recent.raise(start + KEPT * 2), []);
        assert_eq!(recent.sessions, 0);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (mut recent, now) = (Recent::default(), Instant::now());
        let many: Vec<(&str, u64)> = vec![("a", 1); 1000];
        for _ in 0..1000 {
            recent.push(now, answered(&many));
            assert!(recent.sessions <= MAX_SESSIONS);
        }
        assert_eq!(recent.raise(now).len(), 1);
    }
}
