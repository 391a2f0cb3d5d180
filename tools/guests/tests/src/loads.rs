//! Every load and store form to a device register: what lands in the register, and what in the device.
//!
//! The registers are plain storage with any bit set: UARTIBRD of the PL011 (16 bits), the priorities of four SPIs in the
//! distributor (32 bits), and an SPI's route (64 bits). Forms for which the architecture gives a hypervisor no syndrome
//! (ESR_EL2.ISV = 0) work on the bare machine; under Merus they are external aborts.

use guest_rt::gic;
use guest_rt::mmio::{self, GICD, UART};
use guest_rt::sysreg::execute_all;
use guest_rt::test::{check_external, check_no_fault};
use guest_rt::vectors::{class, expect};
use guest_rt::{check, check_eq, psci};

const IBRD: u64 = UART + 0x24;
/// Priorities of SPIs 40 to 43; the lowest three bits of each stay 0.
const PRIORITIES: u64 = GICD + 0x400 + 40;
const ROUTE: u64 = GICD + 0x6000 + 8 * 40;
/// What a destination holds before: each bit that a load must write differs somewhere.
const BEFORE: u64 = 0x5aa5_0ff0_3cc3_9669;

/// Loads by one instruction into a register that holds [`BEFORE`].
macro_rules! load {
    ($instruction:literal, $at:expr) => {{
        let mut value = BEFORE;
        // SAFETY: a load from a device register.
        unsafe {
            core::arch::asm!($instruction, "// {v} {a} {z}", v = inout(reg) value, a = in(reg) $at, z = in(reg) 0u64, options(nostack))
        };
        value
    }};
}

macro_rules! loads {
    ($at:expr, $($instruction:literal => $want:expr),+ $(,)?) => {
        $({
            let (value, fault) = expect(|| load!($instruction, $at));
            check_no_fault(format_args!("{}", $instruction), fault);
            check_eq!(value, $want, "{}", $instruction);
        })+
    };
}

macro_rules! stores {
    ($at:expr, $read:ident, $($instruction:literal, $value:expr => $want:expr),+ $(,)?) => {
        $({
            // SAFETY: a store to a device register.
            let (_, fault) = expect(|| unsafe {
                core::arch::asm!($instruction, "// {v} {a} {z}", v = in(reg) $value, a = in(reg) $at, z = in(reg) 0u64, options(nostack))
            });
            check_no_fault(format_args!("{}", $instruction), fault);
            check_eq!(u64::from(mmio::$read($at)), $want, "after {}", $instruction);
        })+
    };
}

/// Runs the test.
pub fn loads() {
    gic::init();
    let (ibrd, route) = (mmio::read32(IBRD), mmio::read64(ROUTE));
    narrow();
    words();
    doublewords();
    narrow_stores();
    word_stores();
    every_register();
    without_syndrome();
    mmio::write32(IBRD, ibrd);
    mmio::write64(ROUTE, route);
}

fn narrow() {
    mmio::write32(IBRD, 0x8281);
    loads!(
        IBRD,
        "ldrb {v:w}, [{a}]" => 0x81,
        "ldrh {v:w}, [{a}]" => 0x8281,
        "ldr {v:w}, [{a}]" => 0x8281,
        "ldrsb {v:w}, [{a}]" => 0xffff_ff81,
        "ldrsb {v:x}, [{a}]" => 0xffff_ffff_ffff_ff81,
        "ldrsh {v:w}, [{a}]" => 0xffff_8281,
        "ldrsh {v:x}, [{a}]" => 0xffff_ffff_ffff_8281,
        "ldrsw {v:x}, [{a}]" => 0x8281,
        "ldurb {v:w}, [{a}]" => 0x81,
        "ldurh {v:w}, [{a}]" => 0x8281,
        "ldursb {v:w}, [{a}]" => 0xffff_ff81,
        "ldursh {v:x}, [{a}]" => 0xffff_ffff_ffff_8281,
        "ldrb {v:w}, [{a}, {z}]" => 0x81,
        "ldrsb {v:x}, [{a}, {z:w}, sxtw]" => 0xffff_ffff_ffff_ff81,
        "ldarb {v:w}, [{a}]" => 0x81,
        "ldarh {v:w}, [{a}]" => 0x8281,
        "ldtrsb {v:w}, [{a}]" => 0xffff_ff81,
    );
    mmio::write32(IBRD, 0x7f7e);
    loads!(
        IBRD,
        "ldrsb {v:w}, [{a}]" => 0x7e,
        "ldrsb {v:x}, [{a}]" => 0x7e,
        "ldrsh {v:w}, [{a}]" => 0x7f7e,
        "ldrsh {v:x}, [{a}]" => 0x7f7e,
    );
}

