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
//! focus and the shell are ready with any byte. Merus comes first, the VMs take turns by lines.

use alloc::{boxed::Box, format, vec::Vec};

mod drain;

use crate::backlog::{Backlog, Log};
use crate::prompt::Prompt;
use crate::{Ring, Uart};

/// How long a part of a line may wait for its end, in nanoseconds.
pub const IDLE_NS: u64 = 100_000_000;
/// How long a source that is ready may wait for the end of another's line that goes on and on, in nanoseconds.
pub const WAIT_NS: u64 = 1_000_000_000;
/// How long a line may get while another source is ready, in bytes.
pub const LINE_BYTES: usize = 1024;
/// The ring of a VM, in bytes.
pub const SOURCE_BYTES: usize = 4096;
/// How much of a VM's output is kept to be read again, in bytes.
pub const BACKLOG_BYTES: usize = 16384;
/// The queue of Merus' own lines, in bytes.
pub const MERUS_BYTES: usize = 16384;

/// One VM's place at the console, given by [`Mux::add_source`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SourceId(usize);

impl SourceId {
    /// The management shell's place.
    pub const SHELL: Self = Self(SHELL);

    pub(crate) const fn from_index(index: usize) -> Self {
        Self(index.wrapping_add(VMS))
    }
    /// The VM's position, from 0 in the order of [`Mux::add_source`].
    pub const fn index(self) -> usize {
        self.0.wrapping_sub(VMS)
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
pub(crate) const MERUS: usize = 0;
/// The index of the management shell.
pub(crate) const SHELL: usize = 1;
/// The index of the first VM.
pub(crate) const VMS: usize = 2;
/// No source.
pub(crate) const NONE: usize = usize::MAX;

pub(crate) struct Source {
    /// `[name] ` and `[name]+ `; empty for Merus and the shell, who have theirs in their rings.
    pub(crate) prefix: Box<[u8]>,
    continuation: Box<[u8]>,
    pub(crate) ring: Ring,
    /// What it has printed; what Merus' own lines were is in the log.
    pub(crate) kept: Option<Backlog>,
    /// Nobody's any more; another VM may have it once its ring is empty.
    free: bool,
    /// Line ends in the ring.
    pub(crate) lines: usize,
    /// When a drain first saw the bytes that wait now.
    since: Option<u64>,
    /// Its line was broken off by another's.
    pub(crate) broken: bool,
    /// A byte was refused since the ring last was half empty.
    pub(crate) refused: bool,
    /// To be named by `next_relieved`.
    relieved: bool,
}

impl Source {
    fn new(prefix: &str, continuation: &str, capacity: usize) -> Self {
        Self {
            prefix: prefix.as_bytes().into(),
            continuation: continuation.as_bytes().into(),
            ring: Ring::new(capacity),
            kept: None,
            free: false,
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

/// The multiplexer. One lock around it is enough; no method blocks.
pub struct Mux {
    pub(crate) sources: Vec<Source>,
    /// Bytes in all rings.
    pub(crate) queued: usize,
    pub(crate) focus: usize,
    /// Who owns the open line, or [`NONE`].
    pub(crate) owner: usize,
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
    /// Merus' last lines.
    pub(crate) log: Log,
    /// Lines of Merus that did not fit since the last one that did.
    pub(crate) dropped: u32,
    pub(crate) escaped: bool,
    pub(crate) prompt: Prompt,
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
            sources: Vec::from([Source::new("", "", MERUS_BYTES), Source::new("", "", SOURCE_BYTES)]),
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
            log: Log::new(),
            dropped: 0,
            escaped: false,
            prompt: Prompt::new(),
        }
    }

    /// A place for the VM `name`, with a ring of its own (allocates). The first one gets the focus.
    pub fn add_source(&mut self, name: &str) -> SourceId {
        let mut source = Source::new(&format!("[{name}] "), &format!("[{name}]+ "), SOURCE_BYTES);
        source.kept = Some(Backlog::new(BACKLOG_BYTES));
        let reusable =
            |(index, s): &(usize, &mut Source)| *index >= VMS && s.free && s.ring.is_empty() && *index != self.owner;
        let index = match self.sources.iter_mut().enumerate().find(reusable) {
            Some((index, place)) => {
                *place = source;
                index
            }
            None => {
                self.sources.push(source);
                self.sources.len().saturating_sub(1)
            }
        };
        if self.sources() == 1 {
            match self.focus {
                NONE => self.focus = index,
                SHELL if self.prompt.before == NONE => self.prompt.before = index,
                _ => {}
            }
        }
        self.update_direct();
        SourceId(index)
    }

    /// Gives up a VM's place: its backlog is gone, what it has not printed yet still goes out. The focus goes to the next VM.
    pub fn remove_source(&mut self, source: SourceId) {
        let Some(entry) = self.sources.get_mut(source.0).filter(|_| source.0 >= VMS) else { return };
        entry.free = true;
        entry.kept = None;
        let next = self.nth(0).unwrap_or(NONE);
        if self.prompt.before == source.0 {
            self.prompt.before = next;
        }
        if self.focus == source.0 {
            self.focus = next;
            self.update_direct();
        }
    }

    /// How many VMs there are.
    pub fn sources(&self) -> usize {
        self.sources.iter().skip(VMS).filter(|s| !s.free).count()
    }

    /// The table's index of the `n`-th VM.
    pub(crate) fn nth(&self, n: usize) -> Option<usize> {
        self.sources.iter().enumerate().skip(VMS).filter(|(_, s)| !s.free).map(|(index, _)| index).nth(n)
    }

    /// How manieth VM has the focus.
    pub(crate) fn focus_rank(&self) -> Option<usize> {
        let live = self.sources.iter().enumerate().skip(VMS).filter(|(_, s)| !s.free);
        live.map(|(index, _)| index).position(|index| index == self.focus)
    }

    /// What a VM has printed, from byte `from` on: fills `into` and says where its first byte was and how many there are.
    pub fn read_back(&self, source: SourceId, from: u64, into: &mut [u8]) -> (u64, usize) {
        match self.sources.get(source.0).and_then(|s| s.kept.as_ref()) {
            Some(kept) => kept.read(from, into),
            None => (from, 0),
        }
    }

    /// How many bytes a VM has printed.
    pub fn printed(&self, source: SourceId) -> u64 {
        self.sources.get(source.0).and_then(|s| s.kept.as_ref()).map_or(0, Backlog::total)
    }

    /// The VM that has the focus.
    pub fn focus(&self) -> Option<SourceId> {
        (VMS..NONE).contains(&self.focus).then_some(SourceId(self.focus))
    }

    /// Gives the focus to a VM, or to none (then every line has a prefix, and input goes nowhere). A line that is open
    /// goes on as it began.
    pub fn set_focus(&mut self, focus: Option<SourceId>) {
        self.leave_prompt();
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
        if let Some(kept) = &mut entry.kept {
            kept.push(byte);
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
        if let Some(kept) = self.sources.get_mut(source.0).and_then(|s| s.kept.as_mut()) {
            kept.push(byte);
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

    /// Takes the name of one VM whose pushes were refused and whose ring is half empty again.
    pub fn next_relieved(&mut self) -> Option<SourceId> {
        let (index, entry) = self.sources.iter_mut().enumerate().find(|(_, s)| s.relieved)?;
        entry.relieved = false;
        Some(SourceId(index))
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

    /// Whether this one's bytes are shown only as far as they cannot deceive ([`crate::prompt`]).
    #[inline]
    fn is_tamed(&self, owner: usize) -> bool {
        self.prompt.open && owner >= VMS
    }

    /// Who may begin a line without a prefix.
    fn direct_at_start(&self) -> usize {
        match self.sources.get(self.focus) {
            Some(entry) if !entry.broken => self.focus,
            _ => NONE,
        }
    }

    pub(crate) fn update_direct(&mut self) {
        self.direct = match (self.owner, self.lead) {
            (NONE, Lead::None) => self.direct_at_start(),
            (NONE, _) => NONE,
            (owner, _) if self.is_tamed(owner) => NONE,
            (owner, _) => owner,
        };
    }
}
