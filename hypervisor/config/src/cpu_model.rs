//! What a guest is told about its CPU: the ID registers as a model, not as the hardware has them.
//!
//! Three steps: each pCPU's registers are read into [`HostIds`]; [`HostIds::merge`] finds what is safe on all of them;
//! [`CpuModel::new`] cuts that to what Merus lets guests use. The cut is an allow-list (the table in `table`): a field
//! that it does not name reads as zero, so a feature that is newer than Merus is absent for guests, not half working.
//!
//! | register | shown as |
//! |---|---|
//! | `S3_0_C0_C1_0` to `S3_0_C0_C7_7` (HCR_EL2.TID3) | the table; unallocated and unnamed ones as zero |
//! | CTR_EL0, CLIDR_EL1, CCSIDR_EL1, CCSIDR2_EL1 (HCR_EL2.TID2) | merged; the MTE tag fields as zero |
//! | REVIDR_EL1, AIDR_EL1 (HCR_EL2.TID1), MIDR_EL1 (VPIDR_EL2) | those of the first pCPU merged |
//!
//! What cannot be hidden: DCZID_EL0 without FEAT_FGT, and CNTFRQ_EL0. A pCPU on which one of them differs is refused by
//! [`HostIds::check_alike`]. Instructions that no control register disables (FEAT_LSE128, FEAT_CSSC, ...) work even where
//! the model does not name them.
//!
//! # Not modelled
//! Different MIDR_EL1 values for different vCPUs; breakpoint numbers on a machine whose cores have unlike counts (the
//! context-aware ones are the highest numbered of each core, so only equal counts give a guest their true place).
//!
//! # References
//! Arm Architecture Reference Manual for A-profile (DDI 0487, issue L.b): the ID registers by name, and "Principles of the
//! ID scheme for fields in ID registers" for which value of a field is the safe one.

mod table;
#[cfg(test)]
mod tests;

use core::fmt;
use table::{Field, Guest, Safe};

/// Registers in the ID space: eight `op2` for each of eight `CRm`.
const ID_SPACE: usize = 64;
/// CSSELR_EL1 values with a cache behind them at most: seven levels, data or instruction, rounded up.
const CACHES: usize = 16;

/// The identification registers of one pCPU, or what is common to several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostIds {
    /// `S3_0_C0_C<crm>_<op2>` at [`id_index`]. The row of `CRm` 0 is not used.
    pub id: [u64; ID_SPACE],
    /// MIDR_EL1.
    pub midr: u64,
    /// REVIDR_EL1.
    pub revidr: u64,
    /// AIDR_EL1.
    pub aidr: u64,
    /// CTR_EL0.
    pub ctr: u64,
    /// DCZID_EL0.
    pub dczid: u64,
    /// CNTFRQ_EL0, in Hz: what the firmware says that the system counter runs at.
    pub cntfrq: u64,
    /// CLIDR_EL1.
    pub clidr: u64,
    /// CCSIDR_EL1 for each CSSELR_EL1 value (`Level` times two plus `InD`).
    pub ccsidr: [u64; CACHES],
    /// CCSIDR2_EL1 for each CSSELR_EL1 value; zero without FEAT_CCIDX (and always in AArch64-only cores).
    pub ccsidr2: [u64; CACHES],
}

impl Default for HostIds {
    fn default() -> Self {
        Self {
            id: [0; ID_SPACE],
            midr: 0,
            revidr: 0,
            aidr: 0,
            ctr: 0,
            dczid: 0,
            cntfrq: 0,
            clidr: 0,
            ccsidr: [0; CACHES],
            ccsidr2: [0; CACHES],
        }
    }
}

/// Where the ID register `S3_0_C0_C<crm>_<op2>` lives in [`HostIds::id`]; always below 64.
#[inline]
pub const fn id_index(crm: u8, op2: u8) -> usize {
    (((crm & 7) << 3) | (op2 & 7)) as usize
}

/// Why a pCPU cannot run guests beside the others: something differs that no trap can hide.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unlike {
    /// DCZID_EL0: `DC ZVA` would clear another size of block, or is permitted on one pCPU only.
    ZeroBlock {
        /// DCZID_EL0 of the pCPUs merged so far.
        merged: u64,
        /// DCZID_EL0 of the refused one.
        refused: u64,
    },
    /// CNTFRQ_EL0: the firmware gave the pCPU another frequency for the one system counter (or none), and a guest that
    /// reads it there would keep another time.
    Counter {
        /// CNTFRQ_EL0 of the pCPUs merged so far, in Hz.
        merged: u64,
        /// CNTFRQ_EL0 of the refused one, in Hz.
        refused: u64,
    },
}

