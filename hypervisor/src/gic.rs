//! The machine's interrupt controller as its pCPUs use it: a GICv3 by system registers, or a GICv2 in memory.
//!
//! Which one it is, is known when the machine starts, and the image drives both. What is done at each exit and each interrupt exists
//! twice ([`Controller`]), once for each kind: the loop that runs a vCPU is chosen when the vCPU gets the pCPU, and executes no
//! instruction for the other kind. Everything else looks once, where it begins ([`by_kind`]).

use crate::console::say;
use crate::fatal::fatal;
use crate::machine::KICK;
use crate::machine::{Pcpu, machine};
use config::spec::GuestGic;
use core::cell::Cell;
use core::sync::atomic::{AtomicBool, Ordering};
use el2::gic;
use el2::lists::HardwareLists;
use platform::gic::{GicError, PrivateInterrupts, SharedInterrupts};
use platform::gicv2::{self, CpuInterface, VirtualControl, VirtualInterface};
use platform::gicv3::{self, Redistributor, affinity_of};
use platform::mmio::Registers;
use spin::Once;
use vgic::{Face, ListRegs, PhysicalLines, TIMER_PPI, gich};

/// The most list registers that are used.
const MOST_LISTS: usize = 16;

/// What of the interrupt controller all pCPUs share.
pub enum Board {
    /// A GICv3.
    V3 {
        /// The distributor.
        distributor: gicv3::Distributor,
        /// The regions that the redistributors lie in, and their sizes.
        redistributors: alloc::vec::Vec<(Registers, u64)>,
    },
    /// A GICv2.
    V2 {
        /// The distributor.
        distributor: gicv2::Distributor,
        /// Each pCPU's interface.
        cpu: CpuInterface,
        /// Each pCPU's virtual interface.
        control: VirtualControl,
        /// The virtual interface as a guest uses it.
        guest: VirtualInterface,
        /// What guests see in place of the CPU interface: one page.
        page: addr::Span<addr::Pa>,
    },
}

/// Whether list registers are linked to physical interrupts by hardware; else [`MemoryLists`] does it.
static LINKED: AtomicBool = AtomicBool::new(true);

static BOARD: Once<Board> = Once::new();

/// Makes it known, before any other pCPU starts.
pub fn publish(board: Board) {
    BOARD.call_once(|| board);
}

/// The board's. There is none before [`publish`], and nobody who asks.
fn board() -> &'static Board {
    match BOARD.get() {
        Some(board) => board,
        None => fatal(format_args!("the interrupt controller is not known yet")),
    }
}

/// Whether the board has a GICv3.
pub fn is_v3() -> bool {
    matches!(board(), Board::V3 { .. })
}

/// What guests get.
pub fn of_guests() -> GuestGic {
    if is_v3() { GuestGic::V3 } else { GuestGic::V2 }
}

/// The same in the words of their controller.
pub fn face() -> Face {
    if is_v3() { Face::V3 } else { Face::V2 }
}

/// The page of the hardware's virtual CPU interface that a guest of a GICv2 has in place of GICC.
pub fn guest_page() -> Option<addr::Span<addr::Pa>> {
    match board() {
        Board::V3 { .. } => None,
        Board::V2 { page, .. } => Some(*page),
    }
}

/// How many list registers this pCPU has, and bits of priority.
pub fn virtual_interface() -> (usize, u32) {
    match board() {
        Board::V3 { .. } => (HardwareLists::here().counted(), HardwareLists::priority_bits()),
        Board::V2 { control, .. } => (control.list_registers().min(MOST_LISTS), control.priority_bits()),
    }
}

/// Switches a shared interrupt on, level sensitive, for this pCPU.
pub fn enable_spi(intid: u32) {
    match board() {
        Board::V3 { distributor, .. } => distributor.enable_spi(intid, false, el2::features::mpidr()),
        Board::V2 { distributor, .. } => distributor.enable_spi(intid, false, distributor.own_target()),
    }
}

/// The machine's shared interrupts.
pub fn shared() -> &'static SharedInterrupts {
    match board() {
        Board::V3 { distributor, .. } => distributor.shared(),
        Board::V2 { distributor, .. } => distributor.shared(),
    }
}

