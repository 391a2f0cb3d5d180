//! A guest that writes anything anywhere at any time, with each of the devices: every step ends soon, and what is written is in the used
//! ring or in a buffer that the guest called writable.

use super::*;
use crate::virtio::input::PowerKey;
use crate::virtio::net::Net;
use crate::virtio::net::tests::{card, network};
use crate::virtio::ring::STEP;
use crate::virtio::rng::{Rng, Source};
use host::port::{Checksum, HEADER, Outgoing, Port};
use proptest::prelude::*;
use switch::{PortConfig, SwitchPort};

/// A source of so many bytes.
struct Ones(usize);

impl Source for Ones {
    fn fill(&mut self, into: &mut [u8]) -> usize {
        let count = into.len().min(self.0);
        self.0 -= count;
        into[..count].fill(1);
        count
    }
}

/// A card with address 1, and a port with address 2 that sends to it.
fn cards() -> (Net<SwitchPort>, Arc<switch::Switch>, SwitchPort) {
    struct Deaf;
    impl host::port::Bell for Deaf {
        fn ring(&self) {}
    }
    let switch = network();
    let config = PortConfig { mtu: 9000, ..PortConfig::guest(host::port::Mac([0x52, 0x54, 0, 0, 0, 2])) };
    let peer = switch.attach(&config, alloc::boxed::Box::new(Deaf)).unwrap();
    (card(&switch, 1).0, switch, peer)
}

/// What the guest, or somebody outside, does next.
#[derive(Clone, Debug)]
pub enum Act {
    /// Any access.
    Access { at: u64, size: u8, value: u64, write: bool },
    /// A store to a register that is there.
    Register { at: u64, value: u32 },
    /// A word of a ring.
    Poke { at: u64, value: u16 },
    /// A descriptor, likely to be nearly right.
    Descriptor { queue: u64, index: u64, at: u64, size: u32, flags: u16, next: u16 },
    /// More buffers.
    Offer { queue: u64, entry: u64, head: u16, ahead: u16 },
    /// As a driver comes up: features, both queues, `DRIVER_OK`.
    Up { features: u64, size: u32, shift: u64 },
    /// The outside: a change, a press, a page that is absent and comes back.
    Outside(u8),
    /// A page is absent at this access.
    Absent(usize),
}

/// Anything that can happen.
pub fn act() -> impl Strategy<Value = Act> {
    let near = prop_oneof![BASE..BASE + SIZE + 32, Just(u64::MAX - 4), any::<u64>()];
    let size = prop_oneof![0u32..64, Just(16), Just(32), Just(48), any::<u32>()];
    prop_oneof![
        2 => (0u64..0x210, 0u8..4, any::<u64>(), any::<bool>())
            .prop_map(|(at, size, value, write)| Act::Access { at, size, value, write }),
        4 => ((0u64..0x48).prop_map(|at| at * 4), prop_oneof![0u32..20, any::<u32>()])
            .prop_map(|(at, value)| Act::Register { at, value }),
        2 => ((0u64..0x1000).prop_map(|at| BASE + at * 2), prop_oneof![0u16..40, any::<u16>()])
            .prop_map(|(at, value)| Act::Poke { at, value }),
        6 => (0u64..3, 0u64..16, near, size, 0u16..8, prop_oneof![0u16..18, any::<u16>()])
            .prop_map(|(queue, index, at, size, flags, next)| Act::Descriptor { queue, index, at, size, flags, next }),
        6 => (0u64..2, 0u64..16, 0u16..18, prop_oneof![0u16..18, any::<u16>()])
            .prop_map(|(queue, entry, head, ahead)| Act::Offer { queue, entry, head, ahead }),
        2 => (prop_oneof![Just(ALL), Just(F_VERSION_1), any::<u64>()], prop_oneof![Just(8u32), Just(16), 0u32..40], 0u64..4)
            .prop_map(|(features, size, shift)| Act::Up { features, size, shift }),
        1 => any::<u8>().prop_map(Act::Outside),
        1 => (0usize..60).prop_map(Act::Absent),
    ]
}

/// Where queue `n` of the hostile driver is.
fn parts(n: u64, shift: u64) -> [u64; 3] {
    let at = BASE + 0x800 * n + 2 * shift;
    [at & !15, at + 0x200, (at + 0x400) & !3]
}

