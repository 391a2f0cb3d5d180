//! Two hostile guests and one that keeps the rules, at one switch: whatever the two do to their cards and send, steps are bounded, and what the
//! third one's driver reads is in order and from whom it says.

extern crate std;

use super::header;
use super::spec::{RECEIVEQ, TRANSMITQ};
use super::tests::*;
use crate::virtio::ring::STEP;
use crate::virtio::spec::*;
use crate::virtio::tests::{BASE, Driver};
use bus::MmioDevice;
use host::port::{Checksum, Port};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::cell::Cell;
use std::vec::Vec;

/// What one of the two does next.
#[derive(Clone, Debug)]
enum Act {
    /// Its driver comes up.
    Up { features: u64 },
    /// A buffer for frames, in so many pieces.
    Give { size: u32, pieces: u16 },
    /// A frame is sent, in so many pieces.
    Send { header: [u8; 12], to: u8, from: u8, size: u32, pieces: u16 },
    /// A word of its rings or tables changes.
    Mess { at: u64, value: u16 },
    /// A store to a register.
    Register { at: u64, value: u32 },
    /// A page is absent at this access.
    Absent(usize),
    /// The outside: frames that came are looked at, the link, a reset, memory taken away.
    Outside(u8),
}

fn act() -> impl Strategy<Value = Act> {
    let features =
        prop_oneof![4 => Just(FULL), 1 => Just(F_VERSION_1), 2 => any::<u64>().prop_map(|f| f & FULL | F_VERSION_1)];
    let header = prop_oneof![
        3 => Just([0; 12]),
        2 => (0u16..300, 0u16..100).prop_map(|(start, offset)| header::make(Some(Checksum { start, offset }), 7)),
        1 => any::<[u8; 12]>(),
    ];
    let size = prop_oneof![0u32..40, 40u32..300, Just(1514), 1400u32..2000];
    prop_oneof![
        1 => features.prop_map(|features| Act::Up { features }),
        8 => (prop_oneof![Just(2048u32), 1u32..400], 1u16..6).prop_map(|(size, pieces)| Act::Give { size, pieces }),
        10 => (header, prop_oneof![Just(1u8), Just(2), Just(3), Just(255), any::<u8>()], prop_oneof![6 => Just(0u8), 1 => 1u8..5], size, 1u16..6)
            .prop_map(|(header, to, from, size, pieces)| Act::Send { header, to, from, size, pieces }),
        2 => (0u64..0x1000, prop_oneof![0u16..40, any::<u16>()]).prop_map(|(at, value)| Act::Mess { at: 2 * at, value }),
        1 => ((0u64..0x48).prop_map(|at| at * 4), prop_oneof![0u32..20, any::<u32>()])
            .prop_map(|(at, value)| Act::Register { at, value }),
        1 => (0usize..60).prop_map(Act::Absent),
        6 => any::<u8>().prop_map(Act::Outside),
    ]
}

/// One of the two, with what its driver knows.
struct Hostile {
    guest: Guest,
    drivers: Option<[Driver; 2]>,
    next: u16,
}

impl Hostile {
    /// Bytes of `size` in `pieces` descriptors from the next one on; its head.
    fn chain(&mut self, queue: usize, at: u64, size: u32, pieces: u16, flags: u16) -> Option<u16> {
        let driver = self.drivers.as_ref()?.get(queue)?;
        let each = (size / u32::from(pieces)).max(1);
        let head = self.next % 16;
        for n in 0..pieces {
            let last = n + 1 == pieces;
            let length = if last { size.saturating_sub(each * u32::from(n)).max(1) } else { each };
            let from = at + u64::from(each) * u64::from(n);
            let more = if last { 0 } else { DESC_NEXT };
            driver.descriptor(driver.desc, (head + n) % 16, (from, length, flags | more, (head + n + 1) % 16));
        }
        self.next = self.next.wrapping_add(pieces);
        Some(head)
    }

    fn play(&mut self, act: Act) {
        match act {
            Act::Up { features } => {
                let b = &mut self.guest.b;
                b.set(STATUS, 0);
                b.negotiate(features);
                self.drivers = Some([0, 1].map(|number| Driver::new(b, number, 16)));
                b.driver_ok();
            }
            Act::Give { size, pieces } => {
                let at = BASE + 0x3000 + 0x800 * u64::from(self.next % 16);
                if let Some(head) = self.chain(RECEIVEQ, at, size, pieces, DESC_WRITE) {
                    self.offer(RECEIVEQ, head);
                }
            }
            Act::Send { header, to, from, size, pieces } => {
                let own = [2, 2, 2, 2, 2, self.guest.own[5].wrapping_add(from)];
                let to = if to == 255 { [0xff; 6] } else { [self.guest.own[0], self.guest.own[1], 0, 0, 0, to] };
                let from = if from == 0 { self.guest.own } else { own };
                let at = BASE + 0xc000;
                self.guest.b.ram.put(at, &[&header[..], &to, &from, &[8, 0]].concat());
                if let Some(head) = self.chain(TRANSMITQ, at, size + 12, pieces, 0) {
                    self.offer(TRANSMITQ, head);
                }
            }
            Act::Mess { at, value } => self.guest.b.ram.put(BASE + at, &value.to_le_bytes()),
            Act::Register { at, value } => drop(self.guest.b.put(at, value)),
            Act::Absent(number) => self.guest.b.ram.fail(Some(number)),
            Act::Outside(what) => match what % 16 {
                0..8 => drop(self.guest.hear()),
                8 => self.guest.b.device.set_link(what & 16 != 0),
                9 => self.guest.b.device.quiesce(),
                10 => MmioDevice::reset(&mut self.guest.b.device),
                11 => {
                    let state = self.guest.b.device.save();
                    self.guest.b.device.restore(state).unwrap();
                }
                _ => self.guest.b.device.run_waiting(),
            },
        }
    }

