//! The client against the real books and channel over a socket, on lines good and bad.

mod fake;

use fake::Server;
use merus_client::{Address, Client, Error, Wire, chrome, life, upload};
use proto::*;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(20);

fn client(server: &Server, limit: Duration) -> Client {
    Client::new(Wire::open(&Address::Unix(server.path()), limit).unwrap(), limit)
}

fn new_vm(name: &str) -> NewVm {
    NewVm {
        name: name.into(),
        group: None,
        kernel: Payload::Boot("vmlinuz".into()),
        initrd: None,
        cmdline: None,
        memory: 64 << 20,
        vcpus: 1,
        settings: String::new(),
    }
}

#[test]
fn a_life_is_waited_for_at_each_step() {
    let server = Server::start();
    let mut c = client(&server, LIMIT);
    let state = |c: &mut Client| c.info("web").unwrap().state;
    life::create(&mut c, new_vm("web"), Some(LIMIT)).unwrap();
    assert_eq!(state(&mut c), VmState::Created);
    life::start(&mut c, "web", Some(LIMIT)).unwrap();
    life::pause(&mut c, "web", Some(LIMIT)).unwrap();
    assert_eq!(state(&mut c), VmState::Paused);
    c.done(&Call::Resume { vm: "web".into() }).unwrap();
    life::reset(&mut c, "web", Some(LIMIT)).unwrap();
    assert_eq!((state(&mut c), c.info("web").unwrap().resets), (VmState::Running, 1));
    // The fake's power key does nothing, so the grace (10 ms of the fake's time) ends it.
    life::stop(&mut c, "web", Duration::from_millis(10), Some(LIMIT)).unwrap();
    assert_eq!(state(&mut c), VmState::Stopped(StopKind::Killed));
    life::start(&mut c, "web", Some(LIMIT)).unwrap();
    assert_eq!(state(&mut c), VmState::Running);
    assert_eq!(life::destroy(&mut c, "web", false, LIMIT).unwrap_err().exit_code(), 5);
    life::destroy(&mut c, "web", true, LIMIT).unwrap();
    assert_eq!(c.info("web").unwrap_err().exit_code(), 4);
}

#[test]
fn what_does_not_come_to_its_end_is_told() {
    let server = Server::start();
    let mut c = client(&server, LIMIT);
    server.with(|m| m.machine.failing = Some("payload \"vmlinuz\" is corrupted"));
    let failed = life::create(&mut c, new_vm("web"), Some(LIMIT)).unwrap_err();
    assert_eq!(failed.to_string(), "vm \"web\" could not be made: payload \"vmlinuz\" is corrupted");
    server.with(|m| (m.machine.failing, m.machine.stuck) = (None, true));
    let late = life::create(&mut c, new_vm("db"), Some(Duration::from_millis(60))).unwrap_err();
    assert_eq!((late.exit_code(), late.to_string().contains("is creating and not created")), (3, true), "{late}");
}

#[test]
fn long_lists_come_whole() {
    let server = Server::start();
    let mut c = client(&server, LIMIT);
    for n in 0..150 {
        life::create(&mut c, new_vm(&format!("vm-{n:03}")), None).unwrap();
    }
    let names: Vec<String> = c.vms().unwrap().into_iter().map(|row| row.name).collect();
    assert_eq!(names, (0..150).map(|n| format!("vm-{n:03}")).collect::<Vec<_>>());
}

#[test]
fn calls_that_may_be_repeated_survive_a_bad_line() {
    let server = Server::start();
    server.line.greet.store(true, Relaxed);
    let limit = Duration::from_secs(4);
    let mut c = client(&server, limit);
    c.machine().unwrap();
    for damage in [&server.line.damage, &server.line.damage_calls] {
        damage.store(2, Relaxed);
        assert_eq!(c.machine().unwrap().pcpus, 2);
        // Three times is too often.
        damage.store(3, Relaxed);
        let mut quick = client(&server, Duration::from_millis(300));
        drop(std::mem::replace(&mut c, client(&server, limit)));
        let error = quick.machine().unwrap_err();
        assert_eq!(error.exit_code(), 3, "{error}");
        assert!(error.to_string().contains("instead: "), "{error}");
        damage.store(0, Relaxed);
        drop(quick);
    }
}

#[test]
fn a_call_that_must_not_be_repeated_is_sent_once() {
    let server = Server::start();
    let mut c = client(&server, Duration::from_millis(200));
    c.machine().unwrap();
    server.line.swallow.store(1, Relaxed);
    let error = life::create(&mut c, new_vm("web"), None).unwrap_err();
    assert!(error.to_string().contains("it may have been done or not"), "{error}");
    // It was done, once; and the answer that was lost confuses nobody.
    assert_eq!(c.vms().unwrap().len(), 1);
    assert!(matches!(life::create(&mut c, new_vm("web"), None), Err(Error::Refused(Refusal::NameTaken(_)))));
}

