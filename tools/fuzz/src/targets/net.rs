//! A network card at a real switch, with a neighbour that watches what comes, and one that keeps apart.

use crate::input::Input;
use crate::play::Target;
use crate::rig::{Bound, How, Part, Request, Rig};
use devices::virtio::net::spec::{HEADER, NEEDS_CSUM};
use devices::virtio::net::{self, Net, RECEIVEQ, TRANSMITQ};
use host::port::{Bell, Checksum, HEADER as ETHERNET, HEADROOM, Mac, Outgoing, Port};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use switch::{Clock, PortConfig, Switch, SwitchPort};

/// Seconds, as the input has them pass.
#[derive(Clone, Default)]
struct Time(Arc<AtomicU32>);

impl Clock for Time {
    fn seconds(&self) -> u32 {
        self.0.load(Relaxed)
    }
}

struct Quiet;

impl Bell for Quiet {
    fn ring(&self) {}
}

/// Who is at the switch: the card, its neighbour, and two that are isolated, of which one never listens.
fn mac(n: u8) -> [u8; 6] {
    [0x52, 0x54, 0, 0, 0, n]
}
const CARD: u8 = 1;
const PEER: u8 = 2;
const APART: u8 = 3;

/// The card's surroundings.
pub struct Network {
    time: Time,
    mtu: u16,
    peer: SwitchPort,
    apart: SwitchPort,
    /// Whether the card is isolated as `apart` is: then nothing goes between them.
    isolated: bool,
    /// Whether `peer` takes frames whose checksum is not done.
    checksums: bool,
}

impl Network {
    /// The frames that came: only what may come.
    fn look(&mut self) {
        let longest = usize::from(self.mtu) + 18;
        let checksums = self.checksums;
        let check = |bytes: &[u8], checksum: Option<Checksum>| {
            let frame = &bytes[HEADROOM..];
            assert!(frame.len() >= ETHERNET && frame.len() <= longest, "a frame of {} bytes", frame.len());
            assert!(checksum.is_none() || checksums, "a sum that was not agreed on");
            assert!(checksum.is_none_or(|sum| sum.fits(frame.len())), "{checksum:?}");
            [frame[6], frame[7], frame[8], frame[9], frame[10], frame[11]]
        };
        while let Some(from) = self.peer.receive(0, |frame| check(frame.bytes, frame.checksum)) {
            assert_eq!(from, mac(CARD), "a frame from somebody else");
            self.peer.discard(1);
        }
        while let Some(from) = self.apart.receive(0, |frame| check(frame.bytes, frame.checksum)) {
            // The neighbour's frames for all are there as well.
            assert!(from == mac(PEER) || from == mac(CARD) && !self.isolated, "a frame from {from:x?}");
            self.apart.discard(1);
        }
    }

    fn send(&mut self, to: [u8; 6], size: usize, checksum: Option<Checksum>, value: u8) {
        let mut header = [0x88; ETHERNET];
        header[..6].copy_from_slice(&to);
        header[6..12].copy_from_slice(&mac(PEER));
        let fill = |into: &mut [u8]| -> Result<(), ()> {
            into.fill(value);
            Ok(())
        };
        let _ = self.peer.send(&Outgoing { header: &header, size: size.max(ETHERNET), checksum }, usize::MAX, fill);
    }

    /// Has the card take what waits, as its attendant does.
    fn hear(&mut self, rig: &mut Rig<Net<SwitchPort>>) {
        rig.act(|mmio| mmio.poke(RECEIVEQ));
        rig.act(|mmio| mmio.run_due());
    }
}

fn frame(to: [u8; 6], from: [u8; 6], size: usize) -> Vec<u8> {
    let mut frame = vec![0x55; size.max(ETHERNET)];
    frame[..6].copy_from_slice(&to);
    frame[6..12].copy_from_slice(&from);
    frame
}

impl Target for Network {
    type Device = Net<SwitchPort>;
    /// A step copies 32 KiB and one longest frame, which may take more descriptors than a step has.
    const BOUND: Bound = Bound { accesses: 2000, bytes: 0x8000 + 0x3000, descriptors: 64 };

