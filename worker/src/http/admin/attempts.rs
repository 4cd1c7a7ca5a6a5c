//! How often logging in may be tried: so often from one address, and so often for one name, whoever tries and whether
//! there is such a user. The numbers are in the store of the host, and so the same for all workers and generations.
//!
//! The generic cell rate algorithm (ITU-T I.371): for each bucket the time is kept at which it would be full again, and an
//! attempt moves it by an interval. Addresses and names fall into a fixed number of buckets, so that nobody can make us
//! keep more; which two share one depends on the secret key.

use std::net::IpAddr;

use super::Visit;
use super::cookie::sign;
use crate::app::App;
use crate::backplane::{BackplaneError, Bucket};
use crate::heartbeat::wall_ms;
use crate::settings::SecretKey;

/// From one address: ten at once, then one a minute.
const ADDRESS: (u64, u64) = (10, 60_000);

/// For one name: twenty at once, then one every 30 s.
const NAME: (u64, u64) = (20, 30_000);

/// The buckets of one attempt.
pub(super) fn buckets(key: &SecretKey, address: Option<IpAddr>, name: &str) -> [Bucket; 2] {
    let number = |kind: &str, what: &[u8]| {
        let mixed = sign(key, kind, &[what]);
        mixed.bytes().fold(0u16, |number, byte| number.wrapping_mul(31).wrapping_add(byte.into()))
    };
    let network = match address {
        // Whoever has one IPv6 address has a network of them.
        Some(IpAddr::V6(address)) => address.octets()[..8].to_vec(),
        Some(IpAddr::V4(address)) => address.octets().to_vec(),
        None => Vec::new(),
    };
    let bucket = |kind: u8, number: u16, (burst, interval_ms): (u64, u64)| Bucket { kind, number, burst, interval_ms };
    [bucket(b'a', number("address", &network), ADDRESS), bucket(b'n', number("name", name.as_bytes()), NAME)]
}

/// Takes one from each. `Some`: not now, but after so many seconds.
pub(super) fn take<A: App>(visit: &Visit<'_, A>, buckets: &[Bucket; 2]) -> Result<Option<u64>, BackplaneError> {
    let wait_ms = visit.shared.hub.borrow_mut().backplane.host().take_from(buckets, wall_ms())?;
    Ok(wait_ms.map(|ms| ms.div_ceil(1000).max(1)))
}

/// It was the right password: puts back what was taken.
pub(super) fn put_back<A: App>(visit: &Visit<'_, A>, buckets: &[Bucket; 2]) {
    if let Err(error) = visit.shared.hub.borrow_mut().backplane.host().put_back(buckets) {
        tracing::warn!(%error, "attempts to log in were not forgotten");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_has_a_network_has_one_bucket() {
        let key = SecretKey::new("0123456789abcdef").unwrap();
        let numbers = |address: &str, name: &str| {
            buckets(&key, Some(address.parse().unwrap()), name).map(|bucket| (bucket.kind, bucket.number))
        };
        assert_eq!(numbers("2001:db8::1", "ada"), numbers("2001:db8::ffff:2", "ada"));
        assert_ne!(numbers("2001:db8::1", "ada")[0], numbers("2001:db8:1::1", "ada")[0]);
        assert_ne!(numbers("192.0.2.1", "ada")[0], numbers("192.0.2.2", "ada")[0]);
        assert_eq!(numbers("192.0.2.1", "ada")[1], numbers("192.0.2.2", "ada")[1]);
        assert_ne!(numbers("192.0.2.1", "ada")[1], numbers("192.0.2.1", "bob")[1]);
    }
}
