//! What is counted and measured, in one process or in all together.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::times::Times;

/// Enough to see what is wrong.
const MOST_EXAMPLES: usize = 10;

/// For so long before the first and after the last client has heard a heartbeat a connection must be open, so that it
/// must have heard it too. In milliseconds.
const BEAT_GRACE_MS: u64 = 1000;

/// What can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Fault {
    /// This machine has no descriptor, port or memory left for a connection.
    Local,
    /// No connection came to be.
    Connect,
    /// The server answered the handshake, and did not upgrade.
    Handshake,
    /// The connection ended, and the client did not want it to.
    Lost,
    /// A reply that is not the one expected, or that nobody asked for.
    WrongAnswer,
    /// A message has no reply: not in time, or a later one was answered.
    NoReply,
    /// A message was due, and there was no connection to send it on.
    NotSent,
    /// Bytes that are not WebSocket, or a message that must not be.
    Protocol,
    /// One heartbeat twice, or an old one.
    WrongHeartbeat,
    /// A heartbeat that others heard.
    MissedHeartbeat,
    /// A close that was not answered, or not with its code.
    Close,
}

impl Fault {
    /// As the report names it.
    pub(super) fn words(self) -> &'static str {
        match self {
            Fault::Local => "stopped by this machine",
            Fault::Connect => "not connected",
            Fault::Handshake => "not upgraded",
            Fault::Lost => "connection lost",
            Fault::WrongAnswer => "wrong answer",
            Fault::NoReply => "no reply",
            Fault::NotSent => "not sent",
            Fault::Protocol => "protocol violation",
            Fault::WrongHeartbeat => "wrong heartbeat",
            Fault::MissedHeartbeat => "heartbeat missed",
            Fault::Close => "close not answered",
        }
    }

    /// Whether the server has said something wrong, which no rate of success excuses.
    pub(super) fn is_wrong(self) -> bool {
        match self {
            Fault::WrongAnswer | Fault::Protocol | Fault::WrongHeartbeat | Fault::MissedHeartbeat => true,
            Fault::Local
            | Fault::Connect
            | Fault::Handshake
            | Fault::Lost
            | Fault::NoReply
            | Fault::NotSent
            | Fault::Close => false,
        }
    }
}

/// One heartbeat, as it came to many connections.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Beat {
    pub(super) heard: u64,
    /// When the first and the last connection heard it, on the clock that all processes share.
    pub(super) first: Duration,
    pub(super) last: Duration,
}

/// The result of one process; added up, that of the run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Tally {
    /// Connections that were begun, not counting those that resume.
    pub(super) created: u64,
    /// Those of them that were upgraded.
    pub(super) opened: u64,
    /// Those that ended before their work was done, and were not resumed.
    pub(super) broken: u64,
    /// Connections that the client dropped to resume their session.
    pub(super) dropped: u64,
    /// Sessions that were resumed on another connection.
    pub(super) resumed: u64,
    pub(super) sent: u64,
    /// Messages with the reply that was expected.
    pub(super) answered: u64,
    /// Messages under way on a connection that the client dropped: no reply was waited for.
    pub(super) abandoned: u64,
    /// All messages of the server: replies, heartbeats, notices.
    pub(super) received: u64,
    pub(super) notices: u64,
    pub(super) faults: BTreeMap<Fault, u64>,
    pub(super) examples: Vec<String>,
    /// From when a message should have been sent (paced), or was, to its reply.
    pub(super) latency: Times,
    /// From when a message should have been sent to when it was. Much of it: this client is too slow, or the server does
    /// not read.
    pub(super) lateness: Times,
    /// From the begin of a connection to its upgrade.
    pub(super) connect: Times,
    /// Connections that the server closed, by code; 1006: without a close.
    pub(super) closed_by_server: BTreeMap<u16, u64>,
    /// Answers to the closes of the client, by code.
    pub(super) closes_answered: BTreeMap<u16, u64>,
    /// Heartbeats by their time, in milliseconds since 1970.
    pub(super) beats: BTreeMap<u64, Beat>,
    /// From when to when a connection was open, in milliseconds of the shared clock.
    pub(super) open: Vec<(u64, u64)>,
    /// Processor time while messages were sent.
    pub(super) cpu: Duration,
    /// On the shared clock; zero: there was none.
    pub(super) first_connect: Duration,
    pub(super) last_opened: Duration,
    pub(super) first_sent: Duration,
    pub(super) last_answered: Duration,
}

impl Tally {
    /// Something went wrong, `number` times; the first of all are examples.
    pub(super) fn fault(&mut self, fault: Fault, number: u64, example: impl FnOnce() -> String) {
        if number == 0 {
            return;
        }
        let so_far = self.faults.entry(fault).or_default();
        // Of each kind some, however many there are of another.
        let show = *so_far < 3 && self.examples.len() < MOST_EXAMPLES;
        *so_far += number;
        if show {
            self.examples.push(format!("{}: {}", fault.words(), example()));
        }
    }

    /// All that went wrong.
    pub(super) fn errors(&self) -> u64 {
        self.faults.values().sum()
    }

    /// Times that the server said something wrong.
    pub(super) fn wrong(&self) -> u64 {
        self.faults.iter().filter(|(fault, _)| fault.is_wrong()).map(|(_, number)| number).sum()
    }

    /// Messages that should have been answered.
    pub(super) fn owed(&self) -> u64 {
        let not_sent = self.faults.get(&Fault::NotSent).copied().unwrap_or(0);
        (self.sent + not_sent).saturating_sub(self.abandoned)
    }

    /// A connection hears a heartbeat now.
    pub(super) fn beat(&mut self, at_ms: u64, now: Duration) {
        let beat = self.beats.entry(at_ms).or_insert(Beat { heard: 0, first: now, last: now });
        beat.heard += 1;
        beat.last = now;
    }

