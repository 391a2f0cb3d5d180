//! An exit in, what happens to the runner out.

use crate::machine::Vm;
use crate::vcpu::Vcpu;
use crate::walk::{self, Place, Probe, Stage1};
use crate::{calls, mmio, sysreg};
use addr::Va;
use trap::{El1State, Exit, Fault, FaultStatus, GuestFrame, Injection, SysRegId, Wfx, WfxKind, inject};
use vgic::{ListRegs, VcpuSet};

/// The pCPU on which the vCPU is loaded.
pub trait Hw {
    /// Its list registers.
    type Lists: ListRegs;
    /// The loaded guest's EL1 registers.
    type El1: El1State;
    /// Its list registers.
    fn lists(&mut self) -> &mut Self::Lists;
    /// The loaded guest's EL1 registers.
    fn el1(&mut self) -> &mut Self::El1;
    /// The physical counter, in ticks.
    fn count(&self) -> u64;
    /// When to say [`crate::Requests::TIMER`] to the vCPU, in ticks of [`Hw::count`].
    fn set_physical_timer(&mut self, deadline: Option<u64>);
    /// Brings the hardware's debug registers in line with the vCPU's.
    fn apply_debug(&mut self, vcpu: &Vcpu);
    /// The guest's write of a stage-1 control register that [`Hw::watch_stage1`] made trap. Returns whether its caches (MMU and
    /// data cache both on) were on before, and are on now.
    fn write_stage1(&mut self, id: SysRegId, value: u64) -> Option<(bool, bool)>;
    /// Whether writes of the stage-1 control registers trap.
    fn watch_stage1(&mut self, on: bool);
    /// The loaded guest's stage-1 controls.
    fn stage1(&self) -> Stage1;
    /// What PAR_EL1 holds after stage 1 alone has translated `va`, by the loaded guest's tables as they are now. The guest's own
    /// PAR_EL1 is as before.
    fn translate(&mut self, va: Va, what: Probe) -> u64;
    /// An architecture workaround of the firmware, on this pCPU, with the guest's x1.
    fn firmware(&mut self, function: u32, x1: u64);
}

/// What becomes of the vCPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// It goes on.
    Resume,
    /// The same instruction once more, after these vCPUs have folded their list registers and while they hold still.
    Fold(VcpuSet),
    /// It lets others run.
    Yield,
    /// It sleeps until an interrupt is pending for it.
    Block,
    /// All of the VM's RAM is cleaned and invalidated to the point of coherency, piece by piece
    /// ([`Vcpu::next_to_clean`]); then it goes on.
    CleanMemory,
    /// It is switched off until a CPU_ON.
    Off,
    /// The VM ends or starts again.
    Stop(StopReason),
}

/// Why a VM stops.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StopReason {
    /// The guest called SYSTEM_OFF.
    PowerOff,
    /// Its last vCPU called CPU_OFF.
    AllOff,
    /// From outside.
    Killed,
    /// The guest called SYSTEM_RESET.
    Reset,
    /// Its memory or a device of its own failed: an SError.
    SystemError {
        /// The syndrome.
        iss: u32,
    },
}

/// Handles one exit of `vcpu`, which is loaded on `hw`.
pub fn handle<H: Hw>(vm: &Vm, vcpu: &mut Vcpu, hw: &mut H, exit: Exit) -> Next {
    match exit {
        Exit::Hvc { imm } => {
            count(&mut vcpu.counts.call);
            calls::handle(vm, vcpu, hw, imm)
        }
        Exit::Mmio(access) => {
            count(&mut vcpu.counts.mmio);
            mmio::handle(vm, vcpu, hw, &access)
        }
        Exit::SysReg(access) => {
            count(&mut vcpu.counts.sysreg);
            sysreg::handle(vm, vcpu, hw, access)
        }
        Exit::Wfx(wait) => {
            count(&mut vcpu.counts.wait);
            wait_for(vm, vcpu, hw, wait)
        }
        other => rare(vm, vcpu, hw, other),
    }
}

#[inline]
fn count(counter: &mut u64) {
    *counter = counter.wrapping_add(1);
}

