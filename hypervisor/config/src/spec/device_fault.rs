//! What can be wrong with a VM's disks and network cards, and with switches, in words for the person who wrote it.

use super::{Bytes, DEVICE_SLOTS, HOST_FORM, MAX_PORTS, MAX_SERIAL, MAX_SWITCHES, MTUS, Mac};
use crate::disk_image::Table;
use alloc::string::String;
use thiserror::Error;

/// What can be wrong. Each text says what to do, too.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum DeviceFault {
    /// More devices than slots.
    #[error(
        "has {devices} devices of virtio (rng, disks and nets together); there is room for {DEVICE_SLOTS}: give fewer"
    )]
    DeviceCount {
        /// How many.
        devices: usize,
    },
    /// A disk of nothing.
    #[error("names neither an image nor a host disk; set `image` or `host`")]
    NoSource,
    /// A disk of two things.
    #[error("is beside `image`, and a disk is one of both; leave one out")]
    TwoSources,
    /// An image that does not end with a sector.
    #[error("\"{name}\" has {size} bytes, which is no multiple of 512; is it a disk's image, and whole?")]
    ImageUneven {
        /// The file.
        name: String,
        /// Its length in bytes.
        size: u64,
    },
    /// An image whose end is missing.
    #[error(
        "\"{name}\" has {}, and its partition table ({table}) speaks of {}; copy it again, or lengthen it",
        Bytes(*size),
        Bytes(*needs)
    )]
    ImageCut {
        /// The file.
        name: String,
        /// Its length in bytes.
        size: u64,
        /// The length in bytes that its table tells.
        needs: u64,
        /// Which kind of table.
        table: Table,
    },
    /// No selector of a host disk.
    #[error("\"{host}\" names no host disk; write {HOST_FORM}")]
    HostForm {
        /// As it was written.
        host: String,
    },
    /// Two disks that write to the same place.
    #[error("{host} is written to by a disk of vm \"{vm}\" already; give each its own, or make one of them readonly")]
    HostTaken {
        /// The selector.
        host: String,
        /// Whose disk writes there.
        vm: String,
    },
    /// No serial.
    #[error("\"{serial}\" is no serial; use 1 to {MAX_SERIAL} printable ASCII characters without spaces")]
    Serial {
        /// As it was written.
        serial: String,
    },
    /// Two disks of a VM with one serial.
    #[error("\"{serial}\" is the serial of another of the VM's disks; choose another one")]
    SerialTaken {
        /// The serial.
        serial: String,
    },
    /// The address of nobody.
    #[error(
        "00:00:00:00:00:00 is nobody's address; give another one, or leave the key out for one made of the VM's name"
    )]
    MacZero,
    /// An address of a group.
    #[error("{mac} is a multicast address (the first byte is odd); give another one, such as 52:54:00:00:00:01")]
    MacGroup {
        /// As it was written.
        mac: Mac,
    },
    /// Two cards with one address.
    #[error("{mac} is the address of a net of vm \"{vm}\" already; give each its own")]
    MacTaken {
        /// The address.
        mac: Mac,
        /// Whose it is.
        vm: String,
    },
    /// Outside [`MTUS`].
    #[error("{mtu} is out of range; give {} to {}", MTUS.start(), MTUS.end())]
    Mtu {
        /// What was asked for.
        mtu: u32,
    },
    /// A switch that nothing describes.
    #[error("there is no switch \"{switch}\"; describe it in a [[switch]] table, or correct the name")]
    SwitchAbsent {
        /// The name.
        switch: String,
    },
    /// A switch with more ports than [`MAX_PORTS`].
    #[error("\"{switch}\" has {MAX_PORTS} ports already, its uplink counted; take another switch")]
    SwitchFull {
        /// The name.
        switch: String,
    },
    /// Two switches have the same name.
    #[error("the name is taken by another switch; choose another one")]
    SwitchTaken,
    /// There are more switches than [`MAX_SWITCHES`].
    #[error("there are more switches than the {MAX_SWITCHES} that one machine can have; leave some out")]
    TooManySwitches,
}
