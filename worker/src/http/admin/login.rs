//! Logging in and out.

use hyper::StatusCode;
use hyper::header::{self, HeaderValue};

use super::attempts::{self, Attempt};
use super::audit::{self, Action};
use super::cookie::Cookie;
use super::form::Form;
use super::known::Known;
use super::visit::{Visit, now};
use super::waiting_room::{Guest, NoPlace};
use super::{Response, page};
use crate::app::App;
use crate::superusers::Name;

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

/// Logs in whoever has sent the right name and password. First there must be a place to wait in, then room in the buckets:
/// whoever cannot be served has spent nothing.
pub(super) async fn log_in<A: App>(visit: &Visit<'_, A>, form: &Form) -> Response {
    if !form.is_ours(visit) {
        return show(visit, StatusCode::FORBIDDEN, Some("This form was too old, or not from here. Please try again."));
    }
    let admin = visit.admin;
    let (given, password) = (form.get("username"), form.get("password"));
    // A name that cannot be one is a user that does not exist.
    let name = given.parse::<Name>().ok();
    let known = name.as_ref().and_then(|name| visit.known(name));
    let guest = match &known {
        Some(known) => Guest::Known(known.number(&admin.key)),
        None => Guest::Stranger(attempts::network(&admin.key, visit.address)),
    };
    let place = match admin.checker.enter(guest) {
        Ok(place) => place,
        Err(no_place) => {
            audit::refused(visit, None, Action::LoginBusy);
            return match no_place {
                NoPlace::Full => busy(visit, StatusCode::SERVICE_UNAVAILABLE, "Too many are logging in.", 1),
                NoPlace::Share => busy(visit, StatusCode::TOO_MANY_REQUESTS, "Too many attempts at once.", 1),
            };
        }
    };
    let taken = match attempts::take(visit, known.as_ref(), given) {
        Ok(Attempt::Taken(taken)) => taken,
        Ok(Attempt::After(seconds)) => {
            audit::refused(visit, None, Action::LoginLimited);
            return busy(visit, StatusCode::TOO_MANY_REQUESTS, "Too many attempts.", seconds);
        }
        Err(error) => return page::unavailable(&error),
    };
    let superuser = match &name {
        Some(name) => admin.superusers.find(name).await,
        None => Ok(None),
    };
    let hash = match superuser {
        Ok(superuser) => superuser.map(|superuser| superuser.hash),
        Err(error) => {
            attempts::put_back(visit, &taken);
            return page::unavailable(&error);
        }
    };
    match (admin.checker.check(place, hash.clone(), password.to_owned()).await, name, hash) {
        (Err(error), ..) => {
            attempts::put_back(visit, &taken);
            page::unavailable(&error)
        }
        (Ok(true), Some(name), Some(hash)) => {
            attempts::put_back(visit, &taken);
            audit::note(visit, Some(&name), Action::LoggedIn, None);
            let cookie = Cookie::for_user(&admin.key, &name, &hash, now());
            let known = Known::after_login(&name, known.as_ref(), now());
            visit.remember(&known, visit.give(&cookie, page::see_other("/admin/")))
        }
        (Ok(_), name, hash) => {
            // Of somebody who does not exist the name is not told: it may be a password in the wrong field.
            audit::refused(visit, name.as_ref().filter(|_| hash.is_some()), Action::LoginRefused);
            show(visit, StatusCode::FORBIDDEN, Some("That is not a username with its password."))
        }
    }
}

fn busy<A: App>(visit: &Visit<'_, A>, status: StatusCode, why: &str, seconds: u64) -> Response {
    let mut response = show(visit, status, Some(&format!("{why} Please try again in {seconds} s.")));
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    response
}

/// Ends the login on the server, and has the browser forget its cookie.
pub(super) async fn log_out<A: App>(visit: &Visit<'_, A>) -> Response {
    let login = visit.cookie.as_ref().and_then(|cookie| Some((cookie.user.as_ref()?, cookie.login(&visit.admin.key)?)));
    let Some((user, login)) = login else { return page::logged_out() };
    // Of this host first: that does not wait for anybody.
    let here = visit.shared.hub.borrow_mut().backplane.host().end_login(login, now());
    let elsewhere = visit.admin.superusers.end_login(login.number, login.expires.saturating_sub(now())).await;
    let (ended, outcome) = outcome(&here, elsewhere.is_ok(), visit.admin.superusers.are_shared());
    if let Err(error) = &here {
        tracing::warn!(%error, "a login was not ended in the store of this host");
    }
    if let Err(error) = &elsewhere {
        tracing::warn!(%error, "a login was not ended on other hosts");
    }
    // Who has ended it before cannot fill the page of the last acts with that.
    if !matches!(here, Ok(false)) {
        audit::note_outcome(visit, Some(&user.name), Action::LoggedOut, None, outcome);
    }
    let response = if ended { page::see_other("/admin/login") } else { page::logged_out_in_part() };
    visit.take_back(response)
}

/// Whether a login has ended wherever it was good, and if not, where it has. Hosts that share superusers ask Redis about a
/// login, whatever their own store says.
fn outcome<E>(here: &Result<bool, E>, elsewhere: bool, are_shared: bool) -> (bool, Option<&'static str>) {
    match (here.is_ok(), elsewhere) {
        (true, true) => (true, None),
        (false, true) if are_shared => (true, None),
        (true, false) => (false, Some("on this host only")),
        (false, _) => (false, Some("in this browser only")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_has_ended_where_nobody_accepts_it() {
        let (written, failed) = (Ok::<bool, ()>(true), Err::<bool, ()>(()));
        assert_eq!(outcome(&written, true, false), (true, None));
        assert_eq!(outcome(&failed, true, false), (false, Some("in this browser only")));
        assert_eq!(outcome(&failed, true, true), (true, None));
        assert_eq!(outcome(&written, false, true), (false, Some("on this host only")));
        assert_eq!(outcome(&failed, false, true), (false, Some("in this browser only")));
    }
}
