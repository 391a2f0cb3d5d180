//! Trace records as Chrome trace JSON, which Perfetto's page opens: a track for each pCPU, a slice for each stay of a vCPU on it, an
//! instant for whatever else happens.
//!
//! The form is that of "Trace Event Format" (JSON Object Format): times are in microseconds, from the first record on.

use proto::TraceRow;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use trace::{Event, NOBODY, What};

/// The process that all tracks belong to.
const PID: u32 = 1;

/// A pCPU's records.
#[derive(Clone, Debug, Default)]
pub struct Track {
    /// The pCPU.
    pub pcpu: u32,
    /// Its records, oldest first.
    pub rows: Vec<TraceRow>,
    /// How many were overwritten before they were read.
    pub lost: u64,
}

/// A record with its meaning; `None` if it is of a kind that this program does not know.
pub fn event(pcpu: u32, row: &TraceRow) -> Option<Event> {
    let head = u64::from(row.kind)
        | u64::from(row.which) << 8
        | u64::from(pcpu as u16) << 16
        | u64::from(row.vm) << 32
        | u64::from(row.vcpu) << 48;
    Event::from_words([row.tick, head, row.argument])
}

/// The whole document. `vms`: names by number; `hz`: ticks a second.
pub fn document(tracks: &[Track], vms: &BTreeMap<u16, String>, hz: u64) -> Value {
    // A stay that ends in the trace may have begun before it.
    let begins = |(track, row): (&Track, &TraceRow)| match event(track.pcpu, row).map(|e| e.what) {
        Some(What::End(_)) => row.tick.saturating_sub(row.argument),
        _ => row.tick,
    };
    let all = || tracks.iter().flat_map(|track| track.rows.iter().map(move |row| (track, row)));
    let first = all().map(begins).min().unwrap_or(0);
    let last = all().map(|(_, row)| row.tick).max().unwrap_or(0);
    let mut writer = Writer { events: Vec::new(), vms, hz: hz.max(1) as f64, first, unknown: 0 };
    writer.name("process_name", 0, "Merus");
    for track in tracks {
        writer.name("thread_name", track.pcpu, &format!("pCPU {}", track.pcpu));
        writer.track(track, last);
    }
    let lost: u64 = tracks.iter().map(|track| track.lost).sum();
    json!({
        "traceEvents": writer.events,
        "displayTimeUnit": "ns",
        "otherData": { "counter_hz": hz, "lost": lost, "unknown": writer.unknown },
    })
}

struct Writer<'a> {
    events: Vec<Value>,
    vms: &'a BTreeMap<u16, String>,
    hz: f64,
    first: u64,
    unknown: u64,
}

impl Writer<'_> {
    fn name(&mut self, what: &str, tid: u32, name: &str) {
        self.events.push(json!({ "ph": "M", "name": what, "pid": PID, "tid": tid, "args": { "name": name } }));
    }

    fn track(&mut self, track: &Track, last: u64) {
        let mut open: Option<Event> = None;
        for row in &track.rows {
            let Some(event) = event(track.pcpu, row) else {
                self.unknown += 1;
                continue;
            };
            match event.what {
                What::Begin => open = Some(event),
                What::End(why) => {
                    let waited = open.take().filter(|begin| begin.vm == event.vm && begin.vcpu == event.vcpu);
                    let mut args = json!({ "end": why.name() });
                    if let Some(begin) = waited {
                        args["waited_us"] = json!(self.span(begin.argument));
                    }
                    self.slice(track.pcpu, &event, event.tick.saturating_sub(event.argument), event.tick, args);
                }
                _ => self.instant(track.pcpu, &event),
            }
        }
        // Still on the pCPU when the trace ended.
        if let Some(begin) = open {
            self.slice(track.pcpu, &begin, begin.tick, last, json!({ "end": "none in the trace" }));
        }
    }

    fn slice(&mut self, tid: u32, of: &Event, from: u64, to: u64, args: Value) {
        let (ts, dur) = (self.time(from), self.span(to.saturating_sub(from)));
        let name = self.who(of);
        self.events.push(json!({ "ph": "X", "cat": "run", "name": name, "pid": PID, "tid": tid, "ts": ts, "dur": dur, "args": args }));
    }

    fn instant(&mut self, tid: u32, event: &Event) {
        let argument = event.argument;
        let mut args = Map::new();
        if event.vm != NOBODY {
            args.insert("who".into(), json!(self.who(event)));
        }
        let mut arg = |key: &str, value: Value| args.insert(key.into(), value);
        let (cat, name) = match event.what {
            What::Begin | What::End(_) => return,
            What::Exit(reason) => {
                arg("us", json!(self.span(argument)));
                arg("ticks", json!(argument));
                ("exit", format!("exit {}", reason.name()))
            }
            What::Shown => ("interrupt", format!("INTID {argument} shown")),
            What::Taken => ("interrupt", format!("INTID {argument} taken")),
            What::Wake => ("sched", "wake".into()),
            What::Slept => {
                arg("us", json!(self.span(argument)));
                ("sched", "slept".into())
            }
            What::Moved => {
                arg("from_pcpu", json!(argument));
                ("sched", "moved here".into())
            }
            What::Kick => {
                arg("pcpu", json!(argument));
                ("sched", "kick".into())
            }
            What::Life(life) => ("life", format!("{} {}", self.vm(event.vm), life.name())),
        };
        let ts = self.time(event.tick);
        self.events.push(
            json!({ "ph": "i", "s": "t", "cat": cat, "name": name, "pid": PID, "tid": tid, "ts": ts, "args": args }),
        );
    }

    fn vm(&self, number: u16) -> String {
        self.vms.get(&number).cloned().unwrap_or_else(|| format!("VM {number}"))
    }

    fn who(&self, event: &Event) -> String {
        match (event.vm, event.vcpu) {
            (NOBODY, _) => "nobody".into(),
            (vm, NOBODY) => self.vm(vm),
            (vm, vcpu) => format!("{}/{vcpu}", self.vm(vm)),
        }
    }

    /// Microseconds from the first record on.
    fn time(&self, tick: u64) -> f64 {
        self.span(tick.saturating_sub(self.first))
    }

    /// Ticks in microseconds.
    fn span(&self, ticks: u64) -> f64 {
        ticks as f64 * 1e6 / self.hz
    }
}
