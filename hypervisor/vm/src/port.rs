//! What others ask of a vCPU, in one word that its runner looks at before every entry.

use core::sync::atomic::{AtomicU32, Ordering};
use guest_smccc::psci::StartState;
use sync::{Rank, SpinLock};

/// A snapshot of what is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Requests(u32);

impl Requests {
    /// Something about the vCPU's interrupts has changed.
    pub const FLUSH: Self = Self(1);
    /// The VM's life has changed: look at [`crate::Vm::life`].
    pub const LIFE: Self = Self(1 << 1);
    /// The emulated physical timer's deadline has passed.
    pub const TIMER: Self = Self(1 << 2);
    /// The vCPU is to say how often it exited, and why.
    pub const REPORT: Self = Self(1 << 3);
    /// Something has happened to one of the VM's devices that is to be seen to in the VM's time, before the vCPU enters its guest.
    pub const DEVICES: Self = Self(1 << 4);
    /// One pCPU wants the vCPU's list registers folded and to stay so; the field counts.
    const HOLD: u32 = 1 << 16;

    /// Whether nothing is asked.
    #[inline]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
    /// Whether `other` is asked.
    #[inline]
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
    /// Whether someone wants the vCPU to hold still.
    #[inline]
    pub fn held(self) -> bool {
        self.0 >= Self::HOLD
    }
}

/// One vCPU, as seen from the others.
#[derive(Debug)]
pub struct Port {
    requests: AtomicU32,
    start: SpinLock<Option<StartState>>,
}

impl Default for Port {
    fn default() -> Self {
        Self::new()
    }
}

impl Port {
    /// Nothing asked.
    pub const fn new() -> Self {
        Self { requests: AtomicU32::new(0), start: SpinLock::new(Rank::Vcpu, None) }
    }
    /// Asks; whoever asks then wakes or kicks the vCPU.
    #[inline]
    pub fn ask(&self, what: Requests) {
        self.requests.fetch_or(what.0, Ordering::Release);
    }
    /// What is asked now.
    #[inline]
    pub fn requests(&self) -> Requests {
        Requests(self.requests.load(Ordering::Acquire))
    }
    /// Takes what is asked. Holds stay: they end when the holder lets go.
    #[inline]
    pub fn take(&self) -> Requests {
        let flags = Requests::HOLD.wrapping_sub(1);
        Requests(self.requests.fetch_and(!flags, Ordering::AcqRel))
    }
    /// From now on the vCPU, once folded, stays folded, until [`Port::release`].
    pub fn hold(&self) {
        self.requests.fetch_add(Requests::HOLD, Ordering::AcqRel);
    }
    /// Ends one [`Port::hold`].
    pub fn release(&self) {
        self.requests.fetch_sub(Requests::HOLD, Ordering::AcqRel);
    }
    /// Leaves what the vCPU shall start with for whoever loads it next.
    pub fn set_start(&self, state: StartState) {
        *self.start.lock() = Some(state);
    }
    /// Whether the vCPU is to start from something.
    pub fn starts(&self) -> bool {
        self.start.lock().is_some()
    }
    /// Takes what the vCPU shall start with, if it is to start.
    pub fn take_start(&self) -> Option<StartState> {
        self.start.lock().take()
    }
    /// Back to nothing asked, for the VM's reset.
    pub fn reset(&self) {
        self.take();
        *self.start.lock() = None;
    }
}
