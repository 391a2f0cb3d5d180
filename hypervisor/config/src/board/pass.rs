//! A device of the board that a VM is to have: found by its path, checked, and described so that a guest can be told of it.
//!
//! | refused | why |
//! |---|---|
//! | no such node; one that is disabled, or lies under one | nothing is there, or the firmware keeps it |
//! | no registers of its own, or under a bus that does not translate them | nothing could be mapped |
//! | another device on a page of its registers, unless the VM is given that too | stage 2 maps pages |
//! | an interrupt that is private, goes to another controller than the GIC, or is another usable device's too | it could not be the VM's alone |
//! | a kind not known to leave memory alone, or one with DMA properties, unless that was allowed | there is no IOMMU |
//!
//! What is Merus' own (console, control line, interrupt controller, power management, mailbox), RAM, and another VM's is refused where
//! the windows are lent (`memory::Space`).
//!
//! One device on the same page needs not be named: the clock gate of the device itself (its `clocks` say so), where nobody else that is
//! usable has clocks of it. The guest gets that as well.
//!
//! Devicetree Specification, release 0.4, "Device Node Requirements"; Linux, Documentation/devicetree/bindings (`clock`).

use super::nodes::{Nodes, Place, words};
use super::{BoardError, chosen, gic};
use crate::tree;
use addr::{PAGE_SIZE, Pa, Span};
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use thiserror::Error;

/// Kinds of devices that access no memory by themselves, by `compatible`: Arm's PrimeCells without a bus master (each one's technical
/// reference manual, "About the ..."), 16550s, and of the BCM2835 family those whose transfers are the DMA controller's or the CPU's.
const MASTERS_NO_BUS: [&str; 22] = [
    "arm,pl011",
    "arm,sbsa-uart",
    "arm,pl031",
    "arm,pl061",
    "arm,sp804",
    "arm,sp805",
    "arm,pl050",
    "ns16550",
    "ns16550a",
    "snps,dw-apb-uart",
    "brcm,bcm2835-aux",
    "brcm,bcm2835-aux-uart",
    "brcm,bcm2835-aux-spi",
    "brcm,bcm2835-system-timer",
    "brcm,bcm2835-gpio",
    "brcm,bcm2711-gpio",
    "brcm,bcm2835-i2c",
    "brcm,bcm2711-i2c",
    "brcm,bcm2835-spi",
    "brcm,bcm2835-pwm",
    "brcm,bcm2835-rng",
    "brcm,bcm2711-rng200",
];
/// Properties that speak of DMA.
const DMA: [&str; 6] = ["dmas", "dma-ranges", "dma-coherent", "iommus", "iommu-map", "memory-region"];
/// Properties that are written anew for the guest, or that name other nodes, which it does not have.
const NOT_COPIED: [&str; 26] = [
    "reg",
    "status",
    "phandle",
    "linux,phandle",
    "interrupts",
    "interrupts-extended",
    "interrupt-parent",
    "interrupt-map",
    "interrupt-map-mask",
    "clocks",
    "assigned-clocks",
    "assigned-clock-parents",
    "assigned-clock-rates",
    "ranges",
    "dmas",
    "dma-names",
    "dma-ranges",
    "iommus",
    "iommu-map",
    "memory-region",
    "power-domains",
    "resets",
    "mboxes",
    "phys",
    "interconnects",
    "gpio-ranges",
];
/// The most interrupts of one device.
const MAX_LINES: usize = 16;
/// Clocks made of clocks that are followed.
const MAX_CLOCKS_DEEP: usize = 4;

/// One interrupt of a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Line {
    /// The machine's INTID; a shared interrupt.
    pub intid: u32,
    /// Edge triggered (rising); else level sensitive (high).
    pub edge: bool,
}

/// One clock of a device: its rate in Hz, where the tree tells.
pub type Clock = Option<u32>;

/// A device to be passed through.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Device {
    /// Its path in the board's tree.
    pub path: String,
    /// Its name there, without the address.
    pub name: String,
    /// Its registers.
    pub registers: Vec<Span<Pa>>,
    /// Its interrupts.
    pub lines: Vec<Line>,
    /// Its clocks.
    pub clocks: Vec<Clock>,
    /// What else the tree says of it that means the same to a guest.
    pub properties: Vec<(String, Vec<u8>)>,
}

