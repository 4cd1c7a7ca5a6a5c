//! What every backplane must do, and what is true of Redis alone.

use super::testing::{Host, Hosts};
use crate::backplane::conformance::{Instance, batch, conformance, count, hear, increment, last, load, publish};
use crate::backplane::embedded::ledger::{Plan, UnitId};
use crate::backplane::embedded::testing::Directory;
use crate::backplane::{Aim, Backplane, Embedded};
use crate::batch::{Increment, Outcome};
use crate::lifetimes::Lifetimes;
use crate::redis::Reason;
use crate::redis::testing::Server;

// Left out: `a_batch_is_committed_whole_or_not_at_all`, since what Redis does not take is counted on the host, and
// `what_was_missed_is_told`, since pub/sub keeps nothing for those who lag.
conformance!(
    Hosts, Hosts::new(),
    every_count_is_given_once
    increments_of_one_batch_add_up
    a_count_never_falls_below_its_floor
    counts_are_loaded_in_the_order_asked_for
    sessions_live_as_long_as_they_are_touched
    publications_reach_everyone_in_one_order
    who_joins_later_hears_what_comes_later
    counts_outlive_those_who_counted
);

/// Counts one message on a connection that has seen `floor`.
fn count_after(host: &mut Host, session: &str, floor: u64) -> Outcome {
    let mut batch = batch(vec![increment(session, 1, floor)], vec![]);
    host.settle(&mut batch).unwrap();
    batch.increments[0].outcome
}

/// What a client that resumes a session is told.
fn resume(host: &mut Host, session: &str) -> Outcome {
    let lookup = Increment { floor: None, ..increment(session, 0, 0) };
    let mut batch = batch(vec![lookup], vec![]);
    host.settle(&mut batch).unwrap();
    batch.increments[0].outcome
}

fn comes_back(host: &mut Host) {
    host.until("Redis is back", |host| host.is_up());
    host.work_off();
    assert_eq!(host.redis.health().pending, 0);
}

#[test]
fn what_is_counted_while_redis_is_away_is_merged_once() {
    let mut hosts =
        Hosts { server: Server::start(&["--appendonly", "yes", "--appendfsync", "always"]), ..Hosts::new() };
    let (mut one, mut other) = (hosts.host(), hosts.host());
    assert_eq!((count(&mut one, "a", 10), count(&mut other, "a", 5)), (10, 15));
    hosts.server.kill();
    // What is under way when it dies is counted all the same, and so is the rest.
    for n in 1..=7 {
        assert_eq!(count_after(&mut one, "a", 9 + n), Outcome::Count(10 + n));
        assert_eq!(count_after(&mut other, "a", 14 + n), Outcome::Count(15 + n), "no two hosts know of each other now");
    }
    assert_eq!(one.redis.health().pending, 7);
    assert_eq!(resume(&mut one, "a"), Outcome::Unknown, "the other host may know more");
    assert_eq!(resume(&mut one, "b"), Outcome::Unknown);
    hosts.server.restart();
    comes_back(&mut one);
    comes_back(&mut other);
    assert_eq!(load(&mut one, "a"), 29);
    assert_eq!(resume(&mut other, "a"), Outcome::Count(29));
    assert_eq!(count_after(&mut one, "a", 17), Outcome::Count(30));
}

#[test]
fn a_session_is_merged_with_its_next_message_and_others_by_themselves() {
    let mut hosts = Hosts::new();
    let mut host = hosts.host();
    hosts.server.kill();
    for n in 0..1000 {
        assert_eq!(count_after(&mut host, &format!("s{n}"), 0), Outcome::Count(1));
    }
    hosts.server.restart();
    host.until("Redis is back", |host| host.is_up());
    assert_eq!(count_after(&mut host, "s999", 1), Outcome::Count(2));
    assert_eq!(load(&mut host, "s999"), 2);
    comes_back(&mut host);
    for n in 0..999 {
        assert_eq!(load(&mut host, &format!("s{n}")), 1, "s{n}");
    }
}

#[test]
fn redis_that_has_lost_its_memory_takes_no_count_back() {
    let mut hosts = Hosts::new();
    let mut host = hosts.host();
    assert_eq!((count(&mut host, "open", 41), count(&mut host, "left", 7), count(&mut host, "away", 3)), (41, 7, 3));
    host.redis.rest();
    hosts.server.kill();
    assert_eq!(count_after(&mut host, "away", 3), Outcome::Count(4));
    hosts.server.restart();
    comes_back(&mut host);
    assert_eq!(count_after(&mut host, "open", 41), Outcome::Count(42));
    assert_eq!(resume(&mut host, "left"), Outcome::Count(7));
    assert_eq!((load(&mut host, "away"), load(&mut host, "left")), (4, 7), "and Redis knows again");
}

