//! Who runs, and what can be done about it.

use std::fmt;
use std::path::Path;

use baton_ipc::control::Status;

use crate::ctl::client::{COLORS, Client, Error};
use crate::ctl::interrupt::Interrupts;
use crate::ctl::keeps_another;

/// A generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Who {
    pub(super) color: &'static str,
    pub(super) pid: u32,
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (pid {})", self.color, self.pid)
    }
}

/// Who takes over from whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// It serves.
    pub(super) old: Who,
    /// The color of the other one.
    pub(super) color: &'static str,
    /// The other one.
    pub(super) new: New,
}

/// The generation that is to take over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum New {
    /// It is to be started.
    Missing,
    /// It runs and waits; its pid.
    StandsBy(u32),
}

/// What a generation that is started now would be.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    /// Device and inode of its program; none: systemd decides.
    pub(super) program: Option<(u64, u64)>,
    /// The digest of its settings; none: systemd decides.
    pub(super) settings: Option<String>,
}

/// Returns why a generation that stands by is not what one that is started now would be; none if it is.
pub(super) fn staleness(standby: &Status, wanted: &Wanted) -> Option<String> {
    let program = standby.program.as_ref()?;
    let version = &standby.version;
    if program.replaced {
        return Some(format!("runs baton {version} from {}, which was replaced", program.file));
    }
    if wanted.program.is_some_and(|wanted| wanted != program.identity) {
        return Some(format!("runs another program, baton {version} from {}", program.file));
    }
    let settings = standby.settings.as_ref();
    let differ = settings.is_some_and(|has| wanted.settings.as_ref().is_some_and(|wanted| wanted != has));
    (standby.outdated || differ).then(|| "has other settings than a new start would have".to_owned())
}

/// Which version and which file a generation runs, in words.
pub(super) fn runs(status: &Status) -> String {
    let version = &status.version;
    match &status.program {
        Some(program) if program.replaced => format!("baton {version}, {} (replaced)", program.file),
        Some(program) => format!("baton {version}, {}", program.file),
        None => format!("baton {version}"),
    }
}

/// Addresses that one generation listens on and the other does not.
pub(super) fn missing_addresses(old: &Status, new: &Status) -> Vec<String> {
    old.listen.iter().filter(|endpoint| !new.listen.contains(endpoint)).map(ToString::to_string).collect()
}

/// The state of every generation that answers.
pub(super) fn ask(directory: &Path, interrupts: &Interrupts) -> Result<Vec<Status>, Error> {
    COLORS.iter().filter_map(|color| status(directory, color, interrupts).transpose()).collect()
}

