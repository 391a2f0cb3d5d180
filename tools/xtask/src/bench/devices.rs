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

/// The row of two VMs at a switch.
const UDP: &str = "udp";

/// Whether a row is one of these.
pub fn has(row: &str) -> bool {
    DISK.contains(&row) || row == UDP
}

/// Measures the wanted ones.
///
/// # Errors
/// A machine that did not do what it should; its log is named.
pub fn all(env: &Env<'_>, step: &Step, measured: &mut Measured, wanted: &dyn Fn(&str) -> bool) -> Result<()> {
    let rows: Vec<_> = DISK.into_iter().filter(|row| wanted(row)).collect();
    if !rows.is_empty() {
        step.say("disk");
        disk(env, &rows, measured)?;
    }
    if wanted(UDP) {
        step.say(UDP);
        udp(env, measured)?;
    }
    Ok(())
}

/// Boots VMs; what they print, by row.
fn boot(env: &Env<'_>, name: &str, manifest: &str) -> Result<BTreeMap<String, Stat>> {
    let bundle = runs::pack_manifest(env, name, manifest)?;
    let lines = runs::watch(env, name, &runs::merus(env, 1, bundle), "bench: done", End::Exit(0))?;
    Ok(lines.iter().filter_map(|line| runs::report(line)).map(|(name, stat)| (name.to_owned(), stat)).collect())
}

fn take(found: &mut BTreeMap<String, Stat>, name: &str) -> Result<Stat> {
    found.remove(name).with_context(|| format!("no line for {name}"))
}

fn disk(env: &Env<'_>, rows: &[&str], measured: &mut Measured) -> Result<()> {
    // A word says where it is, which the payload checks.
    let image: Vec<u8> = (0..IMAGE / 4).flat_map(u32::to_le_bytes).collect();
    ctx::write_if_changed(&env.ctx.merus_dir.join("bench/disk/disk.img"), &image)?;
    let manifest =
        runs::vm(env, "bench", &format!("bench={}", rows.join(",")), "128M", 1) + "[[vm.disk]]\nimage = \"disk.img\"\n";
    let mut found = boot(env, "disk", &manifest)?;
    for row in rows {
        measured.alone.insert((*row).to_owned(), take(&mut found, row)?);
        measured.bare.insert((*row).to_owned(), take(&mut found, &format!("{row}-own"))?);
    }
    Ok(())
}

/// All that happens, less what both drivers do.
fn udp(env: &Env<'_>, measured: &mut Measured) -> Result<()> {
    let net = |number| format!("[[vm.net]]\nswitch = \"lan\"\nmac = \"52:54:00:00:00:0{number}\"\n");
    let manifest = "[[switch]]\nname = \"lan\"\n".to_owned()
        + &runs::vm(env, "bench", "bench=udp", "128M", 1)
        + &net(1)
        + &runs::vm(env, "echo", "bench=udp-echo", "128M", 1)
        + &net(2);
    let mut found = boot(env, UDP, &manifest)?;
    let all = take(&mut found, UDP)?;
    let (asks, answers) = (take(&mut found, "udp-own")?, take(&mut found, "udp-echo")?);
    let (own, less) = (asks.mean + answers.mean, asks.min + answers.min);
    let merus =
        Stat { mean: all.mean - own, min: all.min.saturating_sub(less), max: all.max.saturating_sub(less), ..all };
    measured.alone.insert(UDP.to_owned(), merus);
    measured.bare.insert(UDP.to_owned(), Stat { mean: own, ..asks });
    Ok(())
}