/// What a guest does to a device, with whatever happens outside. A step makes `more` accesses at most beside those of a device that
/// answers each chain with one.
pub fn play<D: Device>(
    device: D,
    acts: Vec<Act>,
    more: usize,
    mut outside: impl FnMut(&mut Mmio<D, FakeIrq>, u8),
) -> Result<(), TestCaseError>
where
    Mmio<D, FakeIrq>: MmioDevice,
{
    let mut b = board(device);
    // A step reads so many descriptors, and of each chain the ring's entry, its pins and its answer.
    let chain = b.device.device().queues().iter().map(|limits| usize::from(limits.chain)).max().unwrap();
    let most = 12 * (STEP as usize + chain) + more;
    for act in acts {
        match act {
            Act::Access { at, size, value, write } => {
                let size = AccessSize::from_sas(size);
                let _ = if write { b.device.write(at, size, value).map(|()| 0) } else { b.device.read(at, size) };
            }
            Act::Register { at, value } => {
                let _ = b.put(at, value);
            }
            Act::Poke { at, value } => b.ram.put(at, &value.to_le_bytes()),
            Act::Descriptor { queue, index, at, size, flags, next } => {
                let value = u128::from(at) | u128::from(size) << 64 | u128::from(flags) << 96 | u128::from(next) << 112;
                b.ram.put(parts(queue, 0)[0] + 16 * index, &value.to_le_bytes());
            }
            Act::Offer { queue, entry, head, ahead } => {
                let avail = parts(queue, 0)[1];
                b.ram.put(avail + AVAIL_RING + 2 * entry, &head.to_le_bytes());
                let idx = b.ram.get_u16(avail + AVAIL_IDX).wrapping_add(ahead);
                b.ram.put(avail + AVAIL_IDX, &idx.to_le_bytes());
                let _ = b.put(QUEUE_NOTIFY, queue as u32);
            }
            Act::Up { features, size, shift } => {
                for n in 0..2 {
                    b.ram.put(parts(n, shift)[1], &[0; 4]);
                }
                b.set(STATUS, 0);
                for half in 0..2 {
                    b.set(DRIVER_FEATURES_SEL, half);
                    b.set(DRIVER_FEATURES, (features >> (32 * half)) as u32);
                }
                let _ = b.put(STATUS, FEATURES_OK);
                (0..2).for_each(|n| b.queue(n, size, parts(n.into(), shift)));
                let _ = b.put(STATUS, DRIVER_OK);
            }
            Act::Outside(what) => outside(&mut b.device, what),
            Act::Absent(number) => b.ram.fail(Some(number)),
        }
        let (accesses, written) = b.ram.taken();
        // `Up` is three steps.
        prop_assert!(accesses <= 3 * most, "{} accesses in a step", accesses);
        if b.get(STATUS) & FEATURES_OK == 0 {
            prop_assert!(written.is_empty());
        }
        prop_assert_eq!(b.irq.is_high(), b.get(INTERRUPT_STATUS) != 0);
        // What it is can be saved, and is taken back.
        let state = b.device.save();
        prop_assert!(b.device.restore(state.clone()).is_ok());
        prop_assert_eq!(b.device.save(), state);
        b.ram.taken();
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 1 } else { 150 }, ..ProptestConfig::default() })]

    #[test]
    fn nothing_that_a_guest_does_surprises_the_echo(acts in prop::collection::vec(act(), 1..60)) {
        play(Echo::default(), acts, 0, |device, what| match what % 4 {
            0 => device.config_changed(),
            1 => device.run_waiting(),
            2 => device.poke(usize::from(what)),
            _ => device.reset(),
        })?;
    }

    #[test]
    fn nothing_that_a_guest_does_surprises_the_key(acts in prop::collection::vec(act(), 1..60)) {
        play(PowerKey::new(), acts, 0, |device, what| match what % 4 {
            0 => { device.press(); }
            1 => device.release(),
            2 => device.run_waiting(),
            _ => device.quiesce(),
        })?;
    }

    #[test]
    fn nothing_that_a_guest_does_surprises_the_card(acts in prop::collection::vec(act(), 1..60)) {
        let (card, _, mut peer) = cards();
        play(card, acts, 0, move |device, what| match what % 4 {
            0 => {
                let size = usize::from(what) * 8 + HEADER;
                let header = [0x52, 0x54, 0, 0, 0, 1, 0x52, 0x54, 0, 0, 0, 2, 0x88, 0xb5];
                let checksum = (what % 8 == 0).then_some(Checksum { start: 14, offset: 0 });
                let fill = |into: &mut [u8]| -> Result<(), ()> { into.fill(what); Ok(()) };
                for _ in 0..what % 20 {
                    peer.send(&Outgoing { header: &header, size, checksum }, usize::MAX, fill).unwrap();
                }
                device.poke(0);
                device.run_due();
            }
            1 => device.set_link(what & 8 != 0),
            2 => device.run_waiting(),
            _ => device.quiesce(),
        })?;
    }

    #[test]
    fn nothing_that_a_guest_does_surprises_the_entropy_device(acts in prop::collection::vec(act(), 1..60)) {
        play(Rng::new(Ones(0)), acts, 0, |device, what| match what % 4 {
            0 => {
                device.device_mut().source_mut().0 = usize::from(what) * 4;
                device.poke(0);
            }
            1 => device.poke(0),
            2 => device.run_waiting(),
            _ => device.quiesce(),
        })?;
    }

    /// With descriptors in a fixed table the writable buffers are known: every write is in one, or in the used ring.
    #[test]
    fn writes_stay_in_the_used_ring_and_in_writable_buffers(
        table in prop::collection::vec((0u64..0x100, 1u32..0x40, any::<bool>(), any::<bool>(), 0u16..16), 16),
        heads in prop::collection::vec(0u16..16, 1..16),
    ) {
        let (mut b, [mut d, _]) = echo(ALL, 16);
        let at = |offset: u64| BASE + 0x3000 + offset;
        for (n, (offset, size, write, more, next)) in (0..).zip(&table) {
            let flags = if *write { DESC_WRITE } else { 0 } | if *more { DESC_NEXT } else { 0 };
            d.descriptor(d.desc, n, (at(*offset), *size, flags, *next));
        }
        heads.into_iter().for_each(|head| d.offer(head));
        b.ram.taken();
        b.repeat(QUEUE_NOTIFY, 0);
        for (from, size) in b.ram.taken().1 {
            let inside = |start: u64, length: u64| from >= start && from + size as u64 <= start + length;
            let used = inside(d.used, 6 + 8 * 16);
            let buffer = table.iter().any(|(offset, size, write, ..)| *write && inside(at(*offset), u64::from(*size)));
            prop_assert!(used || buffer, "{from:#x} + {size}");
        }
    }
}
