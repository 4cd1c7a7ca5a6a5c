//! Limits how often logging in may be tried: from one address, from the networks around an IPv6 address, and for one name,
//! whoever tries and whether or not there is such a user. A browser that has logged in as that user before is counted
//! apart, so that strangers cannot lock the user out ([`known`](super::known)). The numbers are in the store of the host,
//! and so the same for all workers and generations.

use std::net::IpAddr;

use super::Visit;
use super::cookie::number;
use super::known::Known;
use crate::app::App;
use crate::backplane::{BackplaneError, Bucket};
use crate::heartbeat::wall_ms;
use crate::settings::SecretKey;

/// So many at once, and then one each so many milliseconds.
type Rate = (u64, u64);

/// From one IPv4 address, one IPv6 network of 64 bits, or over Unix sockets.
const ADDRESS: Rate = (10, 60_000);

/// From one IPv6 network of 56 bits: what a household or a small site is given (RFC 6177).
const SITE: Rate = (20, 30_000);

/// From one IPv6 network of 48 bits: what a large site is given.
const LARGE_SITE: Rate = (40, 15_000);

/// For one name.
const NAME: Rate = (20, 30_000);

/// From one browser that has logged in before.
const BROWSER: Rate = (10, 60_000);

/// From all browsers that have logged in as one user.
const BROWSERS: Rate = (50, 12_000);

/// The kinds of buckets, as the store has them.
mod kind {
    pub(super) const ADDRESS: u8 = b'a';
    pub(super) const SITE: u8 = b's';
    pub(super) const LARGE_SITE: u8 = b'l';
    pub(super) const NAME: u8 = b'n';
    pub(super) const BROWSER: u8 = b'k';
    pub(super) const BROWSERS: u8 = b'K';
}

/// The number of the widest network around an address that is looked at.
pub(super) fn network(key: &SecretKey, address: Option<IpAddr>) -> u64 {
    number(key, "network", &[&prefixes(address).2])
}

/// The address itself, and of IPv6 the networks of 64, 56 and 48 bits.
fn prefixes(address: Option<IpAddr>) -> (Vec<u8>, Option<Vec<u8>>, Vec<u8>) {
    match address.map(|address| address.to_canonical()) {
        Some(IpAddr::V6(address)) => {
            let first = |bytes: usize| address.octets()[..bytes].to_vec();
            (first(8), Some(first(7)), first(6))
        }
        Some(IpAddr::V4(address)) => (address.octets().to_vec(), None, address.octets().to_vec()),
        None => (Vec::new(), None, Vec::new()),
    }
}

fn bucket(key: &SecretKey, kind: u8, what: &[u8], (burst, interval_ms): Rate) -> Bucket {
    let always_kept = matches!(kind, kind::BROWSER | kind::BROWSERS);
    Bucket { kind, number: number(key, "bucket", &[&[kind], what]), burst, interval_ms, always_kept }
}

/// The buckets of an attempt by anybody.
fn of_stranger(key: &SecretKey, address: Option<IpAddr>, name: &str) -> Vec<Bucket> {
    let (nearest, site, large_site) = prefixes(address);
    let mut buckets = vec![bucket(key, kind::ADDRESS, &nearest, ADDRESS)];
    if let Some(site) = site {
        buckets.push(bucket(key, kind::SITE, &site, SITE));
        buckets.push(bucket(key, kind::LARGE_SITE, &large_site, LARGE_SITE));
    }
    buckets.push(bucket(key, kind::NAME, name.as_bytes(), NAME));
    buckets
}

/// The buckets of an attempt by a browser that has logged in before.
fn of_known(key: &SecretKey, known: &Known) -> Vec<Bucket> {
    let browser = bucket(key, kind::BROWSER, known.browser().as_bytes(), BROWSER);
    vec![browser, bucket(key, kind::BROWSERS, known.name().as_ref().as_bytes(), BROWSERS)]
}

/// The attempt, taken from its buckets.
pub(super) enum Attempt {
    Taken(Vec<Bucket>),
    /// Not now, but after so many seconds.
    After(u64),
}

/// Takes one from each of the buckets that count. A known browser whose own are empty is a stranger like others: without
/// its cookie it would be one, too.
pub(super) fn take<A: App>(visit: &Visit<'_, A>, known: Option<&Known>, name: &str) -> Result<Attempt, BackplaneError> {
    let key = &visit.admin.key;
    let choices = known.map(|known| of_known(key, known)).into_iter().chain([of_stranger(key, visit.address, name)]);
    let mut least = u64::MAX;
    for buckets in choices {
        match visit.shared.hub.borrow_mut().backplane.host().take_from(&buckets, wall_ms())? {
            None => return Ok(Attempt::Taken(buckets)),
            Some(ms) => least = least.min(ms),
        }
    }
    Ok(Attempt::After(least.div_ceil(1000).max(1)))
}

/// Puts back what was taken: it was the right password, or was not checked at all.
pub(super) fn put_back<A: App>(visit: &Visit<'_, A>, buckets: &[Bucket]) {
    if let Err(error) = visit.shared.hub.borrow_mut().backplane.host().put_back(buckets, wall_ms()) {
        tracing::warn!(%error, "attempts to log in were not forgotten");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buckets(address: &str, name: &str) -> Vec<(u8, u64)> {
        let key = SecretKey::new("3f9a1c07be524d68").unwrap();
        let buckets = of_stranger(&key, Some(address.parse().unwrap()), name);
        buckets.into_iter().map(|bucket| (bucket.kind, bucket.number)).collect()
    }

    #[test]
    fn networks_around_an_ipv6_address_have_buckets_and_ipv4_addresses_one() {
        let shared = |a: &str, b: &str| {
            let (a, b) = (buckets(a, "ada"), buckets(b, "ada"));
            a.iter().zip(&b).map(|(a, b)| a == b).collect::<Vec<_>>()
        };
        assert_eq!(shared("2001:db8::1", "2001:db8::ffff:2"), [true; 4]);
        assert_eq!(shared("2001:db8::1", "2001:db8:0:1::1"), [false, true, true, true]);
        assert_eq!(shared("2001:db8::1", "2001:db8:0:100::1"), [false, false, true, true]);
        assert_eq!(shared("2001:db8::1", "2001:db8:1::1"), [false, false, false, true]);
        assert_eq!(shared("192.0.2.1", "192.0.2.2"), [false, true]);
        assert_eq!(shared("192.0.2.1", "::ffff:192.0.2.1"), [true, true]);
        assert_ne!(buckets("192.0.2.1", "ada")[1], buckets("192.0.2.1", "bob")[1]);
    }

    #[test]
    fn wider_networks_have_more_room_than_each_of_those_in_them() {
        let per_hour = |(burst, interval_ms): Rate| (burst, 3_600_000 / interval_ms);
        for (narrow, wide) in [(ADDRESS, SITE), (SITE, LARGE_SITE), (BROWSER, BROWSERS)] {
            let (narrow, wide) = (per_hour(narrow), per_hour(wide));
            assert!(wide.0 > narrow.0 && wide.1 > narrow.1);
        }
    }

    #[test]
    fn a_place_is_that_of_the_widest_network() {
        let key = SecretKey::new("3f9a1c07be524d68").unwrap();
        let network = |address: &str| network(&key, Some(address.parse().unwrap()));
        assert_eq!(network("2001:db8::1"), network("2001:db8:0:ffff::1"));
        assert_ne!(network("2001:db8::1"), network("2001:db8:1::1"));
        assert_ne!(network("192.0.2.1"), network("192.0.2.2"));
    }
}
