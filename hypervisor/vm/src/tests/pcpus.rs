//! Several pCPUs as the kernel runs them, in random interleavings. Each keeps its place in the kernel's loop (gate, entry, exit,
//! fold, block) as a state, and a schedule says whose next piece is done: a piece is what no other pCPU can see the inside of.
//!
//! What has to hold, whatever the schedule: an access that needs others to fold their list registers is served within few
//! rounds (a round: everybody had a turn); nobody waits for ever; no SGI and no edge is lost, or taken twice; nothing is
//! shown twice; a vCPU sleeps only with nothing to take.

use std::collections::{BTreeSet, VecDeque};
use std::vec::Vec;

use addr::AccessSize;
use proptest::prelude::*;
use trap::{RawExit, SysRegId, decode, sysreg};
use vgic::VcpuSet;
use vgic::fakes::SPURIOUS;

use super::machine::*;
use crate::{Next, Requests, Vcpu, handle};

/// SPIs in use, all edge triggered.
const SPIS: core::ops::Range<u32> = 40..46;
/// Turns of its pCPU after which a vCPU that is held has folded for good. The longest way: the hold comes when its gate has just
/// looked. Then it enters (1), executes one more instruction (2), enters again (3), leaves for the kick (4), serves it (5) and
/// folds (6).
const FOLDED: usize = 6;

/// An access is served after at most so many rounds, whatever the schedule.
///
/// In a round everybody has a turn, so what takes n turns, each after the one before, takes n whole rounds at most; the round in
/// which the access begins is counted too (1). Those held stay folded until the access is served. So each time others are asked
/// (1), all that are asked have folded `FOLDED` turns later, and the next attempt (1) either succeeds or names somebody who was
/// not asked before. That happens as often as there are other vCPUs, at most. Then they are let go of (1).
const fn patience(vcpus: usize) -> usize {
    1 + (vcpus - 1) * (1 + FOLDED + 1) + 1
}

/// Where a pCPU is in the kernel's loop.
#[derive(Clone, Copy, Debug, PartialEq)]
enum At {
    /// Nothing to run.
    Idle,
    /// Before an entry: has anything happened since the last one?
    Gate,
    /// Something has: what is asked?
    Serve,
    /// Folded because others asked; waits until they are done.
    Held,
    /// About to make the list registers live.
    Flush,
    /// Live; has somebody asked for something meanwhile?
    Recheck,
    Guest,
    /// An access was refused: others are asked to fold and hold still.
    Ask,
    /// Tries the access again.
    Try,
    /// Refused again: whoever was not asked yet is.
    AskMore,
    /// Served: those asked may go on.
    Release,
    /// The vCPU waits: has anything been asked since?
    Block,
    /// It sleeps without leaving the pCPU, as long as nobody else wants that.
    Doze,
    /// It leaves the pCPU.
    Put {
        blocked: bool,
    },
}

struct Pcpu {
    hw: FakeHw,
    at: At,
    current: Option<usize>,
    kicked: bool,
    /// What is to interrupt the guest has come late by an instruction already.
    late: bool,
    /// The access under way, whom it asks, and how many rounds it has seen.
    access: Option<RawExit>,
    whom: VcpuSet,
    more: VcpuSet,
    rounds: usize,
}

/// What the schedule knows of a vCPU.
struct Runner {
    vcpu: Vcpu,
    asleep: bool,
    wake_pending: bool,
    /// The guest's handlers, innermost last.
    handlers: Vec<u32>,
}

#[derive(Clone, Copy, Default, Debug)]
struct Edges {
    sent: usize,
    taken: usize,
    sent_at: usize,
    taken_at: usize,
}

struct World {
    m: TestMachine,
    pcpus: Vec<Pcpu>,
    runners: Vec<Runner>,
    ready: VecDeque<usize>,
    /// Told of by a device that has changed its wire and not said so yet.
    untold: VecDeque<VcpuSet>,
    sgis: Vec<[Edges; 4]>,
    spis: [Edges; 6],
    now: usize,
    round: BTreeSet<usize>,
    longest: usize,
}

/// A choice of the schedule: which pCPU, which instruction, its operands; and whether a kick comes an instruction late. (By one:
/// no guest executes anything for ever with an interrupt pending that it cannot mask.)
type Turn = (u8, u8, u8, u8, bool);

