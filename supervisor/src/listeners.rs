//! The listening sockets: bound before the first fork, and kept open for as long as the supervisor lives.
//!
//! TCP has one `SO_REUSEPORT` socket per slot, so that each worker has an accept queue of its own, which waits for its
//! successor when the worker dies. A Unix address cannot be shared like that; there, all slots have the same socket.
//! No listener is ever shut down (that would end it for every holder) or closed (that would reset its queue).

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use baton_ipc::{Endpoint, Listener, Slot};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::Error;
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

/// A Unix socket that all slots share, and its file.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
    socket: Rc<UnixListener>,
}

impl Listeners {
    /// Binds every address for every slot. `patience`: how long to wait for an address that is in use, because a
    /// supervisor was killed here and its workers are still on their way out.
    pub(crate) fn bind(wanted: &[Endpoint], slots: Slot, patience: Duration) -> Result<Listeners, Error> {
        let mut listeners =
            Listeners { configured: wanted.to_vec(), endpoints: wanted.to_vec(), slots: vec![], files: vec![] };
        let deadline = Instant::now() + patience;
        for endpoint in wanted {
            match endpoint {
                Endpoint::Tcp(address) => ensure_free(*address, wanted, deadline)?,
                Endpoint::Unix(path) => {
                    let file = SocketFile::bind(path).map_err(|error| refusal(endpoint, error));
                    // What was made so far goes with us.
                    let file = file.inspect_err(|_| listeners.remove_files())?;
                    listeners.files.push(file);
                }
            }
        }
        let grown = listeners.grow(slots);
        grown.inspect_err(|_| listeners.remove_files())?;
        Ok(listeners)
    }

    /// Those of the generation that runs, as far as their addresses are wanted, and new ones for addresses that it does not
    /// have. Of a generation that has fewer slots than this one, see [`Listeners::extras`].
    pub(crate) fn adopt(wanted: &[Endpoint], joined: &mut Joined) -> Result<Listeners, Error> {
        let mut listeners =
            Listeners { configured: wanted.to_vec(), endpoints: wanted.to_vec(), slots: vec![], files: vec![] };
        let known = |endpoint: &Endpoint| joined.configured.iter().position(|configured| configured == endpoint);
        for (index, endpoint) in wanted.iter().enumerate() {
            match (known(endpoint), endpoint) {
                (Some(at), _) => listeners.endpoints[index] = joined.bound[at].clone(),
                (None, Endpoint::Tcp(address)) => ensure_free(*address, wanted, Instant::now())?,
                (None, Endpoint::Unix(path)) => {
                    let file = SocketFile::bind(path).map_err(|error| refusal(endpoint, error))?;
                    listeners.files.push(file);
                }
            }
        }
        let places: Vec<Option<usize>> = wanted.iter().map(known).collect();
        for (slot, mut theirs) in (0..).zip(
            std::mem::take(&mut joined.sockets)
                .into_iter()
                .map(|sockets| sockets.into_iter().map(Some).collect::<Vec<Option<OwnedFd>>>()),
        ) {
            let mut sockets = Vec::new();
            for (index, place) in places.iter().enumerate() {
                let adopted = place.and_then(|at| theirs.get_mut(at)).and_then(Option::take);
                let endpoint = listeners.endpoints[index].clone();
                match adopted {
                    Some(socket) => {
                        if let Endpoint::Unix(path) = &endpoint {
                            listeners.adopt_file(path, &socket);
                        }
                        sockets.push(Listener { slot, endpoint, socket });
                    }
                    None => {
                        let opened = listeners.open(index).map_err(|error| refusal(&endpoint, error));
                        let (endpoint, socket) = opened?;
                        listeners.endpoints[index] = endpoint.clone();
                        sockets.push(Listener { slot, endpoint, socket });
                    }
                }
            }
            listeners.slots.push(sockets);
        }
        Ok(listeners)
    }

    fn adopt_file(&mut self, path: &Path, socket: &OwnedFd) {
        if self.files.iter().any(|file| file.path == *path) {
            return;
        }
        if let (Some(identity), Ok(socket)) = (identity(path), socket.try_clone()) {
            let socket = Rc::new(UnixListener::from(socket));
            self.files.push(SocketFile { path: path.to_owned(), identity, socket });
        }
    }

