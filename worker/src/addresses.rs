//! Limits what the clients of one address may have: connections, and new sessions. What is counted, and how, is in
//! [`baton_ipc::scoreboard`]; here is who counts, and to whom the limits apply.

use std::cell::Cell;
use std::fmt;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use baton_ipc::scoreboard::{AddressKey, monotonic_ms, monotonic_us, network};
use baton_ipc::{Scoreboard, Side, Slot};

use crate::metrics::Refused;
use crate::settings::PerAddress;

/// The shortest time between two log lines about addresses that are at their limit.
const WARN_INTERVAL_MS: u64 = 10_000;

/// The counts of all workers; this one writes those of its own row.
#[derive(Clone, Debug)]
pub(crate) struct Addresses(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    board: Rc<Scoreboard>,
    slot: Slot,
    side: Side,
    warned_ms: Cell<Option<u64>>,
}

/// A connection that is counted, until this is dropped or the count is kept.
#[derive(Debug)]
pub(crate) struct Counted {
    addresses: Addresses,
    key: Option<AddressKey>,
}

/// Why a client is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exceeded {
    /// Its address has all the connections that it may have.
    Connections {
        /// So many.
        limit: u32,
    },
    /// Its address has begun too many sessions.
    NewSessions {
        /// So many a minute.
        limit: u32,
        /// When it may begin the next one.
        wait: Duration,
    },
}

impl Exceeded {
    /// How it is counted.
    pub(crate) fn reason(self) -> Refused {
        match self {
            Exceeded::Connections { .. } => Refused::Address,
            Exceeded::NewSessions { .. } => Refused::NewSessions,
        }
    }

    /// The time before which it is of no use to come back, as far as that is known.
    pub(crate) fn wait(self) -> Duration {
        match self {
            Exceeded::Connections { .. } => Duration::ZERO,
            Exceeded::NewSessions { wait, .. } => wait,
        }
    }
}

impl fmt::Display for Exceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exceeded::Connections { limit } => write!(f, "this address has {limit} connections, which is the limit"),
            Exceeded::NewSessions { limit, wait: _ } => {
                write!(f, "this address has begun too many sessions, the limit is {limit} a minute")
            }
        }
    }
}

impl Addresses {
    pub(crate) fn new(board: Rc<Scoreboard>, slot: Slot, side: Side) -> Addresses {
        Addresses(Rc::new(Inner { board, slot, side, warned_ms: Cell::new(None) }))
    }

    /// Counts a connection from this address, within its limit or not.
    pub(crate) fn count(&self, address: IpAddr) -> Counted {
        let key = self.recount(self.0.board.address_key(address));
        Counted { addresses: self.clone(), key }
    }

    /// Counts a connection that another worker has counted so far. None: there is no place for its address.
    pub(crate) fn recount(&self, key: AddressKey) -> Option<AddressKey> {
        let table = self.0.board.connections(self.0.slot, self.0.side);
        table.add(key).then_some(key)
    }

    /// A connection is gone from this worker.
    pub(crate) fn forget(&self, key: Option<AddressKey>) {
        if let Some(key) = key {
            self.0.board.connections(self.0.slot, self.0.side).remove(key);
        }
    }

    /// Whether this address, a connection from which is counted already, has more than it may have.
    pub(crate) fn check_connections(&self, address: IpAddr, limits: &PerAddress) -> Result<(), Exceeded> {
        let Some(limit) = limits.connections.filter(|_| !limits.exempts(address)) else { return Ok(()) };
        match self.0.board.connections_of(self.0.board.address_key(address)) <= u64::from(limit) {
            true => Ok(()),
            false => Err(self.warn(address, Exceeded::Connections { limit })),
        }
    }

    /// Counts a new session of this address, if it may begin one.
    pub(crate) fn begin_session(&self, address: IpAddr, limits: &PerAddress) -> Result<(), Exceeded> {
        let Some(limit) = limits.new_sessions.filter(|_| !limits.exempts(address)) else { return Ok(()) };
        let board = &self.0.board;
        let taken = board.new_sessions().take(board.address_key(address), limit, monotonic_us());
        taken.map_err(|wait| self.warn(address, Exceeded::NewSessions { limit, wait }))
    }

