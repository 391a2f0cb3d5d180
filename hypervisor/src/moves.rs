//! vCPUs that go from one pCPU's runqueue to another's: stolen by an idle pCPU, given away at the end of a slice, placed where they run
//! sooner, or sent away because they may not run there any more.

use crate::console::say;
use crate::guest::Guest;
use crate::machine::Machine;
use crate::run::Cpu;
use core::sync::atomic::Ordering;
use sched::{Affinity, Class, Enqueued, EntityId, RunQueue, Stolen, place};
use trace::What;

impl Machine {
    /// Puts what was taken from pCPU `from`'s queue into `to`'s; where that refuses it, back, or wherever it may run. Returns where
    /// it is now and what its pCPU must do about it. The queues' locks are free.
    pub fn deliver(&self, stolen: Stolen, from: usize, to: usize) -> (usize, Option<Enqueued>) {
        let id = stolen.id();
        let mut moving = stolen;
        for at in [to, from].into_iter().chain(0..self.pcpus.len()) {
            match self.receive(moving, at) {
                Ok(effect) => {
                    self.note_vcpu(id, What::Moved, from as u64);
                    return (at, effect);
                }
                Err(refused) => moving = refused,
            }
        }
        // All that it may run on have become partitions' while it was between two queues: better elsewhere than nowhere.
        let mut moving = moving.allow(Affinity::ALL);
        for at in 0..self.pcpus.len() {
            match self.receive(moving, at) {
                Ok(effect) => return (at, effect),
                Err(refused) => moving = refused,
            }
        }
        say!("vCPU {} has no pCPU left", id.0);
        (from, None)
    }

    fn receive(&self, stolen: Stolen, at: usize) -> Result<Option<Enqueued>, Stolen> {
        let id = stolen.id();
        let Some(pcpu) = self.pcpus.get(at) else { return Err(stolen) };
        let mut sched = pcpu.sched.lock();
        let received = sched.queue.receive(stolen, crate::time::now_ns());
        if received.is_ok()
            && let Some(slot) = self.slot(id)
        {
            // Under the queue's lock: it may be on its way to the next one as soon as that is free.
            slot.home.store(at, Ordering::Release);
        }
        received
    }

    /// Takes a vCPU that has become Ready in pCPU `home`'s queue and preempts nobody there out of it, if another pCPU would run it
    /// sooner: that one.
    pub fn sooner(&self, queue: &mut RunQueue, id: EntityId, home: usize, now: u64) -> Option<(Stolen, usize)> {
        if self.pcpus.len() == 1 {
            return None;
        }
        let (allowed, class) = (queue.affinity(id)?, queue.class(id)?);
        let better = self.place_for(home, allowed, class).filter(|at| *at != home)?;
        Some((queue.take(id, now).ok()?, better))
    }

    /// The pCPU on which a vCPU of `home` would run soonest.
    pub fn place_for(&self, home: usize, allowed: Affinity, class: Class) -> Option<usize> {
        place(|pcpu| self.shares.view(pcpu), self.pcpus.len(), home, allowed, class, false)
    }

    /// Does something with the queue that a vCPU is in.
    pub fn at_home<T>(
        &self,
        id: EntityId,
        mut what: impl FnMut(&mut RunQueue, usize) -> Result<T, sched::Error>,
    ) -> Result<T, sched::Error> {
        loop {
            let home = self.slot(id).map(|slot| slot.home.load(Ordering::Acquire));
            let Some((home, pcpu)) = home.and_then(|home| Some((home, self.pcpus.get(home)?))) else {
                return Err(sched::Error::NotHere);
            };
            let done = what(&mut pcpu.sched.lock().queue, home);
            match done {
                // On its way from one queue to another.
                Err(sched::Error::NotHere) if self.slot(id).is_some_and(|slot| slot.owner.lock().is_some()) => {
                    sync::relax();
                }
                done => return done,
            }
        }
    }

    /// Has the vCPUs leave the pCPUs on which they may not run any more.
    pub fn disperse(&self) {
        for (number, pcpu) in self.pcpus.iter().enumerate() {
            pcpu.strays.store(true, Ordering::SeqCst);
            pcpu.evict_asked.store(true, Ordering::SeqCst);
            self.preempt(number);
        }
    }

    /// The vCPUs in pCPU `number`'s queue, as far as they stay there.
    pub fn living_at(&self, number: usize) -> impl Iterator<Item = EntityId> {
        let here = move |(id, slot): (usize, &crate::slots::Slot)| {
            (slot.home.load(Ordering::Acquire) == number).then_some(EntityId(id as u32))
        };
        self.slots.iter().filter_map(here)
    }
}

impl Cpu {
    /// Takes a ready vCPU from another pCPU.
    pub fn steal(&mut self) -> bool {
        let own = self.pcpu.number();
        for (number, other) in self.machine.pcpus.iter().enumerate() {
            if number == own {
                continue;
            }
            let stolen = {
                let mut sched = other.sched.lock();
                // The last one that is ready there may be about to run.
                let spare = sched.queue.running().is_some() || sched.queue.ready_count() > 1;
                if spare && !self.machine.owned(own) { sched.queue.steal(own, crate::time::now_ns()) } else { None }
            };
            let Some(stolen) = stolen else { continue };
            let (at, effect) = self.machine.deliver(stolen, number, own);
            if at == own {
                self.shared.steals.fetch_add(1, Ordering::Relaxed);
                return true;
            }
            if let Some(effect) = effect {
                self.machine.enqueued(at, effect);
            }
        }
        false
    }

    /// Passes on what the queue has given away at the end of a slice.
    #[inline(never)]
    pub fn pass_on(&mut self, stolen: Stolen, to: usize) {
        let (at, effect) = self.machine.deliver(stolen, self.pcpu.number(), to);
        if let Some(effect) = effect {
            self.machine.enqueued(at, effect);
        }
    }

    /// The running vCPU spins: another one of its VM that waits here, and may hold what it spins for, goes next.
    #[inline(never)]
    pub fn favour_sibling(&mut self, guest: &Guest, vcpu: u32) {
        let count = guest.spec.vcpus;
        if count < 2 {
            return;
        }
        let (own, now) = (self.pcpu.number(), crate::time::now_ns());
        let mut sched = self.shared.sched.lock();
        if !sched.queue.contended() {
            return;
        }
        let others = (1..count).map(|n| guest.entity((vcpu + n) % count));
        let here = |id: &EntityId| self.machine.slot(*id).is_some_and(|slot| slot.home.load(Ordering::Acquire) == own);
        for sibling in others.filter(here) {
            if sched.queue.yield_to(sibling, now) == Ok(true) {
                return;
            }
        }
    }

    /// Sends away those that may not run here any more. Nothing runs here meanwhile.
    pub fn send_strays(&mut self) {
        let (machine, own) = (self.machine, self.pcpu.number());
        for id in machine.living_at(own) {
            let allowed = self.shared.sched.lock().queue.affinity(id);
            let Some(allowed) = allowed.filter(|allowed| !allowed.has(own)) else { continue };
            if self.resident.as_ref().is_some_and(|(resident, ..)| *resident == id) {
                self.evict(true);
                self.shared.sched.lock().queue.set_resident(None);
            }
            let Some(to) = machine.place_for(own, allowed, Class::Fair) else { continue };
            let taken = self.shared.sched.lock().queue.take(id, crate::time::now_ns());
            if let Ok(stolen) = taken {
                self.pass_on(stolen, to);
            }
        }
    }
}
