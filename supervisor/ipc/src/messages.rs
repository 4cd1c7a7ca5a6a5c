//! What supervisor and worker say to each other over their [`crate::Channel`].
//!
//! The supervisor asks, the worker answers; a worker speaks unasked only to say [`FromWorker::Ready`],
//! [`FromWorker::Failed`], [`FromWorker::Backplane`], [`FromWorker::Taken`] or [`FromWorker::Drained`], and to have all
//! workers asked ([`FromWorker::Ask`]). Liveness is not a message: it is a word on the scoreboard.

use serde::{Deserialize, Serialize};

use crate::control::{BackplaneRow, ConnectionRow, Order, Relayed};
use crate::inheritance::Endpoint;
use crate::receipt::Pauses;
use crate::scoreboard::Slot;

/// Supervisor → worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ToWorker {
    /// Stop accepting, answer what has arrived, say bye, close 1001, exit with 0 within this time.
    Drain {
        /// Milliseconds until the worker must be gone.
        within_ms: u64,
    },
    /// Accept from a neighbour's listener too: its slot is down. The socket comes as the packet's descriptor.
    Lend {
        /// Whose socket it is.
        slot: Slot,
        /// Where it listens.
        endpoint: Endpoint,
    },
    /// Stop accepting from the listeners of this slot, and close the descriptors: its own worker is back.
    Return {
        /// Whose sockets they are.
        slot: Slot,
    },
    /// Serve the socket that comes as the packet's descriptor as if it had just been accepted.
    Admit,
    /// Accept from the listeners, or leave off: they stay open in either case.
    Accept {
        /// Whether to.
        accept: bool,
    },
    /// A lane to another worker, for handing over connections. The socket comes as the packet's descriptor.
    Lane {
        /// Its name, never used twice.
        lane: u64,
        /// The worker at the other end has another supervisor: if its own is lost, this one gives it all it has.
        refuge: bool,
    },
    /// Hand over connections. Answered by [`FromWorker::Given`] with the same `id`.
    Give {
        /// Chosen by the supervisor.
        id: u64,
        /// Over which lanes, and in what proportion.
        shares: Vec<Share>,
        /// How many.
        amount: Amount,
    },
    /// Give no more of what this order is about; it is answered with what was given so far.
    CallOff {
        /// Of the order.
        id: u64,
    },
    /// A lane is not needed any more.
    CloseLane {
        /// Which.
        lane: u64,
    },
    /// Open the log files anew: they were rotated.
    ReopenLogs,
    /// A question, answered by [`FromWorker::Answer`] with the same `id`.
    Ask {
        /// Chosen by the supervisor.
        id: u64,
        /// The question.
        question: Question,
    },
    /// What all workers have answered, added up, to [`FromWorker::Ask`] with the same `id`.
    Told {
        /// Chosen by the worker.
        id: u64,
        /// The sum; or why there is none, in a sentence for the operator.
        answer: Result<Answer, String>,
    },
}

/// A lane's part of what is handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// The lane.
    pub lane: u64,
    /// Its part of the sum of all weights.
    pub weight: u32,
}

/// How many connections are handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Amount {
    /// All, and those that are HTTP still, until none is left that can be.
    All,
    /// So many WebSockets, or all if there are fewer.
    Most(u64),
}

/// What a supervisor may ask a worker on behalf of an operator.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Question {
    /// The first connections in an order.
    Connections {
        /// By what to sort.
        order: Order,
        /// How many rows at most.
        limit: usize,
    },
    /// How the backplane does.
    Backplane,
    /// Who is connected to these sessions.
    Sessions {
        /// Their tokens.
        sessions: Vec<String>,
        /// How many rows at most.
        limit: usize,
    },
    /// Close every connection of this session with 1000.
    Disconnect {
        /// The session's token.
        session: String,
        /// Pass it on to the other hosts too: exactly one worker is asked to.
        relay: bool,
    },
    /// Send a text message to every connection.
    Broadcast {
        /// The message, valid JSON.
        text: String,
        /// Pass it on to the other hosts too: exactly one worker is asked to.
        relay: bool,
    },
}

/// Worker → supervisor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum FromWorker {
    /// Serving: runtime, store and listeners are up.
    Ready,
    /// The worker cannot start, and exits: the reason, for the operator.
    Failed {
        /// One sentence.
        cause: String,
    },
    /// The worker's backplane has failed or recovered. Before [`FromWorker::Ready`] if it fails from the start.
    Backplane {
        /// Why it is degraded, in words for the operator; none: it is not, as at the start.
        degraded: Option<String>,
    },
    /// The answer to [`ToWorker::Ask`].
    Answer {
        /// The id of the question.
        id: u64,
        /// The answer.
        answer: Answer,
    },
    /// An operator who is at this worker's pages wants all workers to be asked. Answered by [`ToWorker::Told`].
    Ask {
        /// Chosen by the worker.
        id: u64,
        /// The question. Who is to pass it on to other hosts is not the worker's to say.
        question: Question,
    },
    /// The answer to [`ToWorker::Give`].
    Given {
        /// The id of the order.
        id: u64,
        /// Connections that other workers serve now.
        handed: u64,
        /// Connections that stayed, by why.
        stayed: Vec<(String, u64)>,
    },
    /// The other end of a lane has given what it wanted to, or is gone.
    Taken {
        /// The lane.
        lane: u64,
        /// For how long each connection that came over it was not read.
        pauses: Pauses,
    },
    /// The drain is over and the worker exits.
    Drained(DrainReport),
}

/// What a worker answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Answer {
    /// To [`Question::Connections`].
    Connections {
        /// All connections of the worker.
        total: u64,
        /// The first of them, in the order asked for.
        rows: Vec<ConnectionRow>,
    },
    /// To [`Question::Backplane`].
    Backplane(Box<BackplaneRow>),
    /// To [`Question::Sessions`].
    Sessions {
        /// Connections of each, in the order of the question.
        connections: Vec<u64>,
        /// The oldest of all of them.
        rows: Vec<ConnectionRow>,
    },
    /// To [`Question::Disconnect`] and [`Question::Broadcast`].
    Reached {
        /// How many connections of its own the worker has reached.
        connections: u64,
        /// What became of it on other hosts; none: that was another worker's task.
        relayed: Option<Relayed>,
    },
}

/// How a drain ended for the connections of one worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainReport {
    /// Said bye, closed 1001, and the client answered the close.
    pub closed: u64,
    /// Still open at the deadline, and cut.
    pub cut: u64,
}
