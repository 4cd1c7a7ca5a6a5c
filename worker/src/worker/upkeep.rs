//! What the store needs once a second: expired sessions swept, checkpoints, and a look whether it works again.

use baton_ipc::scoreboard::monotonic_ms;

use crate::app::App;
use crate::backplane::BackplaneError;
use crate::hub::Hub;

/// Remembers what fails, so that it is told once and not every second.
#[derive(Debug, Default)]
pub(super) struct Upkeep {
    sweeping_fails: bool,
    claiming_fails: bool,
}

impl Upkeep {
    /// To be called every second.
    pub(super) fn tend<A: App>(&mut self, hub: &mut Hub<A>) {
        hub.try_store_again();
        let swept = hub.backplane.host().sweep();
        told_once(&mut self.sweeping_fails, swept, "expired sessions were not swept");
        let claimed = hub.backplane.host().claim_checkpoint();
        let Some(claim) = told_once(&mut self.claiming_fails, claimed, "no checkpoint was claimed").flatten() else {
            return;
        };
        let dir = hub.settings.state_dir.clone();
        let begun = monotonic_ms();
        // On a thread of its own: it waits for the disk.
        drop(tokio::task::spawn_blocking(move || match claim.write(&dir) {
            Ok(bytes) => tracing::debug!(bytes, took_ms = monotonic_ms() - begun, "checkpoint written"),
            Err(error) => tracing::error!(%error, "the checkpoint failed; a power loss would cost more"),
        }));
    }
}

fn told_once<T>(fails: &mut bool, outcome: Result<T, BackplaneError>, what: &str) -> Option<T> {
    let failed_before = std::mem::replace(fails, outcome.is_err());
    match outcome {
        Ok(value) => Some(value),
        Err(error) if failed_before => {
            tracing::debug!(%error, "still: {what}");
            None
        }
        Err(error) => {
            tracing::warn!(%error, "{what}");
            None
        }
    }
}
