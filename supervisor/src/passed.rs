//! Listening sockets that the service manager passes (`sd_listen_fds(3)`): those of socket units, and those that it was
//! given to keep by a supervisor before this one (see [`crate::store`]).
#![allow(unsafe_code)] // Descriptors come as numbers.

use std::collections::BTreeMap;
use std::env;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use baton_ipc::{Endpoint, MAX_SLOTS, Slot};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::stat::fstat;
use socket2::{SockRef, Type};

use crate::Error;
use crate::socket_file::is_socket;
use crate::store;

/// The first one's number (`SD_LISTEN_FDS_START`).
const FIRST: RawFd = 3;

/// A descriptor and the name that the service manager gives it.
#[derive(Debug)]
pub(crate) struct Passed {
    name: String,
    socket: OwnedFd,
}

/// What came of them, for the addresses that are wanted.
#[derive(Debug, Default)]
pub(crate) struct Sorted {
    /// By address as wanted, then by slot.
    pub(crate) sockets: Vec<BTreeMap<Slot, OwnedFd>>,
    /// Names of all that were kept.
    pub(crate) kept: Vec<String>,
    /// Of these, who are of no use and are closed here: the service manager shall close them too, or clients would go on
    /// being sent to a socket from which nobody accepts.
    pub(crate) useless: Vec<String>,
}

/// Takes what was passed to a process with this pid, which is this one or has forked it. A second time there is nothing.
pub(crate) fn take(known_pid: u32) -> Result<Vec<Passed>, Error> {
    let number = |name| env::var(name).ok().and_then(|text| text.parse::<u32>().ok());
    // Variables of a parent, for whom they were meant.
    if number("LISTEN_PID") != Some(known_pid) {
        return Ok(vec![]);
    }
    let refuse = |reason: String| Error::Passed { name: "LISTEN_FDS".to_owned(), reason };
    let count = number("LISTEN_FDS").ok_or_else(|| refuse("it is not a number".to_owned()))?;
    let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':');
    let mut passed = Vec::new();
    for raw in (FIRST..).take(count as usize) {
        let name = names.next().filter(|name| !name.is_empty()).unwrap_or("unknown").to_owned();
        if !came_by_exec(raw) {
            // With it, those before it, which are ours, are closed.
            return Err(refuse(format!("it says {count}, but there is no descriptor {raw}")));
        }
        // SAFETY: it is open, and nothing in this process has opened it or has taken it over: then it would be close-on-exec.
        let socket = unsafe { OwnedFd::from_raw_fd(raw) };
        let set = fcntl(&socket, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC));
        set.map_err(Error::system("take a descriptor of the service manager"))?;
        passed.push(Passed { name, socket });
    }
    Ok(passed)
}

/// Whether a descriptor is open, and was when this program began. What we open ourselves is close-on-exec, and what we have taken.
fn came_by_exec(raw: RawFd) -> bool {
    // SAFETY: it need not be open for this call, which says so, and it is not used afterwards.
    let flags = fcntl(unsafe { BorrowedFd::borrow_raw(raw) }, FcntlArg::F_GETFD);
    flags.is_ok_and(|flags| !FdFlag::from_bits_truncate(flags).contains(FdFlag::FD_CLOEXEC))
}

/// Finds the address of each. What was kept and is not wanted any more is of no use; a socket unit that does not fit to the
/// configuration is a mistake, since the service manager goes on listening there.
pub(crate) fn sort(passed: Vec<Passed>, wanted: &[Endpoint]) -> Result<Sorted, Error> {
    let mut sorted = Sorted { sockets: wanted.iter().map(|_| BTreeMap::new()).collect(), ..Sorted::default() };
    let mut known = Vec::new();
    for Passed { name, socket } in passed {
        let slot = store::slot_in(&name);
        if slot.is_some() {
            sorted.kept.push(name.clone());
        }
        let found = endpoint(socket.as_fd());
        let at = found.as_ref().ok().and_then(|found| wanted.iter().position(|endpoint| endpoint == found));
        // By its unit, and once more since it was kept.
        let identity = fstat(&socket).map(|stat| (stat.st_dev, stat.st_ino));
        let identity = identity.map_err(Error::system("look at a descriptor of the service manager"))?;
        if at.is_some() && known.contains(&identity) {
            continue;
        }
        known.push(identity);
        match (at, slot) {
            (Some(at), Some(slot)) if slot < MAX_SLOTS && !sorted.sockets[at].contains_key(&slot) => {
                prepare(&socket)?;
                sorted.sockets[at].insert(slot, socket);
            }
            (Some(at), None) => {
                prepare(&socket)?;
                let sockets = &mut sorted.sockets[at];
                let free = (0..MAX_SLOTS).find(|slot| !sockets.contains_key(slot));
                let too_many = || Error::Passed { name, reason: format!("more than {MAX_SLOTS} at one address") };
                sockets.insert(free.ok_or_else(too_many)?, socket);
            }
            (_, Some(_)) => {
                let reason = found.map_or_else(|reason| reason, |at| format!("{at} is not served any more"));
                tracing::warn!(name, reason, "a socket that was kept for a restart is closed");
                sorted.useless.push(name);
            }
            (None, None) => {
                let reason = found.map_or_else(
                    |reason| reason,
                    |found| {
                        let wanted: Vec<String> = wanted.iter().map(ToString::to_string).collect();
                        format!("it listens on {found}, and `listen` says {}: make them the same", wanted.join(", "))
                    },
                );
                return Err(Error::Passed { name, reason });
            }
        }
    }
    Ok(sorted)
}

