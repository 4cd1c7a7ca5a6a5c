//! The listening sockets: bound before the first fork, and kept open for as long as the supervisor lives.
//!
//! TCP has one `SO_REUSEPORT` socket per slot, so that each worker has an accept queue of its own, which waits for its
//! successor when the worker dies. A Unix address cannot be shared like that; there, all slots have the same socket.
//! No listener is ever shut down (that would end it for every holder) or closed (that would reset its queue).

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use baton_ipc::{Endpoint, Listener, Slot};
use socket2::{Domain, Protocol, Socket, Type};

use crate::Error;
use crate::socket_file::SocketFile;
use crate::takeover::Joined;

/// The kernel takes `net.core.somaxconn` if that is less.
const BACKLOG: i32 = 4096;

/// How often to look whether the workers of a dead supervisor are gone.
const PROBE_INTERVAL: Duration = Duration::from_millis(20);

/// All sockets of a generation.
#[derive(Debug)]
pub(crate) struct Listeners {
    // As they were configured.
    configured: Vec<Endpoint>,
    // With the ports that the kernel chose where 0 was asked for.
    endpoints: Vec<Endpoint>,
    slots: Vec<Vec<Listener>>,
    // Of each Unix endpoint.
    files: Vec<SocketFile>,
}

/// Sockets from elsewhere, by address as wanted, then by slot.
type Given = Vec<BTreeMap<Slot, OwnedFd>>;

impl Listeners {
    /// Takes what the service manager has passed, and binds the rest: every address for every slot. There may be more slots
    /// than were asked for, since nothing that clients may wait in is closed. `patience`: how long to wait for an address
    /// that is in use, because a supervisor was killed here and its workers are still on their way out.
    pub(crate) fn bind(wanted: &[Endpoint], slots: Slot, patience: Duration, given: Given) -> Result<Listeners, Error> {
        let slots =
            given.iter().filter_map(|sockets| sockets.last_key_value()).fold(slots, |n, (slot, _)| n.max(slot + 1));
        Listeners::make(wanted, wanted.to_vec(), slots, given, Instant::now() + patience)
    }

    /// Those of the generation that runs, as far as their addresses are wanted, and for addresses that it does not have what
    /// the service manager has passed, or new ones. Of a generation that has fewer slots than this one, see
    /// [`Listeners::extras`].
    pub(crate) fn adopt(wanted: &[Endpoint], joined: &mut Joined, mut given: Given) -> Result<Listeners, Error> {
        let mut endpoints = wanted.to_vec();
        let places: Vec<Option<usize>> =
            wanted.iter().map(|endpoint| joined.configured.iter().position(|known| known == endpoint)).collect();
        for (index, at) in places.iter().enumerate().filter_map(|(index, place)| Some((index, (*place)?))) {
            endpoints[index] = joined.bound[at].clone();
            given[index].clear();
        }
        let theirs = std::mem::take(&mut joined.sockets);
        let slots = theirs.len() as Slot;
        for (slot, sockets) in (0..).zip(theirs) {
            for (at, socket) in sockets.into_iter().enumerate() {
                if let Some(index) = places.iter().position(|place| *place == Some(at)) {
                    given[index].insert(slot, socket);
                }
            }
        }
        Listeners::make(wanted, endpoints, slots, given, Instant::now())
    }

    fn make(
        wanted: &[Endpoint],
        endpoints: Vec<Endpoint>,
        slots: Slot,
        mut given: Given,
        deadline: Instant,
    ) -> Result<Listeners, Error> {
        let mut listeners = Listeners { configured: wanted.to_vec(), endpoints, slots: vec![], files: vec![] };
        let mut bound: Vec<PathBuf> = Vec::new();
        let mut fill = || -> Result<(), Error> {
            for (endpoint, given) in wanted.iter().zip(&given) {
                match (endpoint, given.values().next()) {
                    (Endpoint::Tcp(_), Some(_)) => {}
                    (Endpoint::Tcp(address), None) => ensure_free(*address, wanted, deadline)?,
                    (Endpoint::Unix(path), given) => {
                        let file = match given {
                            Some(socket) => socket.try_clone().and_then(|socket| SocketFile::adopt(path, socket)),
                            None => SocketFile::bind(path, BACKLOG).inspect(|_| bound.push(path.clone())),
                        };
                        listeners.files.push(file.map_err(|error| refusal(endpoint, error))?);
                    }
                }
            }
            for slot in 0..slots {
                let given = given.iter_mut().map(|sockets| sockets.remove(&slot)).collect();
                listeners.open_slot(slot, given)?;
            }
            Ok(())
        };
        match fill() {
            Ok(()) => Ok(listeners),
            Err(error) => {
                // What was made so far goes with us; what others had before stays.
                listeners.files.iter().filter(|file| bound.contains(&file.path)).for_each(SocketFile::remove);
                Err(error)
            }
        }
    }

