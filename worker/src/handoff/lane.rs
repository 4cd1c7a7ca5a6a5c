//! The receiving half of a lane, and all lanes of a worker.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use baton_ipc::Channel;
use baton_ipc::channel::ChannelError;
use baton_ipc::messages::{FromWorker, Share};
use baton_ipc::receipt::Pauses;
use baton_ipc::scoreboard::monotonic_us;
use baton_ipc::takeover::takes;
use tokio::sync::{Notify, oneshot};
use tokio::task::spawn_local;
use tokio::time::timeout;

use super::packet::{Item, Packet};
use super::{Arrival, Carried};
use crate::app::App;
use crate::metrics::PAUSE;
use crate::readable::Readable;
use crate::worker::Shared;
use baton_ipc::fault;

/// How long a giver may take to say what becomes of what is held: longer than it waits for an answer itself.
pub(super) const DECISION: Duration = Duration::from_secs(3);

/// A lane, as its giver needs it.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) channel: Channel,
    /// The other end belongs to another supervisor.
    refuge: bool,
    /// We have shut it down ourselves: its end says nothing about the other process.
    closed_here: Cell<bool>,
    /// Held by whoever gives a group: an order, and the rush of one who has lost its supervisor, may meet here.
    pub(super) turn: tokio::sync::Mutex<()>,
    /// The number of the last group.
    pub(super) number: Cell<u64>,
    /// Who waits for [`Packet::Adopted`].
    asked: RefCell<Option<oneshot::Sender<Adopted>>>,
}

/// What the taker has said to a group: its number, and the places that it refuses.
pub(super) type Adopted = (u64, Vec<(u16, String)>);

/// The lanes of a worker, by the names that the supervisor gives them.
#[derive(Debug, Default)]
pub(crate) struct Lanes {
    open: RefCell<HashMap<u64, Rc<Lane>>>,
    /// Connections that are held, on all lanes.
    held: Cell<usize>,
    /// Orders that are being carried out.
    giving: Cell<usize>,
    /// None of these is to be carried out any further.
    all_called_off: Cell<bool>,
    /// Something has changed about these.
    changed: Notify,
    /// Orders that are not to be carried out any further.
    called_off: RefCell<HashSet<u64>>,
}

/// A group that is held.
struct Held<S> {
    group: u64,
    /// None in the places that were refused.
    items: Vec<Option<Guest<S>>>,
}

/// One that is held.
enum Guest<S> {
    WebSocket(Box<Arrival<S>>),
    Http { socket: OwnedFd, unread: Vec<u8> },
}

impl<S> Held<S> {
    fn count(&self) -> usize {
        self.items.iter().flatten().count()
    }
}

impl Lane {
    /// Nothing can be put in any more, at either end. What is in it is read still.
    pub(super) fn close(&self) {
        self.closed_here.set(true);
        let _ = nix::sys::socket::shutdown(self.channel.as_raw_fd(), nix::sys::socket::Shutdown::Both);
    }

    pub(super) fn is_closed_here(&self) -> bool {
        self.closed_here.get()
    }

    /// Where the answer to the next group will be.
    pub(super) fn ask(&self) -> oneshot::Receiver<Adopted> {
        let (sender, receiver) = oneshot::channel();
        self.asked.replace(Some(sender));
        receiver
    }
}

impl Lanes {
    pub(super) fn find(&self, name: u64) -> Option<Rc<Lane>> {
        self.open.borrow().get(&name).cloned()
    }

    /// An order to give is not to be carried out any further.
    pub(crate) fn call_off(&self, id: u64) {
        self.called_off.borrow_mut().insert(id);
    }

    pub(super) fn is_called_off(&self, id: u64) -> bool {
        self.all_called_off.get() || self.called_off.borrow().contains(&id)
    }

    pub(super) fn begin_of(&self) {
        self.giving.set(self.giving.get() + 1);
    }

    pub(super) fn end_of(&self, id: u64) {
        self.called_off.borrow_mut().remove(&id);
        self.giving.set(self.giving.get() - 1);
        self.changed.notify_one();
    }

    /// Calls off all orders, and waits until each has come to an end: a group that is under way is decided first.
    pub(crate) async fn stop_giving(&self) {
        self.all_called_off.set(true);
        let ended = async {
            while self.giving.get() > 0 {
                self.changed.notified().await;
            }
        };
        // A taker that stands still has been given up by then.
        let _ = timeout(DECISION, ended).await;
        self.all_called_off.set(false);
    }

    /// Connections that are held, on all lanes.
    pub(crate) fn held(&self) -> usize {
        self.held.get()
    }

