//! The one table of metrics: what the numbers on the scoreboard mean, and their names for Prometheus.
//!
//! Of two generations that share a scoreboard one may be another build. So what a number means never changes: new ones
//! come after all others (or the scoreboard gets a new layout, and generations of both builds cannot take over from each
//! other).

mod exposition;

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use baton_ipc::scoreboard::{COUNTER_MESSAGES, COUNTERS, GAUGE_CONNECTIONS, GAUGE_LIMIT, GAUGES, Row};
use baton_ipc::{Scoreboard, Side, Slot};

use serde::{Deserialize, Serialize};

use crate::addresses::Addresses;

pub(crate) use exposition::{About, encode};

/// A family of counters: one number a label value.
#[derive(Debug)]
pub(crate) struct Family {
    pub(crate) name: &'static str,
    pub(crate) help: &'static str,
    pub(crate) label: &'static str,
    first: usize,
    values: &'static [&'static str],
}

/// A histogram without labels. On the scoreboard: the buckets, then the sum.
#[derive(Debug)]
pub(crate) struct Histogram {
    pub(crate) name: &'static str,
    pub(crate) help: &'static str,
    first: usize,
    /// Upper bounds; one bucket more is for what is over the last.
    bounds: &'static [u64],
    /// To the unit of the name.
    factor: f64,
}

/// What is observed in nanoseconds is told in seconds.
const NANOSECONDS: f64 = 1e-9;

macro_rules! labelled {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $label:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        pub(crate) enum $name { $($variant),+ }
        impl $name {
            const LABELS: &'static [&'static str] = &[$($label),+];
        }
    };
}

labelled! {
    /// Messages by direction and occasion.
    Messages { Received = "received", Sent = "sent", Heartbeat = "heartbeat", Broadcast = "broadcast", Room = "room" }
}
labelled! {
    /// What went wrong on a connection or with a message.
    Errors {
        InvalidJson = "invalid_json", Unsupported = "unsupported_data", TooBig = "too_big", InvalidUtf8 = "invalid_utf8",
        Protocol = "protocol", Fragments = "too_many_fragments", Rate = "rate_limit", SlowReader = "slow_reader",
        Memory = "memory", Store = "store", PingTimeout = "ping_timeout", Lost = "connection_lost",
        Unfinished = "unfinished_message",
    }
}
labelled! {
    /// Clients that were turned away before they had a WebSocket.
    Refused {
        Connections = "connection_limit", Handshakes = "handshake_limit", Origin = "origin", Session = "bad_session",
        Upgrade = "bad_upgrade", Draining = "draining", Address = "address_limit", NewSessions = "new_session_limit",
    }
}
labelled! {
    /// How a WebSocket ended.
    Closes { Client = "client", Server = "server", Lost = "lost", Drained = "drained", Cut = "cut" }
}
labelled! {
    /// Answers to HTTP requests by status.
    Requests { Success = "2xx", Upgrade = "101", Redirect = "3xx", Client = "4xx", Server = "5xx" }
}
labelled! {
    /// Counters that stand alone.
    Single {
        Opened = "opened", Commits = "commits", Increments = "increments", StoreFailures = "store_failures",
        AcceptPauses = "accept_pauses", LogDropped = "log_dropped", Gaps = "gaps", Reconnects = "reconnects",
        Resubscribed = "resubscribed", Merged = "merged", DegradedMs = "degraded_ms", HandedOver = "handed_over",
        TakenOver = "taken_over", NotHandedOver = "not_handed_over", Rejected = "rejected",
    }
}
labelled! {
    /// Heartbeats by where they came from.
    Heartbeats { Published = "published", Local = "local" }
}
labelled! {
    /// Gauges: the state of one worker now.
    Gauge {
        Connections = "connections", Limit = "limit", Buffered = "buffered", StoreOk = "store_ok",
        HeartbeatLag = "heartbeat_lag", Startup = "startup", AcceptPaused = "accept_paused", Handshakes = "handshakes",
        Degraded = "degraded", DegradedWhy = "degraded_why", DegradedSince = "degraded_since", Pending = "pending",
        LeaseHeld = "lease_held", OpenFds = "open_fds", MaxFds = "max_fds", Resident = "resident",
    }
}

