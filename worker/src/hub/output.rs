//! What goes out, what waits, and the memory that it takes.

use super::Hub;
use crate::app::App;
use crate::metrics::{Closes, Errors, Gauge};
use crate::slab::{Connection, Phase};

impl<A: App> Hub<A> {
    /// Sends, and notes what begins to wait or fails.
    pub(super) fn transmit(&mut self, key: usize, bytes: &[u8]) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let held = connection.held();
        match connection.transmit(key, bytes, self.poll.registry(), self.now_ms) {
            Ok(true) => self.waiting.push((key, connection.id)),
            Ok(false) => {}
            Err(_) => {
                connection.output = None;
                connection.mute = true;
                self.end(key, Phase::Done, Closes::Lost);
            }
        }
        if self.account(key, held) {
            self.cut_for_memory(key);
        }
    }

    /// Sends on what waited; a connection that has caught up is read again.
    pub(super) fn flush(&mut self, key: usize) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let held = connection.held();
        match connection.flush(key, self.poll.registry(), self.now_ms) {
            Ok(true) => {
                self.again.push(key);
                self.changed.push(key);
            }
            Ok(false) => {}
            Err(_) => {
                connection.output = None;
                connection.mute = true;
                self.end(key, Phase::Done, Closes::Lost);
                // If that was its phase already.
                self.changed.push(key);
            }
        }
        self.account(key, held);
    }

    /// Gives up what the client has not taken.
    pub(super) fn drop_output(&mut self, key: usize) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let held = connection.held();
        connection.mute |= connection.output.take().is_some();
        self.account(key, held);
    }

    /// Keeps the sum of what connections hold; `true`: this one holds something, and all together too much.
    pub(super) fn account(&mut self, key: usize, before: usize) -> bool {
        let now = self.connections.get(key).map_or(0, Connection::held);
        if now == before {
            return false;
        }
        self.held = (self.held + now).saturating_sub(before);
        self.metrics.gauge(Gauge::Buffered, self.held as u64);
        now > before && self.held > self.settings.limits.max_buffer_memory
    }

    /// All connections together have too much waiting, this one among them: it goes, with what waits for it. To tell it
    /// why would only add to that.
    fn cut_for_memory(&mut self, key: usize) {
        let Some(connection) = self.connections.get(key) else { return };
        tracing::warn!(
            connection_id = connection.name(),
            session_uuid = %connection.token,
            queued = connection.output.as_ref().map_or(0, |output| output.waiting()),
            held = self.held,
            "too much output waits for clients; cutting one off"
        );
        self.metrics.error(Errors::Memory, 1);
        self.end(key, Phase::Done, Closes::Server);
        self.drop_output(key);
    }
}
