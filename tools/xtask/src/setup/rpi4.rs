//! What the Raspberry Pi 4 itself starts from: its firmware, which Debian has in `non-free-firmware`, and the board's device tree as
//! Debian's kernel has it.

use super::packages::{Package, Recipe};
use super::raspi4b;
use crate::ctx::{self, Ctx};
use anyhow::{Context as _, Result};
use std::fs;
use std::path::PathBuf;

const RECIPE: Recipe = Recipe {
    name: "rpi4",
    title: "the Raspberry Pi 4's firmware",
    number: 1,
    packages: &[Package::Named("raspi-firmware")],
    components: &["non-free-firmware"],
};
/// What of it is kept, with what Debian says of its licence. (The board's first stage is in its own memory.)
const FIRMWARE: [(&str, &str); 3] = [
    ("usr/lib/raspi-firmware/start4.elf", "start4.elf"),
    ("usr/lib/raspi-firmware/fixup4.dat", "fixup4.dat"),
    ("usr/share/doc/raspi-firmware/copyright", "LICENCE.firmware"),
];

/// The board's tree, here and on a card.
pub const TREE: &str = "bcm2711-rpi-4-b.dtb";
/// All the files.
pub const FILES: [&str; 4] = [FIRMWARE[0].1, FIRMWARE[1].1, FIRMWARE[2].1, TREE];

/// Finds or fetches the files: the directory that has them.
///
/// # Errors
/// When Debian's archive cannot be reached or has changed its shape.
pub fn ensure(ctx: &Ctx) -> Result<PathBuf> {
    let dir = RECIPE.ensure_files(ctx, &FIRMWARE)?;
    let tree = raspi4b::ensure_original(ctx)?;
    let tree = fs::read(&tree).with_context(|| format!("cannot read {}", tree.display()))?;
    ctx::write_if_changed(&dir.join(TREE), &tree)?;
    Ok(dir)
}
