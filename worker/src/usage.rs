//! What this process takes from the system, for `/metrics`.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage};
use nix::sys::time::TimeVal;
use nix::unistd::{SysconfVar, sysconf};

use crate::metrics::{Gauge, Metrics};

/// To count descriptors one by one takes milliseconds when there are many; it is done only every so many seconds.
const SELDOM: u32 = 10;

/// Remembers what was told before.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    cpu: Duration,
    seconds: u32,
}

impl Usage {
    /// To be called every second.
    pub(crate) fn tell(&mut self, metrics: &Metrics) {
        if let Ok(cpu) = cpu() {
            metrics.cpu(cpu.saturating_sub(self.cpu));
            self.cpu = cpu;
        }
        if let Ok(resident) = resident() {
            metrics.gauge(Gauge::Resident, resident);
        }
        if let Ok((soft, _hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
            metrics.gauge(Gauge::MaxFds, soft);
        }
        if let Ok(Some(open)) = open_descriptors(self.seconds.is_multiple_of(SELDOM)) {
            metrics.gauge(Gauge::OpenFds, open);
        }
        self.seconds = self.seconds.wrapping_add(1);
    }
}

/// User and system time.
fn cpu() -> nix::Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let time = |time: TimeVal| {
        Duration::from_secs(time.tv_sec().unsigned_abs()) + Duration::from_micros(time.tv_usec().unsigned_abs())
    };
    Ok(time(usage.user_time()) + time(usage.system_time()))
}

/// Bytes (`proc_pid_statm(5)`: the second number, in pages).
fn resident() -> io::Result<u64> {
    let statm = fs::read_to_string("/proc/self/statm")?;
    let pages: Option<u64> = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok());
    let page = sysconf(SysconfVar::PAGE_SIZE)?.unwrap_or(4096).unsigned_abs();
    pages.map(|pages| pages * page).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Since Linux 6.2 the size of the directory tells how many there are (`proc_pid_fd(5)`). Before, it is 0, and they have
/// to be counted, which is done only if `patiently`.
fn open_descriptors(patiently: bool) -> io::Result<Option<u64>> {
    match fs::metadata("/proc/self/fd")?.size() {
        // The one that reads the directory is not counted.
        0 if patiently => Ok(Some((fs::read_dir("/proc/self/fd")?.count() as u64).saturating_sub(1))),
        0 => Ok(None),
        size => Ok(Some(size)),
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use baton_ipc::scoreboard::GAUGES;
    use baton_ipc::{Scoreboard, Side};

    use super::*;

    #[test]
    fn usage_is_what_the_kernel_says() {
        let board = Rc::new(Scoreboard::create(1).unwrap());
        let metrics = Metrics::new(board.clone(), 0, Side::A);
        let mut usage = Usage::default();
        usage.tell(&metrics);
        let told = |gauge: Gauge| board.slot(0).gauge(gauge as usize);
        let before = told(Gauge::OpenFds);
        assert!(before >= 3 && before <= told(Gauge::MaxFds), "{before} of {}", told(Gauge::MaxFds));
        assert!((1 << 20..1 << 33).contains(&told(Gauge::Resident)), "{}", told(Gauge::Resident));
        assert!((Gauge::Resident as usize) < GAUGES);
        // Other tests of this process open and close some as well.
        let files: Vec<_> = (0..500).map(|_| fs::File::open("/dev/null").unwrap()).collect();
        let counted = open_descriptors(true).unwrap().unwrap();
        assert!(counted >= files.len() as u64 + 3, "{counted}");
        let spun = std::time::Instant::now();
        while cpu().unwrap() <= usage.cpu + Duration::from_millis(20) {
            assert!(spun.elapsed() < Duration::from_secs(30));
        }
        usage.tell(&metrics);
        assert!(usage.cpu >= Duration::from_millis(20));
    }
}
