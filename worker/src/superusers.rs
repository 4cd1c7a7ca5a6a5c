//! Superusers: who may log in at `/admin/`.
//!
//! They are kept where counts are: in Redis, if there is one, so that all hosts know the same, else in a file of the state
//! directory. Of a password only its hash is.

mod file;
mod name;
mod password;
mod remote;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::redis::{Failure, Line};
use crate::settings::Settings;
use crate::store::PrepareError;
use crate::worker::BLOCKED_THREADS_WAIT;

pub use name::{Name, NameError};
pub use password::{Password, PasswordError, PasswordHash};

/// One of them, as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Superuser {
    /// Of the password.
    pub hash: PasswordHash,
    /// When it was set (seconds since 1970).
    pub changed: u64,
}

/// Why they cannot be looked up or changed.
#[derive(Debug, thiserror::Error)]
pub enum SuperuserError {
    /// There is one of this name.
    #[error("there is a superuser {0} already: --change-password gives a new password, --delete removes the user")]
    Exists(Name),
    /// There is none.
    #[error("there is no superuser {0}: --list shows who there is")]
    Missing(Name),
    /// The state directory cannot be used.
    #[error(transparent)]
    Directory(#[from] PrepareError),
    /// The file cannot be read or written.
    #[error("cannot {what} {}: {source}", .path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The failure.
        source: std::io::Error,
    },
    /// It is not what this version writes.
    #[error("{}: {reason}; make the superusers anew with this version, or put back a file that it has written", .path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Redis does not serve.
    #[error("superusers are in redis, and {0}")]
    Redis(#[from] Failure),
}

/// Where they are kept.
pub(crate) enum Superusers {
    /// In a file of this directory.
    Directory(PathBuf),
    /// In a hash of this name. Logins that were ended have keys with this prefix, in the same slot of a cluster.
    Redis { line: Box<Line>, key: String, logouts: String },
}

impl Superusers {
    pub(crate) fn of(settings: &Settings) -> Result<Superusers, Failure> {
        Ok(match &settings.redis {
            None => Superusers::Directory(settings.state_dir.clone()),
            Some(redis) => Superusers::Redis {
                line: Box::new(Line::new(redis)?),
                key: format!("{}:{{admin}}:superusers", redis.prefix),
                logouts: format!("{}:{{admin}}:logout:", redis.prefix),
            },
        })
    }

    /// Whether other hosts have the same.
    pub(crate) fn are_shared(&self) -> bool {
        matches!(self, Superusers::Redis { .. })
    }

    pub(crate) async fn find(&self, name: &Name) -> Result<Option<Superuser>, SuperuserError> {
        match self {
            Superusers::Directory(directory) => Ok(file::read(directory)?.remove(name)),
            Superusers::Redis { line, key, .. } => remote::find(line, key, name).await,
        }
    }

    /// Looks up the user of a login; `None` also if it was ended on another host.
    pub(crate) async fn find_login(&self, name: &Name, login: u64) -> Result<Option<Superuser>, SuperuserError> {
        match self {
            Superusers::Directory(_) => self.find(name).await,
            Superusers::Redis { line, key, logouts } => {
                remote::find_login(line, key, name, &format!("{logouts}{login:016x}")).await
            }
        }
    }

    /// Ends a login on all other hosts, if there can be some.
    pub(crate) async fn end_login(&self, login: u64, seconds: u64) -> Result<(), SuperuserError> {
        match self {
            Superusers::Directory(_) => Ok(()),
            Superusers::Redis { line, logouts, .. } => {
                remote::end_login(line, &format!("{logouts}{login:016x}"), seconds).await
            }
        }
    }

    async fn list(&self) -> Result<Vec<(Name, Superuser)>, SuperuserError> {
        match self {
            Superusers::Directory(directory) => Ok(file::read(directory)?.into_iter().collect()),
            Superusers::Redis { line, key, .. } => remote::list(line, key).await,
        }
    }

    async fn change(&self, change: Change) -> Result<(), SuperuserError> {
        match self {
            Superusers::Directory(directory) => file::change(directory, change),
            Superusers::Redis { line, key, .. } => remote::change(line, key, change).await,
        }
    }
}

/// What an operator wants to be different.
#[derive(Debug)]
pub enum Change {
    /// A new one.
    Create(Name, Superuser),
    /// Another password; who is logged in with the old one is not any more.
    Replace(Name, Superuser),
    /// One fewer; who is logged in is not any more.
    Delete(Name),
}

/// All of them, by name.
pub fn list(settings: &Settings) -> Result<Vec<(Name, Superuser)>, SuperuserError> {
    wait(async { Superusers::of(settings)?.list().await })
}

/// Changes one.
pub fn change(settings: &Settings, change: Change) -> Result<(), SuperuserError> {
    wait(async { Superusers::of(settings)?.change(change).await })
}

/// For commands, which have no runtime.
fn wait<T>(work: impl Future<Output = Result<T, SuperuserError>>) -> Result<T, SuperuserError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let failed = |error: std::io::Error| Failure::new(crate::redis::Reason::Other, format!("no runtime: {error}"));
    let runtime = runtime.map_err(failed)?;
    let outcome = runtime.block_on(work);
    runtime.shutdown_timeout(BLOCKED_THREADS_WAIT);
    outcome
}
