//! One generation takes over from another: listeners, scoreboard, connections.
//!
//! The *successor* connects to the door of the *incumbent* (`COLOR.takeover`, `SOCK_SEQPACKET`) and drives; the incumbent
//! does as it is told, and goes on serving whenever the successor is gone.
//!
//! ```text
//!   successor                                incumbent
//!   ── Hello ──────────────────────────────▶ refuses, before anything is touched, or:
//!   ◀───────────── Welcome, Listeners … ────
//!   forks its workers; they do not accept
//!   STANDBY
//!   preflight
//!   accepts
//!   ── Switch ─────────────────────────────▶ accepts no more
//!   ◀──────────────────────── Switched ─────
//!   ── Lane …, Give … ─────────────────────▶ its workers give
//!   ◀──────────────────── Given …, Taken … ─
//!   verifies through the public address
//!   ── Retire ─────────────────────────────▶ drains what could not go, and exits; or is kept
//! ```
//!
//! Whatever goes wrong before `Retire`: the successor says `Resume`, has its workers give back what they got, and ends. If it
//! is dead its workers give back by themselves (see `worker/src/handoff.rs`), and the incumbent accepts again because the
//! line is at its end. If the incumbent is dead, its workers give everything to the successor's, which then is alone.

mod budget;
mod door;
mod handing;
mod incumbent;
mod plan;
mod probe;
mod rollback;
mod successor;
mod tally;
mod upgrade;

use baton_ipc::control::{Generation, PeerStatus};
use baton_ipc::messages::ToWorker;
use baton_ipc::takeover::Message;
use baton_ipc::{Channel, ChannelError};
use std::path::Path;

pub(crate) use door::{Door, Joined};
pub(crate) use probe::{Probe, ProbeJob};
pub(crate) use successor::{Driver, Wishes};
pub(crate) use upgrade::Upgrade;

use crate::supervisor::Supervisor;

/// The other generation.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) channel: Channel,
    pub(crate) generation: Generation,
    pub(crate) role: Role,
    /// How many takeovers its side of the scoreboard had counted when it came in; 0 for an incumbent.
    pub(crate) tallied: u64,
}

/// What the other generation is to this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// It gets ready, or waits.
    Successor,
    /// It accepts, and gets the connections.
    Taking,
    /// It serves, and this one is kept.
    Serving,
    /// It serves, and this one waits.
    Incumbent,
    /// It gives its connections to this one.
    Giving,
    /// It has nothing any more, and is kept for a rollback.
    Kept,
}

impl Role {
    pub(crate) fn words(self) -> &'static str {
        match self {
            Role::Successor => "stands by",
            Role::Taking => "takes over",
            Role::Serving | Role::Incumbent => "serves",
            Role::Giving => "hands over",
            Role::Kept => "is kept for a rollback",
        }
    }

    /// Whether this generation is to accept.
    fn we_accept(self) -> bool {
        match self {
            Role::Successor | Role::Giving | Role::Kept => true,
            Role::Taking | Role::Serving | Role::Incumbent => false,
        }
    }
}

impl Supervisor<'_> {
    /// Whether the workers of this generation are to accept.
    pub(crate) fn accepting(&self) -> bool {
        self.peer.as_ref().is_none_or(|peer| peer.role.we_accept())
    }

    /// Whether the other generation is the one that drives.
    pub(crate) fn is_incumbent(&self) -> bool {
        let role = self.peer.as_ref().map(|peer| peer.role);
        matches!(role, Some(Role::Successor | Role::Taking | Role::Serving))
    }

    /// What `status` says of the other generation.
    pub(crate) fn peer_status(&self) -> Option<PeerStatus> {
        let Some(peer) = &self.peer else {
            // Its successor has everything, and this one ends.
            let generation = self.successor.clone()?;
            return Some(PeerStatus { generation, role: Role::Serving.words().to_owned() });
        };
        Some(PeerStatus { generation: peer.generation.clone(), role: peer.role.words().to_owned() })
    }

    /// This generation.
    pub(crate) fn generation(&self) -> Generation {
        generation(&self.settings.color, self.settings.version)
    }

    /// Says something to the other generation. One that is gone is noticed at the end of the line.
    pub(crate) fn say(&self, message: &Message, fds: &[std::os::fd::BorrowedFd<'_>]) {
        let Some(peer) = &self.peer else { return };
        if let Err(error) = peer.channel.send(message, fds) {
            tracing::error!(color = peer.generation.color, %error, "the other generation does not hear");
        }
    }

    /// The other generation has news.
    pub(crate) fn hear_peer(&mut self) {
        loop {
            let Some(peer) = &self.peer else { return };
            match peer.channel.recv::<Message>() {
                Ok(Some((message, fds))) => match peer.role {
                    Role::Successor | Role::Taking | Role::Serving => self.obey(message, fds),
                    Role::Incumbent | Role::Giving | Role::Kept => self.answered(message),
                },
                Ok(None) => return,
                // The line is there still: to take it for gone would leave both generations serving.
                Err(
                    error @ (ChannelError::Truncated(_)
                    | ChannelError::Malformed(_)
                    | ChannelError::Version { .. }
                    | ChannelError::TooLarge(_)
                    | ChannelError::Full),
                ) => tracing::error!(%error, "the other generation says what cannot be understood"),
                Err(error @ (ChannelError::Closed | ChannelError::Io(_))) => {
                    let Some(peer) = self.peer.take() else { return };
                    self.tally_loss(&peer);
                    let color = peer.generation.color;
                    tracing::warn!(color, pid = peer.generation.pid, %error, "the other generation is gone");
                    self.clear_other_side();
                    match peer.role {
                        Role::Successor => {}
                        Role::Taking | Role::Serving => self.resume(),
                        Role::Incumbent | Role::Giving | Role::Kept => self.incumbent_is_gone(peer.role),
                    }
                    return;
                }
            }
        }
    }

    /// Tells every worker of ours whether to accept.
    pub(crate) fn all_accept(&mut self, accept: bool) {
        for slot in 0..self.places.len() as baton_ipc::Slot {
            self.tell(slot, &ToWorker::Accept { accept });
        }
    }

    /// Nobody reaps the other generation's workers any more: what they have counted of the present is theirs to say again.
    fn clear_other_side(&self) {
        for slot in 0..self.board.slots() {
            if let Some(place) = self.places.get(usize::from(slot)) {
                self.board.clear(slot, place.side.other());
            }
        }
    }

    /// What readers of the scoreboard shall see is ours.
    pub(crate) fn show_ourselves(&self) {
        self.board.set_slots(self.places.len() as u16);
        self.board.set_current(None, self.side);
        for (slot, place) in self.places.iter().enumerate() {
            self.board.set_current(Some(slot as baton_ipc::Slot), place.side);
        }
    }
}

fn generation(color: &str, version: &str) -> Generation {
    Generation { color: color.to_owned(), pid: std::process::id(), version: version.to_owned() }
}

/// The door of a generation.
/// Under which name a generation of a color comes up while another one of that color runs.
pub(crate) fn next_name(color: &str) -> String {
    format!("{color}.next")
}

/// Returns the longest path of a socket that any generation of a service needs in its runtime directory.
pub fn longest_socket_path(directory: &Path) -> std::path::PathBuf {
    door_path(directory, &next_name("green"))
}

fn door_path(directory: &Path, name: &str) -> std::path::PathBuf {
    directory.join(format!("{name}.takeover"))
}
