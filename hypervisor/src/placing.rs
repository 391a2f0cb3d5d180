//! What a VM may have of the pCPUs: its class, its affinity, its weight and its maximum, when it is made and when they are changed;
//! and what a group may have of them and of memory.
//!
//! All of it happens under management's lock, so that two VMs are never promised the same time.

use crate::construct::{no_memory, refused_spec};
use crate::guest::{Guest, Runner};
use crate::machine::Machine;
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use config::map;
use config::setting::Setting;
use config::spec::{CpuClass, CpuMax, GroupSpec, key};
use core::sync::atomic::Ordering;
use el2::world::GuestState;
use proto::Refusal;
use sched::{
    AdmissionError, Affinity, Class, EntityId, Error, GroupId, Max, RT_MAX_PERCENT, Rt, Stolen, VmId, Weight, admit_rt,
};
use vm::{Shown, Vcpu};

/// How often a pCPU is looked for that stays empty until its partition is there.
const TRIES: usize = 3;

/// The VM's number in the table of shares.
pub fn share_of(guest: &Guest) -> VmId {
    VmId(guest.number.0)
}

/// `cpu.max` as the scheduler has it.
pub fn limit(max: Option<CpuMax>) -> Option<Max> {
    max.and_then(|max| Max::new(max.quota_us.try_into().ok()?, max.period_us.try_into().ok()?))
}

/// `cpu.class` as the scheduler has it.
pub fn class_of(class: CpuClass) -> Option<Class> {
    Some(match class {
        CpuClass::Fair => Class::Fair,
        CpuClass::Partition => Class::Partition,
        CpuClass::Rt { priority, budget_us, period_us } => Class::Rt(Rt {
            priority: priority.try_into().ok()?,
            budget_us: budget_us.try_into().ok()?,
            period_us: period_us.try_into().ok()?,
        }),
    })
}

fn refused_class(why: String) -> Refusal {
    refused_spec(key::CPU_CLASS, why)
}

/// `cpu.affinity` as the scheduler has it.
pub fn allowed(affinity: Option<&[u32]>) -> Affinity {
    affinity.map_or(Affinity::ALL, |list| list.iter().map(|pcpu| *pcpu as usize).collect())
}

/// Gives each vCPU of a new VM its place and its runqueue. On an error some have them: the VM has to be taken apart.
pub fn admit(machine: &Machine, guest: &Arc<Guest>, group: Option<usize>) -> Result<(), Refusal> {
    let share = share_of(guest);
    let group = group.map(|group| GroupId(group as u16));
    let _ = machine.shares.add_vm(share, Weight::new(guest.spec.cpu.weight).unwrap_or_default(), group);
    let _ = machine.shares.set_vm_max(share, limit(guest.spec.cpu.max), crate::time::now_ns());
    let class = class_of(guest.spec.cpu.class).ok_or_else(|| refused_class("is out of range".into()))?;
    for vcpu in 0..guest.spec.vcpus {
        admit_one(machine, guest, vcpu, class)?;
    }
    Ok(())
}

fn admit_one(machine: &Machine, guest: &Arc<Guest>, vcpu: u32, class: Class) -> Result<(), Refusal> {
    let id = guest.entity(vcpu);
    let Some(slot) = machine.slot(id) else { return Ok(()) };
    *slot.owner.lock() = Some((guest.clone(), vcpu));
    slot.whose.store(u32::from(guest.vm.id()) << 16 | vcpu, Ordering::Relaxed);
    for _ in 0..TRIES {
        let home = home(machine, guest, vcpu, class)?;
        let Some(pcpu) = machine.pcpus.get(home) else { continue };
        *slot.runner.lock() = Some(Box::new(Runner {
            id,
            guest: guest.clone(),
            vcpu: Vcpu::new(vcpu),
            state: GuestState::reset(map::vcpu_mpidr(vcpu)),
            timers_on: home,
            shown: Shown::default(),
        }));
        let Ok(record) = Stolen::new(&machine.shares, id, share_of(guest)) else { continue };
        let record = record.allow(*guest.allowed.lock());
        let now = crate::time::now_ns();
        let mut sched = pcpu.sched.lock();
        // What is not wanted is freed after the queue's lock: the heap's comes before it.
        let unwanted = match sched.queue.admit(record) {
            Err(record) => Some(record),
            Ok(()) if class == Class::Fair || sched.queue.set_class(id, class, now).is_ok() => {
                slot.home.store(home, Ordering::Release);
                None
            }
            Ok(()) => sched.queue.remove(id, now).ok(),
        };
        drop(sched);
        if unwanted.is_none() {
            return Ok(());
        }
    }
    Err(refused_class("its pCPU was taken by others meanwhile; try again".into()))
}

