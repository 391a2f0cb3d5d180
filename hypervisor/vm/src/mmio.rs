//! A device access: the interrupt controller's frames, then the bus, then nothing.

use crate::exit::{Hw, Next, give};
use crate::machine::Vm;
use crate::vcpu::Vcpu;
use bus::{AccessError, Completion};
use trap::{Injection, Mmio};
use vgic::{ListRegs, Refusal, Vgic};

/// One of the interrupt controller's frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Frame {
    Distributor,
    Redistributor,
    DistributorV2,
    /// GICC. What is accessed without an exit is the hardware's.
    CpuV2,
}

/// A load from GICD that nobody has to be asked for; `false` for any other access, and nothing has happened.
#[inline(always)]
pub(crate) fn quick(vm: &Vm, vcpu: &mut Vcpu, access: &Mmio) -> bool {
    // An address below the base wraps to a large offset.
    let offset = access.ipa.as_u64().wrapping_sub(vm.parts.quick_gicd.start().as_u64());
    if access.write || offset >= vm.parts.quick_gicd.size() {
        return false;
    }
    match vm.parts.vgic.lock().dist_read(vcpu.index, offset, access.size) {
        Ok(value) => {
            vcpu.counts.mmio = vcpu.counts.mmio.wrapping_add(1);
            access.complete_load(&mut vcpu.frame, value);
            vcpu.frame.skip(access.il);
            true
        }
        Err(_) => false,
    }
}

/// Completes the guest's load or store.
pub(crate) fn handle<H: Hw>(vm: &Vm, vcpu: &mut Vcpu, hw: &mut H, access: &Mmio) -> Next {
    for (frame, span) in vm.parts.frames {
        let offset = access.ipa.as_u64().wrapping_sub(span.start().as_u64());
        if offset < span.size() {
            return controller(vm, vcpu, hw, access, frame, offset);
        }
    }
    let completion = match vm.bus().find(access.ipa, access.size) {
        Some((device, offset)) => {
            let mut device = device.lock();
            if access.write {
                let value = access.store_value(&vcpu.frame);
                vm.bus().complete_write(device.write(offset, access.size, value))
            } else {
                vm.bus().complete_read(device.read(offset, access.size))
            }
        }
        None => vm.bus().complete_nowhere(),
    };
    // The device may have raised an interrupt of this very vCPU.
    vcpu.flush_due |= vm.port(vcpu.index).is_some_and(|port| !port.requests().is_empty());
    complete(vm, vcpu, hw, access, completion)
}

#[inline]
fn complete<H: Hw>(vm: &Vm, vcpu: &mut Vcpu, hw: &mut H, access: &Mmio, completion: Completion) -> Next {
    match completion {
        Completion::Done(value) => {
            if !access.write {
                access.complete_load(&mut vcpu.frame, value);
            }
            vcpu.frame.skip(access.il);
        }
        Completion::ExternalAbort => abort(vm, vcpu, hw, access),
        // The gate looks after everybody else before the instruction comes again.
        Completion::Again => vcpu.flush_due = true,
    }
    Next::Resume
}

#[cold]
#[inline(never)]
fn abort<H: Hw>(vm: &Vm, vcpu: &mut Vcpu, hw: &mut H, access: &Mmio) {
    let what = Injection::ExternalAbort {
        instruction: false,
        write: access.write,
        maintenance: false,
        va: Some(access.va),
        on_walk: None,
    };
    give(vm, vcpu, hw, what);
}

/// GICD and GICR, or GICC: these know who asks.
fn controller<H: Hw>(vm: &Vm, vcpu: &mut Vcpu, hw: &mut H, access: &Mmio, frame: Frame, offset: u64) -> Next {
    let by = vcpu.index;
    let value = access.store_value(&vcpu.frame);
    let mut vgic = vm.parts.vgic.lock();
    let mut result = attempt(&mut vgic, by, hw.lists(), access, frame, offset, value);
    if let Err(Refusal::Fold(whom)) = result
        && whom.contains(by)
    {
        // One's own list registers are at hand.
        vgic.sync(by, hw.lists());
        vcpu.flush_due = true;
        result = attempt(&mut vgic, by, hw.lists(), access, frame, offset, value);
    }
    let mut whom = vgic.take_notify();
    vcpu.flush_due |= vgic.needs_flush(by);
    drop(vgic);
    whom.remove(by);
    if !whom.is_empty() {
        vm.parts.vgic.tell(whom);
    }
    let completion = match result {
        Ok(value) => Completion::Done(value),
        Err(Refusal::Fold(whom)) => return Next::Fold(whom),
        Err(Refusal::Access(error)) => refused(vm, access.write, error),
    };
    complete(vm, vcpu, hw, access, completion)
}

#[inline]
fn attempt(
    vgic: &mut Vgic,
    by: u32,
    lists: &mut impl ListRegs,
    access: &Mmio,
    frame: Frame,
    offset: u64,
    value: u64,
) -> Result<u64, Refusal> {
    match (frame, access.write) {
        (Frame::Distributor, false) => vgic.dist_read(by, offset, access.size),
        (Frame::Distributor, true) => vgic.dist_write(by, offset, access.size, value).map(|()| 0),
        (Frame::Redistributor, false) => vgic.redist_read(by, offset, access.size),
        (Frame::Redistributor, true) => vgic.redist_write(by, offset, access.size, value).map(|()| 0),
        (Frame::DistributorV2, false) => vgic.v2_dist_read(by, offset, access.size),
        (Frame::DistributorV2, true) => vgic.v2_dist_write(by, offset, access.size, value).map(|()| 0),
        (Frame::CpuV2, false) => vgic.v2_cpu_read(offset, access.size),
        (Frame::CpuV2, true) => vgic.v2_cpu_write(by, offset, access.size, value, lists).map(|()| 0),
    }
}

fn refused(vm: &Vm, write: bool, error: AccessError) -> Completion {
    if write { vm.bus().complete_write(Err(error)) } else { vm.bus().complete_read(Err(error)) }
}
