//! From a description to a VM that runs: memory, tables, devices, kernel, device tree. In steps, so that other VMs run
//! meanwhile; a reset takes the same steps over the memory it has.

use crate::console::{self, VmSink, say};
use crate::gic;
use crate::guest::{Guest, GuestRamAccess, KernelWaker, Uptime};
use crate::machine::{CpuOps, Machine, Memory, TablePages};
use crate::placing;
use crate::power::PowerKeys;
use crate::slots::MAX_ENTITIES;
use crate::stolen::StolenTime;
use addr::{Address, BLOCK_SIZE, Ipa, Pa, Span};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use bus::{GuestMemory, MmioDevice};
use config::cpu_model::CpuModel;
use config::guest_tree;
use config::image::GuestLayout;
use config::map;
use config::spec::{PayloadRef, VmSpec, admit_one};
use control::{Group, Source, VmNumber};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use devices::pl011::Pl011;
use devices::pl031::Pl031;
use el2::space::GuestSpace;
use guest_smccc::psci::{Psci, StartState};
use memory::{Dirty, Filling, GuestRam, HandOver, MemoryError, Prepared};
use proto::{Refusal, SpecFault};
use sched::{EntityId, GroupId, Kind, TimerId, Weight};
use sync::{Rank, SpinLock};
use vgic::{Config, Face, Vgic};
use vm::{Controller, DeviceHandle, Parts, SpiLine, VgicPort, Vm};

/// Bytes zeroed without a look at the clock, and the same where the CPU has instructions that set memory.
const ZERO_STEP: u64 = 128 << 10;
const SET_STEP: u64 = 512 << 10;
/// Bytes copied and checked without a look at the clock.
const COPY_STEP: usize = 32 << 10;
/// What a VM takes beside its RAM at least, in bytes: translation tables, and Merus' records of it.
const LEAST_BESIDE_RAM: u64 = 32 << 10;
/// Bytes of the heap that Merus' records of a VM take at most, without its vCPUs, and with the guest tree that is made for its start.
const HEAP_A_VM: usize = 128 << 10;
/// Bytes of the heap that each of its vCPUs takes at most.
const HEAP_A_VCPU: usize = 8 << 10;
/// Bytes of an upload copied in one step, by way of the stack.
const PIECE: usize = 4 << 10;
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
    /// The VM's memory is as it has to be: the first time it waits to be launched, after a reset it runs.
    Done(Arc<Guest>),
    /// It cannot: why.
    Refused(Arc<Guest>, String),
}

/// A VM to be made.
pub struct Request<'a> {
    /// What it is to be; checked by itself.
    pub spec: &'a VmSpec,
    /// Its number, free until now.
    pub number: VmNumber,
    /// Its group's place.
    pub group: Option<usize>,
    /// Where its kernel is.
    pub kernel: Source,
    /// Where its initrd is.
    pub initrd: Source,
}

/// Puts a VM together, all but its memory's contents. On an error nothing is left behind.
pub fn begin(machine: &'static Machine, request: &Request<'_>) -> Result<Construction, Refusal> {
    let spec = request.spec;
    let mut head = [0; config::image::HEADER_SIZE];
    read_payload(machine, request.kernel, &spec.kernel, 0, &mut head)
        .ok_or_else(|| Refusal::NoSuchObject(format!("\"{}\" in the bundle", spec.kernel.name)))?;
    let layout = spec.layout(&head).map_err(|e| refused_spec(e.key, e.fault))?;
    admit_one(spec, gic::of_guests()).map_err(|e| refused_spec(e.key, e.fault))?;
    let ipa_bits = machine.geometry.ipa_bits();
    if layout.ram.end().as_u64() > 1 << ipa_bits {
        let why = format!("ends above the {ipa_bits} address bits of the machine's stage 2; give less");
        return Err(refused_spec(config::spec::key::MEMORY, why));
    }
    let room = HEAP_A_VM + HEAP_A_VCPU * spec.vcpus as usize;
    machine.heap_room(room).map_err(|e| no_memory(machine, &machine.memory.lock(), e, room as u64))?;
    let limit = Refusal::Limit { what: "vCPUs in all; destroy a VM".into(), most: MAX_ENTITIES.into() };
    let first = machine.entities.lock().take(spec.vcpus).ok_or(limit)?;
    let made = match machine.vcpu_room(first, spec.vcpus) {
        Ok(()) => with_entities(machine, request, layout, first),
        Err(error) => Err(no_memory(machine, &machine.memory.lock(), error, room as u64)),
    };
    if made.is_err() {
        machine.entities.lock().give(first, spec.vcpus);
    }
    made
}

