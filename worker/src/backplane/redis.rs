//! The Redis backplane: many hosts, one service.
//!
//! Counts live in Redis. A batch becomes a script call (one per tag on a Cluster), and while it is under way the next one
//! gathers. The store of the host keeps a ledger of it (see [`ledger`]): when Redis is away counting goes on there, and
//! what was counted is brought to Redis when it is back, exactly once.
//!
//! Two halves: [`Redis`], which the hub holds and which never waits, and the [`Driver`], a task that does nothing but
//! talk to Redis. Requests go one way, [`Event`]s the other.
//!
//! [`ledger`]: super::embedded::ledger

mod bus;
mod check;
mod driver;
#[cfg(test)]
mod permissions;
mod recent;
mod script;
mod sessions;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use redis::Value;
use tokio::sync::mpsc;

use super::embedded::ledger::{Answered, Plan, Unit, UnitId};
use super::health::News;
use super::{Aim, Announced, Backplane, BackplaneError, Embedded, Health, Progress, Settlement};
use crate::batch::{Batch, Publication};
use crate::lifetimes::Lifetimes;
use crate::redis::{Failure, Reason, Settings};
use baton_ipc::fault;
use recent::Recent;
use script::{Counted, Layout, Tally};

pub(crate) use bus::Message;
pub use check::check_redis;
use driver::Bounds;
pub(crate) use driver::{Driver, Event};
pub(crate) use sessions::RedisSessions;

/// What operators announce may wait in such a number.
const ANNOUNCEMENTS: usize = 64;

/// How often at least what others have left behind is looked for.
const LOOK: Duration = Duration::from_secs(1);

/// Commands for the driver: each stage begins when the one before has succeeded.
type Stages = Vec<Vec<Call>>;

/// What the driver is asked to do; it knows the scripts' names.
#[derive(Debug)]
enum Call {
    Commit(Rc<Unit>),
    Publish(UnitId, Vec<String>),
}

/// How it is with Redis, as this worker sees it.
#[derive(Debug)]
enum Link {
    Up,
    /// Counting goes on in the store of the host.
    Down,
}

/// What is under way.
#[derive(Debug)]
struct Flight {
    plan: Plan,
    publications: usize,
}

/// The half that the hub holds.
pub(crate) struct Redis {
    host: Embedded,
    layout: Rc<Layout>,
    link: Link,
    health: Rc<RefCell<Health>>,
    source: UnitId,
    requests: mpsc::Sender<Stages>,
    announcements: mpsc::Sender<Message>,
    under_way: Option<Flight>,
    /// Answers that the ledger does not know yet: they go into its next transaction.
    answered: Vec<Answered>,
    /// What was answered lately, where the server may be replaced by a replica of it.
    recent: Option<Recent>,
    /// The server may be another one: it is to know of what was answered lately.
    raise_due: bool,
    /// When what others have left behind was last looked for.
    looked: Instant,
    /// Messages brought to Redis that were answered before.
    merged: u64,
}

impl Redis {
    /// The two halves. Nothing is connected yet: until the driver says so, Redis is away. Larger texts than `max_text` bytes that
    /// are published are not delivered.
    pub(crate) fn new(
        host: Embedded,
        settings: &Settings,
        lifetimes: Lifetimes,
        max_text: usize,
    ) -> Result<(Redis, Driver), Failure> {
        // One at a time is under way.
        let (requests, to_commit) = mpsc::channel(1);
        let (announcements, to_announce) = mpsc::channel(ANNOUNCEMENTS);
        let health =
            Rc::new(RefCell::new(Health::new("redis", format!("{}, prefix {}", settings.address, settings.prefix))));
        let connector = crate::redis::Connector::new(settings)?;
        let cluster = connector.is_cluster();
        let recent = connector.has_sentinels().then(Recent::default);
        let layout = Rc::new(Layout::new(settings, lifetimes, cluster));
        let bounds = Bounds { answer: settings.timeout, text: max_text };
        let driver = Driver::new(connector, layout.clone(), to_commit, to_announce, health.clone(), bounds);
        let redis = Redis {
            host,
            layout,
            link: Link::Down,
            health,
            source: new_source(),
            requests,
            announcements,
            under_way: None,
            answered: Vec::new(),
            recent,
            raise_due: false,
            looked: Instant::now(),
            merged: 0,
        };
        Ok((redis, driver))
    }

    fn next(&mut self) -> UnitId {
        self.source.number += 1;
        self.source
    }

