//! The board's own virtio devices that Merus drives, for whoever shares them out: looked for when a manifest asks for one, and not touched
//! else.
//!
//! | step | what |
//! |---|---|
//! | [`Onboard::look`] | where there are which, by the board's tree and their registers, but for what a VM of the bundle is given |
//! | [`Onboard::disks`], [`Onboard::cards`] | the disks, the network cards, reset and in use; their registers and interrupts are Merus' from here on |
//! | [`publish`] | their interrupts are taken from here on, on this pCPU |
//! | [`taken`] | one was taken: whoever it is for looks after the device |
//!
//! Interrupts are taken as level sensitive, whatever the tree says: that is what virtio's are ("Interrupt Status"), and PCI's wires.

use crate::console::say;
use crate::gic;
use crate::machine::Machine;
use crate::passthrough;
use addr::{PAGE_SIZE, Pa, Span};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use boot::stage1::page_from_heap;
use config::board::{self, PciHost};
use config::spec::VmSpec;
use platform::mmio::Registers;
use platform::virtio::pci::{Bus, Ecam, Function, Room};
use platform::virtio::{BoardBlk, BoardNet, BoardTransport, DeviceType, Fault, Identity, kind, mmio};
use spin::Once;

/// How long a device has to answer at start, in ns.
const PATIENCE: u64 = 2_000_000_000;

/// Who looks after a device when its interrupt has come. Several may have one interrupt.
pub trait Attended: Send + Sync {
    /// Its interrupt was taken, on whichever pCPU; it is level sensitive, so the device is to be told. No lock is held.
    fn attend(&self);
}

/// An interrupt and whom it is for.
pub struct Line {
    /// INTID; nobody else's ([`Machine::routes`]).
    pub intid: u32,
    /// For whom.
    pub whose: Arc<dyn Attended>,
}

static LINES: Once<Vec<Line>> = Once::new();

/// Has interrupts taken from here on, on this pCPU; once.
pub fn publish(lines: Vec<Line>) {
    for line in LINES.call_once(|| lines) {
        gic::enable_spi(line.intid);
    }
}

/// An interrupt was taken, and its priority dropped: whether it is for some of the board's devices. It is to be deactivated then.
#[cold]
#[inline(never)]
pub fn taken(intid: u32) -> bool {
    let lines = LINES.get().map(Vec::as_slice).unwrap_or_default();
    let mut found = false;
    for line in lines.iter().filter(|line| line.intid == intid) {
        line.whose.attend();
        found = true;
    }
    found
}

/// A network card of the board's.
pub struct Card {
    /// Where it is, for a person.
    pub name: String,
    /// Its interrupt.
    pub intid: u32,
    /// Its driver.
    pub card: BoardNet,
}

/// A disk of the board's.
pub struct Disk {
    /// Where it is, for a person.
    pub name: String,
    /// Its interrupt.
    pub intid: u32,
    /// Its driver.
    pub drive: BoardBlk,
}

/// Where a device is.
enum At {
    Memory(Span<Pa>),
    Bus(usize, Function),
}

/// A device that nobody drives yet.
struct Idle {
    kind: DeviceType,
    name: String,
    intid: u32,
    at: At,
}

/// The board's virtio devices: those in memory by ascending address, then those of PCI by number.
pub struct Onboard {
    machine: &'static Machine,
    buses: Vec<(Bus<Ecam>, Room)>,
    idle: Vec<Idle>,
}

impl Onboard {
    /// Looks where they are. What one of `specs` asks for as it is, and what shares a page with that, is left alone.
    pub fn look(machine: &'static Machine, specs: &[VmSpec]) -> Self {
        let mut board = Self { machine, buses: Vec::new(), idle: Vec::new() };
        let places = match boot::with_tree(machine.fdt, board::virtio) {
            Some(Ok(places)) => places,
            Some(Err(error)) => {
                say!("no virtio device is looked for: {error}");
                return board;
            }
            None => return board,
        };
        let asked = passthrough::asked_for(machine.fdt, specs);
        let asked: Vec<Span<Pa>> = asked.iter().filter_map(|span| span.align_outwards(PAGE_SIZE)).collect();
        let free = |span: &Span<Pa>| !asked.iter().any(|other| other.overlaps(span));
        let mut memory: Vec<_> = places.mmio.iter().filter(|place| free(&place.registers)).collect();
        memory.sort_unstable_by_key(|place| place.registers.start());
        for place in memory {
            if let Some(kind) = board.map(place.registers).and_then(kind) {
                let name = format!("the virtio device at {:#x}", place.registers.start().as_u64());
                board.idle.push(Idle { kind, name, intid: place.intid, at: At::Memory(place.registers) });
            }
        }
        for host in places.pci.iter().filter(|host| free(&host.config)) {
            board.look_at_bus(host);
        }
        board
    }

