//! The mailbox of the BCM2835 and its successors up to the BCM2711 (Raspberry Pi 4), by which the firmware on the video core is asked:
//! here, which memory is its own.
//!
//! | step | register |
//! |---|---|
//! | what was answered before to nobody is read and forgotten | MAIL0_RD while MAIL0_STA is not empty |
//! | the address of a buffer of properties, and the channel, is written | MAIL1_WRT when MAIL1_STA is not full |
//! | the same value comes back when the buffer holds the answers | MAIL0_RD |
//!
//! Raspberry Pi, "Mailbox property interface" (tags "Get ARM memory" and "Get VC memory") and "Accessing mailboxes"; Linux' bindings
//! `brcm,bcm2835-mbox`. The video core sees the first GiB of memory at 0xc000_0000, past its own cache.
//!
//! Nothing waits for ever: a mailbox that does not answer counts as none.

use crate::mmio::Registers;
use addr::{Pa, Span};
use alloc::boxed::Box;
use core::fmt;

const MAIL0_RD: u64 = 0x00;
const MAIL0_STA: u64 = 0x18;
const MAIL1_WRT: u64 = 0x20;
const MAIL1_STA: u64 = 0x38;
const FULL: u32 = 1 << 31;
const EMPTY: u32 = 1 << 30;
/// The channel of properties, asked by the Arm side.
const PROPERTIES: u32 = 8;
const CHANNEL: u32 = 15;
/// Where the video core sees memory, uncached, and how much of it.
const BUS: u32 = 0xc000_0000;
const REACH: u64 = 0x4000_0000;
const REQUEST: u32 = 0;
const SUCCESS: u32 = 0x8000_0000;
const GET_ARM_MEMORY: u32 = 0x0001_0005;
const GET_VC_MEMORY: u32 = 0x0001_0006;
/// How often a status register is read before the mailbox counts as silent.
const PATIENCE: u32 = 200_000;

/// How the first GiB of memory is divided.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Split {
    /// What Arm CPUs may use of it.
    pub arm: Span<Pa>,
    /// What is the video core's.
    pub vc: Span<Pa>,
}

impl Split {
    /// What of the first GiB is not the Arm CPUs': what they are not told of, and what is the video core's. (The firmware speaks of that
    /// GiB alone, however much memory there is.)
    pub fn taken(&self) -> [Span<Pa>; 2] {
        let end = self.arm.end().min(Pa::new(REACH));
        [Span::from_bounds(end, Pa::new(REACH)).unwrap_or(Span::empty(end)), self.vc]
    }
}

/// Why there is no answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MailboxError {
    /// Merus lies where the video core does not see it.
    OutOfReach,
    /// It takes no question, or gives no answer.
    Silent,
    /// It does not know the question, or says nonsense.
    Refused,
}

impl fmt::Display for MailboxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OutOfReach => "Merus lies where the firmware cannot see its question",
            Self::Silent => "it does not answer",
            Self::Refused => "it does not say",
        })
    }
}

impl core::error::Error for MailboxError {}

/// The question and its answer: whole cache lines of their own.
#[repr(C, align(256))]
struct Buffer([u32; 64]);

/// Words of it that are used: two of a head, five a tag, an end.
const WORDS: usize = 13;

/// The mailbox.
#[derive(Clone, Copy, Debug)]
pub struct Mailbox {
    registers: Registers,
}

impl Mailbox {
    /// The one whose registers are there.
    pub const fn new(registers: Registers) -> Self {
        Self { registers }
    }

    /// Asks the firmware how the first GiB of memory is divided. To be called by one CPU, its data caches on or off.
    ///
    /// # Errors
    /// There is no answer, after a bounded time.
    pub fn memory(&self) -> Result<Split, MailboxError> {
        let mut buffer = Box::new(Buffer([0; 64]));
        let size = (WORDS * 4) as u32;
        buffer.0[..WORDS].copy_from_slice(&[
            size,
            REQUEST,
            GET_ARM_MEMORY,
            8,
            REQUEST,
            0,
            0,
            GET_VC_MEMORY,
            8,
            REQUEST,
            0,
            0,
            0,
        ]);
        let at = &raw mut *buffer as u64;
        if at + size_of::<Buffer>() as u64 > REACH {
            return Err(MailboxError::OutOfReach);
        }
        clean_invalidate(at);
        let answered = self.exchange(at as u32 | BUS | PROPERTIES);
        clean_invalidate(at);
        if let Err(error) = answered {
            // The firmware may write to it later: it is given up.
            Box::leak(buffer);
            return Err(error);
        }
        let word = |n: usize| {
            // SAFETY: a word of the buffer, which lives; the firmware wrote it past the compiler.
            unsafe { (&raw const buffer.0[n]).read_volatile() }
        };
        if word(1) != SUCCESS {
            return Err(MailboxError::Refused);
        }
        let span = |n: usize| Span::new(Pa::new(word(n).into()), word(n + 1).into()).ok_or(MailboxError::Refused);
        let (arm, vc) = (span(5)?, span(10)?);
        if arm.is_empty() { Err(MailboxError::Refused) } else { Ok(Split { arm, vc }) }
    }

    fn exchange(&self, value: u32) -> Result<(), MailboxError> {
        let ready = |register: u64, not: u32| (0..PATIENCE).any(|_| self.registers.read32(register) & not == 0);
        for _ in 0..16 {
            if self.registers.read32(MAIL0_STA) & EMPTY != 0 {
                break;
            }
            self.registers.read32(MAIL0_RD);
        }
        if !ready(MAIL1_STA, FULL) {
            return Err(MailboxError::Silent);
        }
        self.registers.write32(MAIL1_WRT, value);
        for _ in 0..16 {
            if !ready(MAIL0_STA, EMPTY) {
                return Err(MailboxError::Silent);
            }
            let answer = self.registers.read32(MAIL0_RD);
            if answer & CHANNEL == PROPERTIES {
                return if answer == value { Ok(()) } else { Err(MailboxError::Refused) };
            }
        }
        Err(MailboxError::Silent)
    }
}

/// What stands in the buffer is in memory, and nothing of it in the caches.
fn clean_invalidate(at: u64) {
    #[cfg(target_arch = "aarch64")]
    for line in (at..at + size_of::<Buffer>() as u64).step_by(16) {
        // SAFETY: writes back what the cache has of a line that is all the buffer's, and forgets it.
        unsafe { core::arch::asm!("dc civac, {}", in(reg) line, options(nostack, preserves_flags)) };
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: a barrier: what comes next, an access to the mailbox or to the buffer, comes after it.
    unsafe {
        core::arch::asm!("dsb sy", options(nostack, preserves_flags));
    }
    #[cfg(not(target_arch = "aarch64"))]
    unreachable!("device registers exist on the target only: {at:#x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(start: u64, size: u64) -> Span<Pa> {
        Span::new(Pa::new(start), size).unwrap()
    }

    #[test]
    fn what_is_not_the_cpus_of_the_first_gib_is_taken() {
        let split = |arm, vc| Split { arm, vc }.taken();
        // A Raspberry Pi 4 with 76 MiB for the video core.
        let [rest, vc] = split(span(0, 0x3b40_0000), span(0x3b40_0000, 0x4c0_0000));
        assert_eq!((rest, vc), (span(0x3b40_0000, 0x4c0_0000), span(0x3b40_0000, 0x4c0_0000)));
        // All of it, or more: nothing is taken of what lies above.
        let [rest, _] = split(span(0, 0x8000_0000), span(0, 0));
        assert!(rest.is_empty());
    }
}
