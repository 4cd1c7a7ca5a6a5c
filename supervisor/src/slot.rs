//! The life of a slot: state × event → state and actions. Pure, exhaustive, and the only place that decides.
//!
//! ```text
//!            fork            Ready            Stop, Restart         deadline
//!  Vacant ─────────▶ Starting ─────▶ Serving ─────────────▶ Draining ───────▶ Killed
//!    ▲ ▲                │               │                      │                │
//!    │ └── backoff ─────┴── death ──────┘                      └──── exit ──────┤
//!    └───────────────────────── or Stopped ◀────────────────────────────────────┘
//! ```
//!
//! A worker that dies unasked too often makes its slot `Fatal`, until an operator starts it.

use std::time::{Duration, Instant};

use baton_ipc::scoreboard::{Cause, State};
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::backoff::{Deaths, Verdict};

/// What a hung worker gets between SIGABRT, which leaves a core to look at, and SIGKILL; also what a worker that has
/// closed its channel gets for its exit.
pub(crate) const ABORT_GRACE: Duration = Duration::from_secs(1);

/// A process that survives SIGKILL sits in the kernel (state D); it is sent again, and logged, this often.
pub(crate) const KILL_AGAIN: Duration = Duration::from_secs(5);

/// What a draining worker gets beyond the time it was told.
pub(crate) const DRAIN_GRACE: Duration = Duration::from_millis(500);

/// When `fork(2)` fails, memory or pids are short for everybody: no backoff, no breaker, just patience.
pub(crate) const FORK_RETRY: Duration = Duration::from_secs(1);

/// Where a slot is in its life.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Slot {
    /// No worker; one is forked at `retry_at`.
    Vacant { retry_at: Instant },
    /// Forked; has until `deadline` to say that it is ready.
    Starting { pid: Pid, deadline: Instant },
    /// Ready since `since`.
    Serving { pid: Pid, since: Instant },
    /// Asked to go; killed at `deadline`.
    Draining { pid: Pid, deadline: Instant, next: Next },
    /// Given up on; SIGKILL is sent at `deadline` (again, if it was sent before). `why` is none as long as the exit
    /// status is the better answer.
    Killed { pid: Pid, deadline: Instant, why: Option<Cause>, next: Next },
    /// Down on purpose.
    Stopped,
    /// Down because its workers died again and again.
    Fatal { cause: String },
}

/// What comes after a worker that was asked to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Nothing.
    Stop,
    /// A fresh one.
    Restart,
}

/// What can happen to a slot.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Event {
    /// Time has passed.
    Due,
    /// [`Action::Fork`] was done.
    Forked { pid: Pid },
    /// [`Action::Fork`] was not possible.
    ForkFailed,
    /// The worker says that it serves.
    Ready,
    /// The worker is reaped: `cause` is `Exit` or `Signal`, `words` describes it.
    Exited { cause: Cause, words: String },
    /// The worker has closed its channel.
    Lost,
    /// The watchdog's verdict, or the worker does not read its channel.
    Hung,
    /// A fresh worker has taken the place of the one that served.
    Relieved { pid: Pid },
    /// An operator wants a worker here.
    Start,
    /// An operator wants none here.
    Stop,
    /// An operator wants a fresh one here.
    Restart,
    /// Everything ends, at once.
    Kill,
}

/// What the supervisor has to do about it, in this order.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Action {
    /// Fork a worker; the answer is [`Event::Forked`] or [`Event::ForkFailed`].
    Fork,
    /// Tell the worker to drain.
    Drain { within: Duration },
    /// Send the worker this signal.
    Signal(Signal),
    /// Note that a worker has ended.
    Ended { cause: Cause, words: String },
}

/// The times that are configured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    /// Fork to ready.
    pub(crate) start_timeout: Duration,
    /// Drain to exit.
    pub(crate) drain_timeout: Duration,
}

type Step = (Slot, Vec<Action>);

/// The next state and what to do. The history of deaths goes along because backoff and breaker depend on it.
pub(crate) fn step(slot: Slot, deaths: &mut Deaths, event: Event, now: Instant, terms: &Terms) -> Step {
    match slot {
        Slot::Vacant { retry_at } => vacant(retry_at, deaths, event, now, terms),
        Slot::Starting { pid, deadline } => starting(pid, deadline, deaths, event, now, terms),
        Slot::Serving { pid, since } => serving(pid, since, deaths, event, now, terms),
        Slot::Draining { pid, deadline, next } => draining(pid, deadline, next, event, now),
        Slot::Killed { pid, deadline, why, next } => killed(pid, deadline, why, next, deaths, event, now),
        Slot::Stopped => stopped(deaths, event, now),
        Slot::Fatal { cause } => fatal(cause, deaths, event, now),
    }
}

