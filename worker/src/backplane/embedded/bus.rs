//! Publications in the embedded store: a log in commit order, the same for all workers, and a datagram to wake them.
//!
//! The log is what counts: a lost datagram only delays a worker until the next one, and a full socket buffer means that
//! a wake-up is waiting already. Each worker reads on from where it was, and knows from the numbers when it missed some.

use std::io::{self, ErrorKind};
use std::ops::Bound;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use heed::{Env, RoTxn, RwTxn, WithoutTls};
use uuid::Uuid;

use super::{BackplaneError, Room, Table};
use crate::batch::Publication;

/// How many publications the log keeps for workers that lag.
pub(super) const KEPT: u64 = 16 * 1024;

/// Publications that are dropped at once, when the log takes too much space.
const DROPPED_AT_ONCE: usize = 1024;

/// How many a worker takes at once.
const AT_ONCE: usize = 256;

/// Bytes after which a worker takes no more at once.
const BYTES_AT_ONCE: usize = 1024 * 1024;

/// How many wake-ups are taken at once; more than a queue holds unless the machine is set otherwise
/// (`net.unix.max_dgram_qlen`, 10 or 512).
const WAKE_UPS_AT_ONCE: usize = 1024;

/// How many names are tried for a wake-up socket.
const NAMES: usize = 8;

pub(super) struct Bus {
    /// Sequence number (big-endian) → length of the room's name (little-endian u16), room, text.
    pub(super) log: Table,
    /// The abstract address of each worker's wake-up socket → nothing.
    pub(super) peers: Table,
    socket: UnixDatagram,
    name: Vec<u8>,
    /// The last number that this worker has taken.
    taken: u64,
    /// How much space the log may take, in pages.
    max_pages: usize,
}

impl Bus {
    pub(super) fn open(log: Table, peers: Table, max_pages: usize) -> Result<Bus, BackplaneError> {
        let io = |source| BackplaneError::Io { what: "binding the wake-up socket".into(), source };
        let (socket, name) = bind(random_name).map_err(io)?;
        socket.set_nonblocking(true).map_err(io)?;
        Ok(Bus { log, peers, socket, name, taken: 0, max_pages })
    }

    pub(super) fn wake_up(&self) -> &UnixDatagram {
        &self.socket
    }

    /// Adds publications, and drops the oldest beyond what the log may take. Where room is scarce it does not grow.
    pub(super) fn append(
        &self,
        txn: &mut RwTxn<'_>,
        room: Room,
        publications: &[Publication],
    ) -> Result<(), BackplaneError> {
        if publications.is_empty() {
            return Ok(());
        }
        let max_pages = match room {
            Room::Plenty => self.max_pages,
            Room::Scarce(_) | Room::Full(_) => self.max_pages.min(self.pages(txn)?),
        };
        let mut number = last(self.log, txn)?;
        for Publication { room, text } in publications {
            number += 1;
            let mut value = Vec::with_capacity(2 + room.len() + text.len());
            let length = u16::try_from(room.len()).unwrap_or(u16::MAX);
            value.extend_from_slice(&length.to_le_bytes());
            value.extend_from_slice(&room.as_bytes()[..length.into()]);
            value.extend_from_slice(text.as_bytes());
            self.log.put(txn, &number.to_be_bytes(), &value)?;
        }
        // Twice as many as came, so that a log that is too long shrinks, and the work stays bounded. Of large ones fewer
        // are kept: they must not take the space of the counts.
        let oldest = number.saturating_sub(KEPT);
        for dropped in 0..2 * publications.len() + DROPPED_AT_ONCE {
            let Some((key, _)) = self.log.first(txn)? else { break };
            let Ok(first) = key.try_into().map(u64::from_be_bytes) else { break };
            let too_many = first <= oldest && dropped < 2 * publications.len();
            // The newest stays, whatever its size: its number is the one to go on from.
            if !too_many && (first == number || self.pages(txn)? <= max_pages) {
                break;
            }
            self.log.delete(txn, &first.to_be_bytes())?;
        }
        Ok(())
    }

    fn pages(&self, txn: &RoTxn<'_>) -> Result<usize, heed::Error> {
        let stat = self.log.stat(txn)?;
        Ok(stat.branch_pages + stat.leaf_pages + stat.overflow_pages)
    }

