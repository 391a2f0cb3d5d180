//! The search: inputs that reached something new are kept and changed; one that fails is made as small as it still fails.

use crate::coverage::{self, Seen};
use crate::input::{self, RECORD};
use std::cell::RefCell;
use std::fs;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Records of an input at most.
const LONGEST: usize = 96;
/// Without an end for so long, an input has none.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two lines about how far it is.
const REPORT: Duration = Duration::from_secs(60);
/// Tries to make a failing input smaller.
const TRIES: usize = 4000;

/// When to stop.
pub enum Until {
    /// After so long.
    Time(Duration),
    /// After so many inputs.
    #[cfg_attr(not(test), allow(dead_code, reason = "a test's searches are not by the clock"))]
    Inputs(u64),
}

/// An input that fails, as small as it was made, and what it says.
#[derive(Debug)]
pub struct Failure {
    /// The input.
    pub input: Vec<u8>,
    /// The panic's message and place.
    pub message: String,
}

/// xorshift64* (Vigna, "An experimental exploration of Marsaglia's xorshift generators, scrambled").
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    /// Below `end`, which is not 0.
    fn below(&mut self, end: usize) -> usize {
        (self.next() >> 33) as usize % end
    }
    fn record(&mut self) -> [u8; RECORD] {
        let mut record = [0; RECORD];
        record.chunks_mut(8).for_each(|part| part.copy_from_slice(&self.next().to_le_bytes()));
        record
    }
}

/// FNV-1a, to name an input.
pub fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

thread_local! {
    /// What the last panic said.
    static SAID: RefCell<String> = const { RefCell::new(String::new()) };
}

/// A search.
pub struct Engine {
    name: String,
    target: fn(&[u8]),
    random: Random,
    seed: u64,
    /// Inputs from earlier searches that were not tried yet.
    known: Vec<Vec<u8>>,
    corpus: Vec<Vec<u8>>,
    dir: Option<PathBuf>,
    seen: Seen,
    inputs: u64,
    took: Duration,
}

impl Engine {
    /// One that has not begun. `target` panics where an input fails.
    pub fn new(name: &str, target: fn(&[u8]), seed: u64) -> Self {
        let random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let (known, corpus) = (Vec::new(), Vec::new());
        let (seen, dir, inputs, took) = (Seen::default(), None, 0, Duration::ZERO);
        Self { name: name.to_owned(), target, random, seed, known, corpus, dir, seen, inputs, took }
    }

    /// Begins with the inputs in `dir`, and keeps what is found there from then on.
    pub fn load(&mut self, dir: &Path) -> io::Result<()> {
        fs::create_dir_all(dir)?;
        let mut paths: Vec<_> = fs::read_dir(dir)?.filter_map(|entry| Some(entry.ok()?.path())).collect();
        paths.sort();
        self.known = paths.into_iter().map(fs::read).collect::<io::Result<_>>()?;
        self.dir = Some(dir.to_owned());
        Ok(())
    }

    /// Searches; the failure that it found. An input that never ends is written to `failures`, and ends the program.
    pub fn run(&mut self, until: &Until, failures: Option<&Path>) -> Option<Failure> {
        let watch = Watch::start(&self.name, failures);
        let found = quietly(|| self.search(until, &watch));
        watch.over.store(true, Relaxed);
        found.err()
    }

    fn search(&mut self, until: &Until, watch: &Watch) -> Result<(), Failure> {
        let (start, mut report) = (Instant::now(), REPORT);
        for input in std::mem::take(&mut self.known) {
            self.one(input, watch)?;
        }
        loop {
            self.took = start.elapsed();
            let over = match until {
                Until::Time(time) => self.took >= *time,
                Until::Inputs(count) => self.inputs >= *count,
            };
            if over {
                return Ok(());
            }
            if self.took >= report {
                report += REPORT;
                eprintln!("{}", self.summary(false));
            }
            let input = self.change();
            self.one(input, watch)?;
        }
    }

