//! The switch with ports that count: who hears what, in which bounds.

extern crate std;

use super::*;
use core::convert::Infallible;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};
use host::port::Checksum;
use proptest::prelude::*;
use std::collections::{BTreeSet, VecDeque};
use std::vec;
use std::vec::Vec;

#[derive(Clone, Default)]
struct Seconds(Arc<AtomicU32>);

impl Clock for Seconds {
    fn seconds(&self) -> u32 {
        self.0.load(Relaxed)
    }
}

#[derive(Clone, Default)]
struct Rings(Arc<AtomicU32>);

impl Bell for Rings {
    fn ring(&self) {
        self.0.fetch_add(1, Relaxed);
    }
}

impl Rings {
    fn taken(&self) -> u32 {
        self.0.swap(0, Relaxed)
    }
}

struct Net {
    switch: Arc<Switch>,
    now: Seconds,
}

fn net() -> Net {
    let now = Seconds::default();
    Net { switch: Switch::new(Box::new(now.clone()), 0x1234_5678_9abc_def1), now }
}

fn mac(n: u8) -> Mac {
    Mac([0x52, 0x54, 0, 0, 0, n])
}

const ALL: Mac = Mac([0xff; 6]);

impl Net {
    fn port(&self, config: PortConfig) -> (SwitchPort, Rings) {
        let bell = Rings::default();
        let mut port = self.switch.attach(&config, Box::new(bell.clone())).unwrap();
        port.start(false);
        (port, bell)
    }
    fn guest(&self, n: u8) -> SwitchPort {
        self.port(PortConfig::guest(mac(n))).0
    }
    /// A way out.
    fn uplink(&self) -> SwitchPort {
        self.port(uplink()).0
    }
}

fn uplink() -> PortConfig {
    PortConfig { mac: None, guard: false, uplink: true, ..PortConfig::guest(mac(0)) }
}

fn header(to: Mac, from: Mac) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..6].copy_from_slice(&to.0);
    header[6..12].copy_from_slice(&from.0);
    header[12..].copy_from_slice(&[0x88, 0xb5]);
    header
}

/// Sends a frame of `size` bytes filled with `fill`, and of a frame for many all of it.
fn send(port: &mut SwitchPort, to: Mac, from: Mac, size: usize, fill: u8) {
    let frame = Outgoing { header: &header(to, from), size, checksum: None };
    let write = |into: &mut [u8]| -> Result<(), Infallible> {
        into.fill(fill);
        Ok(())
    };
    while port.send(&frame, usize::MAX, write).unwrap().more {}
}

/// The frames that wait, oldest first.
fn take(port: &mut SwitchPort) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    while let Some(frame) = port.receive(frames.len(), |frame| frame.bytes[HEADROOM..].to_vec()) {
        frames.push(frame);
    }
    port.discard(frames.len());
    frames
}

/// The last byte of each.
fn heard(port: &mut SwitchPort) -> Vec<u8> {
    take(port).iter().map(|frame| frame[frame.len() - 1]).collect()
}

#[test]
fn a_frame_goes_to_the_port_whose_address_it_names() {
    let net = net();
    let [mut a, mut b, mut c] = [1, 2, 3].map(|n| net.guest(n));
    send(&mut a, mac(2), mac(1), 60, 7);
    let frames = take(&mut b);
    assert_eq!(frames.len(), 1);
    assert_eq!(frames[0][..HEADER], header(mac(2), mac(1)));
    assert_eq!(frames[0][HEADER..], [7; 46]);
    assert!(take(&mut a).is_empty() && take(&mut c).is_empty());
    assert_eq!((a.stats().sent, a.stats().sent_bytes), (1, 60));
    assert_eq!((b.stats().received, b.stats().received_bytes, b.stats().waiting), (1, 60, 0));
    // Everybody, and nobody.
    send(&mut b, ALL, mac(2), 14, 0);
    assert_eq!((take(&mut a).len(), take(&mut b).len(), take(&mut c).len()), (1, 0, 1));
    send(&mut a, mac(9), mac(1), 60, 0);
    send(&mut a, mac(1), mac(1), 60, 0);
    send(&mut a, Mac([1, 0x80, 0xc2, 0, 0, 14]), mac(1), 60, 0);
    assert_eq!((a.stats().lost(Loss::Unknown), a.stats().lost(Loss::Local)), (1, 2));
    assert_eq!((take(&mut b).len(), take(&mut c).len(), a.stats().sent), (0, 0, 1));
}

