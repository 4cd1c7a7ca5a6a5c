//! One worker's core is busy to the full: what the clients of the other workers notice.

use std::collections::HashSet;
use std::io;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::child::Running;
use crate::client::load::LoadReport;
use crate::client::paced::PacedReport;
use crate::rows::Bench;
use crate::rows::talker::Talker;
use crate::table::Row;
use crate::targets::Server;
use crate::{cores, procfs};

const WORKERS: u16 = 4;
/// The slot of the worker that is busy.
const BUSY: u16 = 0;
/// Connections of each client before it keeps those that it wants. The service lists 300 of a worker; of these each has
/// about a quarter.
const CONNECTIONS: &str = "400";
/// Messages a second to the other workers.
const RATE: &str = "1000";
/// How long each state lasts.
const STRETCH: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(30);

/// The 99th percentile of replies of the other workers, with and without.
pub fn measure(bench: &Bench) -> Row {
    let title = "one worker's core at 100 %: p99 of the others";
    let (Some(busy), Some(other)) = (bench.server_core, bench.client_core) else {
        return Row::failed(title, "ms", "it takes two cores");
    };
    match run(bench, busy, other) {
        Ok(outcome) => {
            let (quiet, loaded) = (outcome.others.marked[0], outcome.others.marked[1]);
            let ms = |us: u32| f64::from(us) / 1e3;
            Row::of(title, "ms", vec![ms(loaded.p99_us)])
                .asked(Some(20.0), None)
                .provided(outcome.share > 0.95)
                .noted(format!(
                    "its core was busy for {:.0} % of the time with {:.0} messages a second; the others answered {RATE} a \
                     second, median {:.2} ms, slowest {:.1} ms; with all workers at rest: median {:.2} ms, p99 {:.1} ms, \
                     slowest {:.1} ms",
                    outcome.share * 100.0,
                    outcome.flood_per_second,
                    ms(loaded.p50_us),
                    ms(loaded.longest_us),
                    ms(quiet.p50_us),
                    ms(quiet.p99_us),
                    ms(quiet.longest_us)
                ))
        }
        Err(error) => Row::failed(title, "ms", error),
    }
}

struct Outcome {
    others: PacedReport,
    /// Share of the time for which the busy worker's core was not idle.
    share: f64,
    flood_per_second: f64,
}

fn run(bench: &Bench, busy: usize, other: usize) -> io::Result<Outcome> {
    let server = bench.programs.baton(WORKERS, "30s")?.start(Some(other))?;
    let worker = server.slots()?.into_iter().find(|slot| slot.slot == BUSY).and_then(|slot| slot.pid);
    cores::move_to(worker.ok_or_else(|| io::Error::other("the slot has no worker"))?, busy)?;

    let seconds = STRETCH.as_secs_f64().to_string();
    let mut flood = client(bench, &server, Some(busy), &["--depth", "16", "--seconds", &seconds], |slot| slot == BUSY)?;
    flood.line(PATIENCE)?;
    let mut others = Talker::of(client(bench, &server, Some(other), &["--rate", RATE], |slot| slot != BUSY)?)?;

    others.marked(|| {
        sleep(STRETCH);
        Ok(())
    })?;
    let (idle, begun) = (procfs::idle(busy)?, Instant::now());
    let report: LoadReport = others.marked(|| {
        flood.tell("go")?;
        Ok(serde_json::from_str(&flood.line(PATIENCE)?)?)
    })?;
    let idle = procfs::idle(busy)?.saturating_sub(idle).as_secs_f64() / begun.elapsed().as_secs_f64();
    let others = others.finish()?;
    drop(flood);
    server.shut_down(PATIENCE)?;
    Ok(Outcome { others, share: 1.0 - idle, flood_per_second: report.messages as f64 / report.seconds })
}

/// A load client with the connections that are served by the slots of its choice.
fn client(
    bench: &Bench,
    server: &Server,
    core: Option<usize>,
    arguments: &[&str],
    wants: impl Fn(u16) -> bool,
) -> io::Result<Running> {
    let address = server.address.to_string();
    let all = ["load", &address, "--connections", CONNECTIONS, "--choose"];
    let mut client = bench.programs.client(core, all.into_iter().chain(arguments.iter().copied()))?;
    let own: HashSet<String> = serde_json::from_str(&client.line(PATIENCE)?)?;
    let served = server.connections()?.into_iter().filter(|connection| own.contains(&connection.client));
    let wanted: Vec<String> = served.filter(|connection| wants(connection.slot)).map(|wanted| wanted.client).collect();
    client.tell(&serde_json::to_string(&wanted)?)?;
    Ok(client)
}
