//! The transport and the ring by themselves, in front of a device that answers at once in one queue, and later in the other.

use crate::input::Input;
use crate::play::Target;
use crate::rig::{Bound, How, Part, Request, Rig};
use devices::RestoreError;
use devices::virtio::ring::STEP;
use devices::virtio::{Device, Limits, Ring, Stop};

/// Answers each chain with what it reads, each byte plus one, as far as there is room: chains of queue 0 at once, several together; those
/// of queue 1 when it is told to, the last one first.
#[derive(Default)]
pub struct Echo {
    taken: Vec<u16>,
    answers: usize,
    config: [u8; 8],
}

const LIMITS: Limits = Limits { size: 32, chain: 24 };
/// Chains that it keeps at most.
const KEPT: usize = 12;

fn answer(ring: &mut Ring<'_>, chain: &devices::virtio::Chain) -> Result<u32, Stop> {
    let size = chain.readable().min(chain.writable()).min(64) as usize;
    let mut bytes = [0; 64];
    let part = &mut bytes[..size];
    ring.read(chain, 0, part)?;
    part.iter_mut().for_each(|byte| *byte = byte.wrapping_add(1));
    ring.write(chain, 0, part)?;
    Ok(size as u32)
}

impl Echo {
    fn at_once(&mut self, ring: &mut Ring<'_>) -> Result<(), Stop> {
        while let Some(chain) = ring.peek()? {
            let written = answer(ring, &chain)?;
            if ring.staged() == 3 {
                ring.unstage(2);
                ring.publish()?;
                continue;
            }
            ring.hand_back(chain, written, written % 5 == 4)?;
        }
        Ok(())
    }

    fn later(&mut self, ring: &mut Ring<'_>) -> Result<(), Stop> {
        while self.answers != 0
            && let Some(head) = self.taken.last().copied()
        {
            let chain = ring.again(head)?;
            let written = answer(ring, &chain)?;
            if chain.writable() != 0 {
                ring.write_end(&chain, 7)?;
                let spot = ring.spot(&chain, chain.writable().saturating_sub(2))?;
                ring.fill(&spot, 0x707)?;
            }
            ring.complete(chain, written)?;
            self.taken.pop();
            self.answers -= 1;
        }
        while self.taken.len() < KEPT
            && let Some(mut chain) = ring.peek()?
        {
            self.taken.push(chain.head());
            ring.take(&mut chain);
        }
        Ok(())
    }
}

impl Device for Echo {
    type State = Vec<u16>;

    fn id(&self) -> u32 {
        42
    }
    fn features(&self) -> u64 {
        1 << 5 | 1 << 40
    }
    fn queues(&self) -> &[Limits] {
        &[LIMITS, LIMITS]
    }
    fn config_read(&self, at: usize, into: &mut [u8]) {
        for (byte, at) in into.iter_mut().zip(at..) {
            *byte = self.config.get(at).copied().unwrap_or(0);
        }
    }
    fn config_write(&mut self, at: usize, from: &[u8]) {
        for (byte, at) in from.iter().zip(at..) {
            if let Some(place) = self.config.get_mut(at) {
                *place = *byte;
            }
        }
    }
    fn serve(&mut self, number: usize, ring: &mut Ring<'_>) -> Result<(), Stop> {
        if number == 1 {
            return self.later(ring);
        }
        let result = self.at_once(ring);
        ring.publish()?;
        result
    }
    fn stopped(&mut self, number: usize) {
        if number == 1 {
            self.taken.clear();
        }
    }
    fn reset(&mut self) {
        self.taken.clear();
    }
    fn save(&self) -> Vec<u16> {
        self.taken.clone()
    }
    fn check(state: &Vec<u16>) -> Result<(), RestoreError> {
        if state.len() > KEPT { Err(RestoreError::OutOfRange("chains")) } else { Ok(()) }
    }
    fn restore(&mut self, state: Vec<u16>) {
        self.taken = state;
    }
}

fn request(input: &mut Input<'_>) -> Request {
    let (queue, reads, writes) = (u16::from(input.u8() & 1), input.u8() % 5, input.u8() % 5);
    let reads = (0..reads).map(|_| Part::Read(vec![9; usize::from(input.u8() % 40)]));
    let mut parts: Vec<_> = reads.collect();
    parts.extend((0..writes).map(|_| {
        Part::Write(match input.u8() {
            255 => input.u32(),
            n => u32::from(n % 40),
        })
    }));
    if parts.is_empty() {
        parts.push(Part::Huge(input.u32()));
    }
    Request { queue, parts }
}

