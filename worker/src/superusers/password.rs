//! Passwords and their hashes: Argon2id with the parameters that OWASP's Password Storage Cheat Sheet names first (19 MiB,
//! two passes, one lane), which takes some 30 ms of a core.

use std::collections::BTreeSet;
use std::{fmt, io};

use argon2::password_hash::{PasswordHasher, phc};
use argon2::{Algorithm, Argon2, Params, Version};
use serde::{Deserialize, Serialize};

use super::Name;
use crate::memory::Blocks;

/// The fewest characters of a new password. Length is what counts (NIST SP 800-63B section 5.1.1).
const LEAST: usize = 12;

/// The most bytes: more would be hashed for nothing.
const MOST: usize = 1024;

/// The hash of no password, with the same parameters as those that are made.
const NOBODY: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// What a hash may ask for: more than ours, for those of a later version, but nothing that would stop the service.
const MOST_MEMORY: u32 = 64 * 1024;
const MOST_PASSES: u32 = 8;
const MOST_LANES: u32 = 4;

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
    /// Reports whether this is the password. It takes a while, and as long if there is no such user, whose hash is `None`,
    /// or if the hash cannot be used, which is logged.
    ///
    /// # Errors
    /// There is no memory for it now.
    pub(crate) fn verify(hash: Option<&PasswordHash>, password: &str) -> io::Result<bool> {
        // No password that was taken is longer, and hashing is not what anybody may have us do for megabytes.
        let password = if password.len() > MOST { "" } else { password };
        let usable = hash.and_then(|PasswordHash(text)| {
            let parsed = Parsed::read(text);
            parsed
                .inspect_err(|error| tracing::error!(%error, "a superuser's hash cannot be used: set a new password"))
                .ok()
        });
        match usable {
            Some(parsed) => parsed.is_of(password),
            None => Parsed::read(NOBODY).map_err(io::Error::other)?.is_of(password).map(|_| false),
        }
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

/// A hash in its parts.
struct Parsed {
    argon2: Argon2<'static>,
    memory: usize,
    salt: phc::Salt,
    output: phc::Output,
}

impl Parsed {
    fn read(text: &str) -> Result<Parsed, String> {
        let parsed = phc::PasswordHash::new(text).map_err(|error| error.to_string())?;
        let algorithm = Algorithm::try_from(parsed.algorithm.as_str()).map_err(|error| error.to_string())?;
        let version = parsed.version.map_or(Ok(Version::default()), Version::try_from);
        let version = version.map_err(|error| error.to_string())?;
        let params = Params::try_from(&parsed).map_err(|error| error.to_string())?;
        if params.m_cost() > MOST_MEMORY || params.t_cost() > MOST_PASSES || params.p_cost() > MOST_LANES {
            return Err(format!("{params:?}: at most {MOST_MEMORY} KiB, {MOST_PASSES} passes and {MOST_LANES} lanes"));
        }
        let (Some(salt), Some(output)) = (parsed.salt, parsed.hash) else {
            return Err("no salt or no hash".to_owned());
        };
        let memory = params.block_count();
        Ok(Parsed { argon2: Argon2::new(algorithm, version, params), memory, salt, output })
    }

    fn is_of(&self, password: &str) -> io::Result<bool> {
        let mut output = vec![0; self.output.len()];
        let blocks = Blocks::map(self.memory)?;
        let hashed = self.argon2.hash_password_into_with_memory(password.as_bytes(), &self.salt, &mut output, blocks);
        hashed.map_err(io::Error::other)?;
        // Compared in a time that does not tell how much of it is right.
        Ok(phc::Output::new(&output).is_ok_and(|output| output == self.output))
    }
}

fn hash(password: &[u8]) -> PasswordHash {
    // It fails only for parameters, salts and passwords of impossible lengths.
    let hash = Argon2::default().hash_password(password).map(|hash| hash.to_string());
    PasswordHash(hash.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_of_one_password() {
        let name = "ada".parse().unwrap();
        let hash = Password::new("correct horse battery".to_owned(), &name).unwrap().hash();
        assert!(PasswordHash::verify(Some(&hash), "correct horse battery").unwrap());
        for wrong in ["", "correct horse batterY", &"x".repeat(MOST + 1)] {
            assert!(!PasswordHash::verify(Some(&hash), wrong).unwrap(), "{wrong}");
        }
        assert!(!PasswordHash::verify(None, "correct horse battery").unwrap());
    }

    #[test]
    fn a_hash_that_cannot_be_used_or_asks_for_too_much_is_of_no_password() {
        let tail = "$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
        for params in ["m=4194304,t=2,p=1", "m=19456,t=4000000,p=1", "m=19456,t=2,p=1000", "m=0,t=2,p=1"] {
            let text = format!("$argon2id$v=19${params}{tail}");
            assert!(Parsed::read(&text).is_err(), "{text}");
            assert!(!PasswordHash::verify(Some(&PasswordHash(text)), "").unwrap());
        }
        for text in ["", "$argon2id$v=19$m=19456,t=2,p=1", "$scrypt$ln=1$AAAA$AAAA", NOBODY.trim_end_matches('A')] {
            assert!(!PasswordHash::verify(Some(&PasswordHash(text.to_owned())), "").unwrap(), "{text}");
        }
        assert!(Parsed::read(&format!("$argon2id$v=19$m=32768,t=3,p=1{tail}")).is_ok());
    }
}
