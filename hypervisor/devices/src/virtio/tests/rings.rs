//! The rings: a driver that keeps the rules, and each way to break one.

use super::*;
use crate::virtio::queue::{Queue, Segment};
use crate::virtio::ring::STEP;
use crate::virtio::{Broken, Chain};
use proptest::prelude::*;

const DATA: u64 = BASE + 0x3000;
const INDIRECT: u64 = BASE + 0x2000;

#[test]
fn each_broken_rule_needs_a_reset() {
    let outside = BASE + SIZE;
    let at = |at| Ipa::new(at);
    // Descriptors of the table from 0, those of an indirect one; how it is broken.
    type D = (u64, u32, u16, u16);
    let bad: [(&str, &[D], &[D], Broken); 18] = [
        ("outside", &[(outside, 1, 0, 0)], &[], Broken::Outside(at(outside))),
        ("below", &[(BASE - 1, 2, 0, 0)], &[], Broken::Outside(at(BASE - 1))),
        ("over the end", &[(outside - 1, 2, DESC_WRITE, 0)], &[], Broken::Outside(at(outside - 1))),
        ("wraps", &[(u64::MAX, 2, 0, 0)], &[], Broken::Outside(at(u64::MAX))),
        ("longest", &[(BASE, u32::MAX, 0, 0)], &[], Broken::Outside(at(BASE))),
        ("empty", &[(DATA, 0, 0, 0)], &[], Broken::Empty),
        ("next", &[(DATA, 1, DESC_NEXT, 8)], &[], Broken::Descriptor(8)),
        ("next is far", &[(DATA, 1, DESC_NEXT, 0xffff)], &[], Broken::Descriptor(0xffff)),
        ("itself", &[(DATA, 1, DESC_NEXT, 0)], &[], Broken::TooLong),
        ("circle", &[(DATA, 1, DESC_NEXT, 1), (DATA, 1, DESC_NEXT, 0)], &[], Broken::TooLong),
        ("order", &[(DATA, 1, DESC_WRITE | DESC_NEXT, 1), (DATA, 1, 0, 0)], &[], Broken::Order),
        ("uneven table", &[(INDIRECT, 17, DESC_INDIRECT, 0)], &[(DATA, 1, 0, 0)], Broken::Indirect),
        ("no table", &[(INDIRECT, 0, DESC_INDIRECT, 0)], &[(DATA, 1, 0, 0)], Broken::Indirect),
        ("table with next", &[(INDIRECT, 16, DESC_INDIRECT | DESC_NEXT, 1)], &[(DATA, 1, 0, 0)], Broken::Indirect),
        ("table in table", &[(INDIRECT, 32, DESC_INDIRECT, 0)], &[(INDIRECT, 32, DESC_INDIRECT, 0)], Broken::Indirect),
        ("table outside", &[(outside - 16, 32, DESC_INDIRECT, 0)], &[], Broken::Outside(at(outside - 16))),
        ("next in table", &[(INDIRECT, 16, DESC_INDIRECT, 0)], &[(DATA, 1, DESC_NEXT, 1)], Broken::Descriptor(1)),
        ("circle in table", &[(INDIRECT, 16, DESC_INDIRECT, 0)], &[(DATA, 1, DESC_NEXT, 0)], Broken::TooLong),
    ];
    for (name, table, indirect, how) in bad {
        let (mut b, [mut d, _]) = echo(ALL, 8);
        (0..).zip(table).for_each(|(n, descriptor)| d.descriptor(d.desc, n, *descriptor));
        (0..).zip(indirect).for_each(|(n, descriptor)| d.descriptor(INDIRECT, n, *descriptor));
        d.offer(0);
        b.ram.taken();
        b.set(QUEUE_NOTIFY, 0);
        assert_eq!(b.device.stats().last, Some(how), "{name}");
        assert_eq!(b.get(STATUS), ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK | DEVICE_NEEDS_RESET, "{name}");
        assert_eq!((b.irq.is_high(), b.acknowledge()), (true, INTERRUPT_CONFIG), "{name}");
        assert!(b.ram.taken().1.is_empty(), "{name}: nothing was written");
        b.set(QUEUE_NOTIFY, 0);
        assert_eq!(b.ram.taken().0, 0, "{name}: not before a reset");
    }
    for (heads, idx, how) in [(8, 1, Broken::Descriptor(8)), (0, 9, Broken::Runaway), (0, 0xffff, Broken::Runaway)] {
        let (mut b, [mut d, _]) = echo(ALL, 8);
        d.offer(heads);
        b.ram.put(d.avail + AVAIL_IDX, &u16::to_le_bytes(idx));
        b.set(QUEUE_NOTIFY, 0);
        assert_eq!(b.device.stats().last, Some(how));
    }
    // A table of descriptors without the feature.
    let (mut b, [mut d, _]) = echo(F_VERSION_1, 8);
    d.descriptor(d.desc, 0, (INDIRECT, 16, DESC_INDIRECT, 0));
    d.descriptor(INDIRECT, 0, (DATA, 1, 0, 0));
    d.offer(0);
    b.set(QUEUE_NOTIFY, 0);
    assert_eq!(b.device.stats().last, Some(Broken::Indirect));
}

