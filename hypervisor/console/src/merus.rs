//! Merus' own lines: whole, with their prefix, or not at all.

use core::fmt::{self, Write};

use crate::mux::MERUS;
use crate::{Mux, Ring};

impl Mux {
    /// What time it is for the lines of Merus that come, in ns.
    pub fn log_at(&mut self, now_ns: u64) {
        self.log.at(now_ns);
    }

    /// Calls `each` with number, time and text of Merus' lines that are kept, from number `from` on, until it says `false`; `buffer`
    /// has room for a line. Returns the number of the oldest line that is kept.
    pub fn log(&self, from: u64, buffer: &mut [u8], each: impl FnMut(u64, u64, &str) -> bool) -> u64 {
        self.log.read(from, buffer, each)
    }

    /// Queues a line of Merus' own (or several: `text` may hold `\n`). `false` where the queue is full; the next line that fits
    /// is preceded by one that says how many did not.
    pub fn merus_line(&mut self, text: &str) -> bool {
        self.merus_fmt(format_args!("{text}"))
    }

    /// As [`Mux::merus_line`], formatted straight into the queue.
    pub fn merus_fmt(&mut self, text: fmt::Arguments<'_>) -> bool {
        let dropped = self.dropped;
        let fits = if dropped == 0 {
            self.merus_write(text)
        } else {
            self.merus_write(format_args!("({dropped} messages did not fit)\n{text}"))
        };
        self.dropped = if fits { 0 } else { dropped.saturating_add(1) };
        self.log.add(text);
        fits
    }

    /// Queues the line that says which VM has the focus. Its name stays where it is: nothing is allocated, because whoever takes
    /// input holds the console's lock.
    pub(crate) fn merus_focus(&mut self, index: usize) -> bool {
        let Some(entry) = self.sources.get_mut(index) else { return false };
        let prefix = core::mem::take(&mut entry.prefix);
        let label = core::str::from_utf8(&prefix).unwrap_or_default().trim_end();
        let fits = self.merus_fmt(format_args!("console: {label} has the focus"));
        if let Some(entry) = self.sources.get_mut(index) {
            entry.prefix = prefix;
        }
        fits
    }

    fn merus_write(&mut self, text: fmt::Arguments<'_>) -> bool {
        let Some(entry) = self.sources.get_mut(MERUS) else { return false };
        let before = entry.ring.len();
        let mut writer = LineWriter { ring: &mut entry.ring, lines: 0, at_start: true };
        let done = writer.write_fmt(text).and_then(|()| writer.finish());
        let lines = writer.lines;
        if done.is_err() {
            entry.ring.truncate(before);
            return false;
        }
        entry.lines = entry.lines.wrapping_add(lines);
        self.queued = self.queued.wrapping_add(entry.ring.len().wrapping_sub(before));
        true
    }
}

/// Writes Merus' lines into its ring: the prefix at each start, `\r\n` at each end.
struct LineWriter<'a> {
    ring: &'a mut Ring,
    lines: usize,
    at_start: bool,
}

impl LineWriter<'_> {
    fn put(&mut self, text: &[u8]) -> fmt::Result {
        if text.iter().all(|byte| self.ring.push(*byte)) { Ok(()) } else { Err(fmt::Error) }
    }

    fn begin(&mut self) -> fmt::Result {
        if core::mem::take(&mut self.at_start) { self.put(b"merus: ") } else { Ok(()) }
    }

    fn end(&mut self) -> fmt::Result {
        self.at_start = true;
        self.lines = self.lines.wrapping_add(1);
        self.put(b"\r\n")
    }

    /// Ends the last line. A text without a byte is an empty line.
    fn finish(&mut self) -> fmt::Result {
        if self.at_start && self.lines != 0 {
            return Ok(());
        }
        self.begin()?;
        self.end()
    }
}

impl Write for LineWriter<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for part in text.split_inclusive('\n') {
            self.begin()?;
            match part.strip_suffix('\n') {
                Some(line) => {
                    self.put(line.as_bytes())?;
                    self.end()?;
                }
                None => self.put(part.as_bytes())?,
            }
        }
        Ok(())
    }
}