fn echoes(rig: &mut Rig<impl Device>, queue: u16) -> u64 {
    rig.offer(
        &Request { queue, parts: vec![Part::Read(vec![1, 2, 3]), Part::Write(3)] },
        How { notify: true, ..How::default() },
    )[1]
}

impl Target for Echo {
    type Device = Self;
    const BOUND: Bound = Bound { accesses: 400, bytes: 0x3000, descriptors: STEP as usize };

    fn new(_: u8) -> (Self, Self) {
        (Self::default(), Self::default())
    }

    fn request(&self, input: &mut Input<'_>) -> Request {
        request(input)
    }

    fn outside(&mut self, rig: &mut Rig<Self>, input: &mut Input<'_>) {
        match input.u8() % 3 {
            0 => {
                rig.mmio.device_mut().answers = usize::from(input.u8() % 16);
                rig.act(|mmio| mmio.poke(1));
            }
            1 => rig.act(|mmio| mmio.config_changed()),
            _ => rig.act(|mmio| mmio.run_waiting()),
        }
    }

    fn alive(&mut self, rig: &mut Rig<Self>) {
        let at = echoes(rig, 0);
        assert_eq!((rig.collect(0), rig.ram.get(at, 3)), (vec![3], vec![2, 3, 4]));
        let at = echoes(rig, 1);
        assert!(rig.collect(1).is_empty());
        rig.mmio.device_mut().answers = 1;
        rig.act(|mmio| mmio.poke(1));
        assert_eq!((rig.collect(1), rig.ram.get(at, 3)), (vec![3], vec![2, 7, 7]));
    }
}

/// A device, and what is said of it.
#[cfg(test)]
pub type Broken = (&'static str, fn(&[u8]), &'static str);

/// Devices that do what none may.
#[cfg(test)]
pub const BROKEN: [Broken; 4] = [
    ("one that trusts a length", crate::play::run::<broken::Wrong<0>>, "out of range"),
    ("one that works without an end", crate::play::run::<broken::Wrong<1>>, "too much work"),
    ("one that forgets what it saved", crate::play::run::<broken::Wrong<2>>, "left == right"),
    ("one that is deaf after a broken ring", crate::play::run::<broken::Wrong<3>>, "left == right"),
];

#[cfg(test)]
mod broken {
    use super::*;

    /// The kinds are those of [`BROKEN`].
    #[derive(Default)]
    pub struct Wrong<const KIND: u8> {
        count: u64,
        deaf: bool,
    }

    impl<const KIND: u8> Device for Wrong<KIND> {
        type State = u64;

        fn id(&self) -> u32 {
            43
        }
        fn queues(&self) -> &[Limits] {
            &[LIMITS, LIMITS]
        }
        fn config_read(&self, _: usize, _: &mut [u8]) {}
        fn serve(&mut self, _: usize, ring: &mut Ring<'_>) -> Result<(), Stop> {
            while !self.deaf
                && let Some(chain) = ring.peek()?
            {
                let written = answer(ring, &chain)?;
                match KIND {
                    0 => drop([0u8; 64][..(chain.readable() as usize / 8)].to_vec()),
                    1 if chain.readable() == 5 => {
                        for _ in 0..4000 {
                            ring.read(&chain, 0, &mut [0; 5])?;
                        }
                    }
                    _ => self.count += 1,
                }
                ring.complete(chain, written)?;
            }
            Ok(())
        }
        fn halted(&mut self) {
            self.deaf = KIND == 3;
        }
        fn reset(&mut self) {
            self.count = 0;
        }
        fn save(&self) -> u64 {
            self.count
        }
        fn check(_: &u64) -> Result<(), RestoreError> {
            Ok(())
        }
        fn restore(&mut self, state: u64) {
            self.count = if KIND == 2 { state & 1 } else { state };
        }
    }

    impl<const KIND: u8> Target for Wrong<KIND> {
        type Device = Self;
        const BOUND: Bound = Echo::BOUND;

        fn new(_: u8) -> (Self, Self) {
            (Self::default(), Self::default())
        }
        fn request(&self, input: &mut Input<'_>) -> Request {
            request(input)
        }
        fn outside(&mut self, _: &mut Rig<Self>, _: &mut Input<'_>) {}
        fn alive(&mut self, rig: &mut Rig<Self>) {
            echoes(rig, 0);
            assert_eq!(rig.collect(0), [3]);
        }
    }
}
