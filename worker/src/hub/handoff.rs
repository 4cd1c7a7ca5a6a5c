//! Connections on their way out to another process, and in from one (see [`crate::handoff`]).

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Instant;

use super::Hub;
use crate::app::App;
use crate::batch::Publication;
use crate::frame::{self, Kind};
use crate::handoff::{Arrival, Carried};
use crate::heartbeat::{AHEAD_MS, Clocks, wall_ms};
use crate::metrics::{Closes, Gauge, Single};
use crate::rooms::Rooms;
use crate::slab::{Connection, Hold, Output, Phase};

/// A connection that may be gone by the time it is looked at again: its key, and its id.
pub(crate) type Name = (usize, u64);

/// A heartbeat that was due: its time, and the frame.
pub(super) type LastBeat = (u64, Vec<u8>);

/// What a connection has to get once it is known who serves it.
#[derive(Debug, Default)]
pub(super) struct Late {
    /// Publications after this number; none: as they come.
    published: Option<u64>,
    bytes: Vec<u8>,
}

impl<A: App> Hub<A> {
    /// Chooses connections that nobody has chosen yet, at most so many.
    pub(crate) fn choose(&mut self, most: usize) -> Vec<Name> {
        let free = self.connections.iter_mut().filter(|(_, connection)| connection.hold == Hold::None);
        let chosen = free.take(most).map(|(key, connection)| {
            connection.hold = Hold::Chosen;
            (key, connection.id)
        });
        chosen.collect()
    }

    /// Whether some are on their way out.
    pub(crate) fn some_move(&self) -> bool {
        self.connections.iter().any(|(_, connection)| connection.hold != Hold::None)
    }

    /// From now on these are not read. Those that are gone are left out.
    pub(crate) fn park(&mut self, names: &[Name]) -> Vec<Name> {
        let mut parked = Vec::with_capacity(names.len());
        for (key, id) in names {
            if let Some(connection) = self.named(*key, *id).filter(|connection| connection.hold == Hold::Chosen) {
                connection.hold = Hold::Parked;
                parked.push((*key, *id));
            }
        }
        self.finish_quietly();
        parked
    }

    /// Whether some of these wait for a commit.
    pub(crate) fn wait_for_commit(&mut self, names: &[Name]) -> bool {
        names.iter().any(|(key, id)| self.named(*key, *id).is_some_and(|connection| connection.unanswered > 0))
    }

    /// The state of a parked connection, from which on nothing is written to it here. None: it is gone.
    pub(crate) fn offer(&mut self, (key, id): Name, parked_us: u64) -> Option<Vec<u8>> {
        let published = self.backplane.is_alone().then(|| self.backplane.host().taken());
        let early = self.early.get(&key).cloned().unwrap_or_default();
        let connection = self.connections.get_mut(key).filter(|connection| connection.id == id)?;
        let deadline_ms = match connection.phase {
            Phase::Open => None,
            _ => self.deadlines.iter().find(|(_, k, i)| (*k, *i) == (key, id)).map(|(at, ..)| *at),
        };
        connection.deregister(self.poll.registry());
        connection.hold = Hold::Offered;
        let rooms = Rooms::names(&connection.rooms);
        let published = published.filter(|_| !rooms.is_empty());
        if published.is_some() {
            self.late.insert(key, Late { published, bytes: Vec::new() });
        }
        let carried = Carried {
            phase: connection.phase,
            ended_by: connection.ended_by,
            resumed: connection.resumed,
            known: connection.known,
            mute: connection.mute,
            rate: connection.rate,
            id,
            opened_ms: connection.opened_ms,
            received: connection.received,
            shown: connection.shown,
            beat_ms: connection.beat_ms,
            token: connection.token.clone(),
            request_id: connection.request_id.clone(),
            forwarded: connection.forwarded.clone(),
            address: connection.address,
            inbox: std::mem::take(&mut connection.inbox),
            unsent: connection.output.as_ref().map(|output| (output.unsent().to_vec(), output.since_ms)),
            early,
            deadline_ms,
            published,
            rooms,
            // An app's state that cannot be written is not understood there, and the connection stays.
            state: serde_json::to_vec(&connection.state).unwrap_or_default(),
            parked_us,
        };
        let encoded = carried.encode();
        if let Some(connection) = self.connections.get_mut(key) {
            connection.inbox = carried.inbox;
        }
        Some(encoded)
    }

