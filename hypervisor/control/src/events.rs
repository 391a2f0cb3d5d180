//! The last events, numbered.

use alloc::collections::VecDeque;
use proto::{EventKind, EventRow, Page};

/// How many events are kept.
pub const EVENTS: usize = 256;

/// The last [`EVENTS`] events; room for them is taken once.
#[derive(Debug)]
pub struct Events {
    rows: VecDeque<EventRow>,
    next: u64,
}

impl Events {
    pub fn new() -> Self {
        Self { rows: VecDeque::with_capacity(EVENTS), next: 0 }
    }

    pub fn add(&mut self, at_ns: u64, vm: &str, kind: EventKind) {
        if self.rows.len() == EVENTS {
            self.rows.pop_front();
        }
        self.rows.push_back(EventRow { number: self.next, at_ns, vm: vm.into(), kind });
        self.next = self.next.saturating_add(1);
    }

    pub fn page(&self, from: u64) -> Page<EventRow> {
        let first = self.rows.front().map_or(self.next, |row| row.number);
        // A position beyond the end is one of another run: begin with what there is.
        let from = if from > self.next { first } else { from };
        let start = from.max(first);
        let skip = usize::try_from(start.saturating_sub(first)).unwrap_or(usize::MAX);
        Page::fill(start, start.saturating_sub(from), self.rows.iter().skip(skip).cloned())
    }
}
