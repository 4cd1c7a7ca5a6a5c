//! Connections pass from worker to worker, and no client notices.

use std::time::Duration;

use baton_ipc::control::Output;

use crate::harness::oracle::{Character, Crowd};
use crate::harness::{Oracle, Service, seed};

const SECOND: Duration = Duration::from_secs(1);

fn crowd(connections: usize) -> Crowd {
    Crowd { gap: Duration::from_millis(200), ..Crowd::of(connections, SECOND) }
}

/// What a command has said, if it went well.
#[track_caller]
fn done(service: &Service, command: &[&str]) -> String {
    let output = service.ctl(command);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}{complaint}");
    said
}

#[tokio::test]
async fn workers_come_and_go_and_nobody_notices() {
    let service = Service::start(&[("--heartbeat-interval", "1s"), ("--workers", "3")]);
    let oracle = Oracle::start(service.address, crowd(600), seed());
    oracle.answered(1_000).await;
    let commands: [&[&str]; 8] = [
        &["restart", "0"],
        &["restart", "all"],
        &["scale", "5"],
        &["rebalance"],
        &["scale", "2"],
        &["reload"],
        &["scale", "1"],
        &["restart", "all"],
    ];
    for command in commands.iter().cycle().take(2 * commands.len()) {
        eprint!("{}", done(&service, command));
        oracle.answered(500).await;
    }
    let report = oracle.finish();
    eprint!("{report}");
    report.assert_flawless();
    // Nothing was counted that nobody sent, and nothing twice.
    assert_eq!(service.metric("backplane_increments_total"), report.messages as f64);
    let handed = service.metric("handoff_given_total");
    assert!(handed > 5_000.0 && handed == service.metric("handoff_taken_total"), "{handed}");
}

#[tokio::test]
async fn afterwards_every_worker_has_as_many() {
    let service = Service::start(&[("--workers", "1")]);
    let oracle = Oracle::start(service.address, Crowd { cast: &[Character::Idler], ..crowd(100) }, seed());
    oracle.opened(100).await;
    done(&service, &["scale", "3"]);
    let Output::Text { message } = service.ask(&["rebalance"]) else { panic!("no text") };
    assert!(message.starts_with("66 connections handed over"), "{message}");
    let mut counts: Vec<u64> = service.status().slots.iter().map(|slot| slot.connections).collect();
    counts.sort_unstable();
    assert_eq!(counts, [33, 33, 34]);
    let Output::Text { message } = service.ask(&["rebalance"]) else { panic!("no text") };
    assert_eq!(message, "0 connections handed over");
    oracle.finish().assert_flawless();
}
