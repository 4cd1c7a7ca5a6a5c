//! What operators did: lines of the log whose logger is `audit`, and the last of them in the store of the host, for the
//! page.

use serde::{Deserialize, Serialize};

use super::visit::{Visit, now};
use crate::app::App;
use crate::superusers::Name;

/// How many the page shows.
pub(super) const SHOWN: usize = 20;

/// What somebody did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    LoggedIn,
    LoginRefused,
    LoginLimited,
    LoggedOut,
    Disconnect,
    Reset,
    Delete,
    Broadcast,
}

impl Action {
    fn name(self) -> &'static str {
        match self {
            Action::LoggedIn => "login",
            Action::LoginRefused => "login_refused",
            Action::LoginLimited => "login_limited",
            Action::LoggedOut => "logout",
            Action::Disconnect => "disconnect",
            Action::Reset => "reset",
            Action::Delete => "delete",
            Action::Broadcast => "broadcast",
        }
    }
}

/// One of the last ones.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Entry {
    /// Seconds since 1970.
    pub(super) at: u64,
    pub(super) user: Option<String>,
    pub(super) action: String,
    pub(super) session: Option<String>,
    pub(super) from: String,
    /// What came of it.
    pub(super) outcome: Option<String>,
}

/// Notes it.
pub(super) fn note<A: App>(visit: &Visit<'_, A>, user: Option<&Name>, action: Action, session: Option<&str>) {
    note_outcome(visit, user, action, session, None);
}

/// Notes it, and what came of it.
pub(super) fn note_outcome<A: App>(
    visit: &Visit<'_, A>,
    user: Option<&Name>,
    action: Action,
    session: Option<&str>,
    outcome: Option<&str>,
) {
    let (user, from) = (user.map(Name::as_ref), visit.from());
    tracing::info!(
        target: "audit",
        user,
        action = action.name(),
        session_uuid = session,
        outcome,
        client = from,
        request_id = %visit.request_id,
        "an operator's act"
    );
    if action == Action::LoginLimited {
        // Whoever is too fast does not push out what others did.
        return;
    }
    let own = |text: Option<&str>| text.map(str::to_owned);
    let entry = Entry {
        at: now(),
        user: own(user),
        action: action.name().to_owned(),
        session: own(session),
        from,
        outcome: own(outcome),
    };
    let text = serde_json::to_string(&entry).unwrap_or_default();
    if let Err(error) = visit.shared.hub.borrow_mut().backplane.host().note_act(&text) {
        tracing::warn!(%error, "an operator's act is in the log only");
    }
}

/// The last ones, newest first.
pub(super) fn last<A: App>(visit: &Visit<'_, A>) -> Vec<Entry> {
    let acts = visit.shared.hub.borrow_mut().backplane.host().last_acts(SHOWN);
    let acts = acts.unwrap_or_else(|error| {
        tracing::warn!(%error, "the last acts of operators cannot be read");
        Vec::new()
    });
    // Another version may have written others.
    acts.iter().filter_map(|act| serde_json::from_str(act).ok()).collect()
}
