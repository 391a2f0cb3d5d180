//! Registers and bits of the PrimeCell UART PL011: Arm DDI 0183, issue G (r1p5), "Programmers Model".

use bus::Offset;

/// The size of the register window in bytes.
pub const WINDOW: u64 = 0x1000;

/// `UARTDR`, data.
pub const DR: Offset = 0x000;
/// `UARTRSR`/`UARTECR`, receive status and error clear.
pub const RSR_ECR: Offset = 0x004;
/// `UARTFR`, flags.
pub const FR: Offset = 0x018;
/// `UARTILPR`, IrDA low-power counter.
pub const ILPR: Offset = 0x020;
/// `UARTIBRD`, integer baud rate.
pub const IBRD: Offset = 0x024;
/// `UARTFBRD`, fractional baud rate.
pub const FBRD: Offset = 0x028;
/// `UARTLCR_H`, line control.
pub const LCR_H: Offset = 0x02c;
/// `UARTCR`, control.
pub const CR: Offset = 0x030;
/// `UARTIFLS`, interrupt FIFO level select.
pub const IFLS: Offset = 0x034;
/// `UARTIMSC`, interrupt mask set/clear.
pub const IMSC: Offset = 0x038;
/// `UARTRIS`, raw interrupt status.
pub const RIS: Offset = 0x03c;
/// `UARTMIS`, masked interrupt status.
pub const MIS: Offset = 0x040;
/// `UARTICR`, interrupt clear.
pub const ICR: Offset = 0x044;
/// `UARTDMACR`, DMA control.
pub const DMACR: Offset = 0x048;

/// `UARTPeriphID0..3` (part 0x011, designer Arm, revision 3 = r1p5, the one with 32-byte FIFOs), `UARTPCellID0..3`.
pub const IDS: [u8; 8] = [0x11, 0x10, 0x34, 0x00, 0x0d, 0xf0, 0x05, 0xb1];

/// Characters in each FIFO.
pub const FIFO_DEPTH: usize = 32;

/// `DR`: framing error of the character read.
pub const DR_FE: u16 = 1 << 8;
/// `DR`: parity error.
pub const DR_PE: u16 = 1 << 9;
/// `DR`: break.
pub const DR_BE: u16 = 1 << 10;
/// `DR`: a character was lost because the FIFO was full.
pub const DR_OE: u16 = 1 << 11;
/// `RSR`: the overrun bit. Framing, parity and break errors are bits 0 to 2, `DR`'s bits 8 to 10.
pub const RSR_OE: u16 = 1 << 3;

/// `FR`: clear to send.
pub const FR_CTS: u16 = 1 << 0;
/// `FR`: data set ready.
pub const FR_DSR: u16 = 1 << 1;
/// `FR`: data carrier detect.
pub const FR_DCD: u16 = 1 << 2;
/// `FR`: transmitting, or the transmit FIFO is not empty.
pub const FR_BUSY: u16 = 1 << 3;
/// `FR`: receive FIFO empty.
pub const FR_RXFE: u16 = 1 << 4;
/// `FR`: transmit FIFO full.
pub const FR_TXFF: u16 = 1 << 5;
/// `FR`: receive FIFO full.
pub const FR_RXFF: u16 = 1 << 6;
/// `FR`: transmit FIFO empty.
pub const FR_TXFE: u16 = 1 << 7;
/// `FR`: ring indicator.
pub const FR_RI: u16 = 1 << 8;

/// `LCR_H`: send break.
pub const LCR_BRK: u16 = 1 << 0;
/// `LCR_H`: FIFOs on.
pub const LCR_FEN: u16 = 1 << 4;
/// `LCR_H`: the bits there are.
pub const LCR_MASK: u16 = 0xff;

/// `CR`: loopback.
pub const CR_LBE: u16 = 1 << 7;
/// `CR`: transmitter on.
pub const CR_TXE: u16 = 1 << 8;
/// `CR`: receiver on.
pub const CR_RXE: u16 = 1 << 9;
/// `CR`: data transmit ready.
pub const CR_DTR: u16 = 1 << 10;
/// `CR`: request to send.
pub const CR_RTS: u16 = 1 << 11;
/// `CR`: output 1.
pub const CR_OUT1: u16 = 1 << 12;
/// `CR`: output 2.
pub const CR_OUT2: u16 = 1 << 13;
/// `CR`: the bits there are (3 to 6 are reserved).
pub const CR_MASK: u16 = 0xff87;
/// `CR` after reset: transmitter and receiver on, UART off.
pub const CR_RESET: u16 = CR_TXE | CR_RXE;

/// `IFLS`: the bits there are.
pub const IFLS_MASK: u16 = 0x3f;
/// `IFLS` after reset: both FIFOs at one half.
pub const IFLS_RESET: u16 = 0x12;

/// Interrupt bit: ring indicator modem line changed.
pub const INT_RI: u16 = 1 << 0;
/// Interrupt bit: clear to send modem line changed.
pub const INT_CTS: u16 = 1 << 1;
/// Interrupt bit: data carrier detect modem line changed.
pub const INT_DCD: u16 = 1 << 2;
/// Interrupt bit: data set ready modem line changed.
pub const INT_DSR: u16 = 1 << 3;
/// Interrupt bit: receive.
pub const INT_RX: u16 = 1 << 4;
/// Interrupt bit: transmit.
pub const INT_TX: u16 = 1 << 5;
/// Interrupt bit: receive timeout.
pub const INT_RT: u16 = 1 << 6;
/// Interrupt bit: framing error.
pub const INT_FE: u16 = 1 << 7;
/// Interrupt bit: parity error.
pub const INT_PE: u16 = 1 << 8;
/// Interrupt bit: break.
pub const INT_BE: u16 = 1 << 9;
/// Interrupt bit: overrun.
pub const INT_OE: u16 = 1 << 10;
/// All interrupts.
pub const INT_MASK: u16 = 0x7ff;

/// `IBRD`: the bits there are.
pub const IBRD_MASK: u16 = 0xffff;
/// `FBRD`: the bits there are.
pub const FBRD_MASK: u16 = 0x3f;
/// `ILPR`: the bits there are.
pub const ILPR_MASK: u16 = 0xff;
/// `DMACR`: the bits there are.
pub const DMACR_MASK: u16 = 0x7;
