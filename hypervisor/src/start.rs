//! From the firmware's hand-over to the first VM, on the first pCPU.

use crate::console::{self, say};
use crate::fatal::{self, fatal};
use crate::layout::{ask_mailbox, device, frames, own_port, plan};
use crate::machine::{Machine, Memory, Pcpu, Place, publish};
use crate::manage::{Machinery, Management, Untold};
use crate::onboard::{self, Line, Onboard};
use crate::run::Cpu;
use crate::slots::{Entities, ROOM, Slots};
use crate::switches::Switches;
use crate::uploads::Uploads;
use crate::{gic, host_disks, line, monitor, passthrough, smp, time, uplink};
use addr::{PAGE_SIZE, Pa, Span};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use boot::BootInfo;
use boot::stage1::{Stage1, page_from_heap};
use config::board::{self, Board, Gic, UartKind};
use config::bundle::Bundle;
use config::seed::Seed;
use config::spec::{GroupSpec, Machine as Offer, SpecError, SwitchSpec, VmSpec, admit, faults};
use control::{Control, MAX_GROUPS, MAX_VMS};
use core::sync::atomic::{AtomicBool, AtomicU32};
use el2::PcpuAnchor;
use guest_smccc::entropy::Drbg;
use guest_smccc::{Env, Workaround, ids};
use memory::{Frames, Plan, Space};
use platform::bcm2835_pm::Power;
use platform::firmware::{Conduit, Firmware};
use platform::gic::GicError;
use platform::mmio::NoAnswer;
use platform::uart::Uart;
use platform::{gicv2, gicv3};
use sched::Shares;
use stage2::{Geometry, HostLimits, Vmids};
use sync::{Rank, SpinLock};
use vgic::Routes;
use zeroize::Zeroizing;

/// A second pair of eyes on an error of the firmware's making, in one place.
pub fn refuse(what: &str, why: impl core::fmt::Display) -> ! {
    fatal(format_args!("{what}: {why}"))
}

/// The first pCPU's way to [`Cpu::run`].
pub fn first(info: BootInfo, map: Stage1) -> ! {
    bring_up(info, map).run()
}

/// Everything before. (Not inlined, and its result from the heap: the pCPU stays on the stack that this is done on.)
#[inline(never)]
fn bring_up(info: BootInfo, mut map: Stage1) -> Box<Cpu> {
    time::init();
    let anchored = Box::leak(Box::new(PcpuAnchor::new(0))).catch_faults();
    let (uart, psci) = boot::with_tree(info.fdt, board::last_resort).unwrap_or_default();
    // Entered at EL3, Merus found no firmware, whatever the tree says: it has its own.
    let psci = if info.from_el3 { Some(monitor::PSCI) } else { psci };
    use_psci(psci);
    attach(uart, &mut map);
    let mut board = board(&info);
    let mut plan = plan(&info, &board, uart);
    if let Some(span) = board.power {
        fatal::set_power(Power::new(device(&mut plan, &mut map, "the power management", span)));
    }
    if let Some(why) = boot::mode_refusal(info.fdt) {
        refuse("the board's bootargs", why);
    }
    let firmware = match psci.map(|p| p.conduit) {
        Some(board::Conduit::Smc) => Some(Firmware::new(Conduit::Smc)),
        Some(board::Conduit::Hvc) => {
            fatal(format_args!("the board's tree says that PSCI is called by HVC: another hypervisor owns EL2 here"))
        }
        None => None,
    };
    if info.from_el3 {
        monitor::configure(&mut board);
    }
    say!("Merus {} on {}", env!("CARGO_PKG_VERSION"), board.model);
    if let Some(syndrome) = anchored.leftover() {
        say!("a system error from before Merus was pending, syndrome {syndrome:#x}: it is left behind");
    }
    if let Some(registers) = board.mailbox {
        ask_mailbox(registers, &mut plan, &mut map);
    }
    gic::publish(interrupt_controller(&board, &mut plan, &mut map));
    let bundle = bundle(&board, &mut map);
    let mut own = el2::Pcpu::start(anchored, gic::is_v3());
    let own_gic = smp::interrupt_controller(&board.ppis);
    gic::try_links(board.ppis.hyp_timer);
    control_line(&info, &mut board, bundle, &mut plan);
    let (space, frames) = frames(&info, plan);
    let common = smp::bring_up(&board, firmware, &own, &mut map);
    let env = workarounds(firmware);
    if common.features.mops {
        el2::ram::copy_by_mops();
    }
    let history = own.settle(&common.features, common.errata, common.ids.midr, smp::firmware_wants(firmware));
    say!(
        "{} pCPUs, {} MiB for VMs, {}-bit physical addresses, {}-bit VMIDs, workarounds: {}, branch history: {history}, E2H = {}",
        common.mpidrs.len(),
        frames.free_bytes() >> 20,
        common.features.pa_bits(),
        if common.features.vmid16 { 16 } else { 8 },
        common.errata.names(),
        u8::from(el2::door::e2h())
    );
    die_if_told(&board, &mut map);
    let (specs, groups, switches) = specs(bundle, common.mpidrs.len(), frames.free_bytes());
    attach_line(&mut board.control, &mut map);
    let machine = assemble(&info, &mut board, env, common, (space, frames), map, (bundle, &switches), firmware);
    for intid in [machine.uart_intid, machine.line_intid].into_iter().flatten() {
        gic::enable_spi(intid);
    }
    onboard::publish(own_devices(machine, &board.bootargs, &specs, &switches));
    smp::release();
    let mut cpu = Box::new(Cpu::new(machine, &machine.pcpus[0], own, own_gic));
    begin(&mut cpu, specs, groups);
    cpu
}

