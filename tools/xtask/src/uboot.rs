//! What U-Boot reads of a disk: a boot script in the legacy image format, the image and the bundle.
//!
//! U-Boot, doc/usage/cmd/source.rst (scripts) and include/image.h (the 64-byte header, big-endian); Debian's builds look for `boot.scr`
//! on the first partition of each disk ("distro boot").

use crate::disk::{Content, Disk, Use};
use anyhow::{Result, ensure};
use std::path::Path;

/// A disk from which U-Boot starts `image` with `bundle` and Merus' own command line.
///
/// # Errors
/// The command line has what U-Boot's shell would not pass on.
pub fn disk(image: &Path, bundle: Option<&Path>, append: Option<&str>) -> Result<Disk> {
    let script = boot_script(bundle.is_some(), append.unwrap_or_default())?;
    let disk = Disk::new(Use::Boot).with("boot.scr", Content::Bytes(script));
    let disk = disk.with_file("merus.img", image);
    Ok(match bundle {
        Some(bundle) => disk.with_file("bundle.merus", bundle),
        None => disk,
    })
}

/// The file `boot.scr` of such a disk.
///
/// # Errors
/// The command line has what U-Boot's shell would not pass on.
pub fn boot_script(bundle: bool, append: &str) -> Result<Vec<u8>> {
    Ok(legacy_script(&script(bundle, append)?))
}

/// The commands. U-Boot's build for a board knows where in its memory things may go and where its device tree is.
fn script(bundle: bool, append: &str) -> Result<String> {
    let plain = |c: char| c.is_ascii_graphic() && !"'\"\\$;&|<>(){}".contains(c) || c == ' ';
    ensure!(append.chars().all(plain), "U-Boot's shell would not pass on `{append}`");
    let load = "load ${devtype} ${devnum}:${distro_bootpart}";
    // Where `fdt_addr` is not set, the tree is where U-Boot has its own.
    let mut text = format!("setenv bootargs '{append}'\n{load} ${{kernel_addr_r}} merus.img\n");
    let ramdisk = if bundle {
        text.push_str(&format!("{load} ${{ramdisk_addr_r}} bundle.merus\n"));
        "${ramdisk_addr_r}:${filesize}"
    } else {
        "-"
    };
    text.push_str(&format!("booti ${{kernel_addr_r}} {ramdisk} ${{fdt_addr}}\n"));
    Ok(text)
}

/// A script as `mkimage -T script` packs one: the header, then a list of one length that ends with a 0, then the text.
fn legacy_script(text: &str) -> Vec<u8> {
    const MAGIC: u32 = 0x2705_1956;
    const LINUX: u8 = 5;
    const ARM64: u8 = 22;
    const SCRIPT: u8 = 6;
    const NOT_COMPRESSED: u8 = 0;
    const NAME: &[u8] = b"Merus";
    let mut data = (text.len() as u32).to_be_bytes().to_vec();
    data.extend([0; 4]);
    data.extend(text.as_bytes());
    let mut header = [0; 64];
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &MAGIC.to_be_bytes());
    // The date stays 0, and so do the load address and the entry, which a script has no use for.
    put(12, &(data.len() as u32).to_be_bytes());
    put(24, &crc32fast::hash(&data).to_be_bytes());
    put(28, &[LINUX, ARM64, SCRIPT, NOT_COMPRESSED]);
    put(32, NAME);
    // Over the header with 0 in the sum's own place.
    let sum = crc32fast::hash(&header);
    header[4..8].copy_from_slice(&sum.to_be_bytes());
    let mut image = header.to_vec();
    image.extend(data);
    image
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_loads_both_and_starts_the_image() {
        let with = script(true, "merus.idle=stay").unwrap();
        let lines: Vec<_> = with.lines().collect();
        assert_eq!(lines[0], "setenv bootargs 'merus.idle=stay'");
        assert!(
            lines[1].ends_with("${kernel_addr_r} merus.img") && lines[2].ends_with("${ramdisk_addr_r} bundle.merus")
        );
        assert_eq!(lines[3], "booti ${kernel_addr_r} ${ramdisk_addr_r}:${filesize} ${fdt_addr}");
        assert!(script(false, "").unwrap().ends_with("booti ${kernel_addr_r} - ${fdt_addr}\n"));
        for hostile in ["a;reset", "'", "${x}", "a\nb"] {
            assert!(script(true, hostile).is_err(), "{hostile}");
        }
    }

    /// What `mkimage -A arm64 -O linux -T script -C none -n Merus` of U-Boot 2023.01 made of this text, its date set to 0 by
    /// `SOURCE_DATE_EPOCH=0`.
    #[test]
    fn the_header_is_mkimages() {
        let image = legacy_script("echo hello\n");
        assert_eq!(image.len(), 64 + 8 + 11);
        let sums: Vec<u8> = [4..8, 24..28].into_iter().flat_map(|at| image[at].to_vec()).collect();
        assert_eq!(sums, MKIMAGE_SUMS);
    }

    const MKIMAGE_SUMS: [u8; 8] = [0xbd, 0xdd, 0x78, 0x7f, 0x3d, 0xb5, 0x5e, 0x6f];
}
