//! Cards at a real switch, with drivers that keep the rules and one that does not.

extern crate std;

use super::*;
use crate::virtio::spec::*;
use crate::virtio::tests::{ALL, BASE, Board, Driver, board};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use bus::{AccessSize, MmioDevice};
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};
use host::port::{Bell, Loss};
use proptest::prelude::*;
use switch::{Clock, PortConfig, Switch, SwitchPort};

/// Where buffers are; one each 2 KiB.
const DATA: u64 = BASE + 0x3000;
const EACH: u64 = 0x800;
/// All that the card offers.
pub const FULL: u64 = ALL | F_CSUM | F_GUEST_CSUM | F_MTU | F_MAC | F_MRG_RXBUF | F_STATUS;
const EVERYBODY: [u8; 6] = [0xff; 6];

/// No time passes.
struct Still;

impl Clock for Still {
    fn seconds(&self) -> u32 {
        0
    }
}

#[derive(Clone, Default)]
pub struct Rings(Arc<AtomicU32>);

impl Bell for Rings {
    fn ring(&self) {
        self.0.fetch_add(1, Relaxed);
    }
}

pub fn mac(n: u8) -> [u8; 6] {
    [0x52, 0x54, 0, 0, 0, n]
}

/// A guest with a card.
pub struct Guest {
    pub b: Board<Net<SwitchPort>>,
    bell: Rings,
    pub own: [u8; 6],
}

pub fn network() -> Arc<Switch> {
    Switch::new(Box::new(Still), 77)
}

/// A card with address `n` at `switch`, and its bell.
pub fn card(switch: &Arc<Switch>, n: u8) -> (Net<SwitchPort>, Rings) {
    let (bell, config) = (Rings::default(), PortConfig { mtu: 9000, ..PortConfig::guest(Mac(mac(n))) });
    let port = switch.attach(&config, Box::new(bell.clone())).unwrap();
    (Net::new(port, Config { mac: Mac(mac(n)), mtu: 9000 }), bell)
}

impl Guest {
    pub fn new(switch: &Arc<Switch>, n: u8) -> Self {
        let (net, bell) = card(switch, n);
        Self { b: board(net), bell, own: mac(n) }
    }
    /// The driver comes up: its two queues.
    pub fn up(&mut self, features: u64) -> [Driver; 2] {
        self.b.negotiate(features);
        let drivers = [0, 1].map(|number| Driver::new(&mut self.b, number, 16));
        self.b.driver_ok();
        drivers
    }
    /// The card is poked if its bell was rung; steps until nothing is due.
    pub fn hear(&mut self) -> bool {
        let rung = self.bell.0.swap(0, Relaxed) != 0;
        if rung {
            self.b.device.poke(RECEIVEQ);
        }
        while self.b.device.is_due() {
            self.b.device.run_due();
        }
        rung
    }
    fn lost(&self, why: Loss) -> u64 {
        self.b.device.device().port().stats().lost(why)
    }
    /// Sends what stands at `DATA` in two pieces; how many steps that took.
    fn send(&mut self, tx: &mut Driver, header: [u8; HEADER], frame: &[u8]) -> usize {
        self.b.ram.put(DATA, &header);
        self.b.ram.put(DATA + 0x100, frame);
        tx.descriptor(tx.desc, 0, (DATA, 12, DESC_NEXT, 1));
        tx.descriptor(tx.desc, 1, (DATA + 0x100, frame.len() as u32, 0, 0));
        tx.offer(0);
        let steps = self.b.repeat(QUEUE_NOTIFY, TRANSMITQ as u32);
        assert_eq!(tx.collect(), [(0, 0)]);
        steps
    }
    fn frame(&self, to: [u8; 6], size: usize) -> Vec<u8> {
        let mut frame: Vec<u8> = to.into_iter().chain(self.own).chain([0x88, 0xb5]).collect();
        frame.extend((14..size).map(|n| (n * 7 + size) as u8));
        frame
    }
}

/// A buffer of `size` bytes for the driver's frames.
pub fn give(rx: &mut Driver, n: u16, size: u32) {
    rx.descriptor(rx.desc, n, (DATA + EACH * u64::from(n), size, DESC_WRITE, 0));
    rx.offer(n);
}

