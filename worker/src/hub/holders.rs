//! Bounds the memory that connections hold, and for how long: unfinished messages, output that waits, and bytes that came
//! behind a handshake and were not looked at yet.
//!
//! Lengths are accounted, and capacities follow them closely (see [`crate::growth`]). Accounted with no connection are
//! what exists once for all of a worker and has bounds of its own (the scratch memory, gathered batches), and what is
//! pushed to a connection while another process decides whether it takes it.

use std::time::Duration;

use super::{Hub, retry_hint};
use crate::app::App;
use crate::metrics::{Closes, Errors, Gauge};
use crate::settings::Limits;
use crate::slab::{Hold, Phase};

/// When connections have to make room, so much of the budget is free afterwards: one part of so many. Or whoever fills it
/// byte by byte would have all holders looked through for each byte.
const ROOM: usize = 64;

/// A connection that holds memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Holder {
    key: usize,
    bytes: usize,
    /// Since when it has held some of it (milliseconds of `CLOCK_MONOTONIC`).
    since_ms: u64,
}

/// Which deadline a connection has let pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Overdue {
    /// The rest of a message did not come within `message-timeout`.
    Message,
    /// Output was left untaken for `write-timeout`.
    Output,
}

impl<A: App> Hub<A> {
    /// Keeps the sum of what connections hold, after this one held `before`. `true`: it has grown beyond the budget, and
    /// [`Hub::relieve`] is to be called once no part of the batch is being gathered.
    pub(super) fn account(&mut self, key: usize, before: usize) -> bool {
        let Some(connection) = self.connections.get_mut(key) else { return false };
        let now = connection.held();
        if now == before {
            return false;
        }
        if !connection.listed {
            connection.listed = true;
            self.holders.push((key, connection.id));
        }
        self.add_held(now);
        self.drop_held(before);
        now > before && self.held > self.settings.limits.max_buffer_memory
    }

    fn add_held(&mut self, bytes: usize) {
        self.held += bytes;
        self.metrics.gauge(Gauge::Buffered, self.held as u64);
    }

    /// So many bytes are held no more.
    pub(super) fn drop_held(&mut self, bytes: usize) {
        self.held = self.held.saturating_sub(bytes);
        self.metrics.gauge(Gauge::Buffered, self.held as u64);
    }

    /// Keeps what came behind a handshake for a connection that cannot be read yet.
    pub(super) fn keep_early(&mut self, key: usize, bytes: Vec<u8>) {
        let Some(connection) = self.connections.get_mut(key).filter(|_| !bytes.is_empty()) else { return };
        if !connection.listed {
            connection.listed = true;
            self.holders.push((key, connection.id));
        }
        self.add_held(bytes.len());
        self.early.insert(key, bytes);
    }

    /// What came behind a connection's handshake and was not looked at.
    pub(super) fn take_early(&mut self, key: usize) -> Option<Vec<u8>> {
        let early = self.early.remove(&key)?;
        self.drop_held(early.len());
        Some(early)
    }

    /// Throws away what has come from a client and is not a message yet.
    pub(super) fn drop_input(&mut self, key: usize) {
        self.take_early(key);
        let Some(connection) = self.connections.get_mut(key) else { return };
        let held = connection.held();
        drop(std::mem::take(&mut connection.inbox));
        self.account(key, held);
    }

