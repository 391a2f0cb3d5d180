//! Memory that still holds what its former owner, or the firmware, left in it.

use addr::{Pa, Span};

/// Makes memory fit for EL2's own use: tables, which are read through the caches. A guest's RAM takes more, see
/// [`HandOver`](crate::HandOver).
pub trait Scrub {
    /// Zeroes `span`.
    fn zero(&mut self, span: Span<Pa>);
}

/// Memory just handed out: its content is arbitrary, always. It is used through [`Self::into_clean`], which refuses
/// until all of it went through [`Self::scrub`]; large pieces in as many steps as the caller's time budget asks for.
#[must_use = "handed-out memory leaks unless it is used or given back"]
#[derive(Debug, PartialEq, Eq)]
pub struct Dirty {
    span: Span<Pa>,
    zeroed: u64,
}

impl Dirty {
    pub(crate) fn new(span: Span<Pa>) -> Self {
        Self { span, zeroed: 0 }
    }

    /// Where it is: to give it back unused, or to show it. Not to use it.
    pub fn span(&self) -> Span<Pa> {
        self.span
    }

    /// Zeroes up to `at_most` more bytes. `true`: all of it is done.
    pub fn scrub(&mut self, at_most: u64, by: &mut impl Scrub) -> bool {
        let step = at_most.min(self.span.size().saturating_sub(self.zeroed));
        let from = Pa::new(self.span.start().as_u64().wrapping_add(self.zeroed));
        if let Some(span) = Span::new(from, step).filter(|s| !s.is_empty()) {
            by.zero(span);
        }
        self.zeroed = self.zeroed.saturating_add(step);
        self.zeroed == self.span.size()
    }

    /// The memory, once it is all zeroes.
    pub fn into_clean(self) -> Result<Span<Pa>, Self> {
        if self.zeroed == self.span.size() { Ok(self.span) } else { Err(self) }
    }
}
