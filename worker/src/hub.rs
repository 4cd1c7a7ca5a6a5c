//! All WebSockets of a worker and the **turn**: take the sockets that are ready, read and parse each, give the messages
//! to the app, commit the increments of all of them, write the replies.

mod commit;
mod ending;
mod fanout;
mod handoff;
mod health;
mod holders;
mod output;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use baton_ipc::scoreboard::monotonic_ms;
use mio::unix::SourceFd;
use mio::{Events, Interest};
use slab::Slab;

use crate::addresses::{Addresses, Counted};
use crate::app::{App, Message, RoomChange, Session, Wishes};
use crate::backplane::{Backplane, Health};
use crate::batch::Batch;
use crate::connection::{Bounds, Flow, Inbox, Incoming, Violation};
use crate::frame::{self, Kind};
use crate::heartbeat::wall_ms;
use crate::metrics::{Closes, Errors, Gauge, Metrics, Single};
use crate::proxies::Client;
use crate::publication::Reports;
use crate::rooms::Rooms;
use crate::settings::Settings;
use crate::slab::{Connection, Hold, Phase, Received};
use crate::token::Token;

pub(crate) use fanout::Audience;
pub(crate) use handoff::Name;

/// Memory that all connections share for reading, in bytes. Whole messages are handled where they lie in it.
const SCRATCH: usize = 64 * 1024;

/// Sockets taken in one turn. More would share a commit among more messages, but a socket that was read is then long out
/// of the processor's cache when its reply is written: at 1,024 a message costs a tenth more than at 32.
const EVENTS: usize = 32;

/// While a commit is under way nothing is read any more once so many replies, or bytes of them, wait for the next one.
const MAX_GATHERED: usize = 4096;
const MAX_GATHERED_BYTES: usize = 1024 * 1024;

/// What comes after a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum After {
    /// Nothing, before the epoll says so.
    Rest,
    /// Another turn, at once.
    More,
    /// Nothing, before the commit that is under way is settled: enough has been gathered for the next one.
    Settlement,
}

/// What a worker knows of its connections.
pub(crate) struct Hub<A: App> {
    pub(crate) app: A,
    pub(crate) settings: Settings,
    pub(crate) metrics: Metrics,
    /// Who has how many connections.
    pub(crate) addresses: Addresses,
    pub(crate) backplane: Box<dyn Backplane>,
    pub(crate) connections: Slab<Connection<A::State>>,
    /// Refuses new connections; set once, when the worker begins to drain.
    pub(crate) draining: bool,
    poll: mio::Poll,
    events: Events,
    scratch: Box<[u8]>,
    /// What is being gathered.
    batch: Batch,
    /// What the backplane is committing.
    under_way: Option<Batch>,
    /// An empty one, for its memory.
    spare: Batch,
    /// One connection's replies, on their way out.
    out: Vec<u8>,
    rooms: Rooms,
    rejections: Reports,
    /// What came right behind a handshake, of connections that were not read yet.
    early: BTreeMap<usize, Vec<u8>>,
    /// For connections that are offered to another process: what came for them since.
    late: BTreeMap<usize, handoff::Late>,
    /// The last heartbeat that was due here.
    last_beat: Option<handoff::LastBeat>,
    /// Connections to say goodbye to once their sessions are known: key and id.
    late_byes: Vec<(usize, u64)>,
    /// Connections that may have more to read than one turn takes.
    again: Vec<usize>,
    /// Connections whose phase has changed in this turn.
    changed: Vec<usize>,
    /// Connections that must be gone at a time (milliseconds of `CLOCK_MONOTONIC`): key and id.
    deadlines: Vec<(u64, usize, u64)>,
    /// Connections that hold memory, each once, and some that did a second ago: key and id.
    holders: Vec<(usize, u64)>,
    /// Memory in unfinished messages, waiting output and bytes not looked at, in bytes.
    held: usize,
    /// Messages of this turn.
    received: u64,
    sent: u64,
    /// The key whose session was last kept from expiring.
    kept: usize,
    /// How often all were looked at for that.
    kept_passes: u64,
    first_id: u64,
    next_id: u64,
    now_ms: u64,
    store_ok: bool,
    /// How the backplane was when the metrics were last told.
    told: Option<Health>,
}

