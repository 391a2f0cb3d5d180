//! What VMs and groups may have: their settings, changed while they are in the books; groups themselves.

use crate::calls::{fault, spec_fault};
use crate::registry::MAX_GROUPS;
use crate::{Control, Host};
use config::setting::Setting;
use config::spec::{self, GroupSpec, key};
use proto::{Answer, EventKind, Refusal, Target};

impl Control {
    /// Makes one of the boot bundle's groups.
    pub fn boot_group(&mut self, host: &mut dyn Host, spec: GroupSpec) -> Result<(), Refusal> {
        if let Some(error) = spec.faults().into_iter().next() {
            return Err(fault(error));
        }
        self.add_group(host, spec)
    }

    pub(crate) fn set(
        &mut self,
        host: &mut dyn Host,
        target: &Target,
        key: &str,
        value: &str,
    ) -> Result<Answer, Refusal> {
        let setting = Setting::parse(key, value).map_err(|f| spec_fault(key, f))?;
        match target {
            Target::Vm(vm) => {
                let record = self.find(vm)?;
                let mut spec = record.spec.clone();
                setting.apply(&mut spec);
                if let Some(error) = spec.faults().into_iter().next() {
                    return Err(fault(error));
                }
                self.check_affinity(spec.cpu.affinity.as_deref())?;
                let record = self.find_mut(vm)?;
                if record.has_memory() {
                    host.apply(record.number, &setting)?;
                }
                record.spec = spec;
                let kind = EventKind::Set { key: key.into(), value: value.into() };
                self.events.add(host.now_ns(), vm, kind);
            }
            Target::Group(name) => {
                let index = self.registry.group(name).ok_or_else(|| Refusal::NoSuchGroup(name.clone()))?;
                let mut group =
                    self.registry.groups.get(index).cloned().ok_or_else(|| Refusal::NoSuchGroup(name.clone()))?;
                match setting {
                    Setting::Weight(weight) => group.weight = weight,
                    Setting::Max(max) => group.cpu_max = max,
                    Setting::MemoryMax(max) => group.memory_max = max,
                    Setting::Affinity(_) | Setting::Class(_) => {
                        return Err(spec_fault(key, "is a VM's, not a group's; set it for its VMs"));
                    }
                }
                host.group(index, &group)?;
                if let Some(slot) = self.registry.groups.get_mut(index) {
                    *slot = group;
                }
            }
        }
        Ok(Answer::Done)
    }

    pub(crate) fn make_group(&mut self, host: &mut dyn Host, name: &str) -> Result<Answer, Refusal> {
        spec::check_name(name).map_err(|f| spec_fault(key::GROUP, f))?;
        if self.registry.group(name).is_some() {
            return Ok(Answer::Done);
        }
        self.add_group(
            host,
            GroupSpec { name: name.into(), weight: spec::DEFAULT_WEIGHT, cpu_max: None, memory_max: None },
        )?;
        Ok(Answer::Done)
    }

    fn add_group(&mut self, host: &mut dyn Host, group: GroupSpec) -> Result<(), Refusal> {
        if self.registry.groups.len() >= MAX_GROUPS {
            return Err(Refusal::Limit { what: "groups".into(), most: MAX_GROUPS as u64 });
        }
        host.group(self.registry.groups.len(), &group)?;
        self.registry.groups.push(group);
        Ok(())
    }
}