/// Plain descriptors, then a table of them: the driver may do that, and the flag WRITE of the table's descriptor means nothing.
#[test]
fn a_table_may_follow_plain_descriptors() {
    let (mut b, [mut d, _]) = echo(ALL, 8);
    d.descriptor(d.desc, 7, (DATA, 2, DESC_NEXT, 2));
    d.descriptor(d.desc, 2, (INDIRECT, 48, DESC_INDIRECT | DESC_WRITE, 99));
    d.descriptor(INDIRECT, 0, (DATA + 2, 3, DESC_NEXT, 2));
    d.descriptor(INDIRECT, 2, (DATA + 0x100, 1, DESC_WRITE | DESC_NEXT, 1));
    d.descriptor(INDIRECT, 1, (DATA + 0x110, 100, DESC_WRITE, 77));
    b.ram.put(DATA, b"abcde");
    d.offer(7);
    b.set(QUEUE_NOTIFY, 0);
    assert_eq!(d.collect(), [(7, 5)]);
    assert_eq!((b.ram.get(DATA + 0x100, 2), b.ram.get(DATA + 0x110, 5)), (b"b\0".to_vec(), b"cdef\0".to_vec()));
}

#[test]
fn a_flood_is_served_in_bounded_steps() {
    let (mut b, [mut d, _]) = echo(ALL, 16);
    // Each chain has 8 descriptors in a table.
    d.descriptor(d.desc, 0, (INDIRECT, 128, DESC_INDIRECT, 0));
    (0..8).for_each(|n| d.descriptor(INDIRECT, n, (DATA, 1, if n < 7 { DESC_NEXT } else { 0 }, n + 1)));
    (0..16).for_each(|_| d.offer(0));
    let steps = b.repeat(QUEUE_NOTIFY, 0);
    // The chain that reaches the bound is the step's last: 4 of 9 descriptors, the table's own included.
    let each = (STEP as usize).div_ceil(9);
    assert_eq!((each, steps), (4, 16 / each));
    assert_eq!(d.collect().len(), 16);
    // At the driver's coming up, too, and for both queues.
    b.negotiate(ALL);
    let mut drivers = [0, 1].map(|number| Driver::new(&mut b, number, 16));
    for d in &mut drivers {
        d.descriptor(d.desc, 0, (INDIRECT, 128, DESC_INDIRECT, 0));
        (0..16).for_each(|_| d.offer(0));
    }
    assert_eq!(b.driver_ok(), 2 * 16 / each);
    assert_eq!(drivers.map(|mut d| d.collect().len()), [16, 16]);
}

