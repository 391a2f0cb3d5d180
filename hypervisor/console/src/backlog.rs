//! What was printed, kept to be read again: a VM's last bytes, and Merus' last lines.

use alloc::{boxed::Box, vec};
use core::fmt::{self, Write};

/// How much of Merus' own lines is kept, in bytes.
pub const LOG_BYTES: usize = 16384;

/// The last bytes of a stream, by their position in it.
#[derive(Debug)]
pub(crate) struct Backlog {
    bytes: Box<[u8]>,
    total: u64,
}

impl Backlog {
    /// Room for `capacity` bytes (rounded up to a power of two).
    pub(crate) fn new(capacity: usize) -> Self {
        Self { bytes: vec![0; capacity.max(1).next_power_of_two()].into_boxed_slice(), total: 0 }
    }

    #[inline]
    fn slot(&self, position: u64) -> usize {
        (position as usize) & self.bytes.len().wrapping_sub(1)
    }

    /// Appends a byte; the oldest is forgotten where there is no room.
    #[inline]
    pub(crate) fn push(&mut self, byte: u8) {
        let at = self.slot(self.total);
        if let Some(slot) = self.bytes.get_mut(at) {
            *slot = byte;
        }
        self.total = self.total.wrapping_add(1);
    }

    /// How many bytes there were in all.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// The position of the oldest byte that is there.
    pub(crate) fn first(&self) -> u64 {
        self.total.saturating_sub(self.bytes.len() as u64)
    }

    /// Fills `into` from position `from` on, or from the oldest byte if that is later. Returns the position of its first byte
    /// and how many there are.
    pub(crate) fn read(&self, from: u64, into: &mut [u8]) -> (u64, usize) {
        let start = from.clamp(self.first(), self.total);
        let count = usize::try_from(self.total.saturating_sub(start)).unwrap_or(usize::MAX).min(into.len());
        for (offset, to) in into.iter_mut().take(count).enumerate() {
            let at = self.slot(start.wrapping_add(offset as u64));
            *to = self.bytes.get(at).copied().unwrap_or(0);
        }
        (start, count)
    }
}

/// Lines of text, numbered, each with a time. A line is kept whole or not at all.
///
/// In the ring: the line's number (8 bytes), its time (8), its length (2), its text.
#[derive(Debug)]
pub(crate) struct Log {
    ring: Backlog,
    /// Where the oldest whole line begins.
    oldest: u64,
    next: u64,
    now_ns: u64,
}

const HEAD: u64 = 18;

impl Log {
    pub(crate) fn new() -> Self {
        Self { ring: Backlog::new(LOG_BYTES), oldest: 0, next: 0, now_ns: 0 }
    }

    /// What time it is for the lines that come.
    pub(crate) fn at(&mut self, now_ns: u64) {
        self.now_ns = now_ns;
    }

    /// Adds a text; each of its lines counts.
    pub(crate) fn add(&mut self, text: fmt::Arguments<'_>) {
        let mut measure = Measure { line: 0, lengths: [0; LINES], lines: 0 };
        let _ = measure.write_fmt(text);
        // The end of the last line begins no other.
        let last = usize::from(measure.line != 0 || measure.lines == 0);
        let count = measure.lines.saturating_add(last).min(LINES);
        let mut writer = Writer { log: self, lengths: &measure.lengths, at: 0, left: 0, done: 0, count };
        writer.begin();
        let _ = writer.write_fmt(text);
        // A text whose parts differ from one formatting to the next would leave a line short.
        while writer.left != 0 {
            writer.byte(b' ');
        }
    }

    fn long(&self, at: u64) -> u64 {
        let mut bytes = [0; 8];
        self.ring.read(at, &mut bytes);
        u64::from_le_bytes(bytes)
    }

    fn length(&self, at: u64) -> u64 {
        let mut bytes = [0; 2];
        self.ring.read(at.wrapping_add(16), &mut bytes);
        u16::from_le_bytes(bytes).into()
    }

    /// Makes room for a line of `length` bytes at the end.
    fn room(&mut self, length: u16) {
        let end = self.ring.total().wrapping_add(HEAD).wrapping_add(length.into());
        let limit = end.saturating_sub(LOG_BYTES as u64);
        while self.oldest < limit && self.oldest < self.ring.total() {
            self.oldest = self.oldest.wrapping_add(HEAD).wrapping_add(self.length(self.oldest));
        }
    }

    /// Calls `each` with number, time and text of the lines from number `from` on, until it says `false`. Returns the number of
    /// the oldest line that is there.
    pub(crate) fn read(&self, from: u64, buffer: &mut [u8], mut each: impl FnMut(u64, u64, &str) -> bool) -> u64 {
        let mut at = self.oldest;
        let first = if at < self.ring.total() { self.long(at) } else { self.next };
        while at < self.ring.total() {
            let (number, time, length) = (self.long(at), self.long(at.wrapping_add(8)), self.length(at));
            if number >= from {
                let want = usize::try_from(length).unwrap_or(0).min(buffer.len());
                let text = buffer.get_mut(..want).unwrap_or_default();
                self.ring.read(at.wrapping_add(HEAD), text);
                if !each(number, time, core::str::from_utf8(text).unwrap_or("?")) {
                    break;
                }
            }
            at = at.wrapping_add(HEAD).wrapping_add(length);
        }
        first
    }
}

