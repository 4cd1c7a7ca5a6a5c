//! One page of the file, read without trust: every offset is checked before it is followed.
//!
//! The layout is that of `MDB_page` and `MDB_node` in LMDB's `mdb.c` on a 64-bit little-endian machine: 16 bytes of
//! header (page number, pad, flags, lower and upper bound of the free space), then an array of two-byte node offsets
//! that grows upward, and the nodes themselves, which grow downward from the end of the page.

/// `PAGEHDRSZ`: bytes before the node offsets.
pub(super) const HEADER: usize = 16;
/// `NODESIZE`: bytes of a node before its key.
const NODE_HEADER: usize = 8;
/// `MDB_MAXKEYSIZE` as LMDB is built here.
const MAX_KEY: usize = 511;

const P_BRANCH: u16 = 0x01;
const P_LEAF: u16 = 0x02;
const P_OVERFLOW: u16 = 0x04;
pub(super) const P_META: u16 = 0x08;
const P_DIRTY: u16 = 0x10;
const P_LEAF2: u16 = 0x20;
const P_SUBP: u16 = 0x40;

/// What is wrong, in words that follow "page 17: ".
pub(super) type Flaw = &'static str;

/// The little-endian integer at `at`, if it is within the bytes.
pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|&raw| u16::from_le_bytes(raw))
}

/// The little-endian integer at `at`, if it is within the bytes.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|&raw| u32::from_le_bytes(raw))
}

/// The little-endian integer at `at`, if it is within the bytes.
pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|&raw| u64::from_le_bytes(raw))
}

/// What a page of a tree holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// Separators and child page numbers.
    Branch,
    /// Keys and values.
    Leaf,
    /// Values of one fixed size without nodes (`P_LEAF2`), the size in bytes.
    Packed(usize),
}

/// A page of a tree, or a sub-page inside a node, whose header has been checked.
pub(super) struct Page<'a> {
    bytes: &'a [u8],
    shape: Shape,
    count: usize,
    upper: usize,
}

impl<'a> Page<'a> {
    /// A whole page that was read as number `number`.
    pub(super) fn tree(bytes: &'a [u8], number: u64) -> Result<Page<'a>, Flaw> {
        if u64_at(bytes, 0) != Some(number) {
            return Err("the page carries another page's number");
        }
        Page::parse(bytes, u16_at(bytes, 10).unwrap_or(0))
    }

    /// A small page of duplicates inside a node. Its number is a leftover, and LMDB leaves it marked dirty.
    pub(super) fn sub(bytes: &'a [u8]) -> Result<Page<'a>, Flaw> {
        match u16_at(bytes, 10) {
            Some(flags) if flags & P_SUBP != 0 => Page::parse(bytes, flags & !(P_SUBP | P_DIRTY)),
            Some(_) => Err("duplicates are not in a sub-page"),
            None => Err("a sub-page is shorter than its header"),
        }
    }

    fn parse(bytes: &'a [u8], flags: u16) -> Result<Page<'a>, Flaw> {
        let (Some(pad), Some(lower), Some(upper)) = (u16_at(bytes, 8), u16_at(bytes, 12), u16_at(bytes, 14)) else {
            return Err("the page is shorter than its header");
        };
        let (lower, upper) = (usize::from(lower), usize::from(upper));
        if lower < HEADER || lower % 2 != 0 || lower > upper || upper > bytes.len() {
            return Err("the bounds of the free space are impossible");
        }
        let count = (lower - HEADER) / 2;
        let shape = match flags {
            P_BRANCH => Shape::Branch,
            P_LEAF => Shape::Leaf,
            // All three terms are small: two 16-bit values and the header.
            _ if flags == P_LEAF | P_LEAF2 => match usize::from(pad) {
                0 => return Err("packed values have no size"),
                size if HEADER + count * size > bytes.len() => return Err("packed values reach past the page"),
                size => Shape::Packed(size),
            },
            _ => return Err("the flags are not those of a tree's page"),
        };
        Ok(Page { bytes, shape, count, upper })
    }

    pub(super) fn shape(&self) -> Shape {
        self.shape
    }

    /// How many nodes, or packed values.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Value `index` of a packed page.
    pub(super) fn packed(&self, index: usize, size: usize) -> Result<&'a [u8], Flaw> {
        let start = HEADER + index * size;
        self.bytes.get(start..start + size).ok_or("packed values reach past the page")
    }

    /// Node `index` of a branch or leaf.
    pub(super) fn node(&self, index: usize) -> Result<Node<'a>, Flaw> {
        let offset = usize::from(u16_at(self.bytes, HEADER + 2 * index).ok_or("a node offset is missing")?);
        if offset < self.upper {
            return Err("a node lies in the free space");
        }
        let header = self.bytes.get(offset..offset + NODE_HEADER).ok_or("a node lies outside of the page")?;
        let (Some(low), Some(flags), Some(key)) = (u32_at(header, 0), u16_at(header, 4), u16_at(header, 6)) else {
            return Err("a node lies outside of the page");
        };
        let body = &self.bytes[offset + NODE_HEADER..];
        if usize::from(key) > MAX_KEY {
            return Err("a key is longer than 511 bytes");
        }
        let (key, rest) = body.split_at_checked(usize::from(key)).ok_or("a key reaches past the page")?;
        Ok(Node { key, low, flags, rest })
    }
}

/// An entry of a branch or leaf page.
pub(super) struct Node<'a> {
    pub(super) key: &'a [u8],
    low: u32,
    flags: u16,
    rest: &'a [u8],
}

