//! Which file the workers find as `data.mdb`.

mod policy;
#[cfg(test)]
mod tests;

use std::ffi::OsStr;
use std::fs::{self, File, TryLockError};
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use baton_ipc::private;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use tracing::{debug, info, warn};

use self::policy::{Condition, Plan, Trust, decide};
use super::directory::{self, PATIENCE, RETRY};
use super::files::{
    allocate, copy_durably, read_text, remove_durably, remove_if_there, rename_durably, sync_directory, write_durably,
};
use super::names::{
    BOOT, CHECKPOINT, CHECKPOINT_TEMPORARY, CLEAN, DATA, LMDB_LOCK, RECOVERY, RESTORE_TEMPORARY, USERS_LOCK,
};
use super::recovery::{Recovery, Source, name_aside, prune};
use super::verify::{Contents, Fault, verify};
use super::{CHUNK, Membership, PrepareError, Prepared, preallocate};

/// How long a start waits for the last user to write everything down.
const LEAVING_PATIENCE: Duration = Duration::from_secs(30);

/// Disk space for `lock.mdb`: LMDB takes 64 bytes a reader, and some more.
const LOCK_ROOM: u64 = 256 * 1024;

/// Makes the store ready, and becomes a member of it.
///
/// Call it once, before anything is bound or forked. Keep the membership until the service ends; a forked worker joins
/// for itself and then drops the copy that it inherited. The outcome has been logged. With nothing in the way it takes milliseconds; a large store
/// is read as a whole, about a second for 1 GB, more from a cold disk.
///
/// # Errors
/// The store cannot be used as it is; the message tells what to do. Nothing is lost then, and the next call begins
/// anew.
pub fn prepare(state_dir: &Path) -> Result<(Prepared, Membership), PrepareError> {
    let boot_id = Path::new("/proc/sys/kernel/random/boot_id");
    let boot = fs::read_to_string(boot_id).map_err(PrepareError::io("read", boot_id))?;
    let surroundings =
        Surroundings { boot: boot.trim(), now: SystemTime::now(), patience: PATIENCE, leaving: LEAVING_PATIENCE };
    prepare_in(state_dir, &surroundings, &mut |step| {
        debug!(?step, "store");
        Ok(())
    })
}

/// What a start knows of the world.
#[derive(Clone, Copy)]
struct Surroundings<'a> {
    /// This boot of the machine.
    boot: &'a str,
    now: SystemTime,
    /// How long to wait for another start, or for a stranger to close the database.
    patience: Duration,
    /// How long to wait for the last user to leave.
    leaving: Duration,
}

/// What has just become durable. A start may be cut off after each of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    RecoveryNoted,
    MovedAside,
    CheckpointCopied,
    CheckpointInPlace,
    LeftoversRemoved,
    SpaceReserved,
    BootWritten,
    CleanMarkRemoved,
    RecoveryOver,
    Pruned,
}

/// Told of each step. An error stops the start there.
type Observer<'a> = &'a mut dyn FnMut(Step) -> Result<(), PrepareError>;

fn prepare_in(
    state_dir: &Path,
    surroundings: &Surroundings<'_>,
    observer: Observer<'_>,
) -> Result<(Prepared, Membership), PrepareError> {
    let _lock = directory::lock(state_dir, surroundings.patience)?;
    match users(state_dir, surroundings)? {
        Users::Some(membership) => {
            info!("{}", Prepared::InUse);
            Ok((Prepared::InUse, membership))
        }
        Users::None(lock) => {
            let prepared = Start { state_dir, surroundings, observer }.run()?;
            let path = state_dir.join(USERS_LOCK);
            let membership = Membership::from_exclusive(lock, state_dir).map_err(PrepareError::io("lock", &path))?;
            Ok((prepared, membership))
        }
    }
}

/// Does anyone use the store?
enum Users {
    /// Yes, and this process now too.
    Some(Membership),
    /// No, and nobody can join while this file is open and not downgraded.
    None(File),
}

