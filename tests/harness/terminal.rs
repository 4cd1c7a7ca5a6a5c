//! A program on a terminal (pty(7)), and somebody who types.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::num::NonZero;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Mutex};
use std::thread;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::pty::{OpenptyResult, Winsize, openpty};
use nix::sys::signal::{self, SigHandler, Signal};
use nix::sys::termios::{LocalFlags, tcgetattr};
use nix::unistd::Pid;

use super::eventually;

/// The terminal. Dropping it kills the program.
pub struct Terminal {
    child: Child,
    keyboard: File,
    /// All that was written, as it was.
    screen: Arc<Mutex<String>>,
    /// What that looks like.
    picture: Arc<Mutex<vt100::Parser>>,
    /// How much of what was written was looked at.
    seen: usize,
}

impl Terminal {
    /// Starts the program on a terminal of its own.
    pub fn start(command: Command) -> Terminal {
        Terminal::of_size(command, 200, 50)
    }

    /// The same, so wide and so high.
    pub fn of_size(mut command: Command, columns: u16, rows: u16) -> Terminal {
        let size = window(columns, rows);
        let OpenptyResult { master, slave } = openpty(&size, None).expect("a terminal");
        // Duplicates that no other child inherits: while anyone has one, a terminal does not end.
        let (master, slave) = (private(master), private(slave));
        let stdin = slave.try_clone().expect("a descriptor");
        let stdout = slave.try_clone().expect("a descriptor");
        // The controlling terminal, so that Ctrl-C is a signal.
        let act = || {
            nix::unistd::setsid()?;
            // As a shell starts it: whoever runs the tests in the background ignores Ctrl-C, and that is inherited.
            for signal in [Signal::SIGINT, Signal::SIGQUIT] {
                // SAFETY: the default is no handler of ours.
                unsafe { signal::signal(signal, SigHandler::SigDfl) }?;
            }
            // SAFETY: a system call on standard input, which is the terminal by now; it takes no pointer here.
            let result = unsafe { nix::libc::ioctl(0, nix::libc::TIOCSCTTY, 0) };
            nix::errno::Errno::result(result).map(drop).map_err(Into::into)
        };
        if !command.get_envs().any(|(name, _)| name == "TERM") {
            command.env("TERM", "xterm");
        }
        // SAFETY: system calls alone, which may be made between fork and exec.
        unsafe { command.pre_exec(act) };
        let child = command.stdin(stdin).stdout(stdout).stderr(slave).spawn();
        // With it go our descriptors of the far end, so that the end of the program is the end of the terminal.
        drop(command);
        let screen = Arc::new(Mutex::new(String::new()));
        let keyboard = File::from(master);
        let picture = Arc::new(Mutex::new(vt100::Parser::new(cells(rows), cells(columns), 0)));
        let (mut from, to) = (keyboard.try_clone().expect("a descriptor"), Arc::clone(&screen));
        let drawn = Arc::clone(&picture);
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            // EIO is the end: nobody has the far end any more.
            while let Ok(n @ 1..) = from.read(&mut bytes) {
                drawn.lock().expect("no panic").process(&bytes[..n]);
                to.lock().expect("no panic").push_str(&String::from_utf8_lossy(&bytes[..n]));
            }
        });
        Terminal { child: child.expect("the program starts"), keyboard, screen, picture, seen: 0 }
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

    /// What the terminal shows now.
    pub fn contents(&self) -> String {
        self.picture.lock().expect("no panic").screen().contents()
    }

    /// Waits until the terminal shows this.
    #[track_caller]
    pub fn wait_shown(&self, text: &str) {
        eventually(&format!("{text:?} is shown"), || self.contents().contains(text).then_some(()));
    }

    /// All that was written to it so far.
    pub fn written(&self) -> String {
        self.screen.lock().expect("no panic").clone()
    }

    /// Makes it so wide and so high.
    pub fn resize(&self, columns: u16, rows: u16) {
        self.picture.lock().expect("no panic").screen_mut().set_size(cells(rows), cells(columns));
        let size = window(columns, rows);
        // SAFETY: the kernel reads one Winsize, which lives until the call returns.
        let result = unsafe { nix::libc::ioctl(self.keyboard.as_raw_fd(), nix::libc::TIOCSWINSZ, &raw const size) };
        nix::errno::Errno::result(result).expect("a terminal");
    }

    /// Whether it is as a shell wants it: lines and echo, the usual screen, a cursor.
    pub fn is_restored(&self) -> bool {
        let picture = self.picture.lock().expect("no panic");
        let (other, hidden) = (picture.screen().alternate_screen(), picture.screen().hide_cursor());
        let modes = tcgetattr(&self.keyboard).expect("a terminal").local_flags;
        !other && !hidden && modes.contains(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG)
    }

    /// Whether it has ended, and how; or what each of its threads waits for (`proc_pid_syscall(5)`).
    fn state(&mut self) -> String {
        match self.child.try_wait() {
            Ok(None) => {}
            ended => return format!("{ended:?}"),
        }
        let threads = fs::read_dir(format!("/proc/{}/task", self.pid())).into_iter().flatten().flatten();
        let file = |thread: &Path, name| fs::read_to_string(thread.join(name)).unwrap_or_default();
        let each = threads.map(|thread| {
            let path = thread.path();
            let (name, doing) = (file(&path, "comm"), file(&path, "syscall"));
            format!("{} in system call {}", name.trim(), doing.trim())
        });
        each.collect::<Vec<_>>().join("; ")
    }

    /// The program.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }

    /// Waits until the program has ended by itself.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        eventually("the end of the program", || self.child.try_wait().expect("a child of ours"))
    }
}

fn cells(number: u16) -> NonZero<u16> {
    NonZero::new(number).expect("a terminal has a size")
}

fn window(columns: u16, rows: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

fn private(fd: OwnedFd) -> OwnedFd {
    fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).expect("a descriptor");
    fd
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- shown:\n{}", self.picture.lock().map(|it| it.screen().contents()).unwrap_or_default());
            eprintln!("--- the terminal:\n{}", self.screen.lock().map(|text| text.clone()).unwrap_or_default());
            eprintln!("--- the program: {}", self.state());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