#[test]
fn an_upload_goes_on_after_a_cut_and_is_not_sent_twice() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kernel");
    let bytes: Vec<u8> = (0..100_000_u32).map(|n| (n / 7) as u8).collect();
    std::fs::write(&path, &bytes).unwrap();
    let mut payload = upload::Payload::open(&path, None).unwrap();

    server.line.cut_after.store(50_000, Relaxed);
    let error = payload.send(&mut client(&server, LIMIT), |_| {}).unwrap_err();
    assert_eq!((error.exit_code(), error.to_string().contains("during `chunk`")), (3, true), "{error}");
    server.line.cut_after.store(usize::MAX, Relaxed);
    let first = server.with(|m| m.machine.received);
    assert!(0 < first && first < 50_000, "{first}");

    let mut steps = Vec::new();
    let mut c = client(&server, LIMIT);
    let done = payload.send(&mut c, |there| steps.push(there)).unwrap();
    assert_eq!((done.size, done.sent, steps[0]), (100_000, 100_000 - first, first));
    assert!(steps.is_sorted() && steps.last() == Some(&100_000));
    assert_eq!(server.with(|m| m.machine.received), 100_000);
    let again = payload.send(&mut c, |_| {}).unwrap();
    assert_eq!((again.hash, again.sent), (done.hash, 0));
    assert_eq!(c.objects().unwrap().last().unwrap().name, "kernel");
}

#[test]
fn an_upload_survives_what_the_line_does_to_chunks_and_answers() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kernel");
    let bytes: Vec<u8> = (0..200_000_u32).map(|n| (n / 7) as u8).collect();
    std::fs::write(&path, &bytes).unwrap();
    let mut payload = upload::Payload::open(&path, None).unwrap();
    let mut c = client(&server, Duration::from_millis(900));
    let mut step = 0;
    let done = payload
        .send(&mut c, |_| {
            step += 1;
            match step {
                10 => server.line.damage_calls.store(1, Relaxed),
                20 => server.line.swallow.store(2, Relaxed),
                30 => server.line.damage.store(1, Relaxed),
                _ => {}
            }
        })
        .unwrap();
    // Not one chunk has come twice for good, and what was sent again is a few windows.
    assert_eq!(server.with(|m| m.machine.received), 200_000);
    assert!(done.sent > 200_000 && done.sent < 200_000 + 40 * 2048, "{done:?}");
    assert_eq!(c.objects().unwrap().last().unwrap().there, 200_000);
}

#[test]
fn an_upload_that_gets_nowhere_ends() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kernel");
    std::fs::write(&path, vec![7; 50_000]).unwrap();
    let mut payload = upload::Payload::open(&path, None).unwrap();
    let mut c = client(&server, Duration::from_millis(60));
    let error = payload.send(&mut c, |_| server.line.swallow.store(usize::MAX, Relaxed)).unwrap_err();
    assert!(error.to_string().contains("no answer to `put`"), "{error}");
}

/// A peer that says what it likes.
fn peer(answer: impl FnOnce(UnixStream) + Send + 'static, limit: Duration) -> Client {
    let (ours, theirs) = UnixStream::pair().unwrap();
    std::thread::spawn(move || answer(theirs));
    Client::new(Wire::new("pair".into(), ours).unwrap(), limit)
}

/// A frame of any version, with a message that only that version knows.
fn frame_of(version: u16, id: u32) -> Vec<u8> {
    let mut plain =
        [&b"MC"[..], &version.to_le_bytes(), &id.to_le_bytes(), &3_u16.to_le_bytes(), &[0xee, 0, 0xee]].concat();
    plain.extend(crc32fast::hash(&plain).to_le_bytes());
    // COBS: each zero byte becomes the distance to the next one.
    let parts = plain.split(|byte| *byte == 0).flat_map(|part| [&[part.len() as u8 + 1], part].concat());
    [&[0], &parts.collect::<Vec<u8>>()[..], &[0]].concat()
}

