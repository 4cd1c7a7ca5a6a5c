//! The giving half of a lane.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use baton_ipc::channel::ChannelError;
use baton_ipc::messages::{Amount, FromWorker, Share};
use baton_ipc::scoreboard::monotonic_us;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::lane::{ALL_GROUPS, Adopted, DECISION, Lane};
use super::packet::{Item, Packet};
use crate::accept;
use crate::app::App;
use crate::http::Moved;
use crate::hub::Name;
use crate::metrics::Single;
use crate::worker::Shared;
use baton_ipc::fault;

/// Connections in one packet. Larger groups would pause each of them for longer.
const GROUP: usize = 64;

/// Bytes of state after which a packet takes no more connections.
const BYTES: usize = 1024 * 1024;

/// A taker that has not answered by then stands still: what it was offered is taken back.
const PATIENCE: Duration = Duration::from_secs(2);

/// The most bytes that may come late for a group and still go along: they must fit into a packet.
const LATE: usize = 96 * 1024;

/// How long to wait for HTTP connections that are being answered.
const HTTP_PATIENCE: Duration = Duration::from_secs(1);

/// How often to look whether one of them has become a WebSocket.
const LOOK: Duration = Duration::from_millis(5);

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
    shared.lanes.begin_of();
    let outcome = match amount {
        Amount::All => give_all(shared, id, shares).await,
        Amount::Most(most) => {
            let chosen = shared.hub.borrow_mut().choose(usize::try_from(most).unwrap_or(usize::MAX));
            distribute(shared, id, chosen, shares).await
        }
    };
    shared.lanes.end_of(id);
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

/// All WebSockets, those that come while it goes on, and the HTTP connections that can go: one that is being answered
/// goes when that is done, or has become a WebSocket.
async fn give_all<A: App>(shared: &Rc<Shared<A>>, id: u64, shares: &[Share]) -> Outcome {
    let mut leaving = shared.take_http_connections();
    let outcome = give_until_none(shared, id, shares, &mut leaving).await;
    leaving.close();
    while let Ok(moved) = leaving.try_recv() {
        restore(shared, [moved]);
    }
    outcome
}

async fn give_until_none<A: App>(
    shared: &Rc<Shared<A>>,
    id: u64,
    shares: &[Share],
    leaving: &mut UnboundedReceiver<Moved<A>>,
) -> Outcome {
    let mut outcome = Outcome::default();
    let begun = Instant::now();
    loop {
        let chosen = shared.hub.borrow_mut().choose(usize::MAX);
        let count = chosen.len();
        let round = distribute(shared, id, chosen, shares).await;
        let failed = !round.stayed.is_empty();
        outcome.add(round);
        if failed || shared.lanes.is_called_off(id) {
            return outcome;
        }
        if count > 0 {
            continue;
        }
        // Another order may be under way, and what is held is ours if its giver says so.
        let moving = shared.hub.borrow().some_move() || (shared.lanes.hold_some() && begun.elapsed() < DECISION);
        let http = shared.handshakes.len() > 0 && begun.elapsed() < HTTP_PATIENCE;
        if !moving && !http {
            // What is in the queue by now comes along all the same.
            leaving.close();
        }
        let mut moved = Vec::new();
        let Ok(received) = timeout(LOOK, leaving.recv_many(&mut moved, GROUP)).await else { continue };
        if received == 0 {
            return outcome;
        }
        let staying = give_moved(shared, shares, moved, &mut outcome).await;
        if !staying.is_empty() {
            // Served here, they must not come out again at once: there is no room for them. Nor is there for others.
            leaving.close();
            restore(shared, staying);
            return outcome;
        }
    }
}

/// Offers HTTP connections on one lane after the other, on each those for which there was no room before. Returns those that
/// no taker has taken.
async fn give_moved<A: App>(
    shared: &Rc<Shared<A>>,
    shares: &[Share],
    moved: Vec<Moved<A>>,
    outcome: &mut Outcome,
) -> Vec<Moved<A>> {
    let mut left: Vec<_> = moved.into_iter().map(|moved| (moved, "there is no lane".to_owned())).collect();
    for share in shares {
        let Some(lane) = shared.lanes.find(share.lane).filter(|_| !left.is_empty()) else { continue };
        let _turn = lane.turn.lock().await;
        let mut group = Group { shared, lane: &lane, number: 0 };
        let offered = left.into_iter().map(|(moved, _)| moved).collect();
        left = group.give_http(offered, outcome).await;
    }
    left.iter().for_each(|(_, reason)| outcome.stay(reason, 1));
    left.into_iter().map(|(moved, _)| moved).collect()
}

