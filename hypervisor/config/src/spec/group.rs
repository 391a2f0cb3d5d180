//! What a group of VMs shares: [`GroupSpec`], and what must hold between groups and VMs.

use super::{CpuMax, Fault, MAX_GROUPS, Owner, Place, SpecError, VmSpec, check_cpu_max, check_name, check_weight, key};
use alloc::string::String;
use alloc::vec::Vec;

/// Everything that was asked for one group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GroupSpec {
    /// Unique among the groups; of the same characters as a VM's.
    pub name: String,
    /// Share of contended pCPUs of all its VMs together, within [`super::WEIGHTS`].
    pub weight: u32,
    /// Cap on pCPU time of all its VMs together, if any.
    pub cpu_max: Option<CpuMax>,
    /// Cap in bytes on all memory that is charged to its VMs; `None` is no cap.
    pub memory_max: Option<u64>,
}

impl GroupSpec {
    /// An error about one of this group's settings.
    pub fn error(&self, key: &'static str, fault: Fault) -> SpecError {
        SpecError { owner: Owner::Group(self.name.clone()), key, fault }
    }

    /// All that is wrong with this group taken by itself.
    pub fn faults(&self) -> Vec<SpecError> {
        let cap = self.cpu_max.map_or(Ok(()), check_cpu_max);
        let checks =
            [(key::NAME, check_name(&self.name)), (key::CPU_WEIGHT, check_weight(self.weight)), (key::CPU_MAX, cap)];
        checks.into_iter().filter_map(|(key, result)| result.err().map(|fault| self.error(key, fault))).collect()
    }
}

/// All that is wrong with the groups, and with what these VMs want of them.
pub(super) fn faults(vms: &[VmSpec], groups: &[GroupSpec], found: &mut Vec<(Place, SpecError)>) {
    if groups.len() > MAX_GROUPS {
        found.push((Place::Whole, SpecError { owner: Owner::All, key: "", fault: Fault::TooManyGroups }));
    }
    for (index, group) in groups.iter().enumerate() {
        let mut add = |error| found.push((Place::Group(index), error));
        group.faults().into_iter().for_each(&mut add);
        if groups.iter().take(index).any(|other| other.name == group.name) {
            add(group.error(key::NAME, Fault::GroupTaken));
        }
        let members = vms.iter().filter(|vm| vm.group.as_ref() == Some(&group.name));
        let memory = members.fold(0_u64, |sum, vm| sum.saturating_add(vm.memory));
        if let Some(max) = group.memory_max.filter(|max| *max < memory) {
            add(group.error(key::MEMORY_MAX, Fault::GroupMemory { max, memory }));
        }
    }
    for (index, vm) in vms.iter().enumerate() {
        let absent = vm.group.as_ref().filter(|name| groups.iter().all(|group| group.name != **name));
        if let Some(group) = absent.filter(|name| check_name(name).is_ok()) {
            found.push((Place::Vm(index), vm.error(key::GROUP, Fault::GroupAbsent { group: group.clone() })));
        }
    }
}
