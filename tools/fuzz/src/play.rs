//! What the guest, or somebody outside, does, and what is checked of it. At the end the device is reset, and has to work.

use crate::input::{Input, RECORD};
use crate::ram::{BASE, Race, SIZE};
use crate::rig::{Bound, DATA, How, QUEUES, Request, Rig, parts};
use bus::{AccessSize, MmioDevice};
use devices::virtio::Device;
use devices::virtio::spec::*;

/// A device with what is outside of it.
pub trait Target: Sized {
    /// The device.
    type Device: Device;
    /// What a step of it may do.
    const BOUND: Bound;
    /// Both, in one of 256 shapes.
    fn new(shape: u8) -> (Self::Device, Self);
    /// A request that is right, or nearly.
    fn request(&self, input: &mut Input<'_>) -> Request;
    /// Something happens outside.
    fn outside(&mut self, rig: &mut Rig<Self::Device>, input: &mut Input<'_>);
    /// The device was reset and has a driver again, with all features: does it work?
    fn alive(&mut self, rig: &mut Rig<Self::Device>);
    /// All is over.
    fn end(self, _rig: Rig<Self::Device>) {}
}

/// Runs an input: its first byte is the target's shape.
pub fn run<T: Target>(bytes: &[u8]) {
    let (first, records) = bytes.split_first().unwrap_or((&0, &[]));
    let (device, mut target) = T::new(*first);
    let mut rig = Rig::new(device, T::BOUND);
    for record in records.chunks(RECORD) {
        act(&mut rig, &mut target, &mut Input::new(record));
    }
    rig.ram.fail(None);
    rig.ram.race(None);
    let features = rig.offered();
    rig.up(features, 16);
    target.alive(&mut rig);
    target.end(rig);
}

/// A place that matters, or any.
fn place(input: &mut Input<'_>) -> u64 {
    let (kind, offset) = (input.u8(), u64::from(input.u16()));
    match kind % 8 {
        0..=3 => DATA + offset,
        4 => parts(u16::from(kind >> 3) % QUEUES as u16)[usize::from(kind >> 4) % 3] + offset % 0x400,
        5 => BASE + SIZE - offset % 64,
        6 => u64::MAX - offset % 64,
        _ => input.u64(),
    }
}

fn length(input: &mut Input<'_>) -> u32 {
    match input.u8() {
        n @ 0..0x80 => n.into(),
        n @ 0x80..0xc0 => u32::from(n & 0x3f) * 16,
        0xc0..0xe0 => input.u16().into(),
        _ => input.u32(),
    }
}

/// One act.
fn act<T: Target>(rig: &mut Rig<T::Device>, target: &mut T, input: &mut Input<'_>) {
    match input.u8() % 32 {
        0 | 1 => access(rig, input),
        2..=4 => {
            let at = 4 * (u64::from(input.u8()) % 0x48);
            let value = if input.u8() < 0xc0 { u32::from(input.u8()) % 20 } else { input.u32() };
            let _ = rig.put(at, value);
        }
        5 | 6 => {
            let at = place(input) & !1;
            let value = if input.u8() < 0xc0 { input.u16() % 40 } else { input.u16() };
            rig.ram.put(at, &value.to_le_bytes());
        }
        7..=9 => {
            let [queue, index, flags, next] = [(); 4].map(|()| u16::from(input.u8()));
            let (size, at) = (length(input), place(input));
            rig.descriptor(parts(queue % QUEUES as u16)[0], index % 32, (at, size, flags % 8, next));
        }
        10 | 11 => {
            let (queue, head) = (u16::from(input.u8()) % QUEUES as u16, u16::from(input.u8()) % 32);
            let (ahead, often) = (if input.u8() < 0xe0 { u16::from(input.u8()) % 18 } else { input.u16() }, input.u8());
            rig.make_available(queue, head, ahead);
            // Once more, and once more.
            (0..if often < 0xa0 { 0 } else { often & 0x3f }).for_each(|_| rig.make_available(queue, head, 1));
            let _ = rig.put(QUEUE_NOTIFY, queue.into());
        }
        12 => up(rig, input),
        13..=16 => target.outside(rig, input),
        17 => rig.ram.fail(Some(input.u8().into())),
        18 => {
            let (access, size) = (input.u8().into(), input.pick(&[1, 2, 2, 4, 8]));
            let (at, value) = (place(input), input.u64());
            rig.ram.race(Some(Race { access, at, value, size }));
        }
        19..=26 => {
            let how = input.u8();
            let request = target.request(input);
            rig.offer(&request, How { indirect: how & 1 != 0, same: how & 6 == 6, notify: how & 24 != 0 });
        }
        27 => {
            // What it is can be saved, and is taken back.
            let state = rig.mmio.save();
            assert!(rig.step(|mmio| mmio.restore(state.clone())).is_ok(), "what was saved is refused");
            assert_eq!(rig.mmio.save(), state);
        }
        28 => {
            let queue = u32::from(input.u8()) % QUEUES as u32;
            for _ in 0..64 {
                if rig.put(QUEUE_NOTIFY, queue).is_ok() {
                    break;
                }
            }
        }
        29 => {
            let (at, size, value) = (place(input), input.u16() % 0x800, input.u64());
            let bytes: Vec<u8> = value.to_le_bytes().into_iter().cycle().take(size.into()).collect();
            rig.ram.put(at, &bytes);
        }
        30 => {
            rig.act(|mmio| mmio.run_due());
        }
        _ => match input.u8() % 4 {
            0 => rig.act(|mmio| mmio.quiesce()),
            1 => rig.act(|mmio| mmio.reset()),
            // A step for each queue.
            _ => (0..QUEUES).for_each(|queue| rig.act(|mmio| mmio.poke(queue))),
        },
    }
}

fn access<D: Device>(rig: &mut Rig<D>, input: &mut Input<'_>) {
    let (how, value) = (input.u8(), input.u64());
    let size = AccessSize::from_sas(how & 3);
    let at = if how & 8 == 0 { u64::from(input.u16()) % 0x210 } else { input.u64() };
    if how & 4 == 0 {
        let _ = rig.act(|mmio| mmio.read(at, size));
    } else {
        let _ = rig.step(|mmio| mmio.write(at, size, value));
    }
}

fn up<D: Device>(rig: &mut Rig<D>, input: &mut Input<'_>) {
    let offered = rig.offered();
    let (how, some) = (input.u8(), input.u64());
    let features = match how % 4 {
        0 => offered,
        1 => F_VERSION_1,
        2 => offered & some | F_VERSION_1,
        _ => some,
    };
    let size = if how < 0xe0 { input.pick(&[16, 32, 8, 128, 256, 1, 2, 4]) } else { input.u16() };
    rig.up(features, size);
}
