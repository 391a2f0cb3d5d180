//! The shape of stage-2 tables on one machine: address size, start level, concatenation, and the `VTCR_EL2` that says so.
//!
//! # References
//! Arm ARM (DDI 0487 issue L.b): "VTCR_EL2, Virtualization Translation Control Register"; the pseudocode functions
//! `AArch64.S2InvalidSL` and `AArch64.S2InconsistentSL`; "ID_AA64MMFR0_EL1", "ID_AA64MMFR1_EL1", "ID_AA64MMFR2_EL1".

use crate::descriptor;

/// The largest address size, in bits, without FEAT_LPA2.
const MAX_BITS: u32 = 48;
/// The smallest: T0SZ is 39 at most without FEAT_TTST.
const MIN_BITS: u32 = 25;
/// Level 0 may be the start level only where the physical address size is this many bits or more.
const LEVEL_0_NEEDS_PA_BITS: u32 = 44;
/// Up to 2^4 tables of the start level may stand side by side as one.
const CONCATENATION_BITS: u32 = 4;

// VTCR_EL2
const SL0_SHIFT: u32 = 6;
const IRGN0_WRITE_BACK: u64 = 0b01 << 8;
const ORGN0_WRITE_BACK: u64 = 0b01 << 10;
const SH0_INNER: u64 = 0b11 << 12;
const TG0_4K: u64 = 0b00 << 14;
const PS_SHIFT: u32 = 16;
const VS_16_BITS: u64 = 1 << 19;
const RES1: u64 = 1 << 31;

/// What all pCPUs of the machine have in common, as far as stage 2 depends on it.
///
/// FEAT_XNX is no part of it: "execute never" and "execute at EL0 and EL1" are encoded alike with and without it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HostLimits {
    /// Physical address size in bits: 32, 36, 40, 42, 44, 48, 52 or 56.
    pub pa_range_bits: u32,
    /// Width of a VMID in bits: 8 or 16.
    pub vmid_bits: u32,
    /// Whether stage 2 can force write-back (FEAT_S2FWB).
    pub fwb: bool,
    /// Whether stage 2 can use the 4 KiB granule.
    pub granule_4k: bool,
}

impl HostLimits {
    /// One pCPU's limits by its `ID_AA64MMFR0_EL1`, `ID_AA64MMFR1_EL1` and `ID_AA64MMFR2_EL1`.
    pub const fn from_id_registers(mmfr0: u64, mmfr1: u64, mmfr2: u64) -> Self {
        let pa_range_bits = match mmfr0 & 0xf {
            0 => 32,
            1 => 36,
            2 => 40,
            3 => 42,
            4 => 44,
            5 => 48,
            6 => 52,
            _ => 56,
        };
        // TGran4_2: 0 refers to TGran4, where 0xf means "no".
        let granule_4k = match (mmfr0 >> 40) & 0xf {
            0 => (mmfr0 >> 28) & 0xf != 0xf,
            1 => false,
            _ => true,
        };
        let vmid_bits = if (mmfr1 >> 4) & 0xf == 2 { 16 } else { 8 };
        Self { pa_range_bits, vmid_bits, fwb: (mmfr2 >> 40) & 0xf != 0, granule_4k }
    }

    /// What both have: the limits for VMs that may run on either.
    pub fn common(self, other: Self) -> Self {
        Self {
            pa_range_bits: self.pa_range_bits.min(other.pa_range_bits),
            vmid_bits: self.vmid_bits.min(other.vmid_bits),
            fwb: self.fwb && other.fwb,
            granule_4k: self.granule_4k && other.granule_4k,
        }
    }
}

/// Why there are no tables of the wanted shape.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GeometryError {
    /// The machine's stage 2 has no 4 KiB granule.
    NoGranule,
    /// No address size has this many bits: the host's is none that the architecture knows.
    BadPaRange(u32),
    /// VMIDs have 8 or 16 bits, not this many.
    BadVmidBits(u32),
    /// Fewer address bits were asked for than a table can be started with (25).
    TooSmall(u32),
}