/// The pCPU on which a new vCPU begins.
fn home(machine: &Machine, guest: &Guest, vcpu: u32, class: Class) -> Result<usize, Refusal> {
    let (listed, first) = match guest.spec.cpu.affinity.as_deref() {
        Some(list) => (list.iter().map(|pcpu| *pcpu as usize).collect(), vcpu as usize),
        None => ((0..machine.pcpus.len()).collect::<Vec<_>>(), guest.entity(vcpu).0 as usize),
    };
    let count = listed.len().max(1);
    let mut open = (0..count)
        .filter_map(|n| listed.get((first + n) % count).copied())
        .filter(|pcpu| *pcpu < machine.pcpus.len() && !machine.owned(*pcpu));
    match class {
        Class::Fair => open.next().ok_or_else(|| {
            let why = "each pCPU that it may run on is a partition's; leave it one that is not";
            refused_spec(key::CPU_AFFINITY, why)
        }),
        Class::Partition => open.find(|pcpu| vacate(machine, *pcpu)).ok_or_else(|| {
            refused_class(format!(
                "no pCPU is free for vCPU {vcpu}: keep the other VMs from one by their cpu.affinity, or give it fewer vCPUs"
            ))
        }),
        Class::Rt(rt) => {
            let mut last = None;
            for pcpu in open {
                match admit_rt(&real_time_at(machine, pcpu, None), rt) {
                    Ok(()) => return Ok(pcpu),
                    Err(why) => last = Some((pcpu, why)),
                }
            }
            Err(refused_class(match last {
                Some((pcpu, why)) => in_words(vcpu, pcpu, why),
                None => "each pCPU that it may run on is a partition's".into(),
            }))
        }
    }
}

/// Why a pCPU does not promise a real-time vCPU its time.
fn in_words(vcpu: u32, pcpu: usize, why: AdmissionError) -> String {
    match why {
        AdmissionError::Period => "its period is out of range".into(),
        AdmissionError::Budget => "its budget is out of range".into(),
        AdmissionError::Utilization { ppm } => format!(
            "with vCPU {vcpu} the real-time vCPUs of pCPU {pcpu} would have {} % of it, and {RT_MAX_PERCENT} % is the most",
            ppm.div_ceil(10_000)
        ),
        AdmissionError::Late { response } => format!(
            "vCPU {vcpu} could have to wait {} us for its budget on pCPU {pcpu}, longer than its period",
            response.div_ceil(1000)
        ),
        AdmissionError::Breaks { response, .. } => format!(
            "with vCPU {vcpu} another real-time vCPU of pCPU {pcpu} could have to wait {} us for its budget, longer than its period",
            response.div_ceil(1000)
        ),
    }
}

/// The real-time vCPUs of a pCPU, but `besides`.
fn real_time_at(machine: &Machine, number: usize, besides: Option<EntityId>) -> Vec<Rt> {
    let Some(pcpu) = machine.pcpus.get(number) else { return Vec::new() };
    let ids: Vec<EntityId> = machine.living_at(number).filter(|id| Some(*id) != besides).collect();
    let mut found = Vec::with_capacity(ids.len());
    let sched = pcpu.sched.lock();
    for id in ids {
        if let Some(Class::Rt(rt)) = sched.queue.class(id) {
            found.push(rt);
        }
    }
    drop(sched);
    found
}

/// Sends a pCPU's fair vCPUs elsewhere, those that run there aside. `false`: somebody stays.
fn vacate(machine: &Machine, number: usize) -> bool {
    let Some(pcpu) = machine.pcpus.get(number) else { return false };
    for id in machine.living_at(number) {
        let (class, allowed) = {
            let sched = pcpu.sched.lock();
            (sched.queue.class(id), sched.queue.affinity(id))
        };
        // Nobody of that number, or it has just left.
        let (Some(class), Some(allowed)) = (class, allowed) else { continue };
        let others = |at| if at == number { None } else { machine.shares.view(at) };
        let to = sched::place(others, machine.pcpus.len(), number, allowed, Class::Fair, false);
        let (Class::Fair, Some(to)) = (class, to) else { return false };
        let taken = pcpu.sched.lock().queue.take(id, crate::time::now_ns());
        let Ok(stolen) = taken else { return false };
        let (at, effect) = machine.deliver(stolen, number, to);
        if let Some(effect) = effect {
            machine.enqueued(at, effect);
        }
    }
    true
}

