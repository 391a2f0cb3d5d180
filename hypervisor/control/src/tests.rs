//! Management against a machine that only remembers what it was told.

use crate::shell::{Progress, Shell};
use crate::*;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use config::image::Raw;
use config::setting::Setting;
use config::spec::{
    CpuSpec, DiskSource, DiskSpec, GroupSpec, Mac, NetSpec, PassthroughSpec, PayloadKind, PayloadRef, PowerKey,
    SwitchSpec, VmSpec,
};
use proptest::prelude::*;
use proto::*;
use sha2::{Digest, Sha256};

#[derive(Default)]
struct Fake {
    now: u64,
    told: Vec<String>,
    regions: BTreeMap<u32, Vec<u8>>,
    next_region: u32,
    /// Numbers that have something in the machine.
    vms: BTreeMap<u16, &'static str>,
    power_key: bool,
    full: bool,
    /// Where the kernel of the VM made last goes.
    raw: Option<Raw>,
    /// And where its payloads are.
    payloads: Option<Payloads>,
    /// What each VM has printed.
    printed: Vec<u8>,
}

impl Host for Fake {
    fn now_ns(&self) -> u64 {
        self.now
    }
    fn machine(&self) -> MachineRow {
        MachineRow {
            merus: "0".into(),
            board: "fake".into(),
            pcpus: 2,
            memory: 1 << 30,
            memory_free: 1 << 29,
            heap: 0,
            now_ns: self.now,
            counter_hz: 1,
            tracing: false,
            vhe: false,
            line_rate: 0,
            bad_frames: 0,
        }
    }
    fn object_room(&mut self, size: u64) -> Result<Region, Refusal> {
        if size > 1 << 20 {
            return Err(Refusal::NoMemory { asked: size, left: 1 << 20, of: "the machine".into() });
        }
        self.next_region += 1;
        self.regions.insert(self.next_region, vec![0; size as usize]);
        Ok(Region(self.next_region))
    }
    fn object_write(&mut self, region: Region, offset: u64, bytes: &[u8]) {
        let memory = self.regions.get_mut(&region.0).expect("a region that was given");
        memory[offset as usize..offset as usize + bytes.len()].copy_from_slice(bytes);
    }
    fn object_free(&mut self, region: Region) {
        self.regions.remove(&region.0).expect("freed once");
    }
    fn create(&mut self, vm: VmNumber, spec: &VmSpec, _: Option<usize>, payloads: Payloads) -> Result<(), Refusal> {
        if self.full {
            return Err(Refusal::NoMemory { asked: spec.memory, left: 0, of: "the machine".into() });
        }
        let Payloads { kernel, initrd, disks } = &payloads;
        assert_eq!(disks.len(), spec.disks.len());
        for source in [kernel, initrd].into_iter().chain(disks) {
            if let Source::Object(region) = source {
                assert!(self.regions.contains_key(&region.0), "made of an object that is gone");
            }
        }
        self.payloads = Some(payloads);
        let was = self.vms.insert(vm.0, "made");
        assert!(was.is_none_or(|was| was == "ended"), "{was:?} and made again");
        self.raw = Some(spec.raw);
        self.told.push(format!("create {} {}", vm.0, spec.name));
        Ok(())
    }
    fn start(&mut self, vm: VmNumber) {
        self.told.push(format!("start {}", vm.0));
    }
    fn pause(&mut self, vm: VmNumber) {
        self.told.push(format!("pause {}", vm.0));
    }
    fn resume(&mut self, vm: VmNumber) {
        self.told.push(format!("resume {}", vm.0));
    }
    fn reset(&mut self, vm: VmNumber) {
        self.told.push(format!("reset {}", vm.0));
    }
    fn press_power(&mut self, vm: VmNumber) -> bool {
        self.told.push(format!("key {}", vm.0));
        self.power_key
    }
    fn release_power(&mut self, vm: VmNumber) {
        self.told.push(format!("key up {}", vm.0));
    }
    fn kill(&mut self, vm: VmNumber) {
        assert_eq!(self.vms.get(&vm.0), Some(&"made"));
        self.told.push(format!("kill {}", vm.0));
    }
    fn destroy(&mut self, vm: VmNumber) {
        self.vms.remove(&vm.0).expect("destroyed once");
        self.told.push(format!("destroy {}", vm.0));
    }
    fn apply(&mut self, vm: VmNumber, setting: &Setting) -> Result<(), Refusal> {
        assert_eq!(self.vms.get(&vm.0), Some(&"made"));
        self.told.push(format!("set {} {setting:?}", vm.0));
        Ok(())
    }
    fn group(&mut self, index: usize, group: &GroupSpec) -> Result<(), Refusal> {
        self.told.push(format!("group {index} {} {}", group.name, group.weight));
        Ok(())
    }
    fn group_memory(&self, _: usize) -> u64 {
        0
    }
    fn usage(&self, _: VmNumber) -> Usage {
        Usage::default()
    }
    fn vcpu(&self, _: VmNumber, vcpu: u32) -> Option<VcpuRow> {
        Some(VcpuRow {
            index: vcpu,
            state: VcpuState::Ready,
            pcpu: 0,
            ran_ns: u64::MAX,
            waited_ns: 0,
            blocked_ns: 0,
            throttled_ns: 0,
            wake_max_ns: 0,
            switches: 0,
            moves: 0,
            interrupts: 0,
            exits: vec![ExitRow { reason: "x".repeat(20), count: u64::MAX, ticks: vec![u32::MAX; 32] }; 5],
            spans: Vec::new(),
        })
    }
    fn device(&self, _: VmNumber, slot: u32) -> Option<DeviceCounts> {
        (slot == 1).then(|| DeviceCounts { reads: 3, read_bytes: self.now / 10, errors: 2, ..DeviceCounts::default() })
    }
    fn switch(&self, name: &str) -> Option<SwitchRow> {
        let uplink =
            (name == "lan").then(|| DeviceCounts { reads: 9, read_bytes: 4096, errors: 1, ..DeviceCounts::default() });
        Some(SwitchRow { name: name.into(), ports: 2, learned: 1, uplink })
    }
    fn pcpu(&self, number: u32) -> Option<PcpuRow> {
        Some(PcpuRow { number, mpidr: 0, running: None, ready: 0, busy_ns: 0, steals: 0 })
    }
    fn console(&self, _: VmNumber, from: u64) -> ConsolePart {
        let rest = self.printed.get(from as usize..).unwrap_or_default();
        ConsolePart { from, bytes: Bytes(rest[..rest.len().min(MAX_CHUNK)].to_vec()), live: false }
    }
    fn type_at(&mut self, _: VmNumber, bytes: &[u8]) -> usize {
        bytes.len().min(16)
    }
    fn log(&self, from: u64) -> Page<LogRow> {
        Page::fill(from, 0, [])
    }
    fn trace(&self, pcpu: u32, from: u64) -> Option<Page<TraceRow>> {
        (pcpu < 2).then(|| Page::fill(from, 0, []))
    }
    fn set_tracing(&mut self, on: bool) {
        self.told.push(format!("trace {on}"));
    }
}

