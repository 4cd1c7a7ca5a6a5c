//! Takeovers of many idle connections.

use std::io;
use std::time::Duration;

use crate::child::Running;
use crate::client::load::LoadReport;
use crate::control::Receipt;
use crate::generations::Generations;
use crate::rows::Bench;
use crate::table::Row;

const WORKERS: u16 = 8;
/// Connections of one client process, which has one source address.
const PER_CLIENT: usize = 5_000;
const ROUNDS: usize = 3;
const PATIENCE: Duration = Duration::from_secs(60);

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
    let (address, each) = (generations.address().to_string(), PER_CLIENT.to_string());
    let open = |nth: usize| -> io::Result<Running> {
        let source = format!("127.0.0.{}", 2 + nth);
        let arguments = ["load", &address, "--connections", &each, "--source", &source];
        let once = ["--warm-up", "0", "--messages", &each];
        bench.programs.client(bench.client_core, arguments.into_iter().chain(once))
    };
    let mut clients = (0..clients).map(open).collect::<io::Result<Vec<Running>>>()?;
    for client in &mut clients {
        client.line(PATIENCE)?;
    }
    let mut receipts = Vec::new();
    for _ in 0..ROUNDS {
        let next = generations.standby()?;
        receipts.push(generations.promote(next)?.gone()?);
    }
    for client in &mut clients {
        client.tell("go")?;
        let report: LoadReport = serde_json::from_str(&client.line(PATIENCE)?)?;
        if report.messages != PER_CLIENT as u64 {
            return Err(io::Error::other(format!("{} of {PER_CLIENT} connections were answered", report.messages)));
        }
    }
    drop(clients);
    generations.shut_down()?;
    Ok(receipts)
}
