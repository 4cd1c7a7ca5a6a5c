//! Whether there is room for everybody. Pure, but for one look at `/proc/meminfo`.

use baton_ipc::takeover::takes;

/// What a connection may cost for a moment, in the worker that gets it and in the kernel, in bytes: idle ones cost far less.
const MEMORY_EACH: u64 = 8 * 1024;

/// `Err`: what is short. `limits`: how many connections each new worker may have.
pub(super) fn check(connections: u64, limits: &[u64], available: Option<u64>) -> Result<String, String> {
    let workers = limits.len();
    let room = limits.iter().fold(0u64, |sum, limit| sum.saturating_add(takes(*limit)));
    if connections > room {
        let least = limits.iter().copied().min().unwrap_or(0);
        return Err(format!(
            "{connections} connections do not fit into {workers} workers, which take {room} (one may have {least}, a few of \
             them new): raise the limit on open files (LimitNOFILE, ulimit -n), max-connections, or the number of workers"
        ));
    }
    let needed = connections * MEMORY_EACH;
    match available {
        Some(available) if available < needed => Err(format!(
            "{connections} connections may need {} MiB for a moment, and {} MiB are available",
            needed >> 20,
            available >> 20
        )),
        Some(_) | None => Ok(format!("room for {connections} connections in {workers} workers")),
    }
}

/// `MemAvailable` of `proc_meminfo(5)`, in bytes.
pub(super) fn available_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_short_is_named() {
        assert!(check(978, &[500, 500], Some(1 << 30)).is_ok());
        let short = check(979, &[500, 500], None).unwrap_err();
        assert!(short.contains("into 2 workers, which take 978 (one may have 500"), "{short}");
        assert!(check(100, &[100; 2], None).is_ok(), "whoever holds them");
        assert!(check(100, &[10, 200], None).is_ok() && check(300, &[10, 200], None).is_err());
        assert!(check(1, &[u64::MAX; 2], None).is_ok() && check(1, &[], None).is_err());
        assert!(check(1000, &[1100], Some(1 << 20)).unwrap_err().contains("may need 7 MiB"));
        assert!(check(0, &[1], Some(0)).is_ok());
        assert!(available_memory().is_some_and(|bytes| bytes > 1 << 20));
    }
}
