//! Checks the directories and makes the files in which the processes of one user meet, so that no other user of the machine can
//! read, replace or hold them.
//!
//! In a directory that only its owner may write to ([`ensure_directory`]) nobody else can put anything. Files are opened without
//! following a symbolic link all the same: the directory may have been open to others before. The directories above it are the
//! administrator's business.

use std::fmt;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd::geteuid;

/// What only the owner of a file may do with it.
const OWNER_ONLY: u32 = 0o600;

/// Write permission of the group and of all others.
const WRITABLE: u32 = 0o022;

/// Why a directory cannot be trusted.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// Its owner can replace all that is in it.
    #[error("it belongs to user {owner}, but this is user {user}; run as its owner, or `chown {user}` it")]
    NotOurs {
        /// Its owner's user id.
        owner: u32,
        /// This process's effective user id.
        user: u32,
    },
    /// Others can replace all that is in it, also where the sticky bit is set.
    #[error(
        "users other than its owner may write to it (mode {mode:04o}); `chmod go-w` it, or choose another directory"
    )]
    Writable {
        /// Its permissions.
        mode: u32,
    },
    /// It is missing, or something else.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Makes sure that the directory belongs to this process's user, and that nobody else may write to it. A symbolic link to it is
/// followed: service managers make some.
///
/// # Errors
/// It is someone else's, open to others, or cannot be looked at.
pub fn ensure_directory(path: &Path) -> Result<(), DirectoryError> {
    let (owner, user) = (closed_to_others(path)?, geteuid().as_raw());
    if owner == user { Ok(()) } else { Err(DirectoryError::NotOurs { owner, user }) }
}

/// The owner of a directory that nobody else may write to.
fn closed_to_others(path: &Path) -> Result<u32, DirectoryError> {
    let metadata = fs::metadata(path)?;
    if !metadata.is_dir() {
        return Err(io::Error::from(ErrorKind::NotADirectory).into());
    }
    match metadata.mode() & 0o7777 {
        mode if mode & WRITABLE == 0 => Ok(metadata.uid()),
        mode => Err(DirectoryError::Writable { mode }),
    }
}

/// Opens a file for reading and writing, and makes it if it is missing, for this user alone; one that more may read or lock is
/// closed to them.
///
/// # Errors
/// It is a symbolic link or no regular file (`InvalidInput`), or cannot be opened.
pub fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    let file = no_link(&mut options, path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(refused("no regular file"));
    }
    if metadata.mode() & 0o777 & !OWNER_ONLY != 0 {
        file.set_permissions(Permissions::from_mode(OWNER_ONLY))?;
    }
    Ok(file)
}

/// Makes a new file for reading and writing, for this user alone. What has the name already, such as the leftover of a process
/// that was killed, is removed and not written to.
///
/// # Errors
/// Something stands there that cannot be removed, or the file cannot be made.
pub fn create(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    no_link(OpenOptions::new().read(true).write(true).create_new(true), path)
}

fn no_link(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    // std adds O_CLOEXEC.
    let opened = options.mode(OWNER_ONLY).custom_flags(libc::O_NOFOLLOW).open(path);
    opened.map_err(|error| match error.raw_os_error() {
        Some(libc::ELOOP) => refused("a symbolic link, which is not followed"),
        _ => error,
    })
}

fn refused(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidInput, format!("it is {what}: move it away"))
}

/// Who listens at the other end of a Unix socket (`SO_PEERCRED` of `unix(7)`), as of its `listen(2)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listener {
    /// The process.
    pub pid: i32,
    /// Its effective user id.
    pub uid: u32,
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "user {} listens there (pid {})", self.uid, self.pid)
    }
}

/// Makes sure that root or this user is at the other end of a connection.
///
/// # Errors
/// `PermissionDenied`: it is somebody else.
pub fn ensure_ours(socket: BorrowedFd<'_>) -> io::Result<()> {
    let user = geteuid().as_raw();
    ensure_one_of(socket, &[0, user], || format!("expected root or user {user}"))
}

/// Makes sure that at the other end of a connection there is root, this user, or the owner of the directory that the socket is
/// in, to which nobody else may write.
///
/// # Errors
/// `PermissionDenied`: it is somebody else, or the directory is open to others.
pub fn ensure_owners(socket: BorrowedFd<'_>, directory: &Path) -> io::Result<()> {
    let owner = closed_to_others(directory).map_err(|error| match error {
        DirectoryError::Io(error) => error,
        error => io::Error::new(ErrorKind::PermissionDenied, format!("{}: {error}", directory.display())),
    })?;
    let user = geteuid().as_raw();
    let expected = || format!("expected root, user {user} or user {owner}, who owns the directory");
    ensure_one_of(socket, &[0, user, owner], expected)
}

