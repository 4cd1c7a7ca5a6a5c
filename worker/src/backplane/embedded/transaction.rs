//! The one write transaction that all processes share: what it may take of the store, and the disk space behind it.

use std::fs::File;
use std::path::Path;

use baton_ipc::fault;
use baton_ipc::scoreboard::{StorePhase, monotonic_ms};
use heed::{Env, MdbError, RoTxn, RwTxn, WithoutTls};

use super::bus::Bus;
use super::room::{self, Room, Shortage};
use super::{BackplaneError, Embedded, Options, PAGE, Table};
use crate::batch::{Batch, Publication};
use crate::heartbeat::wall_ms;
use crate::store;

/// Pages that one changed record may cost: its leaf, a share of the branches above it, a split.
pub(super) const PAGES_PER_CHANGE: u64 = 4;

/// Pages that a transaction may cost beside its records: roots, free list, metadata.
pub(super) const PAGES_PER_COMMIT: u64 = 256;

/// A store that is found to have room for new sessions is called full for so long after it was (milliseconds): at the border
/// one commit has room and the next one has not.
const SHORT_FOR: u64 = 2000;

/// Session records that are at least in a page: LMDB merges those that are less than a quarter full, and the largest
/// record has about 100 bytes.
const RECORDS_PER_PAGE: u64 = 10;

/// Since when new sessions are refused.
#[derive(Debug)]
pub(super) struct Short {
    /// Milliseconds since 1970.
    pub(super) since: u64,
    /// When that was last found (milliseconds of `CLOCK_MONOTONIC`).
    seen: u64,
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

/// The most pages that a transaction may change, beside those that any changes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Need(u64);

impl Need {
    /// So many records, anywhere.
    pub(super) fn records(records: usize) -> Need {
        Need(PAGES_PER_CHANGE * records as u64)
    }

    /// So many records side by side, to be deleted.
    pub(super) fn neighbours(records: usize) -> Need {
        Need(2 * (records as u64).div_ceil(RECORDS_PER_PAGE))
    }

    /// And so many records, anywhere.
    pub(super) fn and_records(self, records: usize) -> Need {
        Need(self.0 + Need::records(records).0)
    }

    /// And so many bytes of other data.
    pub(super) fn and_bytes(self, bytes: usize) -> Need {
        Need(self.0 + (bytes as u64).div_ceil(PAGE))
    }
}

/// The tables, while a transaction is open.
pub(super) struct Tables<'a> {
    pub(super) sessions: Table,
    pub(super) meta: Table,
    pub(super) deltas: Table,
    pub(super) journal: Table,
    pub(super) bus: &'a mut Bus,
    /// What the transaction may take.
    pub(super) room: Room,
}

impl Tables<'_> {
    /// Publishes on this host.
    pub(super) fn publish(&self, txn: &mut RwTxn<'_>, publications: &[Publication]) -> Result<(), BackplaneError> {
        self.bus.append(txn, self.room, publications)
    }
}

/// What a transaction that needs so many pages may take of a store of so many bytes. Pages that expired sessions have left
/// count as room: LMDB never gives them back to the file, but uses them first.
pub(super) fn room_for(
    tables: [Table; 6],
    env: &Env<WithoutTls>,
    txn: &RoTxn<'_>,
    pages: u64,
    max_size: u64,
) -> heed::Result<Room> {
    let (allowed, shortage) = (max_size / PAGE, Shortage::Size(max_size));
    let room = |used| Room::new(allowed.saturating_sub(used), pages, room::reserve(allowed), shortage);
    if room(last_page(env)) == Room::Plenty {
        return Ok(Room::Plenty);
    }
    let mut used = 0;
    for table in tables {
        let stat = table.stat(txn)?;
        used += (stat.branch_pages + stat.leaf_pages + stat.overflow_pages) as u64;
    }
    Ok(room(used))
}

