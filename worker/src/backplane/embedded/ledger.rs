//! The host's ledger of counts that are Redis's to keep: what is on its way there, and what could not be brought there yet.
//!
//! All workers of the host share it, and each change is one transaction, so that the death of any of them at any point
//! leaves it whole. Three numbers of a session matter:
//!
//! - `confirmed`: what Redis has last said. It may lose its memory; it is not believed below this.
//! - `unmerged`: messages that were counted and answered here while Redis was away. They are *open*, or *sealed* into a
//!   unit of the journal that may have reached Redis.
//! - `count`: the highest count that may have been shown here. It covers what is on its way, so that a worker which has
//!   lost Redis and one which has not never show the same.
//!
//! A [`Unit`] is what Redis applies whole and only once, however often it is told: it remembers the unit's id and
//! answer. So whoever finds a sealed unit may send it again, also after the death of who began it.
//!
//! Before a session is counted in Redis again, its open messages travel in the same unit, and the units that hold sealed
//! ones go before. So Redis never answers less than what was shown here.

use std::collections::{BTreeMap, BTreeSet};

use heed::RwTxn;

use super::record::Record;
use super::{Aim, BackplaneError, Embedded, Table, Tables, unix_seconds};
use crate::batch::{Batch, Increment, Outcome, Publication};
use crate::heartbeat::wall_ms;
use crate::token::Key;

/// Sessions without a message in the batch whose open messages go along with it.
const ALONG: usize = 256;

/// Units that are sent again at once.
const AGAIN: usize = 64;

/// A sealed unit of this age (milliseconds) is not under way any more: its sender would have had an answer, or given up.
const STALE_MS: u64 = 3000;

/// The entry of the table `meta` with the number of messages that are not in Redis yet.
const UNMERGED: &[u8] = b"unmerged";

/// The name under which Redis remembers a [`Unit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct UnitId {
    /// One sender, which has one unit under way at a time; abandoned when a unit's fate is in doubt.
    pub(crate) source: u64,
    /// Greater for each of them.
    pub(crate) number: u64,
}

/// What Redis applies whole, and once.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Unit {
    pub(crate) id: UnitId,
    /// Sessions of one group live together in a Redis Cluster.
    pub(crate) group: u16,
    pub(crate) items: Vec<Item>,
}

/// One session's share of a unit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Item {
    pub(crate) session: Key,
    /// Messages to add.
    pub(crate) by: u64,
    /// What the count is known to be at least, without them.
    pub(crate) floor: u64,
    /// How many of them were answered already: they must not be lost.
    sealed: u64,
}

/// A unit that is ready to be sent, and which increments of the batch its items answer.
#[derive(Debug)]
pub(crate) struct Planned {
    pub(crate) unit: Unit,
    /// For each item: the increment, and the count that it gets if Redis does not answer.
    answers: Vec<Option<(usize, u64)>>,
    /// It holds messages that were answered already, and is in the journal.
    journaled: bool,
}

/// What a batch becomes.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// Go first: they hold messages of the same sessions.
    pub(crate) before: Vec<Unit>,
    pub(crate) units: Vec<Planned>,
}

/// Messages of a session that were counted here and are not in Redis, as far as is known.
#[derive(Clone, Debug, Default, PartialEq)]
struct Delta {
    open: u64,
    sealed: u64,
    /// The session began here while Redis was away: nobody else can know it.
    born: bool,
    /// Where the sealed ones are.
    units: BTreeSet<UnitId>,
}