    fn new(shape: u8) -> (Net<SwitchPort>, Self) {
        let (time, isolated) = (Time::default(), shape & 1 != 0);
        let (mtu, checksums) = ([1500, 68, 9000, 1499][usize::from(shape >> 1 & 3)], shape & 8 != 0);
        let switch = Switch::new(Box::new(time.clone()), 77);
        let attach = |number, isolated| {
            let config = PortConfig { isolated, mtu, ..PortConfig::guest(Mac(mac(number))) };
            switch.attach(&config, Box::new(Quiet)).expect("a port")
        };
        let card = Net::new(attach(CARD, isolated), net::Config { mac: Mac(mac(CARD)), mtu });
        let (mut peer, mut apart) = (attach(PEER, false), attach(APART, true));
        peer.start(checksums);
        apart.start(checksums);
        (card, Self { time, mtu, peer, apart, isolated, checksums })
    }

    fn request(&self, input: &mut Input<'_>) -> Request {
        let (kind, pieces, size) = (input.u8(), 1 + usize::from(input.u8() % 4), usize::from(input.u16()));
        let size = if kind & 0x40 == 0 { size % 200 } else { size % 12_000 };
        if kind & 1 == 0 {
            let part = |_| if kind & 2 == 0 { Part::Write(1526) } else { Part::Write((size / pieces) as u32) };
            return Request { queue: RECEIVEQ as u16, parts: (0..pieces).map(part).collect() };
        }
        let to = match kind >> 1 & 7 {
            0..=2 => mac(PEER),
            3 => mac(APART),
            4 => [0xff; 6],
            5 => [1, 0, 0x5e, 0, 0, 1],
            6 => mac(CARD),
            _ => mac(input.u8()),
        };
        let from = if kind >> 4 & 3 == 3 { mac(input.u8()) } else { mac(CARD) };
        let mut bytes = vec![0; HEADER];
        if input.u8() < 0x60 {
            bytes[0] = NEEDS_CSUM;
            bytes[6] = input.u8() % 64;
            bytes[8] = input.u8() % 64;
        } else if input.u8() < 0x20 {
            bytes.fill_with(|| input.u8());
        }
        bytes.extend(frame(to, from, size));
        if input.u8() < 8 {
            bytes.truncate(input.u8().into());
        }
        let each = (bytes.len() / pieces).max(1);
        Request { queue: TRANSMITQ as u16, parts: bytes.chunks(each).map(|part| Part::Read(part.to_vec())).collect() }
    }

    fn outside(&mut self, rig: &mut Rig<Self::Device>, input: &mut Input<'_>) {
        match input.u8() % 10 {
            0..=3 => {
                let (count, size) = (input.u8() % 24, usize::from(input.u16()) % 9100);
                let to = input.pick(&[mac(CARD), mac(CARD), [0xff; 6], mac(9)]);
                let checksum =
                    (input.u8() < 0x40).then(|| Checksum { start: input.u8().into(), offset: input.u8().into() });
                (0..count).for_each(|n| self.send(to, size, checksum, n));
                self.hear(rig);
            }
            4 | 5 => self.hear(rig),
            6 => {
                let up = input.u8() & 1 != 0;
                rig.act(|mmio| mmio.set_link(up));
            }
            7 => rig.act(|mmio| mmio.run_waiting()),
            8 => drop(self.time.0.fetch_add(input.u16().into(), Relaxed)),
            _ => {
                self.checksums ^= input.u8() & 1 != 0;
                self.peer.start(self.checksums);
                self.apart.start(self.checksums);
            }
        }
        self.look();
    }

    fn alive(&mut self, rig: &mut Rig<Self::Device>) {
        self.look();
        rig.step(|mmio| mmio.set_link(true));
        rig.finish();
        let sent = frame(mac(PEER), mac(CARD), 60);
        let bytes = [vec![0; HEADER], sent.clone()].concat();
        let request = Request { queue: TRANSMITQ as u16, parts: vec![Part::Read(bytes)] };
        rig.offer(&request, How { notify: true, ..How::default() });
        let came = self.peer.receive(0, |frame| frame.bytes[HEADROOM..].to_vec());
        assert_eq!((came, rig.collect(TRANSMITQ as u16)), (Some(sent), vec![0]));
        self.peer.discard(1);
        // And the other way.
        let buffer = Request { queue: RECEIVEQ as u16, parts: vec![Part::Write(1526)] };
        let places = rig.offer(&buffer, How { notify: true, ..How::default() });
        self.send(mac(CARD), 60, None, 9);
        self.hear(rig);
        assert_eq!((rig.collect(RECEIVEQ as u16), rig.ram.get(places[0] + 71, 1)), (vec![72], vec![9]));
    }
}
