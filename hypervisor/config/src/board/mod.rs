//! Reads the board's device tree: RAM, CPUs, interrupt controller, timer, serial port, and what the boot loader put
//! into `/chosen`.
//!
//! Nothing about the board is assumed beyond the bindings, and a tree that is malformed or lacks a part without which
//! no guest can run is refused with the node and property at fault.
//!
//! Devicetree Specification, release 0.4; Linux, Documentation/devicetree/bindings (`arm,gic-v3`, `arm,gic`,
//! `arm,arch_timer`, `arm/cpus`, `psci`, `pl011`, `brcm,bcm2835-aux-uart`, `chosen`, `reserved-memory`).
//!
//! # Not modelled
//! ITS, SMMU, PCIe beyond what [`virtio`] reads, clocks (a boot loader's serial port is taken as it is), CPU idle states.

mod chosen;
mod cpus;
mod gic;
mod memory;
mod monitor;
mod nodes;
mod pass;
mod sd;
mod virtio;

use crate::seed::Seed;
use crate::tree;
use addr::{Pa, Span};
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::ops::Range;
use nodes::Nodes;
pub use pass::{Clock, Device, Line, PassError, Why, devices};
pub use sd::{SdHost, sd_hosts};
use thiserror::Error;
pub use virtio::{PciHost, VirtioMmio, VirtioPlaces, virtio};

/// What the board's tree says.
#[derive(Debug)]
pub struct Board {
    /// The board's name (`model`, else its first `compatible`); may be empty.
    pub model: String,
    /// All RAM, in ascending order, apart from each other.
    pub ram: Vec<Span<Pa>>,
    /// What of it is taken: the memory reservations and `/reserved-memory`, in the tree's order. The tree itself and
    /// the initrd are not among them.
    pub reserved: Vec<Span<Pa>>,
    /// The CPUs that are not marked unusable, in the tree's order.
    pub cpus: Vec<CpuNode>,
    /// The interrupt controller.
    pub gic: Gic,
    /// The serial port to talk on, if there is one that Merus knows.
    pub uart: Option<Uart>,
    /// Another serial port, for the control channel.
    pub control: Option<Uart>,
    /// The per-CPU timers.
    pub timer: TimerIrqs,
    /// What Merus takes of the private interrupts.
    pub ppis: Ppis,
    /// The firmware's power interface, if it has one.
    pub psci: Option<Psci>,
    /// What ends the machine where there is no such firmware: the power management block of a BCM2835 or a successor. (Not looked for
    /// where there is one.)
    pub power: Option<Span<Pa>>,
    /// What ends the machine where Merus itself is at EL3. (Not looked for where there is a firmware.)
    pub power_pins: Option<PowerPins>,
    /// The counter's frequency in Hz, where the tree knows better than the firmware.
    pub counter_hz: Option<u64>,
    /// Where the firmware of a BCM2835 or a successor is asked, for one which memory is its own.
    pub mailbox: Option<Span<Pa>>,
    /// What the boot loader loaded beside Merus.
    pub initrd: Option<Span<Pa>>,
    /// Merus' own command line; may be empty.
    pub bootargs: String,
    /// Entropy from the boot loader, to be used once.
    pub rng_seed: Option<Seed>,
    /// Where the tree has that: the bytes to wipe.
    pub rng_seed_at: Option<Range<usize>>,
}

/// A CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CpuNode {
    /// Affinity as in MPIDR_EL1: the affinity fields only.
    pub mpidr: u64,
    /// How it is started.
    pub enable: Enable,
}

/// How a secondary CPU is started.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Enable {
    /// By PSCI's CPU_ON.
    Psci,
    /// By writing the address where it shall start to `release`, then SEV.
    SpinTable {
        /// Where the 8-byte word is.
        release: Pa,
    },
    /// Not by any method that Merus knows.
    None,
}

/// The interrupt controller.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Gic {
    /// GICv3 or later, by system registers.
    V3 {
        /// The distributor.
        dist: Span<Pa>,
        /// The regions that the redistributors lie in.
        redist: Vec<Span<Pa>>,
        /// Bytes from one redistributor to the next, where the tree tells; else each one's GICR_TYPER does.
        stride: Option<u64>,
        /// INTID of the maintenance interrupt.
        maintenance_irq: u32,
    },
    /// GICv2 with virtualization extensions.
    V2 {
        /// The distributor.
        dist: Span<Pa>,
        /// The CPU interface (GICC).
        cpu: Span<Pa>,
        /// The virtual interface control block (GICH).
        hyp: Span<Pa>,
        /// The virtual CPU interface (GICV).
        vcpu: Span<Pa>,
        /// INTID of the maintenance interrupt.
        maintenance_irq: u32,
    },
}

/// A kind of serial port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UartKind {
    /// Arm PrimeCell PL011 or the SBSA's subset of it.
    Pl011,
    /// The mini-UART of a BCM2835 or a successor.
    Mini {
        /// The registers of the block that it is switched on in, where the tree has it.
        aux: Option<Span<Pa>>,
    },
}

/// A serial port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Uart {
    /// What it is.
    pub kind: UartKind,
    /// Its registers.
    pub base: Span<Pa>,
    /// INTID of its interrupt, if it has one that the interrupt controller knows.
    pub intid: Option<u32>,
}

