//! The list of VMs asked for again and again: what a conversation costs the machine.

use super::Session;
use merus_client::Error;
use serde_json::json;

/// So often the clock alone is asked.
const CLOCKS: u32 = 4;

/// The machine's clock says how long it took. On a machine that counts instructions and has nothing else to do, that is how many
/// it executed: from the first byte of a question to the last one of its answer.
pub fn run(s: &mut Session, count: u32) -> Result<(), Error> {
    let mut before = s.client.machine()?.now_ns;
    // Reading the clock takes its time as well.
    let mut own = u64::MAX;
    for _ in 0..CLOCKS {
        let now = s.client.machine()?.now_ns;
        own = own.min(now.saturating_sub(before));
        before = now;
    }
    let (mut all, mut least) = (0, u64::MAX);
    for _ in 0..count {
        s.client.vms()?;
        let now = s.client.machine()?.now_ns;
        let took = now.saturating_sub(before).saturating_sub(own);
        (all, least) = (all + took, least.min(took));
        before = now;
    }
    let count = count.max(1);
    let each = all / u64::from(count);
    s.print(
        || json!({ "count": count, "ns": each, "least_ns": least.min(each) }),
        || format!("{count} lists: {each} ns of the machine's time each, the shortest {}\n", least.min(each)),
    );
    Ok(())
}
