//! What is noted while tracing is on: where a vCPU's time goes, and events in the pCPU's ring.
//!
//! The loop around a guest (`Cpu::go`) exists twice, with and without this. Which of the two runs is decided when a vCPU gets the
//! pCPU, so that an exit that is not traced executes nothing of it, not even a look at a flag.

use crate::guest::Guest;
use crate::machine::Machine;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use el2::vectors::Left;
use sched::{EntityId, RunState};
use trace::{Event, NOBODY, Reason, Ring, Span, VcpuTrace, What};
use trap::{Vector, ec};
use vgic::ListRegs;

/// Events that each pCPU keeps: 32 KiB.
const EVENTS: usize = 1024;

impl Machine {
    /// Whether tracing is on.
    #[inline(always)]
    pub fn tracing(&self) -> bool {
        self.traced.load(Ordering::Relaxed)
    }
    /// Switches tracing: events at once, histograms for VMs that are made from here on. Allocates the first time.
    pub fn set_tracing(&self, on: bool) {
        if on {
            for pcpu in &self.pcpus {
                pcpu.ring.call_once(|| Ring::new(EVENTS));
            }
        }
        self.traced.store(on, Ordering::Release);
    }
    /// Notes that something has happened to a vCPU.
    #[inline(always)]
    pub fn note_vcpu(&self, id: EntityId, what: What, argument: u64) {
        if self.tracing()
            && let Some(slot) = self.slot(id)
        {
            let whose = slot.whose.load(Ordering::Relaxed);
            self.push((whose >> 16) as u16, whose as u16, what, argument, el2::timer::now());
        }
    }
    /// Notes that something has happened to a VM, or to this pCPU.
    #[inline(always)]
    pub fn note(&self, vm: u16, what: What, argument: u64) {
        if self.tracing() {
            self.push(vm, NOBODY, what, argument, el2::timer::now());
        }
    }
    /// Writes an event into this pCPU's ring.
    #[cold]
    #[inline(never)]
    fn push(&self, vm: u16, vcpu: u16, what: What, argument: u64, tick: u64) {
        let number = el2::number();
        if let Some(ring) = self.pcpus.get(number).and_then(|pcpu| pcpu.ring.get()) {
            ring.push(&Event { tick, what, pcpu: number as u16, vm, vcpu, argument });
        }
    }
}

/// The histograms of a VM's vCPUs, if tracing is on when it is made.
pub fn traces(machine: &Machine, vcpus: u32) -> Vec<VcpuTrace> {
    if machine.tracing() { (0..vcpus).map(|_| VcpuTrace::new()).collect() } else { Vec::new() }
}

/// Why the vCPU has left, after the queue has had its say.
fn why(asked: sched::Why, state: RunState) -> trace::Why {
    match state {
        RunState::Stopped => trace::Why::Stopped,
        RunState::Off => trace::Why::Off,
        RunState::Blocked => trace::Why::Blocked,
        RunState::Throttled => trace::Why::Throttled,
        RunState::Held => trace::Why::Held,
        // Blocked or Off was asked for, but something came meanwhile.
        RunState::Ready | RunState::Running if asked == sched::Why::Yielded => trace::Why::Yielded,
        RunState::Ready | RunState::Running => trace::Why::Preempted,
    }
}

/// What kind of exit this is. A timer interrupt is [`Reason::Interrupt`] until it has been acknowledged.
fn reason(left: &Left) -> Reason {
    if left.serror().is_some() {
        return Reason::SError;
    }
    match left.vector() {
        Vector::Irq => Reason::Interrupt,
        Vector::SError => Reason::SError,
        Vector::Fiq => Reason::Other,
        Vector::Sync => match (left.esr >> ec::SHIFT & ec::MASK) as u8 {
            ec::HVC64 | ec::HVC32 | ec::SMC64 | ec::SMC32 => Reason::Call,
            // With a valid syndrome it can be completed as a device's; the walk's own aborts cannot (Arm ARM, "ISS encoding for
            // an exception from a Data Abort").
            ec::DATA_ABORT if left.esr & (1 << 24) != 0 && left.esr & (1 << 7) == 0 => Reason::Mmio,
            ec::DATA_ABORT | ec::INSTRUCTION_ABORT => Reason::Abort,
            ec::SYSREG => Reason::SysReg,
            ec::WFX => Reason::Wait,
            ec::BREAKPOINT | ec::STEP | ec::WATCHPOINT | ec::BRK | ec::BKPT | ec::VECTOR_CATCH => Reason::Debug,
            _ => Reason::Other,
        },
    }
}

/// Where a traced vCPU is between two readings of the counter.
#[derive(Default)]
pub struct Stretch {
    entered: u64,
    /// When and why the guest was left, until that exit has been counted.
    exit: Option<(u64, Reason)>,
}

