//! What the machine's addresses are for: the plan that `start` makes of what the board's tree, the boot loader and the firmware say
//! (`memory::Plan`), and what comes out of it.

use crate::console::say;
use crate::smp;
use crate::start::refuse;
use addr::Pa;
use addr::Span;
use alloc::vec::Vec;
use boot::BootInfo;
use boot::stage1::{Stage1, page_from_heap};
use config::board::{self, Board};
use memory::{Frames, Node, Plan, Space, Use};
use platform::bcm2835_mailbox::Mailbox;
use platform::mmio::Registers;

/// What the machine's addresses are for. From here on nothing is mapped or lent that is not in it.
pub fn plan(info: &BootInfo, board: &Board, uart: Option<board::Uart>) -> Plan {
    let mut plan = Plan::new(&board.ram, info.image);
    let claims = [(Use::Tree, boot::tree_bytes(info.fdt)), (Use::Bundle, board.initrd)];
    let claims = claims.into_iter().filter_map(|(of, span)| Some((of, span?)));
    // Where CPUs wait in a spin table: some stay there.
    let mut waiting: Vec<Span<Pa>> = board
        .cpus
        .iter()
        .filter_map(|cpu| match cpu.enable {
            board::Enable::SpinTable { release } => smp::release_page(release),
            _ => None,
        })
        .collect();
    waiting.dedup();
    let waiting = waiting.into_iter().map(|page| (Use::SpinTable, page));
    let reserved = board.reserved.iter().map(|span| (Use::Reserved, *span));
    for (of, span) in claims.chain(waiting).chain(reserved) {
        if let Err(overlap) = plan.claim(of, span) {
            refuse("the machine's memory", overlap);
        }
    }
    // It is mapped already: there was no plan yet, and nothing to say that with.
    if let Some(uart) = uart {
        own_port(&mut plan, &uart);
    }
    plan
}

/// Keeps a serial port's registers for Merus, those of the block that it is in as well.
pub fn own_port(plan: &mut Plan, uart: &board::Uart) {
    let aux = match uart.kind {
        board::UartKind::Mini { aux } => aux,
        board::UartKind::Pl011 => None,
    };
    for registers in [Some(uart.base), aux].into_iter().flatten() {
        plan.device(registers).unwrap_or_else(|overlap| refuse("the UART", overlap));
    }
}

/// Has the firmware say what of the first GiB is its own, whatever the tree says. Where it does not answer, the tree counts.
pub fn ask_mailbox(registers: Span<Pa>, plan: &mut Plan, map: &mut Stage1) {
    match Mailbox::new(device(plan, map, "the mailbox", registers)).memory() {
        Ok(split) => {
            for span in split.taken() {
                plan.claim(Use::Firmware, span).unwrap_or_else(|overlap| refuse("the firmware's memory", overlap));
            }
            say!("the firmware leaves {} of the first GiB, {} is the video core's", split.arm, split.vc);
        }
        Err(error) => say!("the mailbox is not heard: {error}"),
    }
}

/// Maps registers that Merus uses.
pub fn device(plan: &mut Plan, map: &mut Stage1, what: &str, registers: Span<Pa>) -> Registers {
    let span = plan.device(registers).unwrap_or_else(|overlap| refuse(what, overlap));
    map.device(span, &mut page_from_heap).unwrap_or_else(|error| refuse(what, format_args!("{error:?}")))
}

/// The frames of all RAM that is nobody's, and what all else is for.
pub fn frames(info: &BootInfo, plan: Plan) -> (Space, Frames) {
    let (space, free) = plan.settle();
    let mut frames = Frames::new(Node(0));
    for ram in free {
        if el2::ram::declare(&ram, info.image) {
            if let Err(error) = frames.add(&ram) {
                refuse("RAM", format_args!("{}: {error:?}", ram.span()));
            }
        } else {
            say!("RAM at {} is left unused: more separate spans than Merus keeps", ram.span());
        }
    }
    (space, frames)
}
