//! What the boot loader chose: the console, the initrd, the command line, entropy.

use super::nodes::{Nodes, Place};
use super::{BoardError, Uart, UartKind, gic};
use addr::{Pa, Span};
use alloc::string::{String, ToString};

/// The parts of `/chosen` that Merus uses.
#[derive(Default)]
pub(super) struct Chosen<'a> {
    pub(super) initrd: Option<Span<Pa>>,
    pub(super) bootargs: String,
    /// Not copied: each copy has to be wiped.
    pub(super) rng_seed: Option<&'a [u8]>,
    /// The console's path or alias, options cut off.
    pub(super) stdout: Option<&'a str>,
}

/// Reads `/chosen`; without that node, nothing was chosen.
pub(super) fn read<'a>(root: &Place<'a>) -> Result<Chosen<'a>, BoardError> {
    let Some(node) = root.find("chosen") else {
        return Ok(Chosen::default());
    };
    let bounds = node.number("linux,initrd-start")?.zip(node.number("linux,initrd-end")?);
    let initrd = match bounds {
        Some((start, end)) => Some(
            Span::from_bounds(Pa::new(start), Pa::new(end))
                .ok_or_else(|| node.error("linux,initrd-end", "is below linux,initrd-start"))?,
        ),
        None => module(&node)?,
    };
    let stdout = node.string("stdout-path").or_else(|| node.string("linux,stdout-path"));
    Ok(Chosen {
        initrd: initrd.filter(|span| !span.is_empty()),
        bootargs: node.string("bootargs").unwrap_or_default().to_string(),
        rng_seed: node.value("rng-seed").filter(|seed| !seed.is_empty()),
        stdout: stdout.and_then(|path| path.split(':').next()),
    })
}

/// What a loader put in memory without the boot protocol's words for it: a module that is a RAM disk (Xen, "Device Tree Bindings";
/// QEMU's `guest-loader`, which leaves out the cells where both are two).
fn module(chosen: &Place<'_>) -> Result<Option<Span<Pa>>, BoardError> {
    let Some(node) = chosen.children().find(|node| node.is_compatible(&["multiboot,ramdisk"])) else {
        return Ok(None);
    };
    let two_cells_each = node.value("reg").and_then(|reg| <[u8; 16]>::try_from(reg).ok()).map(u128::from_be_bytes);
    let (start, size) = match two_cells_each {
        Some(reg) if chosen.value("#address-cells").is_none() => ((reg >> 64) as u64, reg as u64),
        _ => match node.raw_reg()?.as_slice() {
            [one] => *one,
            _ => return Err(node.error("reg", "is not one span of memory")),
        },
    };
    let span = Span::new(Pa::new(start), size).ok_or_else(|| node.error("reg", "wraps around the end of memory"))?;
    Ok(Some(span).filter(|span| !span.is_empty()))
}

/// The serial port: the chosen one if Merus knows it, else the one that `serial0` names, else the first that is on. One that leads
/// to a device on the board (see [`is_free`]) is taken only where it was chosen and nothing else is there.
///
/// A tree whose serial port makes no sense is one without a serial port: there would be nowhere to say so.
pub(super) fn uart(root: &Nodes<'_>, stdout: Option<&str>, gic: Option<u32>) -> Option<Uart> {
    let named = || [stdout, Some("serial0")].into_iter().flatten().filter_map(|name| by_name(root, name));
    let free = |place: &Place<'_>| known(root, place, gic).filter(|_| is_free(place));
    let first = || free(&root.search(&|place| free(place).is_some())?);
    named().find_map(|place| free(&place)).or_else(first).or_else(|| named().find_map(|place| known(root, &place, gic)))
}

/// Another serial port than the console's, for the control channel: the first usable one that can interrupt and that nothing on the
/// board is wired to.
pub(super) fn second_uart(root: &Nodes<'_>, console: Option<Uart>, gic: Option<u32>) -> Option<Uart> {
    let taken = console.map(|uart| uart.base);
    let other = |uart: &Uart| Some(uart.base) != taken && uart.intid.is_some();
    let usable = |place: &Place<'_>| known(root, place, gic).filter(other).filter(|_| is_free(place));
    usable(&root.search(&|place| usable(place).is_some())?)
}

/// The node with this path, or with this alias.
pub(super) fn by_name<'a>(root: &Place<'a>, name: &str) -> Option<Place<'a>> {
    if name.starts_with('/') {
        return root.find(name);
    }
    root.find("aliases")?.string(name).and_then(|path| root.find(path))
}

/// Whether nobody but a person or a cable is at its other end: a device there (Bluetooth on a Raspberry Pi) is a node within the
/// port's (binding `serial`).
fn is_free(place: &Place<'_>) -> bool {
    place.children().all(|child| child.strings("compatible").next().is_none() || !child.is_usable())
}

fn known(root: &Nodes<'_>, place: &Place<'_>, gic: Option<u32>) -> Option<Uart> {
    if !place.is_usable() {
        return None;
    }
    let kind = if place.is_compatible(&["arm,pl011", "arm,sbsa-uart"]) {
        UartKind::Pl011
    } else if place.is_compatible(&["brcm,bcm2835-aux-uart"]) {
        UartKind::Mini { aux: aux(root) }
    } else {
        return None;
    };
    let base = place.reg().ok()?.first().copied()?;
    let intids = gic::interrupts(place, gic).ok().flatten();
    Some(Uart { kind, base, intid: intids.and_then(|intids| intids.first().copied()) })
}

/// The registers of the block that switches the mini-UART on. No board has two.
fn aux(root: &Nodes<'_>) -> Option<Span<Pa>> {
    root.search(&|place| place.is_compatible(&["brcm,bcm2835-aux"]))?.reg().ok()?.first().copied()
}
