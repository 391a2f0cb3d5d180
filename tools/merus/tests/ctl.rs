//! `merus ctl` as a user or a script meets it: what it prints, its exit statuses, its JSON.

mod fake;

use config::image::Raw;
use fake::Server;
use proto::TraceRow;
use serde_json::Value;
use std::io::Write;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::Ordering::Relaxed;

fn command(server: &Server, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_merus"));
    command.arg("ctl").args(arguments).stdin(Stdio::null());
    command.env("MERUS_CONNECT", format!("unix:{}", server.path().display()));
    command
}

fn ctl(server: &Server, arguments: &[&str]) -> Output {
    command(server, arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// What a command that must work prints.
fn good(server: &Server, arguments: &[&str]) -> String {
    let output = ctl(server, arguments);
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), String::new()), "{arguments:?}");
    text(&output.stdout)
}

fn json(server: &Server, arguments: &[&str]) -> Value {
    let all = [arguments, &["--json"]].concat();
    serde_json::from_str(&good(server, &all)).unwrap()
}

/// The exit status and message of a command that must not work.
fn bad(server: &Server, arguments: &[&str]) -> (i32, String) {
    let output = ctl(server, arguments);
    (output.status.code().unwrap(), text(&output.stderr))
}

fn web(server: &Server) {
    good(server, &["create", "web", "--kernel", "boot:vmlinuz", "--memory", "64M", "--start"]);
}

/// A command with something on its standard input.
fn with_input(server: &Server, arguments: &[&str], input: &str) -> Output {
    let mut child = command(server, arguments);
    let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn a_life_by_commands() {
    let server = Server::start();
    assert_eq!(good(&server, &["group", "tenant"]), "tenant: a group\n");
    let create = ["create", "web", "--kernel", "boot:vmlinuz", "--memory", "64M", "--vcpus", "2", "--group", "tenant"];
    let settings = ["--set", "cpu.weight=200", "--set", "cpu.max=50%", "--wait"];
    assert_eq!(good(&server, &[&create[..], &settings].concat()), "web: created\n");
    assert_eq!(good(&server, &["start", "web"]), "web: running\n");
    assert_eq!(good(&server, &["pause", "web"]), "web: paused\n");
    assert_eq!(good(&server, &["resume", "web"]), "web: running\n");
    assert_eq!(good(&server, &["reset", "web"]), "web: running\n");
    assert_eq!(good(&server, &["set", "web", "cpu.weight=300", "memory.max=max"]), "cpu.weight=300\nmemory.max=max\n");
    assert_eq!(good(&server, &["set", "--group", "tenant", "cpu.weight=50"]), "cpu.weight=50\n");
    assert_eq!(good(&server, &["group", "tenant", "cpu.max=25%", "cpu.weight=70"]), "cpu.max=25%\ncpu.weight=70\n");
    let row = &json(&server, &["groups"])[0];
    assert_eq!((&row["weight"], &row["cpu_max"]["quota_us"]), (&70.into(), &25_000.into()));
    let list = good(&server, &["list"]);
    let lines: Vec<Vec<&str>> = list.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["NAME", "STATE", "VCPUS", "MEMORY", "WEIGHT", "CPU.MAX", "RAN", "GROUP"]);
    assert_eq!((lines[1][..7].join(" "), lines[1].last()), ("web running 2 64 MiB 300 50%".into(), Some(&"tenant")));
    assert_eq!(good(&server, &["stop", "web", "--grace", "20ms"]), "web: stopped (killed)\n");
    assert_eq!(good(&server, &["destroy", "web"]), "web: destroyed\n");
    let events = good(&server, &["events"]);
    let events: Vec<&str> = events.lines().map(|line| line.split_once("web: ").unwrap().1).collect();
    let life = ["being made", "created", "started", "paused", "resumed", "reset", "cpu.weight=300", "memory.max=max"];
    let end = ["asked to power off", "stopped (killed)", "destroyed"];
    assert_eq!(events, [&life[..], &end].concat());
}

