//! The machines that are booted for the rows, and what they print.

use super::image;
use super::rows::{ROWS, Row, TRACED, Unit};
use super::trace::{self, Kinds};
use super::{devices, many, stream};
use crate::build::Built;
use crate::bundle;
use crate::ctx::{self, Ctx, Step};
use crate::qemu::{self, COUNTED, End, Expect, Machine, control};
use crate::setup::{Guest, Qemu};
use anyhow::{Context as _, Result, anyhow, bail};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The longest that one machine may take; a few seconds is usual.
const TIMEOUT: Duration = Duration::from_secs(300);
/// What Merus prints when a VM starts, before the counter's value.
pub const STARTS: &str = "at tick ";

/// What all runs need.
pub struct Env<'a> {
    /// Where things are.
    pub ctx: &'a Ctx,
    /// The emulator.
    pub qemu: Qemu,
    /// Debian.
    pub guest: Guest,
    /// Merus.
    pub built: Built,
    /// The payload's flat image; its ELF file is beside it.
    pub payload: PathBuf,
    /// What the machines have.
    pub board: Board,
    /// Whether Merus runs with HCR_EL2.E2H = 1.
    pub vhe: bool,
}

/// What all machines of the rows have: a table and a baseline each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Board {
    /// GICv3.
    GicV3,
    /// GICv2.
    GicV2,
}

impl Board {
    /// In QEMU's words.
    fn shape(self) -> &'static str {
        match self {
            Self::GicV3 => "gic-version=3",
            Self::GicV2 => "gic-version=2",
        }
    }

    /// What is put before the names of its documents and logs.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::GicV3 => "",
            Self::GicV2 => "gicv2-",
        }
    }

    /// Whether a row is measured there: the crowds use a GICv3's redistributors, and what they show is the scheduler's; virtio devices work
    /// alike on both.
    pub fn has(self, row: &str) -> bool {
        self == Self::GicV3 || !(many::is_crowd(row) || devices::has(row) || row == stream::ROW)
    }
}

/// One row's numbers in one machine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stat {
    /// The mean.
    pub mean: f64,
    /// The smallest.
    pub min: u64,
    /// The largest.
    pub max: u64,
    /// Whether there was more than one event.
    pub several: bool,
}

/// Everything measured.
#[derive(Default)]
pub struct Measured {
    /// On the bare machine, by row.
    pub bare: BTreeMap<String, Stat>,
    /// Under Merus, alone.
    pub alone: BTreeMap<String, Stat>,
    /// Under Merus, with another VM on the same pCPUs.
    pub shared: BTreeMap<String, Stat>,
    /// What kinds of instructions an exit executes.
    pub kinds: BTreeMap<&'static str, Kinds>,
    /// How many of an exit's instructions are whose.
    pub rooms: BTreeMap<&'static str, BTreeMap<String, u64>>,
    /// Where an exit's instructions are, as text.
    pub profile: String,
    /// The rows that were asked for.
    selected: BTreeSet<&'static str>,
    /// What Merus said about its heap with the first VM made, by run.
    heap: BTreeMap<&'static str, u64>,
    /// Ticks from Merus' line to the payload's first instruction.
    after_line: u64,
}

impl Measured {
    /// Marks a row as asked for.
    pub fn select(&mut self, name: &'static str) {
        self.selected.insert(name);
    }

    /// Whether a row was asked for.
    pub fn selected(&self, name: &str) -> bool {
        self.selected.contains(name)
    }

    /// The one number that stands for a row, in its unit.
    pub fn figure(&self, row: &Row) -> Option<f64> {
        let mean = self.alone.get(row.name)?.mean;
        match row.unit {
            Unit::Ratio => Some(mean / self.bare.get(row.name)?.mean),
            Unit::Instructions | Unit::Bytes => Some(mean),
        }
    }
}

/// A machine that runs the payload.
struct Run {
    name: &'static str,
    /// pCPUs.
    smp: u32,
    /// The payload's vCPUs.
    vcpus: u32,
    /// vCPUs of a second VM that spins and sleeps.
    load: u32,
    bare: bool,
    /// Merus traces.
    traced: bool,
    /// What the payload measures, and the row that this is.
    rows: &'static [(&'static str, &'static str)],
}

