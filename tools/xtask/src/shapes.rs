//! Guests' files in other forms than they come in: kernels packed and wrapped, cut off, for other pages; an initrd of 100 MiB; disks.
//!
//! A row of the table names one by a placeholder, such as `{tests-gz}`; what no row names is not made.

use crate::cpio::Archive;
use crate::ctx::{self, Ctx};
use crate::disk::gpt;
use crate::setup::{self, Guest};
use crate::{hostdisk, rootfs};
use anyhow::{Context as _, Result, bail, ensure};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What is done to a kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Form {
    /// `Image.gz`.
    Gzip,
    /// The first half of that.
    Cut,
    Zstd,
    /// An EFI zboot image, of either kind.
    Zboot(Packed),
    /// An ELF file linked for the upper half, as `vmlinux` is.
    Vmlinux,
    /// The payload's own ELF file.
    Elf,
    /// Without its header's magic.
    Raw,
    /// With a header that says that it was built for pages of 16 KiB.
    Pages16K,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Packed {
    Gzip,
    Zstd,
}

/// The placeholders; those of `kernel` are made of Debian's kernel, those of `tests` of the EL1 payload.
const KERNELS: [(&str, Form); 12] = [
    ("kernel-gz", Form::Gzip),
    ("kernel-vmlinux", Form::Vmlinux),
    ("kernel-zboot", Form::Zboot(Packed::Gzip)),
    ("tests-gz", Form::Gzip),
    ("tests-cut", Form::Cut),
    ("tests-zst", Form::Zstd),
    ("tests-zboot", Form::Zboot(Packed::Gzip)),
    ("tests-zboot-zstd", Form::Zboot(Packed::Zstd)),
    ("tests-vmlinux", Form::Vmlinux),
    ("tests-elf", Form::Elf),
    ("tests-raw", Form::Raw),
    ("tests-16k", Form::Pages16K),
];
/// An initrd of [`BIG`] bytes and more.
const BIG_INITRD: &str = "initrd-big";
/// Debian's kernel for pages of 16 KiB.
const KERNEL_16K: &str = "kernel-16k";
/// Bytes of the file in the big initrd.
const BIG: usize = 100 << 20;

/// A disk of [`DISK_PAGES`] pages of 4 KiB, each of which begins with its number.
const DISK: &str = "disk-base";
/// 64 MiB.
const DISK_PAGES: usize = 16384;
/// One that is soon uploaded: 256 KiB of the same.
const SHORT_DISK: &str = "disk-short";
const SHORT_DISK_PAGES: usize = 64;
/// 512 MiB of the same kind.
const BIG_DISK: &str = "disk-big";
const BIG_DISK_PAGES: usize = 131_072;
/// A disk of 64 KiB with nothing on it.
const SMALL_DISK: &str = "disk-small";
/// A disk of 64 MiB with a GUID partition table and [`PARTITIONS`], with nothing in them.
const GPT_DISK: &str = "disk-gpt";
const PARTITIONS: [(&str, usize); 3] = [("data", 40 << 20), ("witness", 1 << 20), ("web", 16 << 20)];
/// A root file system.
const ROOT: &str = "root";

/// Makes each that `named` says is wanted; the names are without their braces. `cli` is the program `merus`.
///
/// # Errors
/// A program that packs is missing, or a file is not of the expected kind.
pub fn make(
    ctx: &Ctx,
    cli: &Path,
    guest: &Guest,
    tests: &Path,
    named: impl Fn(&str) -> bool,
) -> Result<BTreeMap<&'static str, PathBuf>> {
    let dir = ctx.merus_dir.join("shapes");
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let mut made = BTreeMap::new();
    for (name, form) in KERNELS.into_iter().filter(|(name, _)| named(name)) {
        let plain = if name.starts_with("kernel") { &guest.kernel } else { tests };
        let path = dir.join(name);
        ctx::write_if_changed(&path, &form.of(plain)?).with_context(|| format!("cannot make {name}"))?;
        made.insert(name, path);
    }
    if named(BIG_INITRD) {
        let path = dir.join(BIG_INITRD);
        big_initrd(&guest.initrd, &dir.join("big"), &path)?;
        made.insert(BIG_INITRD, path);
    }
    for (name, pages) in [(DISK, DISK_PAGES), (SHORT_DISK, SHORT_DISK_PAGES), (BIG_DISK, BIG_DISK_PAGES)]
        .into_iter()
        .filter(|(name, _)| named(name))
    {
        let path = dir.join(name);
        ctx::write_if_changed(&path, &numbered_pages(pages))?;
        made.insert(name, path);
    }
    if named(SMALL_DISK) {
        let path = dir.join(SMALL_DISK);
        ctx::write_if_changed(&path, &[0; 64 << 10])?;
        made.insert(SMALL_DISK, path);
    }
    if named(GPT_DISK) {
        let path = dir.join(GPT_DISK);
        ctx::write_if_changed(&path, &gpt::disk(64 << 20, &PARTITIONS)?)?;
        made.insert(GPT_DISK, path);
    }
    if named(hostdisk::NAME) {
        made.insert(hostdisk::NAME, hostdisk::make(cli, &dir)?);
    }
    if named(ROOT) {
        made.insert(ROOT, rootfs::make(ctx, cli)?);
    }
    if named(KERNEL_16K) {
        made.insert(KERNEL_16K, setup::ensure_kernel_16k(ctx)?);
    }
    Ok(made)
}

