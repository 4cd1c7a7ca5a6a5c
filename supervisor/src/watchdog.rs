//! Whom to kill when event loops fall silent. Pure.
//!
//! Workers share a store with one write lock. A worker that is stopped (SIGSTOP, a debugger, a frozen cgroup) while it
//! holds the lock makes its siblings wait, and their event loops fall silent too. Killing those who wait would help
//! nobody: the holder has to go. The kernel then hands the lock on (`pthread_mutexattr_setrobust(3)`).

use std::time::Duration;

use baton_ipc::Slot as SlotId;
use baton_ipc::scoreboard::StorePhase;

use crate::slot::Slot;

/// A holder that took the lock more recently than this is not what the others have been waiting for.
const FRESH_HOLD: Duration = Duration::from_secs(1);

/// What is known of one living worker.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// Its place.
    pub(crate) slot: SlotId,
    /// How long its event loop has been silent; none: nobody expects it to speak (it is starting or draining, which
    /// have deadlines of their own).
    pub(crate) silent: Option<Duration>,
    /// It has been given up on already.
    pub(crate) dying: bool,
    /// What it does with the lock.
    pub(crate) phase: StorePhase,
    /// For how long.
    pub(crate) phase_for: Duration,
    /// `/proc/PID/stat` says `T` or `t`.
    pub(crate) stopped: bool,
}

/// Whether a generation is good for anything: a worker serves, or none is meant to, or it is not yet `patience` that none does.
/// Of each slot in service: what it is, and for how long nobody has served there.
pub(crate) fn is_well<'a>(slots: impl Iterator<Item = (&'a Slot, Duration)>, patience: Duration) -> bool {
    let mut wanted = slots.filter(|(slot, _)| !matches!(slot, Slot::Stopped)).peekable();
    wanted.peek().is_none() || wanted.any(|(slot, down)| matches!(slot, Slot::Serving { .. }) || down < patience)
}

/// The slots whose workers have to be killed now.
pub(crate) fn judge(samples: &[Sample], hang_timeout: Duration) -> Vec<SlotId> {
    let living = || samples.iter().filter(|sample| !sample.dying);
    let hung = || living().filter(|sample| sample.silent.is_some_and(|silent| silent > hang_timeout));
    let culprits: Vec<SlotId> = hung().filter(|s| s.phase != StorePhase::Waiting).map(|s| s.slot).collect();
    if !culprits.is_empty() {
        return culprits;
    }
    if hung().next().is_none() || samples.iter().any(|sample| sample.dying) {
        // With one already dying, its lock may be the one that the others wait for.
        return vec![];
    }
    let mut holders = living().filter(|s| s.phase == StorePhase::Holding).peekable();
    if holders.peek().is_some() {
        return holders.filter(|s| s.stopped || s.phase_for >= FRESH_HOLD).map(|s| s.slot).collect();
    }
    // Whoever was stopped between taking the lock and saying so still says that it waits.
    let waiting = || living().filter(|s| s.phase == StorePhase::Waiting);
    let stopped = waiting().find(|s| s.stopped);
    stopped.or_else(|| hung().max_by_key(|s| s.phase_for)).map(|s| s.slot).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(5);

    fn well(slot: SlotId) -> Sample {
        Sample {
            slot,
            silent: Some(Duration::from_millis(900)),
            dying: false,
            phase: StorePhase::Idle,
            phase_for: Duration::ZERO,
            stopped: false,
        }
    }

    fn silent(slot: SlotId, phase: StorePhase, seconds: u64) -> Sample {
        let time = Duration::from_secs(seconds);
        Sample { silent: Some(time), phase, phase_for: time, ..well(slot) }
    }

    #[test]
    fn a_generation_of_which_nobody_serves_for_long_is_not_well() {
        let now = std::time::Instant::now();
        let serving = Slot::Serving { pid: nix::unistd::Pid::from_raw(1), since: now };
        let vacant = Slot::Vacant { retry_at: now };
        let well = |slots: &[(&Slot, u64)]| {
            is_well(slots.iter().map(|(slot, seconds)| (*slot, Duration::from_secs(*seconds))), LIMIT)
        };
        assert!(well(&[(&vacant, 9), (&serving, 0)]) && well(&[(&vacant, 9), (&vacant, 4)]));
        assert!(well(&[(&Slot::Stopped, 9)]) && well(&[]));
        assert!(!well(&[(&vacant, 9), (&Slot::Stopped, 1), (&Slot::Fatal { cause: String::new() }, 9)]));
    }

    #[test]
    fn who_ticks_lives() {
        assert_eq!(judge(&[well(0), silent(1, StorePhase::Idle, 5)], LIMIT), [0; 0]);
        assert_eq!(judge(&[], LIMIT), [0; 0]);
    }

    #[test]
    fn an_idle_one_that_is_silent_hangs_by_itself() {
        assert_eq!(judge(&[well(0), silent(1, StorePhase::Idle, 6), silent(2, StorePhase::Idle, 7)], LIMIT), [1, 2]);
    }

    #[test]
    fn the_holder_goes_before_those_who_wait() {
        let waiting = [silent(0, StorePhase::Waiting, 9), silent(2, StorePhase::Waiting, 9)];
        assert_eq!(judge(&[waiting[0], silent(1, StorePhase::Holding, 9), waiting[1]], LIMIT), [1]);
        // Not yet silent for long enough itself, but holding since before the others were.
        let holder = Sample { silent: Some(Duration::from_secs(4)), ..silent(1, StorePhase::Holding, 6) };
        assert_eq!(judge(&[waiting[0], holder, waiting[1]], LIMIT), [1]);
    }

    #[test]
    fn a_holder_of_whom_nobody_expects_a_tick_goes_too() {
        let draining = Sample { silent: None, ..silent(1, StorePhase::Holding, 6) };
        assert_eq!(judge(&[silent(0, StorePhase::Waiting, 6), draining], LIMIT), [1]);
    }

    #[test]
    fn a_lock_that_wanders_is_no_hang_of_its_holder() {
        let holder = Sample { phase: StorePhase::Holding, phase_for: Duration::from_millis(3), ..well(1) };
        assert_eq!(judge(&[silent(0, StorePhase::Waiting, 6), holder], LIMIT), [0; 0]);
        assert_eq!(judge(&[silent(0, StorePhase::Waiting, 6), Sample { stopped: true, ..holder }], LIMIT), [1]);
    }

    #[test]
    fn without_a_holder_the_stopped_one_goes_else_who_waits_longest() {
        let waiting = [silent(0, StorePhase::Waiting, 6), silent(1, StorePhase::Waiting, 8)];
        assert_eq!(judge(&waiting, LIMIT), [1]);
        assert_eq!(judge(&[Sample { stopped: true, ..waiting[0] }, waiting[1]], LIMIT), [0]);
        assert_eq!(judge(&waiting[..1], LIMIT), [0]);
    }

    #[test]
    fn those_who_wait_are_spared_while_somebody_is_dying() {
        let dying = Sample { dying: true, ..silent(1, StorePhase::Holding, 9) };
        assert_eq!(judge(&[silent(0, StorePhase::Waiting, 9), dying], LIMIT), [0; 0]);
        assert_eq!(judge(&[silent(0, StorePhase::Idle, 9), dying], LIMIT), [0]);
    }
}
