//! Disks that UEFI boots from: the image itself as the boot program, or GRUB with a menu of its own.
//!
//! UEFI Specification, "Boot Manager", "Removable Media Boot Behavior" (the program's name and place); Debian's monolithic GRUB reads
//! its configuration in `/EFI/debian`.

use crate::disk::{Content, Disk, Use};
use anyhow::{Result, ensure};
use std::path::Path;

/// What firmware for AArch64 starts on a disk without being told.
const PROGRAM: &str = "EFI/BOOT/BOOTAA64.EFI";

/// How GRUB starts the image.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Grub {
    /// As a Linux kernel: with a command line, and the bundle as its initrd.
    Linux,
    /// As any EFI application, which finds its bundle beside it.
    Chainloader,
}

/// A disk from which the firmware starts `image` itself, with `bundle` beside it.
pub fn disk(image: &Path, bundle: Option<&Path>) -> Disk {
    with_bundle(Disk::new(Use::EfiSystem).with_file(PROGRAM, image), "EFI/BOOT/bundle.merus", bundle)
}

/// A disk from which the firmware starts GRUB, and that `image` with `bundle`.
///
/// # Errors
/// The command line has what GRUB's shell would not pass on, or cannot be given.
pub fn grub_disk(grub: &Path, how: Grub, image: &Path, bundle: Option<&Path>, append: Option<&str>) -> Result<Disk> {
    let menu = menu(how, bundle.is_some(), append.unwrap_or_default())?;
    let disk = Disk::new(Use::EfiSystem).with_file(PROGRAM, grub);
    let disk = disk.with("EFI/debian/grub.cfg", Content::Bytes(menu.into_bytes())).with_file("merus.img", image);
    Ok(with_bundle(disk, "bundle.merus", bundle))
}

fn with_bundle(disk: Disk, name: &str, bundle: Option<&Path>) -> Disk {
    match bundle {
        Some(bundle) => disk.with_file(name, bundle),
        None => disk,
    }
}

/// GRUB's commands: it looks for the disk with the image, and starts it without asking.
fn menu(how: Grub, bundle: bool, append: &str) -> Result<String> {
    let plain = |c: char| c.is_ascii_graphic() && !"'\"\\$;&|<>(){}#".contains(c) || c == ' ';
    ensure!(append.chars().all(plain), "GRUB's shell would not pass on `{append}`");
    let start = match how {
        Grub::Linux if bundle => format!("linux /merus.img {append}\ninitrd /bundle.merus\n"),
        Grub::Linux => format!("linux /merus.img {append}\n"),
        Grub::Chainloader => format!("chainloader /merus.img {append}\n"),
    };
    Ok(format!("search --no-floppy --set=root --file /merus.img\n{start}boot\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_menu_starts_the_image_as_it_is_told() {
        let lines = |how, bundle| menu(how, bundle, "merus.trace=on").unwrap();
        let linux = lines(Grub::Linux, true);
        assert!(linux.ends_with("linux /merus.img merus.trace=on\ninitrd /bundle.merus\nboot\n"), "{linux}");
        assert!(!lines(Grub::Linux, false).contains("initrd"));
        assert!(lines(Grub::Chainloader, true).ends_with("chainloader /merus.img merus.trace=on\nboot\n"));
        for hostile in ["a;reboot", "${x}", "a\nb", "#"] {
            assert!(menu(Grub::Linux, true, hostile).is_err(), "{hostile}");
        }
    }
}
