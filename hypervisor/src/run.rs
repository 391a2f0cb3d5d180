//! One pCPU's life: pick, load, enter, handle, put.
//!
//! ```text
//! run: poll interrupts -> one step of pending work -> pick -> run_vcpu | idle
//! run_vcpu: take the runner -> switch to it -> { gate -> enter -> exit -> handle }* -> put
//! ```
//!
//! A vCPU that blocks keeps its registers in the pCPU until another one is loaded (it is *resident*): the common case, a guest
//! that sleeps and wakes alone, costs no switch. Its list registers are folded all the same, so that nobody has to ask for them.

mod exit;
mod gate;
mod switch;

pub use switch::hardware;

use crate::console;
use crate::construct::{self, Construction, Progress};
use crate::gic::{Controller, PcpuGic, by_kind};
use crate::guest::{Guest, Runner};
use crate::interrupts;
use crate::machine::{Machine, Pcpu};
use crate::manage::News;
use crate::observe::{self, Stretch, Watched};
use crate::report::{self, Report};
use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use config::board::Ppis;
use core::sync::atomic::Ordering;
use el2::vectors::Left;
use sched::{EntityId, Pick, RunState, Why};
use trap::{Exit, RawExit, SErrorAction, SErrorSyndrome, Vector, decode};
use vm::{Life, Next, Port, Requests, StopReason, handle, quick};

/// Room for VMs under construction on a pCPU, so that a reset need not allocate it.
pub const WORK: usize = 8;

/// What a pCPU keeps for itself.
pub struct Cpu {
    /// The machine.
    pub machine: &'static Machine,
    /// Itself, as the others see it.
    pub shared: &'static Pcpu,
    /// The hardware.
    pub pcpu: el2::Pcpu,
    /// Its interrupt controller.
    pub gic: PcpuGic,
    /// The private interrupts that are Merus' own, by the board's numbers.
    pub ppis: Ppis,
    /// Whose registers are in the hardware.
    pub resident: Option<(EntityId, Arc<Guest>, u32)>,
    /// What the loaded vCPU has beside it, as [`interrupts::set_timer`] saw it last.
    pub company: Company,
    /// CNTHP has to be set again before the next entry or sleep.
    pub timer_changed: bool,
    /// Long work that is done here, in steps.
    pub work: Vec<Work>,
    /// The byte in the UART's receiver has no room in its VM.
    pub input_waits: bool,
    /// When to try again what waits for its turn beside busy guests (`work`, input), in ns.
    pub retry_at: Option<u64>,
}

/// Who is on a pCPU beside the vCPU that has it. Whoever changes that kicks the pCPU, or sets its flag `resched`.
#[derive(Clone, Copy, Default)]
pub struct Company {
    /// Others wait for it.
    pub contended: bool,
    /// It may sleep as long as it likes while the scheduler takes it for running: nobody waits, and nothing limits it.
    pub native: bool,
    /// The pCPU is a partition's.
    pub owned: bool,
}

/// How long work goes on before guests get their turn, in ns; one more step comes on top.
const AT_A_TIME: u64 = 8_000;

/// Work that is longer than a guest should wait.
pub enum Work {
    /// A VM is being made.
    Construct(Construction),
    /// A VM's counters are being printed.
    Report(Report),
    /// A VM that is no more gives back what its devices have taken.
    GiveBack(Arc<Guest>, End),
}

/// How a VM comes to its end.
pub enum End {
    /// It has run: why it does not any more.
    Ended(String),
    /// It could not be made, or is not wanted.
    Refused(String),
}

/// Why `run_vcpu` came back.
enum Ended {
    Put(Why),
    Stop(StopReason),
}

impl Cpu {
    /// A pCPU that has nothing to do yet.
    pub fn new(machine: &'static Machine, shared: &'static Pcpu, pcpu: el2::Pcpu, gic: PcpuGic) -> Self {
        Self {
            machine,
            shared,
            pcpu,
            gic,
            ppis: machine.ppis,
            resident: None,
            company: Company::default(),
            timer_changed: true,
            work: Vec::with_capacity(WORK),
            input_waits: false,
            retry_at: None,
        }
    }

    /// Whether the guest's timer interrupt is active here, for hardware.
    fn set_timer_active(&self, active: bool) {
        self.gic.set_timer_active(active);
    }

    /// For ever.
    pub fn run(&mut self) -> ! {
        // When the vCPU that ran last left, where there was nothing to do since but to find the next one.
        let mut left = None;
        loop {
            // What these wake is picked below: no reason for whoever is picked to leave again.
            interrupts::poll(self);
            // Whoever asks from here on is seen below, or makes the next guest leave at once.
            self.shared.resched.store(false, Ordering::SeqCst);
            self.evictions();
            if self.has_steps() {
                left = None;
            }
            self.step_work();
            if self.shared.manage_due.swap(false, Ordering::SeqCst) {
                self.manage();
            }
            let now = crate::time::now_ns();
            let from = left.take().unwrap_or(now);
            let picked = self.shared.sched.lock().queue.pick_from(now, from);
            match picked {
                Some(pick) => left = self.run_vcpu(pick, from),
                None if self.work.is_empty() => self.idle(),
                None => {}
            }
        }
    }

