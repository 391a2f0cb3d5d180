//! Physical interrupts: all come to EL2, are acknowledged here, and are either Merus' own or some guest's.
//!
//! | INTID | whose | what |
//! |---|---|---|
//! | SGI [`KICK`](crate::machine::KICK) | Merus | look up: requests, preemption |
//! | the GIC's maintenance PPI | Merus | the virtual CPU interface wants attention |
//! | CNTHP's PPI | Merus | a slice is over, a deadline has passed |
//! | CNTV's PPI | the resident vCPU | its virtual timer, handed on by a hardware-linked list register |
//! | the UART's | Merus | console input, or room for output |
//! | a device's that Merus drives | Merus | it has something to say ([`crate::onboard`]) |
//! | a device's that was passed through | its VM | handed on by a hardware-linked list register |
//!
//! The numbers are the board's ([`Cpu::ppis`]); a guest sees its timer as PPI 27 whatever the board has.

use crate::console;
use crate::gic::{Controller, by_kind};
use crate::guest::{Guest, Runner};
use crate::machine::KICK;
use crate::observe::Watched;
use crate::run::{Company, Cpu};
use core::sync::atomic::Ordering;
use el2::gic::SPURIOUS;
use sched::{Kind, TimerId};
use trace::{NOBODY, What};
use vm::Requests;

/// How often held-back input is tried again, and how long a guest runs between two steps of a VM's construction or of management,
/// in ns.
const RETRY: u64 = 1_000_000;

/// An interrupt while a guest ran. The virtual timer's is the frequent one and goes straight to the list registers; whether the
/// guest has moved its timer on is for a later exit to see (`Cpu::look_at_timer`). Returns whether it was that one.
#[inline(always)]
pub fn taken<const TRACED: bool, G: Controller>(cpu: &mut Cpu, guest: &Guest, runner: &mut Runner) -> bool {
    let taken = G::acknowledge(&cpu.gic);
    let intid = G::intid(taken);
    if intid != cpu.ppis.virtual_timer {
        others::<G>(cpu, guest, runner, taken);
        return false;
    }
    if TRACED {
        cpu.machine.note(NOBODY, What::Taken, intid.into());
    }
    // Dropped, not deactivated: the guest's own deactivation does that through the list register.
    G::drop_priority(&cpu.gic, taken);
    let index = runner.vcpu.index;
    let mut vgic = guest.vm.vgic().lock();
    vgic.hw_timer_fired(index);
    if TRACED {
        let mut lists = Watched::new(G::lists(&mut cpu.gic));
        vgic.flush(index, &mut lists);
        lists.note(cpu.machine, guest, index);
    } else {
        vgic.flush(index, G::lists(&mut cpu.gic));
    }
    let whom = vgic.take_notify();
    drop(vgic);
    if !whom.is_empty() {
        guest.vm.vgic().tell(whom);
    }
    runner.vcpu.tick = true;
    true
}

#[inline(never)]
fn others<G: Controller>(cpu: &mut Cpu, guest: &Guest, runner: &mut Runner, taken: u32) {
    runner.vcpu.flush_due = true;
    if runner.vcpu.tick {
        cpu.look_at_timer::<G>(guest, runner);
    }
    if G::intid(taken) == cpu.ppis.maintenance {
        let index = runner.vcpu.index;
        guest.vm.vgic().change(|vgic| vgic.maintenance(index, G::lists(&mut cpu.gic)));
        G::drop_priority(&cpu.gic, taken);
        G::deactivate(&cpu.gic, taken);
        return;
    }
    serve::<G>(cpu, taken);
}

/// The interrupt that has woken a pCPU whose loaded vCPU dozes. `true`: it is that vCPU's own timer.
#[inline]
pub fn wakened<G: Controller>(cpu: &mut Cpu, guest: &Guest, vcpu: u32) -> bool {
    let taken = G::acknowledge(&cpu.gic);
    if G::intid(taken) != cpu.ppis.virtual_timer {
        serve::<G>(cpu, taken);
        return false;
    }
    G::drop_priority(&cpu.gic, taken);
    guest.vm.vgic().lock().hw_timer_fired(vcpu);
    true
}

