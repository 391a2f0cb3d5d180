//! What belongs to the runner of one vCPU.

use crate::debug::DebugState;
use crate::timer::PhysicalTimer;
use addr::{Address, Pa, Span};
use guest_smccc::psci::StartState;
use memory::GuestRam;
use trap::GuestFrame;
use vgic::VcpuId;

/// How often a vCPU exited, by reason. Wraps after 2^64.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExitCounts {
    /// Physical interrupts.
    pub irq: u64,
    /// Device accesses.
    pub mmio: u64,
    /// System registers.
    pub sysreg: u64,
    /// Hypervisor calls.
    pub call: u64,
    /// WFI and WFE.
    pub wait: u64,
    /// Anything else.
    pub other: u64,
    /// Exceptions given to the guest for something Merus does not have or know.
    pub refused: u64,
}

impl ExitCounts {
    /// All exits together.
    pub fn total(&self) -> u64 {
        let all = [self.irq, self.mmio, self.sysreg, self.call, self.wait, self.other];
        all.into_iter().fold(0, u64::wrapping_add)
    }
}

/// One vCPU's own state: its general registers, and the registers that always trap.
#[derive(Clone, Debug)]
pub struct Vcpu {
    /// Its index in the VM.
    pub index: VcpuId,
    /// The general registers, program counter and PSTATE.
    pub frame: GuestFrame,
    /// Debug registers.
    pub debug: DebugState,
    /// The physical timer.
    pub ptimer: PhysicalTimer,
    /// CSSELR_EL1.
    pub csselr: u64,
    /// Writes of the stage-1 controls trap, because the guest did cache maintenance by set and way with its caches off.
    pub watch_stage1: bool,
    /// Bytes of the VM's RAM that are done of those that [`crate::Next::CleanMemory`] asks for; `None` where nothing is asked.
    cleaned: Option<u64>,
    /// Something has to be done before the next entry: list registers to be filled, requests to be looked at.
    pub flush_due: bool,
    /// The virtual timer's interrupt has been noted, and nobody has seen since that its line is low: it may be pending for the
    /// guest without a cause by now.
    pub tick: bool,
    /// WFEs that exited and were resumed at once since one was not.
    pub(crate) looks: u8,
    /// Exit counts since the VM was made.
    pub counts: ExitCounts,
}

impl Vcpu {
    /// vCPU `index`, switched off.
    pub fn new(index: VcpuId) -> Self {
        Self {
            index,
            frame: GuestFrame::default(),
            debug: DebugState::default(),
            ptimer: PhysicalTimer::default(),
            csselr: 0,
            watch_stage1: false,
            cleaned: None,
            flush_due: false,
            tick: false,
            looks: 0,
            counts: ExitCounts::default(),
        }
    }
    /// The physical timer's deadline has passed: drives its interrupt.
    pub fn timer_due<H: crate::Hw>(&mut self, vm: &crate::Vm, hw: &mut H) {
        crate::sysreg::update_physical_timer(vm, self, hw);
    }
    /// [`crate::Next::CleanMemory`]: all of the VM's RAM, before the guest goes on.
    pub(crate) fn clean_memory(&mut self) {
        self.cleaned = Some(0);
        self.flush_due = true;
    }
    /// Whether [`Self::next_to_clean`] may have something.
    #[inline]
    pub fn cleans(&self) -> bool {
        self.cleaned.is_some()
    }
    /// The next of `ram` to be cleaned and invalidated to the point of coherency before the vCPU goes on: up to `at_most` bytes
    /// (at least one). The position stays with the vCPU, so that others may run between two pieces, on this pCPU too.
    pub fn next_to_clean(&mut self, ram: &GuestRam, at_most: u64) -> Option<Span<Pa>> {
        let done = self.cleaned?;
        let piece = ram.span().start().checked_add(done).and_then(|at| ram.translate(at, at_most.max(1)));
        let piece = piece.and_then(|(at, size)| Span::new(at, size));
        self.cleaned = piece.and_then(|piece| done.checked_add(piece.size()));
        piece
    }
    /// As PSCI starts it: everything but its name and its counts is as after a reset.
    pub fn start(&mut self, state: &StartState) {
        let mut fresh = Self { counts: self.counts, ..Self::new(self.index) };
        fresh.frame.pc = state.entry.as_u64();
        fresh.frame.pstate = StartState::SPSR;
        fresh.frame.set_reg(0, state.context);
        *self = fresh;
    }
}
