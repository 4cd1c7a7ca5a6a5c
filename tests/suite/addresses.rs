//! What the clients of one address may have: connections, and new sessions.

use std::net::SocketAddr;

use nix::sys::signal::{Signal, kill};

use crate::harness::client::{frame, handshake};
use crate::harness::http::{self, Http};
use crate::harness::nginx::connect_from;
use crate::harness::service::Builder;
use crate::harness::{Client, Redis, Service, eventually, eventually_async};

/// Addresses of clients to which the limits apply, beside that of the harness, to which they do not.
const CLIENT: &str = "127.0.0.77";
const OTHER: &str = "127.0.0.78";

/// A service that limits connections from everywhere but from where the harness asks it.
pub(crate) fn limited(connections: usize) -> Builder {
    Builder::new().with("--max-connections-per-address", connections).with("--exempt-addresses", "127.0.0.1")
}

/// A WebSocket from this address, with these fields in its request; or why there is none.
fn dial(from: &str, to: SocketAddr, path: &str, fields: &str) -> Result<Http, http::Answer> {
    let mut http = Http::over(connect_from(from.parse().expect("an address"), to));
    let head = handshake(path);
    http.send(format!("{}{fields}\r\n", head.strip_suffix("\r\n").expect("a head")));
    let mut answer = http.head();
    if answer.status == 101 {
        return Ok(http);
    }
    let length = answer.header("content-length").expect("a length").parse().expect("a number");
    answer.body = http.body(length);
    Err(answer)
}

