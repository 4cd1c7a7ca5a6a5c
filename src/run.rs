//! The composition root: the one place that knows both what supervises and what is supervised.

use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use baton_ipc::{Endpoint, Inheritance, Scoreboard, Side, Slot};
use baton_supervisor::{Line, Split};
use baton_worker::redis;
use baton_worker::store::{self, LastMember, Membership};
use baton_worker::{App, Hooks};
use nix::sys::stat::{Mode, umask};

use crate::config::{self, Config, Loaded, Sources};
use crate::{descriptors, logging, probe};

/// How long the workers of a dead supervisor may take beyond their drain, until the process in front of it ends.
const ORPHANS_GRACE: Duration = Duration::from_secs(2);

/// Serves until told to end. What stands in the way of a start is told on standard error, before anything is bound.
pub(crate) fn run<A: App>(loaded: Loaded, sources: Sources, app: A) -> ExitCode {
    // A shell allows 1024 for the sake of old programs that call select(2), of which this is none.
    if let Err(error) = descriptors::raise_limit() {
        eprintln!("baton: cannot raise the limit of descriptors: {error}");
    }
    let supervisor = &loaded.config.supervisor;
    let parent = match supervisor.foreground_parent.is_wanted() {
        true => match baton_supervisor::split(supervisor.drain_timeout + ORPHANS_GRACE) {
            Ok(Split::Parent(code)) => return ExitCode::from(code),
            Ok(Split::Supervisor(line)) => Some(line),
            Err(error) => {
                eprintln!("baton: {error}");
                return ExitCode::FAILURE;
            }
        },
        false => None,
    };
    match serve(loaded, sources, app, parent) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("baton: {reason}");
            ExitCode::FAILURE
        }
    }
}

fn serve<A: App>(loaded: Loaded, sources: Sources, app: A, parent: Option<Line>) -> Result<(), String> {
    let Loaded { mut config, file, .. } = loaded;
    close_to_others();
    logging::start_supervisor(&config.logging, &config.supervisor.color).map_err(|error| error.to_string())?;
    logging::log_panics();
    let file = file.map_or("none".to_owned(), |file| file.display().to_string());
    tracing::info!(version = config::VERSION, config = file, workers = config.supervisor.workers, "starting");
    // It logs what it has found, and warns if anything is lost.
    let (_, membership) = store::prepare(&config.worker.state_dir).map_err(|error| error.to_string())?;
    if config.worker.redis.is_none() {
        config.supervisor.store = Some(membership.identity().map_err(|error| error.to_string())?);
    }
    let settings = config.supervisor.clone();
    let mut service = Runner { app: Some(app), sources, config, membership: Some(membership) };
    let outcome = baton_supervisor::run(settings, &mut service, parent).map_err(|error| error.to_string());
    service.leave_store();
    logging::shutdown();
    outcome
}

/// Files that this process and its workers make are closed to other users from now on, whoever makes them: log files, what the
/// application writes. The group may read, as the directory of logs may belong to one that should.
fn close_to_others() {
    let before = umask(Mode::empty());
    umask(before | Mode::S_IWGRP | Mode::S_IRWXO);
}

/// What the supervisor runs.
struct Runner<A> {
    /// Taken by the worker: each process has its copy of this memory, so the fork is the clone.
    app: Option<A>,
    sources: Sources,
    config: Config,
    membership: Option<Membership>,
}

impl<A> Runner<A> {
    /// All workers are gone: if no other generation uses the store, what it holds is written to the disk and marked so.
    fn leave_store(&mut self) {
        let last = self.membership.take().map(Membership::leave_as_last).transpose();
        match last.and_then(|last| last.flatten().map_or(Ok(()), LastMember::mark_clean)) {
            Ok(()) => {}
            Err(error) => tracing::warn!(%error, "cannot mark the store as clean: the next start checks it"),
        }
    }
}

