//! SPIs that are linked to physical ones: a machine with one device line, two pCPUs, and guests that do as they like.

use std::sync::{Arc, Mutex};
use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::cpu_interface::{Cpu, SPURIOUS};
use super::{faced, interface, read, switch, write};
use crate::{Face, PhysicalLines, Refusal, Vgic};
use addr::AccessSize;

/// The guest's number and the machine's, whose INTIDs have ten bits.
const SPI: u32 = 40;
const PHYSICAL: u32 = 803;

#[derive(Default, Debug, Clone, Copy)]
struct Line {
    enabled: bool,
    active: bool,
    /// What the device drives.
    high: bool,
    forgotten: bool,
}

#[derive(Default, Debug)]
struct Lines(Mutex<Line>);

impl Lines {
    fn with<T>(&self, pintid: u32, what: impl FnOnce(&mut Line) -> T) -> T {
        assert_eq!(pintid, PHYSICAL);
        what(&mut self.0.lock().unwrap())
    }
    fn now(&self) -> Line {
        *self.0.lock().unwrap()
    }
}

impl PhysicalLines for Lines {
    fn set_enabled(&self, pintid: u32, on: bool) {
        self.with(pintid, |line| line.enabled = on);
    }
    fn deactivate(&self, pintid: u32) {
        self.with(pintid, |line| {
            assert!(line.active || line.forgotten, "deactivates what is not active");
            line.active = false;
        });
    }
    fn forget(&self, pintid: u32) {
        self.with(pintid, |line| *line = Line { high: line.high, forgotten: true, ..Line::default() });
    }
}

/// A VM of two vCPUs, vCPU n on pCPU n.
struct World {
    face: Face,
    vgic: Vgic,
    lines: Arc<Lines>,
    cpus: Vec<Cpu>,
    loaded: [bool; 2],
    /// Interrupts that a pCPU has acknowledged and not told the controller of yet.
    late: usize,
    /// What each guest has acknowledged and not ended, and in which mode it ends things.
    acked: [Vec<u32>; 2],
    split: bool,
    taken: usize,
}

