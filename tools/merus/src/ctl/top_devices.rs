//! The devices of `merus ctl top`: what a VM's disks and network cards, and the uplinks of switches, have done between two looks.

use super::table::{bytes, table};
use merus_client::{Client, Error};
use proto::{DeviceRow, Refusal, SwitchRow, VmRow};
use serde_json::{Value, json};

/// A look at the devices of one VM; none where it has none, or has gone meanwhile.
pub fn take(client: &mut Client, vm: &VmRow) -> Result<Vec<DeviceRow>, Error> {
    if vm.devices == 0 {
        return Ok(Vec::new());
    }
    match client.devices(&vm.name) {
        Err(Error::Refused(Refusal::NoSuchVm(_))) => Ok(Vec::new()),
        devices => devices,
    }
}

/// The uplinks of the machine's switches, each by its switch's name. A Merus that has none has nothing of them.
pub fn uplinks(client: &mut Client) -> Result<Vec<DeviceRow>, Error> {
    let row = |row: SwitchRow| Some(DeviceRow { name: row.name, what: "uplink".into(), counts: row.uplink? });
    Ok(client.switches()?.into_iter().filter_map(row).collect())
}

/// Those of the switches that network cards of these devices are plugged into.
pub fn uplinks_of(client: &mut Client, devices: &[DeviceRow]) -> Result<Vec<DeviceRow>, Error> {
    let cards = devices.iter().filter(|device| device.name.starts_with("net"));
    let switches: Vec<&str> = cards.filter_map(|card| Some(card.what.split_once(", ")?.0)).collect();
    if switches.is_empty() {
        return Ok(Vec::new());
    }
    let mut uplinks = uplinks(client)?;
    uplinks.retain(|uplink| switches.contains(&uplink.name.as_str()));
    Ok(uplinks)
}

/// A device between two looks.
#[derive(Debug)]
pub struct DeviceLine {
    pub name: String,
    pub what: String,
    /// What came to the guest and what came from it, in bytes a second.
    pub read: f64,
    pub written: f64,
    /// Reads, writes and others a second, and those that failed.
    pub requests: f64,
    pub errors: f64,
    /// On their way now.
    pub depth: u64,
}

pub const DEVICE_HEADER: [&str; 7] = ["DEVICE", "READ/S", "WRITTEN/S", "REQS/S", "ERRORS/S", "DEPTH", "WHAT"];

impl DeviceLine {
    pub fn cells(&self) -> Vec<String> {
        let mut cells = vec![self.name.clone()];
        cells.extend([self.read, self.written].map(|n| bytes(n as u64)));
        cells.extend([self.requests, self.errors].map(|n| format!("{n:.0}")));
        cells.extend([self.depth.to_string(), self.what.clone()]);
        cells
    }

    fn json(&self, vm: &str) -> Value {
        json!({ "vm": vm, "name": self.name, "what": self.what, "read_per_s": self.read, "written_per_s": self.written,
            "requests_per_s": self.requests, "errors_per_s": self.errors, "depth": self.depth })
    }
}

/// What a VM's devices have done in `interval_ns`. One that was not there, or begins again, has done nothing yet.
pub fn between(old: &[DeviceRow], new: &[DeviceRow], interval_ns: u64) -> Vec<DeviceLine> {
    let rate = |old: u64, new: u64| new.saturating_sub(old) as f64 * 1e9 / interval_ns.max(1) as f64;
    let line = |row: &DeviceRow| {
        let now = &row.counts;
        let same = |o: &&DeviceRow| o.name == row.name && o.counts.reads <= now.reads && o.counts.writes <= now.writes;
        let was = old.iter().find(same).map_or(now, |old| &old.counts);
        DeviceLine {
            name: row.name.clone(),
            what: row.what.clone(),
            read: rate(was.read_bytes, now.read_bytes),
            written: rate(was.written_bytes, now.written_bytes),
            requests: rate(was.reads, now.reads) + rate(was.writes, now.writes) + rate(was.others, now.others),
            errors: rate(was.errors, now.errors),
            depth: now.depth,
        }
    };
    new.iter().map(line).collect()
}

/// Those of several VMs, by name; nothing where there are none.
pub fn text(vms: &[(String, Vec<DeviceLine>)]) -> String {
    let rows: Vec<Vec<String>> = vms
        .iter()
        .flat_map(|(vm, devices)| devices.iter().map(move |device| [vec![vm.clone()], device.cells()].concat()))
        .collect();
    if rows.is_empty() {
        return String::new();
    }
    let header: Vec<&str> = ["VM"].into_iter().chain(DEVICE_HEADER).collect();
    format!("\n{}", table("<<>>>>><", &header, &rows))
}

/// The same.
pub fn values(vms: &[(String, Vec<DeviceLine>)]) -> Value {
    vms.iter().flat_map(|(vm, devices)| devices.iter().map(move |device| device.json(vm))).collect()
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use proto::DeviceCounts;

    fn row(name: &str, reads: u64) -> DeviceRow {
        let counts = DeviceCounts {
            reads,
            read_bytes: reads * 4096,
            writes: reads / 2,
            written_bytes: reads * 512,
            others: 2,
            errors: reads / 100,
            depth: 3,
            ..DeviceCounts::default()
        };
        DeviceRow { name: name.into(), what: "root.img".into(), counts }
    }

    pub fn lines() -> Vec<DeviceLine> {
        between(&[row("disk0", 100), row("disk1", 9000)], &[row("disk0", 900), row("disk1", 200)], 2_000_000_000)
    }

    #[test]
    fn devices_between_two_looks() {
        let expected = "
VM   DEVICE    READ/S  WRITTEN/S  REQS/S  ERRORS/S  DEPTH  WHAT
web  disk0   1600 KiB    200 KiB     600         4      3  root.img
web  disk1        0 B        0 B       0         0      3  root.img
";
        assert_eq!(text(&[("db".into(), Vec::new()), ("web".into(), lines())]), expected);
        assert_eq!(text(&[("db".into(), Vec::new())]), "");
        let values = values(&[("web".into(), lines())]);
        assert_eq!((&values[0]["vm"], &values[0]["requests_per_s"]), (&"web".into(), &600.0.into()));
        assert_eq!((&values[1]["name"], &values[1]["read_per_s"]), (&"disk1".into(), &0.0.into()));
    }
}
