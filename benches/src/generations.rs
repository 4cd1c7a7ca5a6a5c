//! Generations of one baton, each of which takes over from the one before.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::child::Running;
use crate::control::{self, Receipt};
use crate::targets::{Baton, Server};

const PATIENCE: Duration = Duration::from_secs(15);

/// How often a generation that starts is asked whether it stands by: its socket comes without an event to wait for.
const LOOK: Duration = Duration::from_millis(5);

/// A generation is of one color, and the next of the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Color {
    Blue,
    Green,
}

impl Color {
    fn name(self) -> &'static str {
        match self {
            Color::Blue => "blue",
            Color::Green => "green",
        }
    }

    fn other(self) -> Color {
        match self {
            Color::Blue => Color::Green,
            Color::Green => Color::Blue,
        }
    }
}

/// A service through all its generations.
pub struct Generations<'a> {
    serving: Running,
    color: Color,
    address: SocketAddr,
    core: Option<usize>,
    /// Declared after the process, so that its directories are removed after its end.
    baton: Baton<'a>,
}

/// A generation that is ready and does not accept yet.
pub struct Standby {
    process: Running,
    color: Color,
}

impl<'a> Generations<'a> {
    /// The first one, on one core if one is given, as all that follow.
    ///
    /// # Errors
    /// It cannot be started or is not ready in time.
    pub fn begin(baton: Baton<'a>, core: Option<usize>) -> io::Result<Generations<'a>> {
        let color = Color::Blue;
        let (address, serving, _) = baton.launch(core, &["--color", color.name()])?;
        Ok(Generations { serving, color, address, core, baton })
    }

    /// Where it listens, whoever serves.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The next one, as far as it gets by itself.
    ///
    /// # Errors
    /// It cannot be started, ends, or does not stand by in time.
    pub fn standby(&self) -> io::Result<Standby> {
        let color = self.color.other();
        let command = self.baton.command(self.address, &["--color", color.name(), "--takeover", "wait"]);
        let mut process = Running::start(command, self.core)?;
        let (socket, deadline) = (self.socket(color), Instant::now() + PATIENCE);
        while !control::status(&socket, PATIENCE).is_ok_and(|status| status.phase == "standby") {
            if let Ok(status) = process.wait(LOOK) {
                return Err(process.failure(ErrorKind::Other, &format!("{status} before it stood by")));
            }
            if Instant::now() >= deadline {
                return Err(process.failure(ErrorKind::TimedOut, "it does not stand by"));
            }
        }
        Ok(Standby { process, color })
    }

    /// `next` takes over; it serves when this returns, and the one before may still be on its way out: see [`Relieved`].
    ///
    /// # Errors
    /// It could not, and says why.
    pub fn promote(&mut self, next: Standby) -> io::Result<Relieved> {
        let Standby { mut process, color } = next;
        let receipt = control::promote(&self.socket(color), PATIENCE)
            .map_err(|error| process.failure(error.kind(), &error.to_string()))?;
        self.color = color;
        Ok(Relieved { receipt, process: std::mem::replace(&mut self.serving, process) })
    }

    /// SIGTERM to the one that serves, then waits until it is gone.
    ///
    /// # Errors
    /// It does not go in time, or not with exit code 0.
    pub fn shut_down(self) -> io::Result<()> {
        let Generations { serving, address, baton, .. } = self;
        Server::of(address, serving, Duration::ZERO, baton).shut_down(PATIENCE).map(drop)
    }

    fn socket(&self, color: Color) -> PathBuf {
        self.baton.runtime_directory().join(format!("{}.sock", color.name()))
    }
}

/// A generation that has nothing to do any more.
pub struct Relieved {
    receipt: Receipt,
    process: Running,
}

impl Relieved {
    /// Waits until it is gone, for only then there may be another, and hands out the receipt.
    ///
    /// # Errors
    /// It does not go, or not with exit code 0; or not everybody came along.
    pub fn gone(mut self) -> io::Result<Receipt> {
        let status = self.process.wait(PATIENCE)?;
        if !status.success() {
            return Err(self.process.failure(ErrorKind::Other, &status.to_string()));
        }
        if !self.receipt.is_complete() {
            return Err(io::Error::other(format!("not everybody was handed over: {:?}", self.receipt)));
        }
        Ok(self.receipt)
    }
}
