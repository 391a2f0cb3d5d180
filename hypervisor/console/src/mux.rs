//! Whose byte goes to the UART next.
//!
//! The output is at the start of a line or within a line that one source owns:
//!
//! | state | event | then |
//! |---|---|---|
//! | start of a line | a source is ready | its prefix, and the line is its own |
//! | owned line | the owner has bytes | they go out; `\n` leads to the start of a line |
//! | owned line | the owner has none, another is ready, the line is stale | `\r\n`, and the start of a line; the owner is "broken" |
//! | any | the UART takes no byte | the next drain goes on at the same byte |
//!
//! A source is ready when it has a complete line, or a full ring, or bytes that have waited for [`IDLE_NS`]; Merus and the
//! focus are ready with any byte. Merus comes first, the VMs take turns by lines.

use alloc::{boxed::Box, format, vec::Vec};
use core::fmt::{self, Write};

use crate::{Ring, Uart};

/// How long a part of a line may wait for its end, in nanoseconds.
pub const IDLE_NS: u64 = 100_000_000;
/// How long a source that is ready may wait for the end of another's line that goes on and on, in nanoseconds.
pub const WAIT_NS: u64 = 1_000_000_000;
/// How long a line may get while another source is ready, in bytes.
pub const LINE_BYTES: usize = 1024;
/// The ring of a VM, in bytes.
pub const SOURCE_BYTES: usize = 4096;
/// The queue of Merus' own lines, in bytes.
pub const MERUS_BYTES: usize = 16384;

/// One VM's place at the console, given by [`Mux::add_source`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SourceId(usize);

impl SourceId {
    pub(crate) const fn from_index(index: usize) -> Self {
        // 0 is Merus itself.
        Self(index.wrapping_add(1))
    }
    /// The VM's position, from 0 in the order of [`Mux::add_source`].
    pub const fn index(self) -> usize {
        self.0.wrapping_sub(1)
    }
}

/// What became of a byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "a byte that was refused has to be offered again"]
pub enum Pushed {
    /// It went to the UART.
    Sent,
    /// It waits in the source's ring. `drain`: call [`Mux::drain`] now, something may go out or a deadline begins.
    Queued {
        /// Whether a drain is worth a call.
        drain: bool,
    },
    /// The ring is full: the byte stays with the caller, and [`Mux::next_relieved`] will name the source.
    Full,
}

/// What a drain left behind.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DrainResult {
    /// When to drain again at the latest, in nanoseconds of the clock passed in; `None`: not before something is pushed.
    pub next_deadline: Option<u64>,
    /// The UART took no more; drain again when it has room.
    pub uart_full: bool,
    /// [`Mux::next_relieved`] has sources to name.
    pub relieved: bool,
}

/// The index of Merus' own lines in the table of sources.
const MERUS: usize = 0;
/// No source.
const NONE: usize = usize::MAX;

struct Source {
    /// `[name] ` and `[name]+ `; empty for Merus, whose prefix is in its ring.
    prefix: Box<[u8]>,
    continuation: Box<[u8]>,
    ring: Ring,
    /// Line ends in the ring.
    lines: usize,
    /// When a drain first saw the bytes that wait now.
    since: Option<u64>,
    /// Its line was broken off by another's.
    broken: bool,
    /// A byte was refused since the ring last was half empty.
    refused: bool,
    /// To be named by `next_relieved`.
    relieved: bool,
}

impl Source {
    fn new(prefix: &str, continuation: &str, capacity: usize) -> Self {
        Self {
            prefix: prefix.as_bytes().into(),
            continuation: continuation.as_bytes().into(),
            ring: Ring::new(capacity),
            lines: 0,
            since: None,
            broken: false,
            refused: false,
            relieved: false,
        }
    }
}

/// What is printed between lines: nothing, the end of a broken line, or what begins the owner's line.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lead {
    None,
    Break,
    Prefix,
    Continuation,
}

/// How a stretch of output ended.
enum Emitted {
    UartFull,
    LineEnd,
    Dry,
}

