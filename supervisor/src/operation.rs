//! What takes longer than an answer: starting, stopping and replacing workers, step by step.
//!
//! An operation is a list of tasks. A task brings some slots to a goal, all at once; the next task begins when the one
//! before has succeeded, so that one task per slot is a rolling restart. Pure: it looks at slots and says what to do.

use std::collections::VecDeque;

use baton_ipc::Slot as SlotId;
use nix::unistd::Pid;

use crate::control::ClientId;
use crate::slot::{Event, Slot};

/// What an operator has asked for and is not finished.
#[derive(Debug)]
pub(crate) struct Operation {
    /// Its name in messages, as a verb: `reload`.
    pub(crate) verb: &'static str,
    /// Who wants to hear of it.
    pub(crate) client: Option<ClientId>,
    tasks: VecDeque<Task>,
    current: Option<Task>,
}

/// Brings slots to a goal.
#[derive(Debug)]
pub(crate) struct Task {
    goal: Goal,
    slots: VecDeque<Mark>,
}

/// Where a slot shall get to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Goal {
    /// A worker serves.
    Up,
    /// No worker, on purpose: its clients are told to come back.
    Down,
    /// No worker, on purpose: others have its clients.
    Gone,
    /// Another worker than now serves.
    Fresh,
}

/// A slot on its way.
#[derive(Debug)]
struct Mark {
    slot: SlotId,
    // The worker at the beginning.
    old: Option<Pid>,
    // Reliefs that had failed before.
    failed_reliefs: u64,
    // Deaths counted when the new worker was first seen: one more, and it has failed.
    deaths: Option<u64>,
}

/// What an operation sees of a slot.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View<'a> {
    pub(crate) slot: &'a Slot,
    /// Workers that ended unasked so far.
    pub(crate) deaths: u64,
    /// Workers that were to relieve another and could not.
    pub(crate) failed_reliefs: u64,
    pub(crate) last_cause: Option<&'a str>,
    /// What is to be told of the last relief or evacuation.
    pub(crate) note: Option<&'a str>,
}

/// What comes next.
#[derive(Debug, PartialEq)]
pub(crate) enum Move {
    /// Nothing, before something happens.
    Wait,
    /// Give these slots this event.
    Apply(Event, Vec<SlotId>),
    /// Have the workers in these slots relieved by fresh ones; where none serves: [`Event::Restart`].
    Relieve(Vec<SlotId>),
    /// Have others take what the workers in these slots have, then [`Event::Stop`].
    Evacuate(Vec<SlotId>),
    /// Tell about progress.
    Say(String),
    /// It is over.
    Finish(Result<String, String>),
}

impl Task {
    pub(crate) fn new(goal: Goal, slots: impl IntoIterator<Item = SlotId>) -> Task {
        let slots = slots.into_iter().map(|slot| Mark { slot, old: None, failed_reliefs: 0, deaths: None }).collect();
        Task { goal, slots }
    }
}

impl Operation {
    pub(crate) fn new(verb: &'static str, client: Option<ClientId>, tasks: Vec<Task>) -> Operation {
        let tasks = tasks.into_iter().filter(|task| !task.slots.is_empty()).collect();
        Operation { verb, client, tasks, current: None }
    }