fn vacant(retry_at: Instant, deaths: &mut Deaths, event: Event, now: Instant, terms: &Terms) -> Step {
    let same = Slot::Vacant { retry_at };
    match event {
        Event::Due if now >= retry_at => (same, vec![Action::Fork]),
        Event::Due => (same, vec![]),
        Event::Forked { pid } => (Slot::Starting { pid, deadline: now + terms.start_timeout }, vec![]),
        Event::ForkFailed => (Slot::Vacant { retry_at: now + FORK_RETRY }, vec![]),
        Event::Start | Event::Restart => (anew(deaths, now), vec![]),
        Event::Stop | Event::Kill => (Slot::Stopped, vec![]),
        Event::Ready | Event::Exited { .. } | Event::Lost | Event::Hung | Event::Relieved { .. } => (same, vec![]),
    }
}

fn starting(pid: Pid, deadline: Instant, deaths: &mut Deaths, event: Event, now: Instant, terms: &Terms) -> Step {
    let same = Slot::Starting { pid, deadline };
    match event {
        Event::Due if now >= deadline => kill(pid, Some(Cause::StartTimeout), Next::Restart, now),
        Event::Due => (same, vec![]),
        Event::Ready => (Slot::Serving { pid, since: now }, vec![]),
        Event::Exited { cause, words } => died(cause, words, deaths, now),
        Event::Lost => lost(pid, now),
        Event::Hung => abort(pid, Next::Restart, now),
        // It may have become ready this instant and have clients: no shortcut.
        Event::Stop => drain(pid, Next::Stop, now, terms),
        Event::Restart => drain(pid, Next::Restart, now, terms),
        Event::Kill => kill(pid, Some(Cause::Requested), Next::Stop, now),
        Event::Start | Event::Forked { .. } | Event::ForkFailed | Event::Relieved { .. } => (same, vec![]),
    }
}

fn serving(pid: Pid, since: Instant, deaths: &mut Deaths, event: Event, now: Instant, terms: &Terms) -> Step {
    let same = Slot::Serving { pid, since };
    let served = now.saturating_duration_since(since);
    match event {
        Event::Exited { cause, words } => {
            deaths.served(served);
            died(cause, words, deaths, now)
        }
        Event::Lost => {
            deaths.served(served);
            lost(pid, now)
        }
        Event::Hung => {
            deaths.served(served);
            abort(pid, Next::Restart, now)
        }
        Event::Stop => drain(pid, Next::Stop, now, terms),
        Event::Restart => drain(pid, Next::Restart, now, terms),
        Event::Kill => kill(pid, Some(Cause::Requested), Next::Stop, now),
        Event::Relieved { pid } => {
            // Its own life begins, and it has not died yet.
            deaths.served(served);
            (Slot::Serving { pid, since: now }, vec![])
        }
        Event::Due | Event::Ready | Event::Start | Event::Forked { .. } | Event::ForkFailed => (same, vec![]),
    }
}

fn draining(pid: Pid, deadline: Instant, next: Next, event: Event, now: Instant) -> Step {
    let then = |next| (Slot::Draining { pid, deadline, next }, vec![]);
    match event {
        Event::Due if now >= deadline => kill(pid, Some(Cause::Requested), next, now),
        Event::Exited { words, .. } => gone(Cause::Requested, words, next, now),
        Event::Hung => abort(pid, next, now),
        Event::Start | Event::Restart => then(Next::Restart),
        Event::Stop => then(Next::Stop),
        Event::Kill => kill(pid, Some(Cause::Requested), Next::Stop, now),
        // It closes its channel on its way out, and has a deadline anyhow.
        Event::Due | Event::Lost | Event::Ready | Event::Forked { .. } | Event::ForkFailed => then(next),
        Event::Relieved { .. } => then(next),
    }
}

fn killed(
    pid: Pid,
    deadline: Instant,
    why: Option<Cause>,
    next: Next,
    deaths: &mut Deaths,
    event: Event,
    now: Instant,
) -> Step {
    let then = |next| (Slot::Killed { pid, deadline, why, next }, vec![]);
    match event {
        // Without a reason so far it had closed its channel and was to exit by itself.
        Event::Due if now >= deadline => kill(pid, why.or(Some(Cause::Hang)), next, now),
        Event::Exited { cause, words } => match (why.unwrap_or(cause), next) {
            (Cause::Requested, next) => gone(Cause::Requested, words, next, now),
            (cause, Next::Stop) => gone(cause, words, next, now),
            (cause, Next::Restart) => died(cause, words, deaths, now),
        },
        Event::Start | Event::Restart => then(Next::Restart),
        Event::Stop => then(Next::Stop),
        Event::Kill => kill(pid, why, Next::Stop, now),
        Event::Due | Event::Ready | Event::Lost | Event::Hung | Event::Forked { .. } | Event::ForkFailed => then(next),
        Event::Relieved { .. } => then(next),
    }
}

