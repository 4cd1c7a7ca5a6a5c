//! One member of the crowd: comes, writes its acts, leaves, and perhaps comes anew.

use std::time::{Duration, Instant};

use fastrand::Rng;
use nix::sys::epoll::EpollFlags;

use super::character::{Character, Then};
use super::expected::Expected;
use super::frame;
use super::handshake::{Refused, granted, push_request};
use super::heartbeats::{Heartbeats, wall_ms};
use super::inbox::Inbox;
use super::outgoing::Outgoing;
use super::pen::Pen;
use super::report::What;
use super::scene::{SCRATCH, Scene};
use super::wire::{Moved, Wire};
use crate::harness::client::push_masked;

/// The code that the crowd closes with.
const NORMAL: u16 = 1000;

/// A member, by its place.
pub(super) struct Connection {
    pub(super) character: Character,
    place: usize,
    /// How often it was here before.
    visit: u32,
    session: String,
    random: Rng,
    wire: Option<Wire>,
    stage: Stage,
    out: Outgoing,
    then: Then,
    counted: u64,
    /// Bytes whose rest has not come.
    incomplete: Vec<u8>,
    /// Replies are read; otherwise they are left in the sockets.
    reading: bool,
    /// The server does not take what is sent.
    stuck: bool,
    /// The end of the pause that it makes.
    due: Option<Instant>,
}

/// How far it is.
enum Stage {
    Away,
    Connecting {
        since: Instant,
    },
    /// The request is under way.
    Asking {
        /// When something of it was last about to be sent.
        since: Instant,
        /// The same by the wall clock.
        asked_ms: u64,
    },
    Open(Inbox),
    /// All but the close is sent.
    Closing(Inbox),
    /// For good.
    Gone,
}

