//! Opens a bundle and reads what it asks for.

use super::fields::{Fields, group, nets, nodes, stranger, switch};
use super::{ALIGN, BundleError, HeaderField, MAGIC, MAX_PAYLOADS, MAX_TREE, VERSION, names};
use crate::image::Raw;
use crate::spec::{
    CpuClass, CpuSpec, DEFAULT_RNG, Fault, GroupSpec, GuestGic, MAX_GROUPS, MAX_SWITCHES, MAX_VMS, Owner,
    PassthroughSpec, PayloadKind, PayloadRef, PowerKey, SpecError, SwitchSpec, VmSpec, faults, key,
};
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::{Node, Property};

/// A bundle whose header and tree are sound and whose payloads all lie in it, each by itself.
#[derive(Clone, Debug)]
pub struct Bundle<'a> {
    data: &'a [u8],
    tree: Fdt<'a>,
    payloads: Vec<PayloadRef>,
}

/// The `N` bytes at `at`.
fn bytes<const N: usize>(data: &[u8], at: usize) -> Option<[u8; N]> {
    data.get(at..)?.first_chunk().copied()
}

/// The part of `data` with this offset and size, if all of it is there.
fn part(data: &[u8], offset: u64, size: u64) -> Option<&[u8]> {
    let start = usize::try_from(offset).ok()?;
    let end = usize::try_from(offset.checked_add(size)?).ok()?;
    data.get(start..end)
}

impl<'a> Bundle<'a> {
    /// Opens the bundle at the start of `data`, which may be longer (a boot loader may round a ramdisk up).
    pub fn parse(data: &'a [u8]) -> Result<Self, BundleError> {
        if bytes(data, HeaderField::MAGIC) != Some(MAGIC) {
            return Err(BundleError::NotABundle);
        }
        let have = data.len() as u64;
        let header = part(data, 0, ALIGN).ok_or(BundleError::NoHeader { have })?;
        let word = |at| bytes(header, at).map_or(0, u32::from_le_bytes);
        let long = |at| bytes(header, at).map_or(0, u64::from_le_bytes);
        let version = word(HeaderField::VERSION);
        if version != VERSION {
            return Err(BundleError::Version { version });
        }
        let expected = word(HeaderField::CRC32);
        let found = crc32fast::hash(header.get(..HeaderField::CRC32).unwrap_or_default());
        if found != expected {
            return Err(BundleError::HeaderCrc { found, expected });
        }
        let total = long(HeaderField::TOTAL);
        let data = part(data, 0, total).ok_or(BundleError::Truncated { have, total })?;
        let (offset, size) = (long(HeaderField::TREE_OFFSET), long(HeaderField::TREE_SIZE));
        let place = BundleError::TreePlace { offset, size };
        if offset < ALIGN || !offset.is_multiple_of(ALIGN) || size > MAX_TREE {
            return Err(place);
        }
        let tree = part(data, offset, size).ok_or(place)?;
        let expected = word(HeaderField::TREE_CRC32);
        let found = crc32fast::hash(tree);
        if found != expected {
            return Err(BundleError::TreeCrc { found, expected });
        }
        let tree = Fdt::new(tree).map_err(|e| BundleError::Tree { reason: e.to_string() })?;
        let payloads = payloads(tree)?;
        check_places(&payloads, offset.saturating_add(size), total)?;
        Ok(Self { data, tree, payloads })
    }

    /// The length of the bundle in bytes, which may be less than that of what it was opened from.
    pub fn size(&self) -> u64 {
        self.data.len() as u64
    }

    /// All payloads, in the order of the tree.
    pub fn payloads(&self) -> &[PayloadRef] {
        &self.payloads
    }

