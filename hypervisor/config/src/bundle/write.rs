//! Writes the head of a bundle: everything but the payloads' bytes.

use super::{ALIGN, HeaderField, MAGIC, MAX_PAYLOADS, MAX_TREE, VERSION, names};
use crate::spec::{
    CpuClass, DEFAULT_MTU, DEFAULT_RNG, DiskSource, DiskSpec, GroupSpec, NetSpec, PayloadKind, PayloadRef, PowerKey,
    SwitchSpec, VmSpec, key,
};
use crate::tree::NodeWriter;
use alloc::format;
use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;
use thiserror::Error;

/// Why no bundle can be made of these parts.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum WriteError {
    /// The parts are beyond the format's limits.
    #[error("the parts are too many or too large for one bundle (at most {MAX_PAYLOADS} files); leave some out")]
    TooLarge,
}

/// Gives every payload its offset, and returns the first bytes of the bundle: header and tree, filled up to the first
/// payload. `vms` name their payloads by [`PayloadRef::image`]; nothing else in those references is looked at.
///
/// The bundle is these bytes, then each payload at its offset, in the order of `payloads`, then zeroes up to a multiple
/// of 4 KiB. `vms`, `groups` and `switches` are not checked: [`crate::spec::faults`] does that.
pub fn lay_out(
    payloads: &mut [PayloadRef],
    vms: &[VmSpec],
    groups: &[GroupSpec],
    switches: &[SwitchSpec],
) -> Result<Vec<u8>, WriteError> {
    if payloads.len() > MAX_PAYLOADS {
        return Err(WriteError::TooLarge);
    }
    // Offsets have a fixed width, so the tree is as long with them as without.
    let size = tree(payloads, vms, groups, switches).len() as u64;
    if size > MAX_TREE {
        return Err(WriteError::TooLarge);
    }
    let up = |bytes: u64| bytes.checked_next_multiple_of(ALIGN).ok_or(WriteError::TooLarge);
    let head = up(ALIGN.saturating_add(size))?;
    let mut total = head;
    for payload in payloads.iter_mut() {
        payload.offset = total;
        total = up(total.checked_add(payload.size).ok_or(WriteError::TooLarge)?)?;
    }
    let tree = tree(payloads, vms, groups, switches);
    let mut out = vec![0; ALIGN as usize];
    let mut put = |at: usize, bytes: &[u8]| {
        let place = out.get_mut(at..).and_then(|rest| rest.get_mut(..bytes.len()));
        if let Some(place) = place {
            place.copy_from_slice(bytes);
        }
    };
    put(HeaderField::MAGIC, &MAGIC);
    put(HeaderField::VERSION, &VERSION.to_le_bytes());
    put(HeaderField::TREE_CRC32, &crc32fast::hash(&tree).to_le_bytes());
    put(HeaderField::TOTAL, &total.to_le_bytes());
    put(HeaderField::TREE_OFFSET, &ALIGN.to_le_bytes());
    put(HeaderField::TREE_SIZE, &(tree.len() as u64).to_le_bytes());
    let crc32 = crc32fast::hash(out.get(..HeaderField::CRC32).unwrap_or_default());
    if let Some(place) = out.get_mut(HeaderField::CRC32..).and_then(|rest| rest.first_chunk_mut()) {
        *place = crc32.to_le_bytes();
    }
    out.extend_from_slice(&tree);
    out.resize(usize::try_from(head).map_err(|_| WriteError::TooLarge)?, 0);
    Ok(out)
}

fn tree(payloads: &[PayloadRef], vms: &[VmSpec], groups: &[GroupSpec], switches: &[SwitchSpec]) -> Vec<u8> {
    let images = payloads.iter().fold(NodeWriter::new(names::IMAGES), |images, p| images.child(image(p)));
    let mut merus = NodeWriter::new(names::MERUS).property("#address-cells", 1u32).property("#size-cells", 0u32);
    for (index, spec) in vms.iter().enumerate() {
        merus = merus.child(vm(index, spec));
    }
    for (index, spec) in groups.iter().enumerate() {
        merus = merus.child(group(index, spec));
    }
    for (index, spec) in switches.iter().enumerate() {
        merus = merus.child(switch(index, spec));
    }
    NodeWriter::new("")
        .property(names::DESCRIPTION, "Merus bundle")
        .property("#address-cells", 1u32)
        .child(images)
        .child(merus)
        .blob()
}

