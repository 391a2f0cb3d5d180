//! Random hand-overs on a model of the caches: a guest with its caches off finds zeroes and its payloads, nothing else.
//!
//! The model is one memory, one write-back data cache that all CPUs share, and one instruction cache. It is no kinder than
//! the architecture: at any time a dirty line may be written back, a line that is not there may be filled, any line may be
//! dropped, and instructions may be fetched from anywhere that a guest could execute. A guest whose caches are off reads,
//! writes and fetches past the data cache, unless stage 2 forces write-back.

use super::{Coherency, HandOver, HandedOver, RamOps};
use crate::{Dirty, GuestRam};
use addr::{Address, Ipa, PAGE_SIZE, Pa, Span};
use alloc::string::String;
use alloc::vec::Vec;
use alloc::{format, vec};
use proptest::prelude::*;

const LINE: usize = 64;
const PAGE: usize = PAGE_SIZE as usize;
/// Pages of the machine; the VMs have some of them.
const PAGES: usize = if cfg!(miri) { 6 } else { 12 };
const LINES: usize = PAGES * PAGE / LINE;
const MEMORY: u64 = 0x4000_0000;
const RAM: Ipa = Ipa::new(0x8000_0000);

type Line = [u8; LINE];

/// What an implementation that is wrong would do.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Fault {
    None,
    NoClean,
    /// All cleans but the one of this number, after the number of all of them.
    OneCleanLess(u32),
    CleanBeforeTheWrite,
    NoInvalidation,
    InvalidationFirst,
}

/// Numbers that a seed gives (xorshift64).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % bound
    }
    fn some(&mut self, bound: usize) -> usize {
        1 + self.below(bound)
    }
    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.below(127) as u8 + 1).collect()
    }
}

struct Machine {
    memory: Vec<Line>,
    data: Vec<Option<(Line, bool)>>,
    instructions: Vec<Option<Line>>,
    coherency: Coherency,
    numbers: Numbers,
    /// Events of the caches' own will at each access.
    restless: usize,
    fault: Fault,
    /// Where Merus may write now.
    allowed: Vec<Span<Pa>>,
    cleans: u32,
    invalidations: u32,
    longest: u64,
}

impl Machine {
    /// Its memory and its caches hold secrets.
    fn new(seed: u64, coherency: Coherency, fault: Fault) -> Self {
        let mut numbers = Numbers(seed | 1);
        let restless = numbers.below(4);
        let mut machine = Self {
            memory: vec![[0x80; LINE]; LINES],
            data: vec![None; LINES],
            instructions: vec![None; LINES],
            coherency,
            numbers,
            restless,
            fault,
            allowed: Vec::new(),
            cleans: 0,
            invalidations: 0,
            longest: 0,
        };
        for line in 0..LINES {
            machine.memory[line] = [machine.numbers.below(128) as u8 | 0x80; LINE];
            if machine.numbers.below(3) == 0 {
                machine.data[line] = Some(([machine.numbers.below(128) as u8 | 0x80; LINE], true));
            }
        }
        machine
    }

    /// The caches do as they like.
    fn unrest(&mut self) {
        for _ in 0..self.restless {
            let line = self.numbers.below(LINES);
            match self.numbers.below(6) {
                0 => self.write_back(line),
                1 => {
                    self.write_back(line);
                    self.data[line] = None;
                }
                2 | 3 => _ = self.fill(line),
                4 => _ = self.fetch(line),
                _ => self.instructions[line] = None,
            }
        }
    }

    fn fill(&mut self, line: usize) -> &mut (Line, bool) {
        let memory = self.memory[line];
        self.data[line].get_or_insert((memory, false))
    }

    fn write_back(&mut self, line: usize) {
        if let Some((content, dirty)) = &mut self.data[line]
            && core::mem::take(dirty)
        {
            self.memory[line] = *content;
            self.unified(line);
        }
    }

    /// New content has reached the point of unification.
    fn unified(&mut self, line: usize) {
        if self.coherency.dic {
            self.instructions[line] = None;
        }
    }

    /// A write through the data cache.
    fn store(&mut self, at: usize, byte: u8) {
        let line = self.fill(at / LINE);
        line.0[at % LINE] = byte;
        line.1 = true;
        if self.coherency.fwb {
            self.unified(at / LINE);
        }
    }

    /// A guest's write with its caches off.
    fn store_past(&mut self, at: usize, byte: u8) {
        if self.coherency.fwb {
            return self.store(at, byte);
        }
        self.memory[at / LINE][at % LINE] = byte;
        self.unified(at / LINE);
    }

    /// A guest's read with its caches off.
    fn load_past(&mut self, line: usize) -> Line {
        if self.coherency.fwb { self.fill(line).0 } else { self.memory[line] }
    }

