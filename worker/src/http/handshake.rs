//! Checks the opening handshake of a WebSocket (RFC 6455 section 4.2.1). The request is a `GET`, and names its host.

use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{HeaderMap, StatusCode, Version};

use crate::header_list;

/// What keeps a request from becoming a WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// HTTP/1.0, which has no upgrades (RFC 9110 section 7.8).
    OldHttp,
    /// `Connection` does not name `Upgrade`.
    Connection,
    /// `Upgrade` does not name `websocket`.
    Upgrade,
    /// The version is not 13.
    Version,
    /// The version is there twice (RFC 6455 section 11.3.5).
    Versions,
    /// The key is not 16 bytes in base64, or missing.
    Key,
    /// The key is there twice (RFC 6455 section 11.3.1).
    Keys,
    /// The request has a body: what follows its head would be that, and frames at the same time.
    Body,
}

impl Fault {
    /// 426 to a client that does not speak the protocol or not this version of it, 400 to one that speaks it wrongly
    /// (RFC 6455 sections 4.2.1 and 4.4).
    pub(super) fn status(self) -> StatusCode {
        match self {
            Fault::OldHttp | Fault::Connection | Fault::Upgrade | Fault::Version => StatusCode::UPGRADE_REQUIRED,
            Fault::Versions | Fault::Key | Fault::Keys | Fault::Body => StatusCode::BAD_REQUEST,
        }
    }

    /// The name of the error.
    pub(super) fn name(self) -> &'static str {
        match self.status() {
            StatusCode::UPGRADE_REQUIRED => "upgrade_required",
            _ => "bad_request",
        }
    }

    /// What is expected.
    pub(super) fn detail(self) -> &'static str {
        match self {
            Fault::OldHttp => {
                "a WebSocket needs HTTP/1.1, and this request is HTTP/1.0; if it comes from nginx, add \
                 \"proxy_http_version 1.1;\" to its location"
            }
            Fault::Connection => "Connection must contain Upgrade; a proxy in between has to pass it on",
            Fault::Upgrade => "Upgrade must contain websocket; a proxy in between has to pass it on",
            Fault::Version => "Sec-WebSocket-Version must be 13",
            Fault::Versions => "Sec-WebSocket-Version must be there once",
            Fault::Key => "Sec-WebSocket-Key must be 16 bytes in base64",
            Fault::Keys => "Sec-WebSocket-Key must be there once",
            Fault::Body => "a handshake must not have a body",
        }
    }
}

/// Returns the value of `Sec-WebSocket-Accept`, if the handshake is as it must be.
pub(super) fn accept(version: Version, headers: &HeaderMap, has_body: bool) -> Result<HeaderValue, Fault> {
    if version < Version::HTTP_11 {
        return Err(Fault::OldHttp);
    }
    if !header_list::contains(headers, &header::CONNECTION, "upgrade") {
        return Err(Fault::Connection);
    }
    // An element with a version, `websocket/13`, is not the value that the RFC wants, whoever may mean it.
    if !header_list::contains(headers, &header::UPGRADE, "websocket") {
        return Err(Fault::Upgrade);
    }
    match only(headers, &header::SEC_WEBSOCKET_VERSION) {
        Ok(version) if version.as_bytes() == b"13" => {}
        Ok(_) | Err(Count::None) => return Err(Fault::Version),
        Err(Count::Several) => return Err(Fault::Versions),
    }
    let key = only(headers, &header::SEC_WEBSOCKET_KEY).map_err(|count| match count {
        Count::None => Fault::Key,
        Count::Several => Fault::Keys,
    })?;
    if !is_key(key.as_bytes()) {
        return Err(Fault::Key);
    }
    if has_body {
        return Err(Fault::Body);
    }
    // Base64 is made of characters that a header may hold.
    HeaderValue::try_from(tungstenite::handshake::derive_accept_key(key.as_bytes())).map_err(|_| Fault::Key)
}

/// How many lines there are of a field that should be there once.
enum Count {
    None,
    Several,
}

fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<&'a HeaderValue, Count> {
    let mut lines = headers.get_all(name).iter();
    let first = lines.next().ok_or(Count::None)?;
    if lines.next().is_some() { Err(Count::Several) } else { Ok(first) }
}

/// RFC 6455 section 4.1: 16 bytes in base64 are 22 characters and two of padding. The last four bits of the 22nd stand for
/// nothing; clients set them, the RFC's own example among them.
fn is_key(text: &[u8]) -> bool {
    let Some(text) = text.strip_suffix(b"==") else { return false };
    text.len() == 22 && text.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const USUAL: [(&str, &str); 4] = [
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];

    fn check(fields: &[(&str, &str)]) -> Result<HeaderValue, Fault> {
        let field =
            |(name, value): &(&str, &str)| (name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap());
        accept(Version::HTTP_11, &fields.iter().map(field).collect(), false)
    }

    /// The usual fields without one, and others.
    fn with(without: &str, others: &[(&str, &str)]) -> Result<HeaderValue, Fault> {
        let kept = USUAL.iter().filter(|(name, _)| *name != without).chain(others);
        check(&kept.copied().collect::<Vec<_>>())
    }

    #[test]
    fn the_example_of_the_rfc_is_accepted() {
        assert_eq!(check(&USUAL).unwrap(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        // Section 4.1 has a key whose spare bits are set.
        assert!(with("sec-websocket-key", &[("sec-websocket-key", "AQIDBAUGBwgJCgsMDQ4PEC==")]).is_ok());
    }

    #[test]
    fn lists_may_have_other_elements() {
        for others in [&[("upgrade", "websocket, h2c")][..], &[("upgrade", "h2c"), ("upgrade", "WebSocket")]] {
            assert!(with("upgrade", others).is_ok(), "{others:?}");
        }
        assert!(with("", &[("connection", "keep-alive"), ("upgrade", "h2c")]).is_ok());
        for (name, value, fault) in [
            ("upgrade", "h2c, WebSocket/13", Fault::Upgrade),
            ("upgrade", "websockets", Fault::Upgrade),
            ("upgrade", "", Fault::Upgrade),
            ("connection", "keep-alive, close", Fault::Connection),
            ("sec-websocket-version", "8", Fault::Version),
            ("sec-websocket-version", "8, 13", Fault::Version),
        ] {
            assert_eq!(with(name, &[(name, value)]), Err(fault), "{name}: {value}");
            assert_eq!(with(name, &[]), Err(fault), "no {name}");
        }
    }

    #[test]
    fn what_must_be_there_once_is_refused_twice() {
        for (name, fault) in [("sec-websocket-key", Fault::Keys), ("sec-websocket-version", Fault::Versions)] {
            let value = USUAL.iter().find(|(usual, _)| *usual == name).unwrap().1;
            assert_eq!(with("", &[(name, value)]), Err(fault));
        }
    }

    #[test]
    fn a_key_is_sixteen_bytes() {
        for key in [
            "",
            "short==",
            "AQIDBAUGBwgJCgsMDQ4P",
            "dGhlIHNhbXBsZSBub25jZQ=",
            "dGhlIHNhbXBsZSBub25jZQ===",
            "dGhlIHNhbXBsZSBub25j*Q==",
        ] {
            assert_eq!(with("sec-websocket-key", &[("sec-websocket-key", key)]), Err(Fault::Key), "{key}");
        }
        assert_eq!(with("sec-websocket-key", &[]), Err(Fault::Key));
    }

    #[test]
    fn what_cannot_be_a_handshake_is_said_first() {
        let headers = USUAL.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)));
        let headers: HeaderMap = headers.collect();
        assert_eq!(accept(Version::HTTP_10, &headers, true), Err(Fault::OldHttp));
        assert_eq!(accept(Version::HTTP_11, &headers, true), Err(Fault::Body));
        assert_eq!(check(&[]), Err(Fault::Connection));
    }
}