    /// Makes sure that there is room for this many slots later: bound sockets for those that have none, in which nobody
    /// can wait yet. [`Listeners::listen`] and [`Listeners::add`] put them in service.
    pub(crate) fn extras(&self, slots: Slot) -> io::Result<Vec<Listener>> {
        let mut extras = Vec::new();
        for slot in self.slots()..slots {
            for endpoint in &self.endpoints {
                let socket = match endpoint {
                    Endpoint::Tcp(address) => self.bind_or_share(endpoint, *address)?,
                    Endpoint::Unix(path) => self.file(path)?.socket()?,
                };
                extras.push(Listener { slot, endpoint: endpoint.clone(), socket });
            }
        }
        Ok(extras)
    }

    /// Clients may come to this socket from now on.
    pub(crate) fn listen(&self, listener: &Listener) -> io::Result<()> {
        socket2::SockRef::from(&listener.socket).listen(BACKLOG)
    }

    /// Keeps a socket that is in service.
    pub(crate) fn add(&mut self, listener: Listener) {
        let slot = usize::from(listener.slot);
        while self.slots.len() <= slot {
            self.slots.push(vec![]);
        }
        self.slots[slot].push(listener);
    }

    /// How many slots have sockets.
    pub(crate) fn slots(&self) -> Slot {
        self.slots.len() as Slot
    }

    /// Where we were told to listen.
    pub(crate) fn configured(&self) -> &[Endpoint] {
        &self.configured
    }

    /// Where we listen.
    pub(crate) fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// Binds sockets for more slots; the new ones are in service at once, so somebody should soon accept from them.
    pub(crate) fn grow(&mut self, slots: Slot) -> Result<(), Error> {
        for slot in self.slots()..slots {
            self.open_slot(slot, self.endpoints.iter().map(|_| None).collect())?;
        }
        Ok(())
    }

    /// The next slot: of each address the socket that is given, or a new one.
    fn open_slot(&mut self, slot: Slot, given: Vec<Option<OwnedFd>>) -> Result<(), Error> {
        let mut sockets = Vec::new();
        for (index, given) in given.into_iter().enumerate() {
            if let Some(socket) = given {
                sockets.push(Listener { slot, endpoint: self.endpoints[index].clone(), socket });
                continue;
            }
            let (endpoint, socket) = self.open(index).map_err(|error| refusal(&self.endpoints[index], error))?;
            self.endpoints[index] = endpoint.clone();
            sockets.push(Listener { slot, endpoint, socket });
        }
        self.slots.push(sockets);
        Ok(())
    }

    fn open(&self, index: usize) -> io::Result<(Endpoint, OwnedFd)> {
        match &self.endpoints[index] {
            endpoint @ Endpoint::Tcp(address) => {
                let socket = self.bind_or_share(endpoint, *address)?;
                let socket_ref = socket2::SockRef::from(&socket);
                socket_ref.listen(BACKLOG)?;
                let bound = socket_ref.local_addr()?.as_socket().unwrap_or(*address);
                Ok((Endpoint::Tcp(bound), socket))
            }
            endpoint @ Endpoint::Unix(path) => Ok((endpoint.clone(), self.file(path)?.socket()?)),
        }
    }

    /// One more in the group of those that are at an address. The group of a socket unit is another user's, and closed to us, and
    /// so is its port below 1024, which the kernel looks at first: then the slot shares the socket of another one.
    fn bind_or_share(&self, endpoint: &Endpoint, address: SocketAddr) -> io::Result<OwnedFd> {
        let socket = tcp(address, &self.endpoints)?;
        socket.set_reuse_port(true)?;
        match socket.bind(&address.into()) {
            Ok(()) => Ok(socket.into()),
            Err(error) if is_closed_to_us(error.kind()) => {
                let all: Vec<&Listener> = self.slots.iter().flatten().filter(|l| l.endpoint == *endpoint).collect();
                // One after the other, so that each is shared by as many.
                let shared = all.get(self.slots.len() % all.len().max(1)).ok_or(error)?;
                shared.socket.try_clone()
            }
            Err(error) => Err(error),
        }
    }

    fn file(&self, path: &Path) -> io::Result<&SocketFile> {
        self.files.iter().find(|file| file.path == path).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// The sockets of one slot.
    pub(crate) fn of(&self, slot: Slot) -> &[Listener] {
        self.slots.get(usize::from(slot)).map_or(&[], Vec::as_slice)
    }

    /// In a forked worker: its own, and all others closed.
    pub(crate) fn into_slot(mut self, slot: Slot) -> Vec<Listener> {
        // A slot that a takeover adds gets its sockets later.
        if self.slots.len() > slot.into() { self.slots.swap_remove(slot.into()) } else { vec![] }
    }

    /// Removes the files of Unix sockets, at the very end; not if they have become somebody else's.
    pub(crate) fn remove_files(&self) {
        self.files.iter().for_each(SocketFile::remove);
    }
}

/// Whether a failure of bind(2) says that an address is another user's.
fn is_closed_to_us(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied)
}

