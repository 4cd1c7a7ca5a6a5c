//! Samples for tests.

use std::time::Duration;

use baton_ipc::Endpoint;
use baton_ipc::control::{BackplaneRow, Generation, Link, PastTakeover, SlotStatus, Status, TakeoverReceipt};
use baton_ipc::scoreboard::State;

use super::exposition::Exposition;
use super::sample::{Sample, Service};

/// A regular one, so many seconds after the beginning.
pub(super) fn sample(at: u64, found: Result<Service, String>) -> Sample {
    Sample { at: Duration::from_secs(at), regular: true, found }
}

/// These generations, all workers of the first with a backplane that is up.
pub(super) fn service(generations: Vec<Status>, metrics: &str) -> Service {
    let backplane = generations[0].slots.iter().map(|slot| backplane_row(slot.slot)).collect();
    Service { generations, backplane: Ok(backplane), metrics: Exposition::parse(metrics) }
}

/// A generation whose slots have so many connections.
pub(super) fn status(color: &str, phase: &str, connections: &[u64]) -> Status {
    Status {
        color: color.into(),
        version: "0.1.0".into(),
        pid: 4242,
        uptime_seconds: 7260.0,
        phase: phase.into(),
        peer: None,
        program: None,
        settings: None,
        outdated: false,
        upgrade: None,
        last_takeover: None,
        listen: vec![Endpoint::Tcp(([0, 0, 0, 0], 8000).into())],
        backplane: "embedded (/var/lib/baton)".into(),
        backplane_degraded: None,
        slots: connections.iter().zip(0..).map(|(n, slot)| slot_status(slot, *n)).collect(),
    }
}

fn slot_status(slot: u16, connections: u64) -> SlotStatus {
    SlotStatus {
        slot,
        state: State::Serving,
        pid: Some(4243 + u32::from(slot)),
        uptime_seconds: 7259.0,
        connections,
        messages: connections * 100,
        messages_per_second: connections as f64 / 2.0,
        restarts: 0,
        last_cause: None,
        last_cause_kind: None,
        retry_in_seconds: None,
        lent_to: None,
    }
}

fn backplane_row(slot: u16) -> BackplaneRow {
    BackplaneRow {
        slot,
        kind: "embedded".into(),
        target: "/var/lib/baton".into(),
        state: Link::Up,
        since_seconds: 7259.0,
        reason: None,
        latency_seconds: Some(0.0001),
        heartbeat_lag_seconds: Some(0.001),
        lease_holder: None,
        holds_lease: false,
        pending: 0,
        gaps: 0,
        reconnects: 0,
    }
}

/// From blue to green.
pub(super) fn past_takeover() -> PastTakeover {
    let generation = |color: &str, pid| Generation { color: color.into(), pid, version: "0.1.0".into() };
    PastTakeover {
        seconds_ago: 192.0,
        receipt: TakeoverReceipt {
            from: generation("blue", 4242),
            to: generation("green", 5151),
            handed: 200,
            drained: vec![("in the middle of a close".into(), 2)],
            dropped: 0,
            longest_pause_us: 2380,
            p99_pause_us: 1900,
            steps: vec![("preflight".into(), 12), ("handover".into(), 25)],
            kept: false,
        },
    }
}
