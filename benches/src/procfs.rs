//! What the kernel accounts to a process: CPU time and memory (proc(5)).

use std::fs;
use std::io::{self, ErrorKind};

/// CPU time of this process, user and system, in nanoseconds.
///
/// # Errors
/// No `/proc`.
pub fn cpu_of_self() -> io::Result<u64> {
    cpu_of("self")
}

/// CPU time of all threads of all `processes`, user and system, in nanoseconds. From `schedstat`, whose clock is that of
/// the scheduler, where `/proc/PID/stat` counts ticks of 10 ms. What the kernel does in an interrupt is accounted to whom
/// it interrupts: so the receiving half of a loopback send is the sender's.
///
/// # Errors
/// A process that is gone.
pub fn cpu(processes: &[u32]) -> io::Result<u64> {
    processes.iter().map(|pid| cpu_of(&pid.to_string())).sum()
}

fn cpu_of(pid: &str) -> io::Result<u64> {
    let mut total = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end while the list is being read.
        let Ok(schedstat) = fs::read_to_string(task?.path().join("schedstat")) else { continue };
        let spent = schedstat.split_ascii_whitespace().next().and_then(|word| word.parse::<u64>().ok());
        total += spent.ok_or_else(|| io::Error::new(ErrorKind::InvalidData, "a schedstat without a number"))?;
    }
    Ok(total)
}

/// A process and all its descendants, itself first. Those that have just ended are left out.
pub fn family(pid: u32) -> Vec<u32> {
    let mut family = vec![pid];
    let mut next = 0;
    while let Some(&parent) = family.get(next) {
        next += 1;
        let Ok(tasks) = fs::read_dir(format!("/proc/{parent}/task")) else { continue };
        for task in tasks.flatten() {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            family.extend(children.split_ascii_whitespace().filter_map(|child| child.parse::<u32>().ok()));
        }
    }
    family
}

/// Proportional set size of all `processes` in bytes: what is shared counts in equal parts to those who share it.
///
/// # Errors
/// A process that is gone.
pub fn pss(processes: &[u32]) -> io::Result<u64> {
    let mut total = 0;
    for pid in processes {
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        let kib =
            rollup.lines().find_map(|line| line.strip_prefix("Pss:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        total += kib.ok_or_else(|| io::Error::new(ErrorKind::InvalidData, "an smaps_rollup without Pss"))? * 1024;
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_used_both() {
        let pid = std::process::id();
        assert!(cpu(&[pid]).unwrap() > 0);
        assert!(pss(&[pid]).unwrap() > 4096);
        assert_eq!(family(pid)[0], pid);
    }
}