impl fmt::Display for Unlike {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ZeroBlock { merged, refused } => write!(f, "its DCZID_EL0 is {refused:#x}, theirs {merged:#x}"),
            Self::Counter { merged, refused } => write!(f, "its CNTFRQ_EL0 is {refused} Hz, theirs {merged} Hz"),
        }
    }
}

impl HostIds {
    /// Sets the ID register `S3_0_C0_C<crm>_<op2>`.
    pub fn set(&mut self, crm: u8, op2: u8, value: u64) {
        if let Some(slot) = self.id.get_mut(id_index(crm, op2)) {
            *slot = value;
        }
    }

    /// The ID register `S3_0_C0_C<crm>_<op2>`.
    pub fn get(&self, crm: u8, op2: u8) -> u64 {
        self.id.get(id_index(crm, op2)).copied().unwrap_or(0)
    }

    /// Whether `other` may run the same guests; to be asked before [`Self::merge`].
    pub fn check_alike(&self, other: &Self) -> Result<(), Unlike> {
        if self.dczid != other.dczid {
            return Err(Unlike::ZeroBlock { merged: self.dczid, refused: other.dczid });
        }
        if self.cntfrq != other.cntfrq {
            return Err(Unlike::Counter { merged: self.cntfrq, refused: other.cntfrq });
        }
        Ok(())
    }

    /// Makes this the safe common value of itself and `other`, field by field. The result does not depend on the order,
    /// apart from what is taken from the first pCPU: MIDR, REVIDR, AIDR, the caches' geometry, and the fields that
    /// describe an AArch32 EL1, which no guest has.
    pub fn merge(&mut self, other: &Self) {
        for (index, (mine, theirs)) in self.id.iter_mut().zip(other.id).enumerate() {
            let fields = table::fields(index);
            *mine = (0..16u8).fold(0, |merged, nibble| {
                let safe = field(fields, nibble).map_or(Safe::Lower, |f| f.safe);
                merged | place(nibble, safe.merge(value(*mine, nibble), value(theirs, nibble)))
            });
        }
        self.ctr = merge_ctr(self.ctr, other.ctr);
        self.clidr = merge_clidr(self.clidr, other.clidr);
        // DZP set means that DC ZVA is prohibited; the block size is equal wherever `check_alike` was asked.
        self.dczid |= other.dczid & DCZID_DZP;
    }
}

const DCZID_DZP: u64 = 1 << 4;

fn field(fields: &[Field], nibble: u8) -> Option<&Field> {
    fields.iter().find(|f| f.nibble == nibble)
}

/// The four-bit field number `nibble` of a register.
fn value(register: u64, nibble: u8) -> u8 {
    (register >> shift(nibble) & 0xf) as u8
}

/// A four-bit value in its place.
fn place(nibble: u8, value: u8) -> u64 {
    u64::from(value & 0xf) << shift(nibble)
}

fn shift(nibble: u8) -> u32 {
    u32::from(nibble & 0xf).wrapping_mul(4)
}

/// A four-bit field as the signed number that the manual's "signed" ID fields are.
fn signed(value: u8) -> i8 {
    ((value << 4) as i8) >> 4
}

impl Safe {
    fn merge(self, mine: u8, theirs: u8) -> u8 {
        match self {
            Self::Lower => mine.min(theirs),
            Self::LowerSigned if signed(mine) <= signed(theirs) => mine,
            Self::LowerSigned => theirs,
            Self::Higher => mine.max(theirs),
            Self::Exact if mine == theirs => mine,
            Self::Exact => 0,
            Self::First => mine,
        }
    }
}

