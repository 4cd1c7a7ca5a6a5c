//! From text to values. An error is the sentence that says what is allowed; the caller knows the key and the place.

use std::net::{SocketAddr, ToSocketAddrs};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use baton_ipc::Endpoint;
use baton_worker::redis;

/// The longest path of a Unix socket: `sun_path` of unix(7) without its final NUL.
pub(super) const MAX_SOCKET_PATH: usize = 107;

const DURATION_UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

const SIZE_UNITS: [(&str, u64); 5] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// A whole number within a range.
pub(super) fn number(text: &str, range: RangeInclusive<u64>) -> Result<u64, String> {
    let allowed = || format!("a whole number from {} to {}", range.start(), range.end());
    digits(text).filter(|n| range.contains(n)).ok_or_else(allowed)
}

/// A duration such as `500ms`, `30s` or `1h30m`, within a range.
pub(crate) fn duration(text: &str, range: RangeInclusive<Duration>) -> Result<Duration, String> {
    let allowed = || {
        let (least, most) = (format_duration(*range.start()), format_duration(*range.end()));
        format!("a duration with its unit, such as 500ms, 30s or 24h, from {least} to {most}")
    };
    let milliseconds = parse_duration(text).ok_or_else(allowed)?;
    Some(Duration::from_millis(milliseconds)).filter(|d| range.contains(d)).ok_or_else(allowed)
}

/// A duration as [`duration`] reads it, or plain seconds.
pub(crate) fn seconds(text: &str, range: RangeInclusive<Duration>) -> Result<Duration, String> {
    match digits(text) {
        Some(_) => duration(&format!("{text}s"), range),
        None => duration(text, range),
    }
}

/// Parts in the order of their units, largest first and each at most once: `1m30s`, never `30s1m` or `1s1s`.
fn parse_duration(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut total = 0u64;
    let mut below = u64::MAX;
    while !rest.is_empty() {
        let after_digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (amount, tail) = rest.split_at(after_digits);
        let after_unit = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(after_unit);
        let (_, factor) = DURATION_UNITS.into_iter().find(|(name, _)| *name == unit)?;
        if factor >= below {
            return None;
        }
        total = total.checked_add(digits(amount)?.checked_mul(factor)?)?;
        (rest, below) = (tail, factor);
    }
    Some(total).filter(|_| !text.is_empty())
}

