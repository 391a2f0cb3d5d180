//! The machine's own disks, and the parts of them that VMs have.
//!
//! | step | what |
//! |---|---|
//! | [`are_wanted`] | somebody asks for one: a VM of the bundle, or `merus.disks=on`; else none is looked for |
//! | [`start`] | each that answers is started, polled, and its partition table is read; its interrupt is taken from then on |
//! | [`open`] | a VM has a part of one, as a disk of its own (`partition::shared`) |
//! | [`HostDisk`]'s interrupt | what has ended is told to the VMs that it is of, which copy it in their own time |
//! | [`look`] | a time limit: what a disk took too long over has failed, and a disk that nobody waits for begins anew |
//!
//! What an interrupt costs is the pCPU's that takes it: a bounded number of blocks for an SD card, whose data goes by the CPU.
//!
//! Disks have numbers: SD cards first, then virtio's in the order of [`Onboard`].

use crate::console::say;
use crate::machine::Machine;
use crate::onboard::{Attended, Line, Onboard};
use crate::{manage, passthrough, time};
use addr::{Pa, Span};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use boot::stage1::page_from_heap;
use config::board::{self, SdHost};
use config::spec::{DiskSource, VmSpec};
use core::fmt::Write as _;
use host::disk::{Data, DiskError, Drive, Gone, Progress, Request, SERIAL, Tag};
use host::port::Bell;
use partition::select;
use partition::shared::{LIMIT, Share, Shared, Watch};
use partition::table::{Bytes, Scheme, Table, TableError};
use platform::mmio;
use sdhci::{Card, SdDrive};
use spin::Once;

/// A disk of the machine's.
struct HostDisk {
    shared: Arc<Shared>,
    table: Option<Table>,
}

impl Attended for HostDisk {
    fn attend(&self) {
        self.shared.attend();
    }
}

/// They are known once; none is where nobody asked for one.
static DISKS: Once<Vec<Arc<HostDisk>>> = Once::new();

/// Partitions whose names are printed.
const NAMED: usize = 8;
/// Where an SD controller says its version, as any does that is there.
const VERSION: u64 = 0xfc;
/// Bytes of the heap that a drive takes beside its requests' memory.
const A_DRIVE: usize = 64 << 10;

struct SdRegisters(mmio::Registers);

impl sdhci::Registers for SdRegisters {
    fn read(&self, at: u64) -> u32 {
        self.0.read32(at)
    }
    fn write(&self, at: u64, value: u32) {
        self.0.write32(at, value);
    }
}

/// Whether a VM of these, or the board's command line, asks for a disk of the machine's.
pub fn are_wanted(specs: &[VmSpec], bootargs: &str) -> bool {
    let mut disks = specs.iter().flat_map(|spec| &spec.disks);
    disks.any(|disk| matches!(disk.source, DiskSource::Host(_)))
        || bootargs.split_whitespace().any(|arg| arg == "merus.disks=on")
}

/// Starts the disks that are there, but those that one of `specs` is to have itself; their interrupts.
pub fn start(machine: &'static Machine, board: &mut Onboard, specs: &[VmSpec]) -> Vec<Line> {
    let mut found: Vec<(String, u32, Box<dyn Drive>)> = Vec::new();
    let hosts = boot::with_tree(machine.fdt, board::sd_hosts).and_then(Result::ok).unwrap_or_default();
    let asked = passthrough::asked_for(machine.fdt, specs);
    for host in hosts.into_iter().filter(|host| !asked.iter().any(|span| span.overlaps(&host.registers))) {
        let name = format!("the SD card at {:#x}", host.registers.start().as_u64());
        match sd_card(machine, &host) {
            Ok(drive) => found.push((name, host.intid, drive)),
            Err(why) => say!("{name} is not used: {why}"),
        }
    }
    let virtio = board.disks().into_iter();
    found.extend(virtio.map(|disk| (disk.name, disk.intid, Box::new(disk.drive) as Box<dyn Drive>)));
    let (mut disks, mut lines) = (Vec::new(), Vec::new());
    for (number, (name, intid, mut drive)) in found.into_iter().enumerate() {
        let table = known(number, &name, &mut *drive);
        let disk = Arc::new(HostDisk { shared: Shared::new(drive, Box::new(Timer)), table });
        lines.push(Line { intid, whose: disk.clone() });
        disks.push(disk);
    }
    DISKS.call_once(|| disks);
    lines
}

fn sd_card(machine: &Machine, host: &SdHost) -> Result<Box<dyn Drive>, String> {
    machine.routes.lock().keep(host.intid).map_err(|taken| taken.to_string())?;
    let registers = own(machine, host.registers)?;
    registers.probe32(VERSION).map_err(|error| error.to_string())?;
    let card = Card::start(SdRegisters(registers), &time::now_ns).map_err(|error| error.to_string())?;
    let room = A_DRIVE + usize::from(sdhci::DEPTH) * sdhci::LARGEST as usize;
    machine.heap_room(room).map_err(|error| format!("there is no memory for it: {error:?}"))?;
    Ok(Box::new(SdDrive::new(card)))
}

