//! Disks that UEFI boots from: the image itself as the boot program or by the shell, or GRUB with a menu of its own.
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

/// A disk from which the firmware starts `image` itself, with `bundle` beside it. A command line can only be given by the UEFI shell,
/// which the firmware starts where there is no other program; it names the bundle, too.
///
/// # Errors
/// The command line has what the shell would not pass on.
pub fn disk(image: &Path, bundle: Option<&Path>, append: Option<&str>) -> Result<Disk> {
    let disk = Disk::new(Use::EfiSystem);
    Ok(match append {
        None => with_bundle(disk.with_file(PROGRAM, image), "EFI/BOOT/bundle.merus", bundle),
        Some(append) => {
            let script = script(bundle.is_some(), append)?;
            let disk = disk.with("startup.nsh", Content::Bytes(script.into_bytes())).with_file("merus.efi", image);
            with_bundle(disk, "vms/first.merus", bundle)
        }
    })
}

/// What the UEFI shell runs by itself.
fn script(bundle: bool, append: &str) -> Result<String> {
    let plain = |c: char| c.is_ascii_graphic() && !"'\"^;&|<>#%".contains(c) || c == ' ';
    ensure!(append.chars().all(plain), "the UEFI shell would not pass on `{append}`");
    let initrd = if bundle { " initrd=\\vms\\first.merus" } else { "" };
    Ok(format!("fs0:\r\nmerus.efi {append}{initrd}\r\n"))
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
    fn the_shell_gets_the_command_line_and_the_bundles_name() {
        assert_eq!(script(true, "a=on").unwrap(), "fs0:\r\nmerus.efi a=on initrd=\\vms\\first.merus\r\n");
        assert!(!script(false, "").unwrap().contains("initrd"));
        for hostile in ["a > b", "a\nb", "%x%", "^"] {
            assert!(script(true, hostile).is_err(), "{hostile}");
        }
    }

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
