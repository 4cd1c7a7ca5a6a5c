use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::scoreboard::monotonic_ms;
use crate::{Scoreboard, Side};

const SECRET: [u64; 2] = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];

fn key_of(text: &str) -> AddressKey {
    AddressKey::new(text.parse().unwrap(), SECRET)
}

fn words(count: usize) -> Vec<Word> {
    (0..count).map(|_| Word(AtomicU64::new(0))).collect()
}

fn cells(count: usize) -> Vec<AtomicU64> {
    (0..count).map(|_| AtomicU64::new(0)).collect()
}

#[test]
fn siphash_is_the_one_of_the_paper() {
    // Of its reference implementation: the key and the message are the bytes 0, 1, 2, …
    assert_eq!(siphash(SECRET, SECRET), 0x3f2a_cc7f_57c2_9bdb);
}

proptest! {
    #[test]
    #[allow(deprecated)] // The one hasher of the standard library that promises which it is.
    fn siphash_is_the_one_of_the_standard_library(k0: u64, k1: u64, a: u64, b: u64) {
        use std::hash::Hasher;
        let mut hasher = std::hash::SipHasher::new_with_keys(k0, k1);
        hasher.write(&[a.to_le_bytes(), b.to_le_bytes()].concat());
        prop_assert_eq!(siphash([k0, k1], [a, b]), hasher.finish());
    }
}

#[test]
fn a_key_is_an_ipv4_address_or_a_network_of_ipv6() {
    for (one, other) in [
        ("203.0.113.7", "::ffff:203.0.113.7"),
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff:ffff:ffff:ffff"),
        ("fe80::1", "fe80::2"),
    ] {
        assert_eq!(key_of(one), key_of(other), "{one} {other}");
    }
    for (one, other) in [
        ("203.0.113.7", "203.0.113.8"),
        ("2001:db8:1:2::1", "2001:db8:1:3::1"),
        ("::1", "1::"),
        // Within one /64 with all that is mapped or compatible, and yet an address of its own.
        ("0.0.0.0", "::"),
        ("1.2.3.4", "::1.2.3.4"),
    ] {
        assert_ne!(key_of(one), key_of(other), "{one} {other}");
    }
    let address = "203.0.113.7".parse().unwrap();
    assert_ne!(AddressKey::new(address, SECRET), AddressKey::new(address, [SECRET[0], SECRET[1] + 1]));
    assert_eq!(network("2001:db8:1:2:3::1".parse().unwrap()), "2001:db8:1:2::/64");
    assert_eq!(network("::ffff:1.2.3.4".parse().unwrap()), "1.2.3.4");
}

fn numbered(n: u64) -> AddressKey {
    AddressKey::new(IpAddr::V4((n as u32).into()), SECRET)
}

proptest! {
    /// In a table that is large enough it is a map, whatever comes and goes; in one that is too small it never says more.
    #[test]
    fn connections_are_a_map_of_counts(acts in prop::collection::vec((any::<bool>(), 0..40u64), 0..400), small: bool) {
        let words = words(if small { 16 } else { 4096 });
        let table = Connections::new(&words);
        let (mut model, mut refused): (HashMap<u64, u64>, u64) = Default::default();
        for (come, n) in acts {
            let count = model.entry(n).or_default();
            match come {
                true if table.add(numbered(n)) => *count += 1,
                true => refused += 1,
                // Only what was counted is given back.
                false if *count > 0 => {
                    table.remove(numbered(n));
                    *count -= 1;
                }
                false => {}
            }
            for (n, count) in &model {
                prop_assert_eq!(table.get(numbered(*n)), *count);
            }
        }
        prop_assert!(small || refused == 0);
        for (n, count) in &model {
            (0..*count).for_each(|_| table.remove(numbered(*n)));
        }
        prop_assert!(words.iter().all(|word| word.get() == 0), "all are gone, and something is left");
    }

    /// No address gets more than its burst and what has leaked since, nor is it refused before.
    #[test]
    fn new_sessions_are_a_leaky_bucket(
        per_minute in 1..1000u32,
        start: u64,
        steps in prop::collection::vec((0..3u64, 0..5_000_000u64), 1..300),
    ) {
        let cells = cells(1024);
        let table = NewSessions::new(&cells);
        let each = MINUTE_US / u64::from(per_minute);
        let (mut model, mut now): (HashMap<u64, u64>, u64) = (HashMap::new(), start & (u64::MAX >> 8));
        for (n, pause) in steps {
            now += pause;
            let level = model.entry(n).or_insert(now);
            let fill = level.saturating_sub(now);
            let outcome = table.take(numbered(n), per_minute, now);
            if fill + each <= MINUTE_US {
                prop_assert_eq!(outcome, Ok(()));
                *level = now + fill + each;
            } else {
                prop_assert_eq!(outcome, Err(Duration::from_micros(fill + each - MINUTE_US)));
            }
        }
    }
}

