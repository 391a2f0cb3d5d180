//! The entropy device.

use crate::input::Input;
use crate::play::Target;
use crate::rig::{Bound, How, Part, Request, Rig};
use devices::virtio::ring::STEP;
use devices::virtio::rng::{REQUESTQ, Rng, Source};

/// A source of so many bytes.
pub struct Ones(usize);

impl Source for Ones {
    fn fill(&mut self, into: &mut [u8]) -> usize {
        let count = into.len().min(self.0);
        self.0 -= count;
        into[..count].fill(1);
        count
    }
}

/// Who fills the source.
pub struct Randomness;

impl Target for Randomness {
    type Device = Rng<Ones>;
    const BOUND: Bound = Bound { accesses: 0, bytes: 0x2000, descriptors: STEP as usize };

    fn new(shape: u8) -> (Rng<Ones>, Self) {
        (Rng::new(Ones(usize::from(shape) * 8)), Self)
    }

    fn request(&self, input: &mut Input<'_>) -> Request {
        let count = 1 + input.u8() % 4;
        let part = |input: &mut Input<'_>| match input.u8() {
            0 => Part::Huge(4),
            1 => Part::Write(input.u32()),
            n => Part::Write(u32::from(n) * 2),
        };
        Request { queue: REQUESTQ as u16, parts: (0..count).map(|_| part(input)).collect() }
    }

    fn outside(&mut self, rig: &mut Rig<Self::Device>, input: &mut Input<'_>) {
        match input.u8() % 3 {
            0 => rig.mmio.device_mut().source_mut().0 = usize::from(input.u16()) % 2000,
            1 => rig.act(|mmio| mmio.poke(REQUESTQ)),
            _ => rig.act(|mmio| mmio.run_waiting()),
        }
    }

    fn alive(&mut self, rig: &mut Rig<Self::Device>) {
        rig.mmio.device_mut().source_mut().0 = 64;
        let places =
            rig.offer(&Request { queue: 0, parts: vec![Part::Write(64)] }, How { notify: true, ..How::default() });
        assert_eq!((rig.collect(0), rig.ram.get(places[0], 64)), (vec![64], vec![1; 64]));
    }
}
