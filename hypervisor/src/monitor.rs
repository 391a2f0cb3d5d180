//! Merus' own EL3 ([`boot::el3`]), where it is there: it is told what the board's tree says, and gives PSCI.

use crate::console::say;
use crate::time;
use boot::el3::calls;
use config::board::{Board, Conduit, Enable, Gic, Psci};
use platform::firmware::{self, Firmware};

/// The PSCI that Merus' own EL3 gives.
pub const PSCI: Psci = Psci { conduit: Conduit::Smc, version: (1, 1) };

/// Tells EL3 of the board, once and before anything of it is used; all its CPUs wait at EL3 then, whatever the tree says of how they
/// are started.
pub fn configure(board: &mut Board) {
    const NO_PIN: u64 = 0xff;
    let el3 = Firmware::new(firmware::Conduit::Smc);
    let call = |what: &str, function: u32, args: [u64; 2]| {
        let answer = el3.call(function, [args[0], args[1], 0])[0] as i64;
        if answer != 0 {
            say!("EL3 refuses {what}: {answer}");
        }
        answer == 0
    };
    match &board.gic {
        Gic::V3 { dist, redist, .. } => {
            call("the distributor", calls::GIC_V3, [dist.start().as_u64(), 0]);
            for region in redist {
                call("redistributors", calls::REDISTRIBUTORS, [region.start().as_u64(), region.size()]);
            }
        }
        Gic::V2 { dist, cpu, .. } => {
            call("the distributor", calls::GIC_V2, [dist.start().as_u64(), cpu.start().as_u64()]);
        }
    }
    match board.power_pins {
        Some(pins) => {
            let pin = |pin: Option<u8>| pin.map_or(NO_PIN, u64::from);
            let both = pin(pins.off) | pin(pins.reset) << 8;
            call("the pins that end the machine", calls::POWER_PINS, [pins.registers.start().as_u64(), both]);
        }
        None if board.power.is_none() => {
            say!("nothing in the board's tree powers the machine off: it stays on when Merus ends")
        }
        None => {}
    }
    // Where it had a frequency, that is the one.
    if let Some(hz) = board.counter_hz
        && el3.call(calls::COUNTER, [hz, 0, 0])[0] == 0
    {
        time::init();
    }
    call("the end of it", calls::DONE, [0; 2]);
    board.cpus.iter_mut().for_each(|cpu| cpu.enable = Enable::Psci);
}
