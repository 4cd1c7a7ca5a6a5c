//! What `batonctl` and the supervisor say to each other: one JSON object a line, both ways, over a Unix stream socket.
//!
//! A client sends one [`Request`] and reads [`Reply`] lines until one that is not [`Reply::Step`]; then it may send the
//! next. By hand: `echo '{"version":1,"command":"status"}' | socat - UNIX-CONNECT:/run/baton/blue.sock`.

use serde::{Deserialize, Serialize};

use crate::inheritance::Endpoint;
use crate::scoreboard::{Cause, Side, Slot, State};

/// The version of the control protocol.
pub const CONTROL_VERSION: u16 = 1;

/// The longest request line, in bytes, newline included.
pub const MAX_REQUEST: usize = 64 * 1024;

/// One request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// [`CONTROL_VERSION`].
    pub version: u16,
    /// What to do.
    #[serde(flatten)]
    pub command: Command,
}

/// Slots named in a command; empty means all.
pub type Slots = Vec<Slot>;

/// What an operator can ask of a supervisor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
pub enum Command {
    /// The state of everything: [`Output::Status`].
    Status,
    /// Process ids: [`Output::Pids`].
    Pid {
        /// Only these slots; empty: the supervisor and all.
        #[serde(default)]
        slots: Slots,
    },
    /// Start slots that are stopped, backing off or fatal.
    Start {
        /// Which.
        slots: Slots,
    },
    /// Drain slots and leave them down.
    Stop {
        /// Which.
        slots: Slots,
    },
    /// Start fresh workers that take over from those that serve, one after another.
    Restart {
        /// Which.
        slots: Slots,
    },
    /// Read the configuration anew and have all workers relieved by fresh ones, one after another.
    Reload,
    /// Take over from the generation that serves: asked of one that stands by. Answered with steps and progress, then
    /// [`Output::Takeover`], or an error after everything is as it was.
    Promote {
        /// First only this share of the connections, in percent, and then a look whether all is well.
        #[serde(default)]
        canary: Option<f64>,
        /// How long to look, in milliseconds.
        #[serde(default)]
        watch_ms: u64,
        /// The old generation stays, so that [`Command::Rollback`] is possible.
        #[serde(default)]
        keep_old: bool,
    },
    /// Give everything back to the old generation that was kept, and exit. Or, while a takeover or an upgrade is under way, call
    /// that off: [`Output::Text`].
    Rollback,
    /// Start the installed binary, which takes over in place of this one.
    Upgrade,
    /// Hand connections from workers that have more to those that have fewer.
    Rebalance,
    /// Have this many slots.
    Scale {
        /// 1 to [`crate::scoreboard::MAX_SLOTS`].
        workers: u16,
    },
    /// Log lines out of the log ring: [`Output::Tail`].
    Tail {
        /// Whose; none: the supervisor's own.
        #[serde(default)]
        slot: Option<Slot>,
        /// Which of the two rings of this place, since the one that is current changes when another process takes the
        /// place; none: the current one.
        #[serde(default)]
        side: Option<Side>,
        /// The position to read from, as an earlier answer gave it; none: as far back as there is.
        #[serde(default)]
        from: Option<u64>,
    },
    /// Send a signal to the workers in these slots.
    Signal {
        /// A name without `SIG`, such as `USR1`.
        signal: String,
        /// Which.
        slots: Slots,
    },
    /// Open log files anew, here and in all workers.
    ReopenLogs,
    /// Connections of all workers: [`Output::Connections`].
    Connections {
        /// By what to sort.
        #[serde(default)]
        order: Order,
        /// How many rows.
        #[serde(default = "default_limit")]
        limit: usize,
    },
    /// What the workers share, as each of them sees it: [`Output::Backplane`].
    Backplane,
    /// Close every connection of a session.
    Disconnect {
        /// The session's token.
        session: String,
    },
    /// Send a text message to every connection.
    Broadcast {
        /// The message: any JSON value, sent as it is.
        message: serde_json::Value,
    },
    /// Drain everything and exit.
    Shutdown,
    /// Versions: [`Output::Version`].
    Version,
}

