//! What Merus knows of how a VM spends its time, as lines on the console: at the VM's end while tracing is on, and at a key.
//!
//! A report is made in steps of a few lines, like other long work, so that no guest waits for it. A VM has one at a time. What it
//! prints is bounded: two lines and one a histogram for each vCPU, three for the VM, and [`LAST`] events.

use crate::console::say;
use crate::guest::Guest;
use crate::machine::Machine;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use bus::AccessError;
use core::sync::atomic::Ordering;
use trace::{Cursor, Event, Read, Reason, Snapshot, Span, What};
use vm::{Requests, Vcpu};

/// How many events are printed.
const LAST: usize = 32;
/// How many are looked at in one step.
const LOOKS: usize = 128;

/// A report on its way.
pub struct Report {
    guest: Arc<Guest>,
    /// How the VM has ended, if it has.
    ended: Option<String>,
    stage: Stage,
    /// The last events of this VM, by tick.
    events: Vec<Event>,
}

enum Stage {
    Counts(u32),
    Refusals,
    Histograms { vcpu: u32, which: usize },
    Collect { pcpu: usize, at: Option<Cursor> },
    Events(usize),
}

/// What a step left.
pub enum Progress {
    /// There is more to say.
    More(Report),
    /// All is said; of a VM that has ended, with why.
    Done(Arc<Guest>, Option<String>),
}

impl Report {
    /// A report about a VM, or about one that has ended. `None`: there is one on its way.
    pub fn of(guest: &Arc<Guest>, ended: Option<String>) -> Option<Self> {
        // At its end there is nobody left who could be printing but a key's report, which ends without it.
        if guest.reporting.swap(true, Ordering::AcqRel) && ended.is_none() {
            return None;
        }
        Some(Self { guest: guest.clone(), ended, stage: Stage::Counts(0), events: Vec::new() })
    }

    /// Goes one step on.
    pub fn step(mut self, machine: &Machine) -> Progress {
        match self.next(machine) {
            Some(stage) => {
                self.stage = stage;
                Progress::More(self)
            }
            None => {
                self.guest.reporting.store(false, Ordering::Release);
                Progress::Done(self.guest, self.ended)
            }
        }
    }

    fn next(&mut self, machine: &Machine) -> Option<Stage> {
        let guest = &self.guest;
        let name = &guest.spec.name;
        Some(match self.stage {
            Stage::Counts(vcpu) if vcpu < guest.spec.vcpus => {
                counts(machine, guest, vcpu);
                Stage::Counts(vcpu + 1)
            }
            Stage::Counts(_) => Stage::Refusals,
            Stage::Refusals => {
                let refusals = guest.vm.bus().refusals();
                say!(
                    "stats: vm \"{name}\": not taken: no device {}, no register {}, size {}, unaligned {}; resets {}",
                    refusals.no_device(),
                    refusals.refused(AccessError::NoRegister),
                    refusals.refused(AccessError::BadSize),
                    refusals.refused(AccessError::Unaligned),
                    guest.resets.load(Ordering::Relaxed)
                );
                if guest.traces.is_empty() {
                    return None;
                }
                Stage::Histograms { vcpu: 0, which: 0 }
            }
            Stage::Histograms { vcpu, which } => {
                let Some(trace) = guest.trace(vcpu) else { return Some(Stage::Collect { pcpu: 0, at: None }) };
                let exits = Reason::ALL.len();
                match (Reason::ALL.get(which), Span::ALL.get(which.wrapping_sub(exits))) {
                    (Some(reason), _) => {
                        histogram(name, vcpu, "exit ", reason.name(), trace.exits(*reason).map(|h| h.snapshot()));
                    }
                    (_, Some(span)) => histogram(name, vcpu, "", span.name(), trace.spans(*span).map(|h| h.snapshot())),
                    (None, None) => {
                        say!("trace: vm \"{name}\" vcpu {vcpu}: interrupts shown {}", trace.shown());
                        return Some(Stage::Histograms { vcpu: vcpu + 1, which: 0 });
                    }
                }
                Stage::Histograms { vcpu, which: which + 1 }
            }
            Stage::Collect { pcpu, at } => self.collect(machine, pcpu, at),
            Stage::Events(number) => {
                let event = self.events.get(number)?;
                say!("trace: vm \"{name}\": tick {}, {event}", event.tick);
                Stage::Events(number + 1)
            }
        })
    }