    /// A guest's instruction fetch.
    fn fetch(&mut self, line: usize) -> Line {
        let content = match self.data[line] {
            Some((content, _)) if self.coherency.fwb => content,
            _ => self.memory[line],
        };
        *self.instructions[line].get_or_insert(content)
    }

    fn offset(&self, at: Pa, size: u64) -> usize {
        assert!(self.allowed.iter().any(|s| s.contains_range(at, size)), "{at:?} + {size:#x} is not the VM's");
        (at.as_u64() - MEMORY) as usize
    }

    fn before_write(&mut self, at: Pa, size: u64) -> usize {
        self.longest = self.longest.max(size);
        if self.fault == Fault::CleanBeforeTheWrite {
            self.clean_lines(Span::new(at, size).unwrap());
        }
        if self.fault == Fault::InvalidationFirst {
            self.instructions.fill(None);
        }
        self.offset(at, size)
    }

    fn clean_lines(&mut self, span: Span<Pa>) {
        let from = self.offset(span.start(), span.size());
        for line in from / LINE..(from + span.size() as usize).div_ceil(LINE) {
            self.unrest();
            self.write_back(line);
        }
    }
}

impl RamOps for Machine {
    fn zero(&mut self, span: Span<Pa>) {
        let from = self.before_write(span.start(), span.size()) / LINE;
        assert!(
            span.start().as_u64().is_multiple_of(PAGE_SIZE)
                && span.size().is_multiple_of(PAGE_SIZE)
                && !span.is_empty()
        );
        for line in from..from + span.size() as usize / LINE {
            self.unrest();
            // As DC ZVA does: without a look at what was there.
            self.data[line] = Some(([0; LINE], true));
            if self.coherency.fwb {
                self.unified(line);
            }
        }
    }
    fn copy(&mut self, from: &[u8], to: Pa) {
        let to = self.before_write(to, from.len() as u64);
        for (n, byte) in from.iter().enumerate() {
            if n % 16 == 0 {
                self.unrest();
            }
            self.store(to + n, *byte);
        }
    }
    fn copy_crc(&mut self, from: &[u8], to: Pa, crc: u32) -> u32 {
        self.copy(from, to);
        checksum(crc, from)
    }
    fn clean(&mut self, span: Span<Pa>) {
        self.cleans += 1;
        match self.fault {
            Fault::NoClean | Fault::CleanBeforeTheWrite => {}
            Fault::OneCleanLess(number) if number == self.cleans => {}
            _ => self.clean_lines(span),
        }
    }
    fn invalidate_instructions(&mut self) {
        self.invalidations += 1;
        if !matches!(self.fault, Fault::NoInvalidation | Fault::InvalidationFirst) {
            self.instructions.fill(None);
        }
    }
}

/// Something that depends on each byte and its place.
fn checksum(crc: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(crc, |crc, byte| crc.rotate_left(5).wrapping_mul(31) ^ u32::from(*byte))
}

/// A VM's RAM in random pieces of the machine's memory.
fn random_ram(numbers: &mut Numbers) -> GuestRam {
    let mut free: Vec<usize> = (0..PAGES).collect();
    let mut extents = Vec::new();
    for _ in 0..if cfg!(miri) { 2 } else { numbers.some(4) } {
        let first = numbers.below(free.len());
        // As many neighbours of it as are free, three at most.
        let run = free[first..].iter().zip(free[first]..).take_while(|(a, b)| *a == b).count();
        let run = run.min(numbers.some(if cfg!(miri) { 1 } else { 3 }));
        let page = free[first];
        free.drain(first..first + run);
        extents.push(Span::new(Pa::new(MEMORY + (page * PAGE) as u64), (run * PAGE) as u64).unwrap());
        if free.is_empty() {
            break;
        }
    }
    GuestRam::new(RAM, extents).unwrap()
}

fn dirty(ram: &GuestRam) -> Vec<Dirty> {
    ram.extents().iter().map(|(_, memory)| Dirty::new(*memory)).collect()
}

