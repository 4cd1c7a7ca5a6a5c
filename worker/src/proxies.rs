//! Who a client is when proxies stand before us: `X-Forwarded-For` and `X-Forwarded-Proto`, believed from those that the
//! operator trusts and from nobody else.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use hyper::header::{HeaderMap, HeaderName};
use ipnet::IpNet;

use crate::header_list;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// The other end of an accepted socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    /// A host.
    Tcp(SocketAddr),
    /// A process of this machine that may open our socket.
    Unix,
    /// It had left before it could be asked for.
    Gone,
}

/// One that is trusted: an address, a network such as `10.0.0.0/8`, or `unix`, whoever connects to a Unix socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proxy {
    /// Hosts.
    Network(Network),
    /// Processes of this machine.
    Unix,
}

impl FromStr for Proxy {
    type Err = String;

    fn from_str(text: &str) -> Result<Proxy, String> {
        match text {
            "unix" => Ok(Proxy::Unix),
            text => text.parse().map(Proxy::Network).map_err(|allowed: String| format!("unix, {allowed}")),
        }
    }
}

/// An address, or all addresses with the same prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network(IpNet);

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Network, String> {
        const ALLOWED: &str = "an address, or a network such as 10.0.0.0/8 or fd00::/8";
        let network = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).map_err(|_| ALLOWED)?;
        // With bits behind the prefix one of the two is a slip, and which one decides who is believed, or not limited.
        match network == network.trunc() {
            true => Ok(Network(network)),
            false => Err(format!("{ALLOWED}; of this prefix the network is {}", network.trunc())),
        }
    }
}

impl Network {
    /// Whether it has this address. An IPv4 address that is written as IPv6 is the IPv4 address.
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }
}

/// Who sent a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Client {
    peer: Peer,
    /// Its address, where that is known from a trusted proxy.
    pub(crate) forwarded: Option<IpAddr>,
    /// It speaks TLS, with a trusted proxy.
    pub(crate) tls: bool,
}

impl Client {
    /// Reads what the proxies before us say.
    ///
    /// Each proxy appends whom it got the request from, so the list is believed from its right end, as long as those are
    /// trusted that have written it. The first that is not is the client; anything left of it may be made up.
    pub(crate) fn of(peer: Peer, headers: &HeaderMap, trusted: &[Proxy]) -> Client {
        let mut client = Client { peer, forwarded: None, tls: false };
        if !peer.is_trusted(trusted) {
            return client;
        }
        client.tls = last(headers, &FORWARDED_PROTO).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https"));
        for hop in items(headers, &FORWARDED_FOR) {
            // What cannot be read was not written by one that can be trusted any further.
            let Some(address) = address(hop) else { break };
            client.forwarded = Some(address);
            if !is_trusted(address, trusted) {
                break;
            }
        }
        client
    }

    /// Its address; none: it came over a Unix socket, or had left.
    pub(crate) fn address(&self) -> Option<IpAddr> {
        match (self.forwarded, self.peer) {
            (Some(address), _) => Some(address),
            (None, Peer::Tcp(peer)) => Some(peer.ip().to_canonical()),
            (None, Peer::Unix | Peer::Gone) => None,
        }
    }
}

/// For logs: with the port, if it is connected to us.
impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.forwarded, self.peer) {
            (Some(address), _) => address.fmt(f),
            (None, peer) => peer.fmt(f),
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Tcp(address) => SocketAddr::new(address.ip().to_canonical(), address.port()).fmt(f),
            Peer::Unix => f.write_str("unix"),
            Peer::Gone => f.write_str("gone"),
        }
    }
}

impl Peer {
    /// The address of the client, where it is known before its first request: nobody sends requests for it.
    pub(crate) fn client(self, trusted: &[Proxy]) -> Option<IpAddr> {
        match self {
            Peer::Tcp(address) if !self.is_trusted(trusted) => Some(address.ip().to_canonical()),
            Peer::Tcp(_) | Peer::Unix | Peer::Gone => None,
        }
    }

    fn is_trusted(self, trusted: &[Proxy]) -> bool {
        match self {
            Peer::Tcp(address) => is_trusted(address.ip().to_canonical(), trusted),
            Peer::Unix => trusted.contains(&Proxy::Unix),
            Peer::Gone => false,
        }
    }
}

fn is_trusted(address: IpAddr, trusted: &[Proxy]) -> bool {
    trusted.iter().any(|proxy| match proxy {
        Proxy::Network(network) => network.contains(address),
        Proxy::Unix => false,
    })
}

/// The items of a list, the last one first. What is no text is an item that says nothing.
fn items<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    header_list::elements(headers, name).rev().map(|item| std::str::from_utf8(item).unwrap_or_default())
}