impl Command {
    /// Its name, as requests spell it: all of a command that may stand in a log, since the rest can be a message's text
    /// or a session's token.
    pub fn name(&self) -> &'static str {
        match self {
            Command::Status => "status",
            Command::Pid { .. } => "pid",
            Command::Start { .. } => "start",
            Command::Stop { .. } => "stop",
            Command::Restart { .. } => "restart",
            Command::Reload => "reload",
            Command::Promote { .. } => "promote",
            Command::Rollback => "rollback",
            Command::Upgrade => "upgrade",
            Command::Rebalance => "rebalance",
            Command::Scale { .. } => "scale",
            Command::Tail { .. } => "tail",
            Command::Signal { .. } => "signal",
            Command::ReopenLogs => "reopen-logs",
            Command::Connections { .. } => "connections",
            Command::Backplane => "backplane",
            Command::Disconnect { .. } => "disconnect",
            Command::Broadcast { .. } => "broadcast",
            Command::Shutdown => "shutdown",
            Command::Version => "version",
        }
    }

    /// Whether it only looks, and changes nothing: who watches a service asks so all the time.
    pub fn only_looks(&self) -> bool {
        match self {
            Command::Status
            | Command::Pid { .. }
            | Command::Tail { .. }
            | Command::Connections { .. }
            | Command::Backplane
            | Command::Version => true,
            Command::Start { .. }
            | Command::Stop { .. }
            | Command::Restart { .. }
            | Command::Reload
            | Command::Promote { .. }
            | Command::Rollback
            | Command::Upgrade
            | Command::Rebalance
            | Command::Scale { .. }
            | Command::Signal { .. }
            | Command::ReopenLogs
            | Command::Disconnect { .. }
            | Command::Broadcast { .. }
            | Command::Shutdown => false,
        }
    }
}

fn default_limit() -> usize {
    20
}

/// The order of a connections listing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// Longest open first.
    #[default]
    Oldest,
    /// Most output waiting for the client first.
    Slowest,
    /// Most messages first.
    Biggest,
}

/// One line of an answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "lowercase")]
pub enum Reply {
    /// Progress of a long operation; more follows.
    Step {
        /// One sentence.
        message: String,
    },
    /// How far handing over has come; more follows.
    Progress {
        /// Connections that the new generation has.
        done: u64,
        /// Of so many.
        total: u64,
    },
    /// Finished.
    Done {
        /// What was asked for.
        output: Output,
    },
    /// Refused or failed.
    Error {
        /// What kind; the exit code of `batonctl` comes from it.
        code: ErrorCode,
        /// What happened and what to do, in a sentence.
        message: String,
    },
}

/// Kinds of refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// Not a request: no JSON, unknown command, a missing or wrong field, too long.
    BadRequest,
    /// The peer is neither root, nor the service's user, nor in the control group.
    PermissionDenied,
    /// The request speaks another protocol version.
    Version,
    /// There is no such slot, session or signal.
    NotFound,
    /// Another long operation is running, or the service is shutting down.
    Busy,
    /// It was tried and did not work.
    Failed,
}

