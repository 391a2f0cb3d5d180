//! What a single exit executes: QEMU's log of every instruction, cut at the payload's labels and sorted by kind.
//!
//! With one instruction a block of code, `-d exec` logs each before it runs:
//!
//! ```text
//! Trace 0: 0x7f... [<cs_base>/<pc>/<flags>/<cflags>] <symbol>
//! Stopped execution of TB chain before 0x7f... [<pc>] <symbol>      (that one did not run after all)
//! ```
//!
//! Merus and a guest have the same addresses, so the exception level decides who it was: the flags hold QEMU's number of the
//! translation regime. What is not as expected here (another QEMU may write something else) is an error, not a wrong count.

use super::image::Image;
use crate::qemu::patience;
use anyhow::{Context as _, Result, bail, ensure};
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

/// Where QEMU's `virt` puts an Image with no offset of its own.
const LOADED_AT: u64 = 0x4020_0000;
/// Where the translation regime is in the flags, and its numbers (QEMU, target/arm: `TBFLAG_ANY`, `ARMMMUIdx`).
const REGIME_SHIFT: u32 = 4;
const REGIMES_EL1: [u32; 3] = [0, 2, 4];
const REGIMES_EL2: [u32; 3] = [3, 5, 6];
/// What names the instructions at which the payload leaves.
const LABEL: &str = "bench_at_";
/// What follows a label's name where the same event is another instruction on a GICv2.
const OF_GICV2: &str = "_gicv2";

/// One exit: offsets in Merus' image of the instructions between two of the guest.
pub type Exit = Vec<u64>;

/// Who executes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Level {
    /// A guest.
    El1,
    /// Merus.
    El2,
}

/// A line of the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Entry {
    /// An instruction is about to run.
    Runs(u64, Level),
    /// The last one did not.
    Stopped,
}

/// Reads a line; `Ok(None)` for one of another kind. There are millions of them: bytes are looked at as few times as will do.
///
/// # Errors
/// It is one of these, but its form is unknown.
pub fn entry(line: &[u8]) -> Result<Option<Entry>> {
    if line.starts_with(b"Stopped execution of TB chain before") {
        return Ok(Some(Entry::Stopped));
    }
    let Some(rest) = line.strip_prefix(b"Trace ") else { return Ok(None) };
    let parse = || {
        let fields = rest.get(rest.iter().position(|byte| *byte == b'[')? + 1..)?;
        let mut fields = fields.split(|byte| *byte == b'/');
        let (pc, flags) = (hex(fields.nth(1)?)?, hex(fields.next()?)?);
        let regime = (flags >> REGIME_SHIFT & 15) as u32;
        let level = match regime {
            _ if REGIMES_EL1.contains(&regime) => Level::El1,
            _ if REGIMES_EL2.contains(&regime) => Level::El2,
            _ => return None,
        };
        Some(Entry::Runs(pc, level))
    };
    let unknown = || format!("QEMU's log has another form than known: {}", String::from_utf8_lossy(line).trim());
    parse().map(Some).with_context(unknown)
}

/// Where an instruction of Merus is in its image.
pub fn in_image(pc: u64) -> u64 {
    pc.wrapping_sub(LOADED_AT)
}