    /// Wakes every other worker. Returns those that are gone, to be forgotten.
    pub(super) fn wake_others(&self, env: &Env<WithoutTls>) -> Result<Vec<Vec<u8>>, BackplaneError> {
        let mut gone = Vec::new();
        let txn = env.read_txn()?;
        for entry in self.peers.iter(&txn)? {
            let (name, _) = entry?;
            if name == self.name {
                continue;
            }
            let sent = SocketAddr::from_abstract_name(name).and_then(|to| self.socket.send_to_addr(&[1], &to));
            if sent.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused) {
                gone.push(name.to_owned());
            }
        }
        Ok(gone)
    }

    /// Forgets a worker.
    pub(super) fn forget(&self, txn: &mut RwTxn<'_>, name: &[u8]) -> Result<(), BackplaneError> {
        self.peers.delete(txn, name)?;
        Ok(())
    }

    /// Has others wake this worker from now on; what was published before is not taken.
    pub(super) fn join(&mut self, txn: &mut RwTxn<'_>) -> Result<(), BackplaneError> {
        self.peers.put(txn, &self.name, &[])?;
        self.taken = last(self.log, txn)?;
        Ok(())
    }

    /// The name under which others know this worker.
    pub(super) fn name(&self) -> &[u8] {
        &self.name
    }

    pub(super) fn read(&mut self, env: &Env<WithoutTls>) -> Result<(Vec<Publication>, u64), BackplaneError> {
        let mut wake = [0; 8];
        // Any user of the machine may send to an abstract address: without a bound one that never stops would hold the worker.
        for _ in 0..WAKE_UPS_AT_ONCE {
            if self.socket.recv(&mut wake).is_err() {
                break;
            }
        }
        let before = self.taken;
        let found = self.between(env, before, u64::MAX)?;
        self.taken = found.last().map_or(before, |(number, _)| *number);
        let missed = self.taken - before - found.len() as u64;
        Ok((found.into_iter().filter_map(|(_, publication)| publication).collect(), missed))
    }

    /// The number of the last publication that was taken.
    pub(super) fn taken(&self) -> u64 {
        self.taken
    }

    /// The first publications after one number, up to another, with their numbers; none instead of what is damaged.
    pub(super) fn between(
        &self,
        env: &Env<WithoutTls>,
        after: u64,
        until: u64,
    ) -> Result<Vec<(u64, Option<Publication>)>, BackplaneError> {
        let txn = env.read_txn()?;
        let (after, until) = (after.to_be_bytes(), until.to_be_bytes());
        let range = (Bound::Excluded(&after[..]), Bound::Included(&until[..]));
        let (mut found, mut bytes) = (Vec::new(), 0);
        for entry in self.log.range(&txn, &range)?.take(AT_ONCE) {
            let (key, value) = entry?;
            let Ok(number) = key.try_into().map(u64::from_be_bytes) else { continue };
            found.push((number, decode(value)));
            bytes += value.len();
            if bytes >= BYTES_AT_ONCE {
                break;
            }
        }
        Ok(found)
    }
}

/// Binds an abstract address (`unix(7)`), which goes with the process and leaves no file, under the first of these names that is
/// free.
fn bind(mut name: impl FnMut() -> String) -> io::Result<(UnixDatagram, Vec<u8>)> {
    let mut tried = 1;
    loop {
        let name = name().into_bytes();
        match SocketAddr::from_abstract_name(&name).and_then(|address| UnixDatagram::bind_addr(&address)) {
            Ok(socket) => return Ok((socket, name)),
            Err(error) if error.kind() == ErrorKind::AddrInUse && tried < NAMES => tried += 1,
            Err(error) => return Err(error),
        }
    }
}

/// A name that nobody can guess: whoever knew it could bind it first, and keep the worker from starting. The process id is for
/// people; containers that share a network may have equal ones.
fn random_name() -> String {
    format!("baton-bus-{}-{}", std::process::id(), Uuid::new_v4().simple())
}

fn last(log: Table, txn: &RoTxn<'_>) -> Result<u64, heed::Error> {
    Ok(log.last(txn)?.and_then(|(key, _)| key.try_into().ok()).map_or(0, u64::from_be_bytes))
}

fn decode(value: &[u8]) -> Option<Publication> {
    let (length, rest) = value.split_first_chunk::<2>()?;
    let (room, text) = rest.split_at_checked(u16::from_le_bytes(*length).into())?;
    Some(Publication { room: String::from_utf8(room.into()).ok()?, text: String::from_utf8(text.into()).ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_somebody_has_is_not_the_end() {
        let taken = random_name();
        let (_holder, _) = bind(|| taken.clone()).unwrap();
        let mut names = vec![random_name(), taken.clone(), taken.clone()];
        let free = names[0].clone();
        let (_socket, name) = bind(|| names.pop().unwrap()).unwrap();
        assert_eq!(name, free.into_bytes());
        let mut tried = 0;
        let error = bind(|| {
            tried += 1;
            taken.clone()
        });
        assert_eq!((error.unwrap_err().kind(), tried), (ErrorKind::AddrInUse, NAMES));
    }

    #[test]
    fn two_workers_of_one_process_id_have_two_names() {
        assert_ne!(random_name(), random_name());
    }
}
