//! Trying the service like a client, in a child of its own: it may wait, and the loop may not.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use baton_ipc::{Channel, Endpoint, Slot};

use crate::process::{self, Fork, Worker};
use crate::supervisor::Supervisor;

/// How long it may take in all.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is to be tried.
#[derive(Debug, Default)]
pub(crate) struct ProbeJob {
    /// Sockets that lead to our workers; without any the public address is tried.
    pub(crate) sockets: Vec<(Slot, OwnedFd)>,
    pub(crate) public: Vec<Endpoint>,
    /// The supervisor that must answer there.
    pub(crate) pid: u32,
}

/// One that is under way.
#[derive(Debug)]
pub(crate) struct Probe {
    pub(crate) child: Worker,
    pub(crate) deadline: Instant,
}

impl Supervisor<'_> {
    /// Forks the one that is wanted. In the child: what to try, and where to say how it went.
    pub(crate) fn fork_probe(&mut self) -> Option<(ProbeJob, Channel)> {
        let job = self.probe_wanted.take()?;
        match process::fork(self.side, self.now) {
            Ok(Fork::Child(channel)) => return Some((job, channel)),
            Ok(Fork::Parent(child)) => self.probe = Some(Probe { child, deadline: self.now + PATIENCE }),
            Err(error) => self.probed(Err(format!("cannot fork: {error}"))),
        }
        None
    }

    /// It has said something, or ended.
    pub(crate) fn hear_probe(&mut self) {
        let Some(probe) = &self.probe else { return };
        let outcome = match probe.child.channel.recv::<Result<(), String>>() {
            Ok(Some((outcome, _))) => outcome,
            Ok(None) => return,
            Err(_) => Err("it died, and did not say why".to_owned()),
        };
        self.end_probe();
        self.probed(outcome);
    }

    /// It has taken too long.
    pub(crate) fn look_at_probe(&mut self) {
        if self.probe.as_ref().is_some_and(|probe| self.now >= probe.deadline) {
            self.end_probe();
            self.probed(Err(format!("no answer within {PATIENCE:?}")));
        }
    }

    pub(crate) fn end_probe(&mut self) {
        if let Some(Probe { child, .. }) = self.probe.take() {
            child.end();
        }
    }
}
