//! How far apart the first and the last of many idle clients get the same heartbeat.

use std::io;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::client::connect::{Received, Trigger, Watch};
use crate::client::{Dial, ready, wrong};
use crate::frame;

/// Silence that tells two heartbeats apart: a beat that was under way while connections were still being opened is over.
const SILENCE: Duration = Duration::from_millis(300);

/// One heartbeat, as all connections together saw it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Beat {
    /// Its payload.
    pub payload: String,
    /// From the first arrival to the last, in milliseconds.
    pub spread_ms: f64,
    /// When all had it, in microseconds since 1970; 0: they had not.
    pub last_us: u64,
    /// Connections that got it.
    pub received: usize,
    /// Connections that got it more than once.
    pub doubled: usize,
}

/// What was seen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeartbeatReport {
    /// How many connections there were.
    pub connections: usize,
    /// The beats, in order.
    pub beats: Vec<Beat>,
}

struct Record {
    payload: Vec<u8>,
    first: Instant,
    last: Instant,
    last_us: u64,
    received: usize,
    doubled: usize,
}

/// Opens `connections`, waits for a pause between heartbeats, then records the next `beats`; gives up after `patience`.
/// Each time that all connections have one, `all_have_it` is called.
///
/// # Errors
/// A connection that could not be opened or that ended.
pub fn run(
    dial: Dial,
    connections: usize,
    beats: usize,
    patience: Duration,
    mut all_have_it: impl FnMut(),
) -> io::Result<HeartbeatReport> {
    let mut links = dial.open(connections)?;
    let mut watch = Watch::new(&links, Trigger::Level)?;
    ready()?;
    let deadline = Instant::now() + patience;
    let mut records: Vec<Record> = Vec::new();
    // Per connection: how many of the records it has seen, which is the place of the next.
    let mut seen = vec![0usize; connections];
    let mut recording = false;
    while Instant::now() < deadline {
        let ready = watch.wait(SILENCE)?;
        if ready == 0 {
            if records.len() >= beats {
                break;
            }
            recording = true;
            continue;
        }
        for nth in 0..ready {
            let place = watch.place(nth);
            let state = links[place].receive(&mut watch.scratch, |opcode, payload| {
                if recording && opcode == frame::TEXT && payload.starts_with(br#"{"ts""#) {
                    let record = record(&mut records, &mut seen[place], payload);
                    if record.received == connections && record.last_us == 0 {
                        record.last_us = wall_us();
                        all_have_it();
                    }
                }
                Ok(())
            })?;
            if state == Received::End {
                return Err(wrong("the server closed an idle connection"));
            }
        }
    }
    let beats = records.into_iter().map(|record| Beat {
        payload: String::from_utf8_lossy(&record.payload).into_owned(),
        spread_ms: (record.last - record.first).as_secs_f64() * 1e3,
        last_us: record.last_us,
        received: record.received,
        doubled: record.doubled,
    });
    Ok(HeartbeatReport { connections, beats: beats.collect() })
}

fn record<'a>(records: &'a mut Vec<Record>, seen: &mut usize, payload: &[u8]) -> &'a mut Record {
    let now = Instant::now();
    let place = match records.iter().rposition(|record| record.payload == payload) {
        Some(place) if place < *seen => {
            records[place].doubled += 1;
            place
        }
        Some(place) => {
            records[place].last = now;
            records[place].received += 1;
            *seen = place + 1;
            place
        }
        None => {
            let payload = payload.to_vec();
            records.push(Record { payload, first: now, last: now, last_us: 0, received: 1, doubled: 0 });
            *seen = records.len();
            records.len() - 1
        }
    };
    &mut records[place]
}

fn wall_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
}
