//! What the kernel accounts to a process: CPU time and memory (proc(5)).

use std::fs;
use std::io::{self, ErrorKind};
use std::iter::Sum;
use std::time::Duration;

/// What the scheduler accounts to a process, all its threads together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cpu {
    /// Time on a core, user and system, in nanoseconds.
    pub spent_ns: u64,
    /// Time it wanted a core and another process had it, in nanoseconds.
    pub waited_ns: u64,
}

impl Cpu {
    /// That of this process.
    ///
    /// # Errors
    /// No `/proc`.
    pub fn of_self() -> io::Result<Cpu> {
        Cpu::of_process("self")
    }

    /// That of all `processes`. From `schedstat`, whose clock is that of the scheduler, where `/proc/PID/stat` counts
    /// ticks of 10 ms. What the kernel does in an interrupt is accounted to whom it interrupts; the receiving half of a
    /// send over loopback is the sender's.
    ///
    /// # Errors
    /// A process that is gone.
    pub fn of(processes: &[u32]) -> io::Result<Cpu> {
        let each = processes.iter().map(|pid| Cpu::of_process(&pid.to_string()));
        each.sum()
    }

    /// What has been added since `before`.
    pub fn since(self, before: Cpu) -> Cpu {
        Cpu {
            spent_ns: self.spent_ns.saturating_sub(before.spent_ns),
            waited_ns: self.waited_ns.saturating_sub(before.waited_ns),
        }
    }

    fn of_process(pid: &str) -> io::Result<Cpu> {
        let mut total = Cpu::default();
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            // A thread may end while the list is being read.
            let Ok(schedstat) = fs::read_to_string(task?.path().join("schedstat")) else { continue };
            let mut words = schedstat.split_ascii_whitespace().map(str::parse::<u64>);
            let (Some(Ok(spent)), Some(Ok(waited))) = (words.next(), words.next()) else {
                return Err(io::Error::new(ErrorKind::InvalidData, "a schedstat without its numbers"));
            };
            total.spent_ns += spent;
            total.waited_ns += waited;
        }
        Ok(total)
    }
}

impl Sum for Cpu {
    fn sum<I: Iterator<Item = Cpu>>(each: I) -> Cpu {
        each.fold(Cpu::default(), |total, one| Cpu {
            spent_ns: total.spent_ns + one.spent_ns,
            waited_ns: total.waited_ns + one.waited_ns,
        })
    }
}

/// For how long a core has had nothing to do, in the steps of 10 ms of `/proc/stat`.
///
/// # Errors
/// There is no such core.
pub fn idle(core: usize) -> io::Result<Duration> {
    let name = format!("cpu{core}");
    let stat = fs::read_to_string("/proc/stat")?;
    let times = stat.lines().map(str::split_ascii_whitespace).find_map(|mut words| {
        let is_it = words.next() == Some(name.as_str());
        is_it.then(|| words.map(str::parse::<u64>).collect::<Result<Vec<_>, _>>())
    });
    // user, nice, system, idle, and idle with a disk that is awaited.
    match times {
        Some(Ok(times)) if times.len() > 4 => Ok(Duration::from_millis(10 * (times[3] + times[4]))),
        _ => Err(io::Error::new(ErrorKind::InvalidData, format!("a stat without {name}"))),
    }
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

/// Whether a process is there and not merely waiting to be reaped.
pub fn runs(pid: u32) -> bool {
    // The state follows the name, which is in parentheses and may itself contain some.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, fields)| !fields.starts_with(['Z', 'X']))
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

/// What the kernel holds for all sockets, files and the like of the machine, in bytes: slabs that cannot be reclaimed
/// (`SUnreclaim` of `/proc/meminfo`). Those that can be reclaimed grow whenever somebody looks at `/proc/PID/fd`; with them
/// the inodes and directory entries of the sockets are left out.
///
/// # Errors
/// No `/proc`.
pub fn kernel_memory() -> io::Result<u64> {
    let meminfo = fs::read_to_string("/proc/meminfo")?;
    let kib =
        meminfo.lines().find_map(|line| line.strip_prefix("SUnreclaim:")?.trim().strip_suffix(" kB")?.parse().ok());
    let kib: u64 = kib.ok_or_else(|| io::Error::new(ErrorKind::InvalidData, "a meminfo without SUnreclaim"))?;
    Ok(kib * 1024)
}

/// How often a connection could not be put into a full accept queue, since the machine started (`ListenOverflows` in
/// `/proc/net/netstat`).
///
/// # Errors
/// No `/proc`.
pub fn listen_overflows() -> io::Result<u64> {
    let netstat = fs::read_to_string("/proc/net/netstat")?;
    let mut lines = netstat.lines().filter_map(|line| line.strip_prefix("TcpExt: ")).map(str::split_ascii_whitespace);
    let (names, numbers) = (lines.next(), lines.next());
    let pairs = names.into_iter().flatten().zip(numbers.into_iter().flatten());
    let number = pairs.filter(|(name, _)| *name == "ListenOverflows").find_map(|(_, number)| number.parse().ok());
    number.ok_or_else(|| io::Error::new(ErrorKind::InvalidData, "ListenOverflows is not told"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_used_both() {
        let pid = std::process::id();
        assert!(Cpu::of(&[pid]).unwrap().spent_ns > 0);
        assert!(pss(&[pid]).unwrap() > 4096);
        assert_eq!(family(pid)[0], pid);
    }

    #[test]
    fn the_kernel_tells_of_its_memory_and_its_queues() {
        assert!(kernel_memory().unwrap() > 1 << 20);
        listen_overflows().unwrap();
    }

    #[test]
    fn a_core_is_idle_for_a_while_and_another_does_not_exist() {
        assert!(idle(0).unwrap() > Duration::ZERO);
        assert!(idle(1_000_000).is_err());
    }
}
