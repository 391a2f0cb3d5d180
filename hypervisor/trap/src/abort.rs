//! Stage 2 aborts: an access to a device with all that is needed to complete it, or a fault that needs a policy.
//!
//! | syndrome | decoded as | what the caller does |
//! |---|---|---|
//! | translation fault, ISV, no S1PTW, no CM | [`Mmio`] | the bus; then `complete_load`, `skip` |
//! | translation fault without ISV | [`Fault`], `access: None` | external abort, counted |
//! | S1PTW: the guest's own table walk went astray | [`Fault`], `s1ptw` | external abort on a walk, at the level that the guest's tables tell |
//! | CM: cache maintenance by address | [`Fault`], `cache_maintenance` | skipped |
//! | permission fault | [`Fault`], [`FaultStatus::Permission`] | write protection; IPA by AT S1 if not known |
//! | instruction abort | [`Fault`], `instruction` | external abort |

use addr::{AccessSize, Ipa, Va};

use crate::frame::{GuestFrame, Il};

const ISV: u32 = 1 << 24;
const SSE: u32 = 1 << 21;
const SF: u32 = 1 << 15;
const AR: u32 = 1 << 14;
const FNV: u32 = 1 << 10;
const CM: u32 = 1 << 8;
const S1PTW: u32 = 1 << 7;
const WNR: u32 = 1 << 6;

/// A load or store of one general register that stage 2 refused, as the syndrome describes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Access {
    /// Width in memory.
    pub size: AccessSize,
    /// The loaded value is sign extended (LDRSB, LDRSH, LDRSW).
    pub sign_extend: bool,
    /// The register is 64 bits wide; otherwise a load clears its upper half.
    pub sf: bool,
    /// The register; 31 is the zero register. For AArch32, its AArch64 view.
    pub rt: u8,
    /// A store; otherwise a load.
    pub write: bool,
    /// The instruction has acquire or release semantics.
    pub acquire_release: bool,
    /// The instruction's length.
    pub il: Il,
}

impl Access {
    #[inline]
    fn from_iss(iss: u32, il: Il) -> Self {
        Self {
            size: AccessSize::from_sas((iss >> 22) as u8),
            sign_extend: iss & SSE != 0,
            sf: iss & SF != 0,
            rt: (iss >> 16 & 31) as u8,
            write: iss & WNR != 0,
            acquire_release: iss & AR != 0,
            il,
        }
    }

    /// The value that a store writes, in the low bits of its width; the rest is zero.
    #[inline]
    pub fn store_value(&self, frame: &GuestFrame) -> u64 {
        frame.reg(self.rt) & self.size.mask()
    }

    /// Puts what a load read into its register: cut to the access, extended, cut to the register.
    #[inline]
    pub fn complete_load(&self, frame: &mut GuestFrame, value: u64) {
        let mut value = value & self.size.mask();
        if self.sign_extend {
            let unused = 64u32.wrapping_sub(self.size.bits());
            value = ((value << unused) as i64 >> unused) as u64;
        }
        if !self.sf {
            value &= 0xffff_ffff;
        }
        frame.set_reg(self.rt, value);
    }
}

/// An access to a device: nothing is mapped at `ipa`, and the syndrome says all about the instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mmio {
    /// Where.
    pub ipa: Ipa,
    /// Width in memory.
    pub size: AccessSize,
    /// The loaded value is sign extended (LDRSB, LDRSH, LDRSW).
    pub sign_extend: bool,
    /// The register is 64 bits wide; otherwise a load clears its upper half.
    pub sf: bool,
    /// The register; 31 is the zero register. For AArch32, its AArch64 view.
    pub rt: u8,
    /// A store; otherwise a load.
    pub write: bool,
    /// The instruction has acquire or release semantics.
    pub acquire_release: bool,
    /// The instruction's length.
    pub il: Il,
    /// The virtual address that the guest used, for the abort it gets where nothing answers.
    pub va: Va,
}

impl Mmio {
    /// The access without its address.
    #[inline]
    pub fn access(&self) -> Access {
        Access {
            size: self.size,
            sign_extend: self.sign_extend,
            sf: self.sf,
            rt: self.rt,
            write: self.write,
            acquire_release: self.acquire_release,
            il: self.il,
        }
    }

    /// The value that a store writes, in the low bits of its width; the rest is zero.
    #[inline]
    pub fn store_value(&self, frame: &GuestFrame) -> u64 {
        self.access().store_value(frame)
    }