fn image(payload: &PayloadRef) -> NodeWriter {
    let (kind, os) = match payload.kind {
        PayloadKind::Kernel => (names::KERNEL, "linux"),
        PayloadKind::Ramdisk => (names::RAMDISK, "linux"),
        PayloadKind::Disk => (names::FILESYSTEM, "linux"),
    };
    let hash = |number: u32, algo: &str, value: &[u8]| {
        NodeWriter::new(format!("{}-{number}", names::HASH)).property(names::ALGO, algo).property(names::VALUE, value)
    };
    let node = NodeWriter::new(payload.image.as_str())
        .property(names::DESCRIPTION, payload.name.as_str())
        .property(names::TYPE, kind)
        .property(names::ARCH, "arm64")
        .property(names::OS, os)
        .property(names::COMPRESSION, "none")
        .property(names::DATA_POSITION, payload.offset)
        .property(names::DATA_SIZE, payload.size)
        .child(hash(1, names::CRC32, &payload.crc32.to_be_bytes()));
    match &payload.sha256 {
        Some(sha256) => node.child(hash(2, names::SHA256, sha256)),
        None => node,
    }
}

fn vm(index: usize, spec: &VmSpec) -> NodeWriter {
    let mut node = NodeWriter::new(format!("{}@{index:x}", names::VM))
        .property(key::NAME, spec.name.as_str())
        .property(key::KERNEL, spec.kernel.image.as_str())
        .property(key::CMDLINE, spec.cmdline.as_str())
        .property(key::MEMORY, spec.memory)
        .property(key::VCPUS, spec.vcpus)
        .property(key::CPU_WEIGHT, spec.cpu.weight);
    for (key, value) in [(key::LOAD, spec.raw.load), (key::ENTRY, spec.raw.entry), (key::ROOM, spec.raw.room)] {
        if let Some(value) = value {
            node = node.property(key, value);
        }
    }
    if let Some(initrd) = &spec.initrd {
        node = node.property(key::INITRD, initrd.image.as_str());
    }
    if let Some(max) = spec.cpu.max {
        node = node.wide(key::CPU_MAX, &[max.quota_us, max.period_us]);
    }
    if let Some(cpus) = &spec.cpu.affinity {
        node = node.property(key::CPU_AFFINITY, cpus.as_slice());
    }
    if spec.cpu.class != CpuClass::Fair {
        node = node.property(key::CPU_CLASS, spec.cpu.class.to_string().as_str());
    }
    if let Some(group) = &spec.group {
        node = node.property(key::GROUP, group.as_str());
    }
    if spec.power_key != PowerKey::default() {
        node = node.property(key::POWER_KEY, spec.power_key.name());
    }
    if let Some(gic) = spec.gic {
        node = node.property(key::GIC, gic.name());
    }
    if !spec.passthrough.devices.is_empty() {
        let devices: Vec<&str> = spec.passthrough.devices.iter().map(|device| device.as_str()).collect();
        node = node.property(key::PASSTHROUGH, devices);
    }
    if spec.passthrough.unsafe_dma {
        node = node.flag(key::UNSAFE_DMA);
    }
    if spec.rng != DEFAULT_RNG {
        node = node.property(key::RNG, u32::from(spec.rng));
    }
    if let Some(max) = spec.memory_max {
        node = node.property(key::MEMORY_MAX, max);
    }
    for (index, spec) in spec.disks.iter().enumerate() {
        node = node.child(disk(index, spec));
    }
    for (index, spec) in spec.nets.iter().enumerate() {
        node = node.child(net(index, spec));
    }
    node
}

fn disk(index: usize, spec: &DiskSpec) -> NodeWriter {
    let node = NodeWriter::new(format!("{}@{index:x}", names::DISK));
    let mut node = match &spec.source {
        DiskSource::Image(image) => node.property(key::IMAGE, image.image.as_str()),
        DiskSource::Host(host) => node.property(key::HOST, host.as_str()),
    };
    if spec.readonly {
        node = node.flag(key::READONLY);
    }
    match &spec.serial {
        Some(serial) => node.property(key::SERIAL, serial.as_str()),
        None => node,
    }
}

fn net(index: usize, spec: &NetSpec) -> NodeWriter {
    let mut node = NodeWriter::new(format!("{}@{index:x}", names::NET)).property(key::SWITCH, spec.switch.as_str());
    if let Some(mac) = spec.mac {
        node = node.property(key::MAC, mac.0);
    }
    if spec.mtu != DEFAULT_MTU {
        node = node.property(key::MTU, u32::from(spec.mtu));
    }
    if spec.isolated { node.flag(key::ISOLATED) } else { node }
}

fn switch(index: usize, spec: &SwitchSpec) -> NodeWriter {
    let node = NodeWriter::new(format!("{}@{index:x}", names::SWITCH)).property(key::NAME, spec.name.as_str());
    if spec.uplink { node.flag(key::UPLINK) } else { node }
}

fn group(index: usize, spec: &GroupSpec) -> NodeWriter {
    let mut node = NodeWriter::new(format!("{}@{index:x}", names::GROUP))
        .property(key::NAME, spec.name.as_str())
        .property(key::CPU_WEIGHT, spec.weight);
    if let Some(max) = spec.cpu_max {
        node = node.wide(key::CPU_MAX, &[max.quota_us, max.period_us]);
    }
    match spec.memory_max {
        Some(max) => node.property(key::MEMORY_MAX, max),
        None => node,
    }
}