    /// The socket of a connection that is offered.
    pub(crate) fn socket_of(&self, key: usize) -> Option<BorrowedFd<'_>> {
        self.connections.get(key).map(|connection| std::os::fd::AsFd::as_fd(&connection.socket))
    }

    /// What came for it since it was offered.
    pub(crate) fn late(&self, key: usize) -> &[u8] {
        self.late.get(&key).map_or(&[], |late| &late.bytes)
    }

    /// Keeps a frame for a connection that is offered. Publications that are in the log are found there.
    pub(super) fn keep_late(&mut self, key: usize, frame: &[u8]) {
        self.late.entry(key).or_default().bytes.extend_from_slice(frame);
    }

    /// Another process serves these now.
    pub(crate) fn release(&mut self, names: &[Name]) {
        for (key, id) in names {
            self.late.remove(key);
            if self.named(*key, *id).is_none() {
                continue;
            }
            let mut connection = self.connections.remove(*key);
            self.take_early(*key);
            self.drop_held(connection.held());
            self.addresses.forget(connection.address.take());
            self.rooms.leave_all(*key, connection.rooms.take());
            tracing::debug!(
                connection_id = connection.name(),
                session_hash = %connection.token.fingerprint(),
                "connection handed over"
            );
        }
        self.metrics.add(Single::HandedOver, names.len() as u64);
        self.metrics.gauge(Gauge::Connections, self.connections.len() as u64);
    }

    /// These stay after all, whatever was planned for them.
    pub(crate) fn resume(&mut self, names: &[Name]) {
        // Before they are members again: what comes now they find in the log.
        self.deliver_published();
        for (key, id) in names {
            let registry = self.poll.registry();
            let Some(connection) = self.connections.get_mut(*key).filter(|connection| connection.id == *id) else {
                continue;
            };
            let hold = std::mem::replace(&mut connection.hold, Hold::None);
            // It was not read for a moment: that is not its client's silence.
            connection.heard = true;
            let registered = match hold {
                Hold::Offered => connection.register(*key, registry),
                Hold::None | Hold::Chosen | Hold::Parked => Ok(()),
            };
            self.catch_up(*key, registered);
        }
        self.finish_quietly();
        // The drain has told all that were here before.
        if self.draining {
            let keys: Vec<usize> = names.iter().map(|(key, _)| *key).collect();
            self.say_bye(&keys, Instant::now());
        }
    }

    /// Takes a connection over. `late`: what came for it while it was on its way.
    pub(crate) fn welcome(&mut self, arrival: Arrival<A::State>, late: &[u8]) {
        let Arrival { socket, carried, state } = arrival;
        let begun = Instant::now();
        if carried.published.is_some() {
            // Before it is a member: what comes now it finds in the log.
            self.deliver_published();
        }
        let beat_ms = self.beat_of_arrival(carried.beat_ms);
        let entry = self.connections.vacant_entry();
        let key = entry.key();
        let connection = entry.insert(Connection {
            socket,
            phase: carried.phase,
            hold: Hold::None,
            ended_by: carried.ended_by,
            // It was not read for a moment: that is not its client's silence.
            heard: true,
            listed: false,
            resumed: carried.resumed,
            rate: carried.rate,
            id: carried.id,
            opened_ms: carried.opened_ms,
            received: carried.received,
            shown: carried.shown,
            unanswered: 0,
            known: carried.known,
            mute: carried.mute,
            beat_ms,
            token: carried.token,
            request_id: carried.request_id,
            forwarded: carried.forwarded,
            address: carried.address.and_then(|key| self.addresses.recount(key)),
            inbox: carried.inbox,
            output: carried.unsent.map(|(bytes, since_ms)| Box::new(Output::of(bytes, since_ms))),
            rooms: None,
            state,
        });
        if let Some(deadline) = carried.deadline_ms {
            self.deadlines.push((deadline, key, connection.id));
        }
        for room in &carried.rooms {
            self.rooms.join(room, key, &mut connection.rooms);
        }
        let registered = connection.register(key, self.poll.registry());
        self.account(key, 0);
        self.keep_early(key, carried.early);
        self.relieve();
        if !late.is_empty() || carried.published.is_some() {
            self.late.insert(key, Late { published: carried.published, bytes: late.to_vec() });
        }
        self.metrics.add(Single::TakenOver, 1);
        self.metrics.gauge(Gauge::Connections, self.connections.len() as u64);
        self.catch_up(key, registered);
        self.finish(begun);
        // The drain has told all that were here before.
        if self.draining {
            self.say_bye(&[key], begun);
        }
    }

    /// A connection is ours again, or for the first time: what it has missed is sent, and it is read.
    fn catch_up(&mut self, key: usize, registered: io::Result<()>) {
        if let Err(error) = registered {
            tracing::warn!(%error, "a connection cannot be watched: it is lost");
            self.end(key, Phase::Done, Closes::Lost);
            self.drop_output(key);
        }
        if let Some(Late { published, bytes }) = self.late.remove(&key) {
            if let Some(published) = published {
                self.make_good(key, published);
            }
            if !bytes.is_empty() {
                self.transmit(key, &bytes);
            }
        }
        if let Some((at, frame)) = self.last_beat.take() {
            let open = self.connections.get_mut(key).filter(|c| c.phase == Phase::Open && c.beat_ms < at);
            // The clock may have been set back, and the worker not have noticed yet.
            let open = open.filter(|_| at <= wall_ms().saturating_add(AHEAD_MS));
            if let Some(connection) = open {
                connection.beat_ms = at;
                self.push(key, &frame);
                self.metrics.messages(crate::metrics::Messages::Heartbeat, 1);
            }
            self.last_beat = Some((at, frame));
        }
        // The end may have been reached, and the deadline set, elsewhere.
        self.changed.push(key);
        self.again.push(key);
    }

    /// Delivers what was published in a connection's rooms after this number, up to what all others here have had.
    fn make_good(&mut self, key: usize, published: u64) {
        let missed = match self.backplane.host().taken_after(published) {
            Ok(missed) => missed,
            Err(error) => return tracing::error!(%error, "publications cannot be read"),
        };
        for Publication { room, text } in missed {
            if !self.rooms.members(&room).contains(&key) {
                continue;
            }
            let mut encoded = Vec::new();
            frame::append(&mut encoded, Kind::Text, text.as_bytes());
            self.push(key, &encoded);
        }
    }

    /// Whose clocks heartbeats go by.
    pub(crate) fn clocks(&self) -> Clocks {
        if self.backplane.is_alone() { Clocks::Own } else { Clocks::Several }
    }

    /// When a connection that arrives had its last heartbeat, as far as that can be: if the clock was set back since then, it must
    /// not be silent until the old time returns.
    fn beat_of_arrival(&self, beat_ms: u64) -> u64 {
        let last = self.last_beat.as_ref().map_or(0, |(at, _)| *at);
        beat_ms.min(last.max(wall_ms().saturating_add(self.clocks().ahead_ms())))
    }

    /// The clock was set back: those who had a heartbeat of a time that is to come get those from now on.
    pub(crate) fn forget_beats(&mut self, now_ms: u64) {
        self.connections.iter_mut().for_each(|(_, connection)| connection.beat_ms = connection.beat_ms.min(now_ms));
    }

    /// A heartbeat is due: whoever arrives from now on and has not had it gets it.
    pub(crate) fn note_beat(&mut self, at: u64, frame: &[u8]) {
        self.last_beat = Some((at, frame.to_vec()));
    }

    fn named(&mut self, key: usize, id: u64) -> Option<&mut Connection<A::State>> {
        self.connections.get_mut(key).filter(|connection| connection.id == id)
    }
}
