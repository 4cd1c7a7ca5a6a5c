//! What an act is written with: frames whose content, masks and cuts are drawn at random.

use std::ops::Range;
use std::time::Duration;

use fastrand::Rng;

use super::expected::{Expected, ping_payload};
use super::frame::{BEGIN_TEXT, CONTINUE, CONTINUE_LAST, LONGEST_CONTROL, PING, TEXT};
use super::outgoing::Outgoing;
use super::text::Text;
use crate::harness::client::push_masked;

/// The pen for one act of one connection.
pub(super) struct Pen<'a> {
    pub(super) random: &'a mut Rng,
    pub(super) out: &'a mut Outgoing,
    pub(super) text: &'a Text,
    /// Messages of the session that will be counted, those of earlier acts included.
    pub(super) counted: &'a mut u64,
    /// The gap that all pauses are reckoned from.
    pub(super) gap: Duration,
    /// Bytes of replies that are owed or not read.
    pub(super) unread: usize,
}

impl Pen<'_> {
    /// A text message that is counted, of about this length.
    pub(super) fn message(&mut self, length: Range<usize>) {
        let text = self.text.draw(self.random, length);
        match self.random.u8(0..16) {
            0 => self.frame(TEXT, format!(r#"{{"said":"{text}"}}"#).as_bytes()),
            _ => self.frame(TEXT, text.as_bytes()),
        }
        self.owe_count();
    }

    /// A text message that is refused: it begins as JSON does and is none.
    pub(super) fn invalid_json(&mut self) {
        let text = self.text.draw(self.random, 0..50);
        self.frame(TEXT, format!("{{{text}").as_bytes());
        self.out.owe(Expected::InvalidJson);
    }

    /// A ping with a payload of its own.
    pub(super) fn ping(&mut self) {
        let number = self.random.u64(..);
        self.frame(PING, ping_payload(number, &mut [0; LONGEST_CONTROL]));
        self.out.owe(Expected::Pong(number));
    }

    /// A text message in so many fragments, cut anywhere, with pings between some of them.
    pub(super) fn fragments(&mut self, number: usize) {
        let text = self.text.draw(self.random, 20..400).as_bytes();
        let mut cuts: Vec<usize> = (1..number).map(|_| self.random.usize(..=text.len())).collect();
        cuts.sort_unstable();
        let mut start = 0;
        for (index, end) in cuts.into_iter().enumerate() {
            self.frame(if index == 0 { BEGIN_TEXT } else { CONTINUE }, &text[start..end]);
            if self.random.bool() {
                self.ping();
            }
            start = end;
        }
        self.frame(CONTINUE_LAST, &text[start..]);
        self.owe_count();
    }

    /// Cuts what is written in so many places.
    pub(super) fn cut(&mut self, number: usize, pause: Duration) {
        let mut cuts: Vec<usize> = (0..number).map(|_| self.random.usize(..=self.out.len())).collect();
        cuts.sort_unstable();
        for at in cuts {
            self.pause_at(at, pause);
        }
    }

    /// Cuts what is written from `start` on into pieces of such sizes.
    pub(super) fn dribble_from(&mut self, start: usize, sizes: Range<usize>, pause: Duration) {
        let mut at = start + self.random.usize(sizes.clone());
        while at < self.out.len() {
            self.pause_at(at, pause);
            at += self.random.usize(sizes.clone());
        }
    }

    /// A pause behind the first `at` bytes: from a fifth of `about` to twice as long.
    pub(super) fn pause_at(&mut self, at: usize, about: Duration) {
        let length = about.mul_f64(0.2 + 1.8 * self.random.f64());
        self.out.pause_at(at, length);
    }

    /// A pause behind everything.
    pub(super) fn rest(&mut self, about: Duration) {
        self.pause_at(self.out.len(), about);
    }

    fn frame(&mut self, first: u8, payload: &[u8]) {
        let key = self.random.u32(..).to_ne_bytes();
        push_masked(self.out.bytes(), first, payload, key);
    }

    fn owe_count(&mut self) {
        *self.counted += 1;
        self.out.owe(Expected::Count(*self.counted));
    }
}