impl Embedded {
    /// Makes a batch's increments into units, and takes along what is open. `confirmed` is what was answered to earlier
    /// ones. `group` says which sessions may share a unit, `next` names a unit.
    pub(crate) fn plan(
        &mut self,
        increments: &[Increment],
        confirmed: &[(Key, u64)],
        group: impl Fn(&Key) -> u16,
        mut next: impl FnMut() -> UnitId,
    ) -> Result<Plan, BackplaneError> {
        let now = unix_seconds();
        let expired_before = self.expired_before(now);
        let changes = 2 * (increments.len() + confirmed.len() + ALONG);
        self.write(Aim::Growth, changes, 64 * changes, |txn, tables| {
            let mut ledger = Ledger { txn, tables, now, expired_before, change: 0 };
            for (session, count) in confirmed {
                ledger.confirm(session, *count, 0)?;
            }
            let clean = ledger.tables.deltas.is_empty(ledger.txn)?;
            let mut units: BTreeMap<u16, Planned> = BTreeMap::new();
            let mut before = BTreeSet::new();
            for (index, increment) in increments.iter().enumerate() {
                let session = increment.token.key();
                let group = group(&session);
                let planned = units.entry(group).or_insert_with(|| Planned::new(next(), group));
                let delta = if clean { Delta::default() } else { ledger.delta(&session)? };
                let (item, shown) = ledger.item(&session, &delta, increment)?;
                planned.add(item, Some((index, shown)));
                if delta != Delta::default() {
                    before.extend(delta.units.iter().copied());
                    ledger.seal(&session, delta, planned.unit.id)?;
                }
            }
            for (session, delta) in if clean { Vec::new() } else { ledger.open(ALONG)? } {
                let group = group(&session);
                let planned = units.entry(group).or_insert_with(|| Planned::new(next(), group));
                let record = ledger.record(&session)?.unwrap_or_default();
                let (by, floor) = (delta.open, record.confirmed);
                planned.add(Item { session, by, floor, sealed: by }, None);
                before.extend(delta.units.iter().copied());
                ledger.seal(&session, delta, planned.unit.id)?;
            }
            let units: Vec<Planned> = units.into_values().collect();
            for planned in units.iter().filter(|planned| planned.journaled) {
                ledger.journal(&planned.unit)?;
                before.remove(&planned.unit.id);
            }
            let before = before.into_iter().map(|id| ledger.sealed_unit(id)).collect::<Result<Vec<_>, _>>()?;
            ledger.finish()?;
            Ok(Plan { before: before.into_iter().flatten().collect(), units })
        })
    }

    /// Notes what Redis has answered.
    pub(crate) fn confirm(&mut self, confirmed: &[(Key, u64)]) -> Result<(), BackplaneError> {
        let now = unix_seconds();
        let expired_before = self.expired_before(now);
        self.write(Aim::Upkeep, confirmed.len(), 0, |txn, tables| {
            let mut ledger = Ledger { txn, tables, now, expired_before, change: 0 };
            confirmed.iter().try_for_each(|(session, count)| ledger.confirm(session, *count, 0))?;
            Ok(())
        })
    }

    /// Publishes on this host alone.
    pub(crate) fn publish_here(&mut self, publications: &[Publication]) -> Result<(), BackplaneError> {
        let bytes = publications.iter().map(|p| p.text.len() + p.room.len() + 64).sum();
        self.write(Aim::Growth, 2 * publications.len(), bytes, |txn, tables| tables.bus.append(txn, publications))?;
        self.wake_others();
        Ok(())
    }

    /// A unit is in Redis: what was sealed in it is not any more. Returns how many messages that were answered before.
    pub(crate) fn merged(&mut self, unit: &Unit, counts: Option<&[u64]>) -> Result<u64, BackplaneError> {
        let changes = 2 * unit.items.len() + 1;
        let now = unix_seconds();
        let expired_before = self.expired_before(now);
        self.write(Aim::Upkeep, changes, 0, |txn, tables| {
            let mut ledger = Ledger { txn, tables, now, expired_before, change: 0 };
            // As the journal has it: another worker may have been first, or have sealed more in it.
            let sealed = ledger.sealed_unit(unit.id)?;
            let mut merged = 0;
            for item in sealed.iter().flat_map(|unit| &unit.items) {
                merged += item.sealed;
                ledger.unseal(&item.session, item.sealed, unit.id)?;
            }
            ledger.tables.journal.delete(ledger.txn, &unit.id.to_bytes())?;
            for (item, count) in unit.items.iter().zip(counts.unwrap_or_default()) {
                let delta = ledger.delta(&item.session)?;
                ledger.confirm(&item.session, *count, delta.open + delta.sealed)?;
            }
            ledger.finish()?;
            Ok(merged)
        })
    }

