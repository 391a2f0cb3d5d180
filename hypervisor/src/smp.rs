//! The other pCPUs: started by the firmware, one after the other, each with a stack of its own and a guard page under it.

use crate::console::say;
use crate::gic::{self, PcpuGic};
use crate::machine::machine;
use crate::run::Cpu;
use addr::{PAGE_SIZE, Pa, Span};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use boot::secondary::{SecondaryStart, entry_point};
use boot::stage1::{Stage1, page_from_heap};
use config::board::{Board, CpuNode, Enable, Ppis};
use config::cpu_model::{HostIds, id_index};
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use el2::PcpuAnchor;
use el2::errata::Errata;
use el2::features::{self, Features};
use platform::firmware::Firmware;
use sync::{Rank, SpinLock};

/// Bytes of a pCPU's stack, guard page not counted.
const STACK: u64 = 16 << 10;
/// Bytes of heap below which no further pCPU is started (each takes some 40 KiB).
const HEAP_KEPT: usize = 256 << 10;
/// How long a pCPU has to come up, in ns.
const PATIENCE: u64 = 2_000_000_000;

/// What all pCPUs that are up have in common.
pub struct Common {
    /// Their affinities; the first is the one that booted.
    pub mpidrs: Vec<u64>,
    /// What kicks each of them.
    pub kicks: Vec<u64>,
    /// What all can do.
    pub features: Features,
    /// What one of them needs.
    pub errata: Errata,
    /// Their identification registers' common value.
    pub ids: HostIds,
}

/// What a starting pCPU leaves for the first one.
struct Report {
    mpidr: u64,
    kick: u64,
    features: Features,
    errata: Errata,
    ids: HostIds,
    fit: bool,
}

/// The one CPU that may start now. One that comes, or is done, after its time was up finds another's turn, or none, and changes nothing.
struct Turn {
    mpidr: u64,
    anchor: Option<&'static mut PcpuAnchor>,
    report: Option<Report>,
}

static TURN: SpinLock<Option<Turn>> = SpinLock::new(Rank::Vcpu, None);

/// Runs `act` on this CPU's turn, if it is that.
fn in_turn<R>(mpidr: u64, act: impl FnOnce(&mut Turn) -> R) -> Option<R> {
    TURN.lock().as_mut().filter(|turn| turn.mpidr == mpidr).map(act)
}

/// The number of the pCPU whose report was good: it may go on.
static ACCEPTED: AtomicU32 = AtomicU32::new(0);
/// The machine is put together: the others may run.
static RELEASED: AtomicBool = AtomicBool::new(false);

/// This pCPU's identification registers.
fn ids() -> HostIds {
    let mut ids = HostIds::default();
    for crm in 1..8 {
        for op2 in 0..8 {
            ids.id[id_index(crm, op2)] = features::id_register(crm, op2);
        }
    }
    ids.midr = features::id_register(0, 0);
    ids.revidr = features::id_register(0, 6);
    ids.ctr = features::ctr();
    ids.dczid = features::dczid();
    ids.cntfrq = el2::timer::frequency();
    ids.clidr = features::clidr();
    ids.aidr = features::aidr();
    for selector in 0..14_u64 {
        // CLIDR's three bits a level: 1 instruction, 2 data, 3 both, 4 unified.
        let kind = ids.clidr >> (selector / 2 * 3) & 7;
        let there = if selector & 1 == 1 { matches!(kind, 1 | 3) } else { matches!(kind, 2..=4) };
        if there {
            (ids.ccsidr[selector as usize], ids.ccsidr2[selector as usize]) = features::ccsidr(selector);
        }
    }
    ids
}

fn report(mpidr: u64) -> Report {
    let features = Features::here();
    let ids = ids();
    let fit = features.gic_sysregs || !gic::is_v3();
    Report { mpidr, kick: gic::own_kick(), features, errata: el2::errata::of(ids.midr), ids, fit }
}

/// Starts all pCPUs that the board names, one by one. One that does not come up or is too unlike stays offline, with a line.
pub fn bring_up(board: &Board, firmware: Option<Firmware>, own: &el2::Pcpu, map: &mut Stage1) -> Common {
    let first = report(features::mpidr());
    let mut common = Common {
        mpidrs: vec![first.mpidr],
        kicks: vec![first.kick],
        features: first.features,
        errata: own.errata(),
        ids: first.ids,
    };
    for cpu in board.cpus.iter().filter(|c| c.mpidr != first.mpidr) {
        let stay = |why: &str| say!("CPU {:#x} stays offline: {why}", cpu.mpidr);
        if !can_start(cpu.enable, firmware) {
            stay("no firmware to start it with");
            continue;
        }
        let number = common.mpidrs.len() as u64;
        if sync::heap::RESERVE.saturating_sub(crate::HEAP.used()) < HEAP_KEPT {
            stay("its stack and runqueue would take what the VMs need of the heap");
            continue;
        }
        let Some(top) = stack(map) else {
            stay("no memory for its stack");
            continue;
        };
        let anchor = Some(Box::leak(Box::new(PcpuAnchor::new(number))));
        *TURN.lock() = Some(Turn { mpidr: cpu.mpidr, anchor, report: None });
        let start: &'static SecondaryStart = Box::leak(Box::new(SecondaryStart::new(number, cpu.mpidr, top)));
        if let Err(why) = send_off(cpu, start, firmware, map) {
            stay(&why);
            continue;
        }
        match wait_for_report() {
            None => stay("it did not come up in two seconds"),
            Some(report) if !report.fit => stay("it has no GICv3 system registers"),
            Some(report) => {
                if let Err(unlike) = common.ids.check_alike(&report.ids) {
                    stay(&alloc::format!("it is too unlike the others: {unlike}"));
                    continue;
                }
                common.ids.merge(&report.ids);
                common.features = common.features.common(&report.features);
                common.errata = common.errata | report.errata;
                common.mpidrs.push(report.mpidr);
                common.kicks.push(report.kick);
                ACCEPTED.store(number as u32, Ordering::Release);
            }
        }
    }
    common
}

