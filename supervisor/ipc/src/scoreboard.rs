//! The scoreboard: shared memory with two rows of integers per slot, made before the first fork.
//!
//! Every word has one writer (a supervisor, or the worker that holds the row) and any number of readers, so that an
//! addition is a load and a store, both relaxed. That is why a slot has two [sides](Side), each with a row and a log
//! ring: for a moment a worker and the one that relieves it are both in the slot. A row belongs to a side of a slot, not
//! to a process: its counters go on when another worker takes it. What the counters mean is the worker's affair: here
//! they are numbers.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::IpAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering, fence};

use serde::{Deserialize, Serialize};

use crate::logring::{LogRing, RING_BYTES};
use crate::mapping::Mapping;

mod addresses;
mod takeovers;
mod view;

pub use addresses::{AddressKey, Connections, NewSessions, network};
pub use takeovers::{Fate, Outcome, Takeovers};
pub use view::SlotView;

/// A worker's place, from 0.
pub type Slot = u16;

/// The most slots a generation can have.
pub const MAX_SLOTS: u16 = 64;

/// Gauges per row: cleared when the worker dies.
pub const GAUGES: usize = 16;

/// Counters per row: never cleared.
pub const COUNTERS: usize = 128;

/// The gauge that holds the number of open WebSockets; the supervisor shows it.
pub const GAUGE_CONNECTIONS: usize = 0;

/// The gauge that holds how many WebSockets the worker may have.
pub const GAUGE_LIMIT: usize = 1;

/// The counter that holds the number of messages received; the supervisor shows it.
pub const COUNTER_MESSAGES: usize = 0;

// The last byte counts the layouts.
const MAGIC: u64 = u64::from_le_bytes(*b"batonsb\x03");
const LINE: usize = 64;
const HEADER_BYTES: usize = 4096;
const SLOT_WORDS: usize = 32;
const ROW_BYTES: usize = ((SLOT_WORDS + GAUGES + COUNTERS) * 8).next_multiple_of(LINE);
const ROWS: usize = MAX_SLOTS as usize * Side::ALL.len();
// The place after the last slot's is the supervisor's own: it has rings, and no row.
const PLACES: usize = MAX_SLOTS as usize + 1;
const RINGS: usize = PLACES * Side::ALL.len();
const RINGS_AT: usize = (HEADER_BYTES + ROWS * ROW_BYTES).next_multiple_of(4096);
// Tables that are large and nearly empty: pages cost memory only once they are touched.
const CONNECTIONS_AT: usize = (RINGS_AT + RINGS * RING_BYTES).next_multiple_of(4096);
const CONNECTIONS_BYTES: usize = addresses::ENTRIES * 8;
const NEW_SESSIONS_AT: usize = CONNECTIONS_AT + ROWS * CONNECTIONS_BYTES;
const TOTAL: usize = NEW_SESSIONS_AT + addresses::CELLS * 8;

/// A worker that has not reported for so long is gone: what it has counted counts no more.
const LIVE_MS: u64 = 60_000;

// Words of the header.
const H_MAGIC: usize = 0;
const H_TOTAL: usize = 1;
const H_SLOTS: usize = 2;
const H_STARTED: usize = 3;
const H_ID: usize = 4;
const H_SECRET: usize = 5;
// Words that an older binary of the same layout leaves alone.
const H_TAKEOVERS: usize = 8;
const H_RINGS: usize = 64;
const H_CURRENT: usize = H_RINGS + RINGS;

const _: () = assert!(H_TAKEOVERS + takeovers::WORDS * Side::ALL.len() <= H_RINGS);
const _: () = assert!((H_CURRENT + PLACES) * 8 <= HEADER_BYTES);

/// One of the two places in a slot. Two processes that are in it at the same time are on different sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u64)]
pub enum Side {
    /// The one that is taken first.
    A = 0,
    /// The one that its relief takes.
    B = 1,
}

