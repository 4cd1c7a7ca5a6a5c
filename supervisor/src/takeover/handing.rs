//! Lanes between our workers and the other generation's, and orders to give over them.

use std::collections::BTreeMap;
use std::os::fd::AsFd;

use baton_ipc::messages::{Amount, Share, ToWorker};
use baton_ipc::scoreboard::{GAUGE_CONNECTIONS, GAUGE_LIMIT};
use baton_ipc::takeover::{Message, takes};
use baton_ipc::{Channel, ChannelError, Slot, fault};
use nix::unistd::Pid;

use super::plan::{self, Taker};
use super::successor::{HANDING, Stage};
use crate::supervisor::Supervisor;
use crate::transfer::{Purpose, Transfer, Who};

/// A worker of the other generation: its pid is the other supervisor's affair, which passes on what it says.
fn theirs(slot: Slot) -> Who {
    Who { slot, pid: Pid::from_raw(0) }
}

/// What a worker of the other generation is to give.
struct Order {
    slot: Slot,
    /// So many connections, as far as is known.
    count: u64,
    amount: Amount,
}

impl Supervisor<'_> {
    /// Lanes from the incumbent's workers, so that they know where to go should their supervisor die.
    pub(super) fn offer_refuge(&mut self) {
        let takers = self.serving();
        let givers = usize::from(self.listeners.slots());
        for (slot, indexes) in (0..).zip(plan::refuges(givers, takers.len())) {
            for index in indexes {
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
        let some = |(slot, count)| {
            let most = plan::percent(count, share);
            Order { slot, count: most, amount: Amount::Most(most) }
        };
        self.take(self.workers_of_peer().into_iter().map(some).collect());
    }

    /// Then all.
    pub(super) fn begin_handing(&mut self) {
        self.set_stage(Stage::Handing { deadline: self.now + HANDING });
        let canary = self.driver.as_ref().and_then(|driver| driver.wishes.canary).unwrap_or(0.0);
        let rest = |(slot, count)| Order { slot, count: count - plan::percent(count, canary), amount: Amount::All };
        self.take(self.workers_of_peer().into_iter().map(rest).collect());
    }

    /// Has the other generation's workers give to ours.
    fn take(&mut self, orders: Vec<Order>) {
        let takers = self.serving();
        let counts: Vec<u64> = orders.iter().map(|order| order.count).collect();
        let plan = plan::shares(&counts, &self.room_here(&takers));
        for (Order { slot, amount, .. }, plan) in orders.iter().zip(plan) {
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
        let takers = self.workers_of_peer();
        let givers = self.serving();
        let counts: Vec<u64> = self.connections_of_workers().into_iter().map(|(_, count)| count).collect();
        let plan = plan::shares(&counts, &self.room_there(&takers));
        for (giver, plan) in givers.iter().zip(plan) {
            let (mut lanes, mut shares) = (BTreeMap::new(), Vec::new());
            for (index, weight) in plan {
                if let Some(lane) = self.lane_between(*giver, takers[index].0) {
                    lanes.insert(lane, Some(theirs(takers[index].0)));
                    shares.push(Share { lane, weight });
                }
            }
            let id = self.next_name();
            self.transfers.push(Transfer::new(id, Purpose::Takeover, *giver, lanes, self.now));
            self.tell_one(*giver, &ToWorker::Give { id, shares, amount: Amount::All });
        }
        self.takeover_transfers_may_be_over();
    }

    /// The room of workers of ours.
    fn room_here(&self, workers: &[Who]) -> Vec<Taker> {
        let room = |who: &Who| {
            let row = self.row(who.slot);
            Taker { has: row.gauge(GAUGE_CONNECTIONS).get(), most: takes(row.gauge(GAUGE_LIMIT).get()) }
        };
        workers.iter().map(room).collect()
    }

    /// That of workers of the other generation, which write the other side of each slot.
    fn room_there(&self, workers: &[(Slot, u64)]) -> Vec<Taker> {
        let room = |(slot, has): &(Slot, u64)| {
            let ours = self.places.get(usize::from(*slot)).map_or(self.side, |place| place.side);
            let limit = self.board.row(*slot, ours.other()).gauge(GAUGE_LIMIT).get();
            Taker { has: *has, most: takes(limit) }
        };
        workers.iter().map(room).collect()
    }

    /// As the other generation has told them last.
    fn workers_of_peer(&self) -> Vec<(Slot, u64)> {
        self.driver.as_ref().map_or_else(Vec::new, |driver| driver.workers.clone())
    }
}
