//! Processes that the bench starts, and always ends. Wraps prctl(2) between fork and exec, and
//! sched_setscheduler(2), hence the unsafe code.
#![allow(unsafe_code)]

use std::io::{self, ErrorKind, Read, Seek, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{cores, procfs};

/// A child process. Dropped, it is killed with all its descendants; if the bench itself dies, the kernel kills it.
pub struct Running {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: ChildStdout,
    /// Of stdout: what has been read beyond the last line.
    unread: Vec<u8>,
    stderr: std::fs::File,
}

impl Running {
    /// Starts `command`, on one core if one is given.
    ///
    /// # Errors
    /// What fork(2) or execve(2) says, with the name of the program.
    pub fn start(mut command: Command, core: Option<usize>) -> io::Result<Running> {
        let name = command.get_program().to_string_lossy().into_owned();
        let stderr = tempfile::tempfile()?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(stderr.try_clone()?);
        // SAFETY: the closure makes one system call and touches no memory of the parent.
        unsafe {
            command.pre_exec(|| Ok(prctl::set_pdeathsig(Signal::SIGKILL)?));
        }
        let mut child = cores::started_on(core, || {
            command.spawn().map_err(|error| io::Error::new(error.kind(), format!("{name}: {error}")))
        })?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().expect("stdout is a pipe");
        Ok(Running { name, child, stdin, stdout, unread: Vec::new(), stderr })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// It and its descendants.
    pub fn family(&self) -> Vec<u32> {
        procfs::family(self.pid())
    }

    /// The next line of its stdout.
    ///
    /// # Errors
    /// `TimedOut` after `patience`, `UnexpectedEof` if it ends; both with the last lines of its stderr.
    pub fn line(&mut self, patience: Duration) -> io::Result<String> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
                let line = String::from_utf8_lossy(&self.unread[..end]).into_owned();
                self.unread.drain(..=end);
                return Ok(line);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let mut watched = [PollFd::new(self.stdout.as_fd(), PollFlags::POLLIN)];
            match poll(&mut watched, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
                Ok(0) => return Err(self.failure(ErrorKind::TimedOut, &format!("no answer within {patience:?}"))),
                Ok(_) => {}
                Err(nix::Error::EINTR) => continue,
                Err(error) => return Err(error.into()),
            }
            let mut chunk = [0; 4096];
            match self.stdout.read(&mut chunk)? {
                0 => return Err(self.failure(ErrorKind::UnexpectedEof, "ended")),
                received => self.unread.extend_from_slice(&chunk[..received]),
            }
        }
    }

    /// Writes a line to its stdin.
    ///
    /// # Errors
    /// Those of the pipe.
    pub fn tell(&mut self, line: &str) -> io::Result<()> {
        self.stdin.as_mut().map_or(Ok(()), |stdin| writeln!(stdin, "{line}"))
    }

    /// From now on it runs only when no other process wants its core (`SCHED_IDLE`, sched(7)): what it does costs the others
    /// nothing but cache.
    ///
    /// # Errors
    /// It is gone.
    pub fn yield_to_others(&self) -> io::Result<()> {
        self.schedule(libc::SCHED_IDLE, 0)
    }

    /// From now on it runs as soon as it can, whatever its core is busy with (`SCHED_FIFO`, sched(7)).
    ///
    /// # Errors
    /// It is gone, or `CAP_SYS_NICE` is missing.
    pub fn go_before_others(&self) -> io::Result<()> {
        self.schedule(libc::SCHED_FIFO, 1)
    }

    fn schedule(&self, policy: libc::c_int, sched_priority: libc::c_int) -> io::Result<()> {
        let parameters = libc::sched_param { sched_priority };
        // SAFETY: the pointer is to a value that lives for as long as the call, which only reads it.
        let outcome = unsafe { libc::sched_setscheduler(self.pid().cast_signed(), policy, &raw const parameters) };
        Ok(Errno::result(outcome).map(drop)?)
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// It is gone.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        Ok(kill(Pid::from_raw(self.pid().cast_signed()), signal)?)
    }

    /// Waits until it is gone.
    ///
    /// # Errors
    /// `TimedOut` after `patience`.
    pub fn wait(&mut self, patience: Duration) -> io::Result<ExitStatus> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                return Err(self.failure(ErrorKind::TimedOut, &format!("still there after {patience:?}")));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// An error that names the program and shows the end of its stderr.
    pub fn failure(&mut self, kind: ErrorKind, what: &str) -> io::Error {
        let mut said = Vec::new();
        let read = self.stderr.rewind().and_then(|()| self.stderr.read_to_end(&mut said));
        let said = if read.is_ok() { String::from_utf8_lossy(&said) } else { "".into() };
        let last: Vec<&str> = said.lines().rev().take(3).collect();
        let last: Vec<&str> = last.into_iter().rev().collect();
        let separator = if last.is_empty() { "" } else { ": " };
        io::Error::new(kind, format!("{}: {what}{separator}{}", self.name, last.join(" | ")))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        // The parent first, or it would replace its children. They cannot be named afterwards, so they are named before.
        let family = self.family();
        for pid in &family {
            let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
        }
        let _ = self.child.wait();
        // The others are reaped by somebody else; what is measured next should not share its core with their end.
        let deadline = Instant::now() + Duration::from_secs(1);
        while family.iter().any(|pid| procfs::runs(*pid)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Running {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Running::start(command, None).unwrap()
    }

    #[test]
    fn lines_come_one_by_one_and_end_with_what_stderr_said() {
        let mut child = shell("printf 'one\\ntwo\\n'; read line; echo $line; echo broken >&2");
        let patience = Duration::from_secs(5);
        assert_eq!(child.line(patience).unwrap(), "one");
        assert_eq!(child.line(patience).unwrap(), "two");
        child.tell("three").unwrap();
        assert_eq!(child.line(patience).unwrap(), "three");
        let error = child.line(patience).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
        assert!(error.to_string().ends_with("ended: broken"), "{error}");
    }

    #[test]
    fn dropped_it_is_gone_with_its_children() {
        let mut child = shell("sleep 60 & echo $!; wait");
        child.line(Duration::from_secs(5)).unwrap();
        let family = child.family();
        assert_eq!(family.len(), 2);
        drop(child);
        for pid in family {
            assert!(!procfs::runs(pid), "{pid} lives");
        }
    }
}
