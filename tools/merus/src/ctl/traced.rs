//! `merus ctl trace`: tracing on, records collected, tracing off, a file written.

use super::{Session, say};
use merus_client::chrome::{Track, document};
use merus_client::{Client, Error};
use proto::Call;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

/// Pages of one pCPU that are read before the next one has its turn: a busy one is not to keep the others waiting.
const TURN: usize = 16;
/// How long to wait when there is nothing new.
const PAUSE: Duration = Duration::from_millis(20);

/// A pCPU's track, and the number of its next record.
struct Reader {
    track: Track,
    next: u64,
}

impl Reader {
    /// Reads on, at most [`TURN`] pages. Whether there was anything.
    fn read(&mut self, client: &mut Client, keep: bool) -> Result<bool, Error> {
        let mut any = false;
        for _ in 0..TURN {
            let page = client.trace(self.track.pcpu, self.next)?;
            any |= page.next != self.next;
            self.next = page.next;
            if keep {
                self.track.lost = self.track.lost.saturating_add(page.lost);
                self.track.rows.extend(page.rows);
            }
            if !page.more {
                break;
            }
        }
        Ok(any)
    }
}

pub fn run(s: &mut Session, output: &Path, seconds: Duration) -> Result<(), Error> {
    let machine = s.client.machine()?;
    let pcpus = s.client.pcpus()?;
    let reader = |pcpu: &proto::PcpuRow| Reader { track: Track { pcpu: pcpu.number, ..Track::default() }, next: 0 };
    let mut readers: Vec<Reader> = pcpus.iter().map(reader).collect();
    let mut names = BTreeMap::new();
    let done = record(s, &mut readers, seconds, &mut names);
    // Off again whatever has happened, unless somebody else had it on.
    let off = if machine.tracing { Ok(()) } else { s.client.done(&Call::SetTrace { on: false }) };
    done.and(off)?;
    for reader in &mut readers {
        reader.read(&mut s.client, true)?;
    }
    let tracks: Vec<Track> = readers.into_iter().map(|reader| reader.track).collect();
    let fault = |source| Error::File { path: output.display().to_string(), source };
    std::fs::write(output, document(&tracks, &names, machine.counter_hz).to_string()).map_err(fault)?;
    let records: usize = tracks.iter().map(|track| track.rows.len()).sum();
    let lost: u64 = tracks.iter().map(|track| track.lost).sum();
    let path = output.display().to_string();
    if s.json {
        say(&format!("{}\n", json!({ "output": path, "records": records, "lost": lost, "pcpus": tracks.len() })));
    } else {
        let overwritten =
            if lost > 0 { format!(", {lost} more overwritten before they were read") } else { String::new() };
        say(&format!("{path}: {records} records of {} pCPUs{overwritten}; ui.perfetto.dev opens it\n", tracks.len()));
    }
    Ok(())
}

fn record(
    s: &mut Session,
    readers: &mut [Reader],
    seconds: Duration,
    names: &mut BTreeMap<u16, String>,
) -> Result<(), Error> {
    // What an earlier trace has left is passed over.
    for reader in readers.iter_mut() {
        while reader.read(&mut s.client, false)? && !s.client.machine()?.tracing {}
    }
    s.client.done(&Call::SetTrace { on: true })?;
    let end = Instant::now() + seconds;
    // VMs come and go while it runs.
    names.extend(s.client.vms()?.into_iter().map(|vm| (vm.number, vm.name)));
    while Instant::now() < end {
        let mut any = false;
        for reader in readers.iter_mut() {
            any |= reader.read(&mut s.client, true)?;
        }
        if !any {
            std::thread::sleep(PAUSE.min(end.saturating_duration_since(Instant::now())));
        }
    }
    names.extend(s.client.vms()?.into_iter().map(|vm| (vm.number, vm.name)));
    Ok(())
}
