//! VMIDs against a model of what every pCPU's TLB may hold, and under real threads.

use crate::{Vmid, VmidAllocator, VmidError, VmidSlot, Vmids};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::vec::Vec;

/// A VM; `name` differs from that of every VM before it.
struct Vm {
    name: usize,
    slot: VmidSlot,
    pinned: Option<Vmid>,
}

struct World {
    shared: Vmids,
    allocator: VmidAllocator,
    vms: Vec<Vm>,
    names: usize,
    /// By pCPU: the VM it runs, and under which VMID.
    runs: Vec<Option<(usize, Vmid)>>,
    /// By pCPU: whose translations its TLB may hold under each VMID.
    tlbs: Vec<BTreeMap<Vmid, usize>>,
    rollovers: usize,
}

#[derive(Clone, Debug)]
enum Op {
    Load(usize, usize),
    Put(usize),
    Pin(usize),
    Unpin(usize),
    Replace(usize),
}

fn op(pcpus: usize, vms: usize) -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (0..pcpus, 0..vms).prop_map(|(p, v)| Op::Load(p, v)),
        2 => (0..pcpus).prop_map(Op::Put),
        1 => (0..vms).prop_map(Op::Pin),
        1 => (0..vms).prop_map(Op::Unpin),
        3 => (0..vms).prop_map(Op::Replace),
    ]
}

/// What a flush of all TLBs leaves: what a pCPU runs under right now comes back at once.
fn flush(tlbs: &mut [BTreeMap<Vmid, usize>], runs: &[Option<(usize, Vmid)>]) {
    for (tlb, run) in tlbs.iter_mut().zip(runs) {
        tlb.clear();
        tlb.extend(run.map(|(name, vmid)| (vmid, name)));
    }
}

impl World {
    fn new(count: usize, pcpus: usize, vms: usize) -> Self {
        let (shared, allocator) = Vmids::with_count(count, pcpus).unwrap();
        let vms: Vec<_> = (0..vms).map(|name| Vm { name, slot: VmidSlot::new(), pinned: None }).collect();
        let tlbs = std::vec![BTreeMap::new(); pcpus];
        Self { shared, allocator, names: vms.len(), vms, runs: std::vec![None; pcpus], tlbs, rollovers: 0 }
    }

    fn step(&mut self, op: &Op) {
        match *op {
            Op::Load(pcpu, vm) => {
                self.runs[pcpu] = None; // VTTBR_EL2 holds VMID 0
                let vm = &self.vms[vm];
                let (tlbs, runs, rollovers) = (&mut self.tlbs, &self.runs, &mut self.rollovers);
                let vmid = self.shared.load(pcpu, &vm.slot).unwrap_or_else(|| {
                    let all = || {
                        flush(tlbs, runs);
                        *rollovers += 1;
                    };
                    self.allocator.load(&self.shared, pcpu, &vm.slot, all).unwrap()
                });
                assert_ne!(vmid, Vmid::HOST);
                self.runs[pcpu] = Some((vm.name, vmid));
                let former = self.tlbs[pcpu].insert(vmid, vm.name);
                assert!(former.is_none_or(|f| f == vm.name), "entered with another VM's translations");
            }
            Op::Put(pcpu) => {
                self.runs[pcpu] = None;
                self.shared.put(pcpu);
            }
            Op::Pin(vm) => {
                let (tlbs, runs, rollovers) = (&mut self.tlbs, &self.runs, &mut self.rollovers);
                let all = || {
                    flush(tlbs, runs);
                    *rollovers += 1;
                };
                match self.allocator.pin(&self.shared, &self.vms[vm].slot, all) {
                    Ok(vmid) => self.vms[vm].pinned = Some(vmid),
                    Err(e) => assert_eq!(e, VmidError::TooManyPinned),
                }
            }
            Op::Unpin(vm) => {
                self.allocator.unpin(&self.vms[vm].slot);
                self.vms[vm].pinned = None;
            }
            Op::Replace(vm) => {
                // A VM ends only when no pCPU runs it; a new one takes its place.
                if self.runs.iter().flatten().all(|(name, _)| *name != self.vms[vm].name) {
                    self.allocator.unpin(&self.vms[vm].slot);
                    self.vms[vm] = Vm { name: self.names, slot: VmidSlot::new(), pinned: None };
                    self.names += 1;
                }
            }
        }
        self.check();
    }

    fn check(&self) {
        let running: Vec<_> = self.runs.iter().flatten().collect();
        for (a, b) in running.iter().flat_map(|a| running.iter().map(move |b| (a, b))) {
            assert_eq!(a.0 == b.0, a.1 == b.1, "one VMID for each VM and one VM for each VMID: {running:?}");
        }
        for vm in &self.vms {
            if let Some(pinned) = vm.pinned {
                assert_eq!(vm.slot.vmid(), Some(pinned), "a pinned VMID changed");
                let others = self.runs.iter().flatten().filter(|(name, vmid)| *name != vm.name && *vmid == pinned);
                assert_eq!(others.count(), 0, "a pinned VMID was handed out");
            }
            // A TLB invalidation under the slot's VMID finds whatever is cached for the VM.
            for (vmid, _) in self.tlbs.iter().flatten().filter(|(_, name)| **name == vm.name) {
                assert_eq!(vm.slot.vmid(), Some(*vmid));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 1 } else { 128 }))]

    #[test]
    fn no_vm_meets_another_ones_translations(
        pcpus in 1..5_usize, spare in 0..4_usize, ops in prop::collection::vec(op(4, 7), 1..if cfg!(miri) { 40 } else { 250 }),
    ) {
        let mut world = World::new(pcpus + 2 + spare, pcpus, 7);
        for op in &ops {
            match op {
                Op::Load(p, _) | Op::Put(p) if *p >= pcpus => {}
                op => world.step(op),
            }
        }
    }
}

