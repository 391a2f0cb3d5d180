//! The power states of one VM's vCPUs, and the PSCI calls that move them.
//!
//! | state | becomes | by |
//! |---|---|---|
//! | Off | OnPending | CPU_ON of it: exactly one of racing calls gets SUCCESS, because the caller holds the VM's lock |
//! | OnPending | On | [`Psci::started`], or any call it makes itself |
//! | On | Off | its own CPU_OFF |
//! | any | Off (the boot vCPU: On) | [`Psci::reset`] |
//!
//! A suspended vCPU is On, as AFFINITY_INFO must say; what it waits for is the scheduler's matter.
//!
//! # For who carries out an [`Outcome`]
//! CPU_OFF takes effect here before the vCPU has left its pCPU, so a CPU_ON may succeed while the old run is still being
//! put away. The [`StartState`] must therefore be left beside the vCPU and applied by the pCPU that next *loads* it, never
//! written into registers that another pCPU may still be saving.
//!
//! # Not modelled
//! Power states are not listed to the guest, so CPU_SUSPEND accepts every StateID and level in the original format: a
//! request at a higher level is an upper bound that coordination may lower to the core's own state. Optional calls that
//! are absent: CPU_FREEZE, CPU_DEFAULT_SUSPEND, NODE_HW_STATE, SYSTEM_SUSPEND, PSCI_SET_SUSPEND_MODE, PSCI_STAT_*,
//! MEM_PROTECT, MIGRATE; vendor resets of SYSTEM_RESET2.
//!
//! Arm DEN 0022 (PSCI) issue D, "PSCI function prototypes".
use addr::{Address, Ipa};

use crate::{Call, Regs, ids, status_regs};

/// The most vCPUs of a VM.
pub const MAX_VCPUS: usize = 64;

/// The affinity fields of an MPIDR; everything else in a target_cpu argument must be zero.
const AFFINITY: u64 = 0xff_00ff_ffff;

/// Whether a vCPU is powered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Power {
    /// Not running, may be started.
    #[default]
    Off,
    /// CPU_ON succeeded, and it has not executed its first instruction.
    OnPending,
    /// Running, ready or suspended.
    On,
}

/// How a vCPU starts or resumes: AArch64 EL1h, DAIF masked, MMU and caches of stage 1 off, other registers as after reset
/// (PSCI, "Initial core configuration").
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StartState {
    /// The first program counter.
    pub entry: Ipa,
    /// What x0 holds.
    pub context: u64,
}

impl StartState {
    /// The SPSR to enter with: EL1h with D, A, I and F masked.
    pub const SPSR: u64 = 0x3c5;
}

/// What a call asks of the caller's runner.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Put these into x0 to x3 and resume.
    Return(Regs),
    /// Make vCPU `vcpu` ready with `state`; put `result` into the caller's x0 to x3 and resume it.
    Start {
        /// Index of the vCPU to start.
        vcpu: usize,
        /// What it starts with, applied when it is loaded.
        state: StartState,
        /// The caller's results (SUCCESS).
        result: Regs,
    },
    /// Put the registers into x0 to x3, then block until an interrupt is pending for the vCPU, as WFI does.
    Standby(Regs),
    /// Block until an interrupt is pending for the vCPU, as WFI does; then it has lost its state and starts with this. If
    /// one is pending already it starts at once.
    PowerDown(StartState),
    /// The caller stops until a CPU_ON.
    CpuOff {
        /// No vCPU of the VM is on or pending any more: nothing but a reset from outside can wake the VM.
        last: bool,
    },
    /// The VM ends.
    SystemOff,
    /// The VM starts again from its description.
    SystemReset {
        /// By SYSTEM_RESET2's architectural warm reset: memory keeps its content where the VM's owner allows that.
        warm: bool,
    },
}

/// Why a set of vCPUs is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NewError {
    /// There is no vCPU.
    None,
    /// There are more than [`MAX_VCPUS`].
    TooMany,
    /// Two vCPUs have the same affinity fields.
    Duplicate,
}

