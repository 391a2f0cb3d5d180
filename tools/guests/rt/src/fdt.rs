//! What a payload takes from its device tree: boot arguments, CPUs, memory.
//!
//! And whether its interrupt controller is a GICv2. A reader of exactly that, for the trees that Merus and QEMU write: `/cpus/cpu@*` with `reg`, `/memory@*` with two cells
//! each for address and size, `/chosen/bootargs`. Format: Devicetree Specification 0.4, "Flattened Devicetree (DTB) Format".

use core::str;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

const MAGIC: u32 = 0xd00d_feed;
const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROP: u32 = 3;
const NOP: u32 = 4;

static BOOTARGS: AtomicUsize = AtomicUsize::new(0);
static BOOTARGS_LEN: AtomicUsize = AtomicUsize::new(0);
static MEMORY_SIZE: AtomicU64 = AtomicU64::new(0);
static TREE: AtomicU64 = AtomicU64::new(0);
static GICV2: AtomicBool = AtomicBool::new(false);

/// Bytes of RAM, all of it from [`mmio::RAM`](crate::mmio::RAM) on.
pub fn memory_size() -> u64 {
    MEMORY_SIZE.load(Ordering::Relaxed)
}

/// Whether the interrupt controller is a GICv2.
pub fn gicv2() -> bool {
    GICV2.load(Ordering::Relaxed)
}

/// Where the tree is; 0 if x0 was none.
pub fn address() -> u64 {
    TREE.load(Ordering::Relaxed)
}

/// `/chosen/bootargs`, or nothing.
pub fn bootargs() -> &'static str {
    let (at, len) = (BOOTARGS.load(Ordering::Relaxed), BOOTARGS_LEN.load(Ordering::Relaxed));
    if at == 0 {
        return "";
    }
    // SAFETY: `init` found these bytes in the tree, which nobody writes.
    let bytes = unsafe { core::slice::from_raw_parts(at as *const u8, len) };
    str::from_utf8(bytes).unwrap_or("")
}

/// The value of the boot argument `key=`.
pub fn argument(key: &str) -> Option<&'static str> {
    bootargs().split_ascii_whitespace().find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
}

/// The same as a number, in decimal.
pub fn number(key: &str) -> Option<u64> {
    argument(key)?.parse().ok()
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn cells(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// Reads the tree at `at`; `cpu` gets each CPU's affinity.
pub(crate) fn init(at: u64, mut cpu: impl FnMut(u64)) {
    // SAFETY: the boot protocol: x0 is the address of a tree in RAM.
    let head = unsafe { core::slice::from_raw_parts(at as *const u8, 40) };
    if word(head, 0) != Some(MAGIC) {
        return;
    }
    TREE.store(at, Ordering::Relaxed);
    let size = word(head, 4).unwrap_or(0) as usize;
    // SAFETY: its header says that it is that long.
    let tree = unsafe { core::slice::from_raw_parts(at as *const u8, size) };
    let _ = walk(tree, |path, name, value| match (path, name) {
        (["", "chosen"], "bootargs") => {
            BOOTARGS.store(value.as_ptr() as usize, Ordering::Relaxed);
            BOOTARGS_LEN.store(value.len().saturating_sub(1), Ordering::Relaxed);
        }
        (["", "cpus", node], "reg") if node.starts_with("cpu@") => cpu(cells(value)),
        (["", node], "reg") if node.starts_with("memory") => {
            MEMORY_SIZE.store(value.get(8..16).map_or(0, cells), Ordering::Relaxed);
        }
        (["", node], "compatible") if node.starts_with("intc@") => {
            GICV2.store(value.starts_with(b"arm,cortex-a15-gic"), Ordering::Relaxed);
        }
        _ => {}
    });
}

/// A device under the root.
#[derive(Clone, Copy, Default, Debug)]
pub struct Device {
    /// Where its first registers are.
    pub at: u64,
    /// The INTID of its first interrupt, which is an SPI; 0 for none.
    pub intid: u32,
    /// Whether that is edge triggered.
    pub edge: bool,
}

/// The first device under the root that is compatible with `kind` first of all, and not at `but`.
pub fn device(kind: &str, but: u64) -> Option<Device> {
    let mut found = None;
    devices(kind, |device| found = found.or((device.at != but).then_some(device)));
    found
}

/// Calls `see` with each device under the root that is compatible with `kind` first of all.
pub fn devices(kind: &str, mut see: impl FnMut(Device)) {
    let at = address() as *const u8;
    if at.is_null() {
        return;
    }
    // SAFETY: `init` found a tree there, whose header says how long it is.
    let tree = unsafe {
        let size = word(core::slice::from_raw_parts(at, 40), 4).unwrap_or(0) as usize;
        core::slice::from_raw_parts(at, size)
    };
    let (mut name, mut here, mut fits) = ("", Device::default(), false);
    let mut ends = |here: &mut Device, fits: &mut bool| {
        let (device, fits) = (core::mem::take(here), core::mem::take(fits));
        if fits {
            see(device);
        }
    };
    let _ = walk(tree, |path, property, value| {
        let ["", node] = path else { return };
        if *node != name {
            name = node;
            ends(&mut here, &mut fits);
        }
        match property {
            "reg" => here.at = value.get(..8).map_or(0, cells),
            "interrupts" => {
                here.intid = word(value, 4).map_or(0, |spi| spi + 32);
                here.edge = word(value, 8) == Some(1);
            }
            "compatible" => fits = value.split(|byte| *byte == 0).next() == Some(kind.as_bytes()),
            _ => {}
        }
    });
    ends(&mut here, &mut fits);
}

/// Calls `property` with path, name and value of each property no deeper than 4 nodes; `None` at the first nonsense.
fn walk<'a>(tree: &'a [u8], mut property: impl FnMut(&[&'a str], &str, &'a [u8])) -> Option<()> {
    let strings = tree.get(word(tree, 12)? as usize..)?;
    let mut at = word(tree, 8)? as usize;
    let text = |bytes: &'a [u8]| str::from_utf8(bytes.split(|byte| *byte == 0).next()?).ok();
    let mut path = [""; 4];
    let mut depth = 0;
    loop {
        let token = word(tree, at)?;
        at += 4;
        match token {
            BEGIN_NODE => {
                let name = text(tree.get(at..)?)?;
                if let Some(slot) = path.get_mut(depth) {
                    *slot = name;
                }
                depth += 1;
                at += (name.len() + 1).next_multiple_of(4);
            }
            END_NODE => depth -= 1,
            PROP => {
                let len = word(tree, at)? as usize;
                let name = text(strings.get(word(tree, at + 4)? as usize..)?)?;
                let value = tree.get(at + 8..at + 8 + len)?;
                if let Some(path) = path.get(..depth) {
                    property(path, name, value);
                }
                at += 8 + len.next_multiple_of(4);
            }
            NOP => {}
            _ => return Some(()),
        }
    }
}
