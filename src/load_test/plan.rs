//! What crosses between `baton load-test` and its client processes: one JSON object a line, orders on their standard
//! input, events on their standard output.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;

use super::expectation::Expect;
use super::schedule::Schedule;
use super::tally::Tally;

/// Writes one line.
pub(super) async fn tell(to: &mut pipe::Sender, what: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(what)?;
    line.push(b'\n');
    to.write_all(&line).await
}

/// What one client process is to do: its share of the run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Plan {
    /// `ws://` or `wss://`, with path, without a session.
    pub(super) url: String,
    /// What its host is.
    pub(super) address: SocketAddr,
    /// Where to connect from; empty: as the kernel likes. Each has ports of its own.
    pub(super) sources: Vec<IpAddr>,
    /// The number of the first connection; numbers are unique in the whole run.
    pub(super) first: u32,
    pub(super) connections: u32,
    /// When connections begin; none: as fast as they are answered.
    pub(super) ramp: Option<Schedule>,
    /// When messages are due; none: each connection sends when it has been answered.
    pub(super) pace: Option<Schedule>,
    /// For each connection; none: until the time is over.
    pub(super) messages: Option<u64>,
    pub(super) duration: Duration,
    /// For how long connections stay after the last message.
    pub(super) hold: Duration,
    /// For a handshake, a reply, a close.
    pub(super) timeout: Duration,
    /// Bytes of a message.
    pub(super) payload: usize,
    /// Connections name their sessions: this and their number.
    pub(super) session: Option<String>,
    /// A connection is dropped, and its session resumed, after this many replies.
    pub(super) reconnect: Option<u64>,
    pub(super) expect: Expect,
    pub(super) headers: Vec<(String, String)>,
    /// Who must have signed the certificate of a `wss://` server, as PEM; none: whom this machine trusts.
    pub(super) ca_file: Option<String>,
}

/// From `baton load-test` to a client process. The end of the pipe is an order too: to end at once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Order {
    /// The first of all.
    Connect(Box<Plan>),
    /// All processes are connected. The first message is due at this time of [`monotonic`], the same in all processes.
    Send { at: Duration },
    /// End early, in order.
    Stop,
}

/// From a client process to `baton load-test`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Event {
    /// How far it is, a few times a second: a process that is silent is stuck.
    Progress(Progress),
    /// Every connection is open or has failed.
    Connected,
    /// Every message has been sent.
    Sent,
    /// The last: what has come of it.
    Report(Box<Tally>),
    /// It cannot go on.
    Failed { reason: String },
}

/// Numbers so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Progress {
    /// Connections that are open or have failed.
    pub(super) settled: u64,
    pub(super) sent: u64,
    pub(super) answered: u64,
    pub(super) errors: u64,
    /// Connections that have ended.
    pub(super) ended: u64,
}

impl std::ops::AddAssign for Progress {
    fn add_assign(&mut self, other: Progress) {
        self.settled += other.settled;
        self.sent += other.sent;
        self.answered += other.answered;
        self.errors += other.errors;
        self.ended += other.ended;
    }
}

/// The clock that all processes of a machine share (`CLOCK_MONOTONIC` of clock_gettime(2)), which nobody sets.
pub(super) fn monotonic() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_crosses_comes_out_as_it_went_in() {
        let plan = Plan {
            url: "ws://h/ws/chat/".into(),
            address: "127.0.0.1:8000".parse().unwrap(),
            sources: vec!["127.0.0.2".parse().unwrap()],
            first: 10,
            connections: 5,
            ramp: None,
            pace: Some(Schedule::new(1000.0, 1, 4)),
            messages: Some(10),
            duration: Duration::from_secs(60),
            hold: Duration::ZERO,
            timeout: Duration::from_millis(1500),
            payload: 64,
            session: Some("load-x".into()),
            reconnect: Some(5),
            expect: Expect::Count,
            headers: vec![("Origin".into(), "https://a".into())],
            ca_file: None,
        };
        for order in [Order::Connect(Box::new(plan)), Order::Send { at: Duration::from_nanos(12_345) }, Order::Stop] {
            let line = serde_json::to_string(&order).unwrap();
            assert!(!line.contains('\n'), "{line}");
            assert_eq!(serde_json::from_str::<Order>(&line).unwrap(), order);
        }
        let event = Event::Report(Box::default());
        let line = serde_json::to_string(&event).unwrap();
        assert_eq!(serde_json::from_str::<Event>(&line).unwrap(), event);
    }
}