/// The same, as a VM's controller drives those that the VM was given.
#[derive(Debug)]
pub struct GivenLines;

impl PhysicalLines for GivenLines {
    fn set_enabled(&self, pintid: u32, on: bool) {
        shared().switch(pintid, on);
    }
    fn deactivate(&self, pintid: u32) {
        shared().deactivate(pintid);
    }
    fn forget(&self, pintid: u32) {
        shared().forget(pintid);
    }
}

/// Has a shared interrupt go to this pCPU from now on.
pub fn route_spi(intid: u32, to: &Pcpu) {
    match board() {
        Board::V3 { distributor, .. } => distributor.route_spi(intid, to.mpidr),
        Board::V2 { distributor, .. } => distributor.route_spi(intid, gicv2::targets_of(to.kick as u32)),
    }
}

/// What has to be written to send [`KICK`] to this pCPU ([`kick`]).
pub fn own_kick() -> u64 {
    match board() {
        Board::V3 { .. } => gicv3::sgi1r(KICK, el2::features::mpidr()),
        Board::V2 { distributor, .. } => gicv2::sgir(KICK, distributor.own_target()).into(),
    }
}

/// How SGIs are sent.
#[derive(Clone, Copy)]
pub struct Kicker(Option<gicv2::Distributor>);

impl Kicker {
    /// As this board has it.
    pub fn new() -> Self {
        match board() {
            Board::V3 { .. } => Self(None),
            Board::V2 { distributor, .. } => Self(Some(*distributor)),
        }
    }
    /// Sends the kick whose value is [`own_kick`] of the pCPU that is to have it; the stores before it are seen there.
    #[inline(always)]
    pub fn kick(&self, value: u64) {
        match &self.0 {
            None => gic::send_sgi(value),
            Some(distributor) => {
                gic::publish();
                distributor.send_sgi(value as u32);
            }
        }
    }
}

/// Finds out whether hardware's links can be used: on the first pCPU, which has nothing to do yet, with its interrupt controller in
/// use. `timer` is EL2's own timer's interrupt.
pub fn try_links(timer: u32) {
    if let Board::V2 { cpu, control, guest, .. } = board() {
        el2::timer::set_deadline(Some(0));
        let work = gicv2::links_work(cpu, control, guest, timer);
        el2::timer::set_deadline(None);
        LINKED.store(work, Ordering::Relaxed);
        if !work {
            say!(
                "an interrupt does not come again when a guest has ended the one linked to it: timers cost an exit more"
            );
        }
    }
}

/// Kicks the pCPU that runs this, once the machine is up: before, nobody has anything to look up for.
pub fn kick_self() {
    if let Some(machine) = machine() {
        machine.kick_self();
    }
}

/// The interrupt controller of one pCPU.
pub struct PcpuGic {
    v3: HardwareLists,
    v2: Option<MemoryLists>,
    private: PrivateInterrupts,
    timer: u32,
}

impl PcpuGic {
    /// This pCPU's, in use from here on, with the private interrupts of `ppis` on; the virtual timer's is `timer`. Without words:
    /// the first pCPU to fail here says so for all.
    pub fn start(ppis: u32, timer: u32) -> Result<Self, GicError> {
        match board() {
            Board::V3 { redistributors, .. } => {
                let private = redistributor(redistributors, el2::features::mpidr())?.start(ppis)?;
                let mut v3 = HardwareLists::here();
                v3.link_timer(timer);
                Ok(Self { v3, v2: None, private, timer })
            }
            Board::V2 { distributor, cpu, control, .. } => {
                control.clear();
                let private = distributor.start_private(ppis);
                cpu.start();
                let count = control.list_registers().min(MOST_LISTS);
                let v2 = MemoryLists {
                    control: *control,
                    cpu: *cpu,
                    count,
                    hcr: 0,
                    timer,
                    linked: Cell::new(0),
                    physical: [0; MOST_LISTS],
                };
                Ok(Self { v3: HardwareLists::absent(), v2: Some(v2), private, timer })
            }
        }
    }
    /// Whether it is a GICv2's.
    #[inline(always)]
    pub fn is_v2(&self) -> bool {
        self.v2.is_some()
    }
    /// Makes the virtual timer's interrupt active or inactive for hardware.
    #[inline]
    pub fn set_timer_active(&self, active: bool) {
        self.private.set_active(self.timer, active);
    }
}

