//! The one loop: wait → event → step → perform. One thread, one blocking point.

use std::collections::{BTreeSet, VecDeque};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use baton_ipc::control::{ErrorCode, Generation, Output, Reply, TakeoverReceipt};
use baton_ipc::scoreboard::{COUNTER_MESSAGES, Row};
use baton_ipc::{Channel, Inheritance, MAX_SLOTS, Scoreboard, Side, Slot as SlotId};

use crate::control::{self, Control};
use crate::inquiry::Inquiry;
use crate::listeners::Listeners;
use crate::notify::Notifier;
use crate::operation::{Move, Operation};
use crate::parent::Line;
use crate::passed::{self, Sorted};
use crate::place::Place;
use crate::process::{self, Fork};
use crate::program;
use crate::rebalance::Rebalance;
use crate::signals::Wish;
use crate::slot::{Event, Slot, Terms};
use crate::sys::Signals;
use crate::takeover::{self, Door, Driver, Joined, Peer, Probe, ProbeJob, Role, Upgrade};
use crate::transfer::Transfer;
use crate::{Error, Service, Settings};

/// How often event loops are looked at and counters sampled.
pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// How long somebody at the door may take to say hello.
const HELLO: Duration = Duration::from_secs(5);

/// How long a dead supervisor's workers may take to let go of the listeners, beyond their drain.
const ORPHANS_GRACE: Duration = Duration::from_secs(2);

/// Where a generation is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Some slot has not come up for the first time.
    Starting,
    /// Ready, beside another generation that serves.
    Standby,
    /// Serving.
    Running,
    /// On the way out.
    Draining,
}

/// How a process leaves the loop.
pub(crate) enum Ending {
    /// The supervisor is done.
    Done(Result<(), Error>),
    /// This is a forked worker now.
    Worker(Birth, Channel),
    /// This is a forked child that tries the service.
    Probe(ProbeJob, Channel),
}

/// What a forked worker is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Birth {
    pub(crate) slot: SlotId,
    pub(crate) side: Side,
    /// Whether it is to accept before it is told to.
    pub(crate) accepting: bool,
}

/// Everything that a running supervisor holds.
pub(crate) struct Supervisor<'a> {
    pub(crate) settings: Settings,
    pub(crate) service: &'a mut dyn Service,
    pub(crate) board: Rc<Scoreboard>,
    pub(crate) listeners: Listeners,
    pub(crate) control: Control,
    /// Why a socket that was deleted cannot be made anew, as was logged.
    pub(crate) unrestored: Option<String>,
    pub(crate) notifier: Notifier,
    pub(crate) places: Vec<Place>,
    pub(crate) phase: Phase,
    pub(crate) operation: Option<Operation>,
    pub(crate) inquiries: Vec<Inquiry>,
    /// Since when the backplane has failed some worker or other.
    pub(crate) degraded_since: Option<Instant>,
    pub(crate) wishes: VecDeque<Wish>,
    /// Slots whose step said to fork. It is done in the loop, so that a child finds its way out of all frames.
    pub(crate) to_fork: BTreeSet<SlotId>,
    pub(crate) next_question: u64,
    /// Connections on their way from worker to worker.
    pub(crate) transfers: Vec<Transfer>,
    pub(crate) rebalance: Option<Rebalance>,
    /// The name of the last lane or transfer.
    pub(crate) last_name: u64,
    /// Where successors come in.
    pub(crate) door: Door,
    /// Who has come in, and has not said hello.
    pub(crate) visitor: Option<(Channel, Instant)>,
    /// The other generation.
    pub(crate) peer: Option<Peer>,
    /// A takeover that this generation drives.
    pub(crate) driver: Option<Driver>,
    /// The takeover by which this generation came to serve, and when that was.
    pub(crate) last_takeover: Option<(Instant, TakeoverReceipt)>,
    pub(crate) probe: Option<Probe>,
    pub(crate) probe_wanted: Option<ProbeJob>,
    /// The installed binary was started, to take over.
    pub(crate) upgrading: Option<Upgrade>,
    /// It was asked to end in the middle of a takeover.
    pub(crate) end_wanted: bool,
    /// The successor wants to know when it may give back.
    pub(crate) resuming: bool,
    /// The line to a process that stays in front of all generations.
    pub(crate) parent: Option<Line>,
    /// Who has got everything that this generation had.
    pub(crate) successor: Option<Generation>,
    /// What an upgrade starts: the path by which this process was started.
    pub(crate) program: PathBuf,
    /// Which log ring is ours.
    pub(crate) side: Side,
    pub(crate) started: Instant,
    /// The time of this turn.
    pub(crate) now: Instant,
    /// Silence before this is forgiven: a process that had the store's lock is gone, or we ourselves stood still.
    pub(crate) watch_from: Instant,
    pub(crate) next_second: Instant,
    pub(crate) signals: Signals,
    /// Why the loop could not go on.
    pub(crate) failure: Option<Error>,
}