    /// Nobody knows whether a unit has reached Redis: its messages are counted here, sealed in it, and answered.
    pub(crate) fn keep(&mut self, planned: &Planned, increments: &mut [Increment]) -> Result<(), BackplaneError> {
        let changes = 2 * planned.unit.items.len() + 1;
        let now = unix_seconds();
        let expired_before = self.expired_before(now);
        let unit = self.write(Aim::Growth, changes, 64 * changes, |txn, tables| {
            let mut ledger = Ledger { txn, tables, now, expired_before, change: 0 };
            let mut unit = planned.unit.clone();
            for (item, answer) in unit.items.iter_mut().zip(&planned.answers) {
                let fresh = item.by - item.sealed;
                if fresh > 0 {
                    let mut delta = ledger.delta(&item.session)?;
                    let knows = answer.is_some_and(|(index, _)| increments[index].floor.is_some());
                    delta.born |= delta == Delta::default() && item.floor == 0 && knows;
                    delta.sealed += fresh;
                    delta.units.insert(unit.id);
                    ledger.put_delta(&item.session, &delta)?;
                    ledger.change += fresh as i64;
                }
                item.sealed = item.by;
            }
            unit.items.retain(|item| item.by > 0);
            if !unit.items.is_empty() {
                ledger.journal(&unit)?;
            }
            ledger.finish()?;
            Ok(unit)
        })?;
        tracing::debug!(source = unit.id.source, number = unit.id.number, items = unit.items.len(), "unit kept");
        for (index, shown) in planned.answers.iter().flatten() {
            let increment = &mut increments[*index];
            if increment.by > 0 {
                increment.outcome = Outcome::Count(*shown);
            }
        }
        self.tell_here(increments)
    }

    /// Counts all that is in the batch here: Redis is away. Sessions of which it alone knows the count stay unknown.
    pub(crate) fn count_here(&mut self, batch: &mut Batch) -> Result<(), BackplaneError> {
        let now = unix_seconds();
        let expired_before = self.expired_before(now);
        let Batch { increments, publications, .. } = batch;
        let changes = 2 * increments.len() + 2 * publications.len();
        let bytes = 64 * changes + publications.iter().map(|p| p.text.len() + p.room.len() + 64).sum::<usize>();
        self.write(Aim::Growth, changes, bytes, |txn, tables| {
            tables.bus.append(txn, publications)?;
            let mut ledger = Ledger { txn, tables, now, expired_before, change: 0 };
            for increment in increments.iter_mut().filter(|increment| increment.by > 0) {
                let session = increment.token.key();
                let mut delta = ledger.delta(&session)?;
                if increment.floor.is_none() && !delta.born {
                    increment.outcome = Outcome::Unknown;
                    continue;
                }
                let record = ledger.record(&session)?.unwrap_or_default();
                delta.born |= delta == Delta::default() && record == Record::default() && increment.floor == Some(0);
                let by = u64::from(increment.by);
                let count = record.count.max(increment.floor.unwrap_or(0)) + by;
                delta.open += by;
                ledger.change += by as i64;
                ledger.put_delta(&session, &delta)?;
                ledger.put(&session, Record { count, ..record })?;
                increment.outcome = Outcome::Count(count);
            }
            ledger.finish()
        })?;
        if !publications.is_empty() {
            self.wake_others();
        }
        self.tell_here(increments)
    }

    /// Answers those who only want to know their count, as far as it can be known here.
    fn tell_here(&self, increments: &mut [Increment]) -> Result<(), BackplaneError> {
        let expired_before = self.expired_before(unix_seconds());
        let txn = self.env.read_txn()?;
        for increment in increments.iter_mut().filter(|increment| increment.by == 0) {
            let session = increment.token.key();
            let born = || -> Result<bool, heed::Error> {
                Ok(self.deltas.get(&txn, session.as_ref())?.and_then(Delta::decode).is_some_and(|delta| delta.born))
            };
            increment.outcome = if increment.floor.is_some() || born()? {
                let record = Record::get(self.sessions, &txn, session.as_ref(), expired_before)?;
                let count = record.map_or(0, |record| record.count);
                Outcome::Count(count.max(increment.floor.unwrap_or(0)))
            } else {
                Outcome::Unknown
            };
        }
        Ok(())
    }

