//! What is true of the embedded backplane alone.

use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::testing::{Directory, MIB, open};
use super::{Aim, Embedded, Need, Options, Record, bus, unix_seconds};
use crate::backplane::conformance::{Cluster, Instance, SOON, conformance, count, hear, load, publish, token};
use crate::store::testing::no_spawning;

mod full;

conformance!(Directory, Directory::new());

/// Stores sessions that were last used so many seconds ago.
fn age(embedded: &mut Embedded, sessions: impl Iterator<Item = String>, seconds: u64) {
    let touched = unix_seconds() - seconds;
    let sessions: Vec<String> = sessions.collect();
    for sessions in sessions.chunks(200) {
        embedded
            .write(Aim::Upkeep, Need::records(sessions.len()), |txn, tables| {
                for session in sessions {
                    let record = Record { count: 7, touched, confirmed: 7 };
                    record.put(tables.sessions, txn, token(session).key().as_ref())?;
                }
                Ok(())
            })
            .unwrap();
    }
}

/// Lets the next sweep begin now.
fn time_passes(embedded: &mut Embedded) {
    let passed = embedded.write(Aim::Upkeep, Need::records(1), |txn, tables| {
        if let Some(entry) = tables.meta.get(txn, b"sweep")?.map(<[u8]>::to_vec) {
            let entry = [&0u64.to_le_bytes()[..], &entry[8..]].concat();
            tables.meta.put(txn, b"sweep", &entry)?;
        }
        Ok(())
    });
    passed.unwrap();
}

fn sessions(embedded: &Embedded) -> u64 {
    embedded.sessions.len(&embedded.env.read_txn().unwrap()).unwrap()
}

fn peers(embedded: &Embedded) -> u64 {
    embedded.bus.peers.len(&embedded.env.read_txn().unwrap()).unwrap()
}

#[test]
fn a_sweep_takes_what_has_expired_and_never_much_at_once() {
    let directory = Directory::new();
    let mut embedded = directory.open();
    age(&mut embedded, (0..1500).map(|n| format!("old-{n}")), 3605);
    age(&mut embedded, (0..700).map(|n| format!("young-{n}")), 3500);
    // Of another version, or no record at all: nothing can be made of it.
    embedded.write(Aim::Upkeep, Need::records(1), |txn, t| Ok(t.sessions.put(txn, b"tstrange", b"\x09")?)).unwrap();
    assert_eq!(load(&mut embedded, "old-3"), 0, "expired ones are not seen, swept or not");
    let mut swept = Vec::new();
    while sessions(&embedded) > 700 {
        swept.push(embedded.sweep().unwrap().gone);
        assert_eq!(embedded.sweep().unwrap().gone, 0, "not again before it is time");
        time_passes(&mut embedded);
        assert!(swept.len() < 20, "{swept:?}");
    }
    assert!(swept.iter().all(|n| *n <= 512) && swept.iter().sum::<usize>() == 1501, "{swept:?}");
    assert_eq!(load(&mut embedded, "young-699"), 7);
    // Round and round.
    for _ in 0..5 {
        time_passes(&mut embedded);
        assert_eq!(embedded.sweep().unwrap().gone, 0);
    }
    assert_eq!(sessions(&embedded), 700);
}

#[test]
fn one_of_many_claims_a_checkpoint() {
    let directory = Directory::new();
    let mut workers: Vec<_> = (0..4).map(|_| directory.join()).collect();
    for round in 1..=20 {
        assert_eq!(count(&mut workers[0], "a", 1), round);
        let claims = thread::scope(|scope| {
            let claims: Vec<_> = workers.iter_mut().map(|worker| scope.spawn(|| worker.claim())).collect();
            claims.into_iter().map(|claim| claim.join().unwrap()).filter(|claimed| *claimed).count()
        });
        assert_eq!(claims, 1, "round {round}");
        assert!(!workers[1].claim(), "nothing has changed since");
    }
}

#[test]
fn a_checkpoint_is_a_store_with_all_counts() {
    let directory = Directory::new();
    let mut embedded = directory.open();
    for n in 0..500u32 {
        count(&mut embedded, &format!("session-{n}"), n + 1);
    }
    let claim = embedded.claim_checkpoint().unwrap().expect("it is time");
    count(&mut embedded, "session-0", 100);
    let length = claim.write(directory.path()).unwrap().expect("nobody else writes one");
    let path = directory.path().join("checkpoint.mdb");
    assert_eq!(path.metadata().unwrap().len(), length);
    assert!(!directory.path().join("checkpoint.tmp").exists());
    crate::store::verify::verify(&std::fs::File::open(&path).unwrap()).unwrap();

    let copy = tempfile::tempdir().unwrap();
    std::fs::copy(path, copy.path().join("data.mdb")).unwrap();
    let mut copied = open(Options { state_dir: copy.path().to_owned(), ..directory.options.clone() }).unwrap();
    assert!((1..500u32).all(|n| load(&mut copied, &format!("session-{n}")) == u64::from(n) + 1));
    // One of them was there, the other came before the copy began.
    assert_eq!(load(&mut copied, "session-0"), 101);
    assert_eq!(count(&mut copied, "session-1", 1), 3);
}

