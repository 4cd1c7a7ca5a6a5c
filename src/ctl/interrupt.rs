//! Ctrl-C that ends a wait and not the program: a shell follows a log, a takeover has to be explained.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// While it lives, SIGINT ends a wait and nothing else.
pub(crate) struct Interrupts {
    signals: SignalFd,
}

/// How a wait has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    Over,
    Interrupted,
}

impl Interrupts {
    /// Takes SIGINT out of its usual way: for this thread, and those that it starts from now on.
    pub(crate) fn catch() -> io::Result<Interrupts> {
        let mask = mask();
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        mask.thread_block()?;
        Ok(Interrupts { signals })
    }

    /// Waits for so long, at most until SIGINT.
    pub(crate) fn pause(&self, time: Duration) -> io::Result<Wait> {
        let timeout = PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX);
        poll(&mut [self.wanted()], timeout)?;
        self.outcome()
    }

    /// Waits until there is something to read, at most until SIGINT; patience that ends is an error.
    pub(crate) fn until_readable(&self, other: BorrowedFd<'_>, patience: Option<Duration>) -> io::Result<Wait> {
        let timeout = patience.map_or(PollTimeout::NONE, |time| time.try_into().unwrap_or(PollTimeout::MAX));
        match poll(&mut [self.wanted(), PollFd::new(other, PollFlags::POLLIN)], timeout)? {
            0 => Err(io::ErrorKind::TimedOut.into()),
            _ => self.outcome(),
        }
    }

    fn wanted(&self) -> PollFd<'_> {
        PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)
    }

    fn outcome(&self) -> io::Result<Wait> {
        Ok(if self.signals.read_signal()?.is_some() { Wait::Interrupted } else { Wait::Over })
    }
}

impl Drop for Interrupts {
    fn drop(&mut self) {
        // One that came meanwhile was meant for what is over now.
        while let Ok(Some(_)) = self.signals.read_signal() {}
        // It fails only for a signal that does not exist.
        let _ = mask().thread_unblock();
    }
}

fn mask() -> SigSet {
    SigSet::from_iter([Signal::SIGINT])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_ends_by_time_or_by_signal() {
        let interrupts = Interrupts::catch().unwrap();
        assert_eq!(interrupts.pause(Duration::from_millis(1)).unwrap(), Wait::Over);
        // To this thread alone: others have not blocked it.
        nix::sys::pthread::pthread_kill(nix::sys::pthread::pthread_self(), Signal::SIGINT).unwrap();
        assert_eq!(interrupts.pause(Duration::from_secs(60)).unwrap(), Wait::Interrupted);
        nix::sys::pthread::pthread_kill(nix::sys::pthread::pthread_self(), Signal::SIGINT).unwrap();
        drop(interrupts);
    }
}