/// The shape of the tables of all VMs with one address size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    ipa_bits: u32,
    pa_bits: u32,
    start_level: u8,
    vmid_bits: u32,
    fwb: bool,
    vtcr: u64,
}

impl Geometry {
    /// The shape with `wanted` bits of guest address, or as many as the host has (48 at most): a caller whose RAM needs
    /// more compares with [`Self::ipa_bits`]. Among the start levels that exist for that size it is the one with the
    /// fewest lookups, which is the most concatenation.
    pub fn new(wanted: u32, host: HostLimits) -> Result<Self, GeometryError> {
        if !host.granule_4k {
            return Err(GeometryError::NoGranule);
        }
        if !matches!(host.vmid_bits, 8 | 16) {
            return Err(GeometryError::BadVmidBits(host.vmid_bits));
        }
        // PS has an encoding beyond 48 bits, but without LPA2 no descriptor of a 4 KiB granule holds such an address.
        let pa_bits = host.pa_range_bits.min(MAX_BITS);
        let ps: u64 = match pa_bits {
            32 => 0,
            36 => 1,
            40 => 2,
            42 => 3,
            44 => 4,
            48 => 5,
            other => return Err(GeometryError::BadPaRange(other)),
        };
        let ipa_bits = wanted.min(pa_bits);
        if ipa_bits < MIN_BITS {
            return Err(GeometryError::TooSmall(wanted));
        }
        // Level 2 resolves 30 bits with one table, level 1 39, level 0 48; concatenation adds 4. Level 0 is reached
        // only by 44 bits or more, so that the machine has LEVEL_0_NEEDS_PA_BITS is implied.
        let start_level: u8 = match ipa_bits {
            ..=34 => 2,
            35..=43 => 1,
            _ => 0,
        };
        const _: () = assert!(39 + CONCATENATION_BITS + 1 == LEVEL_0_NEEDS_PA_BITS);
        let sl0 = 2_u64.wrapping_sub(u64::from(start_level));
        let t0sz = u64::from(64_u32.wrapping_sub(ipa_bits));
        let vs = if host.vmid_bits == 16 { VS_16_BITS } else { 0 };
        let walks = IRGN0_WRITE_BACK | ORGN0_WRITE_BACK | SH0_INNER | TG0_4K;
        let vtcr = RES1 | vs | (ps << PS_SHIFT) | walks | (sl0 << SL0_SHIFT) | t0sz;
        Ok(Self { ipa_bits, pa_bits, start_level, vmid_bits: host.vmid_bits, fwb: host.fwb, vtcr })
    }

    /// The whole value of `VTCR_EL2`. HA and HD are off (no hardware flags), NSW, NSA, HWU* and DS are 0.
    pub const fn vtcr(&self) -> u64 {
        self.vtcr
    }

    /// The size of the guest's physical address space in bits.
    pub const fn ipa_bits(&self) -> u32 {
        self.ipa_bits
    }

    /// The size of the guest's physical address space in bytes.
    pub const fn ipa_size(&self) -> u64 {
        1_u64.wrapping_shl(self.ipa_bits)
    }

    /// The first machine address that no descriptor can hold.
    pub const fn pa_size(&self) -> u64 {
        1_u64.wrapping_shl(self.pa_bits)
    }

    /// The level of the root table, 0 to 2.
    pub const fn start_level(&self) -> u8 {
        self.start_level
    }

    /// 4 KiB pages of the root, 1 to 16; it is aligned to its size.
    pub const fn root_pages(&self) -> usize {
        let one_table = descriptor::entry_shift(self.start_level).wrapping_add(9);
        1_usize.wrapping_shl(self.ipa_bits.saturating_sub(one_table))
    }

    /// Width of a VMID in bits, 8 or 16.
    pub const fn vmid_bits(&self) -> u32 {
        self.vmid_bits
    }

    /// Whether stage 2 forces write-back. `HCR_EL2.FWB` must be set exactly then: the descriptors are encoded for it.
    pub const fn fwb(&self) -> bool {
        self.fwb
    }
}
