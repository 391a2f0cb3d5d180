//! What each part of the machine's address space is for: made once, at start, and the only source of memory to lend and of
//! registers to map.
//!
//! | step | what | gives |
//! |---|---|---|
//! | [`Plan::new`] | what the board calls RAM, and the image in it | |
//! | [`Plan::claim`] | what of it is somebody's: the tree, the bundle, reservations, the firmware | |
//! | [`Plan::device`] | registers that Merus itself uses | where to map them |
//! | [`Plan::settle`] | nothing is claimed any more | the [`FreeRam`] that [`Frames`](crate::Frames) may lend, and a [`Space`] |
//! | [`Space::own`] | registers that Merus turns out to use | where to map them |
//! | [`Space::lend`] | registers for a VM | a [`Window`], the only thing that a VM's stage 2 maps as a device |
//!
//! # Invariants (checked by the random tests here and, over random trees, in room `config`)
//! 1. No byte of [`FreeRam`] is in a claim, in registers, or in other [`FreeRam`]; all of it is RAM.
//! 2. No page of registers, Merus' or lent, has a byte of RAM or of a claim.
//! 3. No page is in two windows, nor in a window and in Merus' own registers.
//!
//! Reservations are not told apart: one with `no-map` and one without are both never touched, because EL2 maps no RAM that it does
//! not lend.

use addr::{BLOCK_SIZE, PAGE_SIZE, Pa, Span};
use alloc::vec::Vec;
use core::fmt;

/// Addresses that Merus can use: the 48 bits of its own tables.
const END: u64 = 1 << 48;

/// What a part of the address space is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Use {
    /// RAM that nobody claims.
    Ram,
    /// Merus' image with its heap and stacks.
    Image,
    /// The board's device tree.
    Tree,
    /// The bundle.
    Bundle,
    /// Where CPUs wait to be started.
    SpinTable,
    /// Reserved by the board's tree.
    Reserved,
    /// The firmware's, as it says when it is asked.
    Firmware,
    /// Registers that Merus uses.
    Own,
    /// Registers that a VM has, or is to have.
    Lent,
}

impl Use {
    /// Whether its bytes are Merus' and no others', so that two of these must not share one.
    fn is_exclusive(self) -> bool {
        matches!(self, Self::Image | Self::Tree | Self::Bundle | Self::SpinTable)
    }
}

impl fmt::Display for Use {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ram => "RAM",
            Self::Image => "Merus' image",
            Self::Tree => "the board's device tree",
            Self::Bundle => "the bundle",
            Self::SpinTable => "the spin table of CPUs that wait",
            Self::Reserved => "a reservation of the board's tree",
            Self::Firmware => "the firmware's memory",
            Self::Own => "registers that Merus uses",
            Self::Lent => "registers of a VM",
        })
    }
}

/// Two users of the same bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Overlap {
    /// What was asked for.
    pub span: Span<Pa>,
    /// As what.
    pub of: Use,
    /// What is there.
    pub with: Span<Pa>,
    /// As what.
    pub and: Use,
}

impl fmt::Display for Overlap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}) overlaps {} ({})", self.span, self.of, self.with, self.and)
    }
}

impl core::error::Error for Overlap {}

/// RAM that is nobody's: whole blocks of 2 MiB. Made by [`Plan::settle`] alone.
#[derive(PartialEq, Eq, Debug)]
pub struct FreeRam(Span<Pa>);

impl FreeRam {
    /// Where it is.
    pub fn span(&self) -> Span<Pa> {
        self.0
    }
    /// RAM of a test, of any alignment.
    #[cfg(test)]
    pub(crate) fn of_test(span: Span<Pa>) -> Self {
        Self(span)
    }
}

/// Pages of registers that a VM has: no RAM, nothing of Merus', nobody else's. It ends by [`Space::take_back`].
#[derive(PartialEq, Eq, Debug)]
pub struct Window(Span<Pa>);

impl Window {
    /// Where it is: whole pages.
    pub fn span(&self) -> Span<Pa> {
        self.0
    }
}

/// The plan while it is made.
#[derive(Debug)]
pub struct Plan {
    space: Space,
}

/// The plan as it stays.
#[derive(Debug, Default)]
pub struct Space {
    /// What the board calls RAM.
    ram: Vec<Span<Pa>>,
    claims: Vec<(Use, Span<Pa>)>,
    own: Vec<Span<Pa>>,
    lent: Vec<Span<Pa>>,
}