#[test]
fn a_guarded_port_sends_from_its_own_address_only() {
    let net = net();
    let (mut a, mut b, mut up) = (net.guest(1), net.guest(2), net.uplink());
    for from in [mac(2), mac(3), ALL, Mac([0; 6]), Mac([0x53, 0x54, 0, 0, 0, 1])] {
        send(&mut a, mac(2), from, 60, 0);
        send(&mut a, ALL, from, 60, 0);
    }
    assert_eq!(a.stats().lost(Loss::Spoofed), 10);
    // Nor does the uplink from a port's.
    send(&mut up, mac(2), mac(1), 60, 0);
    send(&mut up, mac(2), Mac([0; 6]), 60, 0);
    assert_eq!(up.stats().lost(Loss::Spoofed), 2);
    assert!(take(&mut b).is_empty() && take(&mut up).is_empty());
    assert_eq!(net.switch.learned(), 0);
}

#[test]
fn isolated_ports_reach_the_uplink_and_the_others() {
    let net = net();
    let alone = |n| net.port(PortConfig { isolated: true, ..PortConfig::guest(mac(n)) }).0;
    let (mut a, mut b, mut c, mut up) = (alone(1), alone(2), net.guest(3), net.uplink());
    send(&mut up, ALL, mac(9), 60, 9);
    assert_eq!([&mut a, &mut b, &mut c].map(heard), [[9], [9], [9]]);
    for to in [mac(2), mac(3), mac(9), ALL, Mac([0x33, 0x33, 0, 0, 0, 1]), mac(77)] {
        send(&mut a, to, mac(1), 60, to.0[5]);
    }
    assert!(heard(&mut b).is_empty());
    assert_eq!(heard(&mut c), [3, 255, 1]);
    assert_eq!(heard(&mut up), [9, 255, 1, 77]);
    assert_eq!(a.stats().lost(Loss::Isolated), 1);
    send(&mut c, mac(1), mac(3), 60, 5);
    assert_eq!(heard(&mut a), [5]);
}

#[test]
fn what_is_behind_the_uplink_is_learned_and_forgotten() {
    let net = net();
    let (mut a, mut b) = (net.guest(1), net.guest(2));
    let (mut up, mut other) = (net.uplink(), net.uplink());
    let both = |net: &mut SwitchPort, other: &mut SwitchPort| (heard(net).len(), heard(other).len());
    send(&mut a, mac(9), mac(1), 60, 0);
    assert_eq!(both(&mut up, &mut other), (1, 1));
    send(&mut up, mac(1), mac(9), 60, 0);
    assert_eq!((heard(&mut a).len(), net.switch.learned()), (1, 1));
    send(&mut a, mac(9), mac(1), 60, 0);
    assert_eq!(both(&mut up, &mut other), (1, 0));
    // It moves.
    send(&mut other, mac(1), mac(9), 60, 0);
    send(&mut b, mac(9), mac(2), 60, 0);
    assert_eq!(both(&mut up, &mut other), (0, 1));
    net.now.0.fetch_add(AGE, Relaxed);
    send(&mut b, mac(9), mac(2), 60, 0);
    assert_eq!(both(&mut up, &mut other), (0, 1));
    net.now.0.fetch_add(1, Relaxed);
    send(&mut b, mac(9), mac(2), 60, 0);
    assert_eq!(both(&mut up, &mut other), (1, 1));
    // Whoever goes takes what was learned of it along, and so does whoever comes with that address.
    send(&mut other, mac(1), mac(9), 60, 0);
    drop(other);
    assert_eq!((net.switch.learned(), net.switch.ports()), (0, 3));
    send(&mut up, mac(1), mac(9), 60, 0);
    let mut nine = net.guest(9);
    send(&mut a, mac(9), mac(1), 60, 3);
    assert_eq!((heard(&mut nine), heard(&mut up)), (vec![3], vec![]));
}

