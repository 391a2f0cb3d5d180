//! Merus on the host: the real books and channel, and a machine that only keeps accounts, served by a thread.
#![allow(dead_code)]

use config::image::Raw;
use config::setting::Setting;
use config::spec::{GroupSpec, PayloadKind, PayloadRef, SwitchSpec, VmSpec};
use control::{Channel, Control, Host, Payloads, Region, Source, Usage, VmNumber};
use proto::*;
use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;
use tempfile::TempDir;

/// What the machine was asked to begin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Begun {
    Make,
    Pause,
    Reset,
    Kill,
}

/// The machine.
#[derive(Default)]
pub struct Machine {
    pub now: u64,
    pub begun: Vec<(Begun, VmNumber)>,
    regions: BTreeMap<u32, Vec<u8>>,
    next_region: u32,
    /// Console output by VM.
    pub consoles: BTreeMap<u16, Vec<u8>>,
    /// The first byte of a console that is still there.
    pub kept_from: u64,
    /// What was typed.
    pub typed: Vec<u8>,
    pub tracing: bool,
    pub records: Vec<TraceRow>,
    pub power_key: bool,
    /// Bytes received in chunks of uploads.
    pub received: u64,
    /// Refuse to make VMs of more than this.
    pub memory: Option<u64>,
    /// What is begun stays so.
    pub stuck: bool,
    /// The uploaded kernel of the VM that was made last, and where it goes.
    pub kernel: Option<(Vec<u8>, Raw)>,
    /// VMs cannot be made, for this reason.
    pub failing: Option<&'static str>,
}

impl Machine {
    fn make(&mut self, vm: VmNumber, spec: &VmSpec) -> Result<(), Refusal> {
        if let Some(left) = self.memory.filter(|left| spec.memory > *left) {
            return Err(Refusal::NoMemory { asked: spec.memory, left, of: "the machine".into() });
        }
        self.begun.push((Begun::Make, vm));
        Ok(())
    }
}

