//! The guest's general registers while it is out, and stepping over an instruction that EL2 completed for it.

/// Bits of a saved program state (Arm ARM, "SPSR_EL2, Saved Program Status Register (EL2)").
pub mod pstate {
    /// `M[3:0]`: exception level and stack pointer (AArch64), or with bit 4 the AArch32 mode.
    pub const MODE: u64 = 0x1f;
    /// `M[4]`: the state is AArch32.
    pub const AARCH32: u64 = 1 << 4;
    /// EL1 with its own stack pointer.
    pub const EL1H: u64 = 0b0101;
    /// EL1 with EL0's stack pointer.
    pub const EL1T: u64 = 0b0100;
    /// AArch32: the instruction set is T32.
    pub const T: u64 = 1 << 5;
    /// FIQ mask.
    pub const F: u64 = 1 << 6;
    /// IRQ mask.
    pub const I: u64 = 1 << 7;
    /// SError mask.
    pub const A: u64 = 1 << 8;
    /// Debug exception mask (AArch64; big-endian data in AArch32).
    pub const D: u64 = 1 << 9;
    /// All four masks.
    pub const DAIF: u64 = D | A | I | F;
    /// AArch64: branch type (FEAT_BTI).
    pub const BTYPE: u64 = 0b11 << 10;
    /// AArch64: speculative store bypass is safe (FEAT_SSBS).
    pub const SSBS: u64 = 1 << 12;
    /// AArch64: all interrupts are masked (FEAT_NMI).
    pub const ALLINT: u64 = 1 << 13;
    /// Illegal execution state.
    pub const IL: u64 = 1 << 20;
    /// Software step: the next instruction is to be executed before the step exception.
    pub const SS: u64 = 1 << 21;
    /// Privileged access never (FEAT_PAN).
    pub const PAN: u64 = 1 << 22;
    /// AArch64: user access override (FEAT_UAO).
    pub const UAO: u64 = 1 << 23;
    /// Data independent timing (FEAT_DIT), in both states.
    pub const DIT: u64 = 1 << 24;
    /// AArch64: tag check override (FEAT_MTE).
    pub const TCO: u64 = 1 << 25;
    /// The condition flags N, Z, C and V.
    pub const NZCV: u64 = 0xf << 28;
    /// AArch32: `IT[7:2]`.
    pub const IT_HIGH: u64 = 0x3f << 10;
    /// AArch32: `IT[1:0]`.
    pub const IT_LOW: u64 = 0b11 << 25;
}

/// The length of the trapped instruction, from the syndrome's `IL` bit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Il {
    /// A 16-bit T32 instruction.
    Bytes2,
    /// Every A64 and A32 instruction, and 32-bit T32 ones.
    Bytes4,
}

impl Il {
    /// The length in bytes.
    #[inline]
    pub const fn bytes(self) -> u64 {
        match self {
            Self::Bytes2 => 2,
            Self::Bytes4 => 4,
        }
    }
}

/// Whether a software step was under way over the instruction that [`GuestFrame::skip`] completed.
///
/// With PSTATE.SS now clear and the guest's MDSCR_EL1 loaded, the hardware takes the step exception by itself at the next
/// entry; only someone who steps the guest from outside has to act on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stepped {
    /// No step was under way.
    No,
    /// The step is complete: a step exception is due before the next instruction.
    Yes,
}

/// The condition under which an AArch32 instruction trapped: the syndrome's `CV` and `COND`.
///
/// A core may report a conditional instruction whether or not its condition holds; see [`GuestFrame::condition_holds`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Condition {
    /// `CV` is 0: the condition is that of the IT block, if any (always so for A64).
    FromIt,
    /// `CV` is 1: this four-bit condition.
    Code(u8),
}