impl World {
    fn new(face: Face, lrs: usize, split: bool) -> Self {
        let lines = Arc::new(Lines::default());
        let mut vgic = faced(face, 2, lrs);
        vgic.link_spis(lines.clone(), &[(SPI, PHYSICAL)]);
        let mut world = Self {
            face,
            vgic,
            lines,
            cpus: (0..2).map(|_| interface(face, lrs)).collect(),
            loaded: [false; 2],
            late: 0,
            acked: [Vec::new(), Vec::new()],
            split,
            taken: 0,
        };
        world.start();
        world
    }
    fn set_up(&mut self) {
        self.access(0, 0, switch(self.face, true) as u32);
        // All of the bank has priority 0x80, and goes to vCPU 0.
        for at in 0..8 {
            self.access(0, 0x400 + SPI as u64 / 32 * 32 + at * 4, 0x8080_8080);
        }
        if self.face == Face::V2 {
            for at in 0..8 {
                self.access(0, 0x800 + SPI as u64 / 32 * 32 + at * 4, 0x0101_0101);
            }
        }
    }
    fn load(&mut self, v: usize) {
        if !self.loaded[v] {
            self.vgic.load(v as u32, &mut self.cpus[v]);
            self.loaded[v] = true;
        }
        self.vgic.flush(v as u32, &mut self.cpus[v]);
    }
    fn put(&mut self, v: usize) {
        if self.loaded[v] {
            self.vgic.put(v as u32, &mut self.cpus[v]);
            self.loaded[v] = false;
            assert!(self.cpus[v].lr.iter().all(|lr| lr >> 62 == 0), "a list register outlives its vCPU's stay");
        }
    }
    /// Vcpu `v`, which is not loaded, comes to another pCPU next: what that has of it, `load` has to bring.
    fn moves(&mut self, v: usize) {
        if !self.loaded[v] {
            self.cpus[v] = interface(self.face, self.cpus[v].lr.len());
        }
    }
    /// The VM has stopped and starts anew.
    fn reset(&mut self) {
        for v in 0..2 {
            self.put(v);
        }
        self.vgic.reset();
        let Line { enabled, active, .. } = self.lines.now();
        assert!(!enabled && !active, "a reset leaves it on or active");
        self.start();
    }
    /// Both vCPUs begin their lives; the guest sets its controller up.
    fn start(&mut self) {
        self.acked = [Vec::new(), Vec::new()];
        for v in 0..2 {
            self.vgic.reset_cpu_interface(v as u32);
            self.moves(v);
            self.load(v);
            self.cpus[v].guest_setup(0xf8, self.split);
        }
        self.set_up();
    }
    /// The protocol of an access, with those folded who have to be.
    fn access(&mut self, by: usize, at: u64, value: u32) {
        for _ in 0..3 {
            match write(&mut self.vgic, by, false, at, AccessSize::B4, value.into()) {
                Ok(()) => return self.run(),
                Err(Refusal::Fold(whom)) => whom.iter().for_each(|v| {
                    self.vgic.sync(v, &mut self.cpus[v as usize]);
                }),
                Err(refusal) => panic!("{refusal:?}"),
            }
        }
        panic!("the access is refused for ever");
    }
    fn bank(&mut self, register: u64) {
        self.access(1, register + u64::from(SPI / 32) * 4, 1 << (SPI % 32));
    }
    /// Both pCPUs enter their guests.
    fn run(&mut self) {
        for v in (0..2).filter(|v| self.loaded[*v]) {
            self.vgic.flush(v as u32, &mut self.cpus[v]);
        }
    }
    /// The line reaches a pCPU, whichever, if it may, and that tells the controller.
    fn deliver(&mut self) {
        self.take();
        self.arrive();
    }
    /// The line reaches a pCPU, which acknowledges.
    fn take(&mut self) {
        let fires = self.lines.with(PHYSICAL, |line| {
            let fires = line.high && line.enabled && !line.active;
            line.active |= fires;
            fires
        });
        self.late += usize::from(fires);
    }
    /// The controller hears of what pCPUs have acknowledged.
    fn arrive(&mut self) {
        for _ in 0..std::mem::take(&mut self.late) {
            self.vgic.spi_fired(SPI);
            self.run();
        }
    }
    /// Vcpu `v` takes what there is; its handler quiets the device.
    fn acknowledge(&mut self, v: usize) {
        if !self.loaded[v] {
            return;
        }
        let iar = self.cpus[v].acknowledge();
        if iar & 0x3ff != SPURIOUS {
            self.acked[v].push(iar);
            if iar & 0x3ff == SPI {
                self.taken += 1;
                self.lines.with(PHYSICAL, |line| line.high = false);
            }
        }
    }
    fn end(&mut self, v: usize) {
        if !self.loaded[v] {
            return;
        }
        let Some(iar) = self.acked[v].pop() else { return };
        self.cpus[v].end(iar);
        if self.split && self.cpus[v].dir(iar) {
            let mut refused = self.vgic.dir(v as u32, iar & 0x3ff, &mut self.cpus[v]);
            for _ in 0..2 {
                if let Err(Refusal::Fold(whom)) = refused {
                    whom.iter().for_each(|v| self.vgic.sync(v, &mut self.cpus[v as usize]));
                    refused = self.vgic.dir(v as u32, iar & 0x3ff, &mut self.cpus[v]);
                }
            }
            refused.unwrap();
        }
        for pintid in std::mem::take(&mut self.cpus[v].ended) {
            // As hardware does, whatever state that is in.
            self.lines.with(pintid, |line| line.active = false);
        }
        if self.cpus[v].maintenance() {
            self.vgic.maintenance(v as u32, &mut self.cpus[v]);
        }
        self.run();
    }
    /// Both guests run until nothing is left to take or to end.
    fn settle(&mut self) {
        for v in 0..2 {
            self.load(v);
        }
        for _ in 0..40 {
            self.deliver();
            for v in 0..2 {
                self.vgic.sync(v as u32, &mut self.cpus[v]);
                self.load(v);
                self.acknowledge(v);
                while !self.acked[v].is_empty() {
                    self.end(v);
                }
            }
        }
    }
}