#[test]
fn exit_statuses_tell_what_kind_of_no_it_was() {
    let server = Server::start();
    web(&server);
    server.with(|m| m.machine.memory = Some(32 << 20));
    let create = |name| vec!["create", name, "--memory", "64M", "--kernel"];
    let cases: [(Vec<&str>, i32, &str); 13] = [
        ([create("web"), vec!["boot:vmlinuz"]].concat(), 1, "there is a VM \"web\" already"),
        ([create("db"), vec!["boot:vmlinuz", "--set", "cpu.weight=0"]].concat(), 1, "key cpu.weight: "),
        (vec!["set", "web", "colour=red"], 1, "key colour: "),
        (vec!["frobnicate"], 2, "unrecognized subcommand"),
        (vec!["set", "web"], 2, "no setting is given"),
        (vec!["put", "/nowhere/at/all"], 2, "/nowhere/at/all: "),
        (vec!["info", "db"], 4, "there is no VM \"db\""),
        (vec!["forget", "db"], 4, "nothing uploaded is \"db\""),
        ([create("db"), vec!["boot:nothing"]].concat(), 4, "there is no payload \"nothing\""),
        (vec!["set", "--group", "g", "cpu.weight=1"], 4, "there is no group \"g\""),
        (vec!["resume", "web"], 5, "the VM is running"),
        (vec!["destroy", "web"], 5, "the VM is running"),
        ([create("db"), vec!["boot:vmlinuz"]].concat(), 6, "67108864 bytes of memory asked for, 33554432 left"),
    ];
    for (arguments, code, part) in cases {
        let (got, message) = bad(&server, &arguments);
        assert!(got == code && message.contains(part), "{arguments:?}: {got}: {message}");
        assert!(got == 2 || message.lines().count() == 1, "{arguments:?}: {message}");
    }
    server.with(|m| m.machine.stuck = true);
    let (code, message) = bad(&server, &["pause", "web", "--timeout", "0.1"]);
    assert!(code == 3 && message.contains("vm \"web\" is pausing and not paused after 0.1 s"), "{code}: {message}");
    let error = ctl(&server, &["info", "db", "--json"]);
    let value: Value = serde_json::from_slice(&error.stderr).unwrap();
    assert_eq!(value["error"]["code"], 4);
}

#[test]
fn without_merus_there_is_advice() {
    let folder = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_merus"));
        let command = command.current_dir(folder.path()).env_remove("MERUS_CONNECT").arg("ctl").args(arguments);
        let output = command.output().unwrap();
        (output.status.code(), text(&output.stderr))
    };
    let (code, message) = run(&["list"]);
    assert!(code == Some(3) && message.contains("no target/merus/control.sock here; start Merus"), "{message}");
    // What is wrong with the words is told first.
    let (code, message) = run(&["set", "web"]);
    assert!(code == Some(2) && message.contains("no setting is given"), "{message}");
    let (code, message) = run(&["stop", "web", "--grace", "1m"]);
    assert!(code == Some(2) && message.contains("write 10s or 500ms"), "{message}");
    let (code, message) = run(&["list", "--connect", "unix:nothing.sock"]);
    assert!(code == Some(3) && message.contains("unix:nothing.sock: there is no such socket"), "{message}");
    let (code, message) = run(&["list", "--connect", "serial:/dev/null"]);
    assert!(code == Some(3) && message.contains("check the device's name"), "{message}");
    let (code, message) = run(&["list", "--connect", "udp:x"]);
    assert!(code == Some(2) && message.contains("write unix:PATH, tcp:HOST:PORT or serial:DEVICE"), "{message}");
}

