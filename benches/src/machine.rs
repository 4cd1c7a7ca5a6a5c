//! On what machine the figures were made.

use std::fs;
use std::io;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};

use crate::cores;

/// What a figure depends on beside the program.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Machine {
    /// Release of the kernel.
    pub kernel: String,
    /// The processor's name for itself.
    pub processor: String,
    /// Cores that the bench may use.
    pub cores: usize,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Processes that wanted to run during the last minute, before the bench began: above 0.5 the figures are noisy.
    pub load: f64,
    /// Descriptors that one process may have.
    pub descriptors: u64,
    /// Cargo profile of the bench, which must be that of the servers.
    pub profile: String,
}

impl Machine {
    /// This machine, now.
    ///
    /// # Errors
    /// No `/proc`.
    pub fn of_this_run() -> io::Result<Machine> {
        let field = |file: &str, key: &str| -> Option<String> {
            let text = fs::read_to_string(file).ok()?;
            text.lines().find_map(|line| Some(line.strip_prefix(key)?.trim_start_matches([' ', '\t', ':']).to_owned()))
        };
        let memory = field("/proc/meminfo", "MemTotal").and_then(|kib| kib.strip_suffix(" kB")?.parse::<u64>().ok());
        let load = fs::read_to_string("/proc/loadavg")?;
        Ok(Machine {
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            processor: field("/proc/cpuinfo", "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            cores: cores::allowed()?.len(),
            memory_mib: memory.unwrap_or(0) / 1024,
            load: load.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(0.0),
            descriptors: getrlimit(Resource::RLIMIT_NOFILE)?.1,
            profile: if cfg!(debug_assertions) { "debug" } else { "release" }.to_owned(),
        })
    }
}

/// As many descriptors as the hard limit allows, for this process and those it starts.
///
/// # Errors
/// Those of setrlimit(2).
pub fn raise_descriptor_limit() -> io::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?)
}