fn with_entities(
    machine: &'static Machine,
    request: &Request<'_>,
    layout: GuestLayout,
    first: u32,
) -> Result<Construction, Refusal> {
    let spec = request.spec;
    let limit = spec.memory_max.unwrap_or(u64::MAX);
    let group = request.group.and_then(|group| machine.groups.lock().get(group).copied());
    let mut memory = machine.memory.lock();
    let account = match group {
        Some(group) => memory.frames.open_account_in(group, limit),
        None => memory.frames.open_account(limit),
    };
    let account = account.map_err(|e| no_memory(machine, &memory, e, spec.memory))?;
    let extents = match memory.guest_ram(account, spec.memory) {
        Ok(extents) => extents,
        Err(error) => {
            let refusal = no_memory(machine, &memory, error, spec.memory);
            let _ = memory.frames.close_account(account);
            return Err(refusal);
        }
    };
    drop(memory);
    let heap = crate::HEAP.used();
    let made = assemble(machine, request, layout, first, account, &extents)
        .map_err(|refusal| starved(machine, account).unwrap_or(refusal));
    let own = crate::HEAP.used().saturating_sub(heap) as u64;
    let made = made.and_then(|mut guest| {
        // Merus' own records of the VM are charged to it as well.
        let mut memory = machine.memory.lock();
        match memory.frames.charge(account, own) {
            Ok(()) => {
                guest.records = own;
                Ok(Arc::<Guest>::from(guest))
            }
            Err(error) => Err(no_memory(machine, &memory, error, own)),
        }
    });
    let guest: Arc<Guest> = match made {
        Ok(guest) => guest,
        Err(refusal) => {
            let mut memory = machine.memory.lock();
            for extent in &extents {
                memory.take_back(account, extent.span());
            }
            let _ = memory.frames.close_account(account);
            return Err(refusal);
        }
    };
    if let Some(place) = machine.vms.lock().get_mut(usize::from(request.number.0)) {
        place.guest = Some(guest.clone());
    }
    if let Err(refusal) = placing::admit(machine, &guest, request.group) {
        dismantle(machine, &guest);
        return Err(refusal);
    }
    let Some(memory) = HandOver::first(&guest.ram, extents, machine.coherency()) else {
        dismantle(machine, &guest);
        return Err(Refusal::Unsupported("its memory is another's".into()));
    };
    Ok(Construction { guest, stage: Stage::Zero(memory) })
}

/// A refusal of one of the VM's settings.
pub fn refused_spec(key: &str, why: impl ToString) -> Refusal {
    Refusal::Spec(SpecFault { key: key.into(), why: why.to_string() })
}

/// A lack of memory in words: whose, and how much is left.
pub fn no_memory(machine: &Machine, memory: &Memory, error: MemoryError, asked: u64) -> Refusal {
    let (left, of) = match error {
        MemoryError::OverLimit { left, of } => {
            let group = machine.groups.lock().iter().position(|group| *group == of);
            (left, group.map_or_else(|| "the VM's memory.max".to_string(), |_| "the group's memory.max".to_string()))
        }
        _ => (memory.frames.free_bytes(), "the machine".to_string()),
    };
    Refusal::NoMemory { asked, left, of }
}

