//! Why Redis did not do what it was asked: few reasons, each of which an operator can act on.

use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;

use redis::{ErrorKind, RedisError, ServerErrorKind};

/// The most of what a server says that is repeated, in bytes.
const MAX_DETAIL: usize = 200;

/// What is wrong with Redis. The numbers are kept in shared memory, where 0 is none, and stay what they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Reason {
    /// Nobody listens, or the connection is lost.
    Unreachable = 1,
    /// No answer in time.
    Timeout = 2,
    /// It has started and reads its file.
    Loading = 3,
    /// It is a replica.
    ReadOnly = 4,
    /// It wants a password, or another one.
    NoAuth = 5,
    /// The user may not do what is needed (ACL).
    NoPermission = 6,
    /// `maxmemory` is reached, and nothing may be evicted.
    OutOfMemory = 7,
    /// It cannot save, and so takes no writes (`stop-writes-on-bgsave-error`).
    Misconfigured = 8,
    /// Some slots are served by nobody, or are moving.
    ClusterDown = 9,
    /// A certificate is not trusted, or there is no TLS at all.
    Tls = 10,
    /// Anything else; the detail says what.
    Other = 11,
    /// Not Redis: the store of this host is full.
    StoreFull = 12,
    /// It is a node of a Cluster, and the URL is for a server by itself.
    IsCluster = 13,
}

impl Reason {
    /// All of them, in the order of their numbers.
    pub const ALL: [Reason; 13] = [
        Reason::Unreachable,
        Reason::Timeout,
        Reason::Loading,
        Reason::ReadOnly,
        Reason::NoAuth,
        Reason::NoPermission,
        Reason::OutOfMemory,
        Reason::Misconfigured,
        Reason::ClusterDown,
        Reason::Tls,
        Reason::Other,
        Reason::StoreFull,
        Reason::IsCluster,
    ];

    /// The number that stands for it in shared memory, from 1.
    pub fn code(self) -> u64 {
        self as u64
    }

    /// The reason that this number stands for; none for 0 and for what a later version may have written.
    pub fn from_code(code: u64) -> Option<Reason> {
        Reason::ALL.into_iter().find(|reason| reason.code() == code)
    }

    /// For metrics and JSON.
    pub fn label(self) -> &'static str {
        match self {
            Reason::Unreachable => "unreachable",
            Reason::Timeout => "timeout",
            Reason::Loading => "loading",
            Reason::ReadOnly => "read_only",
            Reason::NoAuth => "no_auth",
            Reason::NoPermission => "no_permission",
            Reason::OutOfMemory => "out_of_memory",
            Reason::Misconfigured => "misconfigured",
            Reason::ClusterDown => "cluster_down",
            Reason::Tls => "tls",
            Reason::Other => "other",
            Reason::StoreFull => "store_full",
            Reason::IsCluster => "is_cluster",
        }
    }

    /// For the operator, after the word Redis.
    pub fn words(self) -> &'static str {
        match self {
            Reason::Unreachable => "cannot be reached",
            Reason::Timeout => "does not answer in time",
            Reason::Loading => "is loading its data",
            Reason::ReadOnly => "is a replica and takes no writes",
            Reason::NoAuth => "does not accept the user and password, or their absence",
            Reason::NoPermission => "does not permit this user what the service needs",
            Reason::OutOfMemory => "has reached its maxmemory",
            Reason::Misconfigured => "cannot save its data and takes no writes",
            Reason::ClusterDown => "has slots that no node serves",
            Reason::Tls => "is not reached by TLS that can be trusted",
            Reason::Other => "answers with an error",
            Reason::StoreFull => "is full",
            Reason::IsCluster => "is a node of a Cluster, and the URL is for a single server",
        }
    }
}

/// What went wrong, and what was said about it. Never a password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub(crate) reason: Reason,
    pub(crate) detail: String,
    no_script: bool,
    /// The other side has closed a connection that there was: mostly after something went wrong that it had said.
    is_severed: bool,
}

impl Failure {
    pub(crate) fn new(reason: Reason, detail: impl Into<String>) -> Failure {
        Failure { reason, detail: cleaned(&detail.into()), no_script: false, is_severed: false }
    }

    /// Whether a script is not in the cache of the server. The driver brings all of them with each connection.
    pub(crate) fn is_no_script(&self) -> bool {
        self.no_script
    }

    /// Whether all that is known is that the other side has closed the connection, or broken it.
    pub(crate) fn is_severed(&self) -> bool {
        self.is_severed
    }

