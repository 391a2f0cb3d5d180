//! The rows about virtio devices. The payload tells what its own driver spends from what Merus does for it: the former stands in the column of
//! the bare machine, where there is no such device.

use super::runs::{self, Env, Measured, Stat};
use super::stream;
use crate::ctx::{self, Step};
use crate::qemu::End;
use anyhow::{Context as _, Result};
use std::collections::BTreeMap;

/// Rows that read from a disk: from an image in RAM, and from a disk of the machine's.
const DISK: [[&str; 3]; 2] = [["disk-4k", "disk-4k-32", "disk-mib"], ["host-4k", "host-4k-32", "host-mib"]];
/// Bytes of the disk.
const IMAGE: u32 = 4 << 20;

/// Rows of two VMs at a switch: their names in one VM and in the other one, and what the former spends itself.
const NET: [[&str; 3]; 2] = [["udp", "udp-echo", "udp-own"], ["net-mib", "net-sink", "net-own"]];

/// Whether a row is one of these.
pub fn has(row: &str) -> bool {
    DISK.iter().flatten().any(|name| *name == row) || NET.iter().any(|[name, ..]| *name == row)
}

/// Whether a row is measured only where it is named: when a disk of the machine's answers is not the same twice, nor which stretch of a stream
/// is looked at, so figures with them are some per cent apart and hold nothing against a baseline.
pub fn only_when_named(row: &str) -> bool {
    DISK[1].contains(&row) || row == stream::ROW
}

/// Measures the wanted ones.
///
/// # Errors
/// A machine that did not do what it should; its log is named.
pub fn all(env: &Env<'_>, step: &Step, measured: &mut Measured, wanted: &dyn Fn(&str) -> bool) -> Result<()> {
    for (rows, host) in DISK.into_iter().zip([false, true]) {
        let rows: Vec<_> = rows.into_iter().filter(|row| wanted(row)).collect();
        if !rows.is_empty() {
            step.say(if host { "a disk of the machine's" } else { "disk" });
            disk(env, &rows, host, measured)?;
        }
    }
    for names in NET.iter().filter(|[row, ..]| wanted(row)) {
        step.say(names[0]);
        net(env, names, measured)?;
    }
    Ok(())
}

/// Boots VMs on a machine with `extra` devices; what they print, by row.
fn boot(env: &Env<'_>, name: &str, manifest: &str, extra: Vec<String>) -> Result<BTreeMap<String, Stat>> {
    let bundle = runs::pack_manifest(env, name, manifest)?;
    let mut machine = runs::merus(env, 1, bundle);
    machine.extra.extend(extra);
    let lines = runs::watch(env, name, &machine, "bench: done", End::Exit(0))?;
    Ok(lines.iter().filter_map(|line| runs::report(line)).map(|(name, stat)| (name.to_owned(), stat)).collect())
}

fn take(found: &mut BTreeMap<String, Stat>, name: &str) -> Result<Stat> {
    found.remove(name).with_context(|| format!("no line for {name}"))
}

fn disk(env: &Env<'_>, rows: &[&str], host: bool, measured: &mut Measured) -> Result<()> {
    let name = if host { "host-disk" } else { "disk" };
    // A word says where it is, which the payload checks.
    let image: Vec<u8> = (0..IMAGE / 4).flat_map(u32::to_le_bytes).collect();
    let path = env.ctx.merus_dir.join(format!("bench/{name}/disk.img"));
    ctx::write_if_changed(&path, &image)?;
    let source = if host { "host = \"DISK=0\"\nreadonly = true" } else { "image = \"disk.img\"" };
    let manifest =
        runs::vm(env, "bench", &format!("bench={}", rows.join(",")), "128M", 1) + "[[vm.disk]]\n" + source + "\n";
    let drive = format!("if=none,id=disk,format=raw,readonly=on,file={}", path.display());
    let extra = ["-drive", &drive, "-device", "virtio-blk-device,drive=disk"].map(str::to_owned);
    let mut found = boot(env, name, &manifest, if host { extra.to_vec() } else { Vec::new() })?;
    for row in rows {
        measured.alone.insert((*row).to_owned(), take(&mut found, row)?);
        measured.bare.insert((*row).to_owned(), take(&mut found, &format!("{row}-own"))?);
    }
    Ok(())
}

/// All that happens, less what both drivers do.
fn net(env: &Env<'_>, [row, other, own]: &[&str; 3], measured: &mut Measured) -> Result<()> {
    let card = |number| format!("[[vm.net]]\nswitch = \"lan\"\nmac = \"52:54:00:00:00:0{number}\"\n");
    let manifest = "[[switch]]\nname = \"lan\"\n".to_owned()
        + &runs::vm(env, "bench", &format!("bench={row}"), "128M", 1)
        + &card(1)
        + &runs::vm(env, "other", &format!("bench={other}"), "128M", 1)
        + &card(2);
    let mut found = boot(env, row, &manifest, Vec::new())?;
    let all = take(&mut found, row)?;
    let (here, there) = (take(&mut found, own)?, take(&mut found, other)?);
    let (both, less) = (here.mean + there.mean, here.min + there.min);
    let merus =
        Stat { mean: all.mean - both, min: all.min.saturating_sub(less), max: all.max.saturating_sub(less), ..all };
    measured.alone.insert((*row).to_owned(), merus);
    measured.bare.insert((*row).to_owned(), Stat { mean: both, ..here });
    Ok(())
}
