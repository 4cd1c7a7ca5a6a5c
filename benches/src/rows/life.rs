//! How fast the service starts, beats and goes.

use std::io;
use std::time::Duration;

use crate::client::heartbeat::HeartbeatReport;
use crate::client::shutdown::ShutdownReport;
use crate::rows::Bench;
use crate::table::Row;

const WORKERS: u16 = 4;
const CLIENTS: usize = 5_000;
const PATIENCE: Duration = Duration::from_secs(30);

/// From start to `/readyz` 200.
pub fn start(bench: &Bench) -> Row {
    let title = "start to /readyz 200";
    let one = || -> io::Result<f64> {
        let server = bench.programs.baton(WORKERS, "30s")?.start(None)?;
        let took = server.start_up;
        server.shut_down(PATIENCE)?;
        Ok(took.as_secs_f64() * 1e3)
    };
    let samples: io::Result<Vec<f64>> = (0..bench.rounds).map(|_| one()).collect();
    match samples {
        Ok(samples) => Row::of(title, "ms", samples).asked(Some(300.0), None),
        Err(error) => Row::failed(title, "ms", error),
    }
}

/// From SIGTERM until the last process is gone, with well-behaved clients.
pub fn shutdown(bench: &Bench) -> Row {
    let title = format!("SIGTERM to gone, {CLIENTS} clients");
    let one = || -> io::Result<(Duration, ShutdownReport)> {
        let server = bench.programs.baton(WORKERS, "30s")?.start(None)?;
        let (address, clients) = (server.address.to_string(), CLIENTS.to_string());
        let mut client = bench.programs.client(None, ["shutdown", &address, "--connections", &clients])?;
        client.line(PATIENCE)?;
        client.tell("go")?;
        let took = server.shut_down(PATIENCE)?;
        Ok((took, serde_json::from_str(&client.line(PATIENCE)?)?))
    };
    match one() {
        Ok((took, seen)) => {
            let all = [seen.bye, seen.going_away, seen.retry_hint, seen.ended].iter().all(|count| *count == CLIENTS);
            Row::of(title, "ms", vec![took.as_secs_f64() * 1e3]).asked(Some(2_000.0), None).provided(all).noted(format!(
                "of {} clients {} saw bye with their total, {} close 1001, {} a retry hint; {} ended in order, {} did not",
                seen.connections, seen.bye, seen.going_away, seen.retry_hint, seen.ended, seen.broken
            ))
        }
        Err(error) => Row::failed(title, "ms", error),
    }
}

/// From the first client that gets a heartbeat to the last.
pub fn heartbeat(bench: &Bench) -> Row {
    let title = format!("heartbeat, first to last of {CLIENTS}");
    let one = || -> io::Result<HeartbeatReport> {
        let server = bench.programs.baton(WORKERS, "2s")?.start(None)?;
        let (address, clients) = (server.address.to_string(), CLIENTS.to_string());
        let beats = if bench.quick { "1" } else { "3" };
        let arguments = ["heartbeat", &address, "--connections", &clients, "--beats", beats, "--patience", "15"];
        let mut client = bench.programs.client(None, arguments)?;
        client.line(PATIENCE)?;
        client.tell("go")?;
        let report = serde_json::from_str(&client.line(PATIENCE)?)?;
        drop(client);
        server.shut_down(PATIENCE)?;
        Ok(report)
    };
    match one() {
        Ok(report) => {
            let spreads = report.beats.iter().map(|beat| beat.spread_ms).collect();
            let received: Vec<String> = report.beats.iter().map(|beat| beat.received.to_string()).collect();
            let doubled: usize = report.beats.iter().map(|beat| beat.doubled).sum();
            let all = doubled == 0 && report.beats.iter().all(|beat| beat.received == report.connections);
            let note = format!("received by {} of {CLIENTS}, doubled {doubled}", received.join(", "));
            Row::of(title, "ms", spreads).asked(Some(50.0), None).provided(all).noted(note)
        }
        Err(error) => Row::failed(title, "ms", error),
    }
}
