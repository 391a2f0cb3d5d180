use super::*;
use crate::bench::trace::{Cutter, Entry, Kind, Kinds, Level, entry, kind};
use runs::{Stat, number_after, report};

fn stat(mean: f64) -> Stat {
    Stat { mean, min: mean as u64, max: mean as u64, several: true }
}

#[test]
fn a_reported_row_is_read_behind_any_prefix() {
    let want = Stat { mean: 410.55, min: 204, max: 205747, several: true };
    assert_eq!(report("[bench] bench idreg mean=410.55 min=204 max=205747"), Some(("idreg", want)));
    assert_eq!(report("bench idreg mean=x min=204 max=205747"), None);
    assert_eq!(report("bench: done"), None);
    assert_eq!(number_after("vm \"x\": 1 vCPUs, first instruction at tick 8110018", "at tick "), Some(8110018));
    assert_eq!(number_after("at tick soon", "at tick "), None);
}

#[test]
fn instructions_are_sorted_by_kind() {
    // As the assembler encodes them.
    let table = [
        (0xd538_4240, Kind::Mrs),    // mrs x0, CurrentEL
        (0xd53b_e040, Kind::Mrs),    // mrs x0, cntvct_el0
        (0xd51c_1100, Kind::Msr),    // msr hcr_el2, x0
        (0xd503_42df, Kind::Msr),    // msr daifset, #2
        (0xd503_3fdf, Kind::Isb),    // isb
        (0xd503_3f9f, Kind::Dsb),    // dsb sy
        (0xd503_3b9f, Kind::Dsb),    // dsb ish
        (0xd503_3bbf, Kind::Other),  // dmb ish
        (0xd508_871f, Kind::System), // tlbi vmalle1
        (0xd50b_7420, Kind::System), // dc zva, x0
        (0xd69f_03e0, Kind::System), // eret
        (0xd503_207f, Kind::System), // wfi
        (0xa940_07e0, Kind::Load),   // ldp x0, x1, [sp]
        (0xa8c1_07e0, Kind::Load),   // ldp x0, x1, [sp], #16
        (0xa900_07e0, Kind::Store),  // stp x0, x1, [sp]
        (0xf940_0020, Kind::Load),   // ldr x0, [x1]
        (0xb980_0020, Kind::Load),   // ldrsw x0, [x1]
        (0x3900_0020, Kind::Store),  // strb w0, [x1]
        (0xf862_6820, Kind::Load),   // ldr x0, [x1, x2]
        (0xf822_6820, Kind::Store),  // str x0, [x1, x2]
        (0xf800_8020, Kind::Store),  // stur x0, [x1, #8]
        (0x5800_0020, Kind::Load),   // ldr x0, .+4
        (0xc8df_fc20, Kind::Load),   // ldar x0, [x1]
        (0xc89f_fc20, Kind::Store),  // stlr x0, [x1]
        (0xf821_0042, Kind::Load),   // ldadd x1, x2, [x2]
        (0x8b02_0020, Kind::Other),  // add x0, x1, x2
        (0x1400_0001, Kind::Other),  // b .+4
        (0xd65f_03c0, Kind::Other),  // ret
        (0xd503_201f, Kind::Other),  // nop
    ];
    for (word, want) in table {
        assert_eq!(kind(word), want, "{word:#x}");
    }
    let mut kinds = Kinds::default();
    table.iter().for_each(|(word, _)| kinds.add(*word));
    assert_eq!((kinds.mrs, kinds.msr, kinds.isb, kinds.dsb, kinds.system), (2, 2, 1, 2, 4));
    assert_eq!(kinds.counts().last(), Some(&("all", table.len() as u64)));
}

