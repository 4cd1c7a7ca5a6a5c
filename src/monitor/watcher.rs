//! The thread that asks: one look an interval, closer ones while something goes on, and the log in between.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};

use super::follower::Follower;
use super::lines::Line;
use super::sample::{self, Place, Sample};
use crate::ctl::client::Client;

/// How often the log is read, at most.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// Between looks while a takeover, a reload or a drain is under way.
const CLOSE_INTERVAL: Duration = Duration::from_millis(250);

/// What has been found.
#[derive(Debug)]
pub(super) enum News {
    /// One look.
    Sample(Box<Sample>),
    /// New lines of the log, and how many bytes of it were missed before them.
    Log(Vec<Line>, u64),
}

/// What is wanted of the watcher.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Wish {
    /// Look so often.
    Every(Duration),
    /// Ask nobody for the time being.
    Rest(bool),
}

/// What is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) metrics: bool,
    pub(super) log: bool,
}

pub(super) struct Watcher {
    place: Place,
    wanted: Wanted,
    interval: Duration,
    began: Instant,
    clients: Vec<Client>,
    slots: Vec<u16>,
    follower: Follower,
    moving: bool,
}

impl Watcher {
    pub(super) fn new(place: Place, wanted: Wanted, interval: Duration, began: Instant) -> Watcher {
        Watcher {
            place,
            wanted,
            interval,
            began,
            clients: vec![],
            slots: vec![],
            follower: Follower::default(),
            moving: false,
        }
    }

    /// One look, and what the log has.
    pub(super) fn once(&mut self) -> Vec<News> {
        let mut news = vec![self.sample(true)];
        news.extend(self.log());
        news
    }

    /// Until nobody listens any more.
    pub(super) fn run<T>(mut self, sender: &SyncSender<T>, wishes: &Receiver<Wish>, wrap: fn(News) -> T) {
        let mut next = Instant::now();
        let mut next_log = next;
        let mut next_close = next;
        let mut resting = false;
        loop {
            let now = Instant::now();
            let mut news = Vec::new();
            if !resting && now >= next {
                news.push(self.sample(true));
                // From when it was due, so that points are equally far apart; not so if it took too long.
                next = (next + self.interval).max(now);
                next_close = now + CLOSE_INTERVAL;
            } else if !resting && self.moving && now >= next_close {
                news.push(self.sample(false));
                next_close = now + CLOSE_INTERVAL;
            }
            if !resting && now >= next_log {
                news.extend(self.log());
                next_log = now + LOG_INTERVAL.min(self.interval);
            }
            for news in news {
                if sender.send(wrap(news)).is_err() {
                    return;
                }
            }
            let mut wake = next;
            if self.wanted.log {
                wake = wake.min(next_log);
            }
            if self.moving {
                wake = wake.min(next_close);
            }
            let patience = if resting { Duration::MAX } else { wake.saturating_duration_since(Instant::now()) };
            match wishes.recv_timeout(patience) {
                Ok(Wish::Every(interval)) => {
                    next = next.min(Instant::now() + interval);
                    self.interval = interval;
                }
                Ok(Wish::Rest(rest)) => {
                    resting = rest;
                    (next, next_log) = (Instant::now(), Instant::now());
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn sample(&mut self, regular: bool) -> News {
        let at = self.began.elapsed();
        match sample::look(&self.place, self.wanted.metrics) {
            Ok((service, clients)) => {
                self.clients = clients;
                self.moving = service.is_moving();
                self.slots = service.serving().iter().flat_map(|it| &it.slots).map(|slot| slot.slot).collect();
                News::Sample(Box::new(Sample { at, regular, found: Ok(service) }))
            }
            Err(error) => {
                self.clients.clear();
                self.moving = false;
                News::Sample(Box::new(Sample { at, regular, found: Err(error.to_string()) }))
            }
        }
    }

    fn log(&mut self) -> Option<News> {
        let client = self.clients.first_mut().filter(|_| self.wanted.log)?;
        match self.follower.follow(client, &self.slots) {
            Ok(come) if come.lines.is_empty() && come.missed == 0 => None,
            Ok(come) => Some(News::Log(come.lines, come.missed)),
            // The next look tells why.
            Err(_) => {
                self.clients.clear();
                None
            }
        }
    }
}
