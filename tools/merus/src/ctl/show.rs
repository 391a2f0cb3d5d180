//! Commands that only look.

use super::table::{bytes, cpu_max, stamp, table, time};
use super::{Session, json, top_devices};
use merus_client::Error;
use proto::{DeviceCounts, DeviceRow, LOSSES, SwitchRow, VcpuRow, VmRow};
use std::collections::BTreeMap;

pub fn list(s: &mut Session) -> Result<(), Error> {
    let vms = s.client.vms()?;
    let row = |vm: &VmRow| {
        vec![
            vm.name.clone(),
            vm.state.to_string(),
            vm.vcpus.to_string(),
            bytes(vm.memory),
            vm.weight.to_string(),
            cpu_max(vm.cpu_max),
            time(vm.ran_ns),
            vm.group.clone().unwrap_or_else(|| "-".into()),
        ]
    };
    let header = ["NAME", "STATE", "VCPUS", "MEMORY", "WEIGHT", "CPU.MAX", "RAN", "GROUP"];
    s.print(|| json::rows(&vms, json::vm), || table("<<>>>>><", &header, &vms.iter().map(row).collect::<Vec<_>>()));
    Ok(())
}

/// Lines of a name and what it is.
fn lines(rows: &[(&str, String)]) -> String {
    rows.iter().map(|(name, value)| format!("{name:<12} {value}\n")).collect()
}

pub fn info(s: &mut Session, vm: &str) -> Result<(), Error> {
    let row = s.client.info(vm)?;
    let vcpus = s.client.vcpus(vm)?;
    let devices = if row.devices == 0 { Vec::new() } else { s.client.devices(vm)? };
    let uplinks = top_devices::uplinks_of(&mut s.client, &devices)?;
    let value = || {
        let mut value = json::vm(&row);
        value["vcpu"] = json::rows(&vcpus, json::vcpu);
        value["device"] = json::rows(&devices, json::device);
        value["uplink"] = json::rows(&uplinks, json::device);
        value["exits_by_reason"] = json::any(&by_reason(&vcpus));
        value
    };
    s.print(value, || describe(&row, &vcpus, &[&devices[..], &uplinks].concat()));
    Ok(())
}

fn by_reason(vcpus: &[VcpuRow]) -> BTreeMap<&str, u64> {
    let mut sums = BTreeMap::new();
    for exit in vcpus.iter().flat_map(|vcpu| &vcpu.exits) {
        let sum: &mut u64 = sums.entry(exit.reason.as_str()).or_default();
        *sum = sum.saturating_add(exit.count);
    }
    sums
}

/// Devices, and why frames from there were lost.
fn of_devices(devices: &[DeviceRow]) -> String {
    let row = |d: &DeviceRow| {
        let c = &d.counts;
        let mut row = vec![d.name.clone(), c.reads.to_string(), bytes(c.read_bytes), c.writes.to_string()];
        row.push(bytes(c.written_bytes));
        row.extend([c.others, c.errors, c.depth, c.deepest].map(|n| n.to_string()));
        row.push(d.what.clone());
        row
    };
    let header = ["DEVICE", "READS", "READ", "WRITES", "WRITTEN", "OTHERS", "ERRORS", "DEPTH", "DEEPEST", "WHAT"];
    let mut text = table("<>>>>>>>><", &header, &devices.iter().map(row).collect::<Vec<_>>());
    devices.iter().for_each(|device| text += &lost(&device.name, &device.counts));
    text
}

/// Why frames were lost, in a line, if any were.
fn lost(name: &str, counts: &DeviceCounts) -> String {
    let lost = LOSSES.iter().zip(counts.lost).filter(|(_, count)| *count != 0);
    let lost: Vec<String> = lost.map(|(why, count)| format!("{why} {count}")).collect();
    if lost.is_empty() { String::new() } else { format!("{name}: lost {}\n", lost.join(", ")) }
}

fn describe(vm: &VmRow, vcpus: &[VcpuRow], devices: &[DeviceRow]) -> String {
    let mut text = lines(&[
        ("name", vm.name.clone()),
        ("state", vm.state.to_string()),
        ("group", vm.group.clone().unwrap_or_else(|| "-".into())),
        (
            "memory",
            format!(
                "{} of RAM, {} charged, {}",
                bytes(vm.memory),
                bytes(vm.memory_used),
                vm.memory_max.map_or("no limit".into(), |max| format!("{} at most", bytes(max)))
            ),
        ),
        ("cpu", format!("weight {}, max {}, class {}", vm.weight, cpu_max(vm.cpu_max), vm.class)),
        ("time", format!("ran {}, steal {}, throttled {}", time(vm.ran_ns), time(vm.waited_ns), time(vm.throttled_ns))),
        ("exits", vm.exits.to_string()),
        ("resets", vm.resets.to_string()),
        ("console", format!("{} bytes written", vm.console)),
    ]);
    if !vcpus.is_empty() {
        let row = |v: &VcpuRow| {
            let times = [v.ran_ns, v.waited_ns, v.blocked_ns, v.throttled_ns, v.wake_max_ns].map(time);
            let mut row = vec![v.index.to_string(), format!("{:?}", v.state).to_lowercase(), v.pcpu.to_string()];
            row.extend(times);
            row.extend([v.switches, v.moves, v.interrupts].map(|n| n.to_string()));
            row
        };
        let header =
            ["VCPU", "STATE", "PCPU", "RAN", "STEAL", "BLOCKED", "THROTTLED", "WAKE MAX", "SWITCHES", "MOVES", "IRQS"];
        text += "\n";
        text += &table("><>>>>>>>>>", &header, &vcpus.iter().map(row).collect::<Vec<_>>());
    }
    if !devices.is_empty() {
        text += "\n";
        text += &of_devices(devices);
    }
    let mut exits: Vec<_> = by_reason(vcpus).into_iter().collect();
    if !exits.is_empty() {
        exits.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let rows: Vec<_> = exits.iter().map(|(reason, count)| vec![(*reason).to_string(), count.to_string()]).collect();
        text += "\n";
        text += &table("<>", &["EXIT", "COUNT"], &rows);
    }
    text
}