/// The most lines of one text that are kept, and the most bytes of a line.
const LINES: usize = 16;
const LONGEST: u16 = 1024;

struct Measure {
    line: u16,
    lengths: [u16; LINES],
    lines: usize,
}

impl Write for Measure {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                self.lines = self.lines.saturating_add(1);
                self.line = 0;
            } else {
                self.line = self.line.saturating_add(1).min(LONGEST);
                if let Some(length) = self.lengths.get_mut(self.lines) {
                    *length = self.line;
                }
            }
        }
        Ok(())
    }
}

struct Writer<'a> {
    log: &'a mut Log,
    lengths: &'a [u16; LINES],
    at: usize,
    left: u16,
    done: usize,
    count: usize,
}

impl Writer<'_> {
    fn begin(&mut self) {
        let Some(length) = self.lengths.get(self.at).copied().filter(|_| self.at < self.count) else { return };
        self.log.room(length);
        let (number, time) = (self.log.next, self.log.now_ns);
        let head = number.to_le_bytes().into_iter().chain(time.to_le_bytes()).chain(length.to_le_bytes());
        head.for_each(|byte| self.log.ring.push(byte));
        self.log.next = number.wrapping_add(1);
        self.left = length;
    }

    fn byte(&mut self, byte: u8) {
        if let Some(left) = self.left.checked_sub(1) {
            self.left = left;
            self.log.ring.push(byte);
            self.done = self.done.wrapping_add(1);
        }
    }
}

impl Write for Writer<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                while self.left != 0 {
                    self.byte(b' ');
                }
                self.at = self.at.saturating_add(1);
                self.begin();
            } else {
                self.byte(byte);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::{String, ToString};
    use alloc::vec::Vec;

    fn lines(log: &Log, from: u64) -> (u64, Vec<(u64, u64, String)>) {
        let mut found = Vec::new();
        let first = log.read(from, &mut [0; 2048], |number, time, text| {
            found.push((number, time, text.to_string()));
            true
        });
        (first, found)
    }

    #[test]
    fn the_last_bytes_are_there_by_their_position() {
        let mut kept = Backlog::new(8);
        (0..20).for_each(|n| kept.push(n));
        let mut into = [0; 5];
        assert_eq!((kept.read(0, &mut into), into), ((12, 5), [12, 13, 14, 15, 16]));
        assert_eq!((kept.read(17, &mut into), &into[..3]), ((17, 3), &[17, 18, 19][..]));
        assert_eq!(kept.read(99, &mut into), (20, 0));
        assert_eq!(Backlog::new(8).read(0, &mut into), (0, 0));
    }

    #[test]
    fn lines_are_numbered_and_timed() {
        let mut log = Log::new();
        log.at(5);
        log.add(format_args!("one {}", 1));
        log.at(6);
        log.add(format_args!("two\nthree"));
        log.add(format_args!(""));
        let expected = [(0, 5, "one 1"), (1, 6, "two"), (2, 6, "three"), (3, 6, "")];
        assert_eq!(lines(&log, 0), (0, expected.map(|(n, t, s)| (n, t, s.to_string())).to_vec()));
        assert_eq!(lines(&log, 2).1.len(), 2);
        assert_eq!(lines(&log, 9).1.len(), 0);
    }

    #[test]
    #[cfg_attr(miri, ignore = "5000 lines, so that the log is full several times; a ring is by other tests")]
    fn the_oldest_lines_go_whole() {
        let mut log = Log::new();
        for n in 0..5000 {
            log.add(format_args!("line {n}{:>1$}", "x", n % 40 + 1));
        }
        let (first, found) = lines(&log, 0);
        assert!(first > 0 && found.len() > LOG_BYTES / 80);
        assert_eq!((found[0].0, found.last().unwrap().0), (first, 4999));
        for (at, (number, _, text)) in found.iter().enumerate() {
            assert_eq!(*number, first + at as u64);
            assert!(text.starts_with("line ") && text.ends_with('x'), "{text}");
        }
    }

    #[test]
    fn an_end_of_line_at_the_end_begins_no_other() {
        let mut log = Log::new();
        log.add(format_args!("a\n\nb\n"));
        let texts: Vec<String> = lines(&log, 0).1.into_iter().map(|(_, _, text)| text).collect();
        assert_eq!(texts, ["a", "", "b"]);
    }

    #[test]
    fn a_line_too_long_and_lines_too_many_are_cut() {
        let mut log = Log::new();
        log.add(format_args!("{:>3000}\nnext", "x"));
        let (_, found) = lines(&log, 0);
        assert_eq!((found[0].2.len(), found[1].2.as_str()), (1024, "next"));
        let many = "a\n".repeat(40);
        log.add(format_args!("{many}"));
        assert_eq!(lines(&log, 0).1.len(), 2 + LINES);
    }
}
