//! Bounds what is published, to rooms or by operators, wherever it comes from: this worker's app, the log of the embedded store,
//! or Redis, where others may write.
//!
//! The bound of a text is `max-output`, which is what may wait for one client. A larger one would close clients that read as fast
//! as they can.

use std::time::{Duration, Instant};

/// The longest name of a room to which something can be published, in bytes.
pub const MAX_ROOM_BYTES: usize = 1024;

/// Pause between two log lines about publications that were not delivered.
const REPORT_INTERVAL: Duration = Duration::from_secs(60);

/// Why nothing was published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// The text is longer than what may wait for one client.
    #[error("the message has {bytes} bytes, more than the {most} that may wait for one client (max-output)")]
    TooLarge {
        /// Bytes of the text.
        bytes: usize,
        /// The most that it may have.
        most: usize,
    },
    /// The name of the room is too long.
    #[error("the name of the room has {0} bytes, more than {MAX_ROOM_BYTES}")]
    RoomName(usize),
}

/// Checks a message to a room. `most` is `max-output`.
pub(crate) fn check(room: &str, text: &str, most: usize) -> Result<(), PublishError> {
    match (room.len(), text.len()) {
        (bytes, _) if bytes > MAX_ROOM_BYTES => Err(PublishError::RoomName(bytes)),
        (_, bytes) if bytes > most => Err(PublishError::TooLarge { bytes, most }),
        _ => Ok(()),
    }
}

/// A publication that is not delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rejection {
    pub(crate) reason: Reason,
    /// Its size.
    pub(crate) bytes: usize,
}

/// Why a publication is not delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    TooLarge,
    /// No host of this service publishes that.
    Malformed,
}

impl Reason {
    pub(crate) fn label(self) -> &'static str {
        match self {
            Reason::TooLarge => "too_large",
            Reason::Malformed => "malformed",
        }
    }
}

impl From<PublishError> for Rejection {
    fn from(error: PublishError) -> Rejection {
        match error {
            PublishError::TooLarge { bytes, most: _ } => Rejection { reason: Reason::TooLarge, bytes },
            PublishError::RoomName(bytes) => Rejection { reason: Reason::Malformed, bytes },
        }
    }
}

/// Decides which rejections are logged: whoever publishes without end must not fill the log.
#[derive(Debug, Default)]
pub(crate) struct Reports {
    last: Option<Instant>,
    unreported: u64,
}

impl Reports {
    /// Counts one. Returns how many there were since the last report, if it is time for another.
    pub(crate) fn count(&mut self, now: Instant) -> Option<u64> {
        self.unreported += 1;
        let is_due = self.last.is_none_or(|last| now.duration_since(last) >= REPORT_INTERVAL);
        is_due.then(|| {
            self.last = Some(now);
            std::mem::take(&mut self.unreported)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_as_long_as_what_may_wait_for_a_client() {
        assert_eq!(check("room", "12345", 5), Ok(()));
        assert_eq!(check("room", "123456", 5), Err(PublishError::TooLarge { bytes: 6, most: 5 }));
        let (longest, longer) = ("r".repeat(MAX_ROOM_BYTES), "r".repeat(MAX_ROOM_BYTES + 1));
        assert_eq!(check(&longest, "", 5), Ok(()));
        assert_eq!(check(&longer, "123456", 5), Err(PublishError::RoomName(MAX_ROOM_BYTES + 1)));
    }

    #[test]
    fn a_flood_is_reported_once_a_minute() {
        let (mut reports, start) = (Reports::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!([0, 0, 30, 59].map(|seconds| reports.count(at(seconds))), [Some(1), None, None, None]);
        assert_eq!([60, 61, 500].map(|seconds| reports.count(at(seconds))), [Some(4), None, Some(2)]);
    }
}
