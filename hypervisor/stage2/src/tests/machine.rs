//! A machine for tests: table memory, and the worst PE that the architecture allows. It walks the tables after every single
//! store, remembers each translation and table pointer that it could have seen, and forgets only what it is told to.
//!
//! Under Miri it remembers nothing: its walks are the test's own arithmetic, and would take most of the time. The tables and
//! what was told are checked as ever.

use crate::descriptor::{self, ENTRIES, Entry, decode, entry_size};
use crate::edit::pieces;
use crate::{Attrs, Flush, Geometry, OutOfTables, Tables, TlbWork};
use addr::{Ipa, PAGE_SIZE, Pa, Span};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::vec::Vec;

/// What the PE was told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Told {
    Published,
    Leaves(Vec<(u64, u8)>),
    Vm,
}

#[derive(Default)]
pub struct Machine {
    start_level: u8,
    root: Option<u64>,
    memory: BTreeMap<u64, Vec<u64>>,
    next: u64,
    free: Vec<(usize, u64)>,
    /// Tables that may still be handed out; `None` is any number.
    pub left: Option<usize>,
    pub allocs: usize,
    pub frees: usize,
    pub told: Vec<Told>,
    /// Cached leaves by their first address: level, and each descriptor that was valid there.
    leaves: BTreeMap<u64, (u8, Vec<u64>)>,
    /// Cached table pointers: table -> level, first address.
    tables: BTreeMap<u64, (u8, u64)>,
    unpublished: bool,
}

/// Both halves of the machine that an edit sees.
#[derive(Clone)]
pub struct Handle(pub Rc<RefCell<Machine>>);

impl Handle {
    pub fn new(geometry: &Geometry) -> Self {
        let machine = Machine { start_level: geometry.start_level(), next: 0x8000_0000, ..Machine::default() };
        Self(Rc::new(RefCell::new(machine)))
    }

    pub fn watch(&self, root: Pa) {
        self.0.borrow_mut().root = Some(root.as_u64());
    }
}

impl Tables for Handle {
    fn read(&self, table: Pa, index: usize) -> u64 {
        self.0.borrow().memory.get(&table.as_u64()).expect("read of a table that is not there")[index]
    }

    fn write(&mut self, table: Pa, index: usize, descriptor: u64) {
        self.0.borrow_mut().store(table.as_u64(), index, descriptor);
    }

    fn alloc(&mut self, pages: usize) -> Result<Pa, OutOfTables> {
        let m = &mut *self.0.borrow_mut();
        if let Some(left) = &mut m.left {
            *left = left.checked_sub(pages).ok_or(OutOfTables)?;
        }
        // What was freed last comes first: the likeliest to be remembered by somebody.
        let at = match m.free.iter().rposition(|(p, _)| *p == pages) {
            Some(i) => m.free.remove(i).1,
            None => {
                let size = pages as u64 * PAGE_SIZE;
                let at = m.next.next_multiple_of(size);
                m.next = at + size;
                at
            }
        };
        m.memory.insert(at, std::vec![0; pages * ENTRIES]);
        m.allocs += pages;
        Ok(Pa::new(at))
    }

    fn free(&mut self, at: Pa, pages: usize) {
        let m = &mut *self.0.borrow_mut();
        assert!(!m.tables.contains_key(&at.as_u64()), "{at:?} freed while a walk may still come by");
        if m.root == Some(at.as_u64()) {
            m.root = None;
        }
        let content = m.memory.remove(&at.as_u64()).expect("freed twice");
        assert_eq!(content.len(), pages * ENTRIES);
        m.free.push((pages, at.as_u64()));
        m.frees += pages;
    }
}

impl TlbWork for Handle {
    fn published(&mut self) {
        let m = &mut *self.0.borrow_mut();
        m.unpublished = false;
        m.told.push(Told::Published);
    }

    fn flush(&mut self, work: Flush<'_>) {
        let m = &mut *self.0.borrow_mut();
        m.unpublished = false;
        match work {
            Flush::Vm => {
                m.leaves.clear();
                m.tables.clear();
                m.told.push(Told::Vm);
            }
            Flush::Leaves(leaves) => {
                for leaf in leaves {
                    assert_eq!(leaf.ipa.as_u64() % entry_size(leaf.level), 0);
                    if m.leaves.get(&leaf.ipa.as_u64()).is_some_and(|(level, _)| *level == leaf.level) {
                        m.leaves.remove(&leaf.ipa.as_u64());
                    }
                }
                m.told.push(Told::Leaves(leaves.iter().map(|l| (l.ipa.as_u64(), l.level)).collect()));
            }
        }
        if !cfg!(miri) {
            m.walk_all();
        }
    }
}

