//! Where Redis is: the forms of `redis-url`.

use std::fmt;
use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::str::FromStr;

#[cfg(test)]
mod tests;

const PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;

/// The longest path of a Unix socket: `sun_path` of unix(7) without its final NUL.
const MAX_SOCKET_PATH: usize = 107;

/// The longest name of a host (RFC 1035 section 2.3.4).
const MAX_HOST: usize = 253;

/// Where a Redis is and who asks it. Neither its text nor its debug text shows the password.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    pub(crate) place: Place,
    pub(crate) credentials: Option<Credentials>,
    pub(crate) database: u32,
}

/// Which servers, and how they belong together.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// One server.
    Server { node: Node, tls: bool },
    /// One server on this machine, by the path of its socket.
    Socket(PathBuf),
    /// The master of this name, as the sentinels know it.
    Sentinel { sentinels: Vec<Node>, master: String, tls: bool },
    /// A cluster that some of its nodes tell about.
    Cluster { nodes: Vec<Node>, tls: bool },
}

/// A host and a port; an IPv6 address is without its brackets.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Node {
    pub(crate) host: String,
    pub(crate) port: u16,
}

/// Who asks. Without a user it is Redis' `default` one.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Credentials {
    pub(crate) user: Option<String>,
    pub(crate) password: String,
}

/// Why a text is no address. None of these repeats any of it, since any of it may be a misplaced password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// No scheme, or one that is not known.
    #[error(
        "a URL that begins with redis://, rediss://, redis+unix://, unix://, redis+sentinel://, rediss+sentinel://, \
         redis+cluster:// or rediss+cluster://"
    )]
    Scheme,
    /// A character that no URL has.
    #[error("a URL of printable ASCII characters without spaces; others are written %XX, byte by byte of their UTF-8")]
    Character,
    /// A percent sign that begins nothing, or something that is no text.
    #[error("a URL in which % is followed by two hexadecimal digits, and the whole is UTF-8; % itself is written %25")]
    Encoding,
    /// Something that ends a host, before the `@` that ends the password.
    #[error("a URL in which / ? # @ of a user or password are written %2F %3F %23 %40")]
    Unencoded,
    /// `user@`, `user:@`, `:@` or `@`.
    #[error("a URL with :PASSWORD@ or USER:PASSWORD@ before the host, or neither: not a user or an @ alone")]
    Credentials,
    /// A host is missing.
    #[error("a URL with the name or address of a host after the // and after each comma")]
    NoHost,
    /// A host that is none.
    #[error("a URL whose hosts are names of A-Za-z0-9.-_, IPv4 addresses, or IPv6 addresses in [ ]")]
    Host,
    /// A port that is none.
    #[error("a URL whose ports are from 1 to 65535; without one and its colon it is 6379, of a sentinel 26379")]
    Port,
    /// Several hosts in a URL for one.
    #[error("one host; several are written with redis+sentinel:// (and a master's name) or redis+cluster://")]
    OneHost,
    /// A database that is none.
    #[error("a URL that ends with the host, or with / and the number of a database, such as /0")]
    Database,
    /// Sentinels without the name of the master.
    #[error(
        "redis+sentinel://HOST,HOST,…/MASTER or …/MASTER/DB: MASTER is what the sentinels call it, of A-Za-z0-9.-_"
    )]
    Master,
    /// A cluster and a database.
    #[error("a URL that ends with the last host: a cluster has database 0 only")]
    ClusterDatabase,
    /// `?` where there is nothing to say.
    #[error("a URL without ? and what follows it; only redis+unix:// and unix:// take ?db=, user= and pass=")]
    Query,
    /// A parameter that is not known, twice there, or without a value.
    #[error("after the ? of redis+unix:// each of db=, user= and pass= at most once, with a value, separated by &")]
    Parameter,
    /// `#…`.
    #[error("a URL without # and what follows it; in a password # is written %23")]
    Fragment,
    /// A path that no socket can have.
    #[error("redis+unix:///PATH with the absolute path of a socket, at most {MAX_SOCKET_PATH} bytes long (unix(7))")]
    Path,
}

impl Address {
    /// Whether it holds a password.
    pub fn has_password(&self) -> bool {
        self.credentials.is_some()
    }

    /// Whether certificates are checked and the password is encrypted on its way.
    pub fn is_tls(&self) -> bool {
        match &self.place {
            Place::Server { tls, .. } | Place::Sentinel { tls, .. } | Place::Cluster { tls, .. } => *tls,
            Place::Socket(_) => false,
        }
    }