impl Connection {
    /// One that comes at this time.
    pub(super) fn new(place: usize, character: Character, random: Rng, due: Instant) -> Connection {
        Connection {
            character,
            place,
            visit: 0,
            session: String::new(),
            random,
            wire: None,
            stage: Stage::Away,
            out: Outgoing::default(),
            then: Then::GoOn,
            counted: 0,
            incomplete: Vec::new(),
            reading: true,
            stuck: false,
            due: Some(due),
        }
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    pub(super) fn is_gone(&self) -> bool {
        matches!(self.stage, Stage::Gone)
    }

    /// Something was wrong: it takes no further part.
    pub(super) fn give_up(&mut self, scene: &mut Scene) {
        match &self.stage {
            Stage::Open(inbox) | Stage::Closing(inbox) if !inbox.is_closed() => scene.closed(),
            Stage::Open(_) | Stage::Closing(_) => {}
            Stage::Away | Stage::Connecting { .. } | Stage::Asking { .. } | Stage::Gone => {}
        }
        (self.wire, self.stage, self.due) = (None, Stage::Gone, None);
    }

    /// Its pause is over.
    pub(super) fn timer(&mut self, scene: &mut Scene) -> Result<(), What> {
        self.due = None;
        self.advance(scene)
    }

    /// What epoll tells.
    pub(super) fn event(&mut self, flags: EpollFlags, scene: &mut Scene) -> Result<(), What> {
        let Some(wire) = &self.wire else { return Ok(()) };
        if let Stage::Connecting { .. } = self.stage {
            wire.check_connected().map_err(|error| What::Unreachable(error.kind()))?;
            self.stage = Stage::Asking { since: scene.now, asked_ms: wall_ms() };
        }
        // An end by an error is told also of those that are not reading.
        let is_over = flags.intersects(EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP);
        if is_over || (self.reading && flags.contains(EpollFlags::EPOLLIN)) {
            self.receive(scene)?;
        }
        self.advance(scene)
    }

    /// Whether anything takes too long.
    pub(super) fn look(&self, scene: &Scene) -> Result<(), What> {
        let stalled = |since: Instant, what: &str| match scene.now.saturating_duration_since(since) {
            waited if waited > scene.crowd.patience => Err(What::Stalled(what.to_owned())),
            _ => Ok(()),
        };
        match &self.stage {
            Stage::Away | Stage::Gone => Ok(()),
            Stage::Connecting { since } => stalled(*since, "the connection"),
            Stage::Asking { since, .. } if self.out.is_sent() || self.stuck => stalled(*since, "the 101"),
            Stage::Asking { .. } => Ok(()),
            Stage::Open(inbox) | Stage::Closing(inbox) if self.reading => inbox.look(self.stuck, scene),
            Stage::Open(_) | Stage::Closing(_) => Ok(()),
        }
    }

    /// Goes on as far as it can without waiting.
    pub(super) fn advance(&mut self, scene: &mut Scene) -> Result<(), What> {
        loop {
            // A server may take nothing more from one who leaves its replies unread.
            if scene.ending || self.stuck {
                self.read_on(scene.now);
            }
            if scene.ending && self.out.is_sent() {
                self.due = None;
            }
            if self.due.is_some() {
                break;
            }
            match &self.stage {
                Stage::Away if scene.ending => self.stage = Stage::Gone,
                Stage::Away => return self.come(scene),
                Stage::Connecting { .. } | Stage::Gone => return Ok(()),
                Stage::Asking { .. } | Stage::Open(_) | Stage::Closing(_) => {}
            }
            if !self.send(scene)? || !self.act(scene) {
                break;
            }
        }
        self.watch(scene)
    }

    fn watch(&mut self, scene: &Scene) -> Result<(), What> {
        let (reading, stuck) = (self.reading, self.stuck);
        let Some(wire) = &mut self.wire else { return Ok(()) };
        wire.watch(reading, stuck, &scene.epoll).map_err(|error| What::Lost(error.kind()))
    }

    /// Connects, with a session of its own.
    fn come(&mut self, scene: &Scene) -> Result<(), What> {
        let key = self.place as u64;
        let wire = Wire::connect(scene.address, self.character.is_slow(), &scene.epoll, key);
        self.wire = Some(wire.map_err(|error| What::Unreachable(error.kind()))?);
        self.stage = Stage::Connecting { since: scene.now };
        self.session = format!("oracle-{:x}-{}-{}", scene.report.seed, self.place, self.visit);
        self.counted = 0;
        self.then = Then::GoOn;
        push_request(self.out.bytes(), &self.session);
        self.character.ask(&mut self.pen(0, scene));
        Ok(())
    }

    /// Sends up to the next pause. `true`: there is nothing more to send, and no pause.
    fn send(&mut self, scene: &mut Scene) -> Result<bool, What> {
        loop {
            if scene.ending && self.out.is_sent() {
                self.out.skip_pauses();
            }
            let bytes = self.out.sendable();
            if bytes.is_empty() {
                self.stuck = false;
                self.due = self.out.next_pause().map(|pause| scene.now + pause);
                return Ok(self.due.is_none());
            }
            if let Stage::Asking { since, asked_ms } = &mut self.stage {
                (*since, *asked_ms) = (scene.now, wall_ms());
            }
            let Some(wire) = &mut self.wire else { return Ok(false) };
            match wire.write(bytes) {
                Ok(Moved::Bytes(bytes)) => self.sent(bytes),
                Ok(Moved::Blocked) => {
                    self.stuck = true;
                    return Ok(false);
                }
                Err(error) => {
                    // What the server has said before tells more.
                    self.receive(scene)?;
                    return Err(What::Lost(error.kind()));
                }
            }
        }
    }

    fn sent(&mut self, bytes: usize) {
        // Not the time of the event: there may have been much to do before this.
        let now = Instant::now();
        self.stuck = false;
        self.out.advance(bytes);
        match &mut self.stage {
            Stage::Open(inbox) | Stage::Closing(inbox) => {
                inbox.sent(now);
                while let Some(expected) = self.out.next_owed() {
                    inbox.owe(expected, now);
                }
            }
            Stage::Away | Stage::Connecting { .. } | Stage::Asking { .. } | Stage::Gone => {}
        }
    }

    /// Begins the next act. `false`: something must come before.
    fn act(&mut self, scene: &Scene) -> bool {
        let (is_settled, unread) = match &self.stage {
            Stage::Open(inbox) => (inbox.is_settled(), inbox.unread()),
            Stage::Away | Stage::Connecting { .. } | Stage::Asking { .. } | Stage::Closing(_) | Stage::Gone => {
                return false;
            }
        };
        let then = if scene.ending { Then::Leave } else { self.then };
        match then {
            Then::GoOn | Then::LeaveUnread => {}
            Then::ReadAll | Then::Leave => {
                self.read_on(scene.now);
                if !is_settled {
                    return false;
                }
            }
        }
        if then == Then::Leave {
            self.leave();
            return true;
        }
        let character = self.character;
        self.then = character.act(&mut self.pen(unread, scene));
        if self.then == Then::LeaveUnread {
            self.reading = false;
        }
        true
    }

    /// Reads what was left unread, from now on.
    fn read_on(&mut self, now: Instant) {
        if self.reading {
            return;
        }
        self.reading = true;
        match &mut self.stage {
            Stage::Open(inbox) | Stage::Closing(inbox) => inbox.read_on(now),
            Stage::Away | Stage::Connecting { .. } | Stage::Asking { .. } | Stage::Gone => {}
        }
    }

    fn pen<'a>(&'a mut self, unread: usize, scene: &'a Scene) -> Pen<'a> {
        Pen {
            random: &mut self.random,
            out: &mut self.out,
            text: &scene.text,
            counted: &mut self.counted,
            gap: scene.crowd.gap,
            unread,
        }
    }

    fn leave(&mut self) {
        let key = self.random.u32(..).to_ne_bytes();
        push_masked(self.out.bytes(), frame::CLOSE, &NORMAL.to_be_bytes(), key);
        self.out.owe(Expected::Close(NORMAL));
        self.stage = match std::mem::replace(&mut self.stage, Stage::Gone) {
            Stage::Open(inbox) => Stage::Closing(inbox),
            other => other,
        };
    }

    /// Reads what is there.
    fn receive(&mut self, scene: &mut Scene) -> Result<(), What> {
        let mut scratch = std::mem::take(&mut scene.scratch);
        let received = self.receive_into(&mut scratch, scene);
        scene.scratch = scratch;
        received
    }

    fn receive_into(&mut self, scratch: &mut [u8], scene: &mut Scene) -> Result<(), What> {
        while let Some(wire) = &mut self.wire {
            let kept = self.incomplete.len();
            scratch[..kept].copy_from_slice(&self.incomplete);
            let filled = match wire.read(&mut scratch[kept..]) {
                Ok(Moved::Bytes(0)) => return self.end(scene),
                Ok(Moved::Bytes(bytes)) => kept + bytes,
                Ok(Moved::Blocked) => return Ok(()),
                Err(error) => return Err(What::Lost(error.kind())),
            };
            let taken = self.take(&scratch[..filled], scene)?;
            self.incomplete.clear();
            self.incomplete.extend_from_slice(&scratch[taken..filled]);
            // Less than there was room for: the socket is empty, and more is a new event.
            if filled < SCRATCH {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Takes what is whole of these bytes; how many that are.
    fn take(&mut self, bytes: &[u8], scene: &mut Scene) -> Result<usize, What> {
        let mut start = 0;
        if let Stage::Asking { asked_ms, .. } = self.stage {
            let Some(end) = granted(bytes, &self.session)? else { return Ok(0) };
            if !self.out.is_sent() {
                return Err(Refused::Early.into());
            }
            let heartbeats = Heartbeats::new(scene.crowd.heartbeat, asked_ms, wall_ms());
            self.stage = Stage::Open(Inbox::new(heartbeats, scene.now));
            scene.opened();
            start = end;
        }
        match &mut self.stage {
            Stage::Open(inbox) | Stage::Closing(inbox) => {
                Ok(start + inbox.take(&bytes[start..], self.character, scene)?)
            }
            Stage::Away | Stage::Connecting { .. } | Stage::Asking { .. } | Stage::Gone => Ok(start),
        }
    }

    /// The end of the stream, which must not come before the close is answered.
    fn end(&mut self, scene: &Scene) -> Result<(), What> {
        match &self.stage {
            Stage::Closing(inbox) if inbox.is_closed() && self.incomplete.is_empty() => {}
            Stage::Open(_) | Stage::Closing(_) => return Err(What::Ended),
            Stage::Away | Stage::Connecting { .. } | Stage::Asking { .. } | Stage::Gone => return Err(What::Ended),
        }
        self.wire = None;
        match self.character.absence(scene.crowd.gap) {
            Some(absence) if !scene.ending => {
                self.visit += 1;
                self.due = Some(scene.now + absence + Duration::from_millis(self.random.u64(..100)));
                self.stage = Stage::Away;
            }
            Some(_) | None => self.stage = Stage::Gone,
        }
        Ok(())
    }
}
