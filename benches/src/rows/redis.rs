//! What it costs to share counts through Redis: four workers, the embedded store and Redis in turn, round after round.

use std::collections::BTreeSet;
use std::io;
use std::time::{Duration, Instant};

use crate::procfs::{self, Cpu};
use crate::redis::{Counters, Redis};
use crate::rows::Bench;
use crate::rows::messages::{self, CONNECTIONS, PATIENCE, UNIT, Waiting};
use crate::table::{self, Row, median};
use crate::targets::Server;

pub(super) const WORKERS: u16 = 4;
const DEPTH: u32 = 16;
/// Each worker has one connection for commands and one for what is published.
const CLIENTS: u64 = 2 * WORKERS as u64;

/// Titles and units.
const EMBEDDED: (&str, &str) = ("4 workers, 100 × 16: embedded", UNIT);
const REDIS: (&str, &str) = ("4 workers, 100 × 16: redis", UNIT);
const RATIO: (&str, &str) = ("4 workers, 100 × 16: redis / embedded", table::TIMES);
const COMMANDS: (&str, &str) = ("redis: commands on the wire", "1/message");
const ROUND_TRIPS: (&str, &str) = ("redis: round trips", "1/message");

/// One store in one round, per message.
#[derive(Clone, Copy, Debug)]
struct Sample {
    /// CPU time of supervisor and workers, in microseconds.
    baton: f64,
    /// Likewise of Redis.
    redis: f64,
    /// Commands on the wire.
    commands: f64,
    /// Reads of Redis, each of which took in what a worker wrote at once.
    reads: f64,
    per_second: f64,
    /// Share of the core that all of them used.
    busy: f64,
    /// Share of the core that others used.
    disturbed: f64,
}

impl Sample {
    fn micros(&self) -> f64 {
        self.baton + self.redis
    }
}

/// What is known at one moment.
struct Look {
    at: Instant,
    counters: Counters,
    baton: Cpu,
    redis: Cpu,
    idle: Option<Duration>,
}

/// Measures both stores; `progress` is told what begins.
pub fn measure(bench: &Bench, mut progress: impl FnMut(&str)) -> Vec<Row> {
    progress("redis: which commands belong to scripts");
    match scripted(bench).and_then(|scripted| rounds(bench, &scripted, progress)) {
        Ok((embedded, redis)) => rows(&embedded, &redis),
        Err(error) => {
            let titles = [EMBEDDED, REDIS, RATIO, COMMANDS, ROUND_TRIPS];
            titles.map(|(title, unit)| Row::failed(title, unit, &error)).into()
        }
    }
}

/// The commands that only scripts use, seen in a run of its own from the start of the service on.
fn scripted(bench: &Bench) -> io::Result<BTreeSet<String>> {
    let mut redis = Redis::start(None)?;
    let monitor = redis.monitor()?;
    let server = bench.programs.baton(WORKERS, "30s")?.with_redis(redis.url()).start(None)?;
    redis.wait_for_clients(CLIENTS + 1)?;
    let (address, depth) = (server.address.to_string(), DEPTH.to_string());
    let arguments = ["load", &address, "--connections", CONNECTIONS, "--depth", &depth, "--messages", "1"];
    let mut client = bench.programs.client(None, arguments.into_iter().chain(["--warm-up", "0"]))?;
    client.line(PATIENCE)?;
    client.tell("go")?;
    client.line(PATIENCE)?;
    redis.origins(monitor)?.scripted()
}

fn rounds(
    bench: &Bench,
    scripted: &BTreeSet<String>,
    mut progress: impl FnMut(&str),
) -> io::Result<(Vec<Sample>, Vec<Sample>)> {
    let (mut embedded, mut redis) = (Vec::new(), Vec::new());
    for round in 0..bench.rounds {
        // Forth and back, so that neither always comes first.
        for with_redis in [round % 2 == 1, round % 2 == 0] {
            let name = if with_redis { "redis" } else { "embedded" };
            progress(&format!("{WORKERS} workers, round {}/{}: {name}", round + 1, bench.rounds));
            let samples = if with_redis { &mut redis } else { &mut embedded };
            samples.push(sample(bench, scripted, with_redis)?);
        }
    }
    Ok((embedded, redis))
}