fn ensure_one_of(socket: BorrowedFd<'_>, allowed: &[u32], expected: impl FnOnce() -> String) -> io::Result<()> {
    let credentials = getsockopt(&socket, sockopt::PeerCredentials).map_err(|errno: Errno| io::Error::from(errno))?;
    let listener = Listener { pid: credentials.pid(), uid: credentials.uid() };
    if allowed.contains(&listener.uid) {
        return Ok(());
    }
    Err(io::Error::new(ErrorKind::PermissionDenied, format!("{listener}, {}", expected())))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::os::unix::fs::{chown, symlink};
    use std::os::unix::net::UnixStream;
    use std::path::PathBuf;

    use super::*;

    /// A directory that is removed at the end.
    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Directory {
            let path = std::env::temp_dir().join(format!("baton-private-{name}-{}", std::process::id()));
            fs::create_dir(&path).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
            Directory(path)
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn a_directory_is_ours_alone_or_refused() {
        let directory = Directory::new("directory");
        for mode in [0o700, 0o750, 0o755, 0o2755] {
            fs::set_permissions(&directory.0, Permissions::from_mode(mode)).unwrap();
            ensure_directory(&directory.0).unwrap_or_else(|error| panic!("{mode:o}: {error}"));
        }
        for mode in [0o770, 0o775, 0o757, 0o1777] {
            fs::set_permissions(&directory.0, Permissions::from_mode(mode)).unwrap();
            let error = ensure_directory(&directory.0).unwrap_err();
            assert!(matches!(error, DirectoryError::Writable { mode: found } if found == mode), "{error}");
        }
        let file = directory.0.join("file");
        File::create(&file).unwrap();
        assert!(matches!(ensure_directory(&file), Err(DirectoryError::Io(_))));
        assert!(matches!(ensure_directory(&directory.0.join("missing")), Err(DirectoryError::Io(_))));
        if geteuid().is_root() {
            fs::set_permissions(&directory.0, Permissions::from_mode(0o700)).unwrap();
            chown(&directory.0, Some(65534), None).unwrap();
            let error = ensure_directory(&directory.0).unwrap_err();
            assert!(matches!(error, DirectoryError::NotOurs { owner: 65534, user: 0 }), "{error}");
        }
    }

    #[test]
    fn files_are_for_their_owner_and_no_link_is_followed() {
        let directory = Directory::new("files");
        let at = |name: &str| directory.0.join(name);
        fs::write(at("precious"), "data").unwrap();
        symlink(at("precious"), at("link")).unwrap();
        symlink(at("nowhere"), at("dangling")).unwrap();
        for name in ["link", "dangling"] {
            let error = open(&at(name)).unwrap_err();
            assert!(error.kind() == ErrorKind::InvalidInput && error.to_string().contains("symbolic link"), "{error}");
        }
        create(&at("link")).unwrap().write_all(b"new").unwrap();
        assert_eq!(fs::read_to_string(at("precious")).unwrap(), "data");
        assert!(!at("nowhere").exists());
        assert_eq!((mode(&at("link")), fs::read_to_string(at("link")).unwrap()), (0o600, "new".to_owned()));

        fs::write(at("lax"), "kept").unwrap();
        fs::set_permissions(at("lax"), Permissions::from_mode(0o666)).unwrap();
        open(&at("lax")).unwrap();
        assert_eq!((mode(&at("lax")), fs::read_to_string(at("lax")).unwrap()), (0o600, "kept".to_owned()));
        create(&at("lax")).unwrap();
        assert_eq!(fs::read_to_string(at("lax")).unwrap(), "", "a leftover is replaced");
        assert!(open(&directory.0).is_err() && create(&directory.0).is_err());
    }

    #[test]
    fn the_other_end_is_one_of_those_expected() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let directory = Directory::new("peer");
        ensure_ours(ours.as_fd()).unwrap();
        ensure_owners(ours.as_fd(), &directory.0).unwrap();
        let error = ensure_one_of(ours.as_fd(), &[65534], || "expected nobody".to_owned()).unwrap_err();
        let user = geteuid();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        assert!(error.to_string().starts_with(&format!("user {user} listens there (pid ")), "{error}");
        fs::set_permissions(&directory.0, Permissions::from_mode(0o777)).unwrap();
        let error = ensure_owners(ours.as_fd(), &directory.0).unwrap_err();
        assert!(error.kind() == ErrorKind::PermissionDenied && error.to_string().contains("0777"), "{error}");
    }
}
