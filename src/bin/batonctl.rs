//! `batonctl`: the control client of baton.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    baton::batonctl()
}
