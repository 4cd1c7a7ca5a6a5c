//! What goes out, and what waits.

use std::time::Duration;

use super::{Hub, retry_hint};
use crate::app::{App, Reply};
use crate::batch::{Batch, Outcome, Piece};
use crate::count;
use crate::frame::{self, Kind};
use crate::metrics::{Closes, DURATION, Messages};
use crate::slab::Phase;

impl<A: App> Hub<A> {
    /// Lets the replies of a batch leave: its commit is over.
    pub(super) fn deliver(&mut self, mut batch: Batch) {
        if batch.parts() > 0 {
            self.reply(&batch);
            let took = batch.begun.map_or(Duration::ZERO, |begun| begun.elapsed());
            self.metrics.observe(&DURATION, took, batch.messages().max(1));
        }
        self.metrics.messages(Messages::Sent, std::mem::take(&mut self.sent));
        let published = !batch.publications.is_empty() && self.store_ok;
        batch.clear();
        self.spare = batch;
        if published {
            self.deliver_published();
        }
    }

    fn reply(&mut self, batch: &Batch) {
        for index in 0..batch.parts() {
            let part = batch.part(index);
            let key = part.key;
            let Some(connection) = self.connections.get_mut(key).filter(|c| c.id == part.id) else { continue };
            connection.unanswered -= 1;
            if !connection.known && connection.unanswered == 0 {
                // It was not read so far.
                self.again.push(key);
            }
            if connection.phase != Phase::Open {
                // It may have waited for this.
                self.changed.push(key);
            }
            if connection.mute {
                continue;
            }
            self.out.clear();
            let refused = match part.outcome() {
                // It has begun a session. Where the store could be asked before the upgrade, that was counted then.
                Some(Outcome::Count(0)) if !connection.known && !self.backplane.is_alone() => {
                    let begin = |address| self.addresses.begin_session(address, &self.settings.per_address);
                    connection.client_address().and_then(|address| begin(address).err())
                }
                Some(_) | None => None,
            };
            if let Some(exceeded) = refused {
                self.out.extend_from_slice(part.bytes_before_counted());
                self.refuse_session(key, exceeded);
                self.send_out(key);
                continue;
            }
            match part.outcome() {
                Some(Outcome::Count(count)) => {
                    connection.shown = connection.shown.max(count);
                    connection.known = true;
                }
                // Without its count: the goodbye says so.
                Some(Outcome::Failed) if !part.counts() => {}
                Some(Outcome::Unknown | Outcome::Failed) if !part.is_bye() => {
                    self.out.extend_from_slice(part.bytes_before_counted());
                    self.refuse_uncounted(key);
                    self.send_out(key);
                    continue;
                }
                Some(Outcome::Unknown | Outcome::Failed) | None => {}
            }
            let Some(connection) = self.connections.get_mut(key) else { continue };
            for piece in part.pieces() {
                match piece {
                    Piece::Bytes(bytes) => self.out.extend_from_slice(bytes),
                    Piece::Counted(counts) => {
                        for count in counts {
                            let mut reply = Reply { out: &mut self.out, sent: &mut self.sent };
                            self.app.counted(&mut connection.state, count::shown(count), &mut reply);
                        }
                    }
                    Piece::Bye(total) => {
                        if let Some(bye) = total.and_then(|total| self.app.bye(count::shown(total))) {
                            frame::append(&mut self.out, Kind::Text, bye.as_bytes());
                            self.sent += 1;
                        }
                        let hint = retry_hint(&self.settings);
                        frame::append_close(&mut self.out, Some(1001), &hint);
                    }
                }
            }
            self.send_out(key);
        }
        const KEEP: usize = 1024 * 1024;
        if self.out.capacity() > KEEP {
            self.out = Vec::new();
        }
    }

    fn send_out(&mut self, key: usize) {
        let out = std::mem::take(&mut self.out);
        if !out.is_empty() {
            self.transmit(key, &out);
        }
        self.out = out;
    }

    /// Sends what can be sent now; the rest waits. Not while a part of the batch is being gathered.
    pub(super) fn transmit(&mut self, key: usize, bytes: &[u8]) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let held = connection.held();
        match connection.transmit(key, bytes, self.poll.registry(), self.now_ms) {
            Ok(()) => {}
            Err(_) => {
                connection.output = None;
                connection.mute = true;
                self.end(key, Phase::Done, Closes::Lost);
            }
        }
        if self.account(key, held) {
            self.relieve();
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
}