impl World {
    fn new(vcpus: usize, pcpus: usize) -> Self {
        let mut m = TestMachine::new(vcpus as u32);
        for n in 0..vcpus as u32 {
            m.enable_private(n);
            m.store32(n, sgi_frame(n) + 0x400, 0x8060_4020);
        }
        m.store32(0, GICD + 0x104, 0x3f << 8);
        m.store32(0, GICD + 0xc08, 0xffff << 16);
        m.store32(0, GICD + 0xc0c, u32::MAX);
        for n in 0..vcpus {
            let lists = &mut m.cpus[n].hw.lists;
            m.vm.vgic().change(|vgic| vgic.put(n as u32, lists));
            m.vm.port(n as u32).unwrap().take();
        }
        m.waker.take();
        let hw = m.cpus[0].hw.clone();
        let runners = m.cpus.drain(..).map(|cpu| Runner {
            vcpu: cpu.vcpu,
            asleep: false,
            wake_pending: false,
            handlers: Vec::new(),
        });
        let runners = runners.collect();
        let idle = |_| Pcpu {
            hw: hw.clone(),
            at: At::Idle,
            current: None,
            kicked: false,
            late: false,
            access: None,
            whom: VcpuSet::EMPTY,
            more: VcpuSet::EMPTY,
            rounds: 0,
        };
        Self {
            m,
            pcpus: (0..pcpus).map(idle).collect(),
            runners,
            ready: (0..vcpus).collect(),
            untold: VecDeque::new(),
            sgis: std::vec![Default::default(); vcpus],
            spis: Default::default(),
            now: 0,
            round: BTreeSet::new(),
            longest: 0,
        }
    }

    /// One piece of what pCPU `p` does.
    fn turn(&mut self, (p, op, a, b, late): Turn) {
        self.now += 1;
        let p = usize::from(p) % self.pcpus.len();
        let Some(v) = self.pcpus[p].current else {
            self.pick(p);
            return self.account(p);
        };
        let n = v as u32;
        let vm = self.m.vm.clone();
        let port = vm.port(n).unwrap();
        if self.pcpus[p].at == At::Guest {
            self.pcpus[p].at = self.guest(p, v, (op, a, b), late);
            return self.account(p);
        }
        let Pcpu { hw, at, current, access, whom, more, rounds, .. } = &mut self.pcpus[p];
        let runner = &mut self.runners[v];
        let vcpu = &mut runner.vcpu;
        *at = match *at {
            At::Idle | At::Guest => unreachable!(),
            // Whoever asks kicks, and a kick leaves a flush due: nothing else is looked at.
            At::Gate if !vcpu.flush_due => At::Guest,
            At::Gate if op % 8 == 0 && !self.ready.is_empty() => At::Put { blocked: false },
            At::Gate => At::Serve,
            At::Serve => {
                vcpu.flush_due = false;
                let asked = port.take();
                if asked.has(Requests::TIMER) {
                    vcpu.timer_due(&vm, hw);
                }
                if asked.held() {
                    vm.vgic().change(|vgic| vgic.sync(n, &mut hw.lists));
                    At::Held
                } else {
                    At::Flush
                }
            }
            At::Held => {
                if port.requests().held() {
                    At::Held
                } else {
                    At::Flush
                }
            }
            At::Flush => {
                vm.vgic().change(|vgic| vgic.flush(n, &mut hw.lists));
                At::Recheck
            }
            At::Recheck => {
                if port.requests().is_empty() {
                    At::Guest
                } else {
                    At::Serve
                }
            }
            At::Ask => {
                *whom = vm.vgic().hold(VcpuSet::EMPTY, *whom, n);
                At::Try
            }
            At::Try => match handle(&vm, vcpu, hw, decode(&access.unwrap())) {
                Next::Fold(again) => {
                    *more = again;
                    At::AskMore
                }
                Next::Resume => At::Release,
                other => panic!("a repeated access led to {other:?}"),
            },
            At::AskMore => {
                *whom = vm.vgic().hold(*whom, *more, n);
                At::Try
            }
            At::Release => {
                vm.vgic().release(*whom, n);
                self.longest = self.longest.max(*rounds);
                *access = None;
                At::Gate
            }
            At::Block => {
                runner.wake_pending = false;
                if port.requests().is_empty() {
                    vm.vgic().change(|vgic| vgic.put(n, &mut hw.lists));
                    At::Doze
                } else {
                    vcpu.flush_due = true;
                    At::Gate
                }
            }
            At::Doze if !self.ready.is_empty() => {
                vm.vgic().lock().load(n, &mut hw.lists);
                At::Put { blocked: true }
            }
            At::Doze if port.requests().is_empty() => At::Doze,
            At::Doze => {
                vm.vgic().lock().load(n, &mut hw.lists);
                vcpu.flush_due = true;
                At::Gate
            }
            At::Put { blocked } => {
                vm.vgic().change(|vgic| vgic.put(n, &mut hw.lists));
                runner.asleep = blocked && !runner.wake_pending;
                runner.wake_pending = false;
                if !runner.asleep {
                    self.ready.push_back(v);
                }
                *current = None;
                At::Idle
            }
        };
        self.account(p);
    }