fn words() {
    mmio::write32(PRIORITIES, 0xf8a0_9088);
    loads!(
        PRIORITIES,
        "ldr {v:w}, [{a}]" => 0xf8a0_9088,
        "ldrsw {v:x}, [{a}]" => 0xffff_ffff_f8a0_9088,
        "ldur {v:w}, [{a}]" => 0xf8a0_9088,
        "ldursw {v:x}, [{a}]" => 0xffff_ffff_f8a0_9088,
        "ldr {v:w}, [{a}, {z:w}, uxtw #2]" => 0xf8a0_9088,
        "ldar {v:w}, [{a}]" => 0xf8a0_9088,
        "ldtr {v:w}, [{a}]" => 0xf8a0_9088,
        "ldtrsw {v:x}, [{a}]" => 0xffff_ffff_f8a0_9088,
        "ldrsb {v:w}, [{a}]" => 0xffff_ff88,
    );
    loads!(PRIORITIES + 3, "ldrb {v:w}, [{a}]" => 0xf8, "ldrsb {v:x}, [{a}]" => 0xffff_ffff_ffff_fff8);
    loads!(PRIORITIES + 1, "ldrb {v:w}, [{a}]" => 0x90, "ldrsb {v:w}, [{a}]" => 0xffff_ff90);
    mmio::write32(PRIORITIES, 0x7888_9098);
    loads!(PRIORITIES, "ldrsw {v:x}, [{a}]" => 0x7888_9098);
}

fn doublewords() {
    // Interrupt_Routing_Mode (bit 31) and nothing above: an extended word would show.
    mmio::write64(ROUTE, 1 << 31);
    loads!(
        ROUTE,
        "ldr {v:x}, [{a}]" => 1 << 31,
        "ldur {v:x}, [{a}]" => 1 << 31,
        "ldar {v:x}, [{a}]" => 1 << 31,
        "ldr {v:x}, [{a}, {z}, lsl #3]" => 1 << 31,
        "ldrsw {v:x}, [{a}]" => 0xffff_ffff_8000_0000,
        "ldr {v:w}, [{a}]" => 0x8000_0000,
    );
    mmio::write64(ROUTE, 0);
    let base = gic::redistributor(0);
    let typer = mmio::read64(base + 8);
    check_eq!(
        typer,
        u64::from(mmio::read32(base + 8)) | u64::from(mmio::read32(base + 12)) << 32,
        "halves of GICR_TYPER"
    );
}

fn narrow_stores() {
    stores!(
        IBRD, read32,
        "strh {v:w}, [{a}]", 0xffff_1234u64 => 0x1234,
        "sturh {v:w}, [{a}]", 0x8765u64 => 0x8765,
        "str {v:w}, [{a}]", 0x4321u64 => 0x4321,
        "stlrh {v:w}, [{a}]", 0x2345u64 => 0x2345,
        "str wzr, [{a}]", 1u64 => 0,
        "strh {v:w}, [{a}, {z}]", 0xaaaau64 => 0xaaaa,
        "strh wzr, [{a}]", 1u64 => 0,
    );
    mmio::write32(PRIORITIES, 0x1020_3040);
    stores!(
        PRIORITIES, read32,
        "strb {v:w}, [{a}]", 0xffff_ff88u64 => 0x1020_3088,
        "strb {v:w}, [{a}, #1]", 0x90u64 => 0x1020_9088,
        "sturb {v:w}, [{a}, #3]", 0xa8u64 => 0xa820_9088,
        "strb wzr, [{a}, #2]", 1u64 => 0xa800_9088,
        "stlrb {v:w}, [{a}]", 0x18u64 => 0xa800_9018,
        "sttrb {v:w}, [{a}]", 0x28u64 => 0xa800_9028,
    );
}

fn word_stores() {
    stores!(
        PRIORITIES, read32,
        "str {v:w}, [{a}]", 0xffff_ffff_a0b0_c0d0u64 => 0xa0b0_c0d0,
        "str wzr, [{a}]", 1u64 => 0,
        "stlr {v:w}, [{a}]", 0x9080_7060u64 => 0x9080_7060,
        "sttr {v:w}, [{a}]", 0x1020_3040u64 => 0x1020_3040,
    );
    stores!(
        ROUTE, read64,
        "str {v:x}, [{a}]", 0x8000_0001u64 => 0x8000_0001,
        "str xzr, [{a}]", 1u64 => 0,
        "stlr {v:x}, [{a}]", 0x8000_0000u64 => 0x8000_0000,
        "str {v:w}, [{a}]", 1u64 => 1,
    );
}

