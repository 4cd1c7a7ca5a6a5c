//! The side that takes over: it drives, step by step, and can go back at every one of them.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use baton_ipc::control::{ErrorCode, Generation, Output, Reply, TakeoverReceipt};
use baton_ipc::messages::{Amount, Share, ToWorker};
use baton_ipc::scoreboard::{GAUGE_CONNECTIONS, GAUGE_LIMIT};
use baton_ipc::takeover::Message;
use baton_ipc::{Channel, Slot, fault};

use super::{ProbeJob, Role, budget, plan};
use crate::Error;
use crate::control::ClientId;
use crate::settings::Takeover;
use crate::supervisor::{Phase, Supervisor};
use crate::transfer::{Purpose, Receipt, Transfer, Who};

/// How long the incumbent may take to answer.
const ANSWER: Duration = Duration::from_secs(5);

/// How long handing over may take.
const HANDING: Duration = Duration::from_secs(60);

/// How often progress is told.
const PROGRESS: Duration = Duration::from_millis(100);

/// How a takeover is wanted.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wishes {
    /// First only so many in a hundred.
    pub(crate) canary: Option<f64>,
    /// How long to look at them.
    pub(crate) watch: Duration,
    pub(crate) keep_old: bool,
}

/// A takeover that is under way.
#[derive(Debug)]
pub(crate) struct Driver {
    client: Option<ClientId>,
    wishes: Wishes,
    stage: Stage,
    /// Names of steps, and milliseconds.
    steps: Vec<(String, u64)>,
    begun: Instant,
    /// Of the other generation: its workers, and the connections that they had when they stopped accepting.
    workers: Vec<(Slot, u64)>,
    receipt: Receipt,
    next_progress: Instant,
}

/// Where a takeover is.
#[derive(Debug)]
enum Stage {
    /// A probe tries each of our workers.
    Preflight,
    /// The incumbent is to stop accepting.
    Switching { deadline: Instant },
    /// Some connections are on their way.
    Canary { deadline: Instant },
    /// They are here; is all well?
    Watching { until: Instant },
    /// After that, each of our workers is tried again.
    Checking,
    /// All others are on their way.
    Handing { deadline: Instant },
    /// A probe tries the public address.
    Verifying,
    /// The incumbent is to go, or to stay warm.
    Retiring { deadline: Instant },
    /// The incumbent is to accept again.
    Resuming { cause: String, deadline: Instant },
    /// The connections go back.
    GivingBack { cause: String, deadline: Instant },
}

impl Stage {
    fn deadline(&self) -> Option<Instant> {
        match self {
            Stage::Preflight | Stage::Checking | Stage::Verifying => None,
            Stage::Switching { deadline } | Stage::Canary { deadline } | Stage::Handing { deadline } => Some(*deadline),
            Stage::Watching { until } => Some(*until),
            Stage::Retiring { deadline } => Some(*deadline),
            Stage::Resuming { deadline, .. } | Stage::GivingBack { deadline, .. } => Some(*deadline),
        }
    }
}

impl Driver {
    /// When it has to be looked at again.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let telling = matches!(self.stage, Stage::Handing { .. } | Stage::Canary { .. });
        let progress = telling.then_some(self.next_progress);
        self.stage.deadline().into_iter().chain(progress).min()
    }
}

