//! Debian packages without root and without touching the host's apt: a private state directory, apt's own signed metadata.
//!
//! No archive is named here. The host's apt configuration says where it fetches from, and the key of the Debian archive
//! decides which of those places is Debian: a third party's repository for the same release fails the signature check and
//! is passed over.

use super::packages::MAIN;
use crate::ctx::{self, Ctx, Step};
use anyhow::{Context as _, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where Debian keeps the archive's keys (newer releases use the second name).
const KEYRINGS: [&str; 2] =
    ["/usr/share/keyrings/debian-archive-keyring.gpg", "/usr/share/keyrings/debian-archive-keyring.pgp"];

/// One line of `sources.list`: an archive and a suite in it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Source {
    /// The archive, as the host's configuration writes it.
    pub uri: String,
    /// The suite, for example `bookworm-security`.
    pub suite: String,
}

/// A package at one version.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version, or a pattern of versions.
    pub version: String,
}

impl Package {
    /// As apt's command line wants it.
    pub fn spec(&self) -> String {
        format!("{}={}", self.name, self.version)
    }
}

/// What the private apt believes to be installed.
pub enum Installed {
    /// Nothing.
    Nothing,
    /// What the host has, so that only what it lacks is fetched.
    Host,
}

/// An apt of our own in `target/cache/apt-<name>`.
pub struct Apt {
    dir: PathBuf,
    arch: String,
    keyring: &'static str,
    configured: Vec<Source>,
    /// The sources accepted so far.
    sources: Vec<Source>,
    /// The parts of each source that are looked at.
    components: &'static [&'static str],
    /// The host's release, for example `bookworm`.
    pub codename: String,
}

impl Apt {
    /// Makes the private directory and reads the host's apt configuration.
    ///
    /// # Errors
    /// When the host is not Debian, or its apt cannot read its own configuration.
    pub fn new(ctx: &Ctx, name: &str, arch: &str, installed: &Installed) -> Result<Self> {
        let keyring = KEYRINGS.into_iter().find(|path| Path::new(path).exists());
        let keyring = keyring.context(
            "the keys of the Debian archive are not here (on Debian: install debian-archive-keyring; elsewhere, run this \
             in a Debian container once: target/cache can be kept)",
        )?;
        let dir = ctx.cache.join(format!("apt-{name}"));
        for sub in ["lists/partial", "cache/archives/partial", "etc", "debs"] {
            fs::create_dir_all(dir.join(sub)).with_context(|| format!("cannot make {}", dir.join(sub).display()))?;
        }
        let status = match installed {
            Installed::Nothing => Vec::new(),
            Installed::Host => fs::read("/var/lib/dpkg/status").context("cannot read dpkg's list of packages")?,
        };
        fs::write(dir.join("status"), status)?;
        let release = fs::read_to_string("/etc/os-release").context("cannot read /etc/os-release")?;
        let codename =
            codename(&release).context("/etc/os-release has no VERSION_CODENAME: this is no Debian release")?;
        fs::write(dir.join("apt.conf"), config(&dir, arch)?)?;
        let configured = configured(&dir)?;
        Ok(Self { dir, arch: arch.to_owned(), keyring, configured, sources: Vec::new(), components: MAIN, codename })
    }

