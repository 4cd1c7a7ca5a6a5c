//! What the connections of a process share with the one who directs them. Each connection is a task of its own, and all
//! are on one thread.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::Duration;

use tokio::sync::Notify;

use super::dial::Dialer;
use super::plan::{Plan, monotonic};
use super::tally::Tally;

/// What a process is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    Connecting,
    Sending,
    /// No new messages; replies are waited for.
    Draining,
    /// Every connection closes.
    Closing,
}

/// How far a connection has come. It never goes back: one that resumes its session is as far as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    Begun,
    /// It was opened, or has failed.
    Settled,
    /// It has sent all its messages, and has their replies.
    Sent,
    /// It has replies to all messages, and there are no more to come.
    Drained,
    Ended,
}

/// The stages that somebody waits for.
const AWAITED: [Stage; 4] = [Stage::Settled, Stage::Sent, Stage::Drained, Stage::Ended];

/// One connection, seen from outside of its task.
pub(super) struct Lane {
    /// When messages should be sent that are not sent yet.
    pub(super) due: RefCell<VecDeque<Duration>>,
    /// When the oldest message without a reply was sent.
    pub(super) oldest: Cell<Option<Duration>>,
    /// The oldest message has waited too long.
    pub(super) overdue: Cell<bool>,
    stage: Cell<Stage>,
    waker: RefCell<Option<Waker>>,
}

impl Lane {
    /// The task that polls is the one to be woken.
    #[inline]
    pub(super) fn attend(&self, context: &Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            *waker = Some(context.waker().clone());
        }
    }

    pub(super) fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    pub(super) fn stage(&self) -> Stage {
        self.stage.get()
    }
}

/// Everything of a process.
pub(super) struct Shared {
    pub(super) plan: Plan,
    pub(super) dialer: Dialer,
    pub(super) lanes: RefCell<Vec<Rc<Lane>>>,
    pub(super) tally: RefCell<Tally>,
    phase: Cell<Phase>,
    /// Connections that have not reached each of the awaited stages.
    below: [Cell<u32>; AWAITED.len()],
    /// Whenever nobody is below one of them any more.
    reached: Notify,
}

impl Shared {
    pub(super) fn new(plan: Plan, dialer: Dialer) -> Shared {
        let below = std::array::from_fn(|_| Cell::new(plan.connections));
        Shared {
            plan,
            dialer,
            lanes: RefCell::default(),
            tally: RefCell::default(),
            phase: Cell::new(Phase::Connecting),
            below,
            reached: Notify::new(),
        }
    }

    pub(super) fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// The next phase begins, and every connection hears of it.
    pub(super) fn enter(&self, phase: Phase) {
        self.phase.set(phase);
        self.lanes.borrow().iter().for_each(|lane| lane.wake());
    }

    pub(super) fn new_lane(&self) -> Rc<Lane> {
        let lane = Rc::new(Lane {
            due: RefCell::default(),
            oldest: Cell::new(None),
            overdue: Cell::new(false),
            stage: Cell::new(Stage::Begun),
            waker: RefCell::new(None),
        });
        self.lanes.borrow_mut().push(Rc::clone(&lane));
        lane
    }

    /// Connections that were never begun and never will be.
    pub(super) fn forget(&self, connections: u32) {
        self.below.iter().for_each(|below| below.set(below.get().saturating_sub(connections)));
        self.reached.notify_waiters();
    }

    /// A connection has come so far.
    pub(super) fn advance(&self, lane: &Lane, stage: Stage) {
        let before = lane.stage.get();
        if stage <= before {
            return;
        }
        lane.stage.set(stage);
        for (awaited, below) in AWAITED.iter().zip(&self.below) {
            if before < *awaited && *awaited <= stage {
                below.set(below.get() - 1);
                if below.get() == 0 {
                    self.reached.notify_waiters();
                }
            }
        }
    }

    /// Connections that have come so far.
    pub(super) fn number_at(&self, stage: Stage) -> u32 {
        self.plan.connections - self.below(stage)
    }

    fn below(&self, stage: Stage) -> u32 {
        AWAITED.iter().zip(&self.below).find(|(awaited, _)| **awaited == stage).map_or(0, |(_, below)| below.get())
    }

    /// Waits until every connection has come so far.
    pub(super) async fn all_at(&self, stage: Stage) {
        loop {
            let reached = self.reached.notified();
            if self.below(stage) == 0 {
                return;
            }
            reached.await;
        }
    }

    /// Ends connections whose oldest message waits for its reply for too long.
    pub(super) fn find_overdue(&self) {
        let now = monotonic();
        for lane in self.lanes.borrow().iter() {
            if lane.oldest.get().is_some_and(|sent| now.saturating_sub(sent) > self.plan.timeout) {
                lane.overdue.set(true);
                lane.wake();
            }
        }
    }
}
