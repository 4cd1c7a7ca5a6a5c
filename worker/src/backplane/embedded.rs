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
mod sessions;
mod sweep;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use baton_ipc::scoreboard::{StorePhase, monotonic_ms};
use baton_ipc::{Scoreboard, Side, Slot};
use heed::types::Bytes;
use heed::{CommitOrAbort, Database, Env, EnvFlags, EnvOpenOptions, MdbError, RoTxn, RwTxn, WithoutTls};

use super::{Backplane, BackplaneError, Health, Progress};
use crate::batch::{Batch, Increment, Outcome, Publication};
use crate::settings::Settings;
use crate::store::{self, Membership};
use crate::token::Token;
pub(crate) use acts::Ring;
pub(crate) use attempts::Bucket;
use baton_ipc::fault;
use bus::Bus;
pub(crate) use logouts::Login;
use record::Record;

type Table = Database<'static, Bytes, Bytes>;

/// The page size of the store.
const PAGE: u64 = 4096;

/// Pages that one changed record may cost: its leaf, a share of the branches above it, a split.
const PAGES_PER_CHANGE: u64 = 4;

/// Pages that a transaction may cost beside its records: roots, free list, metadata.
const PAGES_PER_COMMIT: u64 = 256;

/// Of the store's allowed size, publications may take this fraction.
const BUS_SHARE: u64 = 4;

/// Where a worker's store is, and how it may be used.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) state_dir: PathBuf,
    pub(crate) max_size: u64,
    pub(crate) session_ttl: Duration,
    pub(crate) checkpoint_interval: Duration,
}

