//! Where a service keeps its sockets and its state when nobody says: the system's directories if they can be used, else
//! those of the user (XDG Base Directory Specification).

use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};

use super::Environment;

/// Control sockets of a system service.
pub(crate) const SYSTEM_RUNTIME: &str = "/run/baton";

const SYSTEM_STATE: &str = "/var/lib/baton";

/// The default of `runtime-dir`.
pub(crate) fn runtime(environment: &Environment) -> Result<String, String> {
    if usable(Path::new(SYSTEM_RUNTIME)) {
        return Ok(SYSTEM_RUNTIME.to_owned());
    }
    let user = user_runtime(environment)
        .ok_or_else(|| format!("{SYSTEM_RUNTIME} is not writable for this user, and XDG_RUNTIME_DIR is not set"))?;
    Ok(user.display().to_string())
}

/// The default of `state-dir`.
pub(crate) fn state(environment: &Environment) -> Result<String, String> {
    if usable(Path::new(SYSTEM_STATE)) {
        return Ok(SYSTEM_STATE.to_owned());
    }
    let user = user_state(environment).ok_or_else(|| {
        format!("{SYSTEM_STATE} is not writable for this user, and neither XDG_STATE_HOME nor HOME is set")
    })?;
    Ok(user.display().to_string())
}

/// The user's own directory for sockets.
pub(crate) fn user_runtime(environment: &Environment) -> Option<PathBuf> {
    environment.get("XDG_RUNTIME_DIR").map(|base| Path::new(base).join("baton"))
}

/// The user's own directory for state.
pub(crate) fn user_state(environment: &Environment) -> Option<PathBuf> {
    let home = || environment.get("HOME").map(|home| Path::new(home).join(".local/state"));
    environment.get("XDG_STATE_HOME").map(PathBuf::from).or_else(home).map(|base| base.join("baton"))
}

/// Whether this process may write there, or make it.
fn usable(path: &Path) -> bool {
    let writable = |path: &Path| access(path, AccessFlags::W_OK | AccessFlags::X_OK).is_ok();
    match path.try_exists() {
        Ok(true) => writable(path),
        Ok(false) => path.parent().is_some_and(writable),
        Err(_) => false,
    }
}
