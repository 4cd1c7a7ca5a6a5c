//! System calls that neither std nor nix wraps, and signals as descriptors.
#![allow(unsafe_code)] // syscall(2), getsockopt(2), signal(2), prctl(2) and getauxval(3) by hand.

use std::ffi::{CStr, OsStr};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd::Pid;

/// The signals that a supervisor understands.
const UNDERSTOOD: [Signal; 8] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGHUP,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGTTIN,
    Signal::SIGTTOU,
];

/// Those of them that ask a running service for something. Their default action is death, which nobody means who sends one a
/// moment too early. The others end a start as they end any program.
const REQUESTS: [Signal; 5] = [Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGTTIN, Signal::SIGTTOU];

/// What a service manager's watchdog may send to the whole cgroup to end a supervisor whose loop does not turn. That has the
/// signal's default action, death with a core, and its workers go on without it, so that they can say goodbye.
const WATCHDOG: Signal = Signal::SIGXCPU;

/// The supervisor's signals, as something to poll (`signalfd(2)`).
#[derive(Debug)]
pub(crate) struct Signals(SignalFd);

impl Signals {
    /// Blocks the signals and takes them here instead. Before the first fork.
    pub(crate) fn block() -> io::Result<Signals> {
        let mask: SigSet = UNDERSTOOD.into_iter().collect();
        mask.thread_block()?;
        // A parent may have left SIGCHLD ignored, and then the kernel reaps our children before we can see how they
        // ended (waitid(2)). SIGPIPE is an error code to us, never a death.
        dispose(Signal::SIGCHLD, SigHandler::SigDfl)?;
        dispose(Signal::SIGPIPE, SigHandler::SigIgn)?;
        Ok(Signals(SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?))
    }

    /// As [`Signals::block`], and SIGCHLD as well.
    pub(crate) fn block_with_children() -> io::Result<Signals> {
        let mask: SigSet = UNDERSTOOD.into_iter().chain([Signal::SIGCHLD]).collect();
        mask.thread_block()?;
        dispose(Signal::SIGCHLD, SigHandler::SigDfl)?;
        dispose(Signal::SIGPIPE, SigHandler::SigIgn)?;
        Ok(Signals(SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?))
    }

    /// Lets them come again as they did before, but for requests, see [`hold_requests`].
    pub(crate) fn unblock(self) -> io::Result<()> {
        let ending = UNDERSTOOD.into_iter().filter(|signal| !REQUESTS.contains(signal));
        let mask: SigSet = ending.chain([Signal::SIGCHLD]).collect();
        mask.thread_unblock()?;
        Ok(())
    }

