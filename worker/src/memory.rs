//! Memory that is free goes back to the system.
#![allow(unsafe_code)] // malloc_trim(3).

use std::cell::Cell;

/// WebSockets opened between two looks that make it worth the while.
const WORTH: u64 = 256;

/// Gives back what a storm of connects has left behind: each HTTP connection needs some ten kilobytes until it is a
/// WebSocket, and the C library would keep them.
#[derive(Debug, Default)]
pub(crate) struct Trimmer {
    trimmed_at: Cell<u64>,
}

impl Trimmer {
    /// Looks, once in a while, when no handshake is under way; `opened` counts the WebSockets ever opened.
    pub(crate) fn look(&self, opened: u64) {
        if opened.wrapping_sub(self.trimmed_at.get()) >= WORTH {
            self.trimmed_at.set(opened);
            trim();
        }
    }
}

#[cfg(target_env = "gnu")]
fn trim() {
    // SAFETY: takes no pointer, and only returns free memory.
    unsafe { libc::malloc_trim(0) };
}

#[cfg(not(target_env = "gnu"))]
fn trim() {}
