//! One pCPU: what is loaded on it, and the steps of a switch in their order.

use crate::debug::{self, DebugValues};
use crate::door::layout;
use crate::errata::{self, BranchHistory, Errata};
use crate::features::{Features, id_register};
use crate::probe;
use crate::regs::{mrs, msr, op};
use crate::start::{self, HCR_TVM, HCR_TWE, HCR_TWI, HCR_VSE};
use crate::vectors::{self, Left};
use crate::world::{self, GuestState, Space};
use trap::GuestFrame;

/// What TPIDR_EL2 points to. The first field is the assembly's: where the handler of a fault of EL2 puts its stack.
#[repr(C, align(16))]
pub struct PcpuAnchor {
    emergency_top: u64,
    number: u64,
    emergency: [u8; 8192],
}

impl PcpuAnchor {
    /// For pCPU `number`; its own address goes in at [`PcpuAnchor::catch_faults`].
    pub const fn new(number: u64) -> Self {
        Self { emergency_top: 0, number, emergency: [0; 8192] }
    }
    /// Sets the exception vectors and clears PSTATE.A: from here on faults have their last words, and a probe of a device its answer.
    /// The first thing on each pCPU.
    pub fn catch_faults(&'static mut self) -> Anchored {
        self.emergency_top = &raw const self.emergency as u64 + 8192;
        let (number, at) = (self.number as usize, self as *const PcpuAnchor as u64);
        // SAFETY: EL2's own registers on a pCPU that has not used them: the anchor lives for ever, the vectors are code.
        let leftover = unsafe {
            msr!("TPIDR_EL2", at);
            msr!("VBAR_EL2", vectors::address(BranchHistory::Nothing, false));
            op!("isb");
            probe::unmask_serror()
        };
        Anchored { number, at, leftover }
    }
}

/// A pCPU whose faults are caught.
#[derive(Debug)]
pub struct Anchored {
    number: usize,
    at: u64,
    leftover: Option<u64>,
}

impl Anchored {
    /// ESR_EL2 of an SError that was pending when this pCPU came to Merus: the firmware's.
    pub fn leftover(&self) -> Option<u64> {
        self.leftover
    }
}

/// The number of this pCPU: 0 is the one that booted. 0 also before [`PcpuAnchor::catch_faults`], and at EL1 (on the way to saying that this is
/// the wrong level).
pub fn number() -> usize {
    if mrs!("CurrentEL") >> 2 < 2 {
        return 0;
    }
    let anchor = mrs!("TPIDR_EL2") as *const PcpuAnchor;
    if anchor.is_null() {
        return 0;
    }
    // SAFETY: TPIDR_EL2 is zero or what `catch_faults` wrote: an anchor that lives for ever and does not change any more.
    unsafe { (*anchor).number as usize }
}

/// One pCPU's hardware.
#[derive(Debug)]
pub struct Pcpu {
    features: Features,
    errata: Errata,
    number: usize,
    hcr: u64,
    loaded: bool,
    /// MDSCR_EL1 is the loaded vCPU's, and its breakpoints and watchpoints are in hardware.
    debugging: bool,
    armed: bool,
    /// HCR_EL2.VSE was set for the loaded vCPU, which may have taken it since.
    serror_given: bool,
}

