//! Messages that are spread thin over many connections: what each costs when hardly two come together.

use std::io;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::client::pace::Latencies;
use crate::procfs::Cpu;
use crate::rows::Bench;
use crate::rows::messages::UNIT;
use crate::rows::redis::{self, WORKERS};
use crate::rows::talker::Talker;
use crate::table::Row;

const CONNECTIONS: usize = 15_000;
/// To see that it works.
const FEW: usize = 2_000;
/// Messages a second over all of them.
const RATES: [u64; 2] = [2_000, 10_000];
/// What the first messages of a connection take is over then.
const SETTLE: Duration = Duration::from_secs(1);
const STRETCH: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(30);

/// In microseconds of CPU time per message, and how they were answered.
struct Cost {
    baton: f64,
    redis: f64,
    replies: Latencies,
}

/// Measures both stores at both rates; `progress` is told what begins.
pub fn measure(bench: &Bench, mut progress: impl FnMut(&str)) -> Vec<Row> {
    let connections = if bench.quick { FEW } else { CONNECTIONS };
    let mut rows = Vec::new();
    for with_redis in [false, true] {
        let store = if with_redis { "redis" } else { "embedded" };
        for rate in RATES {
            let title = format!("{WORKERS} workers, {connections} at {rate}/s: {store}");
            progress(&title);
            rows.push(match run(bench, connections, with_redis, rate) {
                Ok(cost) => Row::of(title, UNIT, vec![cost.baton + cost.redis]).noted(note(&cost)),
                Err(error) => Row::failed(title, UNIT, error),
            });
        }
    }
    rows
}

fn note(cost: &Cost) -> String {
    let ms = |us: u32| f64::from(us) / 1e3;
    format!(
        "baton {:.1} µs, redis {:.1} µs; replies: median {:.2} ms, p99 {:.1} ms",
        cost.baton,
        cost.redis,
        ms(cost.replies.p50_us),
        ms(cost.replies.p99_us)
    )
}

fn run(bench: &Bench, connections: usize, with_redis: bool, rate: u64) -> io::Result<Cost> {
    let (redis, server) = redis::start(bench, with_redis)?;
    let mut talker = Talker::begin(bench, &server.address.to_string(), connections, rate)?;
    sleep(SETTLE);
    let baton = server.process.family();
    let redis: Vec<u32> = redis.iter().map(|redis| redis.process.pid()).collect();
    let (baton, redis, took) = talker.marked(|| {
        let (begun, before) = (Instant::now(), (Cpu::of(&baton)?, Cpu::of(&redis)?));
        sleep(STRETCH);
        Ok((Cpu::of(&baton)?.since(before.0), Cpu::of(&redis)?.since(before.1), begun.elapsed()))
    })?;
    let report = talker.finish()?;
    server.shut_down(PATIENCE)?;
    let each = |cpu: Cpu| cpu.spent_ns as f64 / 1e3 / (rate as f64 * took.as_secs_f64());
    let replies = report.marked.first().copied().unwrap_or_default();
    Ok(Cost { baton: each(baton), redis: each(redis), replies })
}
