//! Refuses what is described already and not made yet.

use super::{DeviceFault, Fault, Place, SpecError, SwitchSpec, VmSpec, key};
use alloc::vec::Vec;

/// Disks, nets, switches and `rng = true`: nothing makes those devices yet.
pub(super) fn refuse_unwired(vms: &[VmSpec], switches: &[SwitchSpec], found: &mut Vec<(Place, SpecError)>) {
    let fault = |what| Fault::from(DeviceFault::Unwired { what });
    for (vm, owner) in vms.iter().enumerate() {
        if owner.rng {
            found.push((Place::Vm(vm), owner.error(key::RNG, fault("source of random numbers"))));
        }
        for disk in 0..owner.disks.len() {
            found.push((Place::Disk { vm, disk }, owner.error_of_disk(disk, "", fault("disk"))));
        }
        for net in 0..owner.nets.len() {
            found.push((Place::Net { vm, net }, owner.error_of_net(net, "", fault("network card"))));
        }
    }
    for (index, switch) in switches.iter().enumerate() {
        found.push((Place::Switch(index), switch.error("", fault("switch"))));
    }
}
