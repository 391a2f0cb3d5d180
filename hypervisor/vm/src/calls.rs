//! HVC and SMC: the SMC calling convention.

use crate::exit::{Hw, Next, StopReason, wakes};
use crate::machine::Vm;
use crate::vcpu::Vcpu;
use guest_smccc::entropy::NoEntropy;
use guest_smccc::psci::Outcome;
use guest_smccc::{Call, Fast, Regs, fast, pv_time, trng};

/// NOT_SUPPORTED.
const UNKNOWN: Regs = [u64::MAX, 0, 0, 0];

/// Serves a call; the program counter is past the instruction.
#[inline]
pub(crate) fn handle<H: Hw>(vm: &Vm, vcpu: &mut Vcpu, hw: &mut H, imm: u16) -> Next {
    // The convention's immediate is zero; every other is nobody's.
    if imm != 0 {
        return answer(vcpu, UNKNOWN);
    }
    match fast(vcpu.frame.reg(0), vcpu.frame.reg(1), &vm.parts.env) {
        Fast::Return(regs) => answer(vcpu, regs),
        Fast::Forward(function) => {
            hw.firmware(function, vcpu.frame.reg(1));
            answer(vcpu, [0; 4])
        }
        Fast::Stateful => stateful(vm, vcpu, hw),
    }
}

/// A call that needs neither state nor the pCPU; `false` for any other, and nothing has happened.
#[inline(always)]
pub(crate) fn quick(vm: &Vm, vcpu: &mut Vcpu) -> bool {
    let [x0, x1, ..] = vcpu.frame.x;
    match fast(x0, x1, &vm.parts.env) {
        Fast::Return(regs) => {
            vcpu.counts.call = vcpu.counts.call.wrapping_add(1);
            answer(vcpu, regs);
            true
        }
        Fast::Forward(_) | Fast::Stateful => false,
    }
}

#[inline(always)]
fn answer(vcpu: &mut Vcpu, regs: Regs) -> Next {
    let [x0, x1, x2, x3] = regs;
    let [f0, f1, f2, f3, ..] = &mut vcpu.frame.x;
    (*f0, *f1, *f2, *f3) = (x0, x1, x2, x3);
    Next::Resume
}

#[inline(never)]
fn stateful<H: Hw>(vm: &Vm, vcpu: &mut Vcpu, hw: &mut H) -> Next {
    let [x0, x1, x2, x3, x4, x5, x6, ..] = vcpu.frame.x;
    let call = Call::new(x0, [x1, x2, x3, x4, x5, x6]);
    if call.is_trng() {
        let regs = match vm.entropy.lock().as_mut() {
            Some(drbg) => trng::handle(&call, &vm.parts.env, drbg),
            None => trng::handle(&call, &vm.parts.env, &mut NoEntropy),
        };
        return answer(vcpu, regs);
    }
    if call.is_yield() {
        answer(vcpu, [0; 4]);
        return Next::Yield;
    }
    if call.is_pv_time() {
        return answer(vcpu, pv_time::handle(vcpu.index, &call, &vm.parts.env));
    }
    let ram = vm.parts.ram;
    let outcome = vm.psci.lock().handle(vcpu.index as usize, &call, |entry| ram.contains(entry));
    match outcome {
        Outcome::Return(regs) => answer(vcpu, regs),
        Outcome::Start { vcpu: target, state, result } => {
            let target = target as u32;
            if let Some(port) = vm.port(target) {
                port.set_start(state);
                vm.parts.waker.start(vm.parts.id, target);
            }
            answer(vcpu, result)
        }
        Outcome::Standby(regs) => {
            answer(vcpu, regs);
            if wakes(vm, vcpu, hw) { Next::Resume } else { Next::Block }
        }
        // An interrupt that is pending already: nothing is powered down, and the call returns (PSCI, "CPU_SUSPEND").
        Outcome::PowerDown(_) if wakes(vm, vcpu, hw) => answer(vcpu, [0; 4]),
        Outcome::PowerDown(state) => {
            // It wakes as if it had just been started, whenever an interrupt is pending.
            if let Some(port) = vm.port(vcpu.index) {
                port.set_start(state);
            }
            Next::Block
        }
        Outcome::CpuOff { last: false } => Next::Off,
        Outcome::CpuOff { last: true } => Next::Stop(StopReason::AllOff),
        Outcome::SystemOff => Next::Stop(StopReason::PowerOff),
        Outcome::SystemReset { .. } => Next::Stop(StopReason::Reset),
    }
}
