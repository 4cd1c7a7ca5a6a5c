//! A store that is full of sessions: whom it knows goes on, who is new is told to come back.

use std::path::Path;

use serde_json::json;

use super::disk::{MIB, turned_away};
use super::on;
use crate::harness::lmdb::grow_to;
use crate::harness::mount::Mount;
use crate::harness::service::Builder;
use crate::harness::{Client, Service, eventually, http, is_root};

/// What `/readyz` says: always 200, since clients are served.
fn degraded(service: &Service) -> serde_json::Value {
    let answer = http::get(service.address, "/readyz").expect("an answer");
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["degraded"].take()
}

async fn is_refused(service: &Service, session: &str) {
    turned_away(&mut Client::connect(&service.session_url(session)).await).await;
}

/// Lets a store of 8 MiB grow so far that only the reserve is left, by sessions that are last used so many seconds from
/// now.
fn fill(state: &Path, seconds: u64) {
    grow_to(state, 6 * MIB + MIB / 4, seconds);
}

#[tokio::test]
async fn a_full_store_counts_whom_it_knows_and_refuses_who_is_new_until_sessions_expire() {
    let builder = Builder::new().with("--workers", 2).with("--store-max-size", "8MiB").with("--new-session-ttl", "2s");
    let state = builder.dir().join("state");
    let service = builder.clone().start();
    let mut open = Client::connect(&service.session_url("open")).await;
    let mut n = 0;
    let mut go_on = async || {
        for _ in 0..50 {
            n += 1;
            open.send("x").await;
            assert_eq!(open.count().await, n);
        }
    };
    go_on().await;
    assert_eq!(service.count_one("left").await, 1);
    assert_eq!(service.count_one("left").await, 2);

    fill(&state, 3600);
    is_refused(&service, "new").await;
    go_on().await;
    for count in 3..=10 {
        assert_eq!(service.count_one("left").await, count, "who comes back is served");
        is_refused(&service, &format!("new-{count}")).await;
    }
    eventually("/readyz says why", || (degraded(&service) == json!(["store_full"])).then_some(()));
    let status = http::get(service.address, "/status").expect("an answer").json();
    assert_eq!((&status["backplane"]["ok"], &status["backplane"]["reason"]), (&json!(false), &json!("store_full")));
    assert!(service.metric("websocket_errors_total{type=\"store\"}") >= 9.0);
    assert!(service.log_lines().any(|line| line["event"] == "store_full"), "it is logged");
    let shown = eventually("status shows it", || service.status().backplane_degraded);
    assert!(shown.reason.contains("new sessions are refused"), "{shown:?}");
    drop(open);
    assert_eq!(service.stop().code(), Some(0));

    // A restart does not lose who was known, and does not make room either.
    let service = builder.start();
    is_refused(&service, "new").await;
    assert_eq!(service.count_one("open").await, n + 1);
    assert_eq!(service.count_one("left").await, 11);
    assert!(!service.log().contains("panicked"));
}

#[tokio::test]
async fn a_full_store_is_swept_and_takes_new_sessions_again() {
    let builder = Builder::new().with("--workers", 2).with("--store-max-size", "8MiB").with("--new-session-ttl", "1s");
    let state = builder.dir().join("state");
    let service = builder.start();
    assert_eq!(service.count_one("left").await, 1);
    assert_eq!(service.count_one("left").await, 2);
    fill(&state, 4);
    is_refused(&service, "new").await;
    eventually("the store takes new sessions again", || {
        service.log_lines().any(|line| line["event"] == "store_has_room").then_some(())
    });
    eventually("/readyz has nothing to say", || (degraded(&service) == json!([])).then_some(()));
    assert_eq!(service.count_one("newer").await, 1);
    assert_eq!(service.count_one("left").await, 3, "one in use lives longer than one of one message");
}

#[tokio::test]
async fn on_a_full_disk_sessions_that_have_a_record_go_on_while_the_reserve_lasts() {
    if !is_root() {
        return;
    }
    let disk = Mount::tmpfs("24m");
    let state = disk.path().join("state");
    let service = on(&state).start();
    assert_eq!(service.count_one("known").await, 1);
    // 16 MiB are reserved at the start, and there is no more to be had.
    let filler = disk.fill();
    grow_to(&state, 12 * MIB + MIB / 2, 3600);
    is_refused(&service, "new").await;
    for count in 2..=200 {
        assert_eq!(service.count_one("known").await, count);
    }
    is_refused(&service, "new").await;
    eventually("/readyz says why", || (degraded(&service) == json!(["store_full"])).then_some(()));
    std::fs::remove_file(filler).expect("a file");
    eventually("/readyz has nothing to say", || (degraded(&service) == json!([])).then_some(()));
    assert_eq!(service.count_one("new").await, 1);
    assert!(!service.log().contains("panicked"));
}
