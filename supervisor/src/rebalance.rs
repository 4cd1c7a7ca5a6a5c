//! As many connections on every worker: who gives how many to whom.

use baton_ipc::Slot as SlotId;
use baton_ipc::control::{ErrorCode, Output, Reply};
use baton_ipc::messages::Amount;
use baton_ipc::scoreboard::GAUGE_CONNECTIONS;

use crate::control::ClientId;
use crate::slot::Slot;
use crate::supervisor::Supervisor;
use crate::transfer::{Purpose, Receipt, Who};

/// A rebalance that is under way.
#[derive(Debug)]
pub(crate) struct Rebalance {
    pub(crate) client: ClientId,
    before: Vec<(SlotId, u64)>,
    receipt: Receipt,
}

/// One worker's gift to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Gift {
    from: usize,
    to: usize,
    count: u64,
}

/// The fewest connections moved so that no two of these differ by more than one.
fn even_out(counts: &[u64]) -> Vec<Gift> {
    let (total, workers) = (counts.iter().sum::<u64>(), counts.len().max(1) as u64);
    // Those that have most keep the odd ones.
    let mut order: Vec<usize> = (0..counts.len()).collect();
    order.sort_by_key(|index| std::cmp::Reverse(counts[*index]));
    let mut difference = vec![0i64; counts.len()];
    for (place, index) in order.into_iter().enumerate() {
        let target = total / workers + u64::from((place as u64) < total % workers);
        difference[index] = counts[index] as i64 - target as i64;
    }
    let mut gifts = Vec::new();
    let mut to = 0;
    for from in 0..counts.len() {
        while difference[from] > 0 {
            while difference[to] >= 0 {
                to += 1;
            }
            let count = difference[from].min(-difference[to]);
            difference[from] -= count;
            difference[to] += count;
            gifts.push(Gift { from, to, count: count as u64 });
        }
    }
    gifts
}

impl Supervisor<'_> {
    /// Begins to even out; the answer follows when it is done.
    pub(crate) fn begin_rebalance(&mut self, client: ClientId) -> Result<(), (ErrorCode, String)> {
        self.ensure_free()?;
        let workers = self.serving();
        let before = self.counted(&workers);
        let counts: Vec<u64> = before.iter().map(|(_, count)| *count).collect();
        let gifts = even_out(&counts);
        self.rebalance = Some(Rebalance { client, before, receipt: Receipt::default() });
        let mut ordered = 0;
        for (from, giver) in workers.iter().enumerate() {
            // One order a giver: it gives on one lane after the other at the same time.
            let mine = gifts.iter().filter(|gift| gift.from == from);
            let takers: Vec<(Who, u32)> = mine.map(|gift| (workers[gift.to], gift.count as u32)).collect();
            let count = gifts.iter().filter(|gift| gift.from == from).map(|gift| gift.count).sum();
            if takers.is_empty() {
                continue;
            }
            match self.transfer(Purpose::Rebalance, *giver, &takers, Amount::Most(count)) {
                Ok(_) => ordered += 1,
                Err(error) => tracing::warn!(slot = giver.slot, %error, "a worker does not take part"),
            }
        }
        if ordered == 0 {
            self.end_rebalance();
        }
        Ok(())
    }

    /// One of its transfers is over.
    pub(crate) fn rebalanced(&mut self, receipt: &Receipt) {
        let Some(rebalance) = &mut self.rebalance else { return };
        rebalance.receipt.add(receipt);
        if !self.transfers.iter().any(|transfer| transfer.purpose == Purpose::Rebalance) {
            self.end_rebalance();
        }
    }

    fn end_rebalance(&mut self) {
        let Some(Rebalance { client, before, receipt }) = self.rebalance.take() else { return };
        let after = self.counted(&self.serving());
        let after = |slot: SlotId| after.iter().find(|(other, _)| *other == slot).map_or(0, |(_, count)| *count);
        for (slot, count) in before {
            let message = format!("slot {slot}: {count} connections before, {} now", after(slot));
            self.reply(Some(client), Reply::Step { message });
        }
        self.reply(Some(client), Reply::Done { output: Output::Text { message: receipt.to_string() } });
    }

    /// All workers that serve.
    pub(crate) fn serving(&self) -> Vec<Who> {
        let serving = self.active().iter().filter(|place| matches!(place.slot, Slot::Serving { .. }));
        serving.filter_map(|place| place.holder()).collect()
    }

    fn counted(&self, workers: &[Who]) -> Vec<(SlotId, u64)> {
        let count = |who: &Who| (who.slot, self.row(who.slot).gauge(GAUGE_CONNECTIONS).get());
        workers.iter().map(count).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn afterwards_no_two_differ_by_more_than_one(mut counts in prop::collection::vec(0..1000u64, 0..12)) {
            let total: u64 = counts.iter().sum();
            let moved_at_least: u64 = {
                let mean = total / counts.len().max(1) as u64;
                counts.iter().map(|count| count.saturating_sub(mean + 1)).sum()
            };
            let mut moved = 0;
            for Gift { from, to, count } in even_out(&counts) {
                prop_assert!(count > 0 && from != to);
                counts[from] -= count;
                counts[to] += count;
                moved += count;
            }
            prop_assert_eq!(counts.iter().sum::<u64>(), total);
            if let (Some(least), Some(most)) = (counts.iter().min(), counts.iter().max()) {
                prop_assert!(most - least <= 1);
            }
            prop_assert!(moved >= moved_at_least);
        }
    }

    #[test]
    fn what_is_even_already_stays() {
        assert_eq!(even_out(&[3, 2, 3]), []);
        assert_eq!(even_out(&[]), []);
        assert_eq!(even_out(&[4, 0]), [Gift { from: 0, to: 1, count: 2 }]);
    }
}
