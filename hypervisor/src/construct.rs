//! From a description to a VM that runs: memory, tables, devices, kernel, device tree. In steps, so that other VMs run
//! meanwhile; a reset takes the same steps over the memory it has.

use crate::console::{self, VmSink, say};
use crate::guest::{Guest, GuestRamAccess, KernelWaker, Runner, Uptime};
use crate::machine::{CpuOps, MAX_ENTITIES, Machine, TablePages};
use addr::{Address, BLOCK_SIZE, Ipa, Pa, Span};
use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use alloc::{format, vec};
use bus::MmioDevice;
use config::bundle::Bundle;
use config::cpu_model::CpuModel;
use config::guest_tree;
use config::map;
use config::spec::{PayloadRef, VmSpec};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use devices::pl011::Pl011;
use devices::pl031::Pl031;
use el2::space::GuestSpace;
use el2::world::GuestState;
use guest_smccc::psci::{Psci, StartState};
use memory::{Dirty, Filling, GuestRam, HandOver, Prepared};
use sched::{Affinity, EntityId, Kind, Stolen, TimerId, VmId, Weight};
use sync::{Rank, SpinLock};
use vgic::{Config, Vgic};
use vm::{DeviceHandle, Parts, SpiLine, Vcpu, VgicPort, Vm};

/// Bytes zeroed in one step.
const ZERO_STEP: u64 = 128 << 10;
/// Bytes copied and checked in one step.
const COPY_STEP: usize = 32 << 10;
/// Bytes of the heap that Merus' records of a VM take at most, without its vCPUs, and with the guest tree that is made for its start.
const HEAP_A_VM: usize = 128 << 10;
/// Bytes of the heap that each of its vCPUs takes at most.
const HEAP_A_VCPU: usize = 8 << 10;
/// SPIs that a guest has.
const SPIS: usize = 256;

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
    /// The VM runs.
    Runs,
    /// It cannot: why.
    Refused(Arc<Guest>, String),
}

/// Puts a VM together, all but its memory's contents. On an error nothing is left behind.
pub fn begin(machine: &'static Machine, spec: VmSpec, first: u32, number: u16) -> Result<Construction, String> {
    let name = spec.name.clone();
    let named = |why: String| format!("vm \"{name}\": {why}");
    let bundle = Bundle::parse(machine.bundle).map_err(|e| e.to_string())?;
    let kernel = bundle.payload(&spec.kernel).ok_or_else(|| named("the kernel is not in the bundle".into()))?;
    // Names the VM by itself.
    let layout = spec.layout(kernel).map_err(|e| e.to_string())?;
    if first.saturating_add(spec.vcpus) > MAX_ENTITIES {
        return Err(named(format!("more than {MAX_ENTITIES} vCPUs in all; run fewer VMs")));
    }
    let ipa_bits = machine.geometry.ipa_bits();
    if layout.ram.end().as_u64() > 1 << ipa_bits {
        return Err(named(format!("its memory ends above the {ipa_bits} address bits of the machine's stage 2")));
    }
    let room = HEAP_A_VM + HEAP_A_VCPU * spec.vcpus as usize;
    machine.heap_room(room).map_err(|e| named(format!("no memory for Merus' own records of it: {e:?}")))?;
    let limit = spec.memory_max.unwrap_or(u64::MAX);
    let no_memory = |e: memory::MemoryError| named(format!("no memory: {e:?}; give it less, or the machine more"));
    let account = machine.memory.lock().frames.open_account(limit).map_err(no_memory)?;
    let extents = match machine.memory.lock().guest_ram(account, spec.memory) {
        Ok(extents) => extents,
        Err(error) => {
            let _ = machine.memory.lock().frames.close_account(account);
            return Err(no_memory(error));
        }
    };
    let told = spec.cpu.max.is_some();
    let guest = match assemble(machine, spec, layout, first, number, account, &extents) {
        Ok(guest) => guest,
        Err(why) => {
            let mut memory = machine.memory.lock();
            for extent in &extents {
                memory.take_back(account, extent.span());
            }
            let _ = memory.frames.close_account(account);
            return Err(named(why));
        }
    };
    if told {
        say!("vm \"{}\": key cpu.max is not enforced yet; its vCPUs may take more", guest.spec.name);
    }
    let mut guests = machine.guests.lock();
    let place = guest.source.index();
    if guests.len() <= place {
        guests.resize(place + 1, None);
    }
    if let Some(slot) = guests.get_mut(place) {
        *slot = Some(guest.clone());
    }
    drop(guests);
    admit(machine, &guest);
    let Some(memory) = HandOver::first(&guest.ram, extents, machine.coherency()) else {
        dismantle(machine, &guest);
        return Err(named("its memory is another's".into()));
    };
    Ok(Construction { guest, stage: Stage::Zero(memory) })
}