    /// Whether a server has answered what an operator must mend before it serves.
    pub(crate) fn is_refusal(&self) -> bool {
        match self.reason {
            Reason::NoAuth | Reason::NoPermission | Reason::Tls | Reason::Other | Reason::IsCluster => true,
            Reason::Unreachable
            | Reason::Timeout
            | Reason::Loading
            | Reason::ReadOnly
            | Reason::OutOfMemory
            | Reason::Misconfigured
            | Reason::ClusterDown
            | Reason::StoreFull => false,
        }
    }

    /// The same, with what was being done.
    pub(crate) fn while_at(mut self, what: &str) -> Failure {
        self.detail = format!("{what}: {}", self.detail);
        self
    }

    /// Without a text that nobody must read, should a server have repeated it.
    pub(super) fn without(mut self, secret: &str) -> Failure {
        self.detail = self.detail.replace(secret, "***");
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Redis {}: {}", self.reason.words(), self.detail)
    }
}

impl Error for Failure {}

impl From<&RedisError> for Failure {
    fn from(error: &RedisError) -> Failure {
        let reason = reason(error);
        let detail = match (error.code(), error.detail()) {
            // As the server wrote it.
            (Some(code), Some(detail)) => format!("{code} {detail}"),
            (Some(_), None) | (None, _) => error.to_string(),
        };
        let no_script = error.kind() == ErrorKind::Server(ServerErrorKind::NoScript);
        let is_severed = error.is_connection_dropped() && !error.is_connection_refusal();
        Failure { no_script, is_severed, ..Failure::new(reason, detail) }
    }
}

fn reason(error: &RedisError) -> Reason {
    // A script that may not, and SELECT, do not say so in the first word.
    const MAY_NOT: [&str; 3] = ["The user executing the script can't", "no permissions", "ACL failure in script"];
    if error.detail().is_some_and(|detail| MAY_NOT.iter().any(|words| detail.contains(words))) {
        return Reason::NoPermission;
    }
    match error.kind() {
        ErrorKind::Server(kind) => match kind {
            ServerErrorKind::BusyLoading => Reason::Loading,
            ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown => Reason::ReadOnly,
            ServerErrorKind::NoPerm => Reason::NoPermission,
            ServerErrorKind::ClusterDown
            | ServerErrorKind::Moved
            | ServerErrorKind::Ask
            | ServerErrorKind::TryAgain => Reason::ClusterDown,
            // The rest, and what the crate may come to know.
            _ => Reason::Other,
        },
        ErrorKind::AuthenticationFailed => Reason::NoAuth,
        ErrorKind::ClusterConnectionNotFound => Reason::Unreachable,
        ErrorKind::Extension => match error.code() {
            Some("NOAUTH" | "WRONGPASS") => Reason::NoAuth,
            Some("OOM") => Reason::OutOfMemory,
            Some("MISCONF") => Reason::Misconfigured,
            Some(_) | None => Reason::Other,
        },
        ErrorKind::Io if error.is_timeout() => Reason::Timeout,
        ErrorKind::Io | ErrorKind::Client if is_tls(error) => Reason::Tls,
        ErrorKind::Io => Reason::Unreachable,
        _ => Reason::Other,
    }
}

/// What TLS complains about comes as an I/O error around its own, or as its own.
fn is_tls(error: &RedisError) -> bool {
    let Some(source) = error.source() else { return false };
    let source = match source.downcast_ref::<Arc<dyn Error + Send + Sync>>() {
        Some(shared) => shared.as_ref() as &(dyn Error + 'static),
        None => source,
    };
    match source.downcast_ref::<io::Error>() {
        Some(error) => error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()),
        // Names that no certificate can have, and roots that cannot be read.
        None => source.is::<rustls::Error>() || error.kind() == ErrorKind::Io,
    }
}

/// One line of bounded length. A server that does not know a command repeats its arguments, and of HELLO and AUTH these
/// are the password.
fn cleaned(text: &str) -> String {
    let text = text.find("with args beginning with").map_or(text, |end| text[..end].trim_end_matches([' ', ',']));
    let end = text.floor_char_boundary(MAX_DETAIL);
    let rest = if end < text.len() { "…" } else { "" };
    text[..end].chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>() + rest
}

#[cfg(test)]
mod tests {
    use redis::Value;

    use super::*;

