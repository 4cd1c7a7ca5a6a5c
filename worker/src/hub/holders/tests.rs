use proptest::prelude::*;

use super::*;

const BUDGET: usize = 1_000_000;

fn holder(key: usize, bytes: usize, since_ms: u64) -> Holder {
    Holder { key, bytes, since_ms }
}

fn keys(holders: Vec<Holder>) -> Vec<usize> {
    victims(holders, BUDGET).into_iter().map(|holder| holder.key).collect()
}

#[test]
fn within_the_budget_everybody_stays() {
    assert!(keys(Vec::new()).is_empty());
    assert!(keys(vec![holder(1, BUDGET, 0)]).is_empty());
    assert!(keys(vec![holder(1, BUDGET - 10, 0), holder(2, 10, 9)]).is_empty());
}

#[test]
fn whoever_asks_last_is_not_the_one_who_goes() {
    let crowd = (0..62).map(|key| holder(key, 16_200, 1000 + key as u64));
    let asker = holder(99, 150, 9000);
    // The oldest of those that hold the same, and no more than give a little room.
    assert_eq!(keys(crowd.chain([asker]).collect()), [0, 1]);
}

#[test]
fn a_newcomer_that_needs_a_little_more_than_the_crowd_stays() {
    let crowd = (0..10).map(|key| holder(key, 100_000, key as u64));
    assert_eq!(keys(crowd.chain([holder(99, 110_000, 9000)]).collect()), [0, 1]);
}

#[test]
fn the_largest_goes_even_if_it_is_the_asker() {
    let crowd = (0..10).map(|key| holder(key, 10_000, key as u64));
    assert_eq!(keys(crowd.chain([holder(99, 950_000, 9000)]).collect()), [99]);
}

fn crowd() -> impl Strategy<Value = Vec<Holder>> {
    let bytes = prop_oneof![1..300usize, 1..5_000usize, 10_000..60_000usize, 1..2_000_000usize];
    prop::collection::vec((bytes, 0..100_000u64), 0..200).prop_map(|crowd| {
        crowd.into_iter().enumerate().map(|(key, (bytes, since_ms))| holder(key, bytes, since_ms)).collect()
    })
}

fn sum(holders: &[Holder]) -> usize {
    holders.iter().map(|holder| holder.bytes).sum()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nobody_within_the_fair_share_goes_and_all_the_others_fit(holders in crowd()) {
        let share = BUDGET / holders.len().max(1);
        let gone = victims(holders.clone(), BUDGET);
        prop_assert!(gone.iter().all(|holder| holder.bytes > share));
        let mut keys: Vec<usize> = gone.iter().map(|holder| holder.key).collect();
        keys.sort_unstable();
        keys.dedup();
        prop_assert_eq!(keys.len(), gone.len(), "each goes once");
        let left = sum(&holders) - sum(&gone);
        prop_assert!(left <= BUDGET, "{left} bytes are left");
        // Nobody goes for nothing: without the last one there would not be enough room.
        if let Some(last) = gone.last() {
            prop_assert!(left + last.bytes > BUDGET - BUDGET / ROOM);
        }
    }

    #[test]
    fn whoever_goes_holds_most_or_has_held_longest(holders in crowd()) {
        let share = BUDGET / holders.len().max(1);
        let gone = victims(holders.clone(), BUDGET);
        let stay = holders.iter().filter(|holder| !gone.contains(holder) && holder.bytes > share);
        for stays in stay {
            for goes in &gone {
                prop_assert!(stays.bytes < 2 * goes.bytes, "{goes:?} goes while {stays:?} stays");
                let older = stays.since_ms < goes.since_ms;
                prop_assert!(!older || stays.bytes < goes.bytes, "{goes:?} goes while {stays:?} stays");
            }
        }
    }

    #[test]
    fn the_order_of_the_list_does_not_matter(holders in crowd(), seed in any::<u64>()) {
        let mut shuffled = holders.clone();
        fastrand::Rng::with_seed(seed).shuffle(&mut shuffled);
        prop_assert_eq!(victims(shuffled, BUDGET), victims(holders, BUDGET));
    }
}

#[test]
fn a_deadline_passes_only_for_those_that_are_served() {
    let limits = Limits {
        message_timeout: Duration::from_millis(500),
        write_timeout: Duration::from_millis(800),
        ..Limits::default()
    };
    let waits = |phase, hold, message_ms, output_ms| Waits { phase, hold, message_ms, output_ms };
    let at = |waits, now_ms| overdue(waits, &limits, now_ms);
    let message = waits(Phase::Open, Hold::None, Some(1000), None);
    assert_eq!((at(message, 1499), at(message, 1500)), (None, Some(Overdue::Message)));
    let output = waits(Phase::Open, Hold::None, None, Some(1000));
    assert_eq!((at(output, 1799), at(output, 1800)), (None, Some(Overdue::Output)));
    assert_eq!(at(waits(Phase::Open, Hold::None, None, None), u64::MAX), None);
    use Overdue::{Message, Output};
    for (phase, hold, message, output) in [
        (Phase::Open, Hold::None, Some(Message), Some(Output)),
        (Phase::Open, Hold::Chosen, Some(Message), Some(Output)),
        // It is not read: nothing more can come.
        (Phase::Open, Hold::Parked, None, Some(Output)),
        (Phase::Open, Hold::Offered, None, None),
        (Phase::Closing, Hold::None, None, Some(Output)),
        (Phase::Closing, Hold::Offered, None, None),
        (Phase::Failed, Hold::None, None, None),
        (Phase::Done, Hold::None, None, None),
    ] {
        assert_eq!(at(waits(phase, hold, Some(0), None), 1000), message, "{phase:?} {hold:?}");
        assert_eq!(at(waits(phase, hold, None, Some(0)), 1000), output, "{phase:?} {hold:?}");
    }
}
