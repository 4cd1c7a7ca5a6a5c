//! What all pages have in common. Whatever is not ours, maud escapes.

mod overview;
mod session;

use std::fmt::Display;

use hyper::StatusCode;
use hyper::header::{self, HeaderValue};
use maud::{DOCTYPE, Markup, html};

use super::Response;
use super::form::TOKEN;
use super::notice::Notice;
use super::visit::Operator;
use crate::heartbeat::rfc3339;
use crate::http::with_body;

pub(super) use overview::overview;
pub(super) use session::{session, sessions};

const ICON: &str = "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Cpath d='M3 13 13 3' \
                    stroke='%230a7f6b' stroke-width='5' stroke-linecap='round'/%3E%3C/svg%3E";

/// A page of its own.
fn bare(title: &str, class: &str, body: &Markup) -> String {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta name="robots" content="noindex";
                title { (title) " · baton" }
                link rel="icon" href=(ICON);
                link rel="stylesheet" href="/admin/admin.css";
                script type="module" src="/admin/admin.js" {}
            }
            body class=(class) { (body) }
        }
    }
    .into_string()
}

/// A page for somebody who is logged in.
fn framed(status: StatusCode, operator: &Operator, title: &str, notice: Option<&Notice>, main: &Markup) -> Response {
    let entry = |href: &str, name: &str| {
        html! { a href=(href) aria-current=[(title == name).then_some("page")] { (name) } }
    };
    let body = html! {
        header {
            p.brand { a href="/admin/" { "baton" } }
            nav aria-label="Pages" {
                (entry("/admin/", "Overview"))
                (entry("/admin/sessions", "Sessions"))
            }
            form.logout method="post" action="/admin/logout" {
                (token(operator))
                span.user { (operator.name) }
                button type="submit" { "Log out" }
            }
        }
        main {
            @if let Some(notice) = notice {
                p.notice role="status" data-ok=(notice.is_good()) { (sentence(&notice.to_string())) }
            }
            (main)
        }
    };
    html_page(status, bare(title, "framed", &body))
}

/// The field that shows that a form is ours.
pub(super) fn token(operator: &Operator) -> Markup {
    html! { input type="hidden" name=(TOKEN) value=(operator.form_token); }
}

pub(super) fn html_page(status: StatusCode, text: String) -> Response {
    with_body(status, "text/html; charset=utf-8", text)
}

/// A page with one message.
fn message(status: StatusCode, title: &str, text: &str, link: (&str, &str)) -> Response {
    let body = html! {
        main.card {
            h1 { (title) }
            p { (text) }
            p { a href=(link.0) { (link.1) } }
        }
    };
    html_page(status, bare(title, "alone", &body))
}

pub(super) fn login(status: StatusCode, form_token: &str, complaint: Option<&str>) -> Response {
    let body = html! {
        main.card {
            h1 { "baton" }
            form method="post" action="/admin/login" {
                input type="hidden" name=(TOKEN) value=(form_token);
                @if let Some(complaint) = complaint { p.complaint role="alert" { (complaint) } }
                label for="username" { "Username" }
                input id="username" name="username" autocomplete="username" autocapitalize="none" spellcheck="false"
                    required autofocus;
                label for="password" { "Password" }
                input id="password" name="password" type="password" autocomplete="current-password" required;
                button.primary type="submit" { "Log in" }
            }
            p.hint { "Users are made with " code { "baton create-superuser" } "." }
        }
    };
    html_page(status, bare("Log in", "alone", &body))
}

/// 303: the page to look at after a form (RFC 9110 section 15.4.4).
pub(super) fn see_other(to: &str) -> Response {
    let mut response = html_page(StatusCode::SEE_OTHER, String::new());
    if let Ok(to) = HeaderValue::from_str(to) {
        response.headers_mut().insert(header::LOCATION, to);
    }
    response
}

/// Somebody sends a form and is not logged in, or not any more.
pub(super) fn logged_out() -> Response {
    message(StatusCode::FORBIDDEN, "Not logged in", "Nothing was done.", ("/admin/login", "Log in"))
}

/// This browser has forgotten its login, which may still be good elsewhere.
pub(super) fn logged_out_in_part() -> Response {
    let text = "This browser has forgotten your login. It could not be ended everywhere; the log says why. Until it \
                expires, whoever has a copy of its cookie can use it where it was not ended.";
    let mut response = message(StatusCode::SERVICE_UNAVAILABLE, "Logged out here", text, ("/admin/login", "Log in"));
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(5));
    response
}

/// An operator has asked for something that cannot be.
pub(super) fn refused(operator: &Operator, reason: &str) -> Response {
    told(StatusCode::BAD_REQUEST, operator, "Refused", reason)
}

/// It was tried, and did not work.
pub(super) fn failed(operator: &Operator, reason: &str) -> Response {
    let mut response = told(StatusCode::SERVICE_UNAVAILABLE, operator, "Failed", &sentence(reason));
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(5));
    response
}

fn told(status: StatusCode, operator: &Operator, title: &str, text: &str) -> Response {
    let main = html! {
        section.card {
            h1 { (title) }
            p { (text) }
            p { a href="/admin/" { "Back to the overview" } }
        }
    };
    framed(status, operator, title, None, &main)
}

/// With a capital and a full stop.
fn sentence(text: &str) -> String {
    let mut characters = text.chars();
    let first = characters.next().map(|c| c.to_ascii_uppercase());
    let stop = if text.ends_with('.') { "" } else { "." };
    first.into_iter().chain(characters).chain(stop.chars()).collect()
}

/// A form that was not sent by a page that this operator was shown.
pub(super) fn strange_form() -> Response {
    let text = "This form was too old, or not from here. Nothing was done.";
    message(StatusCode::FORBIDDEN, "Refused", text, ("/admin/", "Back to the overview"))
}

pub(super) fn not_found(operator: &Operator) -> Response {
    let main = html! { section.card { h1 { "Not found" } p { "There is nothing at this address." } } };
    framed(StatusCode::NOT_FOUND, operator, "Not found", None, &main)
}

/// What is needed does not answer. Whoever sees this may be nobody: the reason is for the log.
pub(super) fn unavailable(error: &dyn Display) -> Response {
    tracing::warn!(%error, "a page for operators cannot be made");
    let text = "It cannot be looked up who may log in; the log says why. Nothing was done.";
    let mut response = message(StatusCode::SERVICE_UNAVAILABLE, "Not now", text, ("/admin/", "Try again"));
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(5));
    response
}

/// A moment, in seconds since 1970.
fn time(seconds: u64) -> Markup {
    let text = rfc3339(seconds * 1000);
    html! { time datetime=(text) { (text) } }
}