    /// How many messages were counted here and are not in Redis, as far as is known.
    pub(crate) fn unmerged(&self) -> Result<u64, BackplaneError> {
        let txn = self.env.read_txn()?;
        Ok(self.meta.get(&txn, UNMERGED)?.and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes))
    }

    /// Whether any message waits to be brought to Redis and is not on its way.
    pub(crate) fn has_open(&self) -> Result<bool, BackplaneError> {
        let txn = self.env.read_txn()?;
        for entry in self.deltas.iter(&txn)? {
            if Delta::decode(entry?.1).is_some_and(|delta| delta.open > 0) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Units that somebody has left behind.
    pub(crate) fn left_behind(&self) -> Result<Vec<Unit>, BackplaneError> {
        let now = wall_ms();
        let txn = self.env.read_txn()?;
        let mut units = Vec::new();
        for entry in self.journal.iter(&txn)? {
            let (key, value) = entry?;
            let Some((since, unit)) = UnitId::from_bytes(key).and_then(|id| Unit::decode(id, value)) else { continue };
            // A time ahead of now is that of a clock that was set back.
            if now.checked_sub(since).is_none_or(|age| age >= STALE_MS) {
                units.push(unit);
            }
            if units.len() == AGAIN {
                break;
            }
        }
        Ok(units)
    }
}

/// The ledger while a transaction is open.
struct Ledger<'a, 'b, 'txn> {
    txn: &'a mut RwTxn<'txn>,
    tables: &'a mut Tables<'b>,
    now: u64,
    expired_before: u64,
    /// Of the number of unmerged messages.
    change: i64,
}

impl Ledger<'_, '_, '_> {
    fn record(&self, session: &Key) -> Result<Option<Record>, heed::Error> {
        Record::get(self.tables.sessions, self.txn, session.as_ref(), self.expired_before)
    }

    fn put(&mut self, session: &Key, record: Record) -> Result<(), heed::Error> {
        Record { touched: self.now, ..record }.put(self.tables.sessions, self.txn, session.as_ref())
    }

    fn delta(&self, session: &Key) -> Result<Delta, heed::Error> {
        Ok(self.tables.deltas.get(self.txn, session.as_ref())?.and_then(Delta::decode).unwrap_or_default())
    }

    fn put_delta(&mut self, session: &Key, delta: &Delta) -> Result<(), heed::Error> {
        if delta.open + delta.sealed == 0 && delta.units.is_empty() {
            self.tables.deltas.delete(self.txn, session.as_ref())?;
            return Ok(());
        }
        self.tables.deltas.put(self.txn, session.as_ref(), &delta.encode())
    }

    /// What Redis is told of an increment, and the count that it gets if Redis does not answer.
    fn item(&mut self, session: &Key, delta: &Delta, increment: &Increment) -> Result<(Item, u64), heed::Error> {
        let record = self.record(session)?;
        let Record { count, confirmed, .. } = record.unwrap_or_default();
        let known = increment.floor.unwrap_or(0);
        let floor = confirmed.max(known.saturating_sub(delta.open + delta.sealed));
        let shown = count.max(known) + u64::from(increment.by);
        if increment.by > 0 || record.is_some() {
            self.put(session, Record { count: if increment.by > 0 { shown } else { count }, confirmed, touched: 0 })?;
        }
        let by = u64::from(increment.by) + delta.open;
        Ok((Item { session: *session, by, floor, sealed: delta.open }, shown))
    }

    /// Redis has answered; `rest` more messages were counted here.
    fn confirm(&mut self, session: &Key, answer: u64, rest: u64) -> Result<(), heed::Error> {
        if answer == 0 {
            return Ok(());
        }
        let record = self.record(session)?.unwrap_or_default();
        let (count, confirmed) = (record.count.max(answer + rest), record.confirmed.max(answer));
        self.put(session, Record { count, confirmed, ..record })
    }

    /// What is open goes into a unit.
    fn seal(&mut self, session: &Key, mut delta: Delta, id: UnitId) -> Result<(), heed::Error> {
        if delta.open == 0 {
            return Ok(());
        }
        delta.sealed += std::mem::take(&mut delta.open);
        delta.units.insert(id);
        self.put_delta(session, &delta)
    }

    /// What was sealed in a unit is merged.
    fn unseal(&mut self, session: &Key, sealed: u64, id: UnitId) -> Result<(), heed::Error> {
        let mut delta = self.delta(session)?;
        let merged = sealed.min(delta.sealed);
        delta.sealed -= merged;
        delta.units.remove(&id);
        delta.born = false;
        self.change -= merged as i64;
        self.put_delta(session, &delta)
    }

    /// The first sessions with open messages.
    fn open(&self, most: usize) -> Result<Vec<(Key, Delta)>, heed::Error> {
        let mut found = Vec::new();
        for entry in self.tables.deltas.iter(self.txn)? {
            let (session, delta) = entry?;
            let Some((session, delta)) = Key::from_bytes(session).zip(Delta::decode(delta)) else { continue };
            if delta.open > 0 {
                found.push((session, delta));
            }
            if found.len() == most {
                break;
            }
        }
        Ok(found)
    }

    fn journal(&mut self, unit: &Unit) -> Result<(), heed::Error> {
        self.tables.journal.put(self.txn, &unit.id.to_bytes(), &unit.encode(wall_ms()))
    }

    fn sealed_unit(&self, id: UnitId) -> Result<Option<Unit>, heed::Error> {
        let value = self.tables.journal.get(self.txn, &id.to_bytes())?;
        Ok(value.and_then(|value| Unit::decode(id, value)).map(|(_, unit)| unit))
    }

    fn finish(self) -> Result<(), BackplaneError> {
        if self.change != 0 {
            let meta: Table = self.tables.meta;
            let before = meta.get(self.txn, UNMERGED)?.and_then(|bytes| bytes.try_into().ok());
            let after = before.map_or(0, u64::from_le_bytes).saturating_add_signed(self.change);
            meta.put(self.txn, UNMERGED, &after.to_le_bytes())?;
        }
        Ok(())
    }
}

