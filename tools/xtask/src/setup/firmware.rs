//! Firmware of boards, out of Debian's packages: only the files that are used are kept.

use super::Stamp;
use super::apt::{Apt, Installed};
use crate::ctx::{self, Ctx, Step};
use anyhow::{Context as _, Result};
use std::fs;
use std::path::PathBuf;

/// A firmware's files in the cache.
pub struct Recipe {
    /// The directory's name in the cache.
    name: &'static str,
    /// What a user calls it.
    title: &'static str,
    /// Changes when anything else here does.
    number: u32,
    /// Debian's packages.
    packages: &'static [&'static str],
    /// What of them is kept: the file there, and its name in the directory.
    files: &'static [(&'static str, &'static str)],
}

/// U-Boot.
pub const U_BOOT: Recipe = Recipe {
    name: "u-boot",
    title: "U-Boot",
    number: 1,
    packages: &["u-boot-qemu", "u-boot-rpi"],
    files: &[("usr/lib/u-boot/qemu_arm64/u-boot.bin", "virt.bin"), ("usr/lib/u-boot/rpi_4/u-boot.bin", "raspi4b.bin")],
};

/// Finds or fetches the files: the directory that has them.
///
/// # Errors
/// When Debian's archive cannot be reached or has changed its shape.
pub fn ensure(ctx: &Ctx, recipe: &Recipe) -> Result<PathBuf> {
    let dir = ctx.cache.join(recipe.name);
    if !(Stamp::new(recipe.number).matches(&dir) && recipe.files.iter().all(|(_, name)| dir.join(name).exists())) {
        let step = Step::start(format!("fetching {}", recipe.title));
        fetch(ctx, &step, recipe, &dir).with_context(|| format!("cannot fetch {}", recipe.title))?;
        step.done(dir.display().to_string());
    }
    Ok(dir)
}

fn fetch(ctx: &Ctx, step: &Step, recipe: &Recipe, dir: &std::path::Path) -> Result<()> {
    let mut apt = Apt::new(ctx, recipe.name, "arm64", &Installed::Nothing)?;
    apt.accept_release(step)?;
    let security = format!("{}-security", apt.codename);
    apt.accept_configured(step, &security);
    ctx::replace_dir(dir, |temporary| {
        let unpacked = temporary.join("package");
        let packages: Vec<String> = recipe.packages.iter().map(|&name| name.to_owned()).collect();
        apt.unpack(ctx, step, &packages, &unpacked)?;
        for (from, name) in recipe.files {
            let from = unpacked.join(from);
            fs::copy(&from, temporary.join(name))
                .with_context(|| format!("the packages {} have no {}", packages.join(", "), from.display()))?;
        }
        fs::remove_dir_all(&unpacked)?;
        Stamp::new(recipe.number).write(temporary, &packages)
    })?;
    apt.finish()
}
