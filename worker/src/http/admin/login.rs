//! Logging in and out.

use std::sync::Arc;

use hyper::StatusCode;
use hyper::header::{self, HeaderValue};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use super::audit::{self, Action};
use super::cookie::Cookie;
use super::form::Form;
use super::visit::{Operator, Visit, now};
use super::{Response, attempts, page};
use crate::app::App;
use crate::superusers::{Name, PasswordHash};

/// Attempts that may wait for their turn.
const QUEUE: usize = 8;

/// Checks passwords one after the other, beside the worker's own thread: each takes some 30 ms of a core, and 19 MiB.
pub(super) struct Checker {
    turn: Arc<Semaphore>,
    queue: Semaphore,
}

impl Checker {
    pub(super) fn new() -> Checker {
        Checker { turn: Arc::new(Semaphore::new(1)), queue: Semaphore::new(QUEUE) }
    }

    /// Whether this is the password; it takes as long for a user that does not exist. None: too many wait already.
    async fn check(&self, hash: Option<PasswordHash>, password: String) -> Option<bool> {
        let _place = self.queue.try_acquire().ok()?;
        let turn = Arc::clone(&self.turn).acquire_owned().await.ok()?;
        let check = move || {
            // Not given back before it is done, also if the client does not wait.
            let _turn = turn;
            PasswordHash::verify(hash.as_ref(), &password).unwrap_or_default()
        };
        spawn_blocking(check).await.ok()
    }
}

/// The form, and a cookie for it.
pub(super) async fn form<A: App>(visit: &Visit<'_, A>) -> Response {
    match visit.operator().await {
        Ok(Some(_)) => page::see_other("/admin/"),
        Ok(None) => show(visit, StatusCode::OK, None),
        Err(error) => page::unavailable(&error),
    }
}

/// Shows the form, with what went wrong before.
fn show<A: App>(visit: &Visit<'_, A>, status: StatusCode, complaint: Option<&str>) -> Response {
    // One that is good already is kept: another tab shows its form.
    match visit.cookie.as_ref().filter(|cookie| cookie.user.is_none()) {
        Some(cookie) => page::login(status, &cookie.form_token(&visit.admin.key), complaint),
        None => {
            let cookie = Cookie::for_form(now());
            visit.give(&cookie, page::login(status, &cookie.form_token(&visit.admin.key), complaint))
        }
    }
}

/// Logs in whoever has sent the right name and password.
pub(super) async fn log_in<A: App>(visit: &Visit<'_, A>, form: &Form) -> Response {
    if !form.is_ours(visit) {
        return show(visit, StatusCode::FORBIDDEN, Some("This form was too old, or not from here. Please try again."));
    }
    let (given, password) = (form.get("username"), form.get("password"));
    let buckets = attempts::buckets(&visit.admin.key, visit.address, given);
    match attempts::take(visit, &buckets) {
        Ok(None) => {}
        Ok(Some(seconds)) => {
            audit::note(visit, None, Action::LoginLimited, None);
            return too_many(visit, seconds);
        }
        Err(error) => return page::unavailable(&error),
    }
    // A name that cannot be one is a user that does not exist.
    let name = given.parse::<Name>().ok();
    let superuser = match &name {
        Some(name) => visit.admin.superusers.find(name).await,
        None => Ok(None),
    };
    let superuser = match superuser {
        Ok(superuser) => superuser,
        Err(error) => return page::unavailable(&error),
    };
    let hash = superuser.map(|superuser| superuser.hash);
    match (visit.admin.checker.check(hash.clone(), password.to_owned()).await, name, hash) {
        (None, ..) => too_many(visit, 1),
        (Some(true), Some(name), Some(hash)) => {
            attempts::put_back(visit, &buckets);
            audit::note(visit, Some(&name), Action::LoggedIn, None);
            let cookie = Cookie::for_user(&visit.admin.key, &name, &hash, now());
            visit.give(&cookie, page::see_other("/admin/"))
        }
        (Some(_), name, hash) => {
            // Of somebody who does not exist the name is not told: it may be a password in the wrong field.
            audit::note(visit, name.as_ref().filter(|_| hash.is_some()), Action::LoginRefused, None);
            show(visit, StatusCode::FORBIDDEN, Some("That is not a username with its password."))
        }
    }
}

fn too_many<A: App>(visit: &Visit<'_, A>, seconds: u64) -> Response {
    let complaint = format!("Too many attempts. Please try again in {seconds} s.");
    let mut response = show(visit, StatusCode::TOO_MANY_REQUESTS, Some(&complaint));
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    response
}

/// Forgets the cookie.
pub(super) fn log_out<A: App>(visit: &Visit<'_, A>, operator: &Operator) -> Response {
    audit::note(visit, Some(&operator.name), Action::LoggedOut, None);
    visit.take_back(page::see_other("/admin/login"))
}
