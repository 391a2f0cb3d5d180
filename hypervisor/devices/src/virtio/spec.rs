//! Names and numbers of VIRTIO 1.2 (OASIS, "Virtual I/O Device (VIRTIO) Version 1.2"): status, features, split virtqueues and the
//! register window of virtio over MMIO.

use bus::Offset;

/// Status ("Device Status Field"): the guest has seen the device.
pub const ACKNOWLEDGE: u32 = 1;
/// The guest has a driver for it.
pub const DRIVER: u32 = 2;
/// The driver is set up.
pub const DRIVER_OK: u32 = 4;
/// Both sides have agreed on the features.
pub const FEATURES_OK: u32 = 8;
/// The device cannot go on until it is reset.
pub const DEVICE_NEEDS_RESET: u32 = 64;
/// The driver has given up.
pub const FAILED: u32 = 128;

/// Feature bits ("Reserved Feature Bits"): descriptors that name a table of descriptors.
pub const F_INDIRECT_DESC: u64 = 1 << 28;
/// `used_event` and `avail_event` say when to notify.
pub const F_EVENT_IDX: u64 = 1 << 29;
/// The driver follows version 1 of the specification; without it there is none for this device.
pub const F_VERSION_1: u64 = 1 << 32;

/// "The Virtqueue Descriptor Table": bytes of a descriptor.
pub const DESCRIPTOR: u64 = 16;
/// Another descriptor follows.
pub const DESC_NEXT: u16 = 1;
/// The buffer is the device's to write.
pub const DESC_WRITE: u16 = 2;
/// The buffer is a table of descriptors.
pub const DESC_INDIRECT: u16 = 4;

/// "The Virtqueue Available Ring", in bytes from its start: `flags`.
pub const AVAIL_FLAGS: u64 = 0;
/// `idx`.
pub const AVAIL_IDX: u64 = 2;
/// `ring`, 2 bytes an entry; `used_event` behind it.
pub const AVAIL_RING: u64 = 4;
/// Of `flags`: no interrupt is wanted.
pub const AVAIL_NO_INTERRUPT: u16 = 1;

/// "The Virtqueue Used Ring", in bytes from its start: `idx`.
pub const USED_IDX: u64 = 2;
/// `ring`, 8 bytes an entry; `avail_event` behind it.
pub const USED_RING: u64 = 4;

/// "MMIO Device Register Layout": bytes of the window, as many as on QEMU's `virt`.
pub const WINDOW: u64 = 0x200;
/// `MagicValue`.
pub const MAGIC: Offset = 0x000;
/// "virt".
pub const MAGIC_VALUE: u32 = 0x7472_6976;
/// `Version`.
pub const VERSION: Offset = 0x004;
/// Version 2 is that of VIRTIO 1.0 and later; 1 is the legacy interface.
pub const VERSION_VALUE: u32 = 2;
/// `DeviceID`.
pub const DEVICE_ID: Offset = 0x008;
/// `VendorID`.
pub const VENDOR_ID: Offset = 0x00c;
/// "MRUS".
pub const VENDOR_VALUE: u32 = 0x5355_524d;
/// `DeviceFeatures`: 32 of the features that the device offers.
pub const DEVICE_FEATURES: Offset = 0x010;
/// `DeviceFeaturesSel`: which.
pub const DEVICE_FEATURES_SEL: Offset = 0x014;
/// `DriverFeatures`: 32 of the features that the driver takes.
pub const DRIVER_FEATURES: Offset = 0x020;
/// `DriverFeaturesSel`: which.
pub const DRIVER_FEATURES_SEL: Offset = 0x024;
/// `QueueSel`: the queue that the registers below are about.
pub const QUEUE_SEL: Offset = 0x030;
/// `QueueNumMax`: the largest size; 0 where there is no such queue.
pub const QUEUE_NUM_MAX: Offset = 0x034;
/// `QueueNum`: its size in entries.
pub const QUEUE_NUM: Offset = 0x038;
/// `QueueReady`.
pub const QUEUE_READY: Offset = 0x044;
/// `QueueNotify`: a queue has new buffers.
pub const QUEUE_NOTIFY: Offset = 0x050;
/// `InterruptStatus`.
pub const INTERRUPT_STATUS: Offset = 0x060;
/// `InterruptACK`.
pub const INTERRUPT_ACK: Offset = 0x064;
/// Of both: buffers have been used.
pub const INTERRUPT_USED: u32 = 1;
/// Of both: the configuration, or `DEVICE_NEEDS_RESET`, has changed.
pub const INTERRUPT_CONFIG: u32 = 2;
/// `Status`.
pub const STATUS: Offset = 0x070;
/// `QueueDescLow`, `QueueDescHigh`: the descriptor table.
pub const QUEUE_DESC: Offset = 0x080;
/// `QueueDriverLow`, `QueueDriverHigh`: the available ring.
pub const QUEUE_DRIVER: Offset = 0x090;
/// `QueueDeviceLow`, `QueueDeviceHigh`: the used ring.
pub const QUEUE_DEVICE: Offset = 0x0a0;
/// `SHMSel`: shared memory, of which there is none.
pub const SHM_SEL: Offset = 0x0ac;
/// `SHMLenLow` up to `SHMBaseHigh`, which read as ones where there is none.
pub const SHM_FIRST: Offset = 0x0b0;
/// The last of them.
pub const SHM_LAST: Offset = 0x0bc;
/// `ConfigGeneration`.
pub const CONFIG_GENERATION: Offset = 0x0fc;
/// `Config`: the device's own part of the window.
pub const CONFIG: Offset = 0x100;