/// A WebSocket after its handshake.
#[derive(Debug)]
pub(crate) struct Upgraded {
    pub(crate) socket: OwnedFd,
    pub(crate) token: Token,
    pub(crate) request_id: Token,
    pub(crate) client: Client,
    /// It is counted for the client's address, where there is one.
    pub(crate) counted: Option<Counted>,
    /// The client named its session.
    pub(crate) resumed: bool,
    /// What arrived behind the request's head.
    pub(crate) early: Vec<u8>,
}

/// Why a connection ends, as found while reading.
enum End {
    Peer(Option<u16>),
    App(u16, String),
    Rate,
    Violation(Violation),
}

impl<A: App> Hub<A> {
    pub(crate) fn new(
        app: A,
        settings: Settings,
        metrics: Metrics,
        backplane: Box<dyn Backplane>,
    ) -> io::Result<Hub<A>> {
        metrics.gauge(Gauge::StoreOk, 1);
        let first_id = fastrand::u64(..);
        Ok(Hub {
            app,
            settings,
            addresses: metrics.addresses(),
            metrics,
            backplane,
            connections: Slab::new(),
            draining: false,
            poll: mio::Poll::new()?,
            events: Events::with_capacity(EVENTS),
            scratch: vec![0; SCRATCH].into_boxed_slice(),
            batch: Batch::default(),
            under_way: None,
            spare: Batch::default(),
            out: Vec::new(),
            rooms: Rooms::default(),
            rejections: Reports::default(),
            early: BTreeMap::new(),
            late: BTreeMap::new(),
            last_beat: None,
            late_byes: Vec::new(),
            again: Vec::new(),
            changed: Vec::new(),
            deadlines: Vec::new(),
            holders: Vec::new(),
            held: 0,
            received: 0,
            sent: 0,
            kept: 0,
            kept_passes: 0,
            first_id,
            next_id: first_id,
            now_ms: monotonic_ms(),
            store_ok: true,
            told: None,
        })
    }

