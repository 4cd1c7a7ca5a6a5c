//! Is this file a whole LMDB environment? Answered by reading it, without LMDB.
//!
//! LMDB trusts its file: a page number out of range is followed, and the process dies of SIGBUS or SIGSEGV, or an
//! assertion aborts it. A damaged store would so kill every worker at its first transaction, again and again. The
//! check here walks everything that the newest snapshot reaches (free list, main database, named databases, overflow
//! runs, duplicates) and holds it against the invariants of the format, LMDB 0.9 data version 1 with 64-bit page
//! numbers, as written by the `mdb.c` that `heed` brings along.
//!
//! It finds a broken structure, not a flipped bit inside a value: the format has no checksums. Page leaks, and what
//! unfinished transactions left in free pages, are no damage. Keys must be in one of LMDB's own orders (the flags of a
//! database tell which); a custom comparator would look like damage.
//!
//! The file must be at rest: nobody may write to it meanwhile. Memory is one bit a page that is in use and one page a
//! level of the tree. The cost is one `pread` a page: some 0.3 s for 1 GB that is in the page cache, and otherwise what
//! the disk takes to read it in order.

mod page;
mod tree;
mod walk;

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use page::{HEADER, P_META, u16_at, u32_at, u64_at};
use tree::Database;
use walk::Walk;

/// `MDB_MAGIC`.
const MAGIC: u32 = 0xBEEF_C0DE;
/// `MDB_DATA_VERSION`.
const VERSION: u32 = 1;
/// `MAX_PAGESIZE`: offsets within a page are 16 bits.
const MAX_PAGE_SIZE: u32 = 0x8000;
/// Bytes of a meta page that mean something: header, magic to map size, two databases, last page, transaction.
const META: usize = HEADER + 24 + 2 * Database::SIZE + 16;

/// What an undamaged file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contents {
    /// Nothing was ever committed: the file is empty, or its creation was cut off before the second meta page. LMDB
    /// takes a file of length 0 for a new one; a cut-off one must be truncated first.
    Nothing,
    /// A snapshot that can be trusted.
    Snapshot(Summary),
}

/// The newest snapshot of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The transaction that made it.
    pub transaction: u64,
    /// Bytes of a page.
    pub page_size: u64,
    /// Pages from the start of the file to the last one in use, both meta pages included.
    pub pages: u64,
    /// Entries of all databases together; the record of a named database is one too.
    pub entries: u64,
}

impl Summary {
    /// How far the file is in use, in bytes.
    pub fn used(&self) -> u64 {
        self.pages.saturating_mul(self.page_size)
    }
}

/// Why a file is not taken.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The structure is broken.
    #[error("page {page}: {flaw}")]
    Damage {
        /// The page where it shows.
        page: u64,
        /// What is wrong with it.
        flaw: &'static str,
    },
    /// The medium does not give the bytes back.
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
}

/// Checks the whole file. Never panics, whatever the bytes are, and reads no page twice.
pub fn verify(file: &File) -> Result<Contents, Fault> {
    let length = file.metadata()?.len();
    if length == 0 {
        return Ok(Contents::Nothing);
    }
    let first = read_meta(file, 0, 0)?;
    let page_size = u64::from(first.page_size);
    if length < 2 * page_size && first.transaction == 0 {
        // A kill between the two pages of the very first write: nothing was ever committed.
        return Ok(Contents::Nothing);
    }
    let second = read_meta(file, 1, page_size)?;
    if second.page_size != first.page_size {
        return Err(Fault::Damage { page: 1, flaw: "the two meta pages disagree about the page size" });
    }
    // Only the newest counts (`mdb_env_pick_meta`): a kill inside a commit may leave the other one half-written.
    let newest = if first.transaction < second.transaction { second } else { first };
    let Some(pages) = newest.last_page.checked_add(1).filter(|pages| (2..1 << 48).contains(pages)) else {
        return Err(Fault::Damage { page: newest.number, flaw: "the number of the last page is impossible" });
    };

    let in_file = pages.min(length / page_size);
    read_ahead(file, in_file * page_size);
    let mut walk = Walk::new(file, page_size, pages, in_file);
    walk.environment(newest.number, &newest.free, &newest.main)?;
    Ok(Contents::Snapshot(Summary { transaction: newest.transaction, page_size, pages, entries: walk.entries() }))
}

/// Asks the kernel for the first `extent` bytes in order: the walk jumps about, and a cold disk would have it wait for
/// each page. Only a hint, so errors mean nothing. The kernel takes no more than its read-ahead window at a time
/// (usually 128 KiB) and forgets the rest, hence the loop.
fn read_ahead(file: &File, extent: u64) {
    const WINDOW: i64 = 128 * 1024;
    let mut offset = 0;
    while offset < i64::try_from(extent).unwrap_or(i64::MAX) {
        if posix_fadvise(file, offset, WINDOW, PosixFadviseAdvice::POSIX_FADV_WILLNEED).is_err() {
            return;
        }
        offset = offset.saturating_add(WINDOW);
    }
}

/// What a meta page says (`MDB_meta`).
struct Meta {
    number: u64,
    page_size: u32,
    free: Database,
    main: Database,
    last_page: u64,
    transaction: u64,
}

fn read_meta(file: &File, number: u64, offset: u64) -> Result<Meta, Fault> {
    let flawed = |flaw| Fault::Damage { page: number, flaw };
    let mut raw = [0; META];
    read_exact(file, &mut raw, offset, number)?;
    if u64_at(&raw, 0) != Some(number) || u16_at(&raw, 10) != Some(P_META) {
        return Err(flawed("it is not a meta page"));
    }
    let body = &raw[HEADER..];
    if u32_at(body, 0) != Some(MAGIC) {
        return Err(flawed("the magic number of LMDB is missing"));
    }
    if u32_at(body, 4) != Some(VERSION) {
        return Err(flawed("the data version is not 1"));
    }
    let (free, rest) = Database::parse(&body[24..]).ok_or_else(|| flawed("it is cut off"))?;
    let (main, rest) = Database::parse(rest).ok_or_else(|| flawed("it is cut off"))?;
    let (Some(last_page), Some(transaction)) = (u64_at(rest, 0), u64_at(rest, 8)) else {
        return Err(flawed("it is cut off"));
    };
    let page_size = free.pad;
    if !page_size.is_power_of_two() || !(256..=MAX_PAGE_SIZE).contains(&page_size) {
        return Err(flawed("the page size is impossible"));
    }
    Ok(Meta { number, page_size, free, main, last_page, transaction })
}

/// `pread(2)` of exactly this much, for page `page`.
fn read_exact(file: &File, into: &mut [u8], offset: u64, page: u64) -> Result<(), Fault> {
    file.read_exact_at(into, offset).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => Fault::Damage { page, flaw: "the file ends before it" },
        _ => Fault::Io(error),
    })
}
