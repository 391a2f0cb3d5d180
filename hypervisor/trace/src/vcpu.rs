//! How one vCPU's time went.

use crate::histogram::{Histogram, grow};
use crate::{Reason, Why};
use alloc::boxed::Box;
use core::sync::atomic::{AtomicU64, Ordering};

/// A stretch of a vCPU's time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Span {
    /// In the guest, from an entry to the next exit. A WFI that does not exit is part of it.
    Guest = 0,
    /// Blocked, until something woke it.
    Blocked = 1,
    /// From being woken to getting a pCPU: the wake-up's latency. From the interrupt to the entry, where it slept in place.
    Wake = 2,
    /// From losing the pCPU, though it had something to do, to getting it again: what was stolen from it.
    Steal = 3,
    /// From using up what it may have in a period to being ready again.
    Throttled = 4,
}

impl Span {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Guest, Self::Blocked, Self::Wake, Self::Steal, Self::Throttled];

    /// Its name, as people and tools read it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Guest => "guest",
            Self::Blocked => "blocked",
            Self::Wake => "wake",
            Self::Steal => "steal",
            Self::Throttled => "throttled",
        }
    }
}

/// Histograms of a vCPU, in ticks. Written by the pCPU that has it; read by anyone.
#[derive(Debug)]
pub struct VcpuTrace {
    /// By [`Reason`].
    exits: Box<[Histogram]>,
    /// By [`Span`].
    spans: Box<[Histogram]>,
    shown: AtomicU64,
    /// When it left its pCPU, and why, as `Why as u64 + 1`; 0 for not at all.
    left_at: AtomicU64,
    left_why: AtomicU64,
}

impl Default for VcpuTrace {
    fn default() -> Self {
        Self::new()
    }
}

impl VcpuTrace {
    /// An empty one. Some 5 KiB are allocated, here and never again.
    pub fn new() -> Self {
        Self {
            exits: Reason::ALL.iter().map(|_| Histogram::new()).collect(),
            spans: Span::ALL.iter().map(|_| Histogram::new()).collect(),
            shown: AtomicU64::new(0),
            left_at: AtomicU64::new(0),
            left_why: AtomicU64::new(0),
        }
    }

    /// Ticks at EL2 by reason: from an exit to the next entry.
    pub fn exits(&self, reason: Reason) -> Option<&Histogram> {
        self.exits.get(reason as usize)
    }

    /// Ticks by what the vCPU was doing.
    pub fn spans(&self, span: Span) -> Option<&Histogram> {
        self.spans.get(span as usize)
    }

    /// How many interrupts were put into its list registers as pending.
    pub fn shown(&self) -> u64 {
        self.shown.load(Ordering::Relaxed)
    }

    /// An exit has ended by an entry, `ticks` later.
    pub fn exit(&self, reason: Reason, ticks: u64) {
        if let Some(histogram) = self.exits(reason) {
            histogram.record(ticks);
        }
    }

    /// A stretch has ended.
    pub fn span(&self, span: Span, ticks: u64) {
        if let Some(histogram) = self.spans(span) {
            histogram.record(ticks);
        }
    }

    /// An interrupt was put into a list register as pending.
    pub fn show(&self) {
        grow(&self.shown, 1);
    }

    /// The vCPU has left its pCPU at `tick`.
    pub fn left(&self, why: Why, tick: u64) {
        self.left_at.store(tick, Ordering::Relaxed);
        self.left_why.store(u64::from(why as u8).saturating_add(1), Ordering::Relaxed);
    }

    /// It gets a pCPU at `tick`, having been ready for the last `ready` ticks of its absence: what it did before that, blocked or
    /// robbed, is counted.
    pub fn back(&self, tick: u64, ready: u64) {
        let why = self.left_why.swap(0, Ordering::Relaxed).checked_sub(1).and_then(|code| Why::of(code as u8));
        let away = tick.saturating_sub(self.left_at.load(Ordering::Relaxed));
        match why {
            Some(Why::Blocked) => {
                self.span(Span::Blocked, away.saturating_sub(ready));
                self.span(Span::Wake, ready);
            }
            Some(Why::Preempted | Why::Yielded) => self.span(Span::Steal, ready),
            Some(Why::Throttled) => {
                self.span(Span::Throttled, away.saturating_sub(ready));
                self.span(Span::Steal, ready);
            }
            // A pause is nobody's theft.
            Some(Why::Held | Why::Off | Why::Stopped) | None => {}
        }
    }
}
