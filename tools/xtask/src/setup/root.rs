//! The packages of a guest's root file system: busybox, and what makes and checks file systems.

use super::packages::{MAIN, Package, Recipe};
use crate::ctx::Ctx;
use anyhow::Result;
use std::fs;
use std::path::PathBuf;

const RECIPE: Recipe = Recipe {
    name: "root",
    title: "a guest's root file system",
    number: 1,
    // Not `busybox-static`: a root has the libraries.
    packages: &[Package::Named("busybox"), Package::WithDepends("e2fsprogs")],
    components: MAIN,
};

/// What of the packages no guest reads.
const LEFT_OUT: [&str; 12] = [
    "usr/share/bash-completion",
    "usr/share/bug",
    "usr/share/doc",
    "usr/share/doc-base",
    "usr/share/info",
    "usr/share/initramfs-tools",
    "usr/share/lintian",
    "usr/share/locale",
    "usr/share/man",
    "usr/lib/systemd",
    "usr/lib/aarch64-linux-gnu/gconv",
    "lib/systemd",
];

/// Finds or fetches them: the directory below which they are unpacked.
///
/// # Errors
/// When Debian's archive cannot be reached or has changed its shape.
pub fn ensure(ctx: &Ctx) -> Result<PathBuf> {
    const TREE: &str = "tree";
    let dir = RECIPE.ensure(
        ctx,
        |dir| dir.join(TREE).is_dir(),
        |unpacked, dir| {
            let tree = dir.join(TREE);
            fs::create_dir(&tree)?;
            for entry in fs::read_dir(unpacked.dir())? {
                let entry = entry?;
                fs::rename(entry.path(), tree.join(entry.file_name()))?;
            }
            for name in LEFT_OUT.map(|name| tree.join(name)).iter().filter(|name| name.exists()) {
                fs::remove_dir_all(name)?;
            }
            Ok(())
        },
    )?;
    Ok(dir.join(TREE))
}