#[test]
fn a_session_that_began_here_while_redis_was_away_can_be_resumed_here() {
    let mut hosts = Hosts::new();
    let mut host = hosts.host();
    hosts.server.kill();
    assert_eq!(count_after(&mut host, "born", 0), Outcome::Count(1));
    assert_eq!(resume(&mut host, "born"), Outcome::Count(1));
    hosts.server.restart();
    comes_back(&mut host);
    hosts.server.kill();
    assert_eq!(count_after(&mut host, "born", 1), Outcome::Count(2));
    assert_eq!(resume(&mut host, "born"), Outcome::Unknown, "by now another host may know more");
}

#[test]
fn a_unit_that_arrives_late_counts_once() {
    let hosts = Hosts::new();
    let mut host = hosts.host();
    assert_eq!(count(&mut host, "a", 10), 10);
    hosts.server.stop();
    // It lies in the socket of a server that does not answer.
    assert_eq!(count_after(&mut host, "a", 10), Outcome::Count(11));
    assert!(!host.is_up());
    assert_eq!(count_after(&mut host, "a", 11), Outcome::Count(12));
    hosts.server.resume();
    comes_back(&mut host);
    assert_eq!(load(&mut host, "a"), 12);
    assert_eq!(count_after(&mut host, "a", 12), Outcome::Count(13));
}

#[test]
fn another_worker_of_the_host_finishes_what_one_has_left_behind() {
    let hosts = Hosts::new();
    let mut host = hosts.host();
    assert_eq!(count(&mut host, "a", 10), 10);
    // It is planned, and its worker dies before, or after, it was sent.
    host.redis.plan(Aim::Growth, &mut batch(vec![increment("a", 5, 10)], vec![]), Vec::new()).unwrap();
    host.redis.answered.clear();
    let Host { redis, directory, .. } = host;
    drop(redis);
    let mut next = Host::on(directory, hosts.server.settings(), hosts.lifetimes);
    next.until("Redis is there", |host| host.is_up());
    next.until("it is old enough to be left behind", Host::has_backlog);
    next.work_off();
    assert_eq!(load(&mut next, "a"), 15);
    assert_eq!(count_after(&mut next, "a", 10), Outcome::Count(16));
    assert!(!next.has_backlog());
}

#[test]
fn a_key_that_holds_something_else_fails_alone() {
    let hosts = Hosts::new();
    let mut host = hosts.host();
    let key = host.redis.layout.session(&"odd".parse::<crate::token::Token>().unwrap().key());
    for (even, value) in
        (1..).zip(["not a number", "1.5", "1e400", "-1.5", "9223372036854775807", "99999999999999999999", ""])
    {
        hosts.server.cli(&["SET", &key, value]);
        let mut both = batch(vec![increment("odd", 1, 0), increment("even", 1, 0)], vec![]);
        host.settle(&mut both).unwrap();
        assert_eq!(both.increments[0].outcome, Outcome::Failed, "{value}");
        assert_eq!(last(&both.increments[1]), even);
        assert_eq!(resume(&mut host, "odd"), Outcome::Failed, "{value}");
        assert!(host.is_up() && !host.has_backlog(), "{value}");
    }
    hosts.server.cli(&["DEL", &key]);
    hosts.server.cli(&["RPUSH", &key, "a list"]);
    assert_eq!(resume(&mut host, "odd"), Outcome::Failed);
}

#[test]
fn a_count_that_rests_on_what_another_worker_has_under_way_has_that_go_first() {
    let directory = Directory::new();
    // The ledger is one: by which worker's hand makes no difference.
    let mut host = directory.open();
    let plan = |worker: &mut Embedded, source, increments: &mut [Increment]| {
        worker.plan(Aim::Growth, increments, &[], |_| 0, || UnitId { source, number: 1 }).unwrap().0
    };
    // The names say nothing of the order.
    plan(&mut host, 9, &mut [increment("a", 5, 10)]);
    let mut increments = [increment("a", 3, 10)];
    let second = plan(&mut host, 2, &mut increments);
    host.keep(&second.units[0], &mut increments).unwrap();
    assert_eq!(increments[0].outcome, Outcome::Count(18));
    let sources = |plan: Plan| plan.before.iter().map(|unit| unit.id.source).collect::<Vec<_>>();
    assert_eq!(sources(plan(&mut host, 3, &mut [increment("b", 1, 0)])), [0; 0], "of another session");
    assert_eq!(sources(plan(&mut host, 4, &mut [increment("a", 0, 0)])), [9, 2], "as they were made");
}