/// INTIDs of the private interrupts that Merus itself takes, on every pCPU: PPIs (16 to 31), all different.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ppis {
    /// The GIC's maintenance interrupt.
    pub maintenance: u32,
    /// The EL2 physical timer's.
    pub hyp_timer: u32,
    /// The EL1 virtual timer's, which guests use; they see it as [`crate::map::VIRTUAL_TIMER_INTID`] whatever it is.
    pub virtual_timer: u32,
}

impl Ppis {
    /// All of them, as a bit mask by INTID.
    pub fn mask(&self) -> u32 {
        [self.maintenance, self.hyp_timer, self.virtual_timer]
            .into_iter()
            .fold(0, |mask, n| mask | 1u32.wrapping_shl(n))
    }
}

/// INTIDs of the per-CPU timers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TimerIrqs {
    /// EL1 virtual timer.
    pub virt: u32,
    /// EL1 physical timer, non-secure.
    pub phys: u32,
    /// EL2 physical timer.
    pub hyp: u32,
    /// EL2 virtual timer (FEAT_VHE), where the tree tells.
    pub hyp_virt: Option<u32>,
}

/// How firmware is called.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Conduit {
    /// By SMC.
    Smc,
    /// By HVC: whoever owns EL2 is the firmware, so Merus cannot be there.
    Hvc,
}

/// The firmware's power interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Psci {
    /// How it is called.
    pub conduit: Conduit,
    /// The least version that the tree promises: (major, minor).
    pub version: (u16, u16),
}

/// Pins of a PL061 of the Secure side that end the machine when they are driven high: 0 to 7.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PowerPins {
    /// The PL061's registers.
    pub registers: Span<Pa>,
    /// What powers off.
    pub off: Option<u8>,
    /// What resets.
    pub reset: Option<u8>,
}

/// Why a board's tree cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum BoardError {
    /// It is no device tree.
    #[error("the board's device tree cannot be read: {reason}")]
    Tree {
        /// What is wrong.
        reason: String,
    },
    /// A node without which Merus cannot run is absent.
    #[error("the board's device tree has no {what}")]
    Absent {
        /// The node.
        what: &'static str,
    },
    /// A property is absent or has a form that its binding does not allow.
    #[error("the board's device tree: node {node}: property {property}: {reason}")]
    Property {
        /// The node's path.
        node: String,
        /// The property.
        property: &'static str,
        /// What is wrong with it.
        reason: &'static str,
    },
}

/// Reads the tree at the start of `blob`, which may be longer than the tree.
pub fn parse(blob: &[u8]) -> Result<Board, BoardError> {
    let fdt = tree::open(blob).map_err(|reason| BoardError::Tree { reason })?;
    let root = Nodes::of(fdt);
    let (gic, gic_place) = gic::find(&root)?;
    let chosen = chosen::read(&root)?;
    let (Gic::V3 { maintenance_irq: maintenance, .. } | Gic::V2 { maintenance_irq: maintenance, .. }) = gic;
    let (timer, ppis, counter_hz) = cpus::timer(&root, maintenance)?;
    let uart = chosen::uart(&root, chosen.stdout, gic_place.phandle());
    let psci = cpus::psci(&root)?;
    Ok(Board {
        model: root.string("model").or_else(|| root.strings("compatible").next()).unwrap_or_default().to_string(),
        ram: memory::ram(&root)?,
        reserved: memory::reserved(&root, fdt)?,
        cpus: cpus::cpus(&root)?,
        gic,
        uart,
        control: chosen::second_uart(&root, uart, gic_place.phandle()),
        timer,
        ppis,
        psci,
        // What a firmware that is called for it does itself is not looked for.
        power_pins: if psci.is_none() { monitor::power_pins(&root) } else { None },
        counter_hz,
        power: if psci.is_none() { registers_of(&root, "brcm,bcm2835-pm-wdt") } else { None },
        mailbox: registers_of(&root, "brcm,bcm2835-mbox"),
        initrd: chosen.initrd,
        bootargs: chosen.bootargs,
        rng_seed: chosen.rng_seed.map(Seed::new),
        rng_seed_at: chosen.rng_seed.and_then(|seed| place_in(blob, seed)),
    })
}

/// The first registers of the first usable device of a kind.
fn registers_of(root: &Nodes<'_>, kind: &str) -> Option<Span<Pa>> {
    let place = root.search(&|place| place.is_compatible(&[kind]))?;
    place.reg().ok()?.first().copied()
}

/// Where in `blob` the property's value `part` is, which is borrowed from it.
fn place_in(blob: &[u8], part: &[u8]) -> Option<Range<usize>> {
    let start = part.as_ptr().addr().checked_sub(blob.as_ptr().addr())?;
    let end = start.checked_add(part.len())?;
    (end <= blob.len()).then_some(start..end)
}

/// What it takes to say that something is wrong with the board, and to stop: its serial port (without an interrupt) and its
/// PSCI firmware, from a tree that may be good for nothing else.
pub fn last_resort(fdt: &[u8]) -> (Option<Uart>, Option<Psci>) {
    let Ok(fdt) = tree::open(fdt) else { return (None, None) };
    let root = Nodes::of(fdt);
    let stdout = chosen::read(&root).ok().and_then(|chosen| chosen.stdout);
    (chosen::uart(&root, stdout, None).map(|uart| Uart { intid: None, ..uart }), cpus::psci(&root).ok().flatten())
}

#[cfg(test)]
mod tests;
