//! What decides a run, and that it ends, with a shell in QEMU's place.

use super::*;

fn expect(lines: &[&str], end: End) -> Expect {
    Expect {
        lines: lines.iter().map(|line| (*line).to_owned()).collect(),
        forbidden: vec!["Kernel panic".to_owned()],
        constant: None,
        between: Vec::new(),
        shares: None,
        script: Vec::new(),
        control: Vec::new(),
        end,
        timeout: Duration::from_secs(5),
    }
}

#[test]
fn a_pattern_is_a_substring_with_stars() {
    assert!(matches("demo: ok", "[web] demo: ok"));
    assert!(matches("test * ok", "test sgi: ok"));
    assert!(matches("a*b*c", "xaxbxcx"));
    assert!(!matches("a*b*c", "c b a"));
    assert!(!matches("demo: ok", "demo: okay".get(..6).unwrap()));
    // A part matches after the one before it, not within it.
    assert!(!matches("aa*a", "aa"));
}

#[test]
fn lines_must_come_in_order_and_the_status_must_fit() {
    let expect = expect(&["one", "two"], End::Exit(0));
    let mut watch = Watch::new(&expect);
    assert_eq!(watch.line("two"), Verdict::Continue);
    assert_eq!(watch.line("one"), Verdict::Continue);
    assert_eq!(watch.ended(Some(0)), Err("never printed `two`; last seen: one".to_owned()));
    assert_eq!(watch.line("two"), Verdict::Continue);
    assert_eq!(watch.ended(Some(0)), Ok(()));
    assert!(watch.ended(Some(1)).is_err_and(|why| why.contains("status 1, not status 0")));
    assert!(watch.ended(None).is_err_and(|why| why.contains("a signal")));
}

#[test]
fn a_fatal_line_fails_at_once_unless_wanted() {
    let plain = expect(&[], End::Exit(0));
    assert!(
        matches!(Watch::new(&plain).line("merus: fatal: no bundle"), Verdict::Failed(why) if why.contains("no bundle"))
    );
    let wanted = expect(&["fatal: no bundle"], End::Fatal);
    let mut watch = Watch::new(&wanted);
    assert_eq!(watch.ended(Some(0)), Err("no `merus: fatal:` line; nothing was printed".to_owned()));
    assert_eq!(watch.line("merus: fatal: no bundle"), Verdict::Continue);
    assert_eq!(watch.ended(Some(0)), Ok(()));
}

#[test]
fn a_number_must_come_and_be_within_its_range() {
    let mut expect = expect(&[], End::Exit(0));
    expect.between = vec![Between { text: "share web ".to_owned(), least: 230, most: 270 }];
    let mut watch = Watch::new(&expect);
    assert_eq!(watch.line("[web] share db 900"), Verdict::Continue);
    assert_eq!(watch.ended(Some(0)), Err("never printed `share web `; last seen: [web] share db 900".to_owned()));
    for line in ["[web] share web 230", "share web 270 of 1000"] {
        assert_eq!(watch.line(line), Verdict::Continue);
    }
    assert_eq!(watch.ended(Some(0)), Ok(()));
    for line in ["share web 229", "share web 271", "share web none", "share web 99999999999999999999"] {
        assert_eq!(Watch::new(&expect).line(line), Verdict::Failed(format!("not 230 to 270: {line}")));
    }
}

#[test]
fn a_constant_line_that_changes_fails() {
    let mut expect = expect(&[], End::Exit(0));
    expect.constant = Some("memory: *used".to_owned());
    let mut watch = Watch::new(&expect);
    for line in ["memory: 1 used", "memory: 2 used", "other", "memory: 2 used"] {
        assert_eq!(watch.line(line), Verdict::Continue);
    }
    assert!(matches!(watch.line("memory: 3 used"), Verdict::Failed(why) if why.contains("memory: 2 used")));
}

#[test]
fn a_forbidden_line_fails_at_once() {
    let expect = expect(&[], End::Exit(0));
    assert!(matches!(Watch::new(&expect).line("[a] Kernel panic - not syncing"), Verdict::Failed(_)));
}

#[test]
fn a_counted_line_ends_the_run_when_it_came_often_enough() {
    let expect = expect(&["first"], End::After { line: "up".to_owned(), count: 2 });
    let mut watch = Watch::new(&expect);
    watch.line("first");
    assert_eq!(watch.line("reboot: up"), Verdict::Continue);
    assert!(watch.ended(Some(0)).is_err_and(|why| why.contains("1 of 2")));
    assert!(watch.timed_out(Duration::ZERO).contains("1 of 2"));
    assert_eq!(watch.line("reboot: up"), Verdict::Done);
    let mut without_first = Watch::new(&expect);
    without_first.line("up");
    assert!(matches!(without_first.line("up"), Verdict::Failed(why) if why.contains("`first`")));
}