#[test]
fn a_port_fills_no_more_than_its_share_of_the_table() {
    let net = net();
    let (mut a, mut up, mut other) = (net.guest(1), net.uplink(), net.uplink());
    for n in 0..if cfg!(miri) { 400 } else { 5000u32 } {
        let [x, y, z, w] = n.to_be_bytes();
        send(&mut up, mac(1), Mac([2, 0, x, y, z, w]), 60, 0);
        take(&mut a);
    }
    let learned = net.switch.learned();
    assert!(learned <= LEARNED / 2 && learned > LEARNED / 3, "{learned}");
    // Another one's are learned still, most of them.
    for n in 0..32 {
        send(&mut other, mac(1), Mac([4, 0, 0, 0, 0, n]), 60, 0);
        take(&mut a);
    }
    let more = net.switch.learned() - learned;
    assert!(more > 16, "{more} beside {learned}");
    // When all is old, anything is learned again.
    net.now.0.store(2 * AGE, Relaxed);
    (0..200).for_each(|n| send(&mut other, ALL, Mac([6, 0, 0, 0, 0, n]), 60, 0));
    let mut count = 0;
    for n in 0..200 {
        let before = other.stats().received + other.stats().waiting;
        send(&mut a, Mac([6, 0, 0, 0, 0, n]), mac(1), 60, 0);
        count += other.stats().received + other.stats().waiting - before;
        assert_eq!(take(&mut other).len(), 1);
        take(&mut up);
    }
    assert_eq!(count, 200);
    assert!(net.switch.learned() <= LEARNED);
}

#[test]
fn frames_for_all_are_so_many_a_second() {
    let net = net();
    let (mut a, _) = net.port(PortConfig { floods: 3, ..PortConfig::guest(mac(1)) });
    let mut b = net.guest(2);
    for second in 0..3 {
        net.now.0.store(second, Relaxed);
        (0..10).for_each(|_| send(&mut a, ALL, mac(1), 60, 0));
        assert_eq!(take(&mut b).len(), 3);
        (0..10).for_each(|_| send(&mut a, mac(2), mac(1), 60, 0));
        assert_eq!(take(&mut b).len(), 10, "others are not counted");
    }
    assert_eq!(a.stats().lost(Loss::Flood), 21);
}

#[test]
fn a_flood_is_cut_into_steps_and_reaches_each_once() {
    let net = net();
    let (mut a, _) = net.port(PortConfig { floods: 1, ..PortConfig::guest(mac(0)) });
    let mut others: Vec<SwitchPort> = (1..20).map(|n| net.guest(n)).collect();
    let frame = Outgoing { header: &header(ALL, mac(0)), size: 1000, checksum: None };
    let write = |into: &mut [u8]| -> Result<(), Infallible> {
        into.fill(1);
        Ok(())
    };
    let mut steps = Vec::new();
    loop {
        let sent = a.send(&frame, 4500, write).unwrap();
        steps.push(sent.copied);
        if !sent.more {
            break;
        }
    }
    assert_eq!(steps, [5000, 5000, 5000, 4000]);
    assert!(others.iter_mut().all(|port| take(port).len() == 1));
    assert_eq!((a.stats().sent, a.stats().lost), (1, [0; host::port::LOSSES]));
    // The sender's memory is not there: those that have the frame do not get it again.
    net.now.0.store(1, Relaxed);
    let mut count = 0;
    let mut failing = |into: &mut [u8]| {
        count += 1;
        into.fill(2);
        if count == 8 { Err(()) } else { Ok(()) }
    };
    assert_eq!(a.send(&frame, usize::MAX, &mut failing), Err(()));
    assert_eq!(a.send(&frame, usize::MAX, &mut failing), Ok(Sent { copied: 12_000, more: false }));
    assert!(others.iter_mut().all(|port| heard(port) == [2]));
    // What is half sent when the port stops is forgotten.
    net.now.0.store(2, Relaxed);
    assert!(a.send(&frame, 1, write).unwrap().more);
    a.stop();
    a.start(false);
    net.now.0.store(3, Relaxed);
    assert!(!a.send(&frame, usize::MAX, write).unwrap().more);
    assert_eq!((heard(&mut others[0]), heard(&mut others[1])), (vec![1, 1], vec![1]));
}

