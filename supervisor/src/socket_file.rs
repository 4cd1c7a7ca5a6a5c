//! Unix sockets and their files, which outlive whoever made them.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};

/// A Unix socket that all slots share, and its file.
#[derive(Debug)]
pub(crate) struct SocketFile {
    pub(crate) path: PathBuf,
    identity: (u64, u64),
    socket: OwnedFd,
}

impl SocketFile {
    /// A new one, in place of one that nobody listens to any more.
    pub(crate) fn bind(path: &Path, backlog: i32) -> io::Result<SocketFile> {
        let socket = replace_stale(path, || UnixListener::bind(path))?;
        socket.set_nonblocking(true)?;
        // Whoever may enter the directory may connect, as with a TCP port: a reverse proxy runs as another user.
        fs::set_permissions(path, fs::Permissions::from_mode(0o666))?;
        // The second listen(2) only changes the backlog, for which std has no argument.
        let socket = Socket::from(OwnedFd::from(socket));
        socket.listen(backlog)?;
        SocketFile::adopt(path, socket.into())
    }

    /// One that listens already, and came from elsewhere.
    pub(crate) fn adopt(path: &Path, socket: OwnedFd) -> io::Result<SocketFile> {
        let identity = identity(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(SocketFile { path: path.to_owned(), identity, socket })
    }

    /// Another descriptor of the socket.
    pub(crate) fn socket(&self) -> io::Result<OwnedFd> {
        self.socket.try_clone()
    }

    /// Removes the file, unless it has become somebody else's.
    pub(crate) fn remove(&self) {
        if identity(&self.path) == Some(self.identity) {
            let _ = fs::remove_file(&self.path);
        }
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
    is_socket(path) && dial(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

/// Whether the file is there, and is a socket.
pub(crate) fn is_socket(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket())
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
