//! Processes and sockets: what keeps workers running, and knows nothing of what they do.
//!
//! # The life of a generation
//!
//! [`run`] takes the control socket `COLOR.sock` (one supervisor of a color at a time), binds every listen address once
//! for every slot, makes the scoreboard and forks one worker per slot. Then it turns in its one loop: wait, event,
//! step, perform. It has one thread and one blocking point, a `poll(2)` over signals, processes, the control socket
//! and its clients, the channels of the workers, and the nearest deadline. So it may fork at any time.
//!
//! # The life of a slot
//!
//! `VACANT → STARTING → SERVING → DRAINING → KILLED`, then vacant again or `STOPPED`; `FATAL` after too many deaths. A
//! pure function, `slot::step`, decides, and the loop performs. A worker serves once it has said so, and dies of:
//!
//! * an exit or a signal: replaced at once; if it goes on dying, with growing delays; after ten deaths in a minute
//!   without ten healthy seconds the slot is `FATAL` until an operator starts it. When all are, the supervisor ends.
//! * silence: its event loop has not turned for `hang_timeout`. SIGABRT, for the core, and a second later SIGKILL. If
//!   it was only waiting for the store, the one who holds the store is killed instead.
//! * a start that takes longer than `start_timeout`, or a drain that takes longer than `drain_timeout`.
//!
//! The listeners stay open all the while. For a slot that is down for longer than a moment a neighbour accepts.
//!
//! # Signals
//!
//! | signal | effect |
//! |---|---|
//! | TERM, INT | drain and end; a second one: at once |
//! | QUIT | end at once |
//! | HUP | read the configuration anew, have the workers relieved one after another |
//! | USR1 | open log files anew |
//! | USR2 | start the installed binary, which takes over |
//! | TTIN, TTOU | one worker more, one fewer |
//!
//! Workers ignore all of these: they are told over their channels, and when a channel ends, because the supervisor is
//! gone, they drain by themselves.
//!
//! # What a caller has to know
//!
//! [`run`] must be called by a process with one thread: it forks. In the children it does not return. So must [`split`], before
//! it, where a process has to stay in front of all generations.
#![deny(unsafe_code)]

mod backoff;
mod client;
mod commands;
mod control;
mod error;
mod family;
mod inquiry;
mod lending;
mod listeners;
mod notify;
mod operation;
mod parent;
mod passed;
mod place;
mod process;
mod program;
mod rebalance;
mod relief;
mod restore;
mod settings;
mod signals;
mod slot;
mod socket_file;
mod status;
mod store;
mod supervisor;
mod sys;
mod takeover;
mod transfer;
mod transfers;
mod waiting;
mod watchdog;
mod workers;

use std::os::fd::OwnedFd;
use std::rc::Rc;

use baton_ipc::{Endpoint, Inheritance, Scoreboard, Side, Slot};

pub use error::Error;
pub use parent::{ForegroundParent, Line, Split, split};
pub use program::started_as;
pub use settings::{Settings, Takeover};
pub use takeover::longest_socket_path;

use crate::supervisor::{Ending, Supervisor};

/// What a supervisor runs but knows nothing about.
pub trait Service {
    /// The body of a worker. Runs in the forked child, whose process ends with the returned code.
    fn work(&mut self, inheritance: Inheritance) -> i32;

    /// Reads the configuration anew. `Err` is a sentence for the operator, and leaves everything as it is. What cannot
    /// change while running is refused by [`Settings::allow_change`], which an implementation should ask before it
    /// takes over anything for the workers to come.
    fn reload(&mut self) -> Result<Settings, String>;

    /// Returns what [`Settings::digest`] would be if the configuration were read now; none if it is wrong now.
    fn digest_now(&self) -> Option<String>;

    /// Tries the service like a client, in a forked child that then exits: `sockets` lead to workers of ours, as if each
    /// had been accepted; without any, the first of the `public` addresses is dialled, as they are bound and not as they
    /// were configured, and the supervisor with this `pid` must be the one behind it. `Err` is a sentence for the operator.
    fn probe(&mut self, sockets: Vec<(Slot, OwnedFd)>, public: &[Endpoint], pid: u32) -> Result<(), String>;

    /// Opens the supervisor's own log files anew.
    fn reopen_logs(&mut self);

    /// Called once, in the supervisor, as soon as the scoreboard exists: the log rings are in it, and the
    /// supervisor's own is the one of this side.
    fn scoreboard(&mut self, board: Rc<Scoreboard>, side: Side);
}

/// Keeps signals that ask a running service for something (SIGHUP, SIGUSR1, SIGUSR2, SIGTTIN, SIGTTOU) waiting until [`run`] can
/// take them, instead of letting them end this process. To be called first of all, while there is one thread.
///
/// # Errors
/// The kernel refuses it, which it does for no signal that there is.
pub fn hold_requests() -> Result<(), Error> {
    sys::hold_requests().map_err(Error::system("hold signals"))
}

/// Runs a generation until it has drained. Blocks signals, so the process should do nothing else.
///
/// # Errors
/// An address or the control socket is taken; or, later, every slot has given up. Files are cleaned up in any case.
///
/// `parent`: of a process that [`split`] has made.
pub fn run(settings: Settings, service: &mut dyn Service, parent: Option<Line>) -> Result<(), Error> {
    let mut supervisor = Supervisor::new(settings, service, parent)?;
    match supervisor.run() {
        Ending::Done(result) => {
            supervisor.clean_up();
            supervisor.part_from_parent(result.is_ok());
            match &result {
                Ok(()) => tracing::info!("ended"),
                Err(error) => tracing::error!(%error, "ended"),
            }
            result
        }
        Ending::Probe(job, channel) => {
            let (service, job) = supervisor.into_probe(job);
            process::try_service(&channel, || service.probe(job.sockets, &job.public, job.pid))
        }
        Ending::Worker(birth, channel) => {
            let slot = birth.slot;
            let (service, inheritance) = supervisor.into_worker(birth, channel);
            process::live(slot, || service.work(inheritance))
        }
    }
}