/// What is wrong with a device.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum Why {
    /// Nothing has that path or alias.
    #[error("the board's device tree has no such node; name one by its path")]
    Absent,
    /// It, or a node above it, has another `status` than "okay".
    #[error("{node} is disabled in the board's device tree; the firmware, or its configuration, has to switch it on")]
    Disabled {
        /// The disabled one.
        node: String,
    },
    /// It has no `reg` that the CPUs can reach.
    #[error("it has no registers that could be mapped")]
    NoRegisters,
    /// A page of its registers holds another device's.
    #[error("{other} has registers on the same page, {page:#x}; name both for this VM, or neither")]
    SharedPage {
        /// The other device.
        other: String,
        /// The page.
        page: u64,
    },
    /// One of its interrupts is no SPI of the GIC.
    #[error("its interrupts go to another controller than the GIC")]
    OtherController,
    /// One of its interrupts is private to each CPU, or triggers in a way that SPIs do not.
    #[error("its interrupt {intid} is no shared one that is level sensitive (high) or edge triggered (rising)")]
    BadLine {
        /// The machine's INTID.
        intid: u32,
    },
    /// Another usable device has the same interrupt.
    #[error("{other} has the same interrupt, {intid}; name both for this VM, or neither")]
    SharedLine {
        /// The other device.
        other: String,
        /// The machine's INTID.
        intid: u32,
    },
    /// More than [`MAX_LINES`].
    #[error("it has {lines} interrupts, more than a device can be given with")]
    TooManyLines {
        /// How many.
        lines: usize,
    },
    /// It may write to any memory.
    #[error(
        "it may access memory by itself ({reason}), nothing on this board would keep it from Merus and other VMs; \
         write unsafe-dma = true to give it nevertheless"
    )]
    Dma {
        /// What says so.
        reason: String,
    },
    /// The tree is wrong about it.
    #[error("{0}")]
    Tree(BoardError),
}

/// A device that cannot be passed through.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("{device}: {why}")]
pub struct PassError {
    /// As it was named.
    pub device: String,
    /// What is wrong.
    pub why: Why,
}

/// The devices of `blob`, the board's tree, that are named by path or alias, all for one VM. `unsafe_dma`: those too that may access
/// memory by themselves.
pub fn devices(blob: &[u8], names: &[String], unsafe_dma: bool) -> Result<Vec<Device>, PassError> {
    let of = |device: &str, why| PassError { device: device.to_string(), why };
    let first = names.first().map(String::as_str).unwrap_or_default();
    let tree = |error| of(first, Why::Tree(error));
    let fdt = tree::open(blob).map_err(|reason| tree(BoardError::Tree { reason }))?;
    let root = Nodes::of(fdt);
    let (_, gic) = gic::find(&root).map_err(tree)?;
    let mut places: Vec<Place<'_>> = Vec::new();
    for name in names {
        places.push(chosen::by_name(&root, name).ok_or_else(|| of(name, Why::Absent))?);
    }
    let paths: Vec<String> = places.iter().map(Place::path).collect();
    let mut found = Vec::new();
    for (name, place) in names.iter().zip(&places) {
        found.push(device(&root, place, &paths, gic.phandle(), unsafe_dma).map_err(|why| of(name, why))?);
    }
    Ok(found)
}

fn device(
    root: &Place<'_>,
    place: &Place<'_>,
    together: &[String],
    gic: Option<u32>,
    unsafe_dma: bool,
) -> Result<Device, Why> {
    if let Some(node) = disabled(place) {
        return Err(Why::Disabled { node });
    }
    let registers = place.reg().map_err(|_| Why::NoRegisters)?;
    if registers.is_empty() || registers.iter().any(Span::is_empty) {
        return Err(Why::NoRegisters);
    }
    if !unsafe_dma && let Some(reason) = may_master(place) {
        return Err(Why::Dma { reason });
    }
    let lines = lines(place, gic)?;
    alone(root, place, together, &registers, &lines, gic)?;
    // What has a name has a clock, even one that nothing is known of.
    let mut clocks = clocks(root, place, MAX_CLOCKS_DEEP);
    let named = place.strings("clock-names").count();
    clocks.resize(clocks.len().max(named), None);
    let copied =
        |name: &str| is_valid(name) && !NOT_COPIED.contains(&name) && !DMA.contains(&name) && !names_others(name);
    let properties = place.properties().into_iter().filter(|(name, _)| copied(name));
    Ok(Device {
        path: place.path(),
        name: place.name().to_string(),
        registers,
        lines,
        clocks,
        properties: properties.map(|(name, value)| (name, value.to_vec())).collect(),
    })
}

/// Whether a property can have this name (Devicetree Specification, "Property Names"; its length is not looked at).
fn is_valid(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b",._+?#-".contains(&byte))
}

/// Properties of these forms hold phandles.
fn names_others(name: &str) -> bool {
    name.starts_with("pinctrl-")
        || ["-supply", "-gpios", "-gpio"].iter().any(|end| name.ends_with(end))
        || name == "gpios"
}

/// The disabled node on the way to `place`, if there is one.
fn disabled(place: &Place<'_>) -> Option<String> {
    match place.is_usable() {
        true => place.parent().as_ref().and_then(disabled),
        false => Some(place.path()),
    }
}

/// Why it may access memory by itself, unless it is known not to.
fn may_master(place: &Place<'_>) -> Option<String> {
    if let Some(property) = DMA.iter().find(|name| place.value(name).is_some()) {
        return Some(alloc::format!("property {property}"));
    }
    if place.is_compatible(&MASTERS_NO_BUS) {
        return None;
    }
    let kind = place.strings("compatible").next().unwrap_or("no kind");
    Some(alloc::format!("{kind} is not known to leave memory alone"))
}

