//! What comes before each entry: requests, list registers, deadlines; and sleeping in place of a vCPU.

use super::*;

impl Cpu {
    /// Does something for the loaded vCPU with its list registers put, so that nothing of them is asked for meanwhile.
    #[inline(always)]
    pub(super) fn quietly<G: Controller, T>(
        &mut self,
        guest: &Guest,
        vcpu: u32,
        what: impl FnOnce(&mut Self) -> T,
    ) -> T {
        guest.vm.vgic().change(|vgic| vgic.put(vcpu, G::lists(&mut self.gic)));
        let result = what(self);
        guest.vm.vgic().lock().load(vcpu, G::lists(&mut self.gic));
        result
    }

    /// Sleeps in place of a blocked vCPU while nobody else wants this pCPU: no switch, no queue. `Some`: the vCPU goes on,
    /// `true` where its timer woke it.
    #[inline(never)]
    pub(super) fn doze<const TRACED: bool, G: Controller>(
        &mut self,
        guest: &Guest,
        vcpu: u32,
        port: &Port,
    ) -> Option<bool> {
        self.quietly::<G, _>(guest, vcpu, |cpu| {
            let start = el2::timer::now();
            let mut end = start;
            cpu.shared.idle.store(true, Ordering::SeqCst);
            let woken = loop {
                // As in `idle`: whoever has something for this pCPU sees the flag and kicks.
                let wanted = cpu.shared.resched.load(Ordering::SeqCst)
                    || !cpu.work.is_empty()
                    || cpu.shared.sched.lock().queue.ready_count() != 0
                    || cpu.steal();
                if wanted {
                    break None;
                }
                if !port.requests().is_empty() {
                    break Some(false);
                }
                if cpu.timer_changed {
                    interrupts::set_timer(cpu);
                    if !cpu.company.native {
                        // It has been limited meanwhile, or somebody will soon be ready: for the queue, it sleeps.
                        break None;
                    }
                }
                el2::gic::wait_for_interrupt();
                end = el2::timer::now();
                if interrupts::wakened::<G>(cpu, guest, vcpu) {
                    break Some(true);
                }
            };
            cpu.shared.idle.store(false, Ordering::SeqCst);
            if let Some(slot) = cpu.machine.slot(guest.entity(vcpu)) {
                // Only this pCPU writes it now.
                let slept = slot.slept.load(Ordering::Relaxed).wrapping_add(end.wrapping_sub(start));
                slot.slept.store(slept, Ordering::Relaxed);
            }
            if TRACED {
                observe::dozed(cpu.machine, guest, vcpu, start, woken.is_some().then_some(end));
            }
            woken
        })
    }

    /// Sets the timer and the traps of WFI and WFE as the queue now has it.
    #[inline(never)]
    pub(super) fn before_entry(&mut self) {
        interrupts::set_timer(self);
        let Company { contended, native, owned } = self.company;
        // A vCPU may sleep natively only while nobody else could want this pCPU, and its sleep counts against no limit.
        let wfi = !native || (!owned && self.machine.crowded()) || !self.work.is_empty();
        // One that spins for a lock keeps its pCPU unless another vCPU, who may hold the lock, waits for it.
        self.pcpu.trap_waits(wfi, contended);
    }

    /// Everything that has to be right before the next entry. `Some`: the vCPU has to leave. Long work of the guest's own is
    /// done here piece by piece, and others are looked after in between.
    #[inline(never)]
    pub(super) fn gate<const TRACED: bool, G: Controller>(
        &mut self,
        guest: &Arc<Guest>,
        runner: &mut Box<Runner>,
    ) -> Option<Why> {
        loop {
            if let Some(why) = self.attend::<TRACED, G>(guest, runner) {
                return Some(why);
            }
            if !runner.vcpu.cleans() || !self.clean::<G>(guest, runner) {
                return None;
            }
        }
    }

    /// Looks after whatever has come up. `Some`: the vCPU has to leave.
    #[inline]
    pub(super) fn attend<const TRACED: bool, G: Controller>(
        &mut self,
        guest: &Arc<Guest>,
        runner: &mut Box<Runner>,
    ) -> Option<Why> {
        let index = runner.vcpu.index;
        let port = guest.vm.port(index)?;
        if self.shared.resched.load(Ordering::SeqCst) {
            return Some(Why::Preempted);
        }
        loop {
            runner.vcpu.flush_due = false;
            if !port.requests().is_empty()
                && let Some(why) = self.requests::<G>(guest, runner, port)
            {
                return Some(why);
            }
            let mut vgic = guest.vm.vgic().lock();
            if TRACED {
                let mut lists = Watched::new(G::lists(&mut self.gic));
                vgic.flush(index, &mut lists);
                lists.note(self.machine, guest, index);
            } else {
                vgic.flush(index, G::lists(&mut self.gic));
            }
            let mut whom = vgic.take_notify();
            drop(vgic);
            whom.remove(index);
            if !whom.is_empty() {
                guest.vm.vgic().tell(whom);
            }
            // Someone may have asked before the flush made the list registers live, and looks at them now.
            if port.requests().is_empty() {
                break;
            }
        }
        if self.timer_changed {
            self.before_entry();
        }
        None
    }

    /// Serves what others ask of the vCPU. `Some`: it has to leave.
    #[inline(never)]
    pub(super) fn requests<G: Controller>(
        &mut self,
        guest: &Arc<Guest>,
        runner: &mut Box<Runner>,
        port: &Port,
    ) -> Option<Why> {
        let index = runner.vcpu.index;
        let requests = port.take();
        if requests.has(Requests::LIFE) && guest.vm.life() != Life::Running {
            // A pause ends, and nobody says this twice.
            if requests.has(Requests::DEVICES) {
                port.ask(Requests::DEVICES);
            }
            return Some(Why::Preempted);
        }
        if requests.has(Requests::TIMER) {
            // The virtual timer's deadline may have passed on another pCPU when this one had taken over already.
            runner.vcpu.tick = true;
            self.look_at_timer::<G>(guest, runner);
            let mut hardware =
                hardware::<G>(&mut self.pcpu, &mut self.gic, self.machine, runner.id, &mut self.timer_changed);
            runner.vcpu.timer_due(&guest.vm, &mut hardware);
        }
        if requests.has(Requests::DEVICES) && guest.io.attend(self.machine, guest.account) {
            // Whoever waits for the pCPU is asked first.
            port.ask(Requests::DEVICES);
            return Some(Why::Preempted);
        }
        if requests.has(Requests::REPORT) {
            report::line(self.machine, guest, &runner.vcpu);
        }
        if requests.held() {
            self.sync::<G>(guest, index);
            while port.requests().held() {
                sync::relax();
            }
        }
        None
    }

    /// The next piece of what a set/way operation asks for: from the caches to memory. `false`: there is none left.
    #[cold]
    #[inline(never)]
    pub(super) fn clean<G: Controller>(&mut self, guest: &Guest, runner: &mut Runner) -> bool {
        // 64-byte lines at some three instructions each: within the budget of 10,000 for one stretch.
        const STEP: u64 = 128 << 10;
        let Some(piece) = runner.vcpu.next_to_clean(&guest.ram, STEP) else { return false };
        self.quietly::<G, _>(guest, runner.vcpu.index, |cpu| {
            el2::ram::clean_invalidate(piece, cpu.pcpu.features().dline);
            interrupts::poll(cpu);
        });
        true
    }
}