fn users(state_dir: &Path, surroundings: &Surroundings<'_>) -> Result<Users, PrepareError> {
    let path = state_dir.join(USERS_LOCK);
    let failed = PrepareError::io("lock", &path);
    let lock = private::open(&path).map_err(PrepareError::io("open", &path))?;
    let start = Instant::now();
    loop {
        let waited = start.elapsed();
        match lock.try_lock() {
            Ok(()) => match open_elsewhere(state_dir)? {
                None => return Ok(Users::None(lock)),
                // A dying worker may let go of its lock a moment before LMDB's.
                Some(process) if waited >= surroundings.patience => {
                    return Err(PrepareError::OpenElsewhere { path: state_dir.join(LMDB_LOCK), process });
                }
                Some(_) => {}
            },
            Err(TryLockError::Error(error)) => return Err(failed(error)),
            Err(TryLockError::WouldBlock) => match lock.try_lock_shared() {
                // Nobody makes the clean mark while this lock is held. If it is there already, the one who was in the
                // way was the last user, and is gone: look again.
                Ok(()) if !state_dir.join(CLEAN).exists() => {
                    return Ok(Users::Some(Membership::from_shared(lock, state_dir)));
                }
                Ok(()) => {}
                Err(TryLockError::Error(error)) => return Err(failed(error)),
                Err(TryLockError::WouldBlock) if waited >= surroundings.leaving => {
                    return Err(PrepareError::Leaving { path, waited: surroundings.leaving });
                }
                Err(TryLockError::WouldBlock) => {}
            },
        }
        std::thread::sleep(RETRY);
    }
}

/// The process that has the environment open without being a member, such as `mdb_dump`: LMDB keeps a record lock on
/// the first byte of its lock file for as long.
fn open_elsewhere(state_dir: &Path) -> Result<Option<i32>, PrepareError> {
    let path = state_dir.join(LMDB_LOCK);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(PrepareError::io("open", &path)(error)),
    };
    let mut asked =
        libc::flock { l_type: libc::F_WRLCK as i16, l_whence: libc::SEEK_SET as i16, l_start: 0, l_len: 1, l_pid: 0 };
    fcntl(file.as_fd(), FcntlArg::F_OFD_GETLK(&mut asked))
        .map_err(|errno: Errno| PrepareError::io("ask for the lock of", &path)(errno.into()))?;
    Ok((asked.l_type != libc::F_UNLCK as i16).then_some(asked.l_pid))
}

/// A start that has the store to itself.
struct Start<'a> {
    state_dir: &'a Path,
    surroundings: &'a Surroundings<'a>,
    observer: Observer<'a>,
}