fn lines(place: &Place<'_>, gic: Option<u32>) -> Result<Vec<Line>, Why> {
    if place.value("interrupts").is_none() && place.value("interrupts-extended").is_none() {
        return Ok(Vec::new());
    }
    let specifiers = gic::specifiers(place, gic).map_err(Why::Tree)?.ok_or(Why::OtherController)?;
    if specifiers.len() > MAX_LINES {
        return Err(Why::TooManyLines { lines: specifiers.len() });
    }
    let line = |(intid, flags): (u32, u32)| match flags & 15 {
        1 if intid >= crate::map::SPI_BASE => Ok(Line { intid, edge: true }),
        4 if intid >= crate::map::SPI_BASE => Ok(Line { intid, edge: false }),
        _ => Err(Why::BadLine { intid }),
    };
    specifiers.into_iter().map(line).collect()
}

/// Whether its pages and interrupts are its own, or those of devices that go with it.
fn alone(
    root: &Place<'_>,
    place: &Place<'_>,
    together: &[String],
    registers: &[Span<Pa>],
    lines: &[Line],
    gic: Option<u32>,
) -> Result<(), Why> {
    let pages: Vec<Span<Pa>> = registers.iter().filter_map(|span| span.align_outwards(PAGE_SIZE)).collect();
    let clock = clock_gate(root, place);
    let clash = root.walk(&mut |other| {
        let shared = |span: &Span<Pa>| pages.iter().find(|page| page.overlaps(span)).copied();
        let page = other.value("reg").and_then(|_| other.reg().ok()?.iter().find_map(shared));
        let usable = other.is_reachable();
        let line = usable.then(|| gic::interrupts(other, gic).ok().flatten()).flatten();
        let line = line.and_then(|all| lines.iter().find(|line| all.contains(&line.intid)).copied());
        if page.is_none() && line.is_none() {
            return None;
        }
        let path = other.path();
        if together.contains(&path) {
            return None;
        }
        if let Some(line) = line {
            return Some(Why::SharedLine { other: path, intid: line.intid });
        }
        // A device that is off is nobody's; what it could do is what its kind can.
        let harmless = !usable && may_master(other).is_none();
        let page = page.filter(|_| !harmless && clock.as_ref() != Some(&path))?;
        Some(Why::SharedPage { other: path, page: page.start().as_u64() })
    });
    clash.map_or(Ok(()), Err)
}

/// The path of a clock gate that no usable node but `place` has clocks of.
fn clock_gate(root: &Place<'_>, place: &Place<'_>) -> Option<String> {
    let own = place.value("clocks").and_then(words)?;
    let gate = *own.first()?;
    let gate = root.walk(&mut |node| (node.phandle() == Some(gate)).then(|| node.clone()))?;
    let (path, phandle) = (place.path(), gate.phandle()?);
    // A cell of another meaning may look like it: then it is somebody's, to be on the safe side.
    let used = root.walk(&mut |node| {
        let names_it = node.value("clocks").and_then(words).is_some_and(|cells| cells.contains(&phandle));
        (names_it && node.is_reachable() && node.path() != path).then_some(())
    });
    (used.is_none() && may_master(&gate).is_none()).then(|| gate.path())
}

/// The rates of a node's clocks, each `None` where the tree does not tell.
fn clocks(root: &Place<'_>, place: &Place<'_>, deep: usize) -> Vec<Clock> {
    let cells = place.value("clocks").and_then(words).unwrap_or_default();
    let mut cells = cells.as_slice();
    let mut found = Vec::new();
    while let Some((phandle, rest)) = cells.split_first() {
        let provider = root.walk(&mut |node| (node.phandle() == Some(*phandle)).then(|| node.clone()));
        let more = provider.as_ref().and_then(|provider| provider.number("#clock-cells").ok().flatten());
        found.push(provider.and_then(|provider| rate(root, &provider, deep)));
        // How long the specifier is, only its provider tells.
        let skipped = more.and_then(|more| rest.get(usize::try_from(more).ok()?..));
        cells = skipped.unwrap_or_default();
    }
    found
}

fn rate(root: &Place<'_>, provider: &Place<'_>, deep: usize) -> Clock {
    let number = |name| provider.number(name).ok().flatten();
    if provider.is_compatible(&["fixed-clock"]) {
        return number("clock-frequency").and_then(|rate| u32::try_from(rate).ok());
    }
    if !provider.is_compatible(&["fixed-factor-clock"]) {
        return None;
    }
    let of = clocks(root, provider, deep.checked_sub(1)?).into_iter().next()??;
    let rate = u64::from(of).checked_mul(number("clock-mult")?)?.checked_div(number("clock-div")?)?;
    u32::try_from(rate).ok()
}

#[cfg(test)]
mod tests;
