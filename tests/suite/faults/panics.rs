//! A panic in any task of a worker ends that worker, and nothing else.

use std::fs;

use baton_ipc::scoreboard::Cause;

use super::{clients, replacement, unlimited};
use crate::harness::Runners;
use crate::harness::service::Builder;

/// A worker comes to the point, panics there, and is replaced; clients of the others notice nothing.
async fn a_panic_ends_the_worker(builder: Builder, point: &str) {
    let trigger = builder.dir().join("panic");
    let service = builder.env("FAULT_POINT", format!("{point}:PANIC:{}", trigger.display())).start();
    let mut runners = Runners::start(service.address, clients(16));
    runners.everyone_gets(10).await;
    let workers: Vec<_> = (0..4).map(|slot| service.worker_in(slot).expect("all serve")).collect();
    let per_slot = |slot: u16| service.connections().iter().filter(|row| row.slot == slot).count() as u64;
    let clients: Vec<_> = (0..4).map(per_slot).collect();
    fs::write(&trigger, "").expect("a directory of ours");

    let is_it = |line: &serde_json::Value| line["event"] == "panicked" && line["location"].is_string();
    let line = service.wait_log_line(point, is_it);
    let slot = line["worker"].as_u64().expect("a worker logged it") as u16;
    let old = workers[usize::from(slot)];
    assert_eq!(line["pid"], old.as_raw(), "{line}");
    replacement(&service, slot, old).await;
    runners.everyone_gets(10).await;
    runners.stop().await;
    assert_eq!(runners.book().lost, clients[usize::from(slot)], "clients of other workers have noticed");

    let rows = service.status().slots;
    let row = &rows[usize::from(slot)];
    assert_eq!((row.restarts, row.last_cause_kind), (1, Some(Cause::Exit)), "{row:?}");
    assert_eq!(row.last_cause.as_deref(), Some("panicked, exited with 101"));
    assert_eq!(service.metric("worker_restarts_total{cause=\"exit\"}"), 1.0);
    assert!((0..4).all(|other| other == slot || service.worker_in(other) == Some(workers[usize::from(other)])));
}

#[tokio::test]
async fn a_panic_in_a_turn_that_holds_the_store_ends_the_worker() {
    a_panic_ends_the_worker(unlimited(), "store locked").await;
}

#[tokio::test]
async fn a_panic_on_a_thread_beside_the_event_loop_ends_the_worker() {
    a_panic_ends_the_worker(unlimited().with("--checkpoint-interval", "1s"), "checkpoint begun").await;
}
