//! `make bench-check`: a run beside the committed one; exits 1 if a figure got worse by more than the tolerance.

#![forbid(unsafe_code)]

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use baton_benches::baseline::{self, Results};
use clap::Parser;

/// Compares what `bench --json FILE` has written with the committed figures
#[derive(Parser)]
#[command(version)]
struct Cli {
    /// The committed figures
    baseline: PathBuf,
    /// Those to compare with them
    now: PathBuf,
    /// By how many percent of the committed figure one may be worse
    #[arg(long, value_name = "PERCENT", default_value_t = 10.0)]
    tolerance: f64,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench_check: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> io::Result<bool> {
    let (committed, now) = (read(&cli.baseline)?, read(&cli.now)?);
    let figures = baseline::compare(&committed.rows, &now.rows);
    if figures.is_empty() {
        return Err(io::Error::other("neither file has a figure that can be compared"));
    }
    let tolerance = cli.tolerance / 100.0;
    print!("{}", baseline::render(&figures, tolerance));
    let worse = figures.iter().filter(|figure| figure.is_worse(tolerance)).count();
    println!(
        "\n{worse} of {} figures worse by more than {} %, or not measured; committed on {}, now on {}",
        figures.len(),
        cli.tolerance,
        committed.machine.processor,
        now.machine.processor
    );
    Ok(worse == 0)
}

fn read(file: &Path) -> io::Result<Results> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", file.display()));
    let text = fs::read_to_string(file).map_err(named)?;
    serde_json::from_str(&text).map_err(|error| named(error.into()))
}