fn assemble(
    machine: &'static Machine,
    spec: VmSpec,
    layout: config::image::GuestLayout,
    first: u32,
    number: u16,
    account: memory::AccountId,
    extents: &[Dirty],
) -> Result<Arc<Guest>, String> {
    let ram = GuestRam::new(map::RAM_BASE, extents.iter().map(Dirty::span)).ok_or("its memory has no place")?;
    let vcpus = spec.vcpus as usize;
    let mpidrs: Vec<u64> = (0..spec.vcpus).map(map::vcpu_mpidr).collect();
    let mut vgic = Vgic::new(&Config {
        vcpus,
        spis: SPIS,
        list_registers: el2::lists::HardwareLists::here().counted(),
        priority_bits: el2::lists::HardwareLists::priority_bits(),
        affinities: mpidrs.iter().map(|m| platform::gicv3::affinity_of(*m)).collect(),
    })
    .map_err(|e| format!("no interrupt controller: {e:?}"))?;
    vgic.link_timer(machine.ppis.virtual_timer);
    let waker = Arc::new(KernelWaker { first });
    let port = Arc::new(VgicPort::new(number, vgic, vcpus, waker.clone()));
    let entropy = machine.entropy.lock().as_mut().map(|drbg| drbg.child());
    let mut env = machine.env;
    env.trng = entropy.is_some();
    let window = |base: Ipa, size: u64| Span::new(base, size).ok_or("a window of the map wraps");
    let mut vm = Vm::new(Parts {
        id: number,
        name: spec.name.clone(),
        ram: ram.span(),
        memory: Arc::new(GuestRamAccess(ram.clone())),
        vgic: port.clone(),
        gicd: window(map::GICD_BASE, map::GICD_SIZE)?,
        gicr: window(map::GICR_BASE, map::GICR_STRIDE * u64::from(spec.vcpus))?,
        psci: Psci::new(&mpidrs).map_err(|e| format!("no power controller: {e:?}"))?,
        cpu: CpuModel::new(&machine.ids, machine.geometry.ipa_bits() as u8),
        breakpoints: usize::from(machine.features.breakpoints),
        watchpoints: usize::from(machine.features.watchpoints),
        env,
        entropy,
        waker,
        fwb: machine.features.fwb,
    });
    // What can fail comes before the place at the console, which is for good.
    let mut pages = TablePages { memory: &machine.memory, account };
    let space = GuestSpace::new(machine.geometry, &mut pages, machine.errata)
        .map_err(|_| "no memory for its translation tables".to_string())?;
    let source = console::add_source(&spec.name);
    let uart =
        Arc::new(SpinLock::new(Rank::Device, Pl011::new(SpiLine::new(port.clone(), map::PL011_INTID), VmSink(source))));
    let rtc: Arc<SpinLock<dyn MmioDevice>> =
        Arc::new(SpinLock::new(Rank::Device, Pl031::new(SpiLine::new(port, map::PL031_INTID), Uptime)));
    let devices: [(Ipa, u64, DeviceHandle); 2] =
        [(map::PL011_BASE, map::PL011_SIZE, uart.clone()), (map::PL031_BASE, map::PL031_SIZE, rtc)];
    for (base, size, device) in devices {
        vm.attach(window(base, size)?, device).map_err(|e| format!("a device has no place: {e:?}"))?;
    }
    Ok(Arc::new(Guest {
        vm,
        space,
        ram,
        traces: crate::observe::traces(machine, spec.vcpus),
        reporting: AtomicBool::new(false),
        spec,
        layout,
        first,
        source,
        uart,
        account,
        counter_offset: AtomicU64::new(0),
        last_ran: machine.pcpus.iter().map(|_| AtomicU32::new(0)).collect(),
        stopping: AtomicU32::new(0),
        reason: SpinLock::new(Rank::Vm, None),
        resets: AtomicU32::new(0),
        handed: SpinLock::new(Rank::Vm, None),
    }))
}

