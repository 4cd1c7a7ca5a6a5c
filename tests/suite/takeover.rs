//! One generation takes over from another, and no client notices.

mod addresses;
mod called_off;
mod capacity;
mod faults;
mod heads;
mod limits;
mod proxy;
mod random;
mod redis;
mod refusals;
mod rooms;
mod upgrades;
mod ways;

use std::time::Duration;

use baton_ipc::control::{Output, TakeoverReceipt};

use crate::harness::oracle::Crowd;
use crate::harness::procfs::rss;
use crate::harness::service::Builder;
use crate::harness::{Oracle, Service, eventually, seed};

const SECOND: Duration = Duration::from_secs(1);

/// Generations of one service, one after the other.
struct Succession {
    builder: Builder,
    serving: Service,
}

impl Succession {
    /// The first one: blue.
    #[track_caller]
    fn begin(builder: Builder) -> Succession {
        let serving = builder.clone().with("--color", "blue").start();
        serving.wait_all_serve();
        Succession { builder, serving }
    }

    fn next_color(&self) -> &'static str {
        if self.serving.status().color == "blue" { "green" } else { "blue" }
    }

    /// The next one, ready but not accepting. `change`: what is different about it.
    #[track_caller]
    fn standby(&self, change: impl FnOnce(Builder) -> Builder) -> Service {
        let builder = self.builder.clone().with("--color", self.next_color()).with("--takeover", "wait");
        let next = change(builder).spawn();
        wait_phase(&next, "standby");
        next
    }

    /// Six take over, one after the other, under a crowd of 300; fewer if something is wrong, which is for the report to
    /// tell.
    async fn advance_often(&mut self, oracle: &Oracle) {
        oracle.opened(250).await;
        for workers in [3, 1, 4, 2, 5, 2] {
            oracle.answered(500).await;
            if oracle.sample().faults > 0 {
                return;
            }
            let receipt = self.advance(|builder| builder.with("--workers", workers));
            assert_complete(&receipt);
            assert!(receipt.handed > 200, "{receipt:?}");
        }
        oracle.answered(500).await;
    }

    /// The next one takes over; the one before is gone when this returns.
    #[track_caller]
    fn advance(&mut self, change: impl FnOnce(Builder) -> Builder) -> TakeoverReceipt {
        let next = self.standby(change);
        let receipt = promote(&next, &[]);
        let status = std::mem::replace(&mut self.serving, next).wait(15 * SECOND);
        assert!(status.success(), "the old generation ended with {status}");
        receipt
    }
}

#[track_caller]
fn wait_phase(service: &Service, phase: &str) {
    eventually(phase, || service.try_status().filter(|status| status.phase == phase).map(drop));
}

#[track_caller]
fn promote(service: &Service, flags: &[&str]) -> TakeoverReceipt {
    match service.ask(&[&["promote"], flags].concat()) {
        Output::Takeover(receipt) => *receipt,
        other => panic!("no receipt: {other:?}"),
    }
}

/// That everybody came along.
#[track_caller]
fn assert_complete(receipt: &TakeoverReceipt) {
    assert!(receipt.drained.is_empty() && receipt.dropped == 0, "{receipt:?}");
}

fn crowd(connections: usize) -> Crowd {
    Crowd { gap: Duration::from_millis(250), ..Crowd::of(connections, SECOND) }
}

fn builder() -> Builder {
    Builder::new().with("--heartbeat-interval", "1s")
}

fn descriptors(service: &Service) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", service.pid())).map_or(0, Iterator::count)
}

/// Different numbers of workers, and back again.
const WORKERS: [u32; 4] = [8, 3, 4, 4];

#[tokio::test]
async fn twenty_takeovers_of_two_thousand_connections_and_nobody_notices() {
    let mut generations = Succession::begin(builder());
    let oracle = Oracle::start(generations.serving.address, crowd(2_000), seed());
    oracle.opened(1_700).await;
    oracle.answered(2_000).await;
    let mut sizes = Vec::new();
    for round in 0..20 {
        let workers = WORKERS[round % WORKERS.len()];
        let receipt = generations.advance(|builder| builder.with("--workers", workers));
        assert_complete(&receipt);
        assert!(receipt.handed > 1_500, "{receipt:?}");
        eprintln!(
            "{} → {}: {} handed over, longest pause {} ms, p99 {} ms",
            receipt.from.color,
            receipt.to.color,
            receipt.handed,
            receipt.longest_pause_us / 1000,
            receipt.p99_pause_us / 1000
        );
        oracle.answered(1_000).await;
        if round % WORKERS.len() == WORKERS.len() - 1 {
            sizes.push((descriptors(&generations.serving), rss(generations.serving.pid())));
        }
    }
    let report = oracle.finish();
    eprint!("{report}");
    report.assert_flawless();
    let serving = &generations.serving;
    // Counters go on over all generations, and nothing was counted twice, or not at all.
    assert_eq!(serving.metric("backplane_increments_total"), report.messages as f64);
    assert_eq!(serving.metric("websocket_connections_active"), 0.0);
    assert_eq!(serving.worker_pids().len(), 4, "no process is left behind");
    eprintln!("descriptors and resident bytes of the supervisor: {sizes:?}");
    let ((fds, bytes), (fds_then, bytes_then)) = (sizes[sizes.len() - 1], sizes[0]);
    assert!(fds <= fds_then, "{fds_then} descriptors, then {fds}");
    assert!(bytes < bytes_then * 3 / 2, "{bytes_then} bytes, then {bytes}");
}