/// What a finished command returns.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Output {
    /// Nothing but a sentence.
    Text {
        /// The sentence.
        message: String,
    },
    /// To [`Command::Status`].
    Status(Box<Status>),
    /// To [`Command::Pid`].
    Pids {
        /// The supervisor's own, when no slot was named.
        supervisor: Option<u32>,
        /// Slot and pid; a slot that is down has none.
        workers: Vec<(Slot, Option<u32>)>,
    },
    /// To [`Command::Tail`].
    Tail {
        /// Whole lines, newline included.
        text: String,
        /// Where to read on.
        next: u64,
        /// Bytes that were overwritten before they could be read.
        missed: u64,
    },
    /// To [`Command::Connections`].
    Connections {
        /// All connections.
        total: u64,
        /// The first of them.
        rows: Vec<ConnectionRow>,
    },
    /// To [`Command::Backplane`].
    Backplane {
        /// One of each worker that has answered, in the order of their slots.
        rows: Vec<BackplaneRow>,
    },
    /// To [`Command::Disconnect`] and [`Command::Broadcast`].
    Reached {
        /// Connections reached on this host.
        connections: u64,
        /// Workers that answered.
        workers: u16,
        /// What became of it on other hosts; none: nobody could say.
        relayed: Option<Relayed>,
    },
    /// To [`Command::Promote`] and [`Command::Rollback`].
    Takeover(Box<TakeoverReceipt>),
    /// To [`Command::Version`].
    Version {
        /// Of the binary that runs.
        version: String,
        /// [`CONTROL_VERSION`] of the supervisor.
        control: u16,
        /// [`crate::channel::PROTOCOL_VERSION`] of the supervisor.
        protocol: u16,
    },
}

/// Whether other hosts were told. What weighs more comes later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Relayed {
    /// There are no other hosts: the backplane is of this one alone.
    Alone,
    /// The backplane has it for them.
    Sent,
    /// The backplane did not take it.
    Failed,
}

/// One of the two generations of a takeover.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generation {
    /// `blue` or `green`.
    pub color: String,
    /// Of its supervisor.
    pub pid: u32,
    /// Of its binary.
    pub version: String,
}

/// What became of every connection when one generation took over from another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TakeoverReceipt {
    /// Who served before.
    pub from: Generation,
    /// Who serves now.
    pub to: Generation,
    /// Connections that go on in the new generation.
    pub handed: u64,
    /// Connections that could not be handed over and were told to come back, by why.
    pub drained: Vec<(String, u64)>,
    /// Connections that were lost with a process that died.
    pub dropped: u64,
    /// The longest time for which a connection was not read, in microseconds.
    pub longest_pause_us: u64,
    /// What 99 of 100 connections did not exceed.
    pub p99_pause_us: u64,
    /// Each step, and how long it took, in milliseconds.
    pub steps: Vec<(String, u64)>,
    /// The old generation is still there, for [`Command::Rollback`].
    pub kept: bool,
}

impl TakeoverReceipt {
    /// How long all steps took, in milliseconds.
    pub fn took_ms(&self) -> u64 {
        self.steps.iter().map(|(_, ms)| ms).sum()
    }

    /// Connections that were told to come back, for whatever reason.
    pub fn all_drained(&self) -> u64 {
        self.drained.iter().map(|(_, count)| count).sum()
    }
}

/// A takeover that is done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PastTakeover {
    /// Since it was done.
    pub seconds_ago: f64,
    /// What became of every connection.
    pub receipt: TakeoverReceipt,
}

/// The page an operator wants at 3 a.m.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// `blue` or `green`.
    pub color: String,
    /// Version of the running binary.
    pub version: String,
    /// Of the supervisor.
    pub pid: u32,
    /// Since the supervisor started.
    pub uptime_seconds: f64,
    /// `starting`, `standby`, `running`, `reloading`, `handing-over`, `draining`.
    pub phase: String,
    /// The other generation, while there is one.
    #[serde(default)]
    pub peer: Option<PeerStatus>,
    /// What it runs.
    #[serde(default)]
    pub program: Option<ProgramStatus>,
    /// A digest of all settings but those that a takeover decides; none: it is not known.
    #[serde(default)]
    pub settings: Option<String>,
    /// Of one that stands by: started anew in the same way, it would have other settings.
    #[serde(default)]
    pub outdated: bool,
    /// An upgrade that is under way.
    #[serde(default)]
    pub upgrade: Option<UpgradeStatus>,
    /// The takeover by which this generation came to serve; none: it was started alone.
    #[serde(default)]
    pub last_takeover: Option<PastTakeover>,
    /// Addresses.
    pub listen: Vec<Endpoint>,
    /// What the workers share: `embedded` or `redis`, and where.
    pub backplane: String,
    /// Set while it fails some of them.
    pub backplane_degraded: Option<Degraded>,
    /// One row a slot.
    pub slots: Vec<SlotStatus>,
}

