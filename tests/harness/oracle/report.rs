//! What the oracle has seen.

use std::fmt::{self, Display};
use std::io::ErrorKind;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use thiserror::Error;

use super::character::Character;
use super::expected::Expected;
use super::frame::Malformed;
use super::handshake::Refused;
use super::heartbeats::Irregular;

/// Something that a client must not notice. A connection has at most one: what follows on it says nothing.
#[derive(Debug)]
pub struct Fault {
    /// Its number in the crowd.
    pub connection: usize,
    /// What it is like.
    pub character: Character,
    /// What was wrong.
    pub what: What,
    /// When it was seen.
    pub when: SystemTime,
}

/// What was wrong.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum What {
    /// Nobody listens.
    #[error("no connection: {0}")]
    Unreachable(ErrorKind),
    /// No WebSocket.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// Bytes that are no frame.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// Another frame than the one that is due.
    #[error("{got} where {expected} is due")]
    Wrong {
        /// What is due.
        expected: Expected,
        /// The frame that came.
        got: String,
    },
    /// A frame although nothing is due.
    #[error("{0} where nothing is due")]
    Unasked(String),
    /// A heartbeat that is wrong, or missing.
    #[error(transparent)]
    Heartbeat(#[from] Irregular),
    /// The server closes.
    #[error("closed with {code} {reason:?}")]
    Closed {
        /// 1005 if there is none.
        code: u16,
        /// The rest of the payload.
        reason: String,
    },
    /// A frame behind the answer to the close.
    #[error("{0} behind the close")]
    AfterClose(String),
    /// The end of the stream, without a close or in the middle of a frame.
    #[error("the end of the stream")]
    Ended,
    /// A reset, or what else a socket says.
    #[error("the connection is lost: {0}")]
    Lost(ErrorKind),
    /// Nothing for the whole of the crowd's patience.
    #[error("no progress, waiting for {0}")]
    Stalled(String),
}

impl Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Fault { connection, character, what, when } = self;
        write!(f, "{} connection {connection}, {character}: {what}", humantime::format_rfc3339_millis(*when))
    }
}

/// Everything, at the end.
#[derive(Debug, Default)]
pub struct Report {
    /// What all was drawn from.
    pub seed: u64,
    /// Size of the crowd.
    pub connections: usize,
    /// Handshakes that were answered with 101: more than connections, as some leave and come anew.
    pub handshakes: u64,
    /// Counts.
    pub messages: u64,
    /// Messages that were no JSON, and were told so.
    pub refused: u64,
    /// Pongs.
    pub pongs: u64,
    /// Heartbeats.
    pub heartbeats: u64,
    /// Closes that were answered.
    pub closes: u64,
    /// The longest time from a whole message to its reply, of connections that read.
    pub longest_wait: Duration,
    /// What must not be, in the order in which it was seen.
    pub faults: Vec<Fault>,
}

/// Faults that are shown; there may be thousands, of one cause.
const SHOWN: usize = 10;

impl Report {
    /// Panics with the report unless no client has noticed anything.
    #[track_caller]
    pub fn assert_flawless(&self) {
        assert!(self.faults.is_empty(), "{self}");
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "seed {}: {} connections, {} handshakes, {} counts, {} refused, {} pongs, {} heartbeats, {} closes; \
             the longest wait {:?}; {} faults",
            self.seed,
            self.connections,
            self.handshakes,
            self.messages,
            self.refused,
            self.pongs,
            self.heartbeats,
            self.closes,
            self.longest_wait,
            self.faults.len()
        )?;
        self.faults.iter().take(SHOWN).try_for_each(|fault| writeln!(f, "  {fault}"))?;
        match self.faults.len().checked_sub(SHOWN) {
            None | Some(0) => Ok(()),
            Some(more) => writeln!(f, "  and {more} more"),
        }
    }
}

/// How far the crowd is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// WebSockets that are open.
    pub open: usize,
    /// Messages answered so far.
    pub messages: u64,
    /// Heartbeats so far.
    pub heartbeats: u64,
    /// Faults so far.
    pub faults: usize,
}

/// The progress, shared with whoever asks.
#[derive(Debug, Default)]
pub(super) struct Gauges {
    pub(super) open: AtomicUsize,
    pub(super) messages: AtomicU64,
    pub(super) heartbeats: AtomicU64,
    pub(super) faults: AtomicUsize,
}

impl Gauges {
    pub(super) fn read(&self) -> Progress {
        Progress {
            open: self.open.load(Ordering::Relaxed),
            messages: self.messages.load(Ordering::Relaxed),
            heartbeats: self.heartbeats.load(Ordering::Relaxed),
            faults: self.faults.load(Ordering::Relaxed),
        }
    }
}
