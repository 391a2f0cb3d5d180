//! Calls to the firmware below: PSCI and SMCCC by SMC (or HVC, where Merus itself runs under a hypervisor).

use smccc::psci;

/// How the firmware is reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Conduit {
    /// By SMC, to EL3.
    Smc,
    /// By HVC: only from EL1, that is only to say that EL1 is the wrong level, and stop.
    Hvc,
}

/// The firmware behind PSCI.
#[derive(Clone, Copy, Debug)]
pub struct Firmware {
    conduit: Conduit,
}

impl Firmware {
    /// The firmware that the device tree's `/psci` node names.
    pub const fn new(conduit: Conduit) -> Self {
        Self { conduit }
    }
    /// Starts the CPU `mpidr` at physical address `entry` with `context` in its x0.
    pub fn cpu_on(&self, mpidr: u64, entry: u64, context: u64) -> Result<(), psci::Error> {
        self.run(
            || psci::cpu_on::<smccc::Smc>(mpidr, entry, context),
            || psci::cpu_on::<smccc::Hvc>(mpidr, entry, context),
        )
    }
    /// Powers the machine off. Returns only where the firmware refuses.
    pub fn system_off(&self) {
        let _ = self.run(psci::system_off::<smccc::Smc>, psci::system_off::<smccc::Hvc>);
    }
    /// Resets the machine. Returns only where the firmware refuses.
    pub fn system_reset(&self) {
        let _ = self.run(psci::system_reset::<smccc::Smc>, psci::system_reset::<smccc::Hvc>);
    }
    /// PSCI's version, major in the high half; 0 where there is none.
    pub fn psci_version(&self) -> u32 {
        self.run(psci::version::<smccc::Smc>, psci::version::<smccc::Hvc>)
            .map_or(0, |v| u32::from(v.major) << 16 | u32::from(v.minor))
    }
    /// Any other call of the SMC calling convention; x0 to x3 of the answer.
    pub fn call(&self, function: u32, args: [u64; 3]) -> [u64; 4] {
        let mut all = [0; 17];
        all[..3].copy_from_slice(&args);
        let out = self.run(|| smccc::smc64(function, all), || smccc::hvc64(function, all));
        [out[0], out[1], out[2], out[3]]
    }
    fn run<T>(&self, smc: impl FnOnce() -> T, hvc: impl FnOnce() -> T) -> T {
        match self.conduit {
            Conduit::Smc => smc(),
            Conduit::Hvc => hvc(),
        }
    }
}