fn redistributor(regions: &[(Registers, u64)], mpidr: u64) -> Result<Redistributor, GicError> {
    for (region, size) in regions {
        if let Some(redistributor) = Redistributor::find(*region, *size, mpidr)? {
            return Ok(redistributor);
        }
    }
    Err(GicError::NoRedistributor { affinity: affinity_of(mpidr) })
}

/// A kind of interrupt controller. What an acknowledge reads is given back whole; [`Controller::intid`] is the number in it.
pub trait Controller {
    /// Its list registers.
    type Lists: ListRegs;
    /// Whether it is the kind that the fast lane is compiled for.
    const QUICK: bool;
    /// The list registers of this pCPU.
    fn lists(gic: &mut PcpuGic) -> &mut Self::Lists;
    /// The most urgent pending interrupt, active from now on.
    fn acknowledge(gic: &PcpuGic) -> u32;
    /// Its number; [`gic::SPURIOUS`] or above where there is none.
    fn intid(acknowledged: u32) -> u32;
    /// Drops its priority; it stays active.
    fn drop_priority(gic: &PcpuGic, acknowledged: u32);
    /// Deactivates it.
    fn deactivate(gic: &PcpuGic, acknowledged: u32);
}

/// A GICv3: no state is needed to reach it.
pub struct V3;
/// A GICv2.
pub struct V2;

impl Controller for V3 {
    type Lists = HardwareLists;
    const QUICK: bool = true;
    #[inline(always)]
    fn lists(gic: &mut PcpuGic) -> &mut HardwareLists {
        &mut gic.v3
    }
    #[inline(always)]
    fn acknowledge(_: &PcpuGic) -> u32 {
        gic::acknowledge()
    }
    #[inline(always)]
    fn intid(acknowledged: u32) -> u32 {
        acknowledged
    }
    #[inline(always)]
    fn drop_priority(_: &PcpuGic, acknowledged: u32) {
        gic::drop_priority(acknowledged);
    }
    #[inline(always)]
    fn deactivate(_: &PcpuGic, acknowledged: u32) {
        gic::deactivate(acknowledged);
    }
}

impl V2 {
    /// Only a pCPU of a GICv2 runs what is compiled for it.
    #[inline(always)]
    fn of(gic: &PcpuGic) -> &MemoryLists {
        match &gic.v2 {
            Some(lists) => lists,
            None => fatal(format_args!("a GICv2 that is none")),
        }
    }
}

impl Controller for V2 {
    type Lists = MemoryLists;
    const QUICK: bool = false;
    #[inline(always)]
    fn lists(gic: &mut PcpuGic) -> &mut MemoryLists {
        match &mut gic.v2 {
            Some(lists) => lists,
            None => fatal(format_args!("a GICv2 that is none")),
        }
    }
    #[inline(always)]
    fn acknowledge(gic: &PcpuGic) -> u32 {
        let acknowledged = Self::of(gic).cpu.acknowledge();
        gic::settle();
        acknowledged
    }
    #[inline(always)]
    fn intid(acknowledged: u32) -> u32 {
        acknowledged & gicv2::INTID
    }
    #[inline(always)]
    fn drop_priority(gic: &PcpuGic, acknowledged: u32) {
        Self::of(gic).cpu.drop_priority(acknowledged);
    }
    #[inline(always)]
    fn deactivate(gic: &PcpuGic, acknowledged: u32) {
        Self::of(gic).cpu.deactivate(acknowledged);
    }
}

/// Calls `$what::<V3>` or `$what::<V2>`, whichever the machine has.
macro_rules! by_kind {
    ($gic:expr, $($what:ident).+ ($($arg:expr),*)) => {
        if $gic.is_v2() { $($what).+::<crate::gic::V2>($($arg),*) } else { $($what).+::<crate::gic::V3>($($arg),*) }
    };
}
pub(crate) use by_kind;

