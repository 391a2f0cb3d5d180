//! Chains of real rooms with fake hardware: a raw exit goes in, registers, list registers and wake-ups come out.
//!
//! | module | what |
//! |---|---|
//! | `machine` | the [`machine::TestMachine`]: trap, bus, pl011, pl031, vgic, smccc and this room, on fakes |
//! | `mmio`, `calls`, `waits`, `sysregs` | by exit |
//! | `walks` | aborts for which the guest's own tables are walked or asked |
//! | `power` | CPU_ON, CPU_OFF and the VM's end, with racing callers |
//! | `pcpus` | several pCPUs as the kernel runs them, in random interleavings: nobody waits for ever, nothing is lost |
//! | `any` | any exit from any state, and the VM's reset after any history |

mod any;
mod calls;
pub(crate) mod machine;
mod mmio;
mod pcpus;
mod power;
mod sysregs;
mod waits;
mod walks;