/// The power state of every vCPU of one VM. The owner wraps it in the VM's lock.
#[derive(Clone, Debug)]
pub struct Psci {
    affinity: [u64; MAX_VCPUS],
    power: [Power; MAX_VCPUS],
    count: usize,
}

impl Psci {
    /// For vCPUs with these MPIDR_EL1 values (only the affinity fields count), the index being the vCPU number. vCPU 0 is
    /// on, the others are off.
    pub fn new(mpidrs: &[u64]) -> Result<Self, NewError> {
        let mut affinity = [0; MAX_VCPUS];
        if mpidrs.is_empty() {
            return Err(NewError::None);
        }
        if mpidrs.len() > MAX_VCPUS {
            return Err(NewError::TooMany);
        }
        for (i, (slot, mpidr)) in affinity.iter_mut().zip(mpidrs).enumerate() {
            *slot = mpidr & AFFINITY;
            if mpidrs.iter().take(i).any(|m| m & AFFINITY == *slot) {
                return Err(NewError::Duplicate);
            }
        }
        let mut new = Self { affinity, power: [Power::Off; MAX_VCPUS], count: mpidrs.len() };
        new.reset(0);
        Ok(new)
    }

    /// As after power-on: only `boot` is on.
    pub fn reset(&mut self, boot: usize) {
        for (i, power) in self.power.iter_mut().enumerate() {
            *power = if i == boot { Power::On } else { Power::Off };
        }
    }

    /// Notes that `vcpu` is about to execute its first instruction after a CPU_ON. No effect in any other state.
    pub fn started(&mut self, vcpu: usize) {
        if let Some(power @ Power::OnPending) = self.power_mut(vcpu) {
            *power = Power::On;
        }
    }

    /// The state of `vcpu`, or `None` where there is no such vCPU.
    pub fn power(&self, vcpu: usize) -> Option<Power> {
        self.power.get(..self.count)?.get(vcpu).copied()
    }

    /// Serves one call of vCPU `caller`. `may_start_at` tells whether the guest can execute at an address (its RAM).
    pub fn handle(&mut self, caller: usize, call: &Call, may_start_at: impl Fn(Ipa) -> bool) -> Outcome {
        self.started(caller);
        let [a, b, c, ..] = call.args;
        match call.function {
            ids::CPU_SUSPEND | ids::CPU_SUSPEND_64 => suspend(a, b, c, may_start_at),
            ids::CPU_OFF => self.cpu_off(caller),
            ids::CPU_ON | ids::CPU_ON_64 => self.cpu_on(a, b, c, may_start_at),
            ids::AFFINITY_INFO | ids::AFFINITY_INFO_64 => status(self.affinity_info(a, b)),
            ids::SYSTEM_OFF => Outcome::SystemOff,
            ids::SYSTEM_RESET => Outcome::SystemReset { warm: false },
            ids::SYSTEM_RESET2 | ids::SYSTEM_RESET2_64 => reset2(a),
            _ => status(ids::NOT_SUPPORTED),
        }
    }

    fn cpu_off(&mut self, caller: usize) -> Outcome {
        let Some(power) = self.power_mut(caller) else {
            return status(ids::DENIED);
        };
        *power = Power::Off;
        Outcome::CpuOff { last: self.power.iter().all(|p| *p == Power::Off) }
    }

    fn cpu_on(&mut self, target: u64, entry: u64, context: u64, may_start_at: impl Fn(Ipa) -> bool) -> Outcome {
        let Some(vcpu) = self.vcpu_of(target) else {
            return status(ids::INVALID_PARAMETERS);
        };
        let Some(state) = start_state(entry, context, may_start_at) else {
            return status(ids::INVALID_ADDRESS);
        };
        match self.power_mut(vcpu) {
            Some(power @ Power::Off) => {
                *power = Power::OnPending;
                Outcome::Start { vcpu, state, result: status_regs(ids::SUCCESS) }
            }
            Some(Power::OnPending) => status(ids::ON_PENDING),
            Some(Power::On) => status(ids::ALREADY_ON),
            None => status(ids::INVALID_PARAMETERS),
        }
    }

