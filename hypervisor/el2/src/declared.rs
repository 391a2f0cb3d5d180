//! Which addresses are RAM outside of Rust's objects: a table that all pCPUs read and that hardly ever changes.
//!
//! A pCPU may read while another one changes the table. What is declared and not being withdrawn is found by every reader at
//! every moment: [`Declared::withdraw`] makes the part behind the hole known before it cuts the span off at the hole's start, and a
//! reader that found nothing looks again if the table has grown meanwhile. `tests` tries the orders under loom.

use addr::{Pa, Span};
#[cfg(not(test))]
use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};
#[cfg(test)]
use loom::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};

/// Up to `N` spans of RAM.
pub struct Declared<const N: usize> {
    /// First address, and the one behind the last.
    spans: [[AtomicU64; 2]; N],
    count: AtomicUsize,
    /// How often something was withdrawn.
    epoch: AtomicU32,
}

impl<const N: usize> Declared<N> {
    /// Nothing declared.
    #[cfg(not(test))]
    pub const fn new() -> Self {
        Self {
            spans: [const { [const { AtomicU64::new(0) }; 2] }; N],
            count: AtomicUsize::new(0),
            epoch: AtomicU32::new(0),
        }
    }
    #[cfg(test)]
    fn new() -> Self {
        Self {
            spans: core::array::from_fn(|_| [AtomicU64::new(0), AtomicU64::new(0)]),
            count: AtomicUsize::new(0),
            epoch: AtomicU32::new(0),
        }
    }

    /// Adds a span. `false`: there are too many. One caller at a time.
    pub fn declare(&self, span: Span<Pa>) -> bool {
        let at = self.count.load(Ordering::Relaxed);
        let Some([from, to]) = self.spans.get(at) else { return false };
        from.store(span.start().as_u64(), Ordering::Relaxed);
        to.store(span.end().as_u64(), Ordering::Relaxed);
        self.count.store(at + 1, Ordering::Release);
        true
    }

    /// Takes `hole` out. `false`, and nothing has changed: it does not lie in one declared span, or there is no room for what is
    /// left of that on both sides. One caller at a time.
    pub fn withdraw(&self, hole: Span<Pa>) -> bool {
        let withdrawn = self.cut(hole);
        if withdrawn {
            // (It wraps after so many withdrawals that a machine's RAM, in blocks, does not have.)
            self.epoch.fetch_add(1, Ordering::AcqRel);
        }
        withdrawn
    }

    /// Goes up whenever something has been withdrawn: what was declared in an epoch is declared as long as that lasts.
    #[inline]
    pub fn epoch(&self) -> u32 {
        self.epoch.load(Ordering::Acquire)
    }

    fn cut(&self, hole: Span<Pa>) -> bool {
        let count = self.count.load(Ordering::Relaxed);
        let (start, end) = (hole.start().as_u64(), hole.end().as_u64());
        for [from, to] in self.spans.iter().take(count) {
            let (first, last) = (from.load(Ordering::Relaxed), to.load(Ordering::Relaxed));
            if start < first || last < end || start >= end {
                continue;
            }
            if first == start {
                from.store(end, Ordering::Relaxed);
                return true;
            }
            let behind = Span::from_bounds(hole.end(), Pa::new(last)).filter(|s| !s.is_empty());
            if behind.is_some_and(|behind| !self.declare(behind)) {
                return false;
            }
            to.store(start, Ordering::Release);
            return true;
        }
        false
    }

    /// Whether a byte of `span` is declared. A part that another CPU is withdrawing may count or not.
    pub fn overlaps(&self, span: Span<Pa>) -> bool {
        let (start, end) = (span.start().as_u64(), span.end().as_u64());
        self.any(|from, to| start < to && from < end)
    }

    /// Whether all of `size` bytes at `at` lie in one declared span.
    #[inline]
    pub fn has(&self, at: Pa, size: u64) -> bool {
        let Some(end) = at.as_u64().checked_add(size) else { return false };
        self.any(|from, to| from <= at.as_u64() && end <= to)
    }