    /// Puts what a load read into its register: cut to the access, extended, cut to the register.
    #[inline]
    pub fn complete_load(&self, frame: &mut GuestFrame, value: u64) {
        self.access().complete_load(frame, value);
    }
}

/// Where a stage 2 fault was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultIpa {
    /// HPFAR_EL2 was written for this fault. For a fault on the guest's own table walk, the page of the descriptor.
    Known(Ipa),
    /// HPFAR_EL2 is UNKNOWN for this fault (a permission fault off the stage 1 walk, an external abort): the caller
    /// translates [`Fault::va`] by AT S1, with PAR_EL1 preserved, or does without.
    NeedsTranslation,
}

/// Why stage 2 (or the memory system) refused. `level` is the level of the table lookup, -2 to 3.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultStatus {
    /// An address is wider than what is configured.
    AddressSize {
        /// Level of the lookup.
        level: i8,
    },
    /// Nothing is mapped.
    Translation {
        /// Level of the lookup.
        level: i8,
    },
    /// The access flag is clear.
    AccessFlag {
        /// Level of the lookup.
        level: i8,
    },
    /// Mapped, but not for this access.
    Permission {
        /// Level of the lookup.
        level: i8,
    },
    /// A synchronous external abort or parity/ECC error on the access itself.
    External,
    /// A synchronous external abort or parity/ECC error on a table walk.
    ExternalOnWalk {
        /// Level of the lookup.
        level: i8,
    },
    /// A granule protection fault (FEAT_RME), on a walk or not.
    GranuleProtection,
    /// A synchronous tag check fault (FEAT_MTE2).
    TagCheck,
    /// An unaligned access to device memory.
    Alignment,
    /// Two TLB entries match.
    TlbConflict,
    /// Hardware could not update a descriptor atomically.
    AtomicUpdate,
    /// IMPLEMENTATION DEFINED: cache lockdown.
    Lockdown,
    /// IMPLEMENTATION DEFINED: exclusive or atomic access that the memory does not support.
    UnsupportedExclusive,
    /// A code that the manual reserves.
    Other(u8),
}

impl FaultStatus {
    /// From a `DFSC` or `IFSC` field (Arm ARM, ESR_EL2, "ISS encoding for an exception from a Data Abort"); only the
    /// low six bits count.
    #[inline]
    pub const fn from_fsc(fsc: u8) -> Self {
        let fsc = fsc & 0x3f;
        let level = (fsc & 3) as i8;
        match fsc {
            0b00_0000..=0b00_0011 => Self::AddressSize { level },
            0b10_1001 => Self::AddressSize { level: -1 },
            0b10_1100 => Self::AddressSize { level: -2 },
            0b00_0100..=0b00_0111 => Self::Translation { level },
            0b10_1011 => Self::Translation { level: -1 },
            0b10_1010 => Self::Translation { level: -2 },
            0b00_1000..=0b00_1011 => Self::AccessFlag { level },
            0b00_1100..=0b00_1111 => Self::Permission { level },
            0b01_0000 | 0b01_1000 => Self::External,
            0b01_0001 => Self::TagCheck,
            0b01_0010 => Self::ExternalOnWalk { level: -2 },
            0b01_0011 | 0b01_1011 => Self::ExternalOnWalk { level: -1 },
            0b01_0100..=0b01_0111 | 0b01_1100..=0b01_1111 => Self::ExternalOnWalk { level },
            0b10_0001 => Self::Alignment,
            0b10_0010..=0b10_1000 => Self::GranuleProtection,
            0b11_0000 => Self::TlbConflict,
            0b11_0001 => Self::AtomicUpdate,
            0b11_0100 => Self::Lockdown,
            0b11_0101 => Self::UnsupportedExclusive,
            other => Self::Other(other),
        }
    }

    /// The level of the lookup that failed, where the status has one.
    pub const fn level(self) -> Option<i8> {
        match self {
            Self::AddressSize { level }
            | Self::Translation { level }
            | Self::AccessFlag { level }
            | Self::Permission { level }
            | Self::ExternalOnWalk { level } => Some(level),
            Self::External
            | Self::GranuleProtection
            | Self::TagCheck
            | Self::Alignment
            | Self::TlbConflict
            | Self::AtomicUpdate
            | Self::Lockdown
            | Self::UnsupportedExclusive
            | Self::Other(_) => None,
        }
    }
}

