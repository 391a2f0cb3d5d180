//! Random histories where kicks and maintenance interrupts arrive late: between a change and the owner's next exit the guest
//! goes on with what it sees. Then no oracle can say what a guest takes when; but no edge is lost or doubled, what was
//! disabled stays away, and an INTID is never shown twice. With both faces.

use std::vec::Vec;

use addr::AccessSize::{B1, B4, B8};
use proptest::prelude::*;

use super::cpu_interface::{Cpu, SPURIOUS};
use super::{faced, interface, switch};
use crate::{Face, Refusal, VcpuSet, Vgic};

const SPIS: core::ops::Range<u32> = 32..38;
const VCPUS: usize = 3;

#[derive(Clone, Copy, Default, Debug)]
struct Edges {
    sent: usize,
    taken: usize,
    /// When it was last sent, and taken.
    sent_at: usize,
    taken_at: usize,
    disabled: bool,
}

struct World {
    vgic: Vgic,
    cpus: [Cpu; 2],
    loaded: [Option<usize>; 2],
    kicked: VcpuSet,
    handlers: [Vec<u32>; VCPUS],
    spis: [Edges; 6],
    /// By target and number; of a GICv2, by number and sender, two of each.
    sgis: [[Edges; 4]; VCPUS],
    now: usize,
}

impl World {
    fn new(face: Face, lrs: usize) -> Self {
        let mut g = faced(face, VCPUS, lrs);
        let mut set = |of, private, at, value: u32| super::write(&mut g, of, private, at, B4, value.into()).unwrap();
        set(0, false, 0, switch(face, true) as u32);
        set(0, false, 0x104, 0xff);
        set(0, false, 0xc08, u32::MAX);
        for n in 0..8 {
            set(0, false, 0x420 + 4 * n, 0x1020_3040 * (n as u32 + 1));
        }
        if face == Face::V2 {
            set(0, false, 0x820, 0x0101_0101);
            set(0, false, 0x824, 0x0101_0101);
        }
        for v in 0..VCPUS {
            set(v, true, 0x100, 0xffff);
            set(v, true, 0x400, 0x8060_4020);
        }
        let mut cpus = [interface(face, lrs), interface(face, lrs)];
        for v in 0..VCPUS {
            g.load(v as u32, &mut cpus[0]);
            cpus[0].guest_setup(0xff, false);
            g.put(v as u32, &mut cpus[0]);
        }
        let mut w = Self {
            vgic: g,
            cpus,
            loaded: [None; 2],
            kicked: VcpuSet::EMPTY,
            handlers: Default::default(),
            spis: Default::default(),
            sgis: Default::default(),
            now: 0,
        };
        for p in 0..2 {
            w.load(p, p);
        }
        w
    }

    fn load(&mut self, p: usize, v: usize) {
        if self.loaded[p].is_none() && !self.loaded.contains(&Some(v)) {
            self.vgic.load(v as u32, &mut self.cpus[p]);
            self.vgic.flush(v as u32, &mut self.cpus[p]);
            self.loaded[p] = Some(v);
        }
    }

    fn put(&mut self, p: usize) {
        if let Some(v) = self.loaded[p].take() {
            self.vgic.put(v as u32, &mut self.cpus[p]);
        }
    }

    /// The pCPU exits, for whatever reason there is.
    fn exit(&mut self, p: usize) {
        let Some(v) = self.loaded[p] else { return };
        self.kicked = self.kicked.union(self.vgic.take_notify());
        if self.cpus[p].maintenance() {
            self.vgic.maintenance(v as u32, &mut self.cpus[p]);
            self.kicked.insert(v as u32);
        }
        if self.kicked.contains(v as u32) {
            self.kicked.remove(v as u32);
            self.vgic.flush(v as u32, &mut self.cpus[p]);
        }
    }

    fn write(&mut self, at: u64, size: addr::AccessSize, value: u64) {
        if let Err(Refusal::Fold(set)) = super::write(&mut self.vgic, 0, false, at, size, value) {
            for v in set.iter() {
                let p = self.loaded.iter().position(|l| *l == Some(v as usize)).unwrap();
                self.vgic.sync(v, &mut self.cpus[p]);
            }
            super::write(&mut self.vgic, 0, false, at, size, value).unwrap();
            for p in 0..2 {
                if let Some(v) = self.loaded[p].filter(|v| set.contains(*v as u32)) {
                    self.vgic.flush(v as u32, &mut self.cpus[p]);
                }
            }
        }
    }