/// The duration as [`duration`] reads it, without the parts that are zero.
fn format_duration(duration: Duration) -> String {
    let mut rest = duration.as_millis();
    let mut text = String::new();
    for (unit, factor) in DURATION_UNITS.into_iter().rev() {
        let amount = rest / u128::from(factor);
        rest %= u128::from(factor);
        if amount > 0 {
            text.push_str(&format!("{amount}{unit}"));
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// A size such as `64KiB`, or plain bytes, within a range.
pub(super) fn size(text: &str, range: RangeInclusive<u64>) -> Result<u64, String> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (amount, unit) = text.split_at(split);
    let factor = match unit {
        "" => Some(1),
        _ => SIZE_UNITS.into_iter().find(|(name, _)| *name == unit).map(|(_, factor)| factor),
    };
    let bytes = factor.and_then(|factor| digits(amount)?.checked_mul(factor));
    bytes.filter(|bytes| range.contains(bytes)).ok_or_else(|| {
        let (least, most) = (format_size(*range.start()), format_size(*range.end()));
        format!("a size in B, KiB, MiB, GiB or TiB, such as 64KiB, from {least} to {most}")
    })
}

/// The size in the largest unit that keeps it whole.
pub(super) fn format_size(bytes: u64) -> String {
    let whole = |(_, factor): &(&str, u64)| bytes >= *factor && bytes.is_multiple_of(*factor);
    let (unit, factor) = SIZE_UNITS.into_iter().find(whole).unwrap_or(("B", 1));
    format!("{}{unit}", bytes / factor)
}

/// One of a few words.
pub(super) fn word<T: Copy>(text: &str, words: &[(&str, T)]) -> Result<T, String> {
    words
        .iter()
        .find(|(word, _)| *word == text)
        .map(|(_, value)| *value)
        .ok_or_else(|| words.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(" or "))
}

/// `none`, or a value.
pub(super) fn optional<T>(text: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Result<Option<T>, String> {
    match text {
        "none" => Ok(None),
        text => parse(text).map(Some).map_err(|allowed| format!("{allowed}; or none")),
    }
}

/// A directory, made absolute: a reload, or a successor, may stand elsewhere.
pub(super) fn directory(text: &str) -> Result<PathBuf, String> {
    let path = std::path::absolute(text).map_err(|_| "the path of a directory".to_owned())?;
    if path.exists() && !path.is_dir() {
        return Err("the path of a directory, and this is something else".to_owned());
    }
    Ok(path)
}

/// What a worker is told about a Redis at this address; other settings fill in the rest.
pub(super) fn redis(address: redis::Address) -> redis::Settings {
    redis::Settings { address, prefix: String::new(), timeout: Duration::ZERO, ca_file: None }
}

/// A file of certificates, made absolute as a directory is.
pub(super) fn ca_file(text: &str) -> Result<PathBuf, String> {
    const ALLOWED: &str = "a readable file of PEM certificates";
    let path = std::path::absolute(text).map_err(|_| ALLOWED.to_owned())?;
    redis::read_ca(&path).map_err(|reason| format!("{ALLOWED}; {reason}"))?;
    Ok(path)
}

/// What keys may begin with. Braces would decide where a cluster keeps them (hash tags), which is not the prefix's to say.
pub(super) fn redis_prefix(text: &str) -> Result<String, String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._:-".contains(&byte);
    match (1..=64).contains(&text.len()) && text.bytes().all(allowed) {
        true => Ok(text.to_owned()),
        false => Err("1 to 64 characters of A-Za-z0-9._:-".to_owned()),
    }
}

/// Where to listen: `HOST:PORT` or `unix:PATH`.
pub(super) fn endpoint(text: &str) -> Result<Endpoint, String> {
    const ALLOWED: &str = "HOST:PORT, such as 0.0.0.0:8000 or [::]:8000, or unix:PATH";
    if let Some(path) = text.strip_prefix("unix:") {
        let path = std::path::absolute(path).map_err(|_| ALLOWED.to_owned())?;
        if path.as_os_str().len() > MAX_SOCKET_PATH {
            return Err(format!("a socket's path of at most {MAX_SOCKET_PATH} bytes (unix(7))"));
        }
        return Ok(Endpoint::Unix(path));
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(Endpoint::Tcp(address));
    }
    let (host, port) = text.rsplit_once(':').ok_or(ALLOWED)?;
    if host.is_empty() || host.contains([':', '/', '[']) || port.parse::<u16>().is_err() {
        return Err(ALLOWED.to_owned());
    }
    let found: Vec<SocketAddr> = text.to_socket_addrs().map_err(|e| format!("{ALLOWED}; {host}: {e}"))?.collect();
    // A name may stand for both families; one socket per slot is what was asked for, and IPv4 is there more often.
    let address = found.iter().find(|address| address.is_ipv4()).or(found.first());
    address.map(|address| Endpoint::Tcp(*address)).ok_or_else(|| format!("{ALLOWED}; {host} has no address"))
}

/// `ws://HOST[:PORT]` or `wss://HOST[:PORT]`, without a path.
pub(super) fn ws_base_url(text: &str) -> Result<String, String> {
    let authority = text.strip_prefix("ws://").or_else(|| text.strip_prefix("wss://"));
    match authority.is_some_and(is_authority) {
        true => Ok(text.to_owned()),
        false => Err("ws://HOST[:PORT] or wss://HOST[:PORT], without a path or a slash at the end".to_owned()),
    }
}

/// `host[:port]`: no user, path, query or fragment, and nothing that could leave the HTML or JSON it is put into.
fn is_authority(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let inside = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let host_is_fine = match inside {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c)),
    };
    host_is_fine && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
}

