//! The boards as data, and the drivers of physical devices.
//!
//! Everything here speaks to hardware through [`mmio`]; what a board *is* comes from its device tree (room `config`),
//! so no address of any board stands in this room.
#![no_std]

extern crate alloc;

pub mod bcm2835_mailbox;
pub mod bcm2835_pm;
#[cfg(target_arch = "aarch64")]
pub mod firmware;
pub mod gic;
pub mod gicv2;
pub mod gicv3;
pub mod mini_uart;
pub mod mmio;
pub mod pl011;
pub mod uart;
pub mod virtio;

use addr::{Pa, Span};

/// What the boot code found out before anything could be printed.
#[derive(Clone, Copy, Debug)]
pub struct BootInfo {
    /// Where the board's device tree lies (x0 at entry), as the firmware gave it; not checked yet.
    pub fdt: Pa,
    /// The image with its bss, heap and boot stack.
    pub image: Span<Pa>,
    /// Whether the firmware started the image at EL3 (and so no PSCI firmware is behind SMC).
    pub from_el3: bool,
}
