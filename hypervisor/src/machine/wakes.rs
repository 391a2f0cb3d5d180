//! Who has to look up, and why: pCPUs are kicked, vCPUs are started, woken and let go.

use super::{Machine, Pcpu};
use crate::guest::Guest;
use alloc::sync::Arc;
use core::sync::atomic::Ordering;
use memory::HandedOver;
use sched::{EntityId, Started, Wake};
use trace::{NOBODY, What};

impl Machine {
    /// Starts a VM by its vCPU 0, with the memory that was handed over to it. `false`: that is another's.
    pub fn launch(&self, guest: &Guest, memory: HandedOver) -> bool {
        if !memory.is(&guest.ram) {
            return false;
        }
        let memory = Arc::new(memory);
        *guest.handed.lock() = Some(memory.clone());
        self.start(guest.entity(0), &memory);
        true
    }
    /// Starts another vCPU of a VM that was launched (PSCI CPU_ON); of one that was not, nothing.
    pub fn cpu_on(&self, id: EntityId) {
        let Some(slot) = self.slot(id) else { return };
        let owner = slot.owner.lock().clone();
        let Some((guest, _)) = owner else { return };
        let memory = guest.handed.lock().clone();
        if let Some(memory) = memory {
            self.start(id, &memory);
        }
    }
    /// Has pCPU `number` look up.
    pub fn kick(&self, number: usize) {
        if number != el2::number()
            && let Some(pcpu) = self.pcpus.get(number)
        {
            self.note(NOBODY, What::Kick, number as u64);
            pcpu.recheck.store(true, Ordering::SeqCst);
            self.kicker.kick(pcpu.kick);
        }
    }
    /// Has pCPU `number` look at what is asked of the vCPU that runs there, and at nothing else: neither its timer nor its traps
    /// have to change.
    fn poke(&self, number: usize) {
        if number != el2::number()
            && let Some(pcpu) = self.pcpus.get(number)
        {
            self.note(NOBODY, What::Kick, number as u64);
            self.kicker.kick(pcpu.kick);
        }
    }
    /// Has every pCPU look up, this one as well.
    fn kick_all(&self) {
        for pcpu in &self.pcpus {
            pcpu.recheck.store(true, Ordering::SeqCst);
            self.kicker.kick(pcpu.kick);
        }
    }
    /// Has pCPU `number` put what it runs and pick again.
    pub fn preempt(&self, number: usize) {
        if let Some(pcpu) = self.pcpus.get(number) {
            pcpu.resched.store(true, Ordering::SeqCst);
            pcpu.recheck.store(true, Ordering::SeqCst);
            // Also to itself: a kick is what makes a pCPU look.
            self.kicker.kick(pcpu.kick);
        }
    }
    /// Has this pCPU take an interrupt, and look up.
    pub fn kick_self(&self) {
        if let Some(pcpu) = self.pcpus.get(el2::number()) {
            self.kicker.kick(pcpu.kick);
        }
    }
    /// A vCPU waits on pCPU `home`: an idle one is asked to take it.
    pub fn offer(&self, home: usize) {
        let idle = |(n, p): (usize, &Pcpu)| (n != home && p.idle.load(Ordering::SeqCst) && !self.owned(n)).then_some(n);
        if let Some(idle) = self.pcpus.iter().enumerate().find_map(idle) {
            self.kick(idle);
        }
    }
    /// Whether pCPU `number` is a partition's: nobody else may run there.
    pub fn owned(&self, number: usize) -> bool {
        self.shares.view(number).is_some_and(|view| view.owned)
    }
    /// A vCPU has become ready on pCPU `home`.
    pub fn enqueued(&self, home: usize, effect: sched::Enqueued) {
        if effect.preempt {
            self.preempt(home);
            return;
        }
        self.offer(home);
        if effect.tick.is_some() {
            // The one that runs there was alone and has an end of slice now: its pCPU's timer has to be set.
            if home == el2::number() {
                self.preempt(home);
            } else {
                self.kick(home);
            }
        }
    }
    /// Wakes a vCPU, or kicks its pCPU.
    pub fn wake(&self, id: EntityId) {
        let Some(slot) = self.slot(id) else { return };
        loop {
            let home = slot.home.load(Ordering::Acquire);
            let Some(pcpu) = self.pcpus.get(home) else { return };
            let (woken, sooner) = {
                let mut sched = pcpu.sched.lock();
                let now = crate::time::now_ns();
                let woken = sched.queue.wake(id, now);
                let waits = matches!(woken, Wake::Enqueued(effect) if !effect.preempt);
                (woken, if waits { self.sooner(&mut sched.queue, id, home, now) } else { None })
            };
            match woken {
                Wake::Enqueued(effect) => {
                    self.note_vcpu(id, What::Wake, 0);
                    let Some((stolen, to)) = sooner else { return self.enqueued(home, effect) };
                    let (at, effect) = self.deliver(stolen, home, to);
                    if let Some(effect) = effect {
                        self.enqueued(at, effect);
                    }
                    return;
                }
                Wake::Running => return self.poke(home),
                Wake::AlreadyReady | Wake::Off => return,
                // On its way from one queue to another.
                Wake::NotHere => sync::relax(),
            }
        }
    }
    /// Lets a held vCPU go.
    pub fn unhold(&self, id: EntityId) {
        let Some(slot) = self.slot(id) else { return };
        loop {
            let home = slot.home.load(Ordering::Acquire);
            let Some(pcpu) = self.pcpus.get(home) else { return };
            let effect = pcpu.sched.lock().queue.unhold(id, crate::time::now_ns());
            match effect {
                Ok(Some(effect)) => return self.enqueued(home, effect),
                Err(sched::Error::NotHere) => sync::relax(),
                Ok(None) | Err(_) => return,
            }
        }
    }
    /// Makes a vCPU ready that was off, of the VM whose memory this is. What it starts with is in its port.
    fn start(&self, id: EntityId, _: &HandedOver) {
        let Some(slot) = self.slot(id) else { return };
        if !slot.on.swap(true, Ordering::AcqRel) {
            self.wanting.fetch_add(1, Ordering::Relaxed);
        }
        loop {
            let home = slot.home.load(Ordering::Acquire);
            let Some(pcpu) = self.pcpus.get(home) else { return };
            let started = pcpu.sched.lock().queue.start(id, crate::time::now_ns());
            match started {
                Ok(Started::Enqueued(effect)) => {
                    self.enqueued(home, effect);
                    break;
                }
                Ok(Started::WhenPut) => break,
                Err(sched::Error::NotHere) => sync::relax(),
                // Stopping: the VM's reset or end comes first.
                Err(_) => return self.off(id),
            }
        }
        if self.crowded() {
            // A vCPU in a native WFI must not keep its pCPU from the newcomer, here neither.
            self.kick_all();
        }
    }
    /// A vCPU is off, or its VM has ended.
    pub fn off(&self, id: EntityId) {
        if self.slot(id).is_some_and(|slot| slot.on.swap(false, Ordering::AcqRel)) {
            self.wanting.fetch_sub(1, Ordering::Relaxed);
        }
    }
    /// Whether there are more vCPUs on than pCPUs.
    #[inline]
    pub fn crowded(&self) -> bool {
        self.wanting.load(Ordering::Relaxed) as usize > self.pcpus.len()
    }
}