/// CTR_EL0: the smallest lines (maintenance steps by them), the largest granules, and IDC and DIC only where all have them.
fn merge_ctr(mine: u64, theirs: u64) -> u64 {
    const RES1: u64 = 1 << 31;
    const IDC_DIC: u64 = 0b11 << 28;
    const VIPT: u8 = 0b10;
    let both = |nibble, choose: fn(u8, u8) -> u8| place(nibble, choose(value(mine, nibble), value(theirs, nibble)));
    // In ERG and CWG zero means "not said", which has to be taken for the architecture's maximum.
    let larger = |a: u8, b: u8| if a == 0 || b == 0 { 0 } else { a.max(b) };
    let policy = |ctr: u64| (ctr >> 14 & 0b11) as u8;
    let l1ip = if policy(mine) == policy(theirs) { policy(mine) } else { VIPT };
    let tag_line = (mine >> 32 & 0x3f).min(theirs >> 32 & 0x3f) << 32;
    RES1 | tag_line
        | (mine & theirs & IDC_DIC)
        | both(6, larger)
        | both(5, larger)
        | both(4, u8::min)
        | u64::from(l1ip) << 14
        | both(0, u8::min)
}

/// CLIDR_EL1: the first pCPU's caches, with the farthest points of coherency and unification of both.
fn merge_clidr(mine: u64, theirs: u64) -> u64 {
    // LoUIS, LoC and LoUU: three bits each.
    [21u32, 24, 27].iter().fold(mine, |merged, &shift| {
        let level = (mine >> shift & 7).max(theirs >> shift & 7);
        merged & !(7 << shift) | level << shift
    })
}

/// Features that other rooms ask the model for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Feature {
    /// FEAT_PAN.
    Pan,
    /// FEAT_UAO.
    Uao,
    /// FEAT_DIT.
    Dit,
    /// FEAT_SSBS: PSTATE.SSBS exists.
    Ssbs,
    /// FEAT_BTI.
    Bti,
    /// FEAT_PAuth, address authentication with any algorithm: the guest has keys.
    Pauth,
    /// FEAT_CSV2_2 or FEAT_CSV2_1p2: the guest has SCXTNUM_EL0 and SCXTNUM_EL1.
    Scxtnum,
    /// EL0 can use AArch32: the guest has DACR32 and its like.
    Aarch32El0,
    /// FEAT_ECV: CNTVCTSS_EL0 and CNTPCTSS_EL0.
    Ecv,
}

/// The guest's identification registers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuModel {
    /// The ID space at [`id_index`]; row 0 holds MIDR_EL1 (`op2` 0) and REVIDR_EL1 (6).
    id: [u64; ID_SPACE],
    aidr: u64,
    ctr: u64,
    clidr: u64,
    ccsidr: [u64; CACHES],
    ccsidr2: [u64; CACHES],
}

impl CpuModel {
    /// The model for a guest whose physical addresses have at most `ipa_bits` bits, on pCPUs that have `host` in common.
    ///
    /// The guest's PARange is the largest that fits both; it is never less than the architecture's smallest, 32 bits. Without
    /// `gicv3` there are no system registers of an interrupt controller.
    pub fn new(host: &HostIds, ipa_bits: u8, gicv3: bool) -> Self {
        let mut id = [0; ID_SPACE];
        let aarch32 = host.get(4, 0) & 0xf >= 2;
        for (index, (guest, host)) in id.iter_mut().zip(host.id).enumerate() {
            // Rows 1 to 3 describe AArch32: where EL0 has none they are zero.
            if aarch32 || index >= id_index(4, 0) {
                *guest = table::fields(index).iter().fold(0, |shown, f| shown | f.show(host));
            }
        }
        let mut set = |crm, op2, value: u64| {
            if let Some(slot) = id.get_mut(id_index(crm, op2)) {
                *slot = value;
            }
        };
        set(0, 0, host.midr);
        set(0, 6, host.revidr);
        set(7, 0, Self::mmfr0(host, ipa_bits));
        if !gicv3 {
            // ID_AA64PFR0_EL1.GIC and ID_PFR1_EL1.GIC.
            for (crm, op2, shift) in [(4, 0, 24), (1, 1, 28)] {
                if let Some(register) = id.get_mut(id_index(crm, op2)) {
                    *register &= !(0xf << shift);
                }
            }
        }
        Self {
            id,
            aidr: host.aidr,
            // TminLine is FEAT_MTE's.
            ctr: host.ctr & 0xffff_ffff,
            // Ttype<n>, from bit 33, is FEAT_MTE's.
            clidr: host.clidr & 0x1_ffff_ffff,
            ccsidr: host.ccsidr,
            ccsidr2: host.ccsidr2,
        }
    }