    /// Logs that an address is at its limit: now and then, whatever it does.
    fn warn(&self, address: IpAddr, exceeded: Exceeded) -> Exceeded {
        let now = monotonic_ms();
        if self.0.warned_ms.get().is_none_or(|warned| warned + WARN_INTERVAL_MS <= now) {
            self.0.warned_ms.set(Some(now));
            let address = network(address);
            tracing::warn!(event = "address_limit", address, "refusing clients: {exceeded}");
        }
        exceeded
    }
}

impl Counted {
    /// What counts the connection from now on: to be given to [`Addresses::forget`] in the end.
    pub(crate) fn keep(mut self) -> Option<AddressKey> {
        self.key.take()
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.addresses.forget(self.key.take());
    }
}

impl PerAddress {
    /// Whether the limits do not apply to this address.
    fn exempts(&self, address: IpAddr) -> bool {
        self.exempt.iter().any(|network| network.contains(address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(board: &Rc<Scoreboard>, side: Side) -> Addresses {
        board.row(0, side).tick().set(monotonic_ms());
        Addresses::new(board.clone(), 0, side)
    }

    fn limits(connections: u32, new_sessions: u32, exempt: &[&str]) -> PerAddress {
        let exempt = exempt.iter().map(|network| network.parse().unwrap()).collect();
        PerAddress { connections: Some(connections), new_sessions: Some(new_sessions), exempt }
    }

    #[test]
    fn a_connection_counts_from_its_handshake_to_its_end_in_whichever_worker() {
        let board = Rc::new(Scoreboard::create(1).unwrap());
        let (old, new) = (addresses(&board, Side::A), addresses(&board, Side::B));
        let (client, limits) = ("203.0.113.7".parse().unwrap(), limits(2, 1, &[]));
        let kept = old.count(client).keep();
        let handshake = new.count(client);
        assert_eq!(new.check_connections(client, &limits), Ok(()));
        let third = old.count(client);
        assert_eq!(old.check_connections(client, &limits), Err(Exceeded::Connections { limit: 2 }));
        assert_eq!(old.check_connections("203.0.113.8".parse().unwrap(), &limits), Ok(()));
        drop(third);
        assert_eq!(old.check_connections(client, &limits), Ok(()));
        // From one worker to the other.
        let taken = new.recount(kept.unwrap());
        old.forget(kept);
        assert_eq!(board.connections_of(taken.unwrap()), 2);
        drop(handshake);
        new.forget(taken);
        assert_eq!(board.connections_of(taken.unwrap()), 0);
    }

    #[test]
    fn the_limits_do_not_apply_to_exempt_networks_nor_where_there_are_none() {
        let board = Rc::new(Scoreboard::create(1).unwrap());
        let ours = addresses(&board, Side::A);
        let limits = limits(1, 1, &["10.0.0.0/8", "2001:db8::/32"]);
        let unlimited = PerAddress { connections: None, new_sessions: None, exempt: Vec::new() };
        for (client, exempt) in [
            ("10.1.2.3", true),
            ("::ffff:10.1.2.3", true),
            ("2001:db8:1::1", true),
            ("11.0.0.1", false),
            ("2001:db9::1", false),
        ] {
            let client = client.parse().unwrap();
            let _two = [ours.count(client), ours.count(client)];
            assert_eq!(ours.check_connections(client, &limits).is_ok(), exempt, "{client}");
            assert_eq!(ours.check_connections(client, &unlimited), Ok(()));
            assert_eq!(ours.begin_session(client, &limits), Ok(()));
            assert_eq!(ours.begin_session(client, &limits).is_ok(), exempt, "{client}");
            assert_eq!(ours.begin_session(client, &unlimited), Ok(()));
        }
    }
}
