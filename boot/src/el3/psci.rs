//! PSCI as Merus' own EL3 gives it: which CPUs are on, and what a call does to that.
//!
//! Memory is Device memory at EL3, where exclusive accesses need not work: what two CPUs must not do at once, CPU_ON, is kept apart by loads
//! and stores ([`alone`]). A CPU that is asked for says itself that it has come, and that it goes.
//!
//! | state | becomes | by |
//! |---|---|---|
//! | off (0, where every CPU begins) | asked for | any CPU: CPU_ON |
//! | asked for | on | itself, when it has seen that |
//! | on | off | itself: CPU_OFF |
//!
//! Which CPUs there are is not known here: the board's tree says that, and one that does not exist stays asked for.
//!
//! Arm DEN 0022, "Power State Coordination Interface", version 1.1. Not there: CPU_SUSPEND, MIGRATE, and the optional calls but
//! PSCI_FEATURES.

use core::ops::Range;

/// The most CPUs: those with the affinities 0.0.0.0 to 0.0.3.15.
pub const SLOTS: usize = 64;
const CLUSTERS: u64 = 4;
const OF_CLUSTER: u64 = 16;

/// A CPU by its affinity: a number below [`SLOTS`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Slot(usize);

impl Slot {
    /// The first CPU: the one of affinity 0.
    pub const FIRST: Self = Self(0);
    /// Of the CPU with this MPIDR_EL1 (what of it is no affinity is left out); `None` for one that there is no place for.
    pub const fn of(mpidr: u64) -> Option<Self> {
        let (aff0, aff1) = (mpidr & 0xff, mpidr >> 8 & 0xff);
        let rest = mpidr & 0xff_00ff_0000;
        if rest != 0 || aff1 >= CLUSTERS || aff0 >= OF_CLUSTER {
            return None;
        }
        // Below 64 by the line above.
        Some(Self((aff1 << 4 | aff0) as usize))
    }
    /// The number.
    pub const fn index(self) -> usize {
        self.0
    }
}

/// Where a CPU goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Start {
    /// The address, at EL2.
    pub entry: u64,
    /// What x0 is then.
    pub context: u64,
}

/// The CPUs' records. Each access is done before the next one begins, for every CPU.
pub trait Records {
    /// The state's word.
    fn state(&self, slot: Slot) -> u64;
    /// Writes it.
    fn set_state(&self, slot: Slot, state: u64);
    /// Where it is to go.
    fn start(&self, slot: Slot) -> Start;
    /// Writes it.
    fn set_start(&self, slot: Slot, start: Start);
    /// Whether this CPU wants to be alone.
    fn wants(&self, slot: Slot) -> bool;
    /// Writes it.
    fn set_wants(&self, slot: Slot, wants: bool);
    /// Waits until another CPU has written something; it may return early.
    fn wait(&self);
}

const OFF: u64 = 0;
const ASKED: u64 = 1;
const ON: u64 = 2;

/// What a call comes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// x0 for the caller.
    Value(u64),
    /// The caller is off: it waits at EL3 until [`released`].
    Off,
    /// The machine is to be powered off.
    PowerOff,
    /// The machine is to be reset.
    Reset,
    /// No call of PSCI.
    Other,
}

/// A call that there is not.
pub const NOT_SUPPORTED: u64 = -1_i64 as u64;
/// An argument that makes no sense.
pub const INVALID_PARAMETERS: u64 = -2_i64 as u64;
/// A call that is not the caller's to make, or not at this time.
pub const DENIED: u64 = -3_i64 as u64;
const ALREADY_ON: u64 = -4_i64 as u64;
const ON_PENDING: u64 = -5_i64 as u64;
const INVALID_ADDRESS: u64 = -9_i64 as u64;

const VERSION_1_1: u64 = 1 << 16 | 1;
const NO_TRUSTED_OS: u64 = 2;
/// In a function's number: its arguments have 64 bits.
const WIDE: u32 = 1 << 30;