    /// The bytes of a payload; `None` where it is not one of this bundle's.
    pub fn payload(&self, payload: &PayloadRef) -> Option<&'a [u8]> {
        part(self.data, payload.offset, payload.size)
    }

    /// The VMs, all settings checked as far as the bundle alone tells: kernels' headers and the machine are not looked
    /// at ([`VmSpec::layout`], [`crate::spec::admit`]). The first fault is the error.
    pub fn vms(&self) -> Result<Vec<VmSpec>, SpecError> {
        let vms = self.vms_unchecked()?;
        let found = faults(&vms, &self.groups_unchecked()?, &self.switches_unchecked()?);
        match found.into_iter().chain(self.image_faults(&vms)).next() {
            Some(fault) => Err(fault),
            None => Ok(vms),
        }
    }

    /// All disks' images that are shorter than their partition tables say.
    pub fn image_faults(&self, vms: &[VmSpec]) -> Vec<SpecError> {
        let head = |_: usize, image: &PayloadRef| self.payload(image).unwrap_or_default();
        vms.iter().flat_map(|vm| vm.image_faults(head)).map(|(_, fault)| fault).collect()
    }

    /// The VMs as they are written, for a listing: only their form is checked.
    pub fn vms_unchecked(&self) -> Result<Vec<VmSpec>, SpecError> {
        let merus = self.merus()?;
        nodes(merus.as_ref(), names::VM, MAX_VMS).map(|node| self.vm(node)).collect()
    }

    /// The groups as they are written; [`Bundle::vms`] checks them with the VMs.
    pub fn groups_unchecked(&self) -> Result<Vec<GroupSpec>, SpecError> {
        nodes(self.merus()?.as_ref(), names::GROUP, MAX_GROUPS).map(group).collect()
    }

    /// The switches as they are written; [`Bundle::vms`] checks them with the VMs.
    pub fn switches_unchecked(&self) -> Result<Vec<SwitchSpec>, SpecError> {
        nodes(self.merus()?.as_ref(), names::SWITCH, MAX_SWITCHES).map(switch).collect()
    }

    /// `/merus`, if it is there; nodes in it that this Merus does not know would be left out in silence.
    fn merus(&self) -> Result<Option<FdtNode<'a>>, SpecError> {
        let merus = self.tree.root().child(names::MERUS);
        if let Some(name) = merus.as_ref().and_then(|merus| stranger(merus, &[names::VM, names::GROUP, names::SWITCH]))
        {
            return Err(SpecError { owner: Owner::All, key: "", fault: Fault::Unknown { name } });
        }
        Ok(merus)
    }

    fn vm(&self, node: FdtNode<'a>) -> Result<VmSpec, SpecError> {
        let fields = Fields::new(node, &Owner::Vm, &key::ALL)?;
        if let Some(name) = stranger(&node, &[names::DISK, names::NET]) {
            return Err(fields.error("", Fault::Unknown { name }));
        }
        let name: &str = fields.required(key::NAME)?;
        let kernel = self.image(&fields, key::KERNEL)?.ok_or_else(|| fields.error(key::KERNEL, Fault::Missing))?;
        Ok(VmSpec {
            name: name.to_string(),
            kernel,
            raw: Raw {
                load: fields.optional(key::LOAD)?,
                entry: fields.optional(key::ENTRY)?,
                room: fields.optional(key::ROOM)?,
            },
            initrd: self.image(&fields, key::INITRD)?,
            cmdline: fields.optional::<&str>(key::CMDLINE)?.unwrap_or_default().to_string(),
            memory: fields.required(key::MEMORY)?,
            vcpus: fields.required(key::VCPUS)?,
            cpu: CpuSpec {
                weight: fields.required(key::CPU_WEIGHT)?,
                max: fields.cpu_max()?,
                affinity: fields.optional(key::CPU_AFFINITY)?,
                class: match fields.optional::<&str>(key::CPU_CLASS)? {
                    Some(text) => {
                        CpuClass::parse(text).ok_or_else(|| fields.error(key::CPU_CLASS, Fault::Malformed))?
                    }
                    None => CpuClass::Fair,
                },
            },
            memory_max: fields.optional(key::MEMORY_MAX)?,
            group: fields.optional::<&str>(key::GROUP)?.map(ToString::to_string),
            power_key: match fields.optional::<&str>(key::POWER_KEY)? {
                Some(text) => PowerKey::parse(text).ok_or_else(|| fields.error(key::POWER_KEY, Fault::Malformed))?,
                None => PowerKey::default(),
            },
            gic: match fields.optional::<&str>(key::GIC)? {
                Some(text) => Some(GuestGic::parse(text).ok_or_else(|| fields.error(key::GIC, Fault::Malformed))?),
                None => None,
            },
            passthrough: PassthroughSpec {
                devices: fields.strings(key::PASSTHROUGH)?,
                unsafe_dma: fields.flag(key::UNSAFE_DMA),
            },
            rng: match fields.optional::<u32>(key::RNG)? {
                Some(rng @ 0..=1) => rng == 1,
                Some(_) => return Err(fields.error(key::RNG, Fault::Malformed)),
                None => DEFAULT_RNG,
            },
            disks: self.disks(&node, name)?,
            nets: nets(&node, name)?,
        })
    }

    /// The payload that a setting names by its node.
    pub(super) fn image(&self, fields: &Fields<'a, '_>, key: &'static str) -> Result<Option<PayloadRef>, SpecError> {
        let Some(image) = fields.optional::<&str>(key)? else {
            return Ok(None);
        };
        match self.payloads.iter().find(|payload| payload.image == image) {
            Some(payload) => Ok(Some(payload.clone())),
            None => Err(fields.error(key, Fault::NoPayload { image: image.to_string() })),
        }
    }
}

