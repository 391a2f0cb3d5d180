//! The interrupt controller, and what an interrupt specifier means.

use super::nodes::{Nodes, Place, words};
use super::{BoardError, Gic};
use addr::{Pa, Span};
use alloc::vec::Vec;

const V3: [&str; 1] = ["arm,gic-v3"];
const V2: [&str; 3] = ["arm,gic-400", "arm,cortex-a15-gic", "arm,cortex-a7-gic"];
/// The cells of a specifier: kind, number, flags.
const CELLS: usize = 3;

/// The board's GIC, and its node.
pub(super) fn find<'a>(root: &Nodes<'a>) -> Result<(Gic, Place<'a>), BoardError> {
    let is_gic = |place: &Place<'_>| place.is_compatible(&V3) || place.is_compatible(&V2);
    let place = root.search(&is_gic).ok_or(BoardError::Absent { what: "interrupt controller (GICv3 or GICv2)" })?;
    let regs = place.reg()?;
    let lacks = || place.error("reg", "lacks a part (on a GICv2, the virtualization extensions are needed)");
    let part = |index: usize| regs.get(index).copied().ok_or_else(lacks);
    let maintenance_irq = own_interrupts(&place)?.first().copied();
    let maintenance_irq = maintenance_irq
        .ok_or_else(|| place.error("interrupts", "has no maintenance interrupt, which virtualization needs"))?;
    if !is_ppi(maintenance_irq) {
        return Err(place.error("interrupts", "has a maintenance interrupt that is no PPI, so not each CPU's own"));
    }
    let gic = if place.is_compatible(&V3) {
        let regions = place.number("#redistributor-regions")?.unwrap_or(1);
        let count = usize::try_from(regions).ok().filter(|count| *count >= 1 && *count < regs.len());
        let count = count.ok_or_else(|| place.error("#redistributor-regions", "does not fit the property reg"))?;
        let redist: Vec<Span<Pa>> = regs.iter().skip(1).take(count).copied().collect();
        Gic::V3 { dist: part(0)?, redist, stride: place.number("redistributor-stride")?, maintenance_irq }
    } else {
        Gic::V2 { dist: part(0)?, cpu: part(1)?, hyp: part(2)?, vcpu: part(3)?, maintenance_irq }
    };
    Ok((gic, place))
}

/// Whether each CPU has this interrupt for itself.
pub(super) fn is_ppi(intid: u32) -> bool {
    (crate::map::PPI_BASE..crate::map::SPI_BASE).contains(&intid)
}

/// INTIDs of the GIC's own interrupts, which are in its own terms.
fn own_interrupts(gic: &Place<'_>) -> Result<Vec<u32>, BoardError> {
    gic.value("interrupts").map_or(Ok(Vec::new()), |value| intids(gic, "interrupts", value).map(numbers))
}

/// INTIDs of `place`'s interrupts; `None` where they go to another controller than the one with this phandle.
pub(super) fn interrupts(place: &Place<'_>, gic: Option<u32>) -> Result<Option<Vec<u32>>, BoardError> {
    Ok(specifiers(place, gic)?.map(numbers))
}

fn numbers(specifiers: Vec<(u32, u32)>) -> Vec<u32> {
    specifiers.into_iter().map(|(intid, _)| intid).collect()
}

/// The same with each one's flags, whose low four bits are its trigger.
pub(super) fn specifiers(place: &Place<'_>, gic: Option<u32>) -> Result<Option<Vec<(u32, u32)>>, BoardError> {
    if let Some(value) = place.value("interrupts-extended") {
        return extended(place, value, gic);
    }
    match place.value("interrupts") {
        Some(value) if place.interrupt_parent() == gic => intids(place, "interrupts", value).map(Some),
        _ => Ok(None),
    }
}

/// `interrupts-extended`: before each specifier, the phandle of its controller.
fn extended(place: &Place<'_>, value: &[u8], gic: Option<u32>) -> Result<Option<Vec<(u32, u32)>>, BoardError> {
    const NAME: &str = "interrupts-extended";
    let cells = words(value).ok_or_else(|| place.error(NAME, "is not made of cells"))?;
    let (entries, rest) = cells.as_chunks::<{ CELLS + 1 }>();
    // Another controller's specifier has its own length, so the rest cannot be told apart: not the GIC's, then.
    if !rest.is_empty() || entries.iter().any(|[phandle, ..]| Some(*phandle) != gic) {
        return Ok(None);
    }
    let each = |[_, kind, number, flags]: &[u32; CELLS + 1]| Ok((intid(place, NAME, *kind, *number)?, *flags));
    entries.iter().map(each).collect::<Result<_, _>>().map(Some)
}

fn intids(place: &Place<'_>, name: &'static str, value: &[u8]) -> Result<Vec<(u32, u32)>, BoardError> {
    let cells = words(value).unwrap_or_default();
    let (entries, rest) = cells.as_chunks::<CELLS>();
    if entries.is_empty() || !rest.is_empty() {
        return Err(place.error(name, "is not made of specifiers of three cells"));
    }
    entries.iter().map(|[kind, number, flags]| Ok((intid(place, name, *kind, *number)?, *flags))).collect()
}

/// Bindings `arm,gic` and `arm,gic-v3`: 0 is an SPI, 1 a PPI, each counted from its first.
fn intid(place: &Place<'_>, name: &'static str, kind: u32, number: u32) -> Result<u32, BoardError> {
    match (kind, number) {
        (0, 0..988) => Ok(number.saturating_add(crate::map::SPI_BASE)),
        (1, 0..16) => Ok(number.saturating_add(crate::map::PPI_BASE)),
        _ => Err(place.error(name, "names an interrupt that is neither an SPI nor a PPI")),
    }
}