pub fn machine(s: &mut Session) -> Result<(), Error> {
    let m = s.client.machine()?;
    let text = || {
        lines(&[
            ("merus", m.merus.clone()),
            ("board", m.board.clone()),
            ("pcpus", m.pcpus.to_string()),
            ("mode", if m.vhe { "VHE (E2H = 1)" } else { "E2H = 0" }.into()),
            ("memory", format!("{}, {} free", bytes(m.memory), bytes(m.memory_free))),
            ("heap", bytes(m.heap)),
            ("up", format!("{} s", stamp(m.now_ns).trim())),
            ("counter", format!("{} Hz", m.counter_hz)),
            ("tracing", if m.tracing { "on" } else { "off" }.into()),
            (
                "line",
                if m.line_rate == 0 { "no rate".into() } else { format!("{} bytes/s at most so far", m.line_rate) },
            ),
            ("bad frames", m.bad_frames.to_string()),
        ])
    };
    s.print(|| json::any(&m), text);
    Ok(())
}

pub fn switches(s: &mut Session) -> Result<(), Error> {
    let rows = s.client.switches()?;
    let text = || {
        let row = |r: &SwitchRow| {
            let mut row = vec![r.name.clone(), r.ports.to_string(), r.learned.to_string()];
            row.extend(match &r.uplink {
                Some(c) => [
                    c.reads.to_string(),
                    bytes(c.read_bytes),
                    c.writes.to_string(),
                    bytes(c.written_bytes),
                    c.errors.to_string(),
                    c.depth.to_string(),
                ],
                None => [const { "-" }; 6].map(str::to_owned),
            });
            row
        };
        let header = ["SWITCH", "PORTS", "LEARNED", "CAME IN", "BYTES", "WENT OUT", "BYTES", "LOST", "WAITING"];
        let mut text = table("<>>>>>>>>", &header, &rows.iter().map(row).collect::<Vec<_>>());
        for (name, counts) in rows.iter().filter_map(|row| Some((&row.name, row.uplink.as_ref()?))) {
            text += &lost(name, counts);
        }
        text
    };
    s.print(|| json::rows(&rows, json::switch), text);
    Ok(())
}

pub fn pcpus(s: &mut Session) -> Result<(), Error> {
    let rows = s.client.pcpus()?;
    let text = || {
        let row = |p: &proto::PcpuRow| {
            let running = p.running.as_ref().map_or("-".into(), |(vm, vcpu)| format!("{vm}/{vcpu}"));
            vec![
                p.number.to_string(),
                format!("{:#x}", p.mpidr),
                running,
                p.ready.to_string(),
                time(p.busy_ns),
                p.steals.to_string(),
            ]
        };
        table(
            ">><>>>",
            &["PCPU", "MPIDR", "RUNNING", "READY", "BUSY", "TAKEN"],
            &rows.iter().map(row).collect::<Vec<_>>(),
        )
    };
    s.print(|| json::rows(&rows, json::any), text);
    Ok(())
}

pub fn groups(s: &mut Session) -> Result<(), Error> {
    let rows = s.client.groups()?;
    let text = || {
        let row = |g: &proto::GroupRow| {
            let max = g.memory_max.map_or("max".into(), bytes);
            vec![g.name.clone(), g.vms.to_string(), g.weight.to_string(), cpu_max(g.cpu_max), bytes(g.memory_used), max]
        };
        table(
            "<>>>>>",
            &["NAME", "VMS", "WEIGHT", "CPU.MAX", "MEMORY", "MEMORY.MAX"],
            &rows.iter().map(row).collect::<Vec<_>>(),
        )
    };
    s.print(|| json::rows(&rows, json::group), text);
    Ok(())
}

pub fn objects(s: &mut Session) -> Result<(), Error> {
    let rows = s.client.objects()?;
    let text = || {
        let row = |o: &proto::ObjectRow| {
            let hash = o.hash.map_or("-".into(), |hash| hash.to_string().chars().take(16).collect());
            let there = match o.there {
                there if there == o.size => "whole".into(),
                there => format!("{}%", u128::from(there) * 100 / u128::from(o.size.max(1))),
            };
            let from = if o.boot { format!("boot:{}", o.name) } else { o.name.clone() };
            vec![from, hash, bytes(o.size), there, o.users.to_string()]
        };
        table("<<>>>", &["NAME", "SHA256", "SIZE", "THERE", "VMS"], &rows.iter().map(row).collect::<Vec<_>>())
    };
    s.print(|| json::rows(&rows, json::object), text);
    Ok(())
}
