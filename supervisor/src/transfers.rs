//! Ordering connections to be handed over, and what follows when they have been.

use std::collections::BTreeMap;

use baton_ipc::Channel;
use baton_ipc::channel::ChannelError;
use baton_ipc::messages::{Amount, Share, ToWorker};
use baton_ipc::receipt::Pauses;
use std::os::fd::AsFd;

use crate::slot::Event;
use crate::supervisor::Supervisor;
use crate::transfer::{Purpose, Transfer, Who};

impl Supervisor<'_> {
    /// Has a worker give connections to others of ours, in proportion to the weights. Returns the id of the order.
    pub(crate) fn transfer(
        &mut self,
        purpose: Purpose,
        giver: Who,
        takers: &[(Who, u32)],
        amount: Amount,
    ) -> Result<u64, ChannelError> {
        let (mut lanes, mut shares) = (BTreeMap::new(), Vec::new());
        for (taker, weight) in takers {
            let lane = self.next_name();
            let (one, other) = Channel::pair()?;
            self.send_lane(giver, lane, false, &one)?;
            // Without one of several takers the others get more.
            match self.send_lane(*taker, lane, false, &other) {
                Ok(()) => {
                    lanes.insert(lane, Some(*taker));
                    shares.push(Share { lane, weight: *weight });
                }
                Err(error) => tracing::warn!(slot = taker.slot, %error, "a worker cannot take connections"),
            }
        }
        if shares.is_empty() {
            return Err(ChannelError::Closed);
        }
        let id = self.next_name();
        self.transfers.push(Transfer::new(id, purpose, giver, lanes, self.now));
        self.tell_one(giver, &ToWorker::Give { id, shares, amount });
        Ok(id)
    }

    /// A name that neither generation uses twice.
    pub(crate) fn next_name(&mut self) -> u64 {
        self.last_name += 1;
        self.last_name
    }

    /// Gives a worker its end of a lane.
    pub(crate) fn send_lane(&self, who: Who, lane: u64, refuge: bool, end: &Channel) -> Result<(), ChannelError> {
        let worker = self.place(who.slot).find_worker(who.pid).ok_or(ChannelError::Closed)?;
        worker.channel.send(&ToWorker::Lane { lane, refuge }, &[end.as_fd()])
    }

    /// A worker has given what it was told to.
    pub(crate) fn heard_given(&mut self, id: u64, handed: u64, stayed: Vec<(String, u64)>) {
        if let Some(transfer) = self.transfers.iter_mut().find(|transfer| transfer.id == id) {
            transfer.given(handed, stayed);
        }
        self.finish_transfers();
    }

    /// A worker has taken what came over a lane.
    pub(crate) fn heard_taken(&mut self, lane: u64, pauses: &Pauses) {
        if !self.transfers.iter_mut().any(|transfer| transfer.taken(lane, pauses)) && self.is_incumbent() {
            self.pass_on_taken(lane, pauses.clone());
        }
        self.finish_transfers();
    }

    /// A worker is gone.
    pub(crate) fn transfers_without(&mut self, who: Who) {
        self.transfers.iter_mut().for_each(|transfer| transfer.is_gone(who));
        self.finish_transfers();
    }

    pub(crate) fn finish_transfers(&mut self) {
        let over: Vec<Transfer> = self.transfers.extract_if(.., |transfer| transfer.is_over()).collect();
        for transfer in over {
            self.transfer_is_over(&transfer);
        }
    }

    fn transfer_is_over(&mut self, transfer: &Transfer) {
        let Transfer { purpose, giver, receipt, .. } = transfer;
        let took_ms = self.now.saturating_duration_since(transfer.begun).as_millis() as u64;
        tracing::info!(
            purpose = ?purpose,
            slot = giver.slot,
            pid = giver.pid.as_raw(),
            handed = receipt.handed,
            stayed = receipt.stayed(),
            longest_pause_us = receipt.pauses.longest_us(),
            p99_pause_us = receipt.pauses.quantile_us(0.99),
            took_ms,
            "handover: {receipt}"
        );
        match purpose {
            Purpose::Relief if receipt.broken => {}
            Purpose::Relief => {
                if let Some((_, Some(fresh))) = transfer.lanes().next() {
                    self.relief_is_over(fresh, receipt);
                }
            }
            Purpose::Evacuation => {
                self.place_mut(giver.slot).note = Some(receipt.to_string());
                self.apply(giver.slot, Event::Stop);
            }
            Purpose::Rebalance => {
                for (lane, taker) in transfer.lanes() {
                    self.tell_one(*giver, &ToWorker::CloseLane { lane });
                    if let Some(taker) = taker {
                        self.tell_one(taker, &ToWorker::CloseLane { lane });
                    }
                }
                self.rebalanced(receipt);
            }
            // The successor keeps the books, whoever gives.
            Purpose::Takeover if self.driver.is_some() => self.took(transfer),
            Purpose::Takeover => {
                self.pass_on_given(transfer);
                self.say_resumed();
            }
        }
    }
}
