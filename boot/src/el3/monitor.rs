//! What runs at EL3: without MMU, caches and locks, on a small stack of each CPU's own, in memory that EL2 has no mapping of.
//!
//! The first CPU is here before the image has been relocated, so no address comes from a table: all are `adrp`'s.

use super::calls;
use super::devices::{self, Bus};
use super::psci::{self, Answer, DENIED, INVALID_PARAMETERS, NOT_SUPPORTED, Records, Slot, Start};
use super::settings::Ids;
use core::arch::asm;

/// What the counter's frequency is until the board's tree has been asked, where nobody has set it, in Hz.
const COUNTER_HZ: u64 = 62_500_000;
/// Not a pin.
const NO_PIN: u64 = 0xff;

// SAFETY: of `vectors`' assembly, with this signature.
unsafe extern "C" {
    /// Leaves EL3 for good, but for calls: EL2 at `entry` with `context` in x0; the stack is empty again.
    fn boot_el3_enter(entry: u64, context: u64, stack_top: u64) -> !;
}

/// The address of a symbol.
macro_rules! address {
    ($symbol:literal) => {{
        let at: u64;
        // SAFETY: computes an address.
        unsafe {
            asm!(concat!("adrp {0}, ", $symbol), concat!("add {0}, {0}, :lo12:", $symbol), out(reg) at,
                options(pure, nomem, nostack, preserves_flags))
        };
        at
    }};
}

/// Bytes of a CPU's record: a line of its own.
pub const RECORD: usize = 64;
/// Bytes of a CPU's stack.
pub const STACK: usize = 1024;
/// Words of the setup.
pub const WORDS: usize = 8;

/// The words that [`calls`] leave.
#[derive(Clone, Copy)]
enum Word {
    /// Nothing more is taken.
    Done = 0,
    /// A GICv2's distributor and CPU interface, for each CPU that comes.
    Distributor = 1,
    Interface = 2,
    /// The PL061 that ends the machine, and its pins; 0 where there is none.
    Pins = 3,
    PinOff = 4,
    PinReset = 5,
    /// The counter's frequency, and whether it was 0.
    Hz = 6,
    HzUnset = 7,
}

fn word(which: Word) -> *mut u64 {
    (address!("boot_el3_setup") as *mut u64).wrapping_add(which as usize)
}

fn get(which: Word) -> u64 {
    // SAFETY: one of the `WORDS` aligned words of the set-up, in EL3's own memory, zeroed by the first CPU; volatile because other
    // CPUs read what the first one writes.
    unsafe { word(which).read_volatile() }
}

fn set(which: Word, value: u64) {
    // SAFETY: as for `get`; only the first CPU writes, and before any other is let go.
    unsafe { word(which).write_volatile(value) }
}

/// The CPUs' records: state, entry, context, and whether the CPU wants to be alone.
struct Table;

impl Table {
    fn word(slot: Slot, index: usize) -> *mut u64 {
        let record = slot.index().wrapping_mul(RECORD);
        (address!("boot_el3_records").wrapping_add(record as u64) as *mut u64).wrapping_add(index)
    }
    fn get(slot: Slot, index: usize) -> u64 {
        // SAFETY: an aligned word of one of the `SLOTS` records in EL3's own memory.
        unsafe { Self::word(slot, index).read_volatile() }
    }
    fn set(slot: Slot, index: usize, value: u64) {
        // SAFETY: as above. The barriers keep the order for those who look at it meanwhile; the event is for who waits.
        unsafe {
            asm!("dsb sy", options(nostack, preserves_flags));
            Self::word(slot, index).write_volatile(value);
            asm!("dsb sy", "sev", options(nostack, preserves_flags));
        }
    }
}

