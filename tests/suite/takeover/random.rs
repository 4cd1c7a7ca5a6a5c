//! Whatever an operator does, in whatever order, nobody notices. Who is on a worker that is killed does, and only they.

use baton_ipc::scoreboard::State;
use fastrand::Rng;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{SECOND, Succession, assert_complete, builder, crowd, promote, wait_phase};
use crate::harness::oracle::{Character, Report, What};
use crate::harness::{Oracle, Service, eventually, eventually_async, seed};

/// How many connections there are.
const CROWD: usize = 150;

/// How many things are done to them.
const DEEDS: usize = 15;

/// Each kill may take half of those that are left.
const MOST_KILLS: usize = 3;

/// What is done to a service.
#[derive(Clone, Copy, Debug)]
enum Deed {
    /// Another generation takes over, with so many workers.
    Promote(u32),
    /// It takes over with so many workers, and gives everything back.
    ThereAndBack(u32),
    Reload,
    /// Of one slot.
    Restart,
    Scale(u32),
    Rebalance,
    /// Of one worker, while nothing else is done.
    Kill,
}

impl Deed {
    fn draw(random: &mut Rng, may_kill: bool) -> Deed {
        let kinds = if may_kill { 7 } else { 6 };
        match random.u8(0..kinds) {
            0 => Deed::Promote(random.u32(1..=5)),
            1 => Deed::ThereAndBack(random.u32(1..=5)),
            2 => Deed::Reload,
            3 => Deed::Restart,
            4 => Deed::Scale(random.u32(1..=5)),
            5 => Deed::Rebalance,
            _ => Deed::Kill,
        }
    }
}

/// A service to which things are done.
struct Story {
    generations: Succession,
    random: Rng,
    /// What the command line says, to which a reload returns.
    configured: u32,
    workers: u32,
    kills: usize,
    /// Connections of workers that were killed.
    lost: u64,
}

impl Story {
    fn begin(seed: u64) -> Story {
        let workers = 2;
        let generations = Succession::begin(builder().with("--workers", workers));
        let random = Rng::with_seed(seed);
        Story { generations, random, configured: workers, workers, kills: 0, lost: 0 }
    }

    fn next(&mut self, may_kill: bool) {
        let deed = Deed::draw(&mut self.random, may_kill && self.kills < MOST_KILLS);
        eprintln!("{deed:?}");
        match deed {
            Deed::Promote(workers) => {
                assert_complete(&self.generations.advance(|builder| builder.with("--workers", workers)));
                (self.configured, self.workers) = (workers, workers);
            }
            Deed::ThereAndBack(workers) => self.there_and_back(workers),
            Deed::Reload => {
                self.order(&["reload"]);
                self.workers = self.configured;
            }
            Deed::Restart => {
                let slot = self.random.u32(0..self.workers).to_string();
                self.order(&["restart", &slot]);
            }
            Deed::Scale(workers) => {
                self.order(&["scale", &workers.to_string()]);
                self.workers = workers;
            }
            Deed::Rebalance => self.order(&["rebalance"]),
            Deed::Kill => self.kill(),
        }
    }

    #[track_caller]
    fn order(&self, command: &[&str]) {
        let output = self.generations.serving.ctl(command);
        assert!(output.status.success(), "{command:?}: {output:?}");
    }

    fn there_and_back(&self, workers: u32) {
        let mut next = self.generations.standby(|builder| builder.with("--workers", workers));
        let receipt = promote(&next, &["--keep-old"]);
        assert!(receipt.kept);
        assert_complete(&receipt);
        let output = next.ctl(&["rollback"]);
        assert!(output.status.success(), "{output:?}");
        let status = next.wait(15 * SECOND);
        assert!(status.success(), "the one that gave everything back ended with {status}");
        wait_phase(&self.generations.serving, "running");
    }

    /// Never of one that has more than half of all connections: somebody must be left to notice what comes next.
    fn kill(&mut self) {
        let serving = &self.generations.serving;
        let slots = serving.status().slots;
        let total: u64 = slots.iter().map(|slot| slot.connections).sum();
        let victims = slots.iter().filter(|slot| slot.state == State::Serving && slot.connections * 2 <= total);
        let Some(victim) = self.random.choice(victims.collect::<Vec<_>>()) else { return };
        let pid = Pid::from_raw(victim.pid.expect("it serves") as i32);
        eprintln!("slot {}, {} of {total} connections", victim.slot, victim.connections);
        kill(pid, Signal::SIGKILL).expect("it is there");
        // The next thing is done as soon as its end is known, whether there is another in its place or not.
        eventually("its end is known", || (!serving.worker_pids().contains(&pid)).then_some(()));
        self.kills += 1;
        self.lost += victim.connections;
    }
}

/// Waits until those that are left have said about one thing more each.
async fn answered(oracle: &Oracle) {
    let before = oracle.sample();
    let goal = before.messages + before.open as u64;
    eventually_async("more messages answered", async || (oracle.sample().messages >= goal).then_some(())).await;
}

async fn tell(may_kill: bool) {
    let seed = seed();
    let mut story = Story::begin(seed);
    let crowd = crowd(CROWD);
    let oracle = Oracle::start(story.generations.serving.address, crowd, seed);
    oracle.opened(CROWD * 8 / 10).await;
    for _ in 0..DEEDS {
        answered(&oracle).await;
        if story.kills == 0 && oracle.sample().faults > 0 {
            break;
        }
        story.next(may_kill);
    }
    answered(&oracle).await;
    let report = oracle.finish();
    eprint!("{report}");
    check(&report, &story, crowd.cast);
    let serving = &story.generations.serving;
    eventually("as many processes as workers", || {
        (serving.worker_pids().len() == story.workers as usize).then_some(())
    });
    serving.wait_all_serve();
    check_end(serving, &report, &story);
}

/// Nobody but the clients of workers that were killed has noticed anything.
#[track_caller]
fn check(report: &Report, story: &Story, cast: &[Character]) {
    if story.kills == 0 {
        return report.assert_flawless();
    }
    for fault in &report.faults {
        assert!(matches!(fault.what, What::Lost(_) | What::Ended), "{fault}\n{report}");
    }
    // Newcomers that were half-way are connections of nobody yet.
    let newcomers = CROWD * cast.iter().filter(|character| **character == Character::Newcomer).count() / cast.len();
    let most = story.lost as usize + story.kills * newcomers;
    assert!(report.faults.len() <= most, "at most {most}\n{report}");
}

#[track_caller]
fn check_end(serving: &Service, report: &Report, story: &Story) {
    let status = serving.status();
    assert!(status.peer.is_none() && status.phase == "running", "{status:?}");
    assert_eq!(status.slots.iter().filter(|slot| slot.state == State::Serving).count(), story.workers as usize);
    let counted = serving.metric("backplane_increments_total");
    match story.kills {
        0 => assert_eq!(counted, report.messages as f64),
        // What was counted may have had its answer in a process that is no more.
        _ => assert!(counted >= report.messages as f64, "{counted} counted\n{report}"),
    }
}

#[tokio::test]
async fn whatever_an_operator_does_nobody_notices() {
    tell(false).await;
}

#[tokio::test]
async fn a_kill_in_between_is_noticed_by_those_of_that_worker_alone() {
    tell(true).await;
}
