//! Another generation, started from here, which outlives this command.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;

use super::standing::Plan;
use super::{LOOK, standing};
use crate::config::Sources;
use crate::ctl::interrupt::Interrupts;
use crate::logging;
use crate::unit::Unit;

/// The end of what it said that is shown: a refused configuration has one line for each mistake.
const SHOWN_LINES: usize = 20;

/// So much of what it said is read: the old generation may go on writing to the same file.
const SAID_MAX: u64 = 1 << 20;

/// How long one that has failed may take to go by itself.
const LEAVE: Duration = Duration::from_secs(5);

/// A generation that was started here.
pub(super) enum Started {
    /// A process of its own.
    Daemon {
        child: Child,
        /// Where its standard error goes.
        errors: Errors,
    },
    /// By systemd.
    Unit(Unit),
}

impl Started {
    /// This same program, in the background.
    pub(super) fn daemon(sources: &Sources, plan: &Plan) -> Result<Started, String> {
        let (errors, output) = Errors::of(plan.old.pid);
        let start = move || {
            // Not where a symbolic link leads today: its upgrades follow the link.
            let program = baton_supervisor::started_as()?;
            // A process group of its own: a Ctrl-C here, or the end of this terminal, is not meant for it.
            Command::new(program)
                .arg("run")
                .args(sources.arguments())
                .process_group(0)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(output)
                .spawn()
        };
        let child = start().map_err(|error: std::io::Error| format!("cannot start {}: {error}", plan.color))?;
        Ok(Started::Daemon { child, errors })
    }

    /// A unit of systemd.
    pub(super) fn unit(unit: Unit) -> Result<Started, String> {
        unit.start()?;
        Ok(Started::Unit(unit))
    }

    /// Where its log goes, if that has to be said.
    pub(super) fn log(&self, settings: &logging::Settings) -> Option<String> {
        match (self, &settings.directory) {
            (Started::Unit(_), _) => None,
            (Started::Daemon { .. }, Some(directory)) => Some(format!("files in {}", directory.display())),
            (Started::Daemon { errors, .. }, None) => Some(match errors {
                Errors::File { path, .. } => format!("{}, as the old generation", path.display()),
                Errors::Shared(place) => format!("{place}, as the old generation"),
                Errors::Nowhere => "memory alone (`batonctl tail`), since what the old generation logs to cannot be \
                                    opened; log-dir changes that"
                    .to_owned(),
            }),
        }
    }

    /// Whether it has ended by itself.
    pub(super) fn has_ended(&mut self) -> bool {
        match self {
            Started::Daemon { child, .. } => !matches!(child.try_wait(), Ok(None)),
            Started::Unit(unit) => unit.has_ended(),
        }
    }

    /// The end of what it has said, as a sentence.
    pub(super) fn said(&self) -> String {
        let text = match self {
            Started::Daemon { errors, .. } => match errors {
                Errors::File { path, from } => read_from(path, *from).unwrap_or_default(),
                Errors::Shared(place) => return format!("What it said is in {place}"),
                Errors::Nowhere => {
                    return "What it said is lost: the old generation has no log that it could share; `baton run` by hand \
                            says why"
                        .to_owned();
                }
            },
            Started::Unit(unit) => unit.journal(SHOWN_LINES),
        };
        last_lines(&String::from_utf8_lossy(&text), SHOWN_LINES)
    }

    /// Ends what is left of it, before it has any client.
    pub(super) fn end(&mut self) {
        match self {
            // Its workers notice, and end by themselves.
            Started::Daemon { child, .. } => {
                let _ = child.kill();
                let _ = child.wait();
            }
            Started::Unit(unit) => unit.stop(),
        }
    }

    /// It did not take over. Then it goes by itself; what stands by all the same, because it was refused before it began,
    /// would be in the way of the next one.
    pub(super) fn leave(&mut self, directory: &Path, color: &str, interrupts: &Interrupts) {
        let deadline = Instant::now() + LEAVE;
        match self {
            // systemd may start it anew as soon as it goes.
            Started::Unit(unit) => unit.stop(),
            Started::Daemon { .. } => {
                while !self.has_ended() && Instant::now() < deadline {
                    let _ = interrupts.pause(LOOK);
                }
                let status = standing::status(directory, color, interrupts);
                if status.is_ok_and(|status| status.is_some_and(|status| status.phase == "standby")) {
                    self.end();
                }
            }
        }
    }
}

/// The standard error of a generation that is started here: that of the one before it. A file of its own would grow without
/// bounds where nobody looks for it.
pub(super) enum Errors {
    /// A file, which so far was as long as this.
    File { path: PathBuf, from: u64 },
    /// A terminal, a pipe, or a device.
    Shared(String),
    /// It cannot be opened again: a socket, or another user's.
    Nowhere,
}

impl Errors {
    /// Opens the standard error of a process once more.
    fn of(pid: u32) -> (Errors, Stdio) {
        let link = PathBuf::from(format!("/proc/{pid}/fd/2"));
        let opened = File::options().append(true).custom_flags(OFlag::O_NOCTTY.bits()).open(&link);
        let found = opened.and_then(|file| Ok((file.metadata()?, std::fs::read_link(&link)?, file)));
        match found {
            Ok((metadata, path, file)) if metadata.is_file() => {
                (Errors::File { path, from: metadata.len() }, file.into())
            }
            Ok((_, path, file)) => (Errors::Shared(path.display().to_string()), file.into()),
            Err(_) => (Errors::Nowhere, Stdio::null()),
        }
    }
}

/// The file from a position on.
fn read_from(path: &Path, from: u64) -> std::io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(SAID_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn last_lines(text: &str, most: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let shown = &lines[lines.len().saturating_sub(most)..];
    if shown.is_empty() { "It said nothing".to_owned() } else { format!("It said:\n{}", shown.join("\n")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_what_was_said() {
        assert_eq!(last_lines("a\nb\nc\n", 2), "It said:\nb\nc");
        assert_eq!(last_lines("", 2), "It said nothing");
    }
}
