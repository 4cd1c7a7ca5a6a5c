//! What each control command does.

use std::collections::BTreeSet;
use std::time::Duration;

use baton_ipc::channel::{ChannelError, PROTOCOL_VERSION};
use baton_ipc::control::{CONTROL_VERSION, Command, ErrorCode, Output, Reply};
use baton_ipc::messages::{Question, ToWorker};
use baton_ipc::{MAX_SLOTS, Side, Slot as SlotId};
use nix::sys::signal::Signal;

use crate::control::ClientId;
use crate::inquiry::{Asker, Gathered, Inquiry, MAX_ROWS};
use crate::operation::{Goal, Operation, Task};
use crate::place::Place;
use crate::signals::Wish;
use crate::slot::Slot;
use crate::supervisor::{Phase, Supervisor};
use crate::takeover::Wishes;
use crate::transfer::Who;

/// The signals that mean something to a worker. It ignores those of the supervisor.
const SIGNALS: [(&str, Signal); 4] =
    [("ABRT", Signal::SIGABRT), ("CONT", Signal::SIGCONT), ("KILL", Signal::SIGKILL), ("STOP", Signal::SIGSTOP)];

/// So many questions of one worker's pages are gathered at once.
const MAX_OF_ONE_WORKER: usize = 16;

/// A refusal.
type Refusal = (ErrorCode, String);

