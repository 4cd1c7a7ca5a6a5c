//! What a worker is told. Validated before it gets here.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use crate::lifetimes::Lifetimes;

/// Plain values; a worker reads no configuration itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Which generation this is: `blue` or `green`.
    pub color: String,
    /// Version of this binary, for `/status`.
    pub version: &'static str,
    /// How often every connection gets `{"ts":…}`, at wall-clock multiples.
    pub heartbeat_interval: Duration,
    /// How long a drain may take that nobody gives a time for: when the supervisor is gone.
    pub drain_timeout: Duration,
    /// How long a session is kept after its last message and its last connection.
    pub session_ttl: Duration,
    /// The same of a session of one message; never longer than `session_ttl`.
    pub new_session_ttl: Duration,
    /// Directory of the embedded store.
    pub state_dir: PathBuf,
    /// The most the embedded store may grow to, in bytes.
    pub store_max_size: u64,
    /// How often the embedded store is copied to a checkpoint that survives a power loss.
    pub checkpoint_interval: Duration,
    /// Where Redis is, if it is the backplane; none: the embedded store is.
    pub redis: Option<crate::redis::Settings>,
    /// What the test page dials, without a path: `ws://localhost:8000`.
    pub ws_base_url: String,
    /// Signs the cookies of `/admin/`; none: it is off.
    pub secret_key: Option<SecretKey>,
    /// Web pages that may connect; empty: any.
    pub allowed_origins: Vec<crate::Origin>,
    /// Developers use it: browsers that ask for `/` are sent to the test page.
    pub debug: bool,
    /// Who is believed when it says for whom it sends a request; empty: nobody.
    pub trusted_proxies: Vec<crate::Proxy>,
    /// What the clients of one address may have.
    pub per_address: PerAddress,
    /// Reconnect hints are spread evenly over this time.
    pub retry_spread: Duration,
    /// What one client, and all of them together, may use.
    pub limits: Limits,
}

impl Settings {
    /// How long sessions are kept.
    pub(crate) fn lifetimes(&self) -> Lifetimes {
        Lifetimes::new(self.session_ttl, self.new_session_ttl)
    }
}

/// Text that only this service knows. Its debug text does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretKey(Rc<str>);

impl SecretKey {
    /// The fewest characters: a cookie lets whoever has one try keys for as long as he likes.
    pub const LEAST: usize = 16;

    /// The fewest different characters: 16 random hexadecimal digits have fewer in three of 100,000 keys.
    pub const LEAST_DIFFERENT: usize = 6;