impl Host for Machine {
    fn now_ns(&self) -> u64 {
        self.now
    }
    fn machine(&self) -> MachineRow {
        MachineRow {
            merus: "0.1.0".into(),
            board: "fake,board".into(),
            pcpus: 2,
            memory: 1 << 30,
            memory_free: 1 << 29,
            heap: 64 << 10,
            now_ns: self.now,
            counter_hz: 1_000_000,
            tracing: self.tracing,
            vhe: true,
            line_rate: 115_200,
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
        self.received += bytes.len() as u64;
        self.regions.get_mut(&region.0).unwrap()[offset as usize..][..bytes.len()].copy_from_slice(bytes);
    }
    fn object_free(&mut self, region: Region) {
        self.regions.remove(&region.0).unwrap();
    }
    fn create(&mut self, vm: VmNumber, spec: &VmSpec, _: Option<usize>, payloads: Payloads) -> Result<(), Refusal> {
        let Source::Object(region) = payloads.kernel else { return self.make(vm, spec) };
        self.kernel = Some((self.regions.get(&region.0).cloned().unwrap_or_default(), spec.raw));
        self.make(vm, spec)
    }
    fn start(&mut self, vm: VmNumber) {
        self.consoles.entry(vm.0).or_default().extend_from_slice(b"booting\r\n");
    }
    fn pause(&mut self, vm: VmNumber) {
        self.begun.push((Begun::Pause, vm));
    }
    fn resume(&mut self, _: VmNumber) {}
    fn reset(&mut self, vm: VmNumber) {
        self.begun.push((Begun::Reset, vm));
    }
    fn press_power(&mut self, _: VmNumber) -> bool {
        self.power_key
    }
    fn release_power(&mut self, _: VmNumber) {}
    fn kill(&mut self, vm: VmNumber) {
        self.begun.push((Begun::Kill, vm));
    }
    fn destroy(&mut self, vm: VmNumber) {
        self.consoles.remove(&vm.0);
    }
    fn apply(&mut self, _: VmNumber, _: &Setting) -> Result<(), Refusal> {
        Ok(())
    }
    fn group(&mut self, _: usize, _: &GroupSpec) -> Result<(), Refusal> {
        Ok(())
    }
    fn group_memory(&self, _: usize) -> u64 {
        3 << 20
    }
    /// VM n has run n + 1 quarters of the time on one pCPU.
    fn usage(&self, vm: VmNumber) -> Usage {
        let quarter = self.now / 4;
        Usage {
            memory: 130 << 20,
            ran_ns: quarter * (u64::from(vm.0) + 1),
            waited_ns: self.now / 10,
            throttled_ns: self.now / 20,
            exits: self.now / 1_000_000,
            console: self.consoles.get(&vm.0).map_or(0, |c| c.len() as u64),
        }
    }
    fn vcpu(&self, vm: VmNumber, vcpu: u32) -> Option<VcpuRow> {
        Some(VcpuRow {
            index: vcpu,
            state: VcpuState::Ready,
            pcpu: vcpu % 2,
            ran_ns: 3_000_000_000 + u64::from(vm.0),
            waited_ns: 20_000_000,
            blocked_ns: 500_000,
            throttled_ns: 0,
            wake_max_ns: 12_500,
            switches: 7,
            moves: 1,
            interrupts: 42,
            spans: vec![ExitRow { reason: "wake".into(), count: 2, ticks: vec![0, 0, 2] }],
            exits: vec![
                ExitRow { reason: "mmio".into(), count: 12, ticks: vec![0, 0, 0, 12] },
                ExitRow { reason: "wfi".into(), count: 5, ticks: vec![] },
            ],
        })
    }
    fn device(&self, _: VmNumber, slot: u32) -> Option<DeviceCounts> {
        // Of a disk and a network card; the source of random numbers has done nothing.
        let lost = [0, 0, 0, 0, 0, 0, 3, 0];
        (slot != 0).then_some(DeviceCounts {
            reads: self.now / 1_000_000,
            read_bytes: self.now / 1_000,
            writes: 7,
            written_bytes: 64 << 10,
            others: 1,
            errors: 3,
            lost: if slot == 2 { lost } else { [0; 8] },
            depth: 4,
            deepest: 32,
        })
    }
    fn switch(&self, name: &str) -> Option<SwitchRow> {
        let uplink = DeviceCounts {
            reads: self.now / 1_000_000,
            read_bytes: self.now / 1_000,
            writes: 70,
            written_bytes: 64 << 10,
            errors: 5,
            lost: [0, 0, 0, 0, 4, 0, 0, 0],
            depth: 2,
            ..DeviceCounts::default()
        };
        Some(SwitchRow { name: name.into(), ports: 3, learned: 9, uplink: (name == "lan").then_some(uplink) })
    }
    fn pcpu(&self, number: u32) -> Option<PcpuRow> {
        let busy_ns = if number == 0 { self.now * 3 / 4 } else { 0 };
        let running = (number == 0).then(|| ("web".into(), 0));
        Some(PcpuRow { number, mpidr: number.into(), running, ready: 1, busy_ns, steals: 2 })
    }
    fn console(&self, vm: VmNumber, from: u64) -> ConsolePart {
        let all = self.consoles.get(&vm.0).map_or(&[][..], |c| c);
        let from = from.max(self.kept_from).min(all.len() as u64);
        let rest = &all[from as usize..];
        ConsolePart { from, bytes: Bytes(rest[..rest.len().min(MAX_CHUNK)].to_vec()), live: false }
    }
    /// Echoes, 5 bytes a call; `off` and a newline powers off.
    fn type_at(&mut self, vm: VmNumber, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(5);
        self.typed.extend_from_slice(&bytes[..taken]);
        self.consoles.entry(vm.0).or_default().extend_from_slice(&bytes[..taken]);
        if self.typed.ends_with(b"off\n") {
            self.begun.push((Begun::Kill, vm));
        }
        taken
    }
    fn log(&self, from: u64) -> Page<LogRow> {
        let lines = ["Merus 0.1.0 on fake,board", "2 pCPUs, 512 MiB for VMs"];
        let rows = (0..).zip(lines).skip(from as usize);
        Page::fill(from, 0, rows.map(|(number, text)| LogRow { number, at_ns: number * 1_000_000, text: text.into() }))
    }
    fn trace(&self, pcpu: u32, from: u64) -> Option<Page<TraceRow>> {
        let rows: &[TraceRow] = if pcpu == 0 && self.tracing { &self.records } else { &[] };
        (pcpu < 2).then(|| Page::fill(from, 0, rows.iter().skip(from as usize).copied()))
    }
    fn set_tracing(&mut self, on: bool) {
        self.tracing = on;
    }
}

/// Books and machine.
pub struct Merus {
    pub control: Control,
    pub machine: Machine,
}

impl Merus {
    fn new() -> Self {
        let boot = PayloadRef {
            image: "0".into(),
            name: "vmlinuz".into(),
            kind: PayloadKind::Kernel,
            offset: 4096,
            size: 100,
            crc32: 0,
            sha256: None,
        };
        let [lan, own] = ["lan", "own"].map(|name| SwitchSpec { name: name.into(), uplink: name == "lan" });
        Self {
            control: Control::new(vec![boot], vec![lan, own], 2),
            machine: Machine { power_key: true, ..Machine::default() },
        }
    }