impl Supervisor<'_> {
    /// Answers at once, or begins something that will.
    pub(crate) fn command(&mut self, client: ClientId, command: Command) {
        // Who follows the log would see little else but that it is followed.
        match command.only_looks() {
            true => tracing::trace!(command = command.name(), client, "control command"),
            false => tracing::debug!(command = command.name(), client, "control command"),
        }
        let answer = match command {
            Command::Status => Ok(Some(Output::Status(Box::new(self.status())))),
            Command::Pid { slots } => self.pids(&slots).map(Some),
            Command::Start { slots } => self.start(client, &slots).map(|()| None),
            Command::Stop { slots } => self.stop(client, &slots).map(|()| None),
            Command::Restart { slots } => self.restart(client, &slots).map(|()| None),
            Command::Reload => self.reload(Some(client)).map(|()| None),
            Command::Promote { canary, watch_ms, keep_old } => {
                let watch = Duration::from_millis(watch_ms);
                self.promote(Some(client), Wishes { canary, watch, keep_old }).map(|()| None)
            }
            Command::Rollback => self.begin_rollback(client).map(|()| None),
            Command::Upgrade => self.upgrade(Some(client)).map(|()| None),
            Command::Rebalance => self.begin_rebalance(client).map(|()| None),
            Command::Scale { workers } => self.scale(Some(client), workers).map(|()| None),
            Command::Tail { slot, side, from } => self.tail(slot, side, from).map(Some),
            Command::Signal { signal, slots } => self.send_signal(&signal, &slots).map(Some),
            Command::ReopenLogs => {
                self.reopen_logs();
                Ok(Some(text("log files are opened anew".to_owned())))
            }
            Command::Connections { order, limit } => {
                let limit = limit.min(MAX_ROWS);
                let gathered = Gathered::Rows { order, limit, total: 0, rows: vec![] };
                self.ask(Asker::Client(client), |_| Question::Connections { order, limit }, gathered).map(|()| None)
            }
            Command::Backplane => {
                let gathered = Gathered::Backplane(vec![]);
                self.ask(Asker::Client(client), |_| Question::Backplane, gathered).map(|()| None)
            }
            Command::Disconnect { session } => self.disconnect(Asker::Client(client), &session).map(|()| None),
            Command::Broadcast { message } => {
                self.broadcast(Asker::Client(client), &message.to_string()).map(|()| None)
            }
            Command::Shutdown if self.phase == Phase::Draining => {
                Err((ErrorCode::Busy, "the service is shutting down already".to_owned()))
            }
            Command::Shutdown => {
                self.shut_down(Some(client));
                Ok(None)
            }
            Command::Version => Ok(Some(Output::Version {
                version: self.settings.version.to_owned(),
                control: CONTROL_VERSION,
                protocol: PROTOCOL_VERSION,
            })),
        };
        match answer {
            Ok(None) => {}
            Ok(Some(output)) => self.reply(Some(client), Reply::Done { output }),
            Err((code, message)) => {
                tracing::warn!(?code, "a control command was refused: {message}");
                self.reply(Some(client), Reply::Error { code, message });
            }
        }
    }

    /// One line to a client that may have left.
    pub(crate) fn reply(&mut self, client: Option<ClientId>, reply: Reply) {
        if let Some(client) = client {
            self.control.reply(client, &reply, self.now);
        }
    }

    /// The slots that are meant, in order; none named: all in service.
    fn resolve(&self, slots: &[SlotId]) -> Result<Vec<SlotId>, Refusal> {
        let workers = self.settings.workers;
        if slots.is_empty() {
            return Ok((0..workers).collect());
        }
        if let Some(unknown) = slots.iter().find(|slot| **slot >= workers) {
            return Err(no_slot(*unknown, workers));
        }
        Ok(slots.iter().copied().collect::<BTreeSet<_>>().into_iter().collect())
    }

    /// Refuses if something long is under way.
    pub(crate) fn ensure_free(&self) -> Result<(), Refusal> {
        if self.phase == Phase::Draining {
            return Err((ErrorCode::Busy, "the service is shutting down".to_owned()));
        }
        if self.driver.is_some() {
            return Err((ErrorCode::Busy, "a takeover is under way".to_owned()));
        }
        if let Some(peer) = &self.peer {
            // A worker that relieves another would write where the other generation's does.
            let (color, words) = (&peer.generation.color, peer.role.words());
            let message = format!("there is another generation: {color} {words}; promote, roll back or end it first");
            return Err((ErrorCode::Busy, message));
        }
        match (&self.operation, &self.rebalance) {
            (Some(operation), _) => Err((ErrorCode::Busy, format!("{} is not finished yet", operation.verb))),
            (None, Some(_)) => Err((ErrorCode::Busy, "rebalance is not finished yet".to_owned())),
            (None, None) => Ok(()),
        }
    }

    fn start(&mut self, client: ClientId, slots: &[SlotId]) -> Result<(), Refusal> {
        let slots = self.resolve(slots)?;
        self.ensure_free()?;
        self.operation = Some(Operation::new("start", Some(client), vec![Task::new(Goal::Up, slots)]));
        Ok(())
    }

    fn stop(&mut self, client: ClientId, slots: &[SlotId]) -> Result<(), Refusal> {
        let slots = self.resolve(slots)?;
        self.ensure_free()?;
        self.operation = Some(Operation::new("stop", Some(client), vec![Task::new(Goal::Down, slots)]));
        Ok(())
    }

    fn restart(&mut self, client: ClientId, slots: &[SlotId]) -> Result<(), Refusal> {
        let slots = self.resolve(slots)?;
        self.ensure_free()?;
        let tasks = slots.into_iter().map(|slot| Task::new(Goal::Fresh, [slot])).collect();
        self.operation = Some(Operation::new("restart", Some(client), tasks));
        Ok(())
    }

    /// What a signal asked for, once there is time for it.
    pub(crate) fn grant(&mut self, wish: Wish) {
        let workers = self.settings.workers;
        let outcome = match wish {
            Wish::Reload => self.reload(None),
            Wish::More => self.scale(None, workers + 1),
            Wish::Fewer => self.scale(None, workers - 1),
        };
        if let Err((_, message)) = outcome {
            tracing::error!(?wish, "{message}");
        }
    }

    fn scale(&mut self, client: Option<ClientId>, workers: u16) -> Result<(), Refusal> {
        self.ensure_free()?;
        let task = self.resize(workers)?;
        self.operation = Some(Operation::new("scale", client, vec![task]));
        Ok(())
    }

    /// Makes room for so many workers, and says what is to be done with the slots that come or go. The listeners of
    /// those that go stay: the kernel still routes connections to them, and a neighbour accepts them.
    fn resize(&mut self, workers: u16) -> Result<Task, Refusal> {
        if !(1..=MAX_SLOTS).contains(&workers) {
            let message = format!("{workers} workers are impossible: 1 to {MAX_SLOTS} are");
            return Err((ErrorCode::BadRequest, message));
        }
        self.listeners.grow(workers).map_err(|error| (ErrorCode::Failed, error.to_string()))?;
        self.store_listeners();
        for slot in self.places.len() as SlotId..workers {
            self.places.push(Place::new(slot, Slot::Stopped, self.now));
        }
        self.board.set_slots(self.places.len() as u16);
        let before = std::mem::replace(&mut self.settings.workers, workers);
        Ok(if workers >= before {
            Task::new(Goal::Up, before..workers)
        } else {
            Task::new(Goal::Gone, workers..before)
        })
    }

    fn reload(&mut self, client: Option<ClientId>) -> Result<(), Refusal> {
        self.ensure_free()?;
        let failed = |message| (ErrorCode::Failed, message);
        let settings = self.service.reload().map_err(failed)?;
        self.settings.allow_change(&settings).map_err(failed)?;
        let old = self.settings.workers;
        let resized = self.resize(settings.workers)?;
        self.notifier.reloading();
        // A slot that an operator has stopped stays down.
        let replaced = (0..old.min(settings.workers)).filter(|slot| self.place(*slot).slot != Slot::Stopped);
        let mut tasks: Vec<Task> = replaced.map(|slot| Task::new(Goal::Fresh, [slot])).collect();
        tasks.push(resized);
        self.settings = settings;
        self.operation = Some(Operation::new("reload", client, tasks));
        Ok(())
    }

    pub(crate) fn reopen_logs(&mut self) {
        self.service.reopen_logs();
        for slot in 0..self.places.len() as SlotId {
            self.tell(slot, &ToWorker::ReopenLogs);
        }
    }

    fn pids(&self, slots: &[SlotId]) -> Result<Output, Refusal> {
        let named = self.resolve(slots)?;
        let pid = |slot: SlotId| self.place(slot).slot.pid().map(|pid| pid.as_raw() as u32);
        let supervisor = slots.is_empty().then(std::process::id);
        Ok(Output::Pids { supervisor, workers: named.into_iter().map(|slot| (slot, pid(slot))).collect() })
    }

    fn tail(&self, slot: Option<SlotId>, side: Option<Side>, from: Option<u64>) -> Result<Output, Refusal> {
        // Of one that was scaled away the last lines may be wanted.
        let slots = self.places.len() as SlotId;
        if let Some(slot) = slot.filter(|slot| *slot >= slots) {
            return Err(no_slot(slot, slots));
        }
        let side = side.unwrap_or_else(|| self.board.current(slot));
        let tail = self.board.ring(slot, side).read(from);
        Ok(Output::Tail { text: tail.text, next: tail.next, missed: tail.missed })
    }

    fn send_signal(&mut self, name: &str, slots: &[SlotId]) -> Result<Output, Refusal> {
        let wanted = name.trim_start_matches("SIG");
        let Some((_, signal)) = SIGNALS.iter().find(|(name, _)| *name == wanted) else {
            let known = SIGNALS.map(|(name, _)| name).join(", ");
            let message = format!(
                "workers take {known}, not {name}: to end, replace or reopen logs there are stop, restart, reopen-logs"
            );
            return Err((ErrorCode::NotFound, message));
        };
        let mut reached = 0;
        for slot in self.resolve(slots)? {
            let Some(worker) = &self.place(slot).worker else { continue };
            let sent = worker.signal(*signal);
            sent.map_err(|error| (ErrorCode::Failed, format!("slot {slot} got no {signal}: {error}")))?;
            tracing::warn!(slot, signal = signal.as_str(), "an operator has signalled a worker");
            reached += 1;
        }
        Ok(text(format!("{signal} was sent to {reached} worker{}", if reached == 1 { "" } else { "s" })))
    }

    /// A worker has a question to all, for an operator who is at its pages.
    pub(crate) fn ask_for(&mut self, who: Who, id: u64, question: Question) {
        let asker = Asker::Worker(who, id);
        let from_there = |inquiry: &&Inquiry| matches!(inquiry.asker, Asker::Worker(other, _) if other == who);
        let outcome = match question {
            _ if self.inquiries.iter().filter(from_there).count() >= MAX_OF_ONE_WORKER => {
                Err((ErrorCode::Busy, "too much is asked at once: try again in a moment".to_owned()))
            }
            Question::Sessions { sessions, limit } => {
                let limit = limit.min(MAX_ROWS);
                let gathered = Gathered::Sessions { limit, connections: vec![0; sessions.len()], rows: vec![] };
                self.ask(asker, |_| Question::Sessions { sessions: sessions.clone(), limit }, gathered)
            }
            Question::Disconnect { session, relay: _ } => self.disconnect(asker, &session),
            Question::Broadcast { text, relay: _ } => self.broadcast(asker, &text),
            Question::Connections { .. } | Question::Backplane => {
                Err((ErrorCode::BadRequest, "that is asked by the control socket".to_owned()))
            }
        };
        if let Err((_, message)) = outcome {
            self.tell_one(who, &ToWorker::Told { id, answer: Err(message) });
        }
    }

    fn disconnect(&mut self, asker: Asker, session: &str) -> Result<(), Refusal> {
        let question = |relay| Question::Disconnect { session: session.to_owned(), relay };
        self.ask(asker, question, Gathered::reached(Some(session.to_owned())))
    }

    fn broadcast(&mut self, asker: Asker, text: &str) -> Result<(), Refusal> {
        let question = |relay| Question::Broadcast { text: text.to_owned(), relay };
        self.ask(asker, question, Gathered::reached(None))
    }

    /// Asks every worker that serves; the answers are gathered by [`Inquiry`]. The question is made for each of them:
    /// `true` for the first one that takes it, who is to see to what needs to be done once.
    fn ask(&mut self, asker: Asker, question: impl Fn(bool) -> Question, gathered: Gathered) -> Result<(), Refusal> {
        let reaches = matches!(gathered, Gathered::Reached { .. });
        if reaches && (self.driver.is_some() || !self.transfers.is_empty()) {
            // Some connections are here, some there, and some on their way.
            let message = "connections are being handed over: try again in a moment".to_owned();
            return Err((ErrorCode::Busy, message));
        }
        self.next_question += 1;
        let mut asked = BTreeSet::new();
        for slot in 0..self.places.len() as SlotId {
            let place = self.place(slot);
            let (Slot::Serving { .. }, Some(worker)) = (&place.slot, &place.worker) else { continue };
            let message = ToWorker::Ask { id: self.next_question, question: question(asked.is_empty()) };
            match worker.channel.send(&message, &[]) {
                Ok(()) => {
                    asked.insert(slot);
                }
                Err(error @ ChannelError::TooLarge(_)) => return Err((ErrorCode::BadRequest, error.to_string())),
                Err(error) => {
                    let who = Who { slot, pid: worker.pid };
                    self.undelivered(who, &error);
                }
            }
        }
        self.inquiries.push(Inquiry::new(self.next_question, asker, asked, gathered, self.now));
        self.finish_inquiries();
        Ok(())
    }

    /// Answers what is complete, or has waited long enough.
    pub(crate) fn finish_inquiries(&mut self) {
        let now = self.now;
        let over: Vec<Inquiry> = self.inquiries.extract_if(.., |inquiry| inquiry.is_over(now)).collect();
        for inquiry in over {
            match inquiry.asker {
                Asker::Client(client) => self.reply(Some(client), inquiry.reply()),
                Asker::Worker(who, id) => drop(self.tell_one(who, &ToWorker::Told { id, answer: inquiry.told() })),
            }
        }
    }
}

fn text(message: String) -> Output {
    Output::Text { message }
}

/// Refuses a slot that is not among so many, and says which are.
fn no_slot(unknown: SlotId, slots: SlotId) -> Refusal {
    let known = if slots == 1 { "the only one is 0".to_owned() } else { format!("0 to {} are", slots - 1) };
    (ErrorCode::NotFound, format!("there is no slot {unknown}: {known}"))
}
