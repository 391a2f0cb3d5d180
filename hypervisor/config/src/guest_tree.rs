//! Writes a guest's device tree from its spec: the shape of QEMU's `virt` machine, with what Merus emulates of it.
//!
//! The `reg` of each node comes from [`crate::map`], which the devices are made from too. Bindings: Linux,
//! Documentation/devicetree/bindings (`arm,gic-v3`, `arm,gic`, `arm,arch_timer`, `arm,pl011`, `arm,pl031`, `pl061-gpio`, `gpio-keys`,
//! `virtio,mmio`, `psci`).
//!
//! # Not modelled
//! fw_cfg, PCIe, flash: each comes with its device. Windows of virtio without a device have no node.

use crate::image::GuestLayout;
use crate::map;
use crate::passthrough::Passthrough;
use crate::spec::{GuestGic, VmSpec};
use crate::tree::{NodeWriter, Writer};
use addr::{Address, Ipa, Span};
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;
use dtoolkit::fdt::Fdt;
use dtoolkit::{Node, Property};
use thiserror::Error;
use zeroize::Zeroize;

const GIC_PHANDLE: u32 = 1;
const CLOCK_PHANDLE: u32 = 2;
const GPIO_PHANDLE: u32 = 3;
/// The clock of devices that were passed through whose rate is the `n`th has this plus `n`.
const FIRST_PASSED_CLOCK: u32 = 0x40;
/// vCPU `n` has this plus `n`.
const FIRST_CPU_PHANDLE: u32 = 0x100;

/// Interrupt specifier: a shared peripheral interrupt, and a private one (binding `arm,gic-v3`).
const SPI: u32 = 0;
const PPI: u32 = 1;
const LEVEL_HIGH: u32 = 4;
const EDGE_RISING: u32 = 1;

/// Specifier of a general purpose line (binding `gpio`): pressed is high.
const ACTIVE_HIGH: u32 = 0;
/// `KEY_POWER` of Linux' input event codes.
const KEY_POWER: u32 = 116;

/// Bytes of a guest's `rng-seed`.
const RNG_SEED: usize = 64;
/// Bytes of a guest's `kaslr-seed`.
const KASLR_SEED: usize = 8;

/// A guest's tree as a blob. The seeds in it are wiped when it is dropped, and its `Debug` shows its length only.
#[derive(PartialEq, Eq)]
pub struct GuestTree {
    blob: Vec<u8>,
    /// Where the seeds are.
    seeds: Vec<Range<usize>>,
}

impl GuestTree {
    /// With what `names` of `/chosen` hold for seeds.
    fn new(blob: Vec<u8>, names: &[&str]) -> Self {
        // Written a moment ago, so it is sound.
        let chosen = Fdt::new_unchecked(&blob).find_node("/chosen");
        let place = |name: &&str| -> Option<Range<usize>> {
            let value: &[u8] = chosen?.property(name)?.value_as().ok()?;
            let start = value.as_ptr().addr().checked_sub(blob.as_ptr().addr())?;
            Some(start..start.checked_add(value.len())?)
        };
        let seeds = names.iter().filter_map(place).collect();
        Self { blob, seeds }
    }

    /// The blob. Whoever copies it owes the wiping of the copy.
    pub fn as_bytes(&self) -> &[u8] {
        &self.blob
    }

    /// The seeds' places, to be written.
    fn seeds(&mut self, mut each: impl FnMut(&mut [u8]) -> bool) -> bool {
        let Self { blob, seeds } = self;
        seeds.iter().all(|at| blob.get_mut(at.clone()).is_some_and(&mut each))
    }
}

impl Drop for GuestTree {
    fn drop(&mut self) {
        self.seeds(|seed| {
            seed.zeroize();
            true
        });
    }
}

impl core::fmt::Debug for GuestTree {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "GuestTree({} bytes)", self.blob.len())
    }
}

/// Why no tree can be made.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum TreeError {
    /// More vCPUs than redistributors fit into the map, or than a GICv2 has.
    #[error("{vcpus} vCPUs are more than the platform's interrupt controller has room for; give fewer")]
    TooManyVcpus {
        /// How many.
        vcpus: u32,
    },
    /// Longer than the room that the layout keeps for it.
    #[error("the guest's device tree takes {size} bytes and has {room}; shorten its command line")]
    TooLarge {
        /// Its length in bytes.
        size: u64,
        /// The room in bytes.
        room: u64,
    },
}

