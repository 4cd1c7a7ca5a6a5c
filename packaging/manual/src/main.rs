//! `baton-manual DIRECTORY DATE`: writes there the manual pages that are made from the code: baton(1), a page for each of
//! its commands, batonctl(1) and baton.toml(5). It is no part of what is installed.
#![forbid(unsafe_code)]

use std::fs;
use std::path::Path;
use std::process::ExitCode;

mod command;
mod settings;

/// What all pages have at their head and foot.
const MANUAL: &str = "baton";
const SOURCE: &str = concat!("baton ", env!("CARGO_PKG_VERSION"));

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [directory, date] = &arguments[..] else {
        eprintln!("usage: baton-manual DIRECTORY DATE");
        return ExitCode::from(2);
    };
    match write(Path::new(directory), date) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("baton-manual: {directory}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn write(directory: &Path, date: &str) -> std::io::Result<()> {
    fs::create_dir_all(directory)?;
    for (name, text) in command::pages(date).into_iter().chain([settings::page(date)]) {
        fs::write(directory.join(name), text)?;
    }
    Ok(())
}