    fn offer(&mut self, queue: usize, head: u16) {
        if let Some(drivers) = &mut self.drivers {
            drivers[queue].offer(head);
        }
        // As often as an instruction is repeated before somebody else has a turn.
        for _ in 0..4 {
            if self.guest.b.put(QUEUE_NOTIFY, queue as u32).is_ok() {
                break;
            }
        }
    }
}

/// The third: takes what has come, and looks at it.
fn look(victim: &mut Guest, rx: &mut Driver) -> Result<usize, TestCaseError> {
    victim.hear();
    let mut came = rx.collect().into_iter();
    let mut count = 0;
    while let Some((n, size)) = came.next() {
        let mut frame = buffer(rx, n, size);
        let head: [u8; 12] = frame[..12].try_into().unwrap();
        let mut used = Vec::from([n]);
        for _ in 1..u16::from_le_bytes([head[10], head[11]]) {
            let (n, size) = came.next().ok_or_else(|| TestCaseError::fail("a buffer is missing"))?;
            frame.extend(buffer(rx, n, size));
            used.push(n);
        }
        let frame = &frame[12..];
        prop_assert!(frame.len() >= 14 && frame.len() <= 9018);
        prop_assert_eq!(&head[1..6], &[0; 5]);
        let [start, offset] = [6, 8].map(|at| usize::from(u16::from_le_bytes([head[at], head[at + 1]])));
        prop_assert!(head[0] == 0 || head[0] == 1 && start >= 14 && start + offset + 2 <= frame.len());
        prop_assert!(frame[..6] == victim.own || frame[..6] == [0xff; 6]);
        // Nobody has said to be anybody else.
        prop_assert!((1..=2).any(|n| frame[6..12] == mac(n)), "{:?}", &frame[..14]);
        used.into_iter().for_each(|n| give(rx, n as u16, 512));
        count += 1;
    }
    victim.b.put(QUEUE_NOTIFY, RECEIVEQ as u32).unwrap_or(());
    prop_assert_eq!(victim.b.device.stats().broken, 0);
    Ok(count)
}

#[test]
fn two_hostile_guests_mislead_nobody() {
    let cases = if cfg!(miri) { 1 } else { 300 };
    // The same histories at each run, so that it can be said what they reach.
    let mut runner = TestRunner::new_with_rng(
        Config { cases, failure_persistence: None, ..Config::default() },
        proptest::test_runner::TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha),
    );
    let (heard, told, bad) = (Cell::new(0), Cell::new(0), Cell::new(0));
    let acts = prop::collection::vec((any::<bool>(), act()), 20..120);
    let result = runner.run(&acts, |acts| {
        let net = network();
        let mut two = [1, 2].map(|n| Hostile { guest: Guest::new(&net, n), drivers: None, next: 0 });
        let mut victim = Guest::new(&net, 3);
        let [mut rx, _] = victim.up(FULL);
        (0..16).for_each(|n| give(&mut rx, n, 512));
        two.iter_mut().for_each(|guest| guest.play(Act::Up { features: FULL }));
        for (which, act) in acts {
            let hostile = &mut two[usize::from(which)];
            hostile.guest.b.ram.taken();
            hostile.play(act);
            let (accesses, written) = hostile.guest.b.ram.taken();
            // A store is repeated four times at most, a card is poked and goes on until nothing is due.
            prop_assert!(accesses <= 12 * 64 * (STEP as usize + 64), "{} accesses", accesses);
            prop_assert!(
                written.iter().all(|(at, size)| *at >= BASE && at + *size as u64 <= BASE + crate::virtio::tests::SIZE)
            );
            prop_assert_eq!(hostile.guest.b.irq.is_high(), hostile.guest.b.get(INTERRUPT_STATUS) != 0);
            heard.set(heard.get() + look(&mut victim, &mut rx)?);
        }
        for hostile in &two {
            let net = hostile.guest.b.device.device();
            told.set(told.get() + net.port().stats().received);
            bad.set(bad.get() + net.stats().bad + net.port().stats().lost.iter().sum::<u64>());
        }
        Ok(())
    });
    result.unwrap();
    // They did talk, to each other as well, and were refused.
    if !cfg!(miri) {
        let all = (heard.get(), told.get(), bad.get());
        assert!(all.0 > 500 && all.1 > 200 && all.2 > 1000, "{all:?}");
    }
}