fn last<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    items(headers, name).next()
}

/// An address as proxies write it: some add the port, and those of IPv6 may be in brackets.
fn address(text: &str) -> Option<IpAddr> {
    let bare = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    let address =
        text.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip())).or_else(bare);
    address.map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    fn trusted(names: &[&str]) -> Vec<Proxy> {
        names.iter().map(|name| name.parse().unwrap_or_else(|error| panic!("{name}: {error}"))).collect()
    }

    fn tcp(address: &str) -> Peer {
        Peer::Tcp(address.parse().unwrap())
    }

    fn client(peer: Peer, fields: &[(&'static str, &str)], names: &[&str]) -> Client {
        let field = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).unwrap())
        };
        Client::of(peer, &fields.iter().map(field).collect(), &trusted(names))
    }

    fn seen(peer: Peer, forwarded_for: &[&str], names: &[&str]) -> String {
        let fields: Vec<_> = forwarded_for.iter().map(|value| ("x-forwarded-for", *value)).collect();
        client(peer, &fields, names).to_string()
    }

    const PROXY: &str = "10.0.0.1:5000";

    #[test]
    fn nobody_is_believed_unless_trusted() {
        let spoofed = ["1.2.3.4"];
        assert_eq!(seen(tcp(PROXY), &spoofed, &[]), PROXY);
        assert_eq!(seen(tcp(PROXY), &spoofed, &["10.0.0.2", "192.168.0.0/16", "unix"]), PROXY);
        assert_eq!(seen(Peer::Unix, &spoofed, &["0.0.0.0/0", "::/0"]), "unix");
        assert_eq!(seen(Peer::Gone, &spoofed, &["0.0.0.0/0", "::/0", "unix"]), "gone");
        let https = [("x-forwarded-proto", "https")];
        assert!(!client(tcp(PROXY), &https, &["10.0.0.2"]).tls);
        assert!(client(tcp(PROXY), &https, &["10.0.0.1"]).tls);
    }

    #[test]
    fn the_client_is_the_last_one_that_is_not_trusted() {
        let names = ["10.0.0.0/8", "fd00::/8"];
        for (fields, expected) in [
            (&["203.0.113.7"][..], "203.0.113.7"),
            (&["1.2.3.4, 203.0.113.7"], "203.0.113.7"),
            (&["1.2.3.4, 203.0.113.7, 10.2.2.2"], "203.0.113.7"),
            // The same in several fields: they are one list.
            (&["1.2.3.4", "203.0.113.7,10.2.2.2", "fd00::1"], "203.0.113.7"),
            // All are ours: the one furthest away.
            (&["10.3.3.3, 10.2.2.2"], "10.3.3.3"),
            (&["203.0.113.7:4711"], "203.0.113.7"),
            (&["[2001:db8::7]:4711"], "2001:db8::7"),
            (&["[2001:db8::7]"], "2001:db8::7"),
            (&["::ffff:203.0.113.7"], "203.0.113.7"),
            // What is no address ends the search: the last proxy that said one is as far as we know.
            (&["203.0.113.7, unknown, 10.2.2.2"], "10.2.2.2"),
            (&["203.0.113.7, "], PROXY),
            (&["unknown"], PROXY),
            (&["203.0.113.7\u{e4}"], PROXY),
            (&[], PROXY),
        ] {
            assert_eq!(seen(tcp(PROXY), fields, &names), expected, "{fields:?}");
        }
        assert_eq!(seen(Peer::Unix, &["203.0.113.7"], &["unix"]), "203.0.113.7");
        assert_eq!(seen(tcp("[::ffff:10.0.0.1]:5000"), &["203.0.113.7"], &names), "203.0.113.7");
    }

    #[test]
    fn the_scheme_is_that_of_the_proxy_before_us() {
        let tls = |value| client(Peer::Unix, &[("x-forwarded-proto", value)], &["unix"]).tls;
        assert!(tls("https") && tls("HTTPS") && tls("http, https"));
        assert!(!tls("http") && !tls("https, http") && !tls(""));
    }

    #[test]
    fn who_may_be_trusted() {
        assert_eq!(trusted(&["10.0.0.1", "::1"]), trusted(&["10.0.0.1/32", "::1/128"]));
        assert!("10.0.0.1/8".parse::<Proxy>().unwrap_err().ends_with("the network is 10.0.0.0/8"));
        for text in ["", "localhost", "10.0.0.0/33", "10.0.0", "10.0.0.0/", "UNIX", "10.0.0.1:80", "*"] {
            assert!(text.parse::<Proxy>().is_err(), "{text}");
        }
    }
}
