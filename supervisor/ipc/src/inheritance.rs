//! What a worker is born with: everything the supervisor passes through `fork(2)`.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::rc::Rc;

use serde::{Deserialize, Serialize};

use crate::channel::Channel;
use crate::scoreboard::{Scoreboard, Side, Slot};

/// An address baton listens on.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Endpoint {
    /// TCP, IPv4 or IPv6.
    Tcp(SocketAddr),
    /// A Unix stream socket at this path.
    Unix(PathBuf),
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Tcp(address) => write!(f, "{address}"),
            Endpoint::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// One listening socket. Dups of it live in the supervisor and in whoever accepts from it.
#[derive(Debug)]
pub struct Listener {
    /// The slot whose socket this is, which is not always the slot that accepts from it (see
    /// [`crate::messages::ToWorker::Lend`]).
    pub slot: Slot,
    /// Where it listens.
    pub endpoint: Endpoint,
    /// The socket: non-blocking, close-on-exec, already in `listen(2)`.
    pub socket: OwnedFd,
}

impl Listener {
    /// Another descriptor of the same socket.
    pub fn try_clone(&self) -> io::Result<Listener> {
        let socket = self.socket.try_clone()?;
        Ok(Listener { slot: self.slot, endpoint: self.endpoint.clone(), socket })
    }
}

/// All that a new worker gets from its supervisor.
#[derive(Debug)]
pub struct Inheritance {
    /// The worker's place.
    pub slot: Slot,
    /// Which of the slot's rows and log rings it writes: whoever it relieves still writes the other.
    pub side: Side,
    /// The line to the supervisor. End of file on it means that the supervisor is gone.
    pub channel: Channel,
    /// The sockets of this slot, one per listen address.
    pub listeners: Vec<Listener>,
    /// Whether to accept from them at once; if not, [`crate::messages::ToWorker::Accept`] says when.
    pub accepting: bool,
    /// Shared memory of the whole generation.
    pub scoreboard: Rc<Scoreboard>,
}
