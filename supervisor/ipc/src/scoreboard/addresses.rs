//! Counts connections and new sessions by the address of the client, for all workers of both generations.
//!
//! **Connections**: a table for each row of the scoreboard, written by the worker that holds the row and read by all. Their
//! sum is what an address has. What a killed worker has counted goes with its row, so that nobody has to give anything back.
//!
//! **New sessions**: one table for all, of GCRA cells (a leaky bucket that is one time: when it will be empty). A cell is
//! one word, changed by compare-and-swap; an empty one is free. A worker that is killed leaves nothing to mend.
//!
//! Both find a key within a short window behind the place that it hashes to. Where the window is full of others the key
//! is not counted: a limit that cannot be kept turns nobody away.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Word;

/// Entries of a table of connections, each a word: so many addresses one worker can count, and some fewer in practice.
pub(super) const ENTRIES: usize = 1 << 17;

/// Cells of the table of new sessions.
pub(super) const CELLS: usize = 1 << 16;

/// Places that are looked at for a key.
const WINDOW: usize = 16;

/// The time in which an address may begin as many sessions as it may a minute: the burst is a minute's worth.
const MINUTE_US: u64 = 60_000_000;

/// Stands for the network of a client: an IPv4 address, or the /64 of an IPv6 address, hashed with a key that only the
/// processes of one service have. Its highest bit is always set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AddressKey(NonZeroU64);

impl AddressKey {
    /// The key of this address. An IPv4 address that is written as IPv6 (`::ffff:1.2.3.4`) is the IPv4 address.
    pub(super) fn new(address: IpAddr, secret: [u64; 2]) -> AddressKey {
        let network = match address.to_canonical() {
            IpAddr::V4(address) => address.to_ipv6_mapped(),
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)),
        };
        let bits = network.to_bits();
        AddressKey(NonZeroU64::MIN | siphash(secret, [(bits >> 64) as u64, bits as u64]) | 1 << 63)
    }

    /// The places where it may be in a table of `length` words, a power of two.
    fn places(self, length: usize) -> impl Iterator<Item = usize> + Clone {
        let first = self.0.get() as usize;
        (0..WINDOW).map(move |step| first.wrapping_add(step) & (length - 1))
    }
}

/// The network that an [`AddressKey`] stands for, for logs.
pub fn network(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(address) => Ipv4Addr::to_string(&address),
        IpAddr::V6(address) => format!("{}/64", Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
    }
}

/// The connections of one worker, by address. Only the worker that holds the row may change it.
#[derive(Clone, Copy, Debug)]
pub struct Connections<'a> {
    words: &'a [Word],
}

// An entry: the key's highest 40 bits, and 24 bits that count.
const COUNT_BITS: u32 = 24;
const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;

impl<'a> Connections<'a> {
    pub(super) fn new(words: &'a [Word]) -> Connections<'a> {
        Connections { words }
    }

    /// Counts one more. False: there is no place for it, and it is not counted.
    pub fn add(&self, key: AddressKey) -> bool {
        let free = || key.places(self.words.len()).map(|place| &self.words[place]).find(|word| word.get() == 0);
        match self.find(key).or_else(free) {
            Some(word) if word.get() & COUNT_MASK < COUNT_MASK => {
                word.set((tag(key) | (word.get() & COUNT_MASK)) + 1);
                true
            }
            Some(_) | None => false,
        }
    }

    /// Counts one less of those that were counted. After the table was cleared there may be none.
    pub fn remove(&self, key: AddressKey) {
        if let Some(word) = self.find(key) {
            let left = (word.get() & COUNT_MASK) - 1;
            word.set(if left == 0 { 0 } else { tag(key) | left });
        }
    }

    /// How many there are of this address.
    pub fn get(&self, key: AddressKey) -> u64 {
        self.find(key).map_or(0, |word| word.get() & COUNT_MASK)
    }

    fn find(&self, key: AddressKey) -> Option<&'a Word> {
        let words = self.words;
        key.places(words.len()).map(|place| &words[place]).find(|word| word.get() & !COUNT_MASK == tag(key))
    }
}

fn tag(key: AddressKey) -> u64 {
    key.0.get() & !COUNT_MASK
}

/// The new sessions of all workers, by address.
#[derive(Clone, Copy, Debug)]
pub struct NewSessions<'a> {
    cells: &'a [AtomicU64],
}

// A cell: the key's highest 24 bits, and 40 bits of the time (microseconds, which begin anew after twelve days) at which
// its bucket is empty.
const TIME_MASK: u64 = (1 << 40) - 1;

impl<'a> NewSessions<'a> {
    pub(super) fn new(cells: &'a [AtomicU64]) -> NewSessions<'a> {
        NewSessions { cells }
    }

    /// Lets an address begin one more session, or says in what time it may. `now_us`: of `CLOCK_MONOTONIC`.
    pub fn take(&self, key: AddressKey, per_minute: u32, now_us: u64) -> Result<(), Duration> {
        let each = (MINUTE_US / u64::from(per_minute.max(1))).max(1);
        let tag = key.0.get() & !TIME_MASK;
        // Another process that changes the cell at the same time has got somewhere; one that loses again and again does
        // not turn its client away for that.
        for _ in 0..WINDOW {
            let mut places = key.places(self.cells.len()).map(|place| &self.cells[place]);
            let ours = |cell: &&AtomicU64| cell.load(Ordering::Relaxed) & !TIME_MASK == tag;
            let free = |cell: &&AtomicU64| fill(cell.load(Ordering::Relaxed), now_us) == 0;
            let Some(cell) = places.clone().find(ours).or_else(|| places.find(free)) else { return Ok(()) };
            let seen = cell.load(Ordering::Relaxed);
            let fill = if seen & !TIME_MASK == tag { fill(seen, now_us) } else { 0 };
            if fill + each > MINUTE_US {
                return Err(Duration::from_micros(fill + each - MINUTE_US));
            }
            let next = tag | (now_us.wrapping_add(fill + each) & TIME_MASK);
            if cell.compare_exchange(seen, next, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// How long the bucket of a cell takes to be empty. What is longer than any bucket takes was written days ago.
fn fill(cell: u64, now_us: u64) -> u64 {
    let left = cell.wrapping_sub(now_us) & TIME_MASK;
    if cell == 0 || left > MINUTE_US { 0 } else { left }
}

/// SipHash-2-4 of two words (Aumasson and Bernstein, 2012). All processes of a service must agree on it, whatever they
/// were built with, which the hashers of the standard library do not promise.
fn siphash([k0, k1]: [u64; 2], words: [u64; 2]) -> u64 {
    let mut v = [
        k0 ^ 0x736f_6d65_7073_6575,
        k1 ^ 0x646f_7261_6e64_6f6d,
        k0 ^ 0x6c79_6765_6e65_7261,
        k1 ^ 0x7465_6462_7974_6573,
    ];
    let length = 16 << 56;
    for word in [words[0], words[1], length] {
        v[3] ^= word;
        (0..2).for_each(|_| round(&mut v));
        v[0] ^= word;
    }
    v[2] ^= 0xff;
    (0..4).for_each(|_| round(&mut v));
    v[0] ^ v[1] ^ v[2] ^ v[3]
}

fn round(v: &mut [u64; 4]) {
    v[0] = v[0].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(13) ^ v[0];
    v[0] = v[0].rotate_left(32);
    v[2] = v[2].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(16) ^ v[2];
    v[0] = v[0].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(21) ^ v[0];
    v[2] = v[2].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(17) ^ v[2];
    v[2] = v[2].rotate_left(32);
}

#[cfg(test)]
#[path = "addresses_tests.rs"]
mod tests;
