//! All clients connect at once, as after a failure of whatever was between them and the service.

use std::io;
use std::thread::sleep;
use std::time::Duration;

use crate::client::arrivals::ArrivalReport;
use crate::client::pace::Latencies;
use crate::client::paced::PacedReport;
use crate::procfs;
use crate::rows::Bench;
use crate::rows::crowd::Kind;
use crate::rows::talker::Talker;
use crate::table::Row;

const WORKERS: u16 = 4;
const PER_CLIENT: usize = 10_000;
/// Connections that talk meanwhile, and messages a second over all of them.
const ACTIVE: usize = 1_000;
const RATE: u64 = 2_000;
/// Between one storm and the next, and before the first: what is left of one is over.
const BETWEEN: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(30);

/// One storm.
struct Storm {
    clients: Vec<ArrivalReport>,
    /// How often an accept queue was full.
    overflows: u64,
}

impl Storm {
    fn sum(&self, of: fn(&ArrivalReport) -> u64) -> u64 {
        self.clients.iter().map(of).sum()
    }

    fn slowest(&self, of: fn(&Latencies) -> u32) -> f64 {
        f64::from(self.clients.iter().map(|client| of(&client.rest)).max().unwrap_or(0)) / 1e3
    }
}

/// How many are not served, how long it takes until the last one is, and what others notice.
pub fn measure(bench: &Bench) -> Vec<Row> {
    let connects = if bench.quick { 4_000 } else { 20_000 };
    let titles = ["refused or reset", "time to the last", "p99 of replies meanwhile"];
    let titles = titles.map(|figure| format!("{connects} connects at once: {figure}"));
    let rounds = bench.rounds.min(3);
    match run(bench, connects, rounds) {
        Ok((storms, active)) => rows(titles, &storms, &active),
        Err(error) => {
            let units = ["connects", "ms", "ms"];
            titles.into_iter().zip(units).map(|(title, unit)| Row::failed(title, unit, &error)).collect()
        }
    }
}

fn run(bench: &Bench, connects: usize, rounds: usize) -> io::Result<(Vec<Storm>, PacedReport)> {
    let server = bench.programs.baton(WORKERS, "30s")?.start(bench.server_core)?;
    let mut talker = Talker::begin(bench, &server.address.to_string(), ACTIVE, RATE)?;
    let kind = Kind { mode: "storm", arguments: &[], per_client: PER_CLIENT, core: bench.client_core };
    let mut storms = Vec::new();
    for _ in 0..rounds {
        sleep(BETWEEN);
        let mut crowd = kind.open(bench, server.address, connects)?;
        crowd.yield_to_others()?;
        let before = procfs::listen_overflows()?;
        let clients = talker.marked(|| {
            crowd.tell("go")?;
            crowd.reports()
        })?;
        storms.push(Storm { clients, overflows: procfs::listen_overflows()?.saturating_sub(before) });
        crowd.wait()?;
    }
    let active = talker.finish()?;
    server.shut_down(PATIENCE)?;
    Ok((storms, active))
}

fn rows([lost, last, replies]: [String; 3], storms: &[Storm], active: &PacedReport) -> Vec<Row> {
    let all = |of: fn(&ArrivalReport) -> u64| storms.iter().map(|storm| storm.sum(of)).sum::<u64>();
    let each = |figure: &dyn Fn(&Storm) -> f64| storms.iter().map(figure).collect::<Vec<f64>>();
    let join = |figures: Vec<f64>| figures.iter().map(|figure| format!("{figure:.0}")).collect::<Vec<_>>().join(", ");
    let failure = storms.iter().flat_map(|storm| &storm.clients).find_map(|client| client.first_failure.as_ref());
    let list = |figure: fn(&Latencies) -> u32| {
        let each = active.marked.iter().map(|stretch| format!("{:.1}", f64::from(figure(stretch)) / 1e3));
        each.collect::<Vec<_>>().join(", ")
    };
    let p99 = active.marked.iter().map(|stretch| f64::from(stretch.p99_us) / 1e3).collect();
    vec![
        Row::of(lost, "connects", each(&|storm| (storm.sum(|one| one.attempts) - storm.sum(|one| one.served)) as f64))
            .asked(Some(0.0), None)
            .provided(all(|one| one.attempts) > 0)
            .noted(format!(
                "of {} connects {} were served; {} refused, {} reset, {} ended early, {} without an answer, {} with a wrong \
                 one{}",
                all(|one| one.attempts),
                all(|one| one.served),
                all(|one| one.refused),
                all(|one| one.reset),
                all(|one| one.ended),
                all(|one| one.unanswered),
                all(|one| one.wrong),
                failure.map_or(String::new(), |words| format!(" (the first: {words})"))
            )),
        Row::of(last, "ms", each(&|storm| storm.slowest(|latencies| latencies.longest_us))).noted(format!(
            "until its first message was answered; half of them by {} ms; the clients themselves took {} ms to begin them all; \
             an accept queue was full {} times",
            join(each(&|storm| storm.slowest(|latencies| latencies.p50_us))),
            join(each(&|storm| storm.slowest(|latencies| latencies.late_us))),
            join(each(&|storm| storm.overflows as f64))
        )),
        Row::of(replies, "ms", p99).asked(Some(100.0), None).noted(format!(
            "of {RATE} messages a second on {ACTIVE} connections, from when they were due; median {} ms, slowest {} ms, the \
             client itself late by at most {} ms; outside of storms p99 {:.1} ms",
            list(|stretch| stretch.p50_us),
            list(|stretch| stretch.longest_us),
            list(|stretch| stretch.late_us),
            f64::from(active.rest.p99_us) / 1e3
        )),
    ]
}
