//! The units, on machines of their own that systemd has booted.

use std::time::{Duration, Instant};

use crate::harness::machine::{ADDRESS, Image};
use crate::harness::{Client, Machine, http, is_root};

/// As most machines would have it; no heartbeat disturbs.
const SETTINGS: &str = "workers = 2\nheartbeat-interval = \"1h\"\n";

const URL: &str = "ws://127.0.0.1:8000/ws/chat/";

/// A machine on which blue serves.
#[track_caller]
fn serving() -> Machine {
    let machine = Image::with_baton(SETTINGS).boot();
    machine.ok("systemctl start baton@blue");
    machine
}

#[tokio::test]
async fn a_start_is_over_when_all_workers_serve_and_a_stop_when_everybody_is_told() {
    if !is_root() {
        return;
    }
    let machine = serving();
    let ready = http::get(ADDRESS, "/readyz").expect("it listens as soon as the start is over");
    assert_eq!(ready.status, 200, "{ready:?}");
    assert_eq!(machine.property("baton@blue", "StatusText"), "2/2 workers serving");
    let mut clients = Client::connect_several(20, URL).await;
    for client in &mut clients {
        client.send("hello").await;
        assert_eq!(client.count().await, 1);
    }
    let begun = Instant::now();
    machine.ok("systemctl --no-block stop baton@blue");
    for client in &mut clients {
        let bye = client.json().await;
        assert_eq!((&bye["bye"], &bye["total"]), (&true.into(), &1.into()), "{bye}");
        let close = client.close().await.expect("a close with a code");
        assert_eq!(u16::from(close.code), 1001);
    }
    machine.await_property("baton@blue", "ActiveState", |state| state == "inactive");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert_eq!(machine.property("baton@blue", "Result"), "success");
}
