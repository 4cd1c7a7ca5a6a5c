//! The embedded backplane: one LMDB environment in the state directory, opened by each worker after its fork and shared
//! by all workers of all generations on the host.
//!
//! `WRITEMAP|NOSYNC`: a commit is a few stores to shared memory, about a microsecond a message. What is committed
//! survives the death of every process, since the pages belong to the kernel; a power loss takes what came after the
//! last checkpoint (see [`checkpoint`]).
#![allow(unsafe_code)] // Opening an LMDB environment: its files must be touched by LMDB alone, which `store` sees to.

mod acts;
mod attempts;
mod bus;
mod checkpoint;
pub(crate) mod ledger;
mod logouts;
mod record;
mod room;
mod sessions;
mod sweep;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod transaction;

use std::fs::File;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use baton_ipc::{Scoreboard, Side, Slot};
use heed::types::Bytes;
use heed::{CommitOrAbort, Database, Env, EnvFlags, EnvOpenOptions, MdbError, WithoutTls};

use super::{Backplane, BackplaneError, Health, Progress};
use crate::batch::{Batch, Increment, Outcome, Publication};
use crate::lifetimes::Lifetimes;
use crate::redis::Reason;
use crate::settings::Settings;
use crate::store::{self, Membership};
use crate::token::Token;
pub(crate) use acts::Ring;
pub(crate) use attempts::Bucket;
use bus::Bus;
pub(crate) use logouts::Login;
use record::{Expiry, Record};
use room::Room;
pub(crate) use transaction::Aim;
use transaction::{Need, PAGES_PER_COMMIT, Short, Tables, reserve, room_for};

type Table = Database<'static, Bytes, Bytes>;

/// The page size of the store.
const PAGE: u64 = 4096;

/// Of the store's allowed size, publications may take this fraction.
const BUS_SHARE: u64 = 4;

/// Where a worker's store is, and how it may be used.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) state_dir: PathBuf,
    pub(crate) max_size: u64,
    pub(crate) lifetimes: Lifetimes,
    pub(crate) checkpoint_interval: Duration,
}

impl Options {
    pub(crate) fn of(settings: &Settings) -> Options {
        Options {
            state_dir: settings.state_dir.clone(),
            max_size: settings.store_max_size,
            lifetimes: settings.lifetimes(),
            checkpoint_interval: settings.checkpoint_interval,
        }
    }
}

/// One worker's hold on the shared store.
pub(crate) struct Embedded {
    env: Env<WithoutTls>,
    sessions: Table,
    meta: Table,
    deltas: Table,
    journal: Table,
    bus: Bus,
    options: Options,
    /// The data file, and how much of it is known to have disk space behind it: with WRITEMAP a page without would be
    /// SIGBUS on a full disk.
    data: File,
    allocated: u64,
    map_size: u64,
    /// Why new sessions are refused; none: they are not.
    shortage: Option<Short>,
    board: Rc<Scoreboard>,
    slot: Slot,
    side: Side,
    // Last: the others see us leave only after the environment is closed.
    membership: Membership,
}