#[test]
fn what_is_staged_is_given_back_at_once_or_not_at_all() {
    let (b, [mut d, _]) = echo(ALL, 4);
    let (mut queue, mut room) = (Queue::new(ECHO), Queue::room(&[ECHO]));
    queue.state = b.device.save_queue(0);
    for head in 0..4 {
        d.descriptor(d.desc, head, (DATA + u64::from(head), 1, DESC_WRITE, 0));
        d.offer(head);
    }
    let mut ring = queue.ring(&mut room, &*b.ram, ALL).unwrap();
    let stage = |ring: &mut Ring<'_>, count: usize| {
        for _ in 0..count {
            let chain = ring.peek().unwrap().unwrap();
            ring.stage(chain, 1).unwrap();
        }
    };
    stage(&mut ring, 3);
    assert_eq!(ring.staged(), 3);
    assert!(d.collect().is_empty());
    // The last two are taken back, and looked at again.
    ring.unstage(1);
    stage(&mut ring, 1);
    ring.publish().unwrap();
    assert_eq!((d.collect(), ring.staged()), (vec![(0, 1), (1, 1)], 0));
    ring.publish().unwrap();
    ring.unstage(0);
    // What is staged at the end of a step has not happened.
    stage(&mut ring, 2);
    assert!(ring.wants_interrupt());
    let mut ring = queue.ring(&mut room, &*b.ram, ALL).unwrap();
    // An index that cannot be stored: neither.
    stage(&mut ring, 1);
    b.ram.fail(Some(0));
    assert!(matches!(ring.publish(), Err(Stop::Absent(_))));
    b.ram.fail(None);
    assert!(!ring.wants_interrupt());
    let mut ring = queue.ring(&mut room, &*b.ram, ALL).unwrap();
    stage(&mut ring, 2);
    assert!(ring.peek().unwrap().is_none());
    ring.publish().unwrap();
    assert_eq!(d.collect(), [(2, 1), (3, 1)]);
    // One that was taken in an earlier step is not made available again.
    d.offer(0);
    let mut ring = queue.ring(&mut room, &*b.ram, ALL).unwrap();
    let mut chain = ring.peek().unwrap().unwrap();
    ring.take(&mut chain);
    let mut ring = queue.ring(&mut room, &*b.ram, ALL).unwrap();
    ring.stage(chain, 1).unwrap();
    ring.unstage(0);
    assert!(ring.peek().unwrap().is_none());
}

#[test]
fn chains_are_completed_in_any_order() {
    let (b, [mut d, _]) = echo(ALL, 4);
    let (mut queue, mut room) = (Queue::new(ECHO), Queue::room(&[ECHO]));
    queue.state = b.device.save_queue(0);
    for head in 0..3 {
        d.descriptor(d.desc, head, (DATA + u64::from(head), 1, DESC_WRITE, 0));
        d.offer(head);
    }
    let mut ring = queue.ring(&mut room, &*b.ram, ALL).unwrap();
    let mut take = || -> Chain {
        let mut chain = ring.peek().unwrap().unwrap();
        let at = Ipa::new(ring.segments(&chain)[0].at.as_u64());
        assert_eq!(ring.segments(&chain), [Segment { at, size: 1, write: true }]);
        ring.take(&mut chain);
        // Taken once, however often one asks.
        ring.take(&mut chain);
        chain
    };
    let chains = [take(), take(), take()];
    assert!(ring.peek().unwrap().is_none());
    assert!(d.collect().is_empty());
    let [first, second, third] = chains;
    for (chain, written) in [(second, 1), (third, 0), (first, 1)] {
        ring.complete(chain, written).unwrap();
    }
    assert_eq!(d.collect(), [(1, 1), (2, 0), (0, 1)]);
}

/// A chain that was taken is found again by its head, as it is by then, and its bytes can be gone through from anywhere.
#[test]
fn a_chain_is_looked_at_again_in_a_later_step() {
    let (b, [mut d, _]) = echo(ALL, 4);
    let (mut queue, mut room) = (Queue::new(ECHO), Queue::room(&[ECHO]));
    queue.state = b.device.save_queue(0);
    // Descriptors 0 .. 5 are a byte to read each, and come in the order 0, 5, 4, 3, 2, 1; two more are two bytes to write each.
    d.descriptor(d.desc, 3, (INDIRECT, 8 * 16, DESC_INDIRECT, 0));
    for n in 0..8u16 {
        let next = [5, 6, 1, 2, 3, 4, 7, 0][usize::from(n)];
        let flags = if n > 5 { DESC_WRITE } else { 0 } | if n < 7 { DESC_NEXT } else { 0 };
        d.descriptor(INDIRECT, n, (DATA + 2 * u64::from(n), if n > 5 { 2 } else { 1 }, flags, next));
    }
    b.ram.put(DATA, &(0..24).collect::<Vec<u8>>());
    d.offer(3);
    let mut ring = queue.ring(&mut room, &*b.ram, ALL).unwrap();
    let mut chain = ring.peek().unwrap().unwrap();
    assert_eq!((chain.head(), chain.readable(), chain.writable()), (3, 6, 4));
    ring.take(&mut chain);
    drop(chain);
    let mut ring = queue.ring(&mut room, &*b.ram, ALL).unwrap();
    let chain = ring.again(3).unwrap();
    assert!(ring.peek().unwrap().is_none());
    let mut bytes = ring.bytes(&chain, false);
    let mut all = [0; 6];
    for (at, size) in [(0, 6), (5, 1), (0, 1), (2, 3), (1, 2), (6, 0)] {
        bytes.read(at, &mut all[..size]).unwrap();
        let expected = &[0, 10, 8, 6, 4, 2][at as usize..][..size];
        assert_eq!(&all[..size], expected, "{at} + {size}");
    }
    assert_eq!(bytes.read(0, &mut [0; 7]), Err(Stop::Broken(Broken::Small)));
    assert_eq!(bytes.read(u64::MAX, &mut [0; 2]), Err(Stop::Broken(Broken::Small)));
    assert_eq!(bytes.write(0, &[1]), Err(Stop::Broken(Broken::Small)), "only the driver writes there");
    ring.bytes(&chain, true).write(1, &[7, 7]).unwrap();
    assert_eq!(b.ram.get(DATA + 12, 4), [12, 7, 7, 15]);
    ring.complete(chain, 3).unwrap();
    assert_eq!(d.collect(), [(3, 3)]);
    // As it is by then: what the driver has made of it is checked as at first.
    d.descriptor(d.desc, 3, (DATA, 0, 0, 0));
    assert_eq!(ring.again(3), Err(Stop::Broken(Broken::Empty)));
    assert_eq!(ring.again(4), Err(Stop::Broken(Broken::Descriptor(4))));
}

