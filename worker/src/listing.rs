//! What an operator sees of connections, and of the backplane.

use std::collections::HashMap;

use baton_ipc::Slot;
use baton_ipc::control::{BackplaneRow, ConnectionRow, Link, Order};
use baton_ipc::messages::Answer;
use baton_ipc::scoreboard::monotonic_ms;

use crate::app::App;
use crate::hub::Hub;
use crate::metrics::{Gauge, Single};
use crate::proxies::Peer;
use crate::slab::{Connection, Phase};
use crate::token::Token;
use crate::worker::Standing;

/// The most rows in one answer: it must fit into one packet.
const MAX_ROWS: usize = 300;

/// The first connections in an order.
pub(crate) fn connections<A: App>(hub: &Hub<A>, slot: Slot, order: Order, limit: usize) -> Answer {
    let mut all: Vec<_> = hub.connections.iter().map(|(_, connection)| connection).collect();
    match order {
        Order::Oldest => all.sort_by_key(|connection| connection.opened_ms),
        Order::Slowest => all.sort_by_key(|connection| std::cmp::Reverse(waiting(*connection))),
        Order::Biggest => all.sort_by_key(|connection| std::cmp::Reverse(connection.received)),
    }
    let total = all.len() as u64;
    Answer::Connections { total, rows: rows(all, slot, limit) }
}

/// How many connections each of these sessions has, and the oldest of all of them.
pub(crate) fn sessions<A: App>(hub: &Hub<A>, slot: Slot, sessions: &[String], limit: usize) -> Answer {
    // What is no token is nobody's session.
    let asked = sessions.iter().enumerate().filter_map(|(i, session)| Some((session.parse().ok()?, i)));
    let asked: HashMap<Token, usize> = asked.collect();
    let mut connections = vec![0; sessions.len()];
    let mut found = Vec::new();
    for (_, connection) in hub.connections.iter().filter(|(_, connection)| connection.phase == Phase::Open) {
        if let Some(i) = asked.get(&connection.token) {
            connections[*i] += 1;
            found.push(connection);
        }
    }
    found.sort_by_key(|connection| connection.opened_ms);
    Answer::Sessions { connections, rows: rows(found, slot, limit) }
}

/// The first of these.
fn rows<S>(connections: Vec<&Connection<S>>, slot: Slot, limit: usize) -> Vec<ConnectionRow> {
    let now = monotonic_ms();
    let row = |connection: &Connection<S>| ConnectionRow {
        slot,
        connection_id: connection.name(),
        session_uuid: connection.token.spelling(),
        client: client(connection),
        age_seconds: now.saturating_sub(connection.opened_ms) as f64 / 1000.0,
        messages: connection.received,
        queued_bytes: waiting(connection) as u64,
    };
    connections.into_iter().take(limit.min(MAX_ROWS)).map(row).collect()
}

/// Bytes that its client has not taken.
fn waiting<S>(connection: &Connection<S>) -> usize {
    connection.output.as_ref().map_or(0, |output| output.waiting())
}

/// The address of the client. Without a proxy the kernel is asked: it is rarely wanted, and every connection would have to
/// keep it.
fn client<S>(connection: &Connection<S>) -> String {
    let peer = || socket2::SockRef::from(&connection.socket).peer_addr().ok()?.as_socket();
    match &connection.forwarded {
        Some(address) => address.to_string(),
        None => peer().map_or_else(String::new, |peer| Peer::Tcp(peer).to_string()),
    }
}

/// The backplane as this worker sees it.
pub(crate) fn backplane<A: App>(hub: &mut Hub<A>, slot: Slot, standing: &Standing) -> Answer {
    let health = hub.backplane.health();
    let lag_us = hub.metrics.row().gauge(Gauge::HeartbeatLag as usize).get();
    let detail = |reason: &String| match health.detail.is_empty() {
        true => reason.clone(),
        false => format!("{reason}: {}", health.detail),
    };
    Answer::Backplane(Box::new(BackplaneRow {
        slot,
        kind: health.kind.to_owned(),
        target: health.target.clone(),
        state: if standing.degraded.is_none() { Link::Up } else { Link::Down },
        since_seconds: monotonic_ms().saturating_sub(standing.since_ms) as f64 / 1000.0,
        reason: standing.degraded.as_ref().map(detail),
        latency_seconds: health.latency.map(|latency| latency.as_secs_f64()),
        // 0: there was none yet.
        heartbeat_lag_seconds: (lag_us > 0).then_some(lag_us as f64 / 1e6),
        lease_holder: health.lease_holder,
        holds_lease: health.holds_lease,
        pending: health.pending,
        gaps: hub.metrics.single(Single::Gaps),
        reconnects: health.reconnects,
    }))
}
