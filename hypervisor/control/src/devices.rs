//! VMs get disks, network cards and sources of random numbers, and lose them: while they are made, and when they have stopped.

use crate::Control;
use crate::calls::{fault, spec_fault};
use crate::host::Host;
use crate::registry::{Origin, Record};
use alloc::string::ToString;
use alloc::vec::Vec;
use config::device::{DiskWord, NewDevice};
use config::spec::{self, DiskSource, DiskSpec, PayloadKind, VirtioDevice, VmSpec, key};
use proto::{Answer, EventKind, Hash, Payload, Refusal, VmState};

impl Control {
    /// Puts a device into a description; `disks` are the origins of the disks that it has.
    pub(crate) fn equip(
        &self,
        spec: &mut VmSpec,
        disks: &mut Vec<Origin>,
        device: NewDevice,
    ) -> Result<VirtioDevice, Refusal> {
        Ok(match device {
            NewDevice::Rng if spec.rng => return Err(spec_fault(key::RNG, "the VM has one; give it once")),
            NewDevice::Rng => {
                spec.rng = true;
                VirtioDevice::Rng
            }
            NewDevice::Net(net) => spec.add_net(net),
            NewDevice::Disk { source, readonly, serial } => {
                let (source, origin) = match source {
                    DiskWord::Host(host) => (DiskSource::Host(host), Origin::Boot),
                    DiskWord::Boot(name) => self.image(&Payload::Boot(name))?,
                    DiskWord::Object(hash) => self.image(&Payload::Object(Hash(hash)))?,
                };
                disks.push(origin);
                spec.add_disk(DiskSpec { source, readonly, serial })
            }
        })
    }

    fn image(&self, wanted: &Payload) -> Result<(DiskSource, Origin), Refusal> {
        let (image, origin) = self.payload(wanted, PayloadKind::Disk)?;
        Ok((DiskSource::Image(image), origin))
    }

    /// Whether a VM can have its devices beside those of all others, whether they run or not.
    pub(crate) fn check_devices(&self, spec: &VmSpec) -> Result<(), Refusal> {
        let others = self.registry.iter().map(|record| &record.spec).filter(|other| other.name != spec.name);
        spec::beside(spec, others, &self.switches).map_or(Ok(()), |error| Err(fault(error)))
    }

    /// A VM that has no memory.
    fn stopped(&self, vm: &str) -> Result<&Record, Refusal> {
        let record = self.find(vm)?;
        match record.state {
            VmState::Stopped(_) => Ok(record),
            is => Err(Refusal::State { is }),
        }
    }

    pub(crate) fn attach(&mut self, host: &mut dyn Host, vm: &str, device: &str) -> Result<Answer, Refusal> {
        let record = self.stopped(vm)?;
        let device = NewDevice::parse(device).map_err(|(key, fault)| spec_fault(key, fault))?;
        let (mut spec, mut disks) = (record.spec.clone(), record.origins.disks.clone());
        let device = self.equip(&mut spec, &mut disks, device)?;
        if let Some(error) = spec.faults().into_iter().next() {
            return Err(fault(error));
        }
        self.check_devices(&spec)?;
        self.refit(host, vm, spec, disks, EventKind::Attached(device.name()))
    }

    pub(crate) fn detach(&mut self, host: &mut dyn Host, vm: &str, device: &str) -> Result<Answer, Refusal> {
        let record = self.stopped(vm)?;
        let (mut spec, mut disks) = (record.spec.clone(), record.origins.disks.clone());
        let Some(found) = spec.device(device) else {
            let names: Vec<_> = spec.virtio_slots().map(|(_, device)| device.name()).collect();
            let why = match names.iter().any(|name| !name.is_empty()) {
                true => alloc::format!("the VM has no {device:?}, but {}", names.join(" ").trim_end()),
                false => "the VM has none; `attach` gives it one".to_string(),
            };
            return Err(spec_fault(key::DEVICE, why));
        };
        if let VirtioDevice::Disk(number) = found
            && number < disks.len()
        {
            disks.remove(number);
        }
        spec.remove(found);
        self.refit(host, vm, spec, disks, EventKind::Detached(found.name()))
    }

    /// A stopped VM has other devices from now on.
    fn refit(
        &mut self,
        host: &mut dyn Host,
        vm: &str,
        spec: VmSpec,
        disks: Vec<Origin>,
        event: EventKind,
    ) -> Result<Answer, Refusal> {
        let record = self.find_mut(vm)?;
        record.spec = spec;
        record.origins.disks = disks;
        self.events.add(host.now_ns(), vm, event);
        Ok(Answer::Done)
    }
}