/// HTTP connections that could not go are served here.
fn restore<A: App>(shared: &Rc<Shared<A>>, moved: impl IntoIterator<Item = Moved<A>>) {
    for Moved { socket, unread, .. } in moved {
        if let Err(error) = accept::admit_moved(shared, socket, unread) {
            tracing::warn!(%error, "an HTTP connection was lost");
        }
    }
}

/// A group did not go as it should.
enum Denied {
    /// Its connections stay here.
    Ours(String),
    /// The taker goes on with them, once it finds the lane at its end: it could not be told otherwise.
    Theirs(String),
}

/// Each lane gets its share, all at once.
async fn distribute<A: App>(shared: &Rc<Shared<A>>, id: u64, chosen: Vec<Name>, shares: &[Share]) -> Outcome {
    let (parts, rest) = split(chosen, shares);
    shared.hub.borrow_mut().resume(&rest);
    let given = parts.into_iter().zip(shares).map(|(names, share)| over(shared, id, share.lane, names));
    let mut outcome = Outcome::default();
    if !rest.is_empty() {
        // Whoever has chosen them must not do so again and again.
        outcome.stay("there is nobody to take them", rest.len());
    }
    for given in futures_util::future::join_all(given).await {
        outcome.add(given);
    }
    outcome
}

/// In proportion, to the last one; and those for which there is no share.
fn split(mut names: Vec<Name>, shares: &[Share]) -> (Vec<Vec<Name>>, Vec<Name>) {
    let (total, mut weight) = (names.len() as u64, shares.iter().map(|share| u64::from(share.weight)).sum::<u64>());
    let mut left = total;
    let mut parts = Vec::with_capacity(shares.len());
    for share in shares {
        let count = (left * u64::from(share.weight)).div_ceil(weight.max(1)).min(left);
        weight -= u64::from(share.weight);
        left -= count;
        parts.push(names.split_off(names.len() - count as usize));
    }
    (parts, names)
}

