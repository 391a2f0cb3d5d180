//! The rows about many: vCPUs on one pCPU, VMs in the memory, VMs that come and go, questions on the control line.

use super::runs::{self, Env, Measured, Stat};
use crate::ctx::Step;
use crate::qemu::control::{self, Control};
use crate::qemu::{End, Machine};
use anyhow::{Context as _, Result, bail};
use serde_json::Value;

/// Rows with so many vCPUs on one pCPU, of which all but one sleep most of the time.
const CROWDS: &[(&str, u32)] =
    &[("switch", 2), ("switch-8", 8), ("switch-64", 64), ("switch-512", 512), ("switch-1024", 1024)];
/// Rows with so many vCPUs on one pCPU, of which all but one always want it.
const BUSY: &[(&str, u32)] = &[("wake-8", 8), ("wake-64", 64), ("wake-512", 512), ("wake-1024", 1024)];
/// The most vCPUs of a VM.
const VM_VCPUS: u32 = 64;
/// Ticks until the sleepers have settled: for each VM, for each vCPU, and in any case; generous.
const SETTLING: (u64, u64, u64) = (4_000_000, 60_000, 20_000_000);
/// The VMs of the row `vm-64`.
const VMS: u32 = 64;
/// Questions of the row `list`.
const QUESTIONS: u32 = 100;
/// Rounds of the row `round`.
const ROUNDS: u32 = 100;
/// What a VM prints that sleeps from then on.
const ASLEEP: &str = "bench: asleep";

/// Whether a row has many vCPUs on one pCPU, or one beside whom others sleep.
pub fn is_crowd(row: &str) -> bool {
    CROWDS.iter().chain(BUSY).any(|(name, _)| *name == row)
}

/// Measures the wanted ones.
///
/// # Errors
/// A machine that did not do what it should; its log is named.
pub fn all(env: &Env<'_>, step: &Step, measured: &mut Measured, wanted: &dyn Fn(&str) -> bool) -> Result<()> {
    let crowds = CROWDS.iter().map(|(row, all)| (*row, *all, "switch", "sleepers"));
    let busy = BUSY.iter().map(|(row, all)| (*row, *all, "wake", "spinners"));
    for (row, all, what, others) in crowds.chain(busy) {
        if wanted(row) {
            step.say(row);
            let mut stat = crowd(env, row, all, what, others)?;
            if what == "wake" {
                // Where its share was used up, it waited for others' turns: that is no cost.
                stat.mean = stat.min as f64;
            }
            measured.alone.insert(row.to_owned(), stat);
        }
    }
    if wanted("vm-64") {
        step.say("vm-64");
        measured.alone.insert("vm-64".to_owned(), once(crowded_memory(env)?));
    }
    if ["create", "list", "round"].into_iter().any(wanted) {
        step.say("control");
        for (row, count) in managed(env)? {
            if wanted(row) {
                measured.alone.insert(row.to_owned(), once(count));
            }
        }
    }
    Ok(())
}

fn once(count: u64) -> Stat {
    Stat { mean: count as f64, min: count, max: count, several: false }
}

/// One vCPU that measures, and all the others, in other VMs.
fn crowd(env: &Env<'_>, row: &str, all: u32, what: &str, others: &str) -> Result<Stat> {
    let (vm, vcpu, always) = SETTLING;
    let settle = always + u64::from(all.div_ceil(VM_VCPUS)) * vm + u64::from(all) * vcpu;
    let mut manifest = runs::vm(env, "bench", &format!("bench={what} settle={settle}"), "16M", 1);
    let mut first = 1;
    while first < all {
        let vcpus = VM_VCPUS.min(all - first);
        let cmdline = format!("bench={others} first={first} of={all} cpus={vcpus}");
        manifest.push_str(&runs::vm(env, &format!("load-{first}"), &cmdline, "8M", vcpus));
        first += vcpus;
    }
    let bundle = runs::pack_manifest(env, row, &manifest)?;
    let end = End::After { line: "bench: done".to_owned(), count: 1 };
    let lines = runs::watch(env, row, &runs::merus(env, 1, bundle), "bench: done", end)?;
    let found = lines.iter().find_map(|line| runs::report(line).filter(|(name, _)| *name == what));
    Ok(found.with_context(|| format!("{row}: no line for the row"))?.1)
}

