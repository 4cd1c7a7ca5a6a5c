//! The side that serves, and gives.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use baton_ipc::channel::ChannelError;
use baton_ipc::control::Generation;
use baton_ipc::messages::{Amount, Share, ToWorker};
use baton_ipc::receipt::Pauses;
use baton_ipc::scoreboard::{GAUGE_CONNECTIONS, Outcome};
use baton_ipc::takeover::{Message, StoreIdentity};
use baton_ipc::{Channel, Listener, MAX_SLOTS, Slot};

use super::{Peer, Role};
use crate::listeners::ensure_is;
use crate::place::Place;
use crate::slot::Slot as State;
use crate::supervisor::{Phase, Supervisor};
use crate::transfer::{Purpose, Transfer, Who};

impl Supervisor<'_> {
    /// Somebody is at the door.
    pub(crate) fn let_in(&mut self) {
        while let Some(channel) = self.door.accept() {
            // One at a time, and only until it has said hello.
            self.visitor = Some((channel, self.now));
        }
    }

    /// Who is at the door says who it is.
    pub(crate) fn hear_visitor(&mut self) {
        let Some((channel, _)) = &self.visitor else { return };
        let outcome = match channel.recv::<Message>() {
            Ok(None) => return,
            Ok(Some((Message::Hello { generation, backplane, store }, _))) => {
                self.admissible(&generation, &backplane, store).map(|()| generation)
            }
            Ok(Some((other, _))) => Err(format!("{other:?} instead of a hello")),
            Err(error @ ChannelError::Version { .. }) => Err(error.to_string()),
            Err(error) => {
                tracing::debug!(%error, "a successor has left before it said hello");
                self.visitor = None;
                return;
            }
        };
        let Some((channel, _)) = self.visitor.take() else { return };
        match outcome {
            Ok(generation) => match self.welcome(&channel) {
                Ok(()) => {
                    let color = &generation.color;
                    tracing::info!(color, pid = generation.pid, "a successor gets ready");
                    let tallied = self.tallied_by_successor();
                    self.peer = Some(Peer { channel, generation, role: Role::Successor, tallied });
                }
                Err(error) => tracing::error!(%error, "a successor could not be given what it needs"),
            },
            Err(reason) => {
                tracing::warn!(reason, "a successor was refused");
                self.tally(Outcome::Refused);
                // One that does not hear finds the line at its end.
                let _ = channel.send(&Message::Refused { reason }, &[]);
            }
        }
    }

    /// `Err`: why not.
    fn admissible(&self, generation: &Generation, backplane: &str, store: Option<StoreIdentity>) -> Result<(), String> {
        if self.settings.max_generations < 2 {
            return Err("it allows no other generation beside it (max-generations)".to_owned());
        }
        if let Some(peer) = &self.peer {
            let Peer { generation, role, .. } = peer;
            return Err(format!(
                "two generations run already, and no more may (max-generations): {} (pid {}) {}",
                generation.color,
                generation.pid,
                role.words()
            ));
        }
        if let Some(upgrade) = self.upgrading.as_ref().filter(|_| generation.color != self.settings.color) {
            return Err(upgrade.words());
        }
        if backplane != self.settings.backplane {
            return Err(format!(
                "counts would part: its backplane is {}, and the new one's {backplane}",
                self.settings.backplane
            ));
        }
        if let (Some(ours), Some(theirs)) = (self.settings.store, store)
            && ours != theirs
        {
            return Err(format!(
                "counts would part: the store of {backplane} was replaced while the service ran, and the new one would begin \
                 at nothing: put the state directory back that it was started with, or stop the service first"
            ));
        }
        if self.phase != Phase::Running {
            return Err("it is starting, or on its way out".to_owned());
        }
        if generation.pid == std::process::id() {
            return Err("it is the same".to_owned());
        }
        self.ensure_free().map_err(|(_, reason)| reason)
    }

    /// Everything that a successor needs to get ready.
    fn welcome(&self, channel: &Channel) -> Result<(), ChannelError> {
        let welcome = Message::Welcome {
            generation: self.generation(),
            configured: self.listeners.configured().to_vec(),
            bound: self.listeners.endpoints().to_vec(),
            slots: self.listeners.slots(),
        };
        let parent = self.parent.as_ref().map(AsFd::as_fd);
        let beside: Vec<BorrowedFd<'_>> = parent.into_iter().chain([self.board.memfd()]).collect();
        channel.send(&welcome, &beside)?;
        for slot in 0..self.listeners.slots() {
            let sockets: Vec<BorrowedFd<'_>> =
                self.listeners.of(slot).iter().map(|listener| listener.socket.as_fd()).collect();
            channel.send(&Message::Listeners { slot }, &sockets)?;
        }
        Ok(())
    }

    /// Does what the successor says.
    pub(crate) fn obey(&mut self, message: Message, mut fds: Vec<OwnedFd>) {
        match message {
            Message::Extra { slot, .. } if slot >= MAX_SLOTS => tracing::error!(slot, "a listener of no slot"),
            Message::Extra { slot, endpoint } => {
                for socket in fds {
                    if let Err(error) = ensure_is(&socket, &endpoint) {
                        tracing::error!(slot, error, "a listener of the successor is refused");
                        continue;
                    }
                    let extra = Listener { slot, endpoint: endpoint.clone(), socket };
                    // Whoever is first. A worker of ours may be lent it at once, and must not wait for clients at a socket
                    // to which none can come: epoll calls that closed for good, and tokio would ask it again and again.
                    if let Err(error) = self.listeners.listen(&extra) {
                        tracing::warn!(slot, %error, "cannot listen on a socket of the successor");
                    }
                    self.store(&extra);
                    self.listeners.add(extra);
                }
                for slot in self.places.len() as Slot..=slot {
                    self.places.push(Place::new(slot, State::Stopped, self.now));
                }
            }
            Message::Switch if self.is_moving() => {
                let reason = "it is replacing or moving workers just now".to_owned();
                self.say(&Message::Refused { reason }, &[]);
            }
            Message::Switch => {
                tracing::info!("the successor accepts from now on");
                self.take_role(Role::Taking);
                self.all_accept(false);
                self.say(&Message::Switched { workers: self.connections_of_workers() }, &[]);
            }
            Message::Lane { slot, lane } => {
                if let (Some(end), Some(who)) = (fds.pop(), self.holder(slot))
                    && let Err(error) = self.send_lane(who, lane, true, &Channel::from(end))
                {
                    tracing::warn!(slot, %error, "a worker gets no lane");
                }
            }
            Message::Give { id, slot, shares, amount } => self.order_to_give(id, slot, shares, amount),
            Message::Resume => {
                self.resume();
                // What is on its way arrives first, so that it can be given back.
                let ids: Vec<(Who, u64)> = self
                    .transfers
                    .iter()
                    .filter(|transfer| transfer.purpose == Purpose::Takeover)
                    .map(|transfer| (transfer.giver, transfer.id))
                    .collect();
                for (giver, id) in ids {
                    self.tell_one(giver, &ToWorker::CallOff { id });
                }
                self.resuming = true;
                self.say_resumed();
            }
            // It was killed, and what it has got comes back: there is nobody to leave to.
            Message::Retire { .. } if self.is_upgrade_ending() => {
                tracing::warn!("the successor said its last word late")
            }
            Message::Retire { keep } => {
                if !keep {
                    self.leave_to_successor();
                }
                self.say(&Message::Retired, &[]);
                if keep {
                    tracing::info!("handed over; kept warm for a rollback");
                    self.take_role(Role::Serving);
                    // After a rollback that came to nothing they have begun again.
                    self.all_accept(false);
                } else {
                    tracing::info!("handed over; ending");
                    self.successor = self.peer.take().map(|peer| peer.generation);
                    self.shut_down(None);
                }
            }
            other => tracing::error!(?other, "the successor says what only an incumbent may"),
        }
    }

    /// Tells the service manager that the successor serves.
    fn leave_to_successor(&mut self) {
        let Some(Peer { generation, .. }) = &self.peer else { return };
        if generation.color == self.settings.color {
            // An upgrade: the successor is of the same unit, of which it becomes the main process. Only this one is heard so far.
            self.notifier.successor(generation.pid);
        } else {
            self.unstore_listeners();
        }
    }

    /// Whether connections are on their way between our own workers.
    fn is_moving(&self) -> bool {
        let relieved = self.places.iter().any(|place| place.relief.is_some());
        self.operation.is_some() || self.rebalance.is_some() || relieved
    }

    fn order_to_give(&mut self, id: u64, slot: Slot, shares: Vec<Share>, amount: Amount) {
        let Some(giver) = self.holder(slot) else {
            let stayed = vec![("its worker is gone".to_owned(), 0)];
            return self.say(&Message::Given { id, handed: 0, stayed, broken: true }, &[]);
        };
        let lanes = shares.iter().map(|share| (share.lane, None)).collect();
        self.transfers.push(Transfer::new(id, Purpose::Takeover, giver, lanes, self.now));
        self.tell_one(giver, &ToWorker::Give { id, shares, amount });
    }

    /// The successor is dead, or gives up: everything is as before.
    pub(crate) fn resume(&mut self) {
        tracing::warn!("the successor does not take over: serving on");
        self.take_role(Role::Successor);
        self.show_ourselves();
        self.all_accept(true);
    }

    /// Once nothing is given any more, the successor may give back.
    pub(crate) fn say_resumed(&mut self) {
        let giving = self.transfers.iter().any(|transfer| transfer.purpose == Purpose::Takeover);
        if self.resuming && !giving {
            self.resuming = false;
            self.say(&Message::Resumed { workers: self.connections_of_workers() }, &[]);
        }
    }

    /// A worker of ours has taken what was given back. The successor keeps the books.
    pub(crate) fn pass_on_taken(&self, lane: u64, pauses: Pauses) {
        self.say(&Message::Taken { lane, pauses }, &[]);
    }

    /// An order of the successor is carried out.
    pub(crate) fn pass_on_given(&self, transfer: &Transfer) {
        let receipt = &transfer.receipt;
        let (id, handed, broken) = (transfer.id, receipt.handed, receipt.broken);
        self.say(&Message::Given { id, handed, stayed: receipt.stayed.clone(), broken }, &[]);
    }

    pub(super) fn take_role(&mut self, role: Role) {
        if let Some(peer) = &mut self.peer {
            peer.role = role;
        }
    }

    /// Who serves in a slot.
    pub(super) fn holder(&self, slot: Slot) -> Option<Who> {
        let place = self.places.get(usize::from(slot))?;
        place.holder().filter(|_| matches!(place.slot, State::Serving { .. }))
    }

    /// All workers that serve, with their connections.
    pub(super) fn connections_of_workers(&self) -> Vec<(Slot, u64)> {
        let count = |who: &Who| (who.slot, self.row(who.slot).gauge(GAUGE_CONNECTIONS).get());
        self.serving().iter().map(count).collect()
    }
}
