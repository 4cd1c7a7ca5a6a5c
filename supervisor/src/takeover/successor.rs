//! The side that takes over: it drives, step by step, and can go back at every one of them.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use baton_ipc::control::{ErrorCode, Generation, Output, Reply, TakeoverReceipt};
use baton_ipc::messages::ToWorker;
use baton_ipc::scoreboard::{GAUGE_CONNECTIONS, GAUGE_LIMIT, Outcome};
use baton_ipc::takeover::Message;
use baton_ipc::{Slot, fault};

use super::{ProbeJob, Role, budget};
use crate::control::ClientId;
use crate::settings::Takeover;
use crate::supervisor::{Phase, Supervisor};
use crate::transfer::{Purpose, Receipt, Transfer, Who};

/// How long the incumbent may take to answer.
pub(super) const ANSWER: Duration = Duration::from_secs(5);

/// How long handing over may take.
pub(super) const HANDING: Duration = Duration::from_secs(60);

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
    pub(super) client: Option<ClientId>,
    pub(super) wishes: Wishes,
    pub(super) stage: Stage,
    /// Names of steps, and milliseconds.
    steps: Vec<(String, u64)>,
    begun: Instant,
    /// Of the other generation: its workers, and the connections that they had when they stopped accepting.
    pub(super) workers: Vec<(Slot, u64)>,
    pub(super) receipt: Receipt,
    next_progress: Instant,
}

/// Where a takeover is.
#[derive(Debug)]
pub(super) enum Stage {
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
    Resuming { why: Why, deadline: Instant },
    /// The connections go back.
    GivingBack { why: Why, deadline: Instant },
}

/// Why everything goes back.
#[derive(Clone, Debug)]
pub(super) enum Why {
    /// An operator wants the generation back that was kept.
    Asked,
    /// An operator, who waits for an answer, does not want the takeover to go on.
    CalledOff(ClientId),
    /// The takeover has failed, by this cause.
    Failed(String),
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
    pub(super) fn begin(client: Option<ClientId>, wishes: Wishes, stage: Stage, now: Instant) -> Driver {
        let (steps, workers, receipt) = (vec![], vec![], Receipt::default());
        Driver { client, wishes, stage, steps, begun: now, workers, receipt, next_progress: now }
    }

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
        self.driver = Some(Driver::begin(client, wishes, Stage::Preflight, self.now));
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
        let Some(driver) = &mut self.driver else {
            if message == Message::Retired {
                // It was late for a rollback, and may have thought that it serves.
                self.show_ourselves();
            }
            return;
        };
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
            (Stage::Resuming { why: Why::Asked, .. }, Message::Resumed { workers }) if workers.is_empty() => {
                self.keep_serving("no worker serves there");
            }
            (Stage::Resuming { why, .. }, Message::Resumed { workers }) => {
                let why = why.clone();
                driver.workers = workers;
                driver.stage = Stage::GivingBack { why, deadline: self.now + HANDING };
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
            Stage::Resuming { why: Why::Asked, .. } => self.keep_serving("the old generation does not answer"),
            Stage::Resuming { why, .. } | Stage::GivingBack { why, .. } => {
                let why = why.clone();
                self.given_back(&why);
            }
        }
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
        let worker = self.place(who.slot).find_worker(who.pid).ok_or(baton_ipc::ChannelError::Closed)?;
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
        self.store_listeners();
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

    /// One of the transfers of a takeover is over.
    pub(crate) fn took(&mut self, transfer: &Transfer) {
        if let Some(driver) = &mut self.driver {
            driver.receipt.add(&transfer.receipt);
        }
        self.takeover_transfers_may_be_over();
    }

    pub(super) fn takeover_transfers_may_be_over(&mut self) {
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
            Stage::GivingBack { why, .. } => {
                let why = why.clone();
                self.given_back(&why);
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
    pub(super) fn taken_over(&mut self) {
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
        self.become_main();
        let receipt = driver.finish(from, to, kept);
        self.tally_receipt(Outcome::Completed, &receipt, driver.age(self.now));
        tracing::info!(
            from = receipt.from.color,
            to = receipt.to.color,
            handed = receipt.handed,
            drained = receipt.all_drained(),
            dropped = receipt.dropped,
            longest_pause_us = receipt.longest_pause_us,
            p99_pause_us = receipt.p99_pause_us,
            "taken over"
        );
        self.last_takeover = Some((self.now, receipt.clone()));
        self.reply(driver.client, Reply::Done { output: Output::Takeover(Box::new(receipt)) });
        if std::mem::take(&mut self.end_wanted) {
            self.shut_down(None);
        }
    }

    /// The service manager deals with this generation from now on.
    pub(super) fn become_main(&mut self) {
        self.notifier.main_pid();
        // For an upgrade it has not heard us before.
        self.store_listeners();
    }

    /// For an upgrade: the names that the incumbent had are ours now.
    pub(super) fn take_name(&mut self) {
        let (directory, color) = (self.settings.runtime_dir.clone(), self.settings.color.clone());
        let renamed = self.control.rename(&directory, &color).and_then(|()| self.door.rename(&directory, &color));
        if let Err(error) = renamed {
            tracing::error!(%error, "the control socket of the old generation could not be replaced");
        }
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

    pub(super) fn set_stage(&mut self, stage: Stage) {
        if let Some(driver) = &mut self.driver {
            driver.stage = stage;
        }
    }

    /// A step is done.
    pub(super) fn step(&mut self, what: &str) {
        let Some(driver) = &mut self.driver else { return };
        let total = driver.age(self.now).as_millis() as u64;
        let before: u64 = driver.steps.iter().map(|(_, ms)| ms).sum();
        let took = total.saturating_sub(before);
        driver.steps.push((what.to_owned(), took));
        let (client, message) = (driver.client, format!("{what} ({took} ms)"));
        tracing::info!(took_ms = took, "takeover: {what}");
        self.reply(client, Reply::Step { message });
    }
}

impl Driver {
    /// How long it has been under way.
    pub(super) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.begun)
    }

    pub(super) fn finish(&self, from: Generation, to: Generation, kept: bool) -> TakeoverReceipt {
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
