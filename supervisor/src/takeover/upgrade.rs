//! Starts the installed binary, which then takes over in place of this one: same color, same arguments.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use baton_ipc::control::{ErrorCode, Generation, Output, Reply, UpgradeStatus};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Role;
use super::successor::{ANSWER, HANDING};
use crate::control::ClientId;
use crate::program;
use crate::supervisor::Supervisor;

/// How long the successor may take from the switch on: every stage of a takeover has a deadline of its own, which comes
/// before this.
const TAKING: Duration = HANDING.saturating_add(ANSWER.saturating_mul(4));

/// Flags that the incumbent decides.
const OWN: [&str; 2] = ["--takeover", "--foreground-parent"];

/// An upgrade that is under way.
#[derive(Debug)]
pub(crate) struct Upgrade {
    child: Child,
    program: PathBuf,
    client: Option<ClientId>,
    since: Instant,
    /// How many takeovers had been counted before.
    tallied: u64,
    stage: Stage,
}

/// Where an upgrade is.
#[derive(Debug)]
enum Stage {
    /// The successor is to be ready by then.
    Starting { deadline: Instant },
    /// The successor accepts, and is to have everything by then.
    Taking { deadline: Instant },
    /// The successor was killed, for this reason; an operator who called it off waits for its end.
    Ending { reason: String, called_off_by: Option<ClientId> },
}

/// What is to be done about an upgrade.
#[derive(Debug, PartialEq)]
enum Verdict {
    Wait,
    /// The successor has begun to take over.
    Takes,
    /// It is too slow.
    Late(&'static str),
}

impl Stage {
    /// Judges the time. `taking`: the successor accepts.
    fn judge(&self, taking: bool, now: Instant) -> Verdict {
        match self {
            Stage::Starting { .. } if taking => Verdict::Takes,
            Stage::Starting { deadline } if now >= *deadline => Verdict::Late("was not ready"),
            Stage::Taking { deadline } if now >= *deadline => Verdict::Late("had not taken over"),
            Stage::Starting { .. } | Stage::Taking { .. } | Stage::Ending { .. } => Verdict::Wait,
        }
    }
}

impl Supervisor<'_> {
    /// Starts the binary that is installed now.
    pub(crate) fn upgrade(&mut self, client: Option<ClientId>) -> Result<(), (ErrorCode, String)> {
        self.ensure_free()?;
        if let Some(upgrade) = &self.upgrading {
            let message = format!("{}; `batonctl rollback` calls it off", upgrade.words());
            return Err((ErrorCode::Busy, message));
        }
        let program = self.program.clone();
        let mut command = Command::new(&program);
        command
            .args(without_own(std::env::args_os().skip(1)))
            .env("BATON_TAKEOVER", "now")
            .env("BATON_FOREGROUND_PARENT", "never")
            .env_remove("WATCHDOG_PID")
            .env_remove("LISTEN_PID")
            .env_remove("LISTEN_FDS")
            .env_remove("LISTEN_FDNAMES")
            .stdin(Stdio::null());
        let child = command.spawn().map_err(|error| {
            let shown = program.display();
            let message =
                format!("cannot start {shown}, the path by which this service was started: {error}; serving on");
            (ErrorCode::Failed, message)
        })?;
        let pid = child.id();
        tracing::info!(
            event = "upgrade_started",
            program = %program.display(),
            pid,
            "the installed binary starts, to take over"
        );
        let message = format!("{} starts with pid {pid}", program.display());
        self.reply(client, Reply::Step { message });
        // A worker that does not get ready ends it sooner, with a better reason.
        let stage = Stage::Starting { deadline: self.now + 2 * self.settings.start_timeout };
        let tallied = self.tallied();
        self.upgrading = Some(Upgrade { child, program, client, since: self.now, tallied, stage });
        Ok(())
    }