/// The board, from its tree. What seeds the tree holds are wiped there: they are for one use.
fn board(info: &BootInfo) -> Board {
    let Some(board) = boot::with_tree(info.fdt, board::parse) else {
        fatal(format_args!(
            "no device tree at {:#x} (x0 at entry); start the image with one, as Linux' boot protocol says",
            info.fdt.as_u64()
        ));
    };
    if let Some(seed) = board.as_ref().ok().and_then(|board| board.rng_seed_at.clone()) {
        boot::wipe_in_tree(info.fdt, seed.start, seed.len());
    }
    match board {
        Ok(board) => board,
        Err(error) => refuse("the board's device tree", error),
    }
}

/// Takes a serial port over, in the driver's words if it is not there.
fn take_over(uart: &board::Uart, map: &mut Stage1) -> Result<Uart, NoAnswer> {
    let mut device = |span: Span<Pa>| match map.device(span, &mut page_from_heap) {
        Ok(registers) => registers,
        Err(error) => refuse("the UART", format_args!("{span}: {error:?}")),
    };
    match uart.kind {
        UartKind::Pl011 => Uart::pl011(device(uart.base)),
        UartKind::Mini { aux } => {
            let aux = aux.map(&mut device);
            Uart::mini(device(uart.base), aux)
        }
    }
}

fn attach(uart: Option<board::Uart>, map: &mut Stage1) {
    if let Some(uart) = uart {
        match take_over(&uart, map) {
            Ok(uart) => console::attach(uart),
            Err(error) => refuse("the UART", error),
        }
    }
}

/// Takes the second UART for the control line, if the board has one; one that does not answer is none.
fn attach_line(uart: &mut Option<board::Uart>, map: &mut Stage1) {
    match uart.as_ref().map(|uart| take_over(uart, map)) {
        Some(Ok(taken)) => line::attach(taken),
        Some(Err(error)) => {
            say!("no control line: {error}");
            *uart = None;
        }
        None => {}
    }
}

fn interrupt_controller(board: &Board, plan: &mut Plan, map: &mut Stage1) -> gic::Board {
    let mut device = |span: Span<Pa>| device(plan, map, "the interrupt controller", span);
    let made = |part: &str, error: GicError| -> ! { refuse(part, error) };
    match &board.gic {
        Gic::V3 { dist, redist, .. } => {
            let redistributors = redist.iter().map(|span| (device(*span), span.size())).collect();
            let distributor = gicv3::Distributor::new(device(*dist)).unwrap_or_else(|e| made("the distributor", e));
            gic::Board::V3 { distributor, redistributors }
        }
        Gic::V2 { dist, cpu, hyp, vcpu, .. } => {
            let control = gicv2::VirtualControl::new(device(*hyp)).unwrap_or_else(|e| made("GICH", e));
            let guest = gicv2::VirtualInterface::new(device(*vcpu)).unwrap_or_else(|e| made("GICV", e));
            let cpu = gicv2::CpuInterface::new(device(*cpu)).unwrap_or_else(|e| made("the CPU interface", e));
            let distributor = gicv2::Distributor::new(device(*dist)).unwrap_or_else(|e| made("the distributor", e));
            // One page of it is what a guest gets, so that has to be a page, and nothing else's.
            let page = Span::new(vcpu.start(), PAGE_SIZE)
                .filter(|page| vcpu.size() >= PAGE_SIZE && page.start().as_u64() % PAGE_SIZE == 0);
            match page {
                Some(page) => gic::Board::V2 { distributor, cpu, control, guest, page },
                None => refuse("the virtual CPU interface", format_args!("{vcpu} is no page")),
            }
        }
    }
}

