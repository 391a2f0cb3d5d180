//! Accesses that the platform does not answer, or not in this form.

use guest_rt::mmio::{self, GICD, NO_DEVICE, NO_MEMORY, RAM, UART};
use guest_rt::test::{check_class, check_external, check_no_fault};
use guest_rt::vectors::{ALIGNMENT, EXTERNAL, Fault, class, expect};
use guest_rt::{check, check_eq, cpu, fdt, mmu, psci};

/// ESR_EL1.ISS.WnR: it was a write.
const WNR: u64 = 1 << 6;

/// Runs the test.
pub fn aborts() {
    unbacked();
    fetch();
    alignment();
    crossing();
    maintenance();
    // The machine still works.
    check_eq!(mmio::read32(GICD + guest_rt::gic::TYPER) >> 31, 0, "GICD_TYPER bit 31");
}

fn unbacked() {
    let after_ram = RAM + fdt::memory_size();
    for at in [NO_DEVICE, NO_MEMORY, NO_MEMORY + 0x1234_5678, after_ram, after_ram + 0xff8] {
        let loads: [(&str, Option<Fault>); 4] = [
            ("ldrb", expect(|| mmio::read8(at)).1),
            ("ldrh", expect(|| mmio::read16(at)).1),
            ("ldr w", expect(|| mmio::read32(at)).1),
            ("ldr x", expect(|| mmio::read64(at)).1),
        ];
        let stores: [(&str, Option<Fault>); 4] = [
            ("strb", expect(|| mmio::write8(at, 1)).1),
            ("strh", expect(|| mmio::write16(at, 1)).1),
            ("str w", expect(|| mmio::write32(at, 1)).1),
            ("str x", expect(|| mmio::write64(at, 1)).1),
        ];
        for (write, (what, fault)) in
            loads.map(|load| (false, load)).into_iter().chain(stores.map(|store| (true, store)))
        {
            check_external(format_args!("{what} at {at:#x}"), fault, class::DATA_ABORT, at);
            if let Some(fault) = fault {
                check_eq!(fault.esr & WNR != 0, write, "WnR of {what} at {at:#x}");
                check_eq!(fault.esr >> 25 & 1, 1, "IL of {what} at {at:#x}");
            }
        }
        pairs(at);
    }
}

/// Forms without a syndrome.
fn pairs(at: u64) {
    // SAFETY: nothing is there; the registers are the compiler's to lose.
    let (_, fault) = expect(|| unsafe {
        core::arch::asm!("ldp {0}, {1}, [{2}]", out(reg) _, out(reg) _, in(reg) at, options(nostack))
    });
    check_external(format_args!("ldp at {at:#x}"), fault, class::DATA_ABORT, at);
    let mut base = at;
    // SAFETY: as above.
    let (_, fault) = expect(|| unsafe { core::arch::asm!("str xzr, [{0}], #8", inout(reg) base, options(nostack)) });
    check_external(format_args!("str at {at:#x}, post-indexed"), fault, class::DATA_ABORT, at);
    check_eq!(base, at, "base register of an aborted post-indexed store");
}

fn fetch() {
    let after_ram = RAM + fdt::memory_size();
    for at in [NO_MEMORY, NO_MEMORY + 0x1000, after_ram] {
        let (_, fault) = expect(|| mmu::call(at));
        check_external(format_args!("fetch from {at:#x}"), fault, class::INSTRUCTION_ABORT, at);
    }
    // Device memory is execute-never in the runtime's map: a permission fault at level 1, by stage 1.
    let (_, fault) = expect(|| mmu::call(GICD));
    check_class(format_args!("fetch from GICD"), fault, class::INSTRUCTION_ABORT);
    check_eq!(fault.map_or(0, |fault| fault.status()), 0xd, "status of a fetch from GICD");
    // Through an alias that allows it: on Merus nothing can be fetched from a device.
    if psci::on_merus() {
        let alias = mmu::alias(0, mmu::Attribute::NonCacheable);
        for at in [GICD, UART, NO_DEVICE] {
            let (_, fault) = expect(|| mmu::call(alias + at));
            check_external(format_args!("fetch from {at:#x}"), fault, class::INSTRUCTION_ABORT, alias + at);
        }
        mmu::unalias();
    }
    let (_, fault) = expect(|| mmu::call(RAM + 2));
    check_class(format_args!("fetch from an odd halfword"), fault, class::PC_ALIGNMENT);
}

/// Unaligned accesses to device memory are alignment faults of stage 1, before anything that stage 2 has to say. (QEMU with
/// one CPU does not check: on the bare machine there is nothing to see then, and Merus, whom the access reaches, aborts it.)
fn alignment() {
    if !psci::on_merus() && cpu::count() == 1 {
        return;
    }
    let fits = |fault: Option<Fault>, at: u64| match fault {
        Some(fault) if fault.class() != class::DATA_ABORT || fault.far != at => false,
        Some(fault) => fault.status() == ALIGNMENT || psci::on_merus() && fault.status() == EXTERNAL,
        None => false,
    };
    for at in [GICD + 0x401, GICD + 0x402, UART + 0x19, GICD + 0xffe, GICD + 0xfffe, NO_DEVICE + 3] {
        for (what, fault) in [("load", expect(|| mmio::read32(at)).1), ("store", expect(|| mmio::write32(at, 0)).1)] {
            check!(fits(fault, at), "unaligned {what} at device {at:#x}: want an alignment fault, got {fault:?}");
        }
    }
}