/// A table of descriptors is read in pieces, and never beyond its end.
#[test]
fn a_table_is_read_in_pieces() {
    let (b, [mut d, _]) = echo(ALL, 4);
    let (mut queue, mut room) = (Queue::new(ECHO), Queue::room(&[ECHO]));
    queue.state = b.device.save_queue(0);
    let table = BASE + SIZE - 10 * 16;
    d.descriptor(d.desc, 0, (table, 10 * 16, DESC_INDIRECT, 0));
    (0..10).for_each(|n| d.descriptor(table, n, (DATA, 1, if n < 9 { DESC_NEXT } else { 0 }, n + 1)));
    d.offer(0);
    let mut ring = queue.ring(&mut room, &*b.ram, ALL).unwrap();
    b.ram.taken();
    let chain = ring.peek().unwrap().unwrap();
    assert_eq!(chain.readable(), 10);
    // idx, the entry, the table's descriptor, three pieces, a pin of each part and one of the used ring.
    assert_eq!(b.ram.taken().0, 3 + 3 + 10 + 1);
    ring.complete(chain, 0).unwrap();
}

/// A page may be absent at any access: nothing has happened then but what whole chains did, and the step can be run again.
#[test]
fn an_absent_page_leaves_no_trace() {
    let run = |fails: Option<usize>| {
        let (mut b, [mut d, _]) = echo(ALL, 8);
        for head in 0..2u16 {
            let data = DATA + 0x100 * u64::from(head);
            b.ram.put(data, b"abcd");
            d.descriptor(d.desc, 2 * head, (data, 4, DESC_NEXT, 2 * head + 1));
            d.descriptor(d.desc, 2 * head + 1, (data + 16, 4, DESC_WRITE, 0));
            d.offer(2 * head);
        }
        b.ram.fail(fails);
        b.set(QUEUE_NOTIFY, 0);
        let (accesses, _) = b.ram.taken();
        let done = d.collect();
        let stalled = b.device.stats().absent;
        b.ram.fail(None);
        assert_eq!(b.get(STATUS) & DEVICE_NEEDS_RESET, 0);
        if stalled != 0 {
            assert_eq!(b.irq.is_high(), !done.is_empty(), "failed access {fails:?}");
            b.device.run_waiting();
        }
        let all: Vec<_> = done.into_iter().chain(d.collect()).collect();
        assert_eq!(all, [(0, 4), (2, 4)], "failed access {fails:?}");
        assert_eq!((b.ram.get(DATA + 16, 4), b.ram.get(DATA + 0x110, 4)), (b"bcde".to_vec(), b"bcde".to_vec()));
        assert!(b.irq.is_high());
        (accesses, stalled)
    };
    let (accesses, stalled) = run(None);
    assert_eq!(stalled, 0);
    assert!(accesses > 20);
    let stalls: u64 = (0..accesses).map(|n| run(Some(n)).1).sum();
    // All but the last look, whether the driver wants an interrupt: what cannot be read does not suppress.
    assert_eq!(stalls, accesses as u64 - 1);
}

