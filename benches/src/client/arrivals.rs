//! New connections, at a rate or all at once: each upgrades and has one message counted. Those that come at a rate then say
//! goodbye; those that come at once stay, as after a failure of whatever they were connected to before. What becomes of
//! them is counted, not fatal: the question is how many fail.

use std::io::{self, ErrorKind};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use slab::Slab;

use crate::client::connect::{Handshake, Link, Received, Trigger, Watch};
use crate::client::orders::{Order, Orders};
use crate::client::pace::{Latencies, Pace, Record};
use crate::client::{Dial, wrong};
use crate::frame;

/// A connection that is not through by then has failed.
const PATIENCE: Duration = Duration::from_secs(5);
/// Likewise, if all come at once and wait for each other.
const CROWD_PATIENCE: Duration = Duration::from_secs(30);
/// How often to look for those.
const LOOK: Duration = Duration::from_millis(100);

/// "Normal closure", RFC 6455 section 7.4.1.
const NORMAL: [u8; 2] = 1000u16.to_be_bytes();

/// What became of all connections.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArrivalReport {
    /// All that were begun.
    pub attempts: u64,
    /// Got their count, and if they did not come to stay exchanged closes and ended in order.
    pub served: u64,
    /// Nobody listened.
    pub refused: u64,
    /// Reset, at whatever point.
    pub reset: u64,
    /// Ended without a close.
    pub ended: u64,
    /// Not through in time.
    pub unanswered: u64,
    /// Another answer than the one expected.
    pub wrong: u64,
    /// The first of those that failed, in words.
    pub first_failure: Option<String>,
    /// From when a connection was due to the reply to its message, in the stretches that were marked.
    pub marked: Vec<Latencies>,
    /// Likewise, outside of them.
    pub rest: Latencies,
}

impl ArrivalReport {
    fn failed(&mut self, error: &io::Error) {
        let place = match error.kind() {
            ErrorKind::ConnectionRefused => &mut self.refused,
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => &mut self.reset,
            ErrorKind::UnexpectedEof => &mut self.ended,
            ErrorKind::TimedOut => &mut self.unanswered,
            _ => &mut self.wrong,
        };
        *place += 1;
        self.first_failure.get_or_insert_with(|| error.to_string());
    }
}

/// How far a connection has come.
enum Stage {
    Connecting(TcpStream),
    Upgrading(Handshake),
    Counting(Link),
    /// Has got its count and sent its close; whether the server's has come.
    Closing(Link, bool),
    /// Has gone.
    Served,
    /// Has got its count, and stays.
    Stays(Link),
}

/// How many come, and what they do after their first count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plan {
    /// As many as there are before somebody says stop; they go.
    UntilStopped,
    /// So many; they stay.
    AtOnce(u64),
}

impl Plan {
    fn patience(self) -> Duration {
        match self {
            Plan::UntilStopped => PATIENCE,
            Plan::AtOnce(_) => CROWD_PATIENCE,
        }
    }
}

struct Guest {
    due: Instant,
    stage: Stage,
}

/// A run.
struct Arrivals<'a> {
    dial: Dial,
    plan: Plan,
    request: String,
    guests: Slab<Guest>,
    /// How many of them are not served yet.
    waiting: u64,
    watch: Watch,
    pace: Pace,
    record: Record,
    report: ArrivalReport,
    orders: &'a mut Orders,
}

/// Opens `per_second` connections until it is told to stop, and waits for those that are under way.
///
/// # Errors
/// What keeps the client itself from connecting, and an order that is none.
pub fn run(dial: Dial, per_second: f64, orders: &mut Orders) -> io::Result<ArrivalReport> {
    Arrivals::new(dial, Plan::UntilStopped, Pace::of(per_second), orders)?.run()
}

/// Begins to open `number` connections before it looks what becomes of any, and closes them when all have their first reply.
/// Each is due at the beginning.
///
/// # Errors
/// As [`run`].
pub fn run_at_once(dial: Dial, number: u64, orders: &mut Orders) -> io::Result<ArrivalReport> {
    Arrivals::new(dial, Plan::AtOnce(number), Pace::at_once(), orders)?.run()
}

