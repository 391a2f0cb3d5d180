//! Bundles: what Merus is to run, packed by the host program `merus`.

use crate::build::Built;
use crate::ctx::{self, Ctx};
use crate::setup::Guest;
use anyhow::{Context as _, Result};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The default bundle: one Debian VM with 2 vCPUs and 256 MiB. `extra` is added to its command line
/// (`merus.script=demo`), and the manifest stays in `target/merus/demo/merus.toml` to be copied and changed.
///
/// # Errors
/// When `merus pack` refuses.
pub fn demo(ctx: &Ctx, built: &Built, guest: &Guest, extra: &str) -> Result<PathBuf> {
    let dir = ctx.merus_dir.join("demo");
    let cmdline = format!("console=ttyAMA0 {extra}");
    let text = |value: &str| toml::Value::String(value.to_owned()).to_string();
    let path = |path: &Path| text(&path.display().to_string());
    let manifest = format!(
        "# What `cargo xtask run` boots: Debian's kernel with busybox. Paths may be relative to this file.\n\
         [[vm]]\nname = \"debian\"\nkernel = {}\ninitrd = {}\ncmdline = {}\nmemory = \"256M\"\nvcpus = 2\n",
        path(&guest.kernel),
        path(&guest.initrd),
        text(cmdline.trim_end()),
    );
    ctx::write_if_changed(&dir.join("merus.toml"), manifest.as_bytes())?;
    pack(ctx, built, &dir)
}

/// Three busy Debian VMs of different weights, more vCPUs than a small board has pCPUs.
///
/// # Errors
/// When `merus pack` refuses.
pub fn many(ctx: &Ctx, built: &Built, guest: &Guest) -> Result<PathBuf> {
    let dir = ctx.merus_dir.join("many");
    let text = |value: &str| toml::Value::String(value.to_owned()).to_string();
    let path = |path: &Path| text(&path.display().to_string());
    let mut manifest =
        String::from("# What `cargo xtask run --demo many` boots: three guests that share the pCPUs 1 : 2 : 4.\n");
    for (name, weight) in MANY {
        manifest += &format!(
            "[[vm]]\nname = \"{name}\"\nkernel = {}\ninitrd = {}\ncmdline = \"console=ttyAMA0 quiet merus.script=busy\"\n\
             memory = \"192M\"\nvcpus = 2\ncpu.weight = {weight}\n\n",
            path(&guest.kernel),
            path(&guest.initrd),
        );
    }
    ctx::write_if_changed(&dir.join("merus.toml"), manifest.as_bytes())?;
    pack(ctx, built, &dir)
}

/// The VMs of [`many`] and their weights.
pub const MANY: [(&str, u32); 3] = [("small", 100), ("medium", 200), ("large", 400)];

/// The addresses of [`net`]'s server and of its user, in the network that QEMU gives its user (`-netdev user`).
pub const NET: [(&str, &str); 2] = [("web", "10.0.2.15"), ("user", "10.0.2.16")];

/// Two Debian VMs at a switch, both with the root file system `root`: one serves by HTTP, the other one fetches. With `shell` each goes on to
/// one.
///
/// # Errors
/// When `merus pack` refuses.
pub fn net(ctx: &Ctx, built: &Built, guest: &Guest, root: &Path, shell: bool) -> Result<PathBuf> {
    let dir = ctx.merus_dir.join("net");
    let path = |path: &Path| toml::Value::String(path.display().to_string()).to_string();
    let mut manifest = String::from(
        "# What `cargo xtask run --demo net` boots: two guests with one root file system, of which each has what it writes for itself.\n\
         [[switch]]\nname = \"lan\"\nuplink = true\n\n",
    );
    let [(_, server), _] = NET;
    // The user has the console's focus, which is the first one's.
    for (name, address) in NET.into_iter().rev() {
        let shell = if shell { " merus.shell" } else { "" };
        manifest += &format!(
            "[[vm]]\nname = \"{name}\"\nkernel = {}\ninitrd = {}\n\
             cmdline = \"console=ttyAMA0 quiet merus.root=vda merus.script={name} merus.tag={name} merus.address={address} merus.peer={server}{shell}\"\n\
             memory = \"192M\"\nvcpus = 1\n\
             [[vm.disk]]\nimage = {}\n\
             [[vm.net]]\nswitch = \"lan\"\n\n",
            path(&guest.kernel),
            path(&guest.initrd),
            path(root),
        );
    }
    ctx::write_if_changed(&dir.join("merus.toml"), manifest.as_bytes())?;
    pack(ctx, built, &dir)
}

/// Packs `<manifest_dir>/merus.toml` to `<manifest_dir>/bundle.merus` and returns that path.
///
/// # Errors
/// When `merus pack` refuses; the text has its reason.
pub fn pack(_ctx: &Ctx, built: &Built, manifest_dir: &Path) -> Result<PathBuf> {
    let (manifest, bundle) = (manifest_dir.join("merus.toml"), manifest_dir.join("bundle.merus"));
    let mut command = Command::new(&built.cli);
    command.arg("pack").arg(&manifest).arg("-o").arg(&bundle);
    ctx::capture(&mut command).with_context(|| format!("cannot pack {}", manifest.display()))?;
    Ok(bundle)
}
