//! Set-up: the Rust target, QEMU and the Debian guest, fetched into `target/cache` without root.
//!
//! Each part is skipped where it is there already, so that nothing needs the network a second time, and is written under
//! a temporary name first, so that an interrupted one starts over. Nothing outside the checkout changes, but for rustup's
//! own directory when it adds the target.

mod apt;
mod firmware;
mod guest;
mod packages;
mod qemu;
mod raspi4b;
mod root;
pub mod rpi4;
mod target;

use crate::build;
use crate::ctx::Ctx;
use anyhow::{Context as _, Result, ensure};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Arguments of `cargo xtask setup`.
#[derive(clap::Args)]
pub struct Args {
    /// Build core and alloc from the distribution's rust-src, then the hypervisor with them (slow)
    #[arg(long)]
    pub fallback_test: bool,
}

/// Where the target's `core` and `alloc` come from.
pub enum TargetKind {
    /// The toolchain has the target.
    Rustup,
    /// Built by us; passed to rustc by `--sysroot`.
    Sysroot(PathBuf),
}

impl TargetKind {
    /// Adds what a cargo command for the target needs: `--target`, and the sysroot beside `.cargo/config.toml`'s flags.
    pub fn apply<'a>(&self, cargo: &'a mut Command) -> &'a mut Command {
        let target = crate::ctx::TARGET;
        cargo.args(["--target", target]);
        if let Self::Sysroot(dir) = self {
            let dir = toml::Value::String(dir.display().to_string());
            cargo.arg("--config").arg(format!("target.{target}.rustflags=[\"--sysroot\",{dir}]"));
        }
        cargo
    }
}

/// A QEMU that can be started.
pub struct Qemu {
    /// The program `qemu-system-aarch64`.
    pub binary: PathBuf,
    /// Environment it needs.
    pub env: Vec<(String, String)>,
    /// Arguments it needs before all others.
    pub args: Vec<String>,
    /// Its version, for example 10.0.2.
    pub version: String,
}

impl Qemu {
    /// A command that starts it, environment and first arguments set.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        command.envs(self.env.iter().map(|(name, value)| (name, value))).args(&self.args);
        command
    }
}

/// The Debian guest's files.
pub struct Guest {
    /// The kernel, an arm64 `Image`.
    pub kernel: PathBuf,
    /// The initramfs.
    pub initrd: PathBuf,
    /// The kernel's release, for example 6.1.0-56-cloud-arm64.
    pub kernel_version: String,
}

/// Runs the command.
///
/// # Errors
/// Those of its parts, and with `--fallback-test` that of the build.
pub fn main(ctx: &Ctx, args: Args) -> Result<()> {
    if args.fallback_test {
        let kind = {
            let _lock = lock(ctx)?;
            target::sysroot(ctx, true)?
        };
        return build::prove(ctx, &kind);
    }
    let target = match ensure_target(ctx)? {
        TargetKind::Rustup => "the toolchain's".to_owned(),
        TargetKind::Sysroot(dir) => dir.display().to_string(),
    };
    let qemu = ensure_qemu(ctx)?;
    let guest = ensure_guest(ctx)?;
    println!("target  {target}");
    println!("qemu    {} {}", qemu.version, qemu.binary.display());
    println!("kernel  {} {}", guest.kernel_version, guest.kernel.display());
    println!("initrd  {}", guest.initrd.display());
    Ok(())
}

/// Makes sure that code for [`TARGET`](crate::ctx::TARGET) can be built.
///
/// # Errors
/// When neither rustup nor the distribution's sources give it.
pub fn ensure_target(ctx: &Ctx) -> Result<TargetKind> {
    let _lock = lock(ctx)?;
    target::ensure(ctx).with_context(|| format!("no Rust target {}", crate::ctx::TARGET))
}

/// Makes sure that a QEMU 9 or newer can be started.
///
/// # Errors
/// When there is none and none can be fetched.
pub fn ensure_qemu(ctx: &Ctx) -> Result<Qemu> {
    let _lock = lock(ctx)?;
    qemu::ensure(ctx)
}

/// Makes sure that the guest's kernel and initramfs are there.
///
/// # Errors
/// When they cannot be fetched.
pub fn ensure_guest(ctx: &Ctx) -> Result<Guest> {
    let _lock = lock(ctx)?;
    guest::ensure(ctx)
}

/// Makes sure that the packages of a guest's root file system are there: the directory that they are unpacked in.
///
/// # Errors
/// When they cannot be fetched.
pub fn ensure_root(ctx: &Ctx) -> Result<PathBuf> {
    let _lock = lock(ctx)?;
    root::ensure(ctx)
}

/// Makes sure that a kernel for pages of 16 KiB is there.
///
/// # Errors
/// When it cannot be fetched.
pub fn ensure_kernel_16k(ctx: &Ctx) -> Result<PathBuf> {
    let _lock = lock(ctx)?;
    guest::kernel_16k(ctx)
}

