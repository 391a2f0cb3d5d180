//! RAM, and what of it is taken.

use super::BoardError;
use super::nodes::Place;
use addr::{Pa, Span};
use alloc::vec::Vec;
use dtoolkit::fdt::Fdt;

/// The `reg` entries of all memory nodes, in order and merged where they touch.
pub(super) fn ram(root: &Place<'_>) -> Result<Vec<Span<Pa>>, BoardError> {
    let mut spans = Vec::new();
    for node in root.children() {
        let is_memory = node.string("device_type") == Some("memory") || node.name() == "memory";
        if is_memory && node.is_usable() {
            spans.extend(node.reg()?.into_iter().filter(|span| !span.is_empty()));
        }
    }
    spans.sort_by_key(|span| span.start());
    let mut merged: Vec<Span<Pa>> = Vec::new();
    for span in spans {
        let before = merged.last_mut().filter(|before| span.start() <= before.end());
        match before {
            Some(before) => {
                let end = before.end().max(span.end());
                if let Some(both) = Span::from_bounds(before.start(), end) {
                    *before = both;
                }
            }
            None => merged.push(span),
        }
    }
    if merged.is_empty() { Err(BoardError::Absent { what: "memory" }) } else { Ok(merged) }
}

/// The reservation block and the fixed children of `/reserved-memory`. A child without `reg` asks the operating system
/// to find a place for it, so it takes nothing.
pub(super) fn reserved(root: &Place<'_>, fdt: Fdt<'_>) -> Result<Vec<Span<Pa>>, BoardError> {
    let wraps = || root.error("/memreserve/", "wraps around the end of memory");
    let mut spans: Vec<Span<Pa>> = Vec::new();
    for entry in fdt.memory_reservations() {
        spans.push(Span::new(Pa::new(entry.address()), entry.size()).ok_or_else(wraps)?);
    }
    for node in root.find("reserved-memory").iter().flat_map(|node| node.children().collect::<Vec<_>>()) {
        if node.is_usable() && node.value("reg").is_some() {
            spans.extend(node.reg()?);
        }
    }
    spans.retain(|span| !span.is_empty());
    Ok(spans)
}