/// That a socket which came from elsewhere is what it is said to be.
pub(crate) fn ensure_is(socket: &OwnedFd, endpoint: &Endpoint) -> Result<(), String> {
    let bound = socket2::SockRef::from(socket).local_addr().map_err(|error| error.to_string())?;
    let is = match endpoint {
        Endpoint::Tcp(address) => bound.as_socket() == Some(*address),
        Endpoint::Unix(path) => bound.as_pathname() == Some(path.as_path()),
    };
    if is { Ok(()) } else { Err(format!("a listener is not at {endpoint}")) }
}

fn tcp(address: SocketAddr, all: &[Endpoint]) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    // Connections of an earlier run in TIME_WAIT do not hold up a start.
    socket.set_reuse_address(true)?;
    // `[::]` alone serves IPv4 too, as the kernel has it; beside `0.0.0.0` with the same port it must not.
    let has_v4 = all.contains(&Endpoint::Tcp((Ipv4Addr::UNSPECIFIED, address.port()).into()));
    if address.is_ipv6() && address.ip().is_unspecified() && has_v4 {
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

/// `SO_REUSEPORT` lets any process of the same user join, also a second baton started by mistake, and half of the
/// clients would go to each. So bind once without it, which fails if anybody listens.
fn ensure_free(address: SocketAddr, all: &[Endpoint], deadline: Instant) -> Result<(), Error> {
    let endpoint = Endpoint::Tcp(address);
    if address.port() == 0 {
        return Ok(());
    }
    let mut told = false;
    loop {
        let outcome = tcp(address, all).and_then(|probe| probe.bind(&address.into()));
        match outcome {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                if !told {
                    tracing::info!(address = %endpoint, "waiting for the workers of a dead supervisor to leave");
                    told = true;
                }
                std::thread::sleep(PROBE_INTERVAL);
            }
            outcome => return outcome.map_err(|error| refusal(&endpoint, error)),
        }
    }
}

