//! From a description to a VM that runs: memory, tables, devices, kernel, device tree. In steps, so that other VMs run
//! meanwhile; a reset takes the same steps over the memory it has.
//!
//! | part | what it does |
//! |---|---|
//! | [`request`] | what is asked for, against what there is: frames, heap, places; or why not |
//! | [`assemble`] | the VM's parts, put together: all but its memory's contents |
//! | here | its memory's contents, in steps, and its first instruction |
//! | [`ended`] | it comes apart |

mod assemble;
mod ended;
mod request;

pub use ended::{cancel_timers, dismantle, look_back};
pub use request::{Request, begin, no_memory, refused_spec};

use crate::console::say;
use crate::gic;
use crate::guest::Guest;
use crate::machine::{CpuOps, Machine, TablePages};
use addr::{Address, BLOCK_SIZE, Ipa};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use config::guest_tree;
use config::spec::PayloadRef;
use control::Source;
use core::sync::atomic::Ordering;
use guest_smccc::psci::StartState;
use memory::{Filling, HandOver, Prepared};

/// Bytes zeroed without a look at the clock, and the same where the CPU has instructions that set memory.
const ZERO_STEP: u64 = 128 << 10;
const SET_STEP: u64 = 512 << 10;
/// Bytes copied and checked without a look at the clock.
const COPY_STEP: usize = 32 << 10;
/// Bytes of an upload copied in one step, by way of the stack.
const PIECE: usize = 4 << 10;

/// A VM on its way to its first instruction.
pub struct Construction {
    guest: Arc<Guest>,
    stage: Stage,
}

enum Stage {
    /// Memory is zeroed, and mapped if it was just handed out.
    Zero(HandOver),
    /// A payload is copied to RAM and its checksum taken on the way.
    Copy { memory: Filling, payload: Payload, done: usize, crc: u32 },
    /// The image behind a disk is held against its checksum, once for all VMs that have it.
    Image { memory: Filling, disk: usize, done: usize, crc: u32 },
    /// The device tree.
    Tree(Filling),
}

#[derive(Clone, Copy, PartialEq)]
enum Payload {
    Kernel,
    Initrd,
}

/// What a step left.
pub enum Progress {
    /// There is more to do.
    More(Construction),
    /// The VM's memory is as it has to be: the first time it waits to be launched, after a reset it runs.
    Done(Arc<Guest>),
    /// It cannot: why.
    Refused(Arc<Guest>, String),
}

impl Construction {
    /// The same VM again, after all its vCPUs have stopped.
    pub fn again(machine: &Machine, guest: Arc<Guest>) -> Self {
        guest.resets.fetch_add(1, Ordering::Relaxed);
        // From here on none of its vCPUs can be started, until it is launched.
        *guest.handed.lock() = None;
        guest.vm.quiesce();
        guest.space.flush();
        for id in guest.entities() {
            let Some(slot) = machine.slot(id) else { continue };
            let home = slot.home.load(Ordering::Acquire);
            if let Some(pcpu) = machine.pcpus.get(home) {
                let _ = pcpu.sched.lock().queue.reset(id);
            }
            cancel_timers(machine, id);
        }
        let memory = HandOver::again(&guest.ram, machine.coherency());
        Self { guest, stage: Stage::Zero(memory) }
    }

    /// Goes on until `until`, in ticks, and a step beyond.
    pub fn step(self, machine: &'static Machine, until: u64) -> Progress {
        let Self { guest, mut stage } = self;
        if guest.cancelled.load(Ordering::Acquire) {
            return Progress::Refused(guest, "given up before it was made".into());
        }
        loop {
            match advance(&guest, machine, stage, until) {
                Ok(Some(next)) => stage = next,
                Ok(None) => return Progress::Done(guest),
                Err(why) => return Progress::Refused(guest, why),
            }
            if el2::timer::now() >= until {
                return Progress::More(Self { guest, stage });
            }
        }
    }
}

fn advance(guest: &Arc<Guest>, machine: &'static Machine, stage: Stage, until: u64) -> Result<Option<Stage>, String> {
    Ok(Some(match stage {
        Stage::Zero(mut memory) => {
            let step = if machine.features.mops { SET_STEP } else { ZERO_STEP };
            while !memory.is_zeroed() {
                if let Some(extent) = memory.zero(step, &mut CpuOps(&machine.features)) {
                    map(guest, machine, extent)?;
                }
                if el2::timer::now() >= until {
                    break;
                }
            }
            match memory.into_zeroed() {
                Ok(memory) => Stage::Copy { memory, payload: Payload::Kernel, done: 0, crc: u32::MAX },
                Err(memory) => Stage::Zero(memory),
            }
        }
        Stage::Copy { memory, payload, done, crc } => copy(guest, machine, memory, payload, done, crc)?,
        Stage::Image { memory, disk, done, crc } => check_image(guest, machine, memory, (disk, done, crc))?,
        Stage::Tree(memory) => {
            finish(guest, machine, memory)?;
            return Ok(None);
        }
    }))
}

/// Puts an extent into the guest's address space.
fn map(guest: &Guest, machine: &Machine, extent: Prepared) -> Result<(), String> {
    let mut pages = TablePages { memory: &machine.memory, account: guest.account };
    guest.space.map_ram(extent, &mut pages).map_err(|e| format!("its memory cannot be mapped: {e:?}"))
}

