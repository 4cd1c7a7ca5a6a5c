//! Text to send: pieces of one long text that is drawn once.

use std::ops::Range;

use fastrand::Rng;

/// Longer than the longest message.
const LENGTH: usize = 256 * 1024;

/// Letters of one to four bytes. None could begin or end anything in JSON.
const LETTERS: [char; 8] = ['a', 'e', 'n', 'z', ' ', 'é', '水', '💥'];

/// The long text.
#[derive(Debug)]
pub(super) struct Text(String);

impl Text {
    pub(super) fn new(random: &mut Rng) -> Text {
        let mut text = String::with_capacity(LENGTH + 4);
        while text.len() < LENGTH {
            text.push(LETTERS[random.usize(..LETTERS.len())]);
        }
        Text(text)
    }

    /// A piece of about such a length, in bytes.
    pub(super) fn draw(&self, random: &mut Rng, length: Range<usize>) -> &str {
        let length = random.usize(length);
        let start = random.usize(..LENGTH - length);
        &self.0[self.0.floor_char_boundary(start)..self.0.floor_char_boundary(start + length)]
    }
}