#[test]
fn interrupts_are_suppressed_as_the_driver_says() {
    // By flags.
    let (mut b, [mut d, _]) = echo(F_VERSION_1, 8);
    d.descriptor(d.desc, 0, (DATA, 1, 0, 0));
    for no in [1u16, 0] {
        b.ram.put(d.avail, &no.to_le_bytes());
        d.offer(0);
        b.set(QUEUE_NOTIFY, 0);
        assert_eq!((d.collect().len(), b.irq.is_high()), (1, no == 0));
    }
    // By an index, over the wrap of the 16 bits.
    let (mut b, [mut d, _]) = echo(ALL, 8);
    d.descriptor(d.desc, 0, (DATA, 1, 0, 0));
    let mut served = 0u16;
    for round in 0..if cfg!(miri) { 100 } else { 20_000u32 } {
        let batch = (round % 8) as u16;
        let event = served.wrapping_add((round / 8 % 5) as u16);
        d.set_used_event(event);
        (0..batch).for_each(|_| d.offer(0));
        b.set(QUEUE_NOTIFY, 0);
        assert_eq!(d.collect().len(), batch.into());
        let passed = event.wrapping_sub(served) < batch;
        assert_eq!(b.irq.is_high(), passed, "round {round}");
        b.acknowledge();
        served = served.wrapping_add(batch);
        // The driver is to notify of the next one.
        assert_eq!(d.avail_event(), served);
    }
}

/// One chain of a good driver: how many bytes it has to read and to write, in how many parts each, in a table or not.
type Plan = (usize, usize, usize, usize, bool);

proptest! {
    /// A driver that keeps the rules gets every chain back once, in order, with the right answer.
    #[test]
    fn a_good_driver_is_served(
        batches in prop::collection::vec(prop::collection::vec((1usize..40, 1usize..40, 1usize..4, 0usize..4, any::<bool>()), 1..4), 1..12),
        size_log in 3u32..5,
        events in any::<bool>(),
    ) {
        let features = if events { ALL } else { ALL & !F_EVENT_IDX };
        let (mut b, [mut d, _]) = echo(features, 1 << size_log);
        for batch in batches {
            let mut free = 0u16;
            let mut expected = Vec::new();
            for (n, (read, write, reads, writes, table)) in batch.iter().copied().enumerate() {
                let plan: Plan = (read, write, reads.min(read), writes.min(write), table);
                let needs = if table { 1 } else { (plan.2 + plan.3) as u16 };
                if free + needs > d.size {
                    break;
                }
                let head = free;
                expected.push((head, lay_out(&d, n as u64, head, plan), plan));
                free += needs;
                d.offer(head);
            }
            b.set(QUEUE_NOTIFY, 0);
            let found = d.collect();
            prop_assert_eq!(found.len(), expected.len());
            for ((head, written), (want, (input, output), (read, write, _, writes, _))) in found.into_iter().zip(expected) {
                let room = if writes == 0 { 0 } else { write.min(read) };
                prop_assert_eq!((head, written as usize), (u32::from(want), room));
                let answer: Vec<u8> = b.ram.get(input, room).iter().map(|byte| byte.wrapping_add(1)).collect();
                prop_assert_eq!(b.ram.get(output, room), answer);
            }
            prop_assert_eq!(b.device.stats(), Default::default());
            b.acknowledge();
        }
    }
}

/// Writes a chain's descriptors and input; where its input and output are.
fn lay_out(d: &Driver, n: u64, head: u16, (read, write, reads, writes, table): Plan) -> (u64, u64) {
    let (input, output) = (DATA + n * 0x200, DATA + n * 0x200 + 0x100);
    let bytes: Vec<u8> = (0..read).map(|at| (at * 7 + n as usize) as u8).collect();
    d.ram.put(input, &bytes);
    d.ram.put(output, &[0; 0x100]);
    let (base, mut index) = if table { (INDIRECT + n * 0x100, 0) } else { (d.desc, head) };
    let mut left = reads + writes;
    if table {
        d.descriptor(d.desc, head, (base, 16 * left as u32, DESC_INDIRECT, 0));
    }
    for (start, total, parts, flags) in [(input, read, reads, 0), (output, write, writes, DESC_WRITE)] {
        for part in 0..parts {
            let (from, to) = (total * part / parts, total * (part + 1) / parts);
            left -= 1;
            let next = if left == 0 { 0 } else { DESC_NEXT };
            d.descriptor(base, index, (start + from as u64, (to - from) as u32, flags | next, index + 1));
            index += 1;
        }
    }
    (input, output)
}
