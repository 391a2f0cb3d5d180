//! `merus ctl top`: what pCPUs and VMs have done between two looks.

use super::Session;
use super::table::{bytes, table};
use super::top_devices::{self, DeviceLine};
use clap::ValueEnum;
use merus_client::{Client, Error};
use proto::{DeviceRow, MachineRow, PcpuRow, VmRow};
use serde_json::{Value, json};
use std::cmp::Reverse;
use std::time::Duration;

/// In which order the VMs stand.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Sort {
    Cpu,
    Memory,
    Exits,
    Steal,
    Name,
}

/// A look.
pub struct Sample {
    machine: MachineRow,
    pcpus: Vec<PcpuRow>,
    vms: Vec<VmRow>,
}

impl Sample {
    /// The VM of this name.
    pub fn vm(&self, name: &str) -> Option<&VmRow> {
        self.vms.iter().find(|vm| vm.name == name)
    }

    /// When it was taken, in ns since Merus started.
    pub fn at_ns(&self) -> u64 {
        self.machine.now_ns
    }

    pub fn take(client: &mut Client) -> Result<Self, Error> {
        Ok(Self { machine: client.machine()?, pcpus: client.pcpus()?, vms: client.vms()? })
    }
}

/// A pCPU between two looks.
#[derive(Debug)]
pub struct PcpuLine {
    pub number: u32,
    /// Percent of the time.
    pub load: f64,
    pub running: String,
    pub ready: u32,
    /// vCPUs taken from others a second.
    pub steals: f64,
}

/// A VM between two looks.
#[derive(Debug)]
pub struct VmLine {
    pub name: String,
    pub weight: u32,
    pub group: String,
    pub state: String,
    pub vcpus: u32,
    /// Percent of one pCPU.
    pub cpu: f64,
    /// The same of its vCPUs' waiting.
    pub steal: f64,
    /// The same of their being held back.
    pub throttled: f64,
    pub memory: u64,
    /// Exits a second.
    pub exits: f64,
}

/// All that there is to show.
#[derive(Debug)]
pub struct Frame {
    pub title: String,
    /// The same without the memory.
    pub head: String,
    /// Bytes of memory, and those that are free.
    pub memory: (u64, u64),
    pub pcpus: Vec<PcpuLine>,
    pub vms: Vec<VmLine>,
    interval_ns: u64,
}

impl Frame {
    /// What has happened from `old` to `new`.
    pub fn between(old: &Sample, new: &Sample, sort: Sort) -> Self {
        let (before, now) = (old.machine.now_ns, new.machine.now_ns);
        let interval_ns = now.saturating_sub(before).max(1);
        let share = |old: u64, new: u64| new.saturating_sub(old) as f64 * 100.0 / interval_ns as f64;
        let rate = |old: u64, new: u64| new.saturating_sub(old) as f64 * 1e9 / interval_ns as f64;
        let pcpu = |p: &PcpuRow| {
            let was = old.pcpus.iter().find(|o| o.number == p.number).unwrap_or(p);
            PcpuLine {
                number: p.number,
                load: share(was.busy_ns, p.busy_ns).min(100.0),
                running: p.running.as_ref().map_or("-".into(), |(vm, vcpu)| format!("{vm}/{vcpu}")),
                ready: p.ready,
                steals: rate(was.steals, p.steals),
            }
        };
        let vm = |v: &VmRow| {
            // One that was not there has done nothing yet; another one of that name is another one.
            let was = old.vms.iter().find(|o| o.name == v.name && o.ran_ns <= v.ran_ns).unwrap_or(v);
            VmLine {
                name: v.name.clone(),
                weight: v.weight,
                group: v.group.clone().unwrap_or_else(|| "-".into()),
                state: v.state.to_string(),
                vcpus: v.vcpus,
                cpu: share(was.ran_ns, v.ran_ns),
                steal: share(was.waited_ns, v.waited_ns),
                throttled: share(was.throttled_ns, v.throttled_ns),
                memory: v.memory_used,
                exits: rate(was.exits, v.exits),
            }
        };
        let m = &new.machine;
        let up = format!("Merus {} on {}: up {} s, {} pCPUs", m.merus, m.board, now / 1_000_000_000, m.pcpus);
        let head = format!("{up}, {} VMs", new.vms.len());
        let title = format!("{up}, {} of {} free, {} VMs", bytes(m.memory_free), bytes(m.memory), new.vms.len());
        let (pcpus, vms) = (new.pcpus.iter().map(pcpu).collect(), new.vms.iter().map(vm).collect());
        let mut frame = Self { title, head, memory: (m.memory, m.memory_free), pcpus, vms, interval_ns };
        frame.sort(sort);
        frame
    }

