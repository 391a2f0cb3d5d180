//! Whose registers a pCPU has: those of one vCPU are saved when another one comes, and not before.

use super::Cpu;
use crate::gic::{Controller, PcpuGic};
use crate::guest::Runner;
use crate::hw::{Hardware, debug_values};
use crate::machine::Machine;
use alloc::boxed::Box;
use core::sync::atomic::Ordering;
use el2::world::{GuestState, LoadedEl1};
use sched::{EntityId, Kind, TimerId};

impl Cpu {
    /// Saves the resident vCPU's registers. `goes_on`: it will want them again, so its timer's deadline is kept as well.
    pub fn evict(&mut self, goes_on: bool) {
        let Some((id, guest, vcpu)) = self.resident.take() else { return };
        let Some(slot) = self.machine.slot(id) else { return };
        let mut place = slot.runner.lock();
        match place.as_mut() {
            Some(runner) => self.pcpu.put(&mut runner.state),
            // Gone with its VM: the registers are nobody's.
            None => self.pcpu.put(&mut GuestState::default()),
        }
        self.machine.vmids.put(self.pcpu.number());
        self.set_timer_active(false);
        let Some(runner) = place.as_ref() else { return };
        let deadline = runner.state.timer.deadline().filter(|_| goes_on);
        drop(place);
        // A timer that has fired and is not done with needs no deadline: its state is in the vGIC.
        let fired = guest.vm.vgic().lock().timer_active(vcpu);
        if let Some(at) = deadline.filter(|_| !fired) {
            let offset = guest.counter_offset.load(Ordering::Relaxed);
            let timer = TimerId { id, kind: Kind::Virtual };
            self.shared.sched.lock().timers.set(timer, at.saturating_add(offset));
            self.timer_changed = true;
        }
    }

    /// Makes the registers those of `runner`, and its list registers live. `false`: it cannot run.
    pub(super) fn switch_to<G: Controller>(&mut self, runner: &mut Box<Runner>) -> bool {
        let machine = self.machine;
        let index = runner.vcpu.index;
        let guest = runner.guest.clone();
        let start = guest.vm.port(index).and_then(|port| port.take_start());
        let resident = self.resident.as_ref().is_some_and(|(id, ..)| *id == runner.id);
        if let Some(start) = start {
            if resident {
                // What it left in the registers is not wanted any more.
                self.resident = None;
                self.pcpu.put(&mut runner.state);
                self.set_timer_active(false);
            }
            runner.vcpu.start(&start);
            runner.state = GuestState::reset(config::map::vcpu_mpidr(index));
            // The timers of its former life are off, and so are their interrupts.
            guest.vm.vgic().change(|vgic| {
                vgic.reset_cpu_interface(index);
                vgic.hw_timer_retracted(index);
                vgic.set_ppi_level(index, vm::timer::INTID, false);
            });
            guest.vm.started(index);
        }
        if self.resident.as_ref().is_none_or(|(id, ..)| *id != runner.id) {
            self.evict(true);
            self.cancel_timers(runner);
            let offset = guest.counter_offset.load(Ordering::Acquire);
            let number = self.pcpu.number();
            let Some(space) = guest.space.activate(number, &machine.vmids, &machine.vmid_allocator, offset) else {
                return false;
            };
            self.pcpu.load(&runner.state, &space);
            self.pcpu.set_debug(debug_values(&runner.vcpu.debug));
            self.pcpu.watch_stage1(runner.vcpu.watch_stage1);
            if let Some(last) = guest.last_ran.get(number) {
                let before = last.swap(index + 1, Ordering::Relaxed);
                if before != 0 && before != index + 1 {
                    el2::tlb::flush_local_vm();
                }
            }
            let active = guest.vm.vgic().lock().timer_active(index);
            if active {
                self.set_timer_active(true);
            }
            self.resident = Some((runner.id, guest.clone(), index));
            self.shared.sched.lock().queue.set_resident(Some(runner.id));
            // Its emulated timer's deadline belongs here now.
            if runner.vcpu.ptimer != vm::timer::PhysicalTimer::default() {
                let mut hardware =
                    hardware::<G>(&mut self.pcpu, &mut self.gic, machine, runner.id, &mut self.timer_changed);
                runner.vcpu.timer_due(&guest.vm, &mut hardware);
            }
            runner.timers_on = number;
        }
        let mut vgic = guest.vm.vgic().lock();
        vgic.load(index, G::lists(&mut self.gic));
        runner.vcpu.tick |= vgic.timer_active(index);
        drop(vgic);
        runner.vcpu.flush_due = true;
        self.timer_changed = true;
        true
    }

    /// The deadlines that stood for the vCPU while it was not loaded.
    fn cancel_timers(&mut self, runner: &Runner) {
        if let Some(pcpu) = self.machine.pcpus.get(runner.timers_on) {
            let mut sched = pcpu.sched.lock();
            sched.timers.cancel(TimerId { id: runner.id, kind: Kind::Virtual });
            sched.timers.cancel(TimerId { id: runner.id, kind: Kind::Physical });
        }
    }
}

/// The pCPU as `vm` wants it.
#[inline(always)]
pub fn hardware<'a, G: Controller>(
    pcpu: &'a mut el2::Pcpu,
    gic: &'a mut PcpuGic,
    machine: &'static Machine,
    id: EntityId,
    timer_changed: &'a mut bool,
) -> Hardware<'a, G> {
    Hardware { pcpu, lists: G::lists(gic), machine, id, timer_changed, el1: LoadedEl1::new() }
}
