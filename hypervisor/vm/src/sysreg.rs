//! Trapped system registers: what the model answers, what is emulated, and what is undefined.

use crate::debug::DebugAccess;
use crate::exit::{Hw, Next, undefined};
use crate::machine::Vm;
use crate::timer;
use crate::vcpu::Vcpu;
use trap::{Coprocessor, CpOp, CpTrap, SysReg, SysRegId, sysreg};
use vgic::Refusal;

/// DC ISW, DC CSW, DC CISW.
const SET_WAY: [SysRegId; 3] =
    [SysRegId::new(1, 0, 7, 6, 2), SysRegId::new(1, 0, 7, 10, 2), SysRegId::new(1, 0, 7, 14, 2)];

/// How an access ended.
enum Done {
    /// A read's value.
    Value(u64),
    /// A write.
    Written,
    /// There is no such register for this guest.
    Undefined,
    /// Done, and something is to happen before the guest goes on.
    Then(Next),
    /// Not done: repeat it after this.
    Again(Next),
}

/// Completes an MSR, MRS or SYS instruction.
#[inline]
pub(crate) fn handle<H: Hw>(vm: &Vm, vcpu: &mut Vcpu, hw: &mut H, access: SysReg) -> Next {
    let write = (!access.read).then(|| vcpu.frame.reg(access.rt));
    let done = register(vm, vcpu, hw, access.id, write);
    finish(vm, vcpu, hw, access, done)
}

/// The ID registers, and SGIs; `false` for any other access, and nothing has happened.
#[inline(always)]
pub(crate) fn quick(vm: &Vm, vcpu: &mut Vcpu, access: SysReg) -> bool {
    if access.read {
        let Some((crm, op2)) = access.id.feature_id() else { return false };
        let value = vm.parts.cpu.id_register(crm, op2);
        vcpu.frame.set_reg(access.rt, value);
    } else {
        if access.id != vm.parts.sgi_register {
            return false;
        }
        let value = vcpu.frame.reg(access.rt);
        send_sgi(vm, vcpu, value);
    }
    vcpu.counts.sysreg = vcpu.counts.sysreg.wrapping_add(1);
    vcpu.frame.skip_a64();
    true
}

/// ICC_SGI1R_EL1. (Whether the compiler inlines this by itself depends on what else there is; a frame costs 15 instructions.)
#[inline(always)]
fn send_sgi(vm: &Vm, vcpu: &mut Vcpu, value: u64) {
    let own = vcpu.index;
    let mut vgic = vm.parts.vgic.lock();
    vgic.sgi1r(own, value);
    let mut whom = vgic.take_notify();
    drop(vgic);
    // Whether it concerns this vCPU or not costs less to find out at the gate than here.
    vcpu.flush_due = true;
    whom.remove(own);
    if !whom.is_empty() {
        vm.parts.vgic.tell(whom);
    }
}

/// The same outside the fast lane, of which this is to take nothing away: one copy for all kinds of hardware.
#[inline(never)]
fn send_sgi_slowly(vm: &Vm, vcpu: &mut Vcpu, value: u64) {
    send_sgi(vm, vcpu, value);
}

#[inline]
fn finish<H: Hw>(vm: &Vm, vcpu: &mut Vcpu, hw: &mut H, access: SysReg, done: Done) -> Next {
    let next = match done {
        Done::Value(value) => {
            vcpu.frame.set_reg(access.rt, value);
            Next::Resume
        }
        Done::Written => Next::Resume,
        Done::Then(next) => next,
        Done::Again(next) => return next,
        Done::Undefined => {
            undefined(vm, vcpu, hw);
            return Next::Resume;
        }
    };
    vcpu.frame.skip_a64();
    next
}

#[inline]
fn register<H: Hw>(vm: &Vm, vcpu: &mut Vcpu, hw: &mut H, id: SysRegId, write: Option<u64>) -> Done {
    if write.is_none()
        && let Some((crm, op2)) = id.feature_id()
    {
        return Done::Value(vm.parts.cpu.id_register(crm, op2));
    }
    match (id, write) {
        (id, Some(value)) if id == vm.parts.sgi_register => {
            send_sgi_slowly(vm, vcpu, value);
            Done::Written
        }
        (sysreg::CNTP_CTL_EL0 | sysreg::CNTP_CVAL_EL0 | sysreg::CNTP_TVAL_EL0, _) => {
            physical_timer(vm, vcpu, hw, id, write)
        }
        _ => others(vm, vcpu, hw, id, write),
    }
}