    /// The next one that has arrived.
    pub(crate) fn take(&self) -> io::Result<Option<Signal>> {
        match self.0.read_signal() {
            Ok(Some(info)) => Ok(Signal::try_from(info.ssi_signo as i32).ok()),
            Ok(None) | Err(Errno::EINTR) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// Keeps signals that ask a running service for something waiting, until [`Signals::block`] takes them.
pub(crate) fn hold_requests() -> io::Result<()> {
    Ok(SigSet::from_iter(REQUESTS).thread_block()?)
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Gives a forked worker the dispositions of its own. What the supervisor understands a worker ignores: such signals
/// often come to the whole process group or cgroup (Ctrl-C, `systemctl stop`, `pkill`), and a worker that died of one
/// could not say bye to anybody. It is told over its channel.
pub(crate) fn reset_signals() -> io::Result<()> {
    for signal in Signal::iterator() {
        let handler = match signal {
            Signal::SIGKILL | Signal::SIGSTOP => continue,
            Signal::SIGPIPE => SigHandler::SigIgn,
            signal if signal == WATCHDOG || UNDERSTOOD.contains(&signal) => SigHandler::SigIgn,
            _ => SigHandler::SigDfl,
        };
        dispose(signal, handler)?;
    }
    SigSet::all().thread_unblock()?;
    Ok(())
}

fn dispose(signal: Signal, handler: SigHandler) -> io::Result<()> {
    let action = SigAction::new(handler, SaFlags::empty(), SigSet::empty());
    // SAFETY: neither SIG_DFL nor SIG_IGN runs any code of ours.
    unsafe { sigaction(signal, &action) }?;
    Ok(())
}

/// A descriptor for a process (`pidfd_open(2)`); it never comes to mean another one. Close-on-exec.
pub(crate) fn pidfd_open(pid: Pid) -> io::Result<OwnedFd> {
    // SAFETY: takes integers and returns a new descriptor or -1.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) })?;
    // SAFETY: the kernel just made it, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Sends a signal to exactly this process (`pidfd_send_signal(2)`). A process that is gone is `ESRCH`.
pub(crate) fn pidfd_send_signal(pidfd: BorrowedFd<'_>, signal: Signal) -> io::Result<()> {
    let info: *const libc::siginfo_t = std::ptr::null();
    // SAFETY: a null siginfo is allowed, and means the same as kill(2).
    let outcome = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal as i32, info, 0) };
    Errno::result(outcome)?;
    Ok(())
}

/// Who is at the other end of a Unix socket, at the time of `connect(2)` (or, for the connecting side, of `listen(2)`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) pid: i32,
    pub(crate) uid: u32,
    /// The primary group, and the supplementary ones.
    pub(crate) groups: Vec<u32>,
}

/// Asks the kernel (`SO_PEERCRED` and `SO_PEERGROUPS` of `unix(7)`).
pub(crate) fn peer(socket: BorrowedFd<'_>) -> io::Result<Peer> {
    let credentials = getsockopt(&socket, sockopt::PeerCredentials)?;
    let mut groups = peer_groups(socket)?;
    groups.push(credentials.gid());
    Ok(Peer { pid: credentials.pid(), uid: credentials.uid(), groups })
}

fn peer_groups(socket: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    // From linux/socket.h; libc has it only for some architectures.
    const SO_PEERGROUPS: libc::c_int = 59;
    let mut groups = vec![0u32; 64];
    loop {
        let mut length = size_of_val(groups.as_slice()) as libc::socklen_t;
        // SAFETY: the kernel writes at most `length` bytes into the buffer, and tells how many.
        let outcome = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        let count = length as usize / size_of::<u32>();
        match Errno::result(outcome) {
            Ok(_) => {
                groups.truncate(count);
                return Ok(groups);
            }
            // ERANGE: too small, and `length` is what it takes.
            Err(Errno::ERANGE) if count > groups.len() => groups.resize(count, 0),
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Closes all descriptors beyond standard error but these, such as listening sockets that were passed to this process
/// (`close_range(2)`; before Linux 5.9 they stay open).
pub(crate) fn close_others(kept: &[RawFd]) {
    let mut kept: Vec<u32> = kept.iter().map(|fd| *fd as u32).collect();
    kept.sort_unstable();
    let mut from = 3;
    for end in kept.into_iter().chain([u32::MAX]) {
        if from < end {
            // SAFETY: takes integers. Nothing in this process owns a descriptor but those that are kept, as the caller makes sure.
            unsafe { libc::syscall(libc::SYS_close_range, from, if end == u32::MAX { end } else { end - 1 }, 0) };
        }
        from = end.saturating_add(1);
    }
}

/// The path that was given to `execve(2)` for this process (`AT_EXECFN` of `getauxval(3)`): of a program found by `PATH`
/// the whole one.
pub(crate) fn executed_path() -> Option<PathBuf> {
    // SAFETY: takes an integer, and returns 0 for what the kernel has not said.
    let address = unsafe { libc::getauxval(libc::AT_EXECFN) };
    if address == 0 {
        return None;
    }
    // SAFETY: the kernel puts a NUL-terminated string there before the program begins, and it stays for the life of the
    // process.
    let path = unsafe { CStr::from_ptr(address as *const libc::c_char) };
    Some(PathBuf::from(OsStr::from_bytes(path.to_bytes())))
}

/// The name that `ps` and `top` show; cut to 15 bytes (`prctl(2)`, `PR_SET_NAME`).
pub(crate) fn name_process(name: &str) {
    let mut bytes = [0u8; 16];
    for (to, from) in bytes[..15].iter_mut().zip(name.bytes()) {
        *to = from;
    }
    // SAFETY: a NUL-terminated name of at most 16 bytes; the call cannot fail with a valid pointer.
    unsafe { libc::prctl(libc::PR_SET_NAME, bytes.as_ptr()) };
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn the_peer_of_our_own_socket_is_ourselves() {
        let (a, _b) = UnixStream::pair().unwrap();
        let peer = peer(a.as_fd()).unwrap();
        assert_eq!(peer.pid, std::process::id() as i32);
        assert_eq!(peer.uid, nix::unistd::geteuid().as_raw());
        assert!(peer.groups.contains(&nix::unistd::getegid().as_raw()));
    }

    #[test]
    fn a_pidfd_means_one_process() {
        let us = pidfd_open(Pid::this()).unwrap();
        pidfd_send_signal(us.as_fd(), Signal::SIGCONT).unwrap();
        assert!(pidfd_open(Pid::from_raw(i32::MAX)).is_err());
    }
}