/// The bytes of used buffer `n`.
pub fn buffer(rx: &Driver, n: u32, size: u32) -> Vec<u8> {
    rx.ram.get(DATA + EACH * u64::from(n), size as usize)
}

/// What came: each used buffer's bytes.
fn buffers(rx: &mut Driver) -> Vec<Vec<u8>> {
    let found = rx.collect();
    found.into_iter().map(|(n, size)| buffer(rx, n, size)).collect()
}

const PLAIN: [u8; HEADER] = [0; HEADER];

/// Two guests with drivers that take all; the second has `count` buffers of `size` bytes.
fn pair(features: [u64; 2], count: u16, size: u32) -> (Guest, Driver, Guest, Driver) {
    let net = network();
    let [mut a, mut b] = [1, 2].map(|n| Guest::new(&net, n));
    let ([_, tx], [mut rx, _]) = (a.up(features[0]), b.up(features[1]));
    (0..count).for_each(|n| give(&mut rx, n, size));
    (a, tx, b, rx)
}

#[test]
fn the_configuration_says_address_link_and_mtu() {
    let mut g = Guest::new(&network(), 5);
    assert_eq!(g.b.get(DEVICE_ID), 1);
    let mut config = |at: u64, size| g.b.device.read(0x100 + at, size).unwrap();
    let bytes: Vec<u64> = (0..6).map(|at| config(at, AccessSize::B1)).collect();
    assert_eq!(bytes, [0x52, 0x54, 0, 0, 0, 5]);
    assert_eq!([6, 8, 10, 12].map(|at| config(at, AccessSize::B2)), [1, 1, 9000, 0]);
    g.b.negotiate(FULL);
    g.b.device.write(0x100, AccessSize::B1, 0xff).unwrap();
    assert_eq!(g.b.device.read(0x100, AccessSize::B1), Ok(0x52));
}