    /// The state of a vCPU (level 0) or of the group that shares the affinity fields from `level` up: on if one is on.
    /// Fields below `level` are ignored.
    fn affinity_info(&self, target: u64, level: u64) -> i64 {
        let ignored = match level {
            0 => 0,
            1 => 0xff,
            2 => 0xffff,
            3 => 0xff_ffff,
            _ => return ids::INVALID_PARAMETERS,
        };
        if target & !AFFINITY != 0 {
            return ids::INVALID_PARAMETERS;
        }
        let mut found = ids::INVALID_PARAMETERS;
        for (affinity, power) in self.affinity.iter().zip(&self.power).take(self.count) {
            if (affinity ^ target) & !ignored != 0 {
                continue;
            }
            match power {
                Power::On => return ids::AFFINITY_ON,
                Power::OnPending => found = ids::AFFINITY_ON_PENDING,
                Power::Off if found < 0 => found = ids::AFFINITY_OFF,
                Power::Off => {}
            }
        }
        found
    }

    fn vcpu_of(&self, target: u64) -> Option<usize> {
        self.affinity.iter().take(self.count).position(|a| *a == target)
    }

    fn power_mut(&mut self, vcpu: usize) -> Option<&mut Power> {
        self.power.get_mut(..self.count)?.get_mut(vcpu)
    }
}

/// CPU_SUSPEND, power_state in the original format: StateID in bits 15:0, StateType in bit 16, PowerLevel in bits 25:24,
/// the rest zero (PSCI, "CPU_SUSPEND parameters").
fn suspend(power_state: u64, entry: u64, context: u64, may_start_at: impl Fn(Ipa) -> bool) -> Outcome {
    const DEFINED: u64 = 0x0301_ffff;
    const POWERDOWN: u64 = 1 << 16;
    // power_state is 32 bits wide in both conventions.
    let power_state = power_state & u64::from(u32::MAX);
    if power_state & !DEFINED != 0 {
        return status(ids::INVALID_PARAMETERS);
    }
    if power_state & POWERDOWN == 0 {
        return Outcome::Standby(status_regs(ids::SUCCESS));
    }
    match start_state(entry, context, may_start_at) {
        Some(state) => Outcome::PowerDown(state),
        None => status(ids::INVALID_ADDRESS),
    }
}

/// SYSTEM_RESET2: reset_type 0 is the architectural warm reset, bit 31 marks a vendor's.
fn reset2(reset_type: u64) -> Outcome {
    match reset_type & u64::from(u32::MAX) {
        0 => Outcome::SystemReset { warm: true },
        _ => status(ids::INVALID_PARAMETERS),
    }
}

fn start_state(entry: u64, context: u64, may_start_at: impl Fn(Ipa) -> bool) -> Option<StartState> {
    let entry = Ipa::new(entry);
    (entry.is_aligned(4) && may_start_at(entry)).then_some(StartState { entry, context })
}

/// PSCI_FEATURES of `function`: 0 or its feature flags where it exists. The flags of CPU_SUSPEND are 0: power_state in the
/// original format, no OS-initiated mode.
pub(crate) fn feature(function: u32) -> i64 {
    match function {
        ids::PSCI_VERSION
        | ids::CPU_SUSPEND
        | ids::CPU_SUSPEND_64
        | ids::CPU_OFF
        | ids::CPU_ON
        | ids::CPU_ON_64
        | ids::AFFINITY_INFO
        | ids::AFFINITY_INFO_64
        | ids::MIGRATE_INFO_TYPE
        | ids::SYSTEM_OFF
        | ids::SYSTEM_RESET
        | ids::PSCI_FEATURES
        | ids::SYSTEM_RESET2
        | ids::SYSTEM_RESET2_64
        // SMCCC 1.1 is discovered by asking PSCI for it.
        | ids::SMCCC_VERSION => ids::SUCCESS,
        _ => ids::NOT_SUPPORTED,
    }
}

fn status(status: i64) -> Outcome {
    Outcome::Return(status_regs(status))
}
