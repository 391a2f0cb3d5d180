//! The guest's own stage 1, as far as an abort needs it: where a table walk stopped, and what an address leads to.
//!
//! # A walk that stage 2 stopped
//! Hardware says in which page the descriptor is that the walker could not fetch (HPFAR_EL2), and at which level *stage 2* gave
//! up. The guest is to see the level of its own walk, as on a board. [`level`] goes the walker's way through the guest's tables
//! until a descriptor is in that page.
//!
//! | what it finds | level |
//! |---|---|
//! | a descriptor in the page of the fault | that descriptor's: what the hardware was at |
//! | a table that cannot be read, or no table behind a descriptor, or the last level | where it ended: another CPU has changed the tables since, and this is as far as they lead now |
//! | by the registers there are no tables | stage 2's (see below) |
//!
//! At most three descriptors are read (that of the last level is only looked *for*), each once, through
//! [`GuestMemory`]. Whatever they hold costs nobody but the guest anything: the result is a number from 0 to 3.
//!
//! # Not modelled
//! Larger addresses with 4 and 16 KiB granules (FEAT_LPA2, TCR_EL1.DS), 128-bit descriptors and 56-bit addresses: the CPU model
//! hides them, and a guest that uses them all the same gets another level. What keeps the hardware from a walk (E0PD, tags,
//! addresses out of range) is not looked at where the walk has been made; a size of addresses that the model does not have
//! is taken as the nearest it has. EL2 reads by its cacheable map: a guest whose tables are in memory only, behind
//! a stale line, may get another level.
//!
//! # References
//! Arm Architecture Reference Manual for A-profile (DDI 0487, issue L.b): "VMSAv8-64 translation table format descriptors",
//! "Translation using the 4KB granule" and its sisters, "TCR_EL1, Translation Control Register (EL1)", "HPFAR_EL2, Hypervisor
//! IPA Fault Address Register", "PAR_EL1, Physical Address Register".

use crate::exit::Hw;
use crate::machine::Vm;
use addr::{Ipa, Va};
use bus::GuestMemory;
use config::cpu_model::CpuModel;
use trap::{Fault, FaultIpa, GuestFrame};

/// The registers that control a guest's stage 1, each by its own name with `_EL1`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[allow(missing_docs, reason = "fields are named after the registers")]
pub struct Stage1 {
    pub sctlr: u64,
    pub tcr: u64,
    pub ttbr0: u64,
    pub ttbr1: u64,
}

/// What an address translation is for: which AT instruction makes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Probe {
    /// AT S1E1R.
    PrivilegedRead,
    /// AT S1E1W.
    PrivilegedWrite,
    /// AT S1E0R.
    UnprivilegedRead,
    /// AT S1E0W.
    UnprivilegedWrite,
}

impl Probe {
    /// For the access that faulted. A fetch is asked for as a privileged read, which no table refuses: code may be executable and
    /// not readable.
    fn of(fault: &Fault, frame: &GuestFrame) -> Self {
        match (frame.is_el0() && !fault.instruction, fault.write) {
            (false, false) => Self::PrivilegedRead,
            (false, true) => Self::PrivilegedWrite,
            (true, false) => Self::UnprivilegedRead,
            (true, true) => Self::UnprivilegedWrite,
        }
    }
}

/// Where a fault was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    /// There.
    At(Ipa),
    /// The address leads nowhere (for such an access) any more: the guest has changed its tables since.
    Changed,
    /// There is no address to ask for.
    Unknown,
}

/// Where `fault` was: HPFAR_EL2's word where the architecture writes it, else what stage 1 says now.
///
/// No fault that becomes a device access comes here; of today's maps only the records of stolen time lack a permission.
pub(crate) fn place<H: Hw>(hw: &mut H, frame: &GuestFrame, fault: &Fault) -> Place {
    match (fault.ipa, fault.va) {
        (FaultIpa::Known(ipa), _) => Place::At(ipa),
        (FaultIpa::NeedsTranslation, None) => Place::Unknown,
        (FaultIpa::NeedsTranslation, Some(va)) => {
            translated(hw.translate(va, Probe::of(fault, frame)), va).map_or(Place::Changed, Place::At)
        }
    }
}

/// What PAR_EL1 says about `va` after a translation; `None` where that failed (PAR_EL1.F).
fn translated(par: u64, va: Va) -> Option<Ipa> {
    const F: u64 = 1;
    const PA: u64 = 0x000f_ffff_ffff_f000;
    (par & F == 0).then(|| Ipa::new(par & PA | va.as_u64() & 0xfff))
}

/// The level of the guest's own walk at which `fault`, a fault on that walk, happened.
#[inline(never)]
pub(crate) fn level<H: Hw>(vm: &Vm, hw: &mut H, fault: &Fault) -> u8 {
    let (FaultIpa::Known(page), Some(va)) = (fault.ipa, fault.va) else {
        return fault.walk_level();
    };
    match walk(&*vm.memory, &hw.stage1(), Limits::of(&vm.parts.cpu), va, page) {
        Walked::To(level) | Walked::Away(level) => level,
        Walked::Not => fault.walk_level(),
    }
}

/// What the CPU has of stage 1, as the guest is shown it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Limits {
    /// FEAT_LVA: 52 bits of virtual address with 64 KiB pages.
    large_va: bool,
    /// FEAT_TTST: tables for as few as 16 bits (17 with 64 KiB pages).
    small_tables: bool,
    /// FEAT_LPA: 52 bits of physical address with 64 KiB pages.
    large_pa: bool,
}

