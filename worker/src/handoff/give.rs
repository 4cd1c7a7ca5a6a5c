//! The giving half of a lane.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use baton_ipc::channel::ChannelError;
use baton_ipc::messages::{Amount, FromWorker, Share};
use baton_ipc::scoreboard::monotonic_us;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::lane::{ALL_GROUPS, Adopted, Lane};
use super::packet::{Item, Packet};
use crate::app::App;
use crate::fault;
use crate::hub::Name;
use crate::metrics::Single;
use crate::worker::Shared;

/// Connections in one packet. Larger groups would pause each of them for longer.
const GROUP: usize = 64;

/// Bytes of state after which a packet takes no more connections.
const BYTES: usize = 1024 * 1024;

/// A taker that has not answered by then stands still: what it was offered is taken back.
const PATIENCE: Duration = Duration::from_secs(2);

/// The most bytes that may come late for a group and still go along: they must fit into a packet.
const LATE: usize = 96 * 1024;

/// What became of connections that were to be handed over.
#[derive(Debug, Default)]
struct Outcome {
    handed: u64,
    stayed: BTreeMap<String, u64>,
}

impl Outcome {
    fn stay(&mut self, reason: &str, count: usize) {
        if count > 0 {
            *self.stayed.entry(reason.to_owned()).or_default() += count as u64;
        }
    }

    fn add(&mut self, other: Outcome) {
        self.handed += other.handed;
        for (reason, count) in other.stayed {
            *self.stayed.entry(reason).or_default() += count;
        }
    }
}

/// Hands over connections, and tells the supervisor what became of them. Returns how many were handed over.
pub(crate) async fn give<A: App>(shared: &Rc<Shared<A>>, id: u64, shares: &[Share], amount: Amount) -> u64 {
    let mut outcome = Outcome::default();
    loop {
        let most = match amount {
            Amount::All => usize::MAX,
            Amount::Most(most) => usize::try_from(most.saturating_sub(outcome.handed)).unwrap_or(usize::MAX),
        };
        let chosen = shared.hub.borrow_mut().choose(most);
        let count = chosen.len();
        let round = distribute(shared, chosen, shares).await;
        let failed = !round.stayed.is_empty();
        outcome.add(round);
        // Those that have come meanwhile go as well, unless there is no way any more.
        if count == 0 || failed || amount != Amount::All {
            break;
        }
    }
    for share in shares {
        if let Some(lane) = shared.lanes.find(share.lane) {
            // If nobody hears it, nobody waits for it.
            let _ = lane.channel.send_packet(&Packet::End.encode(), &[]);
        }
    }
    let stayed: u64 = outcome.stayed.values().sum();
    shared.hub.borrow().metrics.add(Single::NotHandedOver, stayed);
    let handed = outcome.handed;
    tracing::info!(handed, stayed, reasons = ?outcome.stayed.keys().collect::<Vec<_>>(), "connections handed over");
    let given = FromWorker::Given { id, handed, stayed: outcome.stayed.into_iter().collect() };
    if let Err(error) = shared.tell_supervisor(&given) {
        tracing::debug!(%error, "the supervisor does not hear what was handed over");
    }
    handed
}

/// Each lane gets its share, all at once.
async fn distribute<A: App>(shared: &Rc<Shared<A>>, chosen: Vec<Name>, shares: &[Share]) -> Outcome {
    let parts = split(chosen, shares);
    let given = parts.into_iter().zip(shares).map(|(names, share)| over(shared, share.lane, names));
    let mut outcome = Outcome::default();
    for given in futures_util::future::join_all(given).await {
        outcome.add(given);
    }
    outcome
}

/// In proportion, to the last one.
fn split(mut names: Vec<Name>, shares: &[Share]) -> Vec<Vec<Name>> {
    let (total, mut weight) = (names.len() as u64, shares.iter().map(|share| u64::from(share.weight)).sum::<u64>());
    let mut left = total;
    let mut parts = Vec::with_capacity(shares.len());
    for share in shares {
        let count = (left * u64::from(share.weight)).div_ceil(weight.max(1)).min(left);
        weight -= u64::from(share.weight);
        left -= count;
        parts.push(names.split_off(names.len() - count as usize));
    }
    parts
}