/// Changes a setting of a VM that is there.
pub fn apply(machine: &Machine, guest: &Guest, setting: &Setting) -> Result<(), Refusal> {
    let share = share_of(guest);
    match setting {
        Setting::Weight(weight) => {
            let _ = machine.shares.set_vm_weight(share, Weight::new(*weight).unwrap_or_default());
            refresh(machine, guest);
        }
        Setting::Max(max) => {
            let _ = machine.shares.set_vm_max(share, limit(*max), crate::time::now_ns());
            refresh(machine, guest);
        }
        Setting::MemoryMax(max) => {
            let _ = machine.memory.lock().frames.set_limit(guest.account, max.unwrap_or(u64::MAX));
        }
        Setting::Affinity(list) => affinity(machine, guest, allowed(list.as_deref()))?,
        Setting::Class(class) => {
            let class = class_of(*class).ok_or_else(|| refused_class("is out of range".into()))?;
            change_class(machine, guest, class)?;
        }
    }
    Ok(())
}

/// Makes a change in the table of shares count at once.
fn refresh(machine: &Machine, guest: &Guest) {
    for id in guest.entities() {
        let now = crate::time::now_ns();
        if let Ok(home) = machine.at_home(id, |queue, home| queue.refresh(id, now).map(|()| home)) {
            // One that runs and was not limited gets its first grant when it is picked.
            machine.preempt(home);
        }
    }
}

fn affinity(machine: &Machine, guest: &Guest, mask: Affinity) -> Result<(), Refusal> {
    if !(0..machine.pcpus.len()).any(|pcpu| mask.has(pcpu) && !machine.owned(pcpu)) {
        return Err(refused_spec(key::CPU_AFFINITY, "leaves it no pCPU that is not a partition's"));
    }
    for id in guest.entities() {
        if machine.at_home(id, |queue, _| queue.set_affinity(id, mask)) == Err(Error::Pinned) {
            return Err(refused_spec(key::CPU_AFFINITY, "its cpu.class ties its vCPUs to their pCPUs"));
        }
    }
    *guest.allowed.lock() = mask;
    machine.disperse();
    Ok(())
}

fn change_class(machine: &Machine, guest: &Guest, class: Class) -> Result<(), Refusal> {
    let mask = *guest.allowed.lock();
    let former = *guest.class.lock();
    for vcpu in 0..guest.spec.vcpus {
        if let Err(refusal) = change_one(machine, guest, vcpu, class, mask) {
            // All as it was: each had been admitted before.
            for earlier in 0..vcpu {
                let _ = set_class(machine, guest.entity(earlier), former, mask);
            }
            return Err(refusal);
        }
    }
    *guest.class.lock() = class;
    for number in 0..machine.pcpus.len() {
        machine.preempt(number);
    }
    Ok(())
}

/// A real-time or partition vCPU is tied to the pCPU where it is; a fair one goes wherever its VM may.
fn set_class(machine: &Machine, id: EntityId, class: Class, mask: Affinity) -> Result<(), Error> {
    machine.at_home(id, |queue, _| {
        queue.set_class(id, class, crate::time::now_ns())?;
        if class == Class::Fair { queue.set_affinity(id, mask).map(drop) } else { Ok(()) }
    })
}

/// Changes the class of one vCPU.
fn change_one(machine: &Machine, guest: &Guest, vcpu: u32, class: Class, mask: Affinity) -> Result<(), Refusal> {
    let id = guest.entity(vcpu);
    if let Class::Rt(rt) = class {
        let home = machine.slot(id).map_or(0, |slot| slot.home.load(Ordering::Acquire));
        admit_rt(&real_time_at(machine, home, Some(id)), rt).map_err(|why| refused_class(in_words(vcpu, home, why)))?;
    }
    let changed = set_class(machine, id, class, mask);
    changed.map_err(|error| match error {
        Error::Occupied => {
            let home = machine.slot(id).map_or(0, |slot| slot.home.load(Ordering::Acquire));
            refused_class(format!(
                "pCPU {home}, where vCPU {vcpu} is, has others; keep them from it by their cpu.affinity"
            ))
        }
        error => Refusal::Unsupported(format!("vCPU {vcpu} cannot change its class: {error:?}")),
    })
}

/// Makes a group, or changes one.
pub fn group(machine: &Machine, index: usize, group: &GroupSpec) -> Result<(), Refusal> {
    let id = GroupId(index as u16);
    let weight = Weight::new(group.weight).unwrap_or_default();
    let bytes = group.memory_max.unwrap_or(u64::MAX);
    let account = machine.groups.lock().get(index).copied();
    match account {
        Some(account) => {
            let _ = machine.memory.lock().frames.set_limit(account, bytes);
            let _ = machine.shares.set_group_weight(id, weight);
        }
        None => {
            let account = machine.memory.lock().frames.open_account(bytes);
            let account = account.map_err(|e| no_memory(machine, e, 0))?;
            machine.groups.lock().push(account);
            let _ = machine.shares.add_group(id, weight);
        }
    }
    let _ = machine.shares.set_group_max(id, limit(group.cpu_max), crate::time::now_ns());
    // Its VMs' vCPUs follow when they are picked next.
    (0..machine.pcpus.len()).for_each(|number| machine.preempt(number));
    Ok(())
}
