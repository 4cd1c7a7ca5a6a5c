//! Many hosts, one service: what they share by Redis, and what clients notice when it fails, which is nothing.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::harness::runners::{check_totals, sessions};
use crate::harness::service::Builder;
use crate::harness::{Client, Redis, Runners, Service, eventually_async, http};

mod heartbeat;
mod hosts;
mod intruders;
mod lab;
mod memory;
mod merge;
mod outages;
mod refusals;
mod replicas;
mod roads;
mod subscriptions;

/// The longest that a client may wait for an answer because of Redis. Wide, since a test machine may be busy.
const PAUSE: Duration = Duration::from_secs(3);

/// What a worker logs when it goes on without Redis, and when it need not any more.
const AWAY: &str = "redis is away: counting here until it is back";
const BACK: &str = "redis is back";

/// A host of its own, for clients that send without pause.
fn host() -> Builder {
    Builder::new().with("--max-message-rate", "none")
}

/// A host on which a busy machine is no reason to go on without Redis.
fn patient() -> Builder {
    host().with("--redis-timeout", "5s")
}

/// Two of them that are one service.
fn two(builder: impl Fn() -> Builder, redis: &Redis) -> Vec<Service> {
    (0..2).map(|_| builder().with_redis(redis).start()).collect()
}

/// What `/status` says of the backplane.
#[track_caller]
fn backplane(service: &Service) -> Value {
    try_backplane(service).expect("/status answers")
}

/// The same; none if the worker that is asked is killed over it.
fn try_backplane(service: &Service) -> Option<Value> {
    let answer = http::get(service.address, "/status").ok().filter(|answer| answer.status == 200)?;
    Some(answer.json()["backplane"].take())
}

/// Waits until `/status` says of the backplane what is looked for; shows what it said meanwhile.
async fn wait_backplane(service: &Service, what: &str, is: impl Fn(&Value) -> bool) -> Value {
    let mut last = Value::Null;
    eventually_async(what, async || {
        let now = try_backplane(service)?;
        if now != last {
            eprintln!("{}: {now}", service.address);
            last = now.clone();
        }
        is(&now).then_some(now)
    })
    .await
}

/// Waits until a service goes on without Redis for this reason, and says so everywhere, without being less ready.
async fn wait_degraded(service: &Service, reason: &str) {
    let now = wait_backplane(service, reason, |now| now["ok"] == false && now["reason"] == reason).await;
    assert_eq!(now["kind"], "redis");
    let since = now["degraded_since"].as_str().unwrap_or_else(|| panic!("since when? {now}"));
    let since = humantime::parse_rfc3339(since).unwrap_or_else(|error| panic!("{error}: {now}"));
    let age = SystemTime::now().duration_since(since).expect("not in the future");
    assert!(age < Duration::from_secs(120), "{now}");
    let expected = json!({ "ready": true, "reasons": [], "degraded": [format!("redis: {reason}")] });
    wait_readyz(service, &expected).await;
    assert!(service.metric("backplane_degraded") > 0.0);
}

/// Waits until Redis has all that a service has counted, and every worker of it says so.
async fn wait_whole(service: &Service) {
    wait_backplane(service, "the backplane is whole", |now| now["ok"] == true && now["pending"] == 0).await;
    eventually_async("every worker is whole", async || {
        let numbers = ["backplane_degraded", "backplane_pending"].map(|name| service.metric(name));
        (numbers == [0.0, 0.0]).then_some(())
    })
    .await;
    let now = backplane(service);
    assert_eq!((&now["degraded_since"], &now["reason"]), (&Value::Null, &Value::Null), "{now}");
    wait_readyz(service, &json!({ "ready": true, "reasons": [], "degraded": [] })).await;
}

/// Waits until `/readyz` says this; with 200 at any time.
async fn wait_readyz(service: &Service, expected: &Value) {
    eventually_async(&format!("/readyz: {expected}"), async || {
        let answer = http::get(service.address, "/readyz").expect("/readyz answers");
        assert_eq!(answer.status, 200, "{answer:?}");
        (answer.json() == *expected).then_some(())
    })
    .await;
}