    /// Makes sure that there is room for this many slots later: bound sockets for those that have none, in which nobody
    /// can wait yet. [`Listeners::listen`] and [`Listeners::add`] put them in service.
    pub(crate) fn extras(&self, slots: Slot) -> io::Result<Vec<Listener>> {
        let mut extras = Vec::new();
        for slot in self.slots()..slots {
            for endpoint in &self.endpoints {
                let socket = match endpoint {
                    Endpoint::Tcp(address) => {
                        let socket = tcp(*address, &self.endpoints)?;
                        socket.set_reuse_port(true)?;
                        socket.bind(&(*address).into())?;
                        socket.into()
                    }
                    Endpoint::Unix(path) => {
                        let file = self.files.iter().find(|file| file.path == *path);
                        file.ok_or(io::ErrorKind::NotFound)?.socket.try_clone()?.into()
                    }
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
        for slot in self.slots.len() as Slot..slots {
            let mut sockets = Vec::new();
            for index in 0..self.endpoints.len() {
                let (endpoint, socket) = self.open(index).map_err(|error| refusal(&self.endpoints[index], error))?;
                self.endpoints[index] = endpoint.clone();
                sockets.push(Listener { slot, endpoint, socket });
            }
            self.slots.push(sockets);
        }
        Ok(())
    }

    fn open(&self, index: usize) -> io::Result<(Endpoint, OwnedFd)> {
        match &self.endpoints[index] {
            Endpoint::Tcp(address) => {
                let socket = tcp(*address, &self.endpoints)?;
                socket.set_reuse_port(true)?;
                socket.bind(&(*address).into())?;
                socket.listen(BACKLOG)?;
                let bound = socket.local_addr()?.as_socket().unwrap_or(*address);
                Ok((Endpoint::Tcp(bound), socket.into()))
            }
            endpoint @ Endpoint::Unix(path) => {
                let file = self.files.iter().find(|file| file.path == *path);
                let file = file.ok_or(io::ErrorKind::NotFound)?;
                Ok((endpoint.clone(), file.socket.try_clone()?.into()))
            }
        }
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
        for file in &self.files {
            if identity(&file.path) == Some(file.identity) {
                let _ = fs::remove_file(&file.path);
            }
        }
    }
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

impl SocketFile {
    fn bind(path: &Path) -> io::Result<SocketFile> {
        let socket = replace_stale(path, || UnixListener::bind(path))?;
        socket.set_nonblocking(true)?;
        // Whoever may enter the directory may connect, as with a TCP port: a reverse proxy runs as another user.
        fs::set_permissions(path, fs::Permissions::from_mode(0o666))?;
        // The second listen(2) only changes the backlog, for which std has no argument.
        let socket = Socket::from(OwnedFd::from(socket));
        socket.listen(BACKLOG)?;
        let socket = UnixListener::from(OwnedFd::from(socket));
        let identity = identity(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(SocketFile { path: path.to_owned(), identity, socket: Rc::new(socket) })
    }
}

/// Binds to a path; a socket file there that nobody listens to any more is removed first. Anything else stays, and the
/// error is `AddrInUse`.
pub(crate) fn replace_stale<T>(path: &Path, bind: impl Fn() -> io::Result<T>) -> io::Result<T> {
    match bind() {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_stale(path) => {
            fs::remove_file(path)?;
            bind()
        }
        outcome => outcome,
    }
}

fn is_stale(path: &Path) -> bool {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    is_socket && dial(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

/// Connects without ever waiting: a living server with a full backlog is `WouldBlock`.
pub(crate) fn dial(path: &Path) -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    socket.connect(&SockAddr::unix(path)?)?;
    Ok(socket)
}

/// What makes a file this file: a successor may have put another in its place.
pub(crate) fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|found| (found.dev(), found.ino()))
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
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn any_port() -> Vec<Endpoint> {
        vec![Endpoint::Tcp("127.0.0.1:0".parse().unwrap())]
    }

    fn address(listeners: &Listeners) -> SocketAddr {
        match listeners.endpoints()[0] {
            Endpoint::Tcp(address) => address,
            Endpoint::Unix(_) => panic!("not TCP"),
        }
    }

    #[test]
    fn the_port_that_the_kernel_chose_serves_all_slots() {
        let mut listeners = Listeners::bind(&any_port(), 2, Duration::ZERO).unwrap();
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
        let first = Listeners::bind(&any_port(), 2, Duration::ZERO).unwrap();
        let error = Listeners::bind(first.endpoints(), 1, Duration::ZERO).unwrap_err();
        assert!(matches!(error, Error::AddressInUse { .. }));
        let text = error.to_string();
        assert!(text.contains(&address(&first).to_string()) && text.contains("address already in use"), "{text}");
        let plain = TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = [Endpoint::Tcp(plain.local_addr().unwrap())];
        assert!(matches!(Listeners::bind(&taken, 1, Duration::ZERO), Err(Error::AddressInUse { .. })));
    }

    #[test]
    fn the_workers_of_a_dead_supervisor_are_waited_for() {
        let orphan = TcpListener::bind("127.0.0.1:0").unwrap();
        let wanted = [Endpoint::Tcp(orphan.local_addr().unwrap())];
        let leaving = std::thread::spawn(move || {
            std::thread::sleep(PROBE_INTERVAL * 3);
            drop(orphan);
        });
        Listeners::bind(&wanted, 1, Duration::from_secs(10)).unwrap();
        leaving.join().unwrap();
    }

    #[test]
    fn both_wildcards_can_be_listed() {
        let probe = TcpListener::bind("0.0.0.0:0").unwrap();
        let port = probe.local_addr().unwrap().port();
        drop(probe);
        let wanted = [format!("0.0.0.0:{port}"), format!("[::]:{port}")].map(|a| Endpoint::Tcp(a.parse().unwrap()));
        match Listeners::bind(&wanted, 2, Duration::ZERO) {
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
        let listeners = Listeners::bind(&wanted, 3, Duration::ZERO).unwrap();
        UnixStream::connect(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o666);
        assert_ne!(listeners.of(0)[0].socket.as_raw_fd(), listeners.of(2)[0].socket.as_raw_fd());
        assert!(matches!(Listeners::bind(&wanted, 1, Duration::ZERO), Err(Error::AddressInUse { .. })));
        UnixStream::connect(&path).expect("the refused one has not harmed the living one");
        listeners.remove_files();
        assert!(!path.exists());
    }

    #[test]
    fn a_file_that_is_no_socket_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("precious");
        fs::write(&path, "data").unwrap();
        let error = Listeners::bind(&[Endpoint::Unix(path.clone())], 1, Duration::ZERO).unwrap_err();
        assert!(error.to_string().contains("no socket"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "data");
    }

    #[test]
    fn a_worker_keeps_its_own_only() {
        let listeners = Listeners::bind(&any_port(), 3, Duration::ZERO).unwrap();
        let own = listeners.into_slot(1);
        assert_eq!((own.len(), own[0].slot), (1, 1));
    }
}