fn bundle(board: &Board, map: &mut Stage1) -> &'static [u8] {
    let Some(span) = board.initrd else {
        fatal(format_args!(
            "no bundle: the board's tree names no initrd; make one with `merus pack merus.toml -o bundle.merus` and pass it as \
             the initrd"
        ));
    };
    match map.firmware_bytes(span, &mut page_from_heap) {
        Ok(bytes) => bytes,
        Err(error) => refuse("the initrd cannot be mapped", format_args!("{error:?}")),
    }
}

/// Keeps the control line's serial port for Merus, unless a VM of the bundle is to have it.
fn control_line(info: &BootInfo, board: &mut Board, bundle: &[u8], plan: &mut Plan) {
    if let Some(uart) = board.control.take_if(|uart| is_a_vms(info, bundle, uart)) {
        say!("there is no control line: a VM asks for its serial port at {}", uart.base);
    }
    if let Some(uart) = board.control {
        // Mapped later, but nobody else's from here on.
        own_port(plan, &uart);
    }
}

/// Whether a VM of the bundle is to have this serial port. (What is wrong with the bundle is said later.)
fn is_a_vms(info: &BootInfo, bundle: &[u8], uart: &board::Uart) -> bool {
    let specs = Bundle::parse(bundle).ok().and_then(|bundle| bundle.vms_unchecked().ok()).unwrap_or_default();
    passthrough::is_asked_for(info.fdt, &specs, uart.base)
}

/// The VMs, groups and switches that the bundle asks for, checked.
fn specs(bundle: &[u8], cpus: usize, free: u64) -> (Vec<VmSpec>, Vec<GroupSpec>, Vec<SwitchSpec>) {
    let parsed = match Bundle::parse(bundle) {
        Ok(parsed) => parsed,
        Err(error) => refuse("the bundle is refused", error),
    };
    let read =
        || Ok::<_, SpecError>((parsed.vms_unchecked()?, parsed.groups_unchecked()?, parsed.switches_unchecked()?));
    let (specs, groups, switches) = match read() {
        Ok(found) => found,
        Err(error) => refuse("the bundle is refused", error),
    };
    let mut found = faults(&specs, &groups, &switches);
    found.extend(parsed.image_faults(&specs));
    if let Some((last, others)) = found.split_last() {
        others.iter().for_each(|fault| say!("the bundle is refused: {fault}"));
        refuse("the bundle is refused", last);
    }
    if let Err(error) = admit(&specs, Offer { cpus: cpus as u32, free_memory: free, gic: gic::of_guests() }) {
        refuse("the bundle is refused", error);
    }
    (specs, groups, switches)
}