impl Stretch {
    /// The guest is about to be entered: the exit before is over.
    pub fn enters(&mut self, machine: &Machine, guest: &Guest, vcpu: u32) {
        self.ends(machine, guest, vcpu);
        self.entered = el2::timer::now();
    }
    /// The guest has been left.
    pub fn leaves(&mut self, guest: &Guest, vcpu: u32, left: &Left) {
        let now = el2::timer::now();
        self.exit = Some((now, reason(left)));
        if let Some(trace) = guest.trace(vcpu) {
            trace.span(Span::Guest, now.saturating_sub(self.entered));
        }
    }
    /// It was left for the vCPU's own timer.
    pub fn was_timer(&mut self) {
        if let Some((_, reason)) = &mut self.exit {
            *reason = Reason::Timer;
        }
    }
    /// The work on an exit is done, if one is being worked on.
    pub fn ends(&mut self, machine: &Machine, guest: &Guest, vcpu: u32) {
        let Some((at, reason)) = self.exit.take() else { return };
        let ticks = el2::timer::now().saturating_sub(at);
        if let Some(trace) = guest.trace(vcpu) {
            trace.exit(reason, ticks);
        }
        machine.push(guest.vm.id(), vcpu as u16, What::Exit(reason), ticks, at);
    }
}

/// A vCPU has got the pCPU after having been ready for `ready_ns`. Returns when, in ticks.
#[cold]
#[inline(never)]
pub fn begins(machine: &Machine, guest: &Guest, vcpu: u32, ready_ns: u64) -> u64 {
    let ready = crate::time::ticks(ready_ns);
    let now = el2::timer::now();
    if let Some(trace) = guest.trace(vcpu) {
        trace.back(now, ready);
    }
    machine.push(guest.vm.id(), vcpu as u16, What::Begin, ready, now);
    now
}

/// It has left the pCPU that it got at `since`.
#[cold]
#[inline(never)]
pub fn leaves(machine: &Machine, guest: &Guest, vcpu: u32, asked: sched::Why, state: RunState, since: u64) {
    let why = why(asked, state);
    let now = el2::timer::now();
    if let Some(trace) = guest.trace(vcpu) {
        trace.left(why, now);
    }
    machine.push(guest.vm.id(), vcpu as u16, What::End(why), now.saturating_sub(since), now);
}

/// It slept in place from `start` to `woken`, if it was woken, and goes on now.
pub fn dozed(machine: &Machine, guest: &Guest, vcpu: u32, start: u64, woken: Option<u64>) {
    let now = el2::timer::now();
    let end = woken.unwrap_or(now);
    if let Some(trace) = guest.trace(vcpu) {
        trace.span(Span::Blocked, end.saturating_sub(start));
        if woken.is_some() {
            trace.span(Span::Wake, now.saturating_sub(end));
        }
    }
    machine.push(guest.vm.id(), vcpu as u16, What::Slept, end.saturating_sub(start), end);
}

/// The list registers, and what was written into them as pending.
pub struct Watched<'a, L> {
    lists: &'a mut L,
    shown: [u32; 16],
    count: usize,
}

impl<'a, L: ListRegs> Watched<'a, L> {
    /// Nothing written yet.
    pub fn new(lists: &'a mut L) -> Self {
        Self { lists, shown: [0; 16], count: 0 }
    }
    /// Counts and notes what was written.
    pub fn note(&self, machine: &Machine, guest: &Guest, vcpu: u32) {
        for intid in self.shown.iter().take(self.count) {
            if let Some(trace) = guest.trace(vcpu) {
                trace.show();
            }
            machine.push(guest.vm.id(), vcpu as u16, What::Shown, u64::from(*intid), el2::timer::now());
        }
    }
}

impl<L: ListRegs> ListRegs for Watched<'_, L> {
    #[inline(always)]
    fn senders(&self) -> bool {
        self.lists.senders()
    }
    fn count(&self) -> usize {
        self.lists.count()
    }
    fn read(&self, n: usize) -> u64 {
        self.lists.read(n)
    }
    fn write(&mut self, n: usize, value: u64) {
        // State, bits 63:62: pending; vINTID, bits 31:0 (Arm IHI 0069, "ICH_LR<n>_EL2").
        if value >> 62 & 1 != 0
            && let Some(place) = self.shown.get_mut(self.count)
        {
            *place = value as u32;
            self.count += 1;
        }
        self.lists.write(n, value);
    }
    fn empty(&self) -> u16 {
        self.lists.empty()
    }
    fn eisr(&self) -> u16 {
        self.lists.eisr()
    }
    fn eoi_count(&self) -> u32 {
        self.lists.eoi_count()
    }
    fn clear_eoi_count(&mut self) {
        self.lists.clear_eoi_count();
    }
    fn set_hcr(&mut self, value: u64) {
        self.lists.set_hcr(value);
    }
    fn vmcr(&self) -> u64 {
        self.lists.vmcr()
    }
    fn set_vmcr(&mut self, value: u64) {
        self.lists.set_vmcr(value);
    }
    fn ap0r(&self, n: usize) -> u32 {
        self.lists.ap0r(n)
    }
    fn set_ap0r(&mut self, n: usize, value: u32) {
        self.lists.set_ap0r(n, value);
    }
    fn ap1r(&self, n: usize) -> u32 {
        self.lists.ap1r(n)
    }
    fn set_ap1r(&mut self, n: usize, value: u32) {
        self.lists.set_ap1r(n, value);
    }
    fn ap_count(&self) -> usize {
        self.lists.ap_count()
    }
    fn deactivate(&mut self, pintid: u32) {
        self.lists.deactivate(pintid);
    }
}
