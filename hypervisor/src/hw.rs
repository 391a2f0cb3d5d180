//! The pCPU as `vm` sees it.

use crate::gic::Controller;
use crate::machine::Machine;
use addr::Va;
use el2::Pcpu;
use el2::debug::DebugValues;
use el2::world::{self, LoadedEl1, Stage1Controls};
use sched::{EntityId, Kind, TimerId};
use trap::SysRegId;
use vm::debug::DebugState;
use vm::{Hw, Probe, Stage1, Vcpu};

/// The hardware of the pCPU on which a vCPU is loaded.
pub struct Hardware<'a, G: Controller> {
    /// The pCPU.
    pub pcpu: &'a mut Pcpu,
    /// Its list registers.
    pub lists: &'a mut G::Lists,
    /// The machine.
    pub machine: &'static Machine,
    /// Which vCPU is loaded.
    pub id: EntityId,
    /// The pCPU's timer has to be set again before the next entry.
    pub timer_changed: &'a mut bool,
    /// EL1's registers.
    pub el1: LoadedEl1,
}

impl<G: Controller> Hw for Hardware<'_, G> {
    type Lists = G::Lists;
    type El1 = LoadedEl1;

    #[inline]
    fn lists(&mut self) -> &mut G::Lists {
        self.lists
    }
    fn el1(&mut self) -> &mut LoadedEl1 {
        &mut self.el1
    }
    #[inline]
    fn count(&self) -> u64 {
        el2::timer::now()
    }
    fn set_physical_timer(&mut self, deadline: Option<u64>) {
        if let Some(shared) = self.machine.pcpus.get(self.pcpu.number()) {
            let timer = TimerId { id: self.id, kind: Kind::Physical };
            let mut sched = shared.sched.lock();
            match deadline {
                Some(at) => sched.timers.set(timer, at),
                None => sched.timers.cancel(timer),
            };
            *self.timer_changed = true;
        }
    }
    fn apply_debug(&mut self, vcpu: &Vcpu) {
        self.pcpu.set_debug(debug_values(&vcpu.debug));
    }
    fn write_stage1(&mut self, id: SysRegId, value: u64) -> Option<(bool, bool)> {
        if (id.op0(), id.op1()) != (3, 0) {
            return None;
        }
        world::write_stage1(id.crn(), id.crm(), id.op2(), value)
    }
    fn watch_stage1(&mut self, on: bool) {
        self.pcpu.watch_stage1(on);
    }
    fn stage1(&self) -> Stage1 {
        let Stage1Controls { sctlr, tcr, ttbr0, ttbr1 } = self.el1.stage1();
        Stage1 { sctlr, tcr, ttbr0, ttbr1 }
    }
    fn translate(&mut self, va: Va, what: Probe) -> u64 {
        let (el0, write) = match what {
            Probe::PrivilegedRead => (false, false),
            Probe::PrivilegedWrite => (false, true),
            Probe::UnprivilegedRead => (true, false),
            Probe::UnprivilegedWrite => (true, true),
        };
        self.el1.translate(va.as_u64(), el0, write)
    }
    fn firmware(&mut self, function: u32, x1: u64) {
        if let Some(firmware) = self.machine.firmware {
            firmware.call(function, [x1, 0, 0]);
        }
    }
}

/// What hardware has to hold of a vCPU's debug registers, if anything.
pub fn debug_values(debug: &DebugState) -> Option<DebugValues<'_>> {
    let pairs: [&[_]; 2] = if debug.is_armed() { [&debug.breakpoints, &debug.watchpoints] } else { [&[]; 2] };
    let [breakpoints, watchpoints] = pairs;
    debug.in_use().then_some(DebugValues { breakpoints, watchpoints, mdscr: debug.mdscr })
}
