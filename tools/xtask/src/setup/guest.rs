//! The Debian guest: the arm64 cloud kernel and busybox, unpacked into the cache, and an initramfs made from them.

use super::Guest;
use super::packages::{MAIN, Package, Recipe};
use crate::ctx::{self, Ctx};
use crate::initramfs;
use anyhow::{Context as _, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};

const RECIPE: Recipe = Recipe {
    name: "guest",
    title: "the Debian guest",
    number: 1,
    packages: &[Package::KernelOf("linux-image-cloud-arm64"), Package::Named("busybox-static")],
    components: MAIN,
};

/// The magic word of an uncompressed arm64 kernel (Linux, "Booting AArch64 Linux", the image header).
const IMAGE_MAGIC: (usize, &[u8; 4]) = (56, b"ARM\x64");

/// Finds or fetches the guest's files; the initramfs is written anew whenever its content would differ.
///
/// # Errors
/// When Debian's archive cannot be reached or has changed its shape.
pub fn ensure(ctx: &Ctx) -> Result<Guest> {
    let whole = |dir: &Path| guest(dir).is_ok();
    let dir = RECIPE.ensure(ctx, whole, |unpacked, dir| {
        check_image(&guest(unpacked.dir())?.kernel)?;
        // Kept whole: the initramfs takes its modules out of it.
        for entry in fs::read_dir(unpacked.dir())? {
            let entry = entry?;
            fs::rename(entry.path(), dir.join(entry.file_name()))?;
        }
        Ok(())
    })?;
    let guest = guest(&dir)?;
    ctx::write_if_changed(&guest.initrd, &initramfs::make(&dir, &guest.kernel_version)?)?;
    Ok(guest)
}

const RECIPE_16K: Recipe = Recipe {
    name: "kernel-16k",
    title: "Debian's kernel for pages of 16 KiB",
    number: 1,
    packages: &[Package::BackportedKernelOf("linux-image-arm64-16k")],
    components: MAIN,
};

/// Finds or fetches Debian's kernel for pages of 16 KiB. It does without modules, so [`ensure`]'s initramfs serves it as well.
///
/// # Errors
/// As [`ensure`].
pub fn kernel_16k(ctx: &Ctx) -> Result<PathBuf> {
    const NAME: &str = "vmlinuz";
    let dir = RECIPE_16K.ensure(
        ctx,
        |dir| dir.join(NAME).exists(),
        |unpacked, dir| {
            let kernel = guest(unpacked.dir())?.kernel;
            check_image(&kernel)?;
            fs::copy(&kernel, dir.join(NAME))?;
            Ok(())
        },
    )?;
    Ok(dir.join(NAME))
}

/// The files in an unpacked tree.
fn guest(dir: &Path) -> Result<Guest> {
    let boot = dir.join("boot");
    let entries = fs::read_dir(&boot).with_context(|| format!("cannot read {}", boot.display()))?;
    for entry in entries.flatten() {
        if let Some(version) = entry.file_name().to_string_lossy().strip_prefix("vmlinuz-") {
            let (kernel, initrd) = (entry.path(), dir.join("initrd"));
            return Ok(Guest { kernel, initrd, kernel_version: version.to_owned() });
        }
    }
    bail!("no kernel in {}", boot.display())
}

fn check_image(kernel: &Path) -> Result<()> {
    let bytes = fs::read(kernel)?;
    let (at, magic) = IMAGE_MAGIC;
    if bytes.get(at..at + magic.len()) != Some(magic.as_slice()) {
        bail!("{} is no uncompressed arm64 Image: Debian has changed its form", kernel.display());
    }
    Ok(())
}