impl Plan {
    /// A machine with this RAM, in any order, overlapping or not; the image is somewhere.
    pub fn new(ram: &[Span<Pa>], image: Span<Pa>) -> Self {
        let ram = ram.iter().filter_map(below_end).collect();
        Self { space: Space { ram, claims: Vec::from([(Use::Image, image)]), ..Space::default() } }
    }

    /// `span` is `of`'s; it need not be RAM, and an empty one is nothing.
    ///
    /// # Errors
    /// Merus' own parts overlap each other or registers: the boot loader has put them so. (Reservations may lie over anything but
    /// registers: a boot loader reserves what it has loaded as well.)
    pub fn claim(&mut self, of: Use, span: Span<Pa>) -> Result<(), Overlap> {
        if span.is_empty() {
            return Ok(());
        }
        let parts = self.space.claims.iter().filter(|(and, _)| of.is_exclusive() && and.is_exclusive());
        let own = self.space.own.iter().map(|with| (Use::Own, *with));
        let mut others = parts.copied().chain(own);
        match others.find(|(_, with)| with.overlaps(&span)) {
            Some((and, with)) => Err(Overlap { span, of, with, and }),
            None => {
                self.space.claims.push((of, span));
                Ok(())
            }
        }
    }

    /// Registers that Merus uses: the same span, to be mapped.
    ///
    /// # Errors
    /// They share a page with RAM or with something that was claimed.
    pub fn device(&mut self, registers: Span<Pa>) -> Result<Span<Pa>, Overlap> {
        let pages = self.space.no_ram(registers, Use::Own)?;
        self.space.own.push(pages);
        Ok(registers)
    }

    /// What is free, and the plan as it stays. The block at address 0 is not free: 0 is no address.
    pub fn settle(self) -> (Space, Vec<FreeRam>) {
        let space = self.space;
        let zero = Span::new(Pa::new(0), BLOCK_SIZE);
        let claims = space.claims.iter().map(|(_, span)| *span);
        let holes = claims.chain(space.own.iter().copied()).filter_map(pages_of).chain(zero);
        let mut free = apart(&space.ram);
        for hole in holes {
            free = free.iter().flat_map(|span| span.minus(&hole)).flatten().collect();
        }
        // Whole blocks only: EL2 maps RAM in blocks, and a block that is partly the image's or the bundle's is mapped by page.
        let blocks = free.iter().map(|span| span.align_inwards(BLOCK_SIZE)).filter(|span| !span.is_empty());
        let blocks = blocks.map(FreeRam).collect();
        (space, blocks)
    }
}

impl Space {
    /// The pages that `registers` are on, if none of them has RAM or anything that was claimed.
    fn no_ram(&self, registers: Span<Pa>, of: Use) -> Result<Span<Pa>, Overlap> {
        let beyond = Overlap { span: registers, of, with: Span::empty(Pa::new(END)), and: of };
        let pages = pages_of(registers).filter(|pages| pages.end().as_u64() <= END).ok_or(beyond)?;
        let ram = self.ram.iter().map(|with| (Use::Ram, *with));
        let mut taken = self.claims.iter().copied().chain(ram);
        match taken.find(|(_, with)| with.overlaps(&pages)) {
            Some((and, with)) => Err(Overlap { span: registers, of, with, and }),
            None => Ok(pages),
        }
    }

    /// The pages that `registers` are on, for a VM alone.
    ///
    /// # Errors
    /// They have RAM, anything that was claimed, registers that Merus uses, or those of another VM.
    pub fn lend(&mut self, registers: Span<Pa>) -> Result<Window, Overlap> {
        let pages = self.no_ram(registers, Use::Lent)?;
        let own = self.own.iter().map(|with| (Use::Own, *with));
        let lent = self.lent.iter().map(|with| (Use::Lent, *with));
        match own.chain(lent).find(|(_, with)| with.overlaps(&pages)) {
            Some((and, with)) => Err(Overlap { span: registers, of: Use::Lent, with, and }),
            None => {
                self.lent.push(pages);
                Ok(Window(pages))
            }
        }
    }