    #[inline(never)]
    fn step_work(&mut self) {
        let Some(work) = self.work.pop() else { return };
        match work {
            Work::Construct(work) => match work.step(self.machine, el2::timer::now() + crate::time::ticks(AT_A_TIME)) {
                Progress::More(work) => self.work.push(Work::Construct(work)),
                Progress::Done(guest) => self.made(&guest),
                Progress::Refused(guest, why) => self.refuse(&guest, why),
            },
            Work::Report(report) => match report.step(self.machine) {
                report::Progress::More(report) => self.work.push(Work::Report(report)),
                report::Progress::Done(guest, Some(why)) => self.ended(&guest, why),
                report::Progress::Done(_, None) => {}
            },
            Work::GiveBack(guest, end) => self.give_back(&guest, end),
        }
    }

    /// Begins a report about a VM, unless there is one on its way, or no room for it.
    pub fn report(&mut self, guest: &Arc<Guest>) {
        if self.work.len() < WORK
            && let Some(report) = Report::of(guest, None)
        {
            self.work.push(Work::Report(report));
        }
    }

    /// Whether there are steps to be taken between guests.
    #[inline]
    pub fn has_steps(&self) -> bool {
        !self.work.is_empty() || self.shared.manage_due.load(Ordering::Relaxed)
    }

    /// A VM's memory is ready. The first time management says when it runs; after a reset it runs.
    fn made(&mut self, guest: &Arc<Guest>) {
        let number = guest.number;
        if guest.cancelled.load(Ordering::Acquire) {
            self.refuse(guest, "given up before it ran".into());
        } else if guest.resets.load(Ordering::Relaxed) == 0 {
            self.is_news(News::Made(number));
        } else {
            // First: once it runs, it may end on another pCPU.
            self.is_news(News::Restarted(number));
            construct::launch(self.machine, guest);
        }
    }

    fn idle(&mut self) {
        self.shared.idle.store(true, Ordering::SeqCst);
        // Whoever makes a vCPU ready from here on, here or elsewhere, sees `idle` and kicks: that ends the WFI below.
        let nothing = !self.steal() && self.shared.sched.lock().queue.ready_count() == 0;
        let asked = self.shared.evict_asked.load(Ordering::SeqCst) || self.shared.manage_due.load(Ordering::SeqCst);
        if nothing && !asked {
            interrupts::set_timer(self);
            el2::gic::wait_for_interrupt();
        }
        self.shared.idle.store(false, Ordering::SeqCst);
    }

    /// Runs a vCPU, which has had the pCPU since `picked`. When it left it.
    fn run_vcpu(&mut self, pick: Pick, picked: u64) -> Option<u64> {
        let (machine, id) = (self.machine, pick.id);
        let slot = machine.slot(id)?;
        let taken = slot.runner.lock().take();
        let Some(mut runner) = taken else {
            // The queue and the slots disagree: that is a bug, and this vCPU is lost, but nothing else is.
            console::say!("vCPU {} has no runner", id.0);
            let _ = self.shared.sched.lock().queue.put(id, crate::time::now_ns(), Why::Stopped);
            return None;
        };
        let guest = runner.guest.clone();
        let index = runner.vcpu.index;
        if let Some(ns) = runner.shown.grows_to(pick.stolen_ns) {
            guest.stolen.show(index, ns);
        }
        // Since when it has the pCPU, while tracing is on.
        let since = machine.tracing().then(|| observe::begins(machine, &guest, index, pick.ready_ns));
        let ended = by_kind!(self.gic, self.run_loaded(&mut runner, since.is_some()));
        let why = match ended {
            Ended::Put(why) => why,
            Ended::Stop(reason) => match self.stop(&guest, Some(index), reason) {
                true => Why::Stopped,
                // Another vCPU's wish came first: whoever began that will stop this one as well.
                false => Why::Preempted,
            },
        };
        *slot.counts.lock() = runner.vcpu.counts;
        *slot.runner.lock() = Some(runner);
        let now = crate::time::now_ns();
        let busy = self.shared.busy_ns.load(Ordering::Relaxed).wrapping_add(now.saturating_sub(picked));
        self.shared.busy_ns.store(busy, Ordering::Relaxed);
        let (state, given) = {
            let mut sched = self.shared.sched.lock();
            let state = sched.queue.put(id, now, why);
            // Whoever waits here beside it may be served sooner by another pCPU.
            let several = sched.queue.ready_count() > 1 && machine.pcpus.len() > 1;
            (state, if several { sched.queue.shed(now) } else { None })
        };
        if let Some((stolen, to)) = given {
            self.pass_on(stolen, to);
        }
        if let (Some(since), Ok(state)) = (since, state) {
            observe::leaves(machine, &guest, index, why, state, since);
        }
        match state {
            Ok(state @ (RunState::Stopped | RunState::Off | RunState::Held)) => self.has_left(id, &guest, state),
            // It waits here; a pCPU that has nothing to do may take it.
            Ok(RunState::Ready) => machine.offer(self.pcpu.number()),
            _ => {}
        }
        Some(now)
    }