    /// A piece of the guest's own: it leaves for an interrupt, or executes an instruction.
    fn guest(&mut self, p: usize, v: usize, (op, a, b): (u8, u8, u8), late: bool) -> At {
        let pcpu = &mut self.pcpus[p];
        let due = pcpu.kicked || pcpu.hw.lists.maintenance();
        let was_late = core::mem::replace(&mut pcpu.late, due && late);
        if due && (was_late || !late) {
            pcpu.late = false;
            self.runners[v].vcpu.flush_due = true;
            if core::mem::take(&mut pcpu.kicked) {
                return At::Gate;
            }
            self.m.vm.vgic().change(|vgic| vgic.maintenance(v as u32, &mut pcpu.hw.lists));
            return At::Gate;
        }
        match self.instruction(p, v, op, a, b) {
            None => At::Guest,
            Some(raw) => self.exit(p, v, raw),
        }
    }

    fn pick(&mut self, p: usize) {
        let Some(v) = self.ready.pop_front() else { return };
        let pcpu = &mut self.pcpus[p];
        self.m.vm.vgic().lock().load(v as u32, &mut pcpu.hw.lists);
        self.runners[v].vcpu.flush_due = true;
        (pcpu.current, pcpu.at) = (Some(v), At::Gate);
    }

    /// Wake-ups reach their vCPUs, and rounds are counted.
    fn account(&mut self, p: usize) {
        for asked in self.m.waker.take() {
            let Asked::Wake(v) = asked else { panic!("{asked:?}") };
            let runner = &mut self.runners[v as usize];
            if core::mem::take(&mut runner.asleep) {
                self.ready.push_back(v as usize);
            } else if let Some(on) = self.pcpus.iter().position(|pcpu| pcpu.current == Some(v as usize)) {
                runner.wake_pending = true;
                self.pcpus[on].kicked |= on != p;
            }
        }
        self.round.insert(p);
        if self.round.len() == self.pcpus.len() {
            self.round.clear();
            let patience = patience(self.runners.len());
            for pcpu in self.pcpus.iter_mut().filter(|pcpu| pcpu.access.is_some()) {
                pcpu.rounds += 1;
                assert!(pcpu.rounds <= patience, "an access waits for {:?} for {patience} rounds", pcpu.whom);
            }
        }
        let left = self.m.vm.vgic().lock().take_notify();
        assert!(left.is_empty(), "{left:?} have news that nobody tells them of");
        let mut shown = BTreeSet::new();
        for pcpu in &self.pcpus {
            for lr in pcpu.hw.lists.lr.iter().filter(|lr| **lr >> 62 != 0) {
                let intid = *lr as u32;
                let whose = if intid < 32 { pcpu.current } else { None };
                assert!(shown.insert((whose, intid)), "{intid} is shown twice");
            }
        }
    }

