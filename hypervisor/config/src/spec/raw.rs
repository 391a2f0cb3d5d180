//! Checks where a kernel without a header is to go.

use super::{Fault, VmSpec, check_memory};
use crate::map;
use addr::Span;

/// What is wrong with a VM's `load`, `entry` and `room`, each.
pub(super) fn check(vm: &VmSpec) -> (Result<(), Fault>, Result<(), Fault>, Result<(), Fault>) {
    let raw = &vm.raw;
    let Some(load) = raw.load else {
        let alone = |value: Option<u64>| value.map_or(Ok(()), |_| Err(Fault::NoLoad));
        return (Ok(()), alone(raw.entry), alone(raw.room));
    };
    let span = raw.span(vm.kernel.size);
    let room = match raw.room {
        Some(room) if room < vm.kernel.size => Err(Fault::RoomTooSmall { room, size: vm.kernel.size }),
        _ => Ok(()),
    };
    // RAM that is refused by itself tells nothing.
    let ram = Span::new(map::RAM_BASE, vm.memory).filter(|_| check_memory(vm.memory).is_ok());
    let outside = |end: u64| Fault::LoadOutside { load, end, memory: vm.memory };
    let place = match (span, ram) {
        (None, _) => Err(outside(u64::MAX)),
        (Some(span), Some(ram)) if !ram.encloses(&span) => Err(outside(span.end().as_u64())),
        _ if !load.is_multiple_of(4) => Err(Fault::Crooked { address: load }),
        _ => Ok(()),
    };
    let entry = match raw.entry {
        Some(entry) if !entry.is_multiple_of(4) => Err(Fault::Crooked { address: entry }),
        Some(entry) if span.is_some_and(|span| !span.contains_range(addr::Ipa::new(entry), 4)) => {
            Err(Fault::EntryOutside { entry, load, end: span.map_or(load, |span| span.end().as_u64()) })
        }
        _ => Ok(()),
    };
    (place, entry, room)
}
