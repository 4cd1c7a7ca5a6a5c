//! Whom to connect to.

use std::net::{SocketAddr, ToSocketAddrs};

use tungstenite::http::Uri;

/// Where the message counter is, if a URL does not say where.
const PATH: &str = "/ws/chat/";

/// A WebSocket URL, with its path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    url: String,
    host: String,
    port: u16,
}

impl Target {
    /// Reads a URL; one without a path means that of the message counter.
    pub(super) fn parse(text: &str) -> Result<Target, String> {
        const ALLOWED: &str = "a URL such as ws://localhost:8000 or wss://example.org/ws/chat/";
        let uri: Uri = text.parse().map_err(|error| format!("{ALLOWED}; {error}"))?;
        let port = match uri.scheme_str() {
            Some("ws") => 80,
            Some("wss") => 443,
            Some(_) | None => return Err(ALLOWED.to_owned()),
        };
        let authority = uri.authority().ok_or(ALLOWED)?;
        if authority.as_str().contains('@') {
            return Err(format!("{ALLOWED}; users and passwords go into a --header"));
        }
        let host = authority.host();
        if host.is_empty() {
            return Err(ALLOWED.to_owned());
        }
        let port = match authority.as_str()[host.len()..].strip_prefix(':') {
            None => port,
            Some(_) => authority.port_u16().filter(|port| *port > 0).ok_or(ALLOWED)?,
        };
        // `Uri` makes a slash of a path that is missing, and takes no fragment.
        let rest = text.split_once("://").map_or("", |(_, rest)| &rest[authority.as_str().len()..]);
        let rest = rest.split('#').next().unwrap_or("");
        let path = if rest.starts_with('/') { "" } else { PATH };
        let url = format!("{}://{authority}{path}{rest}", uri.scheme_str().unwrap_or("ws"));
        Ok(Target { url, host: host.trim_matches(['[', ']']).to_owned(), port })
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// The addresses of its host, those that answer first: `localhost` is two, and a service may listen on one.
    pub(super) fn resolve(&self) -> Result<SocketAddr, String> {
        let addresses = (self.host.as_str(), self.port).to_socket_addrs();
        let addresses: Vec<_> = addresses.map_err(|error| format!("cannot find {}: {error}", self.host))?.collect();
        let [first, others @ ..] = addresses.as_slice() else {
            return Err(format!("cannot find {}: it has no address", self.host));
        };
        if others.is_empty() {
            return Ok(*first);
        }
        const PATIENCE: std::time::Duration = std::time::Duration::from_secs(2);
        let answers = |address: &&SocketAddr| std::net::TcpStream::connect_timeout(address, PATIENCE).is_ok();
        Ok(*addresses.iter().find(answers).unwrap_or(first))
    }
}

/// The URL that names a session.
pub(super) fn with_session(url: &str, session: &str) -> String {
    let joint = if url.contains('?') { '&' } else { '?' };
    format!("{url}{joint}session_uuid={session}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_completed() {
        for (text, url, host, port) in [
            ("ws://localhost:8000", "ws://localhost:8000/ws/chat/", "localhost", 8000),
            ("ws://localhost:8000/", "ws://localhost:8000/", "localhost", 8000),
            ("wss://a.example/x?y=1", "wss://a.example/x?y=1", "a.example", 443),
            ("ws://a.example?y=1", "ws://a.example/ws/chat/?y=1", "a.example", 80),
            ("ws://[::1]:9000/x#y", "ws://[::1]:9000/x", "::1", 9000),
            ("ws://[::1]", "ws://[::1]/ws/chat/", "::1", 80),
        ] {
            let target = Target { url: url.into(), host: host.into(), port };
            assert_eq!(Target::parse(text), Ok(target), "{text}");
        }
    }

    #[test]
    fn what_is_no_websocket_url_is_refused() {
        for text in [
            "",
            "localhost:8000",
            "http://a",
            "ws://",
            "ws:///x",
            "ws://a:0",
            "ws://a:99999",
            "ws://a:b/",
            "ws://u:p@a",
        ] {
            assert!(Target::parse(text).is_err(), "{text}: {:?}", Target::parse(text));
        }
    }

    #[test]
    fn a_session_is_one_more_parameter() {
        assert_eq!(with_session("ws://a/x", "s"), "ws://a/x?session_uuid=s");
        assert_eq!(with_session("ws://a/x?y=1", "s"), "ws://a/x?y=1&session_uuid=s");
    }
}
