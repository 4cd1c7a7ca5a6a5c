//! The heartbeats of one connection: at wall-clock multiples of the interval, each once, none left out.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use thiserror::Error;

/// How long after its 101 the server may take to have a connection among those that get heartbeats.
const EDGE_MS: u64 = 1000;

/// What must not be with a heartbeat. Times are milliseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Irregular {
    /// At no multiple of the interval.
    #[error("a heartbeat at {0}, which is no multiple of the interval")]
    OffBeat(u64),
    /// Before its time.
    #[error("a heartbeat of {0} already at {1}")]
    Early(u64, u64),
    /// From before the connection was there.
    #[error("a heartbeat of {0} on a connection that was asked for at {1}")]
    Stale(u64, u64),
    /// The same one again.
    #[error("the heartbeat of {0} twice")]
    Twice(u64),
    /// An older one.
    #[error("the heartbeat of {0} after that of {1}")]
    Backward(u64, u64),
    /// The one that was due did not come, but a later one.
    #[error("the heartbeat of {1} where that of {0} was due")]
    LeftOut(u64, u64),
    /// The one that was due does not come.
    #[error("no heartbeat of {0} until {1}")]
    Overdue(u64, u64),
}

/// Milliseconds since 1970.
pub(super) fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// The time of a heartbeat: RFC 3339 in UTC with milliseconds, and nothing else that would parse. None: the text is none.
pub(super) fn time_of(payload: &[u8]) -> Option<u64> {
    let ts = payload.strip_prefix(br#"{"ts":""#)?.strip_suffix(br#""}"#)?;
    if ts.len() != 24 || ts[19] != b'.' || ts[23] != b'Z' {
        return None;
    }
    let time = humantime::parse_rfc3339(str::from_utf8(ts).ok()?).ok()?;
    time.duration_since(UNIX_EPOCH).ok().map(|since| since.as_millis() as u64)
}

/// What a connection was given so far.
#[derive(Debug)]
pub(super) struct Heartbeats {
    interval_ms: u64,
    /// When the last byte of the request was about to be sent. The server had no connection before.
    asked_ms: u64,
    /// Not later than this is the first one.
    first_ms: u64,
    last_ms: Option<u64>,
}

impl Heartbeats {
    /// Those of a connection that was asked for at one time and granted at another.
    pub(super) fn new(interval: Duration, asked_ms: u64, granted_ms: u64) -> Heartbeats {
        let interval_ms = interval.as_millis() as u64;
        let sure_ms = granted_ms + EDGE_MS;
        let first_ms = sure_ms - sure_ms % interval_ms + interval_ms;
        Heartbeats { interval_ms, asked_ms, first_ms, last_ms: None }
    }

    /// Takes down the heartbeat of `at_ms`.
    pub(super) fn heard(&mut self, at_ms: u64, now_ms: u64) -> Result<(), Irregular> {
        if !at_ms.is_multiple_of(self.interval_ms) {
            return Err(Irregular::OffBeat(at_ms));
        }
        if at_ms > now_ms {
            return Err(Irregular::Early(at_ms, now_ms));
        }
        match self.last_ms {
            Some(last) if at_ms == last => return Err(Irregular::Twice(at_ms)),
            Some(last) if at_ms < last => return Err(Irregular::Backward(at_ms, last)),
            Some(last) if at_ms > last + self.interval_ms => {
                return Err(Irregular::LeftOut(last + self.interval_ms, at_ms));
            }
            Some(_) => {}
            None if at_ms <= self.asked_ms => return Err(Irregular::Stale(at_ms, self.asked_ms)),
            None if at_ms > self.first_ms => return Err(Irregular::LeftOut(self.first_ms, at_ms)),
            None => {}
        }
        self.last_ms = Some(at_ms);
        Ok(())
    }

    /// Whether all have come that are due since more than `late`. `listening_ms`: since when what comes is read.
    pub(super) fn look(&self, late: Duration, listening_ms: u64, now_ms: u64) -> Result<(), Irregular> {
        let due_ms = self.last_ms.map_or(self.first_ms, |last| last + self.interval_ms);
        if due_ms.max(listening_ms) + late.as_millis() as u64 <= now_ms {
            return Err(Irregular::Overdue(due_ms, now_ms));
        }
        Ok(())
    }
}