/// Registers that are Merus' from here on.
fn own(machine: &Machine, registers: Span<Pa>) -> Result<mmio::Registers, String> {
    let span = machine.space.lock().own(registers).map_err(|overlap| overlap.to_string())?;
    machine.memory.lock().map.device(span, &mut page_from_heap).map_err(|error| format!("{error:?}"))
}

/// Reads a disk's table, and says what is on it.
fn known(number: usize, what: &str, drive: &mut dyn Drive) -> Option<Table> {
    let shape = drive.shape();
    let table = Table::read(&mut Polled(drive), shape.bytes(), shape.block);
    let mut line = format!("disk {number}: {what}, {} MiB", shape.bytes() >> 20);
    // A text takes what it is given.
    let _ = match &table {
        Ok(Table { scheme: Scheme::None, .. }) => write!(line, ", no partitions"),
        Ok(table) => describe(&mut line, table),
        Err(error @ (TableError::Disk | TableError::Damaged | TableError::Block)) => write!(line, ": {error}"),
    };
    say!("{line}");
    table.ok()
}

fn describe(line: &mut String, table: &Table) -> core::fmt::Result {
    line.push_str(match table.scheme {
        Scheme::Gpt => ", GPT:",
        Scheme::Backup => ", GPT (its copy, the first one is damaged):",
        Scheme::Mbr => ", MBR:",
        Scheme::None => ":",
    });
    for partition in table.partitions.iter().take(NAMED) {
        let name = if partition.label.is_empty() { &partition.id } else { &partition.label };
        write!(line, " {name} ({} KiB)", partition.size >> 10)?;
    }
    match table.partitions.len().saturating_sub(NAMED) + table.left_out {
        0 => Ok(()),
        more => write!(line, " and {more} more"),
    }
}

/// A drive that nobody shares yet.
struct Polled<'a>(&'a mut dyn Drive);

/// Where what is read goes.
struct Into<'a>(&'a mut [u8]);

impl Data for Into<'_> {
    fn load(&mut self, _: u64, _: &mut [u8]) -> Result<(), Gone> {
        Err(Gone)
    }
    fn store(&mut self, at: u64, from: &[u8]) -> Result<(), Gone> {
        let into = self.0.get_mut(at as usize..).and_then(|into| into.get_mut(..from.len())).ok_or(Gone)?;
        into.copy_from_slice(from);
        Ok(())
    }
}

impl Bytes for Polled<'_> {
    fn read(&mut self, at: u64, into: &mut [u8]) -> Result<(), DiskError> {
        let size = into.len() as u64;
        let mut into = Into(into);
        match self.0.submit(Tag(0), Request::Read { at, size }, &mut into)? {
            Progress::Done(done) if done == size => return Ok(()),
            Progress::Done(_) => return Err(DiskError::Io),
            Progress::Started => {}
        }
        let start = time::now_ns();
        while !self.0.has_ended(Tag(0)) {
            self.0.attend();
            if time::now_ns().saturating_sub(start) > LIMIT {
                self.0.give_up(Tag(0));
            }
            sync::relax();
        }
        self.0.finish(Tag(0), Some(&mut into))
    }
}

/// The time, and [`look`] in time.
struct Timer;

impl Watch for Timer {
    fn now(&self) -> u64 {
        time::now_ns()
    }
    fn due(&self, at: u64) {
        manage::remind(at);
    }
}

/// A part of one of the disks, for disk `number` of a VM. `bell`: something of it has ended.
///
/// # Errors
/// Why it cannot be had.
pub fn open(spec: &VmSpec, number: usize, name: &str, bell: Box<dyn Bell>) -> Result<Share, String> {
    let refused = |why: &dyn core::fmt::Display| format!("disk {number}: {name}: {why}");
    let disks = DISKS.get().map(Vec::as_slice).unwrap_or_default();
    if disks.is_empty() {
        return Err(refused(match DISKS.get().is_some() {
            true => &"the machine has no disk that Merus has a driver for",
            false => {
                &"the machine's disks were not looked for: no VM of the bundle has one; start Merus with merus.disks=on"
            }
        }));
    }
    let tables: Vec<_> = disks.iter().map(|disk| (disk.shared.shape().bytes(), disk.table.as_ref())).collect();
    let part = select::find(name, &tables).map_err(|error| refused(&error))?;
    let disk = disks.get(part.disk).ok_or_else(|| refused(&"there is no such disk"))?;
    let described = spec.disks.get(number).ok_or("a disk that is not described")?;
    let mut serial = [0; SERIAL];
    serial.iter_mut().zip(spec.serial(number).bytes()).for_each(|(to, byte)| *to = byte);
    let share = disk.shared.attach((part.at, part.size), described.readonly, serial, bell);
    share.map_err(|error| refused(&error))
}

/// Looks at all disks: when the earliest time limit is over.
pub fn look(machine: &Machine) {
    for disk in DISKS.get().into_iter().flatten() {
        disk.shared.attend();
        // To begin anew takes memory; without it, it is put off.
        if disk.shared.is_stuck() && machine.heap_room(A_DRIVE).is_ok() {
            say!("a disk of the machine's took too long over requests: it begins anew");
            disk.shared.recover();
        }
    }
}

/// When that is, in ns.
pub fn deadline() -> u64 {
    DISKS.get().into_iter().flatten().filter_map(|disk| disk.shared.deadline()).min().unwrap_or(u64::MAX)
}
