//! A question to all workers on behalf of an operator, and what came back so far. Pure.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use baton_ipc::Slot as SlotId;
use baton_ipc::control::{BackplaneRow, ConnectionRow, ErrorCode, Order, Output, Relayed, Reply};
use baton_ipc::messages::Answer;

use crate::control::ClientId;
use crate::transfer::Who;

/// Who has not answered by then is left out.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);

/// So many rows of one worker fit into a packet.
pub(crate) const MAX_ROWS: usize = 256;

/// Who has asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asker {
    /// By the control socket.
    Client(ClientId),
    /// By the pages of a worker, which has given its question this id.
    Worker(Who, u64),
}

/// What is being gathered.
#[derive(Debug)]
pub(crate) struct Inquiry {
    /// The id in the messages.
    pub(crate) id: u64,
    /// Who has asked.
    pub(crate) asker: Asker,
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
    /// For `backplane`.
    Backplane(Vec<BackplaneRow>),
    /// Who is connected to some sessions.
    Sessions { limit: usize, connections: Vec<u64>, rows: Vec<ConnectionRow> },
    /// For `broadcast`, and for `disconnect` of a session.
    Reached { session: Option<String>, connections: u64, relayed: Option<Relayed> },
}

impl Gathered {
    /// Nobody was reached so far: of all, or of those who have this session.
    pub(crate) fn reached(session: Option<String>) -> Gathered {
        Gathered::Reached { session, connections: 0, relayed: None }
    }
}