impl Form {
    /// The bytes of the kernel at `plain` in this form.
    fn of(self, plain: &Path) -> Result<Vec<u8>> {
        let read = || fs::read(plain).with_context(|| format!("cannot read {}", plain.display()));
        Ok(match self {
            Self::Gzip => packed_by("gzip", plain)?,
            Self::Cut => {
                let mut bytes = packed_by("gzip", plain)?;
                bytes.truncate(bytes.len() / 2);
                bytes
            }
            Self::Zstd => zstd(&read()?),
            Self::Zboot(Packed::Gzip) => zboot("gzip", &packed_by("gzip", plain)?),
            Self::Zboot(Packed::Zstd) => zboot("zstd", &zstd(&read()?)),
            Self::Vmlinux => vmlinux(&read()?),
            Self::Elf => fs::read(plain.with_extension("elf"))?,
            Self::Raw => with_header(read()?, |header| header[56..60].fill(0))?,
            // Little endian, anywhere in memory, pages of 16 KiB.
            Self::Pages16K => with_header(read()?, |header| header[24] = 8 | 2 << 1)?,
        })
    }
}

fn numbered_pages(count: usize) -> Vec<u8> {
    let mut disk = vec![0; count * 4096];
    for (number, page) in disk.chunks_exact_mut(4096).enumerate() {
        let text = format!("page {number} of the disk\n");
        page[..text.len()].copy_from_slice(text.as_bytes());
    }
    disk
}

fn packed_by(program: &str, file: &Path) -> Result<Vec<u8>> {
    let mut command = Command::new(program);
    command.arg("-1cn").arg(file);
    let output = command.output().with_context(|| format!("cannot start `{program}` (install its package)"))?;
    ensure!(output.status.success(), "`{}` failed", ctx::shown(&command));
    Ok(output.stdout)
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}

fn with_header(mut image: Vec<u8>, change: impl FnOnce(&mut [u8; 64])) -> Result<Vec<u8>> {
    match image.first_chunk_mut::<64>() {
        Some(header) => change(header),
        None => bail!("a kernel shorter than its header"),
    }
    Ok(image)
}

/// An EFI zboot image as far as a loader that knows the form looks at it (Linux, drivers/firmware/efi/libstub/zboot-header.S).
fn zboot(method: &str, payload: &[u8]) -> Vec<u8> {
    const HEADER: usize = 4096;
    let mut image = vec![0; HEADER];
    image[..8].copy_from_slice(b"MZ\0\0zimg");
    image[8..12].copy_from_slice(&(HEADER as u32).to_le_bytes());
    image[12..16].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    image[24..24 + method.len()].copy_from_slice(method.as_bytes());
    image.extend_from_slice(payload);
    // Its length unpacked, which counts as part of a gzip payload alone, and what the linker fills the section up with.
    image.resize(image.len().next_multiple_of(512), 0);
    image
}

