//! Locks with a rank, for code that runs with interrupts masked.
//!
//! EL2 never takes an interrupt while it works, so a lock needs no interrupt mask; it needs an *order*. Every
//! [`SpinLock`] carries a [`Rank`]; a CPU may only take a lock of a higher rank than all that it holds (two of one rank
//! only by ascending id, with [`SpinLock::lock_second`]). With the feature `check-ranks` (host tests) each `lock` checks
//! that and panics with both ranks; in the image the check costs nothing.
//!
//! Waiting is a `yield` in a loop: under a measuring emulator with one thread a bare spin would burn the other CPU's
//! whole slice, and on SMT parts it gives the sibling the pipeline.
#![no_std]

#[cfg(any(test, feature = "check-ranks"))]
extern crate std;

#[cfg(any(test, target_os = "none"))]
pub mod heap;
pub mod nospec;
pub mod words;

use core::ops::{Deref, DerefMut};
use spin::RelaxStrategy;
use spin::mutex::{SpinMutex, SpinMutexGuard};

/// The lock order of the whole hypervisor, lowest first: `hypervisor/docs/locking.md` gives the reasons.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Rank {
    /// The management channel.
    Control,
    /// A VM's life: its state, its power controller.
    Vm,
    /// One vCPU.
    Vcpu,
    /// One device model.
    Device,
    /// A network card of the host's, which is at a port of a switch.
    Link,
    /// Host back ends of devices (a switch, a disk).
    Backend,
    /// A VM's interrupt controller.
    Vgic,
    /// A VM's stage-2 tables and the VMIDs.
    Stage2,
    /// Physical frames.
    Frames,
    /// The heap.
    Heap,
    /// A pCPU's runqueue.
    Sched,
    /// The console.
    Console,
}

/// How a waiting CPU spends its time: `yield`.
#[derive(Debug)]
pub struct Yield;

impl RelaxStrategy for Yield {
    #[inline(always)]
    fn relax() {
        relax();
    }
}

/// One round of waiting for another CPU.
#[inline(always)]
pub fn relax() {
    #[cfg(target_arch = "aarch64")]
    // SAFETY: YIELD is a hint; it changes no register and no memory.
    unsafe {
        core::arch::asm!("yield", options(nomem, nostack, preserves_flags));
    }
    #[cfg(not(target_arch = "aarch64"))]
    core::hint::spin_loop();
}

/// A spin lock of a fixed [`Rank`].
#[derive(Debug)]
pub struct SpinLock<T: ?Sized> {
    rank: Rank,
    inner: SpinMutex<T, Yield>,
}

impl<T> SpinLock<T> {
    /// A free lock around `value`.
    pub const fn new(rank: Rank, value: T) -> Self {
        Self { rank, inner: SpinMutex::new(value) }
    }
    /// The value, when nobody else can hold the lock any more.
    pub fn into_inner(self) -> T {
        self.inner.into_inner()
    }
}

impl<T: ?Sized> SpinLock<T> {
    /// Waits for the lock. Its rank must be above that of every lock this CPU holds.
    #[inline]
    pub fn lock(&self) -> Guard<'_, T> {
        held::enter(self.rank, false);
        Guard { rank: self.rank, inner: self.inner.lock() }
    }
    /// Waits for a second lock of a rank that is already held. The caller takes the two by ascending id.
    #[inline]
    pub fn lock_second(&self) -> Guard<'_, T> {
        held::enter(self.rank, true);
        Guard { rank: self.rank, inner: self.inner.lock() }
    }
    /// The lock, if it is free now; for paths that must not wait (a fatal error's report).
    pub fn try_lock(&self) -> Option<Guard<'_, T>> {
        let inner = self.inner.try_lock()?;
        held::enter(self.rank, true);
        Some(Guard { rank: self.rank, inner })
    }
    /// The value, through an exclusive reference: no lock is needed.
    pub fn get_mut(&mut self) -> &mut T {
        self.inner.get_mut()
    }
}

/// A held [`SpinLock`]; dropping it frees the lock.
pub struct Guard<'a, T: ?Sized> {
    rank: Rank,
    inner: SpinMutexGuard<'a, T, Yield>,
}

impl<T: ?Sized> Deref for Guard<'_, T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T: ?Sized> DerefMut for Guard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}

impl<T: ?Sized> Drop for Guard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        held::leave(self.rank);
    }
}

#[cfg(not(any(test, feature = "check-ranks")))]
mod held {
    use super::Rank;
    #[inline(always)]
    pub fn enter(_: Rank, _: bool) {}
    #[inline(always)]
    pub fn leave(_: Rank) {}
}

#[cfg(any(test, feature = "check-ranks"))]
mod held {
    //! What this thread (a pCPU, on the target) holds.
    use super::Rank;
    use std::cell::RefCell;
    use std::vec::Vec;

    std::thread_local!(static HELD: RefCell<Vec<Rank>> = const { RefCell::new(Vec::new()) });

    pub fn enter(rank: Rank, same_allowed: bool) {
        HELD.with_borrow_mut(|held| {
            if let Some(&top) = held.iter().max() {
                let fine = if same_allowed { rank >= top } else { rank > top };
                assert!(fine, "lock order: {rank:?} is asked for while {top:?} is held");
            }
            held.push(rank);
        });
    }
    pub fn leave(rank: Rank) {
        HELD.with_borrow_mut(|held| {
            let at = held.iter().rposition(|&r| r == rank).expect("leaving a rank that was entered");
            held.remove(at);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::thread;

    #[test]
    fn the_order_is_checked() {
        let low = SpinLock::new(Rank::Vm, 1);
        let high = SpinLock::new(Rank::Sched, 2);
        {
            let a = low.lock();
            let b = high.lock();
            assert_eq!(*a + *b, 3);
        }
        let wrong = thread::spawn(move || {
            let _b = high.lock();
            let _a = low.lock();
        });
        assert!(wrong.join().is_err(), "taking Vm under Sched must be caught");
    }

    #[test]
    fn a_second_of_the_same_rank_is_asked_for_by_name() {
        let a = SpinLock::new(Rank::Device, ());
        let b = SpinLock::new(Rank::Device, ());
        let _a = a.lock();
        drop(b.lock_second());
        let wrong = thread::spawn(|| {
            let (a, b) = (SpinLock::new(Rank::Device, ()), SpinLock::new(Rank::Device, ()));
            let _a = a.lock();
            drop(b.lock());
        });
        assert!(wrong.join().is_err());
    }

    #[test]
    fn it_excludes() {
        let sum = Arc::new(SpinLock::new(Rank::Vm, 0u64));
        let threads: std::vec::Vec<_> = (0..4)
            .map(|_| {
                let sum = sum.clone();
                thread::spawn(move || (0..1000).for_each(|_| *sum.lock() += 1))
            })
            .collect();
        threads.into_iter().for_each(|t| t.join().unwrap());
        assert_eq!(*sum.lock(), 4000);
    }

    #[test]
    fn try_lock_does_not_wait() {
        let lock = SpinLock::new(Rank::Console, 5);
        let held = lock.lock();
        assert!(lock.try_lock().is_none());
        drop(held);
        assert_eq!(*lock.try_lock().unwrap(), 5);
    }
}