/// The exits that are no part of ordinary running.
#[inline(never)]
fn rare<H: Hw>(vm: &Vm, vcpu: &mut Vcpu, hw: &mut H, exit: Exit) -> Next {
    count(&mut vcpu.counts.other);
    match exit {
        Exit::Hvc { .. } | Exit::Mmio(_) | Exit::SysReg(_) | Exit::Wfx(_) => Next::Resume,
        // Interrupts are the kernel's; one that was gone when it looked needs nothing.
        Exit::Irq | Exit::Fiq => Next::Resume,
        Exit::Stage2Fault(fault) => abort(vm, vcpu, hw, &fault),
        Exit::Smc { imm, condition, il } => {
            if !vcpu.frame.condition_holds(condition) {
                vcpu.frame.skip(il);
                return Next::Resume;
            }
            // A trapped SMC, unlike an HVC, has not advanced the program counter.
            vcpu.frame.skip(il);
            calls::handle(vm, vcpu, hw, imm)
        }
        Exit::SError(error) => Next::Stop(StopReason::SystemError { iss: error.iss }),
        Exit::Aarch32Cp(trap) => sysreg::aarch32(vm, vcpu, hw, &trap),
        Exit::FpTrap
        | Exit::SveTrap
        | Exit::SmeTrap
        | Exit::PauthTrap
        | Exit::Debug(_)
        | Exit::IllegalState
        | Exit::Unknown { .. } => {
            undefined(vm, vcpu, hw);
            Next::Resume
        }
    }
}

/// The guest gets an undefined instruction exception.
pub(crate) fn undefined<H: Hw>(vm: &Vm, vcpu: &mut Vcpu, hw: &mut H) {
    give(vm, vcpu, hw, Injection::Undefined);
}

/// The guest takes an exception at the instruction that exited.
pub(crate) fn give<H: Hw>(vm: &Vm, vcpu: &mut Vcpu, hw: &mut H, what: Injection) {
    count(&mut vcpu.counts.refused);
    let frame: &mut GuestFrame = &mut vcpu.frame;
    inject(frame, hw.el1(), &vm.parts.pstate, what);
}

/// An abort that is no plain device access: the guest pays for it, as it would on a board.
fn abort<H: Hw>(vm: &Vm, vcpu: &mut Vcpu, hw: &mut H, fault: &Fault) -> Next {
    // Cache maintenance to where nothing is has nothing to do.
    if fault.cache_maintenance && !fault.s1ptw {
        vcpu.frame.skip(fault.il);
        return Next::Resume;
    }
    // Where a permission fault was is for stage 1 to say. If that says nothing any more the guest tries again, and faults by its
    // new tables. What it may only read (its stolen time) is nobody's to write, so each place gets the same answer.
    let refused = matches!(fault.status, FaultStatus::Permission { .. });
    if refused && walk::place(hw, &vcpu.frame, fault) == Place::Changed {
        return Next::Resume;
    }
    let on_walk = fault.s1ptw.then(|| walk::level(vm, hw, fault));
    let what = Injection::ExternalAbort {
        instruction: fault.instruction,
        write: fault.write,
        maintenance: fault.cache_maintenance,
        va: fault.va,
        on_walk,
    };
    give(vm, vcpu, hw, what);
    Next::Resume
}

/// Whether an interrupt is pending for the vCPU, so that it need not sleep. Folds its list registers.
pub(crate) fn wakes<H: Hw>(vm: &Vm, vcpu: &mut Vcpu, hw: &mut H) -> bool {
    let mut vgic = vm.parts.vgic.lock();
    let wakes = vgic.wfi_wakes(vcpu.index, hw.lists());
    let whom = vgic.take_notify();
    drop(vgic);
    vcpu.flush_due = true;
    if !whom.is_empty() {
        vm.parts.vgic.tell(whom);
    }
    wakes
}

/// WFI and WFE. The program counter moves on first: waiting is never longer than architecture allows, so the wait is over
/// whenever the vCPU runs again.
fn wait_for<H: Hw>(vm: &Vm, vcpu: &mut Vcpu, hw: &mut H, wait: Wfx) -> Next {
    let holds = vcpu.frame.condition_holds(wait.condition);
    vcpu.frame.skip(wait.il);
    if !holds {
        return Next::Resume;
    }
    match wait.kind {
        WfxKind::Wfi => {
            if wakes(vm, vcpu, hw) {
                Next::Resume
            } else {
                Next::Block
            }
        }
        // The model hides FEAT_WFxT; a WFE may always wake early.
        WfxKind::Wfe | WfxKind::Wfit | WfxKind::Wfet => {
            if vm.parts.patient && vcpu.looks < LOOKS {
                vcpu.looks = vcpu.looks.saturating_add(1);
                return Next::Resume;
            }
            vcpu.looks = 0;
            Next::Yield
        }
    }
}

/// How often a vCPU that waits by WFE looks again before the wait is given away, where the CPU cannot delay the trap (FEAT_TWED). A lock
/// that is held for a moment only is worth less than two switches.
const LOOKS: u8 = 4;
