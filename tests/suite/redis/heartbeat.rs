//! One heartbeat for all clients of all hosts, whoever makes it.

use std::time::{Duration, SystemTime};

use futures_util::future::join_all;
use nix::sys::signal::{Signal, kill};
use serde_json::Value;

use super::{host, two};
use crate::harness::client::heartbeat;
use crate::harness::{Client, Redis, Service, eventually};

const INTERVAL: Duration = Duration::from_secs(1);

/// The longest that a heartbeat may take to its last client. Wide, since a test machine may be busy.
const LATE: Duration = Duration::from_secs(2);

/// A client that does nothing but listen.
pub(super) struct Listener {
    pub(super) client: Client,
    /// The heartbeats so far: each once, at multiples of the interval, and none left out.
    beats: Vec<SystemTime>,
    /// Anything else that came.
    pub(super) notices: Vec<Value>,
    /// How late the latest was of those that were waited for.
    latest: Duration,
    waits_since: SystemTime,
}

impl Listener {
    pub(super) async fn on(service: &Service) -> Listener {
        let client = Client::connect(&service.url()).await;
        let waits_since = SystemTime::now();
        Listener { client, beats: Vec::new(), notices: Vec::new(), latest: Duration::ZERO, waits_since }
    }

    /// The next message: a heartbeat, or it is put to the notices.
    async fn listen(&mut self) {
        let json = self.client.json().await;
        let Some(beat) = heartbeat(&json) else { return self.notices.push(json) };
        let since = beat.duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
        assert_eq!(since.as_millis() % INTERVAL.as_millis(), 0, "not a multiple: {json}");
        if let Some(last) = self.beats.last() {
            assert_eq!(beat, *last + INTERVAL, "twice, or one was left out: {:?} and {json}", self.beats);
        }
        let late = beat.elapsed().expect("not before its time");
        if beat > self.waits_since {
            self.latest = self.latest.max(late);
        }
        self.beats.push(beat);
    }

    /// Reads up to the first heartbeat after this time.
    async fn listen_until(&mut self, until: SystemTime) {
        self.waits_since = SystemTime::now();
        while self.beats.last().is_none_or(|last| *last < until) {
            self.listen().await;
        }
    }

    /// Reads up to a notice like this.
    pub(super) async fn listen_for(&mut self, notice: &Value) {
        while !self.notices.contains(notice) {
            self.listen().await;
        }
    }
}

/// All hear the same beats for so many intervals, each once and none late.
pub(super) async fn hear(listeners: &mut [Listener], intervals: u32) {
    let until = SystemTime::now() + INTERVAL * intervals;
    join_all(listeners.iter_mut().map(|listener| listener.listen_until(until))).await;
    let latest = listeners.iter().map(|listener| listener.latest).max().unwrap_or_default();
    eprintln!("the latest heartbeat came after {latest:?}");
    assert!(latest < LATE, "{latest:?}");
    // Each has heard a row without gaps, so that the same end makes them the same.
    let ends: Vec<_> = listeners.iter().map(|listener| listener.beats.last().copied()).collect();
    assert!(ends.iter().all(|end| *end == ends[0]), "{ends:?}");
}

pub(super) async fn listeners(hosts: &[Service], each: usize) -> Vec<Listener> {
    join_all(hosts.iter().flat_map(|host| (0..each).map(move |_| Listener::on(host)))).await
}

/// Heartbeats that the workers of a service heard from others or from themselves through Redis, and that they made
/// alone.
fn sources(service: &Service) -> [f64; 2] {
    ["published", "local"].map(|source| service.metric(&format!("heartbeats_total{{source=\"{source}\"}}")))
}

fn every_second() -> crate::harness::service::Builder {
    host().with("--heartbeat-interval", "1s")
}

/// The one service that has a worker with the lease.
#[track_caller]
fn holder(hosts: &[Service]) -> usize {
    eventually("one holder of the lease", || {
        let held: Vec<f64> = hosts.iter().map(|host| host.metric("backplane_lease_held")).collect();
        // A dead worker's is taken away a moment after its successor has it.
        (held.iter().sum::<f64>() == 1.0).then(|| held.iter().position(|held| *held > 0.0).expect("one"))
    })
}

#[tokio::test]
async fn every_client_of_two_hosts_gets_the_same_beats_once() {
    let redis = Redis::start();
    let hosts = two(every_second, &redis);
    let mut all = listeners(&hosts, 12).await;
    hear(&mut all, 4).await;
    assert!(all.iter().all(|listener| listener.notices.is_empty()));
    for host in &hosts {
        let [published, local] = sources(host);
        eprintln!("{published} published, {local} made alone");
        assert!(published >= 8.0, "{published} came through Redis, to four workers");
    }
    holder(&hosts);
}

#[tokio::test]
async fn when_the_holder_of_the_lease_is_killed_the_next_beat_comes_to_everyone_else() {
    let redis = Redis::start();
    // With one worker each it is known whom to kill.
    let hosts: Vec<Service> = (0..3).map(|_| every_second().with("--workers", 1).with_redis(&redis).start()).collect();
    for _ in 0..3 {
        let holder = holder(&hosts);
        let mut others = Vec::new();
        for (index, host) in hosts.iter().enumerate() {
            if index != holder {
                others.extend(listeners(std::slice::from_ref(host), 4).await);
            }
        }
        hear(&mut others, 1).await;
        kill(hosts[holder].worker_in(0).expect("it serves"), Signal::SIGKILL).expect("a worker");
        hear(&mut others, 3).await;
        // The host itself is one of them again as soon as it has a worker.
        hosts[holder].wait_ready();
        others.extend(listeners(std::slice::from_ref(&hosts[holder]), 4).await);
        hear(&mut others, 2).await;
    }
}

#[tokio::test]
async fn while_redis_is_silent_each_client_gets_each_beat_once_and_in_time() {
    let redis = Redis::start();
    let hosts = two(every_second, &redis);
    let mut all = listeners(&hosts, 8).await;
    hear(&mut all, 2).await;
    let before: Vec<[f64; 2]> = hosts.iter().map(sources).collect();
    redis.stop();
    hear(&mut all, 4).await;
    for (host, [_, before]) in hosts.iter().zip(&before) {
        let [published, local] = sources(host);
        eprintln!("{published} published, {local} made alone");
        assert!(local >= before + 4.0, "{local} of them were made without Redis");
    }
    // What was held up comes now, and was heard already.
    redis.cont();
    hear(&mut all, 4).await;
    for host in &hosts {
        let [before, _] = sources(host);
        eventually("heartbeats by Redis again", || (sources(host)[0] > before).then_some(()));
    }
    hear(&mut all, 2).await;
}

#[tokio::test]
async fn redis_that_is_killed_and_comes_back_doubles_no_beat_and_leaves_none_out() {
    let mut redis = Redis::start();
    let hosts = two(every_second, &redis);
    let mut all = listeners(&hosts, 8).await;
    for _ in 0..2 {
        hear(&mut all, 2).await;
        redis.kill();
        hear(&mut all, 3).await;
        redis.restart();
        hear(&mut all, 3).await;
    }
}