#[test]
fn a_session_that_a_client_has_named_may_be_known_elsewhere_even_if_its_count_was_none() {
    let mut hosts = Hosts::new();
    let mut host = hosts.host();
    assert_eq!(resume(&mut host, "named"), Outcome::Count(0));
    hosts.server.kill();
    for n in 1..=2 {
        let mut batch = batch(vec![Increment { began: false, ..increment("named", 1, n - 1) }], vec![]);
        host.settle(&mut batch).unwrap();
        assert_eq!(batch.increments[0].outcome, Outcome::Count(n), "who is connected goes on");
        assert_eq!(resume(&mut host, "named"), Outcome::Unknown);
    }
}

#[test]
fn a_worker_with_nothing_to_say_notices_at_once_that_redis_is_gone() {
    let mut hosts = Hosts::new();
    let mut host = hosts.host();
    let before = host.redis.health().reconnects;
    hosts.server.kill();
    hosts.server.restart();
    host.until("it was away, and is back", |host| host.is_up() && host.redis.health().reconnects > before);
    assert_eq!(resume(&mut host, "a"), Outcome::Count(0));
}

#[test]
fn publications_stay_on_the_host_while_redis_is_away() {
    let mut hosts = Hosts::new();
    let (mut one, mut other) = (hosts.host(), hosts.host());
    publish(&mut one, ["to all"]);
    assert_eq!((hear(&mut one, 1), hear(&mut other, 1)), (vec!["to all".to_owned()], vec!["to all".to_owned()]));
    hosts.server.kill();
    publish(&mut one, ["under way", "here"]);
    publish(&mut one, ["here too"]);
    let (here, _) = one.redis.published().unwrap();
    assert_eq!(here.iter().map(|p| p.text.as_str()).collect::<Vec<_>>(), ["under way", "here", "here too"]);
    assert!(other.hear().unwrap().0.is_empty());
}

/// An increment that only asks.
fn look(session: &str) -> Increment {
    Increment { floor: None, ..increment(session, 0, 0) }
}

#[test]
fn at_its_maxmemory_redis_counts_who_it_knows_and_refuses_who_is_new() {
    let hosts = Hosts::new();
    let mut host = hosts.host();
    assert_eq!(count(&mut host, "known", 3), 3);
    hosts.server.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    for n in 4..=20 {
        let increments = vec![look("known"), increment("new", 1, 0), increment("known", 1, 0), look("nobody")];
        let mut batch = batch(increments, vec![]);
        host.settle(&mut batch).unwrap();
        let outcomes: Vec<Outcome> = batch.increments.iter().map(|increment| increment.outcome).collect();
        assert_eq!(outcomes, [Outcome::Count(n - 1), Outcome::Failed, Outcome::Count(n), Outcome::Count(0)]);
    }
    assert_eq!(resume(&mut host, "known"), Outcome::Count(20));
    assert!(host.is_up() && !host.has_backlog());
    assert_eq!(host.redis.health().degraded(), Some(Reason::OutOfMemory));
    host.redis.rest();
    let new = crate::backplane::conformance::token("new");
    assert_eq!((load(&mut host, "new"), host.redis.host().kept_count(&new.key()).unwrap()), (0, 0), "no trace is left");
    publish(&mut host, ["to all"]);
    assert_eq!(hear(&mut host, 1), ["to all"]);
    // A host that comes now is served as well.
    let mut other = hosts.host();
    assert_eq!(resume(&mut other, "known"), Outcome::Count(20));
    assert_eq!(other.redis.health().degraded(), Some(Reason::OutOfMemory));
    hosts.server.cli(&["CONFIG", "SET", "maxmemory", "0"]);
    host.until("Redis has memory again", |host| host.redis.health().degraded().is_none());
    assert_eq!((count(&mut host, "new", 1), count(&mut host, "known", 1)), (1, 21));
}

#[test]
fn what_was_answered_while_redis_was_away_is_merged_even_at_its_maxmemory() {
    let mut hosts = Hosts::new();
    let mut host = hosts.host();
    assert_eq!(count(&mut host, "known", 3), 3);
    host.redis.rest();
    hosts.server.kill();
    assert_eq!(count_after(&mut host, "born", 0), Outcome::Count(1));
    assert_eq!(count_after(&mut host, "known", 3), Outcome::Count(4));
    // It has nothing any more, and no room for anything.
    hosts.server.restart();
    hosts.server.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    comes_back(&mut host);
    assert_eq!((load(&mut host, "born"), load(&mut host, "known")), (1, 4));
    assert_eq!(count_after(&mut host, "born", 1), Outcome::Count(2));
}

