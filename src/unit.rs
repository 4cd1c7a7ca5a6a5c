//! A generation as a unit of systemd, `baton@COLOR.service`.

use std::fmt;
use std::process::{Command, Output, Stdio};

/// A unit, of the system's manager or of a user's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unit {
    name: String,
    user: bool,
}

/// Has the unit of the generation that serves now, with this pid and color, start at the next boot, in place of that of the
/// other color. What was done, or why it was not; none if there is nothing to do.
pub(crate) fn settle(pid: u32, color: &str, other: &str) -> Option<Result<String, String>> {
    let new = Unit::of(pid, color)?;
    let old = new.of_color(other);
    if !old.is_enabled() {
        return None;
    }
    Some(match new.enable().and_then(|()| old.disable()) {
        Ok(()) => Ok(format!("{new} is enabled for the next boot, in place of {old}")),
        Err(reason) => Err(format!("the next boot starts {old}, not {new}: {reason}")),
    })
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl Unit {
    /// The unit of this color that the process is in, if it is in one.
    pub(crate) fn of(pid: u32, color: &str) -> Option<Unit> {
        Unit::in_cgroups(&std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?, color)
    }

    /// From lines such as `0::/system.slice/system-baton.slice/baton@blue.service` (cgroups(7)).
    fn in_cgroups(cgroups: &str, color: &str) -> Option<Unit> {
        let name = format!("baton@{color}.service");
        let path = cgroups.lines().find(|path| path.split('/').any(|part| part == name))?;
        let user = path.split('/').any(|part| part.starts_with("user@") && part.ends_with(".service"));
        Some(Unit { name, user })
    }

    /// The same of another color.
    pub(crate) fn of_color(&self, color: &str) -> Unit {
        Unit { name: format!("baton@{color}.service"), user: self.user }
    }

    /// Without waiting for it to be ready: its control socket says that, and more.
    pub(crate) fn start(&self) -> Result<(), String> {
        self.do_it(&["start", "--no-block"])
    }

    pub(crate) fn stop(&self) {
        if let Err(reason) = self.do_it(&["stop"]) {
            eprintln!("baton: {reason}");
        }
    }

    pub(crate) fn enable(&self) -> Result<(), String> {
        self.do_it(&["enable"])
    }

    pub(crate) fn disable(&self) -> Result<(), String> {
        self.do_it(&["disable"])
    }

    pub(crate) fn is_enabled(&self) -> bool {
        self.systemctl(&["is-enabled", "--quiet"]).is_ok_and(|output| output.status.success())
    }

    /// Whether it has ended, and nobody is about to start it.
    pub(crate) fn has_ended(&self) -> bool {
        let shown = self.systemctl(&["show", "--property=ActiveState,Job"]);
        shown.is_ok_and(|output| ended(&String::from_utf8_lossy(&output.stdout)))
    }

    /// The last lines of its log.
    pub(crate) fn journal(&self, lines: usize) -> Vec<u8> {
        let mut command = Command::new("journalctl");
        if self.user {
            command.arg("--user");
        }
        command.args(["--no-pager", "--output=cat", "--unit", &self.name, "--lines", &lines.to_string()]);
        match command.stdin(Stdio::null()).output() {
            Ok(output) if output.status.success() => output.stdout,
            Ok(_) | Err(_) => format!("journalctl --unit {} tells what it has said", self.name).into_bytes(),
        }
    }

    fn do_it(&self, verb: &[&str]) -> Result<(), String> {
        let failed = |reason: &str| Err(format!("systemctl {} {}: {reason}", verb.join(" "), self.name));
        match self.systemctl(verb) {
            Ok(output) if output.status.success() => Ok(()),
            Ok(output) => failed(String::from_utf8_lossy(&output.stderr).trim()),
            Err(error) => failed(&error.to_string()),
        }
    }

    fn systemctl(&self, verb: &[&str]) -> std::io::Result<Output> {
        let mut command = Command::new("systemctl");
        if self.user {
            command.arg("--user");
        }
        command.args(verb).arg(&self.name).stdin(Stdio::null()).output()
    }
}

/// From `systemctl show`: between a request and the start a unit is inactive too, but has a job.
fn ended(properties: &str) -> bool {
    let value = |name: &str| properties.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    let waits = value("Job").is_some_and(|job| !job.is_empty() && job != "0");
    matches!(value("ActiveState"), Some("inactive" | "failed")) && !waits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_is_found_in_the_cgroup() {
        let system = "0::/system.slice/system-baton.slice/baton@blue.service\n";
        let unit = Unit::in_cgroups(system, "blue").unwrap();
        assert_eq!((unit.to_string().as_str(), unit.user), ("baton@blue.service", false));
        assert_eq!(unit.of_color("green").to_string(), "baton@green.service");
        assert_eq!(Unit::in_cgroups(system, "green"), None);
        let user = "0::/user.slice/user-1000.slice/user@1000.service/app.slice/baton@green.service/workers\n";
        assert!(Unit::in_cgroups(user, "green").unwrap().user);
        for none in ["0::/user.slice/user-0.slice/session-3.scope\n", "0::/\n", "0::/my-baton@blue.service\n", ""] {
            assert_eq!(Unit::in_cgroups(none, "blue"), None);
        }
    }

    #[test]
    fn a_unit_that_is_about_to_start_has_not_ended() {
        assert!(ended("ActiveState=failed\n") && ended("Job=0\nActiveState=inactive\n"));
        for alive in ["ActiveState=inactive\nJob=812\n", "ActiveState=activating\n", "ActiveState=active\n", ""] {
            assert!(!ended(alive), "{alive}");
        }
    }
}