/// Hands these over on one lane, group after group.
async fn over<A: App>(shared: &Rc<Shared<A>>, id: u64, lane: u64, names: Vec<Name>) -> Outcome {
    let mut outcome = Outcome::default();
    let Some(lane) = shared.lanes.find(lane) else {
        shared.hub.borrow_mut().resume(&names);
        outcome.stay("there is no lane", names.len());
        return outcome;
    };
    let mut rest = &names[..];
    while !rest.is_empty() {
        let why_not = if shared.hub.borrow().draining {
            Some("the worker is on its way out")
        } else {
            shared.lanes.is_called_off(id).then_some("it was called off")
        };
        if let Some(why_not) = why_not {
            shared.hub.borrow_mut().resume(rest);
            outcome.stay(why_not, rest.len());
            break;
        }
        let (now, later) = rest.split_at(rest.len().min(GROUP));
        rest = later;
        let _turn = lane.turn.lock().await;
        let mut group = Group { shared, lane: &lane, number: 0 };
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
        let mut rest = &parked[..];
        while !rest.is_empty() {
            // An operator may have closed some since the last packet.
            self.quiet(rest).await;
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
            if !self.shared.hub.borrow_mut().wait_for_commit(names) {
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
        let sent = {
            let hub = self.shared.hub.borrow();
            let sockets: Vec<_> = offered.iter().filter_map(|(key, _)| hub.socket_of(*key)).collect();
            self.send_state(items, &sockets)
        };
        let refused = match self.answer(sent).await {
            Ok(refused) => refused,
            Err(denied) => return self.take_back(offered, denied, outcome),
        };
        let mut hub = self.shared.hub.borrow_mut();
        let (mut gone, mut staying, mut late) = (Vec::new(), Vec::new(), Vec::new());
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
        if let Err(denied) = self.go(late) {
            drop(hub);
            return self.take_back(offered, denied, outcome);
        }
        hub.release(&gone);
        hub.resume(&staying);
        drop(hub);
        outcome.handed += gone.len() as u64;
        refused.values().for_each(|reason| outcome.stay(reason, 1));
        // Those that stay are read by the next turn.
        self.shared.settled.notify_one();
        Ok(())
    }

    /// The same for HTTP connections: they have been taken out already. Returns those that this taker has not taken, and why.
    async fn give_http(&mut self, moved: Vec<Moved<A>>, outcome: &mut Outcome) -> Vec<(Moved<A>, String)> {
        let items = moved.iter().map(|moved| Item::Http { unread: moved.unread.clone() }).collect();
        let sent = {
            let sockets: Vec<_> = moved.iter().map(|moved| moved.socket.as_fd()).collect();
            self.send_state(items, &sockets)
        };
        let total = moved.len();
        let answer = self.answer(sent).await.and_then(|refused| self.go(Vec::new()).map(|()| refused));
        let left: Vec<_> = match answer {
            Ok(mut refused) => {
                (0..).zip(moved).filter_map(|(place, moved)| Some((moved, refused.remove(&place)?))).collect()
            }
            Err(Denied::Ours(reason)) => moved.into_iter().map(|moved| (moved, reason.clone())).collect(),
            Err(Denied::Theirs(reason)) => {
                tracing::debug!(reason, "the taker goes on with what it was offered");
                Vec::new()
            }
        };
        outcome.handed += (total - left.len()) as u64;
        left
    }

    fn send_state(
        &mut self,
        items: Vec<Item>,
        sockets: &[BorrowedFd<'_>],
    ) -> Result<oneshot::Receiver<Adopted>, String> {
        self.number = self.lane.number.get() + 1;
        self.lane.number.set(self.number);
        let answer = self.lane.ask();
        let packet = Packet::State { group: self.number, items };
        self.lane.channel.send_packet(&packet.encode(), sockets).map_err(|error| error.to_string())?;
        fault::point("handoff offered");
        Ok(answer)
    }

    /// What the taker says: the places that it refuses.
    async fn answer(&self, sent: Result<oneshot::Receiver<Adopted>, String>) -> Result<BTreeMap<u16, String>, Denied> {
        // What was not sent nobody knows of.
        let answer = sent.map_err(Denied::Ours)?;
        let reason = match timeout(PATIENCE, answer).await {
            Ok(Ok((group, refused))) if group == self.number => {
                fault::point("handoff answered");
                return Ok(refused.into_iter().collect());
            }
            Ok(Ok((ALL_GROUPS, refused))) => refused.into_iter().next().map_or_else(String::new, |(_, reason)| reason),
            Ok(Ok((group, _))) => format!("an answer to group {group} instead of {}", self.number),
            Ok(Err(_)) => "the other process is gone".to_owned(),
            Err(_) => format!("no answer within {PATIENCE:?}"),
        };
        Err(self.abort(reason))
    }

    fn go(&self, late: Vec<(u16, Vec<u8>)>) -> Result<(), Denied> {
        if late.iter().map(|(_, bytes)| bytes.len()).sum::<usize>() > LATE {
            return Err(self.abort("too much came for them meanwhile".to_owned()));
        }
        let go = Packet::Go { group: self.number, late };
        match self.lane.channel.send_packet(&go.encode(), &[]) {
            Ok(()) => {
                fault::point("handoff gone");
                Ok(())
            }
            Err(error) => Err(self.abort(error.to_string())),
        }
    }

    /// The taker does not get these. It must know before they are read here again, and find it before the end of the lane.
    fn abort(&self, reason: String) -> Denied {
        match self.lane.channel.send_packet(&Packet::Abort { group: self.number }.encode(), &[]) {
            // The taker goes on with what it holds when it finds the lane at its end, unless it has closed it itself.
            Err(ChannelError::Closed) if self.lane.is_closed_here() => Denied::Theirs(reason),
            Ok(()) | Err(ChannelError::Closed) => Denied::Ours(reason),
            Err(error) => {
                tracing::error!(%error, reason, "a lane fails");
                self.lane.close();
                Denied::Theirs(reason)
            }
        }
    }

    fn take_back(&self, offered: &[Name], denied: Denied, outcome: &mut Outcome) -> Result<(), String> {
        let mut hub = self.shared.hub.borrow_mut();
        match denied {
            Denied::Ours(reason) => {
                hub.resume(offered);
                outcome.stay(&reason, offered.len());
                self.shared.settled.notify_one();
                Err(reason)
            }
            Denied::Theirs(reason) => {
                hub.release(offered);
                outcome.handed += offered.len() as u64;
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
            let (parts, rest) = split(names, shares);
            assert!(rest.is_empty() || shares.iter().all(|share| share.weight == 0), "{} left", rest.len());
            parts.iter().map(Vec::len).collect::<Vec<_>>()
        };
        assert_eq!(counts(10, &[share(1, 1), share(2, 1)]), [5, 5]);
        assert_eq!(counts(10, &[share(1, 3), share(2, 2)]), [6, 4]);
        assert_eq!(counts(3, &[share(1, 1), share(2, 1)]), [2, 1]);
        assert_eq!(counts(1, &[share(1, 1), share(2, 1), share(3, 1)]), [1, 0, 0]);
        assert_eq!(counts(0, &[share(1, 1)]), [0]);
        assert_eq!(counts(5, &[share(1, 0), share(2, 7)]), [0, 5]);
        assert_eq!(counts(5, &[share(1, 0)]), [0]);
        assert_eq!(counts(5, &[]), [0; 0]);
    }
}