fn hex(digits: &[u8]) -> Option<u64> {
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// Cuts the log at the guest's instructions.
pub struct Cutter {
    /// Labels of the payload by offset.
    labels: HashMap<u64, String>,
    /// Where the payload is.
    base: Option<u64>,
    pending: Option<(u64, Level)>,
    from: Option<u64>,
    exit: Exit,
    /// The last exit of each label.
    exits: HashMap<String, Exit>,
}

impl Cutter {
    /// One that knows where the labels are, as offsets in the payload.
    pub fn new(labels: impl IntoIterator<Item = (String, u64)>) -> Self {
        let event = |name: String| name.strip_suffix(OF_GICV2).map(str::to_owned).unwrap_or(name);
        let labels = labels.into_iter().map(|(name, at)| (at, event(name))).collect();
        Self { labels, base: None, pending: None, from: None, exit: Vec::new(), exits: HashMap::new() }
    }

    /// The next entry.
    pub fn push(&mut self, entry: Entry) {
        let Entry::Runs(pc, level) = entry else {
            self.pending = None;
            return;
        };
        if let Some((pc, level)) = self.pending.replace((pc, level)) {
            self.ran(pc, level);
        }
    }

    fn ran(&mut self, pc: u64, level: Level) {
        if level == Level::El2 {
            if self.from.is_some() {
                self.exit.push(in_image(pc));
            }
            return;
        }
        // The payload's very first instruction is its image's first.
        let base = *self.base.get_or_insert(pc);
        if !self.exit.is_empty()
            && let Some(name) = self.from.and_then(|from| self.labels.get(&from.wrapping_sub(base)))
        {
            self.exits.insert(name.clone(), std::mem::take(&mut self.exit));
        }
        self.exit.clear();
        self.from = Some(pc);
    }

    /// The last exit of each label.
    pub fn finish(mut self) -> HashMap<String, Exit> {
        if let Some((pc, level)) = self.pending.take() {
            self.ran(pc, level);
        }
        self.exits
    }
}

/// Runs a machine that logs what it executes to its standard error, and returns the last exit at each of the labels.
///
/// # Errors
/// QEMU cannot be started or does not end, its log has another form, or a label was never left from.
pub fn exits(
    mut command: Command,
    payload: &Path,
    wanted: &[&'static str],
    limit: Duration,
) -> Result<BTreeMap<&'static str, Exit>> {
    let labels = Image::load(payload)?.marks(LABEL);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot start {}", crate::ctx::shown(&command)))?;
    let log = child.stderr.take().context("no pipe")?;
    let guard = Guard::new(child, limit);
    let exits = cut(log, Cutter::new(labels));
    guard.end()?;
    let mut exits = exits?;
    let mut found = BTreeMap::new();
    for name in wanted {
        let exit = exits.remove(*name).with_context(|| format!("the trace has no exit from `{LABEL}{name}`"))?;
        found.insert(*name, exit);
    }
    Ok(found)
}

fn cut(log: impl Read, mut cutter: Cutter) -> Result<HashMap<String, Exit>> {
    let mut log = BufReader::with_capacity(1 << 20, log);
    let mut line = Vec::new();
    while log.read_until(b'\n', &mut line)? != 0 {
        if let Some(entry) = entry(&line)? {
            cutter.push(entry);
        }
        line.clear();
    }
    Ok(cutter.finish())
}

/// Ends a child that takes too long, so that reading its output ends as well.
pub struct Guard {
    done: mpsc::Sender<()>,
    thread: thread::JoinHandle<Result<bool>>,
}

impl Guard {
    /// Watches `child`.
    pub fn new(mut child: Child, limit: Duration) -> Self {
        let (done, wait) = mpsc::channel();
        let thread = thread::spawn(move || {
            let start = Instant::now();
            let mut left = limit;
            let in_time = loop {
                match wait.recv_timeout(left) {
                    Ok(()) => break true,
                    Err(RecvTimeoutError::Disconnected) => break false,
                    Err(RecvTimeoutError::Timeout) => {
                        let allowed = patience::allowed(limit, patience::waited(child.id()));
                        left = allowed.saturating_sub(start.elapsed());
                        if left.is_zero() {
                            break false;
                        }
                    }
                }
            };
            // Fails only where it has gone already.
            let _ = child.kill();
            child.wait()?;
            Ok(in_time)
        });
        Self { done, thread }
    }

    /// Ends the child, which has closed its output or is not wanted any more.
    ///
    /// # Errors
    /// It had to be ended before.
    pub fn end(self) -> Result<()> {
        let _ = self.done.send(());
        match self.thread.join() {
            Ok(Ok(true)) => Ok(()),
            Ok(Ok(false)) => bail!("the traced run did not end in time"),
            Ok(Err(error)) => Err(error),
            Err(_) => bail!("the thread that watches QEMU died"),
        }
    }
}

/// How many instructions of each kind.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Kinds {
    /// Reads of system registers.
    pub mrs: u64,
    /// Writes of system registers, PSTATE fields included.
    pub msr: u64,
    /// ISB.
    pub isb: u64,
    /// DSB.
    pub dsb: u64,
    /// Cache, TLB and address translation instructions, ERET, WFI.
    pub system: u64,
    /// Loads; an atomic read-modify-write counts here.
    pub loads: u64,
    /// Stores.
    pub stores: u64,
    /// Everything else.
    pub other: u64,
}

impl Kinds {
    /// Adds an instruction.
    pub fn add(&mut self, word: u32) {
        *match kind(word) {
            Kind::Mrs => &mut self.mrs,
            Kind::Msr => &mut self.msr,
            Kind::Isb => &mut self.isb,
            Kind::Dsb => &mut self.dsb,
            Kind::System => &mut self.system,
            Kind::Load => &mut self.loads,
            Kind::Store => &mut self.stores,
            Kind::Other => &mut self.other,
        } += 1;
    }

    /// The kinds with their names, and the sum.
    pub fn counts(&self) -> [(&'static str, u64); 9] {
        let all = self.mrs + self.msr + self.isb + self.dsb + self.system + self.loads + self.stores + self.other;
        [
            ("mrs", self.mrs),
            ("msr", self.msr),
            ("isb", self.isb),
            ("dsb", self.dsb),
            ("system", self.system),
            ("loads", self.loads),
            ("stores", self.stores),
            ("other", self.other),
            ("all", all),
        ]
    }
}

/// What an instruction is, as far as it matters here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// MRS.
    Mrs,
    /// MSR.
    Msr,
    /// ISB.
    Isb,
    /// DSB.
    Dsb,
    /// SYS, ERET, WFI and WFE.
    System,
    /// A load.
    Load,
    /// A store.
    Store,
    /// Anything else.
    Other,
}

