//! Passwords and their hashes: Argon2id with the parameters that OWASP's Password Storage Cheat Sheet names first (19 MiB,
//! two passes, one lane), which takes some 30 ms of a core.

use std::collections::BTreeSet;
use std::fmt;

use argon2::Argon2;
use argon2::password_hash::{PasswordHasher, PasswordVerifier, phc};
use serde::{Deserialize, Serialize};

use super::Name;

/// The fewest characters of a new password. Length is what counts (NIST SP 800-63B section 5.1.1).
const LEAST: usize = 12;

/// The most bytes: more would be hashed for nothing.
const MOST: usize = 1024;

/// The hash of no password, with the same parameters as those that are made.
const NOBODY: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// The fewest different characters.
const LEAST_DIFFERENT: usize = 5;

/// A password that is good enough for a new one. Its debug text does not show it.
pub struct Password(String);

/// Why it is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PasswordError {
    /// Too short.
    #[error("the password is too short: at least {LEAST} characters, such as four words that belong to no saying")]
    Short,
    /// Too long.
    #[error("the password is longer than {MOST} bytes")]
    Long,
    /// A few characters again and again.
    #[error("the password is too simple: at least {LEAST_DIFFERENT} different characters, and not only digits")]
    Simple,
    /// The name is most of it.
    #[error("the password is the username, or little more")]
    Name,
}

impl Password {
    /// Takes it if it is good enough.
    ///
    /// # Errors
    /// It is not.
    pub fn new(text: String, name: &Name) -> Result<Password, PasswordError> {
        let characters = text.chars().count();
        let rest = text.to_lowercase().replace(&name.as_ref().to_lowercase(), "");
        if characters < LEAST {
            Err(PasswordError::Short)
        } else if text.len() > MOST {
            Err(PasswordError::Long)
        } else if text.chars().collect::<BTreeSet<_>>().len() < LEAST_DIFFERENT
            || text.chars().all(|c| c.is_ascii_digit())
        {
            Err(PasswordError::Simple)
        } else if rest.chars().count() < LEAST / 2 {
            Err(PasswordError::Name)
        } else {
            Ok(Password(text))
        }
    }

    /// Whether this is the same text.
    pub fn is(&self, text: &str) -> bool {
        self.0 == text
    }

    /// With a salt of its own. It takes a while.
    pub fn hash(&self) -> PasswordHash {
        hash(self.0.as_bytes())
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// A hash with its parameters and salt, in the PHC string format: `$argon2id$v=19$m=19456,t=2,p=1$…`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PasswordHash(String);

impl PasswordHash {
    /// Whether this is the password. It takes a while, and as long if there is no such user, whose hash is `None`.
    pub(crate) fn verify(hash: Option<&PasswordHash>, password: &str) -> bool {
        let text = hash.map_or(NOBODY, |PasswordHash(text)| text);
        // No password that was taken is longer, and hashing is not what anybody may have us do for megabytes.
        let password = if password.len() > MOST { "" } else { password };
        let verified = phc::PasswordHash::new(text)
            .is_ok_and(|parsed| Argon2::default().verify_password(password.as_bytes(), &parsed).is_ok());
        verified && hash.is_some()
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

fn hash(password: &[u8]) -> PasswordHash {
    // It fails only for parameters, salts and passwords of impossible lengths.
    let hash = Argon2::default().hash_password(password).map(|hash| hash.to_string());
    PasswordHash(hash.unwrap_or_default())
}