impl Arrivals<'_> {
    fn new(dial: Dial, plan: Plan, pace: Pace, orders: &mut Orders) -> io::Result<Arrivals<'_>> {
        Ok(Arrivals {
            request: crate::handshake::request(dial.server),
            dial,
            plan,
            guests: Slab::new(),
            waiting: 0,
            watch: Watch::new([], Trigger::Level)?,
            pace,
            record: Record::default(),
            report: ArrivalReport::default(),
            orders,
        })
    }

    fn run(mut self) -> io::Result<ArrivalReport> {
        let (mut stopped, mut looked) = (false, Instant::now());
        loop {
            if !stopped {
                self.begin_what_is_due()?;
                stopped = matches!(self.plan, Plan::AtOnce(_));
            }
            let ready = self.watch.wait(Duration::ZERO)?;
            for nth in 0..ready {
                self.turn(self.watch.place(nth));
            }
            if looked.elapsed() > LOOK {
                looked = Instant::now();
                self.give_up_on_late_ones();
            }
            if stopped && self.waiting == 0 {
                break;
            }
            let until = if stopped { Instant::now() + LOOK } else { self.pace.due(self.report.attempts) };
            if ready == 0 && self.watch.doze(&*self.orders, until)? {
                for order in self.orders.hear()? {
                    match order {
                        Order::Mark => self.record.mark(Instant::now()),
                        Order::Unmark => self.record.unmark(Instant::now()),
                        Order::Stop => stopped = true,
                    }
                }
            }
        }
        let (marked, rest) = self.record.finish();
        Ok(ArrivalReport { marked, rest, ..self.report })
    }

    fn begin_what_is_due(&mut self) -> io::Result<()> {
        loop {
            let (due, now) = (self.pace.due(self.report.attempts), Instant::now());
            if now < due || matches!(self.plan, Plan::AtOnce(number) if self.report.attempts == number) {
                return Ok(());
            }
            self.record.begun(due, now);
            self.report.attempts += 1;
            match self.dial.begin() {
                Ok(stream) => {
                    let guest = self.guests.vacant_entry();
                    self.watch.await_connection(&stream, guest.key())?;
                    guest.insert(Guest { due, stage: Stage::Connecting(stream) });
                    self.waiting += 1;
                }
                Err(error) if matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset) => {
                    self.report.failed(&error);
                }
                // No port, no descriptor: that is nothing that a server could help.
                Err(error) => return Err(error),
            }
        }
    }

    fn turn(&mut self, key: usize) {
        let guest = &mut self.guests[key];
        let due = guest.due;
        let (was_counting, was_served) = (matches!(guest.stage, Stage::Counting(_)), guest.stage.is_served());
        let stage = std::mem::replace(&mut guest.stage, Stage::Served);
        match stage.advance(&mut self.watch, key, self.request.as_bytes(), self.plan) {
            Ok(stage) => {
                if was_counting && matches!(stage, Stage::Closing(..) | Stage::Stays(_)) {
                    self.record.done(due, Instant::now());
                }
                let (is_served, goes) = (stage.is_served(), matches!(stage, Stage::Served));
                if is_served && !was_served {
                    self.report.served += 1;
                    self.waiting -= 1;
                }
                guest.stage = stage;
                if goes {
                    self.guests.remove(key);
                }
            }
            Err(error) => {
                // One that was served and is lost afterwards was not served after all.
                if was_served {
                    self.report.served -= 1;
                } else {
                    self.waiting -= 1;
                }
                self.report.failed(&error);
                self.guests.remove(key);
            }
        }
    }

    fn give_up_on_late_ones(&mut self) {
        let (report, waiting, patience) = (&mut self.report, &mut self.waiting, self.plan.patience());
        self.guests.retain(|_, guest| {
            let in_time = guest.stage.is_served() || guest.due.elapsed() < patience;
            if !in_time {
                let stage = guest.stage.words();
                report.failed(&io::Error::new(ErrorKind::TimedOut, format!("still {stage} after {patience:?}")));
                *waiting -= 1;
            }
            in_time
        });
    }
}

