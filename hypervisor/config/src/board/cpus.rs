//! CPUs, how they are started, and their timers.

use super::nodes::{Nodes, Place};
use super::{BoardError, Conduit, CpuNode, Enable, Ppis, Psci, TimerIrqs, gic};
use addr::Pa;
use alloc::vec::Vec;

/// The bits of MPIDR_EL1 that hold an affinity (Arm ARM, "MPIDR_EL1, Multiprocessor Affinity Register").
const AFFINITY: u64 = 0xff_00ff_ffff;

/// All CPUs that firmware left on.
pub(super) fn cpus(root: &Place<'_>) -> Result<Vec<CpuNode>, BoardError> {
    let mut found: Vec<CpuNode> = Vec::new();
    for node in root.find("cpus").iter().flat_map(|cpus| cpus.children().collect::<Vec<_>>()) {
        let is_cpu = node.string("device_type") == Some("cpu") || node.name() == "cpu";
        if !is_cpu || !node.is_usable() {
            continue;
        }
        let mpidr = node.raw_reg()?.first().map(|(mpidr, _)| *mpidr).filter(|mpidr| mpidr & !AFFINITY == 0);
        let mpidr = mpidr.ok_or_else(|| node.error("reg", "is no affinity"))?;
        if found.iter().any(|other| other.mpidr == mpidr) {
            return Err(node.error("reg", "is the affinity of another CPU, too"));
        }
        found.push(CpuNode { mpidr, enable: enable(&node)? });
    }
    if found.is_empty() { Err(BoardError::Absent { what: "usable CPU" }) } else { Ok(found) }
}

fn enable(cpu: &Place<'_>) -> Result<Enable, BoardError> {
    match cpu.strings("enable-method").find(|method| ["psci", "spin-table"].contains(method)) {
        Some("psci") => Ok(Enable::Psci),
        Some(_) => {
            let release = cpu.number("cpu-release-addr")?;
            let release = release.ok_or_else(|| cpu.error("cpu-release-addr", "is missing"))?;
            Ok(Enable::SpinTable { release: Pa::new(release) })
        }
        None => Ok(Enable::None),
    }
}

/// The per-CPU timers' INTIDs, told apart by name or, without names, by position; and those that Merus takes, which have to
/// be private and must not be one another's or the GIC's `maintenance` interrupt. And the counter's frequency, which is there only where
/// the firmware does not set the register.
pub(super) fn timer(root: &Nodes<'_>, maintenance: u32) -> Result<(TimerIrqs, Ppis, Option<u64>), BoardError> {
    let place = root.search(&|place| place.is_compatible(&["arm,armv8-timer", "arm,armv7-timer"]));
    let place = place.ok_or(BoardError::Absent { what: "architected timer" })?;
    // The GIC is the only controller that PPIs can come from.
    let intids = gic::interrupts(&place, place.interrupt_parent())?.unwrap_or_default();
    let names: Vec<&str> = place.strings("interrupt-names").collect();
    let find = |position: usize, name: &str| {
        let position = if names.is_empty() { Some(position) } else { names.iter().position(|n| *n == name) };
        position.and_then(|position| intids.get(position)).copied()
    };
    let fault = |what| place.error("interrupts", what);
    let timer = TimerIrqs {
        phys: find(1, "phys").ok_or_else(|| fault("lacks the physical timer's"))?,
        virt: find(2, "virt").ok_or_else(|| fault("lacks the virtual timer's"))?,
        hyp: find(3, "hyp-phys").ok_or_else(|| fault("lacks the hypervisor timer's"))?,
        hyp_virt: find(4, "hyp-virt"),
    };
    if ![timer.virt, timer.hyp].into_iter().all(gic::is_ppi) {
        return Err(fault("has a timer's interrupt that is no PPI, so not each CPU's own"));
    }
    if timer.virt == timer.hyp {
        return Err(fault("has one interrupt for the virtual and the hypervisor timer"));
    }
    if [timer.virt, timer.hyp].contains(&maintenance) {
        return Err(fault("has the interrupt controller's maintenance interrupt for a timer"));
    }
    let hz = place.number("clock-frequency")?;
    Ok((timer, Ppis { maintenance, hyp_timer: timer.hyp, virtual_timer: timer.virt }, hz))
}

/// Firmware's power interface: 0.2 and later only, because 0.1 has no fixed function numbers.
pub(super) fn psci(root: &Nodes<'_>) -> Result<Option<Psci>, BoardError> {
    let known = [("arm,psci-1.0", (1, 0)), ("arm,psci-0.2", (0, 2))];
    let place = root.search(&|place| place.is_compatible(&known.map(|(name, _)| name)));
    let Some(place) = place else {
        return Ok(None);
    };
    let version = known.iter().find(|(name, _)| place.is_compatible(&[name])).map_or((0, 2), |(_, version)| *version);
    let conduit = match place.string("method") {
        Some("smc") => Conduit::Smc,
        Some("hvc") => Conduit::Hvc,
        _ => return Err(place.error("method", "is neither smc nor hvc")),
    };
    Ok(Some(Psci { conduit, version }))
}
