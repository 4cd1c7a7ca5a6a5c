//! Very many idle connections: what they cost while nothing happens, and what happens when all get a heartbeat.

use std::io;
use std::thread::sleep;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::client::heartbeat::HeartbeatReport;
use crate::client::pace::Latencies;
use crate::client::paced::PacedReport;
use crate::procfs::{self, Cpu};
use crate::rows::Bench;
use crate::rows::crowd::Kind;
use crate::rows::idle::{self, FIRST, SETTLE};
use crate::rows::talker::Talker;
use crate::table::Row;
use crate::targets::Server;

/// Idle connections of one client process: a process may have 20,000 descriptors, and an address has 28,000 ports.
const PER_CLIENT: usize = 15_000;
/// Connections that talk while heartbeats go out.
const ACTIVE: usize = 1_000;
/// Messages a second over all of those.
const RATE: u64 = 2_000;
/// Heartbeats while they talk.
const BEATS: usize = 3;
const INTERVAL: Duration = Duration::from_secs(5);
/// A heartbeat is over by then, and the clients know that the next is a new one.
const OVER: Duration = Duration::from_millis(1_800);
/// For how long the service is watched doing nothing, between two heartbeats.
const REST: Duration = Duration::from_millis(2_900);
/// Before a heartbeat, to be ready for it.
const AHEAD: Duration = Duration::from_millis(10);
const PATIENCE: Duration = Duration::from_secs(60);

/// Measures `connections` idle connections on `workers` workers.
pub fn measure(bench: &Bench, connections: usize, workers: u16) -> Vec<Row> {
    let titles = Titles::of(connections, workers);
    match run(bench, connections, workers) {
        Ok(figures) => figures.rows(titles),
        Err(error) => titles.failed(&error),
    }
}

struct Titles {
    user: String,
    kernel: String,
    rest: String,
    fan_out: String,
    replies: String,
}

impl Titles {
    fn of(connections: usize, workers: u16) -> Titles {
        let title = |what: &str| format!("{connections} idle, {workers} workers: {what}");
        Titles {
            user: title("memory of the workers"),
            kernel: title("memory of the kernel"),
            rest: title("CPU at rest"),
            fan_out: title("heartbeat, due to last"),
            replies: title("p99 of replies meanwhile"),
        }
    }

    fn failed(self, error: &io::Error) -> Vec<Row> {
        vec![
            Row::failed(self.user, idle::UNIT, error),
            Row::failed(self.kernel, idle::UNIT, error),
            Row::failed(self.rest, "% of a core", error),
            Row::failed(self.fan_out, "ms", error),
            Row::failed(self.replies, "ms", error),
        ]
    }
}

struct Figures {
    connections: usize,
    /// Bytes per connection.
    user: f64,
    /// Bytes per connection, at the service's end.
    kernel: f64,
    /// Connections of each worker.
    spread: Vec<u64>,
    /// CPU time of all processes of the service while nothing happened, as a share of the time.
    rest: f64,
    /// CPU time of a heartbeat.
    beat_cpu: Duration,
    /// From when each heartbeat was due until the last client had it.
    fan_out: Vec<Duration>,
    complete: bool,
    active: PacedReport,
}

impl Figures {
    fn rows(&self, titles: Titles) -> Vec<Row> {
        let ms = |took: &Duration| took.as_secs_f64() * 1e3;
        let list = |figure: fn(&Latencies) -> u32| {
            let each = self.active.marked.iter().map(|stretch| format!("{:.1}", f64::from(figure(stretch)) / 1e3));
            each.collect::<Vec<_>>().join(", ")
        };
        let (least, most) = (self.spread.iter().min().unwrap_or(&0), self.spread.iter().max().unwrap_or(&0));
        let p99 = self.active.marked.iter().map(|stretch| f64::from(stretch.p99_us) / 1e3).collect();
        let beat_each = self.beat_cpu.as_secs_f64() * 1e6 / self.connections as f64;
        vec![
            Row::of(titles.user, idle::UNIT, vec![self.user])
                .asked(Some(400.0), Some(200.0))
                .noted(format!("{least} to {most} connections in a worker")),
            Row::of(titles.kernel, idle::UNIT, vec![self.kernel])
                .noted("of one end, without the socket's inode and directory entry, which are 1,100 more"),
            Row::of(titles.rest, "% of a core", vec![self.rest * 100.0]).asked(Some(1.0), None).noted(format!(
                "a heartbeat takes {:.0} ms of CPU, {beat_each:.1} µs a connection: every 30 s that is {:.2} % of a core",
                ms(&self.beat_cpu),
                self.beat_cpu.as_secs_f64() / 30.0 * 100.0
            )),
            Row::of(titles.fan_out, "ms", self.fan_out.iter().map(ms).collect())
                .provided(self.complete)
                .noted(if self.complete { "each got each exactly once" } else { "not all got each exactly once" }),
            Row::of(titles.replies, "ms", p99).asked(Some(20.0), None).provided(self.complete).noted(format!(
                "of {RATE} messages a second on {ACTIVE} connections, from when they were due; median {} ms, slowest {} ms, the \
                 client itself late by at most {} ms; outside of heartbeats p99 {:.1} ms",
                list(|stretch| stretch.p50_us),
                list(|stretch| stretch.longest_us),
                list(|stretch| stretch.late_us),
                f64::from(self.active.rest.p99_us) / 1e3
            )),
        ]
    }
}

