//! What a guest sees of an access that was refused: the policy of [`Bus`](crate::Bus), and the counts.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::AccessError;

/// How a guest's access ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "the guest's instruction has to be completed or aborted"]
pub enum Completion {
    /// The instruction is done. A load gets this value (in the low bits, not yet sign extended); a store ignores it.
    Done(u64),
    /// The guest takes a synchronous external abort at this instruction.
    ExternalAbort,
    /// The guest executes this instruction again.
    Again,
}

/// How an access ends that no window holds.
pub const NO_DEVICE: Completion = Completion::ExternalAbort;

/// What the guest sees of a load, by the table of [`Bus`](crate::Bus).
#[inline]
pub fn read_outcome(result: Result<u64, AccessError>) -> Completion {
    match result {
        Ok(value) => Completion::Done(value),
        Err(AccessError::NoRegister | AccessError::BadSize) => Completion::Done(0),
        Err(AccessError::Unaligned) => Completion::ExternalAbort,
        Err(AccessError::Again) => Completion::Again,
    }
}

/// What the guest sees of a store, by the table of [`Bus`](crate::Bus).
#[inline]
pub fn write_outcome(result: Result<(), AccessError>) -> Completion {
    read_outcome(result.map(|()| 0))
}

/// How often a VM's accesses were refused, by reason. Counted with relaxed atomics, off the path of accesses that succeed.
#[derive(Default, Debug)]
pub struct Refusals {
    no_device: AtomicU64,
    no_register: AtomicU64,
    bad_size: AtomicU64,
    unaligned: AtomicU64,
    again: AtomicU64,
}

impl Refusals {
    /// All counts 0.
    pub const fn new() -> Self {
        Self {
            no_device: AtomicU64::new(0),
            no_register: AtomicU64::new(0),
            bad_size: AtomicU64::new(0),
            unaligned: AtomicU64::new(0),
            again: AtomicU64::new(0),
        }
    }

    /// Counts an access that a device refused.
    #[cold]
    pub fn count(&self, error: AccessError) {
        let counter = match error {
            AccessError::NoRegister => &self.no_register,
            AccessError::BadSize => &self.bad_size,
            AccessError::Unaligned => &self.unaligned,
            AccessError::Again => &self.again,
        };
        counter.fetch_add(1, Relaxed);
    }

    /// Counts an access that no window holds.
    #[cold]
    pub fn count_no_device(&self) {
        self.no_device.fetch_add(1, Relaxed);
    }

    /// How many accesses a device refused for this reason.
    pub fn refused(&self, error: AccessError) -> u64 {
        match error {
            AccessError::NoRegister => self.no_register.load(Relaxed),
            AccessError::BadSize => self.bad_size.load(Relaxed),
            AccessError::Unaligned => self.unaligned.load(Relaxed),
            AccessError::Again => self.again.load(Relaxed),
        }
    }

    /// How many accesses no window held.
    pub fn no_device(&self) -> u64 {
        self.no_device.load(Relaxed)
    }
}