    /// Lets time pass, and ends what was begun.
    fn turn(&mut self) {
        let Self { control, machine } = self;
        machine.now += 1_000_000;
        control.poll(machine);
        if machine.stuck {
            return;
        }
        for (what, vm) in std::mem::take(&mut machine.begun) {
            let now = machine.now;
            match what {
                Begun::Make => match machine.failing {
                    Some(why) => control.failed(now, vm, why),
                    None => {
                        if control.made(now, vm) {
                            machine.start(vm);
                        }
                    }
                },
                Begun::Pause => control.paused(now, vm),
                Begun::Reset => control.restarted(now, vm),
                Begun::Kill => control.ended(now, vm, StopKind::PoweredOff),
            }
        }
    }
}

/// How the line between is damaged.
#[derive(Default)]
pub struct Line {
    /// Close the connection after so many more bytes from the client (`usize::MAX`: never).
    pub cut_after: AtomicUsize,
    /// Flip a bit in the first byte of this many answers.
    pub damage: AtomicUsize,
    /// Swallow this many answers.
    pub swallow: AtomicUsize,
    /// Damage this many calls.
    pub damage_calls: AtomicUsize,
    /// Say something before the first answer.
    pub greet: AtomicBool,
}

/// A served Merus; it ends with this value.
pub struct Server {
    pub merus: Arc<Mutex<Merus>>,
    pub line: Arc<Line>,
    folder: TempDir,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Merus at a new UNIX socket.
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("control.sock")).unwrap();
        listener.set_nonblocking(true).unwrap();
        let merus = Arc::new(Mutex::new(Merus::new()));
        let line = Arc::new(Line { cut_after: AtomicUsize::new(usize::MAX), ..Line::default() });
        let stop = Arc::new(AtomicBool::new(false));
        let thread = {
            let (merus, line, stop) = (merus.clone(), line.clone(), stop.clone());
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    match listener.accept() {
                        Ok((stream, _)) => serve(&merus, &line, &stop, stream),
                        Err(_) => std::thread::sleep(Duration::from_millis(1)),
                    }
                }
            })
        };
        Self { merus, line, folder, stop, thread: Some(thread) }
    }

    /// The socket.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("control.sock")
    }

    /// Does something to the machine.
    pub fn with<T>(&self, what: impl FnOnce(&mut Merus) -> T) -> T {
        what(&mut self.merus.lock().unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn take(count: &AtomicUsize) -> bool {
    count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok()
}

fn serve(merus: &Mutex<Merus>, line: &Line, stop: &AtomicBool, mut stream: UnixStream) {
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    let mut channel = Channel::new();
    let mut buffer = [0; 4096];
    if line.greet.load(Ordering::Relaxed) {
        let _ = stream.write_all(b"\0U-Boot 2025.01\r\n\0");
    }
    while !stop.load(Ordering::Relaxed) {
        merus.lock().unwrap().turn();
        let count = match stream.read(&mut buffer) {
            Ok(0) => return,
            Ok(count) => count,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => continue,
            Err(_) => return,
        };
        if count > 12 && take(&line.damage_calls) {
            buffer[9] ^= 4;
        }
        for byte in &buffer[..count] {
            let left = line.cut_after.load(Ordering::Relaxed);
            if left == 0 {
                return;
            }
            if left != usize::MAX {
                line.cut_after.store(left - 1, Ordering::Relaxed);
            }
            let answer = {
                let mut merus = merus.lock().unwrap();
                let Merus { control, machine } = &mut *merus;
                channel.receive(control, machine, *byte);
                let mut answer = Vec::new();
                while let Some(byte) = channel.next() {
                    channel.sent();
                    answer.push(byte);
                }
                answer
            };
            if !send(&mut stream, line, answer) {
                return;
            }
        }
    }
}

/// Sends an answer, or what the line makes of it. `false`: the client has gone.
fn send(stream: &mut UnixStream, line: &Line, mut answer: Vec<u8>) -> bool {
    if answer.is_empty() || take(&line.swallow) {
        return true;
    }
    if take(&line.damage) {
        answer[5] ^= 4;
    }
    stream.write_all(&answer).is_ok()
}