#[test]
fn payloads_are_sent_once_and_found_by_name_and_hash() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("Image");
    std::fs::write(&path, vec![7; 30_000]).unwrap();
    let file = path.to_str().unwrap();
    server.line.cut_after.store(12_000, Relaxed);
    let (code, message) = bad(&server, &["put", file, "--name", "kernel"]);
    assert!(code == 3 && message.contains("give the command again"), "{message}");
    server.line.cut_after.store(usize::MAX, Relaxed);
    let there = server.with(|m| m.machine.received);
    assert!(there > 0);
    let put = json(&server, &["put", file, "--name", "kernel"]);
    assert_eq!((&put["size"], &put["sent"]), (&30_000.into(), &(30_000 - there).into()));
    let again = good(&server, &["put", file]);
    assert!(again.contains("Image: 29 KiB are there already, nothing was sent"), "{again}");
    let hash = put["hash"].as_str().unwrap().to_owned();
    assert!(hash.len() == 64 && again.contains(&format!("sha256:{hash}\n")), "{again}");

    let objects = json(&server, &["objects"]);
    assert_eq!((&objects[0]["boot"], &objects[0]["hash"]), (&true.into(), &Value::Null));
    assert_eq!((&objects[1]["name"], &objects[1]["hash"]), (&"kernel".into(), &hash.as_str().into()));
    // By a file that is there, and by the beginning of the hash.
    let made = good(&server, &["create", "web", "--kernel", file, "--memory", "64M"]);
    assert!(made.contains("nothing was sent") && made.ends_with("web: created\n"), "{made}");
    let short = format!("sha256:{}", &hash[..8]);
    good(&server, &["create", "db", "--kernel", &short, "--initrd", "boot:vmlinuz", "--memory", "64M"]);
    let (code, message) = bad(&server, &["forget", "kernel"]);
    assert!(code == 5 && message.contains("in use by vm"), "{message}");
    good(&server, &["destroy", "web"]);
    good(&server, &["destroy", "db"]);
    assert_eq!(good(&server, &["forget", "kernel"]), format!("forgotten: sha256:{hash}\n"));
    let empty = folder.path().join("empty");
    std::fs::write(&empty, "").unwrap();
    assert!(bad(&server, &["put", empty.to_str().unwrap()]).1.contains("it is empty"));
}

/// A kernel's file is unpacked and laid out before it is sent; where it goes, the settings say.
#[test]
fn kernels_are_made_ready_before_they_are_sent() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let packed = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let kernel: Vec<u8> = (0..20_000u32).map(|n| (n % 251) as u8).collect();
    let zipped = file("Image.gz", &packed(&kernel));
    let at = |settings: &[&str]| {
        let command = ["create", "web", "--kernel", &zipped, "--memory", "16M"];
        let made = good(&server, &[&command[..], settings].concat());
        good(&server, &["destroy", "web"]);
        assert!(made.contains("Image.gz: "), "{made}");
        server.with(|m| m.machine.kernel.take()).unwrap()
    };
    let place = Raw { load: Some(0x4008_0000), entry: None, room: Some(1 << 20) };
    let settings = ["--set", "load=0x40080000", "--set", "cpu.weight=7", "--set", "room=1M"];
    assert_eq!(at(&settings), (kernel.clone(), place));
    assert_eq!(at(&[]), (kernel, Raw::default()));
    let bomb = file("bomb.gz", &packed(&vec![0; (8 << 20) + 1]));
    let absent = folder.path().join("absent").to_str().unwrap().to_owned();
    let cut = file("cut.gz", &std::fs::read(&zipped).unwrap()[..300]);
    for (kernel, settings, code, message) in [
        (&bomb, "", 2, "unpacks to more than 8M"),
        (&cut, "", 2, "is a damaged gzip file (it ends too early)"),
        (&absent, "", 2, "absent: cannot be read: No such file"),
        (&absent, "", 2, "; give another path"),
        (&zipped, "entry=0x40000000", 1, "key entry: is of a raw binary's; set `load`, too"),
        (&zipped, "load=x", 2, "--set load=x: \"x\" is not right; write a number such as 0x40080000"),
        (&zipped, "load=0", 1, "key load: 0x0 to 0x4e20 is not all in the VM's RAM"),
    ] {
        let settings = if settings.is_empty() { vec![] } else { vec!["--set", settings] };
        let command = [&["create", "web", "--kernel", kernel, "--memory", "8M"][..], &settings].concat();
        let (got, said) = bad(&server, &command);
        assert!(got == code && said.contains(message), "{got}: {said}");
    }
}