/// Digits alone: `parse` would let a plus sign through.
fn digits(text: &str) -> Option<u64> {
    text.parse().ok().filter(|_| text.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANY: RangeInclusive<Duration> = Duration::ZERO..=Duration::MAX;

    #[test]
    fn durations_need_a_unit_and_take_several() {
        for (text, ms) in
            [("500ms", 500), ("30s", 30_000), ("1m30s", 90_000), ("24h", 86_400_000), ("2d", 172_800_000), ("0s", 0)]
        {
            assert_eq!(duration(text, ANY), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in [
            "",
            "30",
            "s",
            "-1s",
            "+1s",
            "1.5s",
            "1 s",
            "30S",
            "30s1m",
            "1s1s",
            "1y",
            "30s ",
            "99999999999999999999s",
            "300000000000000d",
            "１s",
        ] {
            assert!(duration(text, ANY).is_err(), "{text}");
        }
        let refused = duration("10s", Duration::from_millis(100)..=Duration::from_secs(9)).unwrap_err();
        assert!(refused.ends_with("from 100ms to 9s"), "{refused}");
        for (ms, text) in [(0, "0s"), (86_400_000, "1d"), (90_061_001, "1d1h1m1s1ms")] {
            assert_eq!(format_duration(Duration::from_millis(ms)), text);
        }
    }

    #[test]
    fn sizes_are_binary_or_plain_bytes() {
        for (text, bytes) in [("64KiB", 65_536), ("1GiB", 1 << 30), ("100", 100), ("7B", 7), ("1TiB", 1 << 40)] {
            assert_eq!(size(text, 0..=u64::MAX), Ok(bytes), "{text}");
        }
        for text in ["", "KiB", "64KB", "64K", "64kib", "1.5MiB", "-1", "64 KiB", "99999999TiB"] {
            assert!(size(text, 0..=u64::MAX).is_err(), "{text}");
        }
        assert!(size("1", 1024..=1 << 30).unwrap_err().ends_with("from 1KiB to 1GiB"));
        assert_eq!(
            (format_size(1536), format_size(0), format_size(1 << 21)),
            ("1536B".into(), "0B".into(), "2MiB".into())
        );
    }

    #[test]
    fn endpoints() {
        assert_eq!(endpoint("127.0.0.1:0"), Ok(Endpoint::Tcp(([127, 0, 0, 1], 0).into())));
        assert_eq!(endpoint("[::]:8000").unwrap().to_string(), "[::]:8000");
        assert_eq!(endpoint("unix:/run/x.sock"), Ok(Endpoint::Unix("/run/x.sock".into())));
        assert_eq!(endpoint("localhost:8000").unwrap().to_string(), "127.0.0.1:8000");
        for text in [
            "",
            "8000",
            ":8000",
            "0.0.0.0",
            "0.0.0.0:",
            "0.0.0.0:65536",
            "http://x:80",
            "::1:80",
            "unix:",
            "tcp:1.2.3.4:80",
        ] {
            assert!(endpoint(text).is_err(), "{text}");
        }
        assert!(endpoint(&format!("unix:/{}", "x".repeat(200))).unwrap_err().contains("107"));
    }

    #[test]
    fn urls_have_no_path() {
        for text in ["ws://localhost:8000", "wss://a-b.example.org", "ws://[::1]:80", "wss://10.0.0.1"] {
            assert!(ws_base_url(text).is_ok(), "{text}");
        }
        for text in [
            "",
            "http://x",
            "ws://",
            "ws://x/",
            "ws://x/y",
            "ws://x?y",
            "ws://u@x",
            "ws://x:0",
            "ws://x:y",
            "ws://\"x",
            "WS://x",
            "ws://[::1",
        ] {
            assert!(ws_base_url(text).is_err(), "{text}");
        }
    }

    #[test]
    fn prefixes_leave_hash_tags_alone() {
        for text in ["baton", "a", "Prod.eu-1:baton_x", &"x".repeat(64)] {
            assert_eq!(redis_prefix(text), Ok(text.to_owned()));
        }
        for text in ["", "{baton}", "a b", "ä", "a*", &"x".repeat(65)] {
            assert!(redis_prefix(text).is_err(), "{text}");
        }
    }

    #[test]
    fn words_numbers_and_none() {
        assert_eq!(word("green", &[("blue", 1), ("green", 2)]), Ok(2));
        assert_eq!(word("red", &[("blue", 1), ("green", 2)]), Err("blue or green".into()));
        assert_eq!(number("64", 1..=64), Ok(64));
        for text in ["0", "65", "+4", "4.0", "", "four", "-1"] {
            assert_eq!(number(text, 1..=64), Err("a whole number from 1 to 64".into()), "{text}");
        }
        assert_eq!(optional("none", |t| number(t, 1..=2)), Ok(None));
        assert!(optional("3", |t| number(t, 1..=2)).unwrap_err().ends_with("; or none"));
    }
}
