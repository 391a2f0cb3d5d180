//! System registers, by name in an instruction or by number in one written at run time.

use crate::cpu;
use core::arch::asm;
use core::sync::atomic::{AtomicU32, Ordering};

/// Reads a system register, named as the assembler names it (`"CNTVCT_EL0"`, `"S3_0_C0_C4_4"`).
#[macro_export]
macro_rules! mrs {
    ($name:expr) => {{
        let value: u64;
        // SAFETY: reading a register changes no memory of Rust's; where it faults, the test expects that.
        unsafe { core::arch::asm!(concat!("mrs {0}, ", $name), out(reg) value, options(nostack)) };
        value
    }};
}

/// Writes a system register. The payload owns its CPU: the test answers for what the value does.
#[macro_export]
macro_rules! msr {
    ($name:expr, $value:expr) => {{
        let value: u64 = $value;
        // SAFETY: the payload owns its CPU, and the test chose a value that keeps Rust's memory as it is.
        unsafe { core::arch::asm!(concat!("msr ", $name, ", {0}"), in(reg) value, options(nostack)) };
    }};
}

/// Executes instructions without operands, given as text.
#[macro_export]
macro_rules! run {
    ($text:expr) => {{
        // SAFETY: the payload owns its CPU; the test chose instructions that touch no register of the compiler's.
        unsafe { core::arch::asm!($text, options(nostack)) };
    }};
}

/// Instruction synchronization barrier.
pub fn isb() {
    run!("isb");
}

/// Data synchronization barrier for the whole system.
pub fn dsb() {
    run!("dsb sy");
}

/// The number of a system register in an MRS or MSR instruction: op0 2 or 3, op1, CRn, CRm, op2.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Encoding {
    /// 2 or 3.
    pub op0: u8,
    /// 0 to 7.
    pub op1: u8,
    /// 0 to 15.
    pub crn: u8,
    /// 0 to 15.
    pub crm: u8,
    /// 0 to 7.
    pub op2: u8,
}

impl Encoding {
    /// From its parts in the order in which the Arm ARM lists them.
    pub const fn new(op0: u8, op1: u8, crn: u8, crm: u8, op2: u8) -> Self {
        Self { op0, op1, crn, crm, op2 }
    }

    /// All of op0 = 2 and 3 by number, `n` from 0 to 32767.
    pub const fn from_index(n: u32) -> Self {
        Self::new(2 + (n >> 14 & 1) as u8, (n >> 11 & 7) as u8, (n >> 7 & 15) as u8, (n >> 3 & 15) as u8, (n & 7) as u8)
    }

    const fn bits(self) -> u32 {
        (self.op0 as u32) << 19
            | (self.op1 as u32) << 16
            | (self.crn as u32) << 12
            | (self.crm as u32) << 8
            | (self.op2 as u32) << 5
    }

    /// The instruction `mrs x0, <register>`.
    pub const fn read_instruction(self) -> u32 {
        0xd520_0000 | self.bits()
    }

    /// The instruction `msr <register>, x0`.
    pub const fn write_instruction(self) -> u32 {
        0xd500_0000 | self.bits()
    }
}

impl core::fmt::Display for Encoding {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "S{}_{}_C{}_C{}_{}", self.op0, self.op1, self.crn, self.crm, self.op2)
    }
}

const RET: u32 = 0xd65f_03c0;

#[repr(align(128))]
struct Code([AtomicU32; 32]);

/// One piece of writable code for each CPU.
static CODE: [Code; cpu::MAX] = [const { Code([const { AtomicU32::new(RET) }; 32]) }; cpu::MAX];

/// Executes one instruction that is known only at run time, with x0 = `x0` and x1 = `x1`; returns x0.
///
/// The instruction may change x0 to x17 and system state, nothing else; a fault skips it where one is expected.
pub fn execute(instruction: u32, x0: u64, x1: u64) -> u64 {
    execute_all(&[instruction], x0, x1)
}

/// As [`execute`] with up to 31 instructions.
pub fn execute_all(instructions: &[u32], x0: u64, x1: u64) -> u64 {
    let code = &CODE[cpu::index()].0;
    for (word, instruction) in code.iter().zip(instructions.iter().chain([&RET])) {
        word.store(*instruction, Ordering::Relaxed);
    }
    let at = code.as_ptr() as u64;
    sync_code(at, 128);
    let mut value = x0;
    // SAFETY: the code ends with `ret`, and the caller keeps to the registers that are clobbered here.
    unsafe {
        asm!("blr {at}", at = in(reg) at, inout("x0") value, inout("x1") x1 => _, clobber_abi("C"));
    }
    value
}

/// Makes `bytes` of new code at `at` visible to this CPU's (and inner shareable) instruction fetches.
pub fn sync_code(at: u64, bytes: u64) {
    for line in (at & !15..at + bytes).step_by(16) {
        // SAFETY: cleaning a line of our own memory changes no value.
        unsafe { asm!("dc cvau, {0}", in(reg) line, options(nostack)) };
    }
    run!("dsb ish");
    for line in (at & !15..at + bytes).step_by(16) {
        // SAFETY: as above; the next fetch reads memory again.
        unsafe { asm!("ic ivau, {0}", in(reg) line, options(nostack)) };
    }
    run!("dsb ish\nisb");
}
