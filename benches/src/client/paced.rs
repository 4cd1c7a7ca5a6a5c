//! Messages at a rate: each is sent when it is due, whether those before it are answered or not.

use std::io;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::client::connect::{Link, Received, Trigger, Watch};
use crate::client::orders::{Order, Orders};
use crate::client::pace::{Latencies, Pace, Record};
use crate::client::wrong;
use crate::frame;

/// A server that answers nothing on any connection for this long fails the run.
const STALL: Duration = Duration::from_secs(5);

/// What a run has seen. Every reply was the count expected, and no connection has ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PacedReport {
    /// How many messages were answered, which are all.
    pub messages: u64,
    /// Latencies of the stretches that were marked.
    pub marked: Vec<Latencies>,
    /// Latencies of all others.
    pub rest: Latencies,
}

/// The connections of a run. They take turns, so that each sends at times of its own.
pub struct Paced {
    links: Vec<Link>,
    /// Per connection: replies so far.
    counts: Vec<u64>,
    watch: Watch,
    frame: Vec<u8>,
    pace: Pace,
    record: Record,
    sent: u64,
    answered: u64,
}

impl Paced {
    /// `per_second` messages of `payload` (at most 125 bytes) over all `links` together, from now on.
    ///
    /// # Errors
    /// Those of epoll.
    pub fn new(links: Vec<Link>, per_second: f64, payload: &[u8]) -> io::Result<Paced> {
        Ok(Paced {
            counts: vec![0; links.len()],
            // A connection that ends is to be noticed, even right behind a reply.
            watch: Watch::new(&links, Trigger::Level)?,
            links,
            frame: frame::masked(frame::TEXT, payload),
            pace: Pace::of(per_second),
            record: Record::default(),
            sent: 0,
            answered: 0,
        })
    }

    /// Sends and checks until it is told to stop and nothing is under way any more.
    ///
    /// # Errors
    /// A wrong reply, a connection that ends, a server that stalls, an order that is none.
    pub fn run(mut self, orders: &mut Orders) -> io::Result<PacedReport> {
        let (mut stopped, mut heard) = (false, Instant::now());
        loop {
            if !stopped {
                self.send_what_is_due()?;
            }
            let ready = self.watch.wait(Duration::ZERO)?;
            let now = Instant::now();
            if ready > 0 || self.answered == self.sent {
                heard = now;
            }
            for nth in 0..ready {
                self.check(self.watch.place(nth))?;
            }
            if stopped && self.answered == self.sent {
                break;
            }
            if now - heard > STALL {
                return Err(wrong(format!("{} replies have not come within {STALL:?}", self.sent - self.answered)));
            }
            let until = if stopped { heard + STALL } else { self.pace.due(self.sent) };
            if ready == 0 && self.watch.doze(&*orders, until)? {
                for order in orders.hear()? {
                    match order {
                        Order::Mark => self.record.mark(Instant::now()),
                        Order::Unmark => self.record.unmark(Instant::now()),
                        Order::Stop => stopped = true,
                    }
                }
            }
        }
        let (marked, rest) = self.record.finish();
        Ok(PacedReport { messages: self.answered, marked, rest })
    }

    fn send_what_is_due(&mut self) -> io::Result<()> {
        loop {
            let (due, now) = (self.pace.due(self.sent), Instant::now());
            if now < due {
                return Ok(());
            }
            self.record.begun(due, now);
            let place = self.sent % self.links.len() as u64;
            self.links[place as usize].send(&self.frame)?;
            self.sent += 1;
        }
    }

    fn check(&mut self, place: usize) -> io::Result<()> {
        let Paced { links, counts, watch, pace, record, sent, answered, .. } = self;
        let (connections, place_number) = (links.len() as u64, place as u64);
        let count = &mut counts[place];
        let state = links[place].receive(&mut watch.scratch, |opcode, payload| {
            if opcode == frame::TEXT && payload.starts_with(br#"{"ts""#) {
                return Ok(());
            }
            // The message that this must be the reply to, among all messages.
            let nth = *count * connections + place_number;
            if opcode != frame::TEXT || frame::count_of(payload) != Some(*count + 1) || nth >= *sent {
                let payload = String::from_utf8_lossy(payload);
                return Err(wrong(format!("expected count {}, got opcode {opcode}: {payload}", *count + 1)));
            }
            record.done(pace.due(nth), Instant::now());
            *count += 1;
            *answered += 1;
            Ok(())
        })?;
        match state {
            Received::Open => Ok(()),
            Received::End => Err(wrong(format!("the server closed a connection after count {count}"))),
        }
    }
}