    /// Orders the VMs; equal ones by name.
    pub fn sort(&mut self, sort: Sort) {
        self.vms.sort_by(|a, b| a.name.cmp(&b.name));
        // Tenths of what is shown, so that what looks equal does not change places.
        let tenths = |n: f64| Reverse((n * 10.0) as u64);
        match sort {
            Sort::Cpu => self.vms.sort_by_key(|v| tenths(v.cpu)),
            Sort::Memory => self.vms.sort_by_key(|v| Reverse(v.memory)),
            Sort::Exits => self.vms.sort_by_key(|v| tenths(v.exits)),
            Sort::Steal => self.vms.sort_by_key(|v| tenths(v.steal)),
            Sort::Name => {}
        }
    }

    /// As plain text.
    pub fn text(&self) -> String {
        let pcpus: Vec<_> = self.pcpus.iter().map(PcpuLine::cells).collect();
        let vms: Vec<_> = self.vms.iter().map(VmLine::cells).collect();
        let (p, v) = (table(">><>>", &PCPU_HEADER, &pcpus), table("<<<>>>>>>", &VM_HEADER, &vms));
        format!("{}\n\n{p}\n{v}", self.title)
    }

    fn json(&self, devices: &[(String, Vec<DeviceLine>)]) -> Value {
        let pcpu = |p: &PcpuLine| json!({ "number": p.number, "load": p.load, "running": p.running, "ready": p.ready, "steals_per_s": p.steals });
        let vm = |v: &VmLine| {
            json!({ "name": v.name, "weight": v.weight, "group": v.group, "state": v.state, "vcpus": v.vcpus, "cpu": v.cpu, "steal": v.steal,
                "throttled": v.throttled, "memory": v.memory, "exits_per_s": v.exits })
        };
        let (pcpus, vms): (Vec<_>, Vec<_>) = (self.pcpus.iter().map(pcpu).collect(), self.vms.iter().map(vm).collect());
        let devices = top_devices::values(devices);
        json!({ "interval_ns": self.interval_ns, "pcpus": pcpus, "vms": vms, "devices": devices })
    }
}

pub const PCPU_HEADER: [&str; 5] = ["PCPU", "LOAD", "RUNNING", "READY", "TAKEN/S"];
pub const VM_HEADER: [&str; 9] = ["VM", "GROUP", "STATE", "VCPUS", "CPU%", "STEAL%", "THROTTLED%", "MEMORY", "EXITS/S"];

impl PcpuLine {
    pub fn cells(&self) -> Vec<String> {
        let (load, steals) = (format!("{:.1}%", self.load), format!("{:.1}", self.steals));
        vec![self.number.to_string(), load, self.running.clone(), self.ready.to_string(), steals]
    }
}

impl VmLine {
    pub fn cells(&self) -> Vec<String> {
        let mut cells = vec![self.name.clone(), self.group.clone(), self.state.clone(), self.vcpus.to_string()];
        cells.extend([self.cpu, self.steal, self.throttled].map(|n| format!("{n:.1}")));
        cells.extend([bytes(self.memory), format!("{:.0}", self.exits)]);
        cells
    }
}