/// x0 to x30 as destination and source, and the zero register.
fn every_register() {
    mmio::write32(PRIORITIES, 0x88a0_9098);
    for rt in 0..31u32 {
        // `mov x17, xRT; ldrsw xRT, [x1]; mov x0, xRT; mov xRT, x17`; x0, x1 and x17 need no saving.
        let save = if matches!(rt, 0 | 1 | 17) { NOP } else { mov(17, rt) };
        let restore = if matches!(rt, 0 | 1 | 17) { NOP } else { mov(rt, 17) };
        let (value, fault) = expect(|| execute_all(&[save, 0xb980_0020 | rt, mov(0, rt), restore], BEFORE, PRIORITIES));
        check_no_fault(format_args!("ldrsw x{rt}"), fault);
        check_eq!(value, 0xffff_ffff_88a0_9098, "ldrsw x{rt}");
        if rt == 1 {
            continue;
        }
        // `mov x17, xRT; mov xRT, x0; str wRT, [x1]; mov xRT, x17`.
        let value = 0x1010_1010 + 0x0808_0800 * u64::from(rt & 15);
        let (_, fault) = expect(|| execute_all(&[save, mov(rt, 0), 0xb900_0020 | rt, restore], value, PRIORITIES));
        check_no_fault(format_args!("str w{rt}"), fault);
        check_eq!(u64::from(mmio::read32(PRIORITIES)), value & 0xf8f8_f8f8, "str w{rt}");
        mmio::write32(PRIORITIES, 0x88a0_9098);
    }
    // A load to the zero register: the stack pointer, which has the same number, stays.
    let mut moved = 1u64;
    // SAFETY: a load from a device register into nowhere.
    let (_, fault) = expect(|| unsafe {
        core::arch::asm!(
            "mov {s}, sp", "ldr wzr, [{a}]", "ldrsb xzr, [{a}]", "ldr xzr, [{r}]", "mov {m}, sp", "sub {m}, {m}, {s}",
            s = out(reg) _, a = in(reg) PRIORITIES, r = in(reg) ROUTE, m = inout(reg) moved, options(nostack)
        )
    });
    check_no_fault(format_args!("loads to the zero register"), fault);
    check_eq!(moved, 0, "what loads to the zero register did to sp");
}

const NOP: u32 = 0xd503_201f;

const fn mov(to: u32, from: u32) -> u32 {
    0xaa00_03e0 | from << 16 | to
}

macro_rules! no_syndrome {
    ($merus:expr, $at:expr, $step:expr, $($instruction:literal),+ $(,)?) => {
        $({
            let mut base = $at;
            let mut value = 0u64;
            // SAFETY: accesses to a device register; the pair's second register is lost.
            let (_, fault) = expect(|| unsafe {
                core::arch::asm!($instruction, "// {v} {w} {a}", v = inout(reg) value, w = out(reg) _, a = inout(reg) base, options(nostack))
            });
            if $merus {
                check_external(format_args!("{}", $instruction), fault, class::DATA_ABORT, $at);
                check_eq!(base, $at, "base register after the abort of {}", $instruction);
            } else {
                check_no_fault(format_args!("{}", $instruction), fault);
                check_eq!(base, $at + $step, "base register after {}", $instruction);
            }
            check!(value == 0 || !$merus, "destination after the abort of {}: {value:#x}", $instruction);
        })+
    };
}

fn without_syndrome() {
    let merus = psci::on_merus();
    mmio::write32(PRIORITIES, 0x88a0_9098);
    no_syndrome!(merus, PRIORITIES, 4, "ldr {v:w}, [{a}], #4", "ldrsw {v:x}, [{a}], #4", "ldrb {v:w}, [{a}], #4");
    no_syndrome!(merus, PRIORITIES, 0, "ldr {v:w}, [{a}, #0]!", "ldp {v:w}, {w:w}, [{a}]", "stp wzr, wzr, [{a}]");
    no_syndrome!(merus, PRIORITIES, 4, "str wzr, [{a}], #4", "strb wzr, [{a}], #4");
    no_syndrome!(merus, PRIORITIES, 8, "ldp {v:w}, {w:w}, [{a}], #8", "ldpsw {v:x}, {w:x}, [{a}], #8");
    if merus {
        no_syndrome!(merus, PRIORITIES, 0, "ldxr {v:w}, [{a}]", "ldaxrb {v:w}, [{a}]");
        // ID_AA64ISAR0_EL1.Atomic: LSE.
        if guest_rt::mrs!("ID_AA64ISAR0_EL1") >> 20 & 15 != 0 {
            no_syndrome!(
                merus,
                PRIORITIES,
                0,
                ".arch_extension lse\nldadd {v:w}, {w:w}, [{a}]",
                ".arch_extension lse\nswp {v:w}, {w:w}, [{a}]"
            );
        }
    }
}