    /// Whether connections are held that may be ours in a moment.
    pub(super) fn hold_some(&self) -> bool {
        self.held.get() > 0
    }

    /// Closes all lanes, and takes what is in them still: a giver that has said go has let go.
    pub(crate) async fn wind_up(&self) {
        let decided = async {
            while self.hold_some() {
                self.changed.notified().await;
            }
        };
        // A giver that stands still finds that the lane is closed, and keeps what it has offered.
        let _ = timeout(DECISION, decided).await;
        let names: Vec<u64> = self.open.borrow().keys().copied().collect();
        names.into_iter().for_each(|name| self.close(name));
        let ended = async {
            while !self.open.borrow().is_empty() {
                self.changed.notified().await;
            }
        };
        // Each reads what is there, and ends.
        let _ = timeout(DECISION, ended).await;
    }

    /// Equal shares for those at whose other end somebody goes on when our supervisor is lost.
    pub(crate) fn refuges(&self) -> Vec<Share> {
        let lanes = self.open.borrow();
        let refuges = lanes.iter().filter(|(_, lane)| lane.refuge);
        refuges.map(|(name, _)| Share { lane: *name, weight: 1 }).collect()
    }

    /// Lets go of a lane: its other end finds it closed.
    pub(crate) fn close(&self, name: u64) {
        if let Some(lane) = self.open.borrow().get(&name) {
            // Its task reads what is in it, and ends.
            lane.close();
        }
    }

    /// Opens a lane, and takes what comes over it from now on.
    pub(crate) fn open<A: App>(shared: &Rc<Shared<A>>, name: u64, refuge: bool, socket: OwnedFd) -> io::Result<()> {
        let channel = Channel::from(socket);
        let readable = Readable::watch(channel.as_fd())?;
        let lane = Rc::new(Lane {
            channel,
            refuge,
            closed_here: Cell::new(false),
            turn: Default::default(),
            number: Cell::new(0),
            asked: RefCell::default(),
        });
        shared.lanes.open.borrow_mut().insert(name, lane.clone());
        let shared = shared.clone();
        spawn_local(async move {
            let pauses = Taker { shared: &shared, lane: &lane, name, held: None, pauses: Pauses::default() };
            pauses.listen(&readable).await;
            shared.lanes.open.borrow_mut().remove(&name);
            shared.lanes.changed.notify_one();
        });
        Ok(())
    }
}

/// Takes what comes over a lane.
struct Taker<'a, A: App> {
    shared: &'a Rc<Shared<A>>,
    lane: &'a Lane,
    name: u64,
    held: Option<Held<A::State>>,
    pauses: Pauses,
}

