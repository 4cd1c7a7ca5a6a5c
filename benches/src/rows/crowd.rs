//! More connections than one client process may have descriptors, or one source address ports.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::child::Running;
use crate::rows::Bench;

const PATIENCE: Duration = Duration::from_secs(60);

/// Client processes, each with a source address of its own and its share of the connections.
pub(super) struct Crowd {
    clients: Vec<Running>,
}

/// What a crowd is like.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kind<'a> {
    /// The mode of `bench_client`, and what it needs beside the server, the number and the source.
    pub(super) mode: &'a str,
    pub(super) arguments: &'a [&'a str],
    /// The most connections of one process.
    pub(super) per_client: usize,
    pub(super) core: Option<usize>,
}

impl Kind<'_> {
    /// `connections` of this kind to `server`; all of them stand when this returns.
    pub(super) fn open(self, bench: &Bench, server: SocketAddr, connections: usize) -> io::Result<Crowd> {
        let address = server.to_string();
        let mut clients = Vec::new();
        for nth in 0..connections.div_ceil(self.per_client) {
            let share = self.per_client.min(connections - nth * self.per_client).to_string();
            let source = format!("127.0.0.{}", 2 + nth);
            let arguments = [self.mode, &address, "--connections", &share, "--source", &source];
            let arguments = arguments.into_iter().chain(self.arguments.iter().copied());
            clients.push(bench.programs.client(self.core, arguments)?);
        }
        let mut crowd = Crowd { clients };
        crowd.lines()?;
        Ok(crowd)
    }
}

impl Crowd {
    /// Says something to each.
    pub(super) fn tell(&mut self, line: &str) -> io::Result<()> {
        self.clients.iter_mut().try_for_each(|client| client.tell(line))
    }

    /// From now on they run only when no other process wants their core.
    pub(super) fn yield_to_others(&self) -> io::Result<()> {
        self.clients.iter().try_for_each(Running::yield_to_others)
    }

    /// The next line of each.
    pub(super) fn lines(&mut self) -> io::Result<Vec<String>> {
        self.clients.iter_mut().map(|client| client.line(PATIENCE)).collect()
    }

    /// What each has to report.
    pub(super) fn reports<T: serde::de::DeserializeOwned>(&mut self) -> io::Result<Vec<T>> {
        self.lines()?.iter().map(|line| Ok(serde_json::from_str(line)?)).collect()
    }

    /// Waits until each has ended.
    pub(super) fn wait(mut self) -> io::Result<()> {
        self.clients.iter_mut().try_for_each(|client| client.wait(PATIENCE).map(drop))
    }
}
