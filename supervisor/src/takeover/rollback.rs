//! What becomes of a takeover that does not come to its end: everything goes back, or stays with who is left.

use baton_ipc::Slot;
use baton_ipc::control::{ErrorCode, Generation, Output, Reply};
use baton_ipc::scoreboard::Outcome;
use baton_ipc::takeover::Message;

use super::Role;
use super::successor::{ANSWER, Driver, HANDING, Stage, Why, Wishes};
use crate::Error;
use crate::control::ClientId;
use crate::supervisor::{Phase, Supervisor};
use crate::transfer::{Purpose, Receipt};

impl Supervisor<'_> {
    /// A rollback that an operator has asked for is not possible: everything stays here.
    pub(super) fn keep_serving(&mut self, reason: &str) {
        let Some(driver) = self.driver.take() else { return };
        tracing::error!(reason, "no rollback: serving on");
        if self.peer.is_some() {
            self.take_role(Role::Kept);
            self.say(&Message::Retire { keep: true }, &[]);
        }
        self.show_ourselves();
        self.all_accept(true);
        let message = format!("no rollback: {reason}; this generation serves on");
        self.reply(driver.client, Reply::Error { code: ErrorCode::Failed, message });
    }

    /// Before the switch: nobody has noticed anything.
    pub(super) fn give_up(&mut self, cause: &str) {
        let Some(driver) = self.driver.take() else { return };
        tracing::error!(cause, "the takeover is given up: the incumbent serves on, and has noticed nothing");
        self.tally(Outcome::Failed);
        self.fail(driver.client, cause);
    }

    /// After the switch: everything goes back.
    pub(crate) fn roll_back(&mut self, cause: &str) {
        let Some(driver) = &self.driver else { return };
        if self.peer.is_none() {
            // There is nobody to go back to.
            return self.taken_over();
        }
        match driver.stage {
            Stage::Preflight => return self.give_up(cause),
            Stage::Resuming { .. } | Stage::GivingBack { .. } => return,
            Stage::Switching { .. } | Stage::Canary { .. } | Stage::Watching { .. } | Stage::Checking => {}
            Stage::Handing { .. } | Stage::Verifying | Stage::Retiring { .. } => {}
        }
        tracing::error!(cause, "the takeover is rolled back");
        self.go_back(cause, Why::Failed(cause.to_owned()));
    }

    /// Calls off a takeover that is under way, for an operator: every client goes back, and this generation ends.
    fn call_off_takeover(&mut self, client: ClientId) -> Result<(), (ErrorCode, String)> {
        let Some(driver) = &self.driver else { return Ok(()) };
        match driver.stage {
            Stage::Retiring { .. } => {
                return Err((ErrorCode::Failed, "too late: this generation has taken over".to_owned()));
            }
            Stage::Resuming { .. } | Stage::GivingBack { .. } => {
                return Err((ErrorCode::Busy, "everything goes back already".to_owned()));
            }
            _ if self.peer.is_none() => {
                return Err((
                    ErrorCode::Failed,
                    "the old generation is gone: there is nobody to go back to".to_owned(),
                ));
            }
            Stage::Preflight => self.given_back(&Why::CalledOff(client)),
            Stage::Switching { .. } | Stage::Canary { .. } | Stage::Watching { .. } | Stage::Checking => {
                self.go_back("called off", Why::CalledOff(client));
            }
            Stage::Handing { .. } | Stage::Verifying => self.go_back("called off", Why::CalledOff(client)),
        }
        Ok(())
    }

    fn go_back(&mut self, cause: &str, why: Why) {
        self.step(&format!("rolling back: {cause}"));
        // The incumbent calls off what is under way, and says when that has come to an end.
        self.transfers.retain(|transfer| transfer.purpose != Purpose::Takeover);
        self.probe_wanted = None;
        self.end_probe();
        if let Some(driver) = &mut self.driver {
            // From now on it counts who goes back.
            driver.receipt = Receipt::default();
        }
        self.set_stage(Stage::Resuming { why, deadline: self.now + ANSWER });
        self.take_role(Role::Incumbent);
        self.all_accept(false);
        self.say(&Message::Resume, &[]);
    }

    pub(super) fn given_back(&mut self, why: &Why) {
        let Some(driver) = self.driver.take() else { return };
        self.transfers.retain(|transfer| transfer.purpose != Purpose::Takeover);
        match why {
            Why::Failed(cause) => {
                self.tally(Outcome::RolledBack);
                self.fail(driver.client, cause);
            }
            Why::CalledOff(client) => {
                let (was_preflight, from) = (matches!(driver.stage, Stage::Preflight), self.generation());
                let to = self.peer.as_ref().map_or_else(|| from.clone(), |peer| peer.generation.clone());
                let Generation { color, pid, .. } = &to;
                let receipt = driver.finish(from, to.clone(), false);
                let moved = match receipt.handed {
                    0 => String::new(),
                    handed => format!("{handed} connections went back; "),
                };
                let message = format!("the takeover was called off: {moved}{color} (pid {pid}) serves as before");
                tracing::warn!(event = "takeover_called_off", handed = receipt.handed, "{message}");
                self.reply(Some(*client), Reply::Done { output: Output::Text { message: message.clone() } });
                self.reply(driver.client, Reply::Error { code: ErrorCode::Failed, message });
                self.unstore_listeners();
                if !was_preflight {
                    self.tally(Outcome::RolledBack);
                    // So that the end is not counted as a withdrawal on top.
                    self.phase = Phase::Running;
                }
                self.shut_down(None);
            }
            Why::Asked => {
                let to = self.peer.as_ref().map_or_else(|| self.generation(), |peer| peer.generation.clone());
                let receipt = driver.finish(self.generation(), to, false);
                self.tally_receipt(Outcome::Reverted, &receipt, driver.age(self.now));
                self.unstore_listeners();
                self.reply(driver.client, Reply::Done { output: Output::Takeover(Box::new(receipt)) });
                self.shut_down(None);
            }
        }
    }

    pub(super) fn fail(&mut self, client: Option<ClientId>, cause: &str) {
        let (color, pid) = self
            .peer
            .as_ref()
            .map_or_else(Default::default, |peer| (peer.generation.color.clone(), peer.generation.pid));
        let message = format!("{cause}; {color} (pid {pid}) serves as before");
        self.reply(client, Reply::Error { code: ErrorCode::Failed, message });
        self.failure = Some(Error::Takeover { color, reason: cause.to_owned() });
        self.unstore_listeners();
        self.shut_down(None);
    }

    /// Gives everything back to the old generation, and ends.
    pub(crate) fn begin_rollback(&mut self, client: ClientId) -> Result<(), (ErrorCode, String)> {
        if self.upgrading.is_some() {
            return self.call_off_upgrade(client);
        }
        if self.driver.is_some() {
            return self.call_off_takeover(client);
        }
        if self.operation.is_some() || !self.transfers.is_empty() {
            return Err((ErrorCode::Busy, "something else is not finished yet".to_owned()));
        }
        if self.peer.as_ref().is_none_or(|peer| peer.role != Role::Kept) {
            return Err((
                ErrorCode::Failed,
                "no takeover is under way, and no old generation was kept (`baton promote --keep-old`)".to_owned(),
            ));
        }
        let stage = Stage::Resuming { why: Why::Asked, deadline: self.now + ANSWER };
        self.driver = Some(Driver::begin(Some(client), Wishes::default(), stage, self.now));
        self.take_role(Role::Incumbent);
        self.all_accept(false);
        self.say(&Message::Resume, &[]);
        Ok(())
    }

    /// The other generation's supervisor is dead. Its workers give what they have to ours.
    pub(crate) fn incumbent_is_gone(&mut self, role: Role) {
        if self.phase == Phase::Draining || role == Role::Kept {
            return;
        }
        tracing::warn!("the incumbent is gone: this generation serves");
        self.show_ourselves();
        self.all_accept(true);
        match self.driver.as_mut() {
            None => {
                if self.phase == Phase::Standby {
                    self.phase = Phase::Running;
                }
                self.take_name();
                self.become_main();
            }
            Some(driver) => {
                let lost = "the old supervisor died";
                match driver.stage {
                    // Its workers give by themselves over the lanes that they have; who has none says goodbye.
                    Stage::Handing { .. } | Stage::Canary { .. } => {
                        let transfers = self.transfers.iter_mut();
                        transfers.filter(|t| t.purpose == Purpose::Takeover).for_each(|t| t.is_gone(t.giver));
                        driver.stage = Stage::Handing { deadline: self.now + HANDING };
                        self.step(lost);
                        self.finish_transfers();
                        self.takeover_transfers_may_be_over();
                    }
                    Stage::Verifying => {}
                    Stage::Preflight
                    | Stage::Switching { .. }
                    | Stage::Watching { .. }
                    | Stage::Checking
                    | Stage::Retiring { .. }
                    | Stage::Resuming { .. }
                    | Stage::GivingBack { .. } => {
                        self.step(lost);
                        self.taken_over();
                    }
                }
            }
        }
    }

    /// A worker of ours has died while a takeover is under way.
    pub(crate) fn lost_a_worker(&mut self, slot: Slot, words: &str) {
        let ours = self.peer.as_ref().is_some_and(|peer| matches!(peer.role, Role::Incumbent | Role::Giving));
        if ours && self.driver.is_some() {
            self.roll_back(&format!("the new worker of slot {slot} died: {words}"));
        }
    }

    /// A worker of a generation that has not taken over has died: better to leave it at that.
    pub(crate) fn cannot_start_beside(&mut self, cause: &str) {
        tracing::error!(cause, "a worker did not come up beside the generation that runs: giving up");
        self.tally(Outcome::Failed);
        self.fail(None, &format!("a worker did not come up: {cause}"));
    }
}
