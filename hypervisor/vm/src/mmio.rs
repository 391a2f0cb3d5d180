//! A device access: the interrupt controller's frames, then the bus, then nothing.

use crate::exit::{Hw, Next, give};
use crate::machine::Vm;
use crate::vcpu::Vcpu;
use bus::{AccessError, Completion};
use trap::{Injection, Mmio};
use vgic::Refusal;

/// Completes the guest's load or store.
#[inline]
pub(crate) fn handle<H: Hw>(vm: &Vm, vcpu: &mut Vcpu, hw: &mut H, access: &Mmio) -> Next {
    let at = access.ipa;
    let size = access.size.bytes();
    let dist = vm.parts.gicd.contains_range(at, size);
    if dist || vm.parts.gicr.contains_range(at, size) {
        return controller(vm, vcpu, hw, access, dist);
    }
    let completion = match vm.bus().find(at, access.size) {
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
        Completion::ExternalAbort => {
            let what = Injection::ExternalAbort {
                instruction: false,
                write: access.write,
                va: Some(access.va),
                on_walk: None,
            };
            give(vm, vcpu, hw, what);
        }
    }
    Next::Resume
}

/// GICD and GICR: these know who asks.
#[inline]
fn controller<H: Hw>(vm: &Vm, vcpu: &mut Vcpu, hw: &mut H, access: &Mmio, dist: bool) -> Next {
    let base = if dist { vm.parts.gicd } else { vm.parts.gicr }.start().as_u64();
    let offset = access.ipa.as_u64().wrapping_sub(base);
    let by = vcpu.index;
    let value = if access.write { access.store_value(&vcpu.frame) } else { 0 };
    let mut vgic = vm.parts.vgic.lock();
    let mut attempt = || match (dist, access.write) {
        (true, false) => vgic.dist_read(by, offset, access.size),
        (true, true) => vgic.dist_write(by, offset, access.size, value).map(|()| 0),
        (false, false) => vgic.redist_read(by, offset, access.size),
        (false, true) => vgic.redist_write(by, offset, access.size, value).map(|()| 0),
    };
    let mut result = attempt();
    if let Err(Refusal::Fold(whom)) = result
        && whom.contains(by)
    {
        // One's own list registers are at hand.
        vgic.sync(by, hw.lists());
        vcpu.flush_due = true;
        result = match (dist, access.write) {
            (true, false) => vgic.dist_read(by, offset, access.size),
            (true, true) => vgic.dist_write(by, offset, access.size, value).map(|()| 0),
            (false, false) => vgic.redist_read(by, offset, access.size),
            (false, true) => vgic.redist_write(by, offset, access.size, value).map(|()| 0),
        };
    }
    let whom = if access.write { vgic.take_notify() } else { vgic::VcpuSet::default() };
    vcpu.flush_due |= access.write && vgic.needs_flush(by);
    drop(vgic);
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

fn refused(vm: &Vm, write: bool, error: AccessError) -> Completion {
    if write { vm.bus().complete_write(Err(error)) } else { vm.bus().complete_read(Err(error)) }
}