impl Embedded {
    /// Begins the one write transaction that all processes share, with disk space for what it needs behind it. The
    /// scoreboard shows who waits and who holds the lock.
    pub(super) fn write<T>(
        &mut self,
        aim: Aim,
        need: Need,
        act: impl FnOnce(&mut RwTxn<'_>, &mut Tables<'_>) -> Result<T, BackplaneError>,
    ) -> Result<T, BackplaneError> {
        let row = self.board.row(self.slot, self.side);
        let pages = PAGES_PER_COMMIT + need.0;
        let (all, mut room) = (self.tables(), Room::Plenty);
        row.set_store_phase(StorePhase::Waiting, monotonic_ms());
        let outcome = (|| {
            let mut txn = self.env.write_txn()?;
            row.set_store_phase(StorePhase::Holding, monotonic_ms());
            fault::point("store locked");
            // Under the lock: nobody else extends the used part of the file meanwhile.
            let (env, data, options) = (&self.env, &self.data, &self.options);
            let Embedded { sessions, meta, deltas, journal, bus, .. } = self;
            let (sessions, meta, deltas, journal) = (*sessions, *meta, *deltas, *journal);
            let mut tables = Tables { sessions, meta, deltas, journal, bus, room };
            // Half of the most is more than it takes. If not, LMDB says so; on a full disk nobody would.
            room = room_for(all, env, &txn, PAGES_PER_COMMIT + need.0 / 2, options.max_size)?;
            if let (Aim::Growth, Room::Full(shortage)) = (aim, room) {
                return Err(full(options, shortage));
            }
            // What may grow leaves some of the disk for what may not. If the disk is full that is what is left.
            let allowed = options.max_size / PAGE;
            let spare = if room == Room::Plenty { room::disk_reserve(allowed) } else { 0 };
            match reserve(env, data, options, self.allocated, self.map_size, (pages + spare) * PAGE) {
                Ok(allocated) => self.allocated = allocated,
                Err(BackplaneError::Full(_)) if spare > 0 => {
                    self.allocated = reserve(env, data, options, self.allocated, self.map_size, pages * PAGE)?;
                    let left = (self.allocated / PAGE).saturating_sub(last_page(env));
                    room = room.and(Room::new(left, pages, spare, Shortage::Disk));
                    if let (Aim::Growth, Room::Full(shortage)) = (aim, room) {
                        return Err(full(options, shortage));
                    }
                }
                Err(error) => return Err(error),
            }
            tables.room = room;
            let value = act(&mut txn, &mut tables)?;
            txn.commit()?;
            Ok(value)
        })();
        row.set_store_phase(StorePhase::Idle, 0);
        match aim {
            Aim::Growth => self.note_shortage(room.shortage(), outcome.is_ok()),
            Aim::Upkeep => {}
        }
        outcome.map_err(|error| match error {
            BackplaneError::Store(heed::Error::Mdb(MdbError::MapFull)) => {
                full(&self.options, Shortage::Size(self.options.max_size))
            }
            other => other,
        })
    }

    /// Remembers whether new sessions are refused, and logs it when that changes.
    fn note_shortage(&mut self, shortage: Option<Shortage>, counts: bool) {
        if self.shortage.is_none() && shortage.is_none() {
            return;
        }
        let now = monotonic_ms();
        match (&mut self.shortage, shortage) {
            (None, Some(shortage)) => {
                self.shortage = Some(Short { since: wall_ms(), seen: now });
                let store = data_file(&self.options);
                tracing::warn!(event = "store_full", store, reason = %shortage, "the store is full: sessions that it does not have are refused");
            }
            (Some(short), Some(_)) => short.seen = now,
            (Some(short), None) if counts && now - short.seen >= SHORT_FOR => {
                self.shortage = None;
                tracing::warn!(event = "store_has_room", "the store takes new sessions again");
            }
            (Some(_) | None, None) => {}
        }
    }
}

/// Sees to it that `headroom` bytes after the used part of the data file have disk space behind them, as far as the map
/// goes. Beyond it LMDB itself refuses.
pub(super) fn reserve(
    env: &Env<WithoutTls>,
    data: &File,
    options: &Options,
    allocated: u64,
    map_size: u64,
    headroom: u64,
) -> Result<u64, BackplaneError> {
    let used = last_page(env) * PAGE;
    let wanted = (used + headroom).min(map_size);
    if wanted <= allocated {
        return Ok(allocated);
    }
    store::preallocate(data, allocated, wanted).map_err(|source| match source.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT) => full(options, Shortage::Disk),
        _ => BackplaneError::Io { what: format!("reserving space for {}", data_file(options)), source },
    })
}

/// The pages of the file up to the last that was ever used.
fn last_page(env: &Env<WithoutTls>) -> u64 {
    env.info().last_page_number as u64 + 1
}

fn full(options: &Options, shortage: Shortage) -> BackplaneError {
    BackplaneError::Full(format!("{}: {shortage}", data_file(options)))
}

fn data_file(options: &Options) -> String {
    Path::new(&options.state_dir).join("data.mdb").display().to_string()
}
