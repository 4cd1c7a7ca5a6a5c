//! A question to all workers on behalf of an operator, and what came back so far. Pure.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use baton_ipc::Slot as SlotId;
use baton_ipc::control::{ConnectionRow, ErrorCode, Order, Output, Reply};
use baton_ipc::messages::Answer;

use crate::control::ClientId;

/// Who has not answered by then is left out.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);

/// So many rows of one worker fit into a packet.
pub(crate) const MAX_ROWS: usize = 256;

/// What is being gathered.
#[derive(Debug)]
pub(crate) struct Inquiry {
    /// The id in the messages.
    pub(crate) id: u64,
    /// Who has asked.
    pub(crate) client: ClientId,
    /// When to answer with what there is.
    pub(crate) deadline: Instant,
    waiting: BTreeSet<SlotId>,
    gathered: Gathered,
    workers: u16,
}

/// What the answer will be made of.
#[derive(Debug)]
pub(crate) enum Gathered {
    /// For `connections`.
    Rows { order: Order, limit: usize, total: u64, rows: Vec<ConnectionRow> },
    /// For `broadcast`.
    Reached(u64),
    /// For `disconnect`.
    Closed { session: String, connections: u64 },
}

impl Inquiry {
    /// Nobody has answered yet of those that were asked.
    pub(crate) fn new(id: u64, client: ClientId, asked: BTreeSet<SlotId>, gathered: Gathered, now: Instant) -> Inquiry {
        Inquiry { id, client, deadline: now + PATIENCE, waiting: asked, gathered, workers: 0 }
    }

    /// A worker has answered. An answer to another question counts as none.
    pub(crate) fn hear(&mut self, slot: SlotId, answer: Answer) {
        if !self.waiting.remove(&slot) {
            return;
        }
        match (&mut self.gathered, answer) {
            (Gathered::Rows { total, rows, .. }, Answer::Connections { total: theirs, rows: more }) => {
                *total += theirs;
                rows.extend(more);
                self.workers += 1;
            }
            (Gathered::Reached(sum) | Gathered::Closed { connections: sum, .. }, Answer::Reached(theirs)) => {
                *sum += theirs;
                self.workers += 1;
            }
            (Gathered::Rows { .. }, Answer::Reached(_))
            | (Gathered::Reached(_) | Gathered::Closed { .. }, Answer::Connections { .. }) => {
                tracing::warn!(slot, "a worker has answered another question than it was asked");
            }
        }
    }

    /// A worker is gone.
    pub(crate) fn forget(&mut self, slot: SlotId) {
        self.waiting.remove(&slot);
    }

    /// Everybody has answered, or the time is up.
    pub(crate) fn is_over(&self, now: Instant) -> bool {
        self.waiting.is_empty() || now >= self.deadline
    }

    /// The answer.
    pub(crate) fn reply(self) -> Reply {
        let silent = self.waiting.len();
        let output = match self.gathered {
            Gathered::Closed { session, connections: 0 } => {
                let unknown = if silent > 0 { format!("; {silent} workers did not answer") } else { String::new() };
                let message = format!("no connection has the session {session}{unknown}");
                return Reply::Error { code: ErrorCode::NotFound, message };
            }
            Gathered::Rows { order, limit, total, mut rows } => {
                rows.sort_by(|a, b| match order {
                    Order::Oldest => b.age_seconds.total_cmp(&a.age_seconds),
                    Order::Slowest => b.queued_bytes.cmp(&a.queued_bytes),
                    Order::Biggest => b.messages.cmp(&a.messages),
                });
                rows.truncate(limit);
                Output::Connections { total, rows }
            }
            Gathered::Reached(connections) | Gathered::Closed { connections, .. } => {
                Output::Reached { connections, workers: self.workers }
            }
        };
        Reply::Done { output }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(slot: SlotId, age_seconds: f64, messages: u64) -> ConnectionRow {
        let (connection_id, session_uuid, peer) = (String::new(), String::new(), String::new());
        ConnectionRow { slot, connection_id, session_uuid, peer, age_seconds, messages, queued_bytes: 0 }
    }

    fn asked() -> BTreeSet<SlotId> {
        BTreeSet::from([0, 1, 2])
    }

    #[test]
    fn rows_are_merged_sorted_and_cut() {
        let now = Instant::now();
        let gathered = Gathered::Rows { order: Order::Biggest, limit: 2, total: 0, rows: vec![] };
        let mut inquiry = Inquiry::new(1, 1, asked(), gathered, now);
        inquiry.hear(0, Answer::Connections { total: 10, rows: vec![row(0, 1.0, 5), row(0, 2.0, 1)] });
        inquiry.hear(0, Answer::Connections { total: 99, rows: vec![] });
        inquiry.hear(2, Answer::Connections { total: 4, rows: vec![row(2, 3.0, 7)] });
        assert!(!inquiry.is_over(now));
        inquiry.forget(1);
        assert!(inquiry.is_over(now));
        let Reply::Done { output: Output::Connections { total, rows } } = inquiry.reply() else { panic!("not rows") };
        assert_eq!((total, rows.iter().map(|row| row.messages).collect::<Vec<_>>()), (14, vec![7, 5]));
    }

    #[test]
    fn who_does_not_answer_is_left_out() {
        let now = Instant::now();
        let mut inquiry = Inquiry::new(1, 1, asked(), Gathered::Reached(0), now);
        inquiry.hear(1, Answer::Reached(3));
        inquiry.hear(2, Answer::Connections { total: 1, rows: vec![] });
        assert!(!inquiry.is_over(now) && inquiry.is_over(now + PATIENCE));
        let output = Output::Reached { connections: 3, workers: 1 };
        assert_eq!(inquiry.reply(), Reply::Done { output });
    }

    #[test]
    fn a_session_that_nobody_has_is_not_found() {
        let now = Instant::now();
        let gathered = Gathered::Closed { session: "abc".into(), connections: 0 };
        let mut inquiry = Inquiry::new(1, 1, BTreeSet::from([0]), gathered, now);
        inquiry.hear(0, Answer::Reached(0));
        let message = "no connection has the session abc".to_owned();
        assert_eq!(inquiry.reply(), Reply::Error { code: ErrorCode::NotFound, message });
    }
}