impl Planned {
    fn new(id: UnitId, group: u16) -> Planned {
        Planned { unit: Unit { id, group, items: Vec::new() }, answers: Vec::new(), journaled: false }
    }

    fn add(&mut self, item: Item, answer: Option<(usize, u64)>) {
        self.journaled |= item.sealed > 0;
        self.unit.items.push(item);
        self.answers.push(answer);
    }

    /// Whether [`Embedded::merged`] has anything to do that cannot wait.
    pub(crate) fn is_journaled(&self) -> bool {
        self.journaled
    }

    /// Fills in what Redis has answered.
    pub(crate) fn answer(&self, counts: &[Option<u64>], increments: &mut [Increment]) {
        for (answer, count) in self.answers.iter().zip(counts) {
            if let Some((index, _)) = answer {
                increments[*index].outcome = count.map_or(Outcome::Failed, Outcome::Count);
            }
        }
    }
}

impl UnitId {
    fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.source.to_be_bytes());
        bytes[8..].copy_from_slice(&self.number.to_be_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Option<UnitId> {
        let (source, rest) = bytes.split_first_chunk()?;
        let number = rest.try_into().ok()?;
        Some(UnitId { source: u64::from_be_bytes(*source), number: u64::from_be_bytes(number) })
    }
}

impl Unit {
    /// Milliseconds since 1970, group, then the items: length of the session's key, the key, three numbers.
    fn encode(&self, since: u64) -> Vec<u8> {
        let mut bytes = since.to_le_bytes().to_vec();
        bytes.extend(self.group.to_le_bytes());
        for item in &self.items {
            let session = item.session.as_ref();
            bytes.push(session.len() as u8);
            bytes.extend_from_slice(session);
            for number in [item.by, item.floor, item.sealed] {
                bytes.extend(number.to_le_bytes());
            }
        }
        bytes
    }

    fn decode(id: UnitId, bytes: &[u8]) -> Option<(u64, Unit)> {
        let mut rest = bytes;
        let since = number(&mut rest)?;
        let (group, mut rest) = rest.split_first_chunk()?;
        let mut items = Vec::new();
        while let Some((length, more)) = rest.split_first() {
            let (session, more) = more.split_at_checked((*length).into())?;
            let session = Key::from_bytes(session)?;
            rest = more;
            let (by, floor, sealed) = (number(&mut rest)?, number(&mut rest)?, number(&mut rest)?);
            items.push(Item { session, by, floor, sealed });
        }
        Some((since, Unit { id, group: u16::from_le_bytes(*group), items }))
    }
}

impl Delta {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = [self.open.to_le_bytes(), self.sealed.to_le_bytes()].concat();
        bytes.push(self.born.into());
        self.units.iter().for_each(|unit| bytes.extend(unit.to_bytes()));
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Delta> {
        let mut rest = bytes;
        let (open, sealed) = (number(&mut rest)?, number(&mut rest)?);
        let (born, rest) = rest.split_first()?;
        let units = rest.chunks(16).map(UnitId::from_bytes).collect::<Option<_>>()?;
        Some(Delta { open, sealed, born: *born != 0, units })
    }
}

/// Takes a little-endian number off the front.
fn number(bytes: &mut &[u8]) -> Option<u64> {
    let (number, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(u64::from_le_bytes(*number))
}
