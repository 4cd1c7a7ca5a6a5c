//! `/admin/`: pages for operators. Server-rendered; without scripts they do all but move.
//!
//! | module | knows |
//! |---|---|
//! | `cookie` | signed cookies, and the tokens that forms must carry |
//! | `visit` | one request: who asks, and from where |
//! | `form` | what a form has sent |
//! | `login` | logging in and out |
//! | `checker` | checking passwords, on a thread of its own |
//! | `waiting_room` | who may wait for that |
//! | `attempts` | how often logging in may be tried |
//! | `known` | browsers that have logged in before |
//! | `overview` | what happens now |
//! | `sessions` | looking for sessions, and changing them |
//! | `broadcast` | a notice to all clients |
//! | `notice` | what came of an act |
//! | `page` | what all pages have in common |
//! | `audit` | the log of what operators did |
//! | `refusals` | adding up attempts to log in that were refused |

mod attempts;
mod audit;
mod broadcast;
mod checker;
mod cookie;
mod form;
mod known;
mod login;
mod notice;
mod overview;
mod page;
mod refusals;
mod sessions;
mod visit;
mod waiting_room;

use std::cell::RefCell;
use std::convert::Infallible;

use hyper::body::Incoming;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Method, Request, StatusCode};

use super::progress::Progress;
use super::{Response, error, finish, with_body};
use crate::app::App;
use crate::backplane::RedisSessions;
use crate::proxies::Client;
use crate::sessions::Sessions;
use crate::settings::{SecretKey, Settings};
use crate::superusers::Superusers;
use crate::token::Token;
use crate::worker::Shared;
use checker::Checker;
use refusals::Refusals;
use sessions::Place;
pub(super) use sessions::without_token;
use visit::Visit;

/// The page talks to the service and to nobody else, and nobody shows it in a frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src 'self'; \
                      base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

/// What the pages need beside what all of the worker has.
pub(crate) struct Admin {
    key: SecretKey,
    superusers: Superusers,
    sessions: Sessions,
    checker: Checker,
    refusals: RefCell<Refusals>,
}

impl Admin {
    /// None: the pages are off.
    pub(crate) fn of(settings: &Settings) -> Option<Admin> {
        let key = settings.secret_key.clone()?;
        let sessions = match &settings.redis {
            None => Ok(Sessions::Host),
            Some(redis) => {
                RedisSessions::new(redis, settings.lifetimes()).map(|redis| Sessions::Redis(Box::new(redis)))
            }
        };
        let (sessions, superusers) = match sessions.and_then(|sessions| Ok((sessions, Superusers::of(settings)?))) {
            Ok(both) => both,
            Err(failure) => {
                tracing::error!(%failure, "/admin/ is off: redis cannot be used");
                return None;
            }
        };
        match Checker::start() {
            Ok(checker) => Some(Admin { key, superusers, sessions, checker, refusals: RefCell::default() }),
            Err(error) => {
                tracing::error!(%error, "/admin/ is off: no thread can be started for checking passwords");
                None
            }
        }
    }
}

/// Reports what was added up of attempts to log in that were refused. To be called every second, and at the end.
pub(crate) fn tell_refusals<A: App>(shared: &Shared<A>, at_end: bool) {
    audit::tell_refusals(shared, at_end);
}

/// Whether a path is one of these pages'.
pub(super) fn owns(path: &str) -> bool {
    path.strip_prefix("/admin").is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Answers one request.
pub(super) async fn answer<A: App>(
    shared: &Shared<A>,
    progress: &Progress,
    request: Request<Incoming>,
    request_id: Token,
    client: Client,
) -> Result<Response, Infallible> {
    let (head, body) = request.into_parts();
    let head = Request::from_parts(head, ());
    let mut response = match &shared.admin {
        None => error::error(StatusCode::NOT_FOUND, "admin_off", "/admin/ is off: set SECRET_KEY for the service"),
        Some(admin) => {
            let visit = Visit::new(shared, admin, &head, &request_id, client);
            route(&visit, progress, &head, body).await
        }
    };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    // Not `no-referrer`: with that browsers say that a form comes from nowhere.
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.insert(HeaderName::from_static("cross-origin-opener-policy"), HeaderValue::from_static("same-origin"));
    let mut response = finish(shared, &head, &request_id, client, response);
    progress.answered(&mut response);
    Ok(response)
}

async fn route<A: App>(visit: &Visit<'_, A>, progress: &Progress, head: &Request<()>, body: Incoming) -> Response {
    let path = head.uri().path();
    let (is_get, is_post) = (matches!(*head.method(), Method::GET | Method::HEAD), head.method() == Method::POST);
    match path {
        "/admin" if is_get => return error::redirect("/admin/"),
        "/admin/admin.css" if is_get => {
            let style = concat!(include_str!("theme.css"), include_str!("admin/admin.css"));
            return with_body(StatusCode::OK, "text/css; charset=utf-8", style);
        }
        "/admin/admin.js" if is_get => {
            return with_body(StatusCode::OK, "text/javascript; charset=utf-8", include_str!("admin/admin.js"));
        }
        "/admin" | "/admin/admin.css" | "/admin/admin.js" => return error::method_not_allowed("GET, HEAD"),
        "/admin/login" if is_get => return login::form(visit).await,
        "/admin/login" if is_post => {
            return match form::read(visit, progress, head, body).await {
                Ok(form) => login::log_in(visit, &form).await,
                Err(refusal) => refusal,
            };
        }
        "/admin/login" => return error::method_not_allowed("GET, HEAD, POST"),
        // Also if it cannot be looked up who is logged in.
        "/admin/logout" if is_post => {
            return match form::read_checked(visit, progress, head, body).await {
                Ok(_) => login::log_out(visit).await,
                Err(refusal) => refusal,
            };
        }
        "/admin/logout" => return error::method_not_allowed("POST"),
        _ => {}
    }
    let operator = match visit.operator().await {
        Ok(operator) => operator,
        Err(failure) => return page::unavailable(&failure),
    };
    let Some(operator) = operator else {
        return match path {
            "/admin/live" => error::error(StatusCode::FORBIDDEN, "not_logged_in", "log in at /admin/login"),
            _ if is_get => page::see_other("/admin/login"),
            _ => page::logged_out(),
        };
    };
    match path {
        "/admin/" if is_get => overview::page(visit, &operator),
        "/admin/live" if is_get => overview::live(visit),
        "/admin/" | "/admin/live" => error::method_not_allowed("GET, HEAD"),
        "/admin/broadcast" if is_post => match form::read_checked(visit, progress, head, body).await {
            Ok(form) => broadcast::send(visit, &operator, &form).await,
            Err(refusal) => refusal,
        },
        "/admin/broadcast" => error::method_not_allowed("POST"),
        "/admin/sessions" if is_get => sessions::list(visit, &operator).await,
        "/admin/sessions" => error::method_not_allowed("GET, HEAD"),
        _ => match sessions::place(path) {
            Some(Place::Session(session)) if is_get => sessions::look(visit, &operator, &session).await,
            Some(Place::Session(_)) => error::method_not_allowed("GET, HEAD"),
            Some(Place::Change(session, change)) if is_post => {
                match form::read_checked(visit, progress, head, body).await {
                    Ok(_) => sessions::act(visit, &operator, &session, change).await,
                    Err(refusal) => refusal,
                }
            }
            Some(Place::Change(..)) => error::method_not_allowed("POST"),
            None => page::not_found(&operator),
        },
    }
}
