//! Hosts on one real Redis, each with one worker.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::task::LocalSet;
use tokio::time::timeout;

use super::{Event, Link, Message, Redis};
use crate::backplane::conformance::{Cluster, Instance, SOON};
use crate::backplane::embedded::testing::{Directory, lifetime};
use crate::backplane::{Backplane, BackplaneError, Progress};
use crate::batch::{Batch, Publication};
use crate::lifetimes::Lifetimes;
use crate::redis::Settings;
use crate::redis::testing::Server;
use crate::token::Token;

/// A Redis that many hosts share.
pub(super) struct Hosts {
    pub(super) server: Server,
    pub(super) lifetimes: Lifetimes,
}

impl Hosts {
    pub(super) fn new() -> Hosts {
        Hosts { server: Server::start(&[]), lifetimes: lifetime(3600) }
    }

    /// Another host, which has found Redis and hears what is published.
    pub(super) fn host(&self) -> Host {
        let mut host = Host::on(Directory::new(), self.server.settings(), self.lifetimes);
        host.until("Redis is there, and publications are heard", |host| {
            host.is_up() && host.redis.health().lease_holder.is_some()
        });
        host
    }
}

impl Cluster for Hosts {
    type Instance = Host;

    fn join(&self) -> Host {
        self.host()
    }

    fn with_ttl(seconds: u64) -> Hosts {
        Hosts { lifetimes: lifetime(seconds), ..Hosts::new() }
    }

    fn spoil(&self, _: &mut Batch) {
        unreachable!("what Redis refuses is counted on the host: nothing is spoiled");
    }

    fn too_many(&self) -> usize {
        unreachable!("what a host has missed is found by numbers, once there is something to hear");
    }
}

/// The worker of a host. Its driver runs only while something is waited for.
pub(super) struct Host {
    pub(super) redis: Redis,
    pub(super) missed: u64,
    pub(super) heard: VecDeque<Message>,
    events: mpsc::Receiver<Event>,
    url: String,
    local: LocalSet,
    runtime: Runtime,
    pub(super) directory: Directory,
}

impl Host {
    /// A host that has not tried to find Redis yet.
    pub(super) fn on(mut directory: Directory, settings: Settings, lifetimes: Lifetimes) -> Host {
        directory.options.lifetimes = lifetimes;
        let (redis, driver) = Redis::new(directory.open(), &settings, lifetimes, 1024).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let local = LocalSet::new();
        let (sender, events) = mpsc::channel(64);
        local.spawn_local(driver.run(sender, Duration::from_secs(3600)));
        let (heard, url) = (VecDeque::new(), settings.address.to_string());
        Host { redis, missed: 0, heard, events, url, local, runtime, directory }
    }

    pub(super) fn is_up(&self) -> bool {
        matches!(self.redis.link, Link::Up)
    }

    /// The next event, if one comes within the time.
    fn event(&mut self, within: Duration) -> Option<Event> {
        let Host { local, runtime, events, .. } = self;
        local.block_on(runtime, async { timeout(within, events.recv()).await }).ok().flatten()
    }

    /// Takes what the driver says, and settles a commit that is under way.
    fn pump(&mut self, within: Duration, batch: &mut Batch) -> Option<Result<(), BackplaneError>> {
        match self.event(within)? {
            Event::Link(change) => self.redis.link(change.err().as_ref()),
            Event::Missed(missed) => self.missed += missed,
            Event::Rejected(rejection) => panic!("{rejection:?}"),
            Event::Heard(message) => self.heard.push_back(message),
            Event::Settled(settlement) => return Some(self.redis.settle(batch, settlement)),
        }
        None
    }

    /// Waits until something is so, with nothing under way.
    pub(super) fn until(&mut self, what: &str, is: impl Fn(&mut Host) -> bool) {
        let end = Instant::now() + SOON;
        while !is(self) {
            assert!(Instant::now() < end, "not within {SOON:?}: {what}");
            let settled = self.pump(Duration::from_millis(10), &mut Batch::default());
            assert!(settled.is_none_or(|outcome| outcome.is_ok()));
        }
    }

    /// Whether anything waits for Redis that is not on its way.
    pub(super) fn has_backlog(&mut self) -> bool {
        let ledger = self.redis.host();
        ledger.has_open().unwrap() || !ledger.left_behind().unwrap().is_empty()
    }

    pub(super) fn await_settled(
        &mut self,
        begun: Result<Progress, BackplaneError>,
        batch: &mut Batch,
    ) -> Result<(), BackplaneError> {
        match begun? {
            Progress::Done => Ok(()),
            Progress::Begun => {
                let end = Instant::now() + SOON;
                loop {
                    if let Some(outcome) = self.pump(SOON, batch) {
                        return outcome;
                    }
                    assert!(Instant::now() < end, "a commit is never settled");
                }
            }
        }
    }

    /// Brings to Redis what waits for it, as the worker does when it has nothing else to do.
    pub(super) fn work_off(&mut self) {
        let end = Instant::now() + SOON;
        while self.has_backlog() {
            let begun = self.redis.work_off();
            self.await_settled(begun, &mut Batch::default()).unwrap();
            self.redis.rest();
            assert!(Instant::now() < end, "it never comes to an end");
        }
    }
}

impl Instance for Host {
    fn settle(&mut self, batch: &mut Batch) -> Result<(), BackplaneError> {
        let begun = self.redis.commit(batch);
        self.await_settled(begun, batch)
    }

    fn hear(&mut self) -> Result<(Vec<Publication>, u64), BackplaneError> {
        let settled = self.pump(Duration::from_millis(5), &mut Batch::default());
        assert!(settled.is_none(), "nothing was under way");
        let heard = self.heard.drain(..).filter_map(|message| match message {
            Message::Room { room, text } => Some(Publication { room, text }),
            Message::Broadcast { .. } | Message::Disconnect { .. } | Message::Beat(_) | Message::Lease(_) => None,
        });
        Ok((heard.collect(), std::mem::take(&mut self.missed)))
    }

    fn peek(&mut self, sessions: &[Token]) -> Vec<u64> {
        let client = redis::Client::open(self.url.as_str()).unwrap();
        let mut connection = client.get_connection().unwrap();
        let get = |session: &Token| {
            let key = self.redis.layout.session(&session.key());
            redis::cmd("GET").arg(key).query::<Option<u64>>(&mut connection).unwrap().unwrap_or(0)
        };
        sessions.iter().map(get).collect()
    }
}