    /// Gives up what the client has not taken.
    pub(super) fn drop_output(&mut self, key: usize) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let held = connection.held();
        connection.mute |= connection.output.take().is_some();
        self.account(key, held);
    }

    /// If all connections together hold too much, closes those that hold most and longest. Not while a part of the batch
    /// is being gathered: closes are parts of it.
    pub(super) fn relieve(&mut self) {
        if self.held <= self.settings.limits.max_buffer_memory {
            return;
        }
        let mut holders = self.holding();
        // Those that are offered are another process' in a moment, or bound here again.
        holders.retain(|holder| self.connections[holder.key].hold != Hold::Offered);
        for victim in victims(holders, self.settings.limits.max_buffer_memory) {
            self.close_for_memory(victim);
        }
    }

    /// Closes a connection that holds too much. While output waits for it a close would only add to that: it is cut off.
    fn close_for_memory(&mut self, victim: Holder) {
        let Holder { key, bytes, .. } = victim;
        let Some(connection) = self.connections.get(key) else { return };
        let (phase, blocked) = (connection.phase, connection.output.is_some());
        tracing::warn!(
            connection_id = connection.name(),
            session_hash = %connection.token.fingerprint(),
            bytes,
            queued = connection.output.as_ref().map_or(0, |output| output.waiting()),
            held = self.held,
            "connections hold too much; closing the one that holds most and longest"
        );
        self.metrics.error(Errors::Memory, 1);
        if blocked {
            self.drop_input(key);
            self.end(key, Phase::Done, Closes::Server);
            self.drop_output(key);
            return;
        }
        if phase == Phase::Open {
            let hint = retry_hint(&self.settings);
            self.close(key, 1013, &hint);
        }
        self.fail(key);
    }

    /// Connections that hold something. Those that do not any more leave the list.
    fn holding(&mut self) -> Vec<Holder> {
        let Hub { holders, connections, early, .. } = self;
        // A connection that went and came back may be there twice; and this is the order in which they lie in memory.
        holders.sort_unstable();
        holders.dedup();
        let mut found = Vec::with_capacity(holders.len());
        holders.retain(|(key, id)| {
            let Some(connection) = connections.get_mut(*key).filter(|connection| connection.id == *id) else {
                return false;
            };
            let early = early.get(key);
            let bytes = connection.held() + early.map_or(0, Vec::len);
            let output = connection.output.as_ref().map(|output| output.since_ms);
            let since = [connection.inbox.since_ms(), output, early.map(|_| connection.opened_ms)];
            connection.listed = bytes > 0;
            if let Some(since_ms) = since.into_iter().flatten().min() {
                found.push(Holder { key: *key, bytes, since_ms });
            }
            connection.listed
        });
        found
    }

    /// Closes clients that have let a deadline pass. Called every second.
    pub(super) fn look_at_holders(&mut self) {
        for Holder { key, .. } in self.holding() {
            match self.overdue(key) {
                Some(Overdue::Output) => self.fail_slow(key),
                // While nothing is read it is not the client that is late.
                Some(Overdue::Message) if self.is_full() => {}
                Some(Overdue::Message) => {
                    // Its rest may have come while this worker stood still.
                    let there_is_more = self.read(key, false);
                    if !there_is_more && self.overdue(key) == Some(Overdue::Message) {
                        self.fail_unfinished(key);
                    }
                }
                None => {}
            }
        }
    }

    fn overdue(&self, key: usize) -> Option<Overdue> {
        let connection = self.connections.get(key)?;
        let waits = Waits {
            phase: connection.phase,
            hold: connection.hold,
            message_ms: connection.inbox.since_ms(),
            output_ms: connection.output.as_ref().map(|output| output.since_ms),
        };
        overdue(waits, &self.settings.limits, self.now_ms)
    }

    /// Closes a client that does not read, 1008. It sees the close if it reads on within the close timeout.
    pub(super) fn fail_slow(&mut self, key: usize) {
        let Some(connection) = self.connections.get(key).filter(|c| c.phase != Phase::Failed) else { return };
        tracing::warn!(
            connection_id = connection.name(),
            session_hash = %connection.token.fingerprint(),
            queued = connection.output.as_ref().map_or(0, |output| output.waiting()),
            "a client does not read; closing it"
        );
        self.metrics.error(Errors::SlowReader, 1);
        if self.connections[key].phase == Phase::Open {
            self.close(key, 1008, "messages are not being read");
        }
        self.fail(key);
    }

    /// Closes a client that does not complete a message, 1008.
    fn fail_unfinished(&mut self, key: usize) {
        let Some(connection) = self.connections.get(key) else { return };
        tracing::warn!(
            connection_id = connection.name(),
            session_hash = %connection.token.fingerprint(),
            bytes = connection.inbox.held(),
            "a client does not complete its message; closing it"
        );
        self.metrics.error(Errors::Unfinished, 1);
        let reason = format!("the message was not complete after {:?}", self.settings.limits.message_timeout);
        self.close(key, 1008, &reason);
        self.fail(key);
    }
}

/// What a connection waits for.
#[derive(Clone, Copy, Debug)]
struct Waits {
    phase: Phase,
    hold: Hold,
    /// Since when for the rest of a message.
    message_ms: Option<u64>,
    /// Since when for its client to take output.
    output_ms: Option<u64>,
}

/// Which deadline a connection has let pass by `now_ms`.
fn overdue(waits: Waits, limits: &Limits, now_ms: u64) -> Option<Overdue> {
    let (is_written, is_read) = match (waits.phase, waits.hold) {
        (Phase::Open, Hold::None | Hold::Chosen) => (true, true),
        (Phase::Open, Hold::Parked) | (Phase::Closing, Hold::None | Hold::Chosen | Hold::Parked) => (true, false),
        (Phase::Open | Phase::Closing, Hold::Offered) => (false, false),
        // They have a deadline already.
        (Phase::Failed | Phase::Done, _) => (false, false),
    };
    let passed = |since_ms: Option<u64>, patience: Duration| {
        since_ms.is_some_and(|since_ms| since_ms + patience.as_millis() as u64 <= now_ms)
    };
    if is_written && passed(waits.output_ms, limits.write_timeout) {
        Some(Overdue::Output)
    } else if is_read && passed(waits.message_ms, limits.message_timeout) {
        Some(Overdue::Message)
    } else {
        None
    }
}

/// Chooses whom to close, first to last, so that the others hold no more than `budget`: only connections above their fair
/// share, which is the same part of the budget for each holder. Of those that hold at least half as much as the one that
/// holds most the oldest goes first, so that nobody is closed for a few bytes more than a crowd; then, by halves, the next.
fn victims(mut holders: Vec<Holder>, budget: usize) -> Vec<Holder> {
    let mut held: usize = holders.iter().map(|holder| holder.bytes).sum();
    if held <= budget {
        return Vec::new();
    }
    let share = budget / holders.len();
    holders.retain(|holder| holder.bytes > share);
    let most = holders.iter().map(|holder| holder.bytes).max().unwrap_or(0);
    holders.sort_unstable_by_key(|holder| ((most / holder.bytes).ilog2(), holder.since_ms, holder.key));
    let enough = budget - budget / ROOM;
    let chosen = holders.iter().take_while(|holder| {
        let goes = held > enough;
        held -= if goes { holder.bytes } else { 0 };
        goes
    });
    let chosen = chosen.count();
    holders.truncate(chosen);
    holders
}

#[cfg(test)]
#[path = "holders/tests.rs"]
mod tests;