    /// Looks at these parts of the archives, whether the host's configuration has them or not.
    #[must_use]
    pub fn with_components(self, components: &'static [&'static str]) -> Self {
        Self { components, ..self }
    }

    /// Accepts the Debian archive of the host's own release; everything else is looked for beside it.
    ///
    /// # Errors
    /// When no configured archive is Debian's, with what was tried.
    pub fn accept_release(&mut self, step: &Step) -> Result<String> {
        let candidates = self.candidates(&self.codename);
        if candidates.is_empty() {
            bail!(
                "apt has no source for {0} (VERSION_CODENAME of /etc/os-release): add Debian's {0} to /etc/apt/sources.list",
                self.codename
            );
        }
        let mut reasons = Vec::new();
        for source in &candidates {
            match self.try_source(step, source) {
                Ok(()) => return Ok(source.uri.clone()),
                Err(error) => reasons.push(format!("{error:#}")),
            }
        }
        bail!(
            "no configured apt source gave Debian {}'s signed package lists (is the network up? `apt-get update` as root \
             shows the same trouble):\n{}",
            self.codename,
            reasons.join("\n")
        )
    }

    /// Accepts the first configured archive that has `suite` signed by Debian; false if there is none.
    pub fn accept_configured(&mut self, step: &Step, suite: &str) -> bool {
        self.candidates(suite).iter().any(|source| self.try_source(step, source).is_ok())
    }

    /// Accepts `suite` of the archive `uri`, whether the host has it configured or not.
    ///
    /// # Errors
    /// When it cannot be fetched or is not signed by Debian.
    pub fn accept(&mut self, step: &Step, uri: &str, suite: &str) -> Result<()> {
        self.try_source(step, &Source { uri: uri.to_owned(), suite: suite.to_owned() })
    }

    /// Forgets the sources accepted so far.
    pub fn clear(&mut self) {
        self.sources.clear();
    }

    fn candidates(&self, suite: &str) -> Vec<Source> {
        self.configured.iter().filter(|source| source.suite == suite).cloned().collect()
    }

    fn try_source(&mut self, step: &Step, source: &Source) -> Result<()> {
        let mut sources = self.sources.clone();
        if !sources.contains(source) {
            sources.push(source.clone());
        }
        let Self { arch, keyring, .. } = self;
        let components = self.components.join(" ");
        let lines: String = sources
            .iter()
            .map(|Source { uri, suite }| format!("deb [arch={arch} signed-by={keyring}] {uri} {suite} {components}\n"))
            .collect();
        fs::write(self.dir.join("etc/sources.list"), lines)?;
        step.say(format!("package lists of {}", source.suite));
        let mut update = self.command("apt-get");
        // Without --error-on=any, an unreachable archive is no error to apt. One that is unreachable because it is not
        // Debian's need not be tried thrice.
        update.args(["-q", "--error-on=any", "-o", "Acquire::Retries=1", "update"]);
        ctx::capture(&mut update)?;
        self.sources = sources;
        Ok(())
    }

    /// The packages and versions that an installation of `package` would add, taken from `release` where it has them.
    ///
    /// # Errors
    /// When apt finds no solution.
    pub fn solve(&self, package: &str, release: Option<&str>) -> Result<Vec<Package>> {
        let mut command = self.command("apt-get");
        command.args(["-s", "--no-install-recommends"]);
        if let Some(release) = release {
            command.args(["-t", release]);
        }
        let packages = parse_solution(&ctx::capture(command.args(["install", package]))?);
        if packages.is_empty() {
            bail!("apt would install nothing for {package}, though it is not on PATH; install it by `apt-get install`");
        }
        Ok(packages)
    }

    /// One field of a package's newest version.
    ///
    /// # Errors
    /// When the package or the field is missing.
    pub fn field(&self, package: &str, field: &str) -> Result<String> {
        let shown = ctx::capture(self.command("apt-cache").args(["show", "--no-all-versions", package]))?;
        let value = shown.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(": "));
        Ok(value.with_context(|| format!("the package {package} has no field {field}"))?.to_owned())
    }

    /// Downloads packages and unpacks them into `root`; `specs` are `name` or `name=version`.
    ///
    /// # Errors
    /// When one is not to be had, or is damaged (apt checks its hash).
    pub fn unpack(&self, ctx: &Ctx, step: &Step, specs: &[String], root: &Path) -> Result<()> {
        let debs = self.dir.join("debs");
        ctx::replace_dir(&debs, |temporary| {
            let mut download = self.command("apt-get");
            download.args(["-q", "download"]).args(specs).current_dir(temporary);
            ctx.run(step, "apt-download", &mut download)
        })?;
        fs::create_dir_all(root)?;
        for entry in fs::read_dir(&debs)? {
            let deb = entry?.path();
            step.say(format!("unpacking {}", deb.file_name().unwrap_or_default().to_string_lossy()));
            ctx::capture(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(root))?;
        }
        // Unpacked, they are of no more use.
        fs::remove_dir_all(&debs)?;
        Ok(())
    }

    /// Removes the package lists, which would only grow old (about 90 MB). A failed set-up keeps them for inspection.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn finish(self) -> Result<()> {
        fs::remove_dir_all(&self.dir).with_context(|| format!("cannot remove {}", self.dir.display()))
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env("APT_CONFIG", self.dir.join("apt.conf"))
            .env("LC_ALL", "C")
            .env("DEBIAN_FRONTEND", "noninteractive");
        command
    }
}

/// The private configuration: ours for every directory, the host's for how to fetch (proxies and the like).
fn config(dir: &Path, arch: &str) -> Result<String> {
    let host = ctx::capture(Command::new("apt-config").arg("dump").env("LC_ALL", "C"))
        .context("apt cannot read its own configuration; correct or remove the file that it names")?;
    let mut text: String = host
        .lines()
        .filter(|line| line.starts_with("Acquire::"))
        .filter(|line| !["IndexTargets", "CompressionTypes", "Changelogs"].iter().any(|word| line.contains(word)))
        .map(|line| format!("{line}\n"))
        .collect();
    let dir = dir.display();
    // The host's parts are left out: hooks there clean directories that are not ours, and pins choose other versions.
    for (key, value) in [
        ("Dir::Etc::main", "/dev/null".to_owned()),
        ("Dir::Etc::parts", "/dev/null".to_owned()),
        ("Dir::Etc::sourcelist", format!("{dir}/etc/sources.list")),
        ("Dir::Etc::sourceparts", "/dev/null".to_owned()),
        ("Dir::Etc::preferences", "/dev/null".to_owned()),
        ("Dir::Etc::preferencesparts", "/dev/null".to_owned()),
        ("Dir::State", dir.to_string()),
        ("Dir::State::lists", format!("{dir}/lists")),
        ("Dir::State::status", format!("{dir}/status")),
        ("Dir::Cache", format!("{dir}/cache")),
        ("Dir::Cache::archives", format!("{dir}/cache/archives")),
        ("Dir::Log", dir.to_string()),
        // As root, apt fetches as another user, who may not be able to enter the checkout.
        ("APT::Sandbox::User", "root".to_owned()),
        ("APT::Architecture", arch.to_owned()),
        ("Acquire::Languages", "none".to_owned()),
    ] {
        text.push_str(&format!("{key} \"{value}\";\n"));
    }
    text.push_str(&format!("APT::Architectures {{ \"{arch}\"; }};\n"));
    Ok(text)
}

