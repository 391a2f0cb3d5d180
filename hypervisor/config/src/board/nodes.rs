//! A node of the board's tree together with the way to it, because what its addresses and interrupts mean depends on
//! the nodes above.

use super::BoardError;
use crate::tree::MAX_DEPTH;
use addr::{Pa, Span};
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use dtoolkit::fdt::{Fdt, FdtNode, FdtProperty};
use dtoolkit::{FdtStringListIterator, Node, Property};

/// A node and all nodes above it, the root first.
#[derive(Clone)]
pub(super) struct Place<'a> {
    above: Vec<FdtNode<'a>>,
    node: FdtNode<'a>,
    /// Its `compatible`, as it is there; empty where it is absent.
    compatible: &'a [u8],
    /// What its `status` says.
    on: bool,
}

/// The root, and all nodes that are on and below such only, in the tree's order. Each is read once, however many look for one of them.
pub(super) struct Nodes<'a> {
    root: Place<'a>,
    on: Vec<Place<'a>>,
}

impl<'a> Nodes<'a> {
    pub(super) fn of(fdt: Fdt<'a>) -> Self {
        let root = Place::root(fdt);
        let mut on = Vec::new();
        root.gather(&mut on);
        Self { root, on }
    }

    /// All of them.
    pub(super) fn all(&self) -> &[Place<'a>] {
        &self.on
    }

    /// The first that `wanted` accepts.
    pub(super) fn search(&self, wanted: &dyn Fn(&Place<'a>) -> bool) -> Option<Place<'a>> {
        self.on.iter().find(|place| wanted(place)).cloned()
    }
}

impl<'a> core::ops::Deref for Nodes<'a> {
    type Target = Place<'a>;

    fn deref(&self) -> &Place<'a> {
        &self.root
    }
}

/// Takes a number of `cells` 32-bit cells off the front of `value`; cells beyond 64 bits must be 0.
fn take(value: &mut &[u8], cells: u32) -> Option<u64> {
    let mut number = 0u64;
    for _ in 0..cells {
        let (cell, rest) = value.split_first_chunk::<4>()?;
        if number >> 32 != 0 {
            return None;
        }
        number = (number << 32) | u64::from(u32::from_be_bytes(*cell));
        *value = rest;
    }
    Some(number)
}

/// All 32-bit cells of a value; `None` where there is half a one.
pub(super) fn words(value: &[u8]) -> Option<Vec<u32>> {
    let (cells, rest) = value.as_chunks::<4>();
    rest.is_empty().then(|| cells.iter().map(|cell| u32::from_be_bytes(*cell)).collect())
}

impl<'a> Place<'a> {
    pub(super) fn root(fdt: Fdt<'a>) -> Self {
        Self::new(Vec::new(), fdt.root())
    }

    fn new(above: Vec<FdtNode<'a>>, node: FdtNode<'a>) -> Self {
        let (mut compatible, mut on) = (Default::default(), true);
        for property in node.properties() {
            match property.name() {
                "compatible" => compatible = property.value_as().unwrap_or_default(),
                "status" => on = property.value_as().map_or(true, |status: &str| status == "okay" || status == "ok"),
                _ => {}
            }
        }
        Self { above, node, compatible, on }
    }

    pub(super) fn path(&self) -> String {
        let mut path = String::new();
        for node in self.above.iter().chain([&self.node]).skip(1) {
            path.push('/');
            path.push_str(node.name());
        }
        if path.is_empty() {
            path.push('/');
        }
        path
    }

    pub(super) fn name(&self) -> &'a str {
        self.node.name_without_address()
    }

    fn with(&self, node: FdtNode<'a>) -> Self {
        let mut above = self.above.clone();
        above.push(self.node);
        Self::new(above, node)
    }

    pub(super) fn children(&self) -> impl Iterator<Item = Self> {
        self.node.children().map(|node| self.with(node))
    }

    /// The node at `path` from here; a name without a unit address takes the first that fits.
    pub(super) fn find(&self, path: &str) -> Option<Self> {
        let parts = path.split('/').filter(|part| !part.is_empty());
        parts.take(MAX_DEPTH).try_fold(self.clone(), |place, part| Some(place.with(place.node.child(part)?)))
    }

    /// This node and all below it, in the tree's order, as far as they are on.
    fn gather(&self, into: &mut Vec<Self>) {
        if !self.is_usable() {
            return;
        }
        into.push(self.clone());
        if self.above.len() < MAX_DEPTH {
            self.children().for_each(|child| child.gather(into));
        }
    }