/// What a leaf's node says its data is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DataKind {
    /// The value itself.
    Value,
    /// `F_BIGDATA`: the number of an overflow page that holds it.
    Overflow,
    /// `F_SUBDATA`: the root record of a named database.
    Database,
    /// `F_DUPDATA`: a sub-page of duplicates.
    SubPage,
    /// `F_DUPDATA | F_SUBDATA`: the root record of a tree of duplicates.
    Duplicates,
}

impl<'a> Node<'a> {
    /// The child of a branch's node: 48 bits.
    pub(super) fn child(&self) -> u64 {
        u64::from(self.low) | u64::from(self.flags) << 32
    }

    pub(super) fn kind(&self) -> Result<DataKind, Flaw> {
        match self.flags {
            0 => Ok(DataKind::Value),
            0x01 => Ok(DataKind::Overflow),
            0x02 => Ok(DataKind::Database),
            0x04 => Ok(DataKind::SubPage),
            0x06 => Ok(DataKind::Duplicates),
            _ => Err("a node has impossible flags"),
        }
    }

    /// Bytes of the value of a leaf's node.
    pub(super) fn size(&self) -> u64 {
        u64::from(self.low)
    }

    /// The data that is in the page.
    pub(super) fn data(&self) -> Result<&'a [u8], Flaw> {
        let size = usize::try_from(self.low).map_err(|_| "a value reaches past the page")?;
        self.rest.get(..size).ok_or("a value reaches past the page")
    }

    /// The first page of the overflow run that holds the data.
    pub(super) fn overflow(&self) -> Result<u64, Flaw> {
        u64_at(self.rest, 0).ok_or("the number of an overflow page reaches past the page")
    }
}

/// How many pages the overflow run has that begins with `header` and was read as number `number`.
pub(super) fn overflow_pages(header: &[u8], number: u64) -> Result<u64, Flaw> {
    if u64_at(header, 0) != Some(number) {
        return Err("the page carries another page's number");
    }
    if u16_at(header, 10) != Some(P_OVERFLOW) {
        return Err("the flags are not those of an overflow page");
    }
    u32_at(header, 12).map(u64::from).ok_or("the page is shorter than its header")
}