fn copy(
    guest: &Guest,
    machine: &Machine,
    mut memory: Filling,
    payload: Payload,
    done: usize,
    crc: u32,
) -> Result<Stage, String> {
    let (what, to): (&PayloadRef, Ipa) = match payload {
        Payload::Kernel => (&guest.spec.kernel, guest.layout.kernel.start()),
        Payload::Initrd => match (&guest.spec.initrd, &guest.layout.initrd) {
            (Some(what), Some(span)) => (what, span.start()),
            _ => return Ok(Stage::Image { memory, disk: 0, done: 0, crc: u32::MAX }),
        },
    };
    let source = match payload {
        Payload::Kernel => guest.payloads.kernel,
        Payload::Initrd => guest.payloads.initrd,
    };
    let left = what.size as usize - done;
    if left != 0 {
        let at = to.checked_add(done as u64).ok_or("a payload wraps")?;
        let mut ops = CpuOps(&machine.features);
        let (got, crc) = match source {
            Source::Boot => {
                let offset = what.offset as usize + done;
                let from = machine.bundle.get(offset..offset + left).ok_or("a payload is not in the bundle")?;
                memory.copy_crc(at, from, COPY_STEP, crc, &mut ops)
            }
            Source::Object(region) => {
                let mut piece = [0; PIECE];
                let from = &mut piece[..left.min(PIECE)];
                machine.uploads.lock().read(region, done as u64, from);
                memory.copy_crc(at, from, PIECE, crc, &mut ops)
            }
        }
        .ok_or("a payload has no place in its memory")?;
        return Ok(Stage::Copy { memory, payload, done: done + got, crc });
    }
    what.check(!crc).map_err(|e| e.to_string())?;
    Ok(match payload {
        Payload::Kernel => Stage::Copy { memory, payload: Payload::Initrd, done: 0, crc: u32::MAX },
        Payload::Initrd => Stage::Image { memory, disk: 0, done: 0, crc: u32::MAX },
    })
}

fn check_image(
    guest: &Guest,
    machine: &Machine,
    memory: Filling,
    (disk, done, crc): (usize, usize, u32),
) -> Result<Stage, String> {
    let Some(described) = guest.spec.disks.get(disk) else { return Ok(Stage::Tree(memory)) };
    // One that was uploaded was held against its hash then.
    let boot = guest.payloads.disks.get(disk) == Some(&Source::Boot);
    let unchecked = |what: &&PayloadRef| boot && !machine.checked_images.lock().contains(&what.offset);
    if let Some(what) = described.image().filter(unchecked) {
        let left = what.size as usize - done;
        if left != 0 {
            let (from, count) = (what.offset as usize + done, left.min(COPY_STEP));
            let piece = machine.bundle.get(from..from + count).ok_or("a disk's image is not in the bundle")?;
            let crc = el2::ram::crc(piece, crc, machine.features.crc32);
            return Ok(Stage::Image { memory, disk, done: done + count, crc });
        }
        what.check(!crc).map_err(|e| e.to_string())?;
        machine.checked_images.lock().push(what.offset);
    }
    Ok(Stage::Image { memory, disk: disk + 1, done: 0, crc: u32::MAX })
}

fn finish(guest: &Guest, machine: &'static Machine, mut memory: Filling) -> Result<(), String> {
    // Interrupt controller, devices and power states first: a reset leaves nothing of before.
    guest.vm.reset();
    guest.io.reset();
    let mut draw = |seed: &mut [u8]| guest.vm.draw(seed);
    let tree = guest_tree::generate(&guest.spec, &guest.layout, gic::of_guests(), &guest.given.what, &mut draw)
        .map_err(|e| e.to_string())?;
    let at = guest.layout.fdt.start();
    let mut ops = CpuOps(&machine.features);
    memory.write(at, tree.as_bytes(), &mut ops).ok_or("its device tree has no place")?;
    // It holds the seeds: wiped here.
    drop(tree);
    let handed = memory.finish(&mut ops);
    let start = StartState { entry: guest.layout.entry, context: at.as_u64() };
    if let Some(port) = guest.vm.port(0) {
        port.set_start(start);
    }
    *guest.ready.lock() = Some(handed);
    Ok(())
}

/// Runs a VM whose memory is ready, for the first time or again. `false`: it is not ready.
pub fn launch(machine: &'static Machine, guest: &Guest) -> bool {
    let Some(handed) = guest.ready.lock().take() else { return false };
    let now = el2::timer::now();
    guest.counter_offset.store(now, Ordering::Release);
    let (name, cpus, memory) = (&guest.spec.name, guest.spec.vcpus, guest.spec.memory >> 20);
    let resets = guest.resets.load(Ordering::Relaxed);
    if resets == 0 {
        let own = machine.memory.lock().frames.account(guest.account).map_or(0, |a| a.used);
        let tables = own.saturating_sub(guest.spec.memory).saturating_sub(guest.records) >> 10;
        say!("vm \"{name}\": {cpus} vCPUs, {memory} MiB and {tables} KiB of tables, starts at tick {now}");
    } else {
        say!("vm \"{name}\": reset {resets}");
    }
    let free = machine.memory.lock().frames.free_bytes() >> 10;
    say!("memory: heap {} bytes used, {free} KiB of frames free", crate::HEAP.used());
    guest.given.launch(guest);
    if resets == 0 {
        guest.given.say(guest);
    }
    crate::report::life(machine, guest, trace::Life::Starts);
    machine.launch(guest, handed)
}

const _: () = assert!(SET_STEP < BLOCK_SIZE && ZERO_STEP < BLOCK_SIZE && COPY_STEP as u64 <= ZERO_STEP);
