//! `cargo xtask build`: the hypervisor's ELF and flat image, the host program `merus`, and the EL1 test payloads.

use crate::ctx::{self, Ctx, Step, TARGET};
use crate::image;
use crate::setup::{self, TargetKind};
use anyhow::{Context as _, Result, bail};
use object::elf::{FileHeader64, PT_LOAD};
use object::read::elf::{FileHeader as _, ProgramHeader as _};
use std::fs;
use std::path::{Path, PathBuf};

/// Arguments of `cargo xtask build`.
#[derive(clap::Args)]
pub struct Args {
    /// Build the image that traps every FP instruction in EL2 as well: target/merus/merus-debug-fp.img
    #[arg(long)]
    pub debug_fp: bool,
}

/// What a build leaves under `target/merus/`.
pub struct Built {
    /// The flat image that boards boot.
    pub img: PathBuf,
    /// The same with symbols.
    pub elf: PathBuf,
    /// The host program `merus`.
    pub cli: PathBuf,
}

/// One image of the hypervisor.
pub struct Image {
    /// The flat image.
    pub img: PathBuf,
    /// The same with symbols.
    pub elf: PathBuf,
}

/// A flat image larger than this can only come from a segment at a wrong address.
const LARGEST: u64 = 64 << 20;

/// Runs the command.
///
/// # Errors
/// Those of set-up and of the build.
pub fn main(ctx: &Ctx, args: Args) -> Result<()> {
    let kind = setup::ensure_target(ctx)?;
    let built = build(ctx, &kind)?;
    let mut paths = vec![built.img, built.elf, built.cli];
    if args.debug_fp {
        let image = debug_fp(ctx, &kind)?;
        paths.extend([image.img, image.elf]);
    }
    for path in paths {
        println!("{} {}", path.display(), fs::metadata(&path)?.len());
    }
    Ok(())
}

/// Builds the hypervisor and the host program.
///
/// # Errors
/// When cargo fails, or the ELF file cannot be made a flat image.
pub fn build(ctx: &Ctx, kind: &TargetKind) -> Result<Built> {
    let step = Step::start("building Merus");
    let Image { img, elf } = hypervisor(ctx, &step, kind, "merus", &[])?;
    let cli = host_program(ctx, &step)?;
    step.done(format!("{} ({} KiB)", img.display(), fs::metadata(&img)?.len().div_ceil(1024)));
    Ok(Built { img, elf, cli })
}

/// Builds the hypervisor alone, ahead of [`build`].
///
/// # Errors
/// As [`build`].
pub fn image_ahead(ctx: &Ctx, kind: &TargetKind) -> Result<()> {
    let step = Step::start("building Merus' image ahead");
    let image = hypervisor(ctx, &step, kind, "merus", &[])?;
    step.done(image.img.display().to_string());
    Ok(())
}

/// Builds the hypervisor that traps every FP instruction in EL2 (the feature `debug-fp`).
///
/// # Errors
/// As [`build`].
pub fn debug_fp(ctx: &Ctx, kind: &TargetKind) -> Result<Image> {
    let step = Step::start("building Merus with FP trapped in EL2");
    let image = hypervisor(ctx, &step, kind, "merus-debug-fp", &["--features", "debug-fp"])?;
    step.done(image.img.display().to_string());
    Ok(image)
}

/// Builds the hypervisor with further arguments for cargo and leaves it as `target/merus/<name>.img` and `.elf`.
fn hypervisor(ctx: &Ctx, step: &Step, kind: &TargetKind, name: &str, more: &[&str]) -> Result<Image> {
    let from = for_target(ctx, step, kind, "hypervisor", "hypervisor", more, &ctx.target_dir)?;
    let mut image = flatten_file(&from)?;
    image::pad(&mut image);
    image::check(&image).with_context(|| format!("{} is no image for every loader", from.display()))?;
    let (img, elf) = (ctx.merus_dir.join(format!("{name}.img")), ctx.merus_dir.join(format!("{name}.elf")));
    ctx::write_if_changed(&elf, &fs::read(&from)?)?;
    ctx::write_if_changed(&img, &image)?;
    Ok(Image { img, elf })
}

/// Builds the hypervisor in a directory of its own and leaves nothing: proof that `kind` can.
///
/// # Errors
/// As [`build`].
pub fn prove(ctx: &Ctx, kind: &TargetKind) -> Result<()> {
    let step = Step::start("building Merus with the fallback sysroot");
    let elf = for_target(ctx, &step, kind, "hypervisor", "hypervisor", &[], &ctx.target_dir.join("fallback"))?;
    let image = flatten_file(&elf)?;
    step.done(format!("an image of {} KiB", image.len().div_ceil(1024)));
    Ok(())
}

/// Builds a test payload and flattens it to `target/merus/guests/<bin>.img`.
///
/// # Errors
/// As [`build`].
pub fn guest_payload(ctx: &Ctx, kind: &TargetKind, package: &str, bin: &str) -> Result<PathBuf> {
    let step = Step::start(format!("building the guest {bin}"));
    let elf = for_target(ctx, &step, kind, package, bin, &[], &ctx.target_dir)?;
    let img = ctx.merus_dir.join("guests").join(format!("{bin}.img"));
    let image = flatten_file(&elf)?;
    ctx::write_if_changed(&img, &image)?;
    // Beside it for symbols, as with merus.elf.
    ctx::write_if_changed(&img.with_extension("elf"), &fs::read(&elf)?)?;
    step.done(format!("{} ({} KiB)", img.display(), image.len().div_ceil(1024)));
    Ok(img)
}