/// A service over one of the two stores, all on the server's core; all of its workers have found it.
pub(super) fn start(bench: &Bench, with_redis: bool) -> io::Result<(Option<Redis>, Server)> {
    let mut redis = with_redis.then(|| Redis::start(bench.server_core)).transpose()?;
    let mut baton = bench.programs.baton(WORKERS, "30s")?;
    if let Some(redis) = &redis {
        baton = baton.with_redis(redis.url());
    }
    let server = baton.start(bench.server_core)?;
    if let Some(redis) = &mut redis {
        redis.wait_for_clients(CLIENTS)?;
    }
    Ok((redis, server))
}

fn sample(bench: &Bench, scripted: &BTreeSet<String>, with_redis: bool) -> io::Result<Sample> {
    let (mut redis, server) = start(bench, with_redis)?;
    let processes = server.process.family();
    let (before, after, report) = messages::load(bench, server.address, DEPTH, Waiting::BusyPoll, || {
        Ok(Look {
            at: Instant::now(),
            counters: redis.as_mut().map_or_else(|| Ok(Counters::default()), Redis::counters)?,
            baton: Cpu::of(&processes)?,
            redis: redis.as_ref().map_or_else(|| Ok(Cpu::default()), |redis| Cpu::of(&[redis.process.pid()]))?,
            idle: bench.server_core.map(procfs::idle).transpose()?,
        })
    })?;
    if after.counters.connections != before.counters.connections {
        return Err(io::Error::other("a worker lost Redis: some messages were counted without it"));
    }
    let messages = report.messages as f64;
    let (baton, redis) = (after.baton.since(before.baton), after.redis.since(before.redis));
    let traffic = after.counters.since(&before.counters, scripted);
    let took = (after.at - before.at).as_secs_f64();
    let busy = (baton.spent_ns + redis.spent_ns) as f64 / 1e9 / took;
    let idle = before.idle.zip(after.idle).map(|(before, after)| after.saturating_sub(before).as_secs_f64() / took);
    Ok(Sample {
        baton: baton.spent_ns as f64 / 1e3 / messages,
        redis: redis.spent_ns as f64 / 1e3 / messages,
        commands: traffic.commands as f64 / messages,
        reads: traffic.reads as f64 / messages,
        per_second: messages / report.seconds,
        busy,
        disturbed: idle.map_or(0.0, |idle| 1.0 - busy - idle),
    })
}

fn rows(embedded: &[Sample], redis: &[Sample]) -> Vec<Row> {
    let each = |samples: &[Sample], value: fn(&Sample) -> f64| samples.iter().map(value).collect::<Vec<_>>();
    let ratios = redis.iter().zip(embedded).map(|(redis, embedded)| redis.micros() / embedded.micros()).collect();
    let row = |title: (&str, &'static str), samples| Row::of(title.0, title.1, samples);
    vec![
        row(EMBEDDED, each(embedded, Sample::micros)).noted(note(embedded)),
        row(REDIS, each(redis, Sample::micros)).noted(note(redis)),
        row(RATIO, ratios).asked(Some(1.5), None),
        row(COMMANDS, each(redis, |sample| sample.commands)).asked(Some(1.1), None).noted(gathered(redis)),
        row(ROUND_TRIPS, each(redis, |sample| sample.reads)).asked(Some(0.1), None),
    ]
}

/// The figures of the wire the other way round, where they say more.
fn gathered(samples: &[Sample]) -> String {
    let per = |value: fn(&Sample) -> f64| median(&samples.iter().map(value).collect::<Vec<_>>()).unwrap_or(0.0).recip();
    format!(
        "a command for {:.0} messages, a round trip for {:.0}",
        per(|sample| sample.commands),
        per(|sample| sample.reads)
    )
}

fn note(samples: &[Sample]) -> String {
    let of = |value: fn(&Sample) -> f64| median(&samples.iter().map(value).collect::<Vec<_>>()).unwrap_or(0.0);
    let redis = of(|sample| sample.redis);
    let shares = if redis > 0.0 {
        format!(", baton {:.2} µs, redis {redis:.2} µs", of(|sample| sample.baton))
    } else {
        String::new()
    };
    format!(
        "{:.0} messages/s with {:.0} % of the core{shares}{}",
        of(|sample| sample.per_second),
        100.0 * of(|sample| sample.busy),
        messages::warning(of(|sample| sample.disturbed))
    )
}