    /// Makes what is to be sent of a batch. None: nothing is.
    fn plan(
        &mut self,
        aim: Aim,
        batch: &mut Batch,
        left_behind: Vec<Unit>,
    ) -> Result<Option<(Flight, Stages)>, BackplaneError> {
        let (layout, source) = (self.layout.clone(), &mut self.source);
        let (mut plan, merged) = self.host.plan(
            aim,
            &mut batch.increments,
            &self.answered,
            |session| layout.group(session),
            || {
                source.number += 1;
                *source
            },
        )?;
        if merged > 0 {
            fault::point("merge noted");
        }
        self.merged += merged;
        self.forget_answered();
        plan.put_before(left_behind);
        if let (true, Some(recent)) = (self.raise_due, &mut self.recent) {
            let units = recent.raise(Instant::now());
            self.raise_due = !units.is_empty();
            plan.put_before(units);
        }
        let before: Vec<Call> = plan.before.iter().map(Rc::clone).map(Call::Commit).collect();
        let mut calls: Vec<Call> = plan.units.iter().map(|planned| Call::Commit(planned.unit.clone())).collect();
        if !batch.publications.is_empty() {
            let room = |p: &Publication| Message::Room { room: p.room.clone(), text: p.text.clone() }.encode();
            calls.push(Call::Publish(self.next(), batch.publications.iter().map(room).collect()));
        }
        let stages: Stages = [before, calls].into_iter().filter(|calls| !calls.is_empty()).collect();
        let flight = Flight { plan, publications: batch.publications.len() };
        Ok((!stages.is_empty()).then_some((flight, stages)))
    }

    /// The ledger knows them.
    fn forget_answered(&mut self) {
        let (now, answered) = (Instant::now(), self.answered.drain(..));
        match &mut self.recent {
            Some(recent) => answered.for_each(|answered| recent.push(now, answered)),
            None => drop(answered),
        }
    }

    fn look(&mut self) -> Result<Vec<Unit>, BackplaneError> {
        self.looked = Instant::now();
        self.host.left_behind()
    }

    /// Sends what is to be sent of a batch, and what was left behind.
    fn begin(&mut self, aim: Aim, batch: &mut Batch, left_behind: Vec<Unit>) -> Result<Progress, BackplaneError> {
        debug_assert!(self.under_way.is_none(), "one at a time");
        let Some((flight, stages)) = self.plan(aim, batch, left_behind)? else { return Ok(Progress::Done) };
        if flight.plan.merges() {
            fault::point("merge planned");
        }
        match self.requests.try_send(stages) {
            Ok(()) => {
                self.under_way = Some(flight);
                Ok(Progress::Begun)
            }
            Err(error) => {
                // The driver takes one after the other, and there is never more than one.
                tracing::error!(%error, "the task that talks to redis does not listen");
                self.source = new_source();
                let mut units = flight.plan.units.iter();
                units.try_for_each(|planned| self.host.keep(planned, &mut batch.increments))?;
                Ok(Progress::Done)
            }
        }
    }

    /// Redis is away from now on, for this worker.
    fn lose(&mut self, failure: &Failure) {
        self.link = Link::Down;
        // The fate of what was under way is not known: nothing later may look as if it had come after it.
        self.source = new_source();
        let mut health = self.health.borrow_mut();
        let (reason, detail) = (failure.reason.label(), &failure.detail);
        match health.down(failure) {
            News::Away => tracing::warn!(reason, detail, "redis is away: counting here until it is back"),
            News::Cause => {
                tracing::warn!(event = "redis_cause", reason, detail, "redis stays away, now for this reason")
            }
            News::Nothing => {}
        }
    }

    /// Takes the answers to what was under way, in the order in which it was sent.
    fn take(
        &mut self,
        flight: Flight,
        batch: &mut Batch,
        answers: Vec<Result<Value, Failure>>,
    ) -> Result<(), BackplaneError> {
        let mut answers = answers.into_iter();
        let mut lost = None;
        let mut answer = |unit: &Unit| match answers.next() {
            Some(Ok(value)) => {
                let counted = script::counted(&value, unit.items.len());
                if counted.is_none() {
                    lost.get_or_insert(Failure::new(Reason::Other, format!("malformed reply: {}", excerpt(&value))));
                }
                counted
            }
            Some(Err(failure)) => {
                lost.get_or_insert(failure);
                None
            }
            None => None,
        };
        let (mut outcome, mut is_full) = (Ok(()), None);
        for unit in flight.plan.before {
            // Without an answer it stays in the journal.
            match answer(&unit) {
                Some(Counted::Counts(tallies, _)) => self.answered.push((unit, Some(known(&tallies)))),
                Some(Counted::Stale) => self.answered.push((unit, None)),
                None => {}
            }
        }
        for planned in flight.plan.units {
            // Stale could only be one that was sent before, and these are new.
            let Some(Counted::Counts(tallies, full)) = answer(&planned.unit) else {
                outcome = outcome.and(self.host.keep(&planned, &mut batch.increments));
                fault::point("unit kept");
                continue;
            };
            is_full = Some(is_full.unwrap_or(false) || full);
            let counts: Vec<Option<u64>> = tallies.iter().map(|tally| count_of(*tally)).collect();
            planned.answer(&counts, &mut batch.increments);
            for (item, _) in planned.unit.items.iter().zip(&tallies).filter(|(_, tally)| **tally == Tally::Odd) {
                tracing::error!(session_hash = %item.session.fingerprint(), "the session's key in redis holds something else: it is not counted");
            }
            self.answered.push((planned.unit, Some(known(&tallies))));
        }
        if flight.publications > 0
            && let Some(Err(failure)) = answers.next()
        {
            if !driver::is_only_mute(&failure) {
                lost.get_or_insert(failure);
            }
            // They may have reached somebody, or nobody: those on this host hear them from here.
            outcome = outcome.and(self.host.publish_here(&batch.publications));
        }
        if let Some(is_full) = is_full {
            self.health.borrow_mut().note_memory(is_full);
        }
        match lost {
            Some(failure) => self.lose(&failure),
            None => self.raise_due = false,
        }
        outcome
    }
}

