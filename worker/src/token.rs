//! Session tokens and request ids: 1 to 64 characters of `A-Za-z0-9._-`.
//!
//! Whoever knows a session's token may use the session. So tokens and keys have no `Display`: text that may become part of a log
//! has the [`Fingerprint`], and what is for the client or an operator asks for the spelling by name.

use std::fmt;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::rc::Rc;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

/// The longest token, in characters.
pub const MAX_TOKEN: usize = 64;

/// A session's name. A UUID in its usual spelling is kept in its 16 bytes, since most tokens are one and every
/// connection holds two.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Token {
    /// Spelled in lower case with hyphens.
    Uuid(Uuid),
    /// Anything else that is allowed.
    Text(Rc<str>),
}

/// How programs spell a value that is missing, in any case: JavaScript, JSON and SQL, numbers, Python, Go, Ruby and Lua.
const MISSING: [&str; 5] = ["null", "undefined", "NaN", "None", "nil"];

/// Why a text is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Empty, or longer than [`MAX_TOKEN`].
    #[error("must be 1 to {MAX_TOKEN} characters long, not {0}")]
    Length(usize),
    /// A character that is not allowed.
    #[error("may hold only A-Z a-z 0-9 . _ -")]
    Character,
    /// One of the names of a missing value as a session: all clients with that mistake would share it.
    #[error("must not be {0:?}: that is the text of a missing value, which clients would share by mistake")]
    Missing(&'static str),
    /// `.` or `..` as a session: URLs cannot end in one.
    #[error("must not be {0:?}: browsers and proxies remove it from the paths of URLs")]
    Dots(&'static str),
}

impl Token {
    /// A new random one (UUIDv4).
    pub fn random() -> Token {
        Token::Uuid(Uuid::new_v4())
    }

    /// Reads the token of a session that a client names. Refuses more than [`FromStr`], which reads request ids as well, and
    /// what a store has kept.
    pub fn of_session(text: &str) -> Result<Token, TokenError> {
        if let Some(dots) = [".", ".."].into_iter().find(|dots| *dots == text) {
            return Err(TokenError::Dots(dots));
        }
        match MISSING.into_iter().find(|missing| missing.eq_ignore_ascii_case(text)) {
            Some(missing) => Err(TokenError::Missing(missing)),
            None => text.parse(),
        }
    }

    /// All of it, as it came: for its client, for operators who ask for it, and for where it is kept. Never for a log.
    pub fn spelling(&self) -> String {
        match self {
            Token::Uuid(uuid) => uuid.to_string(),
            Token::Text(text) => text.to_string(),
        }
    }

    /// What stands for it in a log.
    pub fn fingerprint(&self) -> Fingerprint {
        match self {
            Token::Uuid(uuid) => {
                Fingerprint::new(uuid.hyphenated().encode_lower(&mut Uuid::encode_buffer()).as_bytes())
            }
            Token::Text(text) => Fingerprint::new(text.as_bytes()),
        }
    }

    /// The key under which a store keeps it: one byte of kind, then the shortest spelling.
    pub fn key(&self) -> Key {
        let (kind, spelling) = match self {
            Token::Uuid(uuid) => (b'u', uuid.as_bytes().as_slice()),
            Token::Text(text) => (b't', text.as_bytes()),
        };
        let mut bytes = [0; 1 + MAX_TOKEN];
        bytes[0] = kind;
        bytes[1..=spelling.len()].copy_from_slice(spelling);
        Key { bytes, length: 1 + spelling.len() }
    }
}

/// Stands for a token in logs: the first 12 hexadecimal digits of the SHA-256 of its spelling.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([u8; 6]);

impl Fingerprint {
    /// Of a token that is spelled so.
    pub fn new(spelling: &[u8]) -> Fingerprint {
        let digest = Sha256::digest(spelling);
        Fingerprint(std::array::from_fn(|i| digest[i]))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for Token {
    /// Its fingerprint.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({})", self.fingerprint())
    }
}

/// The bytes of [`Token::key`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Key {
    bytes: [u8; 1 + MAX_TOKEN],
    length: usize,
}

impl Key {
    /// From the bytes of one; none, if they cannot be.
    pub fn from_bytes(given: &[u8]) -> Option<Key> {
        let mut bytes = [0; 1 + MAX_TOKEN];
        bytes.get_mut(..given.len())?.copy_from_slice(given);
        Some(Key { bytes, length: given.len() })
    }

    /// The token's spelling. Never for a log.
    pub(crate) fn spelling(&self) -> String {
        let mut spelling = Vec::with_capacity(MAX_TOKEN);
        self.spell(&mut spelling);
        String::from_utf8_lossy(&spelling).into_owned()
    }

    /// The token's fingerprint.
    pub(crate) fn fingerprint(&self) -> Fingerprint {
        let mut spelling = Vec::with_capacity(MAX_TOKEN);
        self.spell(&mut spelling);
        Fingerprint::new(&spelling)
    }

    /// Appends the token's spelling.
    pub(crate) fn spell(&self, to: &mut Vec<u8>) {
        match self.as_ref() {
            [b'u', uuid @ ..] if uuid.len() == 16 => {
                let uuid = Uuid::from_slice(uuid).unwrap_or_default();
                to.extend_from_slice(uuid.hyphenated().encode_lower(&mut Uuid::encode_buffer()).as_bytes());
            }
            [_, text @ ..] => to.extend_from_slice(text),
            [] => {}
        }
    }

    /// FNV-1a of it. It must never change: names in Redis are made of it.
    pub(crate) fn digest(&self) -> u32 {
        let mix = |hash: u32, byte: &u8| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
        self.as_ref().iter().fold(0x811c_9dc5, mix)
    }
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u32(self.digest());
    }
}