/// Zeroes and fills `ram` in random steps. What its guest is to find.
fn hand_over(machine: &mut Machine, ram: &GuestRam, fresh: bool) -> Result<(HandedOver, Vec<u8>), String> {
    let mut expected = vec![0; ram.span().size() as usize];
    let mut memory = match fresh {
        true => HandOver::first(ram, dirty(ram), machine.coherency).unwrap(),
        false => HandOver::again(ram, machine.coherency),
    };
    let mut prepared = Vec::new();
    let mut filling = loop {
        let at_most = machine.numbers.some(3 * PAGE) as u64;
        machine.longest = 0;
        prepared.extend(memory.zero(at_most, machine));
        assert!(machine.longest <= at_most.max(PAGE_SIZE), "a step of {:#x}", machine.longest);
        memory = match memory.into_zeroed() {
            Ok(filling) => break filling,
            Err(memory) => memory,
        };
    };
    let maps: Vec<_> = prepared.iter().map(|p| (p.at().start(), p.memory())).collect();
    assert_eq!(maps, if fresh { ram.extents().to_vec() } else { vec![] });
    for _ in 0..machine.numbers.below(4) {
        let size = machine.numbers.some(expected.len().min(if cfg!(miri) { PAGE / 16 } else { 2 * PAGE }));
        let to = machine.numbers.below(expected.len() - size + 1);
        let payload = machine.numbers.bytes(size);
        let at = RAM.checked_add(to as u64).unwrap();
        if machine.numbers.below(3) == 0 {
            filling.write(at, &payload, machine).unwrap();
        } else {
            let (mut done, mut crc) = (0, 7);
            while done < size {
                let at_most = machine.numbers.some(PAGE);
                machine.longest = 0;
                let at = at.checked_add(done as u64).unwrap();
                let got;
                (got, crc) = filling.copy_crc(at, &payload[done..], at_most, crc, machine).unwrap();
                assert!(got > 0 && got <= at_most && machine.longest == got as u64);
                done += got;
            }
            assert_eq!(crc, checksum(7, &payload));
        }
        expected[to..to + size].copy_from_slice(&payload);
    }
    Ok((filling.finish(machine), expected))
}

fn places(ram: &GuestRam) -> Vec<(usize, usize)> {
    let at = |n: u64| (ram.translate(RAM.checked_add(n).unwrap(), 1).unwrap().0.as_u64() - MEMORY) as usize;
    (0..ram.span().size()).step_by(LINE).map(|n| (n as usize, at(n) / LINE)).collect()
}

/// What a guest with its caches off finds, by loads and by fetches, in any order.
fn look(machine: &mut Machine, ram: &GuestRam, expected: &[u8]) -> Result<(), String> {
    for (n, line) in places(ram) {
        let wanted = &expected[n..n + LINE];
        machine.unrest();
        let (loaded, fetched) = (machine.load_past(line), machine.fetch(line));
        for (how, found) in [("read", loaded), ("fetched", fetched)] {
            if found != wanted {
                return Err(format!("{how} at RAM + {n:#x}: {found:x?}"));
            }
        }
    }
    Ok(())
}

/// The guest works with its caches off: what it writes is what it reads.
fn work(machine: &mut Machine, ram: &GuestRam, expected: &mut [u8]) -> Result<(), String> {
    for (n, line) in places(ram) {
        if machine.numbers.below(4) == 0 {
            let at = machine.numbers.below(LINE);
            let byte = machine.numbers.below(256) as u8;
            machine.store_past(line * LINE + at, byte);
            expected[n + at] = byte;
        }
        machine.unrest();
    }
    for (n, line) in places(ram) {
        if machine.load_past(line) != expected[n..n + LINE] {
            return Err(format!("the guest's own bytes at RAM + {n:#x} have changed"));
        }
    }
    Ok(())
}

/// Then its caches are on: it leaves secrets in all of them.
fn leave_secrets(machine: &mut Machine, ram: &GuestRam) {
    for (_, line) in places(ram) {
        let secret = machine.numbers.below(128) as u8 | 0x80;
        for at in (line * LINE..(line + 1) * LINE).step_by(if cfg!(miri) { 23 } else { 1 }) {
            match machine.numbers.below(2) {
                0 => machine.store(at, secret),
                _ => machine.store_past(at, secret),
            }
        }
        if machine.numbers.below(2) == 0 {
            machine.fetch(line);
        }
        machine.unrest();
    }
}

/// Owners of random memory one after the other, with resets in between.
fn owners(seed: u64, coherency: Coherency, fault: Fault) -> Result<(), String> {
    let mut machine = Machine::new(seed, coherency, fault);
    for _ in 0..2 {
        let ram = random_ram(&mut machine.numbers);
        machine.allowed = ram.extents().iter().map(|(_, memory)| *memory).collect();
        for fresh in [true, false] {
            let before = machine.invalidations;
            let (handed, mut expected) = hand_over(&mut machine, &ram, fresh)?;
            assert!(handed.is(&ram));
            assert_eq!(machine.invalidations - before, u32::from(!coherency.dic));
            assert!(machine.cleans == 0 || !coherency.fwb);
            look(&mut machine, &ram, &expected)?;
            work(&mut machine, &ram, &mut expected)?;
            leave_secrets(&mut machine, &ram);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 1 } else { 96 }))]

    #[test]
    fn a_guest_with_its_caches_off_finds_zeroes_and_its_payloads(seed: u64, fwb: bool, dic: bool) {
        prop_assert_eq!(owners(seed, Coherency { fwb, dic }, Fault::None), Ok(()));
    }
}