/// A frame that was to go to many and changes on the way goes to nobody who had it, and to nobody whom it may not reach.
#[test]
fn a_frame_that_changes_between_its_steps_is_judged_again() {
    let net = net();
    let alone = |n| net.port(PortConfig { isolated: true, ..PortConfig::guest(mac(n)) }).0;
    let (mut a, mut b, mut c, mut d) = (alone(1), net.guest(2), net.guest(3), alone(4));
    let write = |_: &mut [u8]| -> Result<(), Infallible> { Ok(()) };
    fn frame(header: &[u8; HEADER]) -> Outgoing<'_> {
        Outgoing { header, size: 14, checksum: None }
    }
    for (to, from, losses) in [(mac(2), mac(1), 0), (mac(4), mac(1), 1), (ALL, mac(3), 2)] {
        assert!(a.send(&frame(&header(ALL, mac(1))), 1, write).unwrap().more);
        assert!(!a.send(&frame(&header(to, from)), 1, write).unwrap().more);
        assert_eq!([&mut b, &mut c, &mut d].map(|port| take(port).len()), [1, 0, 0]);
        assert_eq!(a.stats().lost.iter().sum::<u64>(), losses);
    }
}

#[test]
fn one_who_floods_leaves_room_for_others() {
    let net = net();
    let [mut a, mut b, mut c] = [1, 2, 3].map(|n| net.guest(n));
    let rounds = if cfg!(miri) { 1 } else { 5 };
    for round in 0..rounds {
        (0..1000).for_each(|_| send(&mut a, mac(2), mac(1), 1514, 1));
        (0..10).for_each(|_| send(&mut c, mac(2), mac(3), 1514, 3));
        let frames = heard(&mut b);
        assert_eq!(frames.iter().filter(|fill| **fill == 3).count(), 10, "round {round}");
        assert!(frames.len() > 120, "{}", frames.len());
        // As many short ones are no way around.
        (0..1000).for_each(|_| send(&mut a, mac(2), mac(1), 14, 1));
        (0..10).for_each(|_| send(&mut c, mac(2), mac(3), 1514, 3));
        assert_eq!(take(&mut b).iter().filter(|frame| frame.len() == 1514).count(), 10, "round {round}");
    }
    assert_eq!(c.stats().lost(Loss::Full), 0);
    assert_eq!(a.stats().lost(Loss::Full), b.stats().missed);
    assert_eq!(a.stats().sent + a.stats().lost(Loss::Full), 2000 * rounds);
    // Frames for all leave half of it.
    (0..900).for_each(|_| send(&mut a, ALL, mac(1), 1514, 1));
    let waiting = b.stats().waiting;
    assert!((80..=86).contains(&waiting), "{waiting}");
}

