//! What all connections of a crowd share.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nix::sys::epoll::Epoll;

use super::Crowd;
use super::character::Character;
use super::expected::Expected;
use super::report::{Gauges, Report};
use super::text::Text;

/// Where connections are read into; more than the server sends at once.
pub(super) const SCRATCH: usize = 64 * 1024;

/// The server, the time, and the books.
pub(super) struct Scene {
    pub(super) address: SocketAddr,
    pub(super) crowd: Crowd,
    pub(super) epoll: Epoll,
    pub(super) scratch: Vec<u8>,
    pub(super) text: Text,
    /// Of the event that is being handled.
    pub(super) now: Instant,
    /// Connections complete what they are at, and close.
    pub(super) ending: bool,
    pub(super) report: Report,
    pub(super) gauges: Arc<Gauges>,
}

impl Scene {
    pub(super) fn opened(&mut self) {
        self.report.handshakes += 1;
        self.gauges.open.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn closed(&mut self) {
        self.gauges.open.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn heartbeat(&mut self) {
        self.report.heartbeats += 1;
        self.gauges.heartbeats.fetch_add(1, Ordering::Relaxed);
    }

    /// What was owed for `wait` is there.
    pub(super) fn answered(&mut self, expected: Expected, wait: Duration, character: Character) {
        match expected {
            Expected::Count(_) => self.report.messages += 1,
            Expected::InvalidJson => self.report.refused += 1,
            Expected::Pong(_) => self.report.pongs += 1,
            Expected::Close(_) => self.report.closes += 1,
        }
        if expected.is_reply() {
            self.gauges.messages.fetch_add(1, Ordering::Relaxed);
            if !character.is_slow() {
                self.report.longest_wait = self.report.longest_wait.max(wait);
            }
        }
    }
}