#[test]
fn the_trace_is_read_and_what_did_not_run_is_taken_back() {
    let el2 = entry(b"Trace 0: 0x7fd918000100 [00000000/0000000040200010/00000461/ff022201] \n").unwrap();
    assert_eq!(el2, Some(Entry::Runs(0x4020_0010, Level::El2)));
    let el1 = entry(b"Trace 1: 0x7fd918000100 [00000000/0000000040200010/00001021/ff022201] x").unwrap();
    assert_eq!(el1, Some(Entry::Runs(0x4020_0010, Level::El1)));
    assert_eq!(entry(b"Stopped execution of TB chain before 0x1 [0000000040200010] \n").unwrap(), Some(Entry::Stopped));
    assert_eq!(entry(b"qemu-system-aarch64: warning: x").unwrap(), None);
    assert!(entry(b"Trace 0: 0x1 [00000000/000000004020001").is_err());
    assert!(entry(b"Trace 0: 0x1 [00000000/0000000040200010/00000071/0] ").is_err(), "EL3 or something unknown");

    let mut cutter = Cutter::new([("hypercall".to_owned(), 8)]);
    let (el1, el2) = (Level::El1, Level::El2);
    let trace = [
        (0x4020_0500, el2), // before any guest
        (0x4030_0000, el1),
        (0x4030_0008, el1),
        (0x4020_0400, el2),
        (0x4020_0404, el2),
        (0x4030_000c, el1),
        (0x4020_0600, el2), // from elsewhere
        (0x4030_0008, el1),
        (0x4020_0400, el2),
        (0x4020_0700, el2),
        (0x4020_0704, el2),
        (0x4030_000c, el1),
    ];
    for (number, (pc, level)) in trace.into_iter().enumerate() {
        cutter.push(Entry::Runs(pc, level));
        if number == 9 {
            // An interrupt came first: it is logged again when it runs.
            cutter.push(Entry::Stopped);
        }
    }
    let exits = cutter.finish();
    assert_eq!(exits.len(), 1);
    assert_eq!(exits["hypercall"], [0x400, 0x704], "the last one, without what was stopped");
}

#[test]
fn a_stretch_of_the_log_is_counted_by_who_ran() {
    let line = |pc: u64, level: Level| {
        let flags = if level == Level::El2 { 0x461 } else { 0x1021 };
        format!("Trace 0: 0x7fd9 [00000000/{pc:016x}/{flags:08x}/ff022201] \n")
    };
    let (el1, el2) = (Level::El1, Level::El2);
    let text = line(0x1000, el1)
        + &line(0x1004, el1)
        + "char device redirected\n"
        + &line(0x4020_0400, el2)
        + "Stopped execution of TB chain before 0x1 [0000000040200400] \n"
        + &line(0x4020_0400, el2)
        + &line(0x4020_0404, el2)
        + &line(0x1008, el1)
        + &line(0x100c, el1);
    let count = |before, counted| stream::count(text.as_bytes(), before, counted);
    let merus = vec![0x400, 0x404];
    assert_eq!(count(0, 5).unwrap(), stream::Counts { guests: 3, merus: merus.clone() });
    assert_eq!(count(2, 2).unwrap(), stream::Counts { guests: 0, merus });
    assert_eq!(count(1, 1).unwrap(), stream::Counts { guests: 1, merus: Vec::new() });
    // Whether the last one ran is not known.
    assert!(count(0, 6).is_err() && count(6, 1).is_err());
}

