//! The walk over everything a snapshot reaches.

use std::collections::HashMap;
use std::fs::File;

use super::page::{DataKind, Flaw, HEADER, Node, Page, Shape, overflow_pages, u64_at};
use super::tree::{DUP_FIXED, Database, INTEGER_KEY, MAX_DEPTH, Met, NO_PAGE, Order, Role, Tree};
use super::{Fault, read_exact};

/// Page numbers, one bit each, in blocks that exist only where a bit is set.
#[derive(Default)]
struct PageSet(HashMap<u64, Box<[u64; PageSet::BLOCK / 64]>>);

impl PageSet {
    const BLOCK: usize = 4096;

    /// False if it was there before.
    fn insert(&mut self, page: u64) -> bool {
        let block = self.0.entry(page / PageSet::BLOCK as u64).or_insert_with(|| Box::new([0; PageSet::BLOCK / 64]));
        let index = (page % PageSet::BLOCK as u64) as usize;
        let (word, bit) = (&mut block[index / 64], 1 << (index % 64));
        let new = *word & bit == 0;
        *word |= bit;
        new
    }
}

/// The walk over one snapshot.
pub(super) struct Walk<'f> {
    file: &'f File,
    page_size: u64,
    /// Pages of the snapshot.
    pages: u64,
    /// Pages of it that are in the file: the file may end before pages that are free.
    in_file: u64,
    seen: PageSet,
    entries: u64,
    /// Page buffers that are free to use.
    spare: Vec<Vec<u8>>,
}

fn flawed(page: u64) -> impl Fn(Flaw) -> Fault {
    move |flaw| Fault::Damage { page, flaw }
}