    /// Runs an input, and keeps it if it reached something new.
    fn one(&mut self, input: Vec<u8>, watch: &Watch) -> Result<(), Failure> {
        self.inputs += 1;
        self.seen.clear();
        let done = attempt(self.target, &input, watch);
        let new = self.seen.add();
        if let Err(message) = done {
            return Err(self.shrink(Failure { input, message }, watch));
        }
        if new {
            if let Some(dir) = &self.dir {
                // What cannot be kept for the next time is kept for this one.
                let _ = fs::write(dir.join(format!("{:016x}", hash(&input))), &input);
            }
            self.corpus.push(input);
        }
        Ok(())
    }

    /// An input made of those that are kept, or a new one.
    fn change(&mut self) -> Vec<u8> {
        let random = &mut self.random;
        if self.corpus.is_empty() || random.below(64) == 0 {
            let count = 1 + random.below(LONGEST);
            return (0..=count).flat_map(|_| random.record()).skip(RECORD - 1).collect();
        }
        // Rather one of the last.
        let (count, late) = (self.corpus.len(), random.below(2) == 0);
        let from = if late { count - 1 - random.below(count.div_ceil(8)) } else { random.below(count) };
        let mut input = self.corpus[from].clone();
        for _ in 0..1 + random.below(6) {
            let other = &self.corpus[random.below(count)];
            alter(&mut input, other, random);
        }
        input.truncate(1 + LONGEST * RECORD);
        input
    }

    /// Leaves out and simplifies records as long as it fails.
    fn shrink(&self, mut failure: Failure, watch: &Watch) -> Failure {
        let mut tries = 0;
        let mut width = failure.input.len() / RECORD;
        while width != 0 && tries < TRIES {
            let mut at = 1;
            while at < failure.input.len() && tries < TRIES {
                let mut input = failure.input.clone();
                input.drain(at..input.len().min(at + width * RECORD));
                tries += 1;
                match attempt(self.target, &input, watch) {
                    Err(message) => failure = Failure { input, message },
                    Ok(()) => at += width * RECORD,
                }
            }
            width /= 2;
        }
        for at in 0..failure.input.len() {
            let mut input = failure.input.clone();
            if std::mem::take(&mut input[at]) != 0
                && let Err(message) = attempt(self.target, &input, watch)
            {
                failure = Failure { input, message };
            }
        }
        failure
    }

    /// A line about the search.
    pub fn summary(&self, failed: bool) -> String {
        let Self { name, inputs, seed, .. } = self;
        let (reached, edges) = (self.seen.edges(), coverage::edges());
        let coverage =
            if edges == 0 { "blindly".to_owned() } else { format!("{reached} edges, {} kept", self.corpus.len()) };
        let end = if failed { "FAILED" } else { "no failure" };
        format!("fuzz {name}: {inputs} inputs in {} s from seed {seed}, {coverage}: {end}", self.took.as_secs())
    }
}

/// One change of an input: of its records, or within one.
fn alter(input: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    let records = |bytes: &[u8]| bytes.len().saturating_sub(1) / RECORD;
    let own = records(input);
    let place = 1 + RECORD * random.below(own + 1);
    let byte = random.below(input.len().max(1));
    match random.below(12) {
        0 => drop(input.splice(place.min(input.len())..place.min(input.len()), random.record())),
        1 if own != 0 => {
            let count = 1 + random.below(4);
            input.drain(place.min(input.len())..input.len().min(place + count * RECORD));
        }
        // Records of another, or of its own, once more.
        2..=4 if records(other) != 0 => {
            let from = 1 + RECORD * random.below(records(other));
            let to = other.len().min(from + RECORD * (1 + random.below(8)));
            input.splice(place.min(input.len())..place.min(input.len()), other[from..to].iter().copied());
        }
        5 if own != 0 => {
            let from = 1 + RECORD * random.below(own);
            let part = input[from..input.len().min(from + RECORD * (1 + random.below(3)))].to_vec();
            input.splice(place.min(input.len())..place.min(input.len()), part);
        }
        6 => input.truncate(place),
        7 | 8 if byte < input.len() => input[byte] ^= 1 << random.below(8),
        9 if byte < input.len() => input[byte] = [0, 1, 2, 0x7f, 0x80, 0xff, 0xf0, 0x10][random.below(8)],
        10 if byte < input.len() => input[byte] = input[byte].wrapping_add(random.below(9) as u8).wrapping_sub(4),
        _ if byte < input.len() => input[byte] = random.next() as u8,
        _ => input.extend(random.record()),
    }
}

