//! A guest with two disks and two cards at a switch, beside one that misuses its own (`hostile-virtio`): what it wrote stays, what it reads is
//! right, and its frames arrive.
//!
//! It checks, round by round until a key is hit: pages of either disk that it wrote, pages of the image that nobody wrote, a frame from one of
//! its cards to the other. `image=` and `host=` say how many pages each disk has.
//!
//! `disk-space`: what one disk gives up, another one of the same VM can have.

use guest_rt::mmio::{self, read8, read16, read32, read64, write8, write16, write64};
use guest_rt::test::fail;
use guest_rt::virtio::{self, BLK, NET, Part, Queue, Transport, VERSION_1};
use guest_rt::{check, check_eq, cpu, fdt, println, timer};

/// Pages of a disk that it writes: so many. All are written before anybody counts the machine's memory.
const SLOTS: usize = 128;
const PAGE: u64 = 4096;
/// Sectors of a page.
const SECTORS: u64 = PAGE / 512;
/// Rounds that are the least: that many must be possible beside the other one.
const LEAST: u64 = 20;
/// VIRTIO_BLK_F_FLUSH.
const FLUSH: u64 = 1 << 9;
/// VIRTIO_BLK_F_DISCARD, and the type of such a request.
const DISCARD: u64 = 1 << 13;
const T_DISCARD: u64 = 11;
/// VIRTIO_NET_F_MAC.
const MAC: u64 = 1 << 5;
/// The virtio header of a frame, and the Ethernet header.
const HEADER: u64 = 12;
const ETHERNET: u64 = 14;
/// "IEEE Std 802 - Local Experimental Ethertype 1", as it is stored.
const ETHERTYPE: u16 = 0xb588;
/// Buffers for frames.
const FRAMES: u16 = 32;
const BUFFER: u64 = 2048;
/// How often a frame is sent before it counts as lost for good, and how long each is waited for in ms.
const TRIES: u32 = 500;
const WAIT: u64 = 20;

/// Memory of its own, behind what the payload uses.
fn room(number: u64) -> u64 {
    mmio::RAM + fdt::memory_size() / 4 * 3 + number * 0x2_0000
}