impl Machine {
    fn store(&mut self, table: u64, index: usize, raw: u64) {
        self.memory.get_mut(&table).expect("write to a table that is not there")[index] = raw;
        if cfg!(miri) {
            return;
        }
        let root = (Some(table) == self.root).then_some((self.start_level, 0));
        if let Some((level, base)) = root.or_else(|| self.tables.get(&table).copied()) {
            self.see(raw, level, base + index as u64 * entry_size(level));
        }
    }

    /// The PE sees the descriptor of `ipa` at `level`, and remembers it beside all it remembers already.
    fn see(&mut self, raw: u64, level: u8, ipa: u64) {
        let overlapping = self.leaves.range(..ipa + entry_size(level)).next_back();
        let overlapping = overlapping.filter(|(first, (l, _))| **first + entry_size(*l) > ipa);
        match decode(raw, level) {
            Entry::Invalid => return,
            Entry::Table(next) => {
                let next = next.as_u64();
                if self.tables.get(&next) != Some(&(level + 1, ipa)) {
                    assert!(overlapping.is_none(), "{ipa:#x}: a table made while a leaf is cached: {overlapping:x?}");
                    assert!(!self.tables.contains_key(&next), "{ipa:#x}: a table in a second place");
                    assert!(self.tables.values().all(|at| *at != (level + 1, ipa)), "{ipa:#x}: a second table");
                    self.tables.insert(next, (level + 1, ipa));
                }
                let content = self.memory.get(&next).expect("a link to a table that is not there").clone();
                for (i, raw) in content.into_iter().enumerate() {
                    self.see(raw, level + 1, ipa + i as u64 * entry_size(level + 1));
                }
                return;
            }
            Entry::Leaf(_) => {}
        }
        // Only the rights of a cached leaf may change without a break.
        const RIGHTS: u64 = 1 << 54 | 0b11 << 6;
        if let Some((first, (l, raws))) = overlapping {
            assert_eq!((*first, *l), (ipa, level), "{ipa:#x}: two sizes at once");
            assert!(raws.iter().all(|r| (r ^ raw) & !RIGHTS == 0), "{ipa:#x}: {raw:#x} made beside {raws:x?}");
        }
        let raws = &mut self.leaves.entry(ipa).or_insert((level, Vec::new())).1;
        if !raws.contains(&raw) {
            raws.push(raw);
            self.unpublished = true;
        }
    }

    fn walk_all(&mut self) {
        if let Some(root) = self.root {
            let content = self.memory[&root].clone();
            let unpublished = self.unpublished;
            for (i, raw) in content.into_iter().enumerate() {
                self.see(raw, self.start_level, i as u64 * entry_size(self.start_level));
            }
            self.unpublished = unpublished;
        }
    }

    pub fn pages_in_use(&self) -> usize {
        self.memory.values().map(|t| t.len() / ENTRIES).sum()
    }

    pub fn snapshot(&self) -> BTreeMap<u64, Vec<u64>> {
        self.memory.clone()
    }

    /// The invariants that hold whenever no operation is under way. Returns the reachable leaves: (first address, level,
    /// descriptor).
    pub fn check(&self) -> Vec<(u64, u8, u64)> {
        assert!(!self.unpublished, "an entry was made valid and not published");
        let (mut leaves, mut tables) = (Vec::new(), BTreeSet::new());
        let root = self.root.expect("watched");
        self.collect(root, self.start_level, 0, &mut leaves, &mut tables);
        let allocated: BTreeSet<u64> = self.memory.keys().copied().collect();
        assert_eq!(tables, allocated, "a table leaked");
        if cfg!(miri) {
            return leaves;
        }
        let cached: BTreeSet<u64> = self.tables.keys().copied().chain([root]).collect();
        assert_eq!(tables, cached, "a stale table pointer is cached");
        let cached: Vec<_> =
            self.leaves.iter().flat_map(|(ipa, (l, raws))| raws.iter().map(|r| (*ipa, *l, *r))).collect();
        assert_eq!(leaves, cached, "a stale translation is cached");
        leaves
    }

