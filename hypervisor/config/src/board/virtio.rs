//! Where the board may have virtio devices, for Merus' own use: registers in memory, and PCI buses.
//!
//! Whether there is a device, and which, only the registers tell.
//!
//! Linux, Documentation/devicetree/bindings (`virtio,mmio`); "PCI Bus Binding to: IEEE Std 1275-1994", and its interrupt mapping
//! (Devicetree Specification, release 0.4, "Nexus Node Properties").

use super::nodes::{Nodes, Place, words};
use super::{BoardError, gic};
use crate::tree;
use addr::{Pa, Span};
use alloc::vec::Vec;

/// Registers behind which a virtio device may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VirtioMmio {
    /// Where they are.
    pub registers: Span<Pa>,
    /// INTID of its interrupt.
    pub intid: u32,
}

/// A bridge to PCI whose configuration space is memory ("ECAM").
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PciHost {
    /// The configuration space of its first bus: 1 MiB.
    pub config: Span<Pa>,
    /// That bus's number.
    pub bus: u8,
    /// Windows to the bus's memory in which its addresses are the CPUs': not prefetchable ones first, below 4 GiB first of those.
    pub windows: Vec<Span<Pa>>,
    /// Of a function's address (bits 8 to 15) and wire, those bits that decide about its interrupt.
    mask: (u32, u32),
    /// Address, wire, INTID.
    map: Vec<(u32, u32, u32)>,
}

/// All of them.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct VirtioPlaces {
    /// In the tree's order.
    pub mmio: Vec<VirtioMmio>,
    /// In the tree's order.
    pub pci: Vec<PciHost>,
}

/// Bytes of the configuration space of one bus.
const BUS: u64 = 1 << 20;
/// Cells of an address on the bus.
const ADDRESS_CELLS: usize = 3;
/// `phys.hi`: the space's code, and whether it is prefetchable.
const SPACE: u32 = 3 << 24;
const MEMORY_32: u32 = 2 << 24;
const MEMORY_64: u32 = 3 << 24;
const PREFETCHABLE: u32 = 1 << 30;
/// Flags of an interrupt that is level sensitive (high).
const LEVEL_HIGH: u32 = 4;

impl PciHost {
    /// INTID of the interrupt of wire `pin` (1 to 4) of a function.
    pub fn intid(&self, device: u8, function: u8, pin: u8) -> Option<u32> {
        let at = u32::from(self.bus) << 16 | u32::from(device) << 11 | u32::from(function) << 8;
        let (at, pin) = (at & self.mask.0, u32::from(pin) & self.mask.1);
        self.map
            .iter()
            .find(|(unit, wire, _)| (*unit & self.mask.0, *wire & self.mask.1) == (at, pin))
            .map(|found| found.2)
    }
}

/// Reads the tree at the start of `blob`. A node that says less than it takes is none.
pub fn virtio(blob: &[u8]) -> Result<VirtioPlaces, BoardError> {
    let fdt = tree::open(blob).map_err(|reason| BoardError::Tree { reason })?;
    let root = Nodes::of(fdt);
    let (_, gic) = gic::find(&root)?;
    let of = |kind: &'static str| root.all().iter().filter(move |place| place.is_compatible(&[kind]));
    Ok(VirtioPlaces {
        mmio: of("virtio,mmio").filter_map(|place| mmio(place, &gic)).collect(),
        pci: of("pci-host-ecam-generic").filter_map(|place| pci(place, &gic)).collect(),
    })
}

fn mmio(place: &Place<'_>, gic: &Place<'_>) -> Option<VirtioMmio> {
    let registers = place.reg().ok()?.first().copied()?;
    let (intid, _) = gic::specifiers(place, gic.phandle()).ok()??.first().copied()?;
    (!gic::is_ppi(intid)).then_some(VirtioMmio { registers, intid })
}

fn pci(place: &Place<'_>, gic: &Place<'_>) -> Option<PciHost> {
    let config = place.reg().ok()?.first().copied()?;
    let config = Span::new(config.start(), BUS).filter(|first| config.encloses(first))?;
    let buses = place.value("bus-range").and_then(words);
    let bus = buses.map_or(Some(0), |buses| u8::try_from(*buses.first()?).ok())?;
    let mask = words(place.value("interrupt-map-mask")?)?;
    let mask = match mask.as_slice() {
        [address, _, _, wire] => (*address, *wire),
        _ => return None,
    };
    Some(PciHost { config, bus, windows: windows(place)?, mask, map: interrupts(place, gic)? })
}

fn windows(place: &Place<'_>) -> Option<Vec<Span<Pa>>> {
    let (address, size) = place.cells().ok()?;
    let (parent, _) = place.parent()?.cells().ok()?;
    if (usize::try_from(address).ok()?, size, parent) != (ADDRESS_CELLS, 2, 2) {
        return None;
    }
    let cells = words(place.value("ranges")?)?;
    let (entries, rest) = cells.as_chunks::<{ ADDRESS_CELLS + 4 }>();
    if !rest.is_empty() {
        return None;
    }
    let wide = |high: u32, low: u32| u64::from(high) << 32 | u64::from(low);
    let mut found: Vec<(u32, Span<Pa>)> = Vec::new();
    for [kind, high, low, at_high, at_low, size_high, size_low] in entries {
        let (bus, at) = (wide(*high, *low), wide(*at_high, *at_low));
        let memory = matches!(kind & SPACE, MEMORY_32 | MEMORY_64);
        let span =
            Span::new(Pa::new(at), wide(*size_high, *size_low)).filter(|span| memory && bus == at && !span.is_empty());
        found.extend(span.map(|span| (kind & (PREFETCHABLE | SPACE), span)));
    }
    // 32 bits before 64, prefetchable ones last.
    found.sort_unstable_by_key(|(kind, _)| *kind);
    Some(found.into_iter().map(|(_, span)| span).collect())
}

/// `interrupt-map`: each entry has an address and a wire here, then the controller, an address there and a specifier there.
fn interrupts(place: &Place<'_>, gic: &Place<'_>) -> Option<Vec<(u32, u32, u32)>> {
    let cells = words(place.value("interrupt-map")?)?;
    let skipped = usize::try_from(gic.number("#address-cells").ok()?.unwrap_or(0)).ok().filter(|cells| *cells <= 4)?;
    let length = ADDRESS_CELLS.checked_add(5)?.checked_add(skipped)?;
    let mut map = Vec::new();
    for entry in cells.chunks(length) {
        let ([unit, _, _, wire, controller], rest) = entry.split_first_chunk::<5>()?;
        let [kind, number, flags] = rest.get(skipped..)?.first_chunk::<3>()?;
        // What goes elsewhere, or is edge triggered, has specifiers of another form or use.
        if Some(*controller) != gic.phandle() || (*kind, flags & 15) != (0, LEVEL_HIGH) || *number >= 988 {
            return None;
        }
        map.push((*unit, *wire, number.saturating_add(crate::map::SPI_BASE)));
    }
    Some(map)
}

#[cfg(test)]
mod tests;
