//! The cookie of `/admin/`: what it says is signed, so that nobody else can make one, and nothing of it is kept here. It
//! is as good on every worker and host with the same key, and after every restart.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use crate::backplane::Login;
use crate::settings::SecretKey;
use crate::superusers::{Name, PasswordHash};
use crate::token::Token;

/// Its name.
pub(super) const NAME: &str = "baton_admin";

/// The purpose of its signature.
const PURPOSE: &str = "cookie";

/// How long one that was given with a login form is good, in seconds.
const FORM_LIFE: u64 = 3600;

/// How long an operator stays logged in, in seconds: a working day.
pub(super) const SESSION_LIFE: u64 = 10 * 3600;

/// A larger one is none of ours.
const MAX_LENGTH: usize = 1024;

/// What a cookie says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Cookie {
    /// Who is logged in; none: somebody who sees the login form.
    #[serde(rename = "u", skip_serializing_if = "Option::is_none", default)]
    pub(super) user: Option<User>,
    /// Never used twice.
    #[serde(rename = "n")]
    pub(super) nonce: Token,
    /// Until when it is good (seconds since 1970).
    #[serde(rename = "e")]
    pub(super) expires: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct User {
    #[serde(rename = "n")]
    pub(super) name: Name,
    /// Made of the password's hash: with another password, or without the user, it means nothing any more.
    #[serde(rename = "p")]
    mark: String,
}

impl Cookie {
    /// For somebody who sees the login form.
    pub(super) fn for_form(now: u64) -> Cookie {
        Cookie { user: None, nonce: Token::random(), expires: now + FORM_LIFE }
    }

    /// For somebody who has logged in.
    pub(super) fn for_user(key: &SecretKey, name: &Name, hash: &PasswordHash, now: u64) -> Cookie {
        let user = User { name: name.clone(), mark: mark(key, name, hash) };
        Cookie { user: Some(user), nonce: Token::random(), expires: now + SESSION_LIFE }
    }

    /// The login, if somebody is logged in: what ends when they log out.
    pub(super) fn login(&self, key: &SecretKey) -> Option<Login> {
        let number = |purpose: &str, text: &str| number(key, purpose, &[text.as_bytes()]);
        let user = self.user.as_ref()?;
        let (login, user) = (number("login", &self.nonce.spelling()), number("logins of", user.name.as_ref()));
        Some(Login { number: login, user, expires: self.expires })
    }

    /// As the browser keeps it.
    pub(super) fn seal(&self, key: &SecretKey) -> String {
        seal(key, PURPOSE, self)
    }

    /// What it says, if we have made it and it is still good.
    pub(super) fn open(key: &SecretKey, sealed: &str, now: u64) -> Option<Cookie> {
        open(key, PURPOSE, sealed).filter(|cookie: &Cookie| now < cookie.expires)
    }

    /// What forms carry for whoever has this cookie: another page cannot know it.
    pub(super) fn form_token(&self, key: &SecretKey) -> String {
        sign(key, "form", &[self.nonce.spelling().as_bytes()])
    }

    /// Whether a form's token is that of this cookie.
    pub(super) fn accepts(&self, key: &SecretKey, form_token: &str) -> bool {
        is_signed(key, "form", &[self.nonce.spelling().as_bytes()], form_token)
    }
}

impl User {
    /// Whether the user's password is still the one that was logged in with.
    pub(super) fn has(&self, key: &SecretKey, hash: &PasswordHash) -> bool {
        is_signed(key, "password", &[self.name.as_ref().as_bytes(), hash.as_bytes()], &self.mark)
    }
}

fn mark(key: &SecretKey, name: &Name, hash: &PasswordHash) -> String {
    sign(key, "password", &[name.as_ref().as_bytes(), hash.as_bytes()])
}

/// Writes what a cookie says, with a signature for this purpose.
pub(super) fn seal(key: &SecretKey, purpose: &str, says: &impl Serialize) -> String {
    let text = BASE64_URL_SAFE_NO_PAD.encode(serde_json::to_vec(says).unwrap_or_default());
    let signature = sign(key, purpose, &[text.as_bytes()]);
    format!("{text}.{signature}")
}

