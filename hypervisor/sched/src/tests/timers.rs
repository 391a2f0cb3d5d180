//! The deadline queue against a sorted map.
use proptest::prelude::*;
use std::collections::BTreeMap;

use crate::{EntityId, Kind, TimerId, Timers};

const KINDS: [Kind; 3] = [Kind::Virtual, Kind::Physical, Kind::Service];

fn timer(id: u32, kind: usize) -> TimerId {
    TimerId { id: EntityId(id), kind: KINDS[kind] }
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Set(u32, usize, u64),
    Cancel(u32, usize),
    Expire(u64),
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 1 } else { 32 }))]

    #[test]
    fn agrees_with_a_sorted_map(ops in prop::collection::vec(prop_oneof![
        4 => (0u32..20, 0usize..3, 0u64..1000).prop_map(|(i, k, d)| Op::Set(i, k, d)),
        1 => (0u32..20, 0usize..3).prop_map(|(i, k)| Op::Cancel(i, k)),
        1 => (0u64..1000).prop_map(Op::Expire),
    ], 1..if cfg!(miri) { 12 } else { 300 })) {
        let mut timers = Timers::new(20);
        let mut model: BTreeMap<(u32, usize), u64> = BTreeMap::new();
        for op in ops {
            let before = model.values().min().copied();
            match op {
                Op::Set(id, kind, deadline) => {
                    model.insert((id, kind), deadline);
                    let changed = timers.set(timer(id, kind), deadline);
                    prop_assert_eq!(changed, model.values().min().copied() != before);
                }
                Op::Cancel(id, kind) => {
                    prop_assert_eq!(timers.cancel(timer(id, kind)), model.remove(&(id, kind)).is_some());
                }
                Op::Expire(now) => loop {
                    let due = model.iter().map(|(k, d)| (*d, *k)).min().filter(|(d, _)| *d <= now);
                    prop_assert_eq!(timers.expire(now), due.map(|(_, (id, kind))| timer(id, kind)));
                    let Some((_, key)) = due else { break };
                    model.remove(&key);
                },
            }
            prop_assert_eq!(timers.next(), model.values().min().copied());
            for id in 0..20 {
                for kind in 0..3 {
                    prop_assert_eq!(timers.get(timer(id, kind)), model.get(&(id, kind)).copied());
                }
            }
        }
    }
}

#[test]
fn a_number_beyond_the_capacity_is_refused() {
    let mut timers = Timers::new(2);
    assert!(!timers.set(timer(2, 0), 5) && !timers.cancel(timer(2, 0)));
    assert!(!timers.set(timer(u32::MAX, 2), 5));
    assert_eq!((timers.next(), timers.get(timer(2, 0))), (None, None));
}