/// How many of 16 seeds show a fault on CPUs that need all the maintenance, or all but one.
fn noticed(fault: impl Fn(u64) -> Fault, coherency: Coherency) -> usize {
    (0..16).filter(|n| owners(0x9e37_79b9_7f4a_7c15 ^ n << 17, coherency, fault(*n)).is_err()).count()
}

#[test]
#[cfg_attr(miri, ignore = "the same code as above, 200 times")]
fn the_model_notices_what_is_left_out_or_comes_too_early() {
    let (all, no_ic, no_dc) = (
        Coherency::default(),
        Coherency { dic: true, ..Default::default() },
        Coherency { fwb: true, ..Default::default() },
    );
    for coherency in [all, no_ic] {
        assert!(noticed(|_| Fault::NoClean, coherency) >= 14);
        assert!(noticed(|_| Fault::CleanBeforeTheWrite, coherency) >= 14);
        // A payload's clean makes up for that of the zeroes below it, and the caches may for either.
        assert!(noticed(|n| Fault::OneCleanLess(n as u32 % 8 + 1), coherency) >= 4);
    }
    for coherency in [all, no_dc] {
        assert!(noticed(|_| Fault::NoInvalidation, coherency) >= 14);
        // Only what was fetched meanwhile is stale.
        assert!(noticed(|_| Fault::InvalidationFirst, coherency) >= 4);
    }
    assert_eq!(noticed(|_| Fault::None, all), 0);
}

#[test]
fn memory_is_filled_only_when_all_of_it_is_zeroed() {
    let mut machine = Machine::new(1, Coherency::default(), Fault::None);
    let extent = |page: u64, pages: u64| Span::new(Pa::new(MEMORY + page * PAGE_SIZE), pages * PAGE_SIZE).unwrap();
    let ram = GuestRam::new(RAM, [extent(3, 2), extent(0, 1)]).unwrap();
    machine.allowed = vec![extent(3, 2), extent(0, 1)];
    let mut memory = HandOver::first(&ram, dirty(&ram), Coherency::default()).unwrap();
    for (mapped, done) in [(None, false), (Some(extent(3, 2)), false), (Some(extent(0, 1)), true)] {
        memory = memory.into_zeroed().unwrap_err();
        // A step of less than a page is a page.
        assert_eq!(memory.zero(1, &mut machine).map(|p| p.memory()), mapped);
        if !done {
            memory = memory.into_zeroed().unwrap_err();
        }
    }
    assert_eq!(memory.zero(1, &mut machine), None);
    let mut filling = memory.into_zeroed().unwrap();
    let cleans = machine.cleans;
    // Outside RAM nothing is written, and in part outside neither.
    let last = ram.span().end().as_u64() - 1;
    for at in [RAM.as_u64() - 1, last, last + 1, u64::MAX] {
        assert_eq!(filling.write(Ipa::new(at), &[1, 2], &mut machine), None);
    }
    assert_eq!(filling.copy_crc(Ipa::new(last + 1), &[1], 1, 5, &mut machine), None);
    assert_eq!(machine.cleans, cleans);
    // Over the seam of two extents.
    let seam = RAM.checked_add(2 * PAGE_SIZE - 1).unwrap();
    assert_eq!(filling.copy_crc(seam, &[1, 2], 2, 5, &mut machine), Some((1, checksum(5, &[1]))));
    assert_eq!(filling.write(seam, &[1, 2], &mut machine), Some(()));
    assert_eq!((machine.memory[5 * PAGE / LINE - 1][LINE - 1], machine.memory[0][0]), (1, 2));
    let handed = filling.finish(&mut machine);
    assert!(handed.is(&ram) && !handed.is(&GuestRam::new(RAM, [extent(3, 2)]).unwrap()));
}

#[test]
fn only_memory_that_the_ram_is_made_of_is_handed_over() {
    let extent = |page: u64| Span::new(Pa::new(MEMORY + page * PAGE_SIZE), PAGE_SIZE).unwrap();
    let ram = GuestRam::new(RAM, [extent(4), extent(2)]).unwrap();
    let of = |pages: &[u64]| {
        let extents = pages.iter().map(|page| Dirty::new(extent(*page))).collect();
        HandOver::first(&ram, extents, Coherency::default()).is_some()
    };
    assert!(of(&[4, 2]));
    for other in [&[][..], &[4], &[2, 4], &[4, 3], &[4, 2, 3]] {
        assert!(!of(other), "{other:?}");
    }
}
