//! How evenly the kernel spreads new connections over the workers.

use std::io;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::rows::Bench;
use crate::rows::crowd::Kind;
use crate::table::Row;
use crate::targets::Server;

const WORKERS: u16 = 4;
const CONNECTIONS: usize = 5_000;
/// Each time as many connections anew, from other ports.
const RUNS: usize = 5;
/// How often to look whether all have come, or gone.
const LOOK: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(30);

/// By how much the worker that is furthest from the mean has more or fewer.
pub fn measure(bench: &Bench) -> Row {
    let title = format!("{CONNECTIONS} connections on {WORKERS} workers: worst from the mean");
    match run(bench) {
        Ok(runs) => {
            let each: Vec<String> = runs.iter().map(|run| format!("{run:?}")).collect();
            // What independent throws of a die with as many sides would give: see README.md.
            let deviation = (f64::from(WORKERS - 1) / CONNECTIONS as f64).sqrt() * 100.0;
            Row::of(title, "%", runs.iter().map(|run| worst(run)).collect())
                .asked(Some(10.0), None)
                .noted(format!("{}; a standard deviation of chance is {deviation:.1} %", each.join(", ")))
        }
        Err(error) => Row::failed(title, "%", error),
    }
}

fn run(bench: &Bench) -> io::Result<Vec<Vec<u64>>> {
    let server = bench.programs.baton(WORKERS, "30s")?.start(None)?;
    let mut runs = Vec::new();
    for _ in 0..RUNS {
        let kind = Kind { mode: "idle", arguments: &[], per_client: CONNECTIONS, core: None };
        let mut clients = kind.open(bench, server.address, CONNECTIONS)?;
        runs.push(settled(&server, CONNECTIONS)?);
        clients.tell("close")?;
        clients.lines()?;
        clients.wait()?;
        settled(&server, 0)?;
    }
    server.shut_down(PATIENCE)?;
    Ok(runs)
}

/// The connections of each slot, once there are so many in all: a worker has a connection a moment after its client was
/// told, and notices its end a moment later.
fn settled(server: &Server, total: usize) -> io::Result<Vec<u64>> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let run: Vec<u64> = server.slots()?.iter().map(|slot| slot.connections).collect();
        if run.iter().sum::<u64>() == total as u64 {
            return Ok(run);
        }
        if Instant::now() > deadline {
            return Err(io::Error::other(format!("{run:?} are not {total} connections")));
        }
        sleep(LOOK);
    }
}

/// In percent of the mean.
fn worst(connections: &[u64]) -> f64 {
    let mean = connections.iter().sum::<u64>() as f64 / connections.len() as f64;
    connections.iter().map(|number| (*number as f64 / mean - 1.0).abs() * 100.0).fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_may_have_more_or_fewer() {
        assert!((worst(&[90, 100, 105, 105]) - 10.0).abs() < 1e-9);
        assert!((worst(&[120, 100, 90, 90]) - 20.0).abs() < 1e-9);
        assert_eq!(worst(&[7, 7]), 0.0);
    }
}