/// For maps by [`Key`]: its digest as it is, spread over all bits. Hashing it once more would keep nobody from choosing tokens of
/// one digest.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Digest(u64);

/// Makes them.
pub(crate) type Digests = BuildHasherDefault<Digest>;

impl Hasher for Digest {
    fn write_u32(&mut self, digest: u32) {
        // Of the golden ratio: the bits that a map looks at are the lowest and the highest.
        self.0 = u64::from(digest).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl fmt::Debug for Key {
    /// The token's fingerprint.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.fingerprint())
    }
}

impl AsRef<[u8]> for Key {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Token, TokenError> {
        if text.is_empty() || text.len() > MAX_TOKEN {
            return Err(TokenError::Length(text.chars().count()));
        }
        if !text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-')) {
            return Err(TokenError::Character);
        }
        // Only the usual spelling: another one is another token, as it is for whoever chose it.
        let usual = text.len() == 36 && !text.bytes().any(|b| b.is_ascii_uppercase());
        match Uuid::try_parse(text) {
            Ok(uuid) if usual => Ok(Token::Uuid(uuid)),
            _ => Ok(Token::Text(text.into())),
        }
    }
}

impl From<Token> for String {
    fn from(token: Token) -> String {
        token.spelling()
    }
}

impl TryFrom<String> for Token {
    type Error = TokenError;

    fn try_from(text: String) -> Result<Token, TokenError> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_the_usual_spelling_is_a_uuid() {
        let usual = "67e55044-10b1-426f-9247-bb680e5fe0c8";
        assert!(matches!(usual.parse(), Ok(Token::Uuid(_))));
        for other in [usual.to_uppercase(), usual.replace('-', ""), "abc123".into()] {
            assert!(matches!(other.parse(), Ok(Token::Text(_))), "{other}");
        }
        assert!(matches!(Token::random(), Token::Uuid(uuid) if uuid.get_version_num() == 4));
    }

    #[test]
    fn what_is_no_token_is_told_why() {
        assert_eq!("".parse::<Token>(), Err(TokenError::Length(0)));
        assert_eq!("x".repeat(65).parse::<Token>(), Err(TokenError::Length(65)));
        for bad in ["a b", "a/b", "é", "a\n", "%41"] {
            assert_eq!(bad.parse::<Token>(), Err(TokenError::Character), "{bad:?}");
        }
    }

    #[test]
    fn what_is_logged_is_the_beginning_of_the_sha_256() {
        // printf %s abc123 | sha256sum
        let token: Token = "abc123".parse().unwrap();
        assert_eq!(token.fingerprint().to_string(), "6ca13d52ca70");
        for debug in [format!("{token:?}"), format!("{:?}", token.key()), format!("{:?}", Some(&token))] {
            assert!(debug.contains("6ca13d52ca70") && !debug.contains("abc123"), "{debug}");
        }
        let uuid: Token = "67e55044-10b1-426f-9247-bb680e5fe0c8".parse().unwrap();
        assert!(!format!("{uuid:?}{:?}", uuid.key()).contains("10b1"));
    }

    #[test]
    fn a_session_is_not_named_by_mistake() {
        for missing in ["null", "undefined", "NaN", "None", "nil", "NULL", "nan", "none", "Nil"] {
            assert!(matches!(Token::of_session(missing), Err(TokenError::Missing(_))), "{missing}");
            assert!(missing.parse::<Token>().is_ok(), "{missing} is a request id");
        }
        for dots in [".", ".."] {
            assert_eq!(Token::of_session(dots), Err(TokenError::Dots(dots)));
            assert!(dots.parse::<Token>().is_ok(), "{dots} is a request id");
        }
        assert_eq!(Token::of_session(""), Err(TokenError::Length(0)));
        for fine in ["...", "null1", "nullable", "-.", "nobody", "0"] {
            assert_eq!(Token::of_session(fine), fine.parse(), "{fine}");
        }
    }

    proptest! {
        #[test]
        fn a_token_is_spelled_as_it_came_and_keys_never_collide(a in "[A-Za-z0-9._-]{1,64}", b in "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}") {
            let (a_token, b_token): (Token, Token) = (a.parse().unwrap(), b.parse().unwrap());
            prop_assert_eq!(a_token.spelling(), a.clone());
            prop_assert_eq!(b_token.spelling(), b.clone());
            for token in [&a_token, &b_token] {
                prop_assert_eq!(token.fingerprint(), Fingerprint::new(token.spelling().as_bytes()));
                prop_assert_eq!(token.fingerprint(), token.key().fingerprint());
            }
            prop_assert_eq!(a_token.key().as_ref() == b_token.key().as_ref(), a == b);
            prop_assert_eq!(a_token.key().spelling(), a.clone());
            prop_assert_eq!(b_token.key().spelling(), b.clone());
        }
    }
}