/// The beginning of a value, for the log: Redis may have answered with anything.
fn excerpt(value: &Value) -> String {
    const MAX_CHARACTERS: usize = 200;
    let text = match value {
        Value::BulkString(bytes) => format!("{} bytes {:?}", bytes.len(), &bytes[..bytes.len().min(32)]),
        other => format!("{other:?}"),
    };
    text.chars().take(MAX_CHARACTERS).collect()
}

fn count_of(tally: Tally) -> Option<u64> {
    match tally {
        Tally::Count(count) => Some(count),
        Tally::Odd | Tally::NoMemory => None,
    }
}

/// The counts of sessions, 0 for those that have none.
fn known(tallies: &[Tally]) -> Vec<u64> {
    tallies.iter().map(|tally| count_of(*tally).unwrap_or(0)).collect()
}

fn new_source() -> UnitId {
    UnitId { source: fastrand::u64(..), number: 0 }
}

impl Backplane for Redis {
    fn commit(&mut self, batch: &mut Batch) -> Result<Progress, BackplaneError> {
        if matches!(self.link, Link::Down) {
            self.rest();
            self.host.count_here(batch)?;
            fault::point("counted here");
            return Ok(Progress::Done);
        }
        // Where there always is a batch, what was left behind must not wait on.
        let left_behind = if self.looked.elapsed() >= LOOK { self.look()? } else { Vec::new() };
        self.begin(Aim::of(batch), batch, left_behind)
    }

    fn work_off(&mut self) -> Result<Progress, BackplaneError> {
        if matches!(self.link, Link::Down) {
            return Ok(Progress::Done);
        }
        let left_behind = self.look()?;
        if left_behind.is_empty() && !self.raise_due && !self.host.has_open()? {
            return Ok(Progress::Done);
        }
        self.begin(Aim::Upkeep, &mut Batch::default(), left_behind)
    }

    fn settle(&mut self, batch: &mut Batch, settlement: Settlement) -> Result<(), BackplaneError> {
        match self.under_way.take() {
            Some(flight) => {
                let merges = flight.plan.merges();
                if merges {
                    fault::point("merge answered");
                }
                let outcome = self.take(flight, batch, settlement.0);
                if merges {
                    fault::point("merge settled");
                }
                outcome
            }
            None => Ok(()),
        }
    }

    fn rest(&mut self) {
        if self.answered.is_empty() {
            return;
        }
        match self.host.note(&self.answered) {
            Ok(merged) => {
                if merged > 0 {
                    fault::point("merge noted");
                }
                self.merged += merged;
                self.forget_answered();
            }
            Err(error) => tracing::warn!(%error, "the ledger does not know of the last counts"),
        }
    }

    fn take_merged(&mut self) -> u64 {
        std::mem::take(&mut self.merged)
    }

    fn link(&mut self, lost: Option<&Failure>) {
        match lost {
            None => {
                self.link = Link::Up;
                self.raise_due = self.recent.is_some();
                if let Some(away) = self.health.borrow_mut().up() {
                    tracing::info!(away_seconds = away.as_secs_f64(), "redis is back");
                }
            }
            Some(failure) => self.lose(failure),
        }
    }

    fn is_alone(&self) -> bool {
        false
    }

    fn announce(&mut self, message: Message) -> Announced {
        match self.link {
            Link::Up if self.health.borrow().mute.is_none() && self.announcements.try_send(message).is_ok() => {
                Announced::Sent
            }
            Link::Up | Link::Down => Announced::Failed,
        }
    }

    fn health(&mut self) -> Health {
        let mut health = self.health.borrow().clone();
        health.pending = self.host.unmerged().unwrap_or(0);
        self.host.short(health)
    }

    fn published(&mut self) -> Result<(Vec<Publication>, u64), BackplaneError> {
        self.host.published()
    }

    fn host(&mut self) -> &mut Embedded {
        &mut self.host
    }

    fn close(mut self: Box<Self>) -> Result<(), BackplaneError> {
        self.rest();
        self.host.leave()
    }
}
