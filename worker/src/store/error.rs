//! Why a start is refused, in sentences that tell the operator what to do.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;

use super::FORMAT;

/// Why the store cannot be made ready. Nothing was bound or forked yet, and no data was removed.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// The path is a file, or leads through one.
    #[error("state directory {}: not a directory; set --state-dir to one", .0.display())]
    NotADirectory(PathBuf),
    /// It is missing, and so it stays.
    #[error(
        "state directory {}: it does not exist and cannot be created ({source}); create it for the user that runs \
         baton, mode 0700, or set --state-dir to another one", .path.display()
    )]
    Uncreatable {
        /// The directory.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Files cannot be made there.
    #[error("state directory {}: cannot make files in it ({source}); {}", .path.display(), advice_unwritable(.source))]
    Unwritable {
        /// The directory.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The directory belongs to someone else.
    #[error(
        "state directory {}: it belongs to user {owner}, but this is user {user}; run as its owner, \
         `chown -R {user}` it, or set --state-dir to another one", .path.display()
    )]
    NotOurs {
        /// The directory.
        path: PathBuf,
        /// Its owner's user id.
        owner: u32,
        /// This process's effective user id.
        user: u32,
    },
    /// Others could replace what is in it.
    #[error(
        "state directory {}: users other than its owner may write to it (mode {mode:04o}); `chmod go-w` it, or set \
         --state-dir to another one", .path.display()
    )]
    OpenToOthers {
        /// The directory.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// Something that is not ours is in the directory, and our marker is not.
    #[error(
        "state directory {}: it holds {found} but no store of baton (no file `baton-store`); \
         set --state-dir to an empty directory, or to one with nothing but a backup, as `{}` and `{}`",
        .path.display(), super::names::CHECKPOINT, super::names::SUPERUSERS
    )]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// Names of what is in it, the first few.
        found: String,
    },
    /// The marker is that of another version.
    #[error(
        "state directory {}: its store has format {found}, but this version reads format {FORMAT}; \
         run the version that made it, or set --state-dir to another directory", .path.display()
    )]
    Format {
        /// The directory.
        path: PathBuf,
        /// The format's number, or the start of what is in its place.
        found: String,
    },
    /// Another start does not come to an end.
    #[error(
        "{}: locked by another start for more than {} s; wait until that one is done, or find it with `fuser -v {}`",
        .path.display(), .waited.as_secs(), .path.display()
    )]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// How long this start waited.
        waited: Duration,
    },
    /// The last user is on its way out and does not come to an end.
    #[error(
        "{}: its last user has been leaving for more than {} s, probably writing to a slow disk; \
         try again, or find it with `fuser -v {}`",
        .path.display(), .waited.as_secs(), .path.display()
    )]
    Leaving {
        /// The lock file.
        path: PathBuf,
        /// How long this start waited.
        waited: Duration,
    },
    /// Someone has the database open who is no worker.
    #[error("{}: process {process} has the database open and is not a worker of baton; end it", .path.display())]
    OpenElsewhere {
        /// LMDB's lock file.
        path: PathBuf,
        /// The process.
        process: i32,
    },
    /// The file system cannot reserve space.
    #[error(
        "{}: its file system cannot reserve space (fallocate: {source}), without which a full disk would kill the \
         workers; set --state-dir to a local file system such as ext4, XFS or tmpfs", .path.display()
    )]
    NoReservation {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The disk or the quota is full.
    #[error(
        "{}: no space left for the store ({source}); free at least {} MiB on its file system, or raise the quota",
        .path.display(), .needed.div_ceil(1024 * 1024)
    )]
    NoSpace {
        /// The file.
        path: PathBuf,
        /// How many bytes are needed.
        needed: u64,
        /// What the kernel said.
        source: io::Error,
    },
    /// The data cannot be trusted, and there is nothing to fall back on.
    #[error(
        "state directory {}: {data}, and {checkpoint}. Either copy a backup to {} (a backup is a copy of that file), \
         or, to start with an empty store, move {remove} elsewhere; then start again",
        .path.display(), .path.join(super::names::CHECKPOINT).display()
    )]
    Damaged {
        /// The directory.
        path: PathBuf,
        /// What is wrong with the data.
        data: String,
        /// What is wrong with the checkpoint.
        checkpoint: String,
        /// The files that are in the way of an empty start.
        remove: String,
    },
    /// A system call failed that should not.
    #[error("cannot {doing} {}: {source}{}", .path.display(), advice(.source))]
    Io {
        /// What was tried: a verb.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

impl PrepareError {
    /// For `map_err`: "cannot `doing` `path`", with full disks told apart.
    pub(super) fn io(doing: &'static str, path: &Path) -> impl Fn(io::Error) -> PrepareError + use<> {
        let path = path.to_owned();
        move |source| match is_full(&source) {
            true => PrepareError::NoSpace { path: path.clone(), needed: super::CHUNK, source },
            false => PrepareError::Io { doing, path: path.clone(), source },
        }
    }

    /// A failed [`super::preallocate`].
    pub(super) fn preallocation(path: &Path, needed: u64, source: io::Error) -> PrepareError {
        let path = path.to_owned();
        match source.raw_os_error().map(Errno::from_raw) {
            _ if is_full(&source) => PrepareError::NoSpace { path, needed, source },
            Some(Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::ENODEV) => PrepareError::NoReservation { path, source },
            _ => PrepareError::Io { doing: "reserve space for", path, source },
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.raw_os_error().map(Errno::from_raw), Some(Errno::ENOSPC | Errno::EDQUOT))
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "; make it belong to the user that runs baton, mode 0600",
        _ => "",
    }
}

fn advice_unwritable(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::ReadOnlyFilesystem => "mount it writable (under systemd: StateDirectory= or ReadWritePaths=)",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "free some space",
        _ => "make it belong to the user that runs baton, mode 0700, or set --state-dir to another one",
    }
}
