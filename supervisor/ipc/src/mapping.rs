//! One shared mapping of a memfd (`memfd_create(2)`, `mmap(2)`).
#![allow(unsafe_code)] // mmap: the memory is only ever reached through atomics.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use nix::fcntl::{FallocateFlags, FcntlArg, SealFlag, fallocate, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// Nobody may change the size under the others: a page that is cut off would be SIGBUS for all.
pub(crate) const SIZE_SEALS: SealFlag = SealFlag::F_SEAL_SHRINK.union(SealFlag::F_SEAL_GROW);

/// Makes sure that a descriptor from another process is a memfd with these seals (`F_GET_SEALS` of `fcntl(2)`), which nobody
/// can take off.
///
/// # Errors
/// `InvalidData`: a seal is missing, or the descriptor is something that has no seals.
pub(crate) fn ensure_sealed(memfd: BorrowedFd<'_>, wanted: SealFlag) -> io::Result<()> {
    let refused = |found: &str| {
        let what = format!("shared memory with the seals {}, expected at least {}", found, names(wanted));
        Err(io::Error::new(io::ErrorKind::InvalidData, what))
    };
    match fcntl(memfd, FcntlArg::F_GET_SEALS).map(SealFlag::from_bits_retain) {
        Ok(seals) if seals.contains(wanted) => Ok(()),
        Ok(seals) => refused(&names(seals)),
        // Not a memfd.
        Err(_) => refused("none"),
    }
}

fn names(seals: SealFlag) -> String {
    let names: Vec<&str> = seals.iter_names().map(|(name, _)| name).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(" ") }
}

/// Shared memory, zeroed at first, readable and writable by every process that holds the memfd.
#[derive(Debug)]
pub(crate) struct Mapping {
    base: NonNull<std::ffi::c_void>,
    length: usize,
    memfd: OwnedFd,
}

impl Mapping {
    /// A new memfd of `length` bytes. Pages cost memory only once they are touched.
    pub(crate) fn create(name: &str, length: usize) -> io::Result<Mapping> {
        let memfd = memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
        nix::unistd::ftruncate(&memfd, length as i64)?;
        fcntl(&memfd, FcntlArg::F_ADD_SEALS(SIZE_SEALS))?;
        Mapping::of(memfd, length)
    }

    /// Maps a memfd made by another process; `length` is checked against its size, which must be sealed.
    pub(crate) fn of(memfd: OwnedFd, length: usize) -> io::Result<Mapping> {
        // Before the size: an unsealed one may be shrunk just after it was looked at.
        ensure_sealed(memfd.as_fd(), SIZE_SEALS)?;
        let size = nix::sys::stat::fstat(&memfd)?.st_size;
        let nonzero = std::num::NonZeroUsize::new(length);
        let Some(nonzero) = nonzero.filter(|_| usize::try_from(size) == Ok(length)) else {
            let what = format!("shared memory of {size} bytes where {length} were expected");
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        };
        // SAFETY: a fresh shared mapping at an address the kernel chooses; it is only reached through the atomics below,
        // and its size is sealed, so that every page stays backed.
        let base = unsafe {
            mmap(None, nonzero, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED, &memfd, 0)?
        };
        Ok(Mapping { base, length, memfd })
    }

    /// The words from byte `offset` on; `offset` must be a multiple of 8.
    pub(crate) fn words(&self, offset: usize, count: usize) -> &[AtomicU64] {
        assert!(offset.is_multiple_of(8) && offset + count * 8 <= self.length, "outside the shared memory");
        // SAFETY: in bounds and aligned (checked above; mmap is page aligned), every bit pattern is a valid word, and
        // all access by all processes is atomic.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr().byte_add(offset).cast(), count) }
    }

    /// The bytes from `offset` on.
    pub(crate) fn bytes(&self, offset: usize, count: usize) -> &[AtomicU8] {
        assert!(offset + count <= self.length, "outside the shared memory");
        // SAFETY: as in `words`; bytes need no alignment.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr().byte_add(offset).cast(), count) }
    }

    /// Zeroes whole pages, and gives their memory back.
    pub(crate) fn clear(&self, offset: usize, count: usize) {
        let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        if fallocate(&self.memfd, hole, offset as i64, count as i64).is_err() {
            // The kernel has no holes in a memfd: the same, one word at a time.
            let words = self.words(offset, count / 8).iter();
            words.for_each(|word| word.store(0, Ordering::Relaxed));
        }
    }

    pub(crate) fn memfd(&self) -> BorrowedFd<'_> {
        self.memfd.as_fd()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: base and length are those of the mapping made in `of`; no borrow of it can outlive `self`.
        if let Err(errno) = unsafe { munmap(self.base, self.length) } {
            debug_assert!(false, "munmap: {errno}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: usize = 4096;

    fn memfd(seals: SealFlag) -> OwnedFd {
        let memfd = memfd_create("test", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).unwrap();
        nix::unistd::ftruncate(&memfd, LENGTH as i64).unwrap();
        fcntl(&memfd, FcntlArg::F_ADD_SEALS(seals)).unwrap();
        memfd
    }

    #[test]
    fn memory_that_others_could_cut_off_is_refused() {
        let refusal = |fd: OwnedFd| {
            let error = Mapping::of(fd, LENGTH).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
            error.to_string()
        };
        let expected = "expected at least F_SEAL_SHRINK F_SEAL_GROW";
        let found = refusal(memfd(SealFlag::F_SEAL_GROW));
        assert_eq!(found, format!("shared memory with the seals F_SEAL_GROW, {expected}"));
        assert!(refusal(memfd(SealFlag::empty())).contains("the seals none"));
        let program = std::fs::File::open("/proc/self/exe").unwrap();
        assert!(refusal(program.into()).contains(expected));
        Mapping::of(memfd(SIZE_SEALS | SealFlag::F_SEAL_SEAL), LENGTH).expect("more seals than needed do no harm");
    }
}
