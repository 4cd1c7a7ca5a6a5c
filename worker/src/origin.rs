//! Decides which web pages may connect, by the origins that browsers send (RFC 6454 section 6.2).

use std::net::Ipv6Addr;
use std::str::FromStr;

/// Web pages that may connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// `null`: pages that have no origin, such as frames in a sandbox, and files in most browsers.
    Null,
    /// Pages of one host.
    Host(Tuple),
    /// Pages of every host below a domain, however deep; not of the domain itself.
    Below(Tuple),
}

/// An origin that is not null: in small letters, and without a port that its scheme has anyway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tuple {
    scheme: String,
    host: String,
    port: Option<u16>,
}

impl FromStr for Origin {
    type Err = String;

    fn from_str(text: &str) -> Result<Origin, String> {
        if text == "null" {
            return Ok(Origin::Null);
        }
        let origin = match text.split_once("://*.") {
            Some((scheme, domain)) => Tuple::parse(&format!("{scheme}://{domain}")).map(Origin::Below),
            None => Tuple::parse(text).map(Origin::Host),
        };
        // There is nothing below an address, or below no host.
        let is_name = |host: &str| !host.is_empty() && !host.starts_with('[');
        origin.filter(|origin| !matches!(origin, Origin::Below(below) if !is_name(&below.host))).ok_or_else(|| {
            "origins as browsers send them, such as https://example.org, without a path; https://*.example.org, null or \
             file://; none at all allows any"
                .to_owned()
        })
    }
}

impl Origin {
    /// Whether a page may connect whose browser sends this.
    pub fn allows(&self, sent: &[u8]) -> bool {
        match self {
            Origin::Null => sent == b"null",
            Origin::Host(allowed) => Tuple::read(sent).is_some_and(|sent| sent == *allowed),
            Origin::Below(allowed) => Tuple::read(sent).is_some_and(|sent| {
                let below = sent.host.strip_suffix(&*allowed.host).and_then(|below| below.strip_suffix('.'));
                sent.scheme == allowed.scheme
                    && sent.port == allowed.port
                    && below.is_some_and(|below| !below.is_empty())
            }),
        }
    }
}

impl Tuple {
    fn read(sent: &[u8]) -> Option<Tuple> {
        std::str::from_utf8(sent).ok().and_then(Tuple::parse)
    }

