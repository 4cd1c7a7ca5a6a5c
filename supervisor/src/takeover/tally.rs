//! Takeovers are counted on the scoreboard, so that the numbers go on in the next generation. Each supervisor counts on
//! its own side; one that dies in the middle is counted by the other.

use std::time::Duration;

use baton_ipc::Side;
use baton_ipc::control::TakeoverReceipt;
use baton_ipc::scoreboard::{Fate, Outcome};

use super::{Peer, Role};
use crate::supervisor::{Phase, Supervisor};

impl Supervisor<'_> {
    /// A takeover has ended.
    pub(super) fn tally(&self, outcome: Outcome) {
        self.board.takeovers(self.side).outcome(outcome).add(1);
    }

    /// A takeover has moved connections.
    pub(super) fn tally_receipt(&self, outcome: Outcome, receipt: &TakeoverReceipt, took: Duration) {
        let takeovers = self.board.takeovers(self.side);
        takeovers.fate(Fate::HandedOver).add(receipt.handed);
        takeovers.fate(Fate::Drained).add(receipt.all_drained());
        takeovers.fate(Fate::Dropped).add(receipt.dropped);
        if outcome == Outcome::Completed {
            takeovers.duration_ms().add(took.as_millis() as u64);
        }
        self.tally(outcome);
    }

    /// It is asked to end. If it has not taken over, it never will.
    pub(crate) fn tally_withdrawal(&self) {
        let waits = matches!(self.phase, Phase::Starting | Phase::Standby);
        let beside = self.peer.as_ref().is_some_and(|peer| peer.role == Role::Incumbent);
        // One that fails has counted that.
        if waits && beside && self.failure.is_none() {
            self.tally(Outcome::Withdrawn);
        }
    }

    /// What both sides have counted so far.
    pub(super) fn tallied(&self) -> u64 {
        Side::ALL.into_iter().map(|side| self.board.takeovers(side).ended()).fold(0, u64::wrapping_add)
    }

    /// The new binary of an upgrade has ended and has not taken over. It may never have come as far as to the door.
    pub(super) fn tally_upgrade(&self, tallied: u64) {
        if self.peer.is_none() && self.tallied() == tallied {
            self.tally(Outcome::Failed);
        }
    }

    /// What the successor's side has counted so far.
    pub(super) fn tallied_by_successor(&self) -> u64 {
        self.board.takeovers(self.side.other()).ended()
    }

    /// The successor is gone: if it has not said how its takeover ended, it was killed.
    pub(super) fn tally_loss(&self, peer: &Peer) {
        let unfinished = match peer.role {
            Role::Successor | Role::Taking => self.tallied_by_successor() == peer.tallied,
            Role::Serving | Role::Incumbent | Role::Giving | Role::Kept => false,
        };
        if unfinished {
            self.tally(Outcome::Lost);
        }
    }
}