#[test]
fn every_look_has_text_and_json() {
    let server = Server::start();
    web(&server);
    good(&server, &["group", "tenant"]);
    let cases = [
        ("machine", "board        fake,board\n"),
        ("machine", "mode         VHE (E2H = 1)\n"),
        ("pcpus", "web/0"),
        ("groups", "tenant    0     100      max   3 MiB         max\n"),
        ("switches", "own         3        9        -       -         -       -     -        -\n"),
        ("switches", "lan: lost unknown 4\n"),
        ("objects", "boot:vmlinuz  -       100 B  whole    1\n"),
        ("log", "0.001 2 pCPUs, 512 MiB for VMs\n"),
    ];
    for (command, part) in cases {
        let all = good(&server, &[command]);
        assert!(all.contains(part), "{command}: {all}");
    }
    let info = good(&server, &["info", "web"]);
    assert!(info.contains("\nstate        running\n") && info.contains("\nmmio     12\n"), "{info}");
    assert!(info.contains("VCPU  STATE  PCPU"), "{info}");

    let info = json(&server, &["info", "web"]);
    assert_eq!((&info["state"], &info["stopped"], &info["cpu_max"]), (&"running".into(), &Value::Null, &Value::Null));
    assert_eq!((&info["vcpu"][0]["state"], &info["exits_by_reason"]["mmio"]), (&"ready".into(), &12.into()));
    assert_eq!(json(&server, &["list"])[0]["name"], "web");
    assert_eq!(json(&server, &["machine"])["counter_hz"], 1_000_000);
    assert_eq!(json(&server, &["pcpus"])[1]["number"], 1);
    assert_eq!(json(&server, &["groups"])[0]["memory_used"], 3 << 20);
    let switches = json(&server, &["switches"]);
    let lan = &switches[0]["uplink"];
    assert_eq!((&lan["writes"], &lan["lost"]["unknown"], &lan["depth"]), (&70.into(), &4.into(), &2.into()));
    assert_eq!((&switches[1]["name"], &switches[1]["uplink"]), (&"own".into(), &Value::Null));
    // One object a line.
    let events = good(&server, &["events", "--json"]);
    let events: Vec<Value> = events.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(
        (&events[2]["event"], &events[2]["vm"], &events[2]["number"]),
        (&"started".into(), &"web".into(), &2.into())
    );
    let done = json(&server, &["stop", "web", "--force"]);
    assert_eq!((&done["vm"]["state"], &done["vm"]["stopped"]), (&"stopped".into(), &"killed".into()));
}

#[test]
fn a_console_is_read_and_typed_at_by_pipes() {
    let server = Server::start();
    web(&server);
    // Nothing to type: what is kept.
    assert_eq!(good(&server, &["console", "web"]), "booting\r\n");
    // A pipe's bytes are all for the VM, escape or not; it echoes.
    let output = with_input(&server, &["console", "web", "--no-backlog"], "echo \x1dq hello\n");
    assert_eq!((text(&output.stdout), output.status.code()), ("echo \x1dq hello\n".into(), Some(0)));
    let output = with_input(&server, &["console", "web", "--until", "ping"], "say ping now\n");
    assert!(output.status.success() && text(&output.stdout).contains("say ping"), "{}", text(&output.stdout));
    let (code, message) = bad(&server, &["console", "web", "--until", "pong", "--timeout", "0.2"]);
    assert!(code == 3 && message.contains("no \"pong\" on its console within 0.2 s"), "{message}");
    // What is waited for never comes from a VM that has ended.
    let output = with_input(&server, &["console", "web", "--until", "login:"], "off\n");
    assert_eq!(output.status.code(), Some(5), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("will not print \"login:\""), "{}", text(&output.stderr));
    // Its last output can still be read.
    assert!(good(&server, &["console", "web"]).ends_with("off\n"));
    assert_eq!(bad(&server, &["console", "db"]).0, 4);
}

