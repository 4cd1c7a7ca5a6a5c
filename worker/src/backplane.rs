//! What workers share beyond one process: session counts and publications.

#[cfg(test)]
mod conformance;
mod embedded;

use crate::batch::{Batch, Publication};

pub(crate) use embedded::{Embedded, Options};

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

    /// The store of this host. Every backplane has one.
    fn host(&mut self) -> &mut Embedded;

    /// Leaves it in good order.
    fn close(self: Box<Self>) -> Result<(), BackplaneError>;
}
