//! Ctrl-C while the shell follows a log: it ends the following, not the shell.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// While it lives, SIGINT ends a [`Pause`] and nothing else.
pub(super) struct Interrupts {
    signals: SignalFd,
}

/// How a pause has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pause {
    Over,
    Interrupted,
}

impl Interrupts {
    /// Takes SIGINT out of its usual way.
    pub(super) fn catch() -> io::Result<Interrupts> {
        let mask = mask();
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        mask.thread_block()?;
        Ok(Interrupts { signals })
    }

    /// Waits, at most until SIGINT.
    pub(super) fn pause(&self, time: Duration) -> io::Result<Pause> {
        let timeout = PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX);
        poll(&mut [PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)], timeout)?;
        Ok(if self.signals.read_signal()?.is_some() { Pause::Interrupted } else { Pause::Over })
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
        assert_eq!(interrupts.pause(Duration::from_millis(1)).unwrap(), Pause::Over);
        // To this thread alone: others have not blocked it.
        nix::sys::pthread::pthread_kill(nix::sys::pthread::pthread_self(), Signal::SIGINT).unwrap();
        assert_eq!(interrupts.pause(Duration::from_secs(60)).unwrap(), Pause::Interrupted);
        nix::sys::pthread::pthread_kill(nix::sys::pthread::pthread_self(), Signal::SIGINT).unwrap();
        drop(interrupts);
    }
}
