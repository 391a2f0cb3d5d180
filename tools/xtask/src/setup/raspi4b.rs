//! The device tree of the Raspberry Pi 4: Debian's, out of its arm64 kernel package, with what QEMU's `raspi4b` does not emulate
//! switched off and its first UART where the board's tree has it for Bluetooth.

use super::packages::{MAIN, Package, Recipe};
use crate::ctx::Ctx;
use crate::raspi4b::set;
use anyhow::{Context as _, Result, bail};
use dtoolkit::fdt::Fdt;
use dtoolkit::model::DeviceTree;
use std::fs;
use std::path::PathBuf;

/// The kernel for machines has the boards' trees.
const RECIPE: Recipe = Recipe {
    name: "raspi4b",
    title: "the Raspberry Pi 4's device tree",
    number: 1,
    packages: &[Package::KernelOf("linux-image-arm64")],
    components: MAIN,
};
const TREE: &str = "broadcom/bcm2711-rpi-4-b.dtb";
/// The trees in the cache: edited, and not.
const NAME: &str = "board.dtb";
const ORIGINAL: &str = "bcm2711-rpi-4-b.dtb";

/// What raises an external abort where QEMU has nothing, or is of no use there.
const ABSENT: [&str; 17] = [
    "/soc/interrupt-controller@7ef00100",
    "/soc/clock@7ef00000",
    "/soc/avs-monitor@7d5d2000",
    "/soc/i2c@7ef04500",
    "/soc/i2c@7ef09500",
    "/soc/hdmi@7ef00700",
    "/soc/hdmi@7ef05700",
    "/soc/hvs@7e400000",
    "/soc/vec@7ec13000",
    "/soc/pixelvalve@7e206000",
    "/soc/pixelvalve@7e207000",
    "/soc/pixelvalve@7e20a000",
    "/soc/pixelvalve@7e216000",
    "/soc/pixelvalve@7ec12000",
    "/soc/dsi@7e209000",
    "/soc/dsi@7e700000",
    "/v3dbus/gpu@7ec00000",
];

/// Finds or makes the tree.
///
/// # Errors
/// When Debian's archive cannot be reached or has changed its shape.
pub fn ensure(ctx: &Ctx) -> Result<PathBuf> {
    Ok(fetch(ctx)?.join(NAME))
}

/// The same tree as Debian has it, for the board itself.
///
/// # Errors
/// When Debian's archive cannot be reached or has changed its shape.
pub fn ensure_original(ctx: &Ctx) -> Result<PathBuf> {
    Ok(fetch(ctx)?.join(ORIGINAL))
}

fn fetch(ctx: &Ctx) -> Result<PathBuf> {
    RECIPE.ensure(
        ctx,
        |dir| [NAME, ORIGINAL].iter().all(|name| dir.join(name).exists()),
        |unpacked, dir| {
            let kernel = unpacked.names().first().context("no kernel")?;
            let blob = unpacked.read(&format!("usr/lib/{kernel}/{TREE}"))?;
            fs::write(dir.join(ORIGINAL), &blob)?;
            Ok(fs::write(dir.join(NAME), edit(&blob)?)?)
        },
    )
}

/// The board's tree as QEMU's machine has the board.
fn edit(blob: &[u8]) -> Result<Vec<u8>> {
    let fdt = Fdt::new(blob).map_err(|error| anyhow::anyhow!("the board's tree: {error}"))?;
    let mut tree = DeviceTree::from_fdt(&fdt);
    let mut off = 0;
    for path in ABSENT.into_iter().chain(["/emmc2bus/mmc@7e340000"]) {
        if let Some(node) = tree.find_node_mut(path) {
            set(node, "status", "disabled")?;
            off += 1;
        }
    }
    if off < ABSENT.len() / 2 {
        bail!("the board's tree has other nodes than are known: {off} of {} were found", ABSENT.len());
    }
    set(tree.find_node_mut("/chosen").context("no /chosen")?, "stdout-path", "serial0:115200n8")?;
    // The tree's `serial0` is the PL011 under this alias or the other.
    set(tree.find_node_mut("/aliases").context("no /aliases")?, "serial0", "/soc/serial@7e201000")?;
    let uart = tree.find_node_mut("/soc/serial@7e201000").context("no PL011")?;
    uart.remove_child("bluetooth");
    Ok(tree.to_dtb())
}