#[test]
fn output_that_is_gone_is_counted() {
    let server = Server::start();
    web(&server);
    server.with(|m| m.machine.kept_from = 4);
    assert_eq!(good(&server, &["console", "web"]), "ing\r\n");
}

#[test]
fn one_frame_of_top_is_text() {
    let server = Server::start();
    web(&server);
    for arguments in [&["top", "--once", "--interval", "0.2"][..], &["top", "--interval", "0.2", "--sort", "name"]] {
        // Without a terminal, --once or not.
        let frame = good(&server, arguments);
        let lines: Vec<&str> = frame.lines().collect();
        assert!(lines[0].starts_with("Merus 0.1.0 on fake,board: up "), "{frame}");
        let cells = |line: usize| lines[line].split_whitespace().collect::<Vec<_>>();
        assert_eq!(cells(2), ["PCPU", "LOAD", "RUNNING", "READY", "TAKEN/S"]);
        assert_eq!((cells(3)[0], cells(3)[2]), ("0", "web/0"));
        assert_eq!(cells(6), ["VM", "GROUP", "STATE", "VCPUS", "CPU%", "STEAL%", "THROTTLED%", "MEMORY", "EXITS/S"]);
        assert_eq!(cells(7)[..4], ["web", "-", "running", "1"]);
    }
    // The fake's clock goes on between the calls of one look, hence the room.
    let frame = json(&server, &["top", "--once", "--interval", "0.3"]);
    let of = |part: &Value, key: &str| part[key].as_f64().unwrap();
    let (vm, pcpu) = (&frame["vms"][0], &frame["pcpus"][0]);
    assert!((15.0..35.0).contains(&of(vm, "cpu")) && (5.0..15.0).contains(&of(vm, "steal")), "{frame}");
    assert!((55.0..95.0).contains(&of(pcpu, "load")) && of(&frame["pcpus"][1], "load") == 0.0, "{frame}");
}

#[test]
fn a_trace_is_written_and_tracing_is_off_again() {
    let server = Server::start();
    web(&server);
    let row = |tick, kind, which, argument| TraceRow { tick, kind, which, vm: 0, vcpu: 0, argument };
    // More than one message holds.
    let stays =
        (0..400_u64).flat_map(|n| [row(n * 100 + 1, 1, 0, 3), row(n * 100 + 50, 3, 5, 7), row(n * 100 + 90, 2, 2, 89)]);
    server.with(|m| m.machine.records = stays.collect());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.json");
    let out = json(&server, &["trace", "-o", path.to_str().unwrap(), "--seconds", "0.3"]);
    assert_eq!((&out["records"], &out["lost"], &out["pcpus"]), (&1200.into(), &0.into(), &2.into()));
    assert!(!server.with(|m| m.machine.tracing));
    let value: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let events = value["traceEvents"].as_array().unwrap();
    let count = |ph: &str, name: &str| events.iter().filter(|e| e["ph"] == ph && e["name"] == name).count();
    assert_eq!((count("X", "web/0"), count("i", "exit wait"), count("M", "thread_name")), (400, 400, 2));
    let (code, _) = bad(&server, &["trace", "-o", "/nowhere/t.json", "--seconds", "0.1"]);
    assert_eq!((code, server.with(|m| m.machine.tracing)), (2, false));
}

#[test]
fn help_says_what_the_exit_statuses_mean() {
    let server = Server::start();
    let help = good(&server, &["--help"]);
    assert!(help.contains("4  there is no such VM, payload or group") && help.contains("MERUS_CONNECT"), "{help}");
    for command in ["create", "stop", "console", "top", "trace"] {
        assert!(good(&server, &[command, "--help"]).contains("--connect"), "{command}");
    }
}

