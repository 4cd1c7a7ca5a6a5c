//! Takeovers under load: how long each takes, for how long a connection is not read, how late replies come.

use std::io;
use std::thread::sleep;
use std::time::Duration;

use crate::client::paced::PacedReport;
use crate::control::Receipt;
use crate::generations::Generations;
use crate::rows::Bench;
use crate::rows::talker::Talker;
use crate::table::Row;

const WORKERS: u16 = 4;
const CONNECTIONS: usize = 5_000;
/// Messages a second over all connections: each sends one a second.
const RATE: u64 = 5_000;
/// Load before each takeover, in which every connection has its turn.
const BEFORE: Duration = Duration::from_secs(1);

/// The three figures of one run, in which each generation takes over from the one before.
pub(super) fn measure(bench: &Bench) -> Vec<Row> {
    let titles = ["switch and handover", "longest pause", "p99.9 of replies"];
    let titles = titles.map(|figure| format!("takeover, {CONNECTIONS} at {RATE}/s: {figure}"));
    match run(bench) {
        Ok((receipts, report)) => rows(titles, &receipts, &report),
        Err(error) => titles.map(|title| Row::failed(title, "ms", &error)).into(),
    }
}

fn run(bench: &Bench) -> io::Result<(Vec<Receipt>, PacedReport)> {
    let mut generations = Generations::begin(bench.programs.baton(WORKERS, "30s")?, bench.server_core)?;
    let mut talker = Talker::begin(bench, &generations.address().to_string(), CONNECTIONS, RATE)?;
    let mut receipts = Vec::new();
    for _ in 0..bench.rounds {
        let next = generations.standby()?;
        sleep(BEFORE);
        let relieved = talker.marked(|| generations.promote(next))?;
        receipts.push(relieved.gone()?);
    }
    let report = talker.finish()?;
    generations.shut_down()?;
    Ok((receipts, report))
}

fn rows([whole, pause, latency]: [String; 3], receipts: &[Receipt], report: &PacedReport) -> Vec<Row> {
    let all =
        receipts.iter().all(|receipt| receipt.handed == CONNECTIONS as u64) && report.marked.len() == receipts.len();
    let of = |figure: fn(&Receipt) -> f64| receipts.iter().map(figure).collect::<Vec<f64>>();
    let list = |figures: &mut dyn Iterator<Item = u32>| {
        figures.map(|us| format!("{:.1}", f64::from(us) / 1e3)).collect::<Vec<_>>().join(", ")
    };
    let replies = report.marked.iter().map(|latencies| f64::from(latencies.p999_us) / 1e3).collect();
    let in_time: u64 = report.marked.iter().map(|latencies| latencies.number).sum();
    let handed: Vec<String> = receipts.iter().map(|receipt| receipt.handed.to_string()).collect();
    let p99 = receipts.iter().map(|receipt| receipt.p99_pause_us as u32);
    vec![
        Row::of(whole, "ms", of(|receipt| receipt.switch_and_handover().as_secs_f64() * 1e3))
            .asked(Some(500.0), None)
            .provided(all)
            .noted(format!("handed over: {}", handed.join(", "))),
        Row::of(pause, "ms", of(|receipt| receipt.longest_pause_us as f64 / 1e3))
            .asked(Some(100.0), Some(50.0))
            .provided(all)
            .noted(format!("99 of 100 not above {} ms", list(&mut p99.into_iter()))),
        Row::of(latency, "ms", replies).asked(Some(50.0), None).provided(all).noted(format!(
            "of {in_time} messages the median {} ms, the slowest {} ms; the client itself was late by at most {} ms. Outside \
             of takeovers, of {} messages: median {:.1} ms, p99.9 {:.1} ms",
            list(&mut report.marked.iter().map(|latencies| latencies.p50_us)),
            list(&mut report.marked.iter().map(|latencies| latencies.longest_us)),
            list(&mut report.marked.iter().map(|latencies| latencies.late_us)),
            report.rest.number,
            f64::from(report.rest.p50_us) / 1e3,
            f64::from(report.rest.p999_us) / 1e3
        )),
    ]
}