/// Makes sure that the device tree of the Raspberry Pi 4 is there.
///
/// # Errors
/// When it cannot be fetched.
pub fn ensure_raspi4b(ctx: &Ctx) -> Result<PathBuf> {
    let _lock = lock(ctx)?;
    raspi4b::ensure(ctx)
}

/// Makes sure that the Raspberry Pi 4's own firmware and tree are there: the directory of [`rpi4::FILES`].
///
/// # Errors
/// When they cannot be fetched.
pub fn ensure_rpi4(ctx: &Ctx) -> Result<PathBuf> {
    let _lock = lock(ctx)?;
    rpi4::ensure(ctx)
}

/// Makes sure that U-Boot is there, for the machine `board` of QEMU.
///
/// # Errors
/// When it cannot be fetched, or is not to be had for that board.
pub fn ensure_u_boot(ctx: &Ctx, board: &str) -> Result<PathBuf> {
    let _lock = lock(ctx)?;
    let board = board.split(',').next().unwrap_or_default();
    let file = firmware::ensure(ctx, &firmware::U_BOOT)?.join(format!("{board}.bin"));
    ensure!(file.exists(), "no U-Boot is known for QEMU's machine {board}");
    Ok(file)
}

/// Makes sure that TF-A for the Raspberry Pi 4 is there: its bl31.bin.
///
/// # Errors
/// When it cannot be fetched.
pub fn ensure_tf_a(ctx: &Ctx) -> Result<PathBuf> {
    let _lock = lock(ctx)?;
    Ok(firmware::ensure(ctx, &firmware::TF_A)?.join("raspi4b.bin"))
}

/// UEFI and what it starts.
pub struct Uefi {
    /// The firmware, for QEMU's `-bios`.
    pub firmware: PathBuf,
    /// GRUB as an EFI application.
    pub grub: PathBuf,
}

/// Makes sure that UEFI for the machine `board` of QEMU is there, and GRUB.
///
/// # Errors
/// When they cannot be fetched, or are not to be had for that board.
pub fn ensure_uefi(ctx: &Ctx, board: &str) -> Result<Uefi> {
    ensure!(board.split(',').next() == Some("virt"), "no UEFI is known for QEMU's machine {board}");
    let _lock = lock(ctx)?;
    let dir = firmware::ensure(ctx, &firmware::UEFI)?;
    Ok(Uefi { firmware: dir.join("virt.fd"), grub: dir.join("grub.efi") })
}

/// Keeps two of these programs from filling the cache at once; let go when dropped.
fn lock(ctx: &Ctx) -> Result<File> {
    let path = ctx.cache.join("lock");
    let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    if file.try_lock().is_err() {
        eprintln!("xtask: waiting for another set-up in this checkout");
        file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
    }
    Ok(file)
}

/// Says in a file what a directory of the cache was made from, so that another recipe makes it anew.
pub struct Stamp {
    key: String,
}

impl Stamp {
    /// A stamp for a recipe; its number changes when the recipe does.
    pub fn new(recipe: u32) -> Self {
        Self { key: format!("recipe {recipe}\n") }
    }

    /// Adds something else that the content depends on.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.key.push_str(&format!("{name} {value}\n"));
        self
    }

    /// Whether `dir` was made by this recipe from the same things.
    pub fn matches(&self, dir: &Path) -> bool {
        fs::read_to_string(dir.join("stamp")).is_ok_and(|text| text.split("---\n").next() == Some(&self.key))
    }

    /// Writes the stamp, followed by what a reader may want to know (package versions).
    ///
    /// # Errors
    /// Those of the file system.
    pub fn write(&self, dir: &Path, notes: &[String]) -> Result<()> {
        let path = dir.join("stamp");
        fs::write(&path, format!("{}---\n{}\n", self.key, notes.join("\n")))
            .with_context(|| format!("cannot write {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_matches_only_its_own_recipe_and_inputs() {
        let dir = std::env::temp_dir().join(format!("xtask-stamp-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        assert!(!Stamp::new(1).matches(&dir));
        Stamp::new(1).with("arch", "amd64").write(&dir, &["a=1".into(), "b=2".into()]).unwrap();
        assert!(Stamp::new(1).with("arch", "amd64").matches(&dir));
        assert!(!Stamp::new(2).with("arch", "amd64").matches(&dir));
        assert!(!Stamp::new(1).with("arch", "arm64").matches(&dir));
        assert!(!Stamp::new(1).matches(&dir));
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_sysroot_is_passed_beside_the_configured_flags() {
        let mut command = Command::new("cargo");
        TargetKind::Sysroot("/a b/\"c".into()).apply(&mut command);
        let args: Vec<_> = command.get_args().map(|arg| arg.to_str().unwrap()).collect();
        assert_eq!(args[..3], ["--target", crate::ctx::TARGET, "--config"]);
        // It must be TOML that means the same path.
        let table: toml::Table = args[3].parse().unwrap();
        let flags = &table["target"][crate::ctx::TARGET]["rustflags"];
        assert_eq!(flags[0].as_str(), Some("--sysroot"));
        assert_eq!(flags[1].as_str(), Some("/a b/\"c"));
    }
}