impl Pcpu {
    /// Writes the start state on this pCPU, with its GICv3 CPU interface where `gicv3` says that the board has one. Called once on
    /// each.
    pub fn start(anchored: Anchored, gicv3: bool) -> Self {
        let features = Features::here();
        let number = anchored.number;
        // SAFETY: once a pCPU (an anchor is handed over by `&'static mut`), before any guest; TGE is 0 since the entry code.
        unsafe { start::pcpu(&features, anchored.at, gicv3) };
        let errata = errata::of(id_register(0, 0));
        // SAFETY: EL1's registers are nobody's yet; the first `load` finds them as every later one does.
        unsafe { world::park(start::hcr(&features), errata) };
        Self {
            hcr: start::hcr(&features),
            features,
            errata,
            number,
            loaded: false,
            debugging: false,
            armed: false,
            serror_given: false,
        }
    }
    /// Its number.
    #[inline(always)]
    pub fn number(&self) -> usize {
        self.number
    }
    /// Its features.
    pub fn features(&self) -> &Features {
        &self.features
    }
    /// From now on, what all pCPUs have ([`Features::common`]) and need.
    /// Guests read `midr` as their MIDR_EL1 on every pCPU. `firmware` says whether the firmware wants its workarounds 1 and 3
    /// used on this core. Returns what is done about the branch history from here on.
    pub fn settle(&mut self, common: &Features, errata: Errata, midr: u64, firmware: (bool, bool)) -> BranchHistory {
        let own = |crm, op2| id_register(crm, op2);
        let history = errata::history(own(0, 0), own(4, 0), own(7, 1), own(6, 2), firmware.0, firmware.1);
        self.features = *common;
        self.errata = errata;
        self.hcr = start::hcr(common);
        // What this pCPU has, not what all have: the errors are its own.
        let here = Features::here();
        let esb = here.ras && !here.iesb;
        // SAFETY: VPIDR_EL2 is what guests read as MIDR_EL1, and nothing else; the vectors differ in what precedes an exit, and those
        // with an ESB are for CPUs that have DISR_EL1. A workaround that another pCPU needs is harmless here.
        unsafe {
            world::park(self.hcr, errata);
            msr!("VPIDR_EL2", midr);
            msr!("VBAR_EL2", vectors::address(history, esb));
            op!("isb");
        }
        history
    }
    /// The workarounds this pCPU needs.
    pub fn errata(&self) -> Errata {
        self.errata
    }
    /// Loads a vCPU's state. Whoever was loaded has been [`Self::put`].
    pub fn load(&mut self, state: &GuestState, space: &Space) {
        assert!(!self.loaded, "a vCPU is loaded over another");
        // SAFETY: `Space` comes from `GuestSpace::activate`, whose tables map declared RAM only and whose VMID is current;
        // HCR_EL2 is the start state's.
        unsafe { state.load(space, self.hcr, &self.features, self.errata) };
        self.serror_given = state.serror_pending();
        self.loaded = true;
    }
    /// Saves the loaded vCPU's state and leaves nothing of it behind that the next could be surprised by.
    pub fn put(&mut self, state: &mut GuestState) {
        assert!(self.loaded, "there is no vCPU to put");
        state.put(&self.features);
        state.set_serror_pending(self.serror_given && world::serror_pending());
        self.serror_given = false;
        self.set_debug(None);
        self.trap_waits(true, false);
        self.watch_stage1(false);
        // SAFETY: nobody is loaded from here on; `load` puts stage 2 on again, with the next vCPU's tables.
        unsafe { world::park(self.hcr, self.errata) };
        self.loaded = false;
    }
    /// Has the loaded vCPU's debug registers in hardware, or none where nothing is switched on.
    pub fn set_debug(&mut self, registers: Option<DebugValues<'_>>) {
        let (breakpoints, watchpoints) = (self.features.breakpoints, self.features.watchpoints);
        match registers {
            Some(values) => {
                // Few that have something switched on have one of these.
                let armed = !values.breakpoints.is_empty() || !values.watchpoints.is_empty();
                self.disarm_unless(armed);
                debug::load(&values, breakpoints, watchpoints);
                (self.debugging, self.armed) = (true, armed);
            }
            None => {
                if core::mem::take(&mut self.debugging) {
                    debug::unload();
                }
                self.disarm_unless(false);
            }
        }
    }
    fn disarm_unless(&mut self, armed: bool) {
        if self.armed && !armed {
            debug::clear(self.features.breakpoints, self.features.watchpoints);
            self.armed = false;
        }
    }
    /// Whether WFI exits, and WFE (where the CPU has FEAT_TWED, after a delay).
    #[inline]
    pub fn trap_waits(&mut self, wfi: bool, wfe: bool) {
        let on = if wfi { HCR_TWI } else { 0 } | if wfe { HCR_TWE } else { 0 };
        self.change_hcr(self.hcr & !(HCR_TWI | HCR_TWE) | on);
    }
    /// Whether writes of the stage-1 control registers exit.
    pub fn watch_stage1(&mut self, on: bool) {
        self.change_hcr(if on { self.hcr | HCR_TVM } else { self.hcr & !HCR_TVM });
    }
    #[inline]
    fn change_hcr(&mut self, hcr: u64) {
        if hcr == self.hcr {
            return;
        }
        self.hcr = hcr;
        if self.loaded {
            self.write_hcr();
        }
    }
    /// HCR_EL2 for the loaded vCPU, with the SError that it has been given and has not taken yet.
    fn write_hcr(&mut self) {
        let mut hcr = self.hcr;
        if self.serror_given {
            self.serror_given = world::serror_pending();
            hcr |= if self.serror_given { HCR_VSE } else { 0 };
        }
        // SAFETY: the start state's value with TWI, TWE, TVM or VSE changed.
        unsafe { world::set_hcr(hcr) };
    }
    /// Makes an SError pending for the loaded vCPU: it takes it once its PSTATE.A is clear, with `syndrome` (25 bits) where the CPUs
    /// have FEAT_RAS.
    pub fn give_serror(&mut self, syndrome: u32) {
        assert!(self.loaded, "no vCPU is loaded to take an SError");
        // SAFETY: the start state's value with VSE set, for the loaded vCPU; VSESR_EL2 is switched with it.
        unsafe {
            world::set_serror(syndrome, &self.features);
            world::set_hcr(self.hcr | HCR_VSE);
        }
        self.serror_given = true;
    }
    /// Runs the loaded vCPU until something happens.
    #[inline(always)]
    pub fn enter(&mut self, frame: &mut GuestFrame) -> Left {
        assert!(self.loaded, "no vCPU is loaded");
        // SAFETY: `start` set this pCPU up, `load` loaded the vCPU under tables that map declared RAM only, and the entry
        // keeps EL2 and EL3 out of the frame's PSTATE.
        let left = unsafe { vectors::enter(frame) };
        if cfg!(feature = "debug-fp") {
            assert!(mrs!("CPTR_EL2") == layout().cptr_own(), "a guest was left and FP does not trap");
        }
        left
    }
}
