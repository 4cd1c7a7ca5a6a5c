//! How connections end: closing handshakes, deadlines, removal.

use std::net::Shutdown;
use std::time::{Duration, Instant};

use super::{End, Hub, retry_hint_after};
use crate::addresses::Exceeded;
use crate::app::App;
use crate::connection::Violation;
use crate::frame;
use crate::lifetimes;
use crate::metrics::{Closes, Errors, Gauge};
use crate::slab::{Connection, Hold, Phase};

impl<A: App> Hub<A> {
    /// Puts the close that `end` asks for behind the replies of the part that is being gathered.
    pub(super) fn close_in_batch(&mut self, key: usize, end: End) {
        let connection = &self.connections[key];
        let answered = connection.phase == Phase::Closing;
        let out = self.batch.bytes_for_reply();
        match end {
            End::Peer(_) if answered => self.end(key, Phase::Done, Closes::Server),
            End::Peer(code) => {
                frame::append_close(out, code, "");
                self.end(key, Phase::Done, Closes::Client);
            }
            End::App(code, reason) => {
                frame::append_close(out, Some(code), &reason);
                self.end(key, Phase::Closing, Closes::Server);
            }
            End::Rate => {
                self.metrics.error(Errors::Rate, 1);
                let reason = format!("more than {} frames a second", self.settings.limits.max_message_rate);
                frame::append_close(out, Some(1008), &reason);
                self.fail(key);
            }
            End::Violation(violation) => {
                self.metrics.error(error_of(violation), 1);
                if !answered {
                    frame::append_close(out, Some(violation.code()), &violation.to_string());
                }
                self.fail(key);
            }
        }
    }

    /// What comes from it from now on is thrown away, and so is what has come of an unfinished message.
    pub(super) fn fail(&mut self, key: usize) {
        self.drop_input(key);
        self.end(key, Phase::Failed, Closes::Server);
    }

    /// A message could not be counted: its client is told to come back, and nothing is shown that is not durable.
    pub(super) fn refuse_uncounted(&mut self, key: usize) {
        self.turn_away(key, Duration::ZERO);
    }

    fn turn_away(&mut self, key: usize, wait: Duration) {
        let reason = retry_hint_after(&self.settings, wait);
        frame::append_close(&mut self.out, Some(1013), &reason);
        if let Some(connection) = self.connections.get_mut(key) {
            connection.mute = true;
        }
        self.end(key, Phase::Closing, Closes::Server);
    }

    /// Closes a connection that has begun a session, as its look-up has just found, which its address may not begin now.
    /// The close says when it may.
    pub(super) fn refuse_session(&mut self, key: usize, exceeded: Exceeded) {
        self.metrics.refused(exceeded.reason());
        self.turn_away(key, exceeded.wait());
    }

