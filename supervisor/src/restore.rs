//! Sockets whose files are deleted while the service runs, as cleaners of temporary directories do.

use crate::supervisor::{Phase, Supervisor};

impl Supervisor<'_> {
    /// Makes the control socket and the door anew if their files are gone: without them a running service could neither be
    /// steered nor taken over from.
    pub(crate) fn restore_sockets(&mut self) {
        // One that is about to go leaves its names to others.
        if self.phase == Phase::Draining || self.successor.is_some() {
            return;
        }
        let restored = self.control.restore(self.now).and_then(|control| Ok(control | self.door.restore()?));
        let failure = restored.as_ref().err().map(ToString::to_string);
        match restored {
            Ok(false) => {}
            Ok(true) => tracing::warn!(
                event = "control_socket_restored",
                directory = %self.settings.runtime_dir.display(),
                "the files of the control sockets were deleted: they were made anew"
            ),
            // Once, and not each second.
            Err(_) if failure == self.unrestored => {}
            Err(error) => tracing::error!(
                event = "control_socket_lost",
                directory = %self.settings.runtime_dir.display(),
                %error,
                "the files of the control sockets were deleted, and cannot be made anew; trying again each second"
            ),
        }
        self.unrestored = failure;
    }
}
