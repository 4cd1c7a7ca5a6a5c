//! What comes to one connection, compared with what must come.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::character::Character;
use super::expected::Expected;
use super::frame::{self, Frame, Opcode};
use super::heartbeats::{Heartbeats, time_of, wall_ms};
use super::report::What;
use super::scene::Scene;

/// The book of one WebSocket.
pub(super) struct Inbox {
    owed: VecDeque<Owed>,
    unread: usize,
    heartbeats: Heartbeats,
    /// Since when nothing that is owed has come although it is read.
    quiet_since: Instant,
    /// The same for heartbeats, in milliseconds since 1970; 0: since ever.
    listening_ms: u64,
    /// The close is answered.
    closed: bool,
}

struct Owed {
    expected: Expected,
    since: Instant,
}

impl Inbox {
    pub(super) fn new(heartbeats: Heartbeats, now: Instant) -> Inbox {
        Inbox { owed: VecDeque::new(), unread: 0, heartbeats, quiet_since: now, listening_ms: 0, closed: false }
    }

    /// The server owes this from now on.
    pub(super) fn owe(&mut self, expected: Expected, now: Instant) {
        if self.owed.is_empty() {
            self.quiet_since = now;
        }
        self.unread += expected.size();
        self.owed.push_back(Owed { expected, since: now });
    }

    /// Whether all is answered.
    pub(super) fn is_settled(&self) -> bool {
        self.owed.is_empty()
    }

    /// Whether nothing may come any more but the end.
    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Bytes of replies that are owed or not read.
    pub(super) fn unread(&self) -> usize {
        self.unread
    }

    /// What was left unread is read from now on.
    pub(super) fn read_on(&mut self, now: Instant) {
        self.quiet_since = now;
        self.listening_ms = wall_ms();
    }

    /// Takes the whole frames that `bytes` begins with; how many bytes that were.
    pub(super) fn take(&mut self, bytes: &[u8], character: Character, scene: &mut Scene) -> Result<usize, What> {
        let mut at = 0;
        while let Some((frame, length)) = frame::parse(&bytes[at..])? {
            self.hear(frame, character, scene)?;
            at += length;
        }
        Ok(at)
    }

    fn hear(&mut self, frame: Frame<'_>, character: Character, scene: &mut Scene) -> Result<(), What> {
        if self.closed {
            return Err(What::AfterClose(describe(frame)));
        }
        if frame.opcode == Opcode::Text
            && let Some(at_ms) = time_of(frame.payload)
        {
            self.heartbeats.heard(at_ms, wall_ms())?;
            scene.heartbeat();
            return Ok(());
        }
        let Some(Owed { expected, since }) = self.owed.pop_front_if(|owed| owed.expected.is(frame)) else {
            return Err(self.wrong(frame));
        };
        self.quiet_since = scene.now;
        self.unread -= expected.size();
        scene.answered(expected, scene.now.saturating_duration_since(since), character);
        match expected {
            Expected::Close(_) => {
                self.look_at_heartbeats(scene)?;
                self.closed = true;
                scene.closed();
            }
            Expected::Count(_) | Expected::InvalidJson | Expected::Pong(_) => {}
        }
        Ok(())
    }

    fn wrong(&self, frame: Frame<'_>) -> What {
        if frame.opcode == Opcode::Close {
            let (code, reason) = frame.payload.split_first_chunk().unwrap_or((&[0x03, 0xed], b""));
            let reason = String::from_utf8_lossy(reason).into_owned();
            return What::Closed { code: u16::from_be_bytes(*code), reason };
        }
        match self.owed.front() {
            Some(owed) => What::Wrong { expected: owed.expected, got: describe(frame) },
            None => What::Unasked(describe(frame)),
        }
    }

    /// Whether all that is due has come in time. `is_stuck`: the server does not take what is sent.
    pub(super) fn look(&self, is_stuck: bool, scene: &Scene) -> Result<(), What> {
        let waits_for = match self.owed.front() {
            Some(owed) => owed.expected.to_string(),
            None if self.closed => "the end of the stream".to_owned(),
            None if is_stuck => "room for what is sent".to_owned(),
            None => return self.look_at_heartbeats(scene),
        };
        if scene.now.saturating_duration_since(self.quiet_since) > scene.crowd.patience {
            return Err(What::Stalled(waits_for));
        }
        if self.closed { Ok(()) } else { self.look_at_heartbeats(scene) }
    }

    fn look_at_heartbeats(&self, scene: &Scene) -> Result<(), What> {
        Ok(self.heartbeats.look(lateness(scene.crowd.patience), self.listening_ms, wall_ms())?)
    }

    /// The server has taken something.
    pub(super) fn sent(&mut self, now: Instant) {
        if self.owed.is_empty() {
            self.quiet_since = now;
        }
    }
}

/// How late a heartbeat may be: they are read as they come, but a busy machine is slow.
fn lateness(patience: Duration) -> Duration {
    patience / 4
}

fn describe(frame: Frame<'_>) -> String {
    format!("{:?} {:?}", frame.opcode, String::from_utf8_lossy(frame.payload))
}
