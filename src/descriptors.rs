//! Raises what a shell allows to what the machine does.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Lets this process, and those that it starts, have as many descriptors as it may (`RLIMIT_NOFILE`, the soft limit becomes
/// the hard one); returns the number.
pub(crate) fn raise_limit() -> nix::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(hard)
}
