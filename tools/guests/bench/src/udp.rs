//! A datagram of 64 bytes to another VM and back, and a MiB in the frames that TCP makes of it: how long that takes, and what of it is this
//! driver's own, in either VM.

use crate::events::after;
use crate::report::Samples;
use crate::virtio::{BUFFERS, Device};
use guest_rt::mmio::{read16, read64, write8, write16, write64};
use guest_rt::virtio::NET;
use guest_rt::{fdt, println, timer};

/// The card's address is given; frames come in one buffer each.
const FEATURES: u64 = 1 << 5;
const RX: u64 = 0;
const TX: u64 = 1;
/// Buffers for what comes.
const DEPTH: u16 = 32;
const BUFFER: u64 = 2048;
/// The virtio header, and a datagram with those of UDP, IP and Ethernet.
const HEADER: u64 = 12;
const FRAME: u64 = 14 + 20 + 8 + 64;
/// Echoes, and those that go before them.
const EVENTS: u64 = 500;
const WARM: u64 = 20;
/// A MiB, nearly: so many bursts of so many frames, each with so many bytes of 1,456 beside its headers; the other VM answers each burst with
/// a short frame. A frame is in three parts, as a system's has its headers and two pieces of pages.
const BURSTS: u64 = 45;
const BURST: u16 = 16;
const PIECES: [u32; 3] = [HEADER as u32 + 54, 728, 728];
/// How often, after one that warms up.
const MIBS: u64 = 10;
/// The other VM listens by then, and this one hears.
const SETTLED: u64 = 20_000_000;

/// Where what comes in buffer `number` is, and what is sent.
fn received(number: u16) -> u64 {
    BUFFERS + BUFFER * (1 + u64::from(number))
}
const SENT: u64 = BUFFERS;

/// A row; `false` where it is none of these.
pub fn row(row: &str) -> bool {
    let act: fn(&str, &mut Device) = match row {
        "udp" => ask,
        "udp-echo" => answer,
        "net-mib" => pour,
        "net-sink" => drain,
        _ => return false,
    };
    let Some(mut device) = Device::new(NET, FEATURES, 2) else {
        println!("bench: FAILED: there is no network card");
        return true;
    };
    for number in 0..DEPTH {
        device.prepare(RX, number, &[(received(number), BUFFER as u32, true)]);
        device.offer(RX, number);
    }
    device.notify(RX, 0);
    device.prepare(TX, 0, &[(SENT, (HEADER + FRAME) as u32, false)]);
    (0..(HEADER + FRAME) / 2).for_each(|at| write16(SENT + 2 * at, 0));
    act(row, &mut device);
    true
}

/// Sends what is in the buffer.
fn send(device: &mut Device) {
    let old = device.offered(TX);
    device.offer(TX, 0);
    device.notify(TX, old);
    // It has been sent when the notification returns.
    device.back(TX);
}

/// Waits for frames; how many came.
fn wait(device: &mut Device) -> u16 {
    loop {
        match device.back(RX) {
            0 => {
                device.sleep();
                device.interrupt();
            }
            count => return count,
        }
    }
}

/// Gives the oldest so many buffers back.
fn give_back(device: &mut Device, count: u16) {
    let old = device.offered(RX);
    (0..count).for_each(|_| device.offer(RX, device.offered(RX) % DEPTH));
    device.notify(RX, old);
}

/// Waits for the only frame that is on its way, and gives its buffer back once it was looked at.
fn receive(device: &mut Device, look: impl Fn(u64)) {
    let count = wait(device);
    look(received(device.offered(RX) % DEPTH));
    give_back(device, count);
}

/// The Ethernet header: to 52:54:00:00:00:`to` from :`from`, IPv4.
fn address(to: u8, from: u8) {
    let head = [0x52, 0x54, 0, 0, 0, to, 0x52, 0x54, 0, 0, 0, from, 8, 0];
    (0u64..).zip(head).for_each(|(at, byte)| write8(SENT + HEADER + at, byte));
}

fn ask(row: &str, device: &mut Device) {
    after(fdt::number("settle").unwrap_or(SETTLED));
    address(2, 1);
    let (mut all, mut own) = (Samples::new(), Samples::new());
    for number in 0..WARM + EVENTS {
        write64(SENT + HEADER + FRAME - 8, number);
        device.merus();
        let start = timer::now();
        send(device);
        receive(device, |at| {
            let back = read64(at + HEADER + FRAME - 8);
            if back != number {
                println!("bench: FAILED: {row}: {back} came back instead of {number}");
            }
        });
        let took = timer::now().saturating_sub(start);
        if number >= WARM {
            all.add(took);
            own.add(took.saturating_sub(device.merus()));
        }
    }
    all.print(row, all.sum());
    own.print("udp-own", own.sum());
}

/// Sends everything back, and counts what that costs it.
fn answer(row: &str, device: &mut Device) {
    let mut own = Samples::new();
    let mut start = timer::now();
    for number in 0..WARM + EVENTS {
        receive(device, |at| {
            (0..(HEADER + FRAME) / 2).for_each(|half| write16(SENT + 2 * half, read16(at + 2 * half)));
            for half in 0..3 {
                write16(SENT + HEADER + 2 * half, read16(at + HEADER + 6 + 2 * half));
                write16(SENT + HEADER + 6 + 2 * half, read16(at + HEADER + 2 * half));
            }
        });
        send(device);
        let now = timer::now();
        let here = now.saturating_sub(start).saturating_sub(device.merus());
        start = now;
        if number >= WARM {
            own.add(here);
        }
    }
    own.print(row, own.sum());
}

/// Sends a MiB, and waits for each burst's answer.
fn pour(row: &str, device: &mut Device) {
    after(fdt::number("settle").unwrap_or(SETTLED));
    address(2, 1);
    for number in 0..BURST {
        // All have the same headers, and any bytes behind them.
        let [first, second, third] = PIECES;
        let parts = [(SENT, first, false), (SENT + 0x1000, second, false), (SENT + 0x1800, third, false)];
        device.prepare(TX, number, &parts);
    }
    let (mut all, mut own) = (Samples::new(), Samples::new());
    for round in 0..=MIBS {
        device.merus();
        let start = timer::now();
        for _ in 0..BURSTS {
            let old = device.offered(TX);
            (0..BURST).for_each(|_| device.offer(TX, device.offered(TX) % BURST));
            device.notify(TX, old);
            device.back(TX);
            let count = wait(device);
            give_back(device, count);
        }
        let took = timer::now().saturating_sub(start);
        if round != 0 {
            all.add(took);
            own.add(took.saturating_sub(device.merus()));
        }
    }
    all.print(row, all.sum());
    own.print("net-own", own.sum());
}

/// Takes bursts, and answers each.
fn drain(row: &str, device: &mut Device) {
    address(1, 2);
    let mut own = Samples::new();
    for round in 0..=MIBS {
        let start = timer::now();
        device.merus();
        for _ in 0..BURSTS {
            let mut left = BURST;
            while left != 0 {
                let count = wait(device);
                give_back(device, count);
                left = left.saturating_sub(count);
            }
            send(device);
        }
        if round != 0 {
            own.add(timer::now().saturating_sub(start).saturating_sub(device.merus()));
        }
    }
    own.print(row, own.sum());
}