impl Side {
    /// Both, in the order of the numbers.
    pub const ALL: [Side; 2] = [Side::A, Side::B];

    /// Where the relief goes.
    pub fn other(self) -> Side {
        match self {
            Side::A => Side::B,
            Side::B => Side::A,
        }
    }
}

/// A place in the life cycle of a slot, as the scoreboard and `status` show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[repr(u64)]
pub enum State {
    /// Down on purpose.
    Stopped = 0,
    /// Down, waiting for its next try.
    Backoff = 1,
    /// Forked, not ready yet.
    Starting = 2,
    /// Serving.
    Serving = 3,
    /// Asked to drain.
    Draining = 4,
    /// Killed, not reaped yet.
    Killed = 5,
    /// Given up after too many deaths.
    Fatal = 6,
}

impl State {
    /// Every state, in the order of the numbers.
    pub const ALL: [State; 7] =
        [State::Stopped, State::Backoff, State::Starting, State::Serving, State::Draining, State::Killed, State::Fatal];
}

/// Why a worker ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u64)]
pub enum Cause {
    /// It exited by itself, unasked.
    Exit = 0,
    /// A signal that the supervisor did not send killed it.
    Signal = 1,
    /// Its event loop stopped reporting, and the supervisor killed it.
    Hang = 2,
    /// It was not ready in time.
    StartTimeout = 3,
    /// It was asked to go: restart, reload, scale, stop.
    Requested = 4,
}

impl Cause {
    /// Every cause, in the order of the numbers.
    pub const ALL: [Cause; 5] = [Cause::Exit, Cause::Signal, Cause::Hang, Cause::StartTimeout, Cause::Requested];

    /// The name used as a metric's label.
    pub fn label(self) -> &'static str {
        match self {
            Cause::Exit => "exit",
            Cause::Signal => "signal",
            Cause::Hang => "hang",
            Cause::StartTimeout => "start_timeout",
            Cause::Requested => "requested",
        }
    }
}

/// What a worker is doing with the lock of the store, so that a watchdog can tell the holder from those who wait for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u64)]
pub enum StorePhase {
    /// Nothing.
    #[default]
    Idle = 0,
    /// Waiting for the lock.
    Waiting = 1,
    /// Holding the lock.
    Holding = 2,
}

/// One shared integer with one writer.
#[derive(Debug)]
#[repr(transparent)]
pub struct Word(AtomicU64);

impl Word {
    /// The value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Replaces the value. Only the word's writer may.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Adds without a locked instruction: there is one writer.
    pub fn add(&self, n: u64) {
        self.set(self.get().wrapping_add(n));
    }

    /// Subtracts; a gauge stops at 0.
    pub fn sub(&self, n: u64) {
        self.set(self.get().saturating_sub(n));
    }
}

/// One side's row of a slot: what one process writes, and what its supervisor writes about it.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    words: &'a [Word],
}

// Words of a row. The supervisor writes the first sixteen, the worker the rest.
const STATE: usize = 0;
const PID: usize = 1;
const STARTED: usize = 2;
const LAST_CAUSE: usize = 3;
const RESTARTS: usize = 4;
const TICK: usize = 16;
const STORE_PHASE: usize = 17;
const STORE_SINCE: usize = 18;

impl<'a> Row<'a> {
    /// The state on this side of the slot. Written by the supervisor.
    pub fn state(&self) -> State {
        let word = self.words[STATE].get();
        State::ALL.into_iter().find(|state| *state as u64 == word).unwrap_or(State::Stopped)
    }

    /// Sets the state, and the pid of the worker (0: none).
    pub fn set_state(&self, state: State, pid: u32) {
        self.words[STATE].set(state as u64);
        self.words[PID].set(pid.into());
    }

    /// The worker's pid, if there is one.
    pub fn pid(&self) -> Option<u32> {
        u32::try_from(self.words[PID].get()).ok().filter(|pid| *pid != 0)
    }