/// The VM's number in the table of shares.
fn share_of(guest: &Guest) -> VmId {
    VmId(guest.entity(0).0 as u16)
}

/// Gives each vCPU its place and its runqueue.
fn admit(machine: &Machine, guest: &Arc<Guest>) {
    // The number of its first vCPU is no other VM's.
    let share = share_of(guest);
    let _ = machine.shares.add_vm(share, Weight::new(guest.spec.cpu.weight).unwrap_or_default(), None);
    for vcpu in 0..guest.spec.vcpus {
        let id = guest.entity(vcpu);
        let Some(slot) = machine.slot(id) else { continue };
        let allowed = guest.spec.cpu.affinity.as_deref().unwrap_or(&[]);
        let home = match allowed.get(vcpu as usize % allowed.len().max(1)) {
            Some(cpu) => *cpu as usize,
            None => id.0 as usize % machine.pcpus.len(),
        };
        *slot.owner.lock() = Some((guest.clone(), vcpu));
        slot.whose.store(u32::from(guest.vm.id()) << 16 | vcpu, Ordering::Relaxed);
        *slot.runner.lock() = Some(Box::new(Runner {
            id,
            guest: guest.clone(),
            vcpu: Vcpu::new(vcpu),
            state: GuestState::reset(map::vcpu_mpidr(vcpu)),
            timers_on: home,
        }));
        slot.home.store(home, Ordering::Release);
        let only = if allowed.is_empty() { Affinity::ALL } else { Affinity::only(home) };
        let Ok(record) = Stolen::new(&machine.shares, id, share) else { continue };
        let record = record.allow(only);
        if let Some(pcpu) = machine.pcpus.get(home) {
            let mut sched = pcpu.sched.lock();
            // A place of this number is free: `first` was chosen so.
            let _ = sched.queue.admit(record);
        }
    }
}

