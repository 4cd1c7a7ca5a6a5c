//! The control socket: who may speak, and to how many we listen.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use baton_ipc::control::{ErrorCode, Reply, Request};
use baton_ipc::private;
use nix::poll::PollFlags;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Group};

use crate::Error;
use crate::client::Client;
use crate::socket_file::{dial, identity, replace_stale};
use crate::sys::{self, Peer};

/// The most clients at a time.
const MAX_CLIENTS: usize = 16;

/// After a failure of accept(2).
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Held while a supervisor starts, in the directory of control sockets.
const LOCK: &str = "start.lock";

/// How long a start waits for another one, which may itself wait for an incumbent to let it in.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);

/// How often a lock is tried that cannot be waited for with a deadline.
const LOCK_INTERVAL: Duration = Duration::from_millis(20);

/// Names a client; never used twice.
pub(crate) type ClientId = u64;

/// The socket and those who are connected to it.
#[derive(Debug)]
pub(crate) struct Control {
    listener: UnixListener,
    path: PathBuf,
    identity: Option<(u64, u64)>,
    access: Access,
    clients: BTreeMap<ClientId, Client>,
    next: ClientId,
    // accept(2) has failed: to try again at once would be to spin.
    paused_until: Option<Instant>,
}

/// Who may use it.
#[derive(Clone, Copy, Debug)]
struct Access {
    owner: u32,
    group: Option<u32>,
}

impl Access {
    fn allows(self, peer: &Peer) -> bool {
        peer.uid == 0 || peer.uid == self.owner || self.group.is_some_and(|group| peer.groups.contains(&group))
    }
}

/// Makes the directory of control sockets, refuses one that others could change, and keeps all others who start in it waiting as
/// long as this is held: they must not take each other's fresh sockets for stale ones, nor both find nobody to take over from.
pub(crate) fn lock(directory: &Path) -> Result<File, Error> {
    lock_within(directory, LOCK_TIMEOUT)
}

fn lock_within(directory: &Path, timeout: Duration) -> Result<File, Error> {
    make(directory).map_err(|source| Error::Control { path: directory.to_owned(), source })?;
    private::ensure_directory(directory)
        .map_err(|source| Error::Directory { path: directory.to_owned(), source: source.into() })?;
    // A file that only we and root may open: whoever can open a file can lock it (flock(2)).
    let path = directory.join(LOCK);
    let failed = |source| Error::Lock { path: path.clone(), source };
    let mut lock = private::open(&path).map_err(failed)?;
    let begun = Instant::now();
    let mut logged = false;
    loop {
        match lock.try_lock() {
            Ok(()) => break,
            Err(TryLockError::Error(error)) => return Err(failed(error)),
            Err(TryLockError::WouldBlock) if begun.elapsed() >= timeout => {
                return Err(Error::Locked { holder: holder(&mut lock), path: path.clone(), waited: timeout });
            }
            Err(TryLockError::WouldBlock) => {}
        }
        if !logged {
            let holder = holder(&mut lock);
            tracing::info!(event = "waiting_for_lock", lock = %path.display(), holder, "waiting for another start");
            logged = true;
        }
        std::thread::sleep(LOCK_INTERVAL);
    }
    // For whoever waits; that it is not there does no harm.
    let _ = lock.set_len(0).and_then(|()| lock.rewind()).and_then(|()| writeln!(lock, "{}", std::process::id()));
    Ok(lock)
}

/// Makes the directory, which other users may enter: a reverse proxy dials sockets in it.
fn make(directory: &Path) -> io::Result<()> {
    // There is one thread.
    let before = umask(Mode::from_bits_truncate(0o022));
    let made = fs::DirBuilder::new().recursive(true).mode(0o755).create(directory);
    umask(before);
    made
}

/// The process that has noted itself in the lock file; "unknown" if it has not come to that yet.
fn holder(lock: &mut File) -> String {
    let mut text = String::new();
    let read = lock.rewind().and_then(|()| lock.take(32).read_to_string(&mut text));
    match read.map(|_| text.trim().parse::<u32>()) {
        Ok(Ok(pid)) => format!("pid {pid}"),
        Ok(Err(_)) | Err(_) => "unknown".to_owned(),
    }
}

impl Control {
    /// Makes `NAME.sock` in a directory that is locked: the name is the color. The second value tells that a supervisor of this color died here without cleaning up.
    pub(crate) fn open(directory: &Path, color: &str, group: Option<&str>) -> Result<(Control, bool), Error> {
        let path = directory.join(format!("{color}.sock"));
        let failed = |source| Error::Control { path: path.clone(), source };
        let group = group.map(find_group).transpose()?;
        let found = identity(&path).is_some();
        let listener = match replace_stale(&path, || bind(&path, group)) {
            Ok(listener) => listener,
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(taken(&path, color, error)),
            Err(error) => return Err(failed(error)),
        };
        let access = Access { owner: nix::unistd::geteuid().as_raw(), group: group.map(Gid::as_raw) };
        let identity = identity(&path);
        Ok((Control { listener, path, identity, access, clients: BTreeMap::new(), next: 0, paused_until: None }, found))
    }

