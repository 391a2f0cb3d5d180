//! The list of VMs asked for again and again: what a conversation costs the machine.

use super::Session;
use merus_client::Error;
use serde_json::json;

/// The machine's clock says how long it took. On a machine that counts instructions and has nothing else to do, that is how many
/// it executed: from the first byte of a question to the last one of its answer.
pub fn run(s: &mut Session, count: u32) -> Result<(), Error> {
    let first = s.client.machine()?.now_ns;
    let second = s.client.machine()?.now_ns;
    for _ in 0..count {
        s.client.vms()?;
    }
    let third = s.client.machine()?.now_ns;
    // Reading the clock takes its time as well.
    let own = second.saturating_sub(first);
    let each = third.saturating_sub(second).saturating_sub(own) / u64::from(count.max(1));
    s.print(
        || json!({ "count": count, "ns": each }),
        || format!("{count} lists: {each} ns of the machine's time each\n"),
    );
    Ok(())
}