#[test]
fn the_bell_is_rung_once_until_the_port_was_found_empty() {
    let net = net();
    let mut a = net.guest(1);
    let (mut b, bell) = net.port(PortConfig::guest(mac(2)));
    let look = |b: &mut SwitchPort, nth| b.receive(nth, |_| ()).is_some();
    (0..3).for_each(|_| send(&mut a, mac(2), mac(1), 60, 0));
    assert_eq!(bell.taken(), 1);
    assert!(look(&mut b, 0) && look(&mut b, 1));
    b.discard(2);
    send(&mut a, mac(2), mac(1), 60, 0);
    assert_eq!(bell.taken(), 0, "its owner has not seen all");
    assert!(look(&mut b, 1) && !look(&mut b, 2));
    send(&mut a, mac(2), mac(1), 60, 0);
    assert_eq!(bell.taken(), 1);
    b.stop();
    assert!(!look(&mut b, 0));
    send(&mut a, mac(2), mac(1), 60, 0);
    assert_eq!((bell.taken(), a.stats().lost(Loss::Closed)), (0, 1));
    b.start(false);
    assert!(!look(&mut b, 0), "nothing of before");
    send(&mut a, mac(2), mac(1), 60, 0);
    assert_eq!(bell.taken(), 1);
}

#[test]
fn a_sum_that_is_left_over_is_done_for_who_does_not_take_it() {
    let net = net();
    let [mut a, mut b, mut c] = [1, 2, 3].map(|n| net.guest(n));
    c.start(true);
    let sum = Checksum { start: 14, offset: 4 };
    let write = |into: &mut [u8]| -> Result<(), Infallible> {
        into.fill(0x11);
        Ok(())
    };
    let frame = Outgoing { header: &header(ALL, mac(1)), size: 24, checksum: Some(sum) };
    a.send(&frame, usize::MAX, write).unwrap();
    let whole = b.receive(0, |frame| (frame.bytes[HEADROOM..].to_vec(), frame.checksum)).unwrap();
    // Five words of 0x1111.
    assert_eq!((&whole.0[18..20], whole.1), (&(!0x5555u16).to_be_bytes()[..], None));
    assert_eq!(c.receive(0, |frame| (frame.bytes[HEADROOM + 18], frame.checksum)), Some((0x11, Some(sum))));
    // One that does not fit is nobody's.
    let frame = Outgoing { size: 19, ..frame };
    a.send(&frame, usize::MAX, write).unwrap();
    assert_eq!(c.receive(1, |frame| frame.checksum), Some(None));
}

#[test]
fn frames_longer_than_the_mtu_are_lost() {
    let net = net();
    let mut a = net.guest(1);
    let (mut b, _) = net.port(PortConfig { mtu: 1000, ..PortConfig::guest(mac(2)) });
    send(&mut a, mac(2), mac(1), 1018, 0);
    send(&mut a, mac(2), mac(1), 1019, 0);
    send(&mut a, mac(2), mac(1), 1519, 0);
    send(&mut a, mac(2), mac(1), 13, 0);
    assert_eq!((take(&mut b).len(), a.stats().lost(Loss::Size)), (1, 3));
}

