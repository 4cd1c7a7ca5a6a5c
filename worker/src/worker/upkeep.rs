//! What the store needs: expired sessions swept, and once a second checkpoints and a look whether it works again.

use std::rc::Rc;
use std::time::Duration;

use baton_ipc::scoreboard::monotonic_ms;
use tokio::time::sleep;

use crate::app::App;
use crate::backplane::BackplaneError;
use crate::hub::Hub;
use crate::worker::Shared;

/// Remembers what fails, so that it is told once and not every second.
#[derive(Debug, Default)]
pub(super) struct Upkeep {
    claiming_fails: bool,
}

impl Upkeep {
    /// To be called every second.
    pub(super) fn tend<A: App>(&mut self, hub: &mut Hub<A>) {
        hub.try_store_again();
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

/// Sweeps expired sessions, slice after slice; what else there is to do goes in between.
pub(super) async fn sweep<A: App>(shared: Rc<Shared<A>>) {
    let mut fails = false;
    loop {
        let swept = shared.hub.borrow_mut().backplane.host().sweep();
        let swept = told_once(&mut fails, swept, "expired sessions were not swept");
        sleep(swept.map_or(Duration::from_secs(1), |swept| swept.wait)).await;
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
