//! What grows: events, and Merus' own lines.

use super::table::stamp;
use super::{Follow, Session, json, say};
use merus_client::{Client, Error};
use proto::{EventKind, EventRow, LogRow, Page};
use std::time::Duration;

/// How often there is a look for more.
const POLL: Duration = Duration::from_millis(200);

/// Prints a page after the other; with --json, a line each.
fn follow<T>(
    s: &mut Session,
    of: &Follow,
    page: impl Fn(&mut Client, u64) -> Result<Page<T>, Error>,
    value: impl Fn(&T) -> serde_json::Value,
    text: impl Fn(&T) -> String,
) -> Result<(), Error> {
    let mut from = of.from;
    loop {
        let page = page(&mut s.client, from)?;
        if page.lost > 0 {
            eprintln!("merus: {} before these were overwritten", page.lost);
        }
        for row in &page.rows {
            say(&if s.json { format!("{}\n", value(row)) } else { text(row) });
        }
        let moved = page.next != from;
        from = page.next;
        match (page.more && moved, of.follow) {
            (true, _) => {}
            (false, true) => std::thread::sleep(POLL),
            (false, false) => return Ok(()),
        }
    }
}

pub fn events(s: &mut Session, of: &Follow) -> Result<(), Error> {
    follow(s, of, Client::events, json::event, line)
}

fn line(row: &EventRow) -> String {
    let what = match &row.kind {
        EventKind::Making => "being made".into(),
        EventKind::Created => "created".into(),
        EventKind::Started => "started".into(),
        EventKind::Paused => "paused".into(),
        EventKind::Resumed => "resumed".into(),
        EventKind::Reset => "reset".into(),
        EventKind::Asked => "asked to power off".into(),
        EventKind::Stopped(kind) => proto::VmState::Stopped(*kind).to_string(),
        EventKind::Destroyed => "destroyed".into(),
        EventKind::Set { key, value } => format!("{key}={value}"),
        EventKind::Attached(device) => format!("attached {device}"),
        EventKind::Detached(device) => format!("detached {device}"),
        EventKind::Refused(why) => format!("could not be made: {why}"),
    };
    format!("{} {}: {what}\n", stamp(row.at_ns), row.vm)
}

pub fn log(s: &mut Session, of: &Follow) -> Result<(), Error> {
    let text = |row: &LogRow| format!("{} {}\n", stamp(row.at_ns), row.text.trim_end());
    follow(s, of, Client::log, json::any, text)
}
