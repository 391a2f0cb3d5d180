//! QEMU: the one on PATH, else the distribution's backport unpacked into the cache.

use super::apt::{Apt, Installed, Package};
use super::{Qemu, Stamp};
use crate::ctx::{self, Ctx, Step};
use anyhow::{Context as _, Result, bail};
use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::Command;

/// The oldest major version that is known to emulate what the tests need.
const OLDEST: u32 = 9;
const PROGRAM: &str = "qemu-system-aarch64";

/// Finds or fetches QEMU.
///
/// # Errors
/// When neither PATH nor Debian's archive has one that is new enough and starts.
pub fn ensure(ctx: &Ctx) -> Result<Qemu> {
    let on_path = Qemu { binary: PROGRAM.into(), env: Vec::new(), args: Vec::new(), version: String::new() };
    let found = version(&on_path);
    if let Ok(version) = &found
        && major(version) >= Some(OLDEST)
    {
        return Ok(Qemu { version: version.clone(), ..on_path });
    }
    let dir = ctx.cache.join("qemu");
    let arch = host_arch();
    if let Ok(arch) = &arch
        && Stamp::new(1).with("arch", arch).matches(&dir)
        && let Ok(qemu) = unpacked(&dir)
    {
        return Ok(qemu);
    }
    let step = Step::start(match &found {
        Ok(version) => format!("fetching QEMU ({version} on PATH is older than {OLDEST})"),
        Err(_) => "fetching QEMU (none on PATH)".to_owned(),
    });
    let qemu = arch.and_then(|arch| fetch(ctx, &step, &arch, &dir)).with_context(|| {
        format!(
            "cannot fetch QEMU; a {PROGRAM} of version {OLDEST} or newer on PATH is used instead where there is one"
        )
    })?;
    step.done(format!("{} in {}", qemu.version, dir.display()));
    Ok(qemu)
}

fn fetch(ctx: &Ctx, step: &Step, arch: &str, dir: &Path) -> Result<Qemu> {
    let mut apt = Apt::new(ctx, "qemu", arch, &Installed::Host)?;
    let uri = apt.accept_release(step)?;
    let codename = apt.codename.clone();
    for suite in ["updates", "security"] {
        // The host's packages may be as new as these, and others must fit them.
        apt.accept_configured(step, &format!("{codename}-{suite}"));
    }
    let backports = format!("{codename}-backports");
    let release = apt.accept(step, &uri, &backports).is_ok().then_some(backports);
    let packages = apt.solve("qemu-system-arm", release.as_deref())?;
    let specs: Vec<String> = packages.iter().map(Package::spec).collect();
    ctx::replace_dir(dir, |temporary| {
        apt.unpack(ctx, step, &specs, temporary)?;
        let qemu = unpacked(temporary)?;
        if major(&qemu.version) < Some(OLDEST) {
            bail!("Debian {codename} and its backports have only QEMU {}", qemu.version);
        }
        Stamp::new(1).with("arch", arch).write(temporary, &specs)
    })?;
    apt.finish()?;
    unpacked(dir)
}

/// The QEMU of unpacked packages, if it starts.
fn unpacked(dir: &Path) -> Result<Qemu> {
    let mut libraries = Vec::new();
    // Packages put libraries in either place, in a directory named after the architecture.
    for parent in [dir.join("usr/lib"), dir.join("lib")] {
        for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().contains("-linux-gnu") {
                libraries.push(entry.path());
            }
        }
    }
    let path: OsString = std::env::join_paths(libraries).context("a ':' in the checkout's path")?;
    let share = dir.join("usr/share/qemu");
    let text = |path: OsString| path.into_string().ok().context("the checkout's path is no UTF-8");
    let qemu = Qemu {
        binary: dir.join("usr/bin").join(PROGRAM),
        env: vec![("LD_LIBRARY_PATH".into(), text(path)?)],
        args: vec!["-L".into(), text(share.into_os_string())?],
        version: String::new(),
    };
    let version = version(&qemu)?;
    Ok(Qemu { version, ..qemu })
}

/// Asks a QEMU for its version; fails where it cannot be started.
fn version(qemu: &Qemu) -> Result<String> {
    let text = ctx::capture(qemu.command().arg("--version"))?;
    parse_version(&text).context("QEMU's --version has an unknown form")
}

fn parse_version(text: &str) -> Option<String> {
    let word = text.lines().next()?.strip_prefix("QEMU emulator version ")?.split_whitespace().next()?;
    Some(word.trim_end_matches(',').to_owned())
}

fn major(version: &str) -> Option<u32> {
    version.split('.').next()?.parse().ok()
}

/// The host's architecture in Debian's words.
pub fn host_arch() -> Result<String> {
    Ok(ctx::capture(Command::new("dpkg").arg("--print-architecture"))?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_compared() {
        let text = "QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)\nCopyright (c) 2003-2025\n";
        let version = parse_version(text).unwrap();
        assert_eq!(version, "10.0.2");
        assert!(major(&version) >= Some(OLDEST));
        assert!(major("7.2.22") < Some(OLDEST));
        assert!(major("unknown") < Some(OLDEST));
        assert_eq!(parse_version("qemu: command not found"), None);
    }
}
