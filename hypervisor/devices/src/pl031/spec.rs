//! Registers of the PrimeCell real time clock PL031: Arm DDI 0224, issue C, "Programmers Model".

use bus::Offset;

/// The size of the register window in bytes.
pub const WINDOW: u64 = 0x1000;

/// `RTCDR`, data: the time in seconds.
pub const DR: Offset = 0x000;
/// `RTCMR`, match.
pub const MR: Offset = 0x004;
/// `RTCLR`, load.
pub const LR: Offset = 0x008;
/// `RTCCR`, control.
pub const CR: Offset = 0x00c;
/// `RTCIMSC`, interrupt mask set or clear.
pub const IMSC: Offset = 0x010;
/// `RTCRIS`, raw interrupt status.
pub const RIS: Offset = 0x014;
/// `RTCMIS`, masked interrupt status.
pub const MIS: Offset = 0x018;
/// `RTCICR`, interrupt clear.
pub const ICR: Offset = 0x01c;

/// The only bit of `CR`, `IMSC`, `RIS`, `MIS` and `ICR`.
pub const BIT: u32 = 1;

/// `RTCPeriphID0..3` (part 0x031, designer Arm, revision 1 as on QEMU's `virt`), `RTCPCellID0..3`.
pub const IDS: [u8; 8] = [0x31, 0x10, 0x14, 0x00, 0x0d, 0xf0, 0x05, 0xb1];
