//! One request: who asks, and from where.

use std::net::IpAddr;

use hyper::Request;
use hyper::header::{self, HeaderMap, HeaderValue};

use super::cookie::{self, Cookie};
use super::known::{self, Known};
use super::{Admin, Response};
use crate::app::App;
use crate::backplane::BackplaneError;
use crate::heartbeat::wall_ms;
use crate::proxies::Client;
use crate::superusers::{Name, SuperuserError};
use crate::token::Token;
use crate::worker::Shared;

pub(super) struct Visit<'a, A: App> {
    pub(super) shared: &'a Shared<A>,
    pub(super) admin: &'a Admin,
    /// The client's address; none: it came over a Unix socket.
    pub(super) address: Option<IpAddr>,
    pub(super) request_id: &'a Token,
    pub(super) cookie: Option<Cookie>,
    pub(super) query: Option<&'a str>,
    headers: &'a HeaderMap,
    /// The client speaks TLS: its cookie must not travel otherwise.
    secure: bool,
}

/// Somebody who is logged in.
pub(super) struct Operator {
    pub(super) name: Name,
    /// What forms must carry.
    pub(super) form_token: String,
}

/// Why it is not known who is logged in.
#[derive(Debug, thiserror::Error)]
pub(super) enum LookupError {
    #[error(transparent)]
    Superuser(#[from] SuperuserError),
    #[error("logins that were ended cannot be looked up: {0}")]
    Store(#[from] BackplaneError),
}

impl<'a, A: App> Visit<'a, A> {
    pub(super) fn new(
        shared: &'a Shared<A>,
        admin: &'a Admin,
        head: &'a Request<()>,
        request_id: &'a Token,
        client: Client,
    ) -> Visit<'a, A> {
        let headers = head.headers();
        let cookie = given_cookie(headers, cookie::NAME);
        let cookie = cookie.and_then(|sealed| Cookie::open(&admin.key, sealed, now()));
        Visit {
            shared,
            admin,
            address: client.address(),
            request_id,
            cookie,
            query: head.uri().query(),
            headers,
            secure: client.tls,
        }
    }

    /// Who is logged in, if anybody.
    pub(super) async fn operator(&self) -> Result<Option<Operator>, LookupError> {
        let key = &self.admin.key;
        let Some(((cookie, user), login)) =
            self.cookie.as_ref().and_then(|cookie| Some(((cookie, cookie.user.as_ref()?), cookie.login(key)?)))
        else {
            return Ok(None);
        };
        if self.shared.hub.borrow_mut().backplane.host().is_ended(login)? {
            return Ok(None);
        }
        let superuser = self.admin.superusers.find_login(&user.name, login.number).await?;
        let stands = superuser.is_some_and(|superuser| user.has(key, &superuser.hash));
        let operator = || Operator { name: user.name.clone(), form_token: cookie.form_token(key) };
        Ok(stands.then(operator))
    }

    /// A parameter of the query.
    pub(super) fn asks(&self, name: &str) -> Option<String> {
        let mut pairs = form_urlencoded::parse(self.query.unwrap_or_default().as_bytes());
        pairs.find(|(given, _)| given == name).map(|(_, value)| value.into_owned())
    }

    /// Whether the browser has logged in as this user before.
    pub(super) fn known(&self, user: &Name) -> Option<Known> {
        let sealed = given_cookie(self.headers, &Known::cookie_name(&self.admin.key, user))?;
        Known::open(&self.admin.key, sealed, user, now())
    }

    /// Has the browser keep a cookie.
    pub(super) fn give(&self, cookie: &Cookie, response: Response) -> Response {
        let age = cookie.expires.saturating_sub(now());
        self.set_cookie(cookie::NAME, &cookie.seal(&self.admin.key), age, response)
    }

    /// Has the browser keep what it is known by.
    pub(super) fn remember(&self, known: &Known, response: Response) -> Response {
        let name = Known::cookie_name(&self.admin.key, known.name());
        self.set_cookie(&name, &known.seal(&self.admin.key), known::LIFE, response)
    }

    /// Has the browser forget that it was logged in.
    pub(super) fn take_back(&self, response: Response) -> Response {
        self.set_cookie(cookie::NAME, "", 0, response)
    }

    fn set_cookie(&self, name: &str, value: &str, age: u64, mut response: Response) -> Response {
        let secure = if self.secure { "; Secure" } else { "" };
        let text = format!("{name}={value}; Path=/admin/; Max-Age={age}; HttpOnly; SameSite=Strict{secure}");
        if let Ok(value) = HeaderValue::from_str(&text) {
            response.headers_mut().append(header::SET_COOKIE, value);
        }
        response
    }

    /// The client's address for logs.
    pub(super) fn from(&self) -> String {
        self.address.map_or_else(|| "unix".to_owned(), |address| address.to_string())
    }
}

/// The first cookie of this name.
fn given_cookie<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let fields = headers.get_all(header::COOKIE).iter().filter_map(|field| field.to_str().ok());
    let mut pairs = fields.flat_map(|field| field.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(given, _)| *given == name).map(|(_, value)| value)
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    wall_ms() / 1000
}
