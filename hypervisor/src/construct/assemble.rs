//! A VM's parts, put together: interrupt controller, devices, address space, power controller; all but its memory's contents.

use super::Request;
use crate::console::{self, VmSink};
use crate::gic;
use crate::guest::{Guest, GuestRamAccess, GuestUart, KernelWaker, Uptime};
use crate::io::Io;
use crate::machine::{Machine, TablePages};
use crate::passthrough::Given;
use crate::placing;
use crate::power::PowerKeys;
use crate::stolen::StolenTime;
use ::console::SourceId;
use addr::{Ipa, Span};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use bus::{GuestMemory, MmioDevice};
use config::cpu_model::CpuModel;
use config::image::GuestLayout;
use config::map;
use control::VmNumber;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use devices::pl011::Pl011;
use devices::pl031::Pl031;
use el2::space::GuestSpace;
use guest_smccc::psci::Psci;
use memory::{AccountId, Dirty, GuestRam};
use sync::{Rank, SpinLock};
use vgic::{Config, Face, Vgic};
use vm::{Controller, DeviceHandle, Parts, SpiLine, VgicPort, Vm};

/// SPIs that a guest has.
const SPIS: usize = map::SPIS as usize;

/// A window of the guest's map.
fn window(base: Ipa, size: u64) -> Result<Span<Ipa>, String> {
    Span::new(base, size).ok_or_else(|| "a window of the map wraps".to_string())
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

/// What the guest takes for a machine, without its devices. (Not inlined, and from the heap, for the same reason.)
#[inline(never)]
fn empty_machine(
    machine: &Machine,
    request: &Request<'_>,
    ram: Span<Ipa>,
    memory: &Arc<dyn GuestMemory>,
    first: u32,
) -> Result<(Box<Vm>, Arc<VgicPort>), String> {
    let (spec, number) = (request.spec, request.number);
    let mpidrs: Vec<u64> = (0..spec.vcpus).map(map::vcpu_mpidr).collect();
    let waker = Arc::new(KernelWaker { first });
    let port = interrupt_controller(machine, number, &mpidrs, waker.clone())?;
    let entropy = machine.entropy.lock().as_mut().map(|drbg| drbg.child());
    let mut env = machine.env;
    env.trng = entropy.is_some();
    env.stolen_time = Some(map::PV_TIME_BASE);
    let gicd = window(map::GICD_BASE, map::GICD_SIZE)?;
    let controller = match gic::face() {
        Face::V3 => Controller::V3 { gicd, gicr: window(map::GICR_BASE, map::GICR_STRIDE * u64::from(spec.vcpus))? },
        Face::V2 => Controller::V2 { gicd, gicc: window(map::GICC_BASE, map::GICC_SIZE)? },
    };
    let vm = Box::new(Vm::new(Parts {
        id: number.0,
        name: spec.name.clone(),
        ram,
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
    }));
    Ok((vm, port))
}

/// Stage 2, with the page of the machine's own that a guest may have where the interrupt controller is a GICv2.
fn address_space(machine: &Machine, pages: &mut TablePages<'_>) -> Result<GuestSpace, String> {
    let space = GuestSpace::new(machine.geometry, pages, machine.errata)
        .map_err(|_| "no memory for its translation tables".to_string())?;
    if let Some(page) = gic::guest_page()
        && let Err(error) = space.map_interrupt_interface(map::GICC_BASE, page, pages)
    {
        space.destroy(pages);
        return Err(format!("its CPU interface cannot be mapped: {error:?}"));
    }
    Ok(space)
}

/// What Merus itself has to do with of a VM's devices.
struct Devices {
    source: SourceId,
    uart: Arc<SpinLock<GuestUart>>,
    power: PowerKeys,
    io: Io,
}

/// Makes the VM's devices, each with its interrupt line, and puts them on its bus.
fn devices(
    machine: &Machine,
    request: &Request<'_>,
    vm: &mut Vm,
    port: &Arc<VgicPort>,
    memory: &Arc<dyn GuestMemory>,
) -> Result<Devices, String> {
    let spec = request.spec;
    // Its place at the console outlives it, so that its last words can be read.
    let source = machine
        .vms
        .lock()
        .get_mut(usize::from(request.number.0))
        .map(|place| *place.source.get_or_insert_with(|| console::add_source(&spec.name)));
    let source = source.ok_or("there is no place for it")?;
    let uart =
        Arc::new(SpinLock::new(Rank::Device, Pl011::new(SpiLine::new(port.clone(), map::PL011_INTID), VmSink(source))));
    let rtc: Arc<SpinLock<dyn MmioDevice>> =
        Arc::new(SpinLock::new(Rank::Device, Pl031::new(SpiLine::new(port.clone(), map::PL031_INTID), Uptime)));
    let power = PowerKeys::new(spec.power_key, port, memory);
    let io = Io::new(machine, (spec, &request.payloads.disks), port, memory)?;
    let devices: [(Ipa, u64, DeviceHandle); 2] =
        [(map::PL011_BASE, map::PL011_SIZE, uart.clone()), (map::PL031_BASE, map::PL031_SIZE, rtc)];
    for (base, size, device) in devices.into_iter().chain(power.devices()).chain(io.windows()) {
        vm.attach(window(base, size)?, device).map_err(|e| format!("a device has no place: {e:?}"))?;
    }
    Ok(Devices { source, uart, power, io })
}

/// What a VM is put together from.
struct Made {
    vm: Box<Vm>,
    ram: GuestRam,
    space: GuestSpace,
    devices: Devices,
    stolen: StolenTime,
}

/// Makes a VM's parts. (Not inlined, as all the others here.)
#[inline(never)]
fn make(
    machine: &Machine,
    request: &Request<'_>,
    first: u32,
    given: &Given,
    account: AccountId,
    extents: &[Dirty],
) -> Result<Made, String> {
    let ram = GuestRam::new(map::RAM_BASE, extents.iter().map(Dirty::span)).ok_or("its memory has no place")?;
    let access = GuestRamAccess::new(&ram).ok_or("its memory is no RAM")?;
    let memory: Arc<dyn GuestMemory> = Arc::new(access);
    let (mut vm, port) = empty_machine(machine, request, ram.span(), &memory, first)?;
    let mut pages = TablePages { memory: &machine.memory, account };
    let space = address_space(machine, &mut pages)?;
    let devices = devices(machine, request, &mut vm, &port, &memory)
        .and_then(|devices| given.map(&space, &mut pages).map(|()| devices));
    // The last that can fail: it has pages of its own.
    let rest =
        devices.and_then(|devices| Ok((devices, StolenTime::new(machine, account, request.spec.vcpus, &space)?)));
    let (devices, stolen) = rest.inspect_err(|_| space.destroy(&mut pages))?;
    given.link(&port);
    Ok(Made { vm, ram, space, devices, stolen })
}

/// The VM that is asked for, over `extents`, which are `account`'s; its vCPUs are the entities from `first` on. On an error nothing is
/// left of it, and the extents are the caller's.
pub fn put_together(
    machine: &'static Machine,
    request: &Request<'_>,
    layout: GuestLayout,
    (first, given): (u32, Given),
    account: AccountId,
    extents: &[Dirty],
) -> Result<Box<Guest>, String> {
    let made = make(machine, request, first, &given, account, extents)?;
    Ok(guest(machine, request, layout, (first, given), account, made))
}

#[inline(never)]
fn guest(
    machine: &'static Machine,
    request: &Request<'_>,
    layout: GuestLayout,
    (first, given): (u32, Given),
    account: AccountId,
    made: Made,
) -> Box<Guest> {
    let spec = request.spec.clone();
    let Made { vm, ram, space, devices: Devices { source, uart, power, io }, stolen } = made;
    let allowed = placing::allowed(spec.cpu.affinity.as_deref());
    let class = placing::class_of(spec.cpu.class).unwrap_or_default();
    Box::new(Guest {
        vm: *vm,
        space,
        ram,
        stolen,
        traces: crate::observe::traces(machine, spec.vcpus),
        reporting: AtomicBool::new(false),
        spec,
        number: request.number,
        payloads: request.payloads.clone(),
        records: 0,
        layout,
        first,
        given,
        source,
        uart,
        power,
        io,
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
    })
}