/// The state of one, if it is there.
pub(super) fn status(directory: &Path, color: &str, interrupts: &Interrupts) -> Result<Option<Status>, Error> {
    let client = Client::connect(&[directory.to_owned()], Some(color));
    match client.and_then(|mut client| client.status(Some(interrupts))) {
        Ok(status) => Ok(Some(status)),
        // The latter on its way out, or in.
        Err(Error::Unreachable(_) | Error::Lost(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What to do, or why nothing can be done.
pub(super) fn plan(running: &[Status], directory: &Path) -> Result<Plan, String> {
    if let Some(status) = running.iter().find(|status| keeps_another(status)) {
        let old = status.peer.as_ref().map_or("the old one", |peer| peer.generation.color.as_str());
        return Err(format!(
            "{old} is kept for a rollback to it. Return to it with `batonctl rollback`, or end it with \
             `batonctl --color {old} shutdown` and promote again"
        ));
    }
    match running {
        [] => Err(format!(
            "no supervisor answers in {}, so there is nothing to take over from. Start one with `make up` or `baton run`",
            directory.display()
        )),
        [one] if one.phase == "running" => match &one.peer {
            None => {
                let old = who(one)?;
                Ok(Plan { color: other(old.color), old, new: New::Missing })
            }
            Some(peer) => Err(format!(
                "{}, but {} (pid {}), which {}, does not answer in {}: end it first",
                told(one),
                peer.generation.color,
                peer.generation.pid,
                peer.role,
                directory.display()
            )),
        },
        [a, b] => match (a.phase.as_str(), b.phase.as_str()) {
            ("running", "standby") => relieve(a, b),
            ("standby", "running") => relieve(b, a),
            (_, _) => Err(format!("{} and {}: {WANTED}", told(a), told(b))),
        },
        others => Err(format!("{}: {WANTED}", others.iter().map(told).collect::<Vec<_>>().join(" and "))),
    }
}

const WANTED: &str = "a takeover needs one generation that is running, and the other one at most standing by. \
                      `batonctl status` shows more";

fn relieve(old: &Status, new: &Status) -> Result<Plan, String> {
    Ok(Plan { old: who(old)?, color: who(new)?.color, new: New::StandsBy(new.pid) })
}

fn who(status: &Status) -> Result<Who, String> {
    let color = COLORS.into_iter().find(|color| *color == status.color);
    let color = color.ok_or_else(|| format!("a supervisor calls itself {:?}, which is no color", status.color))?;
    Ok(Who { color, pid: status.pid })
}

fn told(status: &Status) -> String {
    let doing = match status.phase.as_str() {
        "standby" => "standing by",
        "handing-over" => "handing over",
        other => other,
    };
    format!("{} (pid {}) is {doing}", status.color, status.pid)
}

fn other(color: &str) -> &'static str {
    let [blue, green] = COLORS;
    if color == blue { green } else { blue }
}

#[cfg(test)]
pub(super) mod tests {
    use baton_ipc::Endpoint;
    use baton_ipc::control::{Generation, PeerStatus, ProgramStatus};

    use super::*;

    pub(in crate::promote) fn status(color: &str, phase: &str) -> Status {
        Status {
            color: color.into(),
            version: "0.1.0".into(),
            pid: if color == "blue" { 1 } else { 2 },
            uptime_seconds: 1.0,
            phase: phase.into(),
            peer: None,
            program: None,
            settings: None,
            outdated: false,
            upgrade: None,
            last_takeover: None,
            listen: vec![],
            backplane: String::new(),
            backplane_degraded: None,
            slots: vec![],
        }
    }

    fn with_peer(status: Status, color: &str, role: &str) -> Status {
        let generation = Generation { color: color.into(), pid: 9, version: "0.1.0".into() };
        Status { peer: Some(PeerStatus { generation, role: role.into() }), ..status }
    }

    fn plan(running: &[Status]) -> Result<Plan, String> {
        super::plan(running, Path::new("/run/baton"))
    }

    #[test]
    fn the_other_color_is_started_or_used() {
        let (blue, green) = (Who { color: "blue", pid: 1 }, Who { color: "green", pid: 2 });
        let started = |old, color| Ok(Plan { old, color, new: New::Missing });
        assert_eq!(plan(&[status("blue", "running")]), started(blue.clone(), "green"));
        assert_eq!(plan(&[status("green", "running")]), started(green.clone(), "blue"));
        let used = |old, color, pid| Ok(Plan { old, color, new: New::StandsBy(pid) });
        assert_eq!(plan(&[status("blue", "running"), status("green", "standby")]), used(blue, "green", 2));
        assert_eq!(plan(&[status("blue", "standby"), status("green", "running")]), used(green, "blue", 1));
    }

    #[test]
    fn a_standby_that_a_start_would_not_make_is_stale() {
        let program =
            |file: &str, inode, replaced| Some(ProgramStatus { file: file.into(), identity: (1, inode), replaced });
        let standby = |program, outdated| Status {
            program,
            settings: Some("abc".into()),
            outdated,
            ..status("green", "standby")
        };
        let wanted = |inode, settings: &str| Wanted { program: Some((1, inode)), settings: Some(settings.into()) };
        let fresh = standby(program("/usr/bin/baton", 7, false), false);
        assert_eq!(staleness(&fresh, &wanted(7, "abc")), None);
        assert_eq!(staleness(&fresh, &Wanted::default()), None);
        let stale = |status: &Status, wanted: &Wanted| staleness(status, wanted).expect("stale");
        assert!(stale(&fresh, &wanted(8, "abc")).contains("another program, baton 0.1.0 from /usr/bin/baton"));
        assert!(stale(&fresh, &wanted(7, "abd")).contains("other settings"));
        let replaced = standby(program("/usr/bin/baton", 7, true), false);
        assert!(stale(&replaced, &Wanted::default()).contains("which was replaced"));
        assert_eq!(runs(&replaced), "baton 0.1.0, /usr/bin/baton (replaced)");
        let outdated = standby(program("/usr/bin/baton", 7, false), true);
        assert!(stale(&outdated, &Wanted::default()).contains("other settings"));
        // One that does not say is taken as it is.
        assert_eq!(staleness(&standby(None, false), &wanted(7, "abd")), None);
    }

    #[test]
    fn an_address_that_is_left_behind_is_found() {
        let listens = |addresses: &[&str]| Status {
            listen: addresses.iter().map(|address| Endpoint::Tcp(address.parse().unwrap())).collect(),
            ..status("blue", "running")
        };
        let old = listens(&["127.0.0.1:1", "[::1]:2"]);
        assert_eq!(missing_addresses(&old, &listens(&["[::1]:2", "127.0.0.1:3"])), ["127.0.0.1:1"]);
        assert!(missing_addresses(&old, &old).is_empty());
    }

    #[test]
    fn everything_else_is_refused_by_its_name() {
        let nobody = plan(&[]).unwrap_err();
        assert!(nobody.contains("no supervisor answers in /run/baton") && nobody.contains("`make up`"), "{nobody}");
        for (running, reason) in [
            (vec![status("blue", "starting")], "blue (pid 1) is starting: a takeover needs"),
            (vec![status("green", "standby")], "green (pid 2) is standing by: a takeover needs"),
            (
                vec![status("blue", "running"), status("green", "running")],
                "blue (pid 1) is running and green (pid 2) is running: a takeover needs",
            ),
            (
                vec![status("blue", "handing-over"), status("green", "standby")],
                "blue (pid 1) is handing over and green (pid 2) is standing by: a takeover needs",
            ),
            (
                vec![with_peer(status("blue", "running"), "green", "stands by")],
                "blue (pid 1) is running, but green (pid 9), which stands by, does not answer in /run/baton",
            ),
        ] {
            let said = plan(&running).unwrap_err();
            assert!(said.starts_with(reason), "{said}");
        }
    }

    #[test]
    fn one_that_is_kept_stands_in_the_way() {
        let green = with_peer(status("green", "running"), "blue", "is kept for a rollback");
        let blue = with_peer(status("blue", "standby"), "green", "serves");
        for running in [vec![green.clone()], vec![blue, green]] {
            let said = plan(&running).unwrap_err();
            assert!(
                said.starts_with("blue is kept for a rollback") && said.contains("--color blue shutdown"),
                "{said}"
            );
        }
    }
}