/// Sorts an instruction (Arm ARM, "A64 Instruction Set Encoding": system instructions; loads and stores).
pub fn kind(word: u32) -> Kind {
    match word {
        0xd503_3fdf => Kind::Isb,
        // DSB, with and without nXS; the other barriers are other instructions.
        _ if word & 0xffff_f0ff == 0xd503_309f || word & 0xffff_f3ff == 0xd503_323f => Kind::Dsb,
        0xd69f_03e0 | 0xd503_205f | 0xd503_207f => Kind::System,
        _ if word & 0xfff0_0000 == 0xd530_0000 => Kind::Mrs,
        _ if word & 0xfff0_0000 == 0xd510_0000 || word & 0xfff8_f01f == 0xd500_401f => Kind::Msr,
        _ if word & 0xffd8_0000 == 0xd508_0000 => Kind::System,
        // Bits 27 and 25: loads and stores.
        _ if word & 0x0a00_0000 == 0x0800_0000 => memory(word),
        _ => Kind::Other,
    }
}

fn memory(word: u32) -> Kind {
    let bit = |n: u32| word >> n & 1 != 0;
    let load = match word >> 28 & 3 {
        // Exclusive, ordered, compare and swap: L.
        0 => bit(22),
        // Literals load; the RCpc instructions of this group have opc as the plain ones.
        1 if !bit(24) => true,
        1 => word >> 22 & 3 != 0,
        // Pairs: L.
        2 => bit(22),
        // Atomics on memory; registers: opc 0 stores.
        _ if !bit(24) && bit(21) && word >> 10 & 3 == 0 => true,
        _ => word >> 22 & 3 != 0,
    };
    if load { Kind::Load } else { Kind::Store }
}

/// Sorts an exit's instructions.
///
/// # Errors
/// One is not in the image.
pub fn kinds(exit: &Exit, merus: &Image) -> Result<Kinds> {
    let mut kinds = Kinds::default();
    for at in exit {
        kinds.add(merus.word(*at).with_context(|| format!("an instruction at {at:#x}, outside the image"))?);
    }
    ensure!(kinds.mrs != 0, "an exit that reads no system register: the trace is not what it seems");
    Ok(kinds)
}

/// How many of an exit's instructions are each room's.
pub fn rooms(exit: &Exit, merus: &Image, root: &Path) -> BTreeMap<String, u64> {
    let mut rooms = BTreeMap::new();
    exit.iter().for_each(|at| *rooms.entry(merus.room(*at, root)).or_default() += 1);
    rooms
}

/// Where an exit's instructions are: by function, and one by one.
///
/// # Errors
/// The writer's, that is, none.
pub fn profile(name: &str, exit: &Exit, merus: &Image) -> Result<String> {
    let mut text = summary(name, exit, merus)?;
    writeln!(text, "one by one:")?;
    for at in exit {
        let (function, line) = merus.place(*at);
        let word = merus.word(*at).unwrap_or(0);
        writeln!(text, "  {at:6x}  {word:08x}  {:<6}  {function}  {line}", format!("{:?}", kind(word)).to_lowercase())?;
    }
    writeln!(text)?;
    Ok(text)
}

/// How many of some instructions are in which function.
///
/// # Errors
/// The writer's, that is, none.
pub fn summary(name: &str, all: &Exit, merus: &Image) -> Result<String> {
    let mut text = format!("== {name}: {} instructions at EL2\n", all.len());
    let mut places: HashMap<u64, u64> = HashMap::new();
    all.iter().for_each(|at| *places.entry(*at).or_default() += 1);
    // Instructions, and how often the first one was among them.
    let [mut lines, mut functions, mut symbols] = [(); 3].map(|()| HashMap::<_, [u64; 2]>::new());
    for (at, count) in places {
        let (function, line) = merus.place(at);
        lines.entry(format!("{line} in {}", merus.symbol(at))).or_default()[0] += count;
        functions.entry(function).or_default()[0] += count;
        let [instructions, times] = symbols.entry(merus.symbol(at)).or_default();
        *instructions += count;
        *times += if merus.begins(at) { count } else { 0 };
    }
    for (title, counts) in [
        ("by symbol, and how often it was begun", symbols),
        ("by function, inlined ones apart", functions),
        ("by line", lines),
    ] {
        writeln!(text, "{title}:")?;
        let mut counts: Vec<_> = counts.into_iter().collect();
        counts.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        for (name, [count, times]) in counts {
            let times = if times == 0 { String::new() } else { times.to_string() };
            writeln!(text, "  {count:7} {times:>6}  {name}")?;
        }
    }
    Ok(text)
}
