//! The embedded store on disk: made ready before anything is bound or forked, and trusted only for a reason.
//!
//! All workers of up to two generations share one LMDB environment in the state directory. It is opened with
//! `WRITE_MAP | NO_SYNC`: a commit is a change of the page cache, which survives the death of any process, but not a
//! power loss. For that there is `checkpoint.mdb`, a copy at most a minute old that is wholly on the disk.
//!
//! [`prepare()`] decides once, in the parent, which of the two the workers will find as `data.mdb`. It works on files
//! alone and never opens LMDB, because an environment must not be carried across a fork:
//!
//! | what it finds | what it does |
//! |---|---|
//! | other processes use the store | nothing: they vouch for it |
//! | the same boot as at last use, or a mark that all was synced | checks the structure of `data.mdb`, and keeps it |
//! | another boot without that mark: a power loss | moves `data.mdb` aside, starts from the checkpoint |
//! | a damaged `data.mdb` | the same |
//! | no checkpoint after a power loss | moves `data.mdb` aside, starts empty, and says so |
//! | damage without a whole checkpoint | refuses, and tells what to do |
//!
//! While a checkpoint is there, it never starts empty. A file that is not trusted is kept, under another name. A start
//! that is cut off at any point is finished by the next one (see `recovery`).
//!
//! # Who holds what
//!
//! - `store.lock`: exclusive while one start looks at the store, so that two never do.
//! - `users.lock`: shared by every process that uses the store ([`join`]). The process that prepares is a member from
//!   then on, so that no second start finds the store unused before the first worker has joined.
//! - `clean`: made by the last member when it leaves in good order ([`LastMember::mark_clean`]), removed by the next
//!   start.
//!
//! Two things remain with those who open the environment. The disk space must be there before a transaction touches it
//! ([`preallocate`]). And all of them must open it with the same map size, or the larger first: LMDB truncates the file
//! to the map size of whoever opens it, and the others' mappings then end in SIGBUS.

mod directory;
mod error;
mod files;
mod membership;
mod names;
mod prepare;
mod recovery;
#[cfg(test)]
pub(crate) mod testing;
pub mod verify;

use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use directory::claim;
pub use error::PrepareError;
pub(crate) use files::write_durably;
pub use files::{CHUNK, preallocate};
pub use membership::{LastMember, Membership, join};
pub(crate) use names::SUPERUSERS;
pub use prepare::prepare;

/// Version of what a state directory holds, as its marker `baton-store` says.
pub const FORMAT: u32 = 1;

/// Claims the directory, and holds it against other changes of what is in it until the file is dropped.
pub(crate) fn lock(state_dir: &Path) -> Result<File, PrepareError> {
    directory::lock(state_dir, directory::PATIENCE)
}

/// What the store holds at this start, and why. `Display` is a sentence for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prepared {
    /// Nothing was ever stored here.
    Fresh,
    /// The last user left in good order.
    Clean,
    /// The last users were killed, but the machine went on: the page cache kept every commit.
    Recovered,
    /// Other processes use it right now.
    InUse,
    /// What came after the checkpoint is lost.
    FromCheckpoint {
        /// How old the checkpoint is.
        age: Duration,
        /// Why `data.mdb` was not taken.
        reason: String,
        /// Where the file that was not taken is now, if there was one.
        moved_to: Option<PathBuf>,
    },
    /// The power went before the first checkpoint.
    EmptyAfterPowerLoss {
        /// Where the file that was not taken is now, if anything was in it.
        moved_to: Option<PathBuf>,
    },
}

impl fmt::Display for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kept = |f: &mut fmt::Formatter<'_>, moved_to: &Option<PathBuf>| match moved_to {
            Some(path) => write!(f, "; the file that was not taken is kept as {}", path.display()),
            None => Ok(()),
        };
        match self {
            Prepared::Fresh => write!(f, "the store is new"),
            Prepared::Clean => write!(f, "the store was left in good order and is whole"),
            Prepared::Recovered => write!(f, "the last run was killed, but the store is whole and nothing is lost"),
            Prepared::InUse => write!(f, "the store is in use, and is shared with those who use it"),
            Prepared::FromCheckpoint { age, reason, moved_to } => {
                let age = age.as_secs();
                write!(f, "the store starts from a checkpoint {age} s old, what came later is lost: {reason}")?;
                kept(f, moved_to)
            }
            Prepared::EmptyAfterPowerLoss { moved_to } => {
                write!(f, "the store starts empty: the power was lost before the first checkpoint")?;
                kept(f, moved_to)
            }
        }
    }
}
