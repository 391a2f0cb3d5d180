//! The power key: line 3 of the PL061, as `virt` has it.
//!
//! `gpio` needs nobody at the key: the line is low, and a low level is an interrupt as well. `power` waits until somebody presses
//! it, and powers off.

use crate::taken;
use guest_rt::mmio::{read8, read32, write32};
use guest_rt::{check_eq, cpu, gic, println, timer, vectors};

const PL061: u64 = 0x0903_0000;
/// SPI 7.
const INTID: u32 = 32 + 7;
const KEY: u32 = 1 << 3;

const DATA: u64 = PL061 + 0x3fc;
const DIR: u64 = PL061 + 0x400;
const IS: u64 = PL061 + 0x404;
const IBE: u64 = PL061 + 0x408;
const IEV: u64 = PL061 + 0x40c;
const IE: u64 = PL061 + 0x410;
const RIS: u64 = PL061 + 0x414;
const MIS: u64 = PL061 + 0x418;
const IC: u64 = PL061 + 0x41c;

/// What the handler does: it masks the line, so that a level does not come again.
fn handler() {
    let intid = gic::acknowledge();
    if intid == INTID {
        write32(IE, 0);
    }
    taken::note(intid);
    if intid < 1020 {
        gic::end(intid);
    }
}

fn begin() {
    gic::init();
    taken::reset();
    vectors::set_irq(Some(handler));
    for register in [IE, DIR, IS, IBE, IEV] {
        write32(register, 0);
    }
    write32(IC, 0xff);
    gic::set_edge(INTID, false);
    gic::route(INTID, 0);
    gic::enable(0, INTID);
    cpu::unmask_irq();
}

fn came(times: u32) {
    let came = timer::wait_for(cpu::PATIENCE, || taken::count(0, INTID) == times);
    check_eq!(came, true, "came");
}

/// The registers, and the way of the interrupt.
pub fn gpio() {
    begin();
    let ids = [0u64, 1, 2, 3, 4, 5, 6, 7].map(|n| read8(PL061 + 0xfe0 + 4 * n));
    check_eq!(ids, [0x61, 0x10, 0x04, 0x00, 0x0d, 0xf0, 0x05, 0xb1], "the identification");
    check_eq!(read32(DATA) & KEY, 0, "read32(DATA) & KEY");
    // Outputs, masked by the address.
    write32(DIR, 0xf0);
    write32(DATA, 0x50);
    write32(PL061 + (0x30 << 2), 0x20);
    check_eq!(read32(DATA) & 0xf0, 0x60, "read32(DATA) & 0xf0");
    check_eq!(read32(PL061 + (0x40 << 2)), 0x40, "read32(PL061 + (0x40 << 2))");
    write32(DIR, 0);
    check_eq!(taken::count(0, INTID), 0, "taken::count(0, INTID)");
    // The key is not pressed: low is the level.
    for round in 1..=3 {
        write32(IS, KEY);
        check_eq!(read32(RIS) & KEY, KEY, "read32(RIS) & KEY");
        check_eq!(read32(MIS), 0, "read32(MIS)");
        write32(IE, KEY);
        came(round);
        check_eq!(read32(MIS), 0, "read32(MIS)");
        // High is not.
        write32(IEV, KEY);
        write32(IE, KEY);
        write32(IC, 0xff);
        check_eq!(read32(RIS) & KEY, 0, "read32(RIS) & KEY");
        write32(IE, 0);
        write32(IEV, 0);
    }
    cpu::mask_irq();
    check_eq!(taken::count(0, INTID), 3, "taken::count(0, INTID)");
    write32(IS, 0);
}

/// Powers off when the key is pressed, which comes from outside.
pub fn power() {
    begin();
    write32(IBE, KEY);
    write32(IE, KEY);
    println!("power: waits for the key");
    cpu::mask_irq();
    while taken::count(0, INTID) == 0 {
        // An interrupt that is pending ends the wait also while it is masked.
        guest_rt::run!("wfi");
        cpu::unmask_irq();
        cpu::mask_irq();
    }
    check_eq!(read32(RIS) & KEY, KEY, "read32(RIS) & KEY");
    check_eq!(read32(DATA) & KEY, KEY, "read32(DATA) & KEY");
    write32(IC, KEY);
    check_eq!(read32(RIS) & KEY, 0, "read32(RIS) & KEY");
    println!("power: the key");
}