/// The general registers of a guest, as the vectors save and restore them (fixed layout).
#[repr(C)]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GuestFrame {
    /// x0 to x30.
    pub x: [u64; 31],
    /// The guest's program counter: ELR_EL2.
    pub pc: u64,
    /// The guest's program state: SPSR_EL2.
    pub pstate: u64,
}

impl GuestFrame {
    /// Register `rt` as an operand: 31 (and anything above) is the zero register.
    #[inline]
    pub fn reg(&self, rt: u8) -> u64 {
        self.x.get(usize::from(rt)).copied().unwrap_or(0)
    }

    /// Writes register `rt`; a write to 31, the zero register, is dropped.
    #[inline]
    pub fn set_reg(&mut self, rt: u8, value: u64) {
        if let Some(x) = self.x.get_mut(usize::from(rt)) {
            *x = value;
        }
    }

    /// Whether the guest was in AArch32 state (only EL0 can be).
    #[inline]
    pub fn is_aarch32(&self) -> bool {
        self.pstate & pstate::AARCH32 != 0
    }

    /// Whether the guest was at EL0, in either state.
    #[inline]
    pub fn is_el0(&self) -> bool {
        // AArch64 EL0t is 0b00000, AArch32 User is 0b10000.
        self.pstate & 0xf == 0
    }

    /// Steps over the trapped instruction as if it had been executed: the program counter advances, a software step
    /// completes, BTYPE is cleared (AArch64) or the IT block advances (AArch32).
    ///
    /// For an exit whose ELR_EL2 is the trapped instruction (MMIO, MSR/MRS, WFx, SMC); not for HVC, which has advanced.
    #[inline]
    pub fn skip(&mut self, il: Il) -> Stepped {
        self.pc = self.pc.wrapping_add(il.bytes());
        let stepped = if self.pstate & pstate::SS != 0 { Stepped::Yes } else { Stepped::No };
        if self.is_aarch32() {
            self.pstate &= !pstate::SS;
            self.pc &= 0xffff_ffff;
            self.advance_it();
        } else {
            self.pstate &= !(pstate::SS | pstate::BTYPE);
        }
        stepped
    }

    /// As [`Self::skip`], for an instruction that only A64 has (MSR, MRS, SYS).
    #[inline(always)]
    pub fn skip_a64(&mut self) {
        self.pc = self.pc.wrapping_add(4);
        self.pstate &= !(pstate::SS | pstate::BTYPE);
    }

    /// The AArch32 IT state, `IT[7:0]`.
    fn it(&self) -> u8 {
        ((self.pstate & pstate::IT_HIGH) >> 8 | (self.pstate & pstate::IT_LOW) >> 25) as u8
    }

    /// One instruction of an IT block is done (Arm ARM pseudocode `AArch32.ITAdvance`).
    fn advance_it(&mut self) {
        let it = self.it();
        let next = if it & 0b111 == 0 { 0 } else { (it & 0b1110_0000) | (it << 1 & 0b0001_1111) };
        self.pstate &= !(pstate::IT_HIGH | pstate::IT_LOW);
        self.pstate |= u64::from(next & 0b1111_1100) << 8 | u64::from(next & 0b11) << 25;
    }

    /// Whether an AArch32 instruction with this condition is to be executed at all. Where it is not, the exit is
    /// completed by [`Self::skip`] alone. Always true for A64.
    pub fn condition_holds(&self, condition: Condition) -> bool {
        if !self.is_aarch32() {
            return true;
        }
        let code = match condition {
            Condition::Code(code) => code & 0xf,
            Condition::FromIt if self.it() == 0 => return true,
            Condition::FromIt => self.it() >> 4,
        };
        let [n, z, c, v] = [31, 30, 29, 28].map(|bit: u32| self.pstate >> bit & 1 != 0);
        let holds = match code >> 1 {
            0 => z,
            1 => c,
            2 => n,
            3 => v,
            4 => c && !z,
            5 => n == v,
            6 => n == v && !z,
            _ => return true,
        };
        holds != (code & 1 != 0)
    }
}