impl Supervisor<'_> {
    /// Begins to take over.
    pub(crate) fn promote(&mut self, client: Option<ClientId>, wishes: Wishes) -> Result<(), (ErrorCode, String)> {
        let refuse = |code, message: &str| Err((code, message.to_owned()));
        if self.driver.is_some() {
            return refuse(ErrorCode::Busy, "the takeover is under way already");
        }
        match (self.phase, self.peer.as_ref().map(|peer| peer.role)) {
            (Phase::Standby, Some(Role::Incumbent)) => {}
            (_, Some(Role::Kept)) => {
                return refuse(ErrorCode::Failed, "it has taken over already; `rollback` gives back");
            }
            (Phase::Starting, _) => return refuse(ErrorCode::Busy, "it is not ready yet"),
            (_, _) => {
                return refuse(ErrorCode::Failed, "it serves already: start the other one with `baton promote`");
            }
        }
        let serving = self.serving().len();
        if serving < usize::from(self.settings.workers) {
            let message = format!("only {serving} of {} workers are ready", self.settings.workers);
            return Err((ErrorCode::Busy, message));
        }
        tracing::info!(?wishes, "taking over");
        self.driver = Some(Driver {
            client,
            wishes,
            stage: Stage::Preflight,
            steps: vec![],
            begun: self.now,
            workers: vec![],
            receipt: Receipt::default(),
            next_progress: self.now,
        });
        let counted = (0..self.board.slots()).map(|slot| self.board.slot(slot).gauge(GAUGE_CONNECTIONS)).sum();
        let limit = |place: &crate::place::Place| self.board.row(place.number, place.side).gauge(GAUGE_LIMIT).get();
        let limits: Vec<u64> = self.active().iter().map(limit).collect();
        match budget::check(counted, &limits, budget::available_memory()) {
            Ok(said) => self.step(&format!("budget: {said}")),
            Err(cause) => {
                self.give_up(&format!("preflight: {cause}"));
                return Ok(());
            }
        }
        self.probe_workers();
        Ok(())
    }

    /// Takes what the incumbent has answered.
    pub(crate) fn answered(&mut self, message: Message) {
        let Some(driver) = &mut self.driver else { return };
        match (&driver.stage, message) {
            (Stage::Switching { .. }, Message::Switched { workers }) => {
                let connections: u64 = workers.iter().map(|(_, count)| count).sum();
                driver.workers = workers;
                fault::point("takeover switched");
                self.step(&format!("switch: new clients come here; {connections} connections to hand over"));
                match self.driver.as_ref().and_then(|driver| driver.wishes.canary) {
                    Some(share) => self.begin_canary(share),
                    None => self.begin_handing(),
                }
            }
            (Stage::Switching { .. }, Message::Refused { reason }) => self.roll_back(&reason),
            (_, Message::Given { id, handed, stayed, broken }) => {
                if broken && let Some(transfer) = self.transfers.iter_mut().find(|transfer| transfer.id == id) {
                    transfer.is_gone(transfer.giver);
                }
                self.heard_given(id, handed, stayed);
            }
            (_, Message::Taken { lane, pauses }) => self.heard_taken(lane, &pauses),
            (Stage::Retiring { .. }, Message::Retired) => self.taken_over(),
            (Stage::Resuming { cause, .. }, Message::Resumed { workers }) => {
                let cause = cause.clone();
                if workers.is_empty() && cause == ROLLBACK {
                    return self.keep_serving("no worker serves there");
                }
                driver.workers = workers;
                driver.stage = Stage::GivingBack { cause, deadline: self.now + HANDING };
                self.give_back();
            }
            (stage, other) => tracing::warn!(?stage, ?other, "an answer that nobody has asked for"),
        }
    }

    /// What depends on the clock.
    pub(crate) fn look_at_takeover(&mut self) {
        let Some(driver) = &mut self.driver else { return };
        if matches!(driver.stage, Stage::Handing { .. } | Stage::Canary { .. }) && self.now >= driver.next_progress {
            driver.next_progress = self.now + PROGRESS;
            let (client, total) = (driver.client, driver.workers.iter().map(|(_, count)| count).sum());
            let here: u64 = self.connections_of_workers().iter().map(|(_, count)| count).sum();
            self.reply(client, Reply::Progress { done: here.min(total), total });
        }
        let Some(driver) = &self.driver else { return };
        if driver.stage.deadline().is_none_or(|deadline| self.now < deadline) {
            return;
        }
        match &driver.stage {
            Stage::Preflight | Stage::Checking | Stage::Verifying => {}
            Stage::Switching { .. } => self.roll_back("the incumbent does not answer"),
            Stage::Canary { .. } | Stage::Handing { .. } => self.roll_back("handing over takes too long"),
            Stage::Watching { .. } => {
                self.step("watch: no worker died");
                self.set_stage(Stage::Checking);
                self.probe_workers();
            }
            // It has nothing any more.
            Stage::Retiring { .. } => self.taken_over(),
            Stage::Resuming { cause, .. } if cause == ROLLBACK => {
                self.keep_serving("the old generation does not answer")
            }
            Stage::Resuming { cause, .. } | Stage::GivingBack { cause, .. } => {
                let cause = cause.clone();
                self.given_back(&cause);
            }
        }
    }

    /// A rollback that an operator has asked for is not possible: everything stays here.
    fn keep_serving(&mut self, reason: &str) {
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

    /// A probe is over.
    pub(crate) fn probed(&mut self, outcome: Result<(), String>) {
        let Some(driver) = &self.driver else { return };
        match (&driver.stage, outcome) {
            (Stage::Preflight, Ok(())) => {
                self.step("preflight: every worker answers a WebSocket");
                self.switch();
            }
            (Stage::Preflight, Err(cause)) => self.give_up(&format!("preflight: {cause}")),
            (Stage::Checking, Ok(())) => self.begin_handing(),
            (Stage::Checking, Err(cause)) => self.roll_back(&format!("canary: {cause}")),
            (Stage::Verifying, Ok(())) => {
                self.step("verify: this generation answers at the public address");
                self.retire();
            }
            (Stage::Verifying, Err(cause)) => self.roll_back(&format!("verify: {cause}")),
            (_, _) => {}
        }
    }

    /// Has a child try each worker, by way of a socket that the worker takes for an accepted client.
    fn probe_workers(&mut self) {
        let mut job = ProbeJob::default();
        for who in self.serving() {
            match self.pass_client(who) {
                Ok(socket) => job.sockets.push((who.slot, socket)),
                Err(error) => return self.probed(Err(format!("slot {}: {error}", who.slot))),
            }
        }
        self.probe_wanted = Some(job);
    }

    fn pass_client(&self, who: Who) -> Result<OwnedFd, baton_ipc::ChannelError> {
        let (ours, theirs) = UnixStream::pair()?;
        let mut workers = self.place(who.slot).workers();
        let worker = workers.find(|worker| worker.pid == who.pid).ok_or(baton_ipc::ChannelError::Closed)?;
        worker.channel.send(&ToWorker::Admit, &[theirs.as_fd()])?;
        Ok(ours.into())
    }

    fn switch(&mut self) {
        self.set_stage(Stage::Switching { deadline: self.now + ANSWER });
        self.take_role(Role::Giving);
        fault::point("takeover switching");
        match self.listeners.extras(self.settings.workers) {
            Ok(extras) => {
                // It has them before anybody can be in their queues.
                for extra in &extras {
                    let message = Message::Extra { slot: extra.slot, endpoint: extra.endpoint.clone() };
                    self.say(&message, &[extra.socket.as_fd()]);
                }
                if let Err(error) = self.serve_extras(extras) {
                    return self.roll_back(&format!("cannot listen on more sockets: {error}"));
                }
            }
            Err(error) => return self.roll_back(&format!("cannot bind more sockets: {error}")),
        }
        self.show_ourselves();
        self.all_accept(true);
        self.say(&Message::Switch, &[]);
        fault::point("takeover switch said");
    }

    fn serve_extras(&mut self, extras: Vec<baton_ipc::Listener>) -> std::io::Result<()> {
        for extra in extras {
            self.listeners.listen(&extra)?;
            if let Some(worker) = &self.place(extra.slot).worker {
                let message = ToWorker::Lend { slot: extra.slot, endpoint: extra.endpoint.clone() };
                if let Err(error) = worker.channel.send(&message, &[extra.socket.as_fd()]) {
                    tracing::warn!(slot = extra.slot, %error, "a worker does not get its listener");
                }
            }
            self.listeners.add(extra);
        }
        Ok(())
    }

    fn begin_canary(&mut self, share: f64) {
        self.set_stage(Stage::Canary { deadline: self.now + HANDING });
        let Some(driver) = &self.driver else { return };
        let workers = driver.workers.clone();
        let amounts = workers.into_iter().map(|(slot, count)| (slot, Amount::Most(plan::percent(count, share))));
        let amounts: Vec<(Slot, Amount)> = amounts.collect();
        self.take(&amounts);
    }

    fn begin_handing(&mut self) {
        self.set_stage(Stage::Handing { deadline: self.now + HANDING });
        let Some(driver) = &self.driver else { return };
        let amounts: Vec<(Slot, Amount)> = driver.workers.iter().map(|(slot, _)| (*slot, Amount::All)).collect();
        self.take(&amounts);
    }

    /// Has the other generation's workers give to ours.
    fn take(&mut self, amounts: &[(Slot, Amount)]) {
        let takers = self.serving();
        for ((slot, amount), shares) in amounts.iter().zip(plan::shares(amounts.len(), takers.len())) {
            let (mut lanes, mut weights) = (BTreeMap::new(), Vec::new());
            for (index, weight) in shares {
                let lane = self.next_name();
                let Ok((one, other)) = Channel::pair() else { continue };
                if self.send_lane(takers[index], lane, true, &other).is_err() {
                    continue;
                }
                self.say(&Message::Lane { slot: *slot, lane }, &[one.as_fd()]);
                lanes.insert(lane, Some(takers[index]));
                weights.push(Share { lane, weight });
            }
            let id = self.next_name();
            // Its pid is the other supervisor's affair.
            let giver = Who { slot: *slot, pid: nix::unistd::Pid::from_raw(0) };
            self.transfers.push(Transfer::new(id, Purpose::Takeover, giver, lanes, self.now));
            self.say(&Message::Give { id, slot: *slot, shares: weights, amount: *amount }, &[]);
            fault::point("takeover give said");
        }
        self.takeover_transfers_may_be_over();
    }

    /// One of the transfers of a takeover is over.
    pub(crate) fn took(&mut self, transfer: &Transfer) {
        if let Some(driver) = &mut self.driver {
            driver.receipt.add(&transfer.receipt);
        }
        self.takeover_transfers_may_be_over();
    }

    fn takeover_transfers_may_be_over(&mut self) {
        if self.transfers.iter().any(|transfer| transfer.purpose == Purpose::Takeover) {
            return;
        }
        let Some(driver) = &self.driver else { return };
        let receipt = driver.receipt.to_string();
        match &driver.stage {
            Stage::Canary { .. } => {
                self.step(&format!("canary: {receipt}"));
                let watch = self.driver.as_ref().map_or(Duration::ZERO, |driver| driver.wishes.watch);
                self.set_stage(Stage::Watching { until: self.now + watch });
            }
            Stage::Handing { .. } => {
                fault::point("takeover handed");
                self.step(&format!("handover: {receipt}"));
                self.verify();
            }
            Stage::GivingBack { cause, .. } => {
                let cause = cause.clone();
                self.given_back(&cause);
            }
            Stage::Preflight | Stage::Switching { .. } | Stage::Watching { .. } | Stage::Checking => {}
            Stage::Verifying | Stage::Retiring { .. } | Stage::Resuming { .. } => {}
        }
    }

    fn verify(&mut self) {
        self.set_stage(Stage::Verifying);
        let public = self.listeners.endpoints().to_vec();
        self.probe_wanted = Some(ProbeJob { sockets: vec![], public, pid: std::process::id() });
    }

    fn retire(&mut self) {
        let keep = self.driver.as_ref().is_some_and(|driver| driver.wishes.keep_old);
        self.set_stage(Stage::Retiring { deadline: self.now + ANSWER });
        fault::point("takeover verified");
        self.say(&Message::Retire { keep }, &[]);
    }

    /// It is done.
    fn taken_over(&mut self) {
        let Some(driver) = self.driver.take() else { return };
        let to = self.generation();
        let from = self.peer.as_ref().map_or_else(|| to.clone(), |peer| peer.generation.clone());
        let kept = driver.wishes.keep_old && self.peer.is_some();
        if kept {
            self.take_role(Role::Kept);
        } else {
            self.peer = None;
        }
        self.phase = Phase::Running;
        self.take_name();
        self.notifier.main_pid();
        let receipt = driver.finish(from, to, kept);
        tracing::info!(
            from = receipt.from.color,
            to = receipt.to.color,
            handed = receipt.handed,
            drained = receipt.drained.iter().map(|(_, count)| count).sum::<u64>(),
            dropped = receipt.dropped,
            longest_pause_us = receipt.longest_pause_us,
            p99_pause_us = receipt.p99_pause_us,
            "taken over"
        );
        self.reply(driver.client, Reply::Done { output: Output::Takeover(Box::new(receipt)) });
        if std::mem::take(&mut self.end_wanted) {
            self.shut_down(None);
        }
    }

    /// For an upgrade: the names that the incumbent had are ours now.
    fn take_name(&mut self) {
        let (directory, color) = (self.settings.runtime_dir.clone(), self.settings.color.clone());
        let renamed = self.control.rename(&directory, &color).and_then(|()| self.door.rename(&directory, &color));
        if let Err(error) = renamed {
            tracing::error!(%error, "the control socket of the old generation could not be replaced");
        }
    }

    /// Before the switch: nobody has noticed anything.
    fn give_up(&mut self, cause: &str) {
        let Some(driver) = self.driver.take() else { return };
        tracing::error!(cause, "the takeover is given up: the incumbent serves on, and has noticed nothing");
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
        self.step(&format!("rolling back: {cause}"));
        // The incumbent calls off what is under way, and says when that has come to an end.
        self.transfers.retain(|transfer| transfer.purpose != Purpose::Takeover);
        self.set_stage(Stage::Resuming { cause: cause.to_owned(), deadline: self.now + ANSWER });
        self.take_role(Role::Incumbent);
        self.all_accept(false);
        self.say(&Message::Resume, &[]);
    }

    fn give_back(&mut self) {
        let Some(driver) = &self.driver else { return };
        let takers: Vec<Slot> = driver.workers.iter().map(|(slot, _)| *slot).collect();
        let givers = self.serving();
        for (giver, shares) in givers.iter().zip(plan::shares(givers.len(), takers.len())) {
            let (mut lanes, mut weights) = (BTreeMap::new(), Vec::new());
            for (index, weight) in shares {
                let lane = self.next_name();
                let Ok((one, other)) = Channel::pair() else { continue };
                if self.send_lane(*giver, lane, true, &one).is_err() {
                    continue;
                }
                self.say(&Message::Lane { slot: takers[index], lane }, &[other.as_fd()]);
                // Its pid is the other supervisor's affair, which passes on what it says.
                lanes.insert(lane, Some(Who { slot: takers[index], pid: nix::unistd::Pid::from_raw(0) }));
                weights.push(Share { lane, weight });
            }
            let id = self.next_name();
            self.transfers.push(Transfer::new(id, Purpose::Takeover, *giver, lanes, self.now));
            self.tell_one(*giver, &ToWorker::Give { id, shares: weights, amount: Amount::All });
        }
        self.takeover_transfers_may_be_over();
    }

    fn given_back(&mut self, cause: &str) {
        let Some(driver) = self.driver.take() else { return };
        self.transfers.retain(|transfer| transfer.purpose != Purpose::Takeover);
        if cause == ROLLBACK {
            let to = self.peer.as_ref().map_or_else(|| self.generation(), |peer| peer.generation.clone());
            let client = driver.client;
            let receipt = driver.finish(self.generation(), to, false);
            self.reply(client, Reply::Done { output: Output::Takeover(Box::new(receipt)) });
            self.shut_down(None);
            return;
        }
        self.fail(driver.client, cause);
    }

    fn fail(&mut self, client: Option<ClientId>, cause: &str) {
        let (color, pid) = self
            .peer
            .as_ref()
            .map_or_else(Default::default, |peer| (peer.generation.color.clone(), peer.generation.pid));
        let message = format!("{cause}; {color} (pid {pid}) serves as before");
        self.reply(client, Reply::Error { code: ErrorCode::Failed, message });
        self.failure = Some(Error::Takeover { color, reason: cause.to_owned() });
        self.shut_down(None);
    }

    /// Gives everything back to the old generation, and ends.
    pub(crate) fn begin_rollback(&mut self, client: ClientId) -> Result<(), (ErrorCode, String)> {
        if self.driver.is_some() || self.operation.is_some() || !self.transfers.is_empty() {
            return Err((ErrorCode::Busy, "something else is not finished yet".to_owned()));
        }
        if self.peer.as_ref().is_none_or(|peer| peer.role != Role::Kept) {
            return Err((ErrorCode::Failed, "no old generation was kept (`baton promote --keep-old`)".to_owned()));
        }
        self.driver = Some(Driver {
            client: Some(client),
            wishes: Wishes::default(),
            stage: Stage::Resuming { cause: ROLLBACK.to_owned(), deadline: self.now + ANSWER },
            steps: vec![],
            begun: self.now,
            workers: vec![],
            receipt: Receipt::default(),
            next_progress: self.now,
        });
        self.take_role(Role::Incumbent);
        self.all_accept(false);
        self.say(&Message::Resume, &[]);
        Ok(())
    }

    /// The other generation's supervisor is dead. Its workers give what they have to ours.
    pub(crate) fn incumbent_is_gone(&mut self, role: Role) {
        for slot in 0..self.board.slots() {
            if let Some(place) = self.places.get(usize::from(slot)) {
                self.board.row(slot, place.side.other()).clear_gauges();
            }
        }
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
                self.notifier.main_pid();
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
        if !ours {
            return;
        }
        if self.driver.is_some() {
            self.roll_back(&format!("the new worker of slot {slot} died: {words}"));
        }
    }

    /// Lanes from the incumbent's workers, so that they know where to go should their supervisor die.
    fn offer_refuge(&mut self) {
        let takers = self.serving();
        let givers = usize::from(self.listeners.slots());
        for (slot, shares) in (0..).zip(plan::shares(givers, takers.len())) {
            for (index, _) in shares {
                let lane = self.next_name();
                let Ok((one, other)) = Channel::pair() else { continue };
                match self.send_lane(takers[index], lane, true, &other) {
                    Ok(()) => self.say(&Message::Lane { slot, lane }, &[one.as_fd()]),
                    Err(error) => tracing::warn!(slot, %error, "no lane to a worker"),
                }
            }
        }
    }

    /// A worker of a generation that has not taken over has died: better to leave it at that.
    pub(crate) fn cannot_start_beside(&mut self, cause: &str) {
        tracing::error!(cause, "a worker did not come up beside the generation that runs: giving up");
        self.fail(None, &format!("a worker did not come up: {cause}"));
    }

    /// Takes over by itself, if that is what it was started for.
    pub(crate) fn stand_by(&mut self) {
        self.phase = Phase::Standby;
        self.offer_refuge();
        self.notifier.ready();
        tracing::info!("ready, and standing by");
        if self.settings.takeover == Takeover::Now
            && let Err((_, reason)) = self.promote(None, Wishes::default())
        {
            tracing::error!(reason, "cannot take over");
        }
    }

    fn set_stage(&mut self, stage: Stage) {
        if let Some(driver) = &mut self.driver {
            driver.stage = stage;
        }
    }

    /// A step is done.
    fn step(&mut self, what: &str) {
        let Some(driver) = &mut self.driver else { return };
        let total = self.now.saturating_duration_since(driver.begun).as_millis() as u64;
        let before: u64 = driver.steps.iter().map(|(_, ms)| ms).sum();
        let took = total.saturating_sub(before);
        driver.steps.push((what.to_owned(), took));
        let (client, message) = (driver.client, format!("{what} ({took} ms)"));
        tracing::info!(took_ms = took, "takeover: {what}");
        self.reply(client, Reply::Step { message });
    }
}

/// The cause of a rollback that an operator has asked for.
const ROLLBACK: &str = "rollback";

impl Driver {
    fn finish(&self, from: Generation, to: Generation, kept: bool) -> TakeoverReceipt {
        let receipt = &self.receipt;
        let had: u64 = self.workers.iter().map(|(_, count)| count).sum();
        // Of a giver that died nobody says how many it gave; those who took them do.
        let handed = receipt.handed.max(receipt.pauses.count());
        let accounted = handed + receipt.stayed();
        TakeoverReceipt {
            from,
            to,
            handed,
            drained: receipt.stayed.clone(),
            dropped: if receipt.broken { had.saturating_sub(accounted) } else { 0 },
            longest_pause_us: receipt.pauses.longest_us(),
            p99_pause_us: receipt.pauses.quantile_us(0.99),
            steps: self.steps.clone(),
            kept,
        }
    }
}
