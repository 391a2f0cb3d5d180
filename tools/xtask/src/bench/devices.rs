//! The rows about virtio devices. The payload tells what its own driver spends from what Merus does for it: the former stands in the column of
//! the bare machine, where there is no such device.

use super::runs::{self, Env, Measured, Stat};
use crate::ctx::{self, Step};
use crate::qemu::End;
use anyhow::{Context as _, Result};
use std::collections::BTreeMap;

/// Rows that read from a disk.
const DISK: [&str; 3] = ["disk-4k", "disk-4k-32", "disk-mib"];
/// Bytes of the disk.
const IMAGE: u32 = 4 << 20;

/// Whether a row is one of these.
pub fn has(row: &str) -> bool {
    DISK.contains(&row)
}

/// Measures the wanted ones.
///
/// # Errors
/// A machine that did not do what it should; its log is named.
pub fn all(env: &Env<'_>, step: &Step, measured: &mut Measured, wanted: &dyn Fn(&str) -> bool) -> Result<()> {
    let rows: Vec<_> = DISK.into_iter().filter(|row| wanted(row)).collect();
    if rows.is_empty() {
        return Ok(());
    }
    step.say("disk");
    // A word says where it is, which the payload checks.
    let image: Vec<u8> = (0..IMAGE / 4).flat_map(u32::to_le_bytes).collect();
    ctx::write_if_changed(&env.ctx.merus_dir.join("bench/disk/disk.img"), &image)?;
    let manifest =
        runs::vm(env, "bench", &format!("bench={}", rows.join(",")), "128M", 1) + "[[vm.disk]]\nimage = \"disk.img\"\n";
    let bundle = runs::pack_manifest(env, "disk", &manifest)?;
    let lines = runs::watch(env, "disk", &runs::merus(env, 1, bundle), "bench: done", End::Exit(0))?;
    let mut found: BTreeMap<&str, Stat> = lines.iter().filter_map(|line| runs::report(line)).collect();
    for row in rows {
        let mut take = |name: &str| found.remove(name).with_context(|| format!("disk: no line for {name}"));
        let (merus, own) = (take(row)?, take(&format!("{row}-own"))?);
        measured.alone.insert(row.to_owned(), merus);
        measured.bare.insert(row.to_owned(), own);
    }
    Ok(())
}
