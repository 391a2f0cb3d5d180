//! How VMs are paused and resumed, and how they end: by their own wish or by another's.
//!
//! Whoever ends, resets or pauses a VM takes its vCPUs from the pCPUs: those that run are asked to leave, the others are stopped or
//! held where they wait, and every pCPU lets go of the registers of the VM's vCPUs that it still has. All of them are counted;
//! the last one does what comes then ([`Cpu::let_go`]).

use crate::console;
use crate::construct::{self, Construction};
use crate::guest::Guest;
use crate::manage::News;
use crate::report::{self, Report};
use crate::run::{Cpu, End, Work};
use alloc::string::String;
use alloc::sync::Arc;
use core::sync::atomic::Ordering;
use proto::StopKind;
use sched::{EntityId, RunState};
use vm::{Life, Requests, StopReason};

/// How a vCPU leaves.
#[derive(Clone, Copy, PartialEq)]
enum How {
    Stop,
    Hold,
}

impl Cpu {
    /// Has [`Cpu::manage`] run soon, here.
    pub fn management_due(&self) {
        self.shared.manage_due.store(true, Ordering::SeqCst);
        self.shared.resched.store(true, Ordering::SeqCst);
    }

    /// Keeps a piece of news until management looks, here or on another pCPU. Whoever reads what is printed after it and then asks is
    /// answered accordingly.
    pub fn is_news(&self, news: News) {
        self.machine.untold.push(news);
        self.management_due();
    }

    /// Begins the end (or the reset) of a VM: from its vCPU `own`, which stops as well, or from outside. `false`: something else has
    /// begun already.
    pub fn stop(&mut self, guest: &Arc<Guest>, own: Option<u32>, reason: StopReason) -> bool {
        let to = if reason == StopReason::Reset { Life::Resetting } else { Life::Ending };
        {
            let mut stored = guest.reason.lock();
            match guest.vm.life() {
                Life::Running => {}
                Life::Pausing => {
                    // The pause comes first; the wish is kept.
                    stored.get_or_insert(reason);
                    return false;
                }
                Life::Resetting | Life::Ending | Life::Paused => return false,
            }
            // Set before anyone can let go.
            guest.stopping.store(self.holders(guest, own), Ordering::Release);
            *stored = Some(reason);
            guest.vm.leave_life(to);
        }
        guest.given.hold(guest, true);
        if reason == StopReason::Reset {
            self.is_news(News::Resetting(guest.number));
        }
        self.withdraw(guest, own, How::Stop);
        true
    }

    /// Begins a pause, from outside.
    pub fn pause(&mut self, guest: &Arc<Guest>) {
        {
            let _stored = guest.reason.lock();
            if guest.vm.life() != Life::Running {
                return;
            }
            guest.stopping.store(self.holders(guest, None), Ordering::Release);
            guest.vm.leave_life(Life::Pausing);
        }
        guest.given.hold(guest, true);
        self.withdraw(guest, None, How::Hold);
    }

    /// Lets a paused VM go on. Its time goes on where it stood.
    pub fn resume(&mut self, guest: &Arc<Guest>) {
        if !guest.vm.change_life(Life::Paused, Life::Running) {
            return;
        }
        // Before any of its vCPUs can run.
        let paused = el2::timer::now().wrapping_sub(guest.paused_at.load(Ordering::Relaxed));
        guest.counter_offset.fetch_add(paused, Ordering::AcqRel);
        guest.given.hold(guest, false);
        for id in guest.entities() {
            self.machine.unhold(id);
        }
    }

    /// Ends a VM that is being made, waits to be launched, runs or is paused.
    pub fn kill(&mut self, guest: &Arc<Guest>) {
        if guest.ready.lock().is_some() {
            // Made and not launched: it has run nowhere.
            self.gone(guest, StopKind::Killed, "killed");
            return;
        }
        guest.vm.change_life(Life::Paused, Life::Running);
        let launched = guest.handed.lock().is_some();
        if !launched || !self.stop(guest, None, StopReason::Killed) {
            // Its construction sees it.
            guest.cancelled.store(true, Ordering::Release);
        }
    }

