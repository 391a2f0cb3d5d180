//! The crate `virtio-drivers` at both ends of a switch: its network driver in two guests and more, and its driver for random bytes.

mod guest;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use devices::virtio::mmio::Mmio;
use devices::virtio::net::{Config, Net, RECEIVEQ};
use devices::virtio::rng::{Allowance, Rng, Source};
use guest::{GuestHal, Machine, Wire};
use host::port::{Bell, Loss, Mac, Port};
use switch::{Clock, PortConfig, Switch, SwitchPort};
use virtio_drivers::device::net::VirtIONet;
use virtio_drivers::device::rng::VirtIORng;
use virtio_drivers::transport::mmio::MmioTransport;
use virtio_drivers::transport::{DeviceType, InterruptStatus, Transport};

type Card = Net<SwitchPort>;
/// 16 buffers of 2 KiB each way.
type Driver = VirtIONet<GuestHal, MmioTransport<'static>, 16>;

#[derive(Clone, Default)]
struct Rings(Arc<AtomicU32>);

impl Bell for Rings {
    fn ring(&self) {
        self.0.fetch_add(1, Relaxed);
    }
}

impl Clock for Rings {
    fn seconds(&self) -> u32 {
        self.0.load(Relaxed)
    }
}

/// A guest with its driver up.
struct Guest {
    machine: Machine<Card>,
    driver: Driver,
    bell: Rings,
    mac: [u8; 6],
}

fn mac(n: u8) -> [u8; 6] {
    [0x52, 0x54, 0, 0, 0, n]
}

impl Guest {
    fn new(switch: &Arc<Switch>, n: u8, isolated: bool) -> Self {
        let (bell, mac) = (Rings::default(), mac(n));
        let config = PortConfig { isolated, ..PortConfig::guest(Mac(mac)) };
        let port = switch.attach(&config, Box::new(bell.clone())).expect("a port");
        let machine = Machine::new(Net::new(port, Config { mac: Mac(mac), mtu: 1500 }));
        let transport = machine.transport();
        assert_eq!(transport.device_type(), DeviceType::Network);
        let driver = machine.run(|| Driver::new(transport, 2048)).expect("a driver");
        assert_eq!(driver.mac_address(), mac);
        Self { machine, driver, bell, mac }
    }
    fn frame(&self, to: [u8; 6], from: [u8; 6], size: usize, serial: u32) -> Vec<u8> {
        let mut frame = [&to[..], &from, &[0x88, 0xb5]].concat();
        frame.extend(serial.to_le_bytes().into_iter().cycle().take(size - 14));
        frame
    }
    fn send(&mut self, frame: &[u8]) {
        let buffer = virtio_drivers::device::net::TxBuffer::from(frame);
        self.machine.run(|| self.driver.send(buffer)).expect("sent");
    }
    /// The card is poked if the bell was rung, as the guest's own vCPU does it.
    fn hear(&mut self) {
        if self.bell.0.swap(0, Relaxed) != 0 {
            let mut device = self.machine.device.borrow_mut();
            device.poke(RECEIVEQ);
            while device.is_due() {
                device.run_due();
            }
        }
    }
    fn received(&mut self) -> Vec<Vec<u8>> {
        self.hear();
        let mut frames = Vec::new();
        while let Ok(buffer) = self.machine.run(|| self.driver.receive()) {
            frames.push(buffer.packet().to_vec());
            self.machine.run(|| self.driver.recycle_rx_buffer(buffer)).expect("room");
            self.hear();
        }
        frames
    }
    fn lost(&self, why: Loss) -> u64 {
        self.machine.device.borrow().device().port().stats().lost(why)
    }
}

fn switch() -> (Arc<Switch>, Rings) {
    let clock = Rings::default();
    (Switch::new(Box::new(clock.clone()), 12_345), clock)
}

#[test]
fn two_drivers_talk_over_the_switch() {
    let (switch, _) = switch();
    let [mut a, mut b] = [1, 2].map(|n| Guest::new(&switch, n, false));
    // Over the rings' ends many times, both ways.
    for serial in 0..500u32 {
        let size = 14 + (serial as usize * 37) % 1501;
        let (to_b, to_a) = (a.frame(b.mac, a.mac, size, serial), b.frame(a.mac, b.mac, size, !serial));
        a.send(&to_b);
        assert!(!b.driver.can_recv(), "its own step has not come");
        b.hear();
        assert!(b.machine.wire.is_high());
        assert_eq!(b.received(), [to_b]);
        assert!(b.machine.run(|| b.driver.ack_interrupt()).contains(InterruptStatus::QUEUE_INTERRUPT));
        assert!(!b.machine.wire.is_high());
        b.send(&to_a);
        assert_eq!(a.received(), [to_a]);
    }
    for guest in [&a, &b] {
        let device = guest.machine.device.borrow();
        assert_eq!(device.stats(), Default::default());
        let stats = device.device().port().stats();
        assert_eq!((stats.sent, stats.received, stats.waiting, stats.lost), (500, 500, 0, [0; host::port::LOSSES]));
    }
}