#[test]
fn typing_waits_for_its_prompts() {
    let mut expect = expect(&[], End::Exit(0));
    let send = |after: &str, text: &str| Send { after: after.to_owned(), text: text.to_owned() };
    expect.script = vec![send("login:", "root\n"), send("# ", "poweroff\n")];
    let mut watch = Watch::new(&expect);
    assert_eq!(watch.typing("# "), None);
    assert_eq!(watch.typing("debian login: "), Some("root\n"));
    assert_eq!(watch.typing("~ # "), Some("poweroff\n"));
    assert_eq!(watch.typing("~ # "), None);
}

#[test]
fn a_stream_is_cut_into_clean_lines() {
    let mut lines = Lines::default();
    assert_eq!(lines.push(b"one\r\ntw"), ["one"]);
    assert_eq!(lines.push(b"o\n\x1b[6n\nthr"), ["two", "[6n"]);
    assert_eq!(lines.rest().as_deref(), Some("thr"));
    assert_eq!(lines.rest(), None);
}

/// A stand-in for QEMU: a shell that prints what it is told.
fn fake(script: &str) -> (Qemu, Machine) {
    let qemu = Qemu {
        binary: "sh".into(),
        env: Vec::new(),
        args: vec!["-c".to_owned(), script.to_owned()],
        version: "0".to_owned(),
    };
    let machine = Machine {
        machine: "virt".to_owned(),
        cpu: "max".to_owned(),
        smp: 1,
        memory: "1G".to_owned(),
        kernel: "none".into(),
        ..Machine::default()
    };
    (qemu, machine)
}

#[test]
fn the_image_is_the_kernel_or_lies_where_what_starts_it_looks() {
    let (qemu, mut machine) = fake("");
    let has = |machine: &Machine, wanted: &[&str]| {
        let command = machine.command(&qemu, "stdio");
        let args: Vec<_> = command.get_args().map(|arg| arg.to_string_lossy().into_owned()).collect();
        args.windows(wanted.len()).any(|part| part == wanted)
    };
    assert!(has(&machine, &["-kernel", "none"]));
    machine.preload = Some("first".into());
    let image = "loader,file=none,addr=0x41000000,force-raw=on";
    assert!(has(&machine, &["-kernel", "first", "-device", image]));
    assert!(include_str!("../../../guests/dirty/src/main.rs").contains("const MERUS: u64 = 0x4100_0000;"));
    machine.preload = None;
    machine.load_at = Some("0x50000000".to_owned());
    assert!(!has(&machine, &["-kernel"]));
    assert!(has(&machine, &["-device", "loader,addr=0x50000000,cpu-num=0"]));
}

#[test]
fn a_firmware_gets_the_image_from_qemu_or_from_its_disk() {
    let (qemu, machine) = fake("");
    let line = |machine: &Machine| crate::ctx::shown(&machine.command(&qemu, "stdio"));
    let machine = Machine { firmware: Some("u-boot".into()), initrd: Some("bundle".into()), ..machine };
    let handed = line(&machine);
    assert!(["-kernel none", "-bios u-boot", "-initrd bundle"].iter().all(|part| handed.contains(part)), "{handed}");
    let machine = Machine { disk: Some("disk".into()), initrd: None, ..machine };
    let read = line(&machine);
    assert!(read.contains("-bios u-boot") && !read.contains("-kernel"), "{read}");
    assert!(read.contains("-drive if=virtio,format=raw,snapshot=on,file=disk"), "{read}");
    let machine = Machine { machine: "raspi4b".to_owned(), firmware: None, ..machine };
    let card = line(&machine);
    assert!(card.contains("-kernel none") && card.contains("-drive if=sd,format=raw,snapshot=on,file=disk"), "{card}");
}