/// An instruction or data abort from the guest that is no plain device access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    /// An instruction fetch; otherwise a data access.
    pub instruction: bool,
    /// A write. For a fault on a walk, the walker's own access.
    pub write: bool,
    /// The fault was on the guest's own stage 1 table walk.
    pub s1ptw: bool,
    /// The instruction was cache maintenance (or address translation), not a load or store.
    pub cache_maintenance: bool,
    /// Why.
    pub status: FaultStatus,
    /// Where.
    pub ipa: FaultIpa,
    /// The virtual address used, or `None` where FAR_EL2 does not hold it (`FnV`).
    pub va: Option<Va>,
    /// The access, where the syndrome is valid (`ISV`).
    pub access: Option<Access>,
    /// The instruction's length.
    pub il: Il,
}

impl Fault {
    /// The level of the failed lookup, within 0 to 3. For a fault on the guest's own walk it is the level of stage 2, which stands
    /// in where the guest's tables do not tell theirs.
    pub fn walk_level(&self) -> u8 {
        self.status.level().map_or(0, |level| level.clamp(0, 3) as u8)
    }
}

/// `HPFAR_EL2.FIPA` holds address bits from 12 up; 36 to 44 bits wide, the rest reads as zero.
const FIPA: u64 = 0x0000_ffff_ffff_fff0;

#[inline]
fn fault_page(hpfar: u64) -> u64 {
    (hpfar & FIPA) << 8
}

/// A data abort from a lower exception level as a device access, where it is one.
#[inline]
pub(crate) fn mmio(iss: u32, il: Il, far: u64, hpfar: u64) -> Option<Mmio> {
    // One mask for the common case: valid syndrome, no walk, no maintenance, translation fault of level 0 to 3.
    const MASK: u32 = ISV | CM | S1PTW | 0b11_1100;
    const PLAIN: u32 = ISV | 0b00_0100;
    let below_level_0 = || {
        iss & (ISV | CM | S1PTW) == ISV && matches!(FaultStatus::from_fsc(iss as u8), FaultStatus::Translation { .. })
    };
    if iss & MASK != PLAIN && !below_level_0() {
        return None;
    }
    let Access { size, sign_extend, sf, rt, write, acquire_release, il } = Access::from_iss(iss, il);
    let ipa = Ipa::new(fault_page(hpfar) | (far & 0xfff));
    Some(Mmio { ipa, size, sign_extend, sf, rt, write, acquire_release, il, va: Va::new(far) })
}

/// Any abort from a lower exception level. Out of line: it is rare, and long.
#[inline(never)]
pub(crate) fn fault(instruction: bool, iss: u32, il: Il, far: u64, hpfar: u64) -> Fault {
    let status = FaultStatus::from_fsc(iss as u8);
    let s1ptw = iss & S1PTW != 0;
    let known = match status {
        FaultStatus::Translation { .. }
        | FaultStatus::AccessFlag { .. }
        | FaultStatus::AddressSize { .. }
        | FaultStatus::GranuleProtection => true,
        FaultStatus::Permission { .. } => s1ptw,
        FaultStatus::External
        | FaultStatus::ExternalOnWalk { .. }
        | FaultStatus::TagCheck
        | FaultStatus::Alignment
        | FaultStatus::TlbConflict
        | FaultStatus::AtomicUpdate
        | FaultStatus::Lockdown
        | FaultStatus::UnsupportedExclusive
        | FaultStatus::Other(_) => false,
    };
    // On a walk the low bits of FAR are those of the guest's access, not of the descriptor.
    let low = if s1ptw { 0 } else { far & 0xfff };
    // FnV has a meaning for a synchronous external abort (off a walk) only.
    let far_valid = !(matches!(status, FaultStatus::External) && iss & FNV != 0);
    let valid = !instruction && iss & ISV != 0;
    Fault {
        instruction,
        write: !instruction && iss & WNR != 0,
        s1ptw,
        cache_maintenance: !instruction && iss & CM != 0,
        status,
        ipa: if known { FaultIpa::Known(Ipa::new(fault_page(hpfar) | low)) } else { FaultIpa::NeedsTranslation },
        va: far_valid.then(|| Va::new(far)),
        access: valid.then(|| Access::from_iss(iss, il)),
        il,
    }
}
