//! Who uses the store: a shared `flock(2)` on `users.lock`, held by each process for as long as it does.
//!
//! The kernel lets go of it however the process ends. The lock belongs to the open file description, which a fork
//! shares: a child that was born with its parent's membership joins for itself and then drops the inherited one, which
//! takes nothing from the parent. So nothing here ever unlocks; closing the last descriptor does.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use baton_ipc::private;
use baton_ipc::takeover::StoreIdentity;

use super::PrepareError;
use super::files::write_durably;
use super::names::{CLEAN, DATA, USERS_LOCK};

/// Holding it says: this process uses the store. Dropping it is leaving without a word, like a crash.
#[derive(Debug)]
#[must_use = "a store that nobody is a member of may be taken for unused, and moved aside under its users"]
pub struct Membership {
    lock: File,
    state_dir: PathBuf,
}

/// Becomes a user of the store. Waits while the last user of before is leaving.
///
/// # Errors
/// `users.lock` cannot be opened or locked.
pub fn join(state_dir: &Path) -> io::Result<Membership> {
    let lock = private::open(&state_dir.join(USERS_LOCK))?;
    loop {
        match lock.lock_shared() {
            Ok(()) => return Ok(Membership { lock, state_dir: state_dir.to_owned() }),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

impl Membership {
    /// Tells this store from one that is put in its place later.
    ///
    /// # Errors
    /// `data.mdb` is not there: it was taken away from those who use the store.
    pub fn identity(&self) -> Result<StoreIdentity, PrepareError> {
        let path = self.state_dir.join(DATA);
        let data = fs::metadata(&path).map_err(PrepareError::io("look at", &path))?;
        let users = self.lock.metadata().map_err(PrepareError::io("look at", &self.state_dir.join(USERS_LOCK)))?;
        let of = |file: fs::Metadata| (file.dev(), file.ino());
        Ok(StoreIdentity { data: of(data), users: of(users) })
    }

    /// Leaves the store. Some: nobody else uses it, and nobody can join before the returned value is dropped.
    ///
    /// Of several that leave at once, exactly one is the last.
    pub fn leave_as_last(self) -> io::Result<Option<LastMember>> {
        // A conversion first gives up the shared lock (flock(2)); that is what leaving means, so failing is fine.
        match self.lock.try_lock() {
            Ok(()) => Ok(Some(LastMember(self))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// The membership of one who already holds `users.lock` alone.
    pub(super) fn from_exclusive(lock: File, state_dir: &Path) -> io::Result<Membership> {
        lock.lock_shared()?;
        Ok(Membership { lock, state_dir: state_dir.to_owned() })
    }

    /// The membership of one who already holds `users.lock` with others.
    pub(super) fn from_shared(lock: File, state_dir: &Path) -> Membership {
        Membership { lock, state_dir: state_dir.to_owned() }
    }
}

/// The last user, alone with the store.
#[derive(Debug)]
pub struct LastMember(Membership);

impl LastMember {
    /// Writes everything down to the disk and says so in a marker, so that even another boot trusts the file.
    ///
    /// `fsync(2)` also writes pages that were changed through a mapping, by whichever process. LMDB must not be written
    /// to any more: end the last transaction before.
    ///
    /// A checkpoint should be taken just before this. The old one may lack the last minute, and a power loss right after
    /// the next start, when the mark is gone and no new checkpoint is there yet, falls back on it.
    ///
    /// # Errors
    /// The disk refuses. Then there is no marker, and the next start treats this as a crash.
    pub fn mark_clean(self) -> io::Result<()> {
        let LastMember(Membership { lock, state_dir }) = self;
        File::open(state_dir.join(DATA))?.sync_all()?;
        write_durably(&state_dir, CLEAN, "")?;
        drop(lock);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::no_spawning;
    use super::*;

    /// A fork shares the open file description as a duplicate does.
    #[test]
    fn a_child_that_drops_what_it_inherited_takes_nothing_from_its_parent() {
        let _quiet = no_spawning();
        let directory = tempfile::tempdir().unwrap();
        let parent = join(directory.path()).unwrap();
        let inherited = Membership { lock: parent.lock.try_clone().unwrap(), state_dir: parent.state_dir.clone() };
        let child = join(directory.path()).unwrap();
        drop(inherited);
        assert!(child.leave_as_last().unwrap().is_none(), "the parent is still there");
        assert!(parent.leave_as_last().unwrap().is_some());
    }

    #[test]
    fn of_many_that_leave_at_once_one_is_the_last() {
        let _quiet = no_spawning();
        let directory = tempfile::tempdir().unwrap();
        for _ in 0..50 {
            let members: Vec<_> = (0..4).map(|_| join(directory.path()).unwrap()).collect();
            let last = std::thread::scope(|scope| {
                let leaving: Vec<_> =
                    members.into_iter().map(|member| scope.spawn(|| member.leave_as_last().unwrap())).collect();
                leaving.into_iter().filter_map(|thread| thread.join().unwrap()).count()
            });
            assert_eq!(last, 1);
        }
    }
}
