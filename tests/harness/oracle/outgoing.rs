//! What a connection is about to send: bytes, where to pause between them, and what is owed once they are there.

use std::collections::VecDeque;
use std::time::Duration;

use super::expected::Expected;

/// The bytes of one act. The memory is used again for the next one.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
    pauses: VecDeque<Pause>,
    owed: VecDeque<Owed>,
}

/// After so many bytes nothing for a while.
#[derive(Debug)]
struct Pause {
    at: usize,
    length: Duration,
}

/// With so many bytes sent the server owes an answer.
#[derive(Debug)]
struct Owed {
    at: usize,
    expected: Expected,
}

impl Outgoing {
    /// Where more is appended; what was sent is not kept.
    pub(super) fn bytes(&mut self) -> &mut Vec<u8> {
        if self.is_sent() {
            self.bytes.clear();
            self.sent = 0;
        }
        &mut self.bytes
    }

    /// Bytes so far: the place where the next ones will be.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The server owes this as soon as the bytes so far are sent.
    pub(super) fn owe(&mut self, expected: Expected) {
        self.owed.push_back(Owed { at: self.bytes.len(), expected });
    }

    /// A pause behind the first `at` bytes, which is not before any other pause.
    pub(super) fn pause_at(&mut self, at: usize, length: Duration) {
        debug_assert!(at <= self.bytes.len() && self.pauses.back().is_none_or(|last| last.at <= at));
        self.pauses.push_back(Pause { at, length });
    }

    /// What may be sent before the next pause.
    pub(super) fn sendable(&self) -> &[u8] {
        let end = self.pauses.front().map_or(self.bytes.len(), |pause| pause.at);
        &self.bytes[self.sent..end]
    }

    /// So many bytes more are sent.
    pub(super) fn advance(&mut self, sent: usize) {
        self.sent += sent;
    }

    /// The next answer that the server owes for what is sent.
    pub(super) fn next_owed(&mut self) -> Option<Expected> {
        Some(self.owed.pop_front_if(|owed| owed.at <= self.sent)?.expected)
    }

    /// The pause that has been reached.
    pub(super) fn next_pause(&mut self) -> Option<Duration> {
        Some(self.pauses.pop_front_if(|pause| pause.at <= self.sent)?.length)
    }

    /// Nothing is left to send, though a pause may be.
    pub(super) fn is_sent(&self) -> bool {
        self.sent == self.bytes.len()
    }

    /// Goes on at once.
    pub(super) fn skip_pauses(&mut self) {
        self.pauses.clear();
    }
}
