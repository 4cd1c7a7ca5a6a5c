//! The host's ledger of counts that are Redis's to keep: what is on its way there, and what could not be brought there yet.
//!
//! All workers of the host share it, and each change is one transaction, so that the death of any of them at any point
//! leaves it whole. Three numbers of a session matter:
//!
//! - `confirmed`: what Redis has last said. It may lose its memory; it is not believed below this.
//! - `count`: the highest count that may have been shown here. It covers what is on its way, so that a worker which has
//!   lost Redis and one which has not never show the same.
//! - its *delta*: messages that were counted and answered here while Redis was away. They are *open*, or *sealed* into a
//!   unit.
//!
//! A [`Unit`] is what Redis applies whole and only once, however often it is told: it remembers the unit's id and answer.
//! Each is in the *journal* from before it is sent until its answer is noted. So whoever finds one there may send it
//! again, and does, after the death of who began it: a message that is on its way is counted once, be it that it arrives
//! late, twice, or not at all.
//!
//! What is counted here is counted on top of all that is on its way. So a delta also names the units that were under way
//! below it. Before its session is counted in Redis again these go first, and its open messages travel along: Redis never
//! answers less than what was shown here.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;

use heed::{RoTxn, RwTxn};

use super::record::{Altered, Expiry, Record};
use super::room::Room;
use super::{Aim, BackplaneError, Embedded, Need, Table, Tables, checkpoint, unix_seconds};
use crate::batch::{Batch, Increment, Outcome, Publication};
use crate::count;
use crate::heartbeat::wall_ms;
use crate::token::{Digests, Key};

/// Sessions without a message in the batch whose open messages go along with it.
const ALONG: usize = 256;

/// So many sessions a unit is likely to have.
const LIKELY: usize = 32;

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
    /// When it was made, by the number of the store's transaction: what a later one holds was counted on top of it.
    pub(crate) order: u64,
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

impl Item {
    /// No message of a session whose count is known to be at least this.
    pub(crate) fn known(session: Key, floor: u64) -> Item {
        Item { session, by: 0, floor, sealed: 0 }
    }

    /// New messages of a session of which nothing is known.
    pub(crate) fn new(session: Key, by: u64) -> Item {
        Item { session, by, floor: 0, sealed: 0 }
    }

    /// Whether any of its messages were answered already.
    pub(crate) fn is_answered(&self) -> bool {
        self.sealed > 0
    }
}

/// A unit that is ready to be sent, and which increments of the batch its items answer.
#[derive(Debug)]
pub(crate) struct Planned {
    pub(crate) unit: Rc<Unit>,
    /// For each item: the increment, and the count that it gets if Redis does not answer.
    answers: Vec<Option<(usize, u64)>>,
}

/// What a batch becomes.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// Go first, and in this order, that in which they were made: they hold messages of the same sessions.
    pub(crate) before: Vec<Rc<Unit>>,
    pub(crate) units: Vec<Planned>,
}

impl Plan {
    /// These go first as well, in the order in which they were made: one that seals what was counted on top of another
    /// must not be answered before that is there.
    pub(crate) fn put_before(&mut self, units: impl IntoIterator<Item = Unit>) {
        for unit in units {
            let own = self.units.iter().map(|planned| &planned.unit);
            if !self.before.iter().chain(own).any(|other| other.id == unit.id) {
                self.before.push(Rc::new(unit));
            }
        }
        self.before.sort_by_key(|unit| unit.order);
    }

    /// Whether it brings messages to Redis that were answered before.
    pub(crate) fn merges(&self) -> bool {
        let sealed = |planned: &Planned| planned.unit.items.iter().any(|item| item.sealed > 0);
        !self.before.is_empty() || self.units.iter().any(sealed)
    }
}

/// What Redis has answered to a unit: the counts; none if it was merged so long ago that they are not known any more.
pub(crate) type Answered = (Rc<Unit>, Option<Vec<u64>>);

/// Messages of a session that were counted here and are not in Redis, as far as is known.
#[derive(Clone, Debug, Default, PartialEq)]
struct Delta {
    open: u64,
    /// The session began here while Redis was away: nobody else can know it.
    born: bool,
    /// The units that go before, and how many of the answered messages are sealed in each.
    units: BTreeMap<UnitId, u64>,
}