/// Runs an input; what it panicked with.
fn attempt(target: fn(&[u8]), input: &[u8], watch: &Watch) -> Result<(), String> {
    watch.begin(input);
    let done = panic::catch_unwind(AssertUnwindSafe(|| target(input)));
    done.map_err(|_| SAID.with_borrow_mut(std::mem::take))
}

/// Panics of this thread are noted instead of printed.
fn quietly<T>(act: impl FnOnce() -> T) -> T {
    let (own, old) = (std::thread::current().id(), Arc::new(panic::take_hook()));
    let others = old.clone();
    panic::set_hook(Box::new(move |info| {
        if std::thread::current().id() != own {
            return others(info);
        }
        let message = info.payload_as_str().unwrap_or("a panic without a message").to_owned();
        let place = info.location().map(|place| format!(" ({place})")).unwrap_or_default();
        SAID.with_borrow_mut(|said| *said = message + &place);
    }));
    let done = act();
    drop(panic::take_hook());
    if let Some(old) = Arc::into_inner(old) {
        panic::set_hook(old);
    }
    done
}

/// Looks from another thread whether inputs end.
struct Watch {
    now: Arc<Mutex<(u64, Vec<u8>)>>,
    over: Arc<AtomicBool>,
}

impl Watch {
    fn start(name: &str, failures: Option<&Path>) -> Self {
        let watch = Self { now: Arc::default(), over: Arc::default() };
        let (now, over) = (watch.now.clone(), watch.over.clone());
        let path = failures.map(|dir| dir.join(format!("{name}-without-end.hex")));
        std::thread::spawn(move || {
            let (mut last, mut since) = (0, Instant::now());
            while !over.load(Relaxed) {
                std::thread::sleep(Duration::from_millis(500));
                let Ok(now) = now.lock() else { return };
                if now.0 != last {
                    (last, since) = (now.0, Instant::now());
                } else if since.elapsed() > PATIENCE && !over.load(Relaxed) {
                    let text = input::to_text(&now.1);
                    println!("an input has no end:\n{text}");
                    if let Some(path) = path {
                        let _ = fs::create_dir_all(path.parent().unwrap_or(&path));
                        let _ = fs::write(path, text);
                    }
                    std::process::exit(1);
                }
            }
        });
        watch
    }

    fn begin(&self, input: &[u8]) {
        if let Ok(mut now) = self.now.lock() {
            now.0 += 1;
            now.1.clear();
            now.1.extend_from_slice(input);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(target: fn(&[u8]), inputs: u64) -> Option<Failure> {
        Engine::new("test", target, 1).run(&Until::Inputs(inputs), None)
    }

    #[test]
    fn a_failure_is_found_and_made_small() {
        let bad = |bytes: &[u8]| assert!(bytes.chunks(RECORD).all(|part| part[0] & 0xfc != 0x14), "there it is");
        let failure = find(bad, 1000).unwrap();
        assert!(failure.message.starts_with("there it is ("), "{}", failure.message);
        assert!(failure.input.len() <= 2 * RECORD && failure.input.iter().filter(|byte| **byte != 0).count() == 1);
        assert!(find(|_| (), 1000).is_none());
    }

    #[test]
    fn inputs_stay_within_their_length() {
        let mut engine = Engine::new("test", |_| (), 3);
        engine.corpus = vec![vec![1; 40], vec![], vec![2; 1 + LONGEST * RECORD]];
        for _ in 0..5000 {
            let input = engine.change();
            assert!(input.len() <= 1 + (LONGEST + 1) * RECORD);
        }
    }
}