    /// The inner epoll: readable when a connection is ready.
    pub(crate) fn epoll(&self) -> BorrowedFd<'_> {
        self.poll.registry().as_fd()
    }

    /// WebSockets opened so far, in this process.
    pub(crate) fn opened(&self) -> u64 {
        self.next_id.wrapping_sub(self.first_id)
    }

    /// One turn.
    pub(crate) fn turn(&mut self) -> io::Result<After> {
        if self.is_full() {
            return Ok(After::Settlement);
        }
        let begun = Instant::now();
        self.now_ms = monotonic_ms();
        self.poll.poll(&mut self.events, Some(Duration::ZERO)).or_else(interrupted)?;
        let events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        let mut again = std::mem::take(&mut self.again);
        again.sort_unstable();
        again.dedup();
        let mut taken = 0;
        for event in &events {
            taken += 1;
            let key = event.token().0;
            if event.is_writable() {
                self.flush(key);
            }
            if event.is_readable() || event.is_error() {
                self.read(key, event.is_read_closed());
            }
        }
        self.events = events;
        // Those that an event has had read just now get their next turn, or a flood would take more and more of each.
        let just_read = self.again.len();
        for key in again {
            if !self.again[..just_read].contains(&key) {
                self.read(key, true);
            }
        }
        self.finish(begun);
        Ok(if taken == EVENTS || !self.again.is_empty() { After::More } else { After::Rest })
    }

    fn is_full(&self) -> bool {
        self.under_way.is_some() && (self.batch.parts() >= MAX_GATHERED || self.batch.bytes() >= MAX_GATHERED_BYTES)
    }

    /// Takes a connection whose handshake is over.
    pub(crate) fn adopt(&mut self, upgraded: Upgraded) -> io::Result<()> {
        let begun = Instant::now();
        self.now_ms = monotonic_ms();
        let fd = upgraded.socket.as_raw_fd();
        let entry = self.connections.vacant_entry();
        let key = entry.key();
        self.poll.registry().register(&mut SourceFd(&fd), mio::Token(key), Interest::READABLE)?;
        self.next_id = self.next_id.wrapping_add(1);
        let connection = entry.insert(Connection {
            socket: upgraded.socket,
            phase: Phase::Open,
            hold: Hold::None,
            ended_by: Closes::Lost,
            heard: true,
            listed: false,
            resumed: upgraded.resumed,
            rate: (0, 0),
            id: self.next_id,
            opened_ms: self.now_ms,
            received: 0,
            shown: 0,
            unanswered: 0,
            known: !upgraded.resumed,
            mute: false,
            beat_ms: wall_ms(),
            token: upgraded.token,
            request_id: upgraded.request_id,
            forwarded: upgraded.client.forwarded.map(Box::new),
            address: upgraded.counted.and_then(Counted::keep),
            inbox: Inbox::default(),
            output: None,
            rooms: None,
            state: A::State::default(),
        });
        tracing::info!(
            connection_id = connection.name(),
            session_hash = %connection.token.fingerprint(),
            request_id = connection.request_id.spelling(),
            client = %upgraded.client,
            "connection opened"
        );
        self.metrics.add(Single::Opened, 1);
        self.metrics.gauge(Gauge::Connections, self.connections.len() as u64);
        self.batch.begin();
        let mut wishes = Wishes::new(self.settings.limits.max_output);
        let connection = &mut self.connections[key];
        let mut session = Session { token: &connection.token, batch: &mut self.batch, wishes: &mut wishes };
        self.app.opened(&mut connection.state, &mut session);
        if upgraded.resumed {
            self.batch.look_up();
        }
        self.end_part(key, wishes, None);
        self.finish(begun);
        if !upgraded.early.is_empty() {
            self.keep_early(key, upgraded.early);
            self.read(key, false);
            self.relieve();
            self.finish(begun);
        }
        // Its 101 went out before the drain began, and nobody else will tell it.
        if self.draining {
            self.say_bye(&[key], begun);
        }
        Ok(())
    }

    /// Reads what has arrived, at most a scratchful. A short read ends the reading, unless the end of the stream may be
    /// behind it: then it goes on `to_the_end`. `true`: more may have arrived, which the next turn reads.
    pub(crate) fn read(&mut self, key: usize, to_the_end: bool) -> bool {
        let Some(connection) = self.connections.get_mut(key) else { return false };
        if connection.hold >= Hold::Parked {
            return false;
        }
        // A client that does not take its replies is not read: it fills its own send queue, not our memory. But what has
        // come before a goodbye is answered before it.
        if connection.phase == Phase::Open && connection.output.is_some() && !self.draining {
            return false;
        }
        if connection.is_looked_up() {
            // Its session is being looked up. If it cannot be known now, what it sends must not have been counted.
            return false;
        }
        connection.heard = true;
        if let Some(mut early) = self.take_early(key) {
            self.feed(key, &mut early);
        }
        let Some(connection) = self.connections.get_mut(key) else { return false };
        let mut more = false;
        let mut scratch = std::mem::take(&mut self.scratch);
        match connection.receive(&mut scratch) {
            Ok(Received::Bytes(n)) => {
                if matches!(connection.phase, Phase::Open | Phase::Closing) {
                    self.feed(key, &mut scratch[..n]);
                }
                // After a short read the next bytes are a new event; an end that was there already is not.
                more = n == scratch.len() || to_the_end;
                if more {
                    self.again.push(key);
                }
            }
            Ok(Received::Nothing) => {}
            Ok(Received::End) => self.end(key, Phase::Done, Closes::Lost),
            Err(_) => {
                self.end(key, Phase::Done, Closes::Lost);
                self.drop_output(key);
            }
        }
        self.scratch = scratch;
        more
    }

    /// Gives what arrived to the engine, and its messages to the app.
    fn feed(&mut self, key: usize, input: &mut [u8]) {
        let Hub { app, batch, connections, settings, now_ms, .. } = self;
        let limits = &settings.limits;
        let Some(connection) = connections.get_mut(key) else { return };
        let held = connection.held();
        let bounds = Bounds { message_size: limits.max_message_size, fragments: limits.max_fragments };
        let (mut wishes, mut end, mut received, mut answered) = (Wishes::new(limits.max_output), None, 0, false);
        let mut inbox = std::mem::take(&mut connection.inbox);
        batch.begin();
        let outcome = inbox.feed(input, *now_ms, bounds, |incoming| {
            if let Incoming::Close(code) = incoming {
                answered = end.is_some();
                end.get_or_insert(End::Peer(code));
                return Flow::Stop;
            }
            // Behind a close of ours only the client's matters.
            if connection.phase == Phase::Closing || end.is_some() {
                return Flow::Continue;
            }
            if !connection.within_rate(*now_ms, limits.max_message_rate) {
                end = Some(End::Rate);
                return Flow::Stop;
            }
            let message = match incoming {
                Incoming::Text(text) => Message::Text(text),
                Incoming::Binary(data) => Message::Binary(data),
                Incoming::Ping(data) => {
                    frame::append(batch.bytes_for_reply(), Kind::Pong, data);
                    return Flow::Continue;
                }
                Incoming::Pong | Incoming::Fragment | Incoming::Close(_) => return Flow::Continue,
            };
            received += 1;
            let mut session = Session { token: &connection.token, batch, wishes: &mut wishes };
            app.message(&mut connection.state, message, &mut session);
            if let Some((code, reason)) = wishes.close.take() {
                end = Some(End::App(code, reason));
            }
            Flow::Continue
        });
        connection.received += received;
        connection.inbox = inbox;
        let closed = end.is_some();
        if let Err(violation) = outcome {
            end.get_or_insert(End::Violation(violation));
        }
        self.received += received;
        let too_much = self.account(key, held);
        self.end_part(key, wishes, end);
        if closed && outcome.is_err() {
            // Not even its answer to our close could be understood.
            self.fail(key);
        }
        if answered {
            self.end(key, Phase::Done, Closes::Server);
        }
        if too_much {
            self.relieve();
        }
    }

    /// Ends a connection's part of the batch: a close goes behind its replies.
    fn end_part(&mut self, key: usize, wishes: Wishes, end: Option<End>) {
        self.sent += wishes.sent;
        self.metrics.error(Errors::InvalidJson, wishes.invalid_json);
        self.metrics.error(Errors::Unsupported, wishes.unsupported);
        let connection = &mut self.connections[key];
        for change in &wishes.rooms {
            match change {
                RoomChange::Join(room) => self.rooms.join(room, key, &mut connection.rooms),
                RoomChange::Leave(room) => self.rooms.leave(room, key, &mut connection.rooms),
            }
        }
        let end = end.or(wishes.close.map(|(code, reason)| End::App(code, reason)));
        if let Some(end) = end {
            self.close_in_batch(key, end);
        }
        self.seal_part(key);
    }

    /// Ends the part that is being gathered.
    fn seal_part(&mut self, key: usize) {
        let connection = &mut self.connections[key];
        let held = self.batch.end(key, connection.id, &connection.token, connection.floor(), !connection.resumed);
        connection.unanswered += u32::from(held);
    }
}

/// When to come back, spread so that clients do not come as a herd.
fn retry_hint(settings: &Settings) -> String {
    retry_hint_after(settings, Duration::ZERO)
}

/// The same, not before this time is over.
fn retry_hint_after(settings: &Settings, wait: Duration) -> String {
    let spread = settings.retry_spread.as_millis() as u64;
    format!("retry_ms={}", wait.as_millis() as u64 + 100 + fastrand::u64(..=spread))
}

fn interrupted(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::Interrupted { Ok(()) } else { Err(error) }
}
