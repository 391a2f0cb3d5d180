//! Rows as JSON: the protocol's field names, hashes as hex, states and events as words.

use proto::{
    DeviceCounts, DeviceRow, EventKind, EventRow, GroupRow, Hash, LOSSES, ObjectRow, StopKind, SwitchRow, VcpuRow,
    VmRow, VmState,
};
use serde::Serialize;
use serde_json::{Value, json};

fn plain(row: &impl Serialize) -> Value {
    // The rows have string keys and no maps: nothing in them can fail.
    serde_json::to_value(row).unwrap_or_default()
}

pub fn rows<T>(rows: &[T], one: impl Fn(&T) -> Value) -> Value {
    Value::Array(rows.iter().map(one).collect())
}

pub fn any<T: Serialize>(row: &T) -> Value {
    plain(row)
}

fn cpu_max(max: Option<(u64, u64)>) -> Value {
    max.map_or(Value::Null, |(quota_us, period_us)| json!({ "quota_us": quota_us, "period_us": period_us }))
}

fn why(kind: StopKind) -> &'static str {
    match kind {
        StopKind::PoweredOff => "powered_off",
        StopKind::AllOff => "all_off",
        StopKind::Killed => "killed",
        StopKind::SystemError => "system_error",
        StopKind::Failed => "failed",
    }
}

/// `state` is one word; `stopped` tells why a VM is stopped.
pub fn vm(row: &VmRow) -> Value {
    let mut value = plain(row);
    value["cpu_max"] = cpu_max(row.cpu_max);
    (value["state"], value["stopped"]) = match row.state {
        VmState::Stopped(kind) => ("stopped".into(), why(kind).into()),
        state => (state.to_string().into(), Value::Null),
    };
    value
}

pub fn vcpu(row: &VcpuRow) -> Value {
    let mut value = plain(row);
    value["state"] = format!("{:?}", row.state).to_lowercase().into();
    value
}

/// `lost` by reason.
fn counts(counts: &DeviceCounts) -> Value {
    let mut value = plain(counts);
    let lost = LOSSES.iter().zip(counts.lost).map(|(why, count)| ((*why).to_owned(), count.into()));
    value["lost"] = Value::Object(lost.collect());
    value
}

/// The counts beside the name.
pub fn device(row: &DeviceRow) -> Value {
    let mut value = counts(&row.counts);
    (value["name"], value["what"]) = (row.name.as_str().into(), row.what.as_str().into());
    value
}

/// `uplink` is null where there is none.
pub fn switch(row: &SwitchRow) -> Value {
    let mut value = plain(row);
    value["uplink"] = row.uplink.as_ref().map_or(Value::Null, counts);
    value
}

pub fn group(row: &GroupRow) -> Value {
    let mut value = plain(row);
    value["cpu_max"] = cpu_max(row.cpu_max);
    value
}

pub fn hash(hash: &Hash) -> Value {
    hash.to_string().into()
}

pub fn object(row: &ObjectRow) -> Value {
    let mut value = plain(row);
    value["hash"] = row.hash.as_ref().map_or(Value::Null, hash);
    value
}

/// `event` is one word; `why`, `key`, `value` and `device` where it has them.
pub fn event(row: &EventRow) -> Value {
    let mut value = json!({ "number": row.number, "at_ns": row.at_ns, "vm": row.vm });
    value["event"] = match &row.kind {
        EventKind::Stopped(_) => "stopped".into(),
        EventKind::Set { .. } => "set".into(),
        EventKind::Refused(_) => "refused".into(),
        EventKind::Attached(_) => "attached".into(),
        EventKind::Detached(_) => "detached".into(),
        plain => format!("{plain:?}").to_lowercase().into(),
    };
    match &row.kind {
        EventKind::Stopped(kind) => value["why"] = why(*kind).into(),
        EventKind::Refused(text) => value["why"] = text.as_str().into(),
        EventKind::Attached(name) | EventKind::Detached(name) => value["device"] = name.as_str().into(),
        EventKind::Set { key, value: to } => {
            value["key"] = key.as_str().into();
            value["value"] = to.as_str().into();
        }
        _ => {}
    }
    value
}