#[test]
fn a_frame_goes_from_guest_to_guest() {
    for features in [FULL, F_VERSION_1] {
        let (mut a, mut tx, mut b, mut rx) = pair([features; 2], 4, 2048);
        for size in [14, 60, 1514, 1700] {
            let frame = a.frame(b.own, size);
            assert_eq!(a.send(&mut tx, PLAIN, &frame), 1);
            assert!(rx.collect().is_empty(), "not in the sender's time");
            rx.set_used_event(rx.seen);
            assert!(b.hear());
            assert!(b.b.irq.is_high());
            b.b.acknowledge();
            let came = buffers(&mut rx);
            assert_eq!(came.len(), 1);
            assert_eq!(came[0][..HEADER], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
            assert_eq!(came[0][HEADER..], frame);
        }
        assert_eq!(a.b.device.device().stats().transmitted, 4);
        let (sent, received) = (a.b.device.device().port().stats(), b.b.device.device().port().stats());
        assert_eq!((sent.sent, received.received, sent.sent_bytes), (4, 4, received.received_bytes));
    }
}

#[test]
fn what_a_sender_says_of_his_frame_is_checked() {
    let (mut a, mut tx, mut b, mut rx) = pair([FULL; 2], 8, 2048);
    let header = |flags, gso, start: u16, offset: u16, buffers: u16| {
        let [[s0, s1], [o0, o1], [b0, b1]] = [start, offset, buffers].map(u16::to_le_bytes);
        [flags, gso, 0xaa, 0xaa, 0xbb, 0xbb, s0, s1, o0, o1, b0, b1]
    };
    let frame = a.frame(b.own, 60);
    // Refused: segmentation, sums outside.
    for bad in [
        header(0, 1, 0, 0, 0),
        header(1, 4, 34, 16, 0),
        header(0, 0x80, 0, 0, 0),
        header(1, 0, 13, 0, 0),
        header(1, 0, 34, 25, 0),
        header(1, 0, 60, 0, 0),
        header(1, 0, 0xffff, 0xffff, 0),
        header(1, 0, 34, 0xfffe, 0),
    ] {
        a.send(&mut tx, bad, &frame);
    }
    assert!(!b.hear());
    assert_eq!(a.b.device.device().stats().bad, 8);
    // Taken; what is unknown or not his to say is gone.
    for (good, expected) in [
        (header(1, 0, 34, 24, 9), header(1, 0, 34, 24, 1)),
        (header(1, 0, 34, 16, 0), header(1, 0, 34, 16, 1)),
        (header(0xfe, 0, 0x1234, 0x5678, 0xffff), header(0, 0, 0, 0, 1)),
        (header(0xff, 0, 14, 0, 0xffff), header(1, 0, 14, 0, 1)),
    ] {
        a.send(&mut tx, good, &frame);
        assert!(b.hear());
        let came = buffers(&mut rx);
        let expected = {
            let mut e = expected;
            e[2..6].fill(0);
            e
        };
        assert_eq!((&came[0][..HEADER], &came[0][HEADER..]), (&expected[..], &frame[..]));
    }
    // No whole frame, or none.
    for size in [0u32, 12, 13, 25] {
        let next = if size > 12 { DESC_NEXT } else { 0 };
        tx.descriptor(tx.desc, 0, (DATA, size.clamp(1, 12), next, 1));
        tx.descriptor(tx.desc, 1, (DATA, size.saturating_sub(12).max(1), 0, 0));
        tx.offer(0);
        a.b.set(QUEUE_NOTIFY, TRANSMITQ as u32);
        assert_eq!(tx.collect(), [(0, 0)]);
    }
    assert_eq!(a.b.device.device().stats().bad, 12);
    assert_eq!(a.b.device.stats().broken, 0);
}

#[test]
fn a_sum_is_done_for_a_driver_that_does_not() {
    let (mut a, mut tx, mut b, mut rx) = pair([FULL, FULL & !F_GUEST_CSUM], 4, 2048);
    let mut frame = a.frame(b.own, 60);
    let head = [1, 0, 0, 0, 0, 0, 34, 0, 16, 0, 0, 0];
    frame[34..].fill(0);
    frame[50..52].copy_from_slice(&[0x12, 0x34]);
    a.send(&mut tx, head, &frame);
    b.hear();
    frame[50..52].copy_from_slice(&(!0x1234u16).to_be_bytes());
    let came = buffers(&mut rx);
    assert_eq!((&came[0][..HEADER], &came[0][HEADER..]), (&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0][..], &frame[..]));
}

#[test]
fn a_long_frame_is_spread_over_buffers() {
    let (mut a, mut tx, mut b, mut rx) = pair([FULL; 2], 3, 512);
    let (long, short) = (a.frame(b.own, 1600), a.frame(b.own, 100));
    a.send(&mut tx, PLAIN, &long);
    b.hear();
    // 1,612 bytes do not fit into 1,536: nothing is to be seen of it, and the driver is asked to notify.
    assert!(rx.collect().is_empty());
    assert_eq!((rx.avail_event(), b.b.device.device().stats().starved), (3, 1));
    a.send(&mut tx, PLAIN, &short);
    assert!(!b.hear(), "who waits for buffers is not rung");
    give(&mut rx, 3, 512);
    give(&mut rx, 4, 512);
    b.b.set(QUEUE_NOTIFY, RECEIVEQ as u32);
    let came = buffers(&mut rx);
    assert_eq!(came.iter().map(Vec::len).collect::<Vec<_>>(), [512, 512, 512, 76, 112]);
    assert_eq!((&came[0][..HEADER], &came[4][..HEADER]), (&header::make(None, 4)[..], &header::make(None, 1)[..]));
    let all = came[..4].concat();
    assert_eq!(all[HEADER..], long);
    assert_eq!(came[4][HEADER..], short);
    // Without merging it is gone, and its buffer is the next one's.
    let (mut a, mut tx, mut b, mut rx) = pair([FULL, FULL & !F_MRG_RXBUF], 3, 512);
    a.send(&mut tx, PLAIN, &long);
    a.send(&mut tx, PLAIN, &short);
    b.hear();
    assert_eq!(buffers(&mut rx).iter().map(Vec::len).collect::<Vec<_>>(), [112]);
    assert_eq!(b.b.device.device().stats().small, 1);
}

