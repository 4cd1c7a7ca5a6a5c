//! What two supervisors say to each other when one generation takes over from another, over a [`crate::Channel`].

use serde::{Deserialize, Serialize};

use crate::control::Generation;
use crate::inheritance::Endpoint;
use crate::messages::{Amount, Share};
use crate::receipt::Pauses;
use crate::scoreboard::Slot;

/// How many connections a worker that may have so many takes over from another generation. It goes on accepting with what
/// is left; one that is full to the brim answers nobody, not even who looks whether it serves.
pub fn takes(limit: u64) -> u64 {
    limit.saturating_sub(limit / 50 + 1)
}

/// Tells one embedded store from another, whatever paths lead to them: device and inode of two files that stay the same for as
/// long as anybody uses a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreIdentity {
    /// Of the data.
    pub data: (u64, u64),
    /// Of the file that each user of the store has locked.
    pub users: (u64, u64),
}

/// One message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Message {
    /// Successor: who wants to take over.
    Hello {
        /// Who.
        generation: Generation,
        /// What its workers share: counts would part if it were something else.
        backplane: String,
        /// Their store, if that is what they share; none from a version that does not say.
        #[serde(default)]
        store: Option<StoreIdentity>,
    },
    /// Incumbent, to [`Message::Hello`] or [`Message::Switch`]: not now, or never; nothing has changed.
    Refused {
        /// Why.
        reason: String,
    },
    /// Incumbent: the scoreboard, as the last descriptor beside this; before it the line to a process that stays in front of all
    /// generations, if there is one; one [`Message::Listeners`] a slot follows.
    Welcome {
        /// Who serves.
        generation: Generation,
        /// Addresses as they were configured.
        configured: Vec<Endpoint>,
        /// The same, with the ports that the kernel chose.
        bound: Vec<Endpoint>,
        /// How many slots have sockets.
        slots: Slot,
    },
    /// Incumbent: the sockets of a slot, as descriptors, in the order of the addresses.
    Listeners {
        /// Which slot.
        slot: Slot,
    },
    /// Successor: a socket that it will listen on too, as the descriptor. While anybody has it, nobody is refused.
    Extra {
        /// Whose it will be.
        slot: Slot,
        /// Where.
        endpoint: Endpoint,
    },
    /// Successor: accept no more.
    Switch,
    /// Incumbent: nobody accepts here any more.
    Switched {
        /// The workers, and their connections.
        workers: Vec<(Slot, u64)>,
    },
    /// Successor: the end of a lane for a worker, as the descriptor.
    Lane {
        /// The worker.
        slot: Slot,
        /// The lane's name.
        lane: u64,
    },
    /// Successor: a worker shall give.
    Give {
        /// Chosen by the successor.
        id: u64,
        /// The worker.
        slot: Slot,
        /// Over which lanes.
        shares: Vec<Share>,
        /// How many.
        amount: Amount,
    },
    /// Incumbent: it has.
    Given {
        /// Of the order.
        id: u64,
        /// Connections that others serve now.
        handed: u64,
        /// Connections that stayed, by why.
        stayed: Vec<(String, u64)>,
        /// The worker died before it was done.
        broken: bool,
    },
    /// Incumbent: a worker has taken what was given back to it.
    Taken {
        /// Over which lane.
        lane: u64,
        /// For how long those connections were not read.
        pauses: Pauses,
    },
    /// Successor: accept again; the connections come back.
    Resume,
    /// Incumbent: it accepts.
    Resumed {
        /// The workers, and their connections.
        workers: Vec<(Slot, u64)>,
    },
    /// Successor: it serves.
    Retire {
        /// Stay warm for a rollback, rather than go.
        keep: bool,
    },
    /// Incumbent: as you say.
    Retired,
}
