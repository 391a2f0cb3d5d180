//! Registers of the PrimeCell general purpose input and output PL061: Arm DDI 0190, issue B, "Programmers Model".

use bus::Offset;

/// The size of the register window in bytes.
pub const WINDOW: u64 = 0x1000;

/// Lines of the device.
pub const LINES: u32 = 8;

/// `GPIODATA`, data: 256 words, whose offset's bits 9 to 2 say which lines an access is about.
pub const DATA: Offset = 0x000;
/// The last word of `GPIODATA`: all lines.
pub const DATA_END: Offset = 0x3fc;
/// `GPIODIR`, data direction: 1 is an output.
pub const DIR: Offset = 0x400;
/// `GPIOIS`, interrupt sense: 1 is a level, 0 an edge.
pub const IS: Offset = 0x404;
/// `GPIOIBE`, both edges.
pub const IBE: Offset = 0x408;
/// `GPIOIEV`, interrupt event: 1 is high or rising.
pub const IEV: Offset = 0x40c;
/// `GPIOIE`, interrupt mask: 1 is not masked.
pub const IE: Offset = 0x410;
/// `GPIORIS`, raw interrupt status.
pub const RIS: Offset = 0x414;
/// `GPIOMIS`, masked interrupt status.
pub const MIS: Offset = 0x418;
/// `GPIOIC`, interrupt clear.
pub const IC: Offset = 0x41c;
/// `GPIOAFSEL`, mode control select.
pub const AFSEL: Offset = 0x420;

/// `GPIOPeriphID0..3` (part 0x061, designer Arm, revision 0), `GPIOPCellID0..3`.
pub const IDS: [u8; 8] = [0x61, 0x10, 0x04, 0x00, 0x0d, 0xf0, 0x05, 0xb1];