    /// Notes that a connection has come further towards its end; never back.
    pub(super) fn end(&mut self, key: usize, phase: Phase, by: Closes) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        if connection.phase == Phase::Open {
            connection.ended_by = by;
        }
        if phase > connection.phase {
            connection.phase = phase;
            self.changed.push(key);
        }
    }

    /// Acts on what has changed: removes what is over, sets deadlines for what waits for its client.
    pub(super) fn settle(&mut self) {
        for key in std::mem::take(&mut self.changed) {
            let Some(connection) = self.connections.get(key).filter(|c| c.hold != Hold::Offered) else { continue };
            // What its batches have to say comes first.
            let flushed = connection.output.is_none() && connection.unanswered == 0;
            let deadline = self.now_ms + self.settings.limits.close_timeout.as_millis() as u64;
            match connection.phase {
                Phase::Open => {}
                Phase::Done if flushed => self.remove(key),
                Phase::Failed if flushed => {
                    // Our end is over; the client sees the close, then the end of the stream. A socket that is
                    // gone already cannot be shut down, which is as well.
                    let _ = socket2::SockRef::from(&connection.socket).shutdown(Shutdown::Write);
                    self.deadlines.push((deadline, key, connection.id));
                }
                Phase::Closing | Phase::Failed | Phase::Done => self.deadlines.push((deadline, key, connection.id)),
            }
        }
    }

    /// Looks for clients that let a deadline pass. Called every second.
    pub(crate) fn look_at_deadlines(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
        let deadlines = std::mem::take(&mut self.deadlines);
        for (deadline, key, id) in deadlines {
            let Some(connection) = self.connections.get(key).filter(|connection| connection.id == id) else { continue };
            if deadline <= now_ms && connection.hold != Hold::Offered {
                self.remove(key)
            } else {
                self.deadlines.push((deadline, key, id))
            }
        }
        self.look_at_holders();
        self.finish_quietly();
    }

    /// Sees to it that no session expires under an open connection, however silent: looks at so many connections that
    /// all are seen four times within the time to live of a new session. Those that are not new are kept in every so many
    /// passes only, four times within theirs. Called every second.
    pub(crate) fn keep_sessions(&mut self) {
        let lifetimes = self.settings.lifetimes();
        let new = lifetimes.new.max(1);
        let passes = (lifetimes.session / new).max(1);
        let all = self.connections.capacity();
        let looked_at = (4 * all).div_ceil(new as usize).min(all);
        for _ in 0..looked_at {
            self.kept = (self.kept + 1) % all;
            if self.kept == 0 {
                self.kept_passes += 1;
            }
            let is_due = |connection: &Connection<A::State>| {
                lifetimes::is_new(connection.shown) || self.kept_passes.is_multiple_of(passes)
            };
            if let Some(connection) = self.connections.get(self.kept)
                && (connection.shown > 0 || connection.resumed)
                && is_due(connection)
            {
                self.batch.touch(connection.token.clone());
            }
        }
    }

    /// Puts a close behind whatever is on its way to a connection.
    pub(super) fn close(&mut self, key: usize, code: u16, reason: &str) {
        self.batch.begin();
        frame::append_close(self.batch.bytes_for_reply(), Some(code), reason);
        self.seal_part(key);
    }

    /// Closes every open connection of a session, 1000. Returns how many there were.
    pub(crate) fn disconnect(&mut self, session: &str) -> u64 {
        let keys: Vec<usize> = self.open_connections(|connection| connection.token.spelling() == session);
        for key in &keys {
            self.close(*key, 1000, "disconnected by the operator");
            self.end(*key, Phase::Closing, Closes::Server);
        }
        self.finish_quietly();
        keys.len() as u64
    }

    /// Says goodbye to these connections: what they have sent is counted and answered, then comes bye, then 1001. Reading
    /// ends at `read_until`, but not before each had its turn: a flood does not keep the others from their goodbye.
    /// Those whose total cannot be known are closed without a bye.
    pub(crate) fn say_bye(&mut self, keys: &[usize], read_until: Instant) {
        self.read_out(keys, read_until);
        for key in keys {
            let Some(connection) = self.connections.get(*key).filter(|c| c.phase == Phase::Open) else { continue };
            if connection.is_looked_up() {
                // It was not read.
                self.late_byes.push((*key, connection.id));
                continue;
            }
            self.batch.begin();
            self.batch.bye();
            self.seal_part(*key);
            self.end(*key, Phase::Closing, Closes::Drained);
        }
        self.finish_quietly();
    }

    /// Says goodbye to connections whose sessions are known now.
    pub(super) fn say_late_byes(&mut self) {
        if self.late_byes.is_empty() {
            return;
        }
        let mut known = Vec::new();
        for (key, id) in std::mem::take(&mut self.late_byes) {
            match self.connections.get(key).filter(|connection| connection.id == id) {
                Some(connection) if connection.is_looked_up() => self.late_byes.push((key, id)),
                Some(_) => known.push(key),
                None => {}
            }
        }
        if !known.is_empty() {
            self.say_bye(&known, Instant::now());
        }
    }

    /// Reads all that these connections have sent before now, and answers it.
    fn read_out(&mut self, keys: &[usize], until: Instant) {
        let mut unread = keys.to_vec();
        loop {
            for key in unread.drain(..) {
                self.read(key, true);
            }
            self.finish_quietly();
            unread = std::mem::take(&mut self.again);
            unread.sort_unstable();
            unread.dedup();
            if unread.is_empty() || self.is_full() || Instant::now() >= until {
                self.again = unread;
                return;
            }
        }
    }

    /// Keys of the open connections that `choose` chooses.
    pub(crate) fn open_connections(&self, choose: impl Fn(&Connection<A::State>) -> bool) -> Vec<usize> {
        let here =
            |connection: &Connection<A::State>| connection.phase == Phase::Open && connection.hold != Hold::Offered;
        let open = self.connections.iter().filter(|(_, connection)| here(connection));
        open.filter(|(_, connection)| choose(connection)).map(|(key, _)| key).collect()
    }

    /// Drops what is left, whatever its client does.
    pub(crate) fn cut_all(&mut self) -> u64 {
        let keys: Vec<usize> = self.connections.iter().map(|(key, _)| key).collect();
        for key in &keys {
            self.connections[*key].ended_by = Closes::Cut;
            self.remove(*key);
        }
        keys.len() as u64
    }

    fn remove(&mut self, key: usize) {
        let Some(mut connection) = self.connections.try_remove(key) else { return };
        self.take_early(key);
        self.addresses.forget(connection.address.take());
        connection.deregister(self.poll.registry());
        self.drop_held(connection.held());
        self.rooms.leave_all(key, connection.rooms.take());
        if connection.shown > 0 || connection.resumed {
            self.batch.touch(connection.token.clone());
        }
        self.metrics.closed(connection.ended_by);
        if connection.ended_by == Closes::Lost {
            self.metrics.error(Errors::Lost, 1);
        }
        self.metrics.gauge(Gauge::Connections, self.connections.len() as u64);
        tracing::info!(
            connection_id = connection.name(),
            session_hash = %connection.token.fingerprint(),
            request_id = connection.request_id.spelling(),
            messages = connection.received,
            seconds = (self.now_ms.saturating_sub(connection.opened_ms)) as f64 / 1000.0,
            by = ?connection.ended_by,
            "connection closed"
        );
    }
}

fn error_of(violation: Violation) -> Errors {
    match violation {
        Violation::Protocol(_) => Errors::Protocol,
        Violation::InvalidUtf8 => Errors::InvalidUtf8,
        Violation::TooBig(_) => Errors::TooBig,
        Violation::TooManyFragments(_) => Errors::Fragments,
    }
}
