//! Memory that goes back to the system: what is free after a storm of connects, and what was only needed for a moment.
#![allow(unsafe_code)] // malloc_trim(3), mmap(2).

use std::cell::Cell;
use std::ffi::c_void;
use std::io;
use std::num::NonZeroUsize;
use std::ptr::NonNull;

use argon2::Block;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};

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

/// Holds the blocks that hashing a password needs, in a mapping of its own, which dropping it returns to the system.
///
/// From the C library they would come aligned to 64 bytes, and it does not find such memory again once it was freed
/// (glibc bug 14581): every attempt to log in left all of its 19 MiB behind.
pub(crate) struct Blocks {
    base: NonNull<c_void>,
    length: NonZeroUsize,
}

impl Blocks {
    /// Maps so many zeroed blocks.
    ///
    /// # Errors
    /// The system has no memory for them, or there are to be none.
    pub(crate) fn map(count: usize) -> io::Result<Blocks> {
        let length = count.checked_mul(Block::SIZE).and_then(NonZeroUsize::new);
        let length = length.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, format!("{count} blocks")))?;
        // SAFETY: a fresh private mapping at an address that the kernel chooses.
        let base = unsafe {
            mmap_anonymous(None, length, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_PRIVATE)?
        };
        Ok(Blocks { base, length })
    }
}

impl AsMut<[Block]> for Blocks {
    fn as_mut(&mut self) -> &mut [Block] {
        const { assert!(size_of::<Block>() == Block::SIZE && align_of::<Block>() <= 4096) };
        // SAFETY: the mapping is that long, page-aligned, zeroed by the kernel, and reached through `self` alone; a block
        // is an array of integers, for which every bit pattern is a value.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr().cast(), self.length.get() / Block::SIZE) }
    }
}

impl Drop for Blocks {
    fn drop(&mut self) {
        // SAFETY: base and length are those of the mapping made in `map`; no borrow of it can outlive `self`.
        if let Err(errno) = unsafe { munmap(self.base, self.length.get()) } {
            debug_assert!(false, "munmap: {errno}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_zeroed_writable_and_as_many_as_asked_for() {
        let mut blocks = Blocks::map(33).unwrap();
        let blocks: &mut [Block] = blocks.as_mut();
        assert_eq!(blocks.len(), 33);
        assert!(blocks.iter().all(|block| block.as_ref().iter().all(|word| *word == 0)));
        blocks[32].as_mut().fill(u64::MAX);
        assert_eq!(blocks[32].as_ref()[127], u64::MAX);
        for wrong in [0, usize::MAX, usize::MAX / Block::SIZE] {
            assert!(Blocks::map(wrong).is_err(), "{wrong}");
        }
    }
}
