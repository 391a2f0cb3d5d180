//! What management tells of the machine, in the protocol's words.

use crate::console;
use crate::guest::Guest;
use crate::machine::Machine;
use crate::run::Cpu;
use alloc::string::ToString;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use proto::{ExitRow, LogRow, Page, PcpuRow, TraceRow, VcpuRow, VcpuState};
use sched::{EntityId, RunState, Stats};
use trace::{Cursor, Read, Reason, Snapshot, Span};
use vm::ExitCounts;

/// The state of a vCPU, and what it has used until now.
pub fn now(machine: &Machine, id: EntityId, home: usize) -> (VcpuState, Stats) {
    let Some(pcpu) = machine.pcpus.get(home) else { return (VcpuState::Off, Stats::default()) };
    let mut sched = pcpu.sched.lock();
    let queue = &mut sched.queue;
    let idle = pcpu.idle.load(Ordering::SeqCst);
    // One that has its pCPU for long is charged for it when somebody asks. (Not one that dozes: its sleep is not known yet.)
    let charged =
        queue.state(id) == Some(RunState::Running) && !idle && queue.refresh(id, crate::time::now_ns()).is_ok();
    let state = match queue.state(id) {
        // It dozes, or Merus would not notice if it slept.
        Some(RunState::Running) if idle => VcpuState::Native,
        Some(RunState::Running) if queue.native_wfi() && (queue.owner().is_some() || !machine.crowded()) => {
            VcpuState::Native
        }
        Some(RunState::Running) => VcpuState::Running,
        Some(RunState::Ready) => VcpuState::Ready,
        Some(RunState::Blocked) => VcpuState::Blocked,
        Some(RunState::Throttled) => VcpuState::Throttled,
        Some(RunState::Held) => VcpuState::Held,
        Some(RunState::Stopped) => VcpuState::Stopped,
        Some(RunState::Off) | None => VcpuState::Off,
    };
    let stats = queue.stats(id).unwrap_or_default();
    drop(sched);
    if charged {
        machine.kick(home);
    }
    (state, stats)
}

/// One vCPU, as `cpu` sees it. The exits since it last left a pCPU are not in it.
pub fn vcpu(cpu: &Cpu, guest: &Guest, index: u32) -> VcpuRow {
    let machine = cpu.machine;
    let id = guest.entity(index);
    let slot = machine.slot(id);
    let home = slot.map_or(0, |slot| slot.home.load(Ordering::Acquire));
    let (mut state, stats) = now(machine, id, home);
    // One that only looks on while its pCPU answers this has not lost it.
    if state == VcpuState::Ready && cpu.resident.as_ref().is_some_and(|(resident, ..)| *resident == id) {
        let native = cpu.company.native && (cpu.company.owned || !machine.crowded());
        state = if native { VcpuState::Native } else { VcpuState::Running };
    }
    let slept = slot.map_or(0, |slot| crate::time::ns(slot.slept.load(Ordering::Relaxed)));
    let counts = slot.map(|slot| *slot.counts.lock()).unwrap_or_default();
    VcpuRow {
        index,
        state,
        pcpu: home as u32,
        ran_ns: stats.ran_ns.saturating_sub(slept),
        waited_ns: stats.waited_ns,
        blocked_ns: stats.blocked_ns.saturating_add(slept),
        throttled_ns: stats.throttled_ns,
        wake_max_ns: stats.wake_max_ns,
        switches: stats.switches,
        moves: stats.moves,
        interrupts: guest.vm.vgic().lock().injected(index),
        exits: exits(guest, index, &counts),
        spans: spans(guest, index),
    }
}

fn histogram(name: &str, snapshot: &Snapshot) -> Option<ExitRow> {
    let ticks = snapshot.buckets.iter().map(|count| u32::try_from(*count).unwrap_or(u32::MAX)).collect();
    let row = ExitRow { reason: name.to_string(), count: snapshot.count(), ticks };
    (row.count != 0).then_some(row)
}

/// Stretches of time, where tracing was on.
fn spans(guest: &Guest, index: u32) -> Vec<ExitRow> {
    let Some(traced) = guest.traces.get(index as usize) else { return Vec::new() };
    Span::ALL.iter().filter_map(|span| histogram(span.name(), &traced.spans(*span)?.snapshot())).collect()
}

/// Exits by reason: by the finer reasons of the histograms where tracing was on, else by those that are always counted.
fn exits(guest: &Guest, index: u32, counts: &ExitCounts) -> Vec<ExitRow> {
    if let Some(traced) = guest.traces.get(index as usize) {
        let row = |reason: Reason| histogram(reason.name(), &traced.exits(reason)?.snapshot());
        return Reason::ALL.iter().copied().filter_map(row).collect();
    }
    let always = [
        ("irq", counts.irq),
        ("mmio", counts.mmio),
        ("sysreg", counts.sysreg),
        ("call", counts.call),
        ("wait", counts.wait),
        ("other", counts.other),
        ("refused", counts.refused),
    ];
    let row = |(reason, count): (&str, u64)| ExitRow { reason: reason.to_string(), count, ticks: Vec::new() };
    always.into_iter().filter(|(_, count)| *count != 0).map(row).collect()
}

/// One pCPU.
pub fn pcpu(machine: &Machine, number: u32) -> Option<PcpuRow> {
    let pcpu = machine.pcpus.get(number as usize)?;
    let (running, ready) = {
        let sched = pcpu.sched.lock();
        (sched.queue.running(), sched.queue.ready_count())
    };
    let running = running.and_then(|id| {
        let owner = machine.slot(id)?.owner.lock().clone();
        owner.map(|(guest, vcpu)| (guest.spec.name.clone(), vcpu))
    });
    Some(PcpuRow {
        number,
        mpidr: pcpu.mpidr,
        running,
        ready: ready as u32,
        busy_ns: pcpu.busy_ns.load(Ordering::Relaxed),
        steals: pcpu.steals.load(Ordering::Relaxed),
    })
}

/// Merus' own lines.
pub fn log(from: u64) -> Page<LogRow> {
    let mut rows = Vec::new();
    let first = console::log(from, |number, at_ns, text| {
        rows.push(LogRow { number, at_ns, text: text.to_string() });
        rows.len() < ROWS
    });
    let start = rows.first().map_or(from.max(first), |row| row.number);
    Page::fill(start, first.saturating_sub(from), rows)
}

/// The most rows that are looked at for one page.
const ROWS: usize = 64;

/// A pCPU's trace records.
pub fn trace(machine: &Machine, pcpu: u32, from: u64) -> Option<Page<TraceRow>> {
    let pcpu = machine.pcpus.get(pcpu as usize)?;
    let Some(ring) = pcpu.ring.get() else { return Some(Page::fill(from, 0, [])) };
    let mut cursor = Cursor::at(from);
    let (mut rows, mut lost) = (Vec::new(), 0);
    while rows.len() < ROWS {
        match ring.read(&mut cursor) {
            Read::Event(event) => {
                let [tick, head, argument] = event.words();
                let (kind, which) = (head as u8, (head >> 8) as u8);
                rows.push(TraceRow { tick, kind, which, vm: event.vm, vcpu: event.vcpu, argument });
            }
            Read::Lost(count) if rows.is_empty() => lost += count,
            // Told with the next page.
            Read::Lost(_) | Read::Empty => break,
        }
    }
    let next = cursor.position();
    let more = next < ring.written();
    let mut page = Page::fill(next - rows.len() as u64, lost, rows);
    page.more |= more;
    Some(page)
}
