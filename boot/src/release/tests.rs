//! Starting a CPU on a model of memory that is no kinder than the architecture.
//!
//! One memory and our data cache. Stores past the cache and maintenance are under way until a barrier and end in any order, but for
//! those of one place; dirty lines may be written back, and lines filled or dropped, at any time. The firmware has left old lines in
//! the cache. The other CPU reads past the cache: whenever it finds the word, record and pointer must be there, and after the event
//! the word must be there and stay.

use super::{Memory, Part, release};
use std::vec::Vec;

const PARTS: [Part; 3] = [Part::Record, Part::Pointer, Part::Word];
const OLD: u8 = 1;
const NEW: u8 = 2;

/// What is under way.
#[derive(Clone, Copy, PartialEq)]
enum Operation {
    StorePast,
    Clean,
    CleanAndDrop,
}

struct Machine {
    memory: [u8; 3],
    /// Value, and whether it is newer than memory's.
    cache: [Option<(u8, bool)>; 3],
    under_way: Vec<(Part, Operation)>,
    random: u64,
    /// The call of this number is left out.
    without: usize,
    calls: usize,
    /// The CPU has found the word.
    found: bool,
    wrong: bool,
}

impl Machine {
    fn new(seed: u64, without: usize) -> Self {
        let mut machine = Self {
            memory: [0; 3],
            cache: [None; 3],
            under_way: Vec::new(),
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            without,
            calls: 0,
            found: false,
            wrong: false,
        };
        for line in 0..3 {
            if machine.below(2) == 0 {
                // What the firmware wrote and nobody cleaned; for the word, that nobody is to go yet.
                machine.cache[line] = Some((if line == 2 { 0 } else { OLD }, true));
            }
        }
        machine
    }
    fn below(&mut self, bound: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) as usize % bound
    }
    /// Whether this call is the one that is left out.
    fn left_out(&mut self) -> bool {
        self.calls += 1;
        self.calls == self.without
    }
    fn write_back(&mut self, line: usize) {
        if let Some((value, dirty)) = &mut self.cache[line]
            && *dirty
        {
            *dirty = false;
            self.memory[line] = *value;
        }
    }
    fn end(&mut self, at: usize) {
        let (part, operation) = self.under_way.remove(at);
        match operation {
            Operation::StorePast => self.memory[part as usize] = NEW,
            Operation::Clean => self.write_back(part as usize),
            Operation::CleanAndDrop => {
                self.write_back(part as usize);
                self.cache[part as usize] = None;
            }
        }
        self.look();
    }
    /// What else happens meanwhile.
    fn unrest(&mut self) {
        for _ in 0..self.below(6) {
            let line = self.below(3);
            match self.below(4) {
                0 => self.write_back(line),
                1 => {
                    self.write_back(line);
                    self.cache[line] = None;
                }
                // The word is mapped so that it is never read into the cache.
                2 if line != 2 => _ = *self.cache[line].get_or_insert((self.memory[line], false)),
                _ if !self.under_way.is_empty() => {
                    let any = self.below(self.under_way.len());
                    let part = self.under_way[any].0;
                    let first = self.under_way.iter().position(|(other, _)| *other == part).unwrap();
                    self.end(first);
                }
                _ => {}
            }
            self.look();
        }
    }
    /// The CPU looks at the word, and goes.
    fn look(&mut self) {
        if !self.found && self.memory[2] == NEW {
            self.found = true;
            self.wrong |= self.memory[..2] != [NEW; 2];
        }
    }
}

impl Memory for Machine {
    fn store(&mut self, part: Part) {
        // What is not stored at all needs no model.
        match part {
            Part::Word => self.under_way.push((part, Operation::StorePast)),
            Part::Record | Part::Pointer => self.cache[part as usize] = Some((NEW, true)),
        }
        self.unrest();
    }
    fn clean(&mut self, part: Part) {
        if !self.left_out() {
            self.under_way.push((part, Operation::Clean));
        }
        self.unrest();
    }
    fn clean_and_drop(&mut self, part: Part) {
        if !self.left_out() {
            self.under_way.push((part, Operation::CleanAndDrop));
        }
        self.unrest();
    }
    fn complete(&mut self) {
        if !self.left_out() {
            while !self.under_way.is_empty() {
                self.end(0);
            }
        }
        self.unrest();
    }
    fn event(&mut self) {
        // It sleeps again until the next event if the word is not there yet, or is no more.
        self.wrong |= self.memory[2] != NEW;
        (0..3).for_each(|line| self.write_back(line));
        self.wrong |= self.memory[2] != NEW;
    }
}

/// Maintenance and barriers of a release.
const CALLS: usize = 6;

fn wrong(without: usize) -> usize {
    let runs = if cfg!(miri) { 200 } else { 20_000 };
    let went_wrong = |seed: &u64| {
        let mut machine = Machine::new(*seed, without);
        release(&mut machine);
        assert_eq!(machine.calls, CALLS);
        machine.wrong
    };
    (1..=runs).filter(went_wrong).count()
}

#[test]
fn a_cpu_that_finds_its_word_finds_what_it_starts_with() {
    assert_eq!(wrong(0), 0);
}

#[test]
fn nothing_of_it_can_be_left_out() {
    // The first barrier ends the cleaning of the record early; the second one would do, but PSCI's way has no second one.
    let kept: Vec<usize> = (1..=CALLS).filter(|call| wrong(*call) == 0).collect();
    assert_eq!(kept, [2]);
    assert_eq!(PARTS.map(|part| part as usize), [0, 1, 2]);
}