    /// How many have to let go of a VM.
    fn holders(&self, guest: &Guest, own: Option<u32>) -> u32 {
        let pcpus = self.machine.pcpus.len() as u32;
        // This pCPU's registers are those of `own`, and go with it.
        guest.spec.vcpus + if own.is_some() { pcpus - 1 } else { pcpus }
    }

    /// Takes all vCPUs but `own` from the pCPUs, and has all pCPUs let go.
    fn withdraw(&mut self, guest: &Arc<Guest>, own: Option<u32>, how: How) {
        for vcpu in (0..guest.spec.vcpus).filter(|v| Some(*v) != own) {
            if self.withdraw_one(guest, vcpu, how) {
                self.let_go(guest);
            }
        }
        for (number, pcpu) in self.machine.pcpus.iter().enumerate().filter(|(n, _)| *n != self.pcpu.number()) {
            pcpu.evict.lock().push(guest.clone());
            pcpu.evict_asked.store(true, Ordering::SeqCst);
            pcpu.resched.store(true, Ordering::SeqCst);
            self.machine.kick(number);
        }
        if own.is_none() {
            self.drop_resident(guest);
            self.let_go(guest);
        }
    }

    /// Stops or holds one vCPU. `true`: it has let go; otherwise its pCPU will say so.
    fn withdraw_one(&mut self, guest: &Arc<Guest>, vcpu: u32, how: How) -> bool {
        let id = guest.entity(vcpu);
        let Some(slot) = self.machine.slot(id) else { return true };
        loop {
            let home = slot.home.load(Ordering::Acquire);
            let Some(pcpu) = self.machine.pcpus.get(home) else { return true };
            let now = crate::time::now_ns();
            let mut sched = pcpu.sched.lock();
            let state = match how {
                How::Stop => sched.queue.stop(id, now),
                How::Hold => sched.queue.hold(id, now),
            };
            drop(sched);
            match state {
                Ok(RunState::Running) => {
                    guest.vm.vgic().ask(vcpu, Requests::LIFE);
                    return false;
                }
                Ok(_) => {
                    if how == How::Stop {
                        self.machine.off(id);
                    }
                    return true;
                }
                Err(sched::Error::NotHere) => sync::relax(),
                Err(_) => return true,
            }
        }
    }

    /// Lets go of the registers of vCPUs whose VM stops or pauses.
    pub fn evictions(&mut self) {
        if !self.shared.evict_asked.swap(false, Ordering::AcqRel) {
            return;
        }
        if self.shared.strays.swap(false, Ordering::AcqRel) {
            self.send_strays();
        }
        let asked = core::mem::take(&mut *self.shared.evict.lock());
        for guest in asked {
            self.drop_resident(&guest);
            self.let_go(&guest);
        }
    }

    /// Saves the registers of a VM's vCPU if this pCPU has them.
    fn drop_resident(&mut self, guest: &Arc<Guest>) {
        if self.resident.as_ref().is_some_and(|(_, g, _)| Arc::ptr_eq(g, guest)) {
            self.evict(false);
            self.shared.sched.lock().queue.set_resident(None);
        }
    }

    /// One vCPU has left for good or for a while: its registers are saved, and its VM is let go.
    pub fn has_left(&mut self, id: EntityId, guest: &Arc<Guest>, state: RunState) {
        if state != RunState::Held {
            self.machine.off(id);
        }
        self.evict(false);
        self.shared.sched.lock().queue.set_resident(None);
        if state != RunState::Off {
            self.let_go(guest);
        }
    }

    /// One of those who had to let go of a VM has; the last one does what comes then.
    #[inline(never)]
    fn let_go(&mut self, guest: &Arc<Guest>) {
        if guest.stopping.fetch_sub(1, Ordering::AcqRel) != 1 {
            return;
        }
        match guest.vm.life() {
            Life::Resetting => {
                guest.reason.lock().take();
                report::life(self.machine, guest, trace::Life::Resets);
                self.work.push(Work::Construct(Construction::again(self.machine, guest.clone())));
            }
            Life::Pausing => self.has_paused(guest),
            Life::Ending | Life::Running | Life::Paused => self.has_ended(guest),
        }
    }