fn boot_payload() -> PayloadRef {
    PayloadRef {
        image: "0".into(),
        name: "vmlinuz".into(),
        kind: PayloadKind::Kernel,
        offset: 4096,
        size: 100,
        crc32: 0,
        sha256: None,
    }
}

fn control() -> Control {
    {
        let mut image = PayloadRef { image: "1".into(), name: "root.img".into(), ..boot_payload() };
        (image.kind, image.size) = (PayloadKind::Disk, 1024);
        let lan = SwitchSpec { name: "lan".into(), uplink: false };
        Control::new(vec![boot_payload(), image], vec![lan], 2)
    }
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

fn vm(name: &str) -> String {
    name.into()
}

fn state(control: &mut Control, host: &mut Fake, name: &str) -> VmState {
    match control.call(host, Call::Info { vm: name.into() }) {
        Ok(Answer::Info(row)) => row.state,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_life_from_create_to_destroy() {
    let (mut c, mut h) = (control(), Fake::default());
    let n = VmNumber(0);
    assert_eq!(c.call(&mut h, Call::Create(new_vm("web"))), Ok(Answer::Done));
    assert_eq!(c.call(&mut h, Call::Pause { vm: vm("web") }), Err(Refusal::State { is: VmState::Creating }));
    assert!(!c.made(1, n));
    assert_eq!(c.call(&mut h, Call::Start { vm: vm("web") }), Ok(Answer::Done));
    assert_eq!(c.call(&mut h, Call::Pause { vm: vm("web") }), Ok(Answer::Done));
    assert_eq!(c.call(&mut h, Call::Resume { vm: vm("web") }), Err(Refusal::State { is: VmState::Pausing }));
    c.paused(2, n);
    assert_eq!(c.call(&mut h, Call::Resume { vm: vm("web") }), Ok(Answer::Done));
    assert_eq!(c.call(&mut h, Call::Reset { vm: vm("web") }), Ok(Answer::Done));
    c.restarted(3, n);
    assert_eq!(c.call(&mut h, Call::Destroy { vm: vm("web") }), Err(Refusal::State { is: VmState::Running }));
    assert_eq!(c.call(&mut h, Call::Stop { vm: vm("web"), grace_ms: 0 }), Ok(Answer::Done));
    c.ended(4, n, StopKind::PoweredOff);
    assert_eq!(state(&mut c, &mut h, "web"), VmState::Stopped(StopKind::Killed));
    h.vms.insert(0, "ended");
    assert_eq!(c.call(&mut h, Call::Start { vm: vm("web") }), Ok(Answer::Done));
    assert!(c.made(5, n), "a stopped one that is started runs as soon as it is made");
    c.ended(6, n, StopKind::PoweredOff);
    assert_eq!(state(&mut c, &mut h, "web"), VmState::Stopped(StopKind::PoweredOff));
    assert_eq!(c.call(&mut h, Call::Destroy { vm: vm("web") }), Ok(Answer::Done));
    assert_eq!(c.call(&mut h, Call::Info { vm: vm("web") }), Err(Refusal::NoSuchVm("web".into())));
    let told = ["create 0 web", "start 0", "pause 0", "resume 0", "reset 0", "kill 0", "create 0 web", "destroy 0"];
    assert_eq!(h.told, told);
    let Ok(Answer::Events(page)) = c.call(&mut h, Call::Events { from: 0 }) else { panic!() };
    let kinds: Vec<String> = page.rows.iter().map(|e| format!("{:?}", e.kind)).collect();
    let expected = [
        "Making",
        "Created",
        "Started",
        "Paused",
        "Resumed",
        "Reset",
        "Stopped(Killed)",
        "Making",
        "Created",
        "Started",
        "Stopped(PoweredOff)",
        "Destroyed",
    ];
    assert_eq!(kinds, expected);
}

#[test]
fn one_that_resets_for_ever_can_be_killed() {
    let (mut c, mut h) = (control(), Fake::default());
    let n = VmNumber(0);
    c.call(&mut h, Call::Create(new_vm("web"))).unwrap();
    c.made(1, n);
    c.call(&mut h, Call::Start { vm: vm("web") }).unwrap();
    c.resetting(n);
    assert_eq!(c.call(&mut h, Call::Stop { vm: vm("web"), grace_ms: 0 }), Ok(Answer::Done));
    c.restarted(2, n);
    assert_eq!(state(&mut c, &mut h, "web"), VmState::Stopping, "a reset that was on its way does not bring it back");
    c.ended(3, n, StopKind::Killed);
    assert_eq!(state(&mut c, &mut h, "web"), VmState::Stopped(StopKind::Killed));
}

#[test]
fn one_that_is_being_made_can_be_told_to_run_then_once() {
    let (mut c, mut h) = (control(), Fake::default());
    c.call(&mut h, Call::Create(new_vm("web"))).unwrap();
    assert_eq!(c.call(&mut h, Call::Start { vm: vm("web") }), Ok(Answer::Done));
    assert_eq!(c.call(&mut h, Call::Start { vm: vm("web") }), Err(Refusal::State { is: VmState::Creating }));
    assert!(c.made(1, VmNumber(0)));
    assert_eq!(state(&mut c, &mut h, "web"), VmState::Running);
}

#[test]
fn a_graceful_stop_asks_and_then_ends() {
    let (mut c, mut h) = (control(), Fake { power_key: true, ..Fake::default() });
    c.call(&mut h, Call::Create(new_vm("web"))).unwrap();
    c.made(0, VmNumber(0));
    c.call(&mut h, Call::Start { vm: vm("web") }).unwrap();
    c.call(&mut h, Call::Stop { vm: vm("web"), grace_ms: 5 }).unwrap();
    assert_eq!(c.deadline(), Some(5_000_000));
    h.now = 4_999_999;
    c.poll(&mut h);
    assert_eq!(state(&mut c, &mut h, "web"), VmState::Running);
    h.now = 5_000_000;
    c.poll(&mut h);
    assert_eq!(state(&mut c, &mut h, "web"), VmState::Stopping);
    assert_eq!(c.deadline(), None);
    assert_eq!(h.told[2..], ["key 0", "kill 0"]);
}

#[test]
fn the_power_key_is_held_for_a_moment() {
    let (mut c, mut h) = (control(), Fake { power_key: true, ..Fake::default() });
    c.call(&mut h, Call::Create(new_vm("web"))).unwrap();
    c.made(0, VmNumber(0));
    c.call(&mut h, Call::Start { vm: vm("web") }).unwrap();
    c.call(&mut h, Call::Stop { vm: vm("web"), grace_ms: 500 }).unwrap();
    assert_eq!(c.deadline(), Some(100_000_000));
    for now in [99_999_999, 100_000_000, 499_999_999, 500_000_000] {
        h.now = now;
        c.poll(&mut h);
        assert_eq!(c.deadline(), [Some(100_000_000), Some(500_000_000), None][h.told.len() - 3]);
    }
    assert_eq!(h.told[2..], ["key 0", "key up 0", "kill 0"]);
}

#[test]
fn a_guest_that_powers_off_in_time_is_not_killed() {
    let (mut c, mut h) = (control(), Fake { power_key: true, ..Fake::default() });
    c.call(&mut h, Call::Create(new_vm("web"))).unwrap();
    c.made(0, VmNumber(0));
    c.call(&mut h, Call::Start { vm: vm("web") }).unwrap();
    c.call(&mut h, Call::Stop { vm: vm("web"), grace_ms: 5 }).unwrap();
    c.ended(1, VmNumber(0), StopKind::PoweredOff);
    assert_eq!(state(&mut c, &mut h, "web"), VmState::Stopped(StopKind::PoweredOff));
    assert_eq!(c.deadline(), None, "neither a key nor a grace is left");
    assert_eq!(c.deadline(), None);
}

#[test]
fn without_a_power_key_a_stop_ends_at_once() {
    let (mut c, mut h) = (control(), Fake::default());
    c.call(&mut h, Call::Create(new_vm("web"))).unwrap();
    c.made(0, VmNumber(0));
    c.call(&mut h, Call::Start { vm: vm("web") }).unwrap();
    c.call(&mut h, Call::Stop { vm: vm("web"), grace_ms: 5_000 }).unwrap();
    assert_eq!(state(&mut c, &mut h, "web"), VmState::Stopping);
}

#[test]
fn refusals_change_nothing_and_say_what() {
    let (mut c, mut h) = (control(), Fake::default());
    let cases: [(Call, &str); 13] = [
        (Call::Create(NewVm { memory: 1, ..new_vm("a") }), "key memory: "),
        (Call::Create(NewVm { vcpus: 65, ..new_vm("a") }), "key vcpus: "),
        (Call::Create(NewVm { name: "A".into(), ..new_vm("a") }), "key name: "),
        (Call::Create(NewVm { settings: "cpu.weight=0".into(), ..new_vm("a") }), "key cpu.weight: "),
        (Call::Create(NewVm { settings: "cpu.affinity=2".into(), ..new_vm("a") }), "key cpu.affinity: "),
        (Call::Create(NewVm { settings: "colour".into(), ..new_vm("a") }), "key colour: has no value"),
        (Call::Create(NewVm { settings: "load=here".into(), ..new_vm("a") }), "key load: \"here\" is not right; write"),
        (Call::Create(NewVm { settings: "load=0x10".into(), ..new_vm("a") }), "key load: 0x10 to "),
        (Call::Create(NewVm { settings: "room=4K".into(), ..new_vm("a") }), "key room: is of a raw binary's"),
        (Call::Create(NewVm { settings: "load=0x40000000\nentry=0x1".into(), ..new_vm("a") }), "key entry: 0x1 is no"),
        (Call::Create(NewVm { group: Some("g".into()), ..new_vm("a") }), "no group \"g\""),
        (Call::Create(NewVm { kernel: Payload::Boot("x".into()), ..new_vm("a") }), "no payload \"x\""),
        (Call::Create(NewVm { kernel: Payload::Object(Hash([1; 32])), ..new_vm("a") }), "no payload 0101"),
    ];
    for (call, part) in cases {
        let text = c.call(&mut h, call.clone()).unwrap_err().to_string();
        assert!(text.contains(part), "{call:?}: {text}");
    }
    assert_eq!((h.told.len(), h.vms.len(), c.alive()), (0, 0, 0));
    h.full = true;
    assert!(matches!(c.call(&mut h, Call::Create(new_vm("a"))), Err(Refusal::NoMemory { .. })));
    assert_eq!(c.alive(), 0);
}

#[test]
fn a_raw_binary_s_place_comes_with_the_settings_and_stays() {
    let (mut c, mut h) = (control(), Fake::default());
    let settings = "load=0x40080000\nentry = 0x40080004\ncpu.weight=7\nroom=64K".into();
    c.call(&mut h, Call::Create(NewVm { settings, ..new_vm("a") })).unwrap();
    let place = Raw { load: Some(0x4008_0000), entry: Some(0x4008_0004), room: Some(64 << 10) };
    assert_eq!(h.raw, Some(place));
    let set = Call::Set { target: Target::Vm("a".into()), key: "load".into(), value: "0x40000000".into() };
    assert!(c.call(&mut h, set).unwrap_err().to_string().contains("key load: cannot be changed"));
}

#[test]
fn settings_are_kept_for_the_next_start() {
    let (mut c, mut h) = (control(), Fake::default());
    c.call(&mut h, Call::MakeGroup { group: "t".into() }).unwrap();
    c.call(&mut h, Call::Create(NewVm { group: Some("t".into()), ..new_vm("web") })).unwrap();
    c.made(0, VmNumber(0));
    let set = |target, key: &str, value: &str| Call::Set { target, key: key.into(), value: value.into() };
    c.call(&mut h, set(Target::Vm("web".into()), "cpu.weight", "200")).unwrap();
    c.call(&mut h, set(Target::Group("t".into()), "cpu.weight", "300")).unwrap();
    assert!(c.call(&mut h, set(Target::Group("t".into()), "cpu.affinity", "1")).is_err());
    let low = c.call(&mut h, set(Target::Vm("web".into()), "memory.max", "1M")).unwrap_err();
    assert!(low.to_string().contains("memory.max"), "{low}");
    let Ok(Answer::Info(row)) = c.call(&mut h, Call::Info { vm: vm("web") }) else { panic!() };
    assert_eq!((row.number, row.weight, row.group.as_deref(), row.memory_max), (0, 200, Some("t"), None));
    assert_eq!(h.told, ["group 0 t 100", "create 0 web", "set 0 Weight(200)", "group 0 t 300"]);
}

fn upload(c: &mut Control, h: &mut Fake, bytes: &[u8], size: usize) -> (Hash, Reply) {
    let hash = Hash(Sha256::digest(bytes).into());
    let mut reply = c.call(h, Call::Put { hash, size: bytes.len() as u64, name: "k".into() });
    for (at, part) in bytes.chunks(size).enumerate() {
        reply = c.call(h, Call::Chunk { hash, offset: (at * size) as u64, bytes: Bytes(part.to_vec()) });
    }
    (hash, reply)
}

#[test]
fn an_upload_is_whole_resumed_shared_and_forgotten() {
    let (mut c, mut h) = (control(), Fake::default());
    let bytes: Vec<u8> = (0..5000_u32).map(|n| (n / 3) as u8).collect();
    let (hash, reply) = upload(&mut c, &mut h, &bytes, 999);
    assert_eq!(reply, Ok(Answer::Uploaded(5000)));
    assert_eq!(h.regions[&1], bytes);
    // Again: nothing to send.
    assert_eq!(c.call(&mut h, Call::Put { hash, size: 5000, name: "again".into() }), Ok(Answer::Uploaded(5000)));
    c.call(&mut h, Call::Create(NewVm { kernel: Payload::Object(hash), ..new_vm("web") })).unwrap();
    assert_eq!(c.call(&mut h, Call::Forget { hash }), Err(Refusal::InUse("vm \"web\"".into())));
    c.made(0, VmNumber(0));
    c.call(&mut h, Call::Destroy { vm: vm("web") }).unwrap();
    assert_eq!(c.call(&mut h, Call::Forget { hash }), Ok(Answer::Done));
    assert!(h.regions.is_empty());
}

#[test]
fn a_wrong_upload_leaves_nothing() {
    let (mut c, mut h) = (control(), Fake::default());
    let hash = Hash(Sha256::digest(b"right").into());
    c.call(&mut h, Call::Put { hash, size: 5, name: "k".into() }).unwrap();
    let chunk = |offset, bytes: &[u8]| Call::Chunk { hash, offset, bytes: Bytes(bytes.to_vec()) };
    assert_eq!(c.call(&mut h, chunk(1, b"x")), Err(Refusal::Offset { expected: 0 }));
    assert_eq!(c.call(&mut h, chunk(0, b"wrongs")), Err(Refusal::Offset { expected: 0 }));
    assert_eq!(c.call(&mut h, chunk(0, b"wro")), Ok(Answer::Uploaded(3)));
    // A repeated chunk that goes further: what is there stays, the rest is new.
    assert_eq!(c.call(&mut h, chunk(0, b"xxxn")), Ok(Answer::Uploaded(4)));
    assert_eq!(c.call(&mut h, chunk(4, b"g")), Err(Refusal::Hash));
    assert!(h.regions.is_empty());
    assert_eq!(c.call(&mut h, chunk(0, b"r")), Err(Refusal::NoSuchObject(hash.to_string())));
}

#[test]
fn long_lists_come_in_pages_that_fit() {
    let (mut c, mut h) = (control(), Fake::default());
    let count = if cfg!(miri) { 40 } else { 100 };
    for n in 0..count {
        c.call(&mut h, Call::Create(new_vm(&format!("vm-{n:03}")))).unwrap();
    }
    let (mut from, mut names) = (0, Vec::new());
    loop {
        let answer = c.call(&mut h, Call::List { from });
        encode(1, &answer, &mut Vec::new()).unwrap();
        let Ok(Answer::List(page)) = answer else { panic!() };
        names.extend(page.rows.into_iter().map(|r| r.name));
        from = page.next as u32;
        if !page.more {
            break;
        }
    }
    assert_eq!(names, (0..count).map(|n| format!("vm-{n:03}")).collect::<Vec<_>>());
    c.call(&mut h, Call::Create(NewVm { vcpus: 64, ..new_vm("wide") })).unwrap();
    let answer = c.call(&mut h, Call::Vcpus { vm: vm("wide"), from: 3 });
    encode(1, &answer, &mut Vec::new()).unwrap();
    let Ok(Answer::Vcpus(page)) = answer else { panic!() };
    assert!(page.more && page.rows[0].index == 3);
}

#[test]
#[cfg_attr(miri, ignore = "the calls of other tests, 768 times, to fill a ring")]
fn events_that_are_gone_are_counted() {
    let (mut c, mut h) = (control(), Fake::default());
    for _ in 0..EVENTS {
        c.call(&mut h, Call::Create(new_vm("a"))).unwrap();
        c.made(0, VmNumber(0));
        c.call(&mut h, Call::Destroy { vm: vm("a") }).unwrap();
    }
    let Ok(Answer::Events(page)) = c.call(&mut h, Call::Events { from: 10 }) else { panic!() };
    // Three a round: being made, created, destroyed.
    let gone = 2 * EVENTS as u64;
    assert_eq!((page.lost, page.rows[0].number), (gone - 10, gone));
}

/// What a stream answers.
fn talk(c: &mut Control, h: &mut Fake, bytes: &[u8]) -> Vec<(u32, Reply)> {
    let mut channel = Channel::new();
    let (mut decoder, mut replies) = (Decoder::new(), Vec::new());
    for byte in bytes {
        channel.receive(c, h, *byte);
        while let Some(byte) = channel.next() {
            channel.sent();
            if let Some(frame) = decoder.push(byte) {
                let frame = frame.unwrap();
                replies.push((frame.id, frame.decode().unwrap()));
            }
        }
        assert!(channel.wants_input());
    }
    replies
}

#[test]
fn an_upload_that_is_too_large_or_nothing_or_one_too_many_is_refused() {
    let (mut c, mut h) = (control(), Fake::default());
    let mut put = |n: usize, size: u64| {
        let hash = Hash([u8::try_from(n).unwrap(); 32]);
        c.call(&mut h, Call::Put { hash, size, name: "k".into() })
    };
    assert!(matches!(put(0, u64::MAX), Err(Refusal::NoMemory { asked: u64::MAX, .. })));
    assert!(matches!(put(0, 0), Err(Refusal::Malformed(_))));
    for n in 0..MAX_OBJECTS {
        assert_eq!(put(n, 100), Ok(Answer::Uploaded(0)));
    }
    assert!(matches!(put(200, 100), Err(Refusal::Limit { most: 64, .. })));
    // One that is there already may be asked for all the same, but not with another length.
    assert_eq!((put(3, 100), put(3, 101)), (Ok(Answer::Uploaded(0)), Err(Refusal::Hash)));
    let beyond = Call::Chunk { hash: Hash([3; 32]), offset: u64::MAX, bytes: Bytes(vec![0; 2]) };
    assert_eq!(c.call(&mut h, beyond), Err(Refusal::Offset { expected: 0 }));
}

/// A frame of any version, with a message that only that version knows.
fn frame_of(version: u16, id: u32) -> Vec<u8> {
    let mut plain = b"MC".to_vec();
    plain.extend(version.to_le_bytes());
    plain.extend(id.to_le_bytes());
    plain.extend(3_u16.to_le_bytes());
    plain.extend([0xee, 0x00, 0xee]);
    plain.extend(crc32fast::hash(&plain).to_le_bytes());
    // COBS: each zero byte becomes the distance to the next one.
    let parts = plain.split(|byte| *byte == 0).flat_map(|part| [&[part.len() as u8 + 1], part].concat());
    [&[0], &parts.collect::<Vec<u8>>()[..], &[0]].concat()
}

#[test]
fn another_version_is_answered_by_its_number_and_nothing_is_done() {
    let (mut c, mut h) = (control(), Fake::default());
    let mut stream = Vec::new();
    let others = [0, VERSION - 1, VERSION + 1, u16::MAX];
    for version in others {
        stream.extend(frame_of(version, 70_000 + u32::from(version)));
    }
    encode(6, &Call::Machine, &mut stream).unwrap();
    let replies = talk(&mut c, &mut h, &stream);
    let mine = Err(Refusal::Version { ours: VERSION });
    let versions = others.map(|version| (70_000 + u32::from(version), mine.clone()));
    assert_eq!(&replies[..4], &versions);
    let Ok(Answer::Machine(row)) = &replies[4].1 else { panic!() };
    assert_eq!((row.bad_frames, h.told.len()), (0, 0));
}

#[test]
fn a_stream_recovers_from_anything() {
    let (mut c, mut h) = (control(), Fake::default());
    let mut stream = b"noise".to_vec();
    encode(1, &Call::Machine, &mut stream).unwrap();
    // A frame that stops half-way, then another peer.
    let mut half = Vec::new();
    encode(2, &Call::Create(new_vm("web")), &mut half).unwrap();
    stream.extend_from_slice(&half[..half.len() / 2]);
    encode(3, &Call::List { from: 0 }, &mut stream).unwrap();
    stream.extend(core::iter::repeat_n(1, 10_000));
    encode(4, &(77_u8, 1_u8), &mut stream).unwrap();
    encode(5, &Call::Type { vm: "x".into(), bytes: Bytes(vec![0; MAX_CHUNK + 1]) }, &mut stream).unwrap();
    encode(6, &Call::Machine, &mut stream).unwrap();
    let replies = talk(&mut c, &mut h, &stream);
    let ids: Vec<(u32, bool)> = replies.iter().map(|(id, r)| (*id, r.is_ok())).collect();
    assert_eq!(ids, [(0, false), (1, true), (0, false), (3, true), (0, false), (4, false), (5, false), (6, true)]);
    let Ok(Answer::Machine(row)) = &replies[7].1 else { panic!() };
    assert_eq!(row.bad_frames, 3);
    assert!(h.told.is_empty());
}

/// A typed line from its beginning to its end.
fn typed(c: &mut Control, h: &mut Fake, line: &str) -> (String, Progress) {
    let (mut shell, mut out) = (Shell::new(), String::new());
    shell.begin(line, &mut out).unwrap();
    for _ in 0..100 {
        match shell.step(c, h, &mut out).unwrap() {
            Progress::More => {}
            progress => return (out, progress),
        }
    }
    panic!("`{line}` comes to no end");
}

#[test]
fn the_shell_is_another_client() {
    let (mut c, mut h) = (control(), Fake::default());
    c.call(&mut h, Call::Create(new_vm("web"))).unwrap();
    c.made(0, VmNumber(0));
    let mut ask = |line: &str| typed(&mut c, &mut h, line).0;
    assert!(ask("list").starts_with("web              created      1 vCPUs, 64 MiB, weight 100"));
    assert_eq!(ask("start web"), "ok\n");
    assert_eq!(ask("set web cpu.max=5000 10000"), "ok\n");
    assert_eq!(ask("start web"), "refused: the VM is running\n");
    assert_eq!(ask("stop web x"), "write: stop VM [SECONDS]\n");
    assert_eq!(ask("frobnicate"), "there is no command \"frobnicate\"; `help` lists them\n");
    assert_eq!(ask("info db"), "refused: there is no VM \"db\"; `list` names them\n");
    assert_eq!(
        ask("switches"),
        "switch lan: 2 ports, 1 addresses learned, uplink: 9 in (4 KiB), 0 out (0 KiB), 1 lost, 0 wait\n"
    );
    assert_eq!(ask("events").lines().count(), 4);
    assert_eq!(ask("   "), "");
    for (line, form) in [("list all", "list"), ("start", "start VM"), ("set web cpu.weight", "set VM KEY=VALUE")] {
        assert_eq!(ask(line), std::format!("write: {form}\n"));
    }
    assert_eq!(h.told.last().unwrap(), "set 0 Max(Some(CpuMax { quota_us: 5000, period_us: 10000 }))");
}

#[test]
fn the_shell_creates_groups_and_vms_of_them() {
    let (mut c, mut h) = (control(), Fake::default());
    let mut ask = |line: &str| typed(&mut c, &mut h, line).0;
    assert_eq!(ask("group team cpu.max=25%"), "ok\n");
    assert_eq!(ask("group team"), "ok\n");
    assert_eq!(ask("groups"), "group team: weight 100, cpu.max 25000 100000, 0 VMs, memory 0 KiB\n");
    assert!(ask("group team cpu.class=fair").starts_with("refused: key cpu.class: is a VM's"));
    assert!(ask("group Te").starts_with("refused: key group"));
    assert!(ask("create web memory=64M").starts_with("write: create VM kernel=NAME"));
    let line = "create web kernel=vmlinuz memory=64M vcpus=2 group=team cpu.weight=300 cmdline=console=ttyAMA0 a=b";
    assert_eq!(ask(line), "ok\n");
    assert!(ask("list").starts_with("web              creating     2 vCPUs, 64 MiB, weight 300"));
    assert!(ask("create web kernel=vmlinuz memory=64M").starts_with("refused: there is a VM \"web\" already"));
    let record = c.registry.find("web").unwrap();
    assert_eq!((record.spec.cmdline.as_str(), record.spec.group.as_deref()), ("console=ttyAMA0 a=b", Some("team")));
}

#[test]
fn the_shell_reads_what_a_vm_has_printed_and_leaves_for_one_that_runs() {
    let (mut c, mut h) = (control(), Fake::default());
    c.call(&mut h, Call::Create(new_vm("web"))).unwrap();
    c.made(0, VmNumber(0));
    assert_eq!(
        typed(&mut c, &mut h, "console web"),
        ("vm \"web\" has printed nothing\n".into(), Progress::Attach(VmNumber(0)))
    );
    h.printed = b"\rmerus> one\r\ntwo \x1b[2K".to_vec();
    let seen = "[web] merus> one\n[web] two ?[2K\n";
    assert_eq!(typed(&mut c, &mut h, "console web"), (seen.into(), Progress::Attach(VmNumber(0))));
    // One that has ended is read, not given the focus.
    c.call(&mut h, Call::Start { vm: "web".into() }).unwrap();
    c.ended(0, VmNumber(0), StopKind::PoweredOff);
    assert_eq!(typed(&mut c, &mut h, "console web"), (seen.into(), Progress::Done));
    // More than a piece, and never without an end.
    h.printed = b"0123456789\n".repeat(1000);
    let (text, _) = typed(&mut c, &mut h, "console web");
    assert_eq!(text, "[web] 0123456789\n".repeat(1000));
    h.printed = b"0123456789\n".repeat(100_000);
    assert!(typed(&mut c, &mut h, "console web").0.len() < 40_000);
    assert_eq!(typed(&mut c, &mut h, "console db").0, "refused: there is no VM \"db\"; `list` names them\n");
    assert_eq!(typed(&mut c, &mut h, "exit"), (String::new(), Progress::Leave));
    assert!(typed(&mut c, &mut h, "help").0.contains("console VM"));
}

#[derive(Clone, Debug)]
enum Step {
    Call(u8, u8),
    News(u8, u8),
    Upload(u8, bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0..9_u8, 0..4_u8).prop_map(|(a, b)| Step::Call(a, b)),
        (0..6_u8, 0..4_u8).prop_map(|(a, b)| Step::News(a, b)),
        (0..4_u8, any::<bool>()).prop_map(|(a, b)| Step::Upload(a, b)),
    ];
    proptest::collection::vec(step, 0..if cfg!(miri) { 20 } else { 200 })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 1 } else { 128 }, ..ProptestConfig::default() })]

    /// Whatever is asked and told in whatever order: the host is never told nonsense (the fake asserts), every VM in the books has its
    /// thing in the machine and the other way round, and after all is taken away nothing is left.
    #[test]
    fn books_and_machine_agree(steps in steps()) {
        let (mut c, mut h) = (control(), Fake { power_key: true, ..Fake::default() });
        let body = |n: u8| vec![n; 300 + usize::from(n)];
        let hash = |n: u8| Hash(Sha256::digest(body(n)).into());
        for step in steps {
            h.now += 1_000_000;
            match step {
                Step::Call(what, n) => {
                    let name = format!("vm{n}");
                    let call = match what {
                        0 => Call::Create(NewVm { kernel: if n % 2 == 0 { Payload::Object(hash(n)) } else { Payload::Boot("vmlinuz".into()) }, ..new_vm(&name) }),
                        1 => Call::Start { vm: name },
                        2 => Call::Pause { vm: name },
                        3 => Call::Resume { vm: name },
                        4 => Call::Reset { vm: name },
                        5 => Call::Stop { vm: name, grace_ms: u32::from(n) * 3 },
                        6 => Call::Destroy { vm: name },
                        7 => Call::Forget { hash: hash(n) },
                        _ => Call::Set { target: Target::Vm(name), key: "cpu.weight".into(), value: "7".into() },
                    };
                    let _ = c.call(&mut h, call);
                    c.poll(&mut h);
                }
                Step::News(what, n) => {
                    let n = VmNumber(n.into());
                    let Some((_, state)) = c.state(n) else { continue };
                    match (what, state) {
                        (0, VmState::Creating) => { c.made(h.now, n); }
                        (1, VmState::Pausing) => c.paused(h.now, n),
                        (2, VmState::Resetting) => c.restarted(h.now, n),
                        (3, VmState::Running | VmState::Pausing) => c.resetting(n),
                        (4, s) if !matches!(s, VmState::Stopped(_)) => { c.ended(h.now, n, StopKind::AllOff); h.vms.insert(n.0, "ended"); }
                        (5, VmState::Creating) => { c.failed(h.now, n, "no"); h.vms.insert(n.0, "ended"); }
                        _ => {}
                    }
                }
                Step::Upload(n, all) => {
                    let body = body(n);
                    let part = if all { body.len() } else { 100 };
                    let _ = c.call(&mut h, Call::Put { hash: hash(n), size: body.len() as u64, name: "k".into() });
                    let _ = c.call(&mut h, Call::Chunk { hash: hash(n), offset: 0, bytes: Bytes(body[..part].to_vec()) });
                }
            }
            prop_assert_eq!(h.vms.values().filter(|v| **v == "made").count(), c.alive());
        }
        for n in 0..4 {
            let name = format!("vm{n}");
            if let Ok(Answer::Info(row)) = c.call(&mut h, Call::Info { vm: name.clone() }) {
                let number = (0..4).map(VmNumber).find(|x| c.state(*x).is_some_and(|(n, _)| n == name)).unwrap();
                if !matches!(row.state, VmState::Stopped(_)) {
                    c.ended(0, number, StopKind::AllOff);
                    h.vms.insert(number.0, "ended");
                }
                c.call(&mut h, Call::Destroy { vm: name }).unwrap();
            }
            let _ = c.call(&mut h, Call::Forget { hash: hash(n) });
        }
        prop_assert!(h.vms.is_empty() && h.regions.is_empty());
    }

    /// Any bytes: answers or silence, never more than one answer a frame, and the next good call is served.
    #[test]
    fn any_bytes_leave_the_stream_usable(bytes in proptest::collection::vec(any::<u8>(), 0..if cfg!(miri) { 100 } else { 600 })) {
        let (mut c, mut h) = (control(), Fake::default());
        let mut stream = bytes;
        encode(9, &Call::Machine, &mut stream).unwrap();
        let replies = talk(&mut c, &mut h, &stream);
        prop_assert_eq!(replies.last().map(|(id, r)| (*id, r.is_ok())), Some((9, true)));
    }

    /// Any line: an answer in lines.
    #[test]
    fn any_line_is_answered(line in "\\PC{0,80}") {
        let (out, _) = typed(&mut control(), &mut Fake::default(), &line);
        prop_assert!(out.is_empty() || out.ends_with('\n'));
    }
}

