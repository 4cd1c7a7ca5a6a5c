//! A store that is full: who is counted, who is refused, and how it gets room again.

use std::time::Instant;

use super::super::testing::{Directory, MIB, lifetime, open};
use super::super::{Bucket, Embedded, Ring};
use super::{age, sessions, time_passes};
use crate::backplane::BackplaneError;
use crate::backplane::conformance::{Cluster, Instance, SOON, batch, count, increment, last, load, publication};
use crate::batch::{Increment, Outcome};
use crate::lifetimes::Lifetimes;
use crate::redis::Reason;
use crate::token::Token;

fn small() -> Directory {
    let mut directory = Directory::new();
    directory.options.max_size = 8 * MIB;
    directory
}

fn name(n: usize) -> String {
    format!("{n}-{}", "x".repeat(50))
}

/// Counts one message of each of these sessions; what became of them.
fn outcomes(embedded: &mut Embedded, increments: Vec<Increment>) -> Vec<Outcome> {
    let mut batch = batch(increments, vec![]);
    embedded.settle(&mut batch).unwrap();
    batch.increments.into_iter().map(|increment| increment.outcome).collect()
}

/// Adds sessions until one is refused. How many there are.
fn fill(embedded: &mut Embedded) -> usize {
    let mut n = 0;
    // A large batch is refused sooner.
    for many in [100, 20] {
        loop {
            assert!(n < 200_000, "it never gets full");
            let outcomes = outcomes(embedded, (n..n + many).map(|n| increment(&name(n), 1, 0)).collect());
            if outcomes.contains(&Outcome::Failed) {
                assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Failed), "all of them are new");
                break;
            }
            n += many;
        }
    }
    n
}

fn sweep_all(embedded: &mut Embedded) {
    while sessions(embedded) > 0 {
        assert!(embedded.sweep().unwrap().gone > 0, "a full store can be swept");
        time_passes(embedded);
    }
}

#[test]
fn sessions_that_have_a_record_go_on_and_new_ones_are_refused_in_the_same_batch() {
    let directory = small();
    let mut embedded = directory.open();
    let n = fill(&mut embedded);
    assert!(n > 1000, "it is full from the start");
    for round in 0..2000u64 {
        let known = name(round as usize % n);
        let before = load(&mut embedded, &known);
        let increments = vec![increment("new", 1, 0), increment(&known, 2, 0), increment("new-too", 1, 0)];
        assert_eq!(
            outcomes(&mut embedded, increments),
            [Outcome::Failed, Outcome::Count(before + 2), Outcome::Failed],
            "round {round}"
        );
    }
    assert_eq!((load(&mut embedded, "new"), sessions(&embedded)), (0, n as u64));
    // Who is connected and has seen a count has a session, even if its record is gone.
    assert_eq!(outcomes(&mut embedded, vec![increment("seen", 1, 41)]), [Outcome::Count(42)]);
    let health = crate::backplane::Backplane::health(&mut embedded);
    assert_eq!((health.degraded(), health.degraded_since > 0), (Some(Reason::StoreFull), true));
}

#[test]
fn a_full_store_has_room_again_when_sessions_expire() {
    let directory = small();
    let mut embedded = directory.open();
    let n = fill(&mut embedded);
    age(&mut embedded, (0..n).map(name), 4000);
    sweep_all(&mut embedded);
    assert!(embedded.is_short(), "nobody has tried");
    let end = Instant::now() + SOON;
    while embedded.is_short() {
        // As a worker does every second.
        embedded.settle(&mut batch(vec![], vec![])).unwrap();
        assert!(Instant::now() < end, "it does not notice");
    }
    assert!(crate::backplane::Backplane::health(&mut embedded).degraded().is_none());
    for expected in 1..=200 {
        assert_eq!(count(&mut embedded, "new", 1), expected);
    }
    let size = embedded.data.metadata().unwrap().len();
    assert!(size <= 8 * MIB, "{size}");
}

#[test]
fn a_session_that_has_expired_and_was_not_swept_begins_anew_in_its_place() {
    let directory = small();
    let mut embedded = directory.open();
    let n = fill(&mut embedded);
    age(&mut embedded, [name(5)].into_iter(), 4000);
    assert_eq!(outcomes(&mut embedded, vec![increment(&name(5), 1, 0)]), [Outcome::Count(1)]);
    assert_eq!(sessions(&embedded), n as u64);
}

#[test]
fn operators_and_upkeep_go_on_in_a_full_store() {
    let directory = small();
    let mut embedded = directory.open();
    fill(&mut embedded);
    for n in 0..300 {
        embedded.note_act(Ring::Acts, &format!("act {n}")).unwrap();
    }
    assert_eq!(embedded.last_acts(Ring::Acts, 1).unwrap(), ["act 299"]);
    let bucket = Bucket { kind: b'a', number: 1, burst: 3, interval_ms: 1000, always_kept: true };
    assert_eq!(embedded.take_from(&[bucket], 10_000).unwrap(), None);
    let token: Token = name(1).parse().unwrap();
    assert_eq!(embedded.reset(&token).unwrap(), Some(1));
    assert_eq!(embedded.session(&token).unwrap().unwrap().count, 0);
    let claim = embedded.claim_checkpoint().unwrap().expect("it is time");
    assert!(claim.write(directory.path()).unwrap().is_some());
}