    /// The guest on `p` executes an instruction: an exit comes of it, or not.
    fn instruction(&mut self, p: usize, v: usize, op: u8, a: u8, b: u8) -> Option<RawExit> {
        let frame = &mut self.runners[v].vcpu.frame;
        let (of, spi) = (u32::from(a) % self.sgis.len() as u32, SPIS.start + u32::from(b) % 6);
        let word = |frame: &mut trap::GuestFrame, ipa, value: u32| {
            frame.set_reg(1, value.into());
            Abort::store(ipa).raw()
        };
        let bit = 1 << (spi % 32);
        match op {
            0..=7 => {
                self.acknowledge(p, v);
                None
            }
            8..=13 => {
                if let Some(intid) = self.runners[v].handlers.pop() {
                    self.pcpus[p].hw.lists.end(intid);
                }
                None
            }
            14..=17 => {
                let (list, intid) = (u64::from(a) % (1 << self.sgis.len()), u64::from(b) % 4);
                frame.set_reg(1, intid << 24 | list);
                for to in (0..self.sgis.len()).filter(|to| list >> to & 1 != 0) {
                    Self::send(&mut self.sgis[to][intid as usize], self.now);
                }
                Some(msr(sysreg::ICC_SGI1R_EL1))
            }
            // In a handler it would wait for something better than what it is at.
            18..=19 => self.runners[v].handlers.is_empty().then(|| wait_exit(0)),
            20..=23 => Some(Abort::load(sgi_frame(of) + 0x200).raw()),
            24..=25 => Some(Abort::load(sgi_frame(of) + 0x300).raw()),
            26..=27 => Some(Abort::load(GICD + 0x204).raw()),
            28 => Some(word(frame, GICD + 0x184, bit)),
            29..=30 => Some(word(frame, GICD + 0x104, bit)),
            31 => {
                frame.set_reg(1, of.into());
                Some(Abort::store(GICD + 0x6000 + 8 * u64::from(spi)).size(AccessSize::B8).raw())
            }
            32 => Some(word(frame, GICD, 0)),
            33..=35 => Some(word(frame, GICD, 2)),
            36 => Some(word(frame, sgi_frame(of) + 0x380, 1 << 20)),
            _ => {
                self.outside(op, spi);
                None
            }
        }
    }

    /// A device on nobody's pCPU: it has an edge, and says so later.
    fn outside(&mut self, op: u8, spi: u32) {
        if op.is_multiple_of(2) {
            let mut vgic = self.m.vm.vgic().lock();
            vgic.pulse_spi(spi);
            Self::send(&mut self.spis[(spi - SPIS.start) as usize], self.now);
            let whom = vgic.take_notify();
            drop(vgic);
            self.untold.push_back(whom);
        } else if let Some(whom) = self.untold.pop_front() {
            self.m.vm.vgic().tell(whom);
        }
    }

    /// The exit's first handling.
    fn exit(&mut self, p: usize, v: usize, raw: RawExit) -> At {
        let vm = self.m.vm.clone();
        let pcpu = &mut self.pcpus[p];
        let vcpu = &mut self.runners[v].vcpu;
        vcpu.frame.pc = ENTRY.as_u64();
        match handle(&vm, vcpu, &mut pcpu.hw, decode(&raw)) {
            Next::Resume => At::Gate,
            Next::Block => At::Block,
            Next::Fold(whom) => {
                vm.vgic().change(|vgic| vgic.sync(v as u32, &mut pcpu.hw.lists));
                vcpu.flush_due = true;
                (pcpu.access, pcpu.whom, pcpu.rounds) = (Some(raw), whom, 0);
                At::Ask
            }
            other => panic!("{other:?}"),
        }
    }

    fn send(edges: &mut Edges, now: usize) {
        edges.sent += 1;
        edges.sent_at = now;
    }

    fn acknowledge(&mut self, p: usize, v: usize) -> bool {
        let intid = self.pcpus[p].hw.lists.acknowledge();
        if intid == SPURIOUS {
            return false;
        }
        let edges =
            if intid < 32 { &mut self.sgis[v][intid as usize] } else { &mut self.spis[(intid - SPIS.start) as usize] };
        edges.taken += 1;
        edges.taken_at = self.now;
        assert!(edges.taken <= edges.sent, "{intid} is taken more often than it was sent");
        assert!(!self.runners[v].handlers.contains(&intid), "{intid} is active already");
        self.runners[v].handlers.push(intid);
        true
    }

    /// Whether every vCPU sleeps, with nothing asked of it.
    fn at_rest(&self) -> bool {
        let quiet = |v: usize| self.m.vm.port(v as u32).unwrap().requests().is_empty();
        let dozes = |v| self.pcpus.iter().any(|pcpu| pcpu.current == Some(v) && pcpu.at == At::Doze);
        self.runners.iter().enumerate().all(|(v, runner)| runner.asleep || (dozes(v) && quiet(v)))
    }

