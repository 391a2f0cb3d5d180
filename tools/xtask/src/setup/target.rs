//! The Rust target: rustup's, else `core` and `alloc` built from the distribution's sources into a sysroot of our own.
//!
//! The installed toolchain is never written to by hand: a `core` put there would clash with rustup's own as soon as
//! somebody adds the target properly, for every project of that user.

use super::apt::{Apt, Installed, Package};
use super::qemu::host_arch;
use super::{Stamp, TargetKind};
use crate::ctx::{self, Ctx, Step, TARGET};
use anyhow::{Context as _, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The crates that a `no_std` program links.
const CRATES: [&str; 3] = ["core", "alloc", "compiler_builtins"];

/// What `rustc -vV` says of the compiler.
struct Rustc {
    release: String,
    commit: String,
}

/// Finds the target or makes it. `MERUS_TARGET=rustup` and `=sysroot` force one way.
///
/// # Errors
/// When neither way works; the text has both reasons.
pub fn ensure(ctx: &Ctx) -> Result<TargetKind> {
    match std::env::var("MERUS_TARGET").as_deref() {
        Ok("rustup") => {
            if !toolchain_has_target(ctx)? {
                rustup_add(ctx)?;
            }
            Ok(TargetKind::Rustup)
        }
        Ok("sysroot") => sysroot(ctx, false),
        Ok(other) if !other.is_empty() => bail!("MERUS_TARGET is {other:?}; it may be rustup or sysroot"),
        _ => automatic(ctx),
    }
}

fn automatic(ctx: &Ctx) -> Result<TargetKind> {
    if toolchain_has_target(ctx)? {
        return Ok(TargetKind::Rustup);
    }
    // Built earlier because rustup could not: no reason to wait for its server again.
    let dir = sysroot_dir(ctx, &rustc(ctx)?);
    if stamp().matches(&dir) {
        return Ok(TargetKind::Sysroot(dir));
    }
    match rustup_add(ctx) {
        Ok(()) => Ok(TargetKind::Rustup),
        Err(first) => {
            eprintln!("xtask: {first:#}\nxtask: building core and alloc from the distribution's rust-src instead");
            sysroot(ctx, false)
                .with_context(|| format!("`rustup target add {TARGET}` failed, and so did the way without it"))
        }
    }
}

/// Builds the sysroot, anew where `again`.
///
/// # Errors
/// When the sources of exactly this compiler are not to be had, or do not build.
pub fn sysroot(ctx: &Ctx, again: bool) -> Result<TargetKind> {
    let rustc = rustc(ctx)?;
    let dir = sysroot_dir(ctx, &rustc);
    if again || !stamp().matches(&dir) {
        let step = Step::start(format!("building core and alloc {} for {TARGET}", rustc.release));
        let source = ensure_source(ctx, &step, &rustc)?;
        ctx::replace_dir(&dir, |temporary| {
            build_sysroot(ctx, &step, &rustc, &source, temporary)?;
            stamp().write(temporary, &[format!("rustc {} {}", rustc.release, rustc.commit)])
        })?;
        // 430 MB that nothing needs any more.
        fs::remove_dir_all(source_dir(ctx, &rustc))?;
        step.done(dir.display().to_string());
    }
    Ok(TargetKind::Sysroot(dir))
}

fn stamp() -> Stamp {
    Stamp::new(1)
}

fn sysroot_dir(ctx: &Ctx, rustc: &Rustc) -> PathBuf {
    ctx.cache.join(format!("sysroot-{}", rustc.commit))
}

fn source_dir(ctx: &Ctx, rustc: &Rustc) -> PathBuf {
    ctx.cache.join(format!("rust-src-{}", rustc.release))
}

fn rustup_add(ctx: &Ctx) -> Result<()> {
    let step = Step::start(format!("adding the target {TARGET}"));
    let mut command = Command::new("rustup");
    command.args(["target", "add", TARGET]).current_dir(&ctx.root);
    ctx.run(&step, "rustup", &mut command)?;
    if !toolchain_has_target(ctx)? {
        bail!("rustup says that it added {TARGET}, but `rustc` does not have it: is another rustc first on PATH?");
    }
    step.done("rustup has it");
    Ok(())
}

/// Whether the compiler in use finds a `core` for the target.
fn toolchain_has_target(ctx: &Ctx) -> Result<bool> {
    let mut command = Command::new("rustc");
    command.args(["--print", "target-libdir", "--target", TARGET]).current_dir(&ctx.root);
    let dir = ctx::capture(&mut command)?;
    Ok(rlib(Path::new(dir.trim()), "core").is_ok())
}

fn rustc(ctx: &Ctx) -> Result<Rustc> {
    parse_rustc(&ctx::capture(Command::new("rustc").arg("-vV").current_dir(&ctx.root))?)
}

fn parse_rustc(text: &str) -> Result<Rustc> {
    let field = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(": "));
    let release = field("release").context("`rustc -vV` names no release")?;
    // A distribution's own build may not know its commit; its release is then all there is.
    let commit = field("commit-hash").filter(|hash| *hash != "unknown").unwrap_or(release);
    Ok(Rustc { release: release.to_owned(), commit: commit.to_owned() })
}