    /// When the worker was forked, in milliseconds of `CLOCK_MONOTONIC`; 0: never.
    pub fn started(&self) -> &'a Word {
        &self.words[STARTED]
    }

    /// How many workers on this side ended for this cause. Written by the supervisor.
    pub fn restarts(&self, cause: Cause) -> &'a Word {
        &self.words[RESTARTS + cause as usize]
    }

    /// Why the last worker ended.
    pub fn last_cause(&self) -> Option<Cause> {
        let word = self.words[LAST_CAUSE].get();
        Cause::ALL.into_iter().find(|cause| *cause as u64 + 1 == word)
    }

    /// Notes why a worker ended, and counts it.
    pub fn ended(&self, cause: Cause) {
        self.words[LAST_CAUSE].set(cause as u64 + 1);
        self.restarts(cause).add(1);
    }

    /// When the worker's event loop last turned, in milliseconds of `CLOCK_MONOTONIC`. Written by the worker.
    pub fn tick(&self) -> &'a Word {
        &self.words[TICK]
    }

    /// What the worker does with the store's lock, and since when (milliseconds of `CLOCK_MONOTONIC`).
    pub fn store_phase(&self) -> (StorePhase, u64) {
        let phase = match self.words[STORE_PHASE].get() {
            1 => StorePhase::Waiting,
            2 => StorePhase::Holding,
            _ => StorePhase::Idle,
        };
        (phase, self.words[STORE_SINCE].get())
    }

    /// Notes what the worker does with the store's lock.
    pub fn set_store_phase(&self, phase: StorePhase, since_ms: u64) {
        self.words[STORE_SINCE].set(since_ms);
        self.words[STORE_PHASE].set(phase as u64);
    }

    /// A gauge, below [`GAUGES`]. Written by the worker, cleared by the supervisor when the worker is gone.
    pub fn gauge(&self, index: usize) -> &'a Word {
        &self.words[SLOT_WORDS..][..GAUGES][index]
    }

    /// A counter, below [`COUNTERS`]. Written by the worker.
    pub fn counter(&self, index: usize) -> &'a Word {
        &self.words[SLOT_WORDS + GAUGES..][..COUNTERS][index]
    }

    /// Clears what only a living worker can vouch for.
    fn clear_gauges(&self) {
        self.words[SLOT_WORDS..][..GAUGES].iter().for_each(|gauge| gauge.set(0));
        self.words[TICK].set(0);
        self.set_store_phase(StorePhase::Idle, 0);
    }
}

/// The shared memory of a generation. The next one takes it over, so that no counter begins anew.
#[derive(Debug)]
pub struct Scoreboard {
    mapping: Mapping,
}

impl Scoreboard {
    /// A fresh one for `slots` slots.
    pub fn create(slots: u16) -> io::Result<Scoreboard> {
        let board = Scoreboard { mapping: Mapping::create("baton-scoreboard", TOTAL)? };
        board.header(H_TOTAL).set(TOTAL as u64);
        board.header(H_STARTED).set(monotonic_ms());
        // The standard library seeds it from the kernel's random numbers.
        let random = || RandomState::new().hash_one(std::process::id());
        board.header(H_ID).set(random());
        board.header(H_SECRET).set(random());
        board.header(H_SECRET + 1).set(random());
        board.set_slots(slots);
        board.header(H_MAGIC).set(MAGIC);
        Ok(board)
    }

