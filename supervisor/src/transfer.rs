//! Connections on their way from some workers to others: who gives, who takes, and what became of them. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use baton_ipc::Slot as SlotId;
use baton_ipc::receipt::Pauses;
use nix::unistd::Pid;

/// One process in a slot: for a moment there are two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Who {
    pub(crate) slot: SlotId,
    pub(crate) pid: Pid,
}

/// What connections are handed over for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A fresh worker takes the place of the giver.
    Relief,
    /// The giver's slot goes.
    Evacuation,
    /// To have as many everywhere.
    Rebalance,
    /// To the other generation, or back from it.
    Takeover,
}

/// One order to give, until it is carried out.
#[derive(Debug)]
pub(crate) struct Transfer {
    /// The id of the order.
    pub(crate) id: u64,
    pub(crate) purpose: Purpose,
    pub(crate) giver: Who,
    /// Lanes of which the takers have not reported yet, if they are ours.
    awaited: BTreeSet<u64>,
    /// All lanes, and the takers that are ours.
    lanes: BTreeMap<u64, Option<Who>>,
    given: bool,
    pub(crate) begun: Instant,
    pub(crate) receipt: Receipt,
}

/// What became of the connections of a transfer.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Receipt {
    /// Others serve these now.
    pub(crate) handed: u64,
    /// These stayed, by why.
    pub(crate) stayed: Vec<(String, u64)>,
    /// For how long those that were handed over were not read.
    pub(crate) pauses: Pauses,
    /// The giver died before it was done.
    pub(crate) broken: bool,
}

impl Receipt {
    /// Adds that of another.
    pub(crate) fn add(&mut self, other: &Receipt) {
        self.handed += other.handed;
        for (reason, count) in &other.stayed {
            match self.stayed.iter_mut().find(|(known, _)| known == reason) {
                Some((_, sum)) => *sum += count,
                None => self.stayed.push((reason.clone(), *count)),
            }
        }
        self.pauses.add(&other.pauses);
        self.broken |= other.broken;
    }

    /// How many stayed.
    pub(crate) fn stayed(&self) -> u64 {
        self.stayed.iter().map(|(_, count)| count).sum()
    }
}

/// `312 connections handed over, longest pause 3.2 ms`.
impl std::fmt::Display for Receipt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let s = if self.handed == 1 { "" } else { "s" };
        write!(f, "{} connection{s} handed over", self.handed)?;
        if self.handed > 0 {
            write!(f, ", longest pause {:.1} ms", self.pauses.longest_us() as f64 / 1000.0)?;
        }
        for (reason, count) in &self.stayed {
            write!(f, ", {count} stayed: {reason}")?;
        }
        Ok(())
    }
}

impl Transfer {
    /// One that has just been ordered. Takers that belong to the other generation report to its supervisor.
    pub(crate) fn new(
        id: u64,
        purpose: Purpose,
        giver: Who,
        lanes: BTreeMap<u64, Option<Who>>,
        now: Instant,
    ) -> Transfer {
        let awaited = lanes.iter().filter(|(_, taker)| taker.is_some()).map(|(lane, _)| *lane).collect();
        Transfer { id, purpose, giver, awaited, lanes, given: false, begun: now, receipt: Receipt::default() }
    }

    /// The giver has carried out the order.
    pub(crate) fn given(&mut self, handed: u64, stayed: Vec<(String, u64)>) {
        self.given = true;
        self.receipt.handed = handed;
        self.receipt.stayed = stayed;
    }

    /// A taker has reported. `true`: the lane is one of ours.
    pub(crate) fn taken(&mut self, lane: u64, pauses: &Pauses) -> bool {
        let ours = self.lanes.contains_key(&lane);
        if ours {
            self.awaited.remove(&lane);
            self.receipt.pauses.add(pauses);
        }
        ours
    }

    /// A process is gone.
    pub(crate) fn is_gone(&mut self, who: Who) {
        if who == self.giver {
            self.receipt.broken |= !self.given;
            self.given = true;
        }
        let lanes = &self.lanes;
        self.awaited.retain(|lane| lanes.get(lane) != Some(&Some(who)));
    }

    /// All have reported.
    pub(crate) fn is_over(&self) -> bool {
        self.given && self.awaited.is_empty()
    }

    /// The lanes, and the takers that are ours.
    pub(crate) fn lanes(&self) -> impl Iterator<Item = (u64, Option<Who>)> {
        self.lanes.iter().map(|(lane, taker)| (*lane, *taker))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(pid: i32) -> Who {
        Who { slot: 0, pid: Pid::from_raw(pid) }
    }

    fn transfer() -> Transfer {
        let lanes = [(1, Some(who(11))), (2, Some(who(12))), (4, None)].into();
        Transfer::new(7, Purpose::Relief, who(1), lanes, Instant::now())
    }

    #[test]
    fn it_is_over_when_all_have_reported_in_whatever_order() {
        let mut pauses = Pauses::default();
        pauses.note(2500);
        let mut transfer = transfer();
        assert!(transfer.taken(2, &pauses) && !transfer.taken(3, &pauses));
        transfer.given(1, vec![("no room".into(), 2)]);
        assert!(!transfer.is_over());
        assert!(transfer.taken(1, &Pauses::default()));
        assert!(transfer.is_over() && !transfer.receipt.broken);
        let told = transfer.receipt.to_string();
        assert_eq!(told, "1 connection handed over, longest pause 2.5 ms, 2 stayed: no room");
    }

    #[test]
    fn the_dead_are_not_waited_for() {
        let mut transfer = transfer();
        transfer.is_gone(who(1));
        assert!(!transfer.is_over(), "what has arrived is still told of");
        transfer.is_gone(who(11));
        transfer.is_gone(who(12));
        assert!(transfer.is_over() && transfer.receipt.broken);
    }

    #[test]
    fn receipts_add_up() {
        let one = |reason: &str| Receipt { handed: 2, stayed: vec![(reason.into(), 1)], ..Receipt::default() };
        let mut sum = one("a");
        sum.add(&one("b"));
        sum.add(&one("a"));
        assert_eq!((sum.handed, sum.stayed()), (6, 3));
        assert_eq!(sum.stayed, [("a".to_owned(), 2), ("b".to_owned(), 1)]);
    }
}
