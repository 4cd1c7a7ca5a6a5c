//! A client that sends at a rate all the time, on connections of its own, and says how it was answered in some stretches.

use std::io;
use std::time::Duration;

use crate::child::Running;
use crate::client::orders::Order;
use crate::client::paced::PacedReport;
use crate::rows::Bench;

const PATIENCE: Duration = Duration::from_secs(60);

/// Such a client, which has begun.
pub(super) struct Talker {
    client: Running,
}

impl Talker {
    /// Begins on the client's core, with `rate` messages a second over `connections`.
    pub(super) fn begin(bench: &Bench, server: &str, connections: usize, rate: u64) -> io::Result<Talker> {
        let (connections, rate) = (connections.to_string(), rate.to_string());
        let arguments = ["load", server, "--connections", &connections, "--rate", &rate];
        Talker::of(bench.programs.client(bench.client_core, arguments)?)
    }

    /// One that has been started, as soon as its connections stand.
    ///
    /// It goes before what else its core may be busy with: what it sees is to be the service's doing. Where that takes a
    /// privilege which is not there, its report says how late it was itself.
    pub(super) fn of(mut client: Running) -> io::Result<Talker> {
        client.line(PATIENCE)?;
        let _ = client.go_before_others();
        Ok(Talker { client })
    }

    /// What it sees while `act` is done is a figure of its own.
    pub(super) fn marked<T>(&mut self, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        self.client.tell(Order::Mark.word())?;
        let outcome = act()?;
        self.client.tell(Order::Unmark.word())?;
        Ok(outcome)
    }

    /// It stops, once all is answered.
    pub(super) fn finish(mut self) -> io::Result<PacedReport> {
        self.client.tell(Order::Stop.word())?;
        Ok(serde_json::from_str(&self.client.line(PATIENCE)?)?)
    }
}
