//! Loads and stores of exact sizes to physical addresses, and where the `virt` platform has what.

use core::arch::asm;

/// GICD, the distributor.
pub const GICD: u64 = 0x0800_0000;
/// GICC of a GICv2.
pub const GICC: u64 = 0x0801_0000;
/// GICR of the first CPU; each next one is [`GICR_STRIDE`] further.
pub const GICR: u64 = 0x080a_0000;
/// Bytes of one CPU's redistributor: RD_base and SGI_base.
pub const GICR_STRIDE: u64 = 0x2_0000;
/// The PL011.
pub const UART: u64 = 0x0900_0000;
/// Where RAM starts.
pub const RAM: u64 = 0x4000_0000;
/// An address of the device map where the platform has nothing.
pub const NO_DEVICE: u64 = 0x0b00_0000;
/// An address of the memory map where the platform has nothing.
pub const NO_MEMORY: u64 = 0x7_0000_0000;

macro_rules! access {
    ($read:ident, $write:ident, $ty:ty, $load:literal, $store:literal) => {
        /// A load of this size, as one instruction that Merus can complete.
        pub fn $read(at: u64) -> $ty {
            let value: u64;
            // SAFETY: the caller names a device register or memory that Rust does not own.
            unsafe { asm!($load, value = out(reg) value, at = in(reg) at, options(nostack)) };
            value as $ty
        }

        /// A store of this size, as one instruction that Merus can complete.
        pub fn $write(at: u64, value: $ty) {
            // SAFETY: as for the load; the test answers for what the device does.
            unsafe { asm!($store, value = in(reg) value as u64, at = in(reg) at, options(nostack)) };
        }
    };
}

access!(read8, write8, u8, "ldrb {value:w}, [{at}]", "strb {value:w}, [{at}]");
access!(read16, write16, u16, "ldrh {value:w}, [{at}]", "strh {value:w}, [{at}]");
access!(read32, write32, u32, "ldr {value:w}, [{at}]", "str {value:w}, [{at}]");
access!(read64, write64, u64, "ldr {value}, [{at}]", "str {value}, [{at}]");