const ENABLE: u64 = 0x100;
const DISABLE: u64 = 0x180;
const PEND: u64 = 0x200;
const UNPEND: u64 = 0x280;
const DEACTIVATE: u64 = 0x380;

fn both(test: impl Fn(Face)) {
    [Face::V3, Face::V2].into_iter().for_each(test);
}

#[test]
fn the_physical_interrupt_follows_the_guest_s_switch() {
    both(|face| {
        let mut w = World::new(face, 4, false);
        assert!(!w.lines.now().enabled);
        w.bank(ENABLE);
        assert!(w.lines.now().enabled);
        // A neighbour's does not.
        w.access(0, DISABLE + u64::from(SPI / 32) * 4, 1 << (SPI % 32 + 1));
        assert!(w.lines.now().enabled);
        w.vgic.hold_links(true);
        assert!(!w.lines.now().enabled);
        // What the guest says meanwhile counts afterwards.
        w.bank(DISABLE);
        w.bank(ENABLE);
        assert!(!w.lines.now().enabled);
        w.vgic.hold_links(false);
        assert!(w.lines.now().enabled);
        w.bank(DISABLE);
        assert!(!w.lines.now().enabled);
    });
}

#[test]
fn the_guest_s_end_is_the_physical_one_s_and_nothing_else_is() {
    for split in [false, true] {
        both(|face| {
            let mut w = World::new(face, 4, split);
            w.bank(ENABLE);
            w.lines.with(PHYSICAL, |line| line.high = true);
            w.deliver();
            assert!(w.cpus[0].lr.iter().any(|lr| lr >> 61 & 1 != 0 && (lr >> 32) as u32 & 0x3ff == PHYSICAL));
            assert!(w.lines.now().active, "before the guest has seen it");
            w.acknowledge(0);
            assert_eq!(w.acked[0], [SPI]);
            // Left and taken up again on another pCPU's hardware: the link goes with it.
            w.put(0);
            w.cpus[0] = interface(face, 4);
            assert!(w.lines.now().active);
            w.load(0);
            w.cpus[0].ap1r = w.cpus[0].ap1r.max(1 << 16);
            w.end(0);
            assert!(!w.lines.now().active);
            w.lines.with(PHYSICAL, |line| line.high = true);
            w.deliver();
            w.acknowledge(0);
            assert_eq!((w.taken, w.lines.now().active), (2, true));
            // By another vCPU's ICACTIVER.
            w.bank(DEACTIVATE);
            assert!(!w.lines.now().active);
        });
    }
}

#[test]
fn a_guest_that_never_ends_it_never_gets_another_and_a_reset_frees_it() {
    both(|face| {
        let mut w = World::new(face, 4, false);
        w.bank(ENABLE);
        for _ in 0..5 {
            w.lines.with(PHYSICAL, |line| line.high = true);
            w.deliver();
            w.acknowledge(0);
        }
        assert_eq!((w.taken, w.lines.now().active), (1, true));
        w.reset();
        assert!(w.lines.now().high, "it is quiet, whatever its line");
        // The next life.
        w.bank(ENABLE);
        w.settle();
        assert_eq!((w.taken, w.lines.now().active), (2, false));
    });
}

#[test]
fn what_is_pending_behind_a_linked_one_gives_the_link_up_and_the_end_is_ours() {
    both(|face| {
        for edge in [false, true] {
            let mut w = World::new(face, 4, false);
            if edge {
                w.access(0, 0xc00 + u64::from(SPI / 16) * 4, 2 << (SPI % 16 * 2));
            }
            w.bank(ENABLE);
            w.lines.with(PHYSICAL, |line| line.high = true);
            w.deliver();
            w.acknowledge(0);
            w.bank(PEND);
            assert!(w.lines.now().active);
            w.end(0);
            assert!(!w.lines.now().active, "edge: {edge}");
            w.settle();
            assert_eq!((w.taken, w.lines.now().active), (2, false), "the one by ISPENDR came too");
        }
    });
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Raise,
    Lower,
    Deliver,
    /// As far as the pCPU's acknowledge; the controller hears of it later.
    Take,
    Arrive,
    Acknowledge(usize),
    End(usize),
    Bank(u64),
    /// Other SPIs, which take list registers.
    Other(u32),
    Route(usize),
    Put(usize),
    Load(usize),
    /// To another pCPU.
    Move(usize),
    Reset,
    Hold(bool),
    Read,
}

