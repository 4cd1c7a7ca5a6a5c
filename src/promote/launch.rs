//! Another generation, started from here, which outlives this command.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use baton_ipc::private;

use super::unit::Unit;
use super::{LOOK, standing};
use crate::config::Sources;
use crate::ctl::interrupt::Interrupts;

/// The end of what it said that is shown: a refused configuration has one line for each mistake.
const SHOWN_LINES: usize = 20;

/// How long one that has failed may take to go by itself.
const LEAVE: Duration = Duration::from_secs(5);

/// A generation that was started here.
pub(super) enum Started {
    /// A process of its own.
    Daemon {
        child: Child,
        /// What it says before its log is open.
        said: PathBuf,
    },
    /// By systemd.
    Unit(Unit),
}

impl Started {
    /// This same program, in the background.
    pub(super) fn daemon(sources: &Sources, directory: &Path, color: &str) -> Result<Started, String> {
        let said = directory.join(format!("{color}.start"));
        let start = || {
            // Not where a symbolic link leads today: its upgrades follow the link.
            let program = baton_supervisor::started_as()?;
            let output = private::create(&said)?;
            // A process group of its own: a Ctrl-C here, or the end of this terminal, is not meant for it.
            Command::new(program)
                .arg("run")
                .args(sources.arguments())
                .process_group(0)
                .stdin(Stdio::null())
                .stdout(output.try_clone()?)
                .stderr(output)
                .spawn()
        };
        let child = start().map_err(|error: std::io::Error| format!("cannot start {color}: {error}"))?;
        Ok(Started::Daemon { child, said })
    }

    /// A unit of systemd.
    pub(super) fn unit(unit: Unit) -> Result<Started, String> {
        unit.start()?;
        Ok(Started::Unit(unit))
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
            Started::Daemon { said, .. } => std::fs::read(said).unwrap_or_default(),
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