#[inline(never)]
fn others<H: Hw>(vm: &Vm, vcpu: &mut Vcpu, hw: &mut H, id: SysRegId, write: Option<u64>) -> Done {
    let cpu = &vm.parts.cpu;
    match (id, write) {
        (sysreg::REVIDR_EL1, None) => Done::Value(cpu.revidr()),
        (sysreg::MIDR_EL1, None) => Done::Value(cpu.midr()),
        (sysreg::AIDR_EL1, None) => Done::Value(cpu.aidr()),
        (sysreg::CTR_EL0, None) => Done::Value(cpu.ctr()),
        (sysreg::CLIDR_EL1, None) => Done::Value(cpu.clidr()),
        (sysreg::CCSIDR_EL1, None) => Done::Value(cpu.ccsidr(vcpu.csselr)),
        (sysreg::CCSIDR2_EL1, None) => Done::Value(cpu.ccsidr2(vcpu.csselr)),
        (sysreg::CSSELR_EL1, None) => Done::Value(vcpu.csselr),
        (sysreg::CSSELR_EL1, Some(value)) => {
            vcpu.csselr = value & 0xf;
            Done::Written
        }
        // The implementation's own controls read as zero and take nothing.
        (sysreg::ACTLR_EL1, None) => Done::Value(0),
        (sysreg::ACTLR_EL1, Some(_)) => Done::Written,
        // Group 0 interrupts do not exist: what would raise one raises none.
        (sysreg::ICC_SGI0R_EL1 | sysreg::ICC_ASGI1R_EL1, Some(_)) if vm.has_gicv3() => Done::Written,
        (sysreg::ICC_DIR_EL1, Some(value)) if vm.has_gicv3() => deactivate(vm, vcpu, hw, value as u32 & 0xff_ffff),
        (_, Some(value)) if id.op0() == 3 && id.op1() == 0 && vcpu.watch_stage1 => {
            stage1_control(vm, vcpu, hw, id, value)
        }
        (_, Some(_)) if SET_WAY.contains(&id) => {
            // Stage 2 forces write-back, or memory has been cleaned and the guest's caches are watched since: nothing to do.
            if vm.parts.fwb || vcpu.watch_stage1 {
                return Done::Written;
            }
            vcpu.watch_stage1 = true;
            hw.watch_stage1(true);
            vcpu.clean_memory();
            Done::Then(Next::CleanMemory)
        }
        _ if id.op0() == 2 => debug_register(vm, vcpu, hw, id, write),
        _ => Done::Undefined,
    }
}

fn deactivate<H: Hw>(vm: &Vm, vcpu: &mut Vcpu, hw: &mut H, intid: u32) -> Done {
    let mut vgic = vm.parts.vgic.lock();
    let mut result = vgic.dir(vcpu.index, intid, hw.lists());
    if let Err(Refusal::Fold(whom)) = result
        && whom.contains(vcpu.index)
    {
        vgic.sync(vcpu.index, hw.lists());
        result = vgic.dir(vcpu.index, intid, hw.lists());
    }
    let whom = vgic.take_notify();
    drop(vgic);
    vcpu.flush_due = true;
    if !whom.is_empty() {
        vm.parts.vgic.tell(whom);
    }
    match result {
        Err(Refusal::Fold(whom)) => Done::Again(Next::Fold(whom)),
        Ok(()) | Err(Refusal::Access(_)) => Done::Written,
    }
}

fn debug_register<H: Hw>(vm: &Vm, vcpu: &mut Vcpu, hw: &mut H, id: SysRegId, write: Option<u64>) -> Done {
    // EL0 sees none of them.
    if vcpu.frame.is_el0() {
        return Done::Undefined;
    }
    match vcpu.debug.access(id, write, vm.parts.breakpoints, vm.parts.watchpoints) {
        DebugAccess::Value(value) => Done::Value(value),
        DebugAccess::Written => Done::Written,
        DebugAccess::Changed => {
            hw.apply_debug(vcpu);
            Done::Written
        }
        DebugAccess::Undefined => Done::Undefined,
    }
}