impl Options {
    pub(crate) fn of(settings: &Settings) -> Options {
        Options {
            state_dir: settings.state_dir.clone(),
            max_size: settings.store_max_size,
            session_ttl: settings.session_ttl,
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
            board,
            slot,
            side,
            membership,
        };
        embedded.write(Aim::Upkeep, 1, 0, |txn, tables| tables.bus.join(txn))?;
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
        match self.write(Aim::Upkeep, 1, 0, |txn, tables| tables.bus.forget(txn, tables.bus.name())) {
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
        let forgotten = self.write(Aim::Upkeep, gone.len(), 0, |txn, tables| {
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

    /// Counts and publishes all that is in the batch, or nothing.
    fn count(&mut self, batch: &mut Batch) -> Result<(), BackplaneError> {
        let now = unix_seconds();
        let expired_before = self.expired_before(now);
        let changes = batch.increments.len() + 2 * batch.publications.len();
        let bytes = batch.publications.iter().map(|p| p.text.len() + p.room.len() + 64).sum();
        let aim = Aim::of(batch);
        let Batch { increments, publications, .. } = batch;
        let counted = self.write(aim, changes, bytes, |txn, tables| {
            // What waits for a Redis that is not configured any more: its session's count is not all confirmed.
            let clean = tables.deltas.is_empty(txn)?;
            for increment in increments.iter_mut() {
                let key = increment.token.key();
                let waits = if clean { 0 } else { ledger::waits(tables.deltas, txn, &key)? };
                let count = Record::count(tables.sessions, txn, key.as_ref(), expired_before, now, waits, increment)?;
                increment.outcome = Outcome::Count(count);
            }
            tables.bus.append(txn, publications)
        });
        if counted.is_err() {
            increments.iter_mut().for_each(|increment| increment.outcome = Outcome::Failed);
        }
        counted
    }

    /// Fills in the counts as they are now.
    fn look_up<'a>(&self, increments: impl Iterator<Item = &'a mut Increment>) -> Result<(), BackplaneError> {
        let expired_before = self.expired_before(unix_seconds());
        let txn = self.env.read_txn()?;
        for increment in increments {
            let record = Record::get(self.sessions, &txn, increment.token.key().as_ref(), expired_before)?;
            let count = record.map_or(0, |record| record.count);
            increment.outcome = Outcome::Count(count.max(increment.floor.unwrap_or(0)));
        }
        Ok(())
    }

    /// Sessions that were last used before this time (seconds since 1970) have expired.
    fn expired_before(&self, now: u64) -> u64 {
        now.saturating_sub(self.options.session_ttl.as_secs())
    }

    /// Begins the one write transaction that all processes share, with disk space for `changes` records and `bytes` of
    /// other data behind it. The scoreboard shows who waits and who holds the lock.
    fn write<T>(
        &mut self,
        aim: Aim,
        changes: usize,
        bytes: usize,
        act: impl FnOnce(&mut RwTxn<'_>, &mut Tables<'_>) -> Result<T, BackplaneError>,
    ) -> Result<T, BackplaneError> {
        let row = self.board.row(self.slot, self.side);
        let pages = PAGES_PER_COMMIT + PAGES_PER_CHANGE * changes as u64 + (bytes as u64).div_ceil(PAGE);
        row.set_store_phase(StorePhase::Waiting, monotonic_ms());
        let outcome = (|| {
            let mut txn = self.env.write_txn()?;
            row.set_store_phase(StorePhase::Holding, monotonic_ms());
            fault::point("store locked");
            // Under the lock: nobody else extends the used part of the file meanwhile.
            let (env, data, options) = (&self.env, &self.data, &self.options);
            let Embedded { sessions, meta, deltas, journal, bus, .. } = self;
            let (sessions, meta, deltas, journal) = (*sessions, *meta, *deltas, *journal);
            let mut tables = Tables { sessions, meta, deltas, journal, bus };
            if aim == Aim::Growth && !tables.have_room(env, &txn, pages, options.max_size / PAGE)? {
                return Err(full(options));
            }
            self.allocated = reserve(env, data, options, self.allocated, self.map_size, pages * PAGE)?;
            let value = act(&mut txn, &mut tables)?;
            txn.commit()?;
            Ok(value)
        })();
        row.set_store_phase(StorePhase::Idle, 0);
        outcome.map_err(|error| match error {
            BackplaneError::Store(heed::Error::Mdb(MdbError::MapFull)) => full(&self.options),
            other => other,
        })
    }
}

/// What a transaction is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Aim {
    /// It may make the store larger, up to its allowed size.
    Growth,
    /// It takes no lasting space, or gives some back: the store may be full, and what is left is for this.
    Upkeep,
}

impl Aim {
    /// What the store must have room for.
    pub(crate) fn of(batch: &Batch) -> Aim {
        if batch.grows() { Aim::Growth } else { Aim::Upkeep }
    }
}

/// The tables, while a transaction is open.
struct Tables<'a> {
    sessions: Table,
    meta: Table,
    deltas: Table,
    journal: Table,
    bus: &'a mut Bus,
}

impl Tables<'_> {
    /// Whether so many more pages are within what is allowed. Pages that expired sessions have left count as room: LMDB
    /// never gives them back to the file, but uses them first.
    fn have_room(&self, env: &Env<WithoutTls>, txn: &RoTxn<'_>, pages: u64, allowed: u64) -> heed::Result<bool> {
        if env.info().last_page_number as u64 + 1 + pages <= allowed {
            return Ok(true);
        }
        let mut used = 0;
        for table in [self.sessions, self.meta, self.deltas, self.journal, self.bus.log, self.bus.peers] {
            let stat = table.stat(txn)?;
            used += (stat.branch_pages + stat.leaf_pages + stat.overflow_pages) as u64;
        }
        Ok(used + pages <= allowed)
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
            Record::get(self.sessions, &txn, token.key().as_ref(), self.expired_before(unix_seconds()))
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
        Health::new("embedded", self.options.state_dir.display().to_string())
    }

    fn close(self: Box<Self>) -> Result<(), BackplaneError> {
        self.leave()
    }
}

/// Sees to it that `headroom` bytes after the used part of the data file have disk space behind them, as far as the map
/// goes. Beyond it LMDB itself refuses.
fn reserve(
    env: &Env<WithoutTls>,
    data: &File,
    options: &Options,
    allocated: u64,
    map_size: u64,
    headroom: u64,
) -> Result<u64, BackplaneError> {
    let used = (env.info().last_page_number as u64 + 1) * PAGE;
    let wanted = (used + headroom).min(map_size);
    if wanted <= allocated {
        return Ok(allocated);
    }
    store::preallocate(data, allocated, wanted).map_err(|source| match source.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT) => BackplaneError::Full(format!("no space left for {}", data_file(options))),
        _ => BackplaneError::Io { what: format!("reserving space for {}", data_file(options)), source },
    })
}

fn full(options: &Options) -> BackplaneError {
    BackplaneError::Full(format!("{} has reached its allowed {} bytes", data_file(options), options.max_size))
}

fn data_file(options: &Options) -> String {
    Path::new(&options.state_dir).join("data.mdb").display().to_string()
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