    fn failure(line: &str) -> Failure {
        match redis::parse_redis_value(format!("-{line}\r\n").as_bytes()) {
            Ok(value @ Value::ServerError(_)) => Failure::from(&value.extract_error().unwrap_err()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn numbers_stay_what_they_are() {
        let codes: Vec<u64> = Reason::ALL.iter().map(|reason| reason.code()).collect();
        assert_eq!(codes, (1..=13).collect::<Vec<_>>());
        for reason in Reason::ALL {
            assert_eq!(Reason::from_code(reason.code()), Some(reason));
            assert!(reason.label().chars().all(|c| c.is_ascii_lowercase() || c == '_') && !reason.words().is_empty());
        }
        assert_eq!((Reason::from_code(0), Reason::from_code(14)), (None, None));
    }

    #[test]
    fn what_servers_say() {
        for (line, reason) in [
            ("LOADING Redis is loading the dataset in memory", Reason::Loading),
            ("READONLY You can't write against a read only replica.", Reason::ReadOnly),
            ("MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.", Reason::ReadOnly),
            ("NOAUTH Authentication required.", Reason::NoAuth),
            ("WRONGPASS invalid username-password pair or user is disabled.", Reason::NoAuth),
            ("NOPERM User default has no permissions to run the 'info' command", Reason::NoPermission),
            (
                "ERR The user executing the script can't run this command or subcommand script: b0764b",
                Reason::NoPermission,
            ),
            (
                "ERR The user executing the script can't publish to the channel mentioned in the command script: b0764b",
                Reason::NoPermission,
            ),
            ("ERR ACL failure in script: User u has no permissions to run the 'set' command", Reason::NoPermission),
            ("ERR this user has no permissions to run the 'select' command", Reason::NoPermission),
            ("OOM command not allowed when used memory > 'maxmemory'.", Reason::OutOfMemory),
            ("MISCONF Redis is configured to save RDB snapshots, but it is unable to", Reason::Misconfigured),
            ("CLUSTERDOWN Hash slot not served", Reason::ClusterDown),
            ("MOVED 3999 127.0.0.1:6381", Reason::ClusterDown),
            ("TRYAGAIN Multiple keys request during rehashing of slot", Reason::ClusterDown),
            ("ERR max number of clients reached", Reason::Other),
            ("NOSCRIPT No matching script.", Reason::Other),
        ] {
            let failure = failure(line);
            assert_eq!((failure.reason, failure.detail.as_str()), (reason, line));
            assert_eq!(failure.is_no_script(), line.starts_with("NOSCRIPT"));
            assert_eq!(failure.to_string(), format!("Redis {}: {line}", reason.words()));
        }
    }

    #[test]
    fn what_sockets_say() {
        let io = |kind: io::ErrorKind| Failure::from(&RedisError::from(io::Error::from(kind))).reason;
        assert_eq!(io(io::ErrorKind::TimedOut), Reason::Timeout);
        assert_eq!(io(io::ErrorKind::ConnectionRefused), Reason::Unreachable);
        assert_eq!(io(io::ErrorKind::BrokenPipe), Reason::Unreachable);
        let inner = rustls::Error::HandshakeNotComplete;
        let tls = RedisError::from(io::Error::new(io::ErrorKind::InvalidData, inner.clone()));
        assert_eq!(Failure::from(&tls).reason, Reason::Tls);
        assert_eq!(Failure::from(&RedisError::from(inner)).reason, Reason::Tls);
        let severed = |kind: io::ErrorKind| Failure::from(&RedisError::from(io::Error::from(kind))).is_severed();
        assert!([io::ErrorKind::BrokenPipe, io::ErrorKind::ConnectionReset].into_iter().all(severed));
        assert!(![io::ErrorKind::ConnectionRefused, io::ErrorKind::TimedOut].into_iter().any(severed));
        let other = RedisError::from((ErrorKind::Io, "Failed to create initial connections"));
        assert_eq!(Failure::from(&other).reason, Reason::Unreachable);
    }

    #[test]
    fn a_detail_is_one_short_line_without_the_password() {
        let said = failure("ERR unknown command 'HELLO', with args beginning with: '3' 'AUTH' 'default' 'hunter2'");
        assert_eq!(said.detail, "ERR unknown command 'HELLO'");
        assert_eq!(Failure::new(Reason::Other, "it was\nhunter2!").without("hunter2").detail, "it was ***!");
        let long = Failure::new(Reason::Other, "ä".repeat(MAX_DETAIL)).detail;
        assert!(long.len() <= MAX_DETAIL + "…".len() && long.ends_with("ä…"), "{long}");
    }
}
