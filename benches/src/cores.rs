//! Which core a process runs on.

use std::io;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// The cores that this process may use, lowest first.
///
/// # Errors
/// Those of sched_getaffinity(2).
pub fn allowed() -> io::Result<Vec<usize>> {
    let set = sched_getaffinity(Pid::from_raw(0))?;
    Ok((0..CpuSet::count()).filter(|core| set.is_set(*core).unwrap_or(false)).collect())
}

/// Has a process that runs go on on `core` alone.
///
/// # Errors
/// It is gone, or there is no such core.
pub fn move_to(pid: u32, core: usize) -> io::Result<()> {
    let mut only = CpuSet::new();
    only.set(core)?;
    Ok(sched_setaffinity(Pid::from_raw(pid.cast_signed()), &only)?)
}

/// Runs `start` with this thread on `core` alone, so that a process started by it begins there and stays.
///
/// # Errors
/// Those of sched_setaffinity(2) and of `start`.
pub fn started_on<T>(core: Option<usize>, start: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let Some(core) = core else { return start() };
    let before = sched_getaffinity(Pid::from_raw(0))?;
    let mut only = CpuSet::new();
    only.set(core)?;
    sched_setaffinity(Pid::from_raw(0), &only)?;
    let started = start();
    sched_setaffinity(Pid::from_raw(0), &before)?;
    started
}
