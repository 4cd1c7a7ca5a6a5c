//! The measurements, one function per group of rows.

pub mod busy;
mod crowd;
pub mod even;
pub mod idle;
pub mod life;
pub mod messages;
pub mod redis;
pub mod scale;
pub mod storm;
pub mod takeover;
mod talker;
pub mod thin;

use crate::cores;
use crate::targets::Programs;

/// How thoroughly to measure, and with what.
#[derive(Clone, Debug)]
pub struct Bench {
    /// The programs.
    pub programs: Programs,
    /// Rounds of the rows that are compared; each round measures every target once.
    pub rounds: usize,
    /// Seconds of one such measurement.
    pub seconds: f64,
    /// Whether to leave out what takes long.
    pub quick: bool,
    /// The server's core, if there are two.
    pub server_core: Option<usize>,
    /// The client's core, likewise.
    pub client_core: Option<usize>,
}

impl Bench {
    /// On the first two cores that may be used; on a machine with one, wherever the kernel puts things.
    ///
    /// # Errors
    /// Those of sched_getaffinity(2).
    pub fn new(programs: Programs, quick: bool) -> std::io::Result<Bench> {
        let (server_core, client_core) = match cores::allowed()?[..] {
            [server, client, ..] => (Some(server), Some(client)),
            _ => (None, None),
        };
        let (rounds, seconds) = if quick { (3, 0.5) } else { (5, 1.5) };
        Ok(Bench { programs, rounds, seconds, quick, server_core, client_core })
    }
}