#[allow(clippy::too_many_arguments, reason = "each is another part of the machine")]
fn assemble(
    info: &BootInfo,
    board: &mut Board,
    env: Env,
    common: smp::Common,
    (space, frames): (Space, Frames),
    map: Stage1,
    (bundle, switches): (&'static [u8], &[SwitchSpec]),
    firmware: Option<Firmware>,
) -> &'static Machine {
    let limits = HostLimits::from_id_registers(common.ids.get(7, 0), common.ids.get(7, 1), common.ids.get(7, 2));
    let geometry = match Geometry::new(40, limits) {
        Ok(geometry) => geometry,
        Err(error) => refuse("stage 2", format_args!("{error:?}")),
    };
    let (vmids, allocator) = match Vmids::new(limits.vmid_bits, common.mpidrs.len()) {
        Ok(made) => made,
        Err(error) => refuse("VMIDs", format_args!("{error:?}")),
    };
    let words = |w: &str| board.bootargs.split_whitespace().any(|arg| arg == w);
    let shares = Arc::new(Shares::new(common.mpidrs.len(), MAX_VMS as u16, MAX_GROUPS as u16));
    let payloads = Bundle::parse(bundle).map(|bundle| bundle.payloads().to_vec()).unwrap_or_default();
    let control = Control::new(payloads, switches.to_vec(), common.mpidrs.len() as u32);
    let uart_intid = board.uart.and_then(|uart| uart.intid);
    let line_intid = board.control.and_then(|uart| uart.intid);
    let routes = Routes::new(gic::shared().intids(), [uart_intid, line_intid].into_iter().flatten());
    let mut entropy = entropy(board.rng_seed.take().unwrap_or_default(), firmware);
    // Without entropy guests can guess which addresses share a place in a switch's table, and keep others from being learned.
    let switches = Switches::new(switches, || entropy.as_mut().map_or_else(el2::timer::now, Drbg::next_u64));
    let machine = publish(Machine {
        pcpus: common
            .mpidrs
            .iter()
            .zip(&common.kicks)
            .enumerate()
            .map(|(n, (mpidr, kick))| Pcpu::new(*mpidr, *kick, &shares, n))
            .collect(),
        shares,
        slots: Slots::new(),
        room: AtomicU32::new(ROOM),
        memory: SpinLock::new(Rank::Frames, Memory { frames, map }),
        space: SpinLock::new(Rank::Frames, space),
        routes: SpinLock::new(Rank::Backend, routes),
        features: common.features,
        errata: common.errata,
        ids: common.ids,
        geometry,
        vmids,
        vmid_allocator: SpinLock::new(Rank::Stage2, allocator),
        entropy: SpinLock::new(Rank::Vm, entropy),
        env,
        firmware,
        bundle,
        ppis: board.ppis,
        kicker: gic::Kicker::new(),
        line_intid,
        fdt: info.fdt,
        board: core::mem::take(&mut board.model),
        uart_intid,
        vms: SpinLock::new(Rank::Vm, (0..MAX_VMS).map(|_| Place::default()).collect()),
        entities: SpinLock::new(Rank::Vm, Entities::new()),
        uploads: SpinLock::new(Rank::Backend, Uploads::default()),
        groups: SpinLock::new(Rank::Vm, Vec::new()),
        checked_images: SpinLock::new(Rank::Vm, Vec::new()),
        switches,
        untold: Untold::new(),
        management: SpinLock::new(Rank::Control, Management::new(control)),
        alive: AtomicU32::new(0),
        wanting: AtomicU32::new(0),
        traced: AtomicBool::new(false),
        stay: words("merus.idle=stay"),
        look_back: words("merus.die=ended"),
    });
    machine.set_tracing(words("merus.trace=on"));
    machine
}

/// The machine's generator, from whatever it has: the tree's seed, the CPU's generator, the firmware's (Arm DEN 0098). What it
/// was made of is wiped behind it.
fn entropy(mut seed: Seed, firmware: Option<Firmware>) -> Option<Drbg> {
    const TRNG_VERSION: u32 = 0x8400_0050;
    const TRNG_RND: u32 = 0xc400_0053;
    let mut add = |word: u64| seed.append(Zeroizing::new(word.to_le_bytes()).as_slice());
    if let Some(firmware) = firmware.filter(|f| f.call(TRNG_VERSION, [0; 3])[0] as i32 >= 0x1_0000) {
        let answer = Zeroizing::new(firmware.call(TRNG_RND, [192, 0, 0]));
        if let [0, words @ ..] = answer.as_slice() {
            words.iter().for_each(|word| add(*word));
        }
    }
    (0..8).filter_map(|_| el2::features::random()).for_each(add);
    Drbg::from_seed(seed.as_bytes())
}

/// What the firmware says about one of the architecture's workarounds (SMCCC, "SMCCC_ARCH_FEATURES").
pub fn ask_firmware(firmware: Option<Firmware>, function: u32) -> Workaround {
    const VERSION: u32 = 0x8000_0000;
    const FEATURES: u32 = 0x8000_0001;
    const PSCI_FEATURES: u32 = 0x8400_000a;
    let Some(firmware) = firmware else { return Workaround::Unknown };
    // SMCCC 1.1 is there only if PSCI 1.0 says that SMCCC_VERSION is.
    let known = firmware.psci_version() >= 1 << 16
        && firmware.call(PSCI_FEATURES, [u64::from(VERSION), 0, 0])[0] as i32 >= 0
        && firmware.call(VERSION, [0; 3])[0] as i32 >= 0x1_0001;
    match known.then(|| firmware.call(FEATURES, [u64::from(function), 0, 0])[0] as i32) {
        Some(0) => Workaround::FirmwareHas,
        Some(1) => Workaround::NotNeeded,
        _ => Workaround::Unknown,
    }
}

