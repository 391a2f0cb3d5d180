//! Files out of Debian's packages for arm64: one recipe, one directory of the cache.
//!
//! A recipe names packages; what of them is kept, and in what form, is its user's to say. All of them are fetched in one way: from the
//! archive that the host's apt uses, signed by Debian ([`super::apt`]), newer versions of the security archive included.

use super::Stamp;
use super::apt::{Apt, Installed};
use crate::ctx::{self, Ctx, Step};
use anyhow::{Context as _, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// A package.
#[derive(Clone, Copy)]
pub enum Package {
    /// The one of this name.
    Named(&'static str),
    /// The one of this name and all that it depends on.
    WithDepends(&'static str),
    /// The kernel that the one of this name depends on: the release's newest.
    KernelOf(&'static str),
    /// The same out of the release's backports.
    BackportedKernelOf(&'static str),
}

/// The part of Debian in which nearly everything is.
pub const MAIN: &[&str] = &["main"];

/// What a directory of the cache is made from.
#[derive(Clone, Copy)]
pub struct Recipe {
    /// The directory's name.
    pub name: &'static str,
    /// What a user calls it.
    pub title: &'static str,
    /// Changes when anything else of how it is made does.
    pub number: u32,
    /// The packages.
    pub packages: &'static [Package],
    /// The parts of Debian in which they are.
    pub components: &'static [&'static str],
}

/// The packages, unpacked beside each other.
pub struct Unpacked {
    dir: PathBuf,
    names: Vec<String>,
}

impl Unpacked {
    /// The packages' names, in the recipe's order.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The directory that they are in; gone when the recipe is made.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A file's content.
    ///
    /// # Errors
    /// None of the packages has it: Debian has changed their shape.
    pub fn read(&self, file: &str) -> Result<Vec<u8>> {
        fs::read(self.dir.join(file)).with_context(|| format!("no {file} in {}", self.names.join(", ")))
    }
}

impl Recipe {
    /// Finds or makes the directory: it is there where `whole` says so of it, and else `make` fills it, at first under another name.
    ///
    /// # Errors
    /// Debian's archive cannot be reached or has changed its shape, or what `make` says.
    pub fn ensure(
        &self,
        ctx: &Ctx,
        whole: impl Fn(&Path) -> bool,
        make: impl FnOnce(&Unpacked, &Path) -> Result<()>,
    ) -> Result<PathBuf> {
        let dir = ctx.cache.join(self.name);
        if !(self.stamp().matches(&dir) && whole(&dir)) {
            let step = Step::start(format!("fetching {}", self.title));
            self.fetch(ctx, &step, &dir, make).with_context(|| format!("cannot fetch {}", self.title))?;
            step.done(dir.display().to_string());
        }
        Ok(dir)
    }

    /// As [`Recipe::ensure`], for files that are kept as they are: each one's place in the packages, and its name in the directory.
    ///
    /// # Errors
    /// Debian's archive cannot be reached or has changed its shape.
    pub fn ensure_files(&self, ctx: &Ctx, files: &[(&str, &str)]) -> Result<PathBuf> {
        let whole = |dir: &Path| files.iter().all(|(_, name)| dir.join(name).exists());
        self.ensure(ctx, whole, |unpacked, dir| {
            files.iter().try_for_each(|(from, name)| Ok(fs::write(dir.join(name), unpacked.read(from)?)?))
        })
    }

    fn stamp(&self) -> Stamp {
        Stamp::new(self.number)
    }

    fn fetch(
        &self,
        ctx: &Ctx,
        step: &Step,
        dir: &Path,
        make: impl FnOnce(&Unpacked, &Path) -> Result<()>,
    ) -> Result<()> {
        let mut apt = Apt::new(ctx, self.name, "arm64", &Installed::Nothing)?.with_components(self.components);
        let uri = apt.accept_release(step)?;
        if self.packages.iter().any(|package| matches!(package, Package::BackportedKernelOf(_))) {
            let backports = format!("{}-backports", apt.codename);
            apt.accept(step, &uri, &backports)?;
        }
        let security = format!("{}-security", apt.codename);
        // Newer versions are there; apt takes the newest of both.
        apt.accept_configured(step, &security);
        let names: Vec<Vec<String>> =
            self.packages.iter().map(|package| names_of(&apt, package)).collect::<Result<_>>()?;
        let names = names.concat();
        ctx::replace_dir(dir, |temporary| {
            let unpacked = Unpacked { dir: temporary.join("packages"), names };
            apt.unpack(ctx, step, &unpacked.names, &unpacked.dir)?;
            make(&unpacked, temporary)?;
            fs::remove_dir_all(&unpacked.dir)?;
            self.stamp().write(temporary, &unpacked.names)
        })?;
        apt.finish()
    }
}

fn names_of(apt: &Apt, package: &Package) -> Result<Vec<String>> {
    match package {
        Package::Named(name) => Ok(vec![(*name).to_owned()]),
        Package::WithDepends(name) => Ok(apt.solve(name, None)?.iter().map(super::apt::Package::spec).collect()),
        Package::KernelOf(name) | Package::BackportedKernelOf(name) => {
            let depends = apt.field(name, "Depends")?;
            let kernel = parse_depends(&depends);
            Ok(vec![kernel.with_context(|| format!("{name} depends on no kernel, but on: {depends}"))?])
        }
    }
}

/// `linux-image-6.1.0-56-cloud-arm64` out of `linux-image-6.1.0-56-cloud-arm64 (= 6.1.192-2), ...`.
fn parse_depends(depends: &str) -> Option<String> {
    let names = depends.split([',', '|']).filter_map(|item| item.split_whitespace().next());
    names.map(str::to_owned).find(|name| name.starts_with("linux-image-"))
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