    /// Registers that Merus uses from now on: the same span, to be mapped. Those that are Merus' already stay so.
    ///
    /// # Errors
    /// They share a page with RAM, with something that was claimed, or with registers of a VM's.
    pub fn own(&mut self, registers: Span<Pa>) -> Result<Span<Pa>, Overlap> {
        let pages = self.no_ram(registers, Use::Own)?;
        if let Some(with) = self.lent.iter().find(|with| with.overlaps(&pages)) {
            return Err(Overlap { span: registers, of: Use::Own, with: *with, and: Use::Lent });
        }
        if !self.own.iter().any(|own| own.encloses(&pages)) {
            self.own.push(pages);
        }
        Ok(registers)
    }

    /// The VM does not have it any more: nothing maps it.
    pub fn take_back(&mut self, window: Window) {
        self.lent.retain(|lent| *lent != window.0);
    }
}

fn below_end(span: &Span<Pa>) -> Option<Span<Pa>> {
    Span::from_bounds(span.start(), span.end().min(Pa::new(END))).filter(|span| !span.is_empty())
}

/// The pages that `span` touches; one of no bytes touches that of its address.
fn pages_of(span: Span<Pa>) -> Option<Span<Pa>> {
    Span::new(span.start(), span.size().max(1))?.align_outwards(PAGE_SIZE)
}

