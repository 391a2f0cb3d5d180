//! Virtio over MMIO as a driver sees it: where the devices are, the way to a running one, and a queue that is polled.
//!
//! Names and numbers are those of VIRTIO 1.2: "Virtio Over MMIO", "Split Virtqueues", "Device Initialization".

use crate::mmio::{read8, read16, read32, write16, write32, write64};
use crate::{fdt, run};

/// A network card's DeviceID.
pub const NET: u32 = 1;
/// A disk's.
pub const BLK: u32 = 2;
/// That of a source of random numbers.
pub const RNG: u32 = 4;
/// That of keys.
pub const INPUT: u32 = 18;

/// Bytes of a device's registers.
pub const WINDOW: u64 = 0x200;
/// DeviceID.
pub const DEVICE_ID: u64 = 0x08;
/// DeviceFeatures, the half that DeviceFeaturesSel chooses.
pub const DEVICE_FEATURES: u64 = 0x10;
/// DeviceFeaturesSel.
pub const DEVICE_FEATURES_SEL: u64 = 0x14;
/// DriverFeatures, the half that DriverFeaturesSel chooses.
pub const DRIVER_FEATURES: u64 = 0x20;
/// DriverFeaturesSel.
pub const DRIVER_FEATURES_SEL: u64 = 0x24;
/// QueueSel: which queue the registers of one are about.
pub const QUEUE_SEL: u64 = 0x30;
/// QueueNumMax.
pub const QUEUE_NUM_MAX: u64 = 0x34;
/// QueueNum: its entries.
pub const QUEUE_NUM: u64 = 0x38;
/// QueueReady.
pub const QUEUE_READY: u64 = 0x44;
/// QueueNotify.
pub const NOTIFY: u64 = 0x50;
/// InterruptStatus.
pub const INTERRUPT_STATUS: u64 = 0x60;
/// InterruptACK.
pub const INTERRUPT_ACK: u64 = 0x64;
/// Status; 0 resets the device.
pub const STATUS: u64 = 0x70;
/// QueueDescLow; the high half is 4 further, as for the next two.
pub const QUEUE_DESC: u64 = 0x80;
/// QueueDriverLow: the available ring.
pub const QUEUE_DRIVER: u64 = 0x90;
/// QueueDeviceLow: the used ring.
pub const QUEUE_DEVICE: u64 = 0xa0;
/// The device's own configuration.
pub const CONFIG: u64 = 0x100;

/// ACKNOWLEDGE and DRIVER.
pub const DRIVER: u32 = 3;
/// And FEATURES_OK.
pub const FEATURES_OK: u32 = 11;
/// And DRIVER_OK.
pub const DRIVER_OK: u32 = 15;
/// DEVICE_NEEDS_RESET, alone.
pub const NEEDS_RESET: u32 = 64;

/// VIRTIO_F_VERSION_1.
pub const VERSION_1: u64 = 1 << 32;
/// VIRTIO_F_EVENT_IDX.
pub const EVENT_IDX: u64 = 1 << 29;
/// VIRTIO_F_INDIRECT_DESC.
pub const INDIRECT_DESC: u64 = 1 << 28;

/// VIRTQ_DESC_F_NEXT.
pub const NEXT: u16 = 1;
/// VIRTQ_DESC_F_WRITE.
pub const WRITE: u16 = 2;
/// VIRTQ_DESC_F_INDIRECT.
pub const INDIRECT: u16 = 4;

/// A buffer: where, how long, whether the device writes it.
pub type Part = (u64, u32, bool);

/// A device's registers and its interrupt.
#[derive(Clone, Copy, Default, Debug)]
pub struct Transport {
    /// Where its registers are.
    pub base: u64,
    /// Its INTID.
    pub intid: u32,
    /// Whether that is edge triggered.
    pub edge: bool,
}

/// Calls `see` with each device, by its place in the tree.
pub fn each(mut see: impl FnMut(Transport)) {
    fdt::devices("virtio,mmio", |device| {
        see(Transport { base: device.at, intid: device.intid, edge: device.edge });
    });
}

impl Transport {
    /// Device number `nth` of a type, by address.
    pub fn find(id: u32, nth: usize) -> Option<Self> {
        let mut after = 0;
        for n in 0..=nth {
            let mut best: Option<Self> = None;
            each(|one| {
                let nearer = best.is_none_or(|best| one.base < best.base);
                if (n == 0 || one.base > after) && nearer && one.read(DEVICE_ID) == id {
                    best = Some(one);
                }
            });
            let found = best?;
            if n == nth {
                return Some(found);
            }
            after = found.base;
        }
        None
    }

