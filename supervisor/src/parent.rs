//! Keeps a small process alive in front of all generations, for those who take its end for the end of the service: a container
//! whose first process it is, or a supervisor other than systemd.
//!
//! The *parent* is what was started. It forks the first supervisor off, and does nothing but pass signals on, reap orphans,
//! and end with the exit code of the last generation. Each supervisor holds one end of a stream to it, the *line*, and
//! passes it on to its successor; so a successor is known to the parent whoever started it, and the end of the stream says
//! that no generation is left.
//!
//! If the parent is killed, the service goes on without it. If the supervisor that serves is killed, the parent waits for
//! its workers to go, or for another generation that takes its place.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::Error;
use crate::family::{Family, News};
use crate::process;
use crate::sys::{self, Signals};

/// Programs that end, or start the service anew, when the process ends that they have started (`comm` of `proc_pid_comm(5)`,
/// which has at most 15 bytes). Auto knows them; systemd is told who serves.
const SUPERVISORS: [&str; 9] = [
    "catatonit",
    "docker-init",
    "dumb-init",
    "runsv",
    "s6-supervise",
    "supervise",
    "supervise-daemo",
    "supervisord",
    "tini",
];

/// How many signals for the generation that serves may wait until there is one.
const PENDING_MAX: usize = 8;

/// When to keep a parent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ForegroundParent {
    /// As the first process of a container, and below a supervisor that is known to need it.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

impl ForegroundParent {
    /// Whether this process must not leave while the service runs.
    pub fn is_wanted(self) -> bool {
        match self {
            ForegroundParent::Always => true,
            ForegroundParent::Never => false,
            ForegroundParent::Auto => {
                let name = std::fs::read_to_string(format!("/proc/{}/comm", Pid::parent())).unwrap_or_default();
                must_stay(std::process::id(), name.trim_end())
            }
        }
    }
}

/// Whether the end of a process ends the service, by its pid and the name of its parent process.
fn must_stay(pid: u32, parent: &str) -> bool {
    pid == 1 || SUPERVISORS.contains(&parent)
}

/// How a process goes on after [`split`].
#[derive(Debug)]
pub enum Split {
    /// It was the parent, and everything is over: the exit code.
    Parent(u8),
    /// It is the first supervisor.
    Supervisor(Line),
}

/// Splits this process, which must have one thread, into a parent and the first supervisor. Returns in the parent when the
/// service is over. `patience`: how long the workers of a dead supervisor may take to go.
///
/// # Errors
/// There are no processes or descriptors left.
pub fn split(patience: Duration) -> Result<Split, Error> {
    let begin = || -> io::Result<Split> {
        if std::process::id() != 1 {
            nix::sys::prctl::set_child_subreaper(true)?;
        }
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        theirs.set_nonblocking(true)?;
        let parent_pid = std::process::id();
        // Before the fork, so that none is missed.
        let signals = Signals::block_with_children()?;
        match process::fork_group()? {
            None => {
                signals.unblock()?;
                drop(ours);
                Ok(Split::Supervisor(Line { stream: theirs, said: None, own: Some(parent_pid) }))
            }
            Some(first) => {
                drop(theirs);
                sys::name_process("baton-parent");
                sys::close_others(&[ours.as_raw_fd(), signals.as_fd().as_raw_fd()]);
                Ok(Split::Parent(Parent::new(ours, signals, first, patience).stay()))
            }
        }
    };
    begin().map_err(Error::system("keep a parent of all generations"))
}

/// The line of a supervisor to the parent.
#[derive(Debug)]
pub struct Line {
    stream: UnixStream,
    said: Option<bool>,
    /// The pid of the parent, if this process was started as it.
    own: Option<u32>,
}

impl Line {
    /// Takes over the line of an incumbent.
    pub(crate) fn inherited(end: OwnedFd) -> Line {
        Line { stream: UnixStream::from(end), said: None, own: None }
    }

    /// Returns the pid that whoever started the service knows: variables of the environment are addressed to it.
    pub(crate) fn known_pid(&self) -> u32 {
        self.own.unwrap_or_else(std::process::id)
    }

    /// Says whether this generation serves, if that is news.
    pub(crate) fn serves(&mut self, serves: bool) {
        if self.said != Some(serves) && self.say(if serves { "serves" } else { "waits" }) {
            self.said = Some(serves);
        }
    }

    /// Says how this generation ends: `Ok` if it has handed everything over.
    pub(crate) fn ends(&self, how: Result<(), u8>) {
        match how {
            Ok(()) => self.say("retired"),
            Err(code) => self.say(&format!("ends {code}")),
        };
    }

    /// Whether it was taken. A parent that is gone is missed by nobody.
    fn say(&self, words: &str) -> bool {
        let line = format!("{} {words}\n", std::process::id());
        matches!((&self.stream).write(line.as_bytes()), Ok(length) if length == line.len())
    }
}