const fn after(family: &Family) -> usize {
    family.first + family.values.len()
}

pub(crate) static MESSAGES: Family = Family {
    name: "websocket_messages",
    help: "Messages, by direction and occasion",
    label: "type",
    first: COUNTER_MESSAGES,
    values: Messages::LABELS,
};
pub(crate) static ERRORS: Family = Family {
    name: "websocket_errors",
    help: "Errors on connections and in messages, by kind",
    label: "type",
    first: after(&MESSAGES),
    values: Errors::LABELS,
};
pub(crate) static REFUSED: Family = Family {
    name: "websocket_refused",
    help: "Clients turned away, by reason",
    label: "reason",
    first: after(&ERRORS),
    values: Refused::LABELS,
};
pub(crate) static CLOSES: Family = Family {
    name: "websocket_closes",
    help: "WebSockets that ended, by who or what ended them",
    label: "by",
    first: after(&REFUSED),
    values: Closes::LABELS,
};
pub(crate) static REQUESTS: Family = Family {
    name: "http_requests",
    help: "Answers to HTTP requests, by status",
    label: "status",
    first: after(&CLOSES),
    values: Requests::LABELS,
};
pub(crate) static HEARTBEATS: Family = Family {
    name: "heartbeats",
    help: "Heartbeats fanned out, one per worker and interval, by who gave the time",
    label: "source",
    first: after(&REQUESTS),
    values: Heartbeats::LABELS,
};
/// Not exported as a family: each has a name of its own in [`SINGLES`].
static SINGLE: Family = Family { name: "", help: "", label: "", first: after(&HEARTBEATS), values: Single::LABELS };

pub(crate) static FAMILIES: [&Family; 6] = [&MESSAGES, &ERRORS, &REFUSED, &CLOSES, &REQUESTS, &HEARTBEATS];

/// Name, help and factor to the unit of the name, of the counters that stand alone.
pub(crate) static SINGLES: [(Single, &str, &str, f64); 15] = [
    (Single::Opened, "websocket_connections_opened", "WebSockets opened", 1.0),
    (Single::Commits, "backplane_commits", "Group commits", 1.0),
    (Single::Increments, "backplane_increments", "Messages counted", 1.0),
    (Single::StoreFailures, "backplane_failures", "Group commits that failed", 1.0),
    (Single::AcceptPauses, "accept_pauses", "Times a worker began to refuse WebSockets for want of descriptors", 1.0),
    (Single::LogDropped, "log_lines_dropped", "Log lines lost because the log could not keep up", 1.0),
    (Single::Gaps, "backplane_gaps", "Published messages that a worker missed", 1.0),
    (Single::Rejected, "backplane_rejected", "Publications that were too large or malformed, and not delivered", 1.0),
    (Single::Reconnects, "backplane_reconnects", "Times that Redis came back to a worker", 1.0),
    (Single::Resubscribed, "backplane_resubscriptions", "Times that a subscription was made anew", 1.0),
    (Single::Merged, "backplane_merged", "Messages counted while Redis was away and brought there since", 1.0),
    (Single::DegradedMs, "backplane_degraded_seconds", "Time for which workers were without Redis", 1e-3),
    (Single::HandedOver, "handoff_given", "Connections that a worker has given to another process", 1.0),
    (Single::TakenOver, "handoff_taken", "Connections that a worker has taken over from another process", 1.0),
    (Single::NotHandedOver, "handoff_refused", "Connections that were offered and stayed where they were", 1.0),
];