/// The list registers of a GICv2 and the rest of its virtual interface's control.
pub struct MemoryLists {
    control: VirtualControl,
    cpu: CpuInterface,
    count: usize,
    hcr: u32,
    timer: u32,
    /// List registers that are linked to a physical interrupt here, not by hardware: their end asks for maintenance.
    linked: Cell<u16>,
    /// To which, of those.
    physical: [u16; MOST_LISTS],
}

/// HW and EOI in a `GICH_LR<n>`, and all that stands with HW.
const LR_HW: u32 = 1 << 31;
const LR_EOI: u32 = 1 << 19;
const LR_PHYSICAL_SHIFT: u32 = 10;
const LR_PHYSICAL: u32 = 0x3ff << LR_PHYSICAL_SHIFT;

impl MemoryLists {
    /// Deactivates the physical interrupts where the guest has ended those that are linked to them here. Returns GICH_EISR of the
    /// others.
    fn follow_links(&self) -> u32 {
        let eisr = self.control.eisr();
        let ended = eisr & u32::from(self.linked.get());
        if ended != 0 {
            self.linked.set(self.linked.get() & !ended as u16);
            for (n, physical) in self.physical.iter().enumerate().filter(|(n, _)| ended >> n & 1 != 0) {
                self.control.set_lr(n, 0);
                self.cpu.deactivate((*physical).into());
            }
        }
        eisr & !ended
    }
}

impl ListRegs for MemoryLists {
    #[inline(always)]
    fn senders(&self) -> bool {
        true
    }
    #[inline]
    fn count(&self) -> usize {
        self.count
    }
    #[inline]
    fn read(&self, n: usize) -> u64 {
        let value = self.control.lr(n);
        let linked = self.linked.get() >> n & 1 != 0;
        if linked {
            self.follow_links();
            return gich::to_lr(value & !LR_EOI | LR_HW | u32::from(self.physical[n & 15]) << LR_PHYSICAL_SHIFT);
        }
        gich::to_lr(value)
    }
    #[inline]
    fn write(&mut self, n: usize, value: u64) {
        let value = gich::from_lr(value);
        let (bit, links) = (1u16 << (n & 15), self.linked.get());
        if value & LR_HW != 0 && !LINKED.load(Ordering::Relaxed) {
            self.linked.set(links | bit);
            self.physical[n & 15] = ((value & LR_PHYSICAL) >> LR_PHYSICAL_SHIFT) as u16;
            self.control.set_lr(n, value & !(LR_HW | LR_PHYSICAL) | LR_EOI);
        } else {
            self.linked.set(links & !bit);
            self.control.set_lr(n, value);
        }
    }
    #[inline]
    fn empty(&self) -> u16 {
        self.follow_links();
        self.control.elrsr() as u16
    }
    fn eisr(&self) -> u16 {
        self.follow_links() as u16
    }
    fn eoi_count(&self) -> u32 {
        self.control.hcr() >> 27
    }
    fn clear_eoi_count(&mut self) {
        self.control.set_hcr(self.hcr);
    }
    fn set_hcr(&mut self, value: u64) {
        self.hcr = (value & gich::HCR) as u32;
        self.control.set_hcr(self.hcr);
    }
    fn vmcr(&self) -> u64 {
        self.control.vmcr().into()
    }
    fn set_vmcr(&mut self, value: u64) {
        self.control.set_vmcr(value as u32);
    }
    fn ap0r(&self, _: usize) -> u32 {
        self.control.apr()
    }
    fn set_ap0r(&mut self, _: usize, value: u32) {
        self.control.set_apr(value);
    }
    fn ap1r(&self, _: usize) -> u32 {
        0
    }
    fn set_ap1r(&mut self, _: usize, _: u32) {}
    fn ap_count(&self) -> usize {
        1
    }
    #[inline]
    fn deactivate(&mut self, pintid: u32) {
        self.cpu.deactivate(if pintid == TIMER_PPI { self.timer } else { pintid });
    }
}
