//! How a VM comes apart.

use crate::console::say;
use crate::guest::Guest;
use crate::machine::{Machine, TablePages};
use crate::placing;
use addr::Pa;
use alloc::sync::Arc;
use core::sync::atomic::Ordering;
use sched::{EntityId, Kind, TimerId};

/// Forgets every deadline of a vCPU that has stopped.
pub fn cancel_timers(machine: &Machine, id: EntityId) {
    for pcpu in &machine.pcpus {
        let mut sched = pcpu.sched.lock();
        for kind in [Kind::Virtual, Kind::Physical] {
            sched.timers.cancel(TimerId { id, kind });
        }
    }
}

/// Gives back what a VM has beside its RAM and Merus' records of it: tables, registers and interrupts of devices, its stolen time. It
/// runs nowhere.
pub(super) fn unmap(machine: &Machine, guest: &Guest) {
    guest.space.destroy(&mut TablePages { memory: &machine.memory, account: guest.account });
    // Nothing maps them any more.
    guest.given.give_back();
    machine.memory.lock().take_back_pages(guest.account, guest.stolen.memory());
}

/// Takes a VM apart: its vCPUs have stopped, no pCPU holds anything of it. Its place at the console stays.
pub fn dismantle(machine: &Machine, guest: &Arc<Guest>) {
    let last = guest.usage(machine);
    // From here on no device reaches its memory, whoever still knows the VM.
    guest.vm.quiesce();
    for id in guest.entities() {
        let Some(slot) = machine.slot(id) else { continue };
        let home = slot.home.load(Ordering::Acquire);
        if let Some(pcpu) = machine.pcpus.get(home) {
            let removed = pcpu.sched.lock().queue.remove(id, crate::time::now_ns());
            // The heap's lock comes before the queue's.
            drop(removed);
        }
        cancel_timers(machine, id);
        *slot.runner.lock() = None;
        *slot.owner.lock() = None;
    }
    let _ = machine.shares.remove_vm(placing::share_of(guest));
    guest.space.flush();
    unmap(machine, guest);
    let mut memory = machine.memory.lock();
    for (_, extent) in guest.ram.extents() {
        memory.take_back(guest.account, *extent);
    }
    memory.frames.uncharge(guest.account, guest.records);
    let _ = memory.frames.close_account(guest.account);
    drop(memory);
    machine.entities.lock().give(guest.first, guest.spec.vcpus);
    if let Some(place) = machine.vms.lock().get_mut(usize::from(guest.number.0)) {
        place.guest = None;
        place.last = last;
    }
}

/// Looks at the RAM of a VM that has been taken apart, if a test wants to see that EL2 cannot.
pub fn look_back(machine: &Machine, guest: &Guest) {
    if machine.look_back {
        el2::ram::read(guest.ram.extents().first().map_or(Pa::new(0), |(_, extent)| extent.start()), &mut [0]);
        say!("the RAM of a VM that has ended is mapped");
    }
}