    /// Looks through the pCPUs' rings for the VM's last events.
    fn collect(&mut self, machine: &Machine, pcpu: usize, at: Option<Cursor>) -> Stage {
        let Some(ring) = machine.pcpus.get(pcpu).and_then(|p| p.ring.get()) else { return Stage::Events(0) };
        // Here, not when a key asks: this is a step's business.
        self.events.reserve_exact((LAST + 1).saturating_sub(self.events.len()));
        let mut cursor = at.unwrap_or_else(|| {
            let (written, kept) = (ring.written(), ring.capacity() as u64);
            let lost = written.saturating_sub(kept);
            say!(
                "trace: vm \"{}\": pcpu {pcpu} has seen {written} events, the first {lost} are gone",
                self.guest.spec.name
            );
            ring.last(kept)
        });
        for _ in 0..LOOKS {
            match ring.read(&mut cursor) {
                Read::Event(event) => self.keep(event),
                // Others go on meanwhile.
                Read::Lost(_) => {}
                Read::Empty => return Stage::Collect { pcpu: pcpu + 1, at: None },
            }
        }
        Stage::Collect { pcpu, at: Some(cursor) }
    }

    fn keep(&mut self, event: Event) {
        if event.vm != self.guest.vm.id() {
            return;
        }
        let place = self.events.iter().rposition(|e| e.tick <= event.tick).map_or(0, |p| p + 1);
        if place == 0 && self.events.len() == LAST {
            return;
        }
        self.events.insert(place, event);
        if self.events.len() > LAST {
            self.events.remove(0);
        }
    }
}

/// The counters of a vCPU. One that runs has them in its pCPU's hands: it is asked to say them itself.
fn counts(machine: &Machine, guest: &Guest, vcpu: u32) {
    let Some(slot) = machine.slot(guest.entity(vcpu)) else { return };
    let place = slot.runner.lock();
    match place.as_ref() {
        Some(runner) => line(machine, guest, &runner.vcpu),
        None => {
            drop(place);
            guest.vm.vgic().ask(vcpu, Requests::REPORT);
        }
    }
}

/// The line of one vCPU.
pub fn line(machine: &Machine, guest: &Guest, vcpu: &Vcpu) {
    let id = guest.entity(vcpu.index);
    let home = machine.slot(id).map_or(0, |slot| slot.home.load(Ordering::Acquire));
    let stats = machine.pcpus.get(home).and_then(|p| p.sched.lock().queue.stats(id)).unwrap_or_default();
    let c = &vcpu.counts;
    say!(
        "stats: vm \"{}\" vcpu {}: exits irq {} mmio {} sysreg {} call {} wait {} other {}, faults given {}; ran {} us, ready {} us, \
         throttled {} us, blocked {} us, switches {}",
        guest.spec.name,
        vcpu.index,
        c.irq,
        c.mmio,
        c.sysreg,
        c.call,
        c.wait,
        c.other,
        c.refused,
        stats.ran_ns / 1000,
        stats.waited_ns / 1000,
        stats.throttled_ns / 1000,
        stats.blocked_ns / 1000,
        stats.switches
    );
}

fn histogram(name: &str, vcpu: u32, kind: &str, what: &str, snapshot: Option<Snapshot>) {
    let Some(s) = snapshot.filter(|s| s.count() != 0) else { return };
    say!(
        "trace: vm \"{name}\" vcpu {vcpu}: {kind}{what}: {} times, mean {}, 50 % <= {}, 99 % <= {}, max {} ticks",
        s.count(),
        s.mean(),
        s.percentile(50),
        s.percentile(99),
        s.max
    );
}

/// Notes a change in a VM's life.
pub fn life(machine: &Machine, guest: &Guest, life: trace::Life) {
    machine.note(guest.vm.id(), What::Life(life), 0);
}