/// A VM with all kinds of devices.
fn equipped(name: &str) -> VmSpec {
    let image = PayloadRef { name: "root.img".into(), kind: PayloadKind::Disk, size: 512, ..boot_payload() };
    let disk = |readonly| DiskSpec { source: DiskSource::Image(image.clone()), readonly, serial: None };
    let mac = Some(Mac([0x52, 0x54, 0, 0, 0, 1]));
    VmSpec {
        rng: true,
        disks: vec![disk(false), disk(true)],
        nets: vec![NetSpec { switch: "lan".into(), mac, mtu: 1500, isolated: false }],
        ..plain(name)
    }
}

/// A VM as `new_vm` describes it.
fn plain(name: &str) -> VmSpec {
    VmSpec {
        name: name.into(),
        kernel: boot_payload(),
        raw: Raw::default(),
        initrd: None,
        cmdline: String::new(),
        memory: 64 << 20,
        vcpus: 1,
        cpu: CpuSpec::default(),
        memory_max: None,
        group: None,
        power_key: PowerKey::default(),
        gic: None,
        passthrough: PassthroughSpec::default(),
        rng: false,
        disks: Vec::new(),
        nets: Vec::new(),
    }
}

#[test]
fn a_vm_s_devices_have_rows() {
    let (mut c, mut h) = (control(), Fake { now: 50, ..Fake::default() });
    c.boot(&mut h, equipped("web")).unwrap();
    let devices = |c: &mut Control, h: &mut Fake, from| match c.call(h, Call::Devices { vm: vm("web"), from }) {
        Ok(Answer::Devices(page)) => page.rows,
        other => panic!("{other:?}"),
    };
    let rows = devices(&mut c, &mut h, 0);
    let told: Vec<String> = rows.iter().map(|row| format!("{}: {}", row.name, row.what)).collect();
    assert_eq!(told, ["rng: ", "disk0: root.img", "disk1: root.img, read-only", "net0: lan, 52:54:00:00:00:01"]);
    // The machine knows of slot 1 only.
    let counts = DeviceCounts { reads: 3, read_bytes: 5, errors: 2, ..DeviceCounts::default() };
    assert_eq!(rows.iter().map(|row| row.counts == counts).collect::<Vec<_>>(), [false, true, false, false]);
    assert_eq!(devices(&mut c, &mut h, 3), rows[3..]);
    let Ok(Answer::Info(row)) = c.call(&mut h, Call::Info { vm: vm("web") }) else { panic!() };
    assert_eq!(row.devices, 4, "its power key is none of them");
    assert_eq!(c.call(&mut h, Call::Devices { vm: vm("db"), from: 0 }), Err(Refusal::NoSuchVm("db".into())));
}