/// A write that traps because the guest maintained its caches by set and way: memory is cleaned again when its caches go on or
/// off, and once they are on the guest is left alone (the idea: nothing but set/way needs this, and only around that switch).
fn stage1_control<H: Hw>(_vm: &Vm, vcpu: &mut Vcpu, hw: &mut H, id: SysRegId, value: u64) -> Done {
    match hw.write_stage1(id, value) {
        None => Done::Undefined,
        Some((before, now)) => {
            if now {
                vcpu.watch_stage1 = false;
                hw.watch_stage1(false);
            }
            if before == now {
                return Done::Written;
            }
            vcpu.clean_memory();
            Done::Then(Next::CleanMemory)
        }
    }
}

fn physical_timer<H: Hw>(vm: &Vm, vcpu: &mut Vcpu, hw: &mut H, id: SysRegId, write: Option<u64>) -> Done {
    let now = hw.count();
    let timer = &mut vcpu.ptimer;
    match (id, write) {
        (sysreg::CNTP_CTL_EL0, None) => return Done::Value(timer.control(now)),
        (sysreg::CNTP_CVAL_EL0, None) => return Done::Value(timer.compare()),
        (_, None) => return Done::Value(timer.value(now)),
        (sysreg::CNTP_CTL_EL0, Some(value)) => timer.set_control(value),
        (sysreg::CNTP_CVAL_EL0, Some(value)) => timer.set_compare(value),
        (_, Some(value)) => timer.set_value(value, now),
    }
    update_physical_timer(vm, vcpu, hw);
    Done::Written
}

/// Drives the physical timer's interrupt and sets its next deadline; after a write, and when a deadline has passed.
pub(crate) fn update_physical_timer<H: Hw>(vm: &Vm, vcpu: &mut Vcpu, hw: &mut H) {
    let now = hw.count();
    let level = vcpu.ptimer.asserted(now);
    let mut vgic = vm.parts.vgic.lock();
    vgic.set_ppi_level(vcpu.index, timer::INTID, level);
    let mut whom = vgic.take_notify();
    // Also for the new deadline: the pCPU's timer is set on the way to the next entry.
    vcpu.flush_due = true;
    whom.remove(vcpu.index);
    drop(vgic);
    if !whom.is_empty() {
        vm.parts.vgic.tell(whom);
    }
    hw.set_physical_timer(vcpu.ptimer.deadline(now));
}

/// A coprocessor access of an AArch32 EL0: the physical timer, where EL1 lets it through; nothing else is there.
pub(crate) fn aarch32<H: Hw>(vm: &Vm, vcpu: &mut Vcpu, hw: &mut H, access: &CpTrap) -> Next {
    if !vcpu.frame.condition_holds(access.condition) {
        vcpu.frame.skip(access.il);
        return Next::Resume;
    }
    if access.cp != Coprocessor::Cp15 {
        undefined(vm, vcpu, hw);
        return Next::Resume;
    }
    let (id, rt, high) = match access.op {
        CpOp::Transfer32 { opc1: 0, crn: 14, crm: 2, opc2: 0, rt } => (sysreg::CNTP_TVAL_EL0, rt, None),
        CpOp::Transfer32 { opc1: 0, crn: 14, crm: 2, opc2: 1, rt } => (sysreg::CNTP_CTL_EL0, rt, None),
        CpOp::Transfer64 { opc1: 2, crm: 14, rt, rt2 } => (sysreg::CNTP_CVAL_EL0, rt, Some(rt2)),
        CpOp::Transfer32 { .. } | CpOp::Transfer64 { .. } | CpOp::Memory => {
            undefined(vm, vcpu, hw);
            return Next::Resume;
        }
    };
    let low = vcpu.frame.reg(rt) & 0xffff_ffff;
    let value = low | high.map_or(0, |r| vcpu.frame.reg(r) << 32);
    match physical_timer(vm, vcpu, hw, id, (!access.read).then_some(value)) {
        Done::Value(value) => {
            vcpu.frame.set_reg(rt, value & 0xffff_ffff);
            if let Some(high) = high {
                vcpu.frame.set_reg(high, value >> 32);
            }
        }
        Done::Written | Done::Undefined | Done::Then(_) | Done::Again(_) => {}
    }
    vcpu.frame.skip(access.il);
    Next::Resume
}
