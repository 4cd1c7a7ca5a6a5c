//! Who has room for how many, whoever held them before.

use super::limits::everyone_counts;
use super::{Succession, assert_complete, promote};
use crate::harness::http::Http;
use crate::harness::service::Builder;
use crate::harness::{Client, Service, eventually};

/// Waits until the workers of a service have so many connections.
#[track_caller]
fn wait_loads(service: &Service, loads: &[u64]) {
    eventually("the connections are where they should be", || {
        let slots = service.status().slots;
        slots.iter().map(|slot| slot.connections).eq(loads.iter().copied()).then_some(())
    });
}

#[tokio::test]
async fn connections_of_one_worker_go_to_all_that_have_room_and_come_back() {
    let generations = Succession::begin(Builder::new().with("--workers", 1));
    let mut clients = Client::connect_several(60, &generations.serving.url()).await;
    everyone_counts(&mut clients, 1).await;
    assert!(generations.serving.ctl(&["scale", "2"]).status.success());
    wait_loads(&generations.serving, &[60, 0]);
    let next = generations.standby(|builder| builder.with("--workers", 2).with("--max-connections", 40));
    let receipt = promote(&next, &["--canary", "5", "--watch", "1s", "--keep-old"]);
    assert_complete(&receipt);
    assert_eq!(receipt.handed, 60);
    wait_loads(&next, &[30, 30]);
    everyone_counts(&mut clients, 2).await;
    let rolled_back = next.ctl(&["rollback"]);
    assert!(rolled_back.status.success(), "{rolled_back:?}");
    wait_loads(&generations.serving, &[30, 30]);
    everyone_counts(&mut clients, 3).await;
}

#[tokio::test]
async fn a_worker_that_is_full_to_the_brim_closes_nobody_if_others_have_room() {
    let full = Builder::new().with("--workers", 1).with("--max-connections", 100);
    let mut generations = Succession::begin(full);
    let mut clients = Client::connect_several(100, &generations.serving.url()).await;
    everyone_counts(&mut clients, 1).await;
    assert!(generations.serving.ctl(&["scale", "4"]).status.success());
    let receipt = generations.advance(|builder| builder.with("--workers", 4));
    assert_complete(&receipt);
    assert_eq!(receipt.handed, 100);
    wait_loads(&generations.serving, &[25; 4]);
    everyone_counts(&mut clients, 2).await;
}

#[test]
fn an_http_connection_without_room_is_offered_once_and_served_where_it_is() {
    let generations = Succession::begin(Builder::new().with("--workers", 1));
    let mut idle = Http::connect(generations.serving.address);
    let request = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
    assert_eq!(idle.ask(request).status, 200);
    // One may come, but for the one that is kept for newcomers.
    let next = generations.standby(|builder| builder.with("--workers", 2).with("--max-connections", 1));
    let receipt = promote(&next, &["--keep-old"]);
    assert_eq!(receipt.drained, [("no room for more connections".to_owned(), 1)], "{receipt:?}");
    assert_eq!((receipt.handed, receipt.dropped), (0, 0));
    assert_eq!(idle.ask(request).status, 200, "the old generation has it still");
}