impl Limits {
    fn of(cpu: &CpuModel) -> Self {
        let mmfr2 = cpu.id_register(7, 2);
        Self { large_va: mmfr2 >> 16 & 0xf >= 1, small_tables: mmfr2 >> 28 & 0xf >= 1, large_pa: cpu.pa_bits() > 48 }
    }
}

/// How a walk ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Walked {
    /// The descriptor of this level is in the page.
    To(u8),
    /// None is, and there are no more from this level on.
    Away(u8),
    /// There is no walk for this address.
    Not,
}

const LAST: u8 = 3;

/// Half of the virtual addresses: its tables.
#[derive(Clone, Copy, Debug)]
struct Half {
    /// Where the next table is.
    table: u64,
    /// The level of that table, 0 to 3.
    level: u8,
    /// Bits of a page's offset: 12, 14 or 16.
    page_bits: u32,
    /// Bits of an address that are translated.
    input_bits: u32,
    /// Bits 51 to 48 of addresses are in bits 15 to 12 of descriptors.
    large_pa: bool,
}

impl Half {
    /// The one that `va` belongs to, at its root; `None` where nothing is translated by tables.
    fn of(regs: &Stage1, limits: Limits, va: u64) -> Option<Self> {
        const M: u64 = 1;
        const EPD0: u64 = 1 << 7;
        const EPD1: u64 = 1 << 23;
        let upper = va >> 55 & 1 != 0;
        let (ttbr, off, size, granule) = if upper {
            (regs.ttbr1, EPD1, regs.tcr >> 16, [0, 14, 12, 16].get((regs.tcr >> 30 & 3) as usize))
        } else {
            (regs.ttbr0, EPD0, regs.tcr, [12, 16, 14, 0].get((regs.tcr >> 14 & 3) as usize))
        };
        let page_bits = granule.copied().filter(|bits| *bits != 0)?;
        if regs.sctlr & M == 0 || regs.tcr & off != 0 {
            return None;
        }
        let pages_64k = page_bits == 16;
        let least = if pages_64k && limits.large_va { 12 } else { 16 };
        let most = match (limits.small_tables, pages_64k) {
            (false, _) => 39,
            (true, false) => 48,
            (true, true) => 47,
        };
        let input_bits = 64_u32.saturating_sub(((size & 0x3f) as u32).clamp(least, most));
        // Each level translates as many bits as a page has entries for; the first takes what is left.
        let levels = input_bits.saturating_sub(page_bits).div_ceil(page_bits.saturating_sub(3));
        let mut half = Self {
            table: 0,
            level: 4_u8.saturating_sub(levels as u8),
            page_bits,
            input_bits,
            large_pa: pages_64k && limits.large_pa,
        };
        // A root is aligned to its own size.
        let bytes = half.index_bits().saturating_add(3);
        half.table = ttbr & 0x0000_ffff_ffff_ffff & (u64::MAX << bytes);
        if half.large_pa && regs.tcr >> 32 & 7 == 6 {
            half.table = half.table & !0x3f | (ttbr >> 2 & 0xf) << 48;
        }
        Some(half)
    }

    /// The lowest bit of an address that the present level translates.
    fn shift(&self) -> u32 {
        let below = u32::from(LAST.saturating_sub(self.level));
        self.page_bits.saturating_add(self.page_bits.saturating_sub(3).saturating_mul(below))
    }

    /// How many it translates, at the root.
    fn index_bits(&self) -> u32 {
        self.input_bits.saturating_sub(self.shift())
    }

    /// Where the descriptor for `va` is.
    fn descriptor(&self, va: u64) -> u64 {
        let bits = self.index_bits().min(self.page_bits.saturating_sub(3));
        let index = va >> self.shift() & !(u64::MAX << bits);
        self.table | index << 3
    }

    /// On to the table that `descriptor`, of any level but the last, names if it names one.
    fn next(self, descriptor: u64) -> Option<Self> {
        if descriptor & 3 != 3 {
            return None;
        }
        let mut table = descriptor & 0x0000_ffff_ffff_ffff & (u64::MAX << self.page_bits);
        if self.large_pa {
            table |= (descriptor >> 12 & 0xf) << 48;
        }
        Some(Self { table, level: self.level.saturating_add(1), ..self })
    }
}

/// Goes from the root of `va` towards its page until a descriptor is in the 4 KiB page at `page`.
fn walk(memory: &dyn GuestMemory, regs: &Stage1, limits: Limits, va: Va, page: Ipa) -> Walked {
    const EE: u64 = 1 << 25;
    let va = va.as_u64();
    let Some(mut half) = Half::of(regs, limits, va) else { return Walked::Not };
    // Ends: each round is one level on, and there is none after the last.
    loop {
        let at = half.descriptor(va);
        if at >> 12 == page.as_u64() >> 12 {
            return Walked::To(half.level);
        }
        let mut bytes = [0; 8];
        if half.level >= LAST || memory.read(Ipa::new(at), &mut bytes).is_err() {
            return Walked::Away(half.level);
        }
        let descriptor = if regs.sctlr & EE == 0 { u64::from_le_bytes(bytes) } else { u64::from_be_bytes(bytes) };
        half = match half.next(descriptor) {
            Some(half) => half,
            None => return Walked::Away(half.level),
        };
    }
}

#[cfg(test)]
mod tests;
