//! Answers as lines of text.

use core::fmt::{self, Write};
use proto::{Answer, DeviceRow, EventKind, EventRow, Page, SwitchRow, VmRow, VmState};

/// Prints an answer. `Some`: the `from` of the next page.
pub fn show(answer: &Answer, out: &mut dyn Write) -> Result<Option<u64>, fmt::Error> {
    match answer {
        Answer::Done => writeln!(out, "ok")?,
        Answer::Machine(m) => {
            writeln!(out, "Merus {} on {}, {} pCPUs", m.merus, m.board, m.pcpus)?;
            writeln!(out, "memory {} KiB, free {} KiB, heap {} bytes", m.memory >> 10, m.memory_free >> 10, m.heap)?;
        }
        Answer::List(page) => return rows(page, out, vm),
        Answer::Info(row) => {
            vm(row, out)?;
            writeln!(
                out,
                "  memory {} KiB, steal {} ms, throttled {} ms, {} exits, {} resets",
                row.memory_used >> 10,
                row.waited_ns / 1_000_000,
                row.throttled_ns / 1_000_000,
                row.exits,
                row.resets
            )?;
        }
        Answer::Vcpus(page) => {
            return rows(page, out, |v, out| {
                let (ran, waited) = (v.ran_ns / 1_000_000, v.waited_ns / 1_000_000);
                writeln!(out, "vCPU {} {:?} on pCPU {}, ran {ran} ms, steal {waited} ms", v.index, v.state, v.pcpu)
            });
        }
        Answer::Devices(page) => return rows(page, out, device),
        Answer::Switches(page) => return rows(page, out, switch),
        Answer::Pcpus(page) => {
            return rows(page, out, |p, out| match &p.running {
                Some((vm, vcpu)) => writeln!(out, "pCPU {}: vm {vm} vCPU {vcpu}, {} wait", p.number, p.ready),
                None => writeln!(out, "pCPU {}: idle, {} wait", p.number, p.ready),
            });
        }
        Answer::Groups(page) => {
            return rows(page, out, |g, out| {
                writeln!(
                    out,
                    "group {}: weight {}, cpu.max {}, {} VMs, memory {} KiB",
                    g.name,
                    g.weight,
                    Cap(g.cpu_max),
                    g.vms,
                    g.memory_used >> 10
                )
            });
        }
        Answer::Objects(page) => {
            return rows(page, out, |o, out| {
                writeln!(out, "{} {} of {} bytes, {} users", o.name, o.there, o.size, o.users)
            });
        }
        Answer::Events(page) => return rows(page, out, event),
        Answer::Log(page) => {
            return rows(page, out, |l, out| writeln!(out, "{:>10} ms {}", l.at_ns / 1_000_000, l.text));
        }
        Answer::Uploaded(_) | Answer::Console(_) | Answer::Typed(_) | Answer::Trace(_) => {}
    }
    Ok(None)
}

fn rows<T>(
    page: &Page<T>,
    out: &mut dyn Write,
    print: impl Fn(&T, &mut dyn Write) -> fmt::Result,
) -> Result<Option<u64>, fmt::Error> {
    page.rows.iter().try_for_each(|row| print(row, out))?;
    Ok(page.more.then_some(page.next))
}

/// `cpu.max` as it is set.
struct Cap(Option<(u64, u64)>);

impl fmt::Display for Cap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some((quota, period)) => write!(f, "{quota} {period}"),
            None => f.write_str("max"),
        }
    }
}

fn vm(row: &VmRow, out: &mut dyn Write) -> fmt::Result {
    let (memory, ran) = (row.memory >> 20, row.ran_ns / 1_000_000);
    writeln!(
        out,
        "{:<16} {:<12} {} vCPUs, {memory} MiB, weight {}, ran {ran} ms",
        row.name, row.state, row.vcpus, row.weight
    )
}

fn device(row: &DeviceRow, out: &mut dyn Write) -> fmt::Result {
    let (c, what) = (&row.counts, &row.what);
    writeln!(
        out,
        "{:<6} {what}: {} in ({} KiB), {} out ({} KiB), {} others, {} errors, {} on their way",
        row.name,
        c.reads,
        c.read_bytes >> 10,
        c.writes,
        c.written_bytes >> 10,
        c.others,
        c.errors,
        c.depth
    )
}

fn switch(row: &SwitchRow, out: &mut dyn Write) -> fmt::Result {
    let SwitchRow { name, ports, learned, uplink } = row;
    write!(out, "switch {name}: {ports} ports, {learned} addresses learned, ")?;
    match uplink {
        Some(c) => writeln!(
            out,
            "uplink: {} in ({} KiB), {} out ({} KiB), {} lost, {} wait",
            c.reads,
            c.read_bytes >> 10,
            c.writes,
            c.written_bytes >> 10,
            c.errors,
            c.depth
        ),
        None => writeln!(out, "no uplink"),
    }
}

fn event(row: &EventRow, out: &mut dyn Write) -> fmt::Result {
    write!(out, "{:>10} ms vm {}: ", row.at_ns / 1_000_000, row.vm)?;
    match &row.kind {
        EventKind::Created => out.write_str("created")?,
        EventKind::Making => out.write_str("being made")?,
        EventKind::Started => out.write_str("started")?,
        EventKind::Paused => out.write_str("paused")?,
        EventKind::Resumed => out.write_str("resumed")?,
        EventKind::Reset => out.write_str("reset")?,
        EventKind::Asked => out.write_str("asked to power off")?,
        EventKind::Stopped(why) => write!(out, "{}", VmState::Stopped(*why))?,
        EventKind::Destroyed => out.write_str("destroyed")?,
        EventKind::Set { key, value } => write!(out, "{key} = {value}")?,
        EventKind::Attached(device) => write!(out, "attached {device}")?,
        EventKind::Detached(device) => write!(out, "detached {device}")?,
        EventKind::Refused(why) => write!(out, "refused: {why}")?,
    }
    writeln!(out)
}

/// A VM's output, each line behind the VM's name. Bytes that are no printable ASCII are shown as `?`: they could write over the name.
pub fn output(vm: &str, bytes: &[u8], within: &mut bool, out: &mut dyn Write) -> fmt::Result {
    for byte in bytes {
        match byte {
            // It is before the line's end, and Merus' own lines have theirs.
            b'\r' => continue,
            _ if !*within => write!(out, "[{vm}] ")?,
            _ => {}
        }
        *within = *byte != b'\n';
        out.write_char(match byte {
            b' '..=b'~' | b'\t' | b'\n' => char::from(*byte),
            _ => '?',
        })?;
    }
    Ok(())
}