fn run(bench: &Bench, connections: usize, workers: u16) -> io::Result<Figures> {
    let server = bench.programs.baton(workers, "5s")?.start(bench.server_core)?;
    idle::close(idle::open(bench, &server, FIRST)?)?;
    sleep(SETTLE);
    let pids = server.workers();
    let (user, kernel) = (procfs::pss(&pids)?, procfs::kernel_memory()?);
    let beats = (1 + BEATS).to_string();
    let mut crowd = Kind {
        mode: "heartbeat",
        arguments: &["--beats", &beats, "--patience", "60", "--tell"],
        per_client: PER_CLIENT,
        core: bench.client_core,
    }
    .open(bench, server.address, connections)?;
    // Who talks is not to wait until they have read their heartbeats.
    crowd.yield_to_others()?;
    sleep(SETTLE);
    let each = |now: u64, before: u64| (now as f64 - before as f64) / connections as f64;
    let user = each(procfs::pss(&pids)?, user);
    // The clients' ends of the connections are in the same kernel, and are the same: a socket, a file, a place in an epoll.
    let kernel = each(procfs::kernel_memory()?, kernel) / 2.0;
    let spread = server.slots()?.iter().map(|slot| slot.connections).collect();

    sleep_until(due_after(Duration::ZERO) + OVER);
    crowd.tell("go")?;
    let rest = cpu(&server)?;
    sleep(REST);
    let rest = cpu(&server)?.since(rest).spent_ns as f64 / REST.as_nanos() as f64;
    let due = due_after(AHEAD);
    sleep_until(due - AHEAD);
    let before = cpu(&server)?;
    crowd.lines()?;
    let beat_cpu = Duration::from_nanos(cpu(&server)?.since(before).spent_ns);

    let mut talker = Talker::begin(bench, &server.address.to_string(), ACTIVE, RATE)?;
    let mut dues = vec![due];
    for _ in 0..BEATS {
        let due = due_after(AHEAD);
        sleep_until(due);
        talker.marked(|| crowd.lines())?;
        dues.push(due);
    }
    let active = talker.finish()?;
    let reports: Vec<HeartbeatReport> = crowd.reports()?;
    let fan_out = dues.iter().enumerate().skip(1).map(|(nth, due)| last(&reports, nth).saturating_sub(*due)).collect();
    crowd.wait()?;
    server.shut_down(PATIENCE)?;
    let complete = reports.iter().all(|report| {
        let whole = |beat: &crate::client::heartbeat::Beat| beat.received == report.connections && beat.doubled == 0;
        report.beats.len() == 1 + BEATS && report.beats.iter().all(whole)
    });
    Ok(Figures { connections, user, kernel, spread, rest, beat_cpu, fan_out, complete, active })
}

/// When the last client had the `nth` heartbeat, since 1970.
fn last(reports: &[HeartbeatReport], nth: usize) -> Duration {
    let times = reports.iter().filter_map(|report| report.beats.get(nth)).map(|beat| beat.last_us);
    Duration::from_micros(times.max().unwrap_or(0))
}

fn cpu(server: &Server) -> io::Result<Cpu> {
    Cpu::of(&server.process.family())
}

/// Since 1970.
fn wall() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// The next multiple of the interval that is further away than `ahead`: when a heartbeat is due.
fn due_after(ahead: Duration) -> Duration {
    let (interval, from) = (INTERVAL.as_millis() as u64, (wall() + ahead).as_millis() as u64);
    Duration::from_millis((from / interval + 1) * interval)
}

fn sleep_until(moment: Duration) {
    sleep(moment.saturating_sub(wall()));
}
