//! Recognises a browser that has logged in as a user before, by a cookie that it keeps for longer than a login.
//!
//! It allows nothing: the password is asked for as ever. It only has the browser's attempts counted apart from those of
//! strangers, who can thus use up what is allowed for a name, but not lock its user out (OWASP's "device cookies"). It is
//! bound to the name and the secret key. It outlives logging out, and another password: whoever changes a password because
//! somebody is guessing must not be locked out by that; what a stolen one is worth is the few attempts of its own buckets.

use serde::{Deserialize, Serialize};

use super::cookie::{number, open, seal, sign};
use crate::settings::SecretKey;
use crate::superusers::Name;
use crate::token::Token;

/// What a cookie's name begins with; then comes something of the user's name, so that a browser can be known for several.
const NAME: &str = "baton_known_";

/// The purpose of its signature.
const PURPOSE: &str = "known";

/// How long it is good, in seconds: 180 days, from the last login on.
pub(super) const LIFE: u64 = 180 * 24 * 3600;

/// A browser that has logged in before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Known {
    #[serde(rename = "u")]
    user: Name,
    /// The browser: the same after every login of this user.
    #[serde(rename = "b")]
    browser: Token,
    /// Until when it is good (seconds since 1970).
    #[serde(rename = "e")]
    expires: u64,
}

impl Known {
    /// For a browser that has just logged in; `before` is what it was known by.
    pub(super) fn after_login(user: &Name, before: Option<&Known>, now: u64) -> Known {
        let browser = before.filter(|before| before.user == *user).map(|before| before.browser.clone());
        Known { user: user.clone(), browser: browser.unwrap_or_else(Token::random), expires: now + LIFE }
    }

    /// The name of the cookie for a user.
    pub(super) fn cookie_name(key: &SecretKey, user: &Name) -> String {
        let mut name = sign(key, "known name", &[user.as_ref().as_bytes()]);
        name.truncate(12);
        format!("{NAME}{name}")
    }

    /// As the browser keeps it.
    pub(super) fn seal(&self, key: &SecretKey) -> String {
        seal(key, PURPOSE, self)
    }

    /// What it says, if we have made it for this user and it is still good.
    pub(super) fn open(key: &SecretKey, sealed: &str, user: &Name, now: u64) -> Option<Known> {
        open(key, PURPOSE, sealed).filter(|known: &Known| known.user == *user && now < known.expires)
    }

    pub(super) fn name(&self) -> &Name {
        &self.user
    }

    pub(super) fn browser(&self) -> String {
        self.browser.spelling()
    }

    /// A number of its own, for the waiting room.
    pub(super) fn number(&self, key: &SecretKey) -> u64 {
        number(key, "known place", &[self.user.as_ref().as_bytes(), self.browser().as_bytes()])
    }
}

#[cfg(test)]
mod tests {
    use super::super::cookie::Cookie;
    use super::*;

    #[test]
    fn a_browser_is_known_for_one_user_for_half_a_year() {
        let (ours, other) = (SecretKey::new("3f9a1c07be524d68").unwrap(), SecretKey::new("3f9a1c07be524d69").unwrap());
        let (ada, bob): (Name, Name) = ("ada".parse().unwrap(), "bob".parse().unwrap());
        let known = Known::after_login(&ada, None, 1000);
        let sealed = known.seal(&ours);
        assert_eq!(Known::open(&ours, &sealed, &ada, 1000 + LIFE - 1), Some(known.clone()));
        assert_eq!(Known::open(&ours, &sealed, &ada, 1000 + LIFE), None);
        assert_eq!(Known::open(&ours, &sealed, &bob, 1000), None);
        assert_eq!(Known::open(&other, &sealed, &ada, 1000), None);
        assert_eq!(Known::open(&ours, &format!("{sealed}A"), &ada, 1000), None);
        // Neither is good for the other.
        assert_eq!(Known::open(&ours, &Cookie::for_form(1000).seal(&ours), &ada, 1000), None);
        assert_eq!(Cookie::open(&ours, &sealed, 1000), None);
    }

    #[test]
    fn a_browser_stays_the_same_and_each_user_has_a_cookie() {
        let key = SecretKey::new("3f9a1c07be524d68").unwrap();
        let (ada, bob): (Name, Name) = ("ada".parse().unwrap(), "bob".parse().unwrap());
        let first = Known::after_login(&ada, None, 0);
        let again = Known::after_login(&ada, Some(&first), 500);
        assert_eq!((first.number(&key), again.expires), (again.number(&key), 500 + LIFE));
        assert_ne!(Known::after_login(&bob, Some(&first), 0).browser(), first.browser());
        assert_ne!(Known::cookie_name(&key, &ada), Known::cookie_name(&key, &bob));
    }
}