/// The other generation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Who it is.
    pub generation: Generation,
    /// `serves`, `stands by` or `is kept for a rollback`.
    pub role: String,
}

/// The program of a supervisor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramStatus {
    /// The file that runs, with symbolic links resolved.
    pub file: String,
    /// Its device and inode.
    pub identity: (u64, u64),
    /// Whether the path by which it was started leads to another file by now, or nowhere.
    pub replaced: bool,
}

/// A program that was started to take over under the same color.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UpgradeStatus {
    /// Its path.
    pub program: String,
    /// Its process.
    pub pid: u32,
    /// Since it was started.
    pub since_seconds: f64,
    /// Until it is killed, unless it has come further by then.
    pub left_seconds: f64,
}

/// A backplane that is away, or does not do all it should.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Degraded {
    /// Since the first of those that have been without interruption.
    pub since_seconds: f64,
    /// Why, in words, as the first of these slots says.
    pub reason: String,
    /// Whose workers say so, in order.
    pub slots: Vec<Slot>,
}

/// One slot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SlotStatus {
    /// Its number.
    pub slot: Slot,
    /// Its place in the life cycle.
    pub state: State,
    /// Of the worker in it.
    pub pid: Option<u32>,
    /// Since the worker started; 0 if there is none.
    pub uptime_seconds: f64,
    /// WebSockets open now.
    pub connections: u64,
    /// Messages received since the generation began, over all workers that were in the slot.
    pub messages: u64,
    /// Messages received per second, over the last few seconds.
    pub messages_per_second: f64,
    /// Workers that ended unasked since the generation began.
    pub restarts: u64,
    /// Why the last worker ended, in words: `killed by SIGKILL`, `exited with 3: cannot open the store`.
    pub last_cause: Option<String>,
    /// The kind of that cause.
    pub last_cause_kind: Option<Cause>,
    /// Seconds until the next start, when backing off.
    pub retry_in_seconds: Option<f64>,
    /// The slot that accepts in its place while it is down.
    pub lent_to: Option<Slot>,
}

/// One connection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConnectionRow {
    /// The slot that serves it.
    pub slot: Slot,
    /// As in the logs.
    pub connection_id: String,
    /// Its session's token.
    pub session_uuid: String,
    /// The client's address: with its port, or as a trusted proxy has told it; empty for a Unix socket.
    pub client: String,
    /// Since the upgrade.
    pub age_seconds: f64,
    /// Messages received on it.
    pub messages: u64,
    /// Output that the client has not taken yet, in bytes.
    pub queued_bytes: u64,
}

/// The backplane as one worker sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BackplaneRow {
    /// The worker's slot.
    pub slot: Slot,
    /// `embedded` or `redis`.
    pub kind: String,
    /// Where it is, without secrets.
    pub target: String,
    /// Whether it works.
    pub state: Link,
    /// Since it does, or does not.
    pub since_seconds: f64,
    /// Why it does not, in words.
    pub reason: Option<String>,
    /// What the last commit took; none: there was none, or it is not known.
    pub latency_seconds: Option<f64>,
    /// By how much the last heartbeat was late.
    pub heartbeat_lag_seconds: Option<f64>,
    /// The id of the worker that holds the lease to publish the heartbeat, as far as this one knows; none: there is no
    /// lease, or nobody is known to hold it.
    pub lease_holder: Option<String>,
    /// That is this worker.
    pub holds_lease: bool,
    /// Messages counted on this host that the backplane does not have yet: the same for all workers of a host.
    pub pending: u64,
    /// Publications missed since the worker started.
    pub gaps: u64,
    /// How often the worker has connected anew.
    pub reconnects: u64,
}

/// Whether a backplane works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Link {
    /// It does.
    Up,
    /// It does not.
    Down,
}
