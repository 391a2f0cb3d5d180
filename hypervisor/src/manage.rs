//! Management as the machine does it: what [`control`] decides is done here, and what comes to its end is told to it.
//!
//! All of it runs between guests, never inside an exit: the control line's interrupt, a timer or an end that was reached only say
//! that there is something to do ([`Cpu::manage`]).

use crate::console;
use crate::construct;
use crate::machine::{Machine, machine};
use crate::run::{Cpu, Work};
use crate::shell::Session;
use crate::{host_disks, io, line, placing, rows, uplink, uploads};
use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec;
use config::setting::Setting;
use config::spec::{GroupSpec, VmSpec};
use control::{Channel, Control, Host, Payloads, Region, Usage, VmNumber};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use proto::{
    Bytes, ConsolePart, DeviceCounts, LogRow, MAX_CHUNK, MachineRow, Page, PcpuRow, Refusal, StopKind, SwitchRow,
    TraceRow, VcpuRow,
};
use sync::{Rank, SpinLock};
use vm::StopReason;

/// The books, and the conversation on the control line.
pub struct Management {
    /// The books.
    pub control: Control,
    channel: Channel,
    /// The shell on the console.
    session: Session,
}

impl Management {
    /// Nothing runs yet.
    pub fn new(control: Control) -> Self {
        Self { control, channel: Channel::new(), session: Session::default() }
    }
}

/// When [`Cpu::manage`] is due by itself, in ns.
static DEADLINE: AtomicU64 = AtomicU64::new(u64::MAX);

/// When a guest's grace, an uplink's pause, a host disk's time for a request or a VM's wait for random numbers is over, in ns.
#[inline]
pub fn deadline() -> u64 {
    DEADLINE.load(Ordering::Relaxed)
}

/// Has [`Cpu::manage`] be due at `at`, in ns, or before; on this pCPU, if that is sooner than it was. A lock may be held.
pub fn remind(at: u64) {
    if DEADLINE.fetch_min(at, Ordering::SeqCst) > at
        && let Some(machine) = machine()
        && let Some(pcpu) = machine.pcpus.get(el2::number())
    {
        pcpu.recheck.store(true, Ordering::SeqCst);
        machine.kick_self();
    }
}

/// What has come to its end and is not told yet.
pub enum News {
    /// A VM's memory is filled.
    Made(VmNumber),
    /// It could not be made.
    Failed(VmNumber, String),
    /// The guest resets itself.
    Resetting(VmNumber),
    /// It begins again.
    Restarted(VmNumber),
    /// Its vCPUs are off the pCPUs.
    Paused(VmNumber),
    /// It has ended.
    Ended(VmNumber, StopKind),
}

/// News that is kept without allocating, so that a reset need not.
const KEPT: usize = 32;

/// The news that management has not been told yet, from all pCPUs in the order in which it came.
pub struct Untold {
    /// There may be some: looked at for each byte of the control line, without the lock.
    any: AtomicBool,
    news: SpinLock<VecDeque<News>>,
}

impl Untold {
    /// None. Allocates.
    pub fn new() -> Self {
        Self { any: AtomicBool::new(false), news: SpinLock::new(Rank::Vm, VecDeque::with_capacity(KEPT)) }
    }
    /// Adds a piece.
    pub fn push(&self, news: News) {
        let mut kept = self.news.lock();
        kept.push_back(news);
        self.any.store(true, Ordering::Release);
    }
    /// Whether there may be some.
    #[inline]
    fn any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }
    /// Takes the oldest piece.
    fn pop(&self) -> Option<News> {
        let mut news = self.news.lock();
        let oldest = news.pop_front();
        self.any.store(!news.is_empty(), Ordering::Release);
        oldest
    }
}

/// Frames that are answered in one go, before guests get their turn.
const AT_ONCE: usize = 4;