    fn collect(&self, table: u64, level: u8, base: u64, leaves: &mut Vec<(u64, u8, u64)>, tables: &mut BTreeSet<u64>) {
        assert!(tables.insert(table), "a table has two parents");
        let mut empty = true;
        for (i, raw) in self.memory[&table].iter().copied().enumerate() {
            let ipa = base + i as u64 * entry_size(level);
            empty &= raw == 0;
            match decode(raw, level) {
                Entry::Invalid => assert_eq!(raw, 0, "litter in a live table"),
                Entry::Table(next) => self.collect(next.as_u64(), level + 1, ipa, leaves, tables),
                Entry::Leaf(_) => leaves.push((ipa, level, raw)),
            }
        }
        assert!(!empty || Some(table) == self.root, "an empty table was kept");
    }
}

/// A run of addresses mapped to a run of memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Run {
    pub end: u64,
    pub pa: u64,
    pub attrs: Attrs,
}

/// The model: runs by their first address.
#[derive(Clone, Default, Debug)]
pub struct Model(BTreeMap<u64, Run>);

impl Model {
    fn cut(&mut self, at: u64) {
        if let Some((&start, &run)) = self.0.range(..at).next_back()
            && run.end > at
        {
            self.0.insert(start, Run { end: at, ..run });
            self.0.insert(at, Run { pa: run.pa + (at - start), ..run });
        }
    }

    pub fn is_free(&self, start: u64, end: u64) -> bool {
        start == end || self.0.range(..end).next_back().is_none_or(|(_, run)| run.end <= start)
    }

    pub fn remove(&mut self, start: u64, end: u64) {
        self.cut(start);
        self.cut(end);
        self.0.retain(|s, _| *s < start || *s >= end);
    }

    pub fn insert(&mut self, start: u64, run: Run) {
        self.remove(start, run.end);
        if run.end > start {
            self.0.insert(start, run);
        }
    }

    pub fn change(&mut self, start: u64, end: u64, change: impl Fn(&mut Attrs)) {
        self.cut(start);
        self.cut(end);
        self.0.range_mut(start..end).for_each(|(_, run)| change(&mut run.attrs));
    }

    pub fn at(&self, ipa: u64) -> Option<(u64, Attrs)> {
        let (start, run) = self.0.range(..=ipa).next_back()?;
        (ipa < run.end).then_some((run.pa + (ipa - start), run.attrs))
    }

    pub fn edges(&self) -> impl Iterator<Item = u64> {
        self.0.iter().flat_map(|(start, run)| [*start, run.end])
    }

    /// The same mappings, neighbours joined.
    pub fn normal(&self) -> Vec<(u64, Run)> {
        join(self.0.iter().map(|(s, r)| (*s, *r)))
    }
}

pub fn join(runs: impl IntoIterator<Item = (u64, Run)>) -> Vec<(u64, Run)> {
    let mut joined: Vec<(u64, Run)> = Vec::new();
    for (start, run) in runs {
        match joined.last_mut() {
            Some((s, r)) if r.end == start && r.pa + (start - *s) == run.pa && r.attrs == run.attrs => r.end = run.end,
            _ => joined.push((start, run)),
        }
    }
    joined
}

/// What the tables map, in the model's form.
pub fn runs_of(leaves: &[(u64, u8, u64)]) -> Vec<(u64, Run)> {
    join(leaves.iter().map(|&(ipa, level, raw)| {
        let Entry::Leaf(pa) = decode(raw, level) else { panic!("no leaf") };
        (ipa, Run { end: ipa + entry_size(level), pa: pa.as_u64(), attrs: descriptor::attrs(raw) })
    }))
}

#[test]
fn pieces_cover_a_span_once() {
    let span = Span::new(Ipa::new(0x3fff_f000), 0x4000_2000).unwrap();
    let cut: Vec<_> = pieces(span, 1, 1).map(|p| (p.index, p.span.start().as_u64(), p.span.size(), p.whole)).collect();
    let expected =
        [(0, 0x3fff_f000, 0x1000, false), (1, 0x4000_0000, 0x4000_0000, true), (2, 0x8000_0000, 0x1000, false)];
    assert_eq!(cut, expected);
}