/// All nodes under `/images`.
fn payloads(tree: Fdt<'_>) -> Result<Vec<PayloadRef>, BundleError> {
    let mut found = Vec::new();
    for node in tree.root().child(names::IMAGES).iter().flat_map(|images| images.children()) {
        if found.len() >= MAX_PAYLOADS {
            return Err(BundleError::TooManyPayloads);
        }
        found.push(payload(node)?);
    }
    Ok(found)
}

fn payload(node: FdtNode<'_>) -> Result<PayloadRef, BundleError> {
    let image = node.name().to_string();
    let lacks = |what| BundleError::Node { node: image.clone(), what };
    let number = |what| node.property(what).and_then(|p| p.value_as::<u64>().ok()).ok_or_else(|| lacks(what));
    let string = |what| node.property(what).and_then(|p| p.value_as::<&str>().ok()).ok_or_else(|| lacks(what));
    let kind = match string(names::TYPE)? {
        names::KERNEL => PayloadKind::Kernel,
        names::RAMDISK => PayloadKind::Ramdisk,
        names::FILESYSTEM => PayloadKind::Disk,
        _ => return Err(lacks(names::TYPE)),
    };
    let crc32 = hash::<4>(node, names::CRC32).ok_or_else(|| lacks(names::CRC32))?;
    Ok(PayloadRef {
        name: String::from(string(names::DESCRIPTION)?),
        kind,
        offset: number(names::DATA_POSITION)?,
        size: number(names::DATA_SIZE)?,
        crc32: u32::from_be_bytes(crc32),
        sha256: hash(node, names::SHA256),
        image,
    })
}

/// The value of the hash node with this algorithm.
fn hash<const N: usize>(node: FdtNode<'_>, algo: &str) -> Option<[u8; N]> {
    let is_it = |child: &FdtNode<'_>| child.property(names::ALGO).is_some_and(|p| p.value_as::<&str>() == Ok(algo));
    let child = node.children().filter(|child| child.name().starts_with(names::HASH)).find(is_it)?;
    child.property(names::VALUE)?.value_as::<[u8; N]>().ok()
}

/// Whether each payload lies between the end of the tree and the end of the bundle, on 4 KiB, and apart from the others.
fn check_places(payloads: &[PayloadRef], tree_end: u64, total: u64) -> Result<(), BundleError> {
    let mut order: Vec<&PayloadRef> = payloads.iter().collect();
    order.sort_by_key(|payload| payload.offset);
    let (mut end, mut other) = (tree_end, String::from("the tree"));
    for payload in order {
        let name = payload.name.to_string();
        let payload_end = payload.offset.checked_add(payload.size).filter(|end| *end <= total);
        let Some(payload_end) = payload_end.filter(|_| payload.offset.is_multiple_of(ALIGN)) else {
            return Err(BundleError::PayloadPlace { name, offset: payload.offset, size: payload.size });
        };
        if payload.offset < end {
            return Err(BundleError::PayloadOverlap { name, other });
        }
        (end, other) = (payload_end, alloc::format!("payload \"{name}\""));
    }
    Ok(())
}