impl Cpu {
    /// Tells what is news, and does what the control line asks.
    #[inline(never)]
    pub fn manage(&mut self) {
        let machine = self.machine;
        io::poll(machine);
        let mut management = machine.management.lock();
        let Management { control, channel, session } = &mut *management;
        self.tell_all(control);
        control.poll(&mut Machinery { cpu: self });
        let mut answered = 0;
        while answered < AT_ONCE && line::has_room() {
            let Some(byte) = line::next() else { break };
            // What was said on the console before the question was asked holds in the answer.
            self.tell_all(control);
            channel.receive(control, &mut Machinery { cpu: self }, byte);
            answered += usize::from(!channel.wants_input());
            line::send(core::iter::from_fn(|| {
                let byte = channel.next()?;
                channel.sent();
                Some(byte)
            }));
        }
        self.tell_all(control);
        let more = session.step(control, &mut Machinery { cpu: self }) || answered == AT_ONCE;
        if crate::time::now_ns() >= deadline() {
            host_disks::look(machine);
        }
        DEADLINE.store(control.deadline().unwrap_or(u64::MAX), Ordering::SeqCst);
        // In this order: whoever is not seen here reminds it, behind the store.
        DEADLINE.fetch_min(uplink::deadline().min(host_disks::deadline()).min(io::deadline()), Ordering::SeqCst);
        drop(management);
        self.shared.manage_due.store(more || self.machine.untold.any(), Ordering::SeqCst);
        self.timer_changed = true;
    }

    /// Tells what is news, which there seldom is.
    #[inline]
    fn tell_all(&mut self, control: &mut Control) {
        if self.machine.untold.any() {
            self.tell_each(control);
        }
    }

    #[cold]
    #[inline(never)]
    fn tell_each(&mut self, control: &mut Control) {
        while let Some(news) = self.machine.untold.pop() {
            self.tell(control, news);
        }
    }

    fn tell(&mut self, control: &mut Control, news: News) {
        let now = crate::time::now_ns();
        match news {
            News::Made(vm) => {
                if control.made(now, vm) {
                    self.launch(vm);
                }
            }
            News::Failed(vm, why) => control.failed(now, vm, &why),
            News::Resetting(vm) => control.resetting(vm),
            News::Restarted(vm) => control.restarted(now, vm),
            News::Paused(vm) => control.paused(now, vm),
            News::Ended(vm, why) => control.ended(now, vm, why),
        }
    }

    fn launch(&mut self, vm: VmNumber) {
        if let Some(guest) = self.machine.guest(vm) {
            construct::launch(self.machine, &guest);
        }
    }
}

/// The machine, from the pCPU that manages.
pub struct Machinery<'a> {
    /// That pCPU.
    pub cpu: &'a mut Cpu,
}

impl Machinery<'_> {
    fn machine(&self) -> &'static Machine {
        self.cpu.machine
    }

    /// A VM's place at the console.
    pub fn source(&self, vm: VmNumber) -> Option<::console::SourceId> {
        Machinery::machine(self).vms.lock().get(usize::from(vm.0)).and_then(|place| place.source)
    }
}