impl<A: App> Taker<'_, A> {
    async fn listen(mut self, readable: &Readable) {
        loop {
            match self.lane.channel.recv_packet() {
                Ok(Some((bytes, sockets))) => self.hear(&bytes, sockets),
                Ok(None) => {
                    if readable.ready().await.is_err() {
                        break;
                    }
                }
                Err(ChannelError::Closed | ChannelError::Io(_)) => break,
                Err(error) => {
                    // Out of descriptors, most likely: those that did arrive are closed again.
                    tracing::warn!(lane = self.name, %error, "connections cannot be taken over");
                    self.say(&Packet::Refused { reason: error.to_string() });
                }
            }
        }
        self.lane.asked.take();
        if self.lane.is_closed_here() {
            // The giver finds it closed, and keeps what it has not said go for.
            if let Some(held) = self.held.take() {
                self.decided(&held);
            }
        } else {
            // The giver is dead. It did not say that they stay with it, so nobody else reads them.
            self.go(Vec::new());
        }
        self.report();
    }

    fn hear(&mut self, bytes: &[u8], sockets: Vec<OwnedFd>) {
        match Packet::decode(bytes) {
            Ok(Packet::State { group, items }) => self.hold(group, items, sockets),
            Ok(Packet::Go { group, late }) => {
                if self.held.as_ref().is_some_and(|held| held.group == group) {
                    self.go(late);
                    fault::point("handoff taken");
                }
            }
            Ok(Packet::Abort { group }) => {
                if let Some(held) = self.held.take_if(|held| held.group == group) {
                    self.decided(&held);
                }
            }
            Ok(Packet::Adopted { group, refused }) => self.answer((group, refused)),
            Ok(Packet::Refused { reason }) => self.answer((ALL_GROUPS, vec![(0, reason)])),
            Ok(Packet::End) => self.report(),
            Err(error) => {
                tracing::error!(lane = self.name, %error, "a packet cannot be understood");
                self.say(&Packet::Refused { reason: format!("it is not understood: {error}") });
            }
        }
    }

    fn answer(&self, adopted: Adopted) {
        // One that comes too late is nobody's: the giver has taken them back.
        if let Some(asked) = self.lane.asked.take() {
            let _ = asked.send(adopted);
        }
    }

    /// Holds what can be held, and says so.
    fn hold(&mut self, group: u64, items: Vec<Item>, sockets: Vec<OwnedFd>) {
        let mut refused = Vec::new();
        let mut held = Vec::with_capacity(items.len());
        if items.len() != sockets.len() {
            self.say(&Packet::Refused { reason: format!("{} descriptors for {}", sockets.len(), items.len()) });
            return;
        }
        let mut room = self.room();
        for (place, (item, socket)) in (0..).zip(items.into_iter().zip(sockets)) {
            let guest = match item {
                _ if room == 0 => Err("no room for more connections".to_owned()),
                Item::Http { unread } => Ok(Guest::Http { socket, unread }),
                Item::WebSocket(bytes) => Carried::decode::<A::State>(&bytes)
                    .map(|(carried, state)| Guest::WebSocket(Box::new(Arrival { socket, carried, state }))),
            };
            match guest {
                Ok(guest) => {
                    room -= 1;
                    held.push(Some(guest));
                }
                Err(reason) => {
                    refused.push((place, reason));
                    held.push(None);
                }
            }
        }
        let held = Held { group, items: held };
        let lanes = &self.shared.lanes;
        lanes.held.set(lanes.held.get() + held.count());
        if let Some(undecided) = self.held.replace(held) {
            self.decided(&undecided);
        }
        fault::point("handoff held");
        self.say(&Packet::Adopted { group, refused });
        fault::point("handoff adopted");
    }

    /// How many more connections there may be here.
    fn room(&self) -> usize {
        if self.shared.hub.borrow().draining || self.shared.orphaned.get() {
            return 0;
        }
        let limit = self.shared.max_connections();
        let most = if self.lane.refuge { takes(limit as u64) as usize } else { limit };
        // Those that other lanes bring at the same time take room before they are here.
        let held = self.shared.lanes.held();
        let websockets = self.shared.hub.borrow().connections.len() + held;
        let descriptors = self.shared.descriptors.all.saturating_sub(self.shared.open_descriptors() + held);
        most.saturating_sub(websockets).min(descriptors)
    }

    /// What is held is ours.
    fn go(&mut self, late: Vec<(u16, Vec<u8>)>) {
        let Some(held) = self.held.take() else { return };
        self.decided(&held);
        let mut late: HashMap<u16, Vec<u8>> = late.into_iter().collect();
        for (place, guest) in (0..).zip(held.items) {
            match guest {
                Some(Guest::WebSocket(arrival)) => {
                    let parked_us = arrival.carried.parked_us;
                    let late = late.remove(&place).unwrap_or_default();
                    self.shared.hub.borrow_mut().welcome(*arrival, &late);
                    let pause = monotonic_us().saturating_sub(parked_us);
                    self.pauses.note(pause);
                    self.shared.hub.borrow().metrics.observe(&PAUSE, Duration::from_micros(pause), 1);
                }
                Some(Guest::Http { socket, unread }) => {
                    if let Err(error) = crate::accept::admit_moved(self.shared, socket, unread) {
                        tracing::warn!(%error, "an HTTP connection was lost");
                    }
                }
                None => {}
            }
        }
        // Its turn reads what has come meanwhile.
        self.shared.settled.notify_one();
    }

    /// What was held is not held any more.
    fn decided(&self, held: &Held<A::State>) {
        let lanes = &self.shared.lanes;
        lanes.held.set(lanes.held.get() - held.count());
        lanes.changed.notify_one();
    }

    fn say(&self, packet: &Packet) {
        // A giver that is gone is noticed at the end of the lane.
        if let Err(error) = self.lane.channel.send_packet(&packet.encode(), &[]) {
            tracing::debug!(lane = self.name, %error, "the giver does not hear");
        }
    }

    fn report(&mut self) {
        let pauses = std::mem::take(&mut self.pauses);
        if let Err(error) = self.shared.tell_supervisor(&FromWorker::Taken { lane: self.name, pauses }) {
            tracing::debug!(%error, "the supervisor does not hear what was taken over");
        }
    }
}

/// The number in place of a group's when there is only one that can be meant.
pub(super) const ALL_GROUPS: u64 = u64::MAX;