fn step() -> impl Strategy<Value = Step> {
    let vcpu = 0..2_usize;
    prop_oneof![
        4 => Just(Step::Raise),
        1 => Just(Step::Lower),
        4 => Just(Step::Deliver),
        2 => Just(Step::Take),
        2 => Just(Step::Arrive),
        4 => vcpu.clone().prop_map(Step::Acknowledge),
        3 => vcpu.clone().prop_map(Step::End),
        2 => prop::sample::select(&[ENABLE, ENABLE, DISABLE, PEND, UNPEND, DEACTIVATE][..]).prop_map(Step::Bank),
        2 => (33..36_u32).prop_map(Step::Other),
        1 => vcpu.clone().prop_map(Step::Route),
        1 => vcpu.clone().prop_map(Step::Put),
        2 => vcpu.clone().prop_map(Step::Load),
        1 => vcpu.prop_map(Step::Move),
        1 => Just(Step::Reset),
        1 => any::<bool>().prop_map(Step::Hold),
        1 => Just(Step::Read),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 2 } else { 200 }))]

    #[test]
    fn no_history_leaves_a_device_without_its_interrupt(
        steps in prop::collection::vec(step(), 1..60), v2: bool, split: bool, lrs in 1..4_usize,
    ) {
        let face = if v2 { Face::V2 } else { Face::V3 };
        let mut w = World::new(face, lrs, split);
        w.access(0, 0x100 + 4, 0xe);
        w.bank(ENABLE);
        for step in steps {
            match step {
                Step::Raise => w.lines.with(PHYSICAL, |line| line.high = true),
                Step::Lower => w.lines.with(PHYSICAL, |line| line.high = false),
                Step::Deliver => w.deliver(),
                Step::Take => w.take(),
                Step::Arrive => w.arrive(),
                Step::Acknowledge(v) => w.acknowledge(v),
                Step::End(v) => w.end(v),
                Step::Bank(register) => w.bank(register),
                Step::Other(intid) => w.access(1, PEND + 4, 1 << (intid - 32)),
                Step::Route(v) if face == Face::V3 => w.access(0, 0x6000 + u64::from(SPI) * 8, v as u32),
                Step::Route(v) => w.access(0, 0x800 + u64::from(SPI), 0x0101_0101 << v),
                Step::Put(v) => w.put(v),
                Step::Load(v) => w.load(v),
                Step::Move(v) => {
                    w.put(v);
                    w.moves(v);
                }
                Step::Reset => w.reset(),
                Step::Hold(held) => w.vgic.hold_links(held),
                Step::Read => { let _ = read(&mut w.vgic, 0, false, 0x304, AccessSize::B4); }
            }
        }
        w.vgic.hold_links(false);
        w.settle();
        // A guest that ends what it takes, and has it on, has nothing left over, and gets the next one.
        w.bank(DEACTIVATE);
        w.bank(ENABLE);
        w.settle();
        prop_assert!(!w.lines.now().active);
        let taken = w.taken;
        w.lines.with(PHYSICAL, |line| line.high = true);
        w.settle();
        prop_assert_eq!((w.taken, w.lines.now().active), (taken + 1, false));
        // And one whose VM has ended is nobody's, wherever it was.
        w.lines.with(PHYSICAL, |line| line.high = true);
        w.take();
        (0..2).for_each(|v| w.put(v));
        w.vgic.end_links();
        w.arrive();
        let Line { enabled, active, .. } = w.lines.now();
        prop_assert!(!enabled && !active);
    }
}