    /// Takes a text that may be random.
    ///
    /// # Errors
    /// It cannot be, for the reason that is returned.
    pub fn new(text: &str) -> Result<SecretKey, WeakKey> {
        weakness(text).map_or_else(|| Ok(SecretKey(text.into())), Err)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

/// Why a text is no secret key: somebody who has a cookie could find it by trying. The text itself is not shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WeakKey {
    /// Fewer than [`SecretKey::LEAST`] characters.
    #[error("it has {0} characters")]
    Short(usize),
    /// Fewer than [`SecretKey::LEAST_DIFFERENT`] different characters.
    #[error("it has only {0} different characters")]
    Uniform(usize),
    /// One part, shorter than [`SecretKey::LEAST`], over and over.
    #[error("it repeats its first {0} characters")]
    Repeated(usize),
    /// Most characters follow from the one before, as in `abcdef` or `9876`.
    #[error("it is a sequence of neighbouring characters")]
    Sequence,
    /// It holds words of a template.
    #[error("it holds {0:?}, as templates and examples do")]
    Template(&'static str),
}

/// What stands in templates where a key is to be, in lower case and without punctuation.
const TEMPLATES: [&str; 9] = [
    "changeme",
    "changethis",
    "replaceme",
    "djangoinsecure",
    "yoursecret",
    "secretkey",
    "supersecret",
    "placeholder",
    "password",
];

fn weakness(text: &str) -> Option<WeakKey> {
    let characters: Vec<char> = text.chars().collect();
    let length = characters.len();
    if length < SecretKey::LEAST {
        return Some(WeakKey::Short(length));
    }
    let different = characters.iter().collect::<BTreeSet<_>>().len();
    if different < SecretKey::LEAST_DIFFERENT {
        return Some(WeakKey::Uniform(different));
    }
    let repeats = |part: &usize| characters.iter().zip(&characters[*part..]).all(|(earlier, later)| earlier == later);
    if let Some(part) = (1..SecretKey::LEAST.min(length)).find(repeats).filter(|part| 2 * part <= length) {
        return Some(WeakKey::Repeated(part));
    }
    let neighbours = characters.windows(2).filter(|pair| u32::from(pair[0]).abs_diff(pair[1].into()) <= 1).count();
    if 2 * neighbours > length {
        return Some(WeakKey::Sequence);
    }
    let letters: String = text.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect();
    TEMPLATES.into_iter().find(|template| letters.contains(template)).map(WeakKey::Template)
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// What the clients of one address (of IPv6 one /64) may have, of all workers together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PerAddress {
    /// Connections at once, HTTP and WebSockets; none: any number.
    pub connections: Option<u32>,
    /// New sessions a minute, which may come at once; none: any number.
    pub new_sessions: Option<u32>,
    /// Networks to which these limits do not apply.
    pub exempt: Vec<crate::Network>,
}

/// The bounds of one worker.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// WebSockets of one worker; none: as many as it may have descriptors.
    pub max_connections: Option<usize>,
    /// Bytes of one message; a larger one closes 1009.
    pub max_message_size: usize,
    /// Frames of one message; more close 1008.
    pub max_fragments: u32,
    /// Frames a second from one connection; more close 1008. 0: no limit.
    pub max_message_rate: u32,
    /// Bytes of output waiting for one client; more close 1008. The kernel holds twice as much for it at most.
    pub max_output: usize,
    /// Bytes that all connections of the worker together may hold in unfinished messages and waiting output.
    pub max_buffer_memory: usize,
    /// How long a client may take for the head of its request.
    pub handshake_timeout: Duration,
    /// How long an HTTP connection may wait for its next request.
    pub keep_alive_timeout: Duration,
    /// Bytes of a request's head; a larger one is 431.
    pub max_header_size: usize,
    /// HTTP connections open at once; over it the oldest is dropped, once it is older than a second.
    pub max_handshakes: usize,
    /// How long a client may leave output untaken before it is closed 1008, or reset if it is no WebSocket.
    pub write_timeout: Duration,
    /// How long a client may take from the first byte of a message to its last before it is closed 1008.
    pub message_timeout: Duration,
    /// How long a client may take to answer a close.
    pub close_timeout: Duration,
    /// `TCP_USER_TIMEOUT`: how long sent data may stay unacknowledged.
    pub user_timeout: Duration,
    /// How often to ping; a client silent from one ping to the next is closed. None: the heartbeat is the only probe.
    pub ping_interval: Option<Duration>,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            max_connections: None,
            max_message_size: 1024 * 1024,
            max_fragments: 1024,
            max_message_rate: 10_000,
            max_output: 256 * 1024,
            max_buffer_memory: 64 * 1024 * 1024,
            handshake_timeout: Duration::from_secs(10),
            keep_alive_timeout: Duration::from_secs(75),
            max_header_size: 16 * 1024,
            max_handshakes: 4096,
            write_timeout: Duration::from_secs(30),
            message_timeout: Duration::from_secs(60),
            close_timeout: Duration::from_secs(5),
            user_timeout: Duration::from_secs(60),
            ping_interval: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_key_that_could_be_guessed_is_refused_with_its_weakness() {
        for (text, expected) in [
            ("", WeakKey::Short(0)),
            ("k3Y-of-15-chars", WeakKey::Short(15)),
            ("aaaaaaaaaaaaaaaaaaaaaaaa", WeakKey::Uniform(1)),
            ("0000000000000000000000000001", WeakKey::Uniform(2)),
            ("hunter2-hunter2-hunter2", WeakKey::Repeated(8)),
            ("qwertzuiopqwertzuiop", WeakKey::Repeated(10)),
            ("abcdefghijklmnop", WeakKey::Sequence),
            ("12345678abcdefgh", WeakKey::Sequence),
            ("ChangeMe-ChangeMe!", WeakKey::Template("changeme")),
            ("django-insecure-9$k2mcx!o4f", WeakKey::Template("djangoinsecure")),
            ("your_secret_key_goes_here", WeakKey::Template("yoursecret")),
            ("my-SECRET_KEY-for-baton", WeakKey::Template("secretkey")),
        ] {
            assert_eq!(SecretKey::new(text), Err(expected), "{text}");
        }
        for text in ["a key that is for tests alone", "YqfQ2v0ZLQ4yU2mU", "3f9a1c07be524d68", "ключ-который-случаен"]
        {
            assert!(SecretKey::new(text).is_ok(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn random_keys_are_taken(bytes: [u8; 32]) {
            let hexadecimal: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            // As `openssl rand -hex 32`; shrunk ones are not random.
            let different = bytes.iter().collect::<BTreeSet<_>>().len();
            prop_assume!(different > 20);
            prop_assert!(SecretKey::new(&hexadecimal).is_ok(), "{hexadecimal}");
        }

        #[test]
        fn any_text_has_an_answer(text: String) {
            let enough = text.chars().count() >= SecretKey::LEAST;
            prop_assert!(enough || SecretKey::new(&text).is_err());
        }
    }
}
