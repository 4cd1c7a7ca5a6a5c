//! Fork, reap, kill: nowhere else.
#![allow(unsafe_code)] // fork(2) and _exit(2).

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use baton_ipc::scoreboard::{Cause, Side};
use baton_ipc::{Channel, Slot};
use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::{ForkResult, Pid, setpgid};

use crate::sys;

/// The exit code of a worker that panicked, as the Rust runtime has it.
const PANICKED: i32 = 101;

/// A child that is not reaped yet. To drop it closes its channel, which makes it drain; it kills nobody.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) pid: Pid,
    pub(crate) channel: Channel,
    pub(crate) forked: Instant,
    /// Which row of its slot it writes.
    pub(crate) side: Side,
    /// Why it cannot start, as it has said.
    pub(crate) complaint: Option<String>,
    /// Why its backplane is degraded, as it has said, while it is.
    pub(crate) degraded: Option<String>,
    /// The channel is at its end: no more to hear, and not to be polled any more.
    pub(crate) mute: bool,
    pidfd: OwnedFd,
}

/// Which side of the fork this is.
#[derive(Debug)]
pub(crate) enum Fork {
    Parent(Worker),
    Child(Channel),
}

/// Forks. The caller must be the only thread of its process: the child goes on to allocate and to build a runtime.
pub(crate) fn fork(side: Side, now: Instant) -> io::Result<Fork> {
    let (ours, theirs) = Channel::pair()?;
    flush();
    // SAFETY: the supervisor has one thread (its documentation says so, and it starts none), so that no lock can be
    // held by a thread that does not exist in the child.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Child => Ok(Fork::Child(theirs)),
        ForkResult::Parent { child } => match sys::pidfd_open(child) {
            Ok(pidfd) => Ok(Fork::Parent(Worker {
                pid: child,
                channel: ours,
                forked: now,
                side,
                complaint: None,
                degraded: None,
                mute: false,
                pidfd,
            })),
            Err(error) => {
                // Out of descriptors. Without a pidfd the worker could not be watched. Its pid cannot have come to mean
                // another process: it is our child and not reaped.
                let _ = nix::sys::signal::kill(child, Signal::SIGKILL);
                let _ = waitpid(child, None);
                Err(error)
            }
        },
    }
}

/// Forks a process that leads a process group of its own: a Ctrl-C of the terminal is for the parent to pass on. Returns its
/// pid, and none in the child. The caller must be the only thread of its process.
pub(crate) fn fork_group() -> io::Result<Option<Pid>> {
    flush();
    // SAFETY: as above, the process has one thread.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Child => {
            setpgid(Pid::from_raw(0), Pid::from_raw(0))?;
            Ok(None)
        }
        ForkResult::Parent { child } => Ok(Some(child)),
    }
}

impl Worker {
    /// To poll: readable once the process has ended.
    pub(crate) fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Sends a signal. That the process is gone already is no error: its end is on its way to us.
    pub(crate) fn signal(&self, signal: Signal) -> io::Result<()> {
        match sys::pidfd_send_signal(self.pidfd.as_fd(), signal) {
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            outcome => outcome,
        }
    }

    /// Ends one that has nothing to lose, and leaves no zombie.
    pub(crate) fn end(self) {
        let _ = self.signal(Signal::SIGKILL);
        let _ = waitpid(self.pid, None);
    }

    /// Takes the exit status, if it has ended: what it was, and in words.
    pub(crate) fn reap(&self) -> io::Result<Option<(Cause, String)>> {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG;
        match waitid(Id::PIDFd(self.pidfd.as_fd()), flags) {
            Ok(WaitStatus::Exited(_, PANICKED)) => Ok(Some((Cause::Exit, format!("panicked, exited with {PANICKED}")))),
            Ok(WaitStatus::Exited(_, code)) => Ok(Some((Cause::Exit, format!("exited with {code}")))),
            Ok(WaitStatus::Signaled(_, signal, core)) => {
                let core = if core { " (core dumped)" } else { "" };
                Ok(Some((Cause::Signal, format!("killed by {signal}{core}"))))
            }
            Ok(_) | Err(Errno::EINTR) => Ok(None),
            // Reaped by somebody else: gone all the same.
            Err(Errno::ECHILD) => Ok(Some((Cause::Exit, "ended, and nobody knows how".to_owned()))),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Whether it is stopped, by a signal or by a tracer (`proc_pid_stat(5)`, field 3).
    pub(crate) fn is_stopped(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        // The name before it is in parentheses, and may itself contain some.
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['T', 't']))
    }
}

/// The life of a child that tries something and says how it went.
pub(crate) fn try_service(channel: &Channel, body: impl FnOnce() -> Result<(), String>) -> ! {
    sys::name_process("baton-probe");
    let outcome = match sys::reset_signals() {
        Ok(()) => catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|_| Err("it panicked".to_owned())),
        Err(error) => Err(format!("cannot reset signals: {error}")),
    };
    // A supervisor that is gone does not want to know.
    let _ = channel.send(&outcome, &[]);
    flush();
    // SAFETY: ends the process without the exit handlers, which belong to the supervisor.
    unsafe { libc::_exit(0) }
}

/// The rest of a forked worker's life. Everything it must not hold is closed already.
pub(crate) fn live(slot: Slot, body: impl FnOnce() -> i32) -> ! {
    sys::name_process(&format!("baton-w{slot}"));
    end_on_panic();
    let code = match sys::reset_signals() {
        // Nothing may unwind into the supervisor's frames below.
        Ok(()) => catch_unwind(AssertUnwindSafe(body)).unwrap_or(PANICKED),
        Err(error) => {
            tracing::error!(slot, %error, "cannot reset signals");
            1
        }
    };
    flush();
    // SAFETY: ends the process without the exit handlers, which belong to the supervisor.
    unsafe { libc::_exit(code) }
}

/// Ends this process when any of its threads panics, once the panic is logged. The runtime would catch it and drop only the
/// task: the worker would look alive, serve less, and hold a half-changed state. Nothing unwinds, so no guard acts on that state
/// either; the kernel closes the descriptors.
fn end_on_panic() {
    let log = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        log(panic);
        // SAFETY: ends the process without the exit handlers, which belong to the supervisor. Nothing is flushed: the thread
        // that panicked may hold the lock of standard output.
        unsafe { libc::_exit(PANICKED) }
    }));
}

/// What is buffered must be written once: not again by a child that inherited the buffer, and before `_exit`.
fn flush() {
    let _ = io::stdout().flush();
    let _ = io::stderr().flush();
}
