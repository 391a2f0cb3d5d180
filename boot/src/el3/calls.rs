//! The calls by which Merus, at EL2, tells its own EL3 what the board's tree says, before there is a guest.
//!
//! They are in the range of vendors' monitors (Arm DEN 0028, "Function Identifier ranges"), 64 bits wide, and the first CPU's alone,
//! until [`DONE`]: after that nothing at EL3 touches a device but a pin that ends the machine and, of a GICv2, what is the own of a CPU that
//! comes. Each returns 0, or a negative number as PSCI's errors.

/// The distributor of a GICv3 is at x1.
pub const GIC_V3: u32 = 0xc700_0000;
/// Redistributors are in the x2 bytes from x1; once for each such region.
pub const REDISTRIBUTORS: u32 = 0xc700_0001;
/// The distributor of a GICv2 is at x1, and its CPU interface at x2.
pub const GIC_V2: u32 = 0xc700_0002;
/// The PL061 at x1 ends the machine: by pin x2 & 0xff off, by pin x2 >> 8 & 0xff again from the start; 0xff is no pin.
pub const POWER_PINS: u32 = 0xc700_0003;
/// The counter's frequency is x1, in Hz. Refused where the counter had one when Merus was entered.
pub const COUNTER: u32 = 0xc700_0004;
/// That is all.
pub const DONE: u32 = 0xc700_0005;
