//! Which virtio devices a VM has, and in which slots: one answer for the devices that are made and for the tree that the guest reads.

use super::{DeviceFault, Fault, VmSpec};
use crate::map;

/// What is in a slot of virtio over MMIO.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VirtioDevice {
    /// The source of random numbers.
    Rng,
    /// The disk of this number among the VM's disks.
    Disk(usize),
    /// The network card of this number among the VM's.
    Net(usize),
    /// The power key.
    PowerKey,
}

/// The slots before the power key's, which is kept even where there is no such key.
pub const DEVICE_SLOTS: usize = map::VIRTIO_KEY_SLOT as usize;

impl VmSpec {
    /// The slots in use, in ascending order, and what is in each: the source of random numbers, the disks and the network cards from
    /// slot 0 on, the power key in its own. What has no room is left out; [`VmSpec::faults`] refuses such a VM.
    pub fn virtio_slots(&self) -> impl Iterator<Item = (u32, VirtioDevice)> {
        let rng = self.rng.then_some(VirtioDevice::Rng);
        let disks = (0..self.disks.len()).map(VirtioDevice::Disk);
        let nets = (0..self.nets.len()).map(VirtioDevice::Net);
        let key = self.power_key.virtio().then_some((map::VIRTIO_KEY_SLOT, VirtioDevice::PowerKey));
        (0..map::VIRTIO_KEY_SLOT).zip(rng.into_iter().chain(disks).chain(nets)).chain(key)
    }
}

/// Whether all its devices have a slot.
pub(super) fn check(vm: &VmSpec) -> Result<(), Fault> {
    let devices = usize::from(vm.rng).saturating_add(vm.disks.len()).saturating_add(vm.nets.len());
    if devices <= DEVICE_SLOTS { Ok(()) } else { Err(DeviceFault::DeviceCount { devices }.into()) }
}
