//! The last events, numbered.

use alloc::collections::VecDeque;
use config::spec::MAX_NAME;
use proto::{EventKind, EventRow, Page};

/// How many events are kept.
pub const EVENTS: usize = 256;

/// An event as it is kept: its VM's name is in it, so that the same events take the same memory however often they come.
#[derive(Debug)]
struct Kept {
    number: u64,
    at_ns: u64,
    name: [u8; MAX_NAME],
    length: usize,
    kind: EventKind,
}

impl Kept {
    fn row(&self) -> EventRow {
        let name = self.name.get(..self.length).and_then(|name| core::str::from_utf8(name).ok()).unwrap_or_default();
        EventRow { number: self.number, at_ns: self.at_ns, vm: name.into(), kind: self.kind.clone() }
    }
}

/// The last [`EVENTS`] events; room for them is taken once.
#[derive(Debug)]
pub struct Events {
    rows: VecDeque<Kept>,
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
        // Names have no more characters than this, and those are of one byte.
        let (mut name, mut length) = ([0; MAX_NAME], 0_usize);
        for (to, from) in name.iter_mut().zip(vm.bytes()) {
            *to = from;
            length = length.saturating_add(1);
        }
        self.rows.push_back(Kept { number: self.next, at_ns, name, length, kind });
        self.next = self.next.saturating_add(1);
    }

    pub fn page(&self, from: u64) -> Page<EventRow> {
        let first = self.rows.front().map_or(self.next, |row| row.number);
        // A position beyond the end is one of another run: begin with what there is.
        let from = if from > self.next { first } else { from };
        let start = from.max(first);
        let skip = usize::try_from(start.saturating_sub(first)).unwrap_or(usize::MAX);
        Page::fill(start, start.saturating_sub(from), self.rows.iter().skip(skip).map(Kept::row))
    }
}