impl Embedded {
    /// Makes a batch's increments into units, and takes along what is open. `answered` is noted first. `group` says which
    /// sessions may share a unit, `next` names a unit, `aim` whether the store may be full. Sessions for which there is no room
    /// are left out, and their increments failed.
    pub(crate) fn plan(
        &mut self,
        aim: Aim,
        increments: &mut [Increment],
        answered: &[Answered],
        group: impl Fn(&Key) -> u16,
        mut next: impl FnMut() -> UnitId,
    ) -> Result<(Plan, u64), BackplaneError> {
        let noted: usize = answered.iter().map(|(unit, _)| unit.items.len()).sum();
        self.keep_books(aim, increments.len() + noted + ALONG, |ledger| {
            let mut merged = 0;
            for (unit, counts) in answered {
                merged += ledger.merged(unit, counts.as_deref())?;
            }
            let clean = ledger.tables.deltas.is_empty(ledger.txn)?;
            let order = ledger.txn.id() as u64;
            let mut units: BTreeMap<u16, Drawing> = BTreeMap::new();
            let mut before = BTreeSet::new();
            for (index, increment) in increments.iter_mut().enumerate() {
                let session = increment.token.key();
                let group = group(&session);
                let delta = if clean { Delta::default() } else { ledger.delta(&session)? };
                let Some((item, shown)) = ledger.item(&session, &delta, increment)? else {
                    increment.outcome = Outcome::Failed;
                    continue;
                };
                let planned = units.entry(group).or_insert_with(|| Drawing::new(next(), order, group));
                planned.add(item, Some((index, shown)));
                before.extend(delta.units.keys().copied());
                ledger.seal(&session, delta, planned.unit.id)?;
            }
            ledger.confirm()?;
            for (session, delta) in if clean { Vec::new() } else { ledger.open(ALONG)? } {
                let group = group(&session);
                let planned = units.entry(group).or_insert_with(|| Drawing::new(next(), order, group));
                let floor = ledger.record(&session)?.unwrap_or_default().confirmed;
                planned.add(Item { session, by: delta.open, floor, sealed: delta.open }, None);
                before.extend(delta.units.keys().copied());
                ledger.seal(&session, delta, planned.unit.id)?;
            }
            let units: Vec<Planned> = units.into_values().map(Drawing::finish).collect();
            for planned in &units {
                ledger.journal(&planned.unit, wall_ms())?;
                before.remove(&planned.unit.id);
            }
            let before = before.into_iter().map(|id| ledger.journaled(id)).collect::<Result<Vec<_>, _>>()?;
            let mut plan = Plan { before: Vec::new(), units };
            plan.put_before(before.into_iter().flatten());
            Ok((plan, merged))
        })
    }

    /// Notes what Redis has answered. Returns how many messages it has now that were answered before.
    pub(crate) fn note(&mut self, answered: &[Answered]) -> Result<u64, BackplaneError> {
        let noted = answered.iter().map(|(unit, _)| unit.items.len()).sum();
        self.keep_books(Aim::Upkeep, noted, |ledger| {
            let merged = answered.iter().map(|(unit, counts)| ledger.merged(unit, counts.as_deref()));
            Ok(merged.sum::<Result<u64, _>>()?)
        })
    }

