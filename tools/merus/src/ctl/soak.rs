//! The same VM made, run and destroyed many times, by its own end or killed in mid-work: what it took must come back, every byte of it.

use super::{Create, Session, act};
use merus_client::{Error, life};
use proto::{MachineRow, NewVm, VmState};
use serde_json::json;
use std::time::Duration;

/// Rounds after which nothing new is taken any more: what is made once is made then.
const WARM: u32 = 3;
/// What stands for a round's number in the command line.
const ROUND: &str = "{round}";
/// Different times at which a VM is killed.
const TIMES: u32 = 5;

pub fn run(s: &mut Session, rounds: u32, kill: Option<Duration>, create: &Create) -> Result<(), Error> {
    let all = act::new_vm(s, create)?;
    let mut first: Option<MachineRow> = None;
    let (mut before, mut least) = (s.client.machine()?.now_ns, u64::MAX);
    for round in 0..rounds {
        let limit = s.wait(false);
        let cmdline = all.cmdline.as_ref().map(|text| text.replace(ROUND, &round.to_string()));
        life::create(&mut s.client, NewVm { cmdline, ..all.clone() }, limit)?;
        life::start(&mut s.client, &create.name, limit)?;
        match kill {
            None => life::ended(&mut s.client, &create.name, limit)?,
            Some(after) => {
                std::thread::sleep(after * (round % TIMES + 1) / TIMES);
                life::stop(&mut s.client, &create.name, Duration::ZERO, limit)?;
            }
        }
        let row = s.client.info(&create.name)?;
        if !matches!(row.state, VmState::Stopped(_)) {
            return Err(Error::Leak(format!("round {round}: the VM is {}", row.state)));
        }
        let patience = s.client.limit();
        life::destroy(&mut s.client, &create.name, false, patience)?;
        let now = s.client.machine()?;
        least = least.min(now.now_ns.saturating_sub(before));
        before = now.now_ns;
        if round + 1 < WARM {
            continue;
        }
        let was = first.get_or_insert_with(|| now.clone());
        if (was.memory_free, was.heap) != (now.memory_free, now.heap) {
            return Err(Error::Leak(format!(
                "round {round}: {} bytes of frames are free and {} of the heap used, after round {WARM} it was {} and {}",
                now.memory_free, now.heap, was.memory_free, was.heap
            )));
        }
    }
    let free = first.as_ref().map_or(0, |row| row.memory_free);
    // From the first round that is compared with to the last one.
    let took = s.client.machine()?.now_ns.saturating_sub(first.map_or(0, |row| row.now_ns));
    let each = took / u64::from(rounds.saturating_sub(WARM).max(1));
    s.print(
        || json!({ "rounds": rounds, "memory_free": free, "ns": each, "least_ns": least }),
        || {
            format!(
                "{rounds} rounds; {free} bytes of frames are free, as after the first ones; {each} ns of the machine's time each\n"
            )
        },
    );
    Ok(())
}