#[test]
fn a_frame_that_takes_more_buffers_than_a_step_has_is_gone() {
    let (mut a, mut tx, mut b, mut rx) = pair([FULL; 2], 0, 0);
    // Buffers of 13 bytes, in tables of 8 descriptors: 64 descriptors carry 91 bytes.
    let table = BASE + 0x2000;
    for n in 0..7 {
        rx.descriptor(
            table,
            n,
            (DATA + u64::from(n), if n == 0 { 7 } else { 1 }, DESC_WRITE | if n < 6 { DESC_NEXT } else { 0 }, n + 1),
        );
    }
    rx.descriptor(rx.desc, 0, (table, 7 * 16, DESC_INDIRECT, 0));
    (0..16).for_each(|_| rx.offer(0));
    let (long, short) = (a.frame(b.own, 200), a.frame(b.own, 20));
    for frame in [&short, &long, &long, &short] {
        a.send(&mut tx, PLAIN, frame);
    }
    b.b.ram.taken();
    b.b.device.poke(RECEIVEQ);
    assert!(b.b.ram.taken().0 < 300);
    b.hear();
    assert_eq!(rx.collect().iter().map(|(_, size)| *size).collect::<Vec<_>>(), [13, 13, 6, 13, 13, 6]);
    assert_eq!((b.b.device.device().stats().small, b.b.device.stats().broken), (2, 0));
}

#[test]
fn a_buffer_too_small_for_a_header_breaks_the_queue_and_its_port_closes() {
    for features in [FULL, F_VERSION_1] {
        let (mut a, mut tx, mut b, rx) = pair([FULL, features], 1, 11);
        let frame = a.frame(b.own, 60);
        a.send(&mut tx, PLAIN, &frame);
        b.hear();
        assert_eq!(b.b.device.stats().last, Some(Broken::Small));
        a.send(&mut tx, PLAIN, &frame);
        assert_eq!((a.lost(Loss::Closed), b.hear()), (1, false));
        drop(rx);
        let [mut rx, _] = b.up(features);
        give(&mut rx, 0, 2048);
        a.send(&mut tx, PLAIN, &frame);
        b.hear();
        assert_eq!(buffers(&mut rx).len(), 1, "and nothing of before");
    }
}

#[test]
fn steps_are_bounded_both_ways() {
    let net = network();
    let [mut a, mut b] = [1, 2].map(|n| Guest::new(&net, n));
    let others: Vec<_> = (3..30)
        .map(|n| {
            let mut g = Guest::new(&net, n);
            let d = g.up(FULL);
            (g, d)
        })
        .collect();
    let ([_, mut tx], [mut rx, _]) = (a.up(FULL), b.up(FULL));
    (0..8).for_each(|n| give(&mut rx, n, 0x800));
    (8..16).for_each(|n| give(&mut rx, n, 0x800));
    // One frame of 8,000 bytes to 28 receivers: five at a time are 40,000 bytes.
    let frame = a.frame(EVERYBODY, 8000);
    assert_eq!(a.send(&mut tx, PLAIN, &frame), 6);
    assert!(others.iter().all(|(g, _)| g.bell.0.load(Relaxed) == 1));
    drop(others);
    // Six frames of 8,000 bytes to send are two steps, and so are they to receive.
    let frame = a.frame(b.own, 8000);
    a.b.ram.put(DATA, &PLAIN);
    a.b.ram.put(DATA + 12, &frame);
    tx.descriptor(tx.desc, 0, (DATA, 8012, 0, 0));
    (0..6).for_each(|_| tx.offer(0));
    assert_eq!(a.b.repeat(QUEUE_NOTIFY, TRANSMITQ as u32), 2);
    assert_eq!(tx.collect().len(), 6);
    b.bell.0.store(0, Relaxed);
    let mut came = 0;
    b.b.device.poke(RECEIVEQ);
    let mut steps = 1;
    loop {
        let count = rx.collect().len();
        came += count;
        (0..count as u16).for_each(|n| give(&mut rx, n, 0x800));
        if came == 28 {
            break;
        }
        steps += 1;
        b.b.repeat(QUEUE_NOTIFY, RECEIVEQ as u32);
    }
    assert_eq!(steps, 2, "4 buffers a frame, 16 buffers, 7 frames");
}

