//! The ring under loom: one writer, one reader, every order of their steps (up to three preemptions) and every value that the
//! memory model lets a load return.
//!
//! The reader copies records without looking at how many there are: loom remembers one access to a word, so that the writer's own
//! look at that count would hide the reader's from it. A copy must be safe at any moment, whatever the count says.

use super::event;
use crate::{Event, RingOf, Word};
use core::sync::atomic::Ordering;
use loom::sync::Arc;
use loom::sync::atomic::AtomicU64;
use loom::thread;
use std::collections::BTreeSet;
use std::sync::Mutex;

impl Word for AtomicU64 {
    fn new(value: u64) -> Self {
        Self::new(value)
    }
    fn load(&self, order: Ordering) -> u64 {
        self.load(order)
    }
    fn store(&self, value: u64, order: Ordering) {
        self.store(value, order);
    }
}

/// The same ring whose words are stored and loaded without order: the model must find the torn record.
struct Unordered(AtomicU64);

impl Word for Unordered {
    fn new(value: u64) -> Self {
        Self(AtomicU64::new(value))
    }
    fn load(&self, _: Ordering) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
    fn store(&self, value: u64, _: Ordering) {
        self.0.store(value, Ordering::Relaxed);
    }
}

/// Three events through a ring of two places, and a copy of event `number` meanwhile: which copies there were.
fn copies<W: Word + Send + Sync + 'static>(number: u64) -> BTreeSet<Option<[u64; 3]>> {
    let seen = std::sync::Arc::new(Mutex::new(BTreeSet::new()));
    let all = seen.clone();
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(move || {
        let ring = Arc::new(RingOf::<W>::new(2));
        let writer = {
            let ring = ring.clone();
            thread::spawn(move || (0..3).for_each(|n| ring.push(&event(n))))
        };
        let copied = ring.copy(number);
        writer.join().unwrap();
        all.lock().unwrap().insert(copied);
    });
    seen.lock().unwrap().clone()
}

fn whole(number: u64) -> Option<[u64; 3]> {
    let words = event(number).words();
    assert_eq!(Event::from_words(words), Some(event(number)));
    Some(words)
}

#[test]
#[cfg_attr(miri, ignore = "the model switches stacks by assembly")]
fn no_order_of_steps_tears_a_record() {
    for number in 0..3 {
        assert_eq!(copies::<AtomicU64>(number), BTreeSet::from([None, whole(number)]), "event {number}");
    }
}

#[test]
#[cfg_attr(miri, ignore = "the model switches stacks by assembly")]
fn without_its_order_it_would_tear() {
    let copies = copies::<Unordered>(0);
    assert!(copies.iter().any(|copy| copy.is_some() && *copy != whole(0)), "{copies:?}");
}