/// Name, help and factor to the unit of the name.
pub(crate) static GAUGE_NAMES: [(Gauge, &str, &str, f64); 10] = [
    (Gauge::Connections, "websocket_connections_active", "WebSockets open now", 1.0),
    (Gauge::Limit, "websocket_connections_limit", "WebSockets that may be open", 1.0),
    (Gauge::Buffered, "websocket_buffered_bytes", "Bytes of unfinished messages and of output that waits", 1.0),
    (Gauge::StoreOk, "backplane_up", "Workers whose last group commit succeeded", 1.0),
    (Gauge::Degraded, "backplane_degraded", "Workers that are without Redis or refuse new sessions now", 1.0),
    (Gauge::Pending, "backplane_pending", "Messages counted on this host that Redis does not have yet", 1.0),
    (Gauge::LeaseHeld, "backplane_lease_held", "Workers that publish the heartbeat for all hosts", 1.0),
    (Gauge::AcceptPaused, "accept_paused", "Workers that refuse WebSockets now for want of descriptors", 1.0),
    (Gauge::Handshakes, "http_connections_active", "HTTP connections open now, WebSockets not counted", 1.0),
    (
        Gauge::HeartbeatLag,
        "heartbeat_lag_seconds",
        "From a heartbeat's time to its last connection, worst worker",
        1e-6,
    ),
];

/// Name, help and factor to the unit of the name, of the gauges that each slot has for itself.
pub(crate) static SLOT_GAUGES: [(Gauge, &str, &str, f64); 4] = [
    (Gauge::Connections, "worker_connections_active", "WebSockets open now", 1.0),
    (Gauge::OpenFds, "worker_open_fds", "Open file descriptors", 1.0),
    (Gauge::MaxFds, "worker_max_fds", "File descriptors that may be open", 1.0),
    (
        Gauge::Resident,
        "worker_resident_memory_bytes",
        "Resident memory, pages shared with other processes included",
        1.0,
    ),
];

/// The same of its counters, by their place.
pub(crate) static SLOT_COUNTERS: [(usize, &str, &str, f64); 2] = [
    (MESSAGES.first + Messages::Received as usize, "worker_messages_received", "Messages received", 1.0),
    (CPU_US, "worker_cpu_seconds", "User and system CPU time", 1e-6),
];

pub(crate) static DURATION: Histogram = Histogram {
    name: "websocket_message_duration_seconds",
    help: "From reading a message to its reply being written, commit included",
    first: after(&SINGLE),
    factor: NANOSECONDS,
    bounds: &[
        50_000,
        100_000,
        250_000,
        500_000,
        1_000_000,
        2_500_000,
        5_000_000,
        10_000_000,
        25_000_000,
        50_000_000,
        100_000_000,
        250_000_000,
        500_000_000,
        1_000_000_000,
        2_500_000_000,
    ],
};
pub(crate) static COMMIT: Histogram = Histogram {
    name: "backplane_commit_duration_seconds",
    help: "Duration of a group commit",
    first: DURATION.first + DURATION.bounds.len() + 2,
    factor: NANOSECONDS,
    bounds: &[10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 5_000_000, 25_000_000, 100_000_000],
};

pub(crate) static BATCH: Histogram = Histogram {
    name: "backplane_batch_messages",
    help: "Messages counted by one group commit",
    first: COMMIT.first + COMMIT.bounds.len() + 2,
    factor: 1.0,
    bounds: &[1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 5000],
};

pub(crate) static PAUSE: Histogram = Histogram {
    name: "handoff_pause_seconds",
    help: "For how long a connection was not read while it was handed over",
    first: BATCH.first + BATCH.bounds.len() + 2,
    factor: NANOSECONDS,
    bounds: &[1_000_000, 2_500_000, 5_000_000, 10_000_000, 25_000_000, 50_000_000, 100_000_000, 1_000_000_000],
};

/// Microseconds of CPU time that workers have used.
const CPU_US: usize = PAUSE.first + PAUSE.bounds.len() + 2;

const _: () = assert!(CPU_US < COUNTERS);
const _: () = assert!(Gauge::LABELS.len() <= GAUGES && Gauge::Connections as usize == GAUGE_CONNECTIONS);
const _: () = assert!(Gauge::Limit as usize == GAUGE_LIMIT);

/// A counter of all slots.
fn total(board: &Scoreboard, index: usize) -> u64 {
    board.views().map(|(_, slot)| slot.counter(index)).sum()
}

/// A family's counters of all slots, by label.
pub(crate) fn by_label(board: &Scoreboard, family: &Family) -> BTreeMap<&'static str, u64> {
    family.values.iter().enumerate().map(|(i, label)| (*label, total(board, family.first + i))).collect()
}