    /// Every guest takes what there is, ends it, and sleeps; everybody has a turn in each round.
    fn settle(&mut self) {
        while let Some(whom) = self.untold.pop_front() {
            self.m.vm.vgic().tell(whom);
        }
        // What switches something off comes first.
        while self.pcpus.iter().any(|pcpu| pcpu.access.is_some()) {
            (0..self.pcpus.len()).for_each(|p| self.turn((p as u8, 18, 0, 0, false)));
        }
        self.m.vm.vgic().change(|vgic| {
            vgic.dist_write(0, 0x104, AccessSize::B4, 0x3f << 8).unwrap();
            vgic.dist_write(0, 0, AccessSize::B4, 2).unwrap();
        });
        for _ in 0..400 {
            for p in 0..self.pcpus.len() {
                let mut op = 18;
                if let Some(v) = self.pcpus[p].current
                    && self.pcpus[p].at == At::Guest
                    && !self.pcpus[p].kicked
                    && !self.pcpus[p].hw.lists.maintenance()
                {
                    op = if self.acknowledge(p, v) || !self.runners[v].handlers.is_empty() { 8 } else { 18 };
                }
                self.turn((p as u8, op, 0, 0, false));
            }
            if self.at_rest() {
                break;
            }
        }
        assert!(self.at_rest(), "somebody never comes to rest");
        for (v, sgis) in self.sgis.iter().enumerate() {
            assert!(sgis.iter().all(|e| e.sent_at <= e.taken_at), "an SGI to vCPU {v} is lost: {sgis:?}");
        }
        assert!(self.spis.iter().all(|e| e.sent_at <= e.taken_at), "an edge is lost: {:?}", self.spis);
        assert!(self.runners.iter().all(|runner| runner.handlers.is_empty()));
    }
}

fn msr(id: SysRegId) -> RawExit {
    sysreg_exit(id, 1, false)
}

/// Found by chance: vCPU 1 asks about vCPU 0, whose pCPU the kick reaches late at each turn.
#[test]
fn a_kick_is_late_by_one_instruction_only() {
    let mut w = World::new(3, 3);
    (0..5).for_each(|_| (0..3).for_each(|p| w.turn((p, 1, 0, 0, false))));
    // An SGI to itself is in its list registers.
    w.turn((0, 14, 1, 0, false));
    (0..4).for_each(|_| w.turn((0, 1, 0, 0, false)));
    assert!(w.pcpus.iter().all(|pcpu| pcpu.at == At::Guest));
    w.turn((1, 20, 0, 0, false));
    assert_eq!((w.pcpus[1].at, w.pcpus[1].whom), (At::Ask, VcpuSet::one(0)));
    for op in [26, 26, 28, 20, 26, 20, 20].into_iter().cycle().take(20) {
        w.turn((1, 0, 0, 0, false));
        w.turn((0, op, 1, 0, true));
        w.turn((2, 0, 0, 0, false));
        w.turn((0, 0, 0, 0, false));
    }
    assert!(w.longest > 0, "served");
    w.settle();
}

/// Those who hold still already are not let go of when more are asked: nobody slips back into its guest.
#[test]
fn a_set_that_grows_asks_the_newcomers_only() {
    let m = TestMachine::new(4);
    let (vgic, held) = (m.vm.vgic(), |n| m.vm.port(n).unwrap().requests().held());
    m.waker.take();
    let one = vgic.hold(VcpuSet::EMPTY, VcpuSet::from_bits(0b0110), 0);
    assert_eq!(m.waker.take(), [Asked::Wake(1), Asked::Wake(2)]);
    // Refused again for what is held already, as long as that has not folded: nothing new is asked.
    assert_eq!(vgic.hold(one, VcpuSet::one(2), 0), one);
    assert_eq!(m.waker.take(), []);
    let all = vgic.hold(one, VcpuSet::from_bits(0b1101), 0);
    assert_eq!(m.waker.take(), [Asked::Wake(3)]);
    assert_eq!([0, 1, 2, 3].map(held), [false, true, true, true]);
    vgic.release(all, 0);
    assert_eq!([0, 1, 2, 3].map(held), [false; 4], "each was held once");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 1 } else { 300 }, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nobody_waits_for_ever_and_nothing_is_lost(
        (vcpus, pcpus) in prop_oneof![Just((2, 2)), Just((3, 3)), Just((4, 4)), Just((4, 2)), Just((3, 1))],
        turns in proptest::collection::vec((any::<u8>(), 0u8..42, any::<u8>(), any::<u8>(), any::<bool>()), 1..if cfg!(miri) { 40 } else { 500 }),
    ) {
        let mut w = World::new(vcpus, pcpus);
        for turn in turns {
            w.turn(turn);
        }
        w.settle();
    }
}