    /// To be called until it says [`Move::Wait`] or [`Move::Finish`].
    pub(crate) fn advance<'a>(&mut self, view: impl Fn(SlotId) -> View<'a>) -> Move {
        let Some(task) = &mut self.current else {
            let Some(mut task) = self.tasks.pop_front() else {
                return Move::Finish(Ok(format!("{} is done", self.verb)));
            };
            for mark in &mut task.slots {
                let view = view(mark.slot);
                mark.old = view.slot.pid();
                mark.failed_reliefs = view.failed_reliefs;
            }
            let slots = task.slots.iter().map(|mark| mark.slot).collect();
            let begin = match task.goal {
                Goal::Up => Move::Apply(Event::Start, slots),
                Goal::Down => Move::Apply(Event::Stop, slots),
                Goal::Gone => Move::Evacuate(slots),
                Goal::Fresh => Move::Relieve(slots),
            };
            self.current = Some(task);
            return begin;
        };
        // The first that has something to tell.
        for index in 0..task.slots.len() {
            let mark = &mut task.slots[index];
            match mark.look(task.goal, view(mark.slot)) {
                Outcome::OnItsWay => {}
                Outcome::Reached(message) => {
                    task.slots.remove(index);
                    return Move::Say(message);
                }
                Outcome::Failed(message) => {
                    let rest = self.tasks.len();
                    let rest = if rest > 0 { format!("; {rest} more were not touched") } else { String::new() };
                    return Move::Finish(Err(format!("{} stopped: {message}{rest}", self.verb)));
                }
            }
        }
        if task.slots.is_empty() {
            self.current = None;
            return self.advance(view);
        }
        Move::Wait
    }
}

enum Outcome {
    OnItsWay,
    Reached(String),
    Failed(String),
}