/// The refusal of a VM whose account has no room for more than its RAM, if that is so: its limit may leave none for translation tables.
fn starved(machine: &Machine, account: memory::AccountId) -> Option<Refusal> {
    let mut memory = machine.memory.lock();
    match memory.frames.charge(account, LEAST_BESIDE_RAM) {
        Ok(()) => {
            memory.frames.uncharge(account, LEAST_BESIDE_RAM);
            None
        }
        Err(error) => Some(no_memory(machine, &memory, error, LEAST_BESIDE_RAM)),
    }
}

/// Fills `into` from byte `at` of a payload; `None`: it is not there.
fn read_payload(machine: &Machine, source: Source, payload: &PayloadRef, at: u64, into: &mut [u8]) -> Option<()> {
    let here = usize::try_from(payload.size.checked_sub(at)?).ok()?.min(into.len());
    let into = into.get_mut(..here)?;
    match source {
        Source::Boot => {
            let from = usize::try_from(payload.offset.checked_add(at)?).ok()?;
            into.copy_from_slice(machine.bundle.get(from..from.checked_add(here)?)?);
        }
        Source::Object(region) => machine.uploads.lock().read(region, at, into),
    }
    Some(())
}

fn assemble(
    machine: &'static Machine,
    request: &Request<'_>,
    layout: GuestLayout,
    first: u32,
    account: memory::AccountId,
    extents: &[Dirty],
) -> Result<Box<Guest>, Refusal> {
    let (spec, number) = (request.spec.clone(), request.number);
    put_together(machine, spec, number, (request.kernel, request.initrd), layout, first, account, extents)
        .map_err(Refusal::Unsupported)
}

/// The VM's interrupt controller. (Never inlined: what is built here by value would stand in its caller's frame, and pCPUs have small
/// stacks.)
#[inline(never)]
fn interrupt_controller(
    machine: &Machine,
    number: VmNumber,
    mpidrs: &[u64],
    waker: Arc<KernelWaker>,
) -> Result<Arc<VgicPort>, String> {
    let vcpus = mpidrs.len();
    let (list_registers, priority_bits) = gic::virtual_interface();
    let mut vgic = Vgic::new(&Config {
        vcpus,
        spis: SPIS,
        list_registers,
        priority_bits,
        affinities: mpidrs.iter().map(|m| platform::gicv3::affinity_of(*m)).collect(),
        face: gic::face(),
    })
    .map_err(|e| format!("no interrupt controller: {e:?}"))?;
    vgic.link_timer(machine.ppis.virtual_timer);
    Ok(Arc::new(VgicPort::new(number.0, vgic, vcpus, waker)))
}