impl AsFd for Line {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// What the parent does until the end.
struct Parent {
    line: UnixStream,
    /// What came of a line that is not at its end.
    unread: Vec<u8>,
    signals: Signals,
    family: Family,
    /// Those of the family: a pid alone may come to mean another process, where somebody else reaps it.
    processes: BTreeMap<u32, OwnedFd>,
    /// For the generation that serves, when there is none.
    pending: Vec<Signal>,
    patience: Duration,
    /// Set when no generation is left: until then its workers may say goodbye.
    deadline: Option<Instant>,
}

impl Parent {
    fn new(line: UnixStream, signals: Signals, first: Pid, patience: Duration) -> Parent {
        let family = Family::new(first.as_raw() as u32);
        let (unread, processes, pending) = (Vec::new(), BTreeMap::new(), Vec::new());
        let mut parent = Parent { line, unread, signals, family, processes, pending, patience, deadline: None };
        parent.learn();
        parent
    }

    /// Gets hold of those who are new, and forgets those who are gone.
    fn learn(&mut self) {
        let living: Vec<u32> = self.family.living().collect();
        self.processes.retain(|pid, _| living.contains(pid));
        for pid in living {
            if !self.processes.contains_key(&pid)
                && let Ok(pidfd) = sys::pidfd_open(Pid::from_raw(pid as i32))
            {
                self.processes.insert(pid, pidfd);
            }
        }
    }

    /// Returns the exit code.
    fn stay(mut self) -> u8 {
        loop {
            let none_left = self.reap();
            if self.deadline.is_some_and(|deadline| none_left || Instant::now() >= deadline) {
                return self.family.code();
            }
            self.wait();
            while let Ok(Some(signal)) = self.signals.take() {
                self.pass_on(signal);
            }
            self.listen();
        }
    }

    fn wait(&self) {
        let mut entries = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        if self.deadline.is_none() {
            entries.push(PollFd::new(self.line.as_fd(), PollFlags::POLLIN));
        }
        let timeout = self.deadline.map_or(PollTimeout::NONE, |deadline| {
            let left = deadline.saturating_duration_since(Instant::now()).as_millis() + 1;
            PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
        });
        // Interrupted or not: the loop looks.
        let _ = poll(&mut entries, timeout);
    }

    /// Takes what the generations say.
    fn listen(&mut self) {
        let mut buffer = [0; 512];
        while self.deadline.is_none() {
            match self.line.read(&mut buffer) {
                Ok(0) => self.deadline = Some(Instant::now() + self.patience),
                Ok(length) => self.unread.extend_from_slice(&buffer[..length]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        while let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.unread.drain(..=end).collect();
            match News::read(&String::from_utf8_lossy(&line)) {
                Some(news) => self.family.hear(news),
                // Of a newer version.
                None => continue,
            }
            self.learn();
            if let Some(main) = self.family.main() {
                self.pending.retain(|signal| !send(&self.processes, main, *signal));
            }
        }
    }

    /// Passes a signal on: what ends the service, or is for its logs, to all generations; all else to the one that serves.
    fn pass_on(&mut self, signal: Signal) {
        match signal {
            Signal::SIGCHLD => {}
            Signal::SIGTERM | Signal::SIGINT | Signal::SIGQUIT | Signal::SIGUSR1 => {
                for pid in self.family.living() {
                    send(&self.processes, pid, signal);
                }
            }
            other => {
                let sent = self.family.main().is_some_and(|main| send(&self.processes, main, other));
                if !sent && self.pending.len() < PENDING_MAX {
                    self.pending.push(other);
                }
            }
        }
    }

    /// Reaps all that has ended; whether there is no child any more.
    fn reap(&mut self) -> bool {
        loop {
            match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => self.family.reaped(pid.as_raw() as u32, code as u8),
                Ok(WaitStatus::Signaled(pid, signal, _)) => {
                    self.family.reaped(pid.as_raw() as u32, 128u8.saturating_add(signal as i32 as u8));
                }
                Ok(WaitStatus::StillAlive) => return false,
                Ok(_) | Err(Errno::EINTR) => {}
                Err(_) => return true,
            }
        }
    }
}

/// Whether the process is there and gets the signal.
fn send(processes: &BTreeMap<u32, OwnedFd>, pid: u32, signal: Signal) -> bool {
    processes.get(&pid).is_some_and(|pidfd| sys::pidfd_send_signal(pidfd.as_fd(), signal).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_process_stays_and_so_does_what_a_supervisor_has_started() {
        assert!(must_stay(1, ""));
        for name in SUPERVISORS {
            assert!(name.len() <= 15 && must_stay(7, name), "{name}");
        }
        for name in ["systemd", "init", "bash", "sh", "cron", ""] {
            assert!(!must_stay(7, name), "{name}");
        }
        assert!(ForegroundParent::Always.is_wanted() && !ForegroundParent::Never.is_wanted());
    }

    #[test]
    fn a_line_says_what_is_new() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let mut line = Line::inherited(theirs.into());
        line.serves(false);
        line.serves(false);
        line.serves(true);
        line.ends(Err(1));
        drop(line);
        let mut said = String::new();
        ours.read_to_string(&mut said).unwrap();
        let pid = std::process::id();
        assert_eq!(said, format!("{pid} waits\n{pid} serves\n{pid} ends 1\n"));
    }
}