    fn has_paused(&mut self, guest: &Arc<Guest>) {
        guest.entities().for_each(|id| construct::cancel_timers(self.machine, id));
        guest.paused_at.store(el2::timer::now(), Ordering::Relaxed);
        let wish = {
            let mut stored = guest.reason.lock();
            let wish = stored.take();
            let to = if wish.is_some() { Life::Running } else { Life::Paused };
            guest.vm.change_life(Life::Pausing, to);
            wish
        };
        match wish {
            // One of its vCPUs wanted to end it, or to reset it, on its way out.
            Some(reason) => {
                self.stop(guest, None, reason);
            }
            None => self.is_news(News::Paused(guest.number)),
        }
    }

    fn has_ended(&mut self, guest: &Arc<Guest>) {
        let why: String = match *guest.reason.lock() {
            Some(StopReason::PowerOff) | None => "powered off".into(),
            Some(StopReason::AllOff) => "all its vCPUs are off".into(),
            Some(StopReason::Killed) => "killed".into(),
            Some(StopReason::Reset) => "reset".into(),
            Some(StopReason::SystemError { iss }) => alloc::format!("system error {iss:#x}"),
        };
        report::life(self.machine, guest, trace::Life::Ends);
        match self.machine.tracing().then(|| Report::of(guest, Some(why.clone()))).flatten() {
            Some(report) => self.work.push(Work::Report(report)),
            None => self.ended(guest, why),
        }
    }

    /// A VM has ended, and all is said about it: what its devices have taken goes back, then all the rest.
    pub fn ended(&mut self, guest: &Arc<Guest>, why: String) {
        guest.vm.quiesce();
        self.give_back(guest, End::Ended(why));
    }

    /// A VM could not be made, or is not wanted any more.
    pub fn refuse(&mut self, guest: &Arc<Guest>, why: String) {
        guest.vm.quiesce();
        self.give_back(guest, End::Refused(why));
    }

    /// A step of what its devices give back; the rest when they have nothing any more.
    pub fn give_back(&mut self, guest: &Arc<Guest>, end: End) {
        match (guest.io.give_back(self.machine, guest.account), end) {
            (false, end) => self.work.push(Work::GiveBack(guest.clone(), end)),
            (true, End::Ended(why)) => self.has_stopped(guest, &why),
            (true, End::Refused(why)) => self.is_refused(guest, why),
        }
    }

    fn has_stopped(&mut self, guest: &Arc<Guest>, why: &str) {
        let kind = match guest.reason.lock().take() {
            Some(StopReason::PowerOff) | None => StopKind::PoweredOff,
            Some(StopReason::AllOff) => StopKind::AllOff,
            Some(StopReason::Killed) => StopKind::Killed,
            Some(StopReason::Reset) => StopKind::Failed,
            Some(StopReason::SystemError { .. }) => StopKind::SystemError,
        };
        self.gone(guest, kind, why);
    }

    fn is_refused(&mut self, guest: &Arc<Guest>, why: String) {
        let cancelled = guest.cancelled.load(Ordering::Acquire);
        // One that had run was met in the middle of a reset.
        let line = match cancelled && guest.resets.load(Ordering::Relaxed) != 0 {
            true => alloc::format!("vm \"{}\" ended: killed", guest.spec.name),
            false => alloc::format!("refused: vm \"{}\": {why}", guest.spec.name),
        };
        let number = guest.number;
        construct::dismantle(self.machine, guest);
        self.is_news(if cancelled { News::Ended(number, StopKind::Killed) } else { News::Failed(number, why) });
        console::say!("{line}");
        if self.machine.alive.fetch_sub(1, Ordering::AcqRel) == 1 && !self.machine.stay {
            if cancelled {
                crate::fatal::halt(self.machine.firmware);
            }
            crate::fatal::fatal(format_args!("no VM could be started"));
        }
    }

    fn gone(&mut self, guest: &Arc<Guest>, kind: StopKind, why: &str) {
        construct::dismantle(self.machine, guest);
        self.is_news(News::Ended(guest.number, kind));
        console::say!("vm \"{}\" ended: {why}", guest.spec.name);
        construct::look_back(self.machine, guest);
        if self.machine.alive.fetch_sub(1, Ordering::AcqRel) == 1 && !self.machine.stay {
            crate::fatal::halt(self.machine.firmware);
        }
    }
}