impl<'a> Supervisor<'a> {
    /// Takes the addresses, and forks nothing yet.
    pub(crate) fn new(
        settings: Settings,
        service: &'a mut dyn Service,
        parent: Option<Line>,
    ) -> Result<Supervisor<'a>, Error> {
        if !(1..=MAX_SLOTS).contains(&settings.workers) {
            return Err(Error::Workers(settings.workers));
        }
        let program = program::started_as().map_err(Error::system("find the program of this process"))?;
        let signals = Signals::block().map_err(Error::system("take signals"))?;
        let now = Instant::now();
        let known_pid = parent.as_ref().map_or_else(std::process::id, Line::known_pid);
        let mut notifier = Notifier::from_environment(now, known_pid);
        let Sorted { sockets: given, kept, useless } = passed::sort(passed::take(known_pid)?, &settings.listen)?;
        useless.iter().for_each(|name| notifier.unstore(name));
        let lock = control::lock(&settings.runtime_dir)?;
        let mut joined = Joined::join(&settings)?;
        let group = settings.control_group.as_deref();
        // The name of the incumbent is free only once it is gone.
        let upgrade = joined.as_ref().is_some_and(|joined| joined.same_color);
        let name = if upgrade { takeover::next_name(&settings.color) } else { settings.color.clone() };
        let (control, died) = Control::open(&settings.runtime_dir, &name, group)?;
        let door = Door::open(&settings.runtime_dir, &name).inspect_err(|_| control.remove_file())?;
        drop(lock);
        let patience = if died { settings.drain_timeout + ORPHANS_GRACE } else { Duration::ZERO };
        if upgrade {
            notifier.hush();
        }
        let listeners = match &mut joined {
            Some(joined) => Listeners::adopt(&settings.listen, joined, given),
            None => Listeners::bind(&settings.listen, settings.workers, patience, given),
        };
        let clean_up = || {
            control.remove_file();
            door.remove_file();
        };
        let listeners = listeners.inspect_err(|_| clean_up())?;
        // One of our own goes before that of the incumbent, whose parent may be gone.
        let parent = parent.or_else(|| joined.as_mut()?.parent.take());
        let (board, peer) = match joined {
            Some(Joined { channel, incumbent, board, .. }) => {
                let peer = Peer { channel, generation: incumbent, role: Role::Incumbent, tallied: 0 };
                (board, Some(peer))
            }
            None => {
                let board = Scoreboard::create(settings.workers.max(listeners.slots()))
                    .map_err(Error::system("make the scoreboard"));
                let board = board.inspect_err(|_| {
                    clean_up();
                    listeners.remove_files();
                });
                (board?, None)
            }
        };
        let board = Rc::new(board);
        // What the other generation writes is its own.
        let beside = peer.is_some();
        let side = |slot: Option<SlotId>| if beside { board.current(slot).other() } else { board.current(slot) };
        let own_side = side(None);
        service.scoreboard(Rc::clone(&board), own_side);
        for endpoint in listeners.endpoints() {
            tracing::info!(address = %endpoint, color = settings.color, "listening");
        }
        let place = |slot: SlotId| {
            // Listeners of slots that the other generation had more of are lent.
            let is_ours = slot < settings.workers;
            let state = if is_ours { Slot::Vacant { retry_at: now } } else { Slot::Stopped };
            Place { side: side(Some(slot)), ..Place::new(slot, state, now) }
        };
        let places = (0..settings.workers.max(listeners.slots())).map(place).collect();
        let supervisor = Supervisor {
            settings,
            service,
            board,
            listeners,
            control,
            unrestored: None,
            notifier,
            places,
            phase: Phase::Starting,
            operation: None,
            inquiries: vec![],
            degraded_since: None,
            wishes: VecDeque::new(),
            to_fork: BTreeSet::new(),
            next_question: 0,
            transfers: vec![],
            rebalance: None,
            // Both generations name lanes.
            last_name: u64::from(std::process::id()) << 32,
            door,
            visitor: None,
            peer,
            driver: None,
            last_takeover: None,
            probe: None,
            probe_wanted: None,
            upgrading: None,
            end_wanted: false,
            resuming: false,
            parent,
            successor: None,
            program,
            side: own_side,
            started: now,
            now,
            watch_from: now,
            next_second: now + SECOND,
            signals,
            failure: None,
        };
        match beside {
            // The generation that serves has them, and sees to it that they are kept.
            true => kept.iter().for_each(|name| supervisor.notifier.unstore(name)),
            false => supervisor.store_listeners(),
        }
        Ok(supervisor)
    }

    /// Until everything is over, or this process is a worker.
    pub(crate) fn run(&mut self) -> Ending {
        loop {
            self.now = Instant::now();
            self.pass_time();
            if let Some((birth, channel)) = self.fork_workers().or_else(|| self.fork_reliefs()) {
                return Ending::Worker(birth, channel);
            }
            if let Some((job, channel)) = self.fork_probe() {
                return Ending::Probe(job, channel);
            }
            self.advance();
            self.arrange_lending();
            self.announce();
            if let Some(result) = self.is_over() {
                return Ending::Done(result);
            }
            for (source, events) in self.wait() {
                self.attend(source, events);
            }
            while let Some((client, request)) = self.control.take_request(self.now) {
                self.command(client, request.command);
            }
        }
    }

    /// All that depends on the clock.
    fn pass_time(&mut self) {
        if self.now >= self.next_second {
            if self.now > self.next_second + 2 * SECOND {
                // We stood still ourselves (a stopped machine, a debugger): nobody's silence means anything.
                self.watch_from = self.now;
            }
            self.next_second = self.now + SECOND;
            self.watch();
            self.restore_sockets();
            for (slot, place) in self.places.iter_mut().enumerate() {
                let messages = self.board.slot(slot as SlotId).counter(COUNTER_MESSAGES);
                place.rate.sample(self.now, messages);
            }
        }
        for slot in 0..self.places.len() as SlotId {
            if self.place(slot).slot.deadline().is_some_and(|deadline| self.now >= deadline) {
                self.apply(slot, Event::Due);
            }
        }
        self.look_at_reliefs();
        self.look_at_probe();
        self.look_at_takeover();
        self.look_at_upgrade();
        self.visitor.take_if(|(_, since)| self.now >= *since + HELLO);
        self.control.expire(self.now);
        self.finish_inquiries();
        let is_well = self.is_well();
        self.notifier.alive(self.now, is_well);
    }

    /// Forks what is due. In the child: what it is.
    fn fork_workers(&mut self) -> Option<(Birth, Channel)> {
        while let Some(slot) = self.to_fork.pop_first() {
            let side = self.place(slot).side;
            self.board.clear(slot, side);
            self.board.row(slot, side).started().set(baton_ipc::scoreboard::monotonic_ms());
            match process::fork(side, self.now) {
                Ok(Fork::Child(channel)) => return Some((Birth { slot, side, accepting: self.accepting() }, channel)),
                Ok(Fork::Parent(worker)) => {
                    let pid = worker.pid;
                    self.place_mut(slot).worker = Some(worker);
                    self.apply(slot, Event::Forked { pid });
                }
                Err(error) => {
                    tracing::error!(slot, %error, "cannot fork a worker; trying again in a second");
                    self.place_mut(slot).last_cause = Some(format!("cannot fork: {error}"));
                    self.apply(slot, Event::ForkFailed);
                }
            }
        }
        None
    }

    /// In a forked worker: closes all that belongs to the supervisor or to other slots, by dropping it.
    pub(crate) fn into_worker(self, birth: Birth, channel: Channel) -> (&'a mut dyn Service, Inheritance) {
        let Birth { slot, side, accepting } = birth;
        let Supervisor { service, board, listeners, .. } = self;
        let inheritance =
            Inheritance { slot, side, channel, listeners: listeners.into_slot(slot), accepting, scoreboard: board };
        (service, inheritance)
    }

    /// In a forked child that tries the service: closes all that belongs to the supervisor, by dropping it.
    pub(crate) fn into_probe(self, job: ProbeJob) -> (&'a mut dyn Service, ProbeJob) {
        (self.service, job)
    }

    /// Carries on what operators have asked for.
    fn advance(&mut self) {
        loop {
            let Some(operation) = &mut self.operation else {
                let Some(wish) = self.wishes.pop_front() else { return };
                self.grant(wish);
                continue;
            };
            let places = &self.places;
            let (verb, client) = (operation.verb, operation.client);
            match operation.advance(|slot| places[usize::from(slot)].view()) {
                Move::Wait => return,
                Move::Apply(event, slots) => slots.into_iter().for_each(|slot| self.apply(slot, event.clone())),
                Move::Relieve(slots) => slots.into_iter().for_each(|slot| self.renew(slot)),
                Move::Evacuate(slots) => self.evacuate(&slots),
                Move::Say(message) => {
                    tracing::info!(operation = verb, "{message}");
                    self.reply(client, Reply::Step { message });
                }
                Move::Finish(outcome) => {
                    self.operation = None;
                    if verb == "reload" {
                        self.notifier.ready();
                    }
                    self.reply(
                        client,
                        match outcome {
                            Ok(message) => {
                                tracing::info!(operation = verb, "{message}");
                                Reply::Done { output: Output::Text { message } }
                            }
                            Err(message) => {
                                tracing::error!(operation = verb, "{message}");
                                Reply::Error { code: ErrorCode::Failed, message }
                            }
                        },
                    );
                }
            }
        }
    }

    /// Notes that the first start is over, and keeps the service manager informed.
    fn announce(&mut self) {
        let serving = self.places.iter().filter(|place| matches!(place.slot, Slot::Serving { .. })).count();
        let started = serving > 0 && !self.active().iter().any(Place::is_new);
        let beside = self.peer.as_ref().is_some_and(|peer| peer.role == Role::Incumbent);
        if self.phase == Phase::Starting && beside {
            let died = self.active().iter().find(|place| place.unasked > 0);
            if let Some(place) = died {
                let cause = place.last_cause.clone().unwrap_or_default();
                self.cannot_start_beside(&cause);
            } else if serving == usize::from(self.settings.workers) {
                self.stand_by();
            }
        } else if self.phase == Phase::Starting && started {
            self.phase = Phase::Running;
            self.notifier.ready();
            let took_ms = self.now.duration_since(self.started).as_millis() as u64;
            tracing::info!(workers = serving, took_ms, "running");
        }
        let serves = self.phase == Phase::Running && self.accepting();
        if let Some(parent) = self.parent.as_mut().filter(|_| self.phase != Phase::Draining) {
            parent.serves(serves);
        }
        let verb = match self.phase {
            Phase::Draining => ", draining",
            Phase::Standby => ", standing by",
            Phase::Starting | Phase::Running => "",
        };
        self.notifier.status(format!("{serving}/{} workers serving{verb}", self.settings.workers));
    }

    fn is_over(&mut self) -> Option<Result<(), Error>> {
        if self.places.iter().any(|place| place.workers().next().is_some()) {
            return None;
        }
        if self.phase == Phase::Draining {
            return self.operation.is_none().then(|| self.failure.take().map_or(Ok(()), Err));
        }
        let causes = self.active().iter().map(|place| match &place.slot {
            Slot::Fatal { cause } => Some(cause),
            Slot::Vacant { .. } | Slot::Starting { .. } | Slot::Serving { .. } => None,
            Slot::Draining { .. } | Slot::Killed { .. } | Slot::Stopped => None,
        });
        let causes: Option<Vec<&String>> = causes.collect();
        let cause = causes?.last()?.to_string();
        tracing::error!(cause, "every slot has given up: the service ends");
        Some(Err(Error::AllFatal { cause }))
    }

    /// The slots in service: those beyond were scaled away.
    pub(crate) fn active(&self) -> &[Place] {
        &self.places[..self.places.len().min(self.settings.workers.into())]
    }

    pub(crate) fn place(&self, slot: SlotId) -> &Place {
        &self.places[usize::from(slot)]
    }

    pub(crate) fn place_mut(&mut self, slot: SlotId) -> &mut Place {
        &mut self.places[usize::from(slot)]
    }

    /// The row of the worker that holds the slot.
    pub(crate) fn row(&self, slot: SlotId) -> Row<'_> {
        self.board.row(slot, self.place(slot).side)
    }

    pub(crate) fn terms(&self) -> Terms {
        Terms { start_timeout: self.settings.start_timeout, drain_timeout: self.settings.drain_timeout }
    }

    /// Says how this generation ends to the process that stays in front of it.
    pub(crate) fn part_from_parent(&mut self, well: bool) {
        let Some(parent) = self.parent.take() else { return };
        parent.ends(match &self.successor {
            Some(_) => Ok(()),
            None => Err(u8::from(!well)),
        });
        // The end of this process closes it: there is more to do until then, and the parent waits for it.
        std::mem::forget(parent);
    }

    /// Removes what the outside sees of us.
    pub(crate) fn clean_up(&self) {
        self.control.remove_file();
        self.door.remove_file();
        // Of two generations it is the other one's by now, or still. A service manager may keep the sockets for the next start.
        if self.peer.is_none() && self.successor.is_none() && !self.notifier.is_heard() {
            self.listeners.remove_files();
        }
    }
}