/// The multiplexer. One lock around it is enough; no method blocks.
pub struct Mux {
    sources: Vec<Source>,
    /// Bytes in all rings.
    queued: usize,
    pub(crate) focus: usize,
    /// Who owns the open line, or [`NONE`].
    owner: usize,
    /// Whose next byte needs neither a lead nor a turn while nothing is queued: the owner, or at the start of a line the focus.
    direct: usize,
    lead: Lead,
    lead_at: usize,
    /// Bytes in the open line.
    length: usize,
    /// When the open line last grew; `touched` stands for "since the last drain".
    grown: u64,
    touched: bool,
    /// Since when a ready source waits for the end of the open line.
    waiting: Option<u64>,
    /// Who is looked at first for the next line.
    turn: usize,
    /// Lines of Merus that did not fit since the last one that did.
    dropped: u32,
    pub(crate) escaped: bool,
}

impl Default for Mux {
    fn default() -> Self {
        Self::new()
    }
}

impl Mux {
    /// A console with no VM yet, at the start of a line.
    pub fn new() -> Self {
        Self {
            sources: Vec::from([Source::new("", "", MERUS_BYTES)]),
            queued: 0,
            focus: NONE,
            owner: NONE,
            direct: NONE,
            lead: Lead::None,
            lead_at: 0,
            length: 0,
            grown: 0,
            touched: false,
            waiting: None,
            turn: MERUS,
            dropped: 0,
            escaped: false,
        }
    }

    /// A place for the VM `name`, with a ring of its own (allocates). The first one gets the focus.
    pub fn add_source(&mut self, name: &str) -> SourceId {
        let index = self.sources.len();
        self.sources.push(Source::new(&format!("[{name}] "), &format!("[{name}]+ "), SOURCE_BYTES));
        if index == 1 {
            self.focus = index;
        }
        self.update_direct();
        SourceId(index)
    }

    /// How many VMs there are.
    pub fn sources(&self) -> usize {
        self.sources.len().saturating_sub(1)
    }

    /// The VM that has the focus.
    pub fn focus(&self) -> Option<SourceId> {
        (self.focus != NONE).then_some(SourceId(self.focus))
    }

    /// Gives the focus to a VM, or to none (then every line has a prefix, and input goes nowhere). A line that is open
    /// goes on as it began.
    pub fn set_focus(&mut self, focus: Option<SourceId>) {
        self.focus = focus.map_or(NONE, |s| s.0);
        self.update_direct();
    }

    /// Queues one byte that a VM sends.
    pub fn push(&mut self, source: SourceId, byte: u8) -> Pushed {
        let Some(entry) = self.sources.get_mut(source.0) else { return Pushed::Full };
        if !entry.ring.push(byte) {
            entry.refused = true;
            return Pushed::Full;
        }
        if byte == b'\n' {
            entry.lines = entry.lines.wrapping_add(1);
        }
        self.queued = self.queued.wrapping_add(1);
        let first = entry.ring.len() == 1;
        let drain = first || byte == b'\n' || entry.ring.is_full() || source.0 == self.owner || source.0 == self.focus;
        Pushed::Queued { drain }
    }

    /// Takes one byte that a VM sends, past the rings where nothing is in its way: the path of the VM with the focus.
    #[inline]
    pub fn push_through(&mut self, source: SourceId, byte: u8, out: &mut impl Uart) -> Pushed {
        if self.queued != 0 || self.direct != source.0 || !out.try_put(byte) {
            return self.push(source, byte);
        }
        self.touched = true;
        self.grow(source.0, byte);
        Pushed::Sent
    }

