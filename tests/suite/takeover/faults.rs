//! A process is killed at each step of a takeover, on each side.
//!
//! The process that comes to the step stands still there, so that it is certain where everybody is. Then the victim is
//! killed, be it this one or another, and the others go on.

use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{SECOND, Succession, builder, crowd, wait_phase};
use crate::harness::oracle::{Report, What};
use crate::harness::procfs::is_stopped;
use crate::harness::{Oracle, Service, eventually, seed};

/// Who is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    OldSupervisor,
    NewSupervisor,
    OldWorker,
    NewWorker,
}

const VICTIMS: [Victim; 4] = [Victim::OldSupervisor, Victim::NewSupervisor, Victim::OldWorker, Victim::NewWorker];

/// The process that stands still.
fn stopped(services: [&Service; 2]) -> Option<Pid> {
    let all = services.into_iter().flat_map(|service| [vec![service.pid()], service.worker_pids()].concat());
    all.into_iter().find(|pid| is_stopped(*pid))
}

async fn kill_at(point: &str) {
    for victim in VICTIMS {
        eprintln!("--- {point}: {victim:?}");
        let dir = tempfile::tempdir().expect("a directory");
        kill_one(point, victim, &dir.path().join("now")).await;
    }
}

async fn kill_one(point: &str, victim: Victim, trigger: &Path) {
    let fault = format!("{point}:SIGSTOP:{}", trigger.display());
    let mut generations = Succession::begin(builder().with("--workers", "2").env("FAULT_POINT", fault));
    let oracle = Oracle::start(generations.serving.address, crowd(60), seed());
    oracle.answered(100).await;
    let mut next = generations.standby(|builder| builder);
    let old = &generations.serving;
    std::fs::write(trigger, "").expect("a file");
    let killed = std::thread::scope(|scope| {
        let promote = scope.spawn(|| next.ctl(&["promote"]));
        eventually("somebody comes to the point", || (!trigger.exists()).then_some(()));
        let still = eventually("it stands still", || stopped([old, &next]));
        let one_of = |service: &Service| {
            let workers = service.worker_pids();
            *workers.iter().find(|pid| **pid == still).or(workers.first()).expect("it has workers")
        };
        let pid = match victim {
            Victim::OldSupervisor => old.pid(),
            Victim::NewSupervisor => next.pid(),
            Victim::OldWorker => one_of(old),
            Victim::NewWorker => one_of(&next),
        };
        kill(pid, Signal::SIGKILL).expect("it is there");
        if pid != still {
            kill(still, Signal::SIGCONT).expect("it is there");
        }
        let said = promote.join().expect("batonctl runs");
        eprint!("{}{}", String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
        // It says so if something was dropped.
        matches!(said.status.code(), Some(0 | 3))
    });
    // One of them serves, and the other ends.
    let old_serves = match victim {
        Victim::OldSupervisor => false,
        Victim::NewSupervisor => true,
        Victim::OldWorker | Victim::NewWorker => !killed,
    };
    let (serving, gone) = if old_serves { (old, &mut next) } else { (&next, &mut generations.serving) };
    wait_phase(serving, "running");
    gone.wait(20 * SECOND);
    serving.wait_all_serve();
    oracle.answered(100).await;
    let report = oracle.finish();
    eprint!("{report}");
    check(&report, point, victim);
    // What was answered was counted, and what was counted once was counted once.
    let counted = serving.metric("backplane_increments_total");
    assert!(counted >= report.messages as f64, "{counted} counted");
    assert_eq!(serving.status().slots.len(), 2);
}

/// Nobody but the clients of a worker that was killed has noticed anything.
#[track_caller]
fn check(report: &Report, point: &str, victim: Victim) {
    for fault in &report.faults {
        let allowed = match (&fault.what, victim) {
            (What::Lost(_) | What::Ended, Victim::OldWorker | Victim::NewWorker) => true,
            (_, _) => false,
        };
        assert!(allowed, "{point}, {victim:?}: {fault}\n{report}");
    }
}

macro_rules! kill_at {
    ($($name:ident = $point:literal),+ $(,)?) => {
        $(#[tokio::test]
        async fn $name() {
            kill_at($point).await;
        })+
    };
}

kill_at! {
    before_the_switch = "takeover switching",
    after_the_new_one_accepts = "takeover switch said",
    after_the_old_one_does_not = "takeover switched",
    after_the_first_order_to_give = "takeover give said",
    after_everything_was_given = "takeover handed",
    after_it_was_verified = "takeover verified",
    after_connections_were_parked = "handoff parked",
    after_connections_were_offered = "handoff offered",
    while_connections_are_held = "handoff held",
    after_they_were_adopted = "handoff adopted",
    after_the_answer = "handoff answered",
    after_the_go = "handoff gone",
    after_they_were_taken = "handoff taken",
}
