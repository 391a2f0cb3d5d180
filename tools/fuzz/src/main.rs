//! Fuzzing of the virtio devices: a guest that writes anything anywhere at any time, with each device, and what must hold whatever it does.
//!
//! Started by `cargo xtask fuzz`, which builds it with the compiler's coverage counters; by itself it finds its way blindly.
//!
//! | module | what it is |
//! |---|---|
//! | [`engine`] | keeps inputs that reach new code, changes them, and makes one that fails small |
//! | [`coverage`] | the compiler's counters |
//! | [`input`] | an input: a row of records of 16 bytes, each of which is one act |
//! | [`ram`] | the guest's memory, which watches the device |
//! | [`rig`] | a device and its guest, step by step |
//! | [`play`] | acts, and what is checked after each |
//! | [`targets`] | the devices |

mod coverage;
mod engine;
mod input;
mod play;
mod ram;
mod rig;
mod targets;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// What was asked for.
#[derive(Default)]
struct Args {
    target: String,
    seconds: u64,
    seed: u64,
    corpus: Option<PathBuf>,
    failures: Option<PathBuf>,
    replay: Option<PathBuf>,
}

fn parse() -> Result<Args, String> {
    let mut args = Args { seconds: 60, seed: 1, ..Args::default() };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        if !word.starts_with("--") {
            args.target = word;
            continue;
        }
        let value = words.next().ok_or_else(|| format!("{word} needs a value"))?;
        let number = || value.parse().map_err(|_| format!("{word} {value}: not a number"));
        match word.as_str() {
            "--seconds" => args.seconds = number()?,
            "--seed" => args.seed = number()?,
            "--corpus" => args.corpus = Some(value.into()),
            "--failures" => args.failures = Some(value.into()),
            "--replay" => args.replay = Some(value.into()),
            _ => return Err(format!("{word} is not known")),
        }
    }
    Ok(args)
}

fn run() -> Result<bool, String> {
    let args = parse()?;
    let names: Vec<_> = targets::ALL.iter().map(|(name, _)| *name).collect();
    if args.target.is_empty() {
        names.iter().for_each(|name| println!("{name}"));
        return Ok(true);
    }
    let found = targets::ALL.iter().find(|(name, _)| *name == args.target);
    let (name, target) = found.ok_or_else(|| format!("no target `{}`; there are {}", args.target, names.join(", ")))?;
    if let Some(path) = &args.replay {
        let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let bytes = input::from_text(&text).ok_or_else(|| format!("{}: no hexadecimal bytes", path.display()))?;
        // A panic of it ends the program as panics do, with the place.
        target(&bytes);
        println!("fuzz {name}: {} records, no failure", bytes.len().div_ceil(input::RECORD));
        return Ok(true);
    }
    let mut engine = engine::Engine::new(name, *target, args.seed);
    if let Some(dir) = &args.corpus {
        engine.load(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    }
    let failed = engine.run(&engine::Until::Time(Duration::from_secs(args.seconds)), args.failures.as_deref());
    println!("{}", engine.summary(failed.is_some()));
    let Some(failure) = failed else { return Ok(true) };
    println!("  {}\n{}", failure.message.replace('\n', "\n  "), input::to_text(&failure.input));
    if let Some(dir) = &args.failures {
        let path = dir.join(format!("{name}-{:016x}.hex", engine::hash(&failure.input)));
        let written = std::fs::create_dir_all(dir).and_then(|()| std::fs::write(&path, input::to_text(&failure.input)));
        written.map_err(|error| format!("{}: {error}", path.display()))?;
        println!("  again: cargo xtask fuzz {name} --replay {}", path.display());
    }
    Ok(false)
}

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("fuzz: error: {error}");
            ExitCode::from(2)
        }
    }
}