    /// ID_AA64MMFR0_EL1 of such a model, without the rest of it.
    pub fn mmfr0(host: &HostIds, ipa_bits: u8) -> u64 {
        // PARange is the lowest field, and cut twice: by the table and by the VM's map.
        let shown = table::fields(id_index(7, 0)).iter().fold(0, |shown, f| shown | f.show(host.get(7, 0)));
        shown & !0xf | (shown & 0xf).min(pa_range(ipa_bits))
    }

    /// The ID register `S3_0_C0_C<crm>_<op2>`: total, zero where nothing is allocated. With `crm` 0 also MIDR_EL1 and
    /// REVIDR_EL1 (MPIDR_EL1 is the vCPU's, not the model's).
    #[inline]
    pub fn id_register(&self, crm: u8, op2: u8) -> u64 {
        self.id.get(id_index(crm, op2)).copied().unwrap_or(0)
    }

    /// MIDR_EL1, for VPIDR_EL2.
    #[inline]
    pub fn midr(&self) -> u64 {
        self.id_register(0, 0)
    }

    /// REVIDR_EL1.
    pub fn revidr(&self) -> u64 {
        self.id_register(0, 6)
    }

    /// AIDR_EL1.
    pub fn aidr(&self) -> u64 {
        self.aidr
    }

    /// CTR_EL0.
    #[inline]
    pub fn ctr(&self) -> u64 {
        self.ctr
    }

    /// CLIDR_EL1.
    pub fn clidr(&self) -> u64 {
        self.clidr
    }

    /// CCSIDR_EL1 while CSSELR_EL1 holds `csselr`; zero where there is no such cache (an UNKNOWN value by the manual).
    pub fn ccsidr(&self, csselr: u64) -> u64 {
        cache_index(csselr).and_then(|i| self.ccsidr.get(i)).copied().unwrap_or(0)
    }

    /// CCSIDR2_EL1 while CSSELR_EL1 holds `csselr`.
    pub fn ccsidr2(&self, csselr: u64) -> u64 {
        cache_index(csselr).and_then(|i| self.ccsidr2.get(i)).copied().unwrap_or(0)
    }

    /// The bits of CSSELR_EL1 that a guest can set: `Level` and `InD` (not `TnD`, FEAT_MTE's).
    pub const CSSELR_MASK: u64 = 0xf;

    /// Physical address bits that the guest is told of.
    pub fn pa_bits(&self) -> u8 {
        let range = self.id_register(7, 0) & 0xf;
        PA_BITS.get(range as usize).copied().unwrap_or(48)
    }

    /// Whether the guest is shown a feature.
    pub fn has(&self, feature: Feature) -> bool {
        let at = |crm, op2, nibble| value(self.id_register(crm, op2), nibble);
        match feature {
            Feature::Pan => at(7, 1, 5) > 0,
            Feature::Uao => at(7, 2, 1) > 0,
            Feature::Dit => at(4, 0, 12) > 0,
            Feature::Ssbs => at(4, 1, 1) > 0,
            Feature::Bti => at(4, 1, 0) > 0,
            Feature::Pauth => at(6, 1, 1) > 0 || at(6, 1, 2) > 0 || at(6, 2, 3) > 0,
            Feature::Scxtnum => at(4, 0, 14) > 1 || at(4, 1, 8) > 1,
            Feature::Aarch32El0 => at(4, 0, 0) == 2,
            Feature::Ecv => at(7, 0, 15) > 0,
        }
    }
}

impl Field {
    /// The field as a guest sees it, in its place.
    fn show(&self, host: u64) -> u64 {
        let has = value(host, self.nibble);
        let shown = match self.guest {
            Guest::Host => has,
            Guest::Cap(most) if matches!(self.safe, Safe::LowerSigned) && signed(has) < 0 => has.max(most),
            Guest::Cap(most) => has.min(most),
            Guest::Is(value) => value,
        };
        place(self.nibble, shown)
    }
}

/// Address bits by the encoding of ID_AA64MMFR0_EL1.PARange.
const PA_BITS: [u8; 8] = [32, 36, 40, 42, 44, 48, 52, 56];

/// The largest PARange that promises no more than `bits`.
fn pa_range(bits: u8) -> u64 {
    PA_BITS.iter().skip(1).take_while(|&&range| range <= bits).count() as u64
}

/// Where a CSSELR_EL1 value's cache is; `None` for a tag cache (`TnD`) and for level 8, which does not exist.
fn cache_index(csselr: u64) -> Option<usize> {
    let index = csselr & 0x1f;
    (index < 14).then_some(index as usize)
}