impl Mark {
    fn look(&mut self, goal: Goal, view: View<'_>) -> Outcome {
        let number = self.slot;
        let note = view.note.map(|note| format!("; {note}")).unwrap_or_default();
        let is_new = |pid: &Pid| goal == Goal::Up || Some(*pid) != self.old;
        match (goal, view.slot) {
            (Goal::Gone, Slot::Stopped) => return Outcome::Reached(format!("slot {number}: stopped{note}")),
            (Goal::Down, Slot::Stopped) => return Outcome::Reached(format!("slot {number}: stopped")),
            (Goal::Up | Goal::Fresh, Slot::Serving { pid, .. }) if is_new(pid) => {
                return Outcome::Reached(match self.old.filter(|old| old != pid) {
                    Some(old) => format!("slot {number}: pid {pid} serves in place of {old}{note}"),
                    None => format!("slot {number}: pid {pid} serves"),
                });
            }
            // One that was on its way before anybody asked proves nothing by its death: the reason may be gone since.
            (Goal::Up | Goal::Fresh, Slot::Starting { pid, .. }) if Some(*pid) != self.old => {
                self.deaths.get_or_insert(view.deaths);
            }
            (Goal::Up | Goal::Down | Goal::Gone | Goal::Fresh, _) => {}
        }
        if self.deaths.is_some_and(|before| view.deaths > before) {
            let cause = view.last_cause.unwrap_or("it died");
            return Outcome::Failed(format!("the new worker of slot {number} did not come up: {cause}"));
        }
        if view.failed_reliefs > self.failed_reliefs {
            let cause = view.last_cause.unwrap_or("it died");
            return Outcome::Failed(format!("the worker of slot {number} was not relieved, and serves on: {cause}"));
        }
        if !matches!(goal, Goal::Down | Goal::Gone) && *view.slot == Slot::Stopped {
            return Outcome::Failed(format!("slot {number} was stopped meanwhile"));
        }
        Outcome::OnItsWay
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn pid(number: i32) -> Pid {
        Pid::from_raw(number)
    }

    fn serving(number: i32) -> Slot {
        Slot::Serving { pid: pid(number), since: Instant::now() }
    }

    fn starting(number: i32) -> Slot {
        Slot::Starting { pid: pid(number), deadline: Instant::now() }
    }

    fn vacant() -> Slot {
        Slot::Vacant { retry_at: Instant::now() }
    }

    fn advance(operation: &mut Operation, slots: &[Slot], deaths: u64) -> Move {
        let view = |slot: SlotId| View {
            slot: &slots[usize::from(slot)],
            deaths,
            failed_reliefs: 0,
            last_cause: Some("exited with 1"),
            note: None,
        };
        operation.advance(view)
    }

    fn rolling() -> Operation {
        Operation::new("restart", None, vec![Task::new(Goal::Fresh, [0]), Task::new(Goal::Fresh, [1])])
    }

    #[test]
    fn a_rolling_restart_takes_one_slot_after_the_other() {
        let mut op = rolling();
        assert_eq!(advance(&mut op, &[serving(1), serving(2)], 0), Move::Relieve(vec![0]));
        assert_eq!(advance(&mut op, &[serving(1), serving(2)], 0), Move::Wait);
        assert_eq!(advance(&mut op, &[vacant(), serving(2)], 0), Move::Wait);
        assert_eq!(advance(&mut op, &[starting(3), serving(2)], 0), Move::Wait);
        let said = Move::Say("slot 0: pid 3 serves in place of 1".into());
        assert_eq!(advance(&mut op, &[serving(3), serving(2)], 0), said);
        assert_eq!(advance(&mut op, &[serving(3), serving(2)], 0), Move::Relieve(vec![1]));
        assert!(matches!(advance(&mut op, &[serving(3), serving(4)], 0), Move::Say(_)));
        assert!(matches!(advance(&mut op, &[serving(3), serving(4)], 0), Move::Finish(Ok(_))));
    }

    #[test]
    fn a_new_worker_that_dies_stops_the_rollout_and_an_old_one_does_not() {
        let mut op = rolling();
        advance(&mut op, &[serving(1), serving(2)], 0);
        // The old one hung and was killed: a death, but not of the new worker.
        assert_eq!(advance(&mut op, &[vacant(), serving(2)], 1), Move::Wait);
        assert_eq!(advance(&mut op, &[starting(3), serving(2)], 1), Move::Wait);
        let Move::Finish(Err(message)) = advance(&mut op, &[vacant(), serving(2)], 2) else { panic!("goes on") };
        assert!(message.contains("slot 0") && message.contains("exited with 1") && message.contains("1 more"));
    }

    #[test]
    fn many_slots_start_and_stop_together() {
        let mut op = Operation::new("stop", None, vec![Task::new(Goal::Down, [0, 1])]);
        assert_eq!(advance(&mut op, &[serving(1), serving(2)], 0), Move::Apply(Event::Stop, vec![0, 1]));
        assert_eq!(advance(&mut op, &[serving(1), Slot::Stopped], 0), Move::Say("slot 1: stopped".into()));
        assert_eq!(advance(&mut op, &[serving(1), Slot::Stopped], 0), Move::Wait);
        assert!(matches!(advance(&mut op, &[Slot::Stopped, Slot::Stopped], 0), Move::Say(_)));
        let mut op = Operation::new("start", None, vec![Task::new(Goal::Up, [0])]);
        assert_eq!(advance(&mut op, &[serving(1)], 0), Move::Apply(Event::Start, vec![0]));
        assert_eq!(advance(&mut op, &[serving(1)], 0), Move::Say("slot 0: pid 1 serves".into()));
    }

    #[test]
    fn a_start_does_not_fail_by_a_worker_that_was_on_its_way_before() {
        let mut op = Operation::new("start", None, vec![Task::new(Goal::Up, [0])]);
        assert_eq!(advance(&mut op, &[starting(1)], 4), Move::Apply(Event::Start, vec![0]));
        assert_eq!(advance(&mut op, &[starting(1)], 4), Move::Wait);
        assert_eq!(advance(&mut op, &[vacant()], 5), Move::Wait);
        assert_eq!(advance(&mut op, &[starting(2)], 5), Move::Wait);
        assert!(matches!(advance(&mut op, &[vacant()], 6), Move::Finish(Err(_))));
        let mut op = Operation::new("start", None, vec![Task::new(Goal::Up, [0])]);
        advance(&mut op, &[starting(1)], 4);
        assert_eq!(advance(&mut op, &[serving(1)], 4), Move::Say("slot 0: pid 1 serves".into()));
    }

    #[test]
    fn nothing_to_do_is_done() {
        let mut op = Operation::new("scale", None, vec![Task::new(Goal::Up, [])]);
        assert!(matches!(advance(&mut op, &[], 0), Move::Finish(Ok(_))));
    }
}
