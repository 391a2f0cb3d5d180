//! Where a guest finds the devices that it is given: at the machine's own addresses and interrupt numbers where its platform has
//! nothing there, else in what `virt` keeps for such devices (its platform bus).

use crate::board::{Device, Line};
use crate::map;
use addr::{Address, Ipa, PAGE_SIZE, Pa, Span};
use alloc::vec::Vec;
use thiserror::Error;

/// The devices of one VM, with their places.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Passthrough {
    /// The devices, as the board has them.
    pub devices: Vec<Device>,
    /// Whole pages of registers, apart from each other, and where the guest has each.
    pub pages: Vec<(Span<Pa>, Ipa)>,
    /// Interrupts, each once, and the guest's INTID for each.
    pub lines: Vec<(Line, u32)>,
}

/// Why there is no place for a device.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum NoPlace {
    /// Its registers.
    #[error(
        "the registers at {at:#x} find no room in the guest's map: there are {room:#x} bytes for those that cannot stay where they are"
    )]
    Registers {
        /// Where the machine has them.
        at: u64,
        /// Bytes for those that are moved.
        room: u64,
    },
    /// Its interrupt.
    #[error("interrupt {intid} finds no number in the guest")]
    Interrupt {
        /// The machine's INTID.
        intid: u32,
    },
}

impl Passthrough {
    /// Places `devices` for a guest with this RAM, whose addresses have `ipa_bits`.
    pub fn new(devices: Vec<Device>, ram: Span<Ipa>, ipa_bits: u32) -> Result<Self, NoPlace> {
        let mut taken = map::fixed();
        taken.push(ram);
        let mut pages = Vec::new();
        for span in merged(devices.iter().flat_map(|device| &device.registers)) {
            let at = place(span, &taken, ipa_bits);
            let at = at.ok_or(NoPlace::Registers { at: span.start().as_u64(), room: map::PLATFORM_BUS_SIZE })?;
            taken.extend(Span::new(at, span.size()));
            pages.push((span, at));
        }
        let mut lines: Vec<(Line, u32)> = Vec::new();
        for line in devices.iter().flat_map(|device| &device.lines) {
            if lines.iter().any(|(other, _)| other.intid == line.intid) {
                continue;
            }
            let free = |intid: &u32| !map::is_fixed_interrupt(*intid) && lines.iter().all(|(_, other)| other != intid);
            let own = Some(line.intid).filter(|intid| *intid < map::SPI_END).filter(free);
            let intid = own.or_else(|| map::PLATFORM_BUS_INTIDS.into_iter().find(free));
            lines.push((*line, intid.ok_or(NoPlace::Interrupt { intid: line.intid })?));
        }
        Ok(Self { devices, pages, lines })
    }

    /// Where the guest has these registers.
    pub fn registers(&self, span: Span<Pa>) -> Option<Span<Ipa>> {
        let (pages, at) = self.pages.iter().find(|(pages, _)| pages.encloses(&span))?;
        Span::new(at.checked_add(span.start().offset_from(pages.start())?)?, span.size())
    }

    /// The guest's INTID of an interrupt.
    pub fn intid(&self, line: Line) -> Option<u32> {
        self.lines.iter().find(|(other, _)| other.intid == line.intid).map(|(_, intid)| *intid)
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.devices.is_empty()
    }
}

/// The pages of `registers`, ascending and apart from each other.
fn merged<'a>(registers: impl Iterator<Item = &'a Span<Pa>>) -> Vec<Span<Pa>> {
    let mut pages: Vec<Span<Pa>> = registers.filter_map(|span| span.align_outwards(PAGE_SIZE)).collect();
    pages.sort_by_key(|span| span.start());
    let mut apart: Vec<Span<Pa>> = Vec::new();
    for span in pages {
        match apart.last_mut().filter(|before| span.start() < before.end()) {
            Some(before) => {
                let end = before.end().max(span.end());
                *before = Span::from_bounds(before.start(), end).unwrap_or(*before);
            }
            None => apart.push(span),
        }
    }
    apart
}

fn place(span: Span<Pa>, taken: &[Span<Ipa>], ipa_bits: u32) -> Option<Ipa> {
    let limit = 1u64.checked_shl(ipa_bits)?;
    let free = |at: u64| {
        let there = Span::new(Ipa::new(at), span.size()).filter(|there| there.end().as_u64() <= limit)?;
        taken.iter().all(|taken| !taken.overlaps(&there)).then_some(there.start())
    };
    let bus = Span::new(map::PLATFORM_BUS_BASE, map::PLATFORM_BUS_SIZE)?;
    let behind = taken.iter().filter(|taken| bus.overlaps(taken)).map(|taken| taken.end().as_u64());
    let in_bus = [bus.start().as_u64()].into_iter().chain(behind);
    let mut in_bus = in_bus.filter(|at| bus.contains_range(Ipa::new(*at), span.size()));
    free(span.start().as_u64()).or_else(|| in_bus.find_map(free))
}

#[cfg(test)]
mod tests;