#[test]
fn a_link_that_is_down_carries_nothing() {
    let (mut a, mut tx, mut b, mut rx) = pair([FULL; 2], 8, 2048);
    let frame = a.frame(b.own, 60);
    a.b.device.set_link(true);
    assert!(!a.b.irq.is_high());
    a.b.device.set_link(false);
    assert_eq!((a.b.acknowledge(), a.b.device.read(0x106, AccessSize::B2)), (INTERRUPT_CONFIG, Ok(0)));
    a.send(&mut tx, PLAIN, &frame);
    assert_eq!((a.b.device.device().stats().down, b.hear()), (1, false));
    a.b.acknowledge();
    a.b.device.set_link(true);
    assert_eq!((a.b.acknowledge(), a.b.device.read(0x106, AccessSize::B2)), (INTERRUPT_CONFIG, Ok(1)));
    a.send(&mut tx, PLAIN, &frame);
    // What has come and was not taken is gone with the link.
    b.b.device.set_link(false);
    b.hear();
    a.send(&mut tx, PLAIN, &frame);
    assert_eq!(a.lost(Loss::Closed), 1);
    // A driver's reset is not the cable's business.
    MmioDevice::reset(&mut b.b.device);
    let [mut again, _] = b.up(FULL);
    give(&mut again, 0, 2048);
    a.send(&mut tx, PLAIN, &frame);
    b.b.device.set_link(true);
    b.hear();
    assert!(rx.collect().is_empty() && again.collect().is_empty());
    a.send(&mut tx, PLAIN, &frame);
    b.hear();
    assert_eq!(again.collect().len(), 1);
    // Without a driver nothing is announced.
    let mut g = Guest::new(&network(), 1);
    g.b.device.set_link(false);
    assert!(!g.b.irq.is_high());
}

#[test]
fn nothing_comes_to_who_is_not_there() {
    let (mut a, mut tx, mut b, mut rx) = pair([FULL; 2], 8, 2048);
    let frame = a.frame(b.own, 60);
    a.send(&mut tx, PLAIN, &frame);
    b.b.device.quiesce();
    assert!(b.hear() && rx.collect().is_empty());
    a.send(&mut tx, PLAIN, &frame);
    MmioDevice::reset(&mut b.b.device);
    a.send(&mut tx, PLAIN, &frame);
    assert_eq!(a.lost(Loss::Closed), 2);
    // Saved with a driver, and restored, it goes on; what waited is gone.
    let mut rx = b.up(FULL).into_iter().next().unwrap();
    (0..4).for_each(|n| give(&mut rx, n, 2048));
    a.send(&mut tx, PLAIN, &frame);
    let state = b.b.device.save();
    b.b.device.restore(state.clone()).unwrap();
    assert_eq!(b.b.device.save(), state);
    a.send(&mut tx, PLAIN, &frame);
    b.hear();
    assert_eq!(buffers(&mut rx).len(), 1);
}