/// The archives and suites of the host's configuration.
///
/// `apt-get indextargets`, the documented way, prints nothing before the first `apt-get update` (every container image).
fn configured(dir: &Path) -> Result<Vec<Source>> {
    let mut command = Command::new("apt-get");
    command.env("LC_ALL", "C").arg("--print-uris").arg("-o").arg(format!("Dir::State::lists={}/lists", dir.display()));
    let uris = ctx::capture(command.arg("update"))
        .context("apt cannot read its list of sources; correct or remove the file that it names")?;
    Ok(parse_uris(&uris))
}

/// Sources from the lines of `apt-get --print-uris update`: `'URI/dists/SUITE/InRelease' file size`.
fn parse_uris(uris: &str) -> Vec<Source> {
    let mut sources = Vec::new();
    for line in uris.lines() {
        let Some(uri) = line.strip_prefix('\'').and_then(|line| line.split_once("/InRelease'")).map(|found| found.0)
        else {
            continue;
        };
        // A CD cannot be asked for another architecture or a newer suite.
        if uri.starts_with("cdrom:") {
            continue;
        }
        if let Some((uri, suite)) = uri.rsplit_once("/dists/") {
            let source = Source { uri: uri.to_owned(), suite: suite.to_owned() };
            if !sources.contains(&source) {
                sources.push(source);
            }
        }
    }
    sources
}

/// Packages from the lines of `apt-get -s install`: `Inst name [installed version] (version origin [arch])`.
fn parse_solution(text: &str) -> Vec<Package> {
    let package = |line: &str| {
        let (name, rest) = line.strip_prefix("Inst ")?.split_once(' ')?;
        let version = rest.split_once('(')?.1.split_whitespace().next()?;
        Some(Package { name: name.to_owned(), version: version.to_owned() })
    };
    text.lines().filter_map(package).collect()
}

/// The release's codename in `/etc/os-release`.
fn codename(os_release: &str) -> Option<String> {
    let value = os_release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="))?;
    let value = value.trim().trim_matches(['"', '\'']);
    (!value.is_empty()).then(|| value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_read_from_apts_uris() {
        let text = "'http://a.example/debian/dists/bookworm/InRelease' a.example_dists_bookworm_InRelease 0 \n\
                    'http://a.example/debian/dists/bookworm/InRelease' again 0 \n\
                    'https://b.example/x/dists/bookworm-security/InRelease' b 0 \n\
                    'cdrom:[Debian 12]/dists/bookworm/InRelease' c 0 \n\
                    'https://flat.example/./InRelease' flat 0 \n\
                    Reading package lists...\n";
        let source = |uri: &str, suite: &str| Source { uri: uri.into(), suite: suite.into() };
        assert_eq!(
            parse_uris(text),
            [source("http://a.example/debian", "bookworm"), source("https://b.example/x", "bookworm-security")]
        );
    }

    #[test]
    fn solutions_name_package_and_new_version() {
        let text = "Inst libfdt1 (1.6.1-4+b1 Debian:12.1/stable [amd64])\n\
                    Inst zlib1g [1:1.2] (1:1.3 Debian:12.1/stable [amd64])\n\
                    Conf libfdt1 (1.6.1-4+b1 Debian:12.1/stable [amd64])\n";
        let specs: Vec<String> = parse_solution(text).iter().map(Package::spec).collect();
        assert_eq!(specs, ["libfdt1=1.6.1-4+b1", "zlib1g=1:1.3"]);
    }

    #[test]
    fn the_codename_may_be_quoted_or_absent() {
        assert_eq!(codename("ID=debian\nVERSION_CODENAME=bookworm\n").as_deref(), Some("bookworm"));
        assert_eq!(codename("VERSION_CODENAME=\"trixie\"\n").as_deref(), Some("trixie"));
        assert_eq!(codename("ID=arch\n"), None);
        assert_eq!(codename("VERSION_CODENAME=\n"), None);
    }
}