#[test]
fn ports_come_and_go() {
    let net = net();
    let attach = |config: PortConfig| net.switch.attach(&config, Box::new(Rings::default())).err();
    let good = PortConfig::guest(mac(1));
    let least = 4 * (1500 + 14 + 4 + 12);
    for (config, error) in [
        (PortConfig { mac: Some(ALL), ..good }, AttachError::Address),
        (PortConfig { mac: Some(Mac([0; 6])), ..good }, AttachError::Address),
        (PortConfig { mac: None, ..good }, AttachError::Address),
        (PortConfig { isolated: true, ..uplink() }, AttachError::IsolatedUplink),
        (PortConfig { mtu: 67, ..good }, AttachError::Mtu),
        (PortConfig { queue: least - 1, ..good }, AttachError::Queue { least }),
        (PortConfig { queue: LARGEST_QUEUE + 1, ..good }, AttachError::Queue { least }),
    ] {
        assert_eq!(attach(config), Some(error));
        assert!(!std::format!("{error}").is_empty());
    }
    let mut ports: Vec<SwitchPort> = (0..PORTS as u8).map(|n| net.guest(n)).collect();
    assert_eq!(attach(PortConfig::guest(mac(5))), Some(AttachError::Taken));
    assert_eq!(attach(PortConfig::guest(mac(99))), Some(AttachError::NoPort));
    // All of them find each other, whoever goes.
    for round in 0..8 {
        let gone = ports.remove(round * 5);
        let (number, config) = (gone.number(), PortConfig::guest(mac(100 + round as u8)));
        drop(gone);
        let port = net.port(config).0;
        assert_eq!(port.number(), number);
        ports.push(port);
        ports.iter_mut().for_each(|port| {
            take(port);
        });
        let own: Vec<Mac> = ports.iter().map(|port| net.own(port)).collect();
        for n in 0..ports.len() {
            send(&mut ports[n], own[(n + 7) % own.len()], own[n], 60, n as u8);
            let to = (n + 7) % own.len();
            assert_eq!(heard(&mut ports[to]), [n as u8]);
        }
    }
    // The smallest queue takes the longest frame, for one and for all.
    let mtu = u16::MAX;
    let queue = 4 * (65_535 + 14 + 4 + 12);
    ports.clear();
    assert_eq!(net.switch.ports(), 0);
    let mut pair = [1, 2].map(|n| net.port(PortConfig { mtu, queue, ..PortConfig::guest(mac(n)) }).0);
    for to in [mac(2), ALL] {
        send(&mut pair[0], to, mac(1), 65_553, 6);
        assert_eq!(take(&mut pair[1])[0].len(), 65_553);
    }
    assert_eq!(PortConfig { queue: 1 << 20, ..good }.memory() >> 20, 1);
}

impl Net {
    fn own(&self, port: &SwitchPort) -> Mac {
        let number = self.switch.table.lock().own(port.number());
        let bytes = number.to_be_bytes();
        Mac(bytes[2..].try_into().unwrap())
    }
}

/// What a hostile holder of a port does.
#[derive(Clone, Debug)]
enum Act {
    Send { port: usize, to: u8, from: u8, size: usize, most: usize, fails: Option<u8> },
    Take { port: usize, count: usize },
    Stop(usize),
    Start(usize),
    Leave(usize),
    Come(usize),
    Wait(u32),
}

fn act() -> impl Strategy<Value = Act> {
    let size = prop_oneof![0usize..80, 500usize..530, 1400usize..1530, Just(1518)];
    let address = prop_oneof![4 => 0u8..12, 1 => Just(255)];
    prop_oneof![
        12 => (0usize..8, address.clone(), address, size, prop_oneof![Just(usize::MAX), 1usize..3000], prop::option::weighted(0.1, 0u8..3))
            .prop_map(|(port, to, from, size, most, fails)| Act::Send { port, to, from, size, most, fails }),
        4 => (0usize..8, 0usize..20).prop_map(|(port, count)| Act::Take { port, count }),
        1 => (0usize..8).prop_map(Act::Stop),
        2 => (0usize..8).prop_map(Act::Start),
        1 => (0usize..8).prop_map(Act::Leave),
        2 => (0usize..8).prop_map(Act::Come),
        1 => (0u32..400).prop_map(Act::Wait),
    ]
}

/// The address with this number: 255 is everybody's, 0 nobody's.
fn address(n: u8) -> Mac {
    match n {
        255 => ALL,
        0 => Mac([0; 6]),
        n => mac(n),
    }
}

/// Ports 0 to 2 are isolated guests, 3 to 5 others, 6 an uplink, 7 a guest without a guard. Guest `n` has address `n + 1`.
fn config(n: usize) -> PortConfig {
    let guest = PortConfig { queue: 4 * 1530, floods: 20, ..PortConfig::guest(mac(n as u8 + 1)) };
    match n {
        0..=2 => PortConfig { isolated: true, ..guest },
        6 => PortConfig { mac: None, guard: false, uplink: true, ..guest },
        7 => PortConfig { guard: false, ..guest },
        _ => guest,
    }
}