    /// Maps one that another process made. Another layout is refused.
    pub fn adopt(memfd: OwnedFd) -> io::Result<Scoreboard> {
        let other_layout =
            |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("a scoreboard of another layout: {what}"));
        let mapping = Mapping::of(memfd, TOTAL).map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData => other_layout(&error.to_string()),
            _ => error,
        })?;
        let board = Scoreboard { mapping };
        if board.header(H_MAGIC).get() != MAGIC || board.header(H_TOTAL).get() != TOTAL as u64 {
            return Err(other_layout("its first words differ"));
        }
        Ok(board)
    }

    /// The descriptor to pass on.
    pub fn memfd(&self) -> BorrowedFd<'_> {
        self.mapping.memfd()
    }

    /// How many slots the generation has now.
    pub fn slots(&self) -> u16 {
        self.header(H_SLOTS).get().min(MAX_SLOTS.into()) as u16
    }

    /// Changes how many slots there are. Only the supervisor may.
    pub fn set_slots(&self, slots: u16) {
        self.header(H_SLOTS).set(slots.min(MAX_SLOTS).into());
    }

    /// When the scoreboard was made, in milliseconds of `CLOCK_MONOTONIC`.
    pub fn started_ms(&self) -> u64 {
        self.header(H_STARTED).get()
    }

    /// A random number, the same for all who share this memory and for nobody else: it tells what they have sent out
    /// themselves from what comes from others.
    pub fn id(&self) -> u64 {
        self.header(H_ID).get()
    }

    /// What the supervisor on this side has counted of takeovers.
    pub fn takeovers(&self, side: Side) -> Takeovers<'_> {
        let words = takeovers::WORDS;
        Takeovers::new(self.words((H_TAKEOVERS + side as usize * words) * 8, words))
    }

    /// The row of one side of a slot, for who writes it. Readers want [`Scoreboard::slot`].
    ///
    /// # Panics
    /// If `slot` is not below [`MAX_SLOTS`].
    pub fn row(&self, slot: Slot, side: Side) -> Row<'_> {
        assert!(slot < MAX_SLOTS, "slot {slot} is outside the scoreboard");
        let index = usize::from(slot) * Side::ALL.len() + side as usize;
        Row { words: self.words(HEADER_BYTES + index * ROW_BYTES, ROW_BYTES / 8) }
    }

    /// Clears what only a living worker can vouch for, when the one on this side of the slot is gone: its gauges, and
    /// whose connections it had.
    pub fn clear(&self, slot: Slot, side: Side) {
        self.row(slot, side).clear_gauges();
        self.mapping.clear(connections_at(slot, side), CONNECTIONS_BYTES);
    }

    /// The key that stands for a client's address in all processes that share this memory.
    pub fn address_key(&self, address: IpAddr) -> AddressKey {
        AddressKey::new(address, [self.header(H_SECRET).get(), self.header(H_SECRET + 1).get()])
    }

    /// The connections of the worker on this side of the slot, by address.
    ///
    /// # Panics
    /// If `slot` is not below [`MAX_SLOTS`].
    pub fn connections(&self, slot: Slot, side: Side) -> Connections<'_> {
        assert!(slot < MAX_SLOTS, "slot {slot} is outside the scoreboard");
        Connections::new(self.words(connections_at(slot, side), addresses::ENTRIES))
    }

    /// How many connections all workers have of this address. Of several workers that count one more and then look, at
    /// least the last one sees all.
    pub fn connections_of(&self, key: AddressKey) -> u64 {
        fence(Ordering::SeqCst);
        let alive_since = monotonic_ms().saturating_sub(LIVE_MS);
        let places = (0..MAX_SLOTS).flat_map(|slot| Side::ALL.map(|side| (slot, side)));
        let alive = places.filter(|(slot, side)| {
            let tick = self.row(*slot, *side).tick().get();
            tick != 0 && tick >= alive_since
        });
        alive.map(|(slot, side)| self.connections(slot, side).get(key)).sum()
    }

    /// The new sessions of all workers, by address.
    pub fn new_sessions(&self) -> NewSessions<'_> {
        NewSessions::new(self.mapping.words(NEW_SESSIONS_AT, addresses::CELLS))
    }

    /// A slot for its readers, both sides of it.
    ///
    /// # Panics
    /// If `slot` is not below [`MAX_SLOTS`].
    pub fn slot(&self, slot: Slot) -> SlotView<'_> {
        SlotView::new(Side::ALL.map(|side| self.row(slot, side)), self.current(Some(slot)))
    }

    /// All slots in use, for their readers.
    pub fn views(&self) -> impl Iterator<Item = (Slot, SlotView<'_>)> {
        (0..self.slots()).map(|slot| (slot, self.slot(slot)))
    }

    /// The side that stands for the slot, or for the supervisor (`None`): at first A.
    pub fn current(&self, slot: Option<Slot>) -> Side {
        match self.header(H_CURRENT + place(slot)).get() {
            0 => Side::A,
            _ => Side::B,
        }
    }

    /// Changes which side stands for the slot, or for the supervisor. Only the supervisor that owns the slot may.
    pub fn set_current(&self, slot: Option<Slot>, side: Side) {
        self.header(H_CURRENT + place(slot)).set(side as u64);
    }

    /// The log ring of a worker on this side of the slot, or of a supervisor.
    pub fn ring(&self, slot: Option<Slot>, side: Side) -> LogRing<'_> {
        let index = place(slot) * Side::ALL.len() + side as usize;
        let written = &self.mapping.words((H_RINGS + index) * 8, 1)[0];
        LogRing::new(written, self.mapping.bytes(RINGS_AT + index * RING_BYTES, RING_BYTES))
    }

    fn header(&self, index: usize) -> &Word {
        &self.words(index * 8, 1)[0]
    }

    #[allow(unsafe_code)]
    fn words(&self, offset: usize, count: usize) -> &[Word] {
        let words = self.mapping.words(offset, count);
        // SAFETY: Word is a transparent AtomicU64.
        unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), words.len()) }
    }
}