    fn ack(&mut self, p: usize) {
        let Some(v) = self.loaded[p] else { return };
        let iar = self.cpus[p].acknowledge();
        if iar == SPURIOUS {
            return;
        }
        let now = self.now;
        let intid = iar & 0x3ff;
        let sgi = if self.vgic.face == Face::V2 { intid << 1 | iar >> 10 } else { intid };
        let edges = if intid < 32 { &mut self.sgis[v][sgi as usize] } else { &mut self.spis[intid as usize - 32] };
        edges.taken += 1;
        edges.taken_at = now;
        assert!(edges.taken <= edges.sent, "{intid} is taken more often than it was sent");
        assert!(!edges.disabled, "{intid} is disabled, and the write that did it is over");
        assert!(!self.handlers[v].contains(&intid), "{intid} is active already");
        self.handlers[v].push(intid);
    }

    fn eoi(&mut self, p: usize) {
        let Some(v) = self.loaded[p] else { return };
        if let Some(intid) = self.handlers[v].pop() {
            self.cpus[p].end(intid);
        }
    }

    fn send(edges: &mut Edges, now: usize) {
        edges.sent += 1;
        edges.sent_at = now;
    }

    fn step(&mut self, (op, a, b): (u8, u8, u8)) {
        self.now += 1;
        let p = usize::from(a) % 2;
        let spi = SPIS.start + u32::from(b) % 6;
        match op {
            0..=4 => self.ack(p),
            5..=8 => self.eoi(p),
            9..=11 => {
                self.vgic.pulse_spi(spi);
                Self::send(&mut self.spis[spi as usize - 32], self.now);
            }
            12..=14 => {
                let (to, intid) = (usize::from(a) % 2, u32::from(b) % 4);
                if self.vgic.face == Face::V2 {
                    let (sgi, by) = (u64::from(intid >> 1), intid & 1);
                    self.vgic.v2_dist_write(by, 0xf00, B4, (1 << to) << 16 | sgi).unwrap();
                } else {
                    self.vgic.sgi1r(1, (u64::from(intid) << 24) | (1 << to));
                }
                Self::send(&mut self.sgis[to][intid as usize], self.now);
            }
            15..=18 => self.exit(p),
            19 => {
                self.write(0x184, B4, 1 << (spi - 32));
                self.spis[spi as usize - 32].disabled = true;
            }
            20..=21 => {
                self.write(0x104, B4, 1 << (spi - 32));
                self.spis[spi as usize - 32].disabled = false;
            }
            22 if self.vgic.face == Face::V2 => self.write(0x800 + u64::from(spi), B1, 1 << (a % VCPUS as u8)),
            22 => {
                let to = super::affinities(VCPUS)[usize::from(a) % VCPUS];
                let route = (u64::from(to & 0xff00_0000) << 8) | u64::from(to & 0xff_ffff);
                self.write(0x6000 + 8 * u64::from(spi), B8, route);
            }
            23 => {
                self.put(p);
                self.load(p, usize::from(b) % VCPUS);
            }
            _ => {
                if let Some(v) = self.loaded[p] {
                    self.vgic.sync(v as u32, &mut self.cpus[p]);
                    self.vgic.flush(v as u32, &mut self.cpus[p]);
                }
            }
        }
        let mut shown: Vec<(usize, u32)> = Vec::new();
        for (p, cpu) in self.cpus.iter().enumerate() {
            for lr in cpu.lr.iter().filter(|lr| **lr >> 62 != 0) {
                let key = (if (*lr as u32) < 32 { p } else { 9 }, *lr as u32);
                assert!(!shown.contains(&key), "{key:?} is shown twice");
                shown.push(key);
            }
        }
    }

    /// Every vCPU runs until it is done.
    fn drain(&mut self) {
        self.write(0x104, B4, 0xff);
        self.spis.iter_mut().for_each(|e| e.disabled = false);
        for _ in 0..2 {
            for v in 0..VCPUS {
                self.put(0);
                self.put(1);
                self.load(0, v);
                for _ in 0..24 {
                    self.now += 1;
                    while !self.handlers[v].is_empty() {
                        self.eoi(0);
                        self.exit(0);
                    }
                    self.exit(0);
                    self.ack(0);
                    self.exit(0);
                }
            }
        }
        for edges in self.spis.iter().chain(self.sgis.iter().flatten()) {
            assert!(edges.sent_at <= edges.taken_at, "an edge is lost: {edges:?}");
        }
        assert!(self.handlers.iter().all(Vec::is_empty));
        assert!(self.cpus.iter().all(|cpu| cpu.lr.iter().all(|lr| lr >> 62 == 0)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 1 } else { 600 }, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn late_kicks_lose_and_double_nothing(
        face in prop_oneof![Just(Face::V3), Just(Face::V2)],
        lrs in prop_oneof![Just(1usize), Just(2), Just(4)],
        ops in proptest::collection::vec((0u8..25, any::<u8>(), any::<u8>()), 1..if cfg!(miri) { 25 } else { 150 }),
    ) {
        let mut w = World::new(face, lrs);
        for op in ops {
            w.step(op);
        }
        w.drain();
    }
}
