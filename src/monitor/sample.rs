//! One look at the service: both generations over their control sockets, and `/metrics`.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use baton_ipc::control::{BackplaneRow, Command, Output, Status};

use super::exposition::Exposition;
use crate::ctl::client::{Client, Error};
use crate::probe;

/// How long `/metrics` may take.
const SCRAPE_TIMEOUT: Duration = Duration::from_secs(2);

/// Where to look.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// Where control sockets may be.
    pub(super) directories: Vec<PathBuf>,
    /// Only this generation; none: whichever there are.
    pub(super) color: Option<String>,
}

/// What a look has found.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sample {
    /// When it was, since the monitor began.
    pub(super) at: Duration,
    /// One of those that are the interval apart, and not a closer look in between.
    pub(super) regular: bool,
    /// What was there.
    pub(super) found: Result<Service, String>,
}

/// A service that answers.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Service {
    /// The generation that serves, and then the other one, if there is one.
    pub(super) generations: Vec<Status>,
    /// What the workers share, as each of them sees it.
    pub(super) backplane: Result<Vec<BackplaneRow>, String>,
    /// The numbers that only `/metrics` has; why not, in words.
    pub(super) metrics: Result<Exposition, String>,
}

impl Service {
    /// The generation that serves.
    pub(super) fn serving(&self) -> Option<&Status> {
        self.generations.first()
    }

    /// Open WebSockets of all generations.
    pub(super) fn connections(&self) -> u64 {
        self.generations.iter().map(connections).sum()
    }

    /// Whether something goes on that is worth a closer look.
    pub(super) fn is_moving(&self) -> bool {
        let steady = |status: &Status| matches!(status.phase.as_str(), "running" | "standby");
        !self.generations.iter().all(steady)
    }
}

/// Open WebSockets of one generation.
pub(super) fn connections(status: &Status) -> u64 {
    status.slots.iter().map(|slot| slot.connections).sum()
}

/// Asks everybody how they are, and who serves for the numbers, if they are wanted. The connections that it was done with
/// are good for more questions, the serving generation's first.
pub(super) fn look(place: &Place, numbers: bool) -> Result<(Service, Vec<Client>), Error> {
    let mut found: Vec<(Status, Client)> = Vec::new();
    let mut failure = None;
    for mut client in Client::connect_all(&place.directories, place.color.as_deref())? {
        match client.status(None) {
            Ok(status) => found.push((status, client)),
            // One that goes away meanwhile does not hide the other.
            Err(error) => failure = Some(error),
        }
    }
    if let (true, Some(error)) = (found.is_empty(), failure) {
        return Err(error);
    }
    found.sort_by_key(|(status, _)| rank(&status.phase));
    let (generations, mut clients): (Vec<Status>, Vec<Client>) = found.into_iter().unzip();
    let (backplane, metrics) = match clients.first_mut().filter(|_| numbers) {
        Some(client) => (self::backplane(client), scrape(&generations)),
        None => (Ok(vec![]), Ok(Exposition::default())),
    };
    Ok((Service { generations, backplane, metrics }, clients))
}

/// Who serves is first, who waits is last.
fn rank(phase: &str) -> u8 {
    match phase {
        "running" | "reloading" | "handing-over" => 0,
        "draining" => 1,
        _ => 2,
    }
}

fn backplane(client: &mut Client) -> Result<Vec<BackplaneRow>, String> {
    match client.ask(Command::Backplane, |_, _| Ok(())) {
        Ok(Output::Backplane { rows }) => Ok(rows),
        Ok(_) => Err("an answer to another question".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// The first address that answers has the numbers of all workers.
fn scrape(generations: &[Status]) -> Result<Exposition, String> {
    let deadline = Instant::now() + SCRAPE_TIMEOUT;
    let mut failure = "there is no address to ask".to_owned();
    for address in generations.first().iter().flat_map(|status| &status.listen) {
        match probe::get(address, "/metrics", deadline).and_then(|text| Exposition::parse(&text)) {
            Ok(exposition) => return Ok(exposition),
            Err(reason) => failure = format!("{address} {reason}"),
        }
    }
    Err(failure)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_serves_comes_first() {
        let mut phases = ["standby", "starting", "draining", "handing-over"];
        phases.sort_by_key(|phase| rank(phase));
        assert_eq!(phases[..2], ["handing-over", "draining"]);
    }
}
