//! Registers of the controller and commands of the card, as far as they are used.
//!
//! SD Association, "SD Host Controller Simplified Specification", "SD Host Standard Register"; "Physical Layer Simplified
//! Specification", "Commands", "Card Status", "CSD Register".

// Registers by their offset; several of the specification's are in one word.
/// Block size; block count in the upper half.
pub const BLOCK: u64 = 0x04;
pub const ARGUMENT: u64 = 0x08;
/// Transfer mode; command in the upper half, whose store starts it.
pub const COMMAND: u64 = 0x0c;
pub const RESPONSE: u64 = 0x10;
pub const BUFFER: u64 = 0x20;
pub const PRESENT: u64 = 0x24;
/// Host control 1; power control.
pub const CONTROL: u64 = 0x28;
/// Clock control; timeout control; software reset.
pub const CLOCK: u64 = 0x2c;
/// Normal and error interrupt status: cleared by what is written as 1.
pub const STATUS: u64 = 0x30;
/// Which of them are shown there.
pub const STATUS_ENABLE: u64 = 0x34;
/// Which of them interrupt.
pub const SIGNAL_ENABLE: u64 = 0x38;
pub const CAPABILITIES: u64 = 0x40;
/// Slot interrupt status; version in the upper half.
pub const VERSION: u64 = 0xfc;

// PRESENT.
/// A command, and a use of the data wires, are under way.
pub const INHIBIT: u32 = 0b11;

// CONTROL.
pub const FOUR_WIRES: u32 = 1 << 1;
/// Power on, 3.3 V.
pub const POWER: u32 = 0xf << 8;

// CLOCK.
pub const INTERNAL: u32 = 1 << 0;
pub const STABLE: u32 = 1 << 1;
pub const TO_CARD: u32 = 1 << 2;
/// The longest time for data: 2^27 cycles of the timeout clock.
pub const TIMEOUT: u32 = 0xe << 16;
pub const RESET_ALL: u32 = 1 << 24;
/// The command's and the data's circuits.
pub const RESET_LINES: u32 = 0b11 << 25;

// STATUS.
pub const COMMAND_COMPLETE: u32 = 1 << 0;
pub const TRANSFER_COMPLETE: u32 = 1 << 1;
pub const WRITE_READY: u32 = 1 << 4;
pub const READ_READY: u32 = 1 << 5;
/// All errors, and that there are some.
pub const ERRORS: u32 = 0xffff_8000;
/// A command had no response.
pub const COMMAND_TIMEOUT: u32 = 1 << 16;
/// Everything but cards that come and go.
pub const SHOWN: u32 = ERRORS | COMMAND_COMPLETE | TRANSFER_COMPLETE | WRITE_READY | READ_READY;
/// What a transfer waits for.
pub const SIGNALLED: u32 = ERRORS | TRANSFER_COMPLETE | WRITE_READY | READ_READY;

// COMMAND.
pub const BLOCK_COUNT: u32 = 1 << 1;
/// The controller sends CMD12 behind the last block.
pub const AUTO_STOP: u32 = 1 << 2;
pub const FROM_CARD: u32 = 1 << 4;
pub const SEVERAL: u32 = 1 << 5;
pub const HAS_DATA: u32 = 1 << 21;
pub const ABORT: u32 = 0b11 << 22;
pub const INDEX_SHIFT: u32 = 24;

// Responses, with the checks that they have: in the command register.
pub const NONE: u32 = 0;
pub const R1: u32 = 0b11010 << 16;
pub const R1B: u32 = 0b11011 << 16;
/// Of 136 bits.
pub const R2: u32 = 0b01001 << 16;
pub const R3: u32 = 0b00010 << 16;
pub const R6: u32 = R1;
pub const R7: u32 = R1;

// Commands.
pub const GO_IDLE: u32 = 0;
pub const ALL_SEND_CID: u32 = 2;
pub const SEND_RELATIVE: u32 = 3;
pub const SELECT: u32 = 7;
pub const SEND_IF_COND: u32 = 8;
pub const SEND_CSD: u32 = 9;
pub const STOP: u32 = 12;
pub const SET_BLOCKLEN: u32 = 16;
pub const READ_ONE: u32 = 17;
pub const READ_SEVERAL: u32 = 18;
pub const WRITE_ONE: u32 = 24;
pub const WRITE_SEVERAL: u32 = 25;
pub const APP: u32 = 55;
// Behind APP.
pub const SET_BUS_WIDTH: u32 = 6;
pub const SEND_OP_COND: u32 = 41;

/// 2.7 to 3.6 V, and a pattern that comes back.
pub const IF_COND: u32 = 0x1aa;
/// All voltages; and that the host knows cards of high capacity.
pub const VOLTAGES: u32 = 0x00ff_8000;
pub const HIGH_CAPACITY: u32 = 1 << 30;
pub const POWERED_UP: u32 = 1 << 31;

/// What fails a transfer in a card's status: not where the last block was passed by, which reading ahead does, and nothing of the command before.
pub const CARD_ERRORS: u32 = 0x7d39_0000;