impl Start<'_> {
    fn run(&mut self) -> Result<Prepared, PrepareError> {
        let (prepared, used) = match self.resume()? {
            Some(outcome) => outcome,
            None => self.begin()?,
        };
        // Said here, while the note of a recovery is still there: a loss is told of even if the start is cut off now.
        match &prepared {
            Prepared::FromCheckpoint { .. } | Prepared::EmptyAfterPowerLoss { .. } => warn!("{prepared}"),
            Prepared::Fresh | Prepared::Clean | Prepared::Recovered | Prepared::InUse => info!("{prepared}"),
        }
        self.finish(used)?;
        Ok(prepared)
    }

    /// Goes on with the recovery of a start that was cut off. None: there is none.
    fn resume(&mut self) -> Result<Option<(Prepared, u64)>, PrepareError> {
        let path = self.state_dir.join(RECOVERY);
        let Some(recovery) = Recovery::noted(self.state_dir).map_err(PrepareError::io("read", &path))? else {
            return Ok(None);
        };
        self.move_aside(&recovery)?;
        match (self.inspect(DATA)?, recovery.source) {
            (Condition::Whole(used), _) => Ok(Some((self.outcome(&recovery)?, used))),
            (Condition::Missing | Condition::Empty, Source::Nothing) => Ok(Some((self.outcome(&recovery)?, 0))),
            (Condition::Missing | Condition::Empty, Source::Checkpoint) => match self.inspect(CHECKPOINT)? {
                Condition::Whole(used) => {
                    self.restore()?;
                    Ok(Some((self.outcome(&recovery)?, used)))
                }
                // Only an operator takes a checkpoint away, and then on purpose.
                Condition::Missing => Ok(Some((Prepared::Fresh, 0))),
                Condition::Damaged(flaw) => {
                    Err(self.refusal(recovery.reason, format!("{CHECKPOINT} is damaged too: {flaw}")))
                }
                Condition::Empty | Condition::Unverified => {
                    Err(self.refusal(recovery.reason, format!("{CHECKPOINT} is empty")))
                }
            },
            // Not what the recovery left behind, so it is judged like any other file.
            (Condition::Damaged(_) | Condition::Unverified, _) => Ok(None),
        }
    }

    fn begin(&mut self) -> Result<(Prepared, u64), PrepareError> {
        let trust = self.trust()?;
        let data = match (trust, self.state_dir.join(DATA).metadata()) {
            (Trust::PowerLoss | Trust::Unknown, Ok(metadata)) if metadata.len() > 0 => Condition::Unverified,
            _ => self.inspect(DATA)?,
        };
        match decide(trust, data, || self.inspect(CHECKPOINT))? {
            Plan::Keep(prepared, used) => Ok((prepared, used)),
            Plan::Refuse { data, checkpoint } => Err(self.refusal(data, checkpoint)),
            Plan::Recover { source, aside, reason } => {
                let now = self.surroundings.now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
                let aside = aside.map(|why| name_aside(self.state_dir, why, now));
                let recovery = Recovery { source, aside, reason };
                let path = self.state_dir.join(RECOVERY);
                recovery.note(self.state_dir).map_err(PrepareError::io("write", &path))?;
                (self.observer)(Step::RecoveryNoted)?;
                self.move_aside(&recovery)?;
                let used = match source {
                    Source::Checkpoint => self.restore()?,
                    Source::Nothing => 0,
                };
                Ok((self.outcome(&recovery)?, used))
            }
        }
    }

    fn trust(&self) -> Result<Trust, PrepareError> {
        let path = self.state_dir.join(BOOT);
        let boot = read_text(&path).map_err(PrepareError::io("read", &path))?;
        Ok(match boot {
            _ if self.state_dir.join(CLEAN).exists() => Trust::Clean,
            Some(boot) if boot.trim() == self.surroundings.boot => Trust::SameBoot,
            Some(_) => Trust::PowerLoss,
            None => Trust::Unknown,
        })
    }

    /// Reads the whole file.
    fn inspect(&self, name: &str) -> Result<Condition, PrepareError> {
        let path = self.state_dir.join(name);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Condition::Missing),
            Err(error) => return Err(PrepareError::io("open", &path)(error)),
        };
        let start = Instant::now();
        let verdict = verify(&file);
        let took_ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
        Ok(match verdict {
            Ok(Contents::Nothing) => Condition::Empty,
            Ok(Contents::Snapshot(summary)) => {
                info!(file = name, bytes = summary.used(), entries = summary.entries, took_ms, "store verified");
                Condition::Whole(summary.used())
            }
            // A disk that does not give the bytes back is damage too: the checkpoint may be on a good part of it.
            Err(fault @ (Fault::Damage { .. } | Fault::Io(_))) => {
                info!(file = name, %fault, took_ms, "store damaged");
                Condition::Damaged(fault.to_string())
            }
        })
    }

    fn move_aside(&mut self, recovery: &Recovery) -> Result<(), PrepareError> {
        if let Some(aside) = recovery.aside.as_ref().filter(|_| recovery.must_move(self.state_dir)) {
            let path = self.state_dir.join(DATA);
            rename_durably(self.state_dir, OsStr::new(DATA), OsStr::new(aside))
                .map_err(PrepareError::io("move aside", &path))?;
            (self.observer)(Step::MovedAside)?;
        }
        Ok(())
    }

    /// Puts a copy of the checkpoint in the place of the data; the checkpoint stays. Returns its length.
    fn restore(&mut self) -> Result<u64, PrepareError> {
        let (from, temporary) = (self.state_dir.join(CHECKPOINT), self.state_dir.join(RESTORE_TEMPORARY));
        let mut checkpoint = File::open(&from).map_err(PrepareError::io("open", &from))?;
        let length = checkpoint.metadata().map_err(PrepareError::io("look at", &from))?.len();
        copy_durably(&mut checkpoint, &temporary).map_err(|error| {
            match PrepareError::io("write", &temporary)(error) {
                PrepareError::NoSpace { path, source, .. } => PrepareError::NoSpace { path, needed: length, source },
                other => other,
            }
        })?;
        (self.observer)(Step::CheckpointCopied)?;
        rename_durably(self.state_dir, OsStr::new(RESTORE_TEMPORARY), OsStr::new(DATA))
            .map_err(PrepareError::io("rename", &temporary))?;
        (self.observer)(Step::CheckpointInPlace)?;
        Ok(length)
    }

    fn outcome(&self, recovery: &Recovery) -> Result<Prepared, PrepareError> {
        let moved_to = recovery.aside.as_ref().map(|name| self.state_dir.join(name)).filter(|path| path.exists());
        Ok(match recovery.source {
            Source::Nothing => Prepared::EmptyAfterPowerLoss { moved_to },
            Source::Checkpoint => {
                let path = self.state_dir.join(CHECKPOINT);
                let made = path.metadata().and_then(|metadata| metadata.modified());
                let made = made.map_err(PrepareError::io("look at", &path))?;
                // A clock that was set back gives no age.
                let age = self.surroundings.now.duration_since(made).unwrap_or_default();
                Prepared::FromCheckpoint { age, reason: recovery.reason.clone(), moved_to }
            }
        })
    }

    fn refusal(&self, data: String, checkpoint: String) -> PrepareError {
        let present: Vec<_> =
            [DATA, CHECKPOINT].into_iter().filter(|name| self.state_dir.join(name).exists()).collect();
        PrepareError::Damaged { path: self.state_dir.to_owned(), data, checkpoint, remove: present.join(" and ") }
    }

    /// `data.mdb` is decided on; all that is left is to make the directory ready for workers.
    fn finish(&mut self, used: u64) -> Result<(), PrepareError> {
        let directory = self.state_dir;
        let failed = PrepareError::io("tidy up", directory);
        // Nobody is in the environment, so its lock file holds nothing but the traces of the dead.
        for name in [LMDB_LOCK, CHECKPOINT_TEMPORARY, RESTORE_TEMPORARY] {
            remove_if_there(&directory.join(name)).map_err(&failed)?;
        }
        (self.observer)(Step::LeftoversRemoved)?;

        self.reserve(used)?;
        sync_directory(directory).map_err(&failed)?;
        (self.observer)(Step::SpaceReserved)?;

        // First the boot, then the mark: in between, both vouch for the data. The other way round, neither would, and
        // a start that is cut off there would look like a power loss to the next.
        let boot = format!("{}\n", self.surroundings.boot);
        if read_text(&directory.join(BOOT)).map_err(&failed)?.as_ref() != Some(&boot) {
            write_durably(directory, BOOT, &boot).map_err(&failed)?;
        }
        (self.observer)(Step::BootWritten)?;
        remove_durably(directory, CLEAN).map_err(&failed)?;
        (self.observer)(Step::CleanMarkRemoved)?;
        remove_durably(directory, RECOVERY).map_err(&failed)?;
        (self.observer)(Step::RecoveryOver)?;
        prune(directory).map_err(&failed)?;
        (self.observer)(Step::Pruned)
    }

    /// Allocates what is in use and a chunk more, so that the first transactions need not wait for it, and a disk that
    /// is full is found out now.
    fn reserve(&self, used: u64) -> Result<(), PrepareError> {
        let path = self.state_dir.join(DATA);
        let file = private::open(&path).map_err(PrepareError::io("open", &path))?;
        if used == 0 {
            // Nothing was ever committed; but LMDB refuses a file whose creation was cut off.
            file.set_len(0).map_err(PrepareError::io("empty", &path))?;
        }
        let want = used.saturating_add(CHUNK);
        preallocate(&file, 0, want).map_err(|error| PrepareError::preallocation(&path, want, error))?;

        // The table of readers is a shared mapping too. LMDB takes an empty lock file for a new one.
        let path = self.state_dir.join(LMDB_LOCK);
        let file = private::open(&path).map_err(PrepareError::io("open", &path))?;
        allocate(&file, 0, LOCK_ROOM).map_err(|error| PrepareError::preallocation(&path, LOCK_ROOM, error))
    }
}