/// Hands these over on one lane, group after group.
async fn over<A: App>(shared: &Rc<Shared<A>>, lane: u64, names: Vec<Name>) -> Outcome {
    let mut outcome = Outcome::default();
    let Some(lane) = shared.lanes.find(lane) else {
        shared.hub.borrow_mut().resume(&names);
        outcome.stay("there is no lane", names.len());
        return outcome;
    };
    let mut group = Group { shared, lane: &lane, number: 0 };
    let mut rest = &names[..];
    while !rest.is_empty() {
        if shared.hub.borrow().draining {
            shared.hub.borrow_mut().resume(rest);
            outcome.stay("the worker is on its way out", rest.len());
            break;
        }
        let (now, later) = rest.split_at(rest.len().min(GROUP));
        rest = later;
        if let Err(reason) = group.give(now, &mut outcome).await {
            shared.hub.borrow_mut().resume(rest);
            outcome.stay(&reason, rest.len());
            break;
        }
    }
    outcome
}

/// Gives one group after the other.
struct Group<'a, A: App> {
    shared: &'a Rc<Shared<A>>,
    lane: &'a Lane,
    number: u64,
}

impl<A: App> Group<'_, A> {
    /// `Err`: why nothing more can go this way. What did not go stays, in any case.
    async fn give(&mut self, names: &[Name], outcome: &mut Outcome) -> Result<(), String> {
        let parked_us = monotonic_us();
        let parked = self.shared.hub.borrow_mut().park(names);
        fault::point("handoff parked");
        self.quiet(&parked).await;
        let mut rest = &parked[..];
        while !rest.is_empty() {
            let (offered, items) = self.offer(&mut rest, parked_us);
            if let Err(reason) = self.pass(&offered, items, outcome).await {
                self.shared.hub.borrow_mut().resume(rest);
                outcome.stay(&reason, rest.len());
                return Err(reason);
            }
        }
        Ok(())
    }

    /// Waits until all that these have counted is answered.
    async fn quiet(&self, names: &[Name]) {
        loop {
            let answered = self.shared.answered.notified();
            if !self.shared.hub.borrow_mut().await_commit(names) {
                return;
            }
            answered.await;
        }
    }

    /// Takes as many as a packet may have.
    fn offer(&self, rest: &mut &[Name], parked_us: u64) -> (Vec<Name>, Vec<Item>) {
        let mut hub = self.shared.hub.borrow_mut();
        let (mut offered, mut items, mut bytes) = (Vec::new(), Vec::new(), 0);
        while let Some((name, more)) = rest.split_first()
            && bytes < BYTES
        {
            *rest = more;
            if let Some(state) = hub.offer(*name, parked_us) {
                bytes += state.len();
                offered.push(*name);
                items.push(Item::WebSocket(state));
            }
        }
        (offered, items)
    }

    /// State, adopted, go. `Err`: why nothing more can go this way.
    async fn pass(&mut self, offered: &[Name], items: Vec<Item>, outcome: &mut Outcome) -> Result<(), String> {
        self.number += 1;
        let answer = self.lane.ask();
        if let Err(reason) = self.send_state(offered, items) {
            self.shared.hub.borrow_mut().resume(offered);
            outcome.stay(&reason, offered.len());
            return Err(reason);
        }
        fault::point("handoff offered");
        let refused = match self.answer(answer).await {
            Ok(refused) => refused,
            Err(reason) => {
                self.take_back(offered, &reason, outcome);
                return Err(reason);
            }
        };
        fault::point("handoff answered");
        self.go(offered, refused, outcome)
    }

    fn send_state(&self, offered: &[Name], items: Vec<Item>) -> Result<(), String> {
        let hub = self.shared.hub.borrow();
        let sockets: Vec<_> = offered.iter().filter_map(|(key, _)| hub.socket_of(*key)).collect();
        let packet = Packet::State { group: self.number, items };
        self.lane.channel.send_packet(&packet.encode(), &sockets).map_err(|error| error.to_string())
    }

    /// What the taker says: the places that it refuses.
    async fn answer(&self, answer: oneshot::Receiver<Adopted>) -> Result<Vec<(u16, String)>, String> {
        match timeout(PATIENCE, answer).await {
            Ok(Ok((group, refused))) if group == self.number => Ok(refused),
            Ok(Ok((ALL_GROUPS, refused))) => {
                Err(refused.into_iter().next().map_or_else(String::new, |(_, reason)| reason))
            }
            Ok(Ok((group, _))) => Err(format!("an answer to group {group} instead of {}", self.number)),
            Ok(Err(_)) => Err("the other process is gone".to_owned()),
            Err(_) => Err(format!("no answer within {PATIENCE:?}")),
        }
    }

    /// The taker does not take these. It must know before they are read here again, and find it before the end of the lane.
    fn take_back(&self, offered: &[Name], reason: &str, outcome: &mut Outcome) {
        let abort = Packet::Abort { group: self.number };
        match self.lane.channel.send_packet(&abort.encode(), &[]) {
            Ok(()) | Err(ChannelError::Closed) => {
                self.shared.hub.borrow_mut().resume(offered);
                outcome.stay(reason, offered.len());
            }
            Err(error) => {
                // Then it is the taker who goes on with them, once it finds the lane at its end.
                tracing::error!(%error, "a lane fails");
                self.shared.hub.borrow_mut().release(offered);
                outcome.handed += offered.len() as u64;
            }
        }
    }

    fn go(&self, offered: &[Name], refused: Vec<(u16, String)>, outcome: &mut Outcome) -> Result<(), String> {
        let refused: BTreeMap<u16, String> = refused.into_iter().collect();
        let (mut gone, mut staying, mut late) = (Vec::new(), Vec::new(), Vec::new());
        let mut hub = self.shared.hub.borrow_mut();
        for (place, name) in (0..).zip(offered) {
            if refused.contains_key(&place) {
                staying.push(*name);
                continue;
            }
            let bytes = hub.late(name.0);
            if !bytes.is_empty() {
                late.push((place, bytes.to_vec()));
            }
            gone.push(*name);
        }
        if late.iter().map(|(_, bytes)| bytes.len()).sum::<usize>() > LATE {
            drop(hub);
            let reason = "too much came for them meanwhile".to_owned();
            self.take_back(offered, &reason, outcome);
            return Err(reason);
        }
        match self.lane.channel.send_packet(&Packet::Go { group: self.number, late }.encode(), &[]) {
            Ok(()) => {
                fault::point("handoff gone");
                hub.release(&gone);
                hub.resume(&staying);
                drop(hub);
                outcome.handed += gone.len() as u64;
                refused.values().for_each(|reason| outcome.stay(reason, 1));
                // Those that stay are read by the next turn.
                self.shared.settled.notify_one();
                Ok(())
            }
            Err(error) => {
                drop(hub);
                let reason = error.to_string();
                self.take_back(offered, &reason, outcome);
                Err(reason)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_in_proportion_and_complete() {
        let share = |lane, weight| Share { lane, weight };
        let counts = |total: usize, shares: &[Share]| {
            let names = (0..total).map(|key| (key, 0)).collect();
            split(names, shares).iter().map(Vec::len).collect::<Vec<_>>()
        };
        assert_eq!(counts(10, &[share(1, 1), share(2, 1)]), [5, 5]);
        assert_eq!(counts(10, &[share(1, 3), share(2, 2)]), [6, 4]);
        assert_eq!(counts(3, &[share(1, 1), share(2, 1)]), [2, 1]);
        assert_eq!(counts(1, &[share(1, 1), share(2, 1), share(3, 1)]), [1, 0, 0]);
        assert_eq!(counts(0, &[share(1, 1)]), [0]);
        assert_eq!(counts(5, &[share(1, 0), share(2, 7)]), [0, 5]);
    }
}