#[test]
fn the_log_of_publications_keeps_its_length() {
    let directory = Directory::new();
    let mut embedded = directory.open();
    let numbers: Vec<u64> = (0..2 * bus::KEPT + 10).collect();
    numbers.chunks(700).for_each(|texts| publish(&mut embedded, texts));
    let length = |embedded: &Embedded| embedded.bus.log.len(&embedded.env.read_txn().unwrap()).unwrap();
    assert_eq!(length(&embedded), bus::KEPT);
    for n in 0..10 {
        publish(&mut embedded, [n]);
    }
    assert_eq!(length(&embedded), bus::KEPT);
}

#[test]
fn large_publications_leave_room_for_counts() {
    let mut directory = Directory::new();
    directory.options.max_size = 16 * MIB;
    let mut embedded = directory.open();
    let mut laggard = directory.join();
    // Many small ones first, then more than the whole store takes.
    (0..5000).for_each(|n| publish(&mut embedded, [n]));
    for n in 0..100u8 {
        publish(&mut embedded, [String::from_utf8(vec![b'a' + n % 26; 300_000]).unwrap()]);
        assert_eq!(count(&mut embedded, "a", 1), u64::from(n) + 1);
    }
    let txn = embedded.env.read_txn().unwrap();
    let stat = embedded.bus.log.stat(&txn).unwrap();
    assert!((stat.leaf_pages + stat.overflow_pages) as u64 * 4096 <= 4 * MIB, "{stat:?}");
    drop(txn);
    // One that is larger than the share is still delivered.
    publish(&mut embedded, ["z".repeat(5 * MIB as usize)]);
    let (mut heard, mut missed) = (0, 0);
    while heard + missed < 5101 {
        let (publications, gap) = laggard.hear().unwrap();
        assert!(!publications.is_empty(), "{heard} heard, {missed} missed");
        assert!(
            publications.iter().rev().skip(1).map(|p| p.text.len()).sum::<usize>() < MIB as usize,
            "a few at a time"
        );
        heard += publications.len() as u64;
        missed += gap;
    }
    assert_eq!(heard + missed, 5101);
}

#[test]
fn a_publication_wakes_the_others() {
    let directory = Directory::new();
    let mut here = directory.open();
    let mut there = directory.join();
    let readable = |embedded: &Embedded, timeout: PollTimeout| {
        poll(&mut [PollFd::new(embedded.wake_up().as_fd(), PollFlags::POLLIN)], timeout).unwrap() > 0
    };
    assert!(!readable(&here, PollTimeout::ZERO));
    publish(&mut there, ["hello"]);
    assert!(readable(&here, PollTimeout::try_from(SOON).unwrap()));
    assert_eq!(hear(&mut here, 1), ["hello"]);
    assert!(!readable(&here, PollTimeout::ZERO), "it is awake now");
    count(&mut there, "a", 1);
    publish(&mut here, ["to others"]);
    assert!(!readable(&here, PollTimeout::ZERO), "nothing to wake for");
    // More than a socket's queue takes: a wake-up that is waiting is enough.
    (0..2000).for_each(|n| publish(&mut there, [n]));
    assert_eq!(hear(&mut here, 2001).len(), 2001);
}

#[test]
fn who_is_gone_is_forgotten() {
    let directory = Directory::new();
    let mut embedded = directory.open();
    let killed: Vec<_> = (0..3).map(|_| directory.join()).collect();
    let left = directory.join();
    assert_eq!(peers(&embedded), 5);
    left.close();
    assert_eq!(peers(&embedded), 4);
    drop(killed);
    assert_eq!(peers(&embedded), 4, "the dead do not say so");
    publish(&mut embedded, ["is anybody there?"]);
    assert_eq!(peers(&embedded), 1);
}

#[test]
fn a_killed_holder_of_the_write_lock_holds_nobody_up() {
    let directory = Directory::new();
    let mut embedded = directory.open();
    assert_eq!(count(&mut embedded, "a", 1), 1);
    for expected in 2..=5 {
        let mut holder = directory.join();
        holder.hold();
        assert!(std::path::Path::new(&format!("/proc/{}", holder.id())).exists());
        // Reading needs no lock.
        assert_eq!(load(&mut embedded, "a"), expected - 1);
        thread::scope(|scope| {
            scope.spawn(|| {
                thread::park_timeout(Duration::from_millis(20));
                drop(holder);
            });
            assert_eq!(count(&mut embedded, "a", 1), expected);
        });
    }
}

#[test]
fn the_last_to_leave_marks_the_store_clean() {
    let directory = Directory::new();
    let clean = directory.path().join("clean");
    let embedded = directory.open();
    let other = directory.join();
    other.close();
    let _quiet = no_spawning();
    embedded.leave().unwrap();
    assert!(!clean.exists(), "the supervisor is still there");
    let Directory { membership, dir: _dir, .. } = directory;
    membership.leave_as_last().unwrap().expect("nobody else is there").mark_clean().unwrap();
    assert!(clean.exists());
}

#[test]
fn a_store_that_is_gone_is_not_made_anew() {
    let directory = Directory::new();
    std::fs::remove_file(directory.path().join("data.mdb")).unwrap();
    let Err(error) = open(directory.options.clone()) else { panic!("a new store, beside the one in use") };
    assert!(error.to_string().contains("the store is gone"), "{error}");
    assert!(!directory.path().join("data.mdb").exists());
}