/// The only file `lib<name>-<hash>.rlib` in a directory.
fn rlib(dir: &Path, name: &str) -> Result<PathBuf> {
    let prefix = format!("lib{name}-");
    let mut found = None;
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let path = entry?.path();
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if file.starts_with(&prefix) && file.ends_with(".rlib") && found.replace(path).is_some() {
            bail!("{} holds two of {prefix}*.rlib", dir.display());
        }
    }
    found.with_context(|| format!("{} holds no {prefix}*.rlib", dir.display()))
}

/// The standard library's sources of exactly this release, from Debian's package `rust-src`.
fn ensure_source(ctx: &Ctx, step: &Step, rustc: &Rustc) -> Result<PathBuf> {
    let dir = source_dir(ctx, rustc);
    let library = dir.join(format!("usr/src/rustc-{}/library", rustc.release));
    if stamp().matches(&dir) && library.is_dir() {
        return Ok(library);
    }
    // The newest version in a suite is usually another one: the release is asked for by name.
    let package = Package { name: "rust-src".into(), version: format!("{}+*", rustc.release) };
    let mut apt = Apt::new(ctx, "rust", &host_arch()?, &Installed::Nothing)?;
    let uri = apt.accept_release(step)?;
    let own = apt.codename.clone();
    let suites = [format!("{own}-backports"), "stable-backports".into(), "testing".into(), "unstable".into(), own];
    let mut reasons = Vec::new();
    for suite in &suites {
        // One suite at a time, so that a suite whose key this host lacks does not spoil the others.
        apt.clear();
        let fetched = apt.accept(step, &uri, suite).and_then(|()| {
            ctx::replace_dir(&dir, |temporary| {
                apt.unpack(ctx, step, &[package.spec()], temporary)?;
                stamp().write(temporary, &[format!("{} of {suite}", package.spec())])
            })
        });
        match fetched {
            Ok(()) if library.is_dir() => {
                apt.finish()?;
                return Ok(library);
            }
            Ok(()) => reasons.push(format!("{suite}: the package has no {}", library.display())),
            Err(error) => reasons.push(format!("{suite}: {error:#}")),
        }
    }
    bail!(
        "Debian has no rust-src {} for this rustc; `rustup target add {TARGET}` is the better way. Tried:\n{}",
        rustc.release,
        reasons.join("\n")
    )
}

fn build_sysroot(ctx: &Ctx, step: &Step, rustc: &Rustc, library: &Path, dir: &Path) -> Result<()> {
    let build = dir.join("build");
    let mut command = ctx.cargo();
    command
        .arg("build")
        .arg("--manifest-path")
        .arg(library.join("alloc/Cargo.toml"))
        .args(["--release", "--target", TARGET, "--features", "compiler-builtins-mem"])
        .env("CARGO_TARGET_DIR", &build)
        // The library uses unstable features by nature; this is how its own build allows them.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_PROFILE_RELEASE_DEBUG", "0")
        // As in the toolchain's own: walkable, usable for LTO, and unstable to whoever links it.
        .env("RUSTFLAGS", "-Zforce-unstable-if-unmarked -Cforce-frame-pointers=yes -Cembed-bitcode=yes");
    ctx.run(step, "sysroot", &mut command).with_context(|| format!("cannot build core {}", rustc.release))?;
    let made = build.join(TARGET).join("release/deps");
    let lib = dir.join("lib/rustlib").join(TARGET).join("lib");
    fs::create_dir_all(&lib)?;
    for name in CRATES {
        let from = rlib(&made, name)?;
        fs::copy(&from, lib.join(from.file_name().unwrap_or_default()))?;
    }
    fs::remove_dir_all(&build)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_compiler_is_known_by_its_commit() {
        let rustc = parse_rustc("rustc 1.95.0 (5980 2026-04-14)\ncommit-hash: 5980abc\nrelease: 1.95.0\n").unwrap();
        assert_eq!((rustc.release.as_str(), rustc.commit.as_str()), ("1.95.0", "5980abc"));
        let rustc = parse_rustc("commit-hash: unknown\nrelease: 1.95.0\n").unwrap();
        assert_eq!(rustc.commit, "1.95.0");
        assert!(parse_rustc("rustc 1.95.0\n").is_err());
    }
}
