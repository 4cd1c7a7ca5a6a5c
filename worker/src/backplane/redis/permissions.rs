//! Refuses each command of each script in turn, before the service starts and while it runs.

use std::cell::RefCell;

use redis::{Cmd, Value};

use super::driver::{connect, execute};
use super::script::{self, Counted, Layout, Tally};
use super::testing::{Host, Hosts};
use crate::backplane::conformance::{Instance, batch, count, increment, token};
use crate::backplane::embedded::ledger::{Item, Unit, UnitId};
use crate::backplane::embedded::testing::{Directory, lifetime};
use crate::backplane::{Backplane, Health};
use crate::batch::Outcome;
use crate::redis::testing::Server;
use crate::redis::{Connector, Failure, Reason};

/// Makes the same call of a script again.
type Call<'a> = Box<dyn Fn() -> Cmd + 'a>;

/// All that the scripts call.
fn commands() -> Vec<&'static str> {
    let mut commands = script::commands();
    assert!(commands.len() >= 4, "they are found in the text: {commands:?}");
    commands.push("PUBLISH");
    commands
}

/// Lets clients use a command, or does not.
fn permit(server: &Server, sign: char, command: &str) {
    assert_eq!(server.cli(&["ACL", "SETUSER", "default", &format!("{sign}{}", command.to_lowercase())]), "OK\n");
}

/// Everything in Redis but what units left behind to be known again.
fn content(server: &Server) -> Vec<(String, String)> {
    let keys = server.cli(&["KEYS", "*"]);
    let mut keys: Vec<&str> = keys.lines().filter(|key| !key.is_empty() && !key.contains(":u:")).collect();
    keys.sort_unstable();
    keys.iter().map(|key| ((*key).to_owned(), server.cli(&["GET", key]).trim().to_owned())).collect()
}