/// An ELF file of type DYN in two segments, for where Linux lives.
fn vmlinux(image: &[u8]) -> Vec<u8> {
    const BASE: u64 = 0xffff_8000_0800_0000;
    const HEADERS: usize = 64 + 2 * 56;
    let split = image.len().min(0x1_0000);
    let parts = [(0, &image[..split]), (split as u64, &image[split..])];
    let mut file = vec![0; HEADERS];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"\x7fELF\x02\x01\x01");
    // Type DYN, machine AArch64, version 1.
    put(16, &[3, 0, 183, 0, 1]);
    put(24, &BASE.to_le_bytes());
    put(32, &64u64.to_le_bytes());
    put(52, &[64, 0, 56, 0, 2]);
    let mut at = HEADERS;
    for (n, (offset, bytes)) in parts.iter().enumerate() {
        let header = 64 + 56 * n;
        // PT_LOAD, read, write and execute.
        put(header, &[1, 0, 0, 0, 7]);
        let room = bytes.len() as u64 + if n == 1 { 0x8000 } else { 0 };
        for (m, word) in [at as u64, BASE + offset, BASE + offset, bytes.len() as u64, room, 4096].iter().enumerate() {
            put(header + 8 + 8 * m, &word.to_le_bytes());
        }
        at += bytes.len();
    }
    file.extend_from_slice(image);
    file
}

/// The guest's initramfs, and behind it a second one (the kernel unpacks them one after the other) with `/big` and its hash.
fn big_initrd(initrd: &Path, big: &Path, path: &Path) -> Result<()> {
    // Nothing in it is twice the same, so a piece in a wrong place is found.
    let words = (0..BIG as u64 / 8).map(|n| n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let bytes: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
    ctx::write_if_changed(big, &bytes)?;
    let sum = ctx::capture(Command::new("sha256sum").arg(big))?;
    let sum = sum.split_whitespace().next().context("sha256sum said nothing")?;
    let mut archive = Archive::new();
    archive.file("big", 0o644, &bytes);
    archive.file("big.sum", 0o644, format!("{sum}  /big\n").as_bytes());
    let mut all = fs::read(initrd)?;
    all.extend_from_slice(&archive.finish());
    ctx::write_if_changed(path, &all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vmlinux_is_the_image_at_its_entry() {
        let image: Vec<u8> = (0..100_000u32).map(|n| n as u8).collect();
        let file = vmlinux(&image);
        use object::{Object as _, ObjectSegment as _};
        let file = object::File::parse(&*file).unwrap();
        let segments: Vec<_> =
            file.segments().map(|s| (s.address() - file.entry(), s.data().unwrap().to_vec())).collect();
        assert_eq!(segments, [(0, image[..0x1_0000].to_vec()), (0x1_0000, image[0x1_0000..].to_vec())]);
    }

    #[test]
    fn a_zboot_image_says_where_its_payload_is() {
        let image = zboot("zstd", b"payload");
        let at = u32::from_le_bytes(image[8..12].try_into().unwrap()) as usize;
        assert_eq!(&image[at..at + image[12] as usize], b"payload");
        assert_eq!((&image[..8], &image[24..29]), (&b"MZ\0\0zimg"[..], &b"zstd\0"[..]));
    }

    #[test]
    fn headers_are_changed_in_their_place_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        let mut image = vec![0x55; 100];
        image[24..32].copy_from_slice(&10u64.to_le_bytes());
        fs::write(&path, &image).unwrap();
        let pages = Form::Pages16K.of(&path).unwrap();
        assert_eq!((pages[24] & 1, pages[24] >> 1 & 3, &pages[25..]), (0, 2, &image[25..]));
        assert_eq!(Form::Raw.of(&path).unwrap()[56..61], [0, 0, 0, 0, 0x55]);
        fs::write(&path, [0; 63]).unwrap();
        assert!(Form::Raw.of(&path).is_err());
    }
}
