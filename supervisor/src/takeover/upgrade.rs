//! Starting the installed binary, which then takes over in our place: same color, same arguments.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use baton_ipc::control::{ErrorCode, Output, Reply};

use super::Role;
use crate::control::ClientId;
use crate::supervisor::Supervisor;

/// A program that was replaced is `/path (deleted)` in `/proc/PID/exe` (`proc_pid_exe(5)`).
const DELETED: &str = " (deleted)";

/// An upgrade that is under way.
#[derive(Debug)]
pub(crate) struct Upgrade {
    child: std::process::Child,
    client: Option<ClientId>,
    /// How many takeovers had been counted before.
    tallied: u64,
}

impl Supervisor<'_> {
    /// Starts the binary that is installed now.
    pub(crate) fn upgrade(&mut self, client: Option<ClientId>) -> Result<(), (ErrorCode, String)> {
        self.ensure_free()?;
        if self.upgrading.is_some() {
            return Err((ErrorCode::Busy, "an upgrade is under way already".to_owned()));
        }
        let program = installed().map_err(|error| (ErrorCode::Failed, format!("cannot find the program: {error}")))?;
        let mut arguments = std::env::args_os();
        let mut command = Command::new(&program);
        if let Some(name) = arguments.next() {
            command.arg0(name);
        }
        command
            .args(without_takeover(arguments))
            .env("BATON_TAKEOVER", "now")
            .env_remove("WATCHDOG_PID")
            .env_remove("LISTEN_PID")
            .env_remove("LISTEN_FDS")
            .env_remove("LISTEN_FDNAMES")
            .stdin(Stdio::null());
        let child = command.spawn();
        let child =
            child.map_err(|error| (ErrorCode::Failed, format!("cannot start {}: {error}", program.display())))?;
        tracing::info!(program = %program.display(), pid = child.id(), "the installed binary starts, to take over");
        let message = format!("{} starts with pid {}", program.display(), child.id());
        self.reply(client, Reply::Step { message });
        self.upgrading = Some(Upgrade { child, client, tallied: self.tallied() });
        Ok(())
    }

    /// Looks whether the successor has ended before it took over; whether it has, if it did.
    pub(crate) fn look_at_upgrade(&mut self) {
        let Some(Upgrade { child, client, tallied }) = &mut self.upgrading else { return };
        let (pid, client, tallied) = (child.id(), *client, *tallied);
        if self.retired {
            self.upgrading = None;
            let message = format!("pid {pid} serves in place of {}", std::process::id());
            return self.reply(client, Reply::Done { output: Output::Text { message } });
        }
        match child.try_wait() {
            Ok(None) => {}
            Ok(Some(status)) => {
                self.upgrading = None;
                self.tally_upgrade(tallied);
                let message =
                    format!("the new binary ended ({status}) and has not taken over: serving on; its log says why");
                tracing::error!("{message}");
                self.reply(client, Reply::Error { code: ErrorCode::Failed, message });
            }
            Err(error) => tracing::error!(%error, "cannot look at the new binary"),
        }
    }

    /// The service is to end: what would take over from it must not serve on in its place.
    pub(crate) fn end_upgrade(&mut self) {
        if self.retired || self.peer.as_ref().is_some_and(|peer| peer.role == Role::Taking) {
            return;
        }
        let Some(Upgrade { mut child, client, .. }) = self.upgrading.take() else { return };
        // It has no client yet, and its workers see its end.
        let ended = child.kill().and_then(|()| child.wait());
        tracing::warn!(pid = child.id(), ?ended, "the new binary is ended again");
        let message = "upgrade was given up: the service is shutting down".to_owned();
        self.reply(client, Reply::Error { code: ErrorCode::Busy, message });
    }
}

/// How we were started ourselves says nothing about this one, and a flag would win over the environment.
fn without_takeover(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut kept = Vec::new();
    let mut is_value = false;
    for argument in arguments {
        let is_flag = argument == "--takeover";
        if !is_flag && !is_value && !argument.to_string_lossy().starts_with("--takeover=") {
            kept.push(argument);
        }
        is_value = is_flag;
    }
    kept
}

/// What is at the place of our own program now.
fn installed() -> std::io::Result<PathBuf> {
    let path = std::fs::read_link("/proc/self/exe")?;
    let text = path.to_string_lossy();
    Ok(match text.strip_suffix(DELETED) {
        Some(path) => PathBuf::from(path),
        None => path,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_arguments_but_one_are_passed_on() {
        let given = ["run", "--takeover", "wait", "--color", "green", "--takeover=now", "--workers", "2"];
        let kept = without_takeover(given.iter().map(OsString::from));
        assert_eq!(kept, ["run", "--color", "green", "--workers", "2"]);
    }
}