/// Counts a message, so that there is a record of the session.
fn say_something(http: &mut Http) {
    http.send(frame(0x81, b"hello"));
    assert!(http.bytes(13).ends_with(br#"{"count":1}"#));
}

#[track_caller]
fn assert_refused(refusal: Result<Http, http::Answer>, error: &str) {
    let Err(answer) = refusal else { panic!("a WebSocket instead of {error}") };
    answer.assert_error(429, error);
    let wait: u32 = answer.header("retry-after").and_then(|wait| wait.parse().ok()).expect("seconds");
    assert!((1..=60).contains(&wait), "{answer:?}");
}

/// All connections that one address may have.
pub(crate) struct Connections {
    to: SocketAddr,
    limit: usize,
    open: Vec<Http>,
}

impl Connections {
    #[track_caller]
    pub(crate) fn fill(to: SocketAddr, limit: usize) -> Connections {
        let dial = |_| dial(CLIENT, to, "/ws/chat/", "").unwrap_or_else(|refusal| panic!("{refusal:?}"));
        let connections = Connections { to, limit, open: (0..limit).map(dial).collect() };
        connections.assert_full();
        connections
    }

    #[track_caller]
    pub(crate) fn assert_full(&self) {
        assert_refused(dial(CLIENT, self.to, "/ws/chat/", ""), "too_many_connections");
    }

    /// So many leave.
    pub(crate) fn leave(&mut self, count: usize) {
        self.open.truncate(self.open.len() - count);
    }

    /// There is room for as many as have left, and for no more.
    #[track_caller]
    pub(crate) fn refill(&mut self) {
        while self.open.len() < self.limit {
            // That they have left is noticed in a moment.
            self.open.push(eventually("room", || dial(CLIENT, self.to, "/ws/chat/", "").ok()));
        }
        self.assert_full();
    }
}

#[test]
fn an_address_has_so_many_connections_over_all_workers() {
    const LIMIT: usize = 20;
    let service = limited(LIMIT).with("--workers", 3).start();
    let mut clients = Connections::fill(service.address, LIMIT);
    let mut slots: Vec<_> = service.connections().iter().map(|row| row.slot).collect();
    slots.sort_unstable();
    slots.dedup();
    assert!(slots.len() > 1, "all are in {slots:?}");
    assert!(service.metric(r#"websocket_refused_total{reason="address_limit"}"#) >= 1.0);
    let line = service.wait_log("refusing clients");
    assert_eq!((&line["event"], &line["address"]), (&"address_limit".into(), &CLIENT.into()));
    // What is no WebSocket is answered, once.
    let mut asking = Http::over(connect_from(CLIENT.parse().expect("an address"), service.address));
    let answer = asking.ask("GET /healthz HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")), "{answer:?}");
    assert_eq!(asking.rest(), b"");
    // Others have a limit of their own, or none.
    assert!(dial(OTHER, service.address, "/ws/chat/", "").is_ok());
    let exempt: Vec<_> = (0..2 * LIMIT).map(|_| dial("127.0.0.1", service.address, "/ws/chat/", "").is_ok()).collect();
    assert!(exempt.iter().all(|ok| *ok));
    clients.leave(5);
    clients.refill();
}

#[test]
fn connections_of_a_killed_worker_count_no_more_and_those_that_are_handed_over_do() {
    const LIMIT: usize = 16;
    let service = limited(LIMIT).with("--workers", 2).start();
    let clients = Connections::fill(service.address, LIMIT);
    let slot = service.connections()[0].slot;
    let lost = service.connections().iter().filter(|row| row.slot == slot).count();
    let old = service.worker_in(slot).expect("it serves");
    kill(old, Signal::SIGKILL).expect("a worker");
    eventually("a fresh worker", || service.worker_in(slot).filter(|pid| *pid != old));
    let left = service.connections().len();
    assert_eq!(left, LIMIT - lost);
    // As many as were lost, whichever clients those were.
    let more: Vec<Http> =
        (0..lost).map(|_| eventually("room", || dial(CLIENT, service.address, "/ws/chat/", "").ok())).collect();
    clients.assert_full();
    let restarted = service.ctl(&["restart", "0", "1"]);
    assert!(restarted.status.success(), "{restarted:?}");
    assert_eq!(service.connections().len(), LIMIT);
    clients.assert_full();
    drop(more);
    eventually("they have left", || (service.connections().len() == LIMIT - lost).then_some(()));
    let _more: Vec<Http> =
        (0..lost).map(|_| eventually("room", || dial(CLIENT, service.address, "/ws/chat/", "").ok())).collect();
    clients.assert_full();
}

#[test]
fn a_reload_changes_the_limits() {
    let builder = Builder::new();
    let file = builder.dir().join("baton.toml");
    let write = |connections: usize, exempt: &str| {
        let text = format!("max-connections-per-address = {connections}\nexempt-addresses = [\"{exempt}\"]\n");
        std::fs::write(&file, text).expect("a directory of ours");
    };
    write(2, "127.0.0.1");
    let service = builder.with("--config", file.display()).with("--workers", 2).start();
    let mut clients = Connections::fill(service.address, 2);
    write(5, "127.0.0.1");
    assert!(service.ctl(&["reload"]).status.success());
    clients.limit = 5;
    clients.refill();
    write(1, "127.0.0.0/8");
    assert!(service.ctl(&["reload"]).status.success());
    assert!(dial(CLIENT, service.address, "/ws/chat/", "").is_ok());
}

#[test]
fn behind_a_proxy_the_forwarded_address_counts_and_of_ipv6_its_network() {
    // What is exempt by default is the proxy, not its clients.
    let builder = Builder::new().with("--max-connections-per-address", 2).with("--workers", 2);
    let service = builder.with("--trusted-proxies", "127.0.0.1").start();
    let from = |client: &str| {
        dial("127.0.0.1", service.address, "/ws/chat/", &format!("X-Forwarded-For: 1.2.3.4, {client}\r\n"))
    };
    let network = [from("2001:db8:1:2::1"), from("2001:db8:1:2:ffff::2")];
    assert!(network.iter().all(Result::is_ok));
    assert_refused(from("2001:db8:1:2::3"), "too_many_connections");
    let others = [from("2001:db8:1:3::1"), from("203.0.113.7"), from("203.0.113.8"), from("::ffff:203.0.113.8")];
    assert!(others.iter().all(Result::is_ok));
    assert_refused(from("203.0.113.8"), "too_many_connections");
    drop(network);
    let _again = eventually("room", || from("2001:db8:1:2::4").ok());
}

#[test]
fn new_sessions_of_an_address_are_limited_and_those_that_exist_are_not() {
    let builder = Builder::new().with("--max-new-sessions-per-address", 2).with("--workers", 2);
    let service = builder.with("--exempt-addresses", "127.0.0.1").start();
    let path = |session: &str| format!("/ws/chat/?session_uuid={session}");
    let mut named = dial(CLIENT, service.address, &path("one"), "").expect("a WebSocket");
    say_something(&mut named);
    let _unnamed = dial(CLIENT, service.address, "/ws/chat/", "").expect("a WebSocket");
    // The next one is due in half a minute.
    assert_refused(dial(CLIENT, service.address, "/ws/chat/", ""), "too_many_new_sessions");
    assert_refused(dial(CLIENT, service.address, &path("two"), ""), "too_many_new_sessions");
    let again: Vec<_> = (0..10).map(|_| dial(CLIENT, service.address, &path("one"), "")).collect();
    assert!(again.iter().all(Result::is_ok), "the session exists");
    assert!(dial(OTHER, service.address, "/ws/chat/", "").is_ok());
    assert!((0..10).all(|_| dial("127.0.0.1", service.address, "/ws/chat/", "").is_ok()));
    assert_eq!(service.metric(r#"websocket_refused_total{reason="new_session_limit"}"#), 2.0);
    // A fresh worker knows what the one before it has counted.
    let restarted = service.ctl(&["restart", "0", "1"]);
    assert!(restarted.status.success(), "{restarted:?}");
    assert_refused(dial(CLIENT, service.address, "/ws/chat/", ""), "too_many_new_sessions");
}

#[tokio::test]
async fn with_redis_a_new_session_by_name_is_found_out_after_the_upgrade() {
    let redis = Redis::start();
    let builder = Builder::new().with("--max-new-sessions-per-address", 2).with("--exempt-addresses", "none");
    let service: Service = builder.with("--redis-timeout", "5s").with_redis(&redis).start();
    let connect = async |session: &str| Client::connect(&service.session_url(session)).await;
    let mut clients = Vec::new();
    for session in ["one", "two"] {
        let mut client = connect(session).await;
        client.send("hello").await;
        assert_eq!(client.count().await, 1);
        clients.push(client);
    }
    let close = connect("three").await.close().await.expect("a code");
    assert_eq!(u16::from(close.code), 1013);
    let wait = close.reason.strip_prefix("retry_ms=").and_then(|wait| wait.parse::<u64>().ok()).expect("a hint");
    assert!((100..=36_000).contains(&wait), "{close:?}");
    let mut again = connect("one").await;
    again.send("hello").await;
    assert_eq!(again.count().await, 2);
    let refused = r#"websocket_refused_total{reason="new_session_limit"}"#;
    eventually_async("it is counted", async || (service.metric(refused) == 1.0).then_some(())).await;
}
