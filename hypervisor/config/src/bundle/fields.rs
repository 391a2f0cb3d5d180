//! The settings of a node of the bundle's tree: of a VM, a group, a switch, a disk or a network card.

use super::{Bundle, names};
use crate::spec::{
    CpuMax, DEFAULT_MTU, DEVICE_SLOTS, DeviceFault, DiskSource, DiskSpec, Fault, GroupSpec, MAX_PASSTHROUGH, Mac,
    NetSpec, Owner, SpecError, SwitchSpec, key,
};
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use dtoolkit::fdt::FdtNode;
use dtoolkit::{FdtStringListIterator, FromPropertyValue, Node, Property};

/// The settings of the node of one VM or group.
pub(super) struct Fields<'a, 'o> {
    node: FdtNode<'a>,
    owner: &'o dyn Fn(String) -> Owner,
}

impl<'a, 'o> Fields<'a, 'o> {
    /// Those of `node`, which may be the `known` ones.
    pub(super) fn new(
        node: FdtNode<'a>,
        owner: &'o dyn Fn(String) -> Owner,
        known: &[&str],
    ) -> Result<Self, SpecError> {
        let fields = Self { node, owner };
        match node.properties().find(|p| !known.contains(&Property::name(p))) {
            Some(stranger) => Err(fields.error("", Fault::Unknown { name: Property::name(&stranger).to_string() })),
            None => Ok(fields),
        }
    }
    /// An error about this VM or group, called by its name or, while that is not known, by its node.
    pub(super) fn error(&self, key: &'static str, fault: Fault) -> SpecError {
        let name = self.node.property(key::NAME).and_then(|name| name.value_as::<&str>().ok());
        SpecError { owner: (self.owner)(name.unwrap_or_else(|| self.node.name()).to_string()), key, fault }
    }
    pub(super) fn cpu_max(&self) -> Result<Option<CpuMax>, SpecError> {
        let max: Option<[u8; 16]> = self.optional(key::CPU_MAX)?;
        Ok(max.map(|max| {
            let (quota, period) = max.split_at(8);
            let long = |half: &[u8]| half.first_chunk().copied().map_or(0, u64::from_be_bytes);
            CpuMax { quota_us: long(quota), period_us: long(period) }
        }))
    }
    /// A list of texts; none where it is absent.
    pub(super) fn strings(&self, key: &'static str) -> Result<Vec<String>, SpecError> {
        let list = self.optional::<FdtStringListIterator<'a>>(key)?;
        Ok(list.into_iter().flatten().take(MAX_PASSTHROUGH.saturating_add(1)).map(ToString::to_string).collect())
    }
    /// Whether it is there.
    pub(super) fn flag(&self, key: &'static str) -> bool {
        self.node.property(key).is_some()
    }
    pub(super) fn optional<T: FromPropertyValue<'a> + 'a>(&self, key: &'static str) -> Result<Option<T>, SpecError> {
        let value = self.node.property(key).map(|property| property.value_as::<T>());
        value.transpose().map_err(|_| self.error(key, Fault::Malformed))
    }
    pub(super) fn required<T: FromPropertyValue<'a> + 'a>(&self, key: &'static str) -> Result<T, SpecError> {
        self.optional(key)?.ok_or_else(|| self.error(key, Fault::Missing))
    }
}

/// The nodes of this name in `node`; one more than `most` is enough for the refusal, and bounds the work.
pub(super) fn nodes<'a>(
    node: Option<&FdtNode<'a>>,
    name: &'static str,
    most: usize,
) -> impl Iterator<Item = FdtNode<'a>> {
    let nodes = node.into_iter().flat_map(|node| node.children());
    nodes.filter(move |node| node.name_without_address() == name).take(most.saturating_add(1))
}

/// The name of a node in `node` that has none of these names.
pub(super) fn stranger(node: &FdtNode<'_>, known: &[&str]) -> Option<String> {
    let stranger = node.children().find(|child| !known.contains(&child.name_without_address()))?;
    Some(stranger.name().to_string())
}

pub(super) fn group(node: FdtNode<'_>) -> Result<GroupSpec, SpecError> {
    let fields = Fields::new(node, &Owner::Group, &key::OF_GROUP)?;
    Ok(GroupSpec {
        name: fields.required::<&str>(key::NAME)?.to_string(),
        weight: fields.required(key::CPU_WEIGHT)?,
        cpu_max: fields.cpu_max()?,
        memory_max: fields.optional(key::MEMORY_MAX)?,
    })
}

pub(super) fn switch(node: FdtNode<'_>) -> Result<SwitchSpec, SpecError> {
    let fields = Fields::new(node, &Owner::Switch, &key::OF_SWITCH)?;
    let name = fields.required::<&str>(key::NAME)?.to_string();
    Ok(SwitchSpec { name, uplink: fields.flag(key::UPLINK) })
}

impl<'a> Bundle<'a> {
    /// The disks of the VM of this name.
    pub(super) fn disks(&self, node: &FdtNode<'a>, vm: &str) -> Result<Vec<DiskSpec>, SpecError> {
        let disk = |(disk, node)| {
            let owner = |_| Owner::Disk { vm: vm.to_string(), disk };
            let fields = Fields::new(node, &owner, &key::OF_DISK)?;
            let source = match (self.image(&fields, key::IMAGE)?, fields.optional::<&str>(key::HOST)?) {
                (Some(image), None) => DiskSource::Image(image),
                (None, Some(host)) => DiskSource::Host(host.to_string()),
                (None, None) => return Err(fields.error("", DeviceFault::NoSource.into())),
                (Some(_), Some(_)) => return Err(fields.error(key::HOST, DeviceFault::TwoSources.into())),
            };
            let serial = fields.optional::<&str>(key::SERIAL)?.map(ToString::to_string);
            Ok(DiskSpec { source, readonly: fields.flag(key::READONLY), serial })
        };
        nodes(Some(node), names::DISK, DEVICE_SLOTS).enumerate().map(disk).collect()
    }
}

/// The network cards of the VM of this name.
pub(super) fn nets(node: &FdtNode<'_>, vm: &str) -> Result<Vec<NetSpec>, SpecError> {
    let net = |(net, node)| {
        let owner = |_| Owner::Net { vm: vm.to_string(), net };
        let fields = Fields::new(node, &owner, &key::OF_NET)?;
        let mtu = fields.optional::<u32>(key::MTU)?.unwrap_or(DEFAULT_MTU.into());
        Ok(NetSpec {
            switch: fields.required::<&str>(key::SWITCH)?.to_string(),
            mac: fields.optional::<[u8; 6]>(key::MAC)?.map(Mac),
            mtu: u16::try_from(mtu).map_err(|_| fields.error(key::MTU, DeviceFault::Mtu { mtu }.into()))?,
            isolated: fields.flag(key::ISOLATED),
        })
    };
    nodes(Some(node), names::NET, DEVICE_SLOTS).enumerate().map(net).collect()
}