/// Builds a program for the target and returns its ELF file.
fn for_target(
    ctx: &Ctx,
    step: &Step,
    kind: &TargetKind,
    package: &str,
    bin: &str,
    more: &[&str],
    target_dir: &Path,
) -> Result<PathBuf> {
    let mut cargo = ctx.cargo();
    cargo
        .args(["build", "--release", "--package", package, "--bin", bin])
        .args(more)
        .env("CARGO_TARGET_DIR", target_dir);
    ctx.run(step, &format!("build-{bin}"), kind.apply(&mut cargo))?;
    Ok(target_dir.join(TARGET).join("release").join(bin))
}

/// Builds the host program and copies it to `target/merus/merus`.
fn host_program(ctx: &Ctx, step: &Step) -> Result<PathBuf> {
    let mut cargo = ctx.cargo();
    cargo.args(["build", "--package", "merus", "--bin", "merus"]);
    ctx.run(step, "build-merus", &mut cargo)?;
    let cli = ctx.merus_dir.join("merus");
    let from = ctx.target_dir.join("debug/merus");
    let bytes = fs::read(&from).with_context(|| format!("cargo left no {}", from.display()))?;
    if !fs::read(&cli).is_ok_and(|old| old == bytes) {
        // Under another name first: the old one may be running.
        let temporary = cli.with_extension(format!("tmp{}", std::process::id()));
        fs::copy(&from, &temporary)?;
        fs::rename(&temporary, &cli)?;
    }
    Ok(cli)
}

fn flatten_file(elf: &Path) -> Result<Vec<u8>> {
    let bytes = fs::read(elf).with_context(|| format!("cannot read {}", elf.display()))?;
    flatten(&bytes).with_context(|| format!("cannot make a flat image of {}", elf.display()))
}

/// The memory image of an ELF file's loadable segments from address 0 to the last byte that the file holds.
///
/// What follows in memory (`.bss`) is not in it: the image's own header says how much there is, and its entry code zeroes it.
///
/// # Errors
/// When the file is no little-endian 64-bit ELF file, has nothing to load, or its segments do not start at 0.
pub fn flatten(elf: &[u8]) -> Result<Vec<u8>> {
    let header = FileHeader64::<object::LittleEndian>::parse(elf).context("no 64-bit ELF file")?;
    let endian = header.endian()?;
    let mut image = Vec::new();
    let mut lowest = u64::MAX;
    for segment in header.program_headers(endian, elf)? {
        if segment.p_type(endian) != PT_LOAD || segment.p_filesz(endian) == 0 {
            continue;
        }
        let start = segment.p_vaddr(endian);
        let data = segment.data(endian, elf).ok().context("a segment reaches past the file's end")?;
        let end = start.checked_add(data.len() as u64).filter(|end| *end <= LARGEST);
        let end = end.with_context(|| format!("a segment at {start:#x}: the image must be linked at 0"))? as usize;
        lowest = lowest.min(start);
        if image.len() < end {
            image.resize(end, 0);
        }
        image[start as usize..end].copy_from_slice(data);
    }
    match lowest {
        0 => Ok(image),
        u64::MAX => bail!("nothing to load in it: is the linker script missing?"),
        other => bail!("its first segment is at {other:#x}: the image must be linked at 0"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A minimal ELF file: header, one program header per segment, contents.
    fn elf(segments: &[(u32, u64, &[u8], u64)]) -> Vec<u8> {
        let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
        file.extend([3u16, 183].iter().flat_map(|n| n.to_le_bytes())); // ET_DYN, AArch64
        file.extend(1u32.to_le_bytes());
        file.extend([0u64, 64, 0].iter().flat_map(|n| n.to_le_bytes())); // entry, phoff, shoff
        file.extend(0u32.to_le_bytes());
        file.extend([64u16, 56, segments.len() as u16, 64, 0, 0].iter().flat_map(|n| n.to_le_bytes()));
        let mut at = 64 + 56 * segments.len() as u64;
        for (kind, address, data, memory) in segments {
            file.extend([*kind, 4].iter().flat_map(|n| n.to_le_bytes()));
            let size = data.len() as u64;
            file.extend([at, *address, *address, size, *memory, 1].iter().flat_map(|n| n.to_le_bytes()));
            at += size;
        }
        segments.iter().for_each(|segment| file.extend(segment.2));
        file
    }

    #[test]
    fn segments_land_at_their_addresses_and_bss_is_left_out() {
        let file = elf(&[(1, 0, b"text", 4), (1, 8, b"da", 100), (1, 200, b"", 50), (2, 300, b"note", 4)]);
        assert_eq!(flatten(&file).unwrap(), b"text\0\0\0\0da");
    }

    #[test]
    fn wrong_files_are_refused_with_a_reason() {
        let reason = |file: &[u8]| format!("{:#}", flatten(file).unwrap_err());
        assert!(reason(b"MZ").contains("no 64-bit ELF"));
        assert!(reason(&elf(&[(2, 0, b"x", 1)])).contains("nothing to load"));
        assert!(reason(&elf(&[(1, 0x1000, b"x", 1)])).contains("linked at 0"));
        assert!(reason(&elf(&[(1, 0, b"x", 1), (1, 0x4020_0000, b"x", 1)])).contains("linked at 0"));
        assert!(reason(&elf(&[(1, u64::MAX, b"x", 1)])).contains("linked at 0"));
        let mut cut = elf(&[(1, 0, b"text", 4)]);
        cut.pop();
        assert!(reason(&cut).contains("past the file's end"));
    }
}