    /// Whether there is a declared span that `fits`, by its first address and the one behind its last.
    #[inline]
    fn any(&self, fits: impl Fn(u64, u64) -> bool) -> bool {
        let mut count = self.count.load(Ordering::Acquire);
        loop {
            let mut spans = self.spans.iter().take(count);
            if spans.any(|[from, to]| fits(from.load(Ordering::Relaxed), to.load(Ordering::Relaxed))) {
                return true;
            }
            // A span that ends too early may have been cut off a moment ago: then what was behind the hole has been added.
            fence(Ordering::Acquire);
            let now = self.count.load(Ordering::Acquire);
            if now == count {
                return false;
            }
            count = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use loom::sync::Arc;
    use loom::thread;

    /// (Each look at the table is a branch of the model, though no other thread runs.)
    fn alone(what: fn()) {
        let mut model = loom::model::Builder::new();
        model.max_branches = 100_000;
        model.check(what);
    }

    fn span(from: u64, to: u64) -> Span<Pa> {
        Span::from_bounds(Pa::new(from), Pa::new(to)).unwrap()
    }

    /// Which of the addresses 0 to 15 are declared.
    fn map<const N: usize>(table: &Declared<N>) -> u16 {
        (0..16).filter(|at| table.has(Pa::new(*at), 1)).fold(0, |map, at| map | 1 << at)
    }

    #[test]
    #[cfg_attr(miri, ignore = "the model switches stacks by assembly")]
    fn an_epoch_ends_with_each_withdrawal_and_with_nothing_else() {
        alone(|| {
            let table = Declared::<3>::new();
            let first = table.epoch();
            assert!(table.declare(span(0, 8)) && !table.withdraw(span(7, 9)) && !table.withdraw(span(3, 3)));
            assert_eq!(table.epoch(), first);
            assert!(table.withdraw(span(7, 8)));
            assert_ne!(table.epoch(), first);
        });
    }

    #[test]
    #[cfg_attr(miri, ignore = "the model switches stacks by assembly")]
    fn what_is_withdrawn_is_out_and_all_else_stays() {
        alone(|| {
            let table = Declared::<3>::new();
            assert!(table.declare(span(0, 8)) && table.declare(span(8, 12)));
            assert_eq!(map(&table), 0x0fff);
            assert!(table.has(Pa::new(0), 8) && !table.has(Pa::new(7), 2), "spans are not joined");
            // At the start, at the end, in the middle, all of it.
            assert!(table.withdraw(span(0, 1)));
            assert_eq!(map(&table), 0x0ffe);
            assert!(table.withdraw(span(7, 8)));
            assert_eq!(map(&table), 0x0f7e);
            assert!(table.withdraw(span(3, 5)));
            assert_eq!(map(&table), 0x0f66);
            assert!(!table.has(Pa::new(1), 5));
            assert!(table.overlaps(span(0, 2)) && table.overlaps(span(4, 6)), "one byte is enough");
            assert!(!table.overlaps(span(3, 5)) && !table.overlaps(span(0, 1)) && !table.overlaps(span(12, 16)));
            assert!(table.withdraw(span(8, 12)));
            assert_eq!(map(&table), 0x0066);
            // Not twice, not across an edge, not what never was, nothing at all, no more pieces than there is room for.
            for no in [span(3, 5), span(2, 4), span(13, 14), span(5, 8), span(6, 6)] {
                assert!(!table.withdraw(no), "{no:?}");
            }
            assert!(!table.declare(span(9, 12)) && table.withdraw(span(5, 6)));
            assert_eq!(map(&table), 0x0046);
            assert!(!table.has(Pa::new(u64::MAX), 2));
        });
    }

    #[test]
    #[cfg_attr(miri, ignore = "the model switches stacks by assembly")]
    fn a_table_without_room_refuses_a_hole_in_the_middle() {
        alone(|| {
            let table = Declared::<1>::new();
            assert!(table.declare(span(0, 8)));
            assert!(!table.withdraw(span(3, 5)));
            assert_eq!(map(&table), 0x00ff);
            assert!(table.withdraw(span(6, 8)) && table.withdraw(span(0, 2)));
            assert_eq!(map(&table), 0x003c);
        });
    }

    /// `look` finds what it is told to, by its own assertions, while two holes are made in 0 to 11.
    fn while_holes_are_made(look: fn(&Declared<3>)) {
        loom::model(move || {
            let table = Arc::new(Declared::<3>::new());
            assert!(table.declare(span(0, 12)));
            let reader = table.clone();
            let reader = thread::spawn(move || look(&reader));
            assert!(table.withdraw(span(4, 6)) && table.withdraw(span(7, 8)));
            reader.join().unwrap();
            assert!(!table.has(Pa::new(5), 1) && !table.has(Pa::new(7), 1) && table.has(Pa::new(6), 1));
        });
    }

    #[test]
    #[cfg_attr(miri, ignore = "the model switches stacks by assembly")]
    fn readers_always_find_what_is_not_withdrawn() {
        while_holes_are_made(|table| assert!(table.has(Pa::new(10), 2) && table.has(Pa::new(0), 4)));
    }

    #[test]
    #[cfg_attr(miri, ignore = "the model switches stacks by assembly")]
    fn what_overlaps_is_always_found() {
        while_holes_are_made(|table| {
            assert!(table.overlaps(span(10, 16)) && table.overlaps(span(3, 5)));
            assert!(!table.overlaps(span(12, 16)));
        });
    }
}