#[test]
fn rollovers_happen_and_keep_who_runs() {
    let mut world = World::new(5, 2, 3);
    world.step(&Op::Load(0, 0));
    let first = world.runs[0];
    for _ in 0..100 {
        world.step(&Op::Load(1, 1));
        world.step(&Op::Put(1));
        world.step(&Op::Replace(1));
    }
    assert!(world.rollovers > 30, "{}", world.rollovers);
    world.step(&Op::Load(1, 0));
    assert_eq!(world.runs[1], first, "the other pCPU joins under the VMID that was preserved");
}

#[test]
fn a_generation_uses_every_vmid_once() {
    // 2^16 of them are too many for Miri.
    for bits in [8, 16].into_iter().take(if cfg!(miri) { 1 } else { 2 }) {
        let (shared, mut allocator) = Vmids::new(bits, 1).unwrap();
        let (mut seen, mut flushes) = (std::vec![false; 1 << bits], 0);
        for _ in 1..1 << bits {
            let slot = VmidSlot::new();
            assert_eq!((slot.vmid(), shared.load(0, &slot)), (None, None));
            let vmid = allocator.load(&shared, 0, &slot, || flushes += 1).unwrap();
            assert_eq!((shared.load(0, &slot), slot.vmid()), (Some(vmid), Some(vmid)));
            assert!(!std::mem::replace(&mut seen[usize::from(vmid.as_u16())], true));
            shared.put(0);
        }
        assert!(!seen[0] && flushes == 0);
        let slot = VmidSlot::new();
        allocator.load(&shared, 0, &slot, || flushes += 1).unwrap();
        assert_eq!(flushes, 1);
    }
}

#[test]
fn a_put_after_a_rollover_does_not_open_the_fast_path() {
    let (shared, mut allocator) = Vmids::with_count(4, 2).unwrap();
    let slots: Vec<_> = (0..4).map(|_| VmidSlot::new()).collect();
    for (pcpu, slot) in [(0, 0), (1, 1), (1, 2), (1, 3)] {
        allocator.load(&shared, pcpu, &slots[slot], || ()).unwrap();
    }
    // The last load rolled over: pCPU 0 has seen none of it, whatever it puts meanwhile.
    shared.put(0);
    assert_eq!(shared.load(0, &slots[3]), None);
    assert!(shared.is_current(&slots[3]) && !shared.is_current(&slots[0]));
}

#[test]
fn bad_sizes_and_pcpus_are_refused() {
    assert!(matches!(Vmids::new(12, 4), Err(VmidError::BadSize)));
    assert!(matches!(Vmids::new(8, 255), Err(VmidError::BadSize)));
    let (shared, mut allocator) = Vmids::new(8, 2).unwrap();
    let slot = VmidSlot::new();
    assert_eq!(shared.load(2, &slot), None);
    assert_eq!(allocator.load(&shared, 2, &slot, || ()), Err(VmidError::NoSuchPcpu));
    shared.put(2);
}

#[test]
fn threads_never_share_a_vmid_between_vms() {
    const PCPUS: usize = 3;
    const VMS: usize = 9;
    let (shared, allocator) = Vmids::with_count(PCPUS + 3, PCPUS).unwrap();
    let allocator = Mutex::new(allocator);
    let slots: Vec<_> = (0..VMS).map(|_| VmidSlot::new()).collect();
    // Who uses each VMID now: VM and on how many pCPUs.
    let users = Mutex::new(BTreeMap::<Vmid, (usize, usize)>::new());
    let (failed, rolled) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for pcpu in 0..PCPUS {
            let (shared, allocator, slots, users) = (&shared, &allocator, &slots, &users);
            let (failed, rolled) = (&failed, &rolled);
            scope.spawn(move || {
                let mut random = 0x9e37_79b9_u64 + pcpu as u64;
                for _ in 0..if cfg!(miri) { 150 } else { 20_000 } {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    let vm = (random >> 33) as usize % VMS;
                    let vmid = shared.load(pcpu, &slots[vm]).unwrap_or_else(|| {
                        let flush = || rolled.store(true, Ordering::Relaxed);
                        allocator.lock().unwrap().load(shared, pcpu, &slots[vm], flush).unwrap()
                    });
                    let (owner, count) = {
                        let mut users = users.lock().unwrap();
                        let user = users.entry(vmid).or_insert((vm, 0));
                        user.1 += 1;
                        *user
                    };
                    if owner != vm {
                        failed.store(true, Ordering::Relaxed);
                    }
                    assert!(count <= PCPUS);
                    let mut users = users.lock().unwrap();
                    let user = users.get_mut(&vmid).unwrap();
                    user.1 -= 1;
                    if user.1 == 0 {
                        users.remove(&vmid);
                    }
                    drop(users);
                    shared.put(pcpu);
                }
            });
        }
    });
    assert!(!failed.into_inner() && rolled.into_inner());
}
