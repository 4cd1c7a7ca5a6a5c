//! Lanes between our workers and the other generation's, and orders to give over them.

use std::collections::BTreeMap;
use std::os::fd::AsFd;

use baton_ipc::messages::{Amount, Share, ToWorker};
use baton_ipc::takeover::Message;
use baton_ipc::{Channel, ChannelError, Slot, fault};
use nix::unistd::Pid;

use super::plan;
use super::successor::{HANDING, Stage};
use crate::supervisor::Supervisor;
use crate::transfer::{Purpose, Transfer, Who};

/// A worker of the other generation: its pid is the other supervisor's affair, which passes on what it says.
fn theirs(slot: Slot) -> Who {
    Who { slot, pid: Pid::from_raw(0) }
}

impl Supervisor<'_> {
    /// Lanes from the incumbent's workers, so that they know where to go should their supervisor die.
    pub(super) fn offer_refuge(&mut self) {
        let takers = self.serving();
        let givers = usize::from(self.listeners.slots());
        for (slot, shares) in (0..).zip(plan::shares(givers, takers.len())) {
            for (index, _) in shares {
                self.lane_between(takers[index], slot);
            }
        }
    }

    /// A new lane between a worker of ours and one of the other generation.
    fn lane_between(&mut self, ours: Who, theirs: Slot) -> Option<u64> {
        let lane = self.next_name();
        let made = Channel::pair().map_err(ChannelError::from).and_then(|(one, other)| {
            self.send_lane(ours, lane, true, &one)?;
            Ok(other)
        });
        match made {
            Ok(other) => {
                self.say(&Message::Lane { slot: theirs, lane }, &[other.as_fd()]);
                Some(lane)
            }
            Err(error) => {
                // Without it the others get more.
                tracing::warn!(slot = ours.slot, %error, "a worker gets no lane");
                None
            }
        }
    }

    /// First some of each worker's connections.
    pub(super) fn begin_canary(&mut self, share: f64) {
        self.set_stage(Stage::Canary { deadline: self.now + HANDING });
        let amounts = self.workers_of_peer();
        self.take(amounts.into_iter().map(|(slot, count)| (slot, Amount::Most(plan::percent(count, share)))).collect());
    }

    /// Then all.
    pub(super) fn begin_handing(&mut self) {
        self.set_stage(Stage::Handing { deadline: self.now + HANDING });
        let amounts = self.workers_of_peer();
        self.take(amounts.into_iter().map(|(slot, _)| (slot, Amount::All)).collect());
    }

    /// Has the other generation's workers give to ours.
    fn take(&mut self, amounts: Vec<(Slot, Amount)>) {
        let takers = self.serving();
        for ((slot, amount), plan) in amounts.iter().zip(plan::shares(amounts.len(), takers.len())) {
            let (mut lanes, mut shares) = (BTreeMap::new(), Vec::new());
            for (index, weight) in plan {
                if let Some(lane) = self.lane_between(takers[index], *slot) {
                    lanes.insert(lane, Some(takers[index]));
                    shares.push(Share { lane, weight });
                }
            }
            let id = self.next_name();
            self.transfers.push(Transfer::new(id, Purpose::Takeover, theirs(*slot), lanes, self.now));
            self.say(&Message::Give { id, slot: *slot, shares, amount: *amount }, &[]);
            fault::point("takeover give said");
        }
        self.takeover_transfers_may_be_over();
    }

    /// Has our workers give to the other generation's.
    pub(super) fn give_back(&mut self) {
        let takers: Vec<Slot> = self.workers_of_peer().into_iter().map(|(slot, _)| slot).collect();
        let givers = self.serving();
        for (giver, plan) in givers.iter().zip(plan::shares(givers.len(), takers.len())) {
            let (mut lanes, mut shares) = (BTreeMap::new(), Vec::new());
            for (index, weight) in plan {
                if let Some(lane) = self.lane_between(*giver, takers[index]) {
                    lanes.insert(lane, Some(theirs(takers[index])));
                    shares.push(Share { lane, weight });
                }
            }
            let id = self.next_name();
            self.transfers.push(Transfer::new(id, Purpose::Takeover, *giver, lanes, self.now));
            self.tell_one(*giver, &ToWorker::Give { id, shares, amount: Amount::All });
        }
        self.takeover_transfers_may_be_over();
    }

    /// As the other generation has told them last.
    fn workers_of_peer(&self) -> Vec<(Slot, u64)> {
        self.driver.as_ref().map_or_else(Vec::new, |driver| driver.workers.clone())
    }
}