    /// Finds what no single connection knows: heartbeats that others heard. Called once, when all is added up.
    pub(super) fn find_missed_heartbeats(&mut self) {
        let mut missed = Vec::new();
        for (at_ms, beat) in &self.beats {
            let (first, last) = (beat.first.as_millis() as u64, beat.last.as_millis() as u64);
            let must =
                |(opened, closed): &&(u64, u64)| opened + BEAT_GRACE_MS < first && last + BEAT_GRACE_MS < *closed;
            let must = self.open.iter().filter(must).count() as u64;
            if must > beat.heard {
                missed.push((*at_ms, must - beat.heard, must));
            }
        }
        for (at_ms, number, must) in missed {
            let at = rfc3339(at_ms);
            let example = || format!("{number} of {must} connections did not hear that of {at}");
            self.fault(Fault::MissedHeartbeat, number, example);
        }
    }

    /// Adds the result of another process.
    pub(super) fn add(&mut self, other: Tally) {
        let earliest = |a: Duration, b: Duration| if a.is_zero() || (!b.is_zero() && b < a) { b } else { a };
        self.first_connect = earliest(self.first_connect, other.first_connect);
        self.first_sent = earliest(self.first_sent, other.first_sent);
        self.last_opened = self.last_opened.max(other.last_opened);
        self.last_answered = self.last_answered.max(other.last_answered);
        self.created += other.created;
        self.opened += other.opened;
        self.broken += other.broken;
        self.dropped += other.dropped;
        self.resumed += other.resumed;
        self.sent += other.sent;
        self.answered += other.answered;
        self.abandoned += other.abandoned;
        self.received += other.received;
        self.notices += other.notices;
        self.cpu += other.cpu;
        add_up(&mut self.faults, other.faults);
        add_up(&mut self.closed_by_server, other.closed_by_server);
        add_up(&mut self.closes_answered, other.closes_answered);
        self.examples.extend(other.examples);
        self.examples.truncate(MOST_EXAMPLES);
        self.latency.add(&other.latency);
        self.lateness.add(&other.lateness);
        self.connect.add(&other.connect);
        for (at_ms, beat) in other.beats {
            let sum = self.beats.entry(at_ms).or_insert(Beat { heard: 0, ..beat });
            sum.heard += beat.heard;
            sum.first = sum.first.min(beat.first);
            sum.last = sum.last.max(beat.last);
        }
        self.open.extend(other.open);
    }
}

fn add_up<K: Ord>(sums: &mut BTreeMap<K, u64>, others: BTreeMap<K, u64>) {
    for (key, number) in others {
        *sums.entry(key).or_default() += number;
    }
}

/// A time since 1970, as heartbeats spell it.
pub(super) fn rfc3339(at_ms: u64) -> humantime::Rfc3339Timestamp {
    humantime::format_rfc3339_millis(std::time::UNIX_EPOCH + Duration::from_millis(at_ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn results_of_processes_add_up() {
        let mut one = Tally { created: 2, sent: 3, first_sent: ms(5), last_answered: ms(9), ..Tally::default() };
        one.fault(Fault::NoReply, 2, || "a".into());
        one.latency.record(ms(1));
        one.beat(1000, ms(20));
        let mut two = Tally { created: 1, sent: 4, first_sent: ms(4), last_answered: ms(8), ..Tally::default() };
        two.fault(Fault::NoReply, 1, || "b".into());
        two.fault(Fault::WrongAnswer, 1, || "c".into());
        two.latency.record(ms(3));
        two.beat(1000, ms(10));
        two.beat(1000, ms(12));
        let mut sum = Tally::default();
        sum.add(one);
        sum.add(two);
        assert_eq!((sum.created, sum.sent, sum.errors(), sum.wrong()), (3, 7, 4, 1));
        assert_eq!((sum.first_sent, sum.last_answered), (ms(4), ms(9)));
        assert_eq!(sum.examples, ["no reply: a", "no reply: b", "wrong answer: c"]);
        assert_eq!(sum.latency.count(), 2);
        assert_eq!(sum.beats[&1000], Beat { heard: 3, first: ms(10), last: ms(20) });
    }

    #[test]
    fn a_few_examples_of_each_kind_are_kept() {
        let mut tally = Tally::default();
        for n in 0..1000 {
            tally.fault(Fault::NoReply, 1, || n.to_string());
        }
        tally.fault(Fault::Lost, 1, || "x".into());
        tally.fault(Fault::Close, 0, || panic!("it did not happen"));
        assert_eq!(tally.examples, ["no reply: 0", "no reply: 1", "no reply: 2", "connection lost: x"]);
    }

    #[test]
    fn who_was_open_all_the_time_must_have_heard_a_heartbeat() {
        let mut tally = Tally { open: vec![(0, 9000), (0, 9000), (4000, 9000), (0, 5500)], ..Tally::default() };
        tally.beat(1, ms(5000));
        tally.beat(1, ms(5010));
        tally.find_missed_heartbeats();
        assert_eq!(tally.errors(), 0);
        tally.open.push((3000, 7000));
        tally.find_missed_heartbeats();
        assert_eq!(tally.faults[&Fault::MissedHeartbeat], 1);
        let said = "heartbeat missed: 1 of 3 connections did not hear that of 1970-01-01T00:00:00.001Z";
        assert_eq!(tally.examples, [said]);
    }

    #[test]
    fn what_was_abandoned_is_owed_no_reply_and_what_was_not_sent_is() {
        let mut tally = Tally { sent: 10, abandoned: 2, ..Tally::default() };
        tally.fault(Fault::NotSent, 5, String::new);
        assert_eq!(tally.owed(), 13);
    }
}
