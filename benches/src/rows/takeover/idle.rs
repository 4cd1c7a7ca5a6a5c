//! Takeovers of many idle connections.

use std::io;

use crate::client::load::LoadReport;
use crate::control::Receipt;
use crate::generations::Generations;
use crate::rows::Bench;
use crate::rows::crowd::Kind;
use crate::table::Row;

const WORKERS: u16 = 8;
/// Connections of one client process, which has one source address.
const PER_CLIENT: usize = 5_000;
const ROUNDS: usize = 3;

/// How long it takes until the last one has come over.
pub(super) fn measure(bench: &Bench) -> Row {
    let clients = if bench.quick { 1 } else { 10 };
    let connections = clients * PER_CLIENT;
    let title = format!("takeover, {connections} idle: switch and handover");
    match run(bench, clients) {
        Ok(receipts) => {
            let all = receipts.iter().all(|receipt| receipt.handed == connections as u64);
            let samples = receipts.iter().map(|receipt| receipt.switch_and_handover().as_secs_f64() * 1e3).collect();
            let of = |figure: fn(&Receipt) -> f64| {
                receipts.iter().map(|receipt| format!("{:.0}", figure(receipt))).collect::<Vec<_>>().join(", ")
            };
            Row::of(title, "ms", samples).asked(Some(3_000.0), None).provided(all).noted(format!(
                "handed over: {}; longest pause {} ms",
                of(|receipt| receipt.handed as f64),
                of(|receipt| receipt.longest_pause_us as f64 / 1e3)
            ))
        }
        Err(error) => Row::failed(title, "ms", error),
    }
}

/// Each connection has a message counted before the takeovers, and another one after them: only who came along knows that
/// it is the second.
fn run(bench: &Bench, clients: usize) -> io::Result<Vec<Receipt>> {
    let mut generations = Generations::begin(bench.programs.baton(WORKERS, "30s")?, bench.server_core)?;
    let each = PER_CLIENT.to_string();
    let mut crowd = Kind {
        mode: "load",
        arguments: &["--warm-up", "0", "--messages", &each],
        per_client: PER_CLIENT,
        core: bench.client_core,
    }
    .open(bench, generations.address(), clients * PER_CLIENT)?;
    let mut receipts = Vec::new();
    for _ in 0..ROUNDS {
        let next = generations.standby()?;
        receipts.push(generations.promote(next)?.gone()?);
    }
    crowd.tell("go")?;
    let reports: Vec<LoadReport> = crowd.reports()?;
    if let Some(report) = reports.iter().find(|report| report.messages != PER_CLIENT as u64) {
        return Err(io::Error::other(format!("{} of {PER_CLIENT} connections were answered", report.messages)));
    }
    drop(crowd);
    generations.shut_down()?;
    Ok(receipts)
}
