//! `make bench`: measures, prints one table, exits 0 if every figure is within its limit and 1 if not.

#![forbid(unsafe_code)]

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use baton_benches::baseline::Results;
use baton_benches::machine::{self, Machine};
use baton_benches::rows::{Bench, busy, even, idle, life, messages, redis, scale, storm, takeover, thin};
use baton_benches::table::{self, Row};
use baton_benches::targets::Programs;
use clap::{Parser, ValueEnum};
use nix::unistd::alarm;

/// Measures baton beside a bare epoll loop, fastwebsockets and tokio-tungstenite
#[derive(Parser)]
#[command(version)]
struct Cli {
    /// The baton to measure [default: the one beside this program]
    #[arg(long, value_name = "PATH")]
    baton: Option<PathBuf>,
    /// Also write the figures, with every sample, to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Fewer and shorter rounds, and no more than 5,000 connections: to see that it works, not to publish
    #[arg(long)]
    quick: bool,
    /// Only these rows
    #[arg(long, value_name = "ROW", value_delimiter = ',')]
    only: Vec<Group>,
    /// Rounds of the rows that compare [default: 5, with --quick 3]
    #[arg(long)]
    rounds: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Group {
    /// CPU per message, one in flight
    One,
    /// CPU per message, bursts of 16
    Burst,
    /// CPU per message with Redis, and what it is sent
    Redis,
    /// CPU per message spread thin over many connections, with Redis and without
    Thin,
    /// Memory of idle connections
    Idle,
    /// Start to /readyz 200
    Start,
    /// SIGTERM to gone
    Shutdown,
    /// Heartbeat, first client to last
    Heartbeat,
    /// Very many idle connections: memory, CPU at rest, a heartbeat to all of them
    Scale,
    /// All clients connect at once
    Storm,
    /// How evenly new connections are spread over the workers
    Even,
    /// One worker's core busy to the full: what the others' clients notice
    Busy,
    /// Takeovers: how long they take, and what clients notice
    Takeover,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> io::Result<bool> {
    machine::raise_descriptor_limit()?;
    let own = std::env::current_exe()?;
    let directory = own.parent().unwrap_or(Path::new(".")).to_owned();
    let baton = cli.baton.clone().unwrap_or_else(|| directory.join("baton"));
    let mut bench = Bench::new(Programs { directory, baton }, cli.quick)?;
    bench.rounds = cli.rounds.unwrap_or(bench.rounds).max(1);
    // Each wait has its own bound; this is for what nobody thought of. The kernel then ends this process and its children.
    alarm::set(540 + 26 * u32::try_from(bench.rounds).unwrap_or(u32::MAX / 52));

    let machine = Machine::of_this_run()?;
    print_facts(&machine, &bench);
    let started = Instant::now();
    let rows = measure(cli, &bench);
    progress("");
    println!("{}", table::render(&rows));
    println!("measured in {:.0} s", started.elapsed().as_secs_f64());
    let results = Results { machine, rows };
    if let Some(file) = &cli.json {
        std::fs::write(file, serde_json::to_string_pretty(&results)? + "\n")?;
    }
    Ok(results.rows.iter().all(|row| row.verdict.is_good()))
}

fn measure(cli: &Cli, bench: &Bench) -> Vec<Row> {
    let wanted = |group| cli.only.is_empty() || cli.only.contains(&group);
    let mut rows = Vec::new();
    for (group, case) in [(Group::One, messages::ONE), (Group::Burst, messages::BURST)] {
        if wanted(group) {
            rows.extend(messages::measure(bench, case, progress));
        }
    }
    if wanted(Group::Redis) {
        rows.extend(redis::measure(bench, progress));
    }
    if wanted(Group::Thin) {
        rows.extend(thin::measure(bench, progress));
    }
    if wanted(Group::Idle) {
        let sizes: &[usize] = if cli.quick { &[5_000] } else { &[5_000, 20_000] };
        for connections in sizes {
            progress(&format!("idle memory, {connections} connections"));
            rows.push(idle::measure(bench, *connections));
        }
    }
    for (group, title, row) in [
        (Group::Start, "start", life::start as fn(&Bench) -> Row),
        (Group::Shutdown, "shutdown", life::shutdown),
        (Group::Heartbeat, "heartbeat", life::heartbeat),
    ] {
        if wanted(group) {
            progress(title);
            rows.push(row(bench));
        }
    }
    if wanted(Group::Scale) {
        let sizes: &[(usize, u16)] = if cli.quick { &[(5_000, 4)] } else { &[(75_000, 4), (150_000, 8)] };
        for (connections, workers) in sizes {
            progress(&format!("{connections} idle connections"));
            rows.extend(scale::measure(bench, *connections, *workers));
        }
    }
    if wanted(Group::Storm) {
        progress("connects at once");
        rows.extend(storm::measure(bench));
    }
    for (group, title, row) in [
        (Group::Even, "connections per worker", even::measure as fn(&Bench) -> Row),
        (Group::Busy, "one worker's core busy", busy::measure),
    ] {
        if wanted(group) {
            progress(title);
            rows.push(row(bench));
        }
    }
    if wanted(Group::Takeover) {
        rows.extend(takeover::measure(bench, progress));
    }
    rows
}

fn print_facts(machine: &Machine, bench: &Bench) {
    let cores = match (bench.server_core, bench.client_core) {
        (Some(server), Some(client)) => format!("server on core {server}, client on core {client}"),
        _ => "server and client share a core: do not publish".to_owned(),
    };
    println!(
        "Linux {}, {}, {} cores, {} MiB, {} descriptors per process, {} profile, load {:.2} at the start",
        machine.kernel,
        machine.processor,
        machine.cores,
        machine.memory_mib,
        machine.descriptors,
        machine.profile,
        machine.load
    );
    println!(
        "messages: text \"hello\"; {cores}; {} rounds of {:?} in turn; baton with one worker, embedded store, group commit, \
         unless the row says otherwise\n",
        bench.rounds,
        Duration::from_secs_f64(bench.seconds)
    );
}

/// What is being measured, on one line that the next replaces; nothing where nobody watches.
fn progress(what: &str) {
    let mut stderr = io::stderr();
    if stderr.is_terminal() {
        let _ = write!(stderr, "\r\x1b[K{what}");
        let _ = stderr.flush();
    }
}