    /// One transaction of the ledger, which changes so many sessions.
    fn keep_books<'units, T>(
        &mut self,
        aim: Aim,
        sessions: usize,
        act: impl FnOnce(&mut Ledger<'_, '_, '_, 'units>) -> Result<T, BackplaneError>,
    ) -> Result<T, BackplaneError> {
        let expiry = self.expiry(unix_seconds());
        let changes = 2 * sessions + 2;
        self.write(aim, Need::records(changes).and_bytes(128 * changes), |txn, tables| {
            let mut ledger = Ledger { txn, tables, expiry, change: 0, confirmed: HashMap::default() };
            let value = act(&mut ledger)?;
            ledger.finish()?;
            Ok(value)
        })
    }

    /// Publishes on this host alone.
    pub(crate) fn publish_here(&mut self, publications: &[Publication]) -> Result<(), BackplaneError> {
        let bytes = publications.iter().map(|p| p.text.len() + p.room.len() + 64).sum();
        let need = Need::records(2 * publications.len()).and_bytes(bytes);
        self.write(Aim::Growth, need, |txn, tables| tables.publish(txn, publications))?;
        self.wake_others();
        Ok(())
    }

    /// Nobody knows whether a unit has reached Redis: its messages are answered from here, and so sealed in it.
    pub(crate) fn keep(&mut self, planned: &Planned, increments: &mut [Increment]) -> Result<(), BackplaneError> {
        let mut counted = Vec::new();
        self.keep_books(Aim::Growth, planned.unit.items.len(), |ledger| {
            let under_way = ledger.under_way()?;
            // Not there: somebody has found it and brought it to Redis. Then only what else is under way matters.
            let mut unit = ledger.journaled(planned.unit.id)?;
            for (index, (item, answer)) in planned.unit.items.iter().zip(&planned.answers).enumerate() {
                if item.by == 0 {
                    continue;
                }
                let mut delta = ledger.delta(&item.session)?;
                if let Some((index, shown)) = answer {
                    delta.born |= delta == Delta::default() && increments[*index].begins(*shown);
                    if increments[*index].floor.is_some() || delta.born {
                        counted.push((*index, *shown));
                    }
                }
                for below in under_way.get(item.session.as_ref()).into_iter().flatten() {
                    delta.units.entry(*below).or_insert(0);
                }
                if let Some(item) = unit.as_mut().and_then(|unit| unit.items.get_mut(index)) {
                    let more = item.by - std::mem::replace(&mut item.sealed, item.by);
                    *delta.units.entry(planned.unit.id).or_insert(0) += more;
                    ledger.change += more as i64;
                }
                ledger.put_delta(&item.session, &delta)?;
            }
            // From now on it is anybody's.
            unit.map_or(Ok(()), |unit| Ok(ledger.journal(&unit, 0)?))
        })?;
        for index in planned.answers.iter().flatten().map(|(index, _)| *index) {
            if increments[index].by > 0 {
                // Unless it is among the counted.
                increments[index].outcome = Outcome::Unknown;
            }
        }
        for (index, shown) in counted {
            increments[index].outcome = Outcome::Count(shown);
        }
        self.tell_here(increments)
    }

    /// Counts all that is in the batch here: Redis is away. Sessions of which it alone knows the count stay unknown.
    pub(crate) fn count_here(&mut self, batch: &mut Batch) -> Result<(), BackplaneError> {
        let room = batch.published_bytes() / 128;
        let sessions = batch.increments.len() + batch.publications.len() + room;
        let counted = self.keep_books(Aim::of(batch), sessions, |ledger| {
            let under_way = ledger.under_way()?;
            let mut refused = false;
            for increment in &mut batch.increments {
                let session = increment.token.key();
                if increment.by == 0 {
                    // However long Redis is away, a session does not expire under an open connection.
                    if let Some(record) = ledger.record(&session)? {
                        ledger.put(&session, record)?;
                    }
                    continue;
                }
                let mut delta = ledger.delta(&session)?;
                if increment.floor.is_none() && !delta.born {
                    increment.outcome = Outcome::Unknown;
                    continue;
                }
                let record = ledger.record(&session)?;
                if record.is_none() && !ledger.tables.room.admits(increment.floor) {
                    increment.outcome = Outcome::Failed;
                    refused = true;
                    continue;
                }
                let record = record.unwrap_or_default();
                let by = u64::from(increment.by);
                let count = record.count.max(increment.floor.unwrap_or(0)) + by;
                delta.born |= delta == Delta::default() && increment.begins(count);
                delta.open += by;
                for unit in under_way.get(session.as_ref()).into_iter().flatten() {
                    delta.units.entry(*unit).or_insert(0);
                }
                ledger.change += by as i64;
                ledger.put_delta(&session, &delta)?;
                ledger.put(&session, Record { count, ..record })?;
                increment.outcome = Outcome::Count(count);
            }
            if refused {
                batch.withdraw_uncounted();
            }
            ledger.tables.publish(ledger.txn, &batch.publications)
        });
        if counted.is_err() {
            // None of it is in the store: nobody may see it.
            batch.increments.iter_mut().for_each(|increment| increment.outcome = Outcome::Failed);
        }
        counted?;
        if !batch.publications.is_empty() {
            self.wake_others();
        }
        self.tell_here(&mut batch.increments)
    }

    /// Answers those who only want to know their count, as far as it can be known here.
    fn tell_here(&self, increments: &mut [Increment]) -> Result<(), BackplaneError> {
        let expiry = self.expiry(unix_seconds());
        let txn = self.env.read_txn()?;
        for increment in increments.iter_mut().filter(|increment| increment.by == 0) {
            let session = increment.token.key();
            let born = || -> Result<bool, heed::Error> {
                Ok(self.deltas.get(&txn, session.as_ref())?.and_then(Delta::decode).is_some_and(|delta| delta.born))
            };
            increment.outcome = if increment.floor.is_some() || born()? {
                let record = Record::get(self.sessions, &txn, session.as_ref(), expiry)?;
                let count = record.map_or(0, |record| record.count);
                Outcome::Count(count.max(increment.floor.unwrap_or(0)))
            } else {
                Outcome::Unknown
            };
        }
        Ok(())
    }

    /// Redis has reset a session to this count: whoever counts here knows it before Redis tells again.
    pub(crate) fn note_reset(&mut self, session: &Key, count: u64) -> Result<(), BackplaneError> {
        self.keep_books(Aim::Upkeep, 1, |ledger| {
            let record = ledger.record(session)?.unwrap_or_default();
            Ok(ledger.put(session, record.confirmed_at(count))?)
        })
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
struct Ledger<'a, 'b, 'txn, 'units> {
    txn: &'a mut RwTxn<'txn>,
    tables: &'a mut Tables<'b>,
    expiry: Expiry,
    /// Of the number of unmerged messages.
    change: i64,
    /// What Redis has answered and is not in the records yet.
    confirmed: HashMap<&'units Key, u64, Digests>,
}

impl<'units> Ledger<'_, '_, '_, 'units> {
    fn record(&self, session: &Key) -> Result<Option<Record>, heed::Error> {
        Record::get(self.tables.sessions, self.txn, session.as_ref(), self.expiry)
    }

    fn put(&mut self, session: &Key, record: Record) -> Result<(), heed::Error> {
        Record { touched: self.expiry.now, ..record }.put(self.tables.sessions, self.txn, session.as_ref())
    }

    fn delta(&self, session: &Key) -> Result<Delta, heed::Error> {
        Ok(self.tables.deltas.get(self.txn, session.as_ref())?.and_then(Delta::decode).unwrap_or_default())
    }

    fn put_delta(&mut self, session: &Key, delta: &Delta) -> Result<(), heed::Error> {
        if delta.open == 0 && delta.units.is_empty() {
            self.tables.deltas.delete(self.txn, session.as_ref())?;
            return Ok(());
        }
        self.tables.deltas.put(self.txn, session.as_ref(), &delta.encode())
    }

    /// What Redis is told of an increment, and the count that it gets if Redis does not answer. None: there is no room for a
    /// session that has no record here.
    fn item(
        &mut self,
        session: &Key,
        delta: &Delta,
        increment: &Increment,
    ) -> Result<Option<(Item, u64)>, heed::Error> {
        let (known, by) = (increment.floor.unwrap_or(0), u64::from(increment.by));
        let (mut shown, mut floor) = (known, 0);
        let answer = self.confirmed.remove(session).unwrap_or(0);
        let may_add = self.tables.room.admits(increment.floor);
        let altered = self.alter(session, may_add, |record| {
            let Record { count, confirmed, .. } = record.unwrap_or_default().confirmed_at(answer);
            shown = count.max(known) + by;
            // A connection that knows more than the host: then it is the host that has lost its memory.
            floor = if known > count { confirmed.max(count::without(known, delta.unmerged())) } else { confirmed };
            let count = if by > 0 { shown } else { count };
            (by > 0 || answer > 0 || record.is_some()).then_some(Record { count, confirmed, touched: 0 })
        })?;
        // Who only looks is told what Redis says, whether or not that can be remembered.
        if altered == Altered::NoRoom && by > 0 {
            return Ok(None);
        }
        Ok(Some((Item { session: *session, by: by + delta.open, floor, sealed: delta.open }, shown)))
    }

    /// Replaces a session's record, or makes one if it `may_add`, with one search.
    fn alter(
        &mut self,
        session: &Key,
        may_add: bool,
        new: impl FnOnce(Option<Record>) -> Option<Record>,
    ) -> Result<Altered, heed::Error> {
        let (table, expiry) = (self.tables.sessions, self.expiry);
        let new = |record| new(record).map(|record| Record { touched: expiry.now, ..record });
        Record::alter(table, self.txn, session.as_ref(), expiry, may_add, new)
    }

    /// A unit is in Redis. Returns how many of its messages were answered before.
    fn merged(&mut self, unit: &'units Unit, counts: Option<&[u64]>) -> Result<u64, heed::Error> {
        let mut merged = 0;
        if !self.tables.deltas.is_empty(self.txn)? {
            // As the journal has it: another worker may have been first, or have sealed more in it.
            let journaled = self.journaled(unit.id)?;
            for item in journaled.iter().flat_map(|unit| &unit.items) {
                merged += item.sealed;
                self.unseal(&item.session, unit.id)?;
            }
        }
        self.tables.journal.delete(self.txn, &unit.id.to_bytes())?;
        self.change -= merged as i64;
        self.confirmed.reserve(unit.items.len());
        for (item, count) in unit.items.iter().zip(counts.unwrap_or_default()) {
            if *count == 0 && item.by > 0 {
                self.forget_uncounted(item)?;
            } else {
                self.confirmed.insert(&item.session, *count);
            }
        }
        Ok(merged)
    }

    /// Redis has not counted a session, and has never answered for it: it leaves no trace here.
    fn forget_uncounted(&mut self, item: &Item) -> Result<(), heed::Error> {
        let record = self.record(&item.session)?;
        let is_alone = record.is_some_and(|record| record.confirmed == 0 && record.count == item.by);
        if is_alone && self.delta(&item.session)? == Delta::default() {
            self.tables.sessions.delete(self.txn, item.session.as_ref())?;
        }
        Ok(())
    }

    /// Notes what Redis has answered to sessions that are not noted otherwise.
    fn confirm(&mut self) -> Result<(), heed::Error> {
        let may_add = self.tables.room == Room::Plenty;
        for (session, answer) in std::mem::take(&mut self.confirmed) {
            if answer > 0 {
                self.alter(session, may_add, |record| Some(record.unwrap_or_default().confirmed_at(answer)))?;
            }
        }
        Ok(())
    }

    /// What is open goes into a unit.
    fn seal(&mut self, session: &Key, mut delta: Delta, id: UnitId) -> Result<(), heed::Error> {
        if delta.open == 0 {
            return Ok(());
        }
        *delta.units.entry(id).or_insert(0) += std::mem::take(&mut delta.open);
        self.put_delta(session, &delta)
    }

    /// A unit does not need to go before the session any more.
    fn unseal(&mut self, session: &Key, id: UnitId) -> Result<(), heed::Error> {
        let mut delta = self.delta(session)?;
        if delta.units.remove(&id).is_some() {
            delta.born = false;
            self.put_delta(session, &delta)?;
        }
        Ok(())
    }

    /// The units that are under way, by session.
    fn under_way(&self) -> Result<HashMap<Vec<u8>, Vec<UnitId>>, heed::Error> {
        let mut units: HashMap<Vec<u8>, Vec<UnitId>> = HashMap::new();
        for entry in self.tables.journal.iter(self.txn)? {
            let (key, value) = entry?;
            let Some((_, unit)) = UnitId::from_bytes(key).and_then(|id| Unit::decode(id, value)) else { continue };
            for item in &unit.items {
                units.entry(item.session.as_ref().to_vec()).or_default().push(unit.id);
            }
        }
        Ok(units)
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

    /// One that counts nothing needs no journal.
    fn journal(&mut self, unit: &Unit, since: u64) -> Result<(), heed::Error> {
        if unit.items.iter().all(|item| item.by == 0) {
            return Ok(());
        }
        self.tables.journal.put(self.txn, &unit.id.to_bytes(), &unit.encode(since))
    }

    fn journaled(&self, id: UnitId) -> Result<Option<Unit>, heed::Error> {
        let value = self.tables.journal.get(self.txn, &id.to_bytes())?;
        Ok(value.and_then(|value| Unit::decode(id, value)).map(|(_, unit)| unit))
    }

    fn finish(mut self) -> Result<(), BackplaneError> {
        self.confirm()?;
        if self.change != 0 {
            let meta: Table = self.tables.meta;
            let before = meta.get(self.txn, UNMERGED)?.and_then(|bytes| bytes.try_into().ok());
            let after = before.map_or(0, u64::from_le_bytes).saturating_add_signed(self.change);
            meta.put(self.txn, UNMERGED, &after.to_le_bytes())?;
            if after == 0 {
                // A checkpoint of before would, after a power loss, merge all of it once more.
                checkpoint::hurry(meta, self.txn)?;
            }
        }
        Ok(())
    }
}

/// A unit that is being planned.
struct Drawing {
    unit: Unit,
    answers: Vec<Option<(usize, u64)>>,
}

impl Drawing {
    fn new(id: UnitId, order: u64, group: u16) -> Drawing {
        // Mostly one unit takes all of a turn or two.
        let (items, answers) = (Vec::with_capacity(LIKELY), Vec::with_capacity(LIKELY));
        Drawing { unit: Unit { id, order, group, items }, answers }
    }

    fn add(&mut self, item: Item, answer: Option<(usize, u64)>) {
        self.unit.items.push(item);
        self.answers.push(answer);
    }

    fn finish(self) -> Planned {
        Planned { unit: Rc::new(self.unit), answers: self.answers }
    }
}

impl Planned {
    /// Fills in what Redis has answered.
    pub(crate) fn answer(&self, counts: &[Option<u64>], increments: &mut [Increment]) {
        for (answer, count) in self.answers.iter().zip(counts) {
            let Some(increment) = answer.and_then(|(index, _)| increments.get_mut(index)) else { continue };
            let least = increment.floor.unwrap_or(0) + u64::from(increment.by);
            if count.is_some_and(|count| count < least) {
                // Its client must not see it, whatever the reason.
                tracing::error!(session_hash = %increment.token.fingerprint(), count, least, "redis knows less than a client was shown");
            }
            increment.outcome = count.map_or(Outcome::Failed, |count| Outcome::Count(count.max(least)));
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
    /// Milliseconds since 1970, order, group, then the items: length of the session's key, the key, three numbers.
    fn encode(&self, since: u64) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(24 + 64 * self.items.len());
        bytes.extend(since.to_le_bytes());
        bytes.extend(self.order.to_le_bytes());
        bytes.extend(self.group.to_le_bytes());
        // Those that count nothing too: the answer has a count for each.
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
        let (since, order) = (number(&mut rest)?, number(&mut rest)?);
        let (group, mut rest) = rest.split_first_chunk()?;
        let mut items = Vec::new();
        while let Some((length, more)) = rest.split_first() {
            let (session, more) = more.split_at_checked((*length).into())?;
            let session = Key::from_bytes(session)?;
            rest = more;
            let (by, floor, sealed) = (number(&mut rest)?, number(&mut rest)?, number(&mut rest)?);
            items.push(Item { session, by, floor, sealed });
        }
        Some((since, Unit { id, order, group: u16::from_le_bytes(*group), items }))
    }
}

impl Delta {
    fn unmerged(&self) -> u64 {
        self.open + self.units.values().sum::<u64>()
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = self.open.to_le_bytes().to_vec();
        bytes.push(self.born.into());
        for (unit, sealed) in &self.units {
            bytes.extend(unit.to_bytes());
            bytes.extend(sealed.to_le_bytes());
        }
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Delta> {
        let mut rest = bytes;
        let open = number(&mut rest)?;
        let (born, rest) = rest.split_first()?;
        let unit = |bytes: &[u8]| {
            let (id, mut sealed) = bytes.split_at_checked(16)?;
            Some((UnitId::from_bytes(id)?, number(&mut sealed)?))
        };
        let units = rest.chunks(24).map(unit).collect::<Option<_>>()?;
        Some(Delta { open, born: *born != 0, units })
    }
}

/// How many messages of a session were counted here and are not in Redis.
pub(super) fn waits(deltas: Table, txn: &RoTxn<'_>, session: &Key) -> Result<u64, heed::Error> {
    Ok(deltas.get(txn, session.as_ref())?.and_then(Delta::decode).map_or(0, |delta| delta.unmerged()))
}

/// Takes a little-endian number off the front.
fn number(bytes: &mut &[u8]) -> Option<u64> {
    let (number, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(u64::from_le_bytes(*number))
}
