//! What to do about `data.mdb`, decided without touching anything.

use super::super::Prepared;
use super::super::names::{CHECKPOINT, DATA};
use super::super::recovery::Source;

/// Why `data.mdb` may be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trust {
    /// Everything was on the disk when the last user left.
    Clean,
    /// The machine has not been off since it was used.
    SameBoot,
    /// The machine was off in between.
    PowerLoss,
    /// No start was ever completed here, so nobody used it since.
    Unknown,
}

/// A database file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    Missing,
    /// There, but nothing was ever committed to it.
    Empty,
    /// Not read, because it is not trusted anyway.
    Unverified,
    /// Up to where it is in use, in bytes.
    Whole(u64),
    Damaged(String),
}

/// What to do about `data.mdb`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    Keep(Prepared, u64),
    Recover {
        source: Source,
        /// The middle of the name under which the file is kept; none: there is nothing to keep.
        aside: Option<&'static str>,
        reason: String,
    },
    Refuse {
        data: String,
        checkpoint: String,
    },
}

/// The whole policy. The checkpoint is only looked at if the data is not taken.
pub(super) fn decide<E>(
    trust: Trust,
    data: Condition,
    checkpoint: impl FnOnce() -> Result<Condition, E>,
) -> Result<Plan, E> {
    let (reason, aside) = match (&data, trust) {
        (&Condition::Whole(used), Trust::Clean) => return Ok(Plan::Keep(Prepared::Clean, used)),
        (&Condition::Whole(used), Trust::SameBoot) => return Ok(Plan::Keep(Prepared::Recovered, used)),
        (Condition::Unverified | Condition::Whole(_), _) => {
            ("the machine went down while the store was in use".to_owned(), Some("unclean"))
        }
        (Condition::Damaged(flaw), _) => (format!("{DATA} is damaged: {flaw}"), Some("damaged")),
        (Condition::Missing, _) => (format!("{DATA} is missing"), None),
        (Condition::Empty, _) => (format!("{DATA} is empty"), None),
    };
    Ok(match (checkpoint()?, data, trust) {
        (Condition::Whole(_), ..) => Plan::Recover { source: Source::Checkpoint, aside, reason },
        (Condition::Missing, Condition::Missing, _)
        | (Condition::Missing, Condition::Empty, Trust::Clean | Trust::SameBoot | Trust::Unknown) => {
            Plan::Keep(Prepared::Fresh, 0)
        }
        (Condition::Missing, Condition::Empty | Condition::Unverified | Condition::Whole(_), _) => {
            Plan::Recover { source: Source::Nothing, aside, reason }
        }
        (Condition::Missing, Condition::Damaged(_), _) => {
            Plan::Refuse { data: reason, checkpoint: "there is no checkpoint".to_owned() }
        }
        (Condition::Damaged(flaw), ..) => {
            Plan::Refuse { data: reason, checkpoint: format!("{CHECKPOINT} is damaged too: {flaw}") }
        }
        (Condition::Empty | Condition::Unverified, ..) => {
            Plan::Refuse { data: reason, checkpoint: format!("{CHECKPOINT} is empty") }
        }
    })
}
