//! The door: where a successor comes in, and how it does.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use baton_ipc::channel::{self, ChannelError};
use baton_ipc::control::Generation;
use baton_ipc::takeover::Message;
use baton_ipc::{Channel, Endpoint, Scoreboard, private};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, SockAddr, Socket, Type};

use super::{door_path, generation};
use crate::parent::Line;
use crate::settings::{Settings, Takeover};
use crate::socket_file::identity;
use crate::sys;
use crate::{Error, listeners};

/// How long an incumbent may take to let somebody in.
const PATIENCE: Duration = Duration::from_secs(5);

/// The listening end.
#[derive(Debug)]
pub(crate) struct Door {
    socket: Socket,
    path: PathBuf,
    identity: Option<(u64, u64)>,
}

/// What a successor has got.
#[derive(Debug)]
pub(crate) struct Joined {
    pub(crate) channel: Channel,
    pub(crate) incumbent: Generation,
    pub(crate) configured: Vec<Endpoint>,
    pub(crate) bound: Vec<Endpoint>,
    /// By slot, in the order of the addresses.
    pub(crate) sockets: Vec<Vec<OwnedFd>>,
    pub(crate) board: Scoreboard,
    /// The line to a process that stays in front of all generations, if there is one.
    pub(crate) parent: Option<Line>,
    /// It has our color: this is an upgrade.
    pub(crate) same_color: bool,
}

impl Door {
    /// Opens the door of a generation whose control socket is held already: nobody else can want it.
    pub(crate) fn open(directory: &Path, name: &str) -> Result<Door, Error> {
        let path = door_path(directory, name);
        let socket = match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => listen(&path),
        };
        let socket = socket.map_err(|source| Error::Control { path: path.clone(), source })?;
        Ok(Door { socket, identity: identity(&path), path })
    }

    /// Makes it anew if its file is gone, in a directory that is there. Returns whether it did.
    pub(crate) fn restore(&mut self) -> io::Result<bool> {
        if identity(&self.path).is_some() {
            return Ok(false);
        }
        self.socket = listen(&self.path)?;
        self.identity = identity(&self.path);
        Ok(true)
    }

    /// Lets in who is outside, if it is root or who we are.
    pub(crate) fn accept(&self) -> Option<Channel> {
        let (socket, _) = self.socket.accept().ok()?;
        let ours = nix::unistd::geteuid().as_raw();
        match sys::peer(socket.as_fd()) {
            Ok(peer) if peer.uid == 0 || peer.uid == ours => Some(Channel::from(OwnedFd::from(socket))),
            Ok(peer) => {
                tracing::warn!(peer_pid = peer.pid, peer_uid = peer.uid, "refused a successor: it is another user's");
                None
            }
            Err(_) => None,
        }
    }

    /// Takes the name of one that is about to go.
    pub(crate) fn rename(&mut self, directory: &Path, name: &str) -> io::Result<()> {
        let path = door_path(directory, name);
        std::fs::rename(&self.path, &path)?;
        self.path = path;
        Ok(())
    }

    /// At the very end; not if it has become somebody else's.
    pub(crate) fn remove_file(&self) {
        if identity(&self.path) == self.identity {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Binds a door that only we, and root, can knock at.
fn listen(path: &Path) -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::SEQPACKET.nonblocking(), None)?;
    let address = SockAddr::unix(path)?;
    let before = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o177));
    let bound = socket.bind(&address);
    nix::sys::stat::umask(before);
    bound?;
    socket.listen(4)?;
    Ok(socket)
}

impl AsFd for Door {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Joined {
    /// Joins the generation that runs, if the settings say so and there is one.
    pub(crate) fn join(settings: &Settings) -> Result<Option<Joined>, Error> {
        if settings.takeover == Takeover::Never {
            return Ok(None);
        }
        let other = if settings.color == "blue" { "green" } else { "blue" };
        let mut names = vec![other];
        if settings.takeover == Takeover::Now {
            names.push(&settings.color);
        }
        for name in names {
            let path = door_path(&settings.runtime_dir, name);
            match dial(&path) {
                Ok(channel) => {
                    let joined = greet(channel, settings);
                    let joined = joined.map_err(|reason| Error::Takeover { color: name.to_owned(), reason })?;
                    return Ok(Some(Joined { same_color: name == settings.color, ..joined }));
                }
                // Nobody runs there, or not any more.
                Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {}
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    return Err(Error::Takeover {
                        color: name.to_owned(),
                        reason: format!("{}: {error}", path.display()),
                    });
                }
                Err(source) => return Err(Error::Control { path, source }),
            }
        }
        Ok(None)
    }
}

fn dial(path: &Path) -> io::Result<Channel> {
    let socket = Socket::new(Domain::UNIX, Type::SEQPACKET.nonblocking(), None)?;
    socket.connect(&SockAddr::unix(path)?)?;
    // What it sends is used: its shared memory, its sockets, its clients.
    private::ensure_ours(socket.as_fd())?;
    Ok(Channel::from(OwnedFd::from(socket)))
}

/// Says hello, and takes what it is given.
fn greet(channel: Channel, settings: &Settings) -> Result<Joined, String> {
    let hello = Message::Hello {
        generation: generation(&settings.color, settings.version),
        backplane: settings.backplane.clone(),
        store: settings.store,
    };
    channel.send(&hello, &[]).map_err(|error| error.to_string())?;
    let end = Instant::now() + PATIENCE;
    let (incumbent, configured, bound, slots, mut memfd) = match receive(&channel, end)? {
        (Message::Welcome { generation, configured, bound, slots }, fds) => (generation, configured, bound, slots, fds),
        (Message::Refused { reason }, _) => return Err(reason),
        (other, _) => return Err(format!("it answers with {other:?}")),
    };
    let board = memfd.pop().ok_or("it sent no scoreboard")?;
    let parent = memfd.pop().map(Line::inherited);
    let board = Scoreboard::adopt(board).map_err(|error| error.to_string())?;
    let mut sockets = Vec::new();
    for slot in 0..slots {
        match receive(&channel, end)? {
            (Message::Listeners { slot: theirs }, fds) if theirs == slot && fds.len() == bound.len() => {
                sockets.push(fds);
            }
            (other, fds) => return Err(format!("it sends {other:?} with {} descriptors", fds.len())),
        }
    }
    let found = sockets.iter().flat_map(|sockets| sockets.iter().zip(&bound));
    for (socket, endpoint) in found {
        listeners::ensure_is(socket, endpoint)?;
    }
    Ok(Joined { channel, incumbent, configured, bound, sockets, board, parent, same_color: false })
}

fn receive(line: &Channel, end: Instant) -> Result<(Message, Vec<OwnedFd>), String> {
    loop {
        match line.recv::<Message>() {
            Ok(Some(received)) => return Ok(received),
            Ok(None) => {}
            Err(ChannelError::Version { theirs }) => {
                return Err(format!(
                    "it speaks protocol version {theirs} and this binary {}: they cannot hand connections \
                     over; stop it and start this one instead",
                    channel::version()
                ));
            }
            Err(error) => return Err(error.to_string()),
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(format!("it does not answer within {PATIENCE:?}"));
        }
        let mut fds = [PollFd::new(line.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(left.as_millis().max(1)).unwrap_or(PollTimeout::MAX);
        // Interrupted or not: the loop looks.
        let _ = poll(&mut fds, timeout);
    }
}