impl<A: App> baton_supervisor::Service for Runner<A> {
    fn work(&mut self, inheritance: Inheritance) -> i32 {
        let Config { worker, logging, .. } = &self.config;
        let (slot, side, board) = (inheritance.slot, inheritance.side, Rc::clone(&inheritance.scoreboard));
        if let Err(error) = logging::start_worker(logging, &worker.color, slot, side, board) {
            // The supervisor's log still works here.
            tracing::error!(%error, slot, "a worker cannot log: it does not start");
            return 1;
        }
        // The worker joins for itself before it opens the store, so nothing is lost in between; and while a worker held
        // the inherited membership, none could be the last to leave.
        drop(self.membership.take());
        let Some(app) = self.app.take() else {
            tracing::error!("the work of a worker begins once");
            return 1;
        };
        let hooks =
            Hooks { log_lines_dropped: logging::dropped_lines, reopen_logs: logging::reopen, rest_logs: logging::rest };
        let code = baton_worker::run(inheritance, worker.clone(), app, hooks);
        logging::shutdown();
        code
    }

    fn reload(&mut self) -> Result<baton_supervisor::Settings, String> {
        let mut new = config::load(&self.sources).map_err(|problems| problems.to_string().replace('\n', "; "))?.config;
        // That is found out at a start, and is no setting.
        new.supervisor.store = self.config.supervisor.store;
        self.config.supervisor.allow_change(&new.supervisor)?;
        allow_change(&self.config, &new)?;
        if new.logging != self.config.logging {
            logging::start_supervisor(&new.logging, &new.supervisor.color).map_err(|error| error.to_string())?;
        }
        self.config = new;
        Ok(self.config.supervisor.clone())
    }

    fn digest_now(&self) -> Option<String> {
        config::load(&self.sources).ok().map(|loaded| loaded.config.supervisor.digest)
    }

    fn probe(&mut self, sockets: Vec<(Slot, OwnedFd)>, public: &[Endpoint], pid: u32) -> Result<(), String> {
        let deadline = Instant::now() + probe::PATIENCE;
        match sockets.is_empty() {
            true => probe::public(public, pid, deadline),
            false => probe::workers(sockets, deadline),
        }
    }

    fn reopen_logs(&mut self) {
        logging::reopen();
    }

    fn scoreboard(&mut self, board: Rc<Scoreboard>, side: Side) {
        logging::attach_ring(board, None, side);
    }
}

/// Old and new workers live side by side during a reload, with one store, which they must open alike, and one Redis, where
/// each must find what the others keep.
fn allow_change(old: &Config, new: &Config) -> Result<(), String> {
    let (old, new) = (&old.worker, &new.worker);
    let redis = |differs: fn(&redis::Settings, &redis::Settings) -> bool| match (&old.redis, &new.redis) {
        (Some(old), Some(new)) => differs(old, new),
        (None, None) => false,
        (Some(_), None) | (None, Some(_)) => true,
    };
    let fixed = [
        ("state-dir", old.state_dir != new.state_dir),
        ("store-max-size", old.store_max_size != new.store_max_size),
        ("redis-url", redis(|old, new| old.address.data() != new.address.data())),
        ("redis-ca-file", redis(|old, new| old.ca_file != new.ca_file)),
        ("redis-prefix", redis(|old, new| old.prefix != new.prefix)),
    ];
    match fixed.into_iter().find(|(_, changed)| *changed) {
        None => Ok(()),
        Some((name, _)) => {
            Err(format!("{name} cannot change while the service runs: nothing was changed, and it takes a new start"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_redis_its_data_stays_while_the_service_runs() {
        let config = |key: &'static str, value: &str| {
            let flags = [("redis-url", "redis://h"), ("runtime-dir", "/tmp"), ("state-dir", "/tmp"), (key, value)];
            let flags = flags.map(|(key, value)| (key, vec![value.to_owned()])).into();
            config::load(&Sources { flags, ..Sources::default() })
                .unwrap_or_else(|problems| panic!("{problems}"))
                .config
        };
        let old = config("redis-prefix", "baton");
        assert_eq!(allow_change(&old, &config("redis-timeout", "100ms")), Ok(()));
        assert_eq!(allow_change(&old, &config("redis-url", "redis://ann:secret@H:6379/0")), Ok(()));
        for (key, value) in [("redis-url", "redis://h/1"), ("redis-url", "none"), ("redis-prefix", "other")] {
            let refused = allow_change(&old, &config(key, value)).expect_err(key);
            assert!(refused.starts_with(&format!("{key} cannot change")), "{refused}");
        }
    }
}
