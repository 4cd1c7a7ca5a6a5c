//! CPU time per message, all targets in turn, round after round.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::client::load::LoadReport;
use crate::procfs::Cpu;
use crate::rows::Bench;
use crate::table::{self, Row, median};
use crate::targets::Target;

pub(super) const CONNECTIONS: &str = "100";
pub(super) const PATIENCE: Duration = Duration::from_secs(20);
pub(super) const UNIT: &str = table::MICROS;
/// Share of the time beyond which a server was kept from its core too long for its figure to be published.
const DISTURBED: f64 = 0.05;

/// Below what is asked of baton, with how many messages in flight.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Messages in flight on each connection.
    pub depth: u32,
    /// What the others are compared with.
    floor: Target,
    limit: f64,
    aim: f64,
    /// Whether baton must also need less than fastwebsockets.
    beats_fastwebsockets: bool,
}

/// One message in flight on each connection.
pub const ONE: Case = Case { depth: 1, floor: Target::Floor, limit: 1.2, aim: 1.08, beats_fastwebsockets: true };
/// Bursts of 16.
pub const BURST: Case =
    Case { depth: 16, floor: Target::BurstFloor, limit: 1.5, aim: 1.1, beats_fastwebsockets: false };

/// What the load client does while nothing comes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Waiting {
    Sleep,
    BusyPoll,
}

/// What one target did in all rounds; as many entries as rounds, or the reason why not.
struct Series {
    target: Target,
    outcome: io::Result<Vec<Sample>>,
}

#[derive(Clone, Copy)]
struct Sample {
    micros: f64,
    per_second: f64,
    /// Share of its core that the server used.
    busy: f64,
    /// Share of the time that other processes kept it from its core.
    disturbed: f64,
}

/// Measures all targets; `progress` is told what begins.
pub fn measure(bench: &Bench, case: Case, mut progress: impl FnMut(&str)) -> Vec<Row> {
    let targets = [case.floor, Target::Baton, Target::Fastwebsockets, Target::TokioTungstenite];
    let mut series = targets.map(|target| Series { target, outcome: Ok(Vec::new()) });
    for round in 0..bench.rounds {
        // Forth and back, so that no target always follows the same one.
        for nth in 0..series.len() {
            let place = if round % 2 == 0 { nth } else { series.len() - 1 - nth };
            let Series { target, outcome } = &mut series[place];
            let Ok(samples) = outcome else { continue };
            progress(&format!("{} in flight, round {}/{}: {}", case.depth, round + 1, bench.rounds, target.name()));
            match sample(bench, *target, case.depth) {
                Ok(sample) => samples.push(sample),
                Err(error) => *outcome = Err(error),
            }
        }
    }
    rows(case, &series)
}

/// One run of the load client against a server that serves; `look` is called before its first message and after its last.
pub(super) fn load<T>(
    bench: &Bench,
    server: SocketAddr,
    depth: u32,
    waiting: Waiting,
    mut look: impl FnMut() -> io::Result<T>,
) -> io::Result<(T, T, LoadReport)> {
    let (address, depth, seconds) = (server.to_string(), depth.to_string(), bench.seconds.to_string());
    let arguments = ["load", &address, "--connections", CONNECTIONS, "--depth", &depth, "--seconds", &seconds];
    let busy_poll = matches!(waiting, Waiting::BusyPoll).then_some("--busy-poll");
    let mut client = bench.programs.client(bench.client_core, arguments.into_iter().chain(busy_poll))?;
    client.line(PATIENCE)?;
    let before = look()?;
    client.tell("go")?;
    let report = serde_json::from_str(&client.line(PATIENCE)?)?;
    Ok((before, look()?, report))
}

fn sample(bench: &Bench, target: Target, depth: u32) -> io::Result<Sample> {
    let server = target.start(&bench.programs, bench.server_core)?;
    let processes = server.process.family();
    let (before, after, report) = load(bench, server.address, depth, Waiting::Sleep, || Cpu::of(&processes))?;
    let cpu = after.since(before);
    Ok(Sample {
        micros: cpu.spent_ns as f64 / 1e3 / report.messages as f64,
        per_second: report.messages as f64 / report.seconds,
        busy: cpu.spent_ns as f64 / 1e9 / report.seconds,
        disturbed: cpu.waited_ns as f64 / 1e9 / report.seconds,
    })
}

fn rows(case: Case, series: &[Series]) -> Vec<Row> {
    let title = |target: Target| format!("{CONNECTIONS} × {}: {}", case.depth, target.name());
    let find = |target: Target| {
        let series = series.iter().find(|series| series.target == target);
        series.and_then(|series| series.outcome.as_ref().ok()).map_or(&[][..], Vec::as_slice)
    };
    let mut rows = Vec::new();
    for Series { target, outcome } in series {
        let samples = match outcome {
            Ok(samples) => samples,
            Err(error) => {
                rows.push(Row::failed(title(*target), UNIT, error));
                continue;
            }
        };
        let row = Row::of(title(*target), UNIT, samples.iter().map(|sample| sample.micros).collect())
            .beside(ratio(samples, find(case.floor)))
            .noted(note(samples));
        rows.push(if *target == Target::Baton { row.asked(Some(case.limit), Some(case.aim)) } else { row });
    }
    if case.beats_fastwebsockets {
        let title = format!("{CONNECTIONS} × {}: baton / fastwebsockets", case.depth);
        let ratio = ratio(find(Target::Baton), find(Target::Fastwebsockets));
        rows.push(Row::of(title, table::TIMES, ratio.into_iter().collect()).asked(Some(1.0), None));
    }
    rows
}

/// The median of the rounds' ratios: what slows a whole round down cancels out.
fn ratio(samples: &[Sample], reference: &[Sample]) -> Option<f64> {
    let ratios: Vec<f64> = samples.iter().zip(reference).map(|(one, other)| one.micros / other.micros).collect();
    median(&ratios)
}

fn note(samples: &[Sample]) -> String {
    let of = |value: fn(&Sample) -> f64| median(&samples.iter().map(value).collect::<Vec<_>>()).unwrap_or(0.0);
    format!(
        "{:.0} messages/s with {:.0} % of its core{}",
        of(|sample| sample.per_second),
        100.0 * of(|sample| sample.busy),
        warning(of(|sample| sample.disturbed))
    )
}

/// Says if others had the core for too long a share of the time.
pub(super) fn warning(disturbed: f64) -> String {
    // Its own supervisor and the kernel's threads are there too; more than this is somebody else's work.
    if disturbed > DISTURBED {
        format!("; DISTURBED: waited {:.0} % of the time", 100.0 * disturbed)
    } else {
        String::new()
    }
}