/// The next number of a sequence.
fn mix(value: u64) -> u64 {
    let z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

/// A disk, and what was written where.
struct Disk {
    name: &'static str,
    queue: Queue,
    at: u64,
    number: u64,
    /// What a slot holds; 0: nothing was written.
    versions: [u32; SLOTS],
    pages: u64,
    first: u64,
}

impl Disk {
    fn new(name: &'static str, number: u64, pages: u64, features: u64) -> Self {
        let device = Transport::find(BLK, number as usize).expect("a disk");
        assert!(device.begin(VERSION_1 | FLUSH | features), "{name}: it refuses its features");
        let at = room(number);
        let queue = Queue::new(device, 0, 16, at);
        device.go();
        // The image's first half stays as it was.
        let first = if number == 0 { pages / 2 } else { 0 };
        Self { name, queue, at, number, versions: [0; SLOTS], pages, first }
    }

    fn data(&self) -> u64 {
        self.at + 0x4000
    }

    /// A request with up to a page of data in two pieces; whether it was done.
    fn request(&mut self, kind: u64, page: u64, data: bool) -> bool {
        let piece = (PAGE / 2) as u32;
        let all = [(self.data(), piece, kind == 0), (self.data() + PAGE / 2, piece, kind == 0)];
        let status = self.ask(kind, page, if data { &all } else { &[] });
        check!(status == Some(0), "{}: request {kind} of page {page}: {status:?}", self.name);
        status == Some(0)
    }

    /// A request with two parts of data at most: its status; `None`: it never came back.
    fn ask(&mut self, kind: u64, page: u64, data: &[Part]) -> Option<u8> {
        let (head, status) = (self.at + 0x2000, self.at + 0x2010);
        write64(head, kind);
        write64(head + 8, page * SECTORS);
        write8(status, 0xff);
        let mut all = [(head, 16, false); 4];
        all[1..=data.len()].copy_from_slice(data);
        all[data.len() + 1] = (status, 1, true);
        self.queue.offer(0, &all[..data.len() + 2]);
        self.queue.notify();
        let queue = &mut self.queue;
        timer::wait_for(cpu::PATIENCE, || queue.back().is_some()).then(|| read8(status))
    }

    /// Where a slot is: pages that lie apart.
    fn page(&self, slot: usize) -> u64 {
        self.first + slot as u64 * 61 % (self.pages - self.first)
    }

    /// What word `word` of a slot's page is.
    fn word(&self, slot: usize, word: u64) -> u64 {
        mix(self.number << 60 | (slot as u64) << 48 | u64::from(self.versions[slot]) << 16 | word)
    }

    fn write(&mut self, slot: usize) {
        self.versions[slot] += 1;
        (0..PAGE / 8).for_each(|word| write64(self.data() + 8 * word, self.word(slot, word)));
        self.request(1, self.page(slot), true);
    }

    fn read(&mut self, slot: usize) {
        let page = self.page(slot);
        (0..PAGE / 8).for_each(|word| write64(self.data() + 8 * word, 0));
        if !self.request(0, page, true) {
            return;
        }
        let wrong = (0..PAGE / 8).find(|word| read64(self.data() + 8 * word) != self.word(slot, *word));
        if let Some(word) = wrong {
            let (got, want) = (read64(self.data() + 8 * word), self.word(slot, word));
            fail(format_args!("{}: word {word} of page {page}: got {got:#x}, want {want:#x}", self.name));
        }
    }

    /// A page of the image that nobody wrote: it says its number, and the rest is zeros.
    fn read_base(&mut self, page: u64) {
        (0..PAGE).for_each(|byte| write8(self.data() + byte, 0xff));
        if !self.request(0, page, true) {
            return;
        }
        let mut digits = [0; 20];
        let mut left = page;
        let mut count = 0;
        while count == 0 || left != 0 {
            digits[count] = b'0' + (left % 10) as u8;
            (left, count) = (left / 10, count + 1);
        }
        let text = b"page ".iter().chain(digits[..count].iter().rev()).chain(b" of the disk\n").chain([0; 16].iter());
        let wrong = text.zip(0..).find(|(byte, at)| read8(self.data() + at) != **byte);
        check!(wrong.is_none(), "{}: page {page}, which nobody wrote, is another one", self.name);
        let rest = (64..PAGE).find(|byte| read8(self.data() + byte) != 0);
        check!(rest.is_none(), "{}: byte {rest:?} of page {page}, which nobody wrote, is not 0", self.name);
    }
}

/// A card.
struct Card {
    queue: Queue,
    at: u64,
    mac: [u8; 6],
}

impl Card {
    /// Card `number`; with buffers for what comes, or for sending.
    fn new(number: usize, receives: bool) -> Self {
        let device = Transport::find(NET, number).expect("a card");
        assert!(device.begin(VERSION_1 | MAC), "card {number} refuses its features");
        let at = room(2 + number as u64);
        let mut queue = Queue::new(device, u32::from(!receives), 64, at);
        device.go();
        if receives {
            (0..FRAMES).for_each(|n| queue.offer(n, &[(at + BUFFER * (2 + u64::from(n)), BUFFER as u32, true)]));
            queue.notify();
        }
        Self { queue, at, mac: virtio::mac(&device) }
    }

    /// Sends frame `number` to `to`.
    fn send(&mut self, number: u64, to: [u8; 6]) {
        let (at, size) = (self.at + 0x4000, size(number));
        (0..HEADER / 2).for_each(|n| write16(at + 2 * n, 0));
        for (n, byte) in (0..).zip(to.into_iter().chain(self.mac)) {
            write8(at + HEADER + n, byte);
        }
        write16(at + HEADER + 12, ETHERTYPE);
        let data = at + HEADER + ETHERNET;
        (0..8).for_each(|n| write8(data + n, (number >> (8 * n)) as u8));
        (8..size).for_each(|n| write8(data + n, byte(number, n)));
        self.queue.offer(0, &[(at, (HEADER + ETHERNET + size) as u32, false)]);
        self.queue.notify();
        let queue = &mut self.queue;
        check!(timer::wait_for(cpu::PATIENCE, || queue.back().is_some()), "a frame was never sent");
    }

    /// Takes what has come; whether frame `number` from `from` was there. Whatever has that source must be right.
    fn receive(&mut self, number: u64, from: [u8; 6]) -> bool {
        let mut found = false;
        while let Some((buffer, size)) = self.queue.back() {
            let at = self.at + BUFFER * (2 + u64::from(buffer % FRAMES));
            found |= look(at, u64::from(size), number, self.mac, from);
            self.queue.offer(buffer, &[(at, BUFFER as u32, true)]);
            self.queue.notify();
        }
        found
    }
}

/// Bytes behind the Ethernet header of frame `number`.
fn size(number: u64) -> u64 {
    46 + mix(number) % 1400
}

fn byte(number: u64, at: u64) -> u8 {
    mix(number << 16 | at) as u8
}

/// Looks at a frame that came: whether it is frame `number` of `from`.
fn look(at: u64, length: u64, number: u64, to: [u8; 6], from: [u8; 6]) -> bool {
    let mac = |place: u64| -> [u8; 6] { core::array::from_fn(|n| read8(at + HEADER + place + n as u64)) };
    if length < HEADER + ETHERNET + 8 || mac(6) != from {
        return false;
    }
    let data = at + HEADER + ETHERNET;
    let got = (0..8).fold(0, |got, n| got | u64::from(read8(data + n)) << (8 * n));
    let right = mac(0) == to
        && read16(at + HEADER + 12) == ETHERTYPE
        && length == HEADER + ETHERNET + size(got)
        && (8..size(got)).all(|n| read8(data + n) == byte(got, n));
    check!(right && got <= number, "a frame of {length} bytes that nobody sent has come as number {got}");
    got == number
}

/// Whether a key was hit (the PL011's UARTFR.RXFE).
fn key() -> bool {
    mmio::read32(mmio::UART + 0x18) & 1 << 4 == 0
}

/// Runs the test, until a key was hit.
pub fn victim_virtio() {
    let image = Disk::new("the image", 0, fdt::number("image").unwrap_or(16384), 0);
    let host = Disk::new("the host's disk", 1, fdt::number("host").unwrap_or(4096), 0);
    let (mut from, mut to) = (Card::new(0, false), Card::new(1, true));
    let mut disks = [image, host];
    disks.iter_mut().for_each(|disk| (0..SLOTS).for_each(|slot| disk.write(slot)));
    println!("victim-virtio: works");
    let (mut random, mut rounds, mut again) = (1, 0, 0);
    loop {
        for disk in &mut disks {
            random = mix(random);
            let slot = random as usize % SLOTS;
            if random >> 32 & 1 == 0 {
                disk.write(slot);
            }
            disk.read((random >> 40) as usize % SLOTS);
            if random >> 33 & 7 == 0 {
                disk.request(4, 0, false);
            }
        }
        let first = disks[0].first;
        disks[0].read_base(mix(rounds) % first);
        let mut tries = 0;
        loop {
            from.send(rounds, to.mac);
            if timer::wait_for(WAIT, || to.receive(rounds, from.mac)) {
                break;
            }
            tries += 1;
            if tries == TRIES {
                fail(format_args!("frame {rounds} never came"));
                break;
            }
        }
        again += tries;
        rounds += 1;
        if key() {
            break;
        }
    }
    disks.iter_mut().for_each(|disk| (0..SLOTS).for_each(|slot| disk.read(slot)));
    // Anything that came is one of its bytes.
    let _ = read32(mmio::UART);
    println!("victim-virtio: rounds {rounds} frames sent again {again}");
    check!(rounds >= LEAST, "{rounds} rounds are too few");
}

/// Runs the test `disk-space`: on a VM whose `memory.max` its first disk reaches. What that discards then, the second disk has.
pub fn disk_space() {
    const MOST: u64 = 4096;
    const AGAIN: u64 = 200;
    let mut disks = [Disk::new("the first disk", 0, 16384, DISCARD), Disk::new("the second disk", 1, 16384, DISCARD)];
    let data = |disk: &Disk| [(disk.data(), PAGE as u32, false)];
    for round in 0..4 {
        let [first, second] = &mut disks;
        // One that was refused asks again with this.
        first.ask(1, 0, &data(first));
        let written = (0..MOST).find(|page| first.ask(1, *page, &data(first)) != Some(0)).unwrap_or(MOST);
        println!("disk-space: {} has {written} pages", first.name);
        check!((AGAIN..MOST).contains(&written), "round {round}: {} took {written} pages", first.name);
        if round == 0 {
            // It had none before, and has none in reserve.
            let refused = second.ask(1, 0, &data(second));
            check_eq!(refused, Some(1), "a page of {} in no memory", second.name);
        }
        write64(first.data(), 0);
        write64(first.data() + 8, MOST * SECTORS);
        check_eq!(first.ask(T_DISCARD, 0, &[(first.data(), 16, false)]), Some(0), "round {round}: a discard");
        disks.swap(0, 1);
    }
}