    /// Which data this is, without who asks for it: equal texts are the same data. Hosts are compared by name.
    pub fn data(&self) -> String {
        let mut plain = Address { credentials: None, ..self.clone() };
        match &mut plain.place {
            Place::Server { node, .. } => node.normalize(),
            Place::Sentinel { sentinels: nodes, .. } | Place::Cluster { nodes, .. } => {
                nodes.iter_mut().for_each(Node::normalize);
                nodes.sort_unstable();
                nodes.dedup();
            }
            Place::Socket(_) => {}
        }
        plain.to_string()
    }

    /// Whether keys are spread over several servers.
    pub fn is_cluster(&self) -> bool {
        match &self.place {
            Place::Cluster { .. } => true,
            Place::Server { .. } | Place::Socket(_) | Place::Sentinel { .. } => false,
        }
    }
}

impl Node {
    /// Names have no case, and an IPv6 address has many spellings.
    fn normalize(&mut self) {
        self.host = match self.host.parse::<Ipv6Addr>() {
            Ok(address) => address.to_string(),
            Err(_) => self.host.to_ascii_lowercase(),
        };
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Address, AddressError> {
        if text.bytes().any(|byte| !byte.is_ascii_graphic()) {
            return Err(AddressError::Character);
        }
        let (scheme, rest) = text.split_once("://").ok_or(AddressError::Scheme)?;
        if let "redis+unix" | "unix" = scheme {
            return socket(rest);
        }
        let tls = scheme.starts_with("rediss");
        let kind = match scheme {
            "redis" | "rediss" => Kind::Server,
            "redis+sentinel" | "rediss+sentinel" => Kind::Sentinel,
            "redis+cluster" | "rediss+cluster" => Kind::Cluster,
            _ => return Err(AddressError::Scheme),
        };
        let (authority, tail) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let (credentials, hosts) = match authority.rsplit_once('@') {
            Some((user_info, hosts)) => (Some(user_info_of(user_info)?), hosts),
            None if tail.contains('@') => return Err(AddressError::Unencoded),
            None => (None, authority),
        };
        if tail.contains('#') {
            return Err(AddressError::Fragment);
        }
        if tail.contains('?') {
            return Err(AddressError::Query);
        }
        let path = tail.strip_prefix('/').unwrap_or_default();
        let port = if let Kind::Sentinel = kind { SENTINEL_PORT } else { PORT };
        let mut nodes = hosts.split(',').map(|host| node(host, port)).collect::<Result<Vec<_>, _>>()?;
        let (place, database) = match kind {
            Kind::Server => match (nodes.pop(), nodes.as_slice()) {
                (Some(node), []) => (Place::Server { node, tls }, database(path)?),
                (Some(_), _) => return Err(AddressError::OneHost),
                (None, _) => return Err(AddressError::NoHost),
            },
            Kind::Sentinel => {
                let (master, number) = path.split_once('/').unwrap_or((path, ""));
                let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
                if master.is_empty() || !master.bytes().all(allowed) {
                    return Err(AddressError::Master);
                }
                (Place::Sentinel { sentinels: nodes, master: master.to_owned(), tls }, database(number)?)
            }
            Kind::Cluster => match path {
                "" | "0" => (Place::Cluster { nodes, tls }, 0),
                _ => return Err(AddressError::ClusterDatabase),
            },
        };
        Ok(Address { place, credentials, database })
    }
}

enum Kind {
    Server,
    Sentinel,
    Cluster,
}

/// What follows `redis+unix://`.
fn socket(rest: &str) -> Result<Address, AddressError> {
    if rest.contains('#') {
        return Err(AddressError::Fragment);
    }
    let (path, query) = rest.split_once('?').map_or((rest, None), |(path, query)| (path, Some(query)));
    let path = decoded(path)?;
    if !path.starts_with('/') || path.ends_with('/') || path.len() > MAX_SOCKET_PATH || path.contains('\0') {
        return Err(AddressError::Path);
    }
    let (mut number, mut user, mut password) = (None, None, None);
    for parameter in query.into_iter().flat_map(|query| query.split('&')) {
        let (name, value) = parameter.split_once('=').ok_or(AddressError::Parameter)?;
        let place = match name {
            "db" => &mut number,
            "user" => &mut user,
            "pass" => &mut password,
            _ => return Err(AddressError::Parameter),
        };
        // Some read + in a query as a space and some do not: it is written so that all agree.
        if value.is_empty() || value.contains('+') || place.replace(decoded(value)?).is_some() {
            return Err(AddressError::Parameter);
        }
    }
    let credentials = match (user, password) {
        (None, None) => None,
        (user, Some(password)) => Some(Credentials { user, password }),
        (Some(_), None) => return Err(AddressError::Credentials),
    };
    let database = database(number.as_deref().unwrap_or_default())?;
    Ok(Address { place: Place::Socket(PathBuf::from(path)), credentials, database })
}

/// `:password` or `user:password`.
fn user_info_of(text: &str) -> Result<Credentials, AddressError> {
    if text.contains('@') {
        return Err(AddressError::Unencoded);
    }
    let (user, password) = text.split_once(':').ok_or(AddressError::Credentials)?;
    if password.is_empty() {
        return Err(AddressError::Credentials);
    }
    let user = Some(user).filter(|user| !user.is_empty()).map(decoded).transpose()?;
    Ok(Credentials { user, password: decoded(password)? })
}

/// `host`, `host:port`, `[address]` or `[address]:port`.
fn node(text: &str, default_port: u16) -> Result<Node, AddressError> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or(AddressError::Host)?;
            host.parse::<Ipv6Addr>().map_err(|_| AddressError::Host)?;
            (host, port)
        }
        None => {
            let (host, port) = text.split_at(text.find(':').unwrap_or(text.len()));
            let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
            if host.is_empty() {
                return Err(AddressError::NoHost);
            }
            if host.len() > MAX_HOST || !host.bytes().all(allowed) {
                return Err(AddressError::Host);
            }
            (host, port)
        }
    };
    let port = match port.strip_prefix(':') {
        Some(digits) => number(digits).and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0),
        None if port.is_empty() => Some(default_port),
        None => return Err(AddressError::Host),
    };
    Ok(Node { host: host.to_owned(), port: port.ok_or(AddressError::Port)? })
}