const RUNS: &[Run] = &[
    Run { name: "bare", smp: 1, vcpus: 1, load: 0, bare: true, traced: false, rows: ALONE },
    Run { name: "bare-ipi", smp: 2, vcpus: 2, load: 0, bare: true, traced: false, rows: &[("ipi", "ipi")] },
    Run { name: "alone", smp: 1, vcpus: 1, load: 0, bare: false, traced: false, rows: ALONE },
    Run { name: "traced", smp: 1, vcpus: 1, load: 0, bare: false, traced: true, rows: TRACING },
    Run {
        name: "blocked",
        smp: 1,
        vcpus: 2,
        load: 0,
        bare: false,
        traced: false,
        rows: &[("wfi-blocked", "wfi-blocked")],
    },
    Run { name: "away", smp: 1, vcpus: 2, load: 0, bare: false, traced: false, rows: &[("wfi-away", "wfi-away")] },
    Run { name: "ipi", smp: 2, vcpus: 2, load: 0, bare: false, traced: false, rows: &[("ipi", "ipi")] },
    Run {
        name: "ipi-blocked",
        smp: 2,
        vcpus: 3,
        load: 0,
        bare: false,
        traced: false,
        rows: &[("ipi-blocked", "ipi-blocked")],
    },
    Run { name: "shared", smp: 1, vcpus: 1, load: 1, bare: false, traced: false, rows: SHARED },
    Run { name: "shared-ipi", smp: 2, vcpus: 2, load: 2, bare: false, traced: false, rows: &[("ipi", "ipi-blocked")] },
];
const ALONE: &[(&str, &str)] = &[
    ("start", "start"),
    ("hypercall", "hypercall"),
    ("mmio", "mmio"),
    ("idreg", "idreg"),
    ("sgi", "sgi"),
    ("timer", "timer"),
    ("wfi", "wfi"),
    ("loop", "loop"),
    ("uart", "uart"),
];
/// The same events while Merus keeps histograms and a ring of them.
const TRACING: &[(&str, &str)] =
    &[("hypercall", "hypercall-traced"), ("mmio", "mmio-traced"), ("sgi", "sgi-traced"), ("timer", "timer-traced")];
/// With two VMs on one pCPU a WFI gives it away.
const SHARED: &[(&str, &str)] = &[
    ("hypercall", "hypercall"),
    ("mmio", "mmio"),
    ("idreg", "idreg"),
    ("sgi", "sgi"),
    ("timer", "timer"),
    ("wfi", "wfi-blocked"),
    ("loop", "loop"),
    ("uart", "uart"),
];

/// Measures the wanted rows.
///
/// # Errors
/// A machine that did not do what it should; its log is named.
pub fn all(env: &Env<'_>, step: &Step, wanted: &dyn Fn(&str) -> bool) -> Result<Measured> {
    let mut measured = Measured::default();
    let wanted = &|row: &str| wanted(row) && env.board.has(row);
    ROWS.iter().map(|row| row.name).filter(|name| wanted(name)).for_each(|name| measured.select(name));
    // The memory rows come from what Merus says in two of the runs; Debian's start needs the payload's.
    let memory = wanted("vm");
    for run in RUNS {
        let mut rows: Vec<_> = run.rows.iter().filter(|(_, row)| wanted(row)).collect();
        if rows.is_empty() && (memory && ["alone", "shared"].contains(&run.name)) {
            rows = run.rows.iter().take(1).collect();
        }
        if run.name == "alone" && wanted("start-debian") && !wanted("start") {
            rows.insert(0, &ALONE[0]);
        }
        if !rows.is_empty() {
            step.say(run.name);
            payload(env, run, &rows, &mut measured)?;
        }
    }
    many::all(env, step, &mut measured, wanted)?;
    devices::all(env, step, &mut measured, wanted)?;
    if wanted("start-debian") {
        step.say("start-debian");
        debian(env, &mut measured)?;
    }
    if wanted(stream::ROW) {
        step.say(stream::ROW);
        stream::measure(env, &mut measured)?;
    }
    let exits: Vec<_> = TRACED.iter().copied().filter(|row| wanted(row)).collect();
    if !exits.is_empty() {
        step.say("trace");
        traced(env, &exits, &mut measured)?;
    }
    sizes(env, &mut measured, wanted)?;
    Ok(measured)
}