    /// Looks how far the successor is, and ends one that is too slow.
    pub(crate) fn look_at_upgrade(&mut self) {
        let taking = self.upgrade_peer().is_some_and(|(_, role)| role == Role::Taking);
        let joined = self.upgrade_peer().is_some();
        let Some(upgrade) = &mut self.upgrading else { return };
        if let Some(successor) = &self.successor {
            let message = format!("{} serves in place of {}", file_of(successor), std::process::id());
            let client = upgrade.client;
            self.upgrading = None;
            return self.reply(client, Reply::Done { output: Output::Text { message } });
        }
        match upgrade.stage.judge(taking, self.now) {
            Verdict::Wait => {}
            Verdict::Takes => upgrade.stage = Stage::Taking { deadline: self.now + TAKING },
            Verdict::Late(what) => {
                let seconds = self.now.saturating_duration_since(upgrade.since).as_secs();
                self.end_successor(format!("the new binary {what} after {seconds} s and was killed"), None);
                return;
            }
        }
        match upgrade.child.try_wait() {
            Ok(None) => {}
            // Its end is heard first: what it has comes back then.
            Ok(Some(_)) if joined && matches!(upgrade.stage, Stage::Ending { .. }) => {}
            Ok(Some(status)) => {
                if let Some(upgrade) = self.upgrading.take() {
                    self.upgrade_failed(upgrade, &status.to_string());
                }
            }
            Err(error) => tracing::error!(%error, "cannot look at the new binary"),
        }
    }

    fn upgrade_failed(&mut self, upgrade: Upgrade, status: &str) {
        self.tally_upgrade(upgrade.tallied);
        let (reason, called_off_by) = match upgrade.stage {
            Stage::Starting { .. } | Stage::Taking { .. } => {
                (format!("the new binary ended ({status}) and has not taken over; its log says why"), None)
            }
            Stage::Ending { reason, called_off_by } => (reason, called_off_by),
        };
        let message = format!("{reason}: pid {} serves on", std::process::id());
        tracing::error!(event = "upgrade_failed", program = %upgrade.program.display(), "{message}");
        self.reply(called_off_by, Reply::Done { output: Output::Text { message: message.clone() } });
        self.reply(upgrade.client, Reply::Error { code: ErrorCode::Failed, message });
    }

    /// Calls off an upgrade that is under way, for an operator.
    pub(crate) fn call_off_upgrade(&mut self, client: ClientId) -> Result<(), (ErrorCode, String)> {
        if self.successor.is_some() {
            return Err((ErrorCode::Failed, "too late: the new binary has taken over".to_owned()));
        }
        match self.upgrading.as_ref().map(|upgrade| &upgrade.stage) {
            Some(Stage::Starting { .. } | Stage::Taking { .. }) => {
                self.end_successor("the upgrade was called off".to_owned(), Some(client));
                Ok(())
            }
            Some(Stage::Ending { .. }) => Err((ErrorCode::Busy, "the upgrade is being called off already".to_owned())),
            None => Err((ErrorCode::Failed, "no upgrade is under way".to_owned())),
        }
    }

    /// Kills the successor. What clients it has got its workers give back by themselves.
    fn end_successor(&mut self, reason: String, called_off_by: Option<ClientId>) {
        let supervisor = self.upgrade_peer().map(|(pid, _)| pid);
        let Some(upgrade) = &mut self.upgrading else { return };
        tracing::warn!(event = "upgrade_ending", pid = upgrade.child.id(), reason, "the new binary is killed");
        upgrade.kill(supervisor);
        upgrade.stage = Stage::Ending { reason, called_off_by };
    }

    /// The service is to end: what would take over from it must not serve on in its place.
    pub(crate) fn end_upgrade(&mut self) {
        let peer = self.upgrade_peer();
        if self.successor.is_some() || peer.is_some_and(|(_, role)| role == Role::Taking) {
            return;
        }
        let Some(mut upgrade) = self.upgrading.take() else { return };
        upgrade.kill(peer.map(|(pid, _)| pid));
        tracing::warn!(pid = upgrade.child.id(), "the new binary is ended again");
        let message = "upgrade was given up: the service is shutting down".to_owned();
        if let Stage::Ending { called_off_by, .. } = upgrade.stage {
            self.reply(called_off_by, Reply::Error { code: ErrorCode::Busy, message: message.clone() });
        }
        self.reply(upgrade.client, Reply::Error { code: ErrorCode::Busy, message });
    }

