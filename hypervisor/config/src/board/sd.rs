//! Where the board may have SD cards: host controllers that Merus has a driver for.
//!
//! Linux, Documentation/devicetree/bindings (`brcm,sdhci-brcmstb`, `brcm,iproc-sdhci`; `mmc-controller`).

use super::nodes::{Nodes, Place};
use super::{BoardError, gic};
use crate::tree;
use addr::{Pa, Span};
use alloc::vec::Vec;

/// The Raspberry Pi 4's EMMC2, and the Arasan that it has beside it.
const KINDS: [&str; 2] = ["brcm,bcm2711-emmc2", "brcm,bcm2835-sdhci"];

/// A host controller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SdHost {
    /// Its registers.
    pub registers: Span<Pa>,
    /// INTID of its interrupt.
    pub intid: u32,
}

/// Reads the tree at the start of `blob`. A controller that has something else than a card at its wires (Wi-Fi on a Raspberry Pi, which
/// is a node within the controller's) is none, nor is one that says less than it takes.
///
/// # Errors
/// It is no device tree, or one without an interrupt controller.
pub fn sd_hosts(blob: &[u8]) -> Result<Vec<SdHost>, BoardError> {
    let fdt = tree::open(blob).map_err(|reason| BoardError::Tree { reason })?;
    let root = Nodes::of(fdt);
    let (_, gic) = gic::find(&root)?;
    let own = root.all().iter().filter(|place| place.is_compatible(&KINDS));
    Ok(own.filter(|place| is_free(place)).filter_map(|place| host(place, gic.phandle())).collect())
}

fn is_free(place: &Place<'_>) -> bool {
    place.children().all(|child| !child.is_usable())
}

fn host(place: &Place<'_>, gic: Option<u32>) -> Option<SdHost> {
    let registers = place.reg().ok()?.first().copied()?;
    let intid = gic::interrupts(place, gic).ok()??.first().copied().filter(|intid| !gic::is_ppi(*intid))?;
    Some(SdHost { registers, intid })
}