impl Construction {
    /// The same VM again, after all its vCPUs have stopped.
    pub fn again(machine: &Machine, guest: Arc<Guest>) -> Self {
        guest.resets.fetch_add(1, Ordering::Relaxed);
        // From here on none of its vCPUs can be started, until it is launched.
        *guest.handed.lock() = None;
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

    /// Goes one step on.
    pub fn step(self, machine: &'static Machine) -> Progress {
        let Self { guest, stage } = self;
        match advance(&guest, machine, stage) {
            Ok(Some(stage)) => Progress::More(Self { guest, stage }),
            Ok(None) => Progress::Runs,
            Err(why) => {
                let why = format!("vm \"{}\": {why}", guest.spec.name);
                Progress::Refused(guest, why)
            }
        }
    }
}

fn advance(guest: &Arc<Guest>, machine: &'static Machine, stage: Stage) -> Result<Option<Stage>, String> {
    Ok(Some(match stage {
        Stage::Zero(mut memory) => {
            if let Some(extent) = memory.zero(ZERO_STEP, &mut CpuOps(&machine.features)) {
                map(guest, machine, extent)?;
            }
            match memory.into_zeroed() {
                Ok(memory) => Stage::Copy { memory, payload: Payload::Kernel, done: 0, crc: u32::MAX },
                Err(memory) => Stage::Zero(memory),
            }
        }
        Stage::Copy { memory, payload, done, crc } => copy(guest, machine, memory, payload, done, crc)?,
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
            _ => return Ok(Stage::Tree(memory)),
        },
    };
    let offset = what.offset as usize + done;
    let left = what.size as usize - done;
    if left != 0 {
        let at = to.checked_add(done as u64).ok_or("a payload wraps")?;
        let from = machine.bundle.get(offset..offset + left).ok_or("a payload is not in the bundle")?;
        let (got, crc) = memory
            .copy_crc(at, from, COPY_STEP, crc, &mut CpuOps(&machine.features))
            .ok_or("a payload has no place in its memory")?;
        return Ok(Stage::Copy { memory, payload, done: done + got, crc });
    }
    what.check(!crc).map_err(|e| e.to_string())?;
    Ok(match payload {
        Payload::Kernel => Stage::Copy { memory, payload: Payload::Initrd, done: 0, crc: u32::MAX },
        Payload::Initrd => Stage::Tree(memory),
    })
}

fn finish(guest: &Guest, machine: &'static Machine, mut memory: Filling) -> Result<(), String> {
    // Interrupt controller, devices and power states first: a reset leaves nothing of before.
    guest.vm.reset();
    let mut draw = |seed: &mut [u8]| guest.vm.draw(seed);
    let tree = guest_tree::generate(&guest.spec, &guest.layout, &mut draw).map_err(|e| e.to_string())?;
    let at = guest.layout.fdt.start();
    let mut ops = CpuOps(&machine.features);
    memory.write(at, tree.as_bytes(), &mut ops).ok_or("its device tree has no place")?;
    // It holds the seeds: wiped here.
    drop(tree);
    let handed = memory.finish(&mut ops);
    let now = el2::timer::now();
    guest.counter_offset.store(now, Ordering::Release);
    let start = StartState { entry: guest.layout.entry, context: at.as_u64() };
    if let Some(port) = guest.vm.port(0) {
        port.set_start(start);
    }
    let (name, cpus, memory) = (&guest.spec.name, guest.spec.vcpus, guest.spec.memory >> 20);
    let resets = guest.resets.load(Ordering::Relaxed);
    if resets == 0 {
        let own = machine.memory.lock().frames.account(guest.account).map_or(0, |a| a.used);
        let tables = own.saturating_sub(guest.spec.memory) >> 10;
        say!("vm \"{name}\": {cpus} vCPUs, {memory} MiB and {tables} KiB of tables, starts at tick {now}");
    } else {
        say!("vm \"{name}\": reset {resets}");
    }
    let free = machine.memory.lock().frames.free_bytes() >> 10;
    say!("memory: heap {} bytes used, {free} KiB of frames free", crate::HEAP.used());
    crate::report::life(machine, guest, trace::Life::Starts);
    if !machine.launch(guest, handed) {
        return Err("the memory is another's".into());
    }
    Ok(())
}

/// Forgets every deadline of a vCPU that has stopped.
fn cancel_timers(machine: &Machine, id: EntityId) {
    for pcpu in &machine.pcpus {
        let mut sched = pcpu.sched.lock();
        for kind in [Kind::Virtual, Kind::Physical] {
            sched.timers.cancel(TimerId { id, kind });
        }
    }
}

/// Takes a VM apart: its vCPUs have stopped, no pCPU holds anything of it.
pub fn dismantle(machine: &Machine, guest: &Arc<Guest>) {
    for id in guest.entities() {
        let Some(slot) = machine.slot(id) else { continue };
        let home = slot.home.load(Ordering::Acquire);
        if let Some(pcpu) = machine.pcpus.get(home) {
            let removed = pcpu.sched.lock().queue.remove(id, crate::time::now_ns());
            // The heap's lock comes before the queue's.
            drop(removed);
        }
        cancel_timers(machine, id);
        *slot.runner.lock() = None;
        *slot.owner.lock() = None;
    }
    let _ = machine.shares.remove_vm(share_of(guest));
    guest.space.flush();
    guest.space.destroy(&mut TablePages { memory: &machine.memory, account: guest.account });
    let mut memory = machine.memory.lock();
    for (_, extent) in guest.ram.extents() {
        memory.take_back(guest.account, *extent);
    }
    let _ = memory.frames.close_account(guest.account);
    drop(memory);
    if machine.look_back {
        el2::ram::read(guest.ram.extents().first().map_or(Pa::new(0), |(_, extent)| extent.start()), &mut [0]);
        say!("the RAM of a VM that has ended is mapped");
    }
    if let Some(place) = machine.guests.lock().get_mut(guest.source.index()) {
        *place = None;
    }
}

/// The entities that VMs of `specs` get, each its first.
pub fn places(specs: &[VmSpec]) -> Vec<u32> {
    let mut next = 0;
    let mut first = vec![];
    for spec in specs {
        first.push(next);
        next += spec.vcpus;
    }
    first
}

const _: () = assert!(ZERO_STEP < BLOCK_SIZE && COPY_STEP as u64 <= ZERO_STEP);