    /// Whether the successor was killed and is not gone yet.
    pub(super) fn is_upgrade_ending(&self) -> bool {
        self.upgrading.as_ref().is_some_and(|upgrade| matches!(upgrade.stage, Stage::Ending { .. }))
    }

    /// The pid and the role of the successor, once it has come in: of a program that starts another one, not that which
    /// was started here.
    fn upgrade_peer(&self) -> Option<(u32, Role)> {
        self.upgrading.as_ref()?;
        let peer = self.peer.as_ref().filter(|peer| peer.generation.color == self.settings.color)?;
        Some((peer.generation.pid, peer.role))
    }

    /// What `status` says of an upgrade.
    pub(crate) fn upgrade_status(&self) -> Option<UpgradeStatus> {
        let upgrade = self.upgrading.as_ref()?;
        let left = match &upgrade.stage {
            Stage::Starting { deadline } | Stage::Taking { deadline } => deadline.saturating_duration_since(self.now),
            Stage::Ending { .. } => Duration::ZERO,
        };
        Some(UpgradeStatus {
            program: upgrade.program.display().to_string(),
            pid: upgrade.child.id(),
            since_seconds: self.now.saturating_duration_since(upgrade.since).as_secs_f64(),
            left_seconds: left.as_secs_f64(),
        })
    }
}

impl Upgrade {
    /// Says in words what is under way.
    pub(crate) fn words(&self) -> String {
        format!("an upgrade is under way ({} with pid {})", self.program.display(), self.child.id())
    }

    /// Does not wait for the end, which may take its time: a process that the disk keeps waiting dies later.
    fn kill(&mut self, supervisor: Option<u32>) {
        if let Err(error) = self.child.kill() {
            tracing::error!(%error, pid = self.child.id(), "cannot kill the new binary");
        }
        // It holds its end of the line, so that its pid means it and nobody else.
        if let Some(pid) = supervisor.filter(|pid| *pid != self.child.id()) {
            let _ = kill(Pid::from_raw(pid as i32), Signal::SIGKILL);
        }
    }
}

/// Names a generation by the file that it runs: of a symbolic link, where it leads.
fn file_of(generation: &Generation) -> String {
    let Generation { pid, version, .. } = generation;
    match program::of_process(*pid) {
        Ok(file) => format!("{} (baton {version}, pid {pid})", file.display()),
        Err(_) => format!("baton {version} (pid {pid})"),
    }
}

/// How we were started ourselves says nothing about this one, and a flag would win over the environment.
fn without_own(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut kept = Vec::new();
    let mut is_value = false;
    for argument in arguments {
        let is_flag = OWN.iter().any(|flag| argument == *flag);
        let text = argument.to_string_lossy();
        let with_value = text.split_once('=').is_some_and(|(flag, _)| OWN.contains(&flag));
        if !is_flag && !is_value && !with_value {
            kept.push(argument);
        }
        is_value = is_flag;
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_arguments_but_its_own_are_passed_on() {
        let given = ["run", "--takeover", "wait", "--color", "green", "--takeover=now", "--workers", "2"];
        let given = given.into_iter().chain(["--foreground-parent", "always", "--foreground-parent=auto"]);
        let kept = without_own(given.map(OsString::from));
        assert_eq!(kept, ["run", "--color", "green", "--workers", "2"]);
    }

    #[test]
    fn a_successor_has_a_time_to_start_and_one_to_take_over() {
        let now = Instant::now();
        let (before, at) = (now - Duration::from_millis(1), now);
        let starting = Stage::Starting { deadline: at };
        assert_eq!(starting.judge(false, before), Verdict::Wait);
        assert_eq!(starting.judge(false, at), Verdict::Late("was not ready"));
        assert_eq!(starting.judge(true, at), Verdict::Takes);
        let taking = Stage::Taking { deadline: at };
        assert_eq!(taking.judge(true, before), Verdict::Wait);
        assert_eq!(taking.judge(true, at), Verdict::Late("had not taken over"));
        // It took everything, and gives it back.
        assert_eq!(taking.judge(false, before), Verdict::Wait);
        let ending = Stage::Ending { reason: String::new(), called_off_by: None };
        assert_eq!(ending.judge(true, at), Verdict::Wait);
    }
}