/// Boots a machine with the payload and takes the rows from its console.
fn payload(env: &Env<'_>, run: &Run, rows: &[&(&'static str, &'static str)], measured: &mut Measured) -> Result<()> {
    let names: Vec<_> = rows.iter().map(|(row, _)| *row).collect();
    let cmdline = format!("bench={}", names.join(","));
    let machine = if run.bare {
        Machine {
            append: Some(cmdline),
            ..machine(&format!("virt,{}", env.board.shape()), run.smp, &env.payload, None)
        }
    } else {
        let bundle = pack(env, run.name, &cmdline, "128M", run.vcpus, run.load)?;
        let mut machine = merus(env, run.smp, bundle);
        if run.traced {
            machine.append = Some(format!("merus.trace=on {}", machine.append.unwrap_or_default()).trim().to_owned());
        }
        machine
    };
    let end = match run.load {
        0 => End::Exit(0),
        // The other VM never ends.
        _ => End::After { line: "bench: done".to_owned(), count: 1 },
    };
    let lines = watch(env, run.name, &machine, "bench: done", end)?;
    let mut found: BTreeMap<&str, Stat> = lines.iter().filter_map(|line| report(line)).collect();
    for (row, stands_for) in rows {
        let mut stat = found.remove(row).ok_or_else(|| anyhow!("{}: no line for the row {row}", run.name))?;
        stat.several = !["start", "loop", "uart"].contains(row);
        let map = match (run.bare, run.load) {
            (true, _) => &mut measured.bare,
            (false, 0) => &mut measured.alone,
            (false, _) => &mut measured.shared,
        };
        map.insert((*stands_for).to_owned(), stat);
    }
    if !run.bare {
        let heap = lines.iter().rev().find_map(|line| number_after(line, "memory: heap "));
        measured.heap.extend(heap.map(|heap| (run.name, heap)));
        let tables = lines.iter().find_map(|line| number_after(line, " MiB and "));
        measured.heap.extend(tables.map(|kib| ("tables", kib << 10)));
    }
    if run.name == "alone"
        && let Some(start) = measured.alone.get("start")
        && let Some(line) = lines.iter().find_map(|line| number_after(line, STARTS))
    {
        measured.after_line = start.min.saturating_sub(line);
    }
    Ok(())
}

/// How long Debian waits for its first instruction. It cannot say so itself: Merus prints the counter a little before.
fn debian(env: &Env<'_>, measured: &mut Measured) -> Result<()> {
    let quoted = |path: &Path| toml::Value::String(path.display().to_string()).to_string();
    let manifest = format!(
        "[[vm]]\nname = \"debian\"\nkernel = {}\ninitrd = {}\ncmdline = \"console=ttyAMA0\"\nmemory = \"128M\"\nvcpus = 1\n",
        quoted(&env.guest.kernel),
        quoted(&env.guest.initrd),
    );
    let bundle = pack_manifest(env, "debian", &manifest)?;
    let end = End::After { line: STARTS.to_owned(), count: 1 };
    let lines = watch(env, "debian", &merus(env, 1, bundle), STARTS, end)?;
    let tick = lines.iter().find_map(|line| number_after(line, STARTS)).context("debian: no tick in Merus' line")?;
    let ticks = tick + measured.after_line;
    let stat = Stat { mean: ticks as f64, min: ticks, max: ticks, several: false };
    measured.alone.insert("start-debian".to_owned(), stat);
    Ok(())
}

fn traced(env: &Env<'_>, rows: &[&'static str], measured: &mut Measured) -> Result<()> {
    let bundle = pack(env, "trace", "bench=trace", "16M", 1, 0)?;
    let mut machine = merus(env, 1, bundle);
    machine.extra[1].push_str(",one-insn-per-tb=on");
    machine.extra.extend(["-d", "exec,nochain"].map(str::to_owned));
    let exits = trace::exits(machine.command(&env.qemu, "null"), &env.payload.with_extension("elf"), rows, TIMEOUT)?;
    let merus = image::Image::load(&env.built.elf)?;
    for (name, exit) in &exits {
        measured.kinds.insert(name, trace::kinds(exit, &merus)?);
        measured.rooms.insert(name, trace::rooms(exit, &merus, &env.ctx.root));
        measured.profile.push_str(&trace::profile(name, exit, &merus)?);
    }
    Ok(())
}

/// The rows that are bytes.
fn sizes(env: &Env<'_>, measured: &mut Measured, wanted: &dyn Fn(&str) -> bool) -> Result<()> {
    let image = fs::read(&env.built.img)?;
    let in_memory = image::size_in_memory(&image).context("merus.img has no Image header")?;
    let per_vm = match (measured.heap.get("alone"), measured.heap.get("shared"), measured.heap.get("tables")) {
        (Some(one), Some(two), Some(tables)) => Some(two.saturating_sub(*one) + tables),
        _ => None,
    };
    let rows = [("image", Some(image.len() as u64)), ("resident", Some(in_memory)), ("vm", per_vm)];
    for (name, bytes) in rows {
        if let Some(bytes) = bytes.filter(|_| wanted(name)) {
            let stat = Stat { mean: bytes as f64, min: bytes, max: bytes, several: false };
            measured.alone.insert(name.to_owned(), stat);
        }
    }
    Ok(())
}