#[test]
fn what_is_cleared_may_be_given_back_all_the_same() {
    let words = words(64);
    let table = Connections::new(&words);
    let (one, other) = (numbered(1), numbered(2));
    table.remove(one);
    assert!(table.add(other));
    table.remove(one);
    assert_eq!((table.get(one), table.get(other)), (0, 1));
}

#[test]
fn a_minute_s_worth_may_come_at_once_and_then_one_each_time() {
    let cells = cells(1024);
    let table = NewSessions::new(&cells);
    let (one, other, mut now) = (numbered(1), numbered(2), 5_000_000);
    assert!((0..60).all(|_| table.take(one, 60, now).is_ok()));
    assert_eq!(table.take(one, 60, now), Err(Duration::from_secs(1)));
    assert_eq!(table.take(other, 60, now), Ok(()), "another address");
    now += 400_000;
    assert_eq!(table.take(one, 60, now), Err(Duration::from_millis(600)));
    now += 600_000;
    assert_eq!(table.take(one, 60, now), Ok(()));
    assert!(table.take(one, 60, now).is_err());
    // A higher limit, after a reload, holds at once.
    assert_eq!(table.take(one, 120, now + 500_000), Ok(()));
    now += 3 * MINUTE_US;
    assert!((0..60).all(|_| table.take(one, 60, now).is_ok()), "it has been quiet for long enough");
}

#[test]
fn cells_of_the_quiet_are_free_and_a_full_table_turns_nobody_away() {
    let cells = cells(WINDOW);
    let table = NewSessions::new(&cells);
    // All keys share this window.
    assert!((0..WINDOW as u64).all(|n| table.take(numbered(n), 1, 1000).is_ok()));
    assert!((0..WINDOW as u64).all(|n| table.take(numbered(n), 1, 1000).is_err()));
    let newcomer = numbered(100);
    assert!((0..10).all(|_| table.take(newcomer, 1, 1000).is_ok()), "it cannot be counted");
    let later = 1001 + MINUTE_US;
    assert_eq!(table.take(newcomer, 1, later), Ok(()));
    assert!(table.take(newcomer, 1, later).is_err(), "it is counted now");
    // The time of a cell begins anew after twelve days: what was written then is not taken for one of today.
    let days = later + (TIME_MASK >> 1);
    assert_eq!(table.take(newcomer, 1, days), Ok(()));
}

#[test]
fn processes_that_take_at_the_same_time_share_one_bucket() {
    let cells = cells(1024);
    let taken: usize = std::thread::scope(|scope| {
        let take = || (0..1000).filter(|_| NewSessions::new(&cells).take(numbered(7), 500, 1).is_ok()).count();
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    // Whoever loses too often in a row is let in.
    assert!((500..510).contains(&taken), "{taken} of 4000");
}

#[test]
fn the_connections_of_all_workers_add_up_and_those_of_the_dead_do_not_count() {
    let ours = Scoreboard::create(2).unwrap();
    let theirs = Scoreboard::adopt(ours.memfd().try_clone_to_owned().unwrap()).unwrap();
    let address = "2001:db8::1".parse().unwrap();
    let key = ours.address_key(address);
    assert_eq!(key, theirs.address_key(address));
    assert_ne!(key, Scoreboard::create(2).unwrap().address_key(address));
    // The successor may have more slots.
    let rows = [(&ours, 0, Side::A), (&ours, 0, Side::B), (&theirs, 1, Side::A), (&theirs, 63, Side::B)];
    for (board, slot, side) in rows {
        assert!(board.connections(slot, side).add(key));
        board.row(slot, side).tick().set(monotonic_ms());
    }
    assert_eq!((ours.connections_of(key), theirs.connections_of(key)), (4, 4));
    theirs.clear(63, Side::B);
    assert_eq!(ours.connections_of(key), 3);
    theirs.row(63, Side::B).tick().set(monotonic_ms());
    assert_eq!(ours.connections_of(key), 3, "they are gone with the worker");
    // Killed with its supervisor: nobody has cleared its row.
    ours.row(0, Side::B).tick().set(monotonic_ms().saturating_sub(61_000).max(1));
    assert_eq!(theirs.connections_of(key), if monotonic_ms() > 62_000 { 2 } else { 3 });
    assert_eq!(ours.new_sessions().take(key, 1, 1), Ok(()));
    assert!(theirs.new_sessions().take(key, 1, 1).is_err());
}