impl Embedded {
    /// Opens the store in this process; nothing of it may have been opened before the fork.
    pub(crate) fn open(
        options: Options,
        board: Rc<Scoreboard>,
        slot: Slot,
        side: Side,
    ) -> Result<Embedded, BackplaneError> {
        let dir = &options.state_dir;
        let io = |what: &str, source| BackplaneError::Io { what: format!("{what} in {}", dir.display()), source };
        // LMDB would make a new one, and count from nothing beside those who still use the old one.
        let data = File::options().read(true).write(true).open(dir.join("data.mdb"));
        let data = data.map_err(|e| io("the store is gone: opening data.mdb", e))?;
        let mapped = data.metadata().map_err(|e| io("looking at data.mdb", e))?.len();
        let membership = store::join(dir).map_err(|e| io("joining the store's users", e))?;
        // LMDB cuts the file to the size of the map of whoever opens it, under everyone else's (SIGBUS): never below what
        // another generation, with another setting, has mapped.
        let map_size = options.max_size.max(mapped).next_multiple_of(PAGE);
        // SAFETY: the files belong to LMDB alone. `store::prepare` verified them before the first fork, and everyone
        // who opens them uses its lock file. NOSYNC is met by checkpoints.
        let env = unsafe {
            EnvOpenOptions::new()
                .read_txn_without_tls()
                .map_size(usize::try_from(map_size).unwrap_or(usize::MAX))
                .max_dbs(6)
                .max_readers(1024)
                .flags(EnvFlags::WRITE_MAP | EnvFlags::NO_SYNC | EnvFlags::NO_META_SYNC | EnvFlags::NO_READ_AHEAD)
                .open(dir)?
        };
        env.clear_stale_readers()?;
        let txn = env.write_txn()?;
        let allocated = reserve(&env, &data, &options, 0, map_size, PAGES_PER_COMMIT * PAGE)?;
        let tables = env.create_databases_and_commit(txn, |opener, txn| -> Result<_, heed::Error> {
            let mut table = |name| opener.create_database::<Bytes, Bytes>(txn, Some(name));
            Ok(CommitOrAbort::<_, ()>::Commit([
                table("sessions")?,
                table("meta")?,
                table("bus")?,
                table("peers")?,
                table("deltas")?,
                table("journal")?,
            ]))
        })?;
        let CommitOrAbort::Commit([sessions, meta, log, peers, deltas, journal]) = tables else {
            return Err(heed::Error::Mdb(MdbError::BadTxn).into());
        };
        let bus = Bus::open(log, peers, (options.max_size / PAGE / BUS_SHARE) as usize)?;
        let mut embedded = Embedded {
            env,
            sessions,
            meta,
            deltas,
            journal,
            bus,
            options,
            data,
            allocated,
            map_size,
            shortage: None,
            board,
            slot,
            side,
            membership,
        };
        embedded.write(Aim::Upkeep, Need::records(1), |txn, tables| tables.bus.join(txn))?;
        Ok(embedded)
    }

    /// The socket that becomes readable when another worker has published.
    pub(crate) fn wake_up(&self) -> &std::os::unix::net::UnixDatagram {
        self.bus.wake_up()
    }

    /// The number of the last publication that this worker has taken.
    pub(crate) fn taken(&self) -> u64 {
        self.bus.taken()
    }

    /// Publications that were taken after this number, as far as the log still has them.
    pub(crate) fn taken_after(&self, mut number: u64) -> Result<Vec<Publication>, BackplaneError> {
        let mut all = Vec::new();
        loop {
            let found = self.bus.between(&self.env, number, self.bus.taken())?;
            let Some((last, _)) = found.last() else { return Ok(all) };
            number = *last;
            all.extend(found.into_iter().filter_map(|(_, publication)| publication));
        }
    }

    /// Leaves the store. The last one to leave writes everything to disk first, and says so for the next start.
    pub(crate) fn leave(mut self) -> Result<(), BackplaneError> {
        match self.write(Aim::Upkeep, Need::records(1), |txn, tables| tables.bus.forget(txn, tables.bus.name())) {
            // Those who stay will find out.
            Ok(()) | Err(BackplaneError::Full(_)) => {}
            Err(error) => return Err(error),
        }
        let Embedded { env, membership, .. } = self;
        let io = |source| BackplaneError::Io { what: "leaving the store".into(), source };
        if let Some(last) = membership.leave_as_last().map_err(io)? {
            last.mark_clean().map_err(io)?;
        }
        env.prepare_for_closing();
        Ok(())
    }

    /// Strikes workers that are gone from the list of those to wake.
    fn forget(&mut self, gone: &[Vec<u8>]) {
        let forgotten = self.write(Aim::Upkeep, Need::records(gone.len()), |txn, tables| {
            gone.iter().try_for_each(|name| tables.bus.forget(txn, name))
        });
        if let Err(error) = forgotten {
            tracing::debug!(%error, "workers that are gone were not forgotten");
        }
    }

    /// Publications are committed: what goes wrong from here on must not look as if they were not.
    fn wake_others(&mut self) {
        match self.bus.wake_others(&self.env) {
            Ok(gone) if gone.is_empty() => {}
            Ok(gone) => self.forget(&gone),
            Err(error) => tracing::warn!(%error, "other workers will find the publications later"),
        }
    }