/// The device tree of a guest, to be copied to `layout.fdt`. `draw` fills in what seeds the guest's random number generator
/// (`rng-seed`) and its choice of its own address (`kaslr-seed`), straight into the tree's bytes, so that there is no other
/// copy to wipe; it is called anew for each tree. Where it has nothing (`false`), both properties are left out.
pub fn generate(
    spec: &VmSpec,
    layout: &GuestLayout,
    gic: GuestGic,
    given: &Passthrough,
    draw: &mut dyn FnMut(&mut [u8]) -> bool,
) -> Result<GuestTree, TreeError> {
    let mut tree = write(spec, layout, gic, given, true)?;
    if tree.seeds(draw) { Ok(tree) } else { write(spec, layout, gic, given, false) }
}

/// The tree, with zeroes for seeds.
fn write(
    spec: &VmSpec,
    layout: &GuestLayout,
    gic: GuestGic,
    given: &Passthrough,
    seeded: bool,
) -> Result<GuestTree, TreeError> {
    let mut root = Writer::new("")
        .property("compatible", "linux,dummy-virt")
        .property("model", "linux,dummy-virt")
        .property("#address-cells", 2u32)
        .property("#size-cells", 2u32)
        .property("interrupt-parent", GIC_PHANDLE)
        .child(chosen(spec, layout, seeded))
        .child(NodeWriter::new("aliases").property("serial0", uart_path().as_str()))
        .child(memory(layout))
        .child(cpus(spec.vcpus))
        .child(psci())
        .child(timer(spec.vcpus, gic))
        .child(interrupt_controller(spec.vcpus, gic)?)
        .child(clock())
        .child(uart())
        .child(rtc());
    if spec.power_key.gpio() {
        root = root.child(gpio()).child(keys());
    }
    for (slot, _) in spec.virtio_slots() {
        root = root.child(virtio(slot));
    }
    for node in passed_through(given) {
        root = root.child(node);
    }
    let blob = root.blob();
    let (size, room) = (blob.len() as u64, layout.fdt.size());
    if size > room {
        return Err(TreeError::TooLarge { size, room });
    }
    Ok(GuestTree::new(blob, if seeded { &["rng-seed", "kaslr-seed"] } else { &[] }))
}

fn reg<A: Address>(span: Span<A>) -> [u64; 2] {
    [span.start().as_u64(), span.size()]
}

fn uart_path() -> alloc::string::String {
    format!("/pl011@{:x}", map::PL011_BASE)
}

fn chosen(spec: &VmSpec, layout: &GuestLayout, seeded: bool) -> NodeWriter {
    let mut node = NodeWriter::new("chosen")
        .property("bootargs", spec.cmdline.as_str())
        .property("stdout-path", uart_path().as_str());
    if let Some(initrd) = layout.initrd {
        node = node
            .property("linux,initrd-start", initrd.start().as_u64())
            .property("linux,initrd-end", initrd.end().as_u64());
    }
    if !seeded {
        return node;
    }
    node.property("rng-seed", [0u8; RNG_SEED]).property("kaslr-seed", [0u8; KASLR_SEED])
}

fn memory(layout: &GuestLayout) -> NodeWriter {
    NodeWriter::new(format!("memory@{:x}", layout.ram.start().as_u64()))
        .property("device_type", "memory")
        .wide("reg", &reg(layout.ram))
}