/// All interrupts that are pending now, while no guest runs.
pub fn poll(cpu: &mut Cpu) {
    by_kind!(cpu.gic, poll_all(cpu))
}

#[inline(always)]
fn poll_all<G: Controller>(cpu: &mut Cpu) {
    loop {
        let taken = G::acknowledge(&cpu.gic);
        // A disk's may come as fast as it is served: guests are looked after in between.
        if G::intid(taken) >= SPURIOUS || !serve::<G>(cpu, taken) {
            return;
        }
    }
}

/// `false`: there may be the same one again at once.
#[inline(never)]
fn serve<G: Controller>(cpu: &mut Cpu, taken: u32) -> bool {
    let intid = G::intid(taken);
    if intid >= SPURIOUS {
        return true;
    }
    cpu.machine.note(NOBODY, What::Taken, intid.into());
    G::drop_priority(&cpu.gic, taken);
    match intid {
        // The frequent one first; it says no more than "look up".
        _ if intid == u32::from(KICK) => looked_up(cpu),
        _ if intid == cpu.ppis.virtual_timer => {
            // The resident vCPU's timer while it sleeps; it stays active until that vCPU deactivates it or leaves.
            match &cpu.resident {
                Some((_, guest, vcpu)) => guest.vm.vgic().change(|vgic| vgic.hw_timer_fired(*vcpu)),
                None => G::deactivate(&cpu.gic, taken),
            }
            if let Some((id, guest, vcpu)) = &cpu.resident {
                if let Some(port) = guest.vm.port(*vcpu) {
                    port.ask(Requests::FLUSH);
                }
                cpu.machine.wake(*id);
            }
            return true;
        }
        _ if intid == cpu.ppis.hyp_timer => timer(cpu),
        _ if [cpu.machine.uart_intid, cpu.machine.line_intid].contains(&Some(intid)) => serial(cpu, intid),
        _ if crate::onboard::taken(intid) => {
            G::deactivate(&cpu.gic, taken);
            return false;
        }
        // A device's that was passed through: its guest ends it.
        _ if crate::passthrough::taken(cpu.machine, intid) => return true,
        // Nothing else is switched on. (A maintenance interrupt that was on its way when the guest was left is gone: no list
        // registers are live while EL2 waits.)
        _ => looked_up(cpu),
    }
    G::deactivate(&cpu.gic, taken);
    true
}

/// Whoever sends a kick has changed something before.
#[inline(always)]
fn looked_up(cpu: &mut Cpu) {
    // Most kicks are for the vCPU that runs here, and change nothing of the pCPU's own.
    if cpu.shared.recheck.load(Ordering::SeqCst) {
        cpu.shared.recheck.store(false, Ordering::SeqCst);
        cpu.timer_changed = true;
    }
    relieve(cpu);
}

/// CNTHP has fired: deadlines, the end of a slice, the console.
fn timer(cpu: &mut Cpu) {
    cpu.timer_changed = true;
    el2::timer::set_deadline(None);
    let now = el2::timer::now();
    loop {
        let expired = cpu.shared.sched.lock().timers.expire(now);
        match expired {
            Some(timer) => deadline(cpu, timer),
            None => break,
        }
    }
    let now_ns = crate::time::ns(now);
    let (over, released) = {
        let mut sched = cpu.shared.sched.lock();
        (sched.queue.slice_end().is_some_and(|end| now_ns >= end), sched.queue.release(now_ns))
    };
    if over || released.is_some_and(|effect| effect.preempt) {
        cpu.shared.resched.store(true, Ordering::Relaxed);
    } else if released.is_some() {
        // Throttled ones are Ready again, and wait here: a pCPU that has nothing to do may take one.
        cpu.machine.offer(cpu.pcpu.number());
    }
    if cpu.retry_at.is_some_and(|at| now_ns >= at) {
        cpu.retry_at = None;
        if cpu.has_steps() {
            cpu.shared.resched.store(true, Ordering::Relaxed);
        }
    }
    if now_ns >= crate::manage::deadline() {
        crate::uplink::look();
        cpu.management_due();
    }
    if now_ns >= console::deadline() {
        console::poll();
    }
    if cpu.input_waits {
        input(cpu);
    }
    relieve(cpu);
}