/// What `merus` says to a Merus that answers each call with these bytes; its number is given.
fn told(answer: impl Fn(u32) -> Vec<u8> + Send + 'static) -> String {
    let answers = move |mut stream: UnixStream| {
        let mut decoder = Decoder::new();
        let mut byte = [0];
        while stream.read(&mut byte).is_ok_and(|n| n == 1) {
            if let Some(Ok(frame)) = decoder.push(byte[0]) {
                stream.write_all(&answer(frame.id)).unwrap();
            }
        }
    };
    let error = peer(answers, LIMIT).machine().unwrap_err();
    assert_eq!(error.exit_code(), 1);
    error.to_string()
}

#[test]
fn another_version_is_named() {
    const { assert!(proto::VERSION == 5) };
    // Both sides put their own version on what they send: this is how a Merus of before and one of later answer.
    for theirs in [4, 6] {
        let expected = format!(
            "Merus speaks version {theirs} of the protocol, this program version 5; use the program of Merus' release"
        );
        assert_eq!(told(move |id| frame_of(theirs, id)), expected);
    }
    // A refusal whose words this program knows.
    let told = told(|id| {
        let mut out = Vec::new();
        encode(id, &Reply::Err(Refusal::Version { ours: 7 }), &mut out).unwrap();
        out
    });
    assert_eq!(told, "Merus speaks version 7 of the protocol, this program 5; use the program of its release");
}

#[test]
fn a_peer_that_stops_is_told_from_one_that_is_silent() {
    let half = |mut stream: UnixStream| {
        let _ = stream.write_all(b"\0\x07MC");
    };
    let error = peer(half, LIMIT).machine().unwrap_err();
    assert!(error.to_string().contains("Merus' side has closed the connection during `machine`"), "{error}");
    let silent = |mut stream: UnixStream| {
        let mut all = Vec::new();
        let _ = stream.read_to_end(&mut all);
    };
    let error = peer(silent, Duration::from_millis(60)).machine().unwrap_err();
    assert!(error.to_string().contains("no answer to `machine` within 0.06 s"), "{error}");
    // What never ends, and is nothing, is no answer either.
    let noise = |mut stream: UnixStream| while stream.write_all(&[0x55; 997]).is_ok() {};
    let error = peer(noise, Duration::from_millis(100)).machine().unwrap_err();
    assert!(error.to_string().contains("instead: more than"), "{error}");
}

#[test]
fn a_trace_becomes_tracks_slices_and_instants() {
    let row = |tick, kind, which, vcpu, argument| TraceRow { tick, kind, which, vm: 3, vcpu, argument };
    let rows = vec![
        // Its beginning is not in the trace.
        row(1_000, 2, 2, 0, 400),
        row(1_100, 1, 0, 1, 50),
        row(1_200, 3, 3, 1, 20),
        row(1_250, 4, 0, 1, 27),
        row(1_300, 2, 0, 1, 200),
        row(1_400, 200, 0, 1, 0),
        row(1_500, 1, 0, 0, 10),
        row(1_600, 5, 0, u16::MAX, 30),
    ];
    let tracks = [chrome::Track { pcpu: 0, rows, lost: 4 }, chrome::Track { pcpu: 1, ..Default::default() }];
    let names = BTreeMap::from([(3, "web".to_string())]);
    let text = chrome::document(&tracks, &names, 1_000_000).to_string();
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    let events = value["traceEvents"].as_array().unwrap();
    let of = |ph: &str| events.iter().filter(|e| e["ph"] == ph).cloned().collect::<Vec<_>>();
    let tracks: Vec<_> = of("M").iter().map(|e| e["args"]["name"].clone()).collect();
    assert_eq!(tracks, ["Merus", "pCPU 0", "pCPU 1"]);
    let slices: Vec<_> = of("X").iter().map(|e| (e["name"].clone(), e["ts"].as_f64(), e["dur"].as_f64())).collect();
    let slice = |name: &str, ts, dur| (name.into(), Some(ts), Some(dur));
    assert_eq!(slices, [slice("web/0", 0.0, 400.0), slice("web/1", 500.0, 200.0), slice("web/0", 900.0, 100.0)]);
    assert_eq!(of("X")[1]["args"], serde_json::json!({ "end": "preempted", "waited_us": 50.0 }));
    let instants: Vec<_> = of("i").iter().map(|e| (e["name"].clone(), e["cat"].clone(), e["ts"].as_f64())).collect();
    let instant = |name: &str, cat: &str, ts| (name.into(), cat.into(), Some(ts));
    assert_eq!(
        instants,
        [
            instant("exit mmio", "exit", 600.0),
            instant("INTID 27 shown", "interrupt", 650.0),
            instant("INTID 30 taken", "interrupt", 1000.0),
        ]
    );
    assert_eq!((&value["otherData"]["lost"], &value["otherData"]["unknown"]), (&4.into(), &1.into()));
}
