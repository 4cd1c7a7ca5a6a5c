//! Memory of idle connections: proportional set size of the workers, with and without the connections.

use std::io;
use std::thread::sleep;
use std::time::Duration;

use crate::procfs;
use crate::rows::Bench;
use crate::rows::crowd::{Crowd, Kind};
use crate::table::{self, Row};
use crate::targets::Server;

pub(super) const UNIT: &str = table::BYTES;
const WORKERS: u16 = 4;
/// Connections of one client process, which has one source address.
const PER_CLIENT: usize = 5_000;
/// Connections that come and go before the first look, so that code and tables that are made at the first connection are
/// not charged to the others.
pub(super) const FIRST: usize = 64;
pub(super) const SETTLE: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(30);

/// Measures `connections` idle connections.
pub fn measure(bench: &Bench, connections: usize) -> Row {
    let title = format!("idle memory, {connections} connections");
    // Of few connections a page more or less in each worker is a tenth.
    let runs = (0..bench.rounds.min(3)).map(|_| bytes(bench, connections)).collect::<io::Result<Vec<_>>>();
    match runs {
        Ok(runs) => {
            let notes: Vec<String> = runs.iter().map(Figures::note).collect();
            Row::of(title, UNIT, runs.iter().map(|run| run.settled).collect())
                .asked(Some(400.0), Some(200.0))
                .noted(notes.join(" | "))
        }
        Err(error) => Row::failed(title, UNIT, error),
    }
}

/// All in bytes per connection, all above the workers as they were before the first of them.
struct Figures {
    /// As soon as the last handshake was done.
    at_once: f64,
    /// A moment later: the headline.
    settled: f64,
    /// A moment after all were closed.
    left: f64,
    /// As many again, a moment later.
    again: f64,
    /// The workers before, in MiB all together.
    before_mib: f64,
}

impl Figures {
    fn note(&self) -> String {
        format!(
            "at once {:.0}, after 2 s {:.0}; {:.0} left when all had closed; {:.0} with as many again; the {WORKERS} workers \
             began at {:.1} MiB",
            self.at_once, self.settled, self.left, self.again, self.before_mib
        )
    }
}

fn bytes(bench: &Bench, connections: usize) -> io::Result<Figures> {
    let server = bench.programs.baton(WORKERS, "30s")?.start(None)?;
    close(open(bench, &server, FIRST)?)?;
    sleep(SETTLE);
    let workers = server.workers();
    let before = procfs::pss(&workers)?;
    let above = || -> io::Result<f64> { Ok((procfs::pss(&workers)? as f64 - before as f64) / connections as f64) };

    let clients = open(bench, &server, connections)?;
    let at_once = above()?;
    sleep(SETTLE);
    let settled = above()?;
    close(clients)?;
    sleep(SETTLE);
    let left = above()?;
    let clients = open(bench, &server, connections)?;
    sleep(SETTLE);
    let again = above()?;
    close(clients)?;
    server.shut_down(PATIENCE)?;
    Ok(Figures { at_once, settled, left, again, before_mib: before as f64 / f64::from(1 << 20) })
}

/// As many clients as it takes, all connected.
pub(super) fn open(bench: &Bench, server: &Server, connections: usize) -> io::Result<Crowd> {
    let kind = Kind { mode: "idle", arguments: &[], per_client: PER_CLIENT, core: None };
    kind.open(bench, server.address, connections)
}

pub(super) fn close(mut clients: Crowd) -> io::Result<()> {
    clients.tell("close")?;
    clients.lines()?;
    clients.wait()
}