#[test]
fn the_console_may_be_the_second_line() {
    let (qemu, machine) = fake("");
    let lines = |machine: &Machine| {
        let command = machine.command(&qemu, "stdio");
        let args: Vec<_> = command.get_args().map(|arg| arg.to_string_lossy().into_owned()).collect();
        let serial = args.windows(2).filter(|pair| pair[0] == "-serial").map(|pair| pair[1].clone());
        serial.collect::<Vec<_>>()
    };
    assert_eq!(lines(&machine), ["stdio"]);
    let mut machine = Machine { second: true, ..machine };
    assert_eq!(lines(&machine), ["null", "stdio"]);
    machine.control = Some(control::Control { socket: "/s".into(), cli: "cli".into() });
    assert_eq!(lines(&machine), ["chardev:control", "stdio"]);
    machine.second = false;
    assert_eq!(lines(&machine), ["stdio", "chardev:control"]);
}

#[test]
fn what_lies_in_memory_is_started_by_itself() {
    let (qemu, machine) = fake("");
    let loaded = vec![("bl31".into(), 0), ("img".into(), 0x8_0000)];
    let machine = Machine { machine: "raspi4b".to_owned(), loaded, ..machine };
    let line = crate::ctx::shown(&machine.command(&qemu, "stdio"));
    assert!(
        line.contains("-device loader,file=bl31,addr=0x0,force-raw=on -device loader,file=img,addr=0x80000"),
        "{line}"
    );
    // It has no fewer CPUs than 4.
    assert!(!line.contains("-kernel") && line.contains("-smp 4") && line.contains("thread=single"), "{line}");
    let all = Machine { smp: 4, ..machine };
    assert!(crate::ctx::shown(&all.command(&qemu, "stdio")).contains("thread=multi"));
}

#[test]
fn an_elf_file_has_its_bundle_as_a_module() {
    let (qemu, machine) = fake("");
    let machine = Machine { elf: true, initrd: Some("bundle".into()), ..machine };
    let line = crate::ctx::shown(&machine.command(&qemu, "stdio"));
    assert!(line.contains("-device guest-loader,addr=0x50000000,initrd=bundle") && !line.contains("-initrd"), "{line}");
}

fn run_fake(name: &str, script: &str, expect: &Expect) -> Outcome {
    let (qemu, machine) = fake(script);
    let log = std::env::temp_dir().join(format!("merus-qemu-test-{}-{name}.log", std::process::id()));
    let outcome = run(&qemu, &machine, expect, &log, |_| {}).unwrap();
    let logged = fs::read_to_string(&log).unwrap();
    fs::remove_file(&log).unwrap();
    assert_eq!(logged.lines().collect::<Vec<_>>(), outcome.tail);
    outcome
}

#[test]
fn a_child_that_prints_and_exits_passes() {
    let outcome = run_fake("pass", "echo one; echo two", &expect(&["one", "two"], End::Exit(0)));
    assert_eq!(outcome.result, Ok(()));
    let outcome = run_fake("status", "echo one; exit 3", &expect(&["one"], End::Exit(0)));
    assert!(outcome.result.is_err_and(|why| why.contains("status 3")));
}

#[test]
fn a_fatal_line_ends_a_child_that_would_stay() {
    let script = "echo merus: fatal: x; echo after; exec sleep 60";
    let outcome = run_fake("fatal", script, &expect(&[], End::Exit(0)));
    assert!(outcome.result.is_err_and(|why| why.contains("fatal: x")));
    assert!(outcome.tail.contains(&"after".to_owned()));
    assert!(outcome.took < Duration::from_secs(5));
}

#[test]
fn a_silent_child_is_ended_when_its_time_is_up() {
    let mut expect = expect(&["never"], End::Exit(0));
    expect.timeout = Duration::from_millis(200);
    let outcome = run_fake("timeout", "printf partial; exec sleep 60", &expect);
    assert!(outcome.result.is_err_and(|why| why.contains("`never`")));
    assert_eq!(outcome.tail, ["partial"]);
}

#[test]
fn a_prompt_without_newline_is_answered() {
    let mut expect = expect(&["got hello"], End::Exit(0));
    expect.script = vec![Send { after: "# ".to_owned(), text: "hello\n".to_owned() }];
    let outcome = run_fake("prompt", "printf '# '; read line; echo got $line", &expect);
    assert_eq!(outcome.result, Ok(()));
}

#[test]
fn the_warning_about_timers_is_left_out_and_other_errors_are_not() {
    let warning = "qemu-system-aarch64: warning: icount sleep disabled and no active timers\n";
    let err = format!("one\n{warning}two");
    let all: Vec<u8> = super::lines::chunks(std::io::empty(), std::io::Cursor::new(err)).iter().flatten().collect();
    assert_eq!(String::from_utf8_lossy(&all), "one\ntwo\n");
}
