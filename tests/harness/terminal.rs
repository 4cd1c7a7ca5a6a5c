//! A program on a terminal (pty(7)), and somebody who types.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Mutex};
use std::thread;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::pty::{OpenptyResult, Winsize, openpty};

use super::eventually;

/// The terminal. Dropping it kills the program.
pub struct Terminal {
    child: Child,
    keyboard: File,
    screen: Arc<Mutex<String>>,
    /// How much of the screen was looked at.
    seen: usize,
}

impl Terminal {
    /// Starts the program on a terminal of its own.
    pub fn start(mut command: Command) -> Terminal {
        let size = Winsize { ws_row: 50, ws_col: 200, ws_xpixel: 0, ws_ypixel: 0 };
        let OpenptyResult { master, slave } = openpty(&size, None).expect("a terminal");
        // Duplicates that no other child inherits: while anyone has one, a terminal does not end.
        let (master, slave) = (private(master), private(slave));
        let stdin = slave.try_clone().expect("a descriptor");
        let stdout = slave.try_clone().expect("a descriptor");
        // The controlling terminal, so that Ctrl-C is a signal.
        let act = || {
            nix::unistd::setsid()?;
            // SAFETY: a system call on standard input, which is the terminal by now; it takes no pointer here.
            let result = unsafe { nix::libc::ioctl(0, nix::libc::TIOCSCTTY, 0) };
            nix::errno::Errno::result(result).map(drop).map_err(Into::into)
        };
        // SAFETY: two system calls, which may be made between fork and exec.
        unsafe { command.pre_exec(act) };
        let child = command.env("TERM", "xterm").stdin(stdin).stdout(stdout).stderr(slave).spawn();
        // With it go our descriptors of the far end, so that the end of the program is the end of the terminal.
        drop(command);
        let screen = Arc::new(Mutex::new(String::new()));
        let keyboard = File::from(master);
        let (mut from, to) = (keyboard.try_clone().expect("a descriptor"), Arc::clone(&screen));
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            // EIO is the end: nobody has the far end any more.
            while let Ok(n @ 1..) = from.read(&mut bytes) {
                to.lock().expect("no panic").push_str(&String::from_utf8_lossy(&bytes[..n]));
            }
        });
        Terminal { child: child.expect("the program starts"), keyboard, screen, seen: 0 }
    }

    /// Types.
    pub fn type_in(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).expect("a terminal");
    }

    /// Waits until the program has written `text` after what was waited for before; returns what came up to there.
    #[track_caller]
    pub fn wait_for(&mut self, text: &str) -> String {
        let begin = self.seen;
        let look = || {
            let screen = self.screen.lock().expect("no panic");
            let end = begin + screen[begin..].find(text)? + text.len();
            Some((screen[begin..end].to_owned(), end))
        };
        let (came, end) = eventually(&format!("{text:?} on the terminal"), look);
        self.seen = end;
        came
    }

    /// Waits until the program has ended by itself.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        eventually("the end of the program", || self.child.try_wait().expect("a child of ours"))
    }
}

fn private(fd: OwnedFd) -> OwnedFd {
    fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).expect("a descriptor");
    fd
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- the terminal:\n{}", self.screen.lock().map(|text| text.clone()).unwrap_or_default());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