    /// Makes the socket anew if its file is gone, and its directory too if need be. Returns whether it did. What somebody else has
    /// put in its place stays.
    pub(crate) fn restore(&mut self, now: Instant) -> io::Result<bool> {
        if identity(&self.path).is_some() {
            return Ok(false);
        }
        if let Some(directory) = self.path.parent() {
            make(directory)?;
            private::ensure_directory(directory).map_err(io::Error::other)?;
        }
        let listener = bind(&self.path, self.access.group.map(Gid::from_raw))?;
        // They came before it was deleted.
        self.accept(now);
        self.identity = identity(&self.path);
        self.listener = listener;
        Ok(true)
    }

    /// Lets in who waits outside.
    pub(crate) fn accept(&mut self, now: Instant) {
        loop {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    // Out of descriptors, most likely.
                    tracing::warn!(%error, "cannot accept on the control socket; trying again in a second");
                    self.paused_until = Some(now + ACCEPT_PAUSE);
                    return;
                }
            };
            let peer = sys::peer(stream.as_fd());
            let Ok(mut client) = Client::new(stream) else { continue };
            match peer {
                Ok(peer) if self.access.allows(&peer) => {
                    if self.clients.len() >= MAX_CLIENTS {
                        let message = format!("{MAX_CLIENTS} clients are connected already: try again later");
                        client.refuse(ErrorCode::Busy, &message, now);
                    }
                }
                Ok(peer) => {
                    tracing::warn!(peer_pid = peer.pid, peer_uid = peer.uid, "refused a client of the control socket");
                    let message = "only root, the user of the service and members of its control group may do this";
                    client.refuse(ErrorCode::PermissionDenied, message, now);
                }
                Err(error) => {
                    client.refuse(ErrorCode::PermissionDenied, &format!("cannot tell who you are: {error}"), now);
                }
            }
            // The refused ones linger for a second at most; twice the number is where even that ends.
            if !client.is_gone() && self.clients.len() < 2 * MAX_CLIENTS {
                self.clients.insert(self.next, client);
                self.next += 1;
            }
        }
    }

    /// What to poll: each client and what it waits for.
    pub(crate) fn interests(&self) -> impl Iterator<Item = (ClientId, BorrowedFd<'_>, PollFlags)> {
        self.clients.iter().map(|(id, client)| (*id, client.as_fd(), client.interest()))
    }

    /// A client's socket has news.
    pub(crate) fn attend(&mut self, id: ClientId, events: PollFlags, now: Instant) {
        if let Some(client) = self.clients.get_mut(&id) {
            client.attend(events, now);
        }
    }

    /// The next request of anybody who may ask one.
    pub(crate) fn take_request(&mut self, now: Instant) -> Option<(ClientId, Request)> {
        self.clients.iter_mut().find_map(|(id, client)| Some((*id, client.take_request(now)?)))
    }

    /// Answers; a client that has left gets nothing.
    pub(crate) fn reply(&mut self, id: ClientId, reply: &Reply, now: Instant) {
        if let Some(client) = self.clients.get_mut(&id) {
            client.reply(reply, now);
        }
    }

    /// Drops who took too long, or has left.
    pub(crate) fn expire(&mut self, now: Instant) {
        self.paused_until = self.paused_until.filter(|until| now < *until);
        self.clients.retain(|_, client| {
            client.expire(now);
            !client.is_gone()
        });
    }

    /// When [`Control::expire`] will change something.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.clients.values().filter_map(Client::deadline).chain(self.paused_until).min()
    }

    /// Whether somebody may come in now.
    pub(crate) fn is_open(&self) -> bool {
        self.paused_until.is_none()
    }

    /// Takes the name of a generation that is about to go.
    pub(crate) fn rename(&mut self, directory: &Path, name: &str) -> io::Result<()> {
        let path = directory.join(format!("{name}.sock"));
        fs::rename(&self.path, &path)?;
        self.path = path;
        Ok(())
    }

    /// Removes the socket file, at the very end; not if it has become a successor's.
    pub(crate) fn remove_file(&self) {
        if identity(&self.path) == self.identity {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl AsFd for Control {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

fn find_group(name: &str) -> Result<Gid, Error> {
    match Group::from_name(name) {
        Ok(Some(group)) => Ok(group.gid),
        Ok(None) => Err(Error::NoSuchGroup(name.to_owned())),
        Err(errno) => Err(Error::system("look up the control group")(errno)),
    }
}

fn bind(path: &Path, group: Option<Gid>) -> io::Result<UnixListener> {
    // Nobody may connect between bind and chmod.
    let before = umask(Mode::from_bits_truncate(0o177));
    let listener = UnixListener::bind(path);
    umask(before);
    let listener = listener?;
    if let Some(group) = group {
        let opened = nix::unistd::chown(path, None, Some(group)).map_err(io::Error::from);
        let opened = opened.and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o660)));
        opened.inspect_err(|_| drop(fs::remove_file(path)))?;
    }
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Who has the socket: the kernel remembers who called listen(2).
fn taken(path: &Path, color: &str, error: io::Error) -> Error {
    match dial(path).and_then(|socket| sys::peer(socket.as_fd())) {
        Ok(peer) => Error::AlreadyRunning { color: color.to_owned(), pid: peer.pid },
        Err(_) => Error::Control { path: path.to_owned(), source: error },
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::os::unix::net::UnixStream;

    use super::*;

    fn open(directory: &Path) -> (Control, bool) {
        let _lock = lock(directory).unwrap();
        Control::open(directory, "blue", None).unwrap()
    }

    #[test]
    fn a_socket_that_was_deleted_is_made_anew_and_nobody_elses_is_taken() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path().join("run");
        let (mut control, _) = open(&directory);
        let now = Instant::now();
        assert!(!control.restore(now).unwrap());
        let waiting = UnixStream::connect(directory.join("blue.sock")).unwrap();
        fs::remove_dir_all(&directory).unwrap();
        assert!(control.restore(now).unwrap());
        UnixStream::connect(directory.join("blue.sock")).unwrap();
        assert_eq!(control.interests().count(), 1, "who had come before it was deleted");
        drop(waiting);
        fs::remove_file(directory.join("blue.sock")).unwrap();
        let _other = UnixListener::bind(directory.join("blue.sock")).unwrap();
        assert!(!control.restore(now).unwrap());
        control.remove_file();
        assert!(directory.join("blue.sock").exists());
    }

    fn first_line(stream: &UnixStream) -> String {
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        line
    }

    #[test]
    fn a_start_waits_for_another_one_until_its_deadline_and_names_it() {
        let directory = tempfile::tempdir().unwrap();
        let first = lock(directory.path()).unwrap();
        match lock_within(directory.path(), LOCK_INTERVAL) {
            Err(Error::Locked { holder, path, .. }) => {
                assert_eq!(holder, format!("pid {}", std::process::id()));
                assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            }
            outcome => panic!("{outcome:?}"),
        }
        drop(first);
        lock_within(directory.path(), LOCK_INTERVAL).unwrap();
    }

    #[test]
    fn a_directory_that_others_may_write_to_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("a/b");
        drop(lock(&directory).unwrap());
        assert_eq!(fs::metadata(&directory).unwrap().permissions().mode() & 0o777, 0o755);
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o775)).unwrap();
        assert!(matches!(lock(&directory), Err(Error::Directory { .. })));
    }

    #[test]
    fn root_the_owner_and_the_group_are_let_in() {
        let access = Access { owner: 100, group: Some(7) };
        let peer = |uid, groups: &[u32]| Peer { pid: 1, uid, groups: groups.to_vec() };
        assert!(access.allows(&peer(0, &[])) && access.allows(&peer(100, &[])) && access.allows(&peer(5, &[3, 7])));
        assert!(!access.allows(&peer(5, &[3])) && !access.allows(&peer(101, &[100])));
        assert!(!Access { group: None, ..access }.allows(&peer(5, &[7])));
    }

    #[test]
    fn the_socket_is_private_and_its_directory_is_made() {
        let directory = tempfile::tempdir().unwrap();
        let nested = directory.path().join("run/baton");
        let (control, died) = open(&nested);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&nested.join("blue.sock")), died), (0o600, false));
        control.remove_file();
        assert!(!nested.join("blue.sock").exists());
    }

    #[test]
    fn a_living_supervisor_is_named_and_a_dead_ones_socket_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let (first, _) = open(directory.path());
        let error = Control::open(directory.path(), "blue", None).unwrap_err();
        assert!(
            error.to_string().starts_with(&format!("blue already runs with pid {}", std::process::id())),
            "{error}"
        );
        Control::open(directory.path(), "green", None).unwrap();
        drop(first);
        let (_second, died) = open(directory.path());
        assert!(died);
        UnixStream::connect(directory.path().join("blue.sock")).unwrap();
    }

    #[test]
    fn a_group_that_does_not_exist_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let error = Control::open(directory.path(), "blue", Some("no-such-group")).unwrap_err();
        assert!(matches!(error, Error::NoSuchGroup(_)));
    }

    #[test]
    fn there_is_room_for_so_many_clients_and_the_next_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let (mut control, _) = open(directory.path());
        let now = Instant::now();
        let dial = || UnixStream::connect(directory.path().join("blue.sock")).unwrap();
        let mut clients: Vec<UnixStream> = (0..=MAX_CLIENTS).map(|_| dial()).collect();
        control.accept(now);
        assert!(first_line(&clients[MAX_CLIENTS]).contains("busy"));
        clients[0].write_all(b"{\"version\":1,\"command\":\"version\"}\n").unwrap();
        control.attend(0, PollFlags::POLLIN, now);
        assert!(matches!(control.take_request(now), Some((0, _))));
        clients.truncate(1);
        let ids: Vec<ClientId> = control.interests().map(|(id, ..)| id).filter(|id| *id != 0).collect();
        ids.iter().for_each(|id| control.attend(*id, PollFlags::POLLIN | PollFlags::POLLHUP, now));
        while control.take_request(now).is_some() {}
        control.expire(now);
        assert_eq!(control.interests().count(), 1);
    }
}