impl Records for Table {
    fn state(&self, slot: Slot) -> u64 {
        let state = Self::get(slot, 0);
        // SAFETY: a barrier: what belongs to the state is read after it.
        unsafe { asm!("dmb sy", options(nostack, preserves_flags)) };
        state
    }
    fn set_state(&self, slot: Slot, state: u64) {
        Self::set(slot, 0, state);
    }
    fn start(&self, slot: Slot) -> Start {
        Start { entry: Self::get(slot, 1), context: Self::get(slot, 2) }
    }
    fn set_start(&self, slot: Slot, start: Start) {
        Self::set(slot, 1, start.entry);
        Self::set(slot, 2, start.context);
    }
    fn wants(&self, slot: Slot) -> bool {
        let wants = Self::get(slot, 3) != 0;
        // SAFETY: a barrier: what is done alone is done after it.
        unsafe { asm!("dmb sy", options(nostack, preserves_flags)) };
        wants
    }
    fn set_wants(&self, slot: Slot, wants: bool) {
        Self::set(slot, 3, wants.into());
    }
    fn wait(&self) {
        // SAFETY: waits for an event, which each of `set` is; changes nothing.
        unsafe { asm!("wfe", options(nomem, nostack, preserves_flags)) };
    }
}

/// Device registers by their physical addresses.
struct Physical;

impl Bus for Physical {
    fn read(&self, at: u64) -> u32 {
        // SAFETY: the MMU is off here, and the address is a register that the board's tree names (`calls`).
        unsafe { (at as *const u32).read_volatile() }
    }
    fn write(&self, at: u64, value: u32) {
        // SAFETY: as for `read`; what is written changes groups, wakes a redistributor or drives a pin, and no memory.
        unsafe { (at as *mut u32).write_volatile(value) }
    }
}

macro_rules! read {
    ($register:literal) => {{
        let value: u64;
        // SAFETY: reads a register that every CPU with EL3 has.
        unsafe { asm!(concat!("mrs {}, ", $register), out(reg) value, options(nomem, nostack, preserves_flags)) };
        value
    }};
}

fn own_slot() -> Option<Slot> {
    Slot::of(read!("MPIDR_EL1"))
}

fn ids() -> Ids {
    Ids {
        midr: read!("MIDR_EL1"),
        pfr0: read!("ID_AA64PFR0_EL1"),
        pfr1: read!("ID_AA64PFR1_EL1"),
        isar0: read!("ID_AA64ISAR0_EL1"),
        isar1: read!("ID_AA64ISAR1_EL1"),
        // Those that old assemblers do not know.
        isar2: read!("S3_0_C0_C6_2"),
        mmfr0: read!("ID_AA64MMFR0_EL1"),
        mmfr1: read!("ID_AA64MMFR1_EL1"),
        dfr0: read!("ID_AA64DFR0_EL1"),
        smfr0: read!("S3_0_C0_C4_5"),
    }
}

/// Sets this CPU's EL3 registers, so that EL2 may use what Merus knows.
fn own_registers() {
    let (ids, vectors) = (ids(), address!("boot_el3_vectors"));
    // SAFETY: registers of EL3, which nothing of what runs at EL3 depends on, but for the vectors, which are those of this module.
    unsafe {
        asm!(
            "msr VBAR_EL3, {}", "msr SCR_EL3, {}", "msr CPTR_EL3, {}", "msr MDCR_EL3, {}", "msr CNTFRQ_EL0, {}", "isb",
            in(reg) vectors, in(reg) ids.scr(), in(reg) ids.cptr(), in(reg) ids.mdcr(), in(reg) get(Word::Hz),
            options(nostack, preserves_flags)
        );
    }
    if ids.smpen() {
        let old = read!("S3_1_C15_C2_1");
        // SAFETY: CPUECTLR_EL1.SMPEN of a CPU that has it, with the caches off: they are kept coherent from when they are on.
        unsafe { asm!("msr S3_1_C15_C2_1, {}", "isb", in(reg) old | 1 << 6, options(nostack, preserves_flags)) };
    }
    if let Some(zcr) = ids.zcr() {
        // SAFETY: ZCR_EL3; CPTR_EL3 has let go of it, and there is SVE.
        unsafe { asm!("msr S3_6_C1_C2_0, {}", in(reg) zcr, options(nostack, preserves_flags)) };
    }
    if let Some(smcr) = ids.smcr() {
        // SAFETY: SMCR_EL3, in the same way.
        unsafe { asm!("msr S3_6_C1_C2_6, {}", in(reg) smcr, options(nostack, preserves_flags)) };
    }
    if ids.mpam() {
        // SAFETY: MPAM3_EL3: nothing is trapped, and nothing partitioned until EL2 asks.
        unsafe { asm!("msr S3_6_C10_C5_0, xzr", options(nostack, preserves_flags)) };
    }
    if ids.gic() {
        // SAFETY: ICC_SRE_EL3: the CPU interface is system registers, for EL2 and below as well.
        unsafe { asm!("msr S3_6_C12_C12_5, {}", "isb", in(reg) 0xf_u64, options(nostack, preserves_flags)) };
    }
    if get(Word::Distributor) != 0 {
        devices::open_own_v2(&Physical, get(Word::Distributor), get(Word::Interface));
    }
}