    /// Reads `scheme://host[:port]`: no user, path, query or fragment. Files alone have no host.
    fn parse(text: &str) -> Option<Tuple> {
        let (scheme, authority) = text.split_once("://")?;
        let scheme = scheme.to_ascii_lowercase();
        if !scheme.starts_with(|c: char| c.is_ascii_lowercase())
            || !scheme.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "+-.".contains(c))
        {
            return None;
        }
        if authority.is_empty() {
            return (scheme == "file").then(|| Tuple { scheme, host: String::new(), port: None });
        }
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (authority, None),
        };
        let is_name = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(address) => format!("[{}]", address.parse::<Ipv6Addr>().ok()?),
            None if host.is_empty() || host.starts_with('.') || !host.chars().all(is_name) => return None,
            None => host.to_ascii_lowercase(),
        };
        let port = match port {
            None => None,
            // `parse` would let a plus sign through.
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => Some(digits.parse().ok().filter(|n| *n > 0)?),
            Some(_) => return None,
        };
        let usual = match &*scheme {
            "http" | "ws" => Some(80),
            "https" | "wss" => Some(443),
            _ => None,
        };
        Some(Tuple { scheme, host, port: port.filter(|port| Some(*port) != usual) })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn allows(allowed: &str, sent: &str) -> bool {
        let origin = allowed.parse::<Origin>().unwrap_or_else(|error| panic!("{allowed}: {error}"));
        origin.allows(sent.as_bytes())
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        for (allowed, sent) in [
            ("https://example.org", "https://example.org"),
            ("https://example.org:443", "https://example.org"),
            ("https://example.org", "https://example.org:443"),
            ("http://example.org:80", "http://EXAMPLE.org"),
            ("HTTPS://Example.ORG", "https://example.org"),
            ("http://localhost:3000", "http://localhost:3000"),
            ("http://[::1]:3000", "http://[0:0:0:0:0:0:0:1]:3000"),
            ("chrome-extension://abcdef", "chrome-extension://abcdef"),
            ("capacitor://localhost", "capacitor://localhost"),
            ("file://", "file://"),
            ("null", "null"),
        ] {
            assert!(allows(allowed, sent), "{allowed}: {sent}");
        }
        for (allowed, sent) in [
            ("https://example.org", "http://example.org"),
            ("https://example.org", "https://example.org:80"),
            ("https://example.org", "https://example.org:8443"),
            ("https://example.org", "https://www.example.org"),
            ("https://example.org", "https://example.org.evil.com"),
            ("https://example.org", "https://example.org@evil.com"),
            ("https://example.org", "https://example.org/"),
            ("https://example.org", "https://a.org https://example.org"),
            ("https://example.org", "null"),
            ("https://example.org", ""),
            ("null", "NULL"),
            ("null", "file://"),
            ("file://", "file:///"),
            ("file://", "null"),
        ] {
            assert!(!allows(allowed, sent), "{allowed}: {sent}");
        }
    }

    #[test]
    fn a_star_is_for_whatever_is_below() {
        let below = |sent| allows("https://*.example.org", sent);
        assert!(
            below("https://www.example.org") && below("https://a.b.example.org:443") && below("https://A.Example.Org")
        );
        for sent in [
            "https://example.org",
            "https://.example.org",
            "https://badexample.org",
            "https://www.example.org:8443",
            "http://www.example.org",
            "https://www.example.org.evil.com",
            "https://*.example.org",
        ] {
            assert!(!below(sent), "{sent}");
        }
        assert!(allows("https://*.example.org:8443", "https://www.example.org:8443"));
    }

    #[test]
    fn what_is_no_origin_is_refused() {
        for text in [
            "",
            "*",
            "https://*",
            "https://*.",
            "*.example.org",
            "https://a.*.org",
            "https://*.*.org",
            "https://*.[::1]",
            "https://example.org/",
            "https://example.org?a",
            "example.org",
            "://x",
            "https://",
            "https://x:0",
            "https://x:+1",
            "https://x:",
            "https://u@x",
            "https://[::1",
            "Null",
            "https://\u{e4}.org",
            "file:///",
            "file://*.",
        ] {
            let refused = text.parse::<Origin>().expect_err(text);
            assert!(refused.starts_with("origins as browsers send them"), "{refused}");
        }
    }

    proptest! {
        #[test]
        fn case_and_default_ports_do_not_matter(host in "[a-z][a-z0-9-]{0,10}(\\.[a-z0-9-]{1,5}){0,3}", port in 1..=u16::MAX) {
            for (scheme, usual) in [("http", 80), ("https", 443)] {
                let (bare, full) = (format!("{scheme}://{host}"), format!("{scheme}://{host}:{port}"));
                prop_assert!(allows(&full, &full) && allows(&bare.to_uppercase(), &bare));
                prop_assert_eq!(allows(&bare, &full), port == usual);
                prop_assert_eq!(allows(&full, &bare), port == usual);
            }
        }

        #[test]
        fn below_is_below(domain in "[a-z]{1,5}(\\.[a-z]{1,3}){0,2}", label in "[a-z0-9-]{1,9}(\\.[a-z0-9]{1,3}){0,2}", other in "[a-z.-]{0,12}") {
            let allowed = format!("https://*.{domain}");
            let sent = format!("https://{label}.{domain}");
            prop_assert!(allows(&allowed, &sent));
            let glued = format!("https://{label}{domain}");
            prop_assert!(!allows(&allowed, &glued));
            let behind = format!("https://{label}.{domain}{other}");
            prop_assert_eq!(allows(&allowed, &behind), other.is_empty() || behind.ends_with(&format!(".{domain}")));
        }

        #[test]
        fn any_bytes_are_no_trouble(sent in prop::collection::vec(any::<u8>(), 0..40)) {
            for allowed in ["null", "https://example.org", "https://*.example.org", "file://"] {
                allowed.parse::<Origin>().unwrap().allows(&sent);
            }
        }
    }
}