#[test]
fn publications_reach_others_in_a_full_store_and_take_no_room_from_counts() {
    let directory = small();
    let mut embedded = directory.open();
    fill(&mut embedded);
    let mut other = directory.join();
    for n in 0..300u64 {
        // Together more than half of the store.
        let mut batch = batch(vec![increment(&name(3), 1, 0)], vec![publication("x".repeat(16 * 1024))]);
        embedded.settle(&mut batch).unwrap();
        assert_eq!(last(&batch.increments[0]), n + 2);
        assert_eq!(other.hear().unwrap().0.len(), 1);
    }
}

#[test]
fn what_a_refused_client_wanted_to_publish_is_not_published() {
    let directory = small();
    let mut embedded = directory.open();
    fill(&mut embedded);
    let mut batch = crate::batch::Batch::default();
    for (key, session, text) in [(1, "new".to_owned(), "refused"), (2, name(7), "counted")] {
        batch.begin();
        batch.count();
        batch.publish("room", text);
        assert!(batch.end(key, 1, &session.parse().unwrap(), Some(0), true));
    }
    embedded.settle(&mut batch).unwrap();
    assert_eq!((batch.counted(), batch.publications.len()), ((1, 1), 1));
    let heard = embedded.hear().unwrap().0;
    assert_eq!(heard.into_iter().map(|publication| publication.text).collect::<Vec<_>>(), ["counted"]);
}

#[test]
fn a_store_that_was_left_full_is_opened_full_and_swept() {
    let directory = small();
    let mut embedded = directory.open();
    let n = fill(&mut embedded);
    let aged = n / 2;
    age(&mut embedded, (0..aged).map(name), 4000);
    let _quiet = crate::store::testing::no_spawning();
    embedded.leave().unwrap();
    let mut embedded = open(directory.options.clone()).unwrap();
    assert_eq!(outcomes(&mut embedded, vec![increment("new", 1, 0)]), [Outcome::Failed]);
    assert_eq!(count(&mut embedded, &name(n - 1), 1), 2);
    while sessions(&embedded) > (n - aged) as u64 {
        embedded.sweep().unwrap();
        time_passes(&mut embedded);
    }
    assert_eq!(outcomes(&mut embedded, vec![increment("new", 1, 0)]), [Outcome::Count(1)]);
}

#[test]
fn one_too_large_to_be_published_fails_as_a_whole() {
    let directory = small();
    let mut embedded = directory.open();
    fill(&mut embedded);
    let mut batch = batch(vec![increment(&name(3), 1, 0)], vec![publication("x".repeat(8 * MIB as usize))]);
    let error = embedded.settle(&mut batch).unwrap_err();
    assert!(matches!(&error, BackplaneError::Full(text) if text.contains("allowed 8388608 bytes")), "{error}");
    assert_eq!((batch.increments[0].outcome, load(&mut embedded, &name(3))), (Outcome::Failed, 1));
}

#[test]
fn a_session_of_one_message_is_swept_before_one_in_use() {
    let mut directory = small();
    directory.options.lifetimes = Lifetimes { new: 10, ..lifetime(100) };
    let mut embedded = directory.open();
    count(&mut embedded, "one", 1);
    count(&mut embedded, "two", 2);
    let used = |embedded: &mut Embedded, seconds| {
        for (session, count) in [("one", 1), ("two", 2)] {
            let touched = super::unix_seconds() - seconds;
            let record = super::Record { count, touched, confirmed: count };
            let key = crate::backplane::conformance::token(session).key();
            embedded
                .write(super::Aim::Upkeep, super::Need::records(1), |txn, tables| {
                    Ok(record.put(tables.sessions, txn, key.as_ref())?)
                })
                .unwrap();
        }
    };
    used(&mut embedded, 5);
    assert_eq!((load(&mut embedded, "one"), load(&mut embedded, "two")), (1, 2));
    used(&mut embedded, 20);
    assert_eq!((load(&mut embedded, "one"), load(&mut embedded, "two")), (0, 2), "seen nowhere, swept or not");
    assert_eq!((embedded.sweep().unwrap().gone, sessions(&embedded)), (1, 1));
    assert_eq!(count(&mut embedded, "one", 1), 1, "it begins anew");
}

#[test]
#[allow(clippy::print_stderr)]
fn a_slice_never_holds_the_lock_for_long() {
    let mut directory = Directory::new();
    directory.options.max_size = 64 * MIB;
    let mut embedded = directory.open();
    age(&mut embedded, (0..20_000).map(name), 4000);
    let mut times = Vec::new();
    while sessions(&embedded) > 0 {
        time_passes(&mut embedded);
        let begun = Instant::now();
        let gone = embedded.sweep().unwrap().gone;
        times.push(begun.elapsed());
        assert!(gone <= 512);
    }
    times.sort();
    let median = times[times.len() / 2];
    eprintln!("{} slices, median {median:?}, longest {:?}", times.len(), times[times.len() - 1]);
    // A build without optimisation on a busy machine: only a slice without a bound takes so long.
    assert!(median.as_millis() < 100, "{median:?}");
}
