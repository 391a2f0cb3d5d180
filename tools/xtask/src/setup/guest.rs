//! The Debian guest: the arm64 cloud kernel and busybox, unpacked into the cache, and an initramfs made from them.

use super::apt::{Apt, Installed};
use super::{Guest, Stamp};
use crate::ctx::{self, Ctx, Step};
use crate::initramfs;
use anyhow::{Context as _, Result, bail};
use std::fs;
use std::path::Path;

/// The package that always depends on the newest kernel for virtual machines.
const KERNEL: &str = "linux-image-cloud-arm64";

/// The magic word of an uncompressed arm64 kernel (Linux, "Booting AArch64 Linux", the image header).
const IMAGE_MAGIC: (usize, &[u8; 4]) = (56, b"ARM\x64");

/// Finds or fetches the guest's files; the initramfs is written anew whenever its content would differ.
///
/// # Errors
/// When Debian's archive cannot be reached or has changed its shape.
pub fn ensure(ctx: &Ctx) -> Result<Guest> {
    let dir = ctx.cache.join("guest");
    let stamp = Stamp::new(1);
    if !(stamp.matches(&dir) && guest(&dir).is_ok()) {
        let step = Step::start("fetching the Debian guest");
        fetch(ctx, &step, &dir).context("cannot fetch the guest's kernel and busybox")?;
        step.done(format!("Linux {}", guest(&dir)?.kernel_version));
    }
    let guest = guest(&dir)?;
    ctx::write_if_changed(&guest.initrd, &initramfs::make(&dir, &guest.kernel_version)?)?;
    Ok(guest)
}

fn fetch(ctx: &Ctx, step: &Step, dir: &Path) -> Result<()> {
    let mut apt = Apt::new(ctx, "guest", "arm64", &Installed::Nothing)?;
    apt.accept_release(step)?;
    let security = format!("{}-security", apt.codename);
    // Newer kernels are there; apt takes the newest of both.
    apt.accept_configured(step, &security);
    let depends = apt.field(KERNEL, "Depends")?;
    let kernel =
        parse_depends(&depends).with_context(|| format!("{KERNEL} depends on no kernel, but on: {depends}"))?;
    ctx::replace_dir(dir, |temporary| {
        let packages = [kernel.clone(), "busybox-static".to_owned()];
        apt.unpack(ctx, step, &packages, temporary)?;
        let found = guest(temporary)?;
        check_image(&found.kernel)?;
        Stamp::new(1).write(temporary, &packages)
    })?;
    apt.finish()
}

/// `linux-image-6.1.0-56-cloud-arm64` out of `linux-image-6.1.0-56-cloud-arm64 (= 6.1.192-2), ...`.
pub(super) fn parse_depends(depends: &str) -> Option<String> {
    let names = depends.split([',', '|']).filter_map(|item| item.split_whitespace().next());
    names.map(str::to_owned).find(|name| name.starts_with("linux-image-"))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_real_kernel_package_is_found_among_the_dependencies() {
        let depends = "linux-image-6.1.0-56-cloud-arm64 (= 6.1.192-2)";
        assert_eq!(parse_depends(depends).as_deref(), Some("linux-image-6.1.0-56-cloud-arm64"));
        let depends = "initramfs-tools | dracut, linux-image-6.12.1-cloud-arm64 (= 6.12.1-1)";
        assert_eq!(parse_depends(depends).as_deref(), Some("linux-image-6.12.1-cloud-arm64"));
        assert_eq!(parse_depends("initramfs-tools"), None);
    }
}