/// Where the table of connections of a row begins.
fn connections_at(slot: Slot, side: Side) -> usize {
    CONNECTIONS_AT + (usize::from(slot) * Side::ALL.len() + side as usize) * CONNECTIONS_BYTES
}

/// The index of a slot's place, or of the supervisor's.
fn place(slot: Option<Slot>) -> usize {
    slot.map_or(MAX_SLOTS, |slot| slot.min(MAX_SLOTS - 1)).into()
}

/// Milliseconds of `CLOCK_MONOTONIC`, which all processes of a machine share.
pub fn monotonic_ms() -> u64 {
    monotonic_us() / 1000
}

/// The same in microseconds.
pub fn monotonic_us() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).expect("CLOCK_MONOTONIC exists");
    now.tv_sec() as u64 * 1_000_000 + now.tv_nsec() as u64 / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_mappings_of_one_memfd_see_the_same_numbers() {
        let ours = Scoreboard::create(4).unwrap();
        let theirs = Scoreboard::adopt(ours.memfd().try_clone_to_owned().unwrap()).unwrap();
        theirs.row(3, Side::B).counter(COUNTER_MESSAGES).add(41);
        ours.row(3, Side::B).counter(COUNTER_MESSAGES).add(1);
        ours.row(3, Side::B).set_state(State::Serving, 77);
        ours.row(3, Side::B).ended(Cause::Hang);
        ours.set_current(Some(3), Side::B);
        let row = theirs.row(3, Side::B);
        assert_eq!(row.counter(COUNTER_MESSAGES).get(), 42);
        assert_eq!((row.state(), row.pid()), (State::Serving, Some(77)));
        assert_eq!(row.last_cause(), Some(Cause::Hang));
        assert_eq!((theirs.slots(), theirs.views().count(), theirs.current(Some(3))), (4, 4, Side::B));
        theirs.ring(None, Side::B).write(b"a line\n");
        assert_eq!(ours.ring(None, Side::B).read(None).text, "a line\n");
    }

    #[test]
    fn all_who_share_it_have_one_id_and_others_another() {
        let ours = Scoreboard::create(1).unwrap();
        let theirs = Scoreboard::adopt(ours.memfd().try_clone_to_owned().unwrap()).unwrap();
        ours.set_slots(2);
        assert_eq!(ours.id(), theirs.id());
        let others: std::collections::HashSet<u64> = (0..100).map(|_| Scoreboard::create(1).unwrap().id()).collect();
        assert!(others.len() == 100 && !others.contains(&ours.id()));
    }

    #[test]
    fn gauges_end_with_the_worker_and_counters_go_on() {
        let board = Scoreboard::create(1).unwrap();
        let (row, relief) = (board.row(0, Side::A), board.row(0, Side::B));
        for row in [row, relief] {
            row.gauge(GAUGE_CONNECTIONS).add(5);
            row.counter(COUNTERS - 1).add(9);
            row.tick().set(1);
            row.set_store_phase(StorePhase::Holding, 12);
        }
        board.clear(0, Side::A);
        assert_eq!((row.gauge(GAUGE_CONNECTIONS).get(), row.counter(COUNTERS - 1).get()), (0, 9));
        assert_eq!((row.tick().get(), row.store_phase()), (0, (StorePhase::Idle, 0)));
        assert_eq!((relief.gauge(GAUGE_CONNECTIONS).get(), relief.tick().get()), (5, 1));
    }

    #[test]
    fn another_layout_is_refused_and_called_so() {
        let refusal = |mapping: &Mapping| {
            let refused = Scoreboard::adopt(mapping.memfd().try_clone_to_owned().unwrap()).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
            refused.to_string()
        };
        let foreign = Mapping::create("foreign", TOTAL).unwrap();
        assert_eq!(refusal(&foreign), "a scoreboard of another layout: its first words differ");
        let older = Scoreboard::create(1).unwrap();
        older.header(H_MAGIC).set(u64::from_le_bytes(*b"batonsb\x02"));
        assert_eq!(refusal(&older.mapping), "a scoreboard of another layout: its first words differ");
        let short = refusal(&Mapping::create("short", 4096).unwrap());
        assert!(short.starts_with("a scoreboard of another layout: shared memory of 4096 bytes"), "{short}");
    }

    #[test]
    fn every_row_ring_and_current_side_has_its_own_memory() {
        let board = Scoreboard::create(MAX_SLOTS).unwrap();
        let slots = || (0..MAX_SLOTS).flat_map(|slot| Side::ALL.map(|side| (slot, side)));
        let places = || (0..MAX_SLOTS).map(Some).chain([None]).flat_map(|slot| Side::ALL.map(|side| (slot, side)));
        for ((slot, side), n) in slots().zip(1..) {
            let row = board.row(slot, side);
            assert!(row.words.as_ptr().addr().is_multiple_of(LINE));
            row.words.iter().for_each(|word| word.set(n));
        }
        let lines = |slot, side| format!("{:>31}\n", format!("{slot:?} {side:?}")).repeat(RING_BYTES / 32);
        places().for_each(|(slot, side)| board.ring(slot, side).write(lines(slot, side).as_bytes()));
        for (slot, side) in places().filter(|(_, side)| *side == Side::B) {
            board.set_current(slot, side);
        }
        for ((slot, side), n) in slots().zip(1..) {
            assert!(board.row(slot, side).words.iter().all(|word| word.get() == n), "{slot} {side:?}");
        }
        for (slot, side) in places() {
            assert!(board.ring(slot, side).read(None).text == lines(slot, side), "{slot:?} {side:?}");
        }
        assert_eq!(board.slots(), MAX_SLOTS);
        assert_eq!(board.header(H_MAGIC).get(), MAGIC);
    }

    #[test]
    fn each_place_has_a_current_side_of_its_own_and_begins_with_a() {
        let board = Scoreboard::create(2).unwrap();
        board.set_current(Some(1), Side::B);
        assert_eq!([Some(0), Some(1), None].map(|slot| board.current(slot)), [Side::A, Side::B, Side::A]);
        board.set_current(None, Side::A.other());
        board.set_current(Some(1), Side::B.other());
        assert_eq!([Some(0), Some(1), None].map(|slot| board.current(slot)), [Side::A, Side::A, Side::B]);
    }
}