fn can_start(how: Enable, firmware: Option<Firmware>) -> bool {
    match how {
        Enable::Psci => firmware.is_some(),
        Enable::SpinTable { release } => release.as_u64() % 8 == 0,
        Enable::None => false,
    }
}

/// Sends a CPU on its way.
fn send_off(
    cpu: &CpuNode,
    start: &'static SecondaryStart,
    firmware: Option<Firmware>,
    map: &mut Stage1,
) -> Result<(), String> {
    match (cpu.enable, firmware) {
        (Enable::Psci, Some(firmware)) => firmware
            .cpu_on(cpu.mpidr, entry_point(), start.publish())
            .map_err(|error| format!("the firmware refuses: {error:?}")),
        (Enable::SpinTable { release }, _) => {
            let page = release_page(release).ok_or("its release address wraps")?;
            let registers = map
                .device(page, &mut page_from_heap)
                .map_err(|error| format!("its release address cannot be mapped: {error:?}"))?;
            boot::secondary::release(start, &registers, release.as_u64() % PAGE_SIZE);
            Ok(())
        }
        _ => Err("no way to start it".into()),
    }
}

/// The page of a spin table's release word: nobody else's as long as CPUs wait there.
pub fn release_page(release: Pa) -> Option<Span<Pa>> {
    Span::new(release, 8)?.align_outwards(PAGE_SIZE)
}

fn wait_for_report() -> Option<Report> {
    let end = crate::time::now_ns() + PATIENCE;
    while crate::time::now_ns() < end {
        let done = TURN.lock().take_if(|turn| turn.report.is_some());
        if let Some(turn) = done {
            return turn.report;
        }
        sync::relax();
    }
    // Too late from now on.
    TURN.lock().take().and_then(|turn| turn.report)
}

/// A stack for another pCPU, out of the heap: its top. The page below it is unmapped.
fn stack(map: &mut Stage1) -> Option<u64> {
    #[repr(C, align(4096))]
    struct Stack([u8; (PAGE_SIZE + STACK) as usize]);
    let layout = alloc::vec::Vec::<Stack>::with_capacity(1);
    let low = layout.as_ptr() as u64;
    core::mem::forget(layout);
    map.unmap_page(Pa::new(low)).ok()?;
    Some(low + PAGE_SIZE + STACK)
}

/// Lets the other pCPUs go: the machine is known.
pub fn release() {
    RELEASED.store(true, Ordering::Release);
}

/// The interrupt controller of this pCPU, in use from here on, with the private interrupts of `ppis` on.
pub fn interrupt_controller(ppis: &Ppis) -> PcpuGic {
    match PcpuGic::start(ppis.mask(), ppis.virtual_timer) {
        Ok(gic) => gic,
        Err(error) => {
            crate::fatal::fatal(format_args!("the interrupt controller of CPU {:#x}: {error}", features::mpidr()))
        }
    }
}

/// Another pCPU's way to [`Cpu::run`].
pub fn secondary(number: usize) -> ! {
    let mpidr = features::mpidr();
    let Some(anchor) = in_turn(mpidr, |turn| turn.anchor.take()).flatten() else { stay() };
    // What the firmware left pending here is over by this; the first pCPU's is worth a line, and says it for all.
    let mut pcpu = el2::Pcpu::start(anchor.catch_faults(), gic::is_v3());
    let report = report(mpidr);
    if in_turn(mpidr, |turn| turn.report = Some(report)).is_none() {
        stay();
    }
    while !RELEASED.load(Ordering::Acquire) {
        sync::relax();
    }
    let (Some(machine), true) = (machine(), ACCEPTED.load(Ordering::Acquire) as usize >= number) else { stay() };
    // A pCPU that was turned away may have had the same number as one that was taken.
    let Some(shared) = machine.pcpus.get(number).filter(|p| p.mpidr == mpidr) else { stay() };
    pcpu.settle(&machine.features, machine.errata, machine.ids.midr, firmware_wants(machine.firmware));
    let gic = interrupt_controller(&machine.ppis);
    Cpu::new(machine, shared, pcpu, gic).run()
}

/// Whether the firmware wants its workarounds 1 and 3 used on *this* pCPU (its answer is about the CPU that asks).
pub fn firmware_wants(firmware: Option<Firmware>) -> (bool, bool) {
    use guest_smccc::{Workaround, ids};
    let wants = |f| crate::start::ask_firmware(firmware, f) == Workaround::FirmwareHas;
    (wants(ids::ARCH_WORKAROUND_1), wants(ids::ARCH_WORKAROUND_3))
}

/// Not wanted: sleeps for good.
fn stay() -> ! {
    loop {
        el2::gic::wait_for_interrupt();
    }
}
