//! Numbers of the input device: VIRTIO 1.2, "Input Device", and the input event codes of Linux that it refers to.

/// Its type.
pub const ID: u32 = 18;

/// The queue of events, from the device to the driver.
pub const EVENTQ: usize = 0;
/// The queue of states (lights, repeat rates), from the driver to the device.
pub const STATUSQ: usize = 1;

/// Bytes of an event: type, code (16 bits each), value (32 bits).
pub const EVENT: usize = 8;

/// "Device configuration layout", in bytes: what is asked for.
pub const SELECT: usize = 0;
/// Of which kind.
pub const SUBSEL: usize = 1;
/// How many bytes the answer has.
pub const SIZE: usize = 2;
/// The answer.
pub const DATA: usize = 8;

/// Values of `select`: the name.
pub const ID_NAME: u8 = 0x01;
/// The serial number.
pub const ID_SERIAL: u8 = 0x02;
/// Bus type, vendor, product, version.
pub const ID_DEVIDS: u8 = 0x03;
/// Properties: none.
pub const PROP_BITS: u8 = 0x10;
/// The codes of events of type `subsel`.
pub const EV_BITS: u8 = 0x11;

/// Event types: the end of what happens at once.
pub const EV_SYN: u16 = 0;
/// A key.
pub const EV_KEY: u16 = 1;
/// The code that goes with [`EV_SYN`].
pub const SYN_REPORT: u16 = 0;
/// The power key.
pub const KEY_POWER: u16 = 116;
/// The bus of a device that there is in software only.
pub const BUS_VIRTUAL: u16 = 6;
