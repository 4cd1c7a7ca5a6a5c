//! Well-behaved clients of a server that shuts down: what each of them sees.

use std::io;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::client::connect::{Link, Received, Trigger, Watch};
use crate::client::load::{Load, Until};
use crate::client::{Dial, ready};
use crate::frame;

/// "Going away", RFC 6455 section 7.4.1.
const GOING_AWAY: [u8; 2] = 1001u16.to_be_bytes();

/// How many of the connections saw what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShutdownReport {
    /// All of them. Each had sent one message and got its reply.
    pub connections: usize,
    /// `{"bye":true,"total":1}`.
    pub bye: usize,
    /// Close 1001.
    pub going_away: usize,
    /// A close reason that carries `retry_ms=`.
    pub retry_hint: usize,
    /// A connection that ended in order after the closes were exchanged.
    pub ended: usize,
    /// A connection that was reset or ended without a close.
    pub broken: usize,
}

enum Lane {
    Open(Link),
    /// Has answered the close and waits for the end.
    Closed(Link),
    Over,
}

/// Opens `connections`, sends one message on each, then waits at most `patience` for the server to end them all.
///
/// # Errors
/// A connection that could not be opened, a wrong reply.
pub fn run(dial: Dial, connections: usize, patience: Duration) -> io::Result<ShutdownReport> {
    let mut load = Load::new(dial.open(connections)?, 1, b"hello")?;
    load.run(Until::Messages(connections as u64))?;
    let links = load.into_links();
    let mut watch = Watch::new(&links, Trigger::Level)?;
    let mut lanes: Vec<Lane> = links.into_iter().map(Lane::Open).collect();
    let mut report = ShutdownReport { connections, ..ShutdownReport::default() };
    let answer = frame::masked(frame::CLOSE, &GOING_AWAY);
    ready()?;
    let started = Instant::now();
    while report.ended + report.broken < connections && started.elapsed() < patience {
        for nth in 0..watch.wait(Duration::from_millis(100))? {
            let place = watch.place(nth);
            let lane = std::mem::replace(&mut lanes[place], Lane::Over);
            lanes[place] = turn(lane, &mut watch.scratch, &mut report, &answer);
        }
    }
    Ok(report)
}

fn turn(lane: Lane, scratch: &mut [u8], report: &mut ShutdownReport, answer: &[u8]) -> Lane {
    let (mut link, mut closed) = match lane {
        Lane::Open(link) => (link, false),
        Lane::Closed(link) => (link, true),
        Lane::Over => return Lane::Over,
    };
    let answered = closed;
    let received = link.receive(scratch, |opcode, payload| {
        match opcode {
            frame::TEXT if payload == br#"{"bye":true,"total":1}"# => report.bye += 1,
            frame::CLOSE => {
                closed = true;
                report.going_away += usize::from(payload.starts_with(&GOING_AWAY));
                report.retry_hint += usize::from(payload.windows(9).any(|window| window == b"retry_ms="));
            }
            _ => {}
        }
        Ok(())
    });
    let open = matches!(received, Ok(Received::Open));
    match (open, closed) {
        (true, true) if answered || link.send(answer).is_ok() => Lane::Closed(link),
        (true, false) => Lane::Open(link),
        (false, true) if received.is_ok() => {
            report.ended += 1;
            Lane::Over
        }
        (true | false, true | false) => {
            report.broken += 1;
            Lane::Over
        }
    }
}