#[test]
fn a_burst_waits_for_buffers_and_comes_in_order() {
    let (switch, _) = switch();
    let [mut a, mut b] = [1, 2].map(|n| Guest::new(&switch, n, false));
    let sent: Vec<Vec<u8>> = (0..100).map(|serial| a.frame(b.mac, a.mac, 1514, serial)).collect();
    sent.iter().for_each(|frame| a.send(frame));
    assert_eq!(b.received(), sent);
    // The bell was rung once for all of them; what the driver gave back brought the rest.
    assert_eq!(b.machine.device.borrow().stats(), Default::default());
    // Beyond the queue's bytes they are lost, and the sender has the count.
    let sent: Vec<Vec<u8>> = (0..600).map(|serial| a.frame(b.mac, a.mac, 1514, serial)).collect();
    sent.iter().for_each(|frame| a.send(frame));
    let received = b.received();
    assert_eq!(received, sent[..received.len()]);
    assert_eq!(a.lost(Loss::Full) as usize, 600 - received.len());
    assert!((130..170).contains(&received.len()), "{}", received.len());
}

#[test]
fn four_drivers_hear_what_is_for_them() {
    let (switch, clock) = switch();
    let mut guests =
        [(1, true), (2, true), (3, false), (4, false)].map(|(n, isolated)| Guest::new(&switch, n, isolated));
    for (second, (from, to, expected)) in [
        (0, 2, vec![2]),
        (0, 1, vec![]),
        (0, 255, vec![2, 3]),
        (2, 255, vec![0, 1, 3]),
        (3, 0, vec![0]),
        (1, 9, vec![]),
    ]
    .into_iter()
    .enumerate()
    {
        clock.0.store(second as u32, Relaxed);
        let address = if to == 255 { [0xff; 6] } else { mac(to + 1) };
        let frame = guests[from].frame(address, mac(from as u8 + 1), 100, 7);
        guests[from].send(&frame);
        for (n, guest) in guests.iter_mut().enumerate() {
            let count = usize::from(expected.contains(&n));
            assert_eq!(guest.received(), vec![frame.clone(); count], "{from} to {to}: {n}");
        }
    }
    // Nobody is another one.
    let frame = guests[0].frame(mac(3), mac(4), 100, 7);
    guests[0].send(&frame);
    assert!(guests.iter_mut().all(|guest| guest.received().is_empty()));
    assert_eq!((guests[0].lost(Loss::Spoofed), guests[0].lost(Loss::Isolated)), (1, 1));
}

#[test]
fn a_driver_that_comes_back_hears_nothing_of_before() {
    let (switch, _) = switch();
    let [mut a, b] = [1, 2].map(|n| Guest::new(&switch, n, false));
    let frame = a.frame(b.mac, a.mac, 64, 1);
    a.send(&frame);
    let Guest { machine, driver, bell, mac } = b;
    machine.run(|| drop(driver));
    a.send(&frame);
    let transport = machine.transport();
    let driver = machine.run(|| Driver::new(transport, 2048)).expect("a driver");
    let mut b = Guest { machine, driver, bell, mac };
    assert!(b.received().is_empty());
    a.send(&frame);
    assert_eq!(b.received(), [frame]);
}

/// The clock that the allowance is asked by.
struct Limited {
    allowance: Allowance,
    now: Arc<AtomicU32>,
}

impl Source for Limited {
    fn fill(&mut self, into: &mut [u8]) -> usize {
        let count = self.allowance.take(self.now.load(Relaxed).into(), into.len());
        into[..count].fill(0xa5);
        count
    }
}

#[test]
fn the_driver_for_random_bytes_gets_them() {
    let now = Arc::new(AtomicU32::new(0));
    let machine = Machine::new(Rng::new(Limited { allowance: Allowance::new(1_000_000, 300), now: now.clone() }));
    let transport = machine.transport();
    assert_eq!(transport.device_type(), DeviceType::EntropySource);
    let mut driver = machine.run(|| VirtIORng::<GuestHal, _>::new(transport)).expect("a driver");
    let mut bytes = [0; 200];
    assert_eq!(machine.run(|| driver.request_entropy(&mut bytes)), Ok(200));
    assert_eq!(bytes, [0xa5; 200]);
    // It comes back with time. (This driver spins for its answer, so it asks when there is one.)
    now.store(100_000, Relaxed);
    assert_eq!(machine.run(|| driver.request_entropy(&mut bytes)), Ok(200));
    assert_eq!(machine.device.borrow().device().stats().bytes, 400);
    let device: &Mmio<Rng<Limited>, Wire> = &machine.device.borrow();
    assert_eq!((device.stats(), device.device().is_waiting()), (Default::default(), false));
}