/// One frame as text, after one interval.
pub fn once(s: &mut Session, interval: Duration, sort: Sort) -> Result<(), Error> {
    let (old, was) = look(&mut s.client)?;
    std::thread::sleep(interval);
    let (new, now) = look(&mut s.client)?;
    let frame = Frame::between(&old, &new, sort);
    let devices = |(vm, now): (String, Vec<DeviceRow>)| {
        let was = was.iter().find(|(name, _)| *name == vm).map_or(&[][..], |(_, devices)| devices);
        let lines = top_devices::between(was, &now, frame.interval_ns);
        (vm, lines)
    };
    let devices: Vec<_> = now.into_iter().map(devices).collect();
    s.print(|| frame.json(&devices), || frame.text() + &top_devices::text(&devices));
    Ok(())
}

/// In a VM's place, for what is the machine's own.
const NO_VM: &str = "-";

/// The devices of each VM, by its name, and those of the machine.
type Devices = Vec<(String, Vec<DeviceRow>)>;

/// A look at all there is, the devices of all VMs included.
fn look(client: &mut Client) -> Result<(Sample, Devices), Error> {
    let sample = Sample::take(client)?;
    let devices = sample.vms.iter().map(|vm| Ok((vm.name.clone(), top_devices::take(client, vm)?)));
    let mut devices = devices.collect::<Result<Vec<_>, Error>>()?;
    devices.push((NO_VM.into(), top_devices::uplinks(client)?));
    Ok((sample, devices))
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use proto::VmState;

    fn vm(name: &str, ran_ns: u64, exits: u64) -> VmRow {
        VmRow {
            name: name.into(),
            number: 0,
            group: None,
            state: VmState::Running,
            vcpus: 2,
            memory: 128 << 20,
            memory_used: 130 << 20,
            memory_max: None,
            weight: 100,
            cpu_max: None,
            class: "fair".into(),
            ran_ns,
            waited_ns: ran_ns / 10,
            throttled_ns: 0,
            exits,
            resets: 0,
            console: 0,
            devices: 0,
        }
    }

    fn sample(now_ns: u64, vms: Vec<VmRow>) -> Sample {
        let machine = MachineRow {
            merus: "0.1.0".into(),
            board: "virt".into(),
            pcpus: 2,
            memory: 1 << 30,
            memory_free: 1 << 29,
            heap: 0,
            now_ns,
            counter_hz: 1,
            tracing: false,
            vhe: false,
            line_rate: 0,
            bad_frames: 0,
        };
        let pcpu = |number: u32, busy_ns| PcpuRow {
            number,
            mpidr: number.into(),
            running: (number == 0).then(|| ("web".into(), 1)),
            ready: number,
            busy_ns,
            steals: now_ns / 1_000_000_000,
        };
        Sample { machine, pcpus: vec![pcpu(0, now_ns), pcpu(1, now_ns / 4)], vms }
    }

    pub fn frame(sort: Sort) -> Frame {
        let old =
            sample(1_000_000_000, vec![vm("db", 0, 0), vm("old", 5_000_000_000, 9), vm("web", 1_000_000_000, 100)]);
        let vms =
            vec![vm("db", 500_000_000, 4_000), vm("new", 70, 7), vm("old", 1_000, 0), vm("web", 4_000_000_000, 700)];
        Frame::between(&old, &sample(3_000_000_000, vms), sort)
    }

    #[test]
    fn one_frame_as_text() {
        let expected = "\
Merus 0.1.0 on virt: up 3 s, 2 pCPUs, 512 MiB of 1 GiB free, 4 VMs

PCPU    LOAD  RUNNING  READY  TAKEN/S
   0  100.0%  web/1        0      1.0
   1   25.0%  -            1      1.0

VM   GROUP  STATE    VCPUS   CPU%  STEAL%  THROTTLED%   MEMORY  EXITS/S
web  -      running      2  150.0    15.0         0.0  130 MiB      300
db   -      running      2   25.0     2.5         0.0  130 MiB     2000
new  -      running      2    0.0     0.0         0.0  130 MiB        0
old  -      running      2    0.0     0.0         0.0  130 MiB        0
";
        assert_eq!(frame(Sort::Cpu).text(), expected);
        let names = |sort| frame(sort).vms.iter().map(|v| v.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(Sort::Exits), ["db", "web", "new", "old"]);
        assert_eq!(names(Sort::Name), ["db", "new", "old", "web"]);
    }
}
