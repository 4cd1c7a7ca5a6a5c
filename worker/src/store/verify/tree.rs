//! What is known of a tree while it is walked: its record, its order, and how far it has come.

use std::cmp::Ordering;

use super::page::{u16_at, u32_at, u64_at};

/// `CURSOR_STACK`: LMDB itself cannot follow a deeper tree.
pub(super) const MAX_DEPTH: u16 = 32;
/// `P_INVALID`: the root of an empty tree.
pub(super) const NO_PAGE: u64 = u64::MAX;

const REVERSE_KEY: u16 = 0x02;
const DUP_SORT: u16 = 0x04;
pub(super) const INTEGER_KEY: u16 = 0x08;
pub(super) const DUP_FIXED: u16 = 0x10;
const INTEGER_DUP: u16 = 0x20;
const REVERSE_DUP: u16 = 0x40;
const KNOWN_FLAGS: u16 = REVERSE_KEY | DUP_SORT | INTEGER_KEY | DUP_FIXED | INTEGER_DUP | REVERSE_DUP;

/// The root record of a tree (`MDB_db`).
#[derive(Clone, Copy, Debug)]
pub(super) struct Database {
    /// Of the free list in a meta page: the page size. Of a tree of fixed-size duplicates: their size. In bytes.
    pub(super) pad: u32,
    pub(super) flags: u16,
    pub(super) depth: u16,
    pub(super) entries: u64,
    pub(super) root: u64,
}

impl Database {
    pub(super) const SIZE: usize = 48;

    /// The record at the start of the bytes, and what follows it.
    pub(super) fn parse(bytes: &[u8]) -> Option<(Database, &[u8])> {
        let (raw, rest) = bytes.split_at_checked(Database::SIZE)?;
        // Between depth and entries: three page counts, which only statistics read.
        let record = Database {
            pad: u32_at(raw, 0)?,
            flags: u16_at(raw, 4)?,
            depth: u16_at(raw, 6)?,
            entries: u64_at(raw, 32)?,
            root: u64_at(raw, 40)?,
        };
        Some((record, rest))
    }

    /// How its keys are sorted; none if it has flags that LMDB does not know.
    pub(super) fn order(&self) -> Option<Order> {
        match self.flags {
            flags if flags & !KNOWN_FLAGS != 0 => None,
            flags if flags & REVERSE_KEY != 0 => Some(Order::Reversed),
            flags if flags & INTEGER_KEY != 0 => Some(Order::Integer),
            _ => Some(Order::Bytes),
        }
    }
}

/// How keys, or duplicates, are sorted (`mdb_default_cmp`).
#[derive(Clone, Copy, Debug)]
pub(super) enum Order {
    Bytes,
    Reversed,
    Integer,
}

impl Order {
    pub(super) fn compare(self, a: &[u8], b: &[u8]) -> Ordering {
        match self {
            Order::Bytes => a.cmp(b),
            Order::Reversed => a.iter().rev().cmp(b.iter().rev()),
            Order::Integer => a.len().cmp(&b.len()).then_with(|| a.iter().rev().cmp(b.iter().rev())),
        }
    }
}

/// What a tree is for, which decides what its leaves may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    FreeList,
    Main,
    Named,
    Duplicates,
}

/// One tree while it is walked, in the order of its keys.
pub(super) struct Tree {
    pub(super) role: Role,
    pub(super) order: Order,
    /// How the duplicates of a key are sorted, where keys may have several values.
    pub(super) duplicates: Option<Order>,
    /// Bytes of a duplicate where all have the same size.
    pub(super) packed: Option<u32>,
    /// Values seen so far.
    pub(super) entries: u64,
    /// The key or separator that was met last: nothing that comes may be before it.
    last: Vec<u8>,
    met: Met,
}

/// What `Tree::last` is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Met {
    Nothing,
    Separator,
    Key,
}

impl Tree {
    pub(super) fn new(role: Role, flags: u16, pad: u32, order: Order) -> Tree {
        let duplicates = (flags & DUP_SORT != 0).then_some(match flags {
            _ if flags & INTEGER_DUP != 0 => Order::Integer,
            _ if flags & REVERSE_DUP != 0 => Order::Reversed,
            _ => Order::Bytes,
        });
        let packed = (role == Role::Duplicates && flags & DUP_FIXED != 0).then_some(pad);
        Tree { role, order, duplicates, packed, entries: 0, last: Vec::new(), met: Met::Nothing }
    }

    /// Is `key` after everything before it? A separator may equal the first key on its right.
    pub(super) fn follows(&self, key: &[u8]) -> bool {
        match (self.met, self.order.compare(&self.last, key)) {
            (Met::Nothing, _) | (_, Ordering::Less) => true,
            (Met::Separator, Ordering::Equal) => true,
            (Met::Key, Ordering::Equal) | (_, Ordering::Greater) => false,
        }
    }

    pub(super) fn remember(&mut self, key: &[u8], met: Met) {
        self.last.clear();
        self.last.extend_from_slice(key);
        self.met = met;
    }
}
