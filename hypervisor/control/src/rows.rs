//! The rows of what is listed.

use crate::registry::{Origin, Record};
use crate::{Control, Host};
use alloc::format;
use alloc::string::{String, ToString};
use config::spec::{DiskSource, GroupSpec, PayloadRef, VirtioDevice, VmSpec};
use proto::{DeviceRow, GroupRow, ObjectRow, VmRow};

impl Control {
    pub(crate) fn group_row(&self, host: &dyn Host, index: usize, group: &GroupSpec) -> GroupRow {
        GroupRow {
            name: group.name.clone(),
            weight: group.weight,
            cpu_max: group.cpu_max.map(|max| (max.quota_us, max.period_us)),
            memory_max: group.memory_max,
            memory_used: host.group_memory(index),
            vms: self.registry.iter().filter(|r| r.spec.group.as_deref() == Some(&group.name)).count() as u32,
        }
    }

    pub(crate) fn object_rows(&self) -> impl Iterator<Item = ObjectRow> {
        let users = |p: &PayloadRef| {
            let same = |origin: Origin, image: Option<&PayloadRef>| {
                origin == Origin::Boot && image.is_some_and(|i| i.image == p.image)
            };
            let by = |r: &&Record| {
                same(r.origins.kernel, Some(&r.spec.kernel))
                    || same(r.origins.initrd, r.spec.initrd.as_ref())
                    || r.origins.disks.iter().zip(&r.spec.disks).any(|(origin, disk)| same(*origin, disk.image()))
            };
            self.registry.iter().filter(by).count() as u32
        };
        let boot = self.boot.iter().map(move |p| ObjectRow {
            name: p.name.clone(),
            hash: p.sha256.map(proto::Hash),
            size: p.size,
            there: p.size,
            boot: true,
            users: users(p),
        });
        boot.chain(self.objects.iter().map(|o| o.row(self.registry.users(&o.hash))))
    }
}

/// A VM's.
pub(crate) fn row(host: &dyn Host, record: &Record) -> VmRow {
    let usage = host.usage(record.number);
    let spec = &record.spec;
    VmRow {
        name: spec.name.clone(),
        number: record.number.0,
        group: spec.group.clone(),
        state: record.state,
        vcpus: spec.vcpus,
        memory: spec.memory,
        memory_used: usage.memory,
        memory_max: spec.memory_max,
        weight: spec.cpu.weight,
        cpu_max: spec.cpu.max.map(|max| (max.quota_us, max.period_us)),
        class: spec.cpu.class.to_string(),
        ran_ns: usage.ran_ns,
        waited_ns: usage.waited_ns,
        throttled_ns: usage.throttled_ns,
        exits: usage.exits,
        resets: record.resets,
        console: usage.console,
        devices: devices(spec).count() as u32,
    }
}

/// A VM's devices that have rows, with their slots.
fn devices(spec: &VmSpec) -> impl Iterator<Item = (u32, VirtioDevice)> + '_ {
    spec.virtio_slots().filter(|(_, device)| *device != VirtioDevice::PowerKey)
}

/// What a VM's device is.
fn words(spec: &VmSpec, device: VirtioDevice) -> String {
    match device {
        VirtioDevice::Disk(n) => {
            let what = spec.disks.get(n).map_or("", |disk| match &disk.source {
                DiskSource::Image(image) => &image.name,
                DiskSource::Host(host) => host,
            });
            let readonly = spec.disks.get(n).is_some_and(|disk| disk.readonly);
            format!("{what}{}", if readonly { ", read-only" } else { "" })
        }
        VirtioDevice::Net(n) => {
            let switch = spec.nets.get(n).map_or("", |net| &net.switch);
            format!("{switch}, {}", spec.mac(n))
        }
        VirtioDevice::Rng | VirtioDevice::PowerKey => String::new(),
    }
}

/// The rows of a VM's devices.
pub(crate) fn device_rows<'a>(host: &'a dyn Host, record: &'a Record) -> impl Iterator<Item = DeviceRow> + 'a {
    devices(&record.spec).map(|(slot, device)| {
        let (name, what) = (device.name(), words(&record.spec, device));
        DeviceRow { name, what, counts: host.device(record.number, slot).unwrap_or_default() }
    })
}