#[test]
fn switches_have_rows() {
    let mut h = Fake::default();
    let named = |name: &str| SwitchSpec { name: name.into(), uplink: name == "lan" };
    let mut c = Control::new(vec![boot_payload()], vec![named("lan"), named("own")], 2);
    let names = |c: &mut Control, h: &mut Fake, from| match c.call(h, Call::Switches { from }) {
        Ok(Answer::Switches(page)) => {
            page.rows.into_iter().map(|row| (row.name, row.uplink.is_some())).collect::<Vec<_>>()
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(names(&mut c, &mut h, 0), [("lan".into(), true), ("own".into(), false)]);
    assert_eq!(names(&mut c, &mut h, 1), [("own".into(), false)]);
    assert_eq!(names(&mut c, &mut h, 2), []);
}

/// An image of this many bytes, uploaded.
fn uploaded(c: &mut Control, h: &mut Fake, bytes: &[u8]) -> Hash {
    let hash = Hash(Sha256::digest(bytes).into());
    c.call(h, Call::Put { hash, size: bytes.len() as u64, name: "up.img".into() }).unwrap();
    c.call(h, Call::Chunk { hash, offset: 0, bytes: Bytes(bytes.to_vec()) }).unwrap();
    hash
}

fn names(c: &mut Control, h: &mut Fake, name: &str) -> Vec<String> {
    match c.call(h, Call::Devices { vm: name.into(), from: 0 }) {
        Ok(Answer::Devices(page)) => page.rows.iter().map(|row| format!("{} {}", row.name, row.what)).collect(),
        other => panic!("{other:?}"),
    }
}

fn refused(reply: Reply) -> String {
    reply.unwrap_err().to_string()
}

#[test]
fn a_vm_is_created_with_devices() {
    let (mut c, mut h) = (control(), Fake::default());
    let hash = uploaded(&mut c, &mut h, &[7; 512]);
    let settings = format!(
        "rng=true\ndisk=boot:root.img,readonly\ncpu.weight=5\ndisk=sha256:{hash},serial=up\nnet=lan,mac=52:54:00:00:00:01\nnet=lan\n"
    );
    c.call(&mut h, Call::Create(NewVm { settings, ..new_vm("web") })).unwrap();
    let own = Mac::derived("web", 1);
    assert_eq!(
        names(&mut c, &mut h, "web"),
        [
            "rng ",
            "disk0 root.img, read-only",
            "disk1 up.img",
            "net0 lan, 52:54:00:00:00:01",
            &format!("net1 lan, {own}")
        ]
    );
    assert_eq!(h.payloads.as_ref().unwrap().disks, [Source::Boot, Source::Object(Region(1))]);
    // Its image is in use as long as it is in the books, whatever has a hand in it.
    assert_eq!(refused(c.call(&mut h, Call::Forget { hash })), "in use by vm \"web\"");
    let Ok(Answer::Objects(page)) = c.call(&mut h, Call::Objects { from: 0 }) else { panic!() };
    assert_eq!(
        page.rows.iter().map(|row| (&*row.name, row.users)).collect::<Vec<_>>(),
        [("vmlinuz", 1), ("root.img", 1), ("up.img", 1)]
    );
    let create = |c: &mut Control, h: &mut Fake, settings: &str| {
        refused(c.call(h, Call::Create(NewVm { settings: settings.into(), ..new_vm("db") })))
    };
    let absent = format!("disk=sha256:{}", "0".repeat(64));
    for (settings, message) in [
        ("disk=boot:other.img", "there is no payload \"other.img\" in the boot bundle, or not all of it"),
        (&absent, "there is no payload 0000"),
        ("disk=boot:vmlinuz", "disk 0: key image: \"vmlinuz\" has 100 bytes, which is no multiple of 512"),
        ("disk=root.img", "key disk: \"root.img\" is not right; write boot:NAME"),
        ("disk=boot:root.img,serial=a b", "key serial: \"a b\" is no serial"),
        ("disk=boot:root.img,serial=x\ndisk=boot:root.img,serial=x", "key serial: \"x\" is the serial of another"),
        ("net=wan", "key switch: there is no switch \"wan\""),
        ("net=lan,mac=52:54:00:00:00:01", "key mac: 52:54:00:00:00:01 is the address of a net of vm \"web\" already"),
        ("net=lan,mac=01:00:00:00:00:00", "key mac: 01:00:00:00:00:00 is a multicast address"),
        ("rng=true\nrng=true", "key rng: the VM has one"),
        ("net=lan\nnet=lan\nnet=lan,mtu=1", "key mtu: 1 is out of range"),
    ] {
        let told = create(&mut c, &mut h, settings);
        assert!(told.contains(message.strip_prefix("disk 0: ").unwrap_or(message)), "{settings}: {told}");
    }
    // A switch has so many ports, whoever has them.
    let many = "net=lan\n".repeat(31);
    for name in ["a", "b"] {
        c.call(&mut h, Call::Create(NewVm { settings: many.clone(), ..new_vm(name) })).unwrap();
    }
    assert!(create(&mut c, &mut h, "net=lan").contains("\"lan\" has 64 ports already"));
    c.made(0, c.number("b").unwrap());
    c.call(&mut h, Call::Destroy { vm: vm("b") }).unwrap();
    c.call(&mut h, Call::Create(NewVm { settings: "net=lan".into(), ..new_vm("db") })).unwrap();
}

#[test]
fn a_stopped_vm_gets_and_loses_devices() {
    let (mut c, mut h) = (control(), Fake::default());
    let hash = uploaded(&mut c, &mut h, &[7; 512]);
    c.boot(&mut h, equipped("web")).unwrap();
    let n = VmNumber(0);
    c.made(1, n);
    let attach = |c: &mut Control, h: &mut Fake, device: &str| {
        c.call(h, Call::Attach { vm: "web".into(), device: device.into() })
    };
    let detach = |c: &mut Control, h: &mut Fake, device: &str| {
        c.call(h, Call::Detach { vm: "web".into(), device: device.into() })
    };
    for reply in [attach(&mut c, &mut h, "net=lan"), detach(&mut c, &mut h, "disk0")] {
        assert_eq!(reply, Err(Refusal::State { is: VmState::Running }));
    }
    c.ended(2, n, StopKind::PoweredOff);
    h.vms.insert(0, "ended");
    assert_eq!(attach(&mut c, &mut h, &format!("disk=sha256:{hash}")), Ok(Answer::Done));
    assert_eq!(detach(&mut c, &mut h, "disk0"), Ok(Answer::Done));
    assert_eq!(detach(&mut c, &mut h, "rng"), Ok(Answer::Done));
    assert_eq!(attach(&mut c, &mut h, "net=lan,isolated"), Ok(Answer::Done));
    let own = Mac::derived("web", 1);
    let now = ["disk0 root.img, read-only", "disk1 up.img", "net0 lan, 52:54:00:00:00:01", &format!("net1 lan, {own}")];
    assert_eq!(names(&mut c, &mut h, "web"), now);
    for (reply, message) in [
        (detach(&mut c, &mut h, "disk2"), "key device: the VM has no \"disk2\", but disk0 disk1 net0 net1"),
        (attach(&mut c, &mut h, "net=wan"), "key switch: there is no switch \"wan\""),
        (attach(&mut c, &mut h, "disk=boot:root.img,serial=disk1"), "key serial: \"disk1\" is the serial of another"),
        (attach(&mut c, &mut h, "disk=host:PARTLABEL="), "key host: "),
        (attach(&mut c, &mut h, "cdrom"), "key device: \"cdrom\" is not right; write rng, disk=SOURCE or net=SWITCH"),
        (c.call(&mut h, Call::Attach { vm: vm("db"), device: vm("rng") }), "there is no VM \"db\""),
    ] {
        let told = refused(reply);
        assert!(told.contains(message), "{told}");
    }
    assert_eq!(names(&mut c, &mut h, "web"), now, "a refusal changes nothing");
    assert_eq!(refused(c.call(&mut h, Call::Forget { hash })), "in use by vm \"web\"");
    c.call(&mut h, Call::Start { vm: vm("web") }).unwrap();
    assert_eq!(h.payloads.as_ref().unwrap().disks, [Source::Boot, Source::Object(Region(1))]);
    c.ended(3, n, StopKind::PoweredOff);
    assert_eq!(detach(&mut c, &mut h, "disk1"), Ok(Answer::Done));
    assert_eq!(c.call(&mut h, Call::Forget { hash }), Ok(Answer::Done));
    for device in ["disk0", "net0", "net0"] {
        detach(&mut c, &mut h, device).unwrap();
    }
    assert!(refused(detach(&mut c, &mut h, "disk0")).contains("the VM has none; `attach` gives it one"));
    let Ok(Answer::Events(page)) = c.call(&mut h, Call::Events { from: 0 }) else { panic!() };
    let kinds: Vec<String> = page.rows.iter().map(|e| format!("{:?}", e.kind)).collect();
    let expected = ["Attached(\"disk2\")", "Detached(\"disk0\")", "Detached(\"rng\")", "Attached(\"net1\")"];
    assert_eq!(kinds[4..8], expected);
}
