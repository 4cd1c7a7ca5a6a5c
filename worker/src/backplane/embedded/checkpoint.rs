//! Checkpoints: a consistent copy of the store on disk, from which a start after a power loss goes on.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use baton_ipc::{fault, private};
use heed::{CompactionOption, Env, RwTxn, WithoutTls};
use nix::fcntl::{Flock, FlockArg};

use super::{Aim, BackplaneError, Embedded, Need, Table, unix_seconds};

/// The entry of the table `meta`: when the last checkpoint was begun (seconds since 1970), and after which transaction.
const ENTRY: &[u8] = b"checkpoint";

/// A copy that this worker has claimed; [`Claim::write`] may run on any thread.
#[derive(Clone)]
pub(crate) struct Claim {
    env: Env<WithoutTls>,
}

impl Embedded {
    /// Claims the next checkpoint if it is time, something has changed, and no other worker was first.
    pub(crate) fn claim_checkpoint(&mut self) -> Result<Option<Claim>, BackplaneError> {
        let now = unix_seconds();
        let interval = self.options.checkpoint_interval;
        let is_due = {
            let txn = self.env.read_txn()?;
            due(self.meta.get(&txn, ENTRY)?, now, txn.id() as u64, interval)
        };
        if !is_due {
            return Ok(None);
        }
        let claimed = self.write(Aim::Upkeep, Need::records(1), |txn, tables| {
            // The claim itself is a transaction: what follows it is a change.
            let own = txn.id() as u64;
            let is_due = due(tables.meta.get(txn, ENTRY)?, now, own - 1, interval);
            if is_due {
                let entry = [now.to_le_bytes(), own.to_le_bytes()].concat();
                tables.meta.put(txn, ENTRY, &entry)?;
            }
            Ok(is_due)
        })?;
        Ok(claimed.then(|| Claim { env: self.env.clone() }))
    }
}

impl Claim {
    /// Copies the store: to a temporary file, to disk, then over the last checkpoint. Returns the bytes written; none
    /// when an earlier copy is still under way.
    pub(crate) fn write(&self, dir: &Path) -> Result<Option<u64>, BackplaneError> {
        let io = |what: &str, source| BackplaneError::Io { what: format!("{what} in {}", dir.display()), source };
        let lock = private::open(&dir.join("checkpoint.lock")).map_err(|e| io("opening checkpoint.lock", e))?;
        let Ok(_lock) = Flock::lock(lock, FlockArg::LockExclusiveNonblock) else { return Ok(None) };
        fault::point("checkpoint begun");
        let temporary = dir.join("checkpoint.tmp");
        let mut file = private::create(&temporary).map_err(|e| io("making checkpoint.tmp", e))?;
        let copied = self.env.copy_to_file(&mut file, CompactionOption::Disabled);
        // Half a copy takes space that a full disk does not have.
        copied.inspect_err(|_| drop(std::fs::remove_file(&temporary)))?;
        file.sync_all().map_err(|e| io("syncing checkpoint.tmp", e))?;
        let length = file.metadata().map_err(|e| io("reading checkpoint.tmp", e))?.len();
        std::fs::rename(&temporary, dir.join("checkpoint.mdb")).map_err(|e| io("renaming checkpoint.tmp", e))?;
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(|e| io("syncing the directory", e))?;
        Ok(Some(length))
    }
}

/// Makes a checkpoint due now.
pub(super) fn hurry(meta: Table, txn: &mut RwTxn<'_>) -> Result<(), heed::Error> {
    meta.delete(txn, ENTRY).map(drop)
}

fn due(entry: Option<&[u8]>, now: u64, last_txn: u64, interval: Duration) -> bool {
    let Some((begun, rest)) = entry.and_then(|entry| entry.split_first_chunk::<8>()) else { return true };
    let Some((after, _)) = rest.split_first_chunk::<8>() else { return true };
    // A time ahead of now is that of a clock that was set back.
    let age = now.checked_sub(u64::from_le_bytes(*begun));
    last_txn != u64::from_le_bytes(*after) && age.is_none_or(|age| age >= interval.as_secs())
}
