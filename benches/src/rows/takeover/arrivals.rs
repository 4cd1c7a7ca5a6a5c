//! Takeover after takeover while clients connect: none of them may find nobody there.

use std::io;
use std::thread::sleep;
use std::time::Duration;

use crate::client::arrivals::ArrivalReport;
use crate::client::orders::Order;
use crate::generations::Generations;
use crate::rows::Bench;
use crate::table::Row;

const WORKERS: u16 = 4;
/// New connections a second.
const RATE: u64 = 500;
/// Between one takeover and the next: a takeover is over so soon that a second has twenty, and ten connects each.
const BETWEEN: Duration = Duration::from_millis(250);
const PATIENCE: Duration = Duration::from_secs(30);

/// How many of all connections were not served from beginning to end.
pub(super) fn measure(bench: &Bench) -> Row {
    let takeovers = if bench.quick { 4 } else { 20 };
    let title = format!("{takeovers} takeovers, {RATE} connects/s: refused or reset");
    match run(bench, takeovers) {
        Ok(seen) => {
            let slowest = seen.marked.iter().map(|latencies| latencies.longest_us).max().unwrap_or(0);
            let note = format!(
                "of {} connects {} were served; {} refused, {} reset, {} ended early, {} without an answer, {} with a wrong \
                 one{}; the slowest during a takeover had its first reply after {:.0} ms, outside of them after {:.0} ms",
                seen.attempts,
                seen.served,
                seen.refused,
                seen.reset,
                seen.ended,
                seen.unanswered,
                seen.wrong,
                seen.first_failure.as_ref().map_or(String::new(), |words| format!(" (the first: {words})")),
                f64::from(slowest) / 1e3,
                f64::from(seen.rest.longest_us) / 1e3
            );
            let lost = (seen.attempts - seen.served) as f64;
            Row::of(title, "connects", vec![lost]).asked(Some(0.0), None).provided(seen.attempts > 0).noted(note)
        }
        Err(error) => Row::failed(title, "connects", error),
    }
}

fn run(bench: &Bench, takeovers: usize) -> io::Result<ArrivalReport> {
    let mut generations = Generations::begin(bench.programs.baton(WORKERS, "30s")?, bench.server_core)?;
    let (address, rate) = (generations.address().to_string(), RATE.to_string());
    let mut client = bench.programs.client(bench.client_core, ["connect", &address, "--rate", &rate])?;
    client.line(PATIENCE)?;
    for _ in 0..takeovers {
        let next = generations.standby()?;
        client.tell(Order::Mark.word())?;
        let relieved = generations.promote(next)?;
        client.tell(Order::Unmark.word())?;
        relieved.gone()?;
        sleep(BETWEEN);
    }
    client.tell(Order::Stop.word())?;
    let report = serde_json::from_str(&client.line(PATIENCE)?)?;
    generations.shut_down()?;
    Ok(report)
}
