//! Lists what a bundle holds, and checks it as Merus will.

use crate::manifest::reason;
use crate::report::{Kind, Report};
use anyhow::Result;
use config::VmSpec;
use config::bundle::Bundle;
use config::spec::{
    self, Bytes, CpuClass, DiskSource, GroupSpec, PayloadKind, PowerKey, SpecError, SwitchSpec, VirtioDevice,
};
use std::path::Path;

/// Prints the bundle at `path`; the report holds what Merus would refuse in it.
pub fn print(path: &Path) -> Result<Report> {
    let mut report = Report::new(path, "");
    let data = match std::fs::read(path) {
        Ok(data) => data,
        Err(error) => {
            report.add_whole(Kind::Form, format!("cannot be read: {}; give the path of a bundle", reason(&error)));
            return Ok(report);
        }
    };
    let text = describe(&data, &mut report);
    print!("{text}");
    Ok(report)
}

/// The listing of a bundle.
pub fn describe(data: &[u8], report: &mut Report) -> String {
    let bundle = match Bundle::parse(data) {
        Ok(bundle) => bundle,
        Err(error) => {
            report.add_whole(Kind::Form, error);
            return String::new();
        }
    };
    let mut text = format!("bundle of {} bytes\n", bundle.size());
    for payload in bundle.payloads() {
        let kind = match payload.kind {
            PayloadKind::Kernel => "kernel",
            PayloadKind::Ramdisk => "initrd",
            PayloadKind::Disk => "disk",
        };
        let (offset, size, name) = (payload.offset, payload.size, &payload.name);
        text += &format!("  {kind} {name}: {size} bytes at {offset:#x}, crc32 {:08x}\n", payload.crc32);
        if let Some(sha256) = payload.sha256 {
            let hex: String = sha256.iter().map(|byte| format!("{byte:02x}")).collect();
            text += &format!("    sha256 {hex}\n");
        }
        let bytes = bundle.payload(payload).unwrap_or_default();
        if let Err(error) = payload.check(crc32fast::hash(bytes)) {
            report.add_whole(Kind::Semantic, error);
        }
    }
    let read =
        || Ok::<_, SpecError>((bundle.vms_unchecked()?, bundle.groups_unchecked()?, bundle.switches_unchecked()?));
    match read() {
        Ok((vms, groups, switches)) => {
            groups.iter().for_each(|group| text += &group_line(group));
            switches.iter().for_each(|switch| text += &switch_line(switch));
            vms.iter().for_each(|vm| text += &vm_line(vm));
            let layout = |vm: &VmSpec| vm.layout(bundle.payload(&vm.kernel).unwrap_or_default()).err();
            let faults = spec::faults(&vms, &groups, &switches).into_iter().chain(bundle.image_faults(&vms));
            for fault in faults.chain(vms.iter().filter_map(layout)) {
                report.add_whole(Kind::Semantic, fault);
            }
        }
        Err(error) => report.add_whole(Kind::Form, error),
    }
    text
}

fn group_line(group: &GroupSpec) -> String {
    let mut text = format!("group \"{}\": cpu.weight {}", group.name, group.weight);
    if let Some(max) = group.cpu_max {
        text += &format!(", cpu.max {} {}", max.quota_us, max.period_us);
    }
    if let Some(max) = group.memory_max {
        text += &format!(", memory.max {}", Bytes(max));
    }
    text + "\n"
}

fn switch_line(switch: &SwitchSpec) -> String {
    format!("switch \"{}\"{}\n", switch.name, if switch.uplink { ": uplink" } else { "" })
}

/// The VM's virtio devices, each with its slot.
fn devices(vm: &VmSpec) -> String {
    let mut text = String::new();
    for (slot, device) in vm.virtio_slots() {
        text += &match device {
            // The other settings tell.
            VirtioDevice::PowerKey => continue,
            VirtioDevice::Rng => format!("  rng: slot {slot}\n"),
            VirtioDevice::Disk(n) => disk_line(vm, n, slot),
            VirtioDevice::Net(n) => net_line(vm, n, slot),
        };
    }
    text
}

fn disk_line(vm: &VmSpec, n: usize, slot: u32) -> String {
    let Some(disk) = vm.disks.get(n) else { return String::new() };
    let source = match &disk.source {
        DiskSource::Image(image) => format!("image {}", image.name),
        DiskSource::Host(host) => format!("host {host}"),
    };
    let readonly = if disk.readonly { ", readonly" } else { "" };
    format!("  disk {n}: slot {slot}, {source}{readonly}, serial {}\n", vm.serial(n))
}

fn net_line(vm: &VmSpec, n: usize, slot: u32) -> String {
    let Some(net) = vm.nets.get(n) else { return String::new() };
    let isolated = if net.isolated { ", isolated" } else { "" };
    format!("  net {n}: slot {slot}, switch {}, mac {}, mtu {}{isolated}\n", net.switch, vm.mac(n), net.mtu)
}

fn vm_line(vm: &VmSpec) -> String {
    let mut text = format!(
        "vm \"{}\": {}, {} of memory",
        vm.name,
        crate::pack::count(vm.vcpus as usize, "vCPU"),
        Bytes(vm.memory)
    );
    if let Some(max) = vm.memory_max {
        text += &format!(" ({} at most)", Bytes(max));
    }
    text += &format!("\n  cpu.weight {}", vm.cpu.weight);
    if let Some(max) = vm.cpu.max {
        text += &format!(", cpu.max {} {}", max.quota_us, max.period_us);
    }
    if vm.cpu.class != CpuClass::Fair {
        text += &format!(", cpu.class {}", vm.cpu.class);
    }
    if let Some(group) = &vm.group {
        text += &format!(", group {group}");
    }
    if vm.power_key != PowerKey::default() {
        text += &format!(", power-key {}", vm.power_key.name());
    }
    if let Some(gic) = vm.gic {
        text += &format!(", gic {}", gic.name());
    }
    if !vm.passthrough.devices.is_empty() {
        text += &format!(", passthrough {}", vm.passthrough.devices.join(" "));
    }
    if vm.passthrough.unsafe_dma {
        text += ", unsafe-dma";
    }
    if let Some(cpus) = &vm.cpu.affinity {
        text += &format!(", cpu.affinity {cpus:?}");
    }
    let initrd = vm.initrd.as_ref().map_or("none", |initrd| initrd.name.as_str());
    let mut place = vm.raw.load.map_or(String::new(), |load| format!(" at {load:#x}"));
    if let Some(entry) = vm.raw.entry {
        place += &format!(" (entry {entry:#x})");
    }
    text + &format!("\n  kernel {}{place}, initrd {initrd}\n  cmdline {:?}\n", vm.kernel.name, vm.cmdline)
        + &devices(vm)
}
