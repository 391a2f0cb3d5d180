//! One VM of `merus ctl top` more closely: its vCPUs, why they leave the guest, and its devices.

use super::top_devices::{self, DeviceLine};
use merus_client::{Client, Error};
use proto::{DeviceRow, Refusal, VcpuRow, VmRow};
use std::collections::BTreeMap;

/// A look at the vCPUs and devices of one VM.
pub struct Look {
    vm: String,
    at_ns: u64,
    vcpus: Vec<VcpuRow>,
    devices: Vec<DeviceRow>,
}

impl Look {
    /// Takes one at this time of Merus'; none of a VM that has gone meanwhile.
    pub fn take(client: &mut Client, vm: &VmRow, at_ns: u64) -> Result<Option<Self>, Error> {
        match client.vcpus(&vm.name) {
            Ok(vcpus) => {
                let mut devices = top_devices::take(client, vm)?;
                devices.extend(top_devices::uplinks_of(client, &devices)?);
                Ok(Some(Self { vm: vm.name.clone(), at_ns, vcpus, devices }))
            }
            Err(Error::Refused(Refusal::NoSuchVm(_))) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// A vCPU between two looks.
#[derive(Debug)]
pub struct VcpuLine {
    pub index: u32,
    pub state: String,
    pub pcpu: u32,
    /// Percent of one pCPU.
    pub cpu: f64,
    /// The same of waiting for one, and of sleep.
    pub steal: f64,
    pub blocked: f64,
    /// How often it got a pCPU after another vCPU, and went to another pCPU, a second.
    pub switches: f64,
    pub moves: f64,
}

impl VcpuLine {
    pub fn cells(&self) -> Vec<String> {
        let mut cells = vec![self.index.to_string(), self.state.clone(), self.pcpu.to_string()];
        cells.extend([self.cpu, self.steal, self.blocked].map(|n| format!("{n:.1}")));
        cells.extend([self.switches, self.moves].map(|n| format!("{n:.0}")));
        cells
    }
}

pub const VCPU_HEADER: [&str; 8] = ["VCPU", "STATE", "PCPU", "CPU%", "STEAL%", "SLEEP%", "SWITCH/S", "MOVES/S"];

/// What there is to show of one VM.
#[derive(Debug)]
pub struct Detail {
    pub vm: String,
    pub vcpus: Vec<VcpuLine>,
    /// Exits a second by reason, the most first.
    pub exits: Vec<(String, f64)>,
    pub devices: Vec<DeviceLine>,
}

impl Detail {
    /// What has happened from `old` to `new`; an `old` of another VM, or of one that has begun again, says nothing.
    pub fn between(old: Option<&Look>, new: &Look) -> Self {
        let old = old.filter(|old| old.vm == new.vm);
        let interval = new.at_ns.saturating_sub(old.map_or(new.at_ns, |old| old.at_ns)).max(1) as f64;
        let part = |old: u64, new: u64| new.saturating_sub(old) as f64 * 100.0 / interval;
        let rate = |old: u64, new: u64| new.saturating_sub(old) as f64 * 1e9 / interval;
        let mut exits: BTreeMap<&str, f64> = BTreeMap::new();
        let mut vcpus = Vec::new();
        for v in &new.vcpus {
            let was = old.and_then(|old| old.vcpus.iter().find(|o| o.index == v.index && o.ran_ns <= v.ran_ns));
            let was = was.unwrap_or(v);
            for exit in &v.exits {
                // A reason that was not there then had not happened yet.
                let before = was.exits.iter().find(|o| o.reason == exit.reason).map_or(0, |o| o.count);
                *exits.entry(&exit.reason).or_default() += rate(before, exit.count);
            }
            vcpus.push(VcpuLine {
                index: v.index,
                state: format!("{:?}", v.state).to_lowercase(),
                pcpu: v.pcpu,
                cpu: part(was.ran_ns, v.ran_ns),
                steal: part(was.waited_ns, v.waited_ns),
                blocked: part(was.blocked_ns, v.blocked_ns),
                switches: rate(was.switches, v.switches),
                moves: rate(was.moves, v.moves),
            });
        }
        let mut exits: Vec<_> = exits.into_iter().map(|(reason, n)| (reason.to_owned(), n)).collect();
        exits.sort_by(|a, b| b.1.total_cmp(&a.1));
        let devices = top_devices::between(old.map_or(&[], |old| &old.devices), &new.devices, interval as u64);
        Self { vm: new.vm.clone(), vcpus, exits, devices }
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use proto::{ExitRow, VcpuState};

    fn look(vm: &str, seconds: u64, ran_ns: u64, calls: u64) -> Look {
        let exit = |reason: &str, count| ExitRow { reason: reason.into(), count, ticks: Vec::new() };
        let vcpu = VcpuRow {
            index: 0,
            state: VcpuState::Ready,
            pcpu: 1,
            ran_ns,
            waited_ns: ran_ns / 2,
            blocked_ns: 0,
            throttled_ns: 0,
            wake_max_ns: 0,
            switches: calls * 2,
            moves: 0,
            interrupts: 0,
            spans: Vec::new(),
            exits: vec![exit("irq", 10), exit("call", calls)],
        };
        Look { vm: vm.into(), at_ns: seconds * 1_000_000_000, vcpus: vec![vcpu], devices: Vec::new() }
    }

    pub fn detail() -> Detail {
        let of = Detail::between(Some(&look("web", 1, 1_000_000_000, 100)), &look("web", 3, 2_000_000_000, 300));
        Detail { devices: top_devices::tests::lines(), ..of }
    }

    #[test]
    fn what_happened_between_two_looks_at_the_same_vm() {
        let d = detail();
        assert_eq!(d.vcpus[0].cells(), ["0", "ready", "1", "50.0", "25.0", "0.0", "200", "0"]);
        assert_eq!(d.exits, [("call".to_owned(), 100.0), ("irq".to_owned(), 0.0)]);
        // Another VM, one that has begun again, and none before: nothing is known yet.
        for old in [Some(look("db", 1, 0, 0)), Some(look("web", 1, 3_000_000_000, 0)), None] {
            let d = Detail::between(old.as_ref(), &look("web", 3, 2_000_000_000, 300));
            assert_eq!(d.vcpus[0].cells(), ["0", "ready", "1", "0.0", "0.0", "0.0", "0", "0"]);
            assert!(d.exits.iter().all(|(_, rate)| *rate == 0.0), "{:?}", d.exits);
        }
    }
}