/// Each access of a step fails in turn: what was to be sent is sent, at least once; what came comes exactly once, whole.
#[test]
fn an_absent_page_leaves_no_trace() {
    for features in [FULL, FULL & !F_EVENT_IDX] {
        for access in (0..80).step_by(if cfg!(miri) { 13 } else { 1 }) {
            let (mut a, mut tx, mut b, mut rx) = pair([features; 2], 8, 300);
            let (long, short) = (a.frame(b.own, 1000), a.frame(b.own, 60));
            a.b.ram.put(DATA, &PLAIN);
            for (n, frame) in (0u16..).zip([&long, &short]) {
                a.b.ram.put(DATA + 0x1000 + 0x1000 * u64::from(n), frame);
                tx.descriptor(tx.desc, 2 * n, (DATA, 12, DESC_NEXT, 2 * n + 1));
                tx.descriptor(tx.desc, 2 * n + 1, (DATA + 0x1000 + 0x1000 * u64::from(n), frame.len() as u32, 0, 0));
                tx.offer(2 * n);
            }
            a.b.ram.fail(Some(access));
            a.b.set(QUEUE_NOTIFY, TRANSMITQ as u32);
            a.b.ram.fail(None);
            a.b.device.run_waiting();
            assert_eq!(tx.collect(), [(0, 0), (2, 0)], "{access}");
            b.b.ram.fail(Some(access));
            b.hear();
            b.b.ram.fail(None);
            b.b.device.run_waiting();
            let mut came = buffers(&mut rx);
            // (The receiver has room for two frames, and a third short one.)
            let mut frames = Vec::new();
            while !came.is_empty() {
                let count = usize::from(came[0][10]);
                frames.push(came.drain(..count).collect::<Vec<_>>().concat()[HEADER..].to_vec());
            }
            assert!(frames.iter().all(|frame| *frame == long || *frame == short), "{access}");
            assert!(frames.contains(&long) && (frames.contains(&short) || frames.len() > 1), "{access}");
            let received = b.b.device.device().port().stats();
            assert_eq!(received.received, frames.len() as u64);
            assert_eq!((a.b.device.stats().broken, b.b.device.stats().broken), (0, 0));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 2 } else { 300 }, ..ProptestConfig::default() })]

    /// Whatever a sender writes before and into his frames: what a receiver's driver reads is in order.
    #[test]
    fn no_header_reaches_another_guest_as_it_was(
        frames in prop::collection::vec((any::<[u8; 12]>(), prop_oneof![Just(0u8), Just(1u8), any::<u8>()],
            prop_oneof![Just(0u8), any::<u8>()], 0u16..200, 0u16..100, 0usize..200, any::<bool>()), 1..8),
        merge in any::<bool>(), sums in any::<bool>(), size in 12u32..300,
    ) {
        let features = FULL & if merge { u64::MAX } else { !F_MRG_RXBUF } & if sums { u64::MAX } else { !F_GUEST_CSUM };
        let (mut a, mut tx, mut b, mut rx) = pair([FULL, features], 16, size);
        for (mut head, flags, gso, start, offset, size, right) in frames {
            (head[0], head[1]) = (flags, gso);
            if right {
                head[6..8].copy_from_slice(&start.to_le_bytes());
                head[8..10].copy_from_slice(&offset.to_le_bytes());
            }
            let mut frame = a.frame(b.own, size);
            frame.truncate(size.max(1));
            a.send(&mut tx, head, &frame);
        }
        b.hear();
        let mut came = buffers(&mut rx).into_iter();
        while let Some(mut frame) = came.next() {
            let head: [u8; 12] = frame[..12].try_into().unwrap();
            let count = u16::from_le_bytes([head[10], head[11]]);
            prop_assert!(count == 1 || merge && count > 1);
            (1..count).for_each(|_| frame.extend(came.next().unwrap()));
            let [start, offset] = [6, 8].map(|at| usize::from(u16::from_le_bytes([head[at], head[at + 1]])));
            prop_assert!(head[0] == 0 || sums && head[0] == 1);
            prop_assert_eq!(&head[1..6], &[0; 5]);
            prop_assert!(frame.len() >= 12 + 14);
            if head[0] == 1 {
                prop_assert!(start >= 14 && start + offset + 2 <= frame.len() - 12);
            } else {
                prop_assert_eq!((start, offset), (0, 0));
            }
            prop_assert_eq!(&frame[12..24], &[&b.own[..], &a.own[..]].concat()[..]);
        }
        prop_assert_eq!((a.b.device.stats().broken, b.b.device.stats().broken), (0, 0));
    }
}

#[test]
fn a_spoofer_is_heard_by_nobody() {
    let (mut a, mut tx, mut b, _rx) = pair([FULL; 2], 8, 2048);
    let mut frame = a.frame(b.own, 60);
    frame[6..12].copy_from_slice(&mac(3));
    a.send(&mut tx, PLAIN, &frame);
    assert_eq!((a.lost(Loss::Spoofed), b.hear()), (1, false));
}