    /// Whether there is room for one more byte of this source.
    #[inline]
    pub fn has_room(&self, source: SourceId) -> bool {
        self.sources.get(source.0).is_some_and(|s| !s.ring.is_full())
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

    /// Sends what may go out at `now_ns`, as far as the UART takes it.
    pub fn drain(&mut self, now_ns: u64, out: &mut impl Uart) -> DrainResult {
        self.drain_until(Clock { now: now_ns, force: false }, out)
    }

    /// Sends everything without regard to time, for the end and for a fatal error: parts of lines as well, each on a line of
    /// its own. To be repeated while the UART is full.
    pub fn finish(&mut self, out: &mut impl Uart) -> DrainResult {
        let mut result = self.drain_until(Clock { now: self.grown, force: true }, out);
        if !result.uart_full && self.owner != NONE {
            self.break_line();
            result.uart_full = !self.emit_lead(out);
        }
        result
    }

    /// Takes the name of one VM whose pushes were refused and whose ring is half empty again.
    pub fn next_relieved(&mut self) -> Option<SourceId> {
        let (index, entry) = self.sources.iter_mut().enumerate().find(|(_, s)| s.relieved)?;
        entry.relieved = false;
        Some(SourceId(index))
    }

    fn drain_until(&mut self, clock: Clock, out: &mut impl Uart) -> DrainResult {
        if self.touched {
            self.touched = false;
            self.grown = clock.now;
        }
        let mut result = DrainResult::default();
        loop {
            if !self.emit_lead(out) {
                result.uart_full = true;
                break;
            }
            if self.owner == NONE {
                let (ready, deadline) = self.next_ready(clock);
                let Some(next) = ready else {
                    result.next_deadline = deadline;
                    break;
                };
                self.open_line(next, clock.now);
                continue;
            }
            match self.emit_line(clock, out) {
                Emitted::UartFull => {
                    result.uart_full = true;
                    break;
                }
                Emitted::LineEnd => {}
                Emitted::Dry if self.queued == 0 => break,
                Emitted::Dry => match self.wait_for_line_end(clock) {
                    Some(deadline) => {
                        result.next_deadline = Some(deadline);
                        break;
                    }
                    None => self.break_line(),
                },
            }
        }
        result.relieved = self.sources.iter().any(|s| s.relieved);
        result
    }

    /// Prints what is left of the lead; `false` where the UART is full.
    fn emit_lead(&mut self, out: &mut impl Uart) -> bool {
        let owner = self.sources.get(self.owner);
        let text: &[u8] = match (self.lead, owner) {
            (Lead::Break, _) => b"\r\n",
            (Lead::Prefix, Some(s)) => &s.prefix,
            (Lead::Continuation, Some(s)) => &s.continuation,
            (Lead::None, _) | (_, None) => return true,
        };
        while let Some(byte) = text.get(self.lead_at) {
            if !out.try_put(*byte) {
                return false;
            }
            self.lead_at = self.lead_at.wrapping_add(1);
        }
        self.lead = Lead::None;
        self.update_direct();
        true
    }

    /// Prints the owner's bytes up to the end of its line.
    fn emit_line(&mut self, clock: Clock, out: &mut impl Uart) -> Emitted {
        let owner = self.owner;
        loop {
            let Some(entry) = self.sources.get_mut(owner) else { return Emitted::Dry };
            let Some(byte) = entry.ring.first() else { return Emitted::Dry };
            let alone = self.queued == entry.ring.len();
            if self.length >= LINE_BYTES && !alone && owner != MERUS && self.next_ready(clock).0.is_some() {
                self.break_line();
                return Emitted::LineEnd;
            }
            if !out.try_put(byte) {
                return Emitted::UartFull;
            }
            self.take(owner);
            self.grown = clock.now;
            self.grow(owner, byte);
            if self.owner == NONE {
                return Emitted::LineEnd;
            }
        }
    }

    /// Takes the byte that went out from its ring.
    fn take(&mut self, index: usize) {
        let Some(entry) = self.sources.get_mut(index) else { return };
        if entry.ring.pop() == Some(b'\n') {
            entry.lines = entry.lines.wrapping_sub(1);
        }
        self.queued = self.queued.wrapping_sub(1);
        if entry.refused && entry.ring.len() <= entry.ring.capacity() >> 1 {
            entry.refused = false;
            entry.relieved = true;
        }
    }

    /// The line of `owner` has grown by `byte`, and ends with `\n`.
    #[inline]
    fn grow(&mut self, owner: usize, byte: u8) {
        if byte == b'\n' {
            self.owner = NONE;
            self.length = 0;
            self.waiting = None;
            // A broken source has got its continuation by now, so that the focus may begin its next line directly.
            self.direct = if self.focus == owner { owner } else { self.direct_at_start() };
        } else {
            self.owner = owner;
            self.direct = owner;
            self.length = self.length.wrapping_add(1);
        }
    }

    fn open_line(&mut self, index: usize, now: u64) {
        let Some(entry) = self.sources.get_mut(index) else { return };
        self.lead = if core::mem::take(&mut entry.broken) {
            Lead::Continuation
        } else if index == self.focus || index == MERUS {
            Lead::None
        } else {
            Lead::Prefix
        };
        entry.since = None;
        self.lead_at = 0;
        self.length = 0;
        self.waiting = None;
        self.grown = now;
        self.owner = index;
        self.direct = index;
        if index != MERUS {
            self.turn = index.wrapping_add(1);
        }
    }

    /// Ends the open line in the middle; its owner goes on later.
    fn break_line(&mut self) {
        if let Some(entry) = self.sources.get_mut(self.owner) {
            entry.broken = true;
        }
        self.owner = NONE;
        self.lead = Lead::Break;
        self.lead_at = 0;
        self.length = 0;
        self.waiting = None;
        // Nobody's, until the line end is out.
        self.direct = NONE;
    }

    /// The open line's owner is dry. `None`: break the line now. Otherwise the time to look again; there is one, since
    /// another source has bytes.
    fn wait_for_line_end(&mut self, clock: Clock) -> Option<u64> {
        let (ready, deadline) = self.next_ready(clock);
        if ready.is_none() {
            return Some(deadline.unwrap_or(clock.now.saturating_add(IDLE_NS)));
        }
        let since = *self.waiting.get_or_insert(clock.now);
        let at = self.grown.saturating_add(IDLE_NS).min(since.saturating_add(WAIT_NS));
        (clock.now < at && !clock.force).then_some(at)
    }

    /// The source, other than the owner of the open line, whose line comes next; or when one will be ready.
    fn next_ready(&mut self, clock: Clock) -> (Option<usize>, Option<u64>) {
        if self.owner != MERUS && self.sources.get(MERUS).is_some_and(|s| !s.ring.is_empty()) {
            return (Some(MERUS), None);
        }
        let (count, turn, owner, focus) = (self.sources.len(), self.turn, self.owner, self.focus);
        let mut deadline: Option<u64> = None;
        let (before, after) = self.sources.split_at_mut(turn.min(count));
        let in_turn = (turn..).zip(after).chain((0..).zip(before));
        for (index, entry) in in_turn {
            if index == owner || index == MERUS || entry.ring.is_empty() {
                continue;
            }
            let since = *entry.since.get_or_insert(clock.now);
            let at = since.saturating_add(IDLE_NS);
            let whole = entry.lines != 0 || entry.ring.is_full() || index == focus;
            if whole || clock.force || clock.now >= at {
                return (Some(index), None);
            }
            deadline = Some(deadline.map_or(at, |d| d.min(at)));
        }
        (None, deadline)
    }

    /// Who may begin a line without a prefix.
    fn direct_at_start(&self) -> usize {
        match self.sources.get(self.focus) {
            Some(entry) if !entry.broken => self.focus,
            _ => NONE,
        }
    }

    fn update_direct(&mut self) {
        self.direct = match (self.owner, self.lead) {
            (NONE, Lead::None) => self.direct_at_start(),
            (NONE, _) => NONE,
            (owner, _) => owner,
        };
    }

    /// The name of a VM, as its prefix has it.
    pub(crate) fn label(&self, index: usize) -> Option<&str> {
        core::str::from_utf8(&self.sources.get(index)?.prefix).ok().map(str::trim_end)
    }
}

/// The time of a drain, and whether waiting is over.
#[derive(Clone, Copy)]
struct Clock {
    now: u64,
    force: bool,
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