/// Each worker that has noticed has said once when Redis went and once when it was back, for as many times as it
/// went; and of all that failed meanwhile there is not a word.
#[track_caller]
fn assert_told_once(service: &Service, times: usize) {
    let mut told: BTreeMap<u64, Vec<(String, String)>> = BTreeMap::new();
    let text = |line: &Value, key: &str| line[key].as_str().unwrap_or_default().to_owned();
    for line in service.log_lines() {
        let (level, message) = (text(&line, "level"), text(&line, "message"));
        if message.starts_with(AWAY) || message.starts_with(BACK) {
            let message = if message.starts_with(AWAY) { AWAY } else { BACK };
            told.entry(line["pid"].as_u64().expect("a pid")).or_default().push((level, message.to_owned()));
        } else if line["event"] != "redis_cause" {
            // The supervisor tells once of all workers.
            let is_of_all = line["logger"] == "baton_supervisor::status";
            let is_complaint = !is_of_all && (level == "WARN" || level == "ERROR");
            assert!(!is_complaint || !line.to_string().to_lowercase().contains("redis"), "{line}");
        }
    }
    assert!(!told.is_empty(), "nobody has said that Redis was away");
    let once = [("WARN".to_owned(), AWAY.to_owned()), ("INFO".to_owned(), BACK.to_owned())];
    for (pid, lines) in &told {
        let in_pairs = lines.chunks(2).all(|pair| pair == once);
        assert!(in_pairs && lines.len() <= 2 * times, "worker {pid}, {times} times away: {lines:?}");
    }
}

/// A session may not be resumed now, and the client is told when to try again: without a count, by 1013.
async fn assert_put_off(service: &Service, session: &str) {
    let mut client = Client::connect(&service.session_url(session)).await;
    client.send("am I known?").await;
    let frame = client.close().await.expect("a close frame");
    let hint = frame.reason.strip_prefix("retry_ms=").and_then(|ms| ms.parse::<u64>().ok());
    assert_eq!(u16::from(frame.code), 1013, "{frame:?}");
    assert!(hint.is_some_and(|ms| (100..=5100).contains(&ms)), "{frame:?}");
}

/// Hosts that are one service, and clients of each that send without pause: eight that are alone in their sessions, and
/// eight that share one with all hosts.
struct Crowd {
    hosts: Vec<Service>,
    runners: Vec<Runners>,
}

impl Crowd {
    /// Lets clients loose on these hosts, and waits until all of them are at it.
    async fn on(hosts: Vec<Service>) -> Crowd {
        let name = |host: usize| {
            move |session: String| if session == "shared" { session } else { format!("{session}-of-{host}") }
        };
        Crowd::with(hosts, |host| sessions().map(name(host)).collect()).await
    }

    /// As [`Crowd::on`], all clients alone in their sessions.
    async fn alone_on(hosts: Vec<Service>) -> Crowd {
        Crowd::with(hosts, |host| (0..16).map(|n| format!("own-{n}-of-{host}")).collect()).await
    }

    async fn with(hosts: Vec<Service>, sessions: impl Fn(usize) -> Vec<String>) -> Crowd {
        let runners = |(index, host): (usize, &Service)| {
            let mut runners = Runners::none().through_outages();
            runners.go(host.address, sessions(index));
            runners
        };
        let runners = hosts.iter().enumerate().map(runners).collect();
        let crowd = Crowd { hosts, runners };
        crowd.everyone_gets(10).await;
        crowd
    }

    /// Waits until every client has got `more` counts from now on.
    async fn everyone_gets(&self, more: u64) {
        for runners in &self.runners {
            runners.everyone_gets(more).await;
        }
    }

    /// Waits until all hosts go on without Redis for this reason.
    async fn wait_degraded(&self, reason: &str) {
        for host in &self.hosts {
            wait_degraded(host, reason).await;
        }
    }

    /// Waits until Redis has all that was counted, lets everyone go on for a while and then come to an end.
    async fn finish(&mut self) {
        for host in &self.hosts {
            wait_whole(host).await;
        }
        self.everyone_gets(10).await;
        for runners in &mut self.runners {
            runners.finish().await;
        }
        for runners in &self.runners {
            let book = runners.book();
            eprintln!(
                "{} counts, {} of them to two clients; lost {}, put off {}, longest pause {:?}",
                book.total(),
                book.repeated,
                book.lost,
                book.refused,
                book.longest_pause
            );
            assert!(book.longest_pause < PAUSE, "{:?}", book.longest_pause);
        }
    }

    /// Redis has failed `times`: no client was sent away, and each host has said so once each time.
    #[track_caller]
    fn assert_unnoticed(&self, times: usize) {
        for (runners, host) in self.runners.iter().zip(&self.hosts) {
            let book = runners.book();
            let ends = (book.lost, book.byes, book.refused, book.unanswered);
            assert_eq!(ends, (0, 0, 0, 0), "lost, said bye, put off, not answered");
            assert_eq!(book.answered, book.sent);
            assert_told_once(host, times);
        }
    }

    /// Every host, and one that is new and has nothing but Redis to know it from, has all that was counted.
    async fn check_totals(&self, new: Builder) {
        // A machine that is busy with other tests is no reason to put a client off.
        let new = new.with("--redis-timeout", "5s").start();
        let all: Vec<&Runners> = self.runners.iter().collect();
        for host in self.hosts.iter().chain([&new]) {
            check_totals(host, &all).await;
        }
    }
}