#[inline(never)]
#[allow(clippy::too_many_arguments, reason = "each is another part of the VM")]
fn put_together(
    machine: &'static Machine,
    spec: VmSpec,
    number: VmNumber,
    (kernel, initrd): (Source, Source),
    layout: GuestLayout,
    first: u32,
    account: memory::AccountId,
    extents: &[Dirty],
) -> Result<Box<Guest>, String> {
    let ram = GuestRam::new(map::RAM_BASE, extents.iter().map(Dirty::span)).ok_or("its memory has no place")?;
    let mpidrs: Vec<u64> = (0..spec.vcpus).map(map::vcpu_mpidr).collect();
    let waker = Arc::new(KernelWaker { first });
    let port = interrupt_controller(machine, number, &mpidrs, waker.clone())?;
    let entropy = machine.entropy.lock().as_mut().map(|drbg| drbg.child());
    let mut env = machine.env;
    env.trng = entropy.is_some();
    let memory: Arc<dyn GuestMemory> = Arc::new(GuestRamAccess(ram.clone()));
    env.stolen_time = Some(map::PV_TIME_BASE);
    let window = |base: Ipa, size: u64| Span::new(base, size).ok_or("a window of the map wraps");
    let gicd = window(map::GICD_BASE, map::GICD_SIZE)?;
    let controller = match gic::face() {
        Face::V3 => Controller::V3 { gicd, gicr: window(map::GICR_BASE, map::GICR_STRIDE * u64::from(spec.vcpus))? },
        Face::V2 => Controller::V2 { gicd, gicc: window(map::GICC_BASE, map::GICC_SIZE)? },
    };
    let mut vm = Vm::new(Parts {
        id: number.0,
        name: spec.name.clone(),
        ram: ram.span(),
        memory: memory.clone(),
        vgic: port.clone(),
        controller,
        psci: Psci::new(&mpidrs).map_err(|e| format!("no power controller: {e:?}"))?,
        cpu: CpuModel::new(&machine.ids, machine.geometry.ipa_bits() as u8, gic::is_v3()),
        breakpoints: usize::from(machine.features.breakpoints),
        watchpoints: usize::from(machine.features.watchpoints),
        env,
        entropy,
        waker,
        fwb: machine.features.fwb,
        patient: !machine.features.twed,
    });
    let mut pages = TablePages { memory: &machine.memory, account };
    let space = GuestSpace::new(machine.geometry, &mut pages, machine.errata)
        .map_err(|_| "no memory for its translation tables".to_string())?;
    if let Some(page) = gic::guest_page()
        && let Err(error) = space.map_interrupt_interface(map::GICC_BASE, page, &mut pages)
    {
        space.destroy(&mut pages);
        return Err(format!("its CPU interface cannot be mapped: {error:?}"));
    }
    // Its place at the console outlives it, so that its last words can be read.
    let source = machine
        .vms
        .lock()
        .get_mut(usize::from(number.0))
        .map(|place| *place.source.get_or_insert_with(|| console::add_source(&spec.name)));
    let source = source.ok_or("there is no place for it")?;
    let uart =
        Arc::new(SpinLock::new(Rank::Device, Pl011::new(SpiLine::new(port.clone(), map::PL011_INTID), VmSink(source))));
    let rtc: Arc<SpinLock<dyn MmioDevice>> =
        Arc::new(SpinLock::new(Rank::Device, Pl031::new(SpiLine::new(port.clone(), map::PL031_INTID), Uptime)));
    let power = PowerKeys::new(spec.power_key, &port, &memory);
    let devices: [(Ipa, u64, DeviceHandle); 2] =
        [(map::PL011_BASE, map::PL011_SIZE, uart.clone()), (map::PL031_BASE, map::PL031_SIZE, rtc)];
    for (base, size, device) in devices.into_iter().chain(power.devices()) {
        vm.attach(window(base, size)?, device).map_err(|e| format!("a device has no place: {e:?}"))?;
    }
    let allowed = placing::allowed(spec.cpu.affinity.as_deref());
    let class = placing::class_of(spec.cpu.class).unwrap_or_default();
    let stolen = StolenTime::new(machine, account, spec.vcpus, &space).inspect_err(|_| space.destroy(&mut pages))?;
    Ok(Box::new(Guest {
        vm,
        space,
        ram,
        stolen,
        traces: crate::observe::traces(machine, spec.vcpus),
        reporting: AtomicBool::new(false),
        spec,
        number,
        kernel,
        initrd,
        records: 0,
        layout,
        first,
        source,
        uart,
        power,
        account,
        counter_offset: AtomicU64::new(0),
        last_ran: machine.pcpus.iter().map(|_| AtomicU32::new(0)).collect(),
        stopping: AtomicU32::new(0),
        reason: SpinLock::new(Rank::Vm, None),
        resets: AtomicU32::new(0),
        handed: SpinLock::new(Rank::Vm, None),
        ready: SpinLock::new(Rank::Vm, None),
        paused_at: AtomicU64::new(0),
        cancelled: AtomicBool::new(false),
        allowed: SpinLock::new(Rank::Vm, allowed),
        class: SpinLock::new(Rank::Vm, class),
    }))
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
    let source = match payload {
        Payload::Kernel => guest.kernel,
        Payload::Initrd => guest.initrd,
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
        Payload::Initrd => Stage::Tree(memory),
    })
}