/// Its source of random numbers, a disk and a network card.
fn equipped(server: &Server) {
    use config::spec::{DiskSource, DiskSpec, NetSpec, PayloadKind, PayloadRef};
    let image = |name: &str, kind| PayloadRef {
        image: "0".into(),
        name: name.into(),
        kind,
        offset: 4096,
        size: 512,
        crc32: 0,
        sha256: None,
    };
    let disk = DiskSource::Image(image("root.img", PayloadKind::Disk));
    let spec = config::spec::VmSpec {
        name: "web".into(),
        kernel: image("vmlinuz", PayloadKind::Kernel),
        raw: Raw::default(),
        initrd: None,
        cmdline: String::new(),
        memory: 64 << 20,
        vcpus: 1,
        cpu: Default::default(),
        memory_max: None,
        group: None,
        power_key: Default::default(),
        gic: None,
        passthrough: Default::default(),
        rng: true,
        disks: vec![DiskSpec { source: disk, readonly: true, serial: None }],
        nets: vec![NetSpec { switch: "lan".into(), mac: None, mtu: 1500, isolated: false }],
    };
    server.with(|m| m.control.boot(&mut m.machine, spec).unwrap());
}

#[test]
fn what_devices_have_done_is_shown() {
    let server = Server::start();
    equipped(&server);
    let info = good(&server, &["info", "web"]);
    let lines: Vec<Vec<&str>> = info.lines().map(|line| line.split_whitespace().collect()).collect();
    let line = |name: &str| lines.iter().find(|line| line.first() == Some(&name)).unwrap_or_else(|| panic!("{info}"));
    assert_eq!(line("DEVICE")[5..], ["OTHERS", "ERRORS", "DEPTH", "DEEPEST", "WHAT"]);
    assert_eq!(line("rng")[1..], ["0", "0", "B", "0", "0", "B", "0", "0", "0", "0"]);
    let disk = line("disk0");
    assert_eq!(disk[4..], ["7", "64", "KiB", "1", "3", "4", "32", "root.img,", "read-only"]);
    assert_eq!(line("net0")[11..], ["lan,", "22:0b:8d:11:9d:c3"]);
    assert!(info.contains("\nnet0: lost full 3\n") && !info.contains("disk0: lost"), "{info}");
    // Its switch's, and no other's.
    assert_eq!(
        (line("lan")[4..].join(" "), info.contains("\nlan: lost unknown 4\n")),
        ("70 64 KiB 0 5 2 0 uplink".into(), true)
    );
    let info = json(&server, &["info", "web"]);
    assert_eq!((&info["uplink"][0]["name"], &info["uplink"][0]["writes"]), (&"lan".into(), &70.into()));
    assert_eq!((&info["devices"], info["device"].as_array().unwrap().len()), (&3.into(), 3));
    let (disk, net) = (&info["device"][1], &info["device"][2]);
    assert_eq!((&disk["name"], &disk["written_bytes"], &disk["deepest"]), (&"disk0".into(), &65536.into(), &32.into()));
    assert_eq!((&net["lost"]["full"], &net["lost"]["spoofed"]), (&3.into(), &0.into()));
    let top = json(&server, &["top", "--once", "--interval", "0.1"]);
    let rates = &top["devices"][1];
    // A thousand reads a second of its time, a thousand bytes in each.
    assert_eq!((&rates["vm"], &rates["name"], &rates["depth"]), (&"web".into(), &"disk0".into(), &4.into()));
    let rate = rates["requests_per_s"].as_f64().unwrap();
    assert!((900.0..1100.0).contains(&rate), "{top}");
    assert_eq!(rates["errors_per_s"], 0.0);
    let top = good(&server, &["top", "--once", "--interval", "0.1"]);
    assert!(top.lines().any(|line| line.starts_with("-    lan ") && line.ends_with("      2  uplink")), "{top}");
    assert!(top.contains("\nVM   DEVICE  ") && top.contains("lan, 22:0b:8d:11:9d:c3\n"), "{top}");
}