    /// A register.
    pub fn read(&self, register: u64) -> u32 {
        read32(self.base + register)
    }

    /// A register.
    pub fn write(&self, register: u64, value: u32) {
        write32(self.base + register, value);
    }

    /// Resets the device and asks for `features`; whether it takes them.
    pub fn begin(&self, features: u64) -> bool {
        self.write(STATUS, 0);
        self.write(STATUS, DRIVER);
        for half in 0..2 {
            self.write(DRIVER_FEATURES_SEL, half);
            self.write(DRIVER_FEATURES, (features >> (32 * half)) as u32);
        }
        self.write(STATUS, FEATURES_OK);
        self.read(STATUS) & FEATURES_OK == FEATURES_OK
    }

    /// Sets up queue `number` with `size` entries: where its table, its available and its used ring are.
    pub fn set_queue(&self, number: u32, size: u32, rings: [u64; 3]) {
        self.write(QUEUE_SEL, number);
        self.write(QUEUE_NUM, size);
        for (register, part) in [QUEUE_DESC, QUEUE_DRIVER, QUEUE_DEVICE].into_iter().zip(rings) {
            self.write(register, part as u32);
            self.write(register + 4, (part >> 32) as u32);
        }
        self.write(QUEUE_READY, 1);
    }

    /// The device may begin.
    pub fn go(&self) {
        self.write(STATUS, DRIVER_OK);
    }
}

/// Writes a descriptor.
pub fn descriptor(at: u64, place: u64, size: u32, flags: u16, next: u16) {
    write64(at, place);
    write64(at + 8, u64::from(size) | u64::from(flags) << 32 | u64::from(next) << 48);
}

/// A queue that its driver polls: chains of descriptors in the table itself.
pub struct Queue {
    device: Transport,
    number: u32,
    size: u16,
    at: u64,
    avail: u16,
    used: u16,
}

/// Where the rings of a [`Queue`] are behind its table, and how much room all take: for 64 entries at most.
const AVAIL: u64 = 0x800;
const USED: u64 = 0xa00;
/// Bytes that a [`Queue`] needs.
pub const ROOM: u64 = 0x1000;

impl Queue {
    /// Sets up queue `number` with `size` entries, 64 at most, in [`ROOM`] bytes of RAM at `at`: between [`Transport::begin`] and
    /// [`Transport::go`].
    pub fn new(device: Transport, number: u32, size: u16, at: u64) -> Self {
        (0..ROOM / 8).for_each(|word| write64(at + 8 * word, 0));
        device.set_queue(number, size.into(), [at, at + AVAIL, at + USED]);
        Self { device, number, size, at, avail: 0, used: 0 }
    }

    /// Offers a chain that begins with descriptor `first` and takes as many as it has parts.
    pub fn offer(&mut self, first: u16, parts: &[Part]) {
        for (n, (place, length, write)) in (first..).zip(parts) {
            let more = usize::from(n - first) + 1 < parts.len();
            let flags = if more { NEXT } else { 0 } | if *write { WRITE } else { 0 };
            descriptor(self.at + 16 * u64::from(n), *place, *length, flags, n + 1);
        }
        write16(self.at + AVAIL + 4 + 2 * u64::from(self.avail % self.size), first);
        self.avail = self.avail.wrapping_add(1);
        run!("dmb ishst");
        write16(self.at + AVAIL + 2, self.avail);
        run!("dmb ish");
    }

    /// Tells the device.
    pub fn notify(&self) {
        self.device.write(NOTIFY, self.number);
    }

    /// The next chain that the device has given back: its first descriptor, and how many bytes were written.
    pub fn back(&mut self) -> Option<(u16, u32)> {
        if read16(self.at + USED + 2) == self.used {
            return None;
        }
        run!("dmb ish");
        let entry = self.at + USED + 4 + 8 * u64::from(self.used % self.size);
        self.used = self.used.wrapping_add(1);
        Some((read32(entry) as u16, read32(entry + 4)))
    }
}

/// Six bytes of the configuration: a network card's address.
pub fn mac(device: &Transport) -> [u8; 6] {
    core::array::from_fn(|n| read8(device.base + CONFIG + n as u64))
}