/// One node a vCPU, and the map that groups them by Aff1.
fn cpus(vcpus: u32) -> NodeWriter {
    let mut cpus = NodeWriter::new("cpus").property("#address-cells", 1u32).property("#size-cells", 0u32);
    let mut socket = NodeWriter::new("socket0");
    let mut cluster: Option<(u64, u32, NodeWriter)> = None;
    for n in 0..vcpus {
        let mpidr = map::vcpu_mpidr(n);
        let phandle = FIRST_CPU_PHANDLE.saturating_add(n);
        // The affinity fields of all vCPUs fit into one cell: Aff3 is 0.
        let node = NodeWriter::new(format!("cpu@{mpidr:x}"))
            .property("device_type", "cpu")
            .property("compatible", "arm,armv8")
            .property("reg", mpidr as u32)
            .property("enable-method", "psci")
            .property("phandle", phandle);
        cpus = cpus.child(node);
        let number = mpidr >> 8;
        if let Some((_, _, full)) = cluster.take_if(|(open, ..)| *open != number) {
            socket = socket.child(full);
        }
        let (_, cores, open) =
            cluster.take().unwrap_or_else(|| (number, 0, NodeWriter::new(format!("cluster{number}"))));
        let core = NodeWriter::new(format!("core{cores}")).property("cpu", phandle);
        cluster = Some((number, cores.saturating_add(1), open.child(core)));
    }
    if let Some((_, _, last)) = cluster {
        socket = socket.child(last);
    }
    cpus.child(NodeWriter::new("cpu-map").child(socket))
}

fn psci() -> NodeWriter {
    NodeWriter::new("psci").property("compatible", vec!["arm,psci-1.0", "arm,psci-0.2"]).property("method", "hvc")
}

/// The timers are told apart by position: secure, physical, virtual; a fourth would be the hypervisor's.
fn timer(vcpus: u32, gic: GuestGic) -> NodeWriter {
    // Binding `arm,gic`: which CPUs a PPI is wired to, in bits 15:8.
    let wired = match gic {
        GuestGic::V2 => 0xff00u32.wrapping_shr(map::GICV2_VCPUS.saturating_sub(vcpus)) & 0xff00,
        GuestGic::V3 => 0,
    };
    let intids = [map::SECURE_TIMER_INTID, map::PHYSICAL_TIMER_INTID, map::VIRTUAL_TIMER_INTID];
    let interrupts: Vec<u32> =
        intids.iter().flat_map(|intid| [PPI, intid.saturating_sub(map::PPI_BASE), LEVEL_HIGH | wired]).collect();
    NodeWriter::new("timer")
        .property("compatible", vec!["arm,armv8-timer", "arm,armv7-timer"])
        .property("interrupts", interrupts)
        .flag("always-on")
}

fn interrupt_controller(vcpus: u32, gic: GuestGic) -> Result<NodeWriter, TreeError> {
    let node = NodeWriter::new(format!("intc@{:x}", map::GICD_BASE))
        .property("#interrupt-cells", 3u32)
        .property("#address-cells", 2u32)
        .property("#size-cells", 2u32)
        .flag("interrupt-controller")
        .flag("ranges")
        .property("phandle", GIC_PHANDLE);
    let second = match gic {
        GuestGic::V2 if vcpus > map::GICV2_VCPUS => return Err(TreeError::TooManyVcpus { vcpus }),
        GuestGic::V2 => [map::GICC_BASE.as_u64(), map::GICC_SIZE],
        GuestGic::V3 => reg(map::redistributors(vcpus).ok_or(TreeError::TooManyVcpus { vcpus })?),
    };
    let [start, size] = second;
    let node = node.wide("reg", &[map::GICD_BASE.as_u64(), map::GICD_SIZE, start, size]);
    Ok(match gic {
        GuestGic::V2 => node.property("compatible", "arm,cortex-a15-gic"),
        GuestGic::V3 => node.property("compatible", "arm,gic-v3").property("#redistributor-regions", 1u32),
    })
}

fn clock() -> NodeWriter {
    NodeWriter::new("apb-pclk")
        .property("compatible", "fixed-clock")
        .property("#clock-cells", 0u32)
        .property("clock-frequency", 24_000_000u32)
        .property("clock-output-names", "clk24mhz")
        .property("phandle", CLOCK_PHANDLE)
}

fn uart() -> NodeWriter {
    NodeWriter::new(format!("pl011@{:x}", map::PL011_BASE))
        .property("compatible", vec!["arm,pl011", "arm,primecell"])
        .wide("reg", &[map::PL011_BASE.as_u64(), map::PL011_SIZE])
        .property("interrupts", [SPI, map::PL011_SPI, LEVEL_HIGH])
        .property("clocks", [CLOCK_PHANDLE, CLOCK_PHANDLE])
        .property("clock-names", vec!["uartclk", "apb_pclk"])
}

