//! What a supervisor is told. Validated before it gets here.

use std::path::PathBuf;
use std::time::Duration;

use baton_ipc::Endpoint;
use baton_ipc::takeover::StoreIdentity;

use crate::parent::ForegroundParent;

/// Plain values; the supervisor reads no configuration itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Which generation this is: `blue` or `green`. Names the control socket.
    pub color: String,
    /// Version of this binary, for `status`.
    pub version: &'static str,
    /// Where to listen; each address gets one socket per slot.
    pub listen: Vec<Endpoint>,
    /// How many slots, 1 to [`baton_ipc::MAX_SLOTS`].
    pub workers: u16,
    /// Directory of the control socket `COLOR.sock`.
    pub runtime_dir: PathBuf,
    /// How long a draining worker may take before it is killed.
    pub drain_timeout: Duration,
    /// How long a new worker may take to say that it is ready.
    pub start_timeout: Duration,
    /// How long a worker's event loop may be silent.
    pub hang_timeout: Duration,
    /// Whether to take over from a generation that runs already.
    pub takeover: Takeover,
    /// Whether a process stays in front of all generations.
    pub foreground_parent: ForegroundParent,
    /// How many generations there may be side by side, this one included.
    pub max_generations: u16,
    /// A group whose members may use the control socket, beside root and the service's own user.
    pub control_group: Option<String>,
    /// A digest of all settings, those of other parts of the program included, for `status`.
    pub digest: String,
    /// What the workers share, in words, for `status`.
    pub backplane: String,
    /// The store that they share, as it was at the start, unless they share something else. A reload keeps it.
    pub store: Option<StoreIdentity>,
}

/// What to do about a generation that serves already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Takeover {
    /// Nothing: its addresses are in use.
    #[default]
    Never,
    /// Get ready beside it, and wait for [`baton_ipc::control::Command::Promote`].
    Wait,
    /// Take over as soon as ready.
    Now,
}

impl Settings {
    /// Whether a running supervisor can take these over. `Err` names what would need a restart.
    pub fn allow_change(&self, new: &Settings) -> Result<(), String> {
        let fixed = [
            ("listen", self.listen != new.listen),
            ("color", self.color != new.color),
            ("runtime-dir", self.runtime_dir != new.runtime_dir),
            ("foreground-parent", self.foreground_parent != new.foreground_parent),
            ("control-group", self.control_group != new.control_group),
        ];
        let changed: Vec<&str> = fixed.iter().filter(|(_, changed)| *changed).map(|(name, _)| *name).collect();
        if changed.is_empty() {
            return Ok(());
        }
        let names = changed.join(", ");
        Err(format!("{names} cannot change while the service runs: nothing was changed, and it takes a new start"))
    }
}
