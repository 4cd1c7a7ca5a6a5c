//! What can go wrong in a supervisor, in words that tell the operator what to do.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use baton_ipc::Endpoint;
use baton_ipc::private::DirectoryError;

/// Why a supervisor could not start, or ended other than by a drain.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The control socket of this color is answered by a living process.
    #[error("{color} already runs with pid {pid}: stop it first, or start the other color")]
    AlreadyRunning {
        /// The color that was to be started.
        color: String,
        /// Who answers.
        pid: i32,
    },
    /// Somebody else listens on the address.
    #[error("cannot listen on {endpoint}: address already in use; {hint}")]
    AddressInUse {
        /// The address.
        endpoint: Endpoint,
        /// How to find out who it is.
        hint: String,
    },
    /// The address cannot be listened on for another reason.
    #[error("cannot listen on {endpoint}: {source}")]
    Listen {
        /// The address.
        endpoint: Endpoint,
        /// What the kernel said.
        source: io::Error,
    },
    /// The service manager passes something that is of no use.
    #[error("cannot use the descriptor {name} of the service manager: {reason}")]
    Passed {
        /// Its name: of a socket unit its FileDescriptorName, else the unit.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The control socket cannot be made.
    #[error("cannot make the control socket {}: {source}", path.display())]
    Control {
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Others could change what is in the runtime directory.
    #[error("cannot use the runtime directory {}: {source}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<DirectoryError>,
    },
    /// The lock of starts cannot be opened.
    #[error("cannot lock {}: {source}", path.display())]
    Lock {
        /// The lock file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Another start does not come to an end.
    #[error(
        "{}: locked by another start ({holder}) for more than {} s; wait until that one is done, or end it",
        path.display(), waited.as_secs()
    )]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// The process that has it, as far as is known.
        holder: String,
        /// How long this start waited.
        waited: Duration,
    },
    /// The group that may use the control socket is unknown.
    #[error("the control group {0:?} does not exist: create it, or take the setting away")]
    NoSuchGroup(String),
    /// More or fewer slots than there can be.
    #[error("{0} workers are impossible: 1 to {max} are", max = baton_ipc::MAX_SLOTS)]
    Workers(u16),
    /// The generation that runs does not let this one take over, or this one could not.
    #[error("cannot take over from {color}: {reason}")]
    Takeover {
        /// The generation that runs.
        color: String,
        /// Why.
        reason: String,
    },
    /// A system call without which nothing works.
    #[error("cannot {what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// No slot is left that could serve.
    #[error("every worker died again and again; the last cause: {cause}")]
    AllFatal {
        /// The cause of the slot that gave up last.
        cause: String,
    },
}

impl Error {
    /// For `map_err`.
    pub(crate) fn system<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> Error {
        move |source| Error::System { what, source: source.into() }
    }
}