fn within(what: &str, at: u64, bytes: u64, fault: Option<Fault>) {
    let fits = |fault: Fault| {
        fault.class() == class::DATA_ABORT && fault.status() == 0x10 && (at..at + bytes).contains(&fault.far)
    };
    check!(fault.is_some_and(fits), "{what} at {at:#x}: want an external abort in its {bytes} bytes, got {fault:?}");
}

fn crossing() {
    let after_ram = RAM + fdt::memory_size();
    for at in [after_ram - 4, after_ram - 1, NO_MEMORY + 0xffd] {
        within("crossing load", at, 8, expect(|| mmio::read64(at)).1);
        within("crossing store", at, 8, expect(|| mmio::write64(at, 0)).1);
    }
    // Normal memory in stage 1, a device below it: what comes is not said, but the machine goes on.
    let alias = mmu::alias(0, mmu::Attribute::NonCacheable);
    for at in [GICD + 1, GICD + 2, GICD + 0xffd, GICD + 0xfffd, UART + 0xffe, mmio::GICR + 0xfffd] {
        let _ = expect(|| mmio::read32(alias + at));
        let _ = expect(|| mmio::read64(alias + at));
        let _ = expect(|| mmio::read16(alias + at));
    }
    for at in [UART + 0xffd, GICD + 0xfffe] {
        let _ = expect(|| mmio::write32(alias + at, 0));
        let _ = expect(|| mmio::write64(alias + at, 0));
    }
    mmu::unalias();
}

macro_rules! by_address {
    ($($operation:literal),+) => {
        [$(($operation, (|at: u64| {
            // SAFETY: maintenance changes no value of Rust's.
            unsafe { core::arch::asm!(concat!($operation, ", {0}\ndsb sy"), in(reg) at, options(nostack)) };
        }) as fn(u64))),+]
    };
}

fn maintenance() {
    for (operation, run) in by_address!("dc civac", "dc cvac", "dc cvau", "dc ivac", "ic ivau") {
        for at in [NO_MEMORY, NO_DEVICE, GICD, UART, RAM + fdt::memory_size()] {
            let (_, fault) = expect(|| run(at));
            check_no_fault(format_args!("{operation} at {at:#x}"), fault);
        }
    }
    let (_, fault) = expect(|| {
        // SAFETY: nothing is there.
        unsafe { core::arch::asm!("dc zva, {0}", in(reg) NO_MEMORY, options(nostack)) };
    });
    within("dc zva", NO_MEMORY, 2048, fault);
}

/// Tables where there is no memory: the walk's own access aborts, at the level of the entry that it wanted.
pub fn walks() {
    let at = mmu::table_alias(NO_MEMORY);
    walk("a table in nothing", at, 2);
    mmu::unalias();
    // Two levels down, through a table that is there.
    let at = mmu::last_table_alias(NO_MEMORY);
    walk("a last table in nothing", at, 3);
    mmu::unalias();
    if psci::on_merus() {
        let at = mmu::table_alias(UART);
        walk("a table in a device", at, 2);
        mmu::unalias();
        let at = mmu::last_table_alias(GICD);
        walk("a last table in a device", at, 3);
        mmu::unalias();
    }
    roots();
}

/// Root tables in nothing, of each granule and at each level that 16 to 48 bits of address begin at.
fn roots() {
    for (granule, sizes) in [
        (mmu::Granule::Kib4, [(16, 0), (25, 1), (34, 2), (39, 2)]),
        (mmu::Granule::Kib16, [(16, 0), (17, 1), (28, 2), (39, 3)]),
        (mmu::Granule::Kib64, [(16, 1), (22, 2), (30, 2), (39, 3)]),
    ] {
        if !granule.is_there() {
            continue;
        }
        for (size, level) in sizes {
            let what = format_args!("a root in nothing, {granule:?}, T1SZ {size}");
            mmu::set_upper(NO_MEMORY, granule, size);
            // The first entry, and the last, which may be in another page.
            walk(what, u64::MAX << (64 - size), level);
            walk(what, u64::MAX - 7, level);
        }
    }
    mmu::unset_upper();
}

/// Accesses of each kind by a walk that aborts at `level`.
fn walk(what: impl core::fmt::Display, at: u64, level: u64) {
    // ISS.CM: cache maintenance or address translation. Those count as writes.
    const CM: u64 = 1 << 8;
    let translate = || {
        // SAFETY: the result goes to PAR_EL1, which nobody uses.
        unsafe { core::arch::asm!("at s1e1r, {0}\nisb", in(reg) at, options(nostack)) };
    };
    for (how, fault, class, iss) in [
        ("load", expect(|| mmio::read64(at)).1, class::DATA_ABORT, 0),
        ("store", expect(|| mmio::write64(at, 0)).1, class::DATA_ABORT, WNR),
        ("fetch", expect(|| mmu::call(at & !3)).1, class::INSTRUCTION_ABORT, 0),
        ("translation", expect(translate).1, class::DATA_ABORT, CM | WNR),
    ] {
        check_class(format_args!("{how} by {what}"), fault, class);
        let Some(fault) = fault else { continue };
        let want = iss | 0x14 | level;
        check_eq!(fault.esr & 0x1ff_ffff, want, "syndrome of a {how} by {what} (level {level}) at {at:#x}");
        check_eq!(fault.far & !3, at & !3, "FAR of a {how} by {what}");
    }
}