impl Inquiry {
    /// Nobody has answered yet of those that were asked.
    pub(crate) fn new(id: u64, asker: Asker, asked: BTreeSet<SlotId>, gathered: Gathered, now: Instant) -> Inquiry {
        Inquiry { id, asker, deadline: now + PATIENCE, waiting: asked, gathered, workers: 0 }
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
            (Gathered::Backplane(rows), Answer::Backplane(row)) => {
                rows.push(*row);
                self.workers += 1;
            }
            (
                Gathered::Reached { connections, relayed, .. },
                Answer::Reached { connections: more, relayed: theirs },
            ) => {
                *connections += more;
                *relayed = theirs.max(*relayed);
                self.workers += 1;
            }
            (Gathered::Sessions { connections, rows, .. }, Answer::Sessions { connections: theirs, rows: more }) => {
                connections.iter_mut().zip(theirs).for_each(|(sum, n)| *sum += n);
                rows.extend(more);
                self.workers += 1;
            }
            (Gathered::Rows { .. }, Answer::Backplane(_) | Answer::Reached { .. } | Answer::Sessions { .. })
            | (Gathered::Backplane(_), Answer::Connections { .. } | Answer::Reached { .. } | Answer::Sessions { .. })
            | (Gathered::Reached { .. }, Answer::Connections { .. } | Answer::Backplane(_) | Answer::Sessions { .. })
            | (Gathered::Sessions { .. }, Answer::Connections { .. } | Answer::Backplane(_) | Answer::Reached { .. }) =>
            {
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

    /// The sum, for a worker.
    pub(crate) fn told(self) -> Result<Answer, String> {
        match self.gathered {
            Gathered::Sessions { limit, connections, mut rows } => {
                rows.sort_by(|a, b| b.age_seconds.total_cmp(&a.age_seconds));
                rows.truncate(limit);
                Ok(Answer::Sessions { connections, rows })
            }
            Gathered::Reached { session: _, connections, relayed } => Ok(Answer::Reached { connections, relayed }),
            Gathered::Rows { .. } | Gathered::Backplane(_) => Err("that is asked by the control socket".to_owned()),
        }
    }

    /// The answer, for a client of the control socket.
    pub(crate) fn reply(self) -> Reply {
        let silent = self.waiting.len();
        let output = match self.gathered {
            // One that was passed on may be found elsewhere.
            Gathered::Reached { session: Some(session), connections: 0, relayed } if relayed != Some(Relayed::Sent) => {
                let mut message = format!("no connection has the session {session}");
                if relayed == Some(Relayed::Failed) {
                    message = format!("no connection here has the session {session}; other hosts could not be told");
                }
                if silent > 0 {
                    message += &format!("; {silent} workers did not answer");
                }
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
            Gathered::Backplane(mut rows) => {
                rows.sort_by_key(|row| row.slot);
                Output::Backplane { rows }
            }
            Gathered::Reached { session: _, connections, relayed } => {
                Output::Reached { connections, workers: self.workers, relayed }
            }
            Gathered::Sessions { .. } => {
                let message = "that is asked by workers".to_owned();
                return Reply::Error { code: ErrorCode::BadRequest, message };
            }
        };
        Reply::Done { output }
    }
}

#[cfg(test)]
mod tests {
    use baton_ipc::control::Link;

    use super::*;

    fn row(slot: SlotId, age_seconds: f64, messages: u64) -> ConnectionRow {
        let (connection_id, session_uuid, client) = (String::new(), String::new(), String::new());
        ConnectionRow { slot, connection_id, session_uuid, client, age_seconds, messages, queued_bytes: 0 }
    }

    fn reached(connections: u64, relayed: Option<Relayed>) -> Answer {
        Answer::Reached { connections, relayed }
    }

    fn asked() -> BTreeSet<SlotId> {
        BTreeSet::from([0, 1, 2])
    }

    #[test]
    fn rows_are_merged_sorted_and_cut() {
        let now = Instant::now();
        let gathered = Gathered::Rows { order: Order::Biggest, limit: 2, total: 0, rows: vec![] };
        let mut inquiry = Inquiry::new(1, Asker::Client(1), asked(), gathered, now);
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
    fn the_backplane_is_told_of_by_slot() {
        let mut inquiry = Inquiry::new(1, Asker::Client(1), asked(), Gathered::Backplane(vec![]), Instant::now());
        for slot in [2, 0, 1] {
            let (kind, target) = ("embedded".to_owned(), "/state".to_owned());
            let row = BackplaneRow {
                slot,
                kind,
                target,
                state: Link::Up,
                since_seconds: 1.0,
                reason: None,
                latency_seconds: None,
                heartbeat_lag_seconds: None,
                lease_holder: None,
                holds_lease: false,
                pending: 0,
                gaps: 0,
                reconnects: 0,
            };
            inquiry.hear(slot, if slot == 1 { reached(1, None) } else { Answer::Backplane(Box::new(row)) });
        }
        assert!(inquiry.is_over(Instant::now()));
        let Reply::Done { output: Output::Backplane { rows } } = inquiry.reply() else { panic!("not rows") };
        assert_eq!(rows.iter().map(|row| row.slot).collect::<Vec<_>>(), [0, 2]);
    }

    #[test]
    fn who_is_connected_to_sessions_is_added_up() {
        let gathered = Gathered::Sessions { limit: 2, connections: vec![0, 0], rows: vec![] };
        let mut inquiry = Inquiry::new(1, Asker::Client(1), asked(), gathered, Instant::now());
        let answer = |connections, rows| Answer::Sessions { connections, rows };
        inquiry.hear(0, answer(vec![2, 0], vec![row(0, 1.0, 5), row(0, 9.0, 1)]));
        inquiry.hear(1, reached(7, None));
        inquiry.hear(2, answer(vec![1, 4], vec![row(2, 3.0, 7)]));
        let Ok(Answer::Sessions { connections, rows }) = inquiry.told() else { panic!("not sessions") };
        assert_eq!(connections, [3, 4]);
        assert_eq!(rows.iter().map(|row| row.age_seconds).collect::<Vec<_>>(), [9.0, 3.0]);
    }

    #[test]
    fn who_does_not_answer_is_left_out() {
        let now = Instant::now();
        let mut inquiry = Inquiry::new(1, Asker::Client(1), asked(), Gathered::reached(None), now);
        inquiry.hear(1, reached(3, None));
        inquiry.hear(2, Answer::Connections { total: 1, rows: vec![] });
        assert!(!inquiry.is_over(now) && inquiry.is_over(now + PATIENCE));
        // The one who was to pass it on is not heard of.
        let output = Output::Reached { connections: 3, workers: 1, relayed: None };
        assert_eq!(inquiry.reply(), Reply::Done { output });
    }

    #[test]
    fn what_became_of_it_elsewhere_is_known_by_one_worker() {
        for outcome in [Relayed::Alone, Relayed::Sent, Relayed::Failed] {
            let mut inquiry = Inquiry::new(1, Asker::Client(1), asked(), Gathered::reached(None), Instant::now());
            inquiry.hear(1, reached(3, None));
            inquiry.hear(0, reached(4, Some(outcome)));
            inquiry.hear(2, reached(5, None));
            let output = Output::Reached { connections: 12, workers: 3, relayed: Some(outcome) };
            assert_eq!(inquiry.reply(), Reply::Done { output });
        }
    }

    #[test]
    fn a_session_that_nobody_has_is_not_found_unless_other_hosts_look_for_it() {
        let ask = |relayed| {
            let gathered = Gathered::reached(Some("abc".into()));
            let mut inquiry = Inquiry::new(1, Asker::Client(1), BTreeSet::from([0]), gathered, Instant::now());
            inquiry.hear(0, reached(0, Some(relayed)));
            inquiry.reply()
        };
        let not_found = |message: &str| Reply::Error { code: ErrorCode::NotFound, message: message.to_owned() };
        assert_eq!(ask(Relayed::Alone), not_found("no connection has the session abc"));
        let failed = "no connection here has the session abc; other hosts could not be told";
        assert_eq!(ask(Relayed::Failed), not_found(failed));
        let output = Output::Reached { connections: 0, workers: 1, relayed: Some(Relayed::Sent) };
        assert_eq!(ask(Relayed::Sent), Reply::Done { output });
    }
}