/// The upper bounds of a histogram's buckets, in the unit of its name, and what all slots have counted in each; one more
/// is for what is over the last.
pub(crate) fn buckets(board: &Scoreboard, histogram: &Histogram) -> (Vec<f64>, Vec<u64>) {
    let bounds = histogram.bounds.iter().map(|bound| *bound as f64 * histogram.factor).collect();
    (bounds, (0..=histogram.bounds.len()).map(|i| total(board, histogram.first + i)).collect())
}

/// One worker's numbers: it writes its own row.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    board: Rc<Scoreboard>,
    slot: Slot,
    side: Side,
}

impl Metrics {
    pub(crate) fn new(board: Rc<Scoreboard>, slot: Slot, side: Side) -> Metrics {
        Metrics { board, slot, side }
    }

    pub(crate) fn row(&self) -> Row<'_> {
        self.board.row(self.slot, self.side)
    }

    /// What counts connections by address, in the same row.
    pub(crate) fn addresses(&self) -> Addresses {
        Addresses::new(self.board.clone(), self.slot, self.side)
    }

    pub(crate) fn board(&self) -> &Rc<Scoreboard> {
        &self.board
    }

    pub(crate) fn messages(&self, kind: Messages, n: u64) {
        self.row().counter(MESSAGES.first + kind as usize).add(n);
    }

    pub(crate) fn error(&self, kind: Errors, n: u64) {
        if n == 0 {
            return;
        }
        self.row().counter(ERRORS.first + kind as usize).add(n);
    }

    pub(crate) fn refused(&self, reason: Refused) {
        self.row().counter(REFUSED.first + reason as usize).add(1);
    }

    pub(crate) fn closed(&self, by: Closes) {
        self.row().counter(CLOSES.first + by as usize).add(1);
    }

    /// WebSockets closed so far on this side of the slot because a worker drained.
    pub(crate) fn drained(&self) -> u64 {
        self.row().counter(CLOSES.first + Closes::Drained as usize).get()
    }

    pub(crate) fn request(&self, status: u16) {
        let class = match status {
            101 => Requests::Upgrade,
            300..400 => Requests::Redirect,
            400..500 => Requests::Client,
            500.. => Requests::Server,
            _ => Requests::Success,
        };
        self.row().counter(REQUESTS.first + class as usize).add(1);
    }

    pub(crate) fn add(&self, single: Single, n: u64) {
        self.row().counter(SINGLE.first + single as usize).add(n);
    }

    /// What the slot has counted so far, also before this worker.
    pub(crate) fn single(&self, single: Single) -> u64 {
        self.board.slot(self.slot).counter(SINGLE.first + single as usize)
    }

    pub(crate) fn gauge(&self, gauge: Gauge, value: u64) {
        self.row().gauge(gauge as usize).set(value);
    }

    pub(crate) fn cpu(&self, used: Duration) {
        self.row().counter(CPU_US).add(used.as_micros() as u64);
    }

    pub(crate) fn heartbeat(&self, source: Heartbeats) {
        self.row().counter(HEARTBEATS.first + source as usize).add(1);
    }

    /// `n` observations of the same duration.
    pub(crate) fn observe(&self, histogram: &Histogram, duration: Duration, n: u64) {
        self.observe_value(histogram, u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX), n);
    }

    /// `n` observations of the same value.
    pub(crate) fn observe_value(&self, histogram: &Histogram, value: u64, n: u64) {
        let bucket = histogram.bounds.partition_point(|bound| *bound < value);
        self.row().counter(histogram.first + bucket).add(n);
        self.row().counter(histogram.first + histogram.bounds.len() + 1).add(value.saturating_mul(n));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_their_places() {
        let families = FAMILIES.map(|family| (family.first, family.values.len()));
        assert_eq!(families, [(0, 5), (5, 13), (18, 8), (26, 5), (31, 5), (36, 2)], "see the top of this file");
        let histograms = [&DURATION, &COMMIT, &BATCH, &PAUSE].map(|histogram| histogram.first);
        assert_eq!((SINGLE.first, histograms, CPU_US), (38, [53, 70, 82, 95], 105), "see the top of this file");
    }
}
