//! A guest that sleeps until something is typed at its console, and answers each line: what a person would see of one that lives.

use guest_rt::{fdt, gic, mmio, println, run};

const UART: u64 = 0x0900_0000;
const DR: u64 = UART;
const FR: u64 = UART + 0x18;
const FR_RXFE: u32 = 1 << 4;
const IMSC: u64 = UART + 0x38;
const ICR: u64 = UART + 0x44;
/// Received, and received some time ago.
const RX: u32 = 1 << 4 | 1 << 6;
/// Its shared interrupt.
const INTID: u32 = 33;

/// Answers lines until one of them is "off".
pub fn answer() {
    let tag = fdt::argument("tag").unwrap_or("-");
    gic::init();
    gic::route(INTID, 0);
    gic::enable(0, INTID);
    mmio::write32(IMSC, RX);
    println!("answer: {tag} is up");
    let (mut line, mut length) = ([0_u8; 32], 0);
    loop {
        // Masked: a pending interrupt ends the sleep, and is taken by hand.
        run!("wfi");
        let intid = gic::acknowledge();
        if intid >= 1020 {
            continue;
        }
        while mmio::read32(FR) & FR_RXFE == 0 {
            let byte = mmio::read32(DR) as u8;
            if byte != b'\r' && byte != b'\n' {
                if let Some(place) = line.get_mut(length) {
                    *place = byte;
                    length += 1;
                }
                continue;
            }
            let text = core::str::from_utf8(&line[..length]).unwrap_or("?");
            println!("answer: {tag} heard {text}");
            let off = text == "off";
            length = 0;
            if off {
                mmio::write32(IMSC, 0);
                gic::end(intid);
                return;
            }
        }
        mmio::write32(ICR, RX);
        gic::end(intid);
    }
}
