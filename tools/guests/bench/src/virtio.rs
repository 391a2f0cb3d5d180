//! A driver for one virtio device over MMIO that counts what leaves for the hypervisor: what Merus executes for the device is what the
//! accesses to its registers and to the interrupt controller take, all else is the guest's own.
//!
//! Names and numbers are those of VIRTIO 1.2: "Virtio Over MMIO", "Split Virtqueues". As Linux' driver it uses a table of descriptors for each
//! request, notifies only where the device wants that, and has itself interrupted when the next buffer comes back.

use guest_rt::mmio::{self, read16, read32, write16, write32, write64};
use guest_rt::virtio::{
    EVENT_IDX, INDIRECT_DESC, INTERRUPT_ACK, INTERRUPT_STATUS, NOTIFY, Part, Transport, VERSION_1, descriptor,
};
use guest_rt::{cpu, fdt, gic, mrs, sysreg};

/// Entries of a queue.
pub const SIZE: u16 = 64;
/// Descriptors of a request at most.
const PARTS: u64 = 3;
/// Where rings and buffers are: beyond the payload, in RAM that nobody else uses.
const RINGS: u64 = mmio::RAM + (32 << 20);
/// Bytes of a queue's parts: table, available ring, used ring, the requests' tables.
const EACH: u64 = 0x4000;
const AVAIL: u64 = 0x800;
const USED: u64 = 0xa00;
const TABLES: u64 = 0x1000;
/// Bytes for all of it.
const ROOM: u64 = 4 << 20;
/// Behind the rings.
pub const BUFFERS: u64 = RINGS + (1 << 20);

const FEATURES: u64 = VERSION_1 | EVENT_IDX | INDIRECT_DESC;

/// A device with its driver.
pub struct Device {
    base: u64,
    intid: u32,
    /// Ticks in the hypervisor since it was asked last.
    merus: u64,
    /// And those that passed in [`Device::stay`] here.
    idle: u64,
    avail: [u16; 2],
    used: [u16; 2],
}

impl Device {
    /// The first device of a type, with `queues` queues set up and running.
    pub fn new(id: u32, own: u64, queues: u64) -> Option<Self> {
        let tree = fdt::address();
        assert!(!(RINGS..RINGS + ROOM).contains(&tree), "the tree is where the rings are to be");
        let found = Transport::find(id, 0)?;
        found.begin(FEATURES | own);
        for queue in 0..queues {
            let at = RINGS + EACH * queue;
            (0..EACH / 8).for_each(|word| write64(at + 8 * word, 0));
            found.set_queue(queue as u32, SIZE.into(), [at, at + AVAIL, at + USED]);
        }
        found.go();
        gic::route(found.intid, cpu::index());
        gic::set_edge(found.intid, found.edge);
        gic::enable(cpu::index(), found.intid);
        Some(Self { base: found.base, intid: found.intid, merus: 0, idle: 0, avail: [0; 2], used: [0; 2] })
    }

    /// Sets up request `number` of a queue: its table, and the descriptor that names it.
    pub fn prepare(&self, queue: u64, number: u16, parts: &[Part]) {
        let at = RINGS + EACH * queue;
        let table = at + TABLES + 16 * PARTS * u64::from(number);
        for (n, (place, size, write)) in (0u64..).zip(parts) {
            let more = n + 1 < parts.len() as u64;
            descriptor(table + 16 * n, *place, *size, u16::from(more) | u16::from(*write) << 1, n as u16 + 1);
        }
        descriptor(at + 16 * u64::from(number), table, 16 * parts.len() as u32, 4, 0);
    }

    /// Offers request `number`; the device hears of it by [`Device::notify`].
    pub fn offer(&mut self, queue: u64, number: u16) {
        let next = &mut self.avail[queue as usize];
        write16(RINGS + EACH * queue + AVAIL + 4 + 2 * u64::from(*next % SIZE), number);
        *next = next.wrapping_add(1);
    }

    /// Makes what was offered available, and notifies if the device wants that.
    pub fn notify(&mut self, queue: u64, old: u16) {
        let at = RINGS + EACH * queue;
        let new = self.avail[queue as usize];
        guest_rt::run!("dmb ishst");
        write16(at + AVAIL + 2, new);
        guest_rt::run!("dmb ish");
        let event = read16(at + USED + 4 + 8 * u64::from(SIZE));
        if new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old) {
            let register = self.base + NOTIFY;
            self.leave(|| write32(register, queue as u32));
        }
    }

    /// How many requests of a queue the device has given back since it was asked last; it interrupts at the next one.
    pub fn back(&mut self, queue: u64) -> u16 {
        let at = RINGS + EACH * queue;
        let mut count = 0;
        loop {
            let index = read16(at + USED + 2);
            guest_rt::run!("dmb ish");
            let seen = &mut self.used[queue as usize];
            if index == *seen {
                return count;
            }
            count += index.wrapping_sub(*seen);
            *seen = index;
            write16(at + AVAIL + 4 + 2 * u64::from(SIZE), index);
            guest_rt::run!("dmb ish");
        }
    }

    /// What was offered so far.
    pub fn offered(&self, queue: u64) -> u16 {
        self.avail[queue as usize]
    }

    /// Handles the device's interrupt if it is pending, as Linux' driver does; `true` if it was.
    pub fn interrupt(&mut self) -> bool {
        sysreg::isb();
        if mrs!("ISR_EL1") & 1 << 7 == 0 {
            return false;
        }
        let intid = gic::acknowledge();
        if intid == gic::SPURIOUS {
            return false;
        }
        let base = self.base;
        let why = self.leave(|| read32(base + INTERRUPT_STATUS));
        self.leave(|| write32(base + INTERRUPT_ACK, why));
        self.leave(|| gic::end(intid));
        intid == self.intid
    }

    /// Sleeps until an interrupt is pending.
    pub fn sleep(&mut self) {
        self.leave(|| guest_rt::run!("wfi"));
    }

    /// Stays here until an interrupt is pending. Ticks that are missing between two looks at the counter were the hypervisor's: they are
    /// some hundreds, and a look is some ten. For what a device of the machine's does in a time of its own: of a CPU that sleeps meanwhile
    /// nobody can say how long it executed nothing.
    pub fn stay(&mut self) {
        const LOOK: u64 = 64;
        let mut before = mrs!("CNTVCT_EL0");
        let mut least = LOOK;
        while mrs!("ISR_EL1") & 1 << 7 == 0 {
            sysreg::isb();
            let now = mrs!("CNTVCT_EL0");
            let gap = now.wrapping_sub(before);
            before = now;
            least = least.min(gap);
            let missing = if gap > LOOK { gap.saturating_sub(least) } else { 0 };
            self.merus += missing;
            self.idle += gap - missing;
        }
    }

    /// Ticks in [`Device::stay`], the hypervisor's left out, since it was asked last.
    pub fn idle(&mut self) -> u64 {
        core::mem::take(&mut self.idle)
    }

    /// Something that leaves for the hypervisor. It counts as an instruction itself.
    fn leave<T>(&mut self, act: impl FnOnce() -> T) -> T {
        sysreg::isb();
        let start = mrs!("CNTVCT_EL0");
        let done = act();
        sysreg::isb();
        // The second ISB and the first reading.
        self.merus += mrs!("CNTVCT_EL0").wrapping_sub(start).saturating_sub(2);
        done
    }

    /// Ticks in the hypervisor since it was asked last.
    pub fn merus(&mut self) -> u64 {
        core::mem::take(&mut self.merus)
    }
}