fn stopped(deaths: &mut Deaths, event: Event, now: Instant) -> Step {
    match event {
        Event::Start | Event::Restart => (anew(deaths, now), vec![]),
        Event::Due | Event::Forked { .. } | Event::ForkFailed | Event::Ready | Event::Exited { .. } => {
            (Slot::Stopped, vec![])
        }
        Event::Lost | Event::Hung | Event::Stop | Event::Kill | Event::Relieved { .. } => (Slot::Stopped, vec![]),
    }
}

fn fatal(cause: String, deaths: &mut Deaths, event: Event, now: Instant) -> Step {
    match event {
        Event::Start | Event::Restart => (anew(deaths, now), vec![]),
        Event::Stop | Event::Kill => (Slot::Stopped, vec![]),
        Event::Due | Event::Forked { .. } | Event::ForkFailed | Event::Ready | Event::Exited { .. } => {
            (Slot::Fatal { cause }, vec![])
        }
        Event::Lost | Event::Hung | Event::Relieved { .. } => (Slot::Fatal { cause }, vec![]),
    }
}

/// An operator's start: at once, and with a clean record.
fn anew(deaths: &mut Deaths, now: Instant) -> Slot {
    deaths.forget();
    Slot::Vacant { retry_at: now }
}

fn drain(pid: Pid, next: Next, now: Instant, terms: &Terms) -> Step {
    let within = terms.drain_timeout;
    (Slot::Draining { pid, deadline: now + within + DRAIN_GRACE, next }, vec![Action::Drain { within }])
}

fn abort(pid: Pid, next: Next, now: Instant) -> Step {
    let slot = Slot::Killed { pid, deadline: now + ABORT_GRACE, why: Some(Cause::Hang), next };
    (slot, vec![Action::Signal(Signal::SIGABRT)])
}

fn lost(pid: Pid, now: Instant) -> Step {
    (Slot::Killed { pid, deadline: now + ABORT_GRACE, why: None, next: Next::Restart }, vec![])
}

fn kill(pid: Pid, why: Option<Cause>, next: Next, now: Instant) -> Step {
    (Slot::Killed { pid, deadline: now + KILL_AGAIN, why, next }, vec![Action::Signal(Signal::SIGKILL)])
}

/// After a death that somebody asked for.
fn gone(cause: Cause, words: String, next: Next, now: Instant) -> Step {
    let slot = match next {
        Next::Stop => Slot::Stopped,
        Next::Restart => Slot::Vacant { retry_at: now },
    };
    (slot, vec![Action::Ended { words: describe(cause, words), cause }])
}

/// After a death that nobody asked for.
fn died(cause: Cause, words: String, deaths: &mut Deaths, now: Instant) -> Step {
    let words = describe(cause, words);
    let slot = match deaths.died(now) {
        Verdict::Retry(delay) => Slot::Vacant { retry_at: now + delay },
        Verdict::GiveUp => Slot::Fatal { cause: words.clone() },
    };
    (slot, vec![Action::Ended { cause, words }])
}

fn describe(cause: Cause, words: String) -> String {
    match cause {
        Cause::Exit | Cause::Signal => words,
        Cause::Hang => format!("its event loop hung; {words}"),
        Cause::StartTimeout => format!("it was not ready in time; {words}"),
        Cause::Requested => format!("asked to go; {words}"),
    }
}

impl Slot {
    /// As the scoreboard and `status` show it.
    pub(crate) fn state(&self) -> State {
        match self {
            Slot::Vacant { .. } => State::Backoff,
            Slot::Starting { .. } => State::Starting,
            Slot::Serving { .. } => State::Serving,
            Slot::Draining { .. } => State::Draining,
            Slot::Killed { .. } => State::Killed,
            Slot::Stopped => State::Stopped,
            Slot::Fatal { .. } => State::Fatal,
        }
    }

    /// The process in it, dead or alive, as long as it is not reaped.
    pub(crate) fn pid(&self) -> Option<Pid> {
        match self {
            Slot::Starting { pid, .. } | Slot::Serving { pid, .. } => Some(*pid),
            Slot::Draining { pid, .. } | Slot::Killed { pid, .. } => Some(*pid),
            Slot::Vacant { .. } | Slot::Stopped | Slot::Fatal { .. } => None,
        }
    }

    /// Whether this very process serves here.
    pub(crate) fn is_serving_as(&self, worker: Pid) -> bool {
        matches!(self, Slot::Serving { pid, .. } if *pid == worker)
    }

    /// When [`Event::Due`] will change something.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match self {
            Slot::Vacant { retry_at: deadline } | Slot::Starting { deadline, .. } => Some(*deadline),
            Slot::Draining { deadline, .. } | Slot::Killed { deadline, .. } => Some(*deadline),
            Slot::Serving { .. } | Slot::Stopped | Slot::Fatal { .. } => None,
        }
    }
}

#[cfg(test)]
#[path = "slot_tests.rs"]
mod tests;
