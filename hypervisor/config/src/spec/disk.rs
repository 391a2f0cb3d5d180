//! `[[vm.disk]]`: what a VM's disks are made of.

use super::{DeviceFault, Fault, PayloadRef, VmSpec, key};
use alloc::format;
use alloc::string::{String, ToString};

/// Bytes of a sector, which is what virtio-blk counts in.
pub const SECTOR: u64 = 512;
/// The most bytes of a disk's serial (Virtual I/O Device 1.2, section "Device Operation" of "Block Device").
pub const MAX_SERIAL: usize = 20;
/// What `host` looks like.
pub const HOST_FORM: &str = "\"PARTLABEL=NAME\", \"PARTUUID=ID\" or \"DISK=NUMBER\"";
/// The most characters of a partition's label or identifier: a GPT's entry has room for 36 units, as a UUID has characters.
const MAX_SELECTOR: usize = 36;

/// Where a disk's sectors are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DiskSource {
    /// A file in the bundle. VMs that name the same one share its bytes, and what each writes is its own.
    Image(PayloadRef),
    /// A partition of the machine's disks, or a whole one of them, as [`HOST_FORM`] writes it.
    Host(String),
}

/// What was asked for one disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DiskSpec {
    /// Where its sectors are.
    pub source: DiskSource,
    /// The guest cannot write to it.
    pub readonly: bool,
    /// What it says it is called; `None`: `disk` and its number among the VM's disks, from 0.
    pub serial: Option<String>,
}

impl DiskSpec {
    /// Its image, if it is one.
    pub fn image(&self) -> Option<&PayloadRef> {
        match &self.source {
            DiskSource::Image(payload) => Some(payload),
            DiskSource::Host(_) => None,
        }
    }

    /// As [`Self::image`], to be completed.
    pub fn image_mut(&mut self) -> Option<&mut PayloadRef> {
        match &mut self.source {
            DiskSource::Image(payload) => Some(payload),
            DiskSource::Host(_) => None,
        }
    }

    /// The part of the machine's disks that it writes to, if it does.
    fn writes(&self) -> Option<&str> {
        match &self.source {
            DiskSource::Host(host) if !self.readonly => Some(host),
            _ => None,
        }
    }

    /// All that is wrong with it taken by itself, each with its key.
    pub(super) fn check(&self) -> impl Iterator<Item = (&'static str, Fault)> {
        let source = match &self.source {
            DiskSource::Image(image) if image.size == 0 => {
                Err((key::IMAGE, Fault::EmptyPayload { name: image.name.to_string() }))
            }
            DiskSource::Image(image) if !image.size.is_multiple_of(SECTOR) => {
                let fault = DeviceFault::ImageUneven { name: image.name.to_string(), size: image.size };
                Err((key::IMAGE, fault.into()))
            }
            DiskSource::Host(host) if !is_selector(host) => {
                Err((key::HOST, DeviceFault::HostForm { host: host.to_string() }.into()))
            }
            DiskSource::Image(_) | DiskSource::Host(_) => Ok(()),
        };
        let serial = match &self.serial {
            Some(serial) if !is_serial(serial) => {
                Err((key::SERIAL, DeviceFault::Serial { serial: serial.to_string() }.into()))
            }
            _ => Ok(()),
        };
        [source, serial].into_iter().filter_map(Result::err)
    }
}

/// Whether it is of [`HOST_FORM`].
fn is_selector(host: &str) -> bool {
    let Some((what, which)) = host.split_once('=') else { return false };
    let length = which.chars().count();
    let fits = length > 0 && length <= MAX_SELECTOR;
    match what {
        "PARTLABEL" => fits && !which.chars().any(char::is_control),
        // A UUID, or what an MBR's partitions have in its place: the disk's number and theirs.
        "PARTUUID" => fits && which.chars().all(|c| c.is_ascii_hexdigit() || c == '-'),
        "DISK" => crate::setting::decimal(which).is_some_and(|number| u8::try_from(number).is_ok()),
        _ => false,
    }
}

/// Whether two selectors of [`HOST_FORM`] are the same one. (Two that differ may still lead to one partition: that shows on the machine.)
fn same_selector(one: &str, other: &str) -> bool {
    one == other || (one.starts_with("PARTUUID=") && one.eq_ignore_ascii_case(other))
}

fn is_serial(serial: &str) -> bool {
    (1..=MAX_SERIAL).contains(&serial.len()) && serial.bytes().all(|byte| byte.is_ascii_graphic())
}

impl VmSpec {
    /// What disk `disk` of the VM says it is called: at most [`MAX_SERIAL`] bytes once the VM is checked.
    pub fn serial(&self, disk: usize) -> String {
        let own = self.disks.get(disk).and_then(|disk| disk.serial.clone());
        own.unwrap_or_else(|| format!("disk{disk}"))
    }
}

/// What is wrong with disk `disk` of the VM `owner` beside the ones before it and those of `others`.
pub(super) fn beside<'a>(
    owner: &'a VmSpec,
    disk: usize,
    others: impl Iterator<Item = &'a VmSpec>,
) -> Option<(&'static str, Fault)> {
    let this = owner.disks.get(disk)?;
    let serial = owner.serial(disk);
    if (0..disk).any(|other| owner.serial(other) == serial) {
        return Some((key::SERIAL, DeviceFault::SerialTaken { serial }.into()));
    }
    let host = this.writes()?;
    let before = others.flat_map(|other| other.disks.iter().map(move |disk| (other, disk)));
    let own = owner.disks.iter().take(disk).map(|disk| (owner, disk));
    let (other, _) =
        before.chain(own).find(|(_, other)| other.writes().is_some_and(|other| same_selector(host, other)))?;
    Some((key::HOST, DeviceFault::HostTaken { host: host.to_string(), vm: other.name.to_string() }.into()))
}
