//! What workers share beyond one process: session counts and publications.

#[cfg(test)]
mod conformance;
mod embedded;
mod health;
mod redis;

use crate::batch::{Batch, Publication};
use crate::redis::Failure;
use crate::token::Token;

pub use self::redis::check_redis;
pub(crate) use self::redis::{Driver, Event, Message, Redis, RedisSessions};
pub(crate) use embedded::{Aim, Bucket, Embedded, Login, Options, Ring};
pub(crate) use health::Health;

/// Why the backplane could not do its work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BackplaneError {
    /// The disk is full, or the store has reached its allowed size.
    #[error("the store is full: {0}")]
    Full(String),
    /// Anything else the store says.
    #[error("the store fails: {0}")]
    Store(#[from] heed::Error),
    /// A system call failed.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// The failure.
        source: std::io::Error,
    },
}

/// How far a commit has come when [`Backplane::commit`] returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// It is over, and the outcomes are filled in.
    Done,
    /// It is under way. The batch is to be kept until it is settled, and nothing else committed meanwhile.
    Begun,
}

/// Answers to the commands of a commit.
#[derive(Debug)]
pub(crate) struct Settlement(pub(crate) Vec<Result<::redis::Value, Failure>>);

/// Whether other hosts are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Announced {
    /// There are none.
    Alone,
    /// It is on its way.
    Sent,
    /// They cannot be told now.
    Failed,
}

/// What a worker needs of whatever it shares with others.
///
/// **The promise:** a count that a commit has filled in is never given again, and none below it follows, not across the
/// death of any process.
pub(crate) trait Backplane {
    /// Commits increments and publications of the batch, and fills in the outcomes. An error: none of them.
    fn commit(&mut self, batch: &mut Batch) -> Result<Progress, BackplaneError>;

    /// The next publications of all workers, this one's included, in the order in which they were committed; how many
    /// were missed because they were gone before this worker came for them. At most a few hundred a call.
    fn published(&mut self) -> Result<(Vec<Publication>, u64), BackplaneError>;

    /// Takes what was answered to the commit that is under way, and fills in the outcomes.
    fn settle(&mut self, _batch: &mut Batch, _settlement: Settlement) -> Result<(), BackplaneError> {
        Ok(())
    }

    /// How many messages that were answered before were brought to the others since this was last asked.
    fn take_merged(&mut self) -> u64 {
        0
    }

    /// Nothing is under way, and nothing waits: time to note what could wait.
    fn rest(&mut self) {}

    /// Nothing is under way, and nothing waits: brings forth what could not be committed before. What it begins is that
    /// of a batch with nothing in it.
    fn work_off(&mut self) -> Result<Progress, BackplaneError> {
        Ok(Progress::Done)
    }

    /// The line to others is lost, or is there again.
    fn link(&mut self, _lost: Option<&Failure>) {}

    /// Whether there can be no other hosts.
    fn is_alone(&self) -> bool {
        true
    }

    /// Tells the workers of other hosts.
    fn announce(&mut self, _message: Message) -> Announced {
        Announced::Alone
    }

    /// How it is.
    fn health(&mut self) -> Health;

    /// The store of this host. Every backplane has one.
    fn host(&mut self) -> &mut Embedded;

    /// Whether there is a session of this token; none: only a commit can tell.
    fn knows(&self, _token: &Token) -> Option<bool> {
        None
    }

    /// Leaves it in good order.
    fn close(self: Box<Self>) -> Result<(), BackplaneError>;
}
