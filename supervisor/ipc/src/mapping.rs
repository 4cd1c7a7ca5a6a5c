//! One shared mapping of a memfd (`memfd_create(2)`, `mmap(2)`).
#![allow(unsafe_code)] // mmap: the memory is only ever reached through atomics.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU64};

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

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
        // Nobody may shrink it under the others, which would be SIGBUS for all.
        nix::fcntl::fcntl(
            &memfd,
            nix::fcntl::FcntlArg::F_ADD_SEALS(nix::fcntl::SealFlag::F_SEAL_SHRINK | nix::fcntl::SealFlag::F_SEAL_GROW),
        )?;
        Mapping::of(memfd, length)
    }

    /// Maps a memfd made by another process; `length` is checked against its size.
    pub(crate) fn of(memfd: OwnedFd, length: usize) -> io::Result<Mapping> {
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
