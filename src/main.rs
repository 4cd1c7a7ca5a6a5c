//! `baton`: the message counter as a service.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    baton::main(baton::Counter::default())
}