fn machine(shape: &str, smp: u32, kernel: &Path, initrd: Option<PathBuf>) -> Machine {
    Machine {
        // The tree's seeds would differ from run to run.
        machine: format!("{shape},dtb-randomness=off"),
        cpu: "max".to_owned(),
        smp,
        memory: "1G".to_owned(),
        kernel: kernel.to_owned(),
        initrd,
        extra: COUNTED.map(str::to_owned).to_vec(),
        ..Machine::default()
    }
}

/// Merus with a bundle.
pub fn merus(env: &Env<'_>, smp: u32, bundle: PathBuf) -> Machine {
    let append = env.vhe.then(|| "merus.vhe=on".to_owned());
    let shape = format!("virt,virtualization=on,{}", env.board.shape());
    Machine { append, ..machine(&shape, smp, &env.built.img, Some(bundle)) }
}

/// A bundle with the payload, and with a second VM where `load` vCPUs of it are asked for.
fn pack(env: &Env<'_>, name: &str, cmdline: &str, memory: &str, vcpus: u32, load: u32) -> Result<PathBuf> {
    let mut manifest = vm(env, "bench", cmdline, memory, vcpus);
    if load != 0 {
        manifest.push_str(&vm(env, "load", "bench=load", "16M", load));
    }
    pack_manifest(env, name, &manifest)
}

/// A VM that runs the payload, as a manifest has it.
pub fn vm(env: &Env<'_>, name: &str, cmdline: &str, memory: &str, vcpus: u32) -> String {
    let kernel = toml::Value::String(env.payload.display().to_string());
    format!(
        "[[vm]]\nname = \"{name}\"\nkernel = {kernel}\ncmdline = \"{cmdline}\"\nmemory = \"{memory}\"\nvcpus = {vcpus}\n"
    )
}

/// A bundle of what a manifest says.
pub fn pack_manifest(env: &Env<'_>, name: &str, manifest: &str) -> Result<PathBuf> {
    let dir = env.ctx.merus_dir.join("bench").join(name);
    ctx::write_if_changed(&dir.join("merus.toml"), manifest.as_bytes())?;
    bundle::pack(env.ctx, &env.built, &dir)
}

/// Boots a machine and returns its console's lines.
pub fn watch(env: &Env<'_>, name: &str, machine: &Machine, wanted: &str, end: End) -> Result<Vec<String>> {
    Ok(converse(env, name, machine, wanted, Vec::new(), end)?.0)
}

/// The same with commands on the control line; also what they printed.
pub fn converse(
    env: &Env<'_>,
    name: &str,
    machine: &Machine,
    wanted: &str,
    control: Vec<control::Step>,
    end: End,
) -> Result<(Vec<String>, Vec<String>)> {
    let expect = Expect {
        lines: vec![wanted.to_owned()],
        // The word alone is in the counters that Merus prints of every VM.
        forbidden: ["FAILED", "merus: refused", "bundle is refused"].map(str::to_owned).to_vec(),
        constant: None,
        between: Vec::new(),
        shares: None,
        script: Vec::new(),
        control,
        end,
        timeout: TIMEOUT,
    };
    let log = env.ctx.merus_dir.join("logs").join(format!("bench-{}{name}.log", env.board.prefix()));
    let mut lines = Vec::new();
    let outcome = qemu::run(&env.qemu, machine, &expect, &log, |line| lines.push(line.to_owned()))?;
    if let Err(why) = outcome.result {
        bail!("the run `{name}`: {why} (all of it: {})", log.display());
    }
    Ok((lines, outcome.said))
}

/// A line `bench <row> mean=<x> min=<y> max=<z>`, after whatever prefix.
pub fn report(line: &str) -> Option<(&str, Stat)> {
    let at = line.find("bench ")?;
    let mut words = line[at..].split_ascii_whitespace().skip(1);
    let name = words.next()?;
    let mut value = |key: &str| words.next()?.strip_prefix(key)?.strip_prefix('=');
    let mean = value("mean")?.parse().ok()?;
    let min = value("min")?.parse().ok()?;
    let max = value("max")?.parse().ok()?;
    Some((name, Stat { mean, min, max, several: true }))
}

/// The number that follows `mark`.
pub fn number_after(line: &str, mark: &str) -> Option<u64> {
    let rest = line.split_once(mark)?.1;
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    rest[..end].parse().ok()
}
