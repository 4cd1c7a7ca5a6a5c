//! The one blocking point: `poll(2)` over everything that can happen.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use baton_ipc::Slot as SlotId;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::Error;
use crate::control::ClientId;
use crate::supervisor::{SECOND, Supervisor};
use crate::takeover::Driver;
use crate::transfer::Who;

/// Whom a poll entry belongs to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Source {
    Signals,
    Control,
    Client(ClientId),
    Channel(Who),
    Process(Who),
    Door,
    Visitor,
    Peer,
    Probe,
}

impl Supervisor<'_> {
    /// The blocking point.
    pub(crate) fn wait(&mut self) -> Vec<(Source, PollFlags)> {
        let mut entries = vec![(Source::Signals, PollFd::new(self.signals.as_fd(), PollFlags::POLLIN))];
        if self.control.is_open() {
            entries.push((Source::Control, PollFd::new(self.control.as_fd(), PollFlags::POLLIN)));
        }
        entries.extend(self.control.interests().map(|(id, fd, flags)| (Source::Client(id), PollFd::new(fd, flags))));
        for (slot, place) in self.places.iter().enumerate() {
            for worker in place.workers() {
                let who = Who { slot: slot as SlotId, pid: worker.pid };
                if !worker.mute {
                    entries.push((Source::Channel(who), PollFd::new(worker.channel.as_fd(), PollFlags::POLLIN)));
                }
                entries.push((Source::Process(who), PollFd::new(worker.pidfd(), PollFlags::POLLIN)));
            }
        }
        let singles = [
            Some((Source::Door, self.door.as_fd())),
            self.visitor.as_ref().map(|(channel, _)| (Source::Visitor, channel.as_fd())),
            self.peer.as_ref().map(|peer| (Source::Peer, peer.channel.as_fd())),
            self.probe.as_ref().map(|probe| (Source::Probe, probe.child.channel.as_fd())),
        ];
        let singles = singles.into_iter().flatten();
        entries.extend(singles.map(|(source, fd)| (source, PollFd::new(fd, PollFlags::POLLIN))));
        let (sources, mut fds): (Vec<Source>, Vec<PollFd<'_>>) = entries.into_iter().unzip();
        let outcome = poll(&mut fds, self.patience());
        let ready = |fd: &PollFd<'_>| fd.revents().unwrap_or(PollFlags::POLLERR);
        let events: Vec<PollFlags> = fds.iter().map(ready).collect();
        let everything = sources.into_iter().zip(events);
        self.now = Instant::now();
        match outcome {
            Ok(_) => everything.filter(|(_, events)| !events.is_empty()).collect(),
            Err(Errno::EINTR) => vec![],
            Err(errno) => {
                let sources: Vec<Source> = everything.map(|(source, _)| source).collect();
                self.poll_failed(errno);
                // Nothing here blocks: look at everything, and not too often.
                std::thread::sleep(Duration::from_millis(50));
                sources.into_iter().map(|source| (source, PollFlags::POLLIN)).collect()
            }
        }
    }

    /// Without poll there is no way to go on; to drain there is.
    fn poll_failed(&mut self, errno: Errno) {
        if self.failure.is_none() {
            tracing::error!(error = %errno, "poll failed: the service drains");
            self.failure = Some(Error::System { what: "wait for events", source: io::Error::from(errno) });
            self.shut_down(None);
        }
    }

    /// Until the nearest deadline, rounded up: to wake too early would be to spin.
    fn patience(&self) -> PollTimeout {
        let slots = self.places.iter().flat_map(|place| place.slot.deadline().into_iter().chain(place.deadline()));
        let inquiries = self.inquiries.iter().map(|inquiry| inquiry.deadline);
        let probe = self.probe.as_ref().map(|probe| probe.deadline);
        let driver = self.driver.as_ref().and_then(Driver::deadline);
        let single = [Some(self.next_second), self.control.deadline(), self.notifier.deadline(), probe, driver];
        let nearest = slots.chain(inquiries).chain(single.into_iter().flatten()).min();
        let wait = nearest.map_or(SECOND, |at| at.saturating_duration_since(Instant::now()));
        PollTimeout::try_from(wait.as_micros().div_ceil(1000)).unwrap_or(PollTimeout::from(1000u16))
    }

    pub(crate) fn attend(&mut self, source: Source, events: PollFlags) {
        match source {
            Source::Signals => loop {
                match self.signals.take() {
                    Ok(Some(signal)) => self.signal(signal),
                    Ok(None) => break,
                    Err(error) => {
                        tracing::error!(%error, "cannot read signals");
                        break;
                    }
                }
            },
            Source::Control => self.control.accept(self.now),
            Source::Client(id) => self.control.attend(id, events, self.now),
            Source::Door => self.let_in(),
            Source::Visitor => self.hear_visitor(),
            Source::Peer => self.hear_peer(),
            Source::Probe => self.hear_probe(),
            Source::Channel(who) => self.listen(who),
            Source::Process(who) => {
                // Its last words first.
                self.listen(who);
                self.reap(who);
            }
        }
    }
}
