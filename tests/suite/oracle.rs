//! The oracle itself: it finds nothing where nothing is, and is blind to nothing.

mod fake;
mod flaw;

use std::time::Duration;

use nix::sys::signal::{Signal, kill};

use crate::harness::oracle::{Character, Crowd, What};
use crate::harness::{Oracle, Service, eventually, eventually_async, seed};
use fake::{Fake, INTERVAL};
use flaw::Flaw;

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn a_calm_service_is_flawless() {
    const CONNECTIONS: usize = 500;
    let service = Service::start(&[("--heartbeat-interval", "1s")]);
    let oracle = Oracle::start(service.address, Crowd::of(CONNECTIONS, SECOND), seed());
    oracle.answered(5_000).await;
    // Slow readers are, in earnest: there is output that no socket takes.
    let is_held = async || (service.metric("websocket_buffered_bytes") > 100_000.0).then_some(());
    eventually_async("output is held for slow readers", is_held).await;
    oracle.answered(5_000).await;
    eventually_async("heartbeats", async || (oracle.sample().heartbeats > 5 * CONNECTIONS as u64).then_some(())).await;
    let report = oracle.finish();
    eprint!("{report}");
    report.assert_flawless();
    assert_eq!(service.metric("backplane_increments_total"), report.messages as f64);
    assert_eq!(report.closes, report.handshakes);
    assert!(report.handshakes > CONNECTIONS as u64, "nobody has left and come anew");
    assert!(report.refused > 0 && report.pongs > 0, "{report}");
}

#[tokio::test]
async fn a_killed_worker_is_noticed_by_its_clients_alone() {
    const CONNECTIONS: usize = 200;
    let service = Service::start(&[("--heartbeat-interval", "1s")]);
    service.wait_all_serve();
    let oracle = Oracle::start(service.address, Crowd::of(CONNECTIONS, SECOND), seed());
    oracle.answered(1_000).await;
    assert_eq!(oracle.sample().faults, 0);
    let served = service.status().slots[2].connections as usize;
    kill(service.worker_in(2).expect("it serves"), Signal::SIGKILL).expect("a worker");
    eventually("faults", || (oracle.sample().faults > 0).then_some(()));
    let report = oracle.finish();
    eprint!("{report}");
    // Newcomers may have come or gone meanwhile, or are half-way.
    assert!(report.faults.len().abs_diff(served) <= CONNECTIONS / 10, "{served} were served; {report}");
    for fault in &report.faults {
        assert!(matches!(fault.what, What::Lost(_) | What::Ended), "{report}");
    }
}

#[test]
fn every_flaw_of_a_server_is_a_fault() {
    let seed = seed();
    let run = |flaw: Flaw| {
        let crowd = Crowd { patience: 4 * SECOND, cast: flaw.cast(), ..Crowd::of(1, INTERVAL) };
        let fake = Fake::start(flaw);
        (flaw, Oracle::start(fake.address, crowd, seed))
    };
    let all: Vec<_> = Flaw::ALL.iter().copied().map(run).collect();
    for (flaw, oracle) in all {
        eventually(&format!("{flaw:?}"), || {
            let now = oracle.sample();
            (now.faults > 0 || (flaw.is_at_the_end() && now.messages >= 10)).then_some(())
        });
        let report = oracle.finish();
        match (flaw, &report.faults[..]) {
            (Flaw::None, []) => {}
            (Flaw::None, _) => panic!("{report}"),
            (_, [fault]) => assert!(flaw.is(&fault.what), "{flaw:?}: {fault}"),
            (_, _) => panic!("{flaw:?}: {report}"),
        }
    }
}

#[test]
fn a_seed_says_what_is_sent() {
    const ENOUGH: usize = 1_000;
    let cast: [&'static [Character]; 4] =
        [&[Character::Fragmenter], &[Character::SlowReader], &[Character::Big], &[Character::Pinger]];
    let seed = seed();
    let run = |cast| {
        [seed, seed, seed.wrapping_add(1)].map(|seed| {
            let fake = Fake::start(Flaw::None);
            let crowd = Crowd { cast, gap: Duration::from_millis(20), ..Crowd::of(1, INTERVAL) };
            let oracle = Oracle::start(fake.address, crowd, seed);
            (fake, oracle)
        })
    };
    for (cast, runs) in cast.map(|cast| (cast, run(cast))) {
        let [one, same, other] = runs.map(|(fake, oracle)| {
            let heard = eventually("what is sent", || fake.heard(ENOUGH));
            oracle.finish().assert_flawless();
            heard
        });
        assert!(one == same, "{cast:?}");
        assert!(one != other, "{cast:?}");
    }
}