impl<'f> Walk<'f> {
    pub(super) fn new(file: &'f File, page_size: u64, pages: u64, in_file: u64) -> Walk<'f> {
        Walk { file, page_size, pages, in_file, seen: PageSet::default(), entries: 0, spare: Vec::new() }
    }

    /// Entries of the databases walked so far; the free list does not count.
    pub(super) fn entries(&self) -> u64 {
        self.entries
    }

    /// Walks all trees of the snapshot whose meta page is `meta`.
    pub(super) fn environment(&mut self, meta: u64, free: &Database, main: &Database) -> Result<(), Fault> {
        // The flags of the free list's record are those of the environment; its keys are always transaction numbers.
        self.tree(meta, &Database { flags: INTEGER_KEY, ..*free }, Role::FreeList, Order::Integer)?;
        self.entries = 0;
        self.database(meta, main, Role::Main)
    }

    fn database(&mut self, from: u64, database: &Database, role: Role) -> Result<(), Fault> {
        let order = database.order().ok_or("a database has unknown flags").map_err(flawed(from))?;
        self.tree(from, database, role, order)
    }

    /// Walks the tree whose record is on page `from`.
    fn tree(&mut self, from: u64, database: &Database, role: Role, order: Order) -> Result<(), Fault> {
        let mut tree = Tree::new(role, database.flags, database.pad, order);
        match (database.root, database.depth) {
            (NO_PAGE, 0) => {}
            (NO_PAGE, _) | (_, 0) => {
                return Err(flawed(from)("a database has a depth without a root, or a root without a depth"));
            }
            (_, depth) if depth > MAX_DEPTH => return Err(flawed(from)("a database is deeper than LMDB can follow")),
            (root, depth) => self.visit(&mut tree, root, depth)?,
        }
        if tree.entries != database.entries {
            return Err(flawed(from)("a database does not hold as many entries as its record says"));
        }
        if role != Role::Duplicates {
            self.entries = self.entries.saturating_add(tree.entries);
        }
        Ok(())
    }

    /// Marks `page` as in use, or refuses it.
    fn claim(&mut self, page: u64) -> Result<(), Fault> {
        if page < 2 || page >= self.pages {
            return Err(flawed(page)("it is referred to, but outside of the snapshot"));
        }
        if page < self.in_file && !self.seen.insert(page) {
            return Err(flawed(page)("it is in use twice"));
        }
        Ok(())
    }

    /// Checks the page and all below it. The recursion ends with `level`, which only shrinks.
    fn visit(&mut self, tree: &mut Tree, number: u64, level: u16) -> Result<(), Fault> {
        self.claim(number)?;
        let mut buffer = self.spare.pop().unwrap_or_else(|| vec![0; self.page_size as usize]);
        read_exact(self.file, &mut buffer, number * self.page_size, number)?;
        let page = Page::tree(&buffer, number).map_err(flawed(number))?;
        if page.count() == 0 {
            return Err(flawed(number)("a page of a tree is empty"));
        }
        match (page.shape(), level) {
            (Shape::Branch, 2..) => self.branch(tree, number, &page, level)?,
            (Shape::Leaf, 1) => self.leaf(tree, number, &page)?,
            (Shape::Packed(size), 1) if tree.packed.is_some_and(|of| of as usize == size) => {
                check_packed(&page, size, tree.order).map_err(flawed(number))?;
                let (first, last) = (page.packed(0, size), page.packed(page.count() - 1, size));
                if !tree.follows(first.map_err(flawed(number))?) {
                    return Err(flawed(number)("keys are out of order"));
                }
                tree.remember(last.map_err(flawed(number))?, Met::Key);
                tree.entries += page.count() as u64;
            }
            _ => return Err(flawed(number)("its kind does not belong on this level of the tree")),
        }
        self.spare.push(buffer);
        Ok(())
    }

    fn branch(&mut self, tree: &mut Tree, number: u64, page: &Page<'_>, level: u16) -> Result<(), Fault> {
        for index in 0..page.count() {
            let node = page.node(index).map_err(flawed(number))?;
            // The first separator means "before everything"; what its key holds is a leftover.
            if index > 0 {
                // Between two separators there is a leaf, which is never empty: so they ascend strictly.
                if !tree.follows(node.key) {
                    return Err(flawed(number)("separators are out of order"));
                }
                tree.remember(node.key, Met::Separator);
            }
            self.visit(tree, node.child(), level - 1)?;
        }
        Ok(())
    }

    fn leaf(&mut self, tree: &mut Tree, number: u64, page: &Page<'_>) -> Result<(), Fault> {
        let mut before: Option<&[u8]> = None;
        for index in 0..page.count() {
            let node = page.node(index).map_err(flawed(number))?;
            let follows = match before {
                None => tree.follows(node.key),
                Some(before) => tree.order.compare(before, node.key).is_lt(),
            };
            if !follows {
                return Err(flawed(number)("keys are out of order"));
            }
            if node.key.is_empty() && tree.role != Role::Duplicates {
                return Err(flawed(number)("a key is empty"));
            }
            self.entry(tree, number, &node)?;
            before = Some(node.key);
        }
        if let Some(last) = before {
            tree.remember(last, Met::Key);
        }
        Ok(())
    }

    fn entry(&mut self, tree: &mut Tree, number: u64, node: &Node<'_>) -> Result<(), Fault> {
        let flawed = flawed(number);
        let kind = node.kind().map_err(&flawed)?;
        let mut values = 1;
        match (kind, tree.role, tree.duplicates) {
            (DataKind::Value, Role::Duplicates, _) if node.size() != 0 => {
                return Err(flawed("a duplicate has a value of its own"));
            }
            (DataKind::Value, Role::FreeList, _) => {
                let data = node.data().map_err(&flawed)?;
                let mut list = FreeList::new(node, data).map_err(&flawed)?;
                self.free_pages(number, &mut list, &data[8..])?;
            }
            (DataKind::Value, ..) => {
                node.data().map_err(&flawed)?;
            }
            (DataKind::Overflow, Role::FreeList | Role::Main | Role::Named, None) => {
                let run = node.overflow().map_err(&flawed)?;
                self.overflow(run, node.size())?;
                if tree.role == Role::FreeList {
                    self.overflowing_free_list(number, node, run)?;
                }
            }
            (DataKind::Database, Role::Main, None) => {
                let data = node.data().map_err(&flawed)?;
                match Database::parse(data) {
                    Some((database, [])) => self.database(number, &database, Role::Named)?,
                    _ => return Err(flawed("the record of a database has a wrong size")),
                }
            }
            (DataKind::SubPage, Role::Main | Role::Named, Some(order)) => {
                let page = Page::sub(node.data().map_err(&flawed)?).map_err(&flawed)?;
                check_sub_page(&page, order).map_err(&flawed)?;
                values = page.count() as u64;
            }
            (DataKind::Duplicates, Role::Main | Role::Named, Some(order)) => {
                let data = node.data().map_err(&flawed)?;
                match Database::parse(data) {
                    Some((database, [])) => {
                        // Its own flags repeat those of its parent in other words; what is sorted how, the parent knows.
                        let database = Database { flags: database.flags & DUP_FIXED, ..database };
                        self.tree(number, &database, Role::Duplicates, order)?;
                        values = database.entries;
                    }
                    _ => return Err(flawed("the record of a database has a wrong size")),
                }
            }
            (DataKind::Overflow | DataKind::Database | DataKind::SubPage | DataKind::Duplicates, ..) => {
                return Err(flawed("a node holds what does not belong in this database"));
            }
        }
        tree.entries = tree.entries.saturating_add(values);
        Ok(())
    }

    /// Checks the run of overflow pages that begins at `first` and holds `size` bytes.
    fn overflow(&mut self, first: u64, size: u64) -> Result<(), Fault> {
        self.claim(first)?;
        let mut header = [0; HEADER];
        read_exact(self.file, &mut header, first * self.page_size, first)?;
        let pages = overflow_pages(&header, first).map_err(flawed(first))?;
        // A value that was overwritten by a shorter one may leave the run longer than it must be.
        if pages.saturating_mul(self.page_size) < size + HEADER as u64 {
            return Err(flawed(first)("an overflow run is shorter than its value"));
        }
        if pages > self.in_file.saturating_sub(first) {
            return Err(flawed(first)("an overflow run reaches past the snapshot"));
        }
        (first + 1..first + pages).try_for_each(|page| self.claim(page))
    }

    /// Reads a long list of free pages, a piece at a time.
    fn overflowing_free_list(&mut self, number: u64, node: &Node<'_>, run: u64) -> Result<(), Fault> {
        let mut piece = [0; 4096];
        let mut offset = run * self.page_size + HEADER as u64;
        read_exact(self.file, &mut piece[..8], offset, run)?;
        let mut list = FreeList::new(node, &piece[..8]).map_err(flawed(number))?;
        offset += 8;
        while list.left > 0 {
            let length = list.left.saturating_mul(8).min(piece.len() as u64);
            read_exact(self.file, &mut piece[..length as usize], offset, run)?;
            self.free_pages(run, &mut list, &piece[..length as usize])?;
            offset += length;
        }
        Ok(())
    }

    /// Takes as many page numbers of the list as there are in the bytes, or as are left.
    fn free_pages(&mut self, from: u64, list: &mut FreeList, bytes: &[u8]) -> Result<(), Fault> {
        for raw in bytes.chunks_exact(8) {
            if list.left == 0 {
                break;
            }
            let page = u64_at(raw, 0).unwrap_or(NO_PAGE);
            if page >= list.before {
                return Err(flawed(from)("a list of free pages is out of order"));
            }
            self.claim(page)?;
            list.before = page;
            list.left -= 1;
        }
        Ok(())
    }
}

/// A record of the free list (`MDB_IDL`): how many page numbers, then they themselves, descending.
struct FreeList {
    left: u64,
    before: u64,
}

impl FreeList {
    fn new(node: &Node<'_>, start: &[u8]) -> Result<FreeList, Flaw> {
        if node.key.len() != 8 {
            return Err("a record of the free list has no transaction number for a key");
        }
        // The record may be longer than its list: LMDB reserves room ahead.
        match u64_at(start, 0) {
            Some(left) if left <= (node.size() / 8).saturating_sub(1) => Ok(FreeList { left, before: NO_PAGE }),
            _ => Err("a list of free pages is longer than its record"),
        }
    }
}

fn check_sub_page(page: &Page<'_>, order: Order) -> Result<(), Flaw> {
    if page.count() == 0 {
        return Err("a sub-page of duplicates is empty");
    }
    match page.shape() {
        Shape::Branch => Err("a sub-page is a branch"),
        Shape::Packed(size) => check_packed(page, size, order),
        Shape::Leaf => {
            let mut before: Option<&[u8]> = None;
            for index in 0..page.count() {
                let node = page.node(index)?;
                if before.is_some_and(|before| order.compare(before, node.key).is_ge()) {
                    return Err("duplicates are out of order");
                }
                before = Some(node.key);
            }
            Ok(())
        }
    }
}

fn check_packed(page: &Page<'_>, size: usize, order: Order) -> Result<(), Flaw> {
    for index in 1..page.count() {
        if order.compare(page.packed(index - 1, size)?, page.packed(index, size)?).is_ge() {
            return Err("duplicates are out of order");
        }
    }
    Ok(())
}