    pub(super) fn value(&self, name: &str) -> Option<&'a [u8]> {
        self.node.property(name)?.value_as::<&'a [u8]>().ok()
    }

    /// The property as text; `None` where it is absent or none.
    pub(super) fn string(&self, name: &str) -> Option<&'a str> {
        self.node.property(name)?.value_as::<&'a str>().ok()
    }

    /// The property as a list of texts; empty where it is absent.
    pub(super) fn strings(&self, name: &str) -> impl Iterator<Item = &'a str> + use<'a> {
        let list = self.node.property(name).and_then(|p| p.value_as::<FdtStringListIterator<'a>>().ok());
        list.into_iter().flatten()
    }

    /// The property as one number of one or two cells; `None` where it is absent.
    pub(super) fn number(&self, name: &'static str) -> Result<Option<u64>, BoardError> {
        let Some(value) = self.value(name) else {
            return Ok(None);
        };
        let number = match value.len() {
            4 | 8 => take(&mut &*value, (value.len() / 4) as u32),
            _ => None,
        };
        number.map(Some).ok_or_else(|| self.error(name, "is no number of one or two cells"))
    }

    pub(super) fn error(&self, property: &'static str, reason: &'static str) -> BoardError {
        BoardError::Property { node: self.path(), property, reason }
    }

    pub(super) fn is_compatible(&self, any: &[&str]) -> bool {
        self.compatible.split(|byte| *byte == 0).any(|own| any.iter().any(|name| name.as_bytes() == own))
    }

    /// Whether firmware left the node on.
    pub(super) fn is_usable(&self) -> bool {
        self.on
    }

    /// Whether it is on for who runs in the Secure state: `secure-status` says, or, without that, `status`.
    pub(super) fn is_usable_by_secure(&self) -> bool {
        self.string("secure-status").map_or_else(|| self.is_usable(), |status| status == "okay" || status == "ok")
    }

    /// Whether firmware left the node on, and all above it.
    pub(super) fn is_reachable(&self) -> bool {
        self.is_usable() && self.parent().is_none_or(|parent| parent.is_reachable())
    }

    /// Has `each` look at this node and all below it, on or not, in the tree's order, until it answers.
    pub(super) fn walk<T>(&self, each: &mut dyn FnMut(&Self) -> Option<T>) -> Option<T> {
        if let Some(found) = each(self) {
            return Some(found);
        }
        if self.above.len() >= MAX_DEPTH {
            return None;
        }
        self.children().find_map(|child| child.walk(each))
    }

    /// The node's own properties.
    pub(super) fn properties(&self) -> Vec<(String, &'a [u8])> {
        let value =
            |property: FdtProperty<'a>| Some((property.name().to_string(), property.value_as::<&'a [u8]>().ok()?));
        self.node.properties().filter_map(value).collect()
    }

    /// The node's own number, by which others refer to it.
    pub(super) fn phandle(&self) -> Option<u32> {
        let value = self.value("phandle").or_else(|| self.value("linux,phandle"))?;
        value.try_into().ok().map(u32::from_be_bytes)
    }

    /// The interrupt controller of this node's interrupts: `interrupt-parent` here or on the way up.
    pub(super) fn interrupt_parent(&self) -> Option<u32> {
        let mut nodes = [&self.node].into_iter().chain(self.above.iter().rev());
        let property = nodes.find_map(|node| node.property("interrupt-parent"))?;
        property.value_as::<u32>().ok()
    }

    /// Cells of addresses and sizes in `reg` of this node's children.
    pub(super) fn cells(&self) -> Result<(u32, u32), BoardError> {
        let cells = |name: &'static str, absent: u64| {
            let cells = self.number(name)?.unwrap_or(absent);
            u32::try_from(cells).ok().filter(|cells| *cells <= 4).ok_or_else(|| self.error(name, "is over 4"))
        };
        Ok((cells("#address-cells", 2)?, cells("#size-cells", 1)?))
    }

    pub(super) fn parent(&self) -> Option<Self> {
        let (node, above) = self.above.split_last()?;
        Some(Self::new(above.to_vec(), *node))
    }

    /// `reg` as numbers in the parent's terms: (address, size).
    pub(super) fn raw_reg(&self) -> Result<Vec<(u64, u64)>, BoardError> {
        let mut value = self.value("reg").ok_or_else(|| self.error("reg", "is missing"))?;
        let (address_cells, size_cells) = self.parent().unwrap_or_else(|| self.clone()).cells()?;
        let mut entries = Vec::new();
        if address_cells.saturating_add(size_cells) == 0 {
            return Err(self.error("reg", "has entries without any cell"));
        }
        while !value.is_empty() {
            let entry = take(&mut value, address_cells).zip(take(&mut value, size_cells));
            entries.push(entry.ok_or_else(|| self.error("reg", "is not made of the cells that its parent tells"))?);
        }
        Ok(entries)
    }

    /// `reg` as spans of the machine's memory.
    pub(super) fn reg(&self) -> Result<Vec<Span<Pa>>, BoardError> {
        self.raw_reg()?.into_iter().map(|(start, size)| self.translate(start, size)).collect()
    }

    /// An address in the terms of this node's parent as the CPUs see it, by the `ranges` of every bus on the way.
    fn translate(&self, start: u64, size: u64) -> Result<Span<Pa>, BoardError> {
        let mut start = start;
        let mut bus = self.parent();
        while let Some(here) = bus {
            let Some(parent) = here.parent() else { break };
            start = here.through(&parent, start, size)?;
            bus = Some(parent);
        }
        Span::new(Pa::new(start), size).ok_or_else(|| self.error("reg", "wraps around the end of memory"))
    }

    /// The address in `parent`'s terms of `size` bytes at `start` in this bus's terms.
    fn through(&self, parent: &Self, start: u64, size: u64) -> Result<u64, BoardError> {
        let mut ranges = self.value("ranges").ok_or_else(|| self.error("ranges", "is missing"))?;
        if ranges.is_empty() {
            return Ok(start);
        }
        let ((child_cells, size_cells), (parent_cells, _)) = (self.cells()?, parent.cells()?);
        if child_cells.saturating_add(size_cells).saturating_add(parent_cells) == 0 {
            return Err(self.error("ranges", "has entries without any cell"));
        }
        while !ranges.is_empty() {
            let entry =
                (take(&mut ranges, child_cells), take(&mut ranges, parent_cells), take(&mut ranges, size_cells));
            let (Some(child), Some(parent), Some(length)) = entry else {
                return Err(self.error("ranges", "is not made of the cells that the buses tell"));
            };
            let offset = start.checked_sub(child);
            let inside = offset.filter(|offset| offset.checked_add(size).is_some_and(|end| end <= length));
            if let Some(address) = inside.and_then(|offset| parent.checked_add(offset)) {
                return Ok(address);
            }
        }
        Err(self.error("ranges", "does not hold a device on this bus"))
    }
}