/// Where a socket listens. `Err`: why it is no socket to accept clients from.
fn endpoint(socket: BorrowedFd<'_>) -> Result<Endpoint, String> {
    let socket = SockRef::from(&socket);
    match socket.r#type() {
        Ok(Type::STREAM) => {}
        Ok(_) => return Err("it is no stream socket".to_owned()),
        Err(error) if error.raw_os_error() == Some(Errno::ENOTSOCK as i32) => return Err("it is no socket".to_owned()),
        Err(error) => return Err(error.to_string()),
    }
    // Somebody may have shut it down: that ends it for every holder.
    if !socket.is_listener().map_err(|error| error.to_string())? {
        return Err("it does not listen".to_owned());
    }
    let address = socket.local_addr().map_err(|error| error.to_string())?;
    match (address.as_socket(), address.as_pathname()) {
        (Some(address), _) => Ok(Endpoint::Tcp(address)),
        (None, Some(path)) if is_socket(path) => Ok(Endpoint::Unix(path.to_owned())),
        (None, Some(path)) => Err(format!("its file {} is gone, so that nobody can reach it", path.display())),
        (None, None) => Err("it has no address".to_owned()),
    }
}

/// As our own are.
fn prepare(socket: &OwnedFd) -> Result<(), Error> {
    SockRef::from(socket).set_nonblocking(true).map_err(Error::system("take a socket of the service manager"))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixListener;

    use super::*;

    fn passed(name: &str, socket: impl Into<OwnedFd>) -> Passed {
        Passed { name: name.to_owned(), socket: socket.into() }
    }

    fn listener() -> (TcpListener, Endpoint) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = Endpoint::Tcp(listener.local_addr().unwrap());
        (listener, endpoint)
    }

    #[test]
    fn sockets_are_matched_by_address_and_kept_ones_by_slot_too() {
        let ((a, at_a), (b, at_b), (c, at_c)) = (listener(), listener(), listener());
        let number = a.as_raw_fd();
        let named = store::name(3, &at_a);
        let sorted =
            sort(vec![passed("web", b), passed(&named, a), passed(&store::name(0, &at_c), c)], &[at_b, at_a]).unwrap();
        assert_eq!(sorted.sockets[0].keys().collect::<Vec<_>>(), [&0]);
        assert_eq!(sorted.sockets[1][&3].as_raw_fd(), number);
        assert!(SockRef::from(&sorted.sockets[0][&0]).nonblocking().unwrap());
        assert_eq!(sorted.useless, [store::name(0, &at_c)], "an address that is not served any more");
    }

    #[test]
    fn one_that_comes_twice_is_taken_once() {
        let (socket, at) = listener();
        let again = socket.try_clone().unwrap();
        let sorted = sort(vec![passed("web", socket), passed(&store::name(0, &at), again)], &[at]).unwrap();
        assert_eq!((sorted.sockets[0].len(), sorted.useless.len()), (1, 0));
    }

    #[test]
    fn what_was_kept_and_cannot_be_used_is_given_up() {
        let (socket, at) = listener();
        let name = store::name(0, &at);
        SockRef::from(&socket).shutdown(std::net::Shutdown::Both).unwrap();
        let sorted = sort(vec![passed(&name, socket)], std::slice::from_ref(&at)).unwrap();
        assert!(sorted.sockets[0].is_empty());
        assert_eq!(sorted.useless, [name]);
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("web.sock");
        let unix = UnixListener::bind(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let at = Endpoint::Unix(path);
        let sorted = sort(vec![passed(&store::name(0, &at), unix)], &[at]).unwrap();
        assert_eq!(sorted.useless.len(), 1, "nobody can come to it");
        let (socket, at) = listener();
        let sorted = sort(vec![passed("slot-64-x", socket)], &[at]).unwrap();
        assert_eq!(sorted.useless, ["slot-64-x"]);
    }

    #[test]
    fn a_socket_unit_that_does_not_fit_is_refused_by_name() {
        let ((socket, at), (_, other)) = (listener(), listener());
        let error = sort(vec![passed("baton.socket", socket)], std::slice::from_ref(&other)).unwrap_err().to_string();
        for word in ["baton.socket", &at.to_string(), &other.to_string(), "listen"] {
            assert!(error.contains(word), "{error}");
        }
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let error = sort(vec![passed("baton.socket", udp)], std::slice::from_ref(&other)).unwrap_err().to_string();
        assert!(error.contains("no stream socket"), "{error}");
        let file = std::fs::File::open("/dev/null").unwrap();
        let error = sort(vec![passed("baton.socket", file)], &[other]).unwrap_err().to_string();
        assert!(error.contains("no socket"), "{error}");
    }

    #[test]
    fn only_what_came_by_exec_can_have_been_passed() {
        let (socket, _) = listener();
        assert!(!came_by_exec(socket.as_raw_fd()), "std opens close-on-exec");
        fcntl(&socket, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
        assert!(came_by_exec(socket.as_raw_fd()));
        assert!(!came_by_exec(1 << 20), "not open");
    }
}