fn rtc() -> NodeWriter {
    NodeWriter::new(format!("pl031@{:x}", map::PL031_BASE))
        .property("compatible", vec!["arm,pl031", "arm,primecell"])
        .wide("reg", &[map::PL031_BASE.as_u64(), map::PL031_SIZE])
        .property("interrupts", [SPI, map::PL031_SPI, LEVEL_HIGH])
        .property("clocks", CLOCK_PHANDLE)
        .property("clock-names", "apb_pclk")
}

fn gpio() -> NodeWriter {
    NodeWriter::new(format!("pl061@{:x}", map::PL061_BASE))
        .property("compatible", vec!["arm,pl061", "arm,primecell"])
        .wide("reg", &[map::PL061_BASE.as_u64(), map::PL061_SIZE])
        .property("interrupts", [SPI, map::PL061_SPI, LEVEL_HIGH])
        .property("#gpio-cells", 2u32)
        .flag("gpio-controller")
        .property("clocks", CLOCK_PHANDLE)
        .property("clock-names", "apb_pclk")
        .property("phandle", GPIO_PHANDLE)
}

/// A virtio device: which, it says by itself. (The wire is high until the driver acknowledges, so its edges are enough: drivers
/// acknowledge before they look.)
fn virtio(slot: u32) -> NodeWriter {
    let base = map::virtio_base(slot);
    NodeWriter::new(format!("virtio_mmio@{base:x}"))
        .property("compatible", "virtio,mmio")
        .wide("reg", &[base.as_u64(), map::VIRTIO_SIZE])
        .property("interrupts", [SPI, map::virtio_spi(slot), EDGE_RISING])
        .flag("dma-coherent")
}

/// The power key: a guest that has a driver for it powers itself off when it is pressed.
fn keys() -> NodeWriter {
    NodeWriter::new("gpio-keys").property("compatible", "gpio-keys").child(
        NodeWriter::new("poweroff")
            .property("label", "GPIO Key Poweroff")
            .property("linux,code", KEY_POWER)
            .property("gpios", [GPIO_PHANDLE, map::POWER_KEY_LINE, ACTIVE_HIGH]),
    )
}

/// The devices that the guest was given, and their clocks: fixed, because who sets them is the machine's.
fn passed_through(given: &Passthrough) -> Vec<Writer<'_>> {
    let mut rates: Vec<u32> = Vec::new();
    let mut nodes = Vec::new();
    for device in &given.devices {
        let registers: Vec<Span<Ipa>> = device.registers.iter().filter_map(|span| given.registers(*span)).collect();
        let at = registers.first().map_or(0, |span| span.start().as_u64());
        let cells: Vec<u64> = registers.iter().copied().flat_map(reg).collect();
        let mut node = Writer::new(format!("{}@{at:x}", device.name)).wide("reg", &cells);
        for (name, value) in &device.properties {
            node = node.property(name, value.as_slice());
        }
        let intids = device.lines.iter().filter_map(|line| Some((line, given.intid(*line)?)));
        let interrupts: Vec<u32> = intids
            .flat_map(|(line, intid)| {
                [SPI, intid.saturating_sub(map::SPI_BASE), if line.edge { EDGE_RISING } else { LEVEL_HIGH }]
            })
            .collect();
        if !interrupts.is_empty() {
            node = node.property("interrupts", interrupts).property("interrupt-parent", GIC_PHANDLE);
        }
        let mut clocks = Vec::new();
        for clock in &device.clocks {
            // A clock that nothing is known of is there, with no rate.
            let rate = clock.unwrap_or(0);
            let index = rates.iter().position(|other| *other == rate).unwrap_or(rates.len());
            if index == rates.len() {
                rates.push(rate);
            }
            clocks.push(FIRST_PASSED_CLOCK.saturating_add(index as u32));
        }
        if !clocks.is_empty() {
            node = node.property("clocks", clocks);
        }
        nodes.push(node);
    }
    let clocks = rates.iter().zip(FIRST_PASSED_CLOCK..).map(|(rate, phandle)| {
        Writer::new(format!("clock-{rate}"))
            .property("compatible", "fixed-clock")
            .property("#clock-cells", 0u32)
            .property("clock-frequency", *rate)
            .property("phandle", phandle)
    });
    clocks.chain(nodes).collect()
}

#[cfg(test)]
mod tests;
