//! A descriptor of ours that the runtime watches.
#![allow(unsafe_code)] // AsyncFd asks for the promise that the descriptor stays the same one.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Becomes readable when the file behind it does.
pub struct Readable(AsyncFd<OwnedFd>);

impl Readable {
    /// Watches a dup, which shares the open file and so its readiness.
    ///
    /// # Errors
    /// No descriptor is left, or it is none that epoll(7) can watch.
    pub fn watch(fd: BorrowedFd<'_>) -> io::Result<Readable> {
        let fd = fd.try_clone_to_owned()?;
        // SAFETY: an OwnedFd that nothing else owns, moved in here, names the same open file until it is dropped.
        let watched = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
        Ok(Readable(watched.map_err(|error| error.into_parts().1)?))
    }

    /// Waits for it. What becomes readable after this has returned is waited for anew: read until there is nothing.
    ///
    /// # Errors
    /// The runtime is being shut down.
    pub async fn ready(&self) -> io::Result<()> {
        self.0.readable().await?.clear_ready();
        Ok(())
    }
}
