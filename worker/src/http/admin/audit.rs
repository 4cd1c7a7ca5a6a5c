//! What operators did: lines of the log whose logger is `audit`, and the last of them in the store of the host, for the
//! page. Attempts to log in that were refused are added up, and kept apart from what was done.

use serde::{Deserialize, Serialize};

use super::attempts;
use super::refusals::{Kind, Report};
use super::visit::{Visit, now};
use crate::app::App;
use crate::backplane::Ring;
use crate::heartbeat::wall_ms;
use crate::superusers::Name;
use crate::token::Fingerprint;
use crate::worker::Shared;

/// How many acts the page shows.
const ACTS_SHOWN: usize = 20;

/// And how many lines of attempts that were refused.
const REFUSALS_SHOWN: usize = 10;

/// What somebody did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    LoggedIn,
    LoginRefused,
    LoginLimited,
    LoginBusy,
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
            Action::LoginBusy => "login_busy",
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
    /// If it stands for several.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) attempts: Option<u64>,
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
    let hash = session.map(|session| Fingerprint::new(session.as_bytes()).to_string());
    tracing::info!(
        target: "audit",
        user,
        action = action.name(),
        session_hash = hash.as_deref(),
        outcome,
        client = from,
        request_id = visit.request_id.spelling(),
        "an operator's act"
    );
    let own = |text: Option<&str>| text.map(str::to_owned);
    let entry = Entry {
        at: now(),
        user: own(user),
        action: action.name().to_owned(),
        session: own(session),
        from,
        outcome: own(outcome),
        attempts: None,
    };
    keep(visit.shared, Ring::Acts, &entry);
}

fn keep<A: App>(shared: &Shared<A>, ring: Ring, entry: &Entry) {
    let text = serde_json::to_string(entry).unwrap_or_default();
    if let Err(error) = shared.hub.borrow_mut().backplane.host().note_act(ring, &text) {
        tracing::warn!(%error, "an operator's act is in the log only");
    }
}

/// Notes that an attempt to log in was refused; `user`: only if there is such a user.
pub(super) fn refused<A: App>(visit: &Visit<'_, A>, user: Option<&Name>, action: Action) {
    let network = attempts::network(&visit.admin.key, visit.address);
    let kind = Kind { action, user: user.cloned(), network };
    let report = visit.admin.refusals.borrow_mut().count(kind, &visit.from(), wall_ms());
    if let Some(report) = report {
        tell(visit.shared, &report);
    }
}

/// Reports what was added up: what is due, or all of it at the worker's end. To be called every second.
pub(super) fn tell_refusals<A: App>(shared: &Shared<A>, at_end: bool) {
    let Some(admin) = &shared.admin else { return };
    let reports = {
        let mut refusals = admin.refusals.borrow_mut();
        if at_end { refusals.rest() } else { refusals.due(wall_ms()) }
    };
    for report in reports {
        tell(shared, &report);
    }
}

fn tell<A: App>(shared: &Shared<A>, report: &Report) {
    let Report { action, user, from, attempts } = report;
    let user = user.as_ref().map(Name::as_ref);
    tracing::info!(
        target: "audit",
        user,
        action = action.name(),
        attempts,
        client = from.as_deref(),
        "logging in was refused"
    );
    let entry = Entry {
        at: now(),
        user: user.map(str::to_owned),
        action: action.name().to_owned(),
        session: None,
        from: from.clone().unwrap_or_else(|| "many networks".to_owned()),
        outcome: None,
        attempts: Some(*attempts),
    };
    keep(shared, Ring::Refusals, &entry);
}

/// The last acts, newest first.
pub(super) fn last_acts<A: App>(visit: &Visit<'_, A>) -> Vec<Entry> {
    last(visit, Ring::Acts, ACTS_SHOWN)
}

/// The last attempts to log in that were refused, newest first.
pub(super) fn last_refusals<A: App>(visit: &Visit<'_, A>) -> Vec<Entry> {
    last(visit, Ring::Refusals, REFUSALS_SHOWN)
}

fn last<A: App>(visit: &Visit<'_, A>, ring: Ring, most: usize) -> Vec<Entry> {
    let entries = visit.shared.hub.borrow_mut().backplane.host().last_acts(ring, most);
    let entries = entries.unwrap_or_else(|error| {
        tracing::warn!(%error, "the last acts of operators cannot be read");
        Vec::new()
    });
    // Another version may have written others.
    entries.iter().filter_map(|entry| serde_json::from_str(entry).ok()).collect()
}
