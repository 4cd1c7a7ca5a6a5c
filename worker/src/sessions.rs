//! Sessions as operators look for them and change them, wherever they are kept.

use crate::app::App;
use crate::backplane::{BackplaneError, RedisSessions};
use crate::redis::Failure;
use crate::token::Token;
use crate::worker::Shared;

/// A session that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) session: Token,
    /// As its clients are shown it.
    pub(crate) count: u64,
    /// When it was used last (seconds since 1970).
    pub(crate) used: u64,
}

/// Some of those that were asked for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Page {
    pub(crate) found: Vec<Found>,
    /// Where to go on; none: that was all.
    pub(crate) next: Option<String>,
}

/// Why they cannot be looked up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LookError {
    #[error(transparent)]
    Host(#[from] BackplaneError),
    #[error("sessions are in redis, and {0}")]
    Redis(#[from] Failure),
}

/// Why one cannot be reset.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ResetError {
    #[error(transparent)]
    Look(#[from] LookError),
    #[error("it was reset so often that it cannot be again before it has expired")]
    TooOften,
}

impl From<BackplaneError> for ResetError {
    fn from(error: BackplaneError) -> ResetError {
        ResetError::Look(error.into())
    }
}

impl From<Failure> for ResetError {
    fn from(failure: Failure) -> ResetError {
        ResetError::Look(failure.into())
    }
}

/// Where they are.
pub(crate) enum Sessions {
    /// In the store of this host.
    Host,
    /// In Redis.
    Redis(Box<RedisSessions>),
}

impl Sessions {
    /// Those whose tokens begin with this, behind `after`, which a page before has named.
    pub(crate) async fn find<A: App>(
        &self,
        shared: &Shared<A>,
        beginning: &str,
        after: Option<&str>,
        most: usize,
    ) -> Result<Page, LookError> {
        match self {
            Sessions::Host => {
                let after = after.and_then(|after| after.parse().ok());
                Ok(shared.hub.borrow_mut().backplane.host().sessions(beginning, after.as_ref(), most)?)
            }
            Sessions::Redis(redis) => Ok(redis.find(beginning, after, most).await?),
        }
    }

    /// One of them.
    pub(crate) async fn get<A: App>(&self, shared: &Shared<A>, token: &Token) -> Result<Option<Found>, LookError> {
        match self {
            Sessions::Host => Ok(shared.hub.borrow_mut().backplane.host().session(token)?),
            Sessions::Redis(redis) => Ok(redis.get(token).await?),
        }
    }

    /// Has a session's count begin anew; the count that it had. None: there is no such session.
    pub(crate) async fn reset<A: App>(&self, shared: &Shared<A>, token: &Token) -> Result<Option<u64>, ResetError> {
        match self {
            Sessions::Host => shared.hub.borrow_mut().backplane.host().reset(token),
            Sessions::Redis(redis) => {
                // What this host knows counts too: Redis may have lost its memory.
                let known = shared.hub.borrow_mut().backplane.host().kept_count(&token.key())?;
                let Some((before, after)) = redis.reset(token, known).await? else { return Ok(None) };
                shared.hub.borrow_mut().backplane.host().note_reset(&token.key(), after)?;
                Ok(Some(before))
            }
        }
    }
}