fn database(text: &str) -> Result<u32, AddressError> {
    if text.is_empty() {
        return Ok(0);
    }
    // What Redis counts its databases with is a C int.
    number(text).filter(|number| *number <= i32::MAX as u32).ok_or(AddressError::Database)
}

/// Digits alone: `parse` would let a plus sign through.
fn number(text: &str) -> Option<u32> {
    text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()))
}

/// The text that its percent-encoding (RFC 3986 section 2.1) stands for.
fn decoded(text: &str) -> Result<String, AddressError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16)).ok_or(AddressError::Encoding);
        let byte = if byte == b'%' { (digit()? * 16 + digit()?) as u8 } else { byte };
        bytes.push(byte);
    }
    String::from_utf8(bytes).map_err(|_| AddressError::Encoding)
}

/// Writes what [`decoded`] reads, so that a line of a log stays one.
fn encode(text: &str, keep: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for byte in text.bytes() {
        match byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || keep.contains(&byte) {
            true => write!(f, "{}", char::from(byte))?,
            false => write!(f, "%{byte:02X}")?,
        }
    }
    Ok(())
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, tls, nodes) = match &self.place {
            Place::Server { node, tls } => ("", *tls, std::slice::from_ref(node)),
            Place::Sentinel { sentinels, tls, .. } => ("+sentinel", *tls, sentinels.as_slice()),
            Place::Cluster { nodes, tls } => ("+cluster", *tls, nodes.as_slice()),
            Place::Socket(path) => {
                f.write_str("redis+unix://")?;
                encode(&path.to_string_lossy(), b"/", f)?;
                write!(f, "?db={}", self.database)?;
                let Some(Credentials { user, password: _ }) = &self.credentials else { return Ok(()) };
                if let Some(user) = user {
                    f.write_str("&user=")?;
                    encode(user, b"", f)?;
                }
                return f.write_str("&pass=***");
            }
        };
        write!(f, "redis{}{scheme}://", if tls { "s" } else { "" })?;
        if let Some(Credentials { user, password: _ }) = &self.credentials {
            encode(user.as_deref().unwrap_or_default(), b"", f)?;
            f.write_str(":***@")?;
        }
        for (i, node) in nodes.iter().enumerate() {
            write!(f, "{}{node}", if i == 0 { "" } else { "," })?;
        }
        match &self.place {
            Place::Sentinel { master, .. } => write!(f, "/{master}/{}", self.database),
            Place::Server { .. } => write!(f, "/{}", self.database),
            Place::Cluster { .. } | Place::Socket(_) => Ok(()),
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({self})")
    }
}