/// Reads what a cookie says, if we have signed it for this purpose.
pub(super) fn open<T: DeserializeOwned>(key: &SecretKey, purpose: &str, sealed: &str) -> Option<T> {
    let (text, signature) = sealed.split_once('.').filter(|_| sealed.len() <= MAX_LENGTH)?;
    if !is_signed(key, purpose, &[text.as_bytes()], signature) {
        return None;
    }
    serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(text).ok()?).ok()
}

/// HMAC-SHA256 over these parts. What it is for is the first of them, so that no signature can be used for something else.
fn mac(key: &SecretKey, purpose: &str, parts: &[&[u8]]) -> Option<Hmac<Sha256>> {
    // A key may have any length (RFC 2104).
    let mut mac = Hmac::<Sha256>::new_from_slice(key.bytes()).ok()?;
    for part in std::iter::once(purpose.as_bytes()).chain(parts.iter().copied()) {
        mac.update(&(part.len() as u64).to_le_bytes());
        mac.update(part);
    }
    Some(mac)
}

/// Base64, for URLs.
pub(super) fn sign(key: &SecretKey, purpose: &str, parts: &[&[u8]]) -> String {
    mac(key, purpose, parts).map_or_else(String::new, |mac| BASE64_URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()))
}

/// The first 64 bits of a signature: a number that nobody without the key can foresee, or bring about.
pub(super) fn number(key: &SecretKey, purpose: &str, parts: &[&[u8]]) -> u64 {
    let first = |mac: Hmac<Sha256>| mac.finalize().into_bytes().first_chunk::<8>().copied();
    mac(key, purpose, parts).and_then(first).map_or(0, u64::from_be_bytes)
}

/// In a time that does not tell how much of the signature is right.
fn is_signed(key: &SecretKey, purpose: &str, parts: &[&[u8]], signature: &str) -> bool {
    let Ok(signature) = BASE64_URL_SAFE_NO_PAD.decode(signature) else { return false };
    mac(key, purpose, parts).is_some_and(|mac| mac.verify_slice(&signature).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::superusers::Password;

    fn key(text: &str) -> SecretKey {
        SecretKey::new(text).unwrap()
    }

    #[test]
    fn a_cookie_is_believed_if_it_is_ours_and_still_good() {
        let ours = key("3f9a1c07be524d68");
        let cookie = Cookie::for_form(1000);
        let sealed = cookie.seal(&ours);
        assert_eq!(Cookie::open(&ours, &sealed, 1000), Some(cookie.clone()));
        assert_eq!(Cookie::open(&ours, &sealed, cookie.expires - 1), Some(cookie.clone()));
        assert_eq!(Cookie::open(&ours, &sealed, cookie.expires), None);
        assert_eq!(Cookie::open(&key("3f9a1c07be524d69"), &sealed, 1000), None);
        let (text, signature) = sealed.split_once('.').unwrap();
        for forged in ["", ".", text, &format!("{text}."), &format!("{text}A.{signature}"), &format!("{text}.{text}")] {
            assert_eq!(Cookie::open(&ours, forged, 1000), None, "{forged}");
        }
        // A signature for something else is none for a cookie.
        let form_token = cookie.form_token(&ours);
        assert_eq!(Cookie::open(&ours, &format!("{}.{form_token}", cookie.nonce.spelling()), 1000), None);
    }

    #[test]
    fn a_form_belongs_to_a_cookie() {
        let ours = key("3f9a1c07be524d68");
        let (mine, other) = (Cookie::for_form(0), Cookie::for_form(0));
        assert!(mine.accepts(&ours, &mine.form_token(&ours)));
        assert!(!mine.accepts(&ours, &other.form_token(&ours)) && !mine.accepts(&ours, ""));
    }

    #[test]
    fn a_login_is_worth_as_much_as_its_password() {
        let ours = key("3f9a1c07be524d68");
        let name: Name = "ada".parse().unwrap();
        let hash = || Password::new("correct horse battery".to_owned(), &name).unwrap().hash();
        let (first, second) = (hash(), hash());
        let cookie = Cookie::for_user(&ours, &name, &first, 0);
        let user = Cookie::open(&ours, &cookie.seal(&ours), 0).unwrap().user.unwrap();
        assert!(user.has(&ours, &first) && !user.has(&ours, &second), "the same password, set anew");
        assert!(!User { name: "bob".parse().unwrap(), ..user }.has(&ours, &first));
    }
}
