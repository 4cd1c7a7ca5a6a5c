//! What workers share beyond one process: session counts and publications.

#[cfg(test)]
mod conformance;
mod embedded;

use crate::batch::{Batch, Publication};
use crate::token::Token;

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

/// What a worker needs of whatever it shares with others.
///
/// **The promise:** a count that [`Backplane::commit`] has filled in is never given again, and none below it follows, not
/// across the death of any process.
pub(crate) trait Backplane {
    /// Commits all increments, publications and touches of the batch, or none of them, and fills in the counts.
    fn commit(&mut self, batch: &mut Batch) -> Result<(), BackplaneError>;

    /// The counts of these sessions now; 0 for one that has none.
    fn load(&mut self, sessions: &[Token]) -> Result<Vec<u64>, BackplaneError>;

    /// The next publications of all workers, this one's included, in the order in which they were committed; how many
    /// were missed because they were gone before this worker came for them. At most a few hundred a call.
    fn published(&mut self) -> Result<(Vec<Publication>, u64), BackplaneError>;
}