fn finish(guest: &Guest, machine: &'static Machine, mut memory: Filling) -> Result<(), String> {
    // Interrupt controller, devices and power states first: a reset leaves nothing of before.
    guest.vm.reset();
    let mut draw = |seed: &mut [u8]| guest.vm.draw(seed);
    let tree =
        guest_tree::generate(&guest.spec, &guest.layout, gic::of_guests(), &mut draw).map_err(|e| e.to_string())?;
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
    crate::report::life(machine, guest, trace::Life::Starts);
    machine.launch(guest, handed)
}

/// Makes a group, or changes one.
pub fn group(machine: &Machine, index: usize, group: &Group) -> Result<(), Refusal> {
    let id = GroupId(index as u16);
    let weight = Weight::new(group.weight).unwrap_or_default();
    let bytes = group.memory_max.unwrap_or(u64::MAX);
    let account = machine.groups.lock().get(index).copied();
    match account {
        Some(account) => {
            let _ = machine.memory.lock().frames.set_limit(account, bytes);
            let _ = machine.shares.set_group_weight(id, weight);
        }
        None => {
            let mut memory = machine.memory.lock();
            let account = memory.frames.open_account(bytes).map_err(|e| no_memory(machine, &memory, e, 0))?;
            drop(memory);
            machine.groups.lock().push(account);
            let _ = machine.shares.add_group(id, weight);
        }
    }
    let _ = machine.shares.set_group_max(id, placing::limit(group.cpu_max), crate::time::now_ns());
    // Its VMs' vCPUs follow when they are picked next.
    (0..machine.pcpus.len()).for_each(|number| machine.preempt(number));
    Ok(())
}

/// Forgets every deadline of a vCPU that has stopped.
pub fn cancel_timers(machine: &Machine, id: EntityId) {
    for pcpu in &machine.pcpus {
        let mut sched = pcpu.sched.lock();
        for kind in [Kind::Virtual, Kind::Physical] {
            sched.timers.cancel(TimerId { id, kind });
        }
    }
}

/// Takes a VM apart: its vCPUs have stopped, no pCPU holds anything of it. Its place at the console stays.
pub fn dismantle(machine: &Machine, guest: &Arc<Guest>) {
    let last = guest.usage(machine);
    // From here on no device reaches its memory, whoever still knows the VM.
    guest.vm.quiesce();
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
    let _ = machine.shares.remove_vm(placing::share_of(guest));
    guest.space.flush();
    guest.space.destroy(&mut TablePages { memory: &machine.memory, account: guest.account });
    let mut memory = machine.memory.lock();
    for (_, extent) in guest.ram.extents() {
        memory.take_back(guest.account, *extent);
    }
    memory.take_back_pages(guest.account, guest.stolen.memory());
    memory.frames.uncharge(guest.account, guest.records);
    let _ = memory.frames.close_account(guest.account);
    drop(memory);
    machine.entities.lock().give(guest.first, guest.spec.vcpus);
    if machine.look_back {
        el2::ram::read(guest.ram.extents().first().map_or(Pa::new(0), |(_, extent)| extent.start()), &mut [0]);
        say!("the RAM of a VM that has ended is mapped");
    }
    if let Some(place) = machine.vms.lock().get_mut(usize::from(guest.number.0)) {
        place.guest = None;
        place.last = last;
    }
}

const _: () = assert!(SET_STEP < BLOCK_SIZE && ZERO_STEP < BLOCK_SIZE && COPY_STEP as u64 <= ZERO_STEP);