fn measured(figures: &[(&str, f64)], kinds: &[(&'static str, Kinds)]) -> Measured {
    let mut measured = Measured::default();
    for (name, figure) in figures {
        measured.select(ROWS.iter().find(|row| row.name == *name).unwrap().name);
        measured.alone.insert((*name).to_owned(), stat(*figure));
        measured.bare.insert((*name).to_owned(), stat(20_000_000.0));
    }
    measured.kinds.extend(kinds.iter().copied());
    measured
}

#[test]
fn growth_beyond_the_slack_is_named_with_old_and_new() {
    let text = "[instructions]\nhypercall = 140\nmmio = 300\nsgi = 499.5\n[bytes]\nresident = 1000\n";
    let baseline = Baseline::parse(text).unwrap();
    let faults = |name: &str, figure: f64| baseline.faults(&measured(&[(name, figure)], &[]));
    assert_eq!(faults("mmio", 309.0), [] as [&str; 0], "3 % is no growth, and the bound was never kept");
    assert_eq!(faults("mmio", 310.0), ["mmio: 300 -> 310, 3.3 % more"]);
    assert_eq!(faults("hypercall", 144.0), [] as [&str; 0]);
    assert_eq!(faults("sgi", 501.0), ["sgi: 499.50 -> 501, over the bound of 500"]);
    assert_eq!(faults("resident", 1100.0), ["resident: 1000 -> 1100, 10.0 % more"]);
    assert_eq!(faults("timer", 1.0), ["timer has no baseline"]);
    let mut nothing = Measured::default();
    nothing.select("mmio");
    assert_eq!(baseline.faults(&nothing), ["mmio was not measured"]);
}

#[test]
fn the_loop_is_held_against_its_ratio() {
    let baseline = Baseline::parse("[instructions]\nloop = 20000002\n").unwrap();
    assert_eq!(baseline.faults(&measured(&[("loop", 20_003_999.0)], &[])), [] as [&str; 0]);
    let faults = baseline.faults(&measured(&[("loop", 20_004_001.0)], &[]));
    assert!(faults.len() == 1 && faults[0].contains("over the bound of 20004000"), "{faults:?}");
}

#[test]
fn one_more_system_register_is_growth() {
    let baseline = Baseline::parse("[exit_path]\nmmio = { mrs = 5, msr = 3, isb = 0, dsb = 0 }\n").unwrap();
    let kinds = Kinds { mrs: 5, msr: 3, loads: 1000, ..Kinds::default() };
    assert_eq!(baseline.faults(&measured(&[], &[("mmio", kinds)])), [] as [&str; 0]);
    let kinds = Kinds { isb: 1, ..kinds };
    assert_eq!(baseline.faults(&measured(&[], &[("mmio", kinds)])), ["isb on the exit path of mmio: 0 -> 1"]);
    assert_eq!(baseline.faults(&measured(&[], &[("sgi", kinds)])), ["the exit path of sgi has no baseline"]);
}

#[test]
fn what_is_accepted_is_read_back_and_has_no_faults() {
    let kinds = Kinds { mrs: 3, msr: 3, loads: 47, ..Kinds::default() };
    let measured = measured(&[("hypercall", 184.25), ("resident", 1589248.0)], &[("hypercall", kinds)]);
    let mut baseline = Baseline::parse("[instructions]\nmmio = 329\n").unwrap();
    baseline.accept(&measured);
    let again = Baseline::parse(&baseline.text()).unwrap();
    assert_eq!(again, baseline);
    assert!(baseline.text().contains("mmio = 329\n"), "what was not measured stays");
    assert_eq!(again.faults(&measured), [] as [&str; 0]);
    assert!(Baseline::parse("[instructons]\n").is_err());
}

#[test]
fn the_table_has_its_verdicts() {
    let text = table(&measured(&[("hypercall", 160.0), ("mmio", 219.0), ("loop", 20_000_002.0)], &[]));
    let line = |name: &str| text.lines().find(|line| line.starts_with(&format!("| {name} "))).unwrap().to_owned();
    assert!(line("hypercall").contains("over by 10"), "{text}");
    assert!(line("mmio").contains("reached"), "{text}");
    assert!(line("loop").contains("1.0000"), "{text}");
    assert!(!text.contains("| sgi "), "not asked for: {text}");
    let widths: Vec<_> = text.lines().map(|line| line.chars().count()).collect();
    assert!(widths.iter().all(|width| *width == widths[0]), "{text}");
}

#[test]
fn rows_have_names_of_their_own() {
    let mut names: Vec<_> = ROWS.iter().map(|row| row.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), ROWS.len());
    assert!(rows::TRACED.iter().all(|name| names.contains(name)));
}

#[test]
fn the_document_gets_the_tables_between_its_marks() {
    let old = "a\n<!-- rows: begin -->\nold\n<!-- rows: end -->\nb\n";
    assert_eq!(documented(old, "rows", "new\n").unwrap(), "a\n<!-- rows: begin -->\nnew\n<!-- rows: end -->\nb\n");
    assert!(documented(old, "exit paths", "").is_err());
}

#[test]
fn a_source_file_belongs_to_a_room() {
    let room = |path: &str| image::room_of(std::path::Path::new(path));
    assert_eq!(room("hypervisor/src/run.rs").as_deref(), Some("src"));
    assert_eq!(room("hypervisor/vm/src/exit.rs").as_deref(), Some("vm"));
    assert_eq!(room("platform/src/gicv3.rs").as_deref(), Some("platform"));
    assert_eq!(room("library/core/src/num.rs"), None);
}

#[test]
fn paths_are_shown_by_kind_and_by_room() {
    let mut measured = measured(&[], &[("mmio", Kinds { mrs: 5, stores: 48, ..Kinds::default() })]);
    measured.rooms.insert("mmio", [("vm".to_owned(), 53)].into());
    let text = paths(&measured);
    assert!(text.contains("| vm ") && text.contains("53") && text.contains("48"), "{text}");
}

#[test]
fn both_modes_stand_beside_each_other() {
    let text = beside(
        &measured(&[("hypercall", 112.0), ("mmio", 200.0)], &[]),
        &measured(&[("hypercall", 112.0), ("mmio", 203.0)], &[]),
    );
    let line = |name: &str| text.lines().find(|line| line.starts_with(&format!("| {name} "))).unwrap().to_owned();
    assert!(line("hypercall").contains("+0.00 %") && line("mmio").contains(" 203 | +1.50 %"), "{text}");
    assert!(!text.contains("| sgi "), "not asked for: {text}");
}
