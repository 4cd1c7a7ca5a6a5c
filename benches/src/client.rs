//! The load client, as light as it can be: one thread, one edge-triggered epoll, a constant frame masked once, one `recv`
//! and one `send` per reply or burst. It runs as `bench_client` on a core of its own, so that its work is not the server's.
//!
//! Talk with whoever started it: `ready` on stdout when all connections stand, then it waits for a line on stdin; at the
//! end its report, one JSON object on one line. With a rate it does not wait, and hears [`orders`] while it goes on. Before
//! all that it may have to [choose].

pub mod arrivals;
pub mod choose;
pub mod connect;
pub mod heartbeat;
pub mod idle;
pub mod load;
pub mod orders;
pub mod pace;
pub mod paced;
pub mod shutdown;

use std::io::{self, BufRead, Write};

use serde::Serialize;

pub use connect::{Dial, Link, Received};
pub use orders::Orders;

/// Says `ready` and waits for a line on stdin; false if whoever would have written it is gone.
///
/// # Errors
/// Those of the two streams.
pub fn ready() -> io::Result<bool> {
    println!("ready");
    Ok(io::stdin().lock().read_line(&mut String::new())? > 0)
}

/// Writes the report, one line.
///
/// # Errors
/// Those of stdout.
pub fn report(report: &impl Serialize) -> io::Result<()> {
    let mut stdout = io::stdout();
    writeln!(stdout, "{}", serde_json::to_string(report)?)?;
    stdout.flush()
}

/// What ends a run: an answer that is not the one expected.
pub(crate) fn wrong(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}