impl Host for Machinery<'_> {
    fn now_ns(&self) -> u64 {
        crate::time::now_ns()
    }
    fn machine(&self) -> MachineRow {
        let machine = Machinery::machine(self);
        let memory = machine.memory.lock();
        let (total, free) = (memory.frames.total_bytes(), memory.frames.free_bytes());
        drop(memory);
        MachineRow {
            merus: env!("CARGO_PKG_VERSION").into(),
            board: machine.board.clone(),
            pcpus: machine.pcpus.len() as u32,
            memory: total,
            memory_free: free,
            heap: crate::HEAP.used() as u64,
            now_ns: self.now_ns(),
            counter_hz: el2::timer::frequency(),
            tracing: machine.tracing(),
            vhe: el2::door::e2h(),
            line_rate: line::rate(),
            bad_frames: 0,
        }
    }
    fn object_room(&mut self, size: u64) -> Result<Region, Refusal> {
        let machine = Machinery::machine(self);
        let taken = machine.uploads.lock().take(&mut machine.memory.lock(), size);
        taken.map_err(|error| construct::no_memory(machine, error, uploads::rounded(size)))
    }
    fn object_write(&mut self, region: Region, offset: u64, bytes: &[u8]) {
        Machinery::machine(self).uploads.lock().write(region, offset, bytes);
    }
    fn object_free(&mut self, region: Region) {
        let machine = Machinery::machine(self);
        machine.uploads.lock().give(&mut machine.memory.lock(), region);
    }
    fn create(&mut self, vm: VmNumber, spec: &VmSpec, group: Option<usize>, payloads: Payloads) -> Result<(), Refusal> {
        let request = construct::Request { spec, number: vm, group, payloads: &payloads };
        let work = construct::begin(Machinery::machine(self), &request)?;
        Machinery::machine(self).alive.fetch_add(1, Ordering::AcqRel);
        self.cpu.work.insert(0, Work::Construct(work));
        Ok(())
    }
    fn start(&mut self, vm: VmNumber) {
        self.cpu.launch(vm);
    }
    fn pause(&mut self, vm: VmNumber) {
        if let Some(guest) = Machinery::machine(self).guest(vm) {
            self.cpu.pause(&guest);
        }
    }
    fn resume(&mut self, vm: VmNumber) {
        if let Some(guest) = Machinery::machine(self).guest(vm) {
            self.cpu.resume(&guest);
        }
    }
    fn reset(&mut self, vm: VmNumber) {
        if let Some(guest) = Machinery::machine(self).guest(vm) {
            self.cpu.stop(&guest, None, StopReason::Reset);
        }
    }
    fn press_power(&mut self, vm: VmNumber) -> bool {
        let Some(guest) = Machinery::machine(self).guest(vm) else { return false };
        guest.power.press()
    }
    fn release_power(&mut self, vm: VmNumber) {
        if let Some(guest) = Machinery::machine(self).guest(vm) {
            guest.power.release();
        }
    }
    fn kill(&mut self, vm: VmNumber) {
        if let Some(guest) = Machinery::machine(self).guest(vm) {
            self.cpu.kill(&guest);
        }
    }
    fn destroy(&mut self, vm: VmNumber) {
        let machine = Machinery::machine(self);
        // One that was made and never launched has run nowhere.
        if let Some(guest) = machine.guest(vm) {
            construct::dismantle(machine, &guest);
            machine.alive.fetch_sub(1, Ordering::AcqRel);
        }
        let place = machine.vms.lock().get_mut(usize::from(vm.0)).map(core::mem::take);
        if let Some(source) = place.and_then(|place| place.source) {
            console::remove_source(source);
        }
    }
    fn apply(&mut self, vm: VmNumber, setting: &Setting) -> Result<(), Refusal> {
        let machine = Machinery::machine(self);
        match machine.guest(vm) {
            Some(guest) => placing::apply(machine, &guest, setting),
            None => Ok(()),
        }
    }
    fn group(&mut self, index: usize, group: &GroupSpec) -> Result<(), Refusal> {
        placing::group(Machinery::machine(self), index, group)
    }
    fn group_memory(&self, index: usize) -> u64 {
        let machine = Machinery::machine(self);
        let account = machine.groups.lock().get(index).copied();
        account.and_then(|account| machine.memory.lock().frames.account(account)).map_or(0, |account| account.used)
    }
    fn usage(&self, vm: VmNumber) -> Usage {
        let machine = Machinery::machine(self);
        match machine.guest(vm) {
            Some(guest) => guest.usage(machine),
            None => machine.vms.lock().get(usize::from(vm.0)).map_or(Usage::default(), |place| place.last),
        }
    }
    fn vcpu(&self, vm: VmNumber, vcpu: u32) -> Option<VcpuRow> {
        let machine = Machinery::machine(self);
        let guest = machine.guest(vm)?;
        Some(rows::vcpu(self.cpu, &guest, vcpu))
    }
    fn device(&self, vm: VmNumber, slot: u32) -> Option<DeviceCounts> {
        Machinery::machine(self).guest(vm)?.io.counts(slot)
    }
    fn switch(&self, name: &str) -> Option<SwitchRow> {
        Machinery::machine(self).switches.row(name)
    }
    fn pcpu(&self, number: u32) -> Option<PcpuRow> {
        rows::pcpu(Machinery::machine(self), number)
    }
    fn console(&self, vm: VmNumber, from: u64) -> ConsolePart {
        let source = self.source(vm);
        let mut bytes = vec![0; MAX_CHUNK];
        let (from, count) = source.map_or((from, 0), |source| console::read_back(source, from, &mut bytes));
        bytes.truncate(count);
        ConsolePart { from, bytes: Bytes(bytes), live: true }
    }
    fn type_at(&mut self, vm: VmNumber, bytes: &[u8]) -> usize {
        let Some(guest) = Machinery::machine(self).guest(vm) else { return 0 };
        let mut uart = guest.uart.lock();
        let room = uart.rx_room().min(bytes.len());
        uart.receive(bytes.get(..room).unwrap_or_default());
        room
    }
    fn log(&self, from: u64) -> Page<LogRow> {
        rows::log(from)
    }
    fn trace(&self, pcpu: u32, from: u64) -> Option<Page<TraceRow>> {
        rows::trace(Machinery::machine(self), pcpu, from)
    }
    fn set_tracing(&mut self, on: bool) {
        Machinery::machine(self).set_tracing(on);
    }
}