/// What one VM of many takes beside its RAM: its tables, and its part of the heap.
fn crowded_memory(env: &Env<'_>) -> Result<u64> {
    let taken = |name: &str, vms: u32| -> Result<u64> {
        let vm = |number| runs::vm(env, &format!("vm-{number}"), "bench=asleep", "8M", 1);
        let bundle = runs::pack_manifest(env, name, &(0..vms).map(vm).collect::<String>())?;
        let end = End::After { line: ASLEEP.to_owned(), count: vms };
        let lines = runs::watch(env, name, &runs::merus(env, 1, bundle), ASLEEP, end)?;
        let numbers = |mark: &'static str| lines.iter().filter_map(move |line| runs::number_after(line, mark));
        // All VMs are put together before the first one runs.
        let heap = numbers("memory: heap ").max().context("vm-64: no word about the heap")?;
        Ok(heap + numbers(" MiB and ").map(|kib| kib << 10).sum::<u64>())
    };
    Ok(taken("vm-64", VMS)?.saturating_sub(taken("vm-64-one", 1)?) / u64::from(VMS - 1))
}

/// A machine whose only VM sleeps, and what is asked of it meanwhile.
fn managed(env: &Env<'_>) -> Result<[(&'static str, u64); 3]> {
    let manifest = runs::vm(env, "bench", "bench=asleep", "16M", 1);
    let bundle = runs::pack_manifest(env, "managed", &manifest)?;
    let line = Control { socket: control::socket("bench"), cli: env.built.cli.clone() };
    let machine = Machine { control: Some(line), ..runs::merus(env, 1, bundle) };
    let step = |after: Option<&str>, run: String| control::Step {
        noise: None,
        after: after.map(str::to_owned),
        run,
        input: String::new(),
        expect: Vec::new(),
        status: 0,
        times: 0,
        tries: 1,
    };
    // A payload's name in the bundle is what the manifest calls it.
    let made = format!("--kernel 'boot:{}'", env.payload.display());
    let steps = vec![
        step(Some(ASLEEP), format!("ping --count {QUESTIONS} --json")),
        step(None, format!("create fresh {made} --memory 128M --cmdline bench=start --start")),
        // Made anew, it runs by itself: nobody asks anything until it has ended.
        step(Some("\"fresh\" ended"), "start --no-wait fresh".to_owned()),
        step(Some("\"fresh\" ended"), "events --json".to_owned()),
        step(None, format!("soak again --rounds {ROUNDS} {made} --memory 16M --json")),
    ];
    let (lines, said) = runs::converse(env, "managed", &machine, "bench: done", steps, End::Control)?;
    let of_fresh = |what: &str| {
        let rows = said.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let mut rows = rows.filter(|row| row["vm"] == "fresh" && row["event"] == what);
        rows.next_back().and_then(|row| row["at_ns"].as_u64()).with_context(|| format!("no event `{what}`"))
    };
    // The questions come first. The shortest of each: a byte that comes late from the host, or a look whether it is over, is no cost.
    let mut least = said.iter().filter_map(|line| runs::number_after(line, "\"least_ns\": "));
    let (Some(list), Some(round)) = (least.next(), least.next()) else { bail!("not two times") };
    let launched = lines.iter().rfind(|line| line.contains("vm \"fresh\"") && line.contains(runs::STARTS));
    let launched = launched.and_then(|line| runs::number_after(line, runs::STARTS)).context("fresh never started")?;
    let first = lines.iter().rev().find_map(|line| runs::report(line).filter(|(name, _)| *name == "start"));
    let first = first.context("fresh said nothing")?.1.min;
    let made = of_fresh("created")?.saturating_sub(of_fresh("making")?);
    Ok([("create", made + first.saturating_sub(launched)), ("list", list), ("round", round)])
}
