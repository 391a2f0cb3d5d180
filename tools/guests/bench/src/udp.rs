//! A datagram of 64 bytes to another VM and back: how long that takes, and what of it is this driver's own, in either VM.

use crate::events::after;
use crate::report::Samples;
use crate::virtio::{BUFFERS, Device};
use guest_rt::mmio::{read16, read64, write8, write16, write64};
use guest_rt::{fdt, println, timer};

const NET: u32 = 1;
/// The card's address is given; frames come in one buffer each.
const FEATURES: u64 = 1 << 5;
const RX: u64 = 0;
const TX: u64 = 1;
/// Buffers for what comes.
const DEPTH: u16 = 16;
const BUFFER: u64 = 2048;
/// The virtio header, and a datagram with those of UDP, IP and Ethernet.
const HEADER: u64 = 12;
const FRAME: u64 = 14 + 20 + 8 + 64;
/// Echoes, and those that go before them.
const EVENTS: u64 = 500;
const WARM: u64 = 20;
/// The other VM listens by then, and this one hears.
const SETTLED: u64 = 20_000_000;

/// Where what comes in buffer `number` is, and what is sent.
fn received(number: u16) -> u64 {
    BUFFERS + BUFFER * (1 + u64::from(number))
}
const SENT: u64 = BUFFERS;

/// A row; `false` where it is none of these.
pub fn row(row: &str) -> bool {
    let echo = match row {
        "udp" => false,
        "udp-echo" => true,
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
    if echo {
        answer(row, &mut device)
    } else {
        ask(row, &mut device)
    }
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

/// Waits for a frame, and gives its buffer back once it was looked at.
fn receive(device: &mut Device, look: impl Fn(u64)) {
    while device.back(RX) == 0 {
        device.sleep();
        device.interrupt();
    }
    let number = device.offered(RX) % DEPTH;
    look(received(number));
    let old = device.offered(RX);
    device.offer(RX, number);
    device.notify(RX, old);
}

fn ask(row: &str, device: &mut Device) {
    after(fdt::number("settle").unwrap_or(SETTLED));
    // To 52:54:00:00:00:02 from :01, IPv4.
    let head = [0x52, 0x54, 0, 0, 0, 2, 0x52, 0x54, 0, 0, 0, 1, 8, 0];
    (0u64..).zip(head).for_each(|(at, byte)| write8(SENT + HEADER + at, byte));
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
