//! Who serves after a takeover that did not go as it should: asked, and not concluded.

use std::fmt;
use std::path::Path;
use std::time::{Duration, Instant};

use baton_ipc::control::Status;

use super::LOOK;
use super::standing::{self, Plan, Who};
use crate::ctl::interrupt::{Interrupts, Wait};

/// How long two generations may take to agree again.
const SETTLE: Duration = Duration::from_secs(10);

/// Who serves now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Old(Who, String),
    New(Who, String),
    /// Neither says that it does; what they say.
    Neither(Vec<String>),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Old(who, runs) => write!(f, "{who} serves, as before ({runs})"),
            Verdict::New(who, runs) => write!(f, "{who} serves: it has taken over all the same ({runs})"),
            Verdict::Neither(said) if said.is_empty() => {
                f.write_str("NOBODY SERVES: no supervisor answers. Start one with `make up` or `baton run`")
            }
            Verdict::Neither(said) => {
                write!(f, "not yet settled: {}. `batonctl status` shows more", said.join(", "))
            }
        }
    }
}

/// Asks both until one serves.
pub(super) fn find(directory: &Path, plan: &Plan, interrupts: &Interrupts) -> Verdict {
    let deadline = Instant::now() + SETTLE;
    loop {
        let verdict = judge(&standing::ask(directory, interrupts).unwrap_or_default(), plan);
        let settled = match &verdict {
            Verdict::Old(..) | Verdict::New(..) => true,
            Verdict::Neither(said) => said.is_empty(),
        };
        if settled || Instant::now() >= deadline || !matches!(interrupts.pause(LOOK), Ok(Wait::Over)) {
            return verdict;
        }
    }
}

fn judge(running: &[Status], plan: &Plan) -> Verdict {
    let serving = |color: &str| running.iter().find(|status| status.color == color && status.phase == "running");
    match (serving(plan.color), serving(plan.old.color)) {
        (Some(new), _) => Verdict::New(Who { color: plan.color, pid: new.pid }, standing::runs(new)),
        (None, Some(old)) => Verdict::Old(Who { color: plan.old.color, pid: old.pid }, standing::runs(old)),
        (None, None) => Verdict::Neither(running.iter().map(|s| format!("{} is {}", s.color, s.phase)).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::standing::New;
    use super::super::standing::tests::status;
    use super::*;

    #[test]
    fn who_serves_is_said_plainly() {
        let plan = Plan { old: Who { color: "blue", pid: 1 }, color: "green", new: New::Missing };
        let said = |running: &[Status]| judge(running, &plan).to_string();
        assert_eq!(said(&[status("blue", "running")]), "blue (pid 1) serves, as before (baton 0.1.0)");
        assert_eq!(
            said(&[status("blue", "running"), status("green", "standby")]),
            "blue (pid 1) serves, as before (baton 0.1.0)"
        );
        let taken = "green (pid 2) serves: it has taken over all the same (baton 0.1.0)";
        assert_eq!(said(&[status("green", "running")]), taken);
        assert_eq!(said(&[status("blue", "draining"), status("green", "running")]), taken);
        assert!(said(&[]).starts_with("NOBODY SERVES"));
        let unsettled = said(&[status("blue", "handing-over")]);
        assert!(unsettled.starts_with("not yet settled: blue is handing-over."), "{unsettled}");
    }
}