    fn look_at_bus(&mut self, host: &PciHost) {
        let Some(window) = host.windows.first() else { return };
        let Some(registers) = self.map(host.config) else { return };
        let bus = Bus::new(Ecam::new(registers, host.bus), host.bus);
        let number = self.buses.len();
        for function in bus.virtio() {
            let name = format!("the virtio device {}.{} of PCI", function.device(), function.function());
            match host.intid(function.device(), function.function(), function.pin) {
                Some(intid) => self.idle.push(Idle { kind: function.kind, name, intid, at: At::Bus(number, function) }),
                None => say!("{name} has no interrupt that is known: it is not used"),
            }
        }
        let room = bus.room(*window);
        self.buses.push((bus, room));
    }

    /// Makes registers Merus' own and maps them; says so where that cannot be.
    fn map(&self, registers: Span<Pa>) -> Option<Registers> {
        let owned = self.machine.space.lock().own(registers).map_err(|overlap| overlap.to_string());
        let mapped = owned.and_then(|span| {
            let mapped = self.machine.memory.lock().map.device(span, &mut page_from_heap);
            mapped.map_err(|error| format!("{error:?}"))
        });
        mapped.map_err(|error| say!("the registers at {registers} are not used: {error}")).ok()
    }

    /// The way to a device, with its interrupt Merus' own.
    fn reach(&mut self, device: &Idle) -> Result<BoardTransport, String> {
        self.machine.routes.lock().keep(device.intid).map_err(|taken| taken.to_string())?;
        let unreached = || "its registers cannot be mapped".to_string();
        let made = match &device.at {
            At::Memory(span) => mmio(self.map(*span).ok_or_else(unreached)?, span.size()),
            At::Bus(number, function) => {
                let (bus, room) = self.buses.get_mut(*number).ok_or_else(unreached)?;
                let spans = bus.place(function, room).map_err(|fault| fault.to_string())?;
                if !spans.iter().all(|span| self.map(*span).is_some()) {
                    return Err(unreached());
                }
                match self.buses.get_mut(*number) {
                    Some((bus, _)) => bus.transport::<Identity>(function),
                    None => return Err(unreached()),
                }
            }
        };
        made.map_err(|fault| fault.to_string())
    }

    /// Those of a kind, `most` at most, each with the way to it; what cannot be used is said.
    fn take(&mut self, kind: DeviceType, most: usize) -> Vec<(Idle, BoardTransport)> {
        let (ours, others) = core::mem::take(&mut self.idle).into_iter().partition(|device: &Idle| device.kind == kind);
        self.idle = others;
        let mut taken = Vec::new();
        for device in ours {
            if taken.len() == most {
                break;
            }
            match self.reach(&device) {
                Ok(transport) => taken.push((device, transport)),
                Err(why) => say!("{} is not used: {why}", device.name),
            }
        }
        taken
    }

    /// The network cards that can be used, `most` at most.
    pub fn cards(&mut self, most: usize) -> Vec<Card> {
        let found = self.take(DeviceType::Network, most);
        let mut cards = Vec::new();
        for (Idle { name, intid, .. }, transport) in found {
            let room = self.machine.heap_room(BoardNet::memory()).map_err(|_| Fault::Memory);
            match room.and_then(|()| BoardNet::new(transport)) {
                Ok(card) => cards.push(Card { name, intid, card }),
                Err(fault) => say!("{name} is not used: {fault}"),
            }
        }
        cards
    }

    /// The disks that can be used.
    pub fn disks(&mut self) -> Vec<Disk> {
        let found = self.take(DeviceType::Block, usize::MAX);
        let mut disks = Vec::new();
        for (Idle { name, intid, .. }, transport) in found {
            let room = self.machine.heap_room(BoardBlk::memory()).map_err(|_| Fault::Memory);
            match room.and_then(|()| BoardBlk::new(transport, &mut patience())) {
                Ok(drive) => disks.push(Disk { name, intid, drive }),
                Err(fault) => say!("{name} is not used: {fault}"),
            }
        }
        disks
    }
}

/// Whether to wait on: for [`PATIENCE`] from now.
fn patience() -> impl FnMut() -> bool {
    let until = crate::time::now_ns().saturating_add(PATIENCE);
    move || {
        sync::relax();
        crate::time::now_ns() < until
    }
}