#[test]
fn devices_come_and_go() {
    let server = Server::start();
    equipped(&server);
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let image = file("data.img", &[7; 1024]);
    assert_eq!(bad(&server, &["attach", "web", "--disk", &image]).0, 5, "it runs");
    good(&server, &["stop", "web", "--force"]);
    let attached = good(&server, &["attach", "web", "--disk", &format!("{image},readonly"), "--net", "lan,isolated"]);
    let now = "web: rng; disk0 root.img, read-only; disk1 data.img, read-only; net0 lan, 22:0b:8d:11:9d:c3; net1 lan, 46:c9:86:a1:42:fd\n";
    assert!(attached.contains("data.img: ") && attached.ends_with(now), "{attached}");
    assert_eq!(good(&server, &["detach", "web", "rng"]), now.replace("rng; ", ""));
    let left = json(&server, &["detach", "web", "disk0"]);
    assert_eq!(
        (&left["device"][0]["name"], &left["device"][0]["what"]),
        (&"disk0".into(), &"data.img, read-only".into())
    );
    // At the making, by the beginning of the hash as well; what is there is not sent again.
    let create =
        ["create", "db", "--kernel", "boot:vmlinuz", "--memory", "64M", "--rng", "--net", "lan", "--disk", &image];
    let made = good(&server, &[&create[..], &["--set", "cpu.weight=7"]].concat());
    assert!(made.contains("nothing was sent") && made.ends_with("db: created\n"), "{made}");
    let info = json(&server, &["info", "db"]);
    let names = |info: &Value| -> Vec<String> {
        info["device"].as_array().unwrap().iter().map(|device| device["name"].as_str().unwrap().into()).collect()
    };
    assert_eq!((names(&info), &info["weight"]), (["rng", "disk0", "net0"].map(String::from).into(), &7.into()));
    good(&server, &["destroy", "db"]);
    let cut = {
        let mut head = vec![0; 1024];
        // A partition of a whole MBR that ends behind the image.
        head[446 + 4] = 0x83;
        head[446 + 8] = 1;
        head[446 + 12] = 100;
        (head[510], head[511]) = (0x55, 0xaa);
        file("cut.img", &head)
    };
    let uneven = file("uneven.img", &[7; 1000]);
    for (arguments, code, part) in [
        (vec!["attach", "web"], 2, "no device is given; write --disk, --net or --rng"),
        (vec!["attach", "web", "--disk", "boot:"], 2, "\"boot:\" is no payload"),
        (vec!["attach", "web", "--disk", "boot:a,serial=x,serial=y"], 2, "--disk boot:a,serial=x,serial=y: "),
        (vec!["attach", "web", "--disk", "/nowhere"], 2, "/nowhere: "),
        (vec!["attach", "web", "--disk", &cut], 2, "and its partition table (MBR) speaks of"),
        (vec!["attach", "web", "--disk", &uneven], 2, "1000 bytes, which is no multiple of 512"),
        (vec!["attach", "web", "--net", "lan,colour=red"], 2, "--net lan,colour=red: "),
        (vec!["attach", "web", "--net", "wan"], 1, "key switch: there is no switch \"wan\""),
        (
            vec!["attach", "web", "--net", "lan,mac=22:0b:8d:11:9d:c3"],
            1,
            "is the address of a net of vm \"web\" already",
        ),
        (vec!["attach", "web", "--disk", "boot:other"], 4, "there is no payload \"other\""),
        (vec!["attach", "db", "--rng"], 4, "there is no VM \"db\""),
        (vec!["detach", "web", "disk7"], 1, "the VM has no \"disk7\", but disk0 net0 net1"),
        (
            vec!["create", "db", "--kernel", "boot:vmlinuz", "--memory", "64M", "--net", "lan,mtu=1"],
            1,
            "key mtu: 1 is out",
        ),
    ] {
        let (got, message) = bad(&server, &arguments);
        assert!(got == code && message.contains(part), "{arguments:?}: {got}: {message}");
    }
    let events = good(&server, &["events"]);
    assert!(events.contains("web: attached disk1\n") && events.contains("web: detached disk0\n"), "{events}");
}
