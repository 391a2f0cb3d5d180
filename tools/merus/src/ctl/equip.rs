//! Disks, network cards and sources of random numbers for VMs: at their making, and while they are stopped.

use super::act::{Source, payload};
use super::{Devices, Session};
use config::device::{NewDevice, split_disk};
use config::disk_image::{HEAD, told_size};
use config::spec::DeviceFault;
use merus_client::Error;
use proto::{Call, Payload};
use serde_json::json;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// A disk as Merus reads it, with a source in place of what the command line has.
fn disk(source: &str, options: &str) -> String {
    format!("disk={source}{options}")
}

/// Whether all words are devices, as far as that shows before any file is sent. `attach`: there has to be one.
pub fn check(devices: &Devices, attach: bool) -> Result<(), Error> {
    let Devices { disk: disks, net, rng } = devices;
    if attach && disks.is_empty() && net.is_empty() && !rng {
        return Err(Error::Usage("no device is given; write --disk, --net or --rng".into()));
    }
    for value in disks {
        let (source, options) = split_disk(value);
        if !source.starts_with("host:") {
            source.parse::<Source>().map_err(Error::Usage)?;
        }
        // What stands for a source that is known later: the options are what is looked at.
        let source = if source.starts_with("host:") { source } else { "boot:x" };
        known(&disk(source, options), value)?;
    }
    net.iter().try_for_each(|value| known(&format!("net={value}"), value))
}

fn known(word: &str, value: &str) -> Result<(), Error> {
    match NewDevice::parse(word) {
        Ok(_) => Ok(()),
        Err((key, fault)) => Err(Error::Usage(format!("--{key} {value}: {fault}"))),
    }
}

/// The devices as Merus reads them, one each; uploads images that are not there.
pub fn words(s: &mut Session, devices: &Devices) -> Result<Vec<String>, Error> {
    let mut words = Vec::new();
    if devices.rng {
        words.push("rng=true".into());
    }
    for value in &devices.disk {
        let (source, options) = split_disk(value);
        words.push(if source.starts_with("host:") {
            disk(source, options)
        } else {
            let source = source.parse::<Source>().map_err(Error::Usage)?;
            if let Source::File(path) = &source {
                whole(path)?;
            }
            match payload(s, &source)? {
                Payload::Boot(name) => disk(&format!("boot:{name}"), options),
                Payload::Object(hash) => disk(&format!("sha256:{hash}"), options),
            }
        });
    }
    words.extend(devices.net.iter().map(|value| format!("net={value}")));
    Ok(words)
}

/// Whether an image's file is all of a disk: before it is sent, which takes its time.
fn whole(path: &Path) -> Result<(), Error> {
    let fault = |source| Error::File { path: path.display().to_string(), source };
    let file = File::open(path).map_err(fault)?;
    let size = file.metadata().map_err(fault)?.len();
    let mut head = Vec::new();
    file.take(HEAD as u64).read_to_end(&mut head).map_err(fault)?;
    let name = path.display().to_string();
    let wrong = match told_size(&head) {
        _ if !size.is_multiple_of(config::spec::SECTOR) => DeviceFault::ImageUneven { name, size },
        Some((needs, table)) if needs > size => DeviceFault::ImageCut { name, size, needs, table },
        _ => return Ok(()),
    };
    Err(fault(std::io::Error::other(wrong)))
}

pub fn attach(s: &mut Session, vm: &str, devices: &Devices) -> Result<(), Error> {
    for device in words(s, devices)? {
        s.client.done(&Call::Attach { vm: vm.into(), device })?;
    }
    told(s, vm)
}

pub fn detach(s: &mut Session, vm: &str, device: &str) -> Result<(), Error> {
    s.client.done(&Call::Detach { vm: vm.into(), device: device.into() })?;
    told(s, vm)
}

/// What devices a VM has now.
fn told(s: &mut Session, vm: &str) -> Result<(), Error> {
    let rows = s.client.devices(vm)?;
    let text = || {
        let row = |row: &proto::DeviceRow| format!("{} {}", row.name, row.what).trim_end().to_owned();
        let rows: Vec<String> = rows.iter().map(row).collect();
        format!("{vm}: {}\n", if rows.is_empty() { "no devices".into() } else { rows.join("; ") })
    };
    s.print(|| json!({ "done": true, "device": super::json::rows(&rows, super::json::device) }), text);
    Ok(())
}