const VERSION: u32 = 0x8400_0000;
const CPU_OFF: u32 = 0x8400_0002;
const CPU_ON: u32 = 0x8400_0003;
const AFFINITY_INFO: u32 = 0x8400_0004;
const MIGRATE_INFO_TYPE: u32 = 0x8400_0006;
const SYSTEM_OFF: u32 = 0x8400_0008;
const SYSTEM_RESET: u32 = 0x8400_0009;
const FEATURES: u32 = 0x8400_000a;
const CPU_ON_64: u32 = CPU_ON | WIDE;
const AFFINITY_INFO_64: u32 = AFFINITY_INFO | WIDE;

/// The call `function` of CPU `caller`. CPUs may be sent to addresses in `code` only.
pub fn call(records: &impl Records, caller: Slot, code: &Range<u64>, function: u32, args: [u64; 3]) -> Answer {
    let args = if function & WIDE == 0 { args.map(|arg| arg & 0xffff_ffff) } else { args };
    Answer::Value(match function {
        VERSION => VERSION_1_1,
        CPU_OFF if caller == Slot::FIRST => DENIED,
        CPU_OFF => {
            records.set_state(caller, OFF);
            return Answer::Off;
        }
        CPU_ON | CPU_ON_64 => cpu_on(records, caller, code, args),
        AFFINITY_INFO | AFFINITY_INFO_64 => affinity_info(records, args),
        MIGRATE_INFO_TYPE => NO_TRUSTED_OS,
        SYSTEM_OFF => return Answer::PowerOff,
        SYSTEM_RESET => return Answer::Reset,
        FEATURES => features(args[0] as u32),
        _ => return Answer::Other,
    })
}

fn cpu_on(records: &impl Records, caller: Slot, code: &Range<u64>, [target, entry, context]: [u64; 3]) -> u64 {
    let Some(target) = exact(target) else { return INVALID_PARAMETERS };
    if !code.contains(&entry) || entry & 3 != 0 {
        return INVALID_ADDRESS;
    }
    alone(records, caller, || match records.state(target) {
        OFF => {
            records.set_start(target, Start { entry, context });
            records.set_state(target, ASKED);
            0
        }
        ASKED => ON_PENDING,
        _ => ALREADY_ON,
    })
}

/// Runs `act` while no other CPU runs such a thing: each says that it wants to, gives way to those of lower numbers, and then waits for
/// those of higher ones (L. Lamport, "The Mutual Exclusion Problem: Part II", the one-bit solution). Nothing interrupts EL3, so nobody
/// waits for longer than the others' few instructions.
fn alone<R>(records: &impl Records, caller: Slot, act: impl FnOnce() -> R) -> R {
    let until_not = |other| {
        while records.wants(other) {
            records.wait();
        }
    };
    loop {
        records.set_wants(caller, true);
        let Some(other) = (0..caller.0).map(Slot).find(|other| records.wants(*other)) else { break };
        records.set_wants(caller, false);
        until_not(other);
    }
    (caller.0.saturating_add(1)..SLOTS).map(Slot).for_each(until_not);
    let answer = act();
    records.set_wants(caller, false);
    answer
}

fn affinity_info(records: &impl Records, [target, level, _]: [u64; 3]) -> u64 {
    match exact(target).filter(|_| level == 0).map(|target| records.state(target)) {
        Some(OFF) => 1,
        Some(ASKED) => 2,
        Some(_) => 0,
        None => INVALID_PARAMETERS,
    }
}

fn features(function: u32) -> u64 {
    match function {
        VERSION | CPU_OFF | CPU_ON | CPU_ON_64 | AFFINITY_INFO | AFFINITY_INFO_64 | MIGRATE_INFO_TYPE | SYSTEM_OFF
        | SYSTEM_RESET | FEATURES => 0,
        _ => NOT_SUPPORTED,
    }
}

/// The CPU that an argument names; all bits beside the affinities have to be 0.
fn exact(affinity: u64) -> Option<Slot> {
    if affinity & !0xff_00ff_ffff == 0 { Slot::of(affinity) } else { None }
}

/// The first CPU is on from the start.
pub fn begin(records: &impl Records) {
    records.set_state(Slot::FIRST, ON);
}

/// Where CPU `own`, which is off, is to go, if somebody has asked for it: it is on from then.
pub fn released(records: &impl Records, own: Slot) -> Option<Start> {
    (records.state(own) == ASKED).then(|| {
        let start = records.start(own);
        records.set_state(own, ON);
        start
    })
}

#[cfg(test)]
mod tests;