/// The first CPU, on its stack, with EL3's memory zeroed.
#[unsafe(no_mangle)]
extern "C" fn boot_el3_first() {
    let hz = read!("CNTFRQ_EL0");
    set(Word::HzUnset, u64::from(hz == 0));
    set(Word::Hz, if hz == 0 { COUNTER_HZ } else { hz });
    psci::begin(&Table);
    own_registers();
}

/// Any other CPU, and one that has gone off: waits until it is asked for.
#[unsafe(no_mangle)]
extern "C" fn boot_el3_park() -> ! {
    loop {
        if let Some(slot) = own_slot()
            && let Some(start) = psci::released(&Table, slot)
        {
            own_registers();
            let top = slot.index().wrapping_add(1).wrapping_mul(STACK);
            let top = address!("boot_el3_stacks").wrapping_add(top as u64);
            // SAFETY: the entry is in Merus' text (`psci::call`), and this CPU's stack has nothing on it that is needed again.
            unsafe { boot_el3_enter(start.entry, start.context, top) }
        }
        Table.wait();
    }
}

/// An SMC of EL2: the answer for its x0.
#[unsafe(no_mangle)]
extern "C" fn boot_el3_call(function: u64, x1: u64, x2: u64, x3: u64) -> u64 {
    let Some(slot) = own_slot() else { return NOT_SUPPORTED };
    let code = address!("__image_start")..address!("__text_end");
    match psci::call(&Table, slot, &code, function as u32, [x1, x2, x3]) {
        Answer::Value(value) => value,
        Answer::Off => boot_el3_park(),
        Answer::PowerOff => end(Word::PinOff),
        Answer::Reset => end(Word::PinReset),
        Answer::Other => own_call(slot, function as u32, x1, x2),
    }
}

/// Ends the machine by a pin. Returns where there is none, or nothing has come of it.
fn end(pin: Word) -> u64 {
    let (pins, pin) = (get(Word::Pins), get(pin));
    if pins == 0 || pin == NO_PIN {
        return NOT_SUPPORTED;
    }
    devices::drive_pin(&Physical, pins, pin);
    loop {
        // SAFETY: waits; the machine ends.
        unsafe { asm!("wfi", options(nomem, nostack, preserves_flags)) };
    }
}

/// One of [`calls`].
fn own_call(caller: Slot, function: u32, x1: u64, x2: u64) -> u64 {
    if !(calls::GIC_V3..=calls::DONE).contains(&function) {
        return NOT_SUPPORTED;
    }
    if caller != Slot::FIRST || get(Word::Done) != 0 {
        return DENIED;
    }
    match function {
        calls::GIC_V3 => devices::open_distributor_v3(&Physical, x1),
        calls::REDISTRIBUTORS => devices::open_redistributors(&Physical, x1, x2),
        calls::GIC_V2 => {
            devices::open_distributor_v2(&Physical, x1);
            devices::open_own_v2(&Physical, x1, x2);
            set(Word::Distributor, x1);
            set(Word::Interface, x2);
        }
        calls::POWER_PINS => {
            set(Word::Pins, x1);
            set(Word::PinOff, x2 & 0xff);
            set(Word::PinReset, x2 >> 8 & 0xff);
        }
        calls::COUNTER if get(Word::HzUnset) == 0 => return DENIED,
        calls::COUNTER if x1 == 0 || x1 >> 32 != 0 => return INVALID_PARAMETERS,
        calls::COUNTER => {
            set(Word::Hz, x1);
            own_registers();
        }
        _ => set(Word::Done, 1),
    }
    0
}