impl Stage {
    /// As far as what has come allows.
    fn advance(self, watch: &mut Watch, key: usize, request: &[u8], plan: Plan) -> io::Result<Stage> {
        match self {
            Stage::Connecting(stream) => {
                if let Some(error) = stream.take_error()? {
                    return Err(error);
                }
                let mut handshake = Handshake::of(stream);
                handshake.send(request)?;
                watch.await_answer(handshake.stream(), key)?;
                Ok(Stage::Upgrading(handshake))
            }
            Stage::Upgrading(mut handshake) => match handshake.read() {
                Ok(Some(end)) => {
                    let mut link = handshake.into_link(end)?;
                    link.send(&frame::masked(frame::TEXT, b"hello"))?;
                    Ok(Stage::Counting(link))
                }
                Ok(None) => Ok(Stage::Upgrading(handshake)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(Stage::Upgrading(handshake)),
                Err(error) => Err(error),
            },
            Stage::Counting(mut link) => {
                let mut counted = false;
                let state = link.receive(&mut watch.scratch, |opcode, payload| match (opcode, counted) {
                    (frame::TEXT, false) if frame::count_of(payload) == Some(1) => {
                        counted = true;
                        Ok(())
                    }
                    (frame::TEXT, _) if payload.starts_with(br#"{"ts""#) => Ok(()),
                    _ => Err(unexpected("count 1", opcode, payload)),
                })?;
                match (state, counted) {
                    (Received::End, _) => Err(ErrorKind::UnexpectedEof.into()),
                    (Received::Open, true) if matches!(plan, Plan::AtOnce(_)) => Ok(Stage::Stays(link)),
                    (Received::Open, true) => {
                        link.send(&frame::masked(frame::CLOSE, &NORMAL))?;
                        Ok(Stage::Closing(link, false))
                    }
                    (Received::Open, false) => Ok(Stage::Counting(link)),
                }
            }
            Stage::Closing(mut link, mut closed) => {
                let state = link.receive(&mut watch.scratch, |opcode, payload| match opcode {
                    frame::CLOSE if payload.starts_with(&NORMAL) => {
                        closed = true;
                        Ok(())
                    }
                    frame::TEXT if payload.starts_with(br#"{"ts""#) => Ok(()),
                    _ => Err(unexpected("close 1000", opcode, payload)),
                })?;
                match (state, closed) {
                    (Received::End, true) => Ok(Stage::Served),
                    (Received::End, false) => Err(ErrorKind::UnexpectedEof.into()),
                    (Received::Open, closed) => Ok(Stage::Closing(link, closed)),
                }
            }
            Stage::Stays(mut link) => {
                let state = link.receive(&mut watch.scratch, |opcode, payload| match opcode {
                    frame::TEXT if payload.starts_with(br#"{"ts""#) => Ok(()),
                    _ => Err(unexpected("nothing", opcode, payload)),
                })?;
                match state {
                    Received::Open => Ok(Stage::Stays(link)),
                    Received::End => Err(ErrorKind::UnexpectedEof.into()),
                }
            }
            Stage::Served => Ok(Stage::Served),
        }
    }

    fn is_served(&self) -> bool {
        matches!(self, Stage::Served | Stage::Stays(_))
    }

    fn words(&self) -> &'static str {
        match self {
            Stage::Connecting(_) => "not connected",
            Stage::Upgrading(_) => "without an answer to its handshake",
            Stage::Counting(_) => "without its count",
            Stage::Closing(..) => "not closed",
            Stage::Served | Stage::Stays(_) => "there",
        }
    }
}

fn unexpected(what: &str, opcode: u8, payload: &[u8]) -> io::Error {
    wrong(format!("expected {what}, got opcode {opcode}: {}", String::from_utf8_lossy(payload)))
}
