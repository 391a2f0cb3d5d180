//! Opens a bundle and reads what it asks for.

use super::{ALIGN, BundleError, HeaderField, MAGIC, MAX_PAYLOADS, MAX_TREE, VERSION, names};
use crate::image::Raw;
use crate::spec::{
    CpuClass, CpuMax, CpuSpec, Fault, GroupSpec, GuestGic, MAX_GROUPS, MAX_PASSTHROUGH, MAX_VMS, Owner,
    PassthroughSpec, PayloadKind, PayloadRef, PowerKey, SpecError, VmSpec, faults, key,
};
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::{FdtStringListIterator, FromPropertyValue, Node, Property};

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
        match faults(&vms, &self.groups_unchecked()?).into_iter().next() {
            Some(fault) => Err(fault),
            None => Ok(vms),
        }
    }

    /// The VMs as they are written, for a listing: only their form is checked.
    pub fn vms_unchecked(&self) -> Result<Vec<VmSpec>, SpecError> {
        self.nodes(names::VM, MAX_VMS).into_iter().map(|node| self.vm(node)).collect()
    }

    /// The groups as they are written; [`Bundle::vms`] checks them with the VMs.
    pub fn groups_unchecked(&self) -> Result<Vec<GroupSpec>, SpecError> {
        self.nodes(names::GROUP, MAX_GROUPS).into_iter().map(group).collect()
    }

    /// The nodes of this name under `/merus`; one more than `most` is enough for the refusal, and bounds the work.
    fn nodes(&self, name: &str, most: usize) -> Vec<FdtNode<'a>> {
        let merus = self.tree.root().child(names::MERUS);
        let nodes = merus.iter().flat_map(|merus| merus.children());
        nodes.filter(|node| node.name_without_address() == name).take(most.saturating_add(1)).collect()
    }

    fn vm(&self, node: FdtNode<'a>) -> Result<VmSpec, SpecError> {
        let fields = Fields::new(node, Owner::Vm, &key::ALL)?;
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
                unsafe_dma: fields.node.property(key::UNSAFE_DMA).is_some(),
            },
        })
    }

    /// The payload that a setting names by its node.
    fn image(&self, fields: &Fields<'a>, key: &'static str) -> Result<Option<PayloadRef>, SpecError> {
        let Some(image) = fields.optional::<&str>(key)? else {
            return Ok(None);
        };
        match self.payloads.iter().find(|payload| payload.image == image) {
            Some(payload) => Ok(Some(payload.clone())),
            None => Err(fields.error(key, Fault::NoPayload { image: image.to_string() })),
        }
    }
}

fn group(node: FdtNode<'_>) -> Result<GroupSpec, SpecError> {
    let fields = Fields::new(node, Owner::Group, &key::OF_GROUP)?;
    Ok(GroupSpec {
        name: fields.required::<&str>(key::NAME)?.to_string(),
        weight: fields.required(key::CPU_WEIGHT)?,
        cpu_max: fields.cpu_max()?,
        memory_max: fields.optional(key::MEMORY_MAX)?,
    })
}

/// The settings of the node of one VM or group.
struct Fields<'a> {
    node: FdtNode<'a>,
    owner: fn(String) -> Owner,
}

impl<'a> Fields<'a> {
    /// Those of `node`, which may be the `known` ones.
    fn new(node: FdtNode<'a>, owner: fn(String) -> Owner, known: &[&str]) -> Result<Self, SpecError> {
        let fields = Self { node, owner };
        match node.properties().find(|p| !known.contains(&Property::name(p))) {
            Some(stranger) => Err(fields.error("", Fault::Unknown { name: Property::name(&stranger).to_string() })),
            None => Ok(fields),
        }
    }
    /// An error about this VM or group, called by its name or, while that is not known, by its node.
    fn error(&self, key: &'static str, fault: Fault) -> SpecError {
        let name = self.node.property(key::NAME).and_then(|name| name.value_as::<&str>().ok());
        SpecError { owner: (self.owner)(name.unwrap_or_else(|| self.node.name()).to_string()), key, fault }
    }
    fn cpu_max(&self) -> Result<Option<CpuMax>, SpecError> {
        let max: Option<[u8; 16]> = self.optional(key::CPU_MAX)?;
        Ok(max.map(|max| {
            let (quota, period) = max.split_at(8);
            let long = |half: &[u8]| half.first_chunk().copied().map_or(0, u64::from_be_bytes);
            CpuMax { quota_us: long(quota), period_us: long(period) }
        }))
    }
    /// A list of texts; none where it is absent.
    fn strings(&self, key: &'static str) -> Result<Vec<String>, SpecError> {
        let list = self.optional::<FdtStringListIterator<'a>>(key)?;
        Ok(list.into_iter().flatten().take(MAX_PASSTHROUGH.saturating_add(1)).map(ToString::to_string).collect())
    }
    fn optional<T: FromPropertyValue<'a> + 'a>(&self, key: &'static str) -> Result<Option<T>, SpecError> {
        let value = self.node.property(key).map(|property| property.value_as::<T>());
        value.transpose().map_err(|_| self.error(key, Fault::Malformed))
    }
    fn required<T: FromPropertyValue<'a> + 'a>(&self, key: &'static str) -> Result<T, SpecError> {
        self.optional(key)?.ok_or_else(|| self.error(key, Fault::Missing))
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