/// What guests may rely on.
fn workarounds(firmware: Option<Firmware>) -> Env {
    Env {
        workaround_1: ask_firmware(firmware, ids::ARCH_WORKAROUND_1),
        // What the second one sets belongs to the physical CPU and is not switched: never forwarded.
        workaround_2: match ask_firmware(firmware, ids::ARCH_WORKAROUND_2) {
            Workaround::NotNeeded => Workaround::NotNeeded,
            Workaround::FirmwareHas | Workaround::Unknown => Workaround::Unknown,
        },
        workaround_3: ask_firmware(firmware, ids::ARCH_WORKAROUND_3),
        trng: false,
        stolen_time: None,
    }
}

/// Starts the devices of the board that are asked for; their interrupts.
fn own_devices(machine: &'static Machine, bootargs: &str, specs: &[VmSpec], switches: &[SwitchSpec]) -> Vec<Line> {
    let disks = host_disks::are_wanted(specs, bootargs);
    if !disks && !switches.iter().any(|switch| switch.uplink) {
        return Vec::new();
    }
    let mut board = Onboard::look(machine, specs);
    let mut lines = if disks { host_disks::start(machine, &mut board, specs) } else { Vec::new() };
    lines.extend(uplink::start(machine, &mut board, switches));
    lines
}

/// Makes the groups, and begins every VM's construction on this pCPU.
fn begin(cpu: &mut Cpu, specs: Vec<VmSpec>, groups: Vec<GroupSpec>) {
    let machine = cpu.machine;
    let count = specs.len();
    let mut refused = 0;
    let mut management = machine.management.lock();
    for group in groups {
        let name = group.name.clone();
        if let Err(why) = management.control.boot_group(&mut Machinery { cpu }, group) {
            say!("refused: group \"{name}\": {why}");
        }
    }
    for spec in specs {
        let name = spec.name.clone();
        if let Err(why) = management.control.boot(&mut Machinery { cpu }, spec) {
            say!("refused: vm \"{name}\": {why}");
            refused += 1;
        }
    }
    drop(management);
    if refused == count && !machine.stay {
        fatal(format_args!("no VM could be started"));
    }
}

/// There is no hypervisor mode: says so on the UART that the tree names, and stops.
pub fn entered_at_el1(info: BootInfo, mut map: Stage1) -> ! {
    time::init();
    let (uart, psci) = boot::with_tree(info.fdt, board::last_resort).unwrap_or_default();
    use_psci(psci);
    attach(uart, &mut map);
    fatal(format_args!(
        "started at EL1, and a hypervisor needs EL2; on QEMU add virtualization=on to -M virt, on a board start Merus from the \
         firmware at EL2"
    ))
}

fn use_psci(psci: Option<board::Psci>) {
    if let Some(psci) = psci {
        fatal::set_firmware(match psci.conduit {
            board::Conduit::Smc => Conduit::Smc,
            board::Conduit::Hvc => Conduit::Hvc,
        });
    }
}

/// `merus.die=panic`, `=fault`, `=stack` or `=probe` in the board's bootargs (`=fp` in the build `debug-fp`): how Merus ends is tested
/// by ending it. (`=ended`: by a look at the RAM of a VM that has ended, in `construct::dismantle`.)
fn die_if_told(board: &Board, map: &mut Stage1) {
    match board.bootargs.split_whitespace().find_map(|arg| arg.strip_prefix("merus.die=")) {
        Some("panic") => panic!("told to by merus.die"),
        Some("fault") => el2::selftest::fault(),
        Some("stack") => {
            el2::selftest::overflow(0);
        }
        #[cfg(feature = "debug-fp")]
        Some("fp") => el2::selftest::fp(),
        Some("probe") => probe_nothing(board, map),
        _ => {}
    }
}

/// Looks for a device where the board has none: behind its RAM. The first probe's answer is printed, and the second one's is fatal.
fn probe_nothing(board: &Board, map: &mut Stage1) {
    let end = board.ram.iter().map(|span| span.end().as_u64()).max().unwrap_or(0);
    let page = Span::new(Pa::new(end), PAGE_SIZE).and_then(|span| span.align_outwards(PAGE_SIZE));
    let Some(Ok(registers)) = page.map(|page| map.device(page, &mut page_from_heap)) else {
        fatal(format_args!("there is no room behind RAM"));
    };
    match registers.probe32(0) {
        Ok(value) => say!("{:#x} reads {value:#x}", registers.base().as_u64()),
        Err(error) => say!("{error}"),
    }
    if let Err(error) = gicv3::Distributor::new(registers) {
        refuse("told to by merus.die", error);
    }
}