/// The same bytes, none twice, ascending.
fn apart(spans: &[Span<Pa>]) -> Vec<Span<Pa>> {
    let mut sorted = spans.to_vec();
    sorted.sort_by_key(|span| span.start());
    let mut merged: Vec<Span<Pa>> = Vec::new();
    for span in sorted {
        match merged.last_mut().filter(|before| span.start() <= before.end()) {
            Some(before) => {
                let end = before.end().max(span.end());
                *before = Span::from_bounds(before.start(), end).unwrap_or(*before);
            }
            None => merged.push(span),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;
    use addr::Address;
    use alloc::string::ToString;
    use alloc::vec;
    use proptest::prelude::*;

    const MIB: u64 = 1 << 20;

    fn span(start: u64, size: u64) -> Span<Pa> {
        Span::new(Pa::new(start), size).unwrap()
    }

    fn free(plan: Plan) -> Vec<(u64, u64)> {
        plan.settle().1.iter().map(|free| (free.0.start().as_u64() / MIB, free.0.size() / MIB)).collect()
    }

    #[test]
    fn what_is_claimed_is_not_lent_whoever_it_is() {
        let mut plan = Plan::new(&[span(1 << 30, 1 << 20), span(0, 64 * MIB)], span(4 * MIB, MIB));
        plan.claim(Use::Tree, span(8 * MIB + 7, 1)).unwrap();
        plan.claim(Use::Reserved, span(0, 4096)).unwrap();
        plan.claim(Use::Firmware, span(60 * MIB, 8 * MIB)).unwrap();
        plan.claim(Use::Bundle, span(0, 0)).unwrap();
        // The block at 0 is never lent; half a block neither.
        assert_eq!(free(plan), [(2, 2), (6, 2), (10, 50)]);
        // Without the image below it, the block at 0 alone is left out, not all that follows.
        assert_eq!(free(Plan::new(&[span(0, 64 * MIB)], span(1 << 40, 1))), [(2, 62)]);
    }

    #[test]
    fn merus_own_parts_do_not_overlap_and_reservations_may() {
        let mut plan = Plan::new(&[span(0, 64 * MIB)], span(4 * MIB, MIB));
        plan.claim(Use::Bundle, span(8 * MIB, MIB)).unwrap();
        plan.claim(Use::Reserved, span(8 * MIB, 2 * MIB)).unwrap();
        let error = plan.claim(Use::Tree, span(9 * MIB - 1, 2)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "0x8fffff..0x900001 (the board's device tree) overlaps 0x800000..0x900000 (the bundle)"
        );
        assert!(plan.claim(Use::Bundle, span(3 * MIB, 2 * MIB)).is_err(), "the image");
        plan.claim(Use::Tree, span(9 * MIB, 2)).unwrap();
        plan.device(span(128 * MIB, 4)).unwrap();
        assert_eq!(plan.claim(Use::Firmware, span(127 * MIB, 2 * MIB)).unwrap_err().and, Use::Own);
    }

    #[test]
    fn registers_are_no_ram_and_a_page_of_them_is_for_one() {
        let mut plan = Plan::new(&[span(0, 64 * MIB)], span(4 * MIB, MIB));
        plan.claim(Use::Reserved, span(100 * MIB, 16)).unwrap();
        assert_eq!(plan.device(span(64 * MIB - 8, 16)).unwrap_err().and, Use::Ram);
        assert_eq!(plan.device(span(100 * MIB + 16, 16)).unwrap_err().and, Use::Reserved, "the same page");
        assert!(plan.device(span(END - 1, 2)).is_err() && plan.device(span(u64::MAX, 0)).is_err());
        assert_eq!(plan.device(span(128 * MIB + 0x200, 16)), Ok(span(128 * MIB + 0x200, 16)));
        let (mut space, _) = plan.settle();
        assert_eq!(space.lend(span(128 * MIB, 4)).unwrap_err().and, Use::Own);
        assert_eq!(space.lend(span(63 * MIB, 4)).unwrap_err().and, Use::Ram);
        let window = space.lend(span(129 * MIB + 0x40, 0x1000)).unwrap();
        assert_eq!(window.span(), span(129 * MIB, 0x2000));
        assert_eq!(space.lend(span(129 * MIB + 0x1fff, 1)).unwrap_err().and, Use::Lent);
        assert_eq!(space.own(span(129 * MIB + 0x1fff, 1)).unwrap_err().and, Use::Lent);
        space.take_back(window);
        assert!(space.lend(span(129 * MIB + 0x1fff, 1)).is_ok());
        // Merus takes more later: twice is once, and then no VM has it.
        assert_eq!(space.own(span(63 * MIB, 4)).unwrap_err().and, Use::Ram);
        for _ in 0..2 {
            assert_eq!(space.own(span(130 * MIB + 0x200, 16)), Ok(span(130 * MIB + 0x200, 16)));
        }
        assert_eq!(space.lend(span(130 * MIB + 0xfff, 1)).unwrap_err().and, Use::Own);
        assert!(space.lend(span(130 * MIB + 0x1000, 1)).is_ok());
    }

    /// Somewhere in 64 MiB, any size, mostly not aligned.
    fn any_span() -> impl Strategy<Value = Span<Pa>> {
        (0..64 * MIB, prop_oneof![Just(0), 0..9000_u64, 0..8 * MIB]).prop_map(|(start, size)| span(start, size))
    }

    fn any_use() -> impl Strategy<Value = Use> {
        prop_oneof![Just(Use::Tree), Just(Use::Bundle), Just(Use::SpinTable), Just(Use::Reserved), Just(Use::Firmware)]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 500 }))]

        #[test]
        fn no_byte_has_two_users(
            ram in prop::collection::vec(any_span(), 0..5),
            image in any_span(),
            steps in prop::collection::vec((prop::option::of(any_use()), any_span()), 0..12),
            asked in prop::collection::vec(any_span(), 0..8),
        ) {
            let mut plan = Plan::new(&ram, image);
            let (mut claims, mut devices) = (vec![image], vec![]);
            for (step, at) in steps {
                match step {
                    Some(of) => claims.extend(plan.claim(of, at).is_ok().then_some(at)),
                    None => devices.extend(plan.device(at).is_ok().then_some(at)),
                }
            }
            let (mut space, free) = plan.settle();
            let windows: Vec<_> = asked.iter().filter_map(|at| space.lend(*at).ok()).collect();
            let pages = |at: &Span<Pa>| pages_of(*at).unwrap();
            for free in free.iter().map(FreeRam::span) {
                prop_assert!(free.start().is_aligned(BLOCK_SIZE) && free.size() % BLOCK_SIZE == 0 && !free.is_empty());
                prop_assert!(free.start().as_u64() != 0);
                // Every page of it is RAM: in the union of what was given.
                prop_assert!(apart(&ram).iter().any(|ram| ram.encloses(&free)));
                prop_assert!(!claims.iter().chain(&devices).filter(|c| !c.is_empty()).any(|c| pages(c).overlaps(&free)));
                prop_assert!(!windows.iter().any(|w| w.0.overlaps(&free)));
            }
            let spans: Vec<_> = free.iter().map(FreeRam::span).collect();
            for (n, a) in spans.iter().enumerate() {
                prop_assert!(!spans.iter().skip(n + 1).any(|b| a.overlaps(b)));
            }
            for registers in devices.iter().map(pages).chain(windows.iter().map(Window::span)) {
                prop_assert!(!ram.iter().chain(&claims).any(|used| used.overlaps(&registers)));
            }
            for (n, window) in windows.iter().enumerate() {
                prop_assert!(!devices.iter().any(|own| pages(own).overlaps(&window.0)));
                prop_assert!(!windows.iter().skip(n + 1).any(|other| other.0.overlaps(&window.0)));
            }
        }
    }
}