#[test]
fn a_session_of_one_message_lives_shorter_in_redis_too() {
    let hosts = Hosts { lifetimes: Lifetimes { session: 1000, new: 100 }, ..Hosts::new() };
    let mut host = hosts.host();
    let key = host.redis.layout.session(&"a".parse::<crate::token::Token>().unwrap().key());
    let lives = |hosts: &Hosts| hosts.server.cli(&["TTL", &key]).trim().parse::<i64>().unwrap();
    assert_eq!(count(&mut host, "a", 1), 1);
    assert!((1..=101).contains(&lives(&hosts)), "{}", lives(&hosts));
    assert_eq!(resume(&mut host, "a"), Outcome::Count(1));
    assert!((1..=101).contains(&lives(&hosts)), "to look is no use: {}", lives(&hosts));
    assert_eq!(count_after(&mut host, "a", 1), Outcome::Count(2));
    assert!((102..=1001).contains(&lives(&hosts)), "{}", lives(&hosts));
    assert_eq!(resume(&mut host, "a"), Outcome::Count(2));
    assert!((102..=1001).contains(&lives(&hosts)), "{}", lives(&hosts));
    // One that the host knows from before Redis lost its memory.
    hosts.server.cli(&["DEL", &key]);
    assert_eq!(resume(&mut host, "a"), Outcome::Count(2));
    assert!((102..=1001).contains(&lives(&hosts)), "{}", lives(&hosts));
}

#[test]
fn a_full_ledger_refuses_who_is_new_to_the_host_and_goes_on_with_the_others() {
    let mut directory = Directory::new();
    directory.options.max_size = 32 * 1024 * 1024;
    let mut hosts = Hosts::new();
    let mut host = Host::on(directory, hosts.server.settings(), hosts.lifetimes);
    host.until("Redis is there", |host| host.is_up());
    assert_eq!(count(&mut host, "known", 1), 1);
    let name = |n: usize| format!("{n}-{}", "x".repeat(50));
    let outcomes = |host: &mut Host, increments: Vec<Increment>| {
        let mut batch = batch(increments, vec![]);
        host.settle(&mut batch).unwrap();
        batch.increments.into_iter().map(|increment| increment.outcome).collect::<Vec<_>>()
    };
    let mut n = 0;
    // What is noted of the batch before needs room as well: it is full when a batch after a refused one is refused.
    let mut refusals = 0;
    while refusals < 2 {
        let increments = (n..n + 20).map(|n| increment(&name(n), 1, 0)).collect();
        if outcomes(&mut host, increments).contains(&Outcome::Failed) {
            refusals += 1;
        } else {
            (refusals, n) = (0, n + 20);
        }
        assert!(n < 400_000, "it never gets full");
    }
    assert_eq!(host.redis.health().degraded(), Some(Reason::StoreFull));
    let mut refused = 0;
    for count in 2..=10 {
        let new = (0..19).map(|n| increment(&format!("new-{n}"), 1, 0));
        let all = outcomes(&mut host, new.chain([increment("known", 1, 0)]).collect());
        assert_eq!(all[19], Outcome::Count(count));
        refused += all[..19].iter().filter(|outcome| **outcome == Outcome::Failed).count();
    }
    // The pages that are left vary by a few with what is under way.
    assert!(refused >= 19, "{refused}");
    assert_eq!(load(&mut host, "known"), 10);
    // What it has counted while Redis was away can be noted and brought there.
    hosts.server.kill();
    for n in 11..=20 {
        assert_eq!(count_after(&mut host, "known", n - 1), Outcome::Count(n));
    }
    hosts.server.restart();
    comes_back(&mut host);
    assert_eq!(load(&mut host, "known"), 20);
}

#[test]
fn a_server_that_is_replaced_by_one_that_missed_something_is_given_what_was_counted_lately() {
    let hosts = Hosts::new();
    let (mut host, mut other) = (hosts.host(), hosts.host());
    host.redis.recent = Some(super::recent::Recent::default());
    assert_eq!((count(&mut host, "a", 20), count(&mut host, "b", 7)), (20, 7));
    assert_eq!(count(&mut other, "b", 2), 9);
    // As a replica that was late would have it.
    let key = |name: &str| host.redis.layout.session(&crate::backplane::conformance::token(name).key());
    for (session, count) in [("a", "15"), ("b", "9")] {
        hosts.server.cli(&["SET", &key(session), count, "EX", "100"]);
    }
    hosts.server.cli(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    host.until("the line is lost", |host| host.redis.health().reconnects == 1);
    other.until("its line, too", |host| host.redis.health().reconnects == 1);
    assert!(host.redis.raise_due);
    let begun = host.redis.work_off();
    host.await_settled(begun, &mut Default::default()).unwrap();
    assert!(!host.redis.raise_due, "once");
    assert_eq!((load(&mut other, "a"), load(&mut other, "b")), (20, 9));
    assert_eq!(count(&mut other, "a", 1), 21);
}