    /// Counts and publishes all that is in the batch, or nothing. Where room is scarce, sessions without a record are left
    /// out, and what they wanted to publish.
    fn count(&mut self, batch: &mut Batch) -> Result<(), BackplaneError> {
        let expiry = self.expiry(unix_seconds());
        let need =
            Need::records(batch.increments.len() + 2 * batch.publications.len()).and_bytes(batch.published_bytes());
        let counted = self.write(Aim::of(batch), need, |txn, tables| {
            // What waits for a Redis that is not configured any more: its session's count is not all confirmed.
            let clean = tables.deltas.is_empty(txn)?;
            let mut refused = false;
            for increment in &mut batch.increments {
                let key = increment.token.key();
                let waits = if clean { 0 } else { ledger::waits(tables.deltas, txn, &key)? };
                let count = Record::count(tables.sessions, txn, key.as_ref(), expiry, tables.room, waits, increment)?;
                refused |= count.is_none();
                increment.outcome = count.map_or(Outcome::Failed, Outcome::Count);
            }
            if refused {
                batch.withdraw_uncounted();
            }
            tables.publish(txn, &batch.publications)
        });
        if counted.is_err() {
            batch.increments.iter_mut().for_each(|increment| increment.outcome = Outcome::Failed);
        }
        counted
    }

    /// Fills in the counts as they are now.
    fn look_up<'a>(&self, increments: impl Iterator<Item = &'a mut Increment>) -> Result<(), BackplaneError> {
        let expiry = self.expiry(unix_seconds());
        let txn = self.env.read_txn()?;
        for increment in increments {
            let record = Record::get(self.sessions, &txn, increment.token.key().as_ref(), expiry)?;
            let count = record.map_or(0, |record| record.count);
            increment.outcome = Outcome::Count(count.max(increment.floor.unwrap_or(0)));
        }
        Ok(())
    }

    fn tables(&self) -> [Table; 6] {
        [self.sessions, self.meta, self.deltas, self.journal, self.bus.log, self.bus.peers]
    }

    /// Which sessions have expired at this time (seconds since 1970).
    fn expiry(&self, now: u64) -> Expiry {
        Expiry { now, lifetimes: self.options.lifetimes }
    }

    /// How a backplane is whose store this is.
    pub(super) fn short(&self, health: Health) -> Health {
        match &self.shortage {
            Some(short) => health.refusing(Reason::StoreFull, short.since),
            None => health,
        }
    }

    /// Whether new sessions are refused, as far as this worker knows.
    pub(crate) fn is_short(&self) -> bool {
        self.shortage.is_some()
    }
}

impl Backplane for Embedded {
    fn commit(&mut self, batch: &mut Batch) -> Result<Progress, BackplaneError> {
        let committed = self.count(batch);
        if committed.is_err() {
            // Who only wants to know can be told.
            let readable = batch.increments.iter_mut().filter(|increment| increment.by == 0);
            if let Err(error) = self.look_up(readable) {
                tracing::debug!(%error, "counts cannot be read either");
            }
        }
        committed?;
        if !batch.publications.is_empty() {
            self.wake_others();
        }
        Ok(Progress::Done)
    }

    fn published(&mut self) -> Result<(Vec<Publication>, u64), BackplaneError> {
        self.bus.read(&self.env)
    }

    fn host(&mut self) -> &mut Embedded {
        self
    }

    fn knows(&self, token: &Token) -> Option<bool> {
        let record = || {
            let txn = self.env.read_txn()?;
            Record::get(self.sessions, &txn, token.key().as_ref(), self.expiry(unix_seconds()))
        };
        match record() {
            Ok(record) => Some(record.is_some()),
            Err(error) => {
                tracing::debug!(%error, "a session cannot be looked up");
                None
            }
        }
    }

    fn health(&mut self) -> Health {
        self.short(Health::new("embedded", self.options.state_dir.display().to_string()))
    }

    fn close(self: Box<Self>) -> Result<(), BackplaneError> {
        self.leave()
    }
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