fn refusal(endpoint: &Endpoint, source: io::Error) -> Error {
    let endpoint = endpoint.clone();
    if source.kind() != io::ErrorKind::AddrInUse {
        return Error::Listen { endpoint, source };
    }
    let hint = match &endpoint {
        Endpoint::Tcp(address) => {
            format!("`ss -ltnp 'sport = :{}'` shows by whom, `--listen` chooses another", address.port())
        }
        Endpoint::Unix(path) => {
            format!("a living server answers there, or {} is no socket and has to be moved away", path.display())
        }
    };
    Error::AddressInUse { endpoint, hint }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    fn any_port() -> Vec<Endpoint> {
        vec![Endpoint::Tcp("127.0.0.1:0".parse().unwrap())]
    }

    /// With nothing from elsewhere.
    fn bind(wanted: &[Endpoint], slots: Slot, patience: Duration) -> Result<Listeners, Error> {
        Listeners::bind(wanted, slots, patience, wanted.iter().map(|_| BTreeMap::new()).collect())
    }

    fn address(listeners: &Listeners) -> SocketAddr {
        match listeners.endpoints()[0] {
            Endpoint::Tcp(address) => address,
            Endpoint::Unix(_) => panic!("not TCP"),
        }
    }

    #[test]
    fn the_port_that_the_kernel_chose_serves_all_slots() {
        let mut listeners = bind(&any_port(), 2, Duration::ZERO).unwrap();
        listeners.grow(4).unwrap();
        let bound = address(&listeners);
        assert_ne!(bound.port(), 0);
        for slot in 0..4 {
            let [listener] = listeners.of(slot) else { panic!("one address, one socket") };
            assert_eq!((listener.slot, &listener.endpoint), (slot, &Endpoint::Tcp(bound)));
        }
        TcpStream::connect(bound).unwrap();
        assert!(listeners.of(4).is_empty());
    }

    #[test]
    fn a_second_server_on_the_port_is_refused_also_if_it_would_share() {
        let first = bind(&any_port(), 2, Duration::ZERO).unwrap();
        let error = bind(first.endpoints(), 1, Duration::ZERO).unwrap_err();
        assert!(matches!(error, Error::AddressInUse { .. }));
        let text = error.to_string();
        assert!(text.contains(&address(&first).to_string()) && text.contains("address already in use"), "{text}");
        let plain = TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = [Endpoint::Tcp(plain.local_addr().unwrap())];
        assert!(matches!(bind(&taken, 1, Duration::ZERO), Err(Error::AddressInUse { .. })));
    }

    #[test]
    fn the_workers_of_a_dead_supervisor_are_waited_for() {
        let orphan = TcpListener::bind("127.0.0.1:0").unwrap();
        let wanted = [Endpoint::Tcp(orphan.local_addr().unwrap())];
        let leaving = std::thread::spawn(move || {
            std::thread::sleep(PROBE_INTERVAL * 3);
            drop(orphan);
        });
        bind(&wanted, 1, Duration::from_secs(10)).unwrap();
        leaving.join().unwrap();
    }

    #[test]
    fn both_wildcards_can_be_listed() {
        let probe = TcpListener::bind("0.0.0.0:0").unwrap();
        let port = probe.local_addr().unwrap().port();
        drop(probe);
        let wanted = [format!("0.0.0.0:{port}"), format!("[::]:{port}")].map(|a| Endpoint::Tcp(a.parse().unwrap()));
        match bind(&wanted, 2, Duration::ZERO) {
            Ok(_) => {}
            // A machine without IPv6 says so.
            Err(Error::Listen { source, .. }) => assert_eq!(source.raw_os_error(), Some(libc::EAFNOSUPPORT)),
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn a_unix_socket_is_shared_replaced_when_stale_and_refused_when_live() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("web.sock");
        drop(UnixListener::bind(&path).unwrap());
        let wanted = [Endpoint::Unix(path.clone())];
        let listeners = bind(&wanted, 3, Duration::ZERO).unwrap();
        UnixStream::connect(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o666);
        assert_ne!(listeners.of(0)[0].socket.as_raw_fd(), listeners.of(2)[0].socket.as_raw_fd());
        assert!(matches!(bind(&wanted, 1, Duration::ZERO), Err(Error::AddressInUse { .. })));
        UnixStream::connect(&path).expect("the refused one has not harmed the living one");
        listeners.remove_files();
        assert!(!path.exists());
    }

    #[test]
    fn a_file_that_is_no_socket_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("precious");
        fs::write(&path, "data").unwrap();
        let error = bind(&[Endpoint::Unix(path.clone())], 1, Duration::ZERO).unwrap_err();
        assert!(error.to_string().contains("no socket"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "data");
    }

    #[test]
    fn what_was_kept_is_used_slot_by_slot_and_the_rest_is_bound() {
        let before = bind(&any_port(), 3, Duration::ZERO).unwrap();
        let wanted = [before.endpoints()[0].clone(), Endpoint::Tcp("127.0.0.1:0".parse().unwrap())];
        let clients = [(); 16].map(|()| TcpStream::connect(address(&before)).unwrap());
        let kept = |slot: Slot| (slot, before.of(slot)[0].socket.try_clone().unwrap());
        let given = vec![BTreeMap::from([kept(0), kept(2)]), BTreeMap::new()];
        // The socket of slot 1 is held by nobody but `before`, whose other ones are in service all the time.
        let listeners = Listeners::bind(&wanted, 1, Duration::ZERO, given).unwrap();
        assert_eq!(listeners.slots(), 3, "as many as there are sockets that clients may wait in");
        let inode = |listener: &Listener| nix::sys::stat::fstat(&listener.socket).unwrap().st_ino;
        for slot in [0, 2] {
            assert_eq!(inode(&listeners.of(slot)[0]), inode(&before.of(slot)[0]));
        }
        assert_ne!(inode(&listeners.of(1)[0]), inode(&before.of(1)[0]));
        assert!((0..3).all(|slot| listeners.of(slot).len() == 2));
        drop(clients);
    }

    #[test]
    fn a_socket_whose_group_is_closed_to_us_is_shared() {
        // As that of a socket unit, but for want of SO_REUSEPORT.
        let unit = TcpListener::bind("127.0.0.1:0").unwrap();
        let wanted = [Endpoint::Tcp(unit.local_addr().unwrap())];
        let given = vec![BTreeMap::from([(0, OwnedFd::from(unit))])];
        let mut listeners = Listeners::bind(&wanted, 2, Duration::ZERO, given).unwrap();
        listeners.grow(3).unwrap();
        let extras = listeners.extras(4).unwrap();
        let inode = |listener: &Listener| nix::sys::stat::fstat(&listener.socket).unwrap().st_ino;
        let first = inode(&listeners.of(0)[0]);
        assert!((1..3).all(|slot| inode(&listeners.of(slot)[0]) == first) && inode(&extras[0]) == first);
        let extra = listeners.listen(&extras[0]);
        extra.expect("it listens already");
    }

    #[test]
    fn a_worker_keeps_its_own_only() {
        let listeners = bind(&any_port(), 3, Duration::ZERO).unwrap();
        let own = listeners.into_slot(1);
        assert_eq!((own.len(), own[0].slot), (1, 1));
    }
}