    /// Switches to `runner` and lets it run.
    #[inline(always)]
    fn run_loaded<G: Controller>(&mut self, runner: &mut Box<Runner>, traced: bool) -> Ended {
        match self.switch_to::<G>(runner) {
            true if traced => self.go_traced::<G>(runner),
            true if G::QUICK => self.go::<false, G>(runner),
            true => self.go_plain::<G>(runner),
            false => Ended::Stop(StopReason::SystemError { iss: 0 }),
        }
    }

    #[inline(never)]
    fn go_traced<G: Controller>(&mut self, runner: &mut Box<Runner>) -> Ended {
        self.go::<true, G>(runner)
    }

    #[inline(never)]
    fn go_plain<G: Controller>(&mut self, runner: &mut Box<Runner>) -> Ended {
        self.go::<false, G>(runner)
    }

    /// Runs the loaded vCPU until it has to leave. `TRACED`: notes what happens meanwhile; the other copy has nothing of that.
    #[inline(always)]
    fn go<const TRACED: bool, G: Controller>(&mut self, runner: &mut Box<Runner>) -> Ended {
        let guest = runner.guest.clone();
        let vm = &guest.vm;
        let index = runner.vcpu.index;
        let Some(port) = vm.port(index) else { return Ended::Put(Why::Stopped) };
        let mut stretch = Stretch::default();
        let ended = loop {
            // The gate: what others ask, and what the last exit left to do. Whoever asks sends a kick as well, so one look
            // at the flag that every interrupt sets is enough.
            if runner.vcpu.flush_due
                && let Some(why) = self.gate::<TRACED, G>(&guest, runner)
            {
                break Ended::Put(why);
            }
            if TRACED {
                stretch.enters(self.machine, &guest, index);
            }
            let left = self.pcpu.enter(&mut runner.vcpu.frame);
            if TRACED {
                stretch.leaves(&guest, index, &left);
            }
            match self.exit::<TRACED, G>(&guest, runner, left, &mut stretch) {
                Next::Resume => {}
                Next::Fold(_) => {}
                Next::Yield => {
                    // What it waits for may be another CPU's to do, and the hint is for that one too.
                    sync::relax();
                    self.favour_sibling(&guest, index);
                    break Ended::Put(Why::Yielded);
                }
                Next::Block => {
                    // Nothing was pending when `vm` looked. What has come since has left a request.
                    self.shared.sched.lock().queue.clear_wake(runner.id);
                    if TRACED {
                        stretch.ends(self.machine, &guest, index);
                    }
                    if port.requests().is_empty() {
                        // For the queue a dozing vCPU runs: not one whose time is limited.
                        let woken =
                            if self.company.native { self.doze::<TRACED, G>(&guest, index, port) } else { None };
                        let Some(ticked) = woken else { break Ended::Put(Why::Blocked) };
                        runner.vcpu.tick |= ticked;
                    }
                    runner.vcpu.flush_due = true;
                    if port.starts() {
                        break Ended::Put(Why::Preempted);
                    }
                }
                // The gate does it.
                Next::CleanMemory => {}
                Next::Off => {
                    guest.io.leaves(vm, index);
                    break Ended::Put(Why::Off);
                }
                Next::Stop(reason) => break Ended::Stop(reason),
            }
        };
        if TRACED {
            stretch.ends(self.machine, &guest, index);
        }
        vm.vgic().change(|vgic| {
            vgic.put(index, G::lists(&mut self.gic));
            if !el2::timer::VirtualTimer::asserted() && vgic.hw_timer_low(index, G::lists(&mut self.gic)) {
                self.set_timer_active(false);
            }
        });
        ended
    }

    /// A tick is in the loaded vCPU's list registers, or was when it was last looked at. No access to CNTV_* traps, so a guest
    /// with interrupts masked can take the timer's line low while the list register, a latch, says pending; if the line is low
    /// and the guest has not acknowledged, that is taken back here, as the distributor of a machine would have done. What can
    /// be between the guest's write and its acknowledge without an exit that comes here is not seen: the guest then takes one
    /// interrupt without a cause, as a machine allows while the low level is on its way.
    #[cold]
    #[inline(never)]
    pub fn look_at_timer<G: Controller>(&mut self, guest: &Guest, runner: &mut Runner) {
        if !el2::timer::VirtualTimer::asserted() {
            runner.vcpu.tick = false;
            if guest.vm.vgic().lock().hw_timer_low(runner.vcpu.index, G::lists(&mut self.gic)) {
                runner.vcpu.flush_due = true;
            }
        }
    }

    /// Folds the loaded vCPU's list registers for someone who wants to know, without a tick that has no cause any more (see
    /// [`Cpu::look_at_timer`]). The caller goes through the gate.
    fn sync<G: Controller>(&mut self, guest: &Guest, vcpu: u32) {
        guest.vm.vgic().change(|vgic| {
            vgic.sync(vcpu, G::lists(&mut self.gic));
            if !el2::timer::VirtualTimer::asserted() {
                vgic.hw_timer_low(vcpu, G::lists(&mut self.gic));
            }
        });
    }
}
