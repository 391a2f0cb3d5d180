//! The power key.

use crate::input::Input;
use crate::play::Target;
use crate::rig::{Bound, How, Part, Request, Rig};
use devices::virtio::input::PowerKey;
use devices::virtio::input::spec::{EV_KEY, EVENTQ, KEY_POWER};
use devices::virtio::ring::STEP;

/// Who presses it.
pub struct Finger;

impl Target for Finger {
    type Device = PowerKey;
    const BOUND: Bound = Bound { accesses: 0, bytes: 0x2000, descriptors: STEP as usize };

    fn new(_: u8) -> (PowerKey, Self) {
        (PowerKey::new(), Self)
    }

    fn request(&self, input: &mut Input<'_>) -> Request {
        let (queue, size) = (u16::from(input.u8() & 1), u32::from(input.u8() % 20));
        let part = if queue == 0 { Part::Write(size) } else { Part::Huge(size) };
        Request { queue, parts: vec![part] }
    }

    fn outside(&mut self, rig: &mut Rig<PowerKey>, input: &mut Input<'_>) {
        match input.u8() % 3 {
            0 => drop(rig.act(|mmio| mmio.press())),
            1 => rig.act(|mmio| mmio.release()),
            _ => rig.act(|mmio| mmio.run_waiting()),
        }
    }

    fn alive(&mut self, rig: &mut Rig<PowerKey>) {
        let event = || Request { queue: EVENTQ as u16, parts: vec![Part::Write(8)] };
        let at: Vec<u64> = (0..4).map(|_| rig.offer(&event(), How { notify: true, ..How::default() })[0]).collect();
        assert!(rig.act(|mmio| mmio.press()));
        rig.act(|mmio| mmio.release());
        assert_eq!(rig.collect(EVENTQ as u16), [8; 4]);
        for (at, value) in [(at[0], 1), (at[2], 0)] {
            let event = u64::from(EV_KEY) | u64::from(KEY_POWER) << 16 | value << 32;
            assert_eq!(rig.ram.get(at, 8), event.to_le_bytes());
        }
    }
}
