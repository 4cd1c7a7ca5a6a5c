//! The state directory: made if it is missing, refused if it is not ours.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::{Duration, Instant};

use baton_ipc::private::{self, DirectoryError};

use super::files::{read_text, remove_if_there, sync_directory, write_durably};
use super::names::{CHECKPOINT, MARKER, PROBE, STORE_LOCK, SUPERUSERS};
use super::{FORMAT, PrepareError};

/// How long a start waits for another one.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// How often a lock is tried that cannot be waited for with a deadline.
pub(super) const RETRY: Duration = Duration::from_millis(20);

/// What may lie there without a marker: a first start that was cut off, the root of an ext4 file system, and a backup that an
/// operator has put there. A backup is a checkpoint, and no checkpoint is taken before all of it was verified.
const HARMLESS: [&str; 6] = [STORE_LOCK, PROBE, "baton-store.tmp", "lost+found", CHECKPOINT, SUPERUSERS];

/// Makes the directory ours: creates it if it is missing (mode 0700, its parents too), refuses it if it is somebody
/// else's, and marks it. Whatever else puts files into a state directory calls this first, so that the service does not
/// take them for foreign.
///
/// # Errors
/// The directory is foreign, of another format, or cannot be used.
pub fn claim(state_dir: &Path) -> Result<(), PrepareError> {
    lock(state_dir, PATIENCE).map(drop)
}

/// Claims the directory and holds `store.lock`, which ends when the file is dropped.
pub(super) fn lock(state_dir: &Path, patience: Duration) -> Result<File, PrepareError> {
    make(state_dir)?;
    check_access(state_dir)?;
    check_marker(state_dir)?;
    probe(state_dir)?;

    let path = state_dir.join(STORE_LOCK);
    let lock = private::open(&path).map_err(PrepareError::io("open", &path))?;
    let start = Instant::now();
    loop {
        match lock.try_lock() {
            Ok(()) => break,
            Err(TryLockError::Error(error)) => return Err(PrepareError::io("lock", &path)(error)),
            Err(TryLockError::WouldBlock) if start.elapsed() >= patience => {
                return Err(PrepareError::Locked { path, waited: patience });
            }
            Err(TryLockError::WouldBlock) => std::thread::sleep(RETRY),
        }
    }
    // Looked at again: whoever held the lock may have marked it, with another format even.
    if !check_marker(state_dir)? {
        let marker = state_dir.join(MARKER);
        write_durably(state_dir, MARKER, &format!("baton store, format {FORMAT}\n"))
            .map_err(PrepareError::io("write", &marker))?;
    }
    Ok(lock)
}

fn make(path: &Path) -> Result<(), PrepareError> {
    let not_a_directory = || PrepareError::NotADirectory(path.to_owned());
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => return Ok(()),
        Ok(_) => return Err(not_a_directory()),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Err(not_a_directory()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(PrepareError::io("look at", path)(error)),
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let made = fs::create_dir_all(parent).and_then(|()| DirBuilder::new().mode(0o700).create(path));
    match made {
        // Another start may have been faster.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        made => made
            .and_then(|()| sync_directory(parent))
            .map_err(|source| PrepareError::Uncreatable { path: path.to_owned(), source }),
    }
}

fn check_access(path: &Path) -> Result<(), PrepareError> {
    private::ensure_directory(path).map_err(|error| match error {
        DirectoryError::NotOurs { owner, user } => PrepareError::NotOurs { path: path.to_owned(), owner, user },
        DirectoryError::Writable { mode } => PrepareError::OpenToOthers { path: path.to_owned(), mode },
        DirectoryError::Io(error) => PrepareError::io("look at", path)(error),
    })
}

/// True if the directory is marked, false if it is not and may be.
fn check_marker(path: &Path) -> Result<bool, PrepareError> {
    let marker = path.join(MARKER);
    if let Some(text) = read_text(&marker).map_err(PrepareError::io("read", &marker))? {
        let found = text.trim().strip_prefix("baton store, format ").unwrap_or(&text);
        return match found.parse() {
            Ok(FORMAT) => Ok(true),
            _ => {
                let found = found.chars().take(32).collect::<String>().escape_default().to_string();
                Err(PrepareError::Format { path: path.to_owned(), found })
            }
        };
    }
    let mut strangers = Vec::new();
    for entry in fs::read_dir(path).map_err(PrepareError::io("list", path))? {
        let name = entry.map_err(PrepareError::io("list", path))?.file_name();
        if !HARMLESS.iter().any(|&harmless| name == harmless) {
            strangers.push(format!("{name:?}"));
        }
    }
    if strangers.is_empty() {
        return Ok(false);
    }
    if marker.exists() {
        // Another process has marked it since, and what is there is its own.
        return check_marker(path);
    }
    strangers.sort();
    let more = strangers.len().saturating_sub(3);
    strangers.truncate(3);
    let mut found = strangers.join(", ");
    if more > 0 {
        found += &format!(" and {more} more");
    }
    Err(PrepareError::Foreign { path: path.to_owned(), found })
}

/// Permission bits do not tell everything (read-only mounts, sandboxes, quotas); making a file does.
fn probe(path: &Path) -> Result<(), PrepareError> {
    let probe = path.join(PROBE);
    let made = private::open(&probe).and_then(|_| remove_if_there(&probe));
    made.map(drop).map_err(|source| PrepareError::Unwritable { path: path.to_owned(), source })
}