/// A port, and its place in the game.
struct Player {
    port: SwitchPort,
    /// Frames that it should find.
    waiting: VecDeque<Vec<u8>>,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 2 } else { 400 }, ..ProptestConfig::default() })]

    /// Whatever is sent: nothing reaches whom it may not reach, nothing comes twice, changed or out of order, nothing has another's
    /// sender, and nothing grows.
    #[test]
    fn nobody_hears_what_is_not_for_him(acts in prop::collection::vec(act(), 1..150)) {
        let net = net();
        let mut players: Vec<Option<Player>> = (0..8).map(|n| {
            Some(Player { port: net.port(config(n)).0, waiting: VecDeque::new() })
        }).collect();
        let mut serial = 0u32;
        let mut gone: BTreeSet<usize> = BTreeSet::new();
        for act in acts {
            match act {
                Act::Send { port, to, from, size, most, mut fails } => {
                    let Some(mut sender) = players[port].take() else { continue };
                    serial += 1;
                    let stamp: Vec<u8> = serial.to_be_bytes().into_iter().cycle().take(size.saturating_sub(HEADER)).collect();
                    let frame = Outgoing { header: &header(address(to), address(from)), size, checksum: None };
                    let before: Vec<u64> = players.iter().map(|p| p.as_ref().map_or(0, |p| p.port.stats().waiting)).collect();
                    let mut steps = 0;
                    let result = loop {
                        let result = sender.port.send(&frame, most, |into| {
                            into.copy_from_slice(&stamp);
                            match fails.as_mut() {
                                Some(0) => { fails = None; Err(()) }
                                Some(left) => { *left -= 1; Ok(()) }
                                None => Ok(()),
                            }
                        });
                        steps += 1;
                        prop_assert!(steps < 20);
                        match result {
                            Ok(sent) if !sent.more => break sent,
                            _ => {}
                        }
                    };
                    prop_assert!(result.copied == 0 || size >= HEADER);
                    let mut bytes = frame.header.to_vec();
                    bytes.extend(&stamp);
                    for (n, player) in players.iter_mut().enumerate() {
                        let Some(player) = player else { continue };
                        let now = player.port.stats().waiting;
                        prop_assert!(now == before[n] || now == before[n] + 1, "once");
                        if now == before[n] {
                            continue;
                        }
                        prop_assert!(config(port).isolated as u8 + config(n).isolated as u8 != 2, "{} to {}", port, n);
                        let own = config(n).mac;
                        prop_assert!(address(to).is_group() || own == Some(address(to)) || !config(n).guard);
                        prop_assert!(!config(port).guard || config(port).mac == Some(address(from)));
                        let others = |m: &usize| *m != port && !gone.contains(m);
                        prop_assert!(!(0..8).filter(others).any(|m| config(m).mac == Some(address(from))));
                        player.waiting.push_back(bytes.clone());
                    }
                    players[port] = Some(sender);
                }
                Act::Take { port, count } => {
                    let Some(player) = players[port].as_mut() else { continue };
                    for _ in 0..count {
                        let frame = player.port.receive(0, |frame| frame.bytes[HEADROOM..].to_vec());
                        prop_assert_eq!(frame, player.waiting.pop_front());
                        player.port.discard(1);
                    }
                }
                Act::Stop(n) => if let Some(player) = players[n].as_mut() {
                    player.port.stop();
                    player.waiting.clear();
                },
                Act::Start(n) => if let Some(player) = players[n].as_mut() {
                    player.port.start(false);
                    player.waiting.clear();
                },
                Act::Leave(n) => {
                    players[n] = None;
                    gone.insert(n);
                }
                Act::Come(n) => if players[n].is_none() {
                    players[n] = Some(Player { port: net.port(config(n)).0, waiting: VecDeque::new() });
                    gone.remove(&n);
                },
                Act::Wait(seconds) => { net.now.0.fetch_add(seconds, Relaxed); }
            }
            prop_assert!(net.switch.learned() <= LEARNED);
            for player in players.iter().flatten() {
                let waiting = player.port.stats().waiting as usize;
                prop_assert_eq!(waiting, player.waiting.len());
                prop_assert!(waiting <= 12);
            }
        }
    }
}