fn deadline(cpu: &mut Cpu, timer: TimerId) {
    let Some(slot) = cpu.machine.slot(timer.id) else { return };
    let owner = slot.owner.lock().clone();
    let Some((guest, vcpu)) = owner else { return };
    match timer.kind {
        Kind::Virtual => {
            guest.vm.vgic().change(|vgic| vgic.hw_timer_fired(vcpu));
            guest.vm.vgic().ask(vcpu, Requests::TIMER);
        }
        Kind::Physical => guest.vm.vgic().ask(vcpu, Requests::TIMER),
        Kind::Service => {}
    }
}

/// A UART's interrupt. Both may have the same one (all PL011s of a BCM2711 do), which then is the one's, the other's or both's.
fn serial(cpu: &mut Cpu, intid: u32) {
    if Some(intid) == cpu.machine.uart_intid {
        input(cpu);
    }
    if Some(intid) == cpu.machine.line_intid && crate::line::interrupt() {
        cpu.management_due();
    }
}

/// Console input for the VM with the focus.
fn input(cpu: &mut Cpu) {
    // Asked for twice at once is once.
    let (mut asked, mut commanded) = (None, false);
    let machine = cpu.machine;
    let find = |source: ::console::SourceId| machine.guest_at(source);
    cpu.input_waits = console::input(
        |source| find(source).is_none_or(|g| g.uart.lock().rx_room() != 0),
        |source, byte| {
            if let Some(guest) = find(source) {
                guest.uart.lock().receive(&[byte]);
            }
        },
        |whose| asked = Some(whose),
        || commanded = true,
    );
    if let Some(whose) = asked {
        for guest in machine.guests().iter().filter(|guest| whose.is_none_or(|source| guest.source == source)) {
            cpu.report(guest);
        }
    }
    if commanded {
        cpu.management_due();
    }
    cpu.timer_changed = true;
    relieve(cpu);
}

/// Lets the transmitters go on that waited for room at the console.
#[inline]
fn relieve(cpu: &Cpu) {
    if console::relieved() {
        relieve_all(cpu);
    }
}

#[cold]
#[inline(never)]
fn relieve_all(cpu: &Cpu) {
    while let Some(source) = console::next_relieved() {
        if source == ::console::SourceId::SHELL {
            cpu.management_due();
            continue;
        }
        let guest = cpu.machine.guest_at(source);
        if let Some(guest) = guest {
            guest.uart.lock().sink_drained();
        }
    }
}

/// Sets CNTHP to the next thing that has to be done here, and notes what the loaded vCPU may do while it waits.
#[inline]
pub fn set_timer(cpu: &mut Cpu) {
    cpu.timer_changed = false;
    let (timers, slice, event) = {
        let sched = cpu.shared.sched.lock();
        cpu.company = Company {
            contended: sched.queue.contended(),
            native: sched.queue.native_wfi(),
            owned: sched.queue.owner().is_some(),
        };
        (sched.timers.next(), sched.queue.slice_end(), sched.queue.next_event())
    };
    let mut next = timers.unwrap_or(u64::MAX);
    for at in [slice, event].into_iter().flatten() {
        next = next.min(crate::time::ticks(at));
    }
    let management = crate::manage::deadline();
    if management != u64::MAX {
        next = next.min(crate::time::ticks(management));
    }
    let console = console::deadline();
    if console != u64::MAX {
        next = next.min(crate::time::ticks(console));
    }
    // Input that waits is tried again, and a VM that is being made and management get their steps, however busy the guests are.
    if cpu.input_waits || cpu.has_steps() {
        let at = *cpu.retry_at.get_or_insert_with(|| crate::time::now_ns().saturating_add(RETRY));
        next = next.min(crate::time::ticks(at));
    }
    el2::timer::set_deadline((next != u64::MAX).then_some(next));
}