#[tokio::test]
async fn each_script_does_all_or_nothing_whichever_command_is_refused() {
    let server = Server::start(&[]);
    let settings = server.settings();
    let layout = Layout::new(&settings, lifetime(3600), false);
    let health = RefCell::new(Health::new("redis", String::new()));
    let connector = Connector::new(&settings).unwrap();
    let (mut connection, scripts, _) = connect(&connector, &layout, &health).await.unwrap();
    let key = |name: &str| token(name).key();
    let unit = |source| Unit {
        id: UnitId { source, number: 1 },
        order: 0,
        group: 0,
        items: vec![Item::new(key("known"), 2), Item::new(key("new"), 1), Item::new(key("looked-up"), 0)],
    };
    let me = "me";
    let mut refusals = 0;
    for (source, command) in (1..).zip(commands()) {
        let calls: [(&str, Call<'_>); 4] = [
            ("commit", Box::new(|| layout.commit(&scripts, &unit(source)))),
            ("publish", {
                let id = UnitId { source, number: 1 };
                let (layout, scripts) = (&layout, &scripts);
                Box::new(move || layout.publications(scripts, id, &["a".to_owned(), "b".to_owned()]))
            }),
            ("lease", Box::new(|| layout.lease(&scripts, me, "mine"))),
            ("beat", Box::new(|| layout.beat(&scripts, me, 1_000_000 + source, "beat"))),
        ];
        for (name, call) in calls {
            server.cli(&["FLUSHALL"]);
            for (session, value) in [("known", "10"), ("looked-up", "5")] {
                server.cli(&["SET", &layout.session(&key(session)), value, "EX", "1000"]);
            }
            server.cli(&["SET", "test:{bus}:number", "7"]);
            server.cli(&["SET", "test:{bus}:beat", "1"]);
            if name == "beat" {
                server.cli(&["SET", "test:{bus}:lease", me]);
            }
            let before = content(&server);
            permit(&server, '-', command);
            let first: Result<Value, Failure> = execute(&mut connection, || vec![call()]).await.pop().unwrap();
            if first.is_ok() {
                permit(&server, '+', command);
                continue;
            }
            refusals += 1;
            for _ in 0..2 {
                let again = execute(&mut connection, || vec![call()]).await.pop().unwrap();
                assert_eq!(again.unwrap_err().reason, Reason::NoPermission, "{name} without {command}");
            }
            permit(&server, '+', command);
            // What is written to be gone after a millisecond goes by itself.
            let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
            while content(&server) != before {
                assert!(
                    std::time::Instant::now() < end,
                    "{name} without {command}: {:?}, {before:?}",
                    content(&server)
                );
            }
            let answer = execute(&mut connection, || vec![call()]).await.pop().unwrap().unwrap();
            match name {
                "commit" => {
                    let counts = vec![Tally::Count(12), Tally::Count(1), Tally::Count(5)];
                    assert_eq!(script::counted(&answer, 3), Some(Counted::Counts(counts, false)), "without {command}");
                    let again = execute(&mut connection, || vec![call()]).await.pop().unwrap().unwrap();
                    assert_eq!(again, answer, "it is known again");
                }
                _ => assert_eq!(answer, Value::Int(1), "{name} without {command}"),
            }
            let number = match name {
                "publish" => "9",
                "beat" => "8",
                _ => "7",
            };
            assert_eq!(server.cli(&["GET", "test:{bus}:number"]).trim(), number, "{name} without {command}");
        }
    }
    // GET, EXPIRE, SET and INCRBY of a commit; these and PUBLISH of a publication and a heartbeat; all but INCRBY of the lease.
    assert_eq!(refusals, 4 + 5 + 5 + 4);
}

#[test]
fn a_command_that_is_refused_while_running_counts_nothing_twice() {
    for command in commands() {
        let hosts = Hosts::new();
        let mut host = hosts.host();
        assert_eq!(count(&mut host, "known", 3), 3);
        permit(&hosts.server, '-', command);
        for n in 1..=40 {
            let mut batch = batch(vec![increment("known", 1, 2 + n), increment(&format!("new-{n}"), 1, 0)], vec![]);
            host.settle(&mut batch).unwrap();
            let outcomes: Vec<Outcome> = batch.increments.iter().map(|increment| increment.outcome).collect();
            assert_eq!(outcomes, [Outcome::Count(3 + n), Outcome::Count(1)], "without {command}");
        }
        host.until("it is known why", |host| host.redis.health().degraded() == Some(Reason::NoPermission));
        permit(&hosts.server, '+', command);
        host.until("Redis is back", |host| host.is_up() && host.redis.health().degraded().is_none());
        host.work_off();
        assert_eq!(host.peek(&[token("known"), token("new-1"), token("new-40")]), [43, 1, 1], "without {command}");
    }
}

#[test]
fn a_command_that_is_refused_at_the_start_counts_nothing_twice() {
    for command in commands() {
        let hosts = Hosts::new();
        permit(&hosts.server, '-', command);
        let mut host = Host::on(Directory::new(), hosts.server.settings(), hosts.lifetimes);
        host.until("it is known why", |host| host.redis.health().degraded() == Some(Reason::NoPermission));
        assert_eq!(host.is_up(), command == "PUBLISH", "who may not publish may count");
        for n in 1..=40 {
            let mut batch = batch(vec![increment("a", 1, n - 1)], vec![]);
            host.settle(&mut batch).unwrap();
            assert_eq!(batch.increments[0].outcome, Outcome::Count(n), "without {command}");
        }
        permit(&hosts.server, '+', command);
        host.until("Redis is there", |host| host.is_up() && host.redis.health().degraded().is_none());
        host.work_off();
        assert_eq!(host.peek(&[token("a")]), [40], "without {command}");
    }
}

#[test]
fn who_may_not_use_the_channel_counts_without_an_outage() {
    let hosts = Hosts::new();
    hosts.server.cli(&["ACL", "SETUSER", "default", "resetchannels"]);
    let mut host = Host::on(Directory::new(), hosts.server.settings(), hosts.lifetimes);
    host.until("it is known why", |host| host.redis.health().mute == Some(Reason::NoPermission));
    for n in 1..=100 {
        assert_eq!(count(&mut host, "a", 1), n);
    }
    let health = host.redis.health();
    assert_eq!((health.away, health.reconnects, health.pending), (None, 0, 0));
    hosts.server.cli(&["ACL", "SETUSER", "default", "allchannels"]);
    host.until("all is well", |host| host.redis.health().degraded().is_none());
    assert_eq!(host.redis.health().reconnects, 0);
}

#[test]
fn scripts_that_are_flushed_are_loaded_again() {
    let hosts = Hosts::new();
    let mut host = hosts.host();
    for n in 1..=5 {
        hosts.server.cli(&["SCRIPT", "FLUSH"]);
        assert_eq!(count(&mut host, "a", 1), n);
    }
    let health = host.redis.health();
    assert_eq!((health.away, health.reconnects, health.pending), (None, 0, 0));
    assert_eq!(host.peek(&[token("a")]), [5]);
}
