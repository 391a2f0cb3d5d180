//! A VM's virtio devices but its power key: made from what was asked for, and worked on in the VM's own time.
//!
//! | a device works | when |
//! |---|---|
//! | inside the guest's exit | its driver notifies it |
//! | at the gate, on a vCPU's way into the guest ([`Io::attend`]) | something happened outside: a frame has come, memory for what is written is wanted |
//!
//! Whoever makes something happen *calls* ([`Calls::call`]): that notes the device and has one vCPU of the VM, its *attendant*, look
//! before it enters its guest the next time; a blocked one wakes for it. So a device's work is never another VM's time, and whoever calls
//! takes no device's lock.

use crate::machine::Machine;
use crate::uplink::Uplink;
use crate::uploads::Uploaded;
use addr::{Ipa, PAGE_SIZE, Pa, Span};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use bus::GuestMemory;
use config::map;
use config::spec::{DiskSource, NetSpec, VirtioDevice, VmSpec};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use devices::virtio::Device;
use devices::virtio::blk::Blk;
use devices::virtio::mmio::Mmio;
use devices::virtio::net::{self, Net, RECEIVEQ};
use devices::virtio::rng::{Allowance, REQUESTQ, Rng, Source};
use guest_smccc::entropy::Drbg;
use host::disk::{SECTOR, SERIAL};
use host::port::{Bell, Incoming, Mac, Outgoing, Port, Sent, Stats};
use memory::AccountId;
use partition::shared::Share;
use proto::DeviceCounts;
use store::{Cow, Frames};
use switch::{PortConfig, SwitchPort};
use sync::{Rank, SpinLock};
use vgic::VcpuId;
use vm::{DeviceHandle, Requests, SpiLine, VgicPort, Vm};

/// What has happened to a VM's devices, and who is to look.
pub struct Calls {
    /// By slot.
    due: AtomicU32,
    /// A vCPU that is on.
    attendant: AtomicU32,
    /// When (in ns) the device in [`Self::slow`] looks again whether there is something for it; `u64::MAX` for never.
    later: AtomicU64,
    /// The slot of the source of random numbers, the one device that has to wait for time.
    slow: AtomicU32,
    vgic: Arc<VgicPort>,
}

/// The earliest [`Calls::later`] of all VMs.
static LATER: AtomicU64 = AtomicU64::new(u64::MAX);

/// When [`poll`] is due, in ns.
pub fn deadline() -> u64 {
    LATER.load(Ordering::SeqCst)
}

/// Calls the devices whose time has come.
pub fn poll(machine: &Machine) {
    let now = crate::time::now_ns();
    if deadline() > now {
        return;
    }
    // Whoever comes later than this is seen below, or has put it back.
    LATER.store(u64::MAX, Ordering::SeqCst);
    for guest in machine.guests() {
        guest.io.calls.late(now);
    }
}

impl Calls {
    /// Something has happened to the device in `slot`. A device's lock may be held.
    pub fn call(&self, slot: u32) {
        self.due.fetch_or(1 << slot, Ordering::SeqCst);
        self.vgic.ask(self.attendant.load(Ordering::SeqCst), Requests::DEVICES);
    }

    /// The device in `slot` looks again at `at`, in ns. Within its guest's exit.
    fn call_at(&self, slot: u32, at: u64) {
        self.slow.store(slot, Ordering::SeqCst);
        self.later.fetch_min(at, Ordering::SeqCst);
        LATER.fetch_min(at, Ordering::SeqCst);
        crate::manage::remind(at);
    }

    /// Calls the device whose time has come, or remembers when it will.
    fn late(&self, now: u64) {
        let at = self.later.load(Ordering::SeqCst);
        if at <= now {
            self.later.store(u64::MAX, Ordering::SeqCst);
            self.call(self.slow.load(Ordering::SeqCst));
        } else if at != u64::MAX {
            LATER.fetch_min(at, Ordering::SeqCst);
        }
    }
}

/// Random bytes that a VM gets in a second, and at once.
const RANDOM_RATE: u32 = 256 << 10;
const RANDOM_AT_ONCE: u32 = 64 << 10;
/// How long a driver that has used them up waits at least, in ns: each time costs others a look.
const RANDOM_PAUSE: u64 = 10_000_000;

/// A generator of the VM's own: nothing that is taken from it is missing elsewhere, and its work is done in the VM's time. It gives so much
/// and no more, for what is drawn from one seed.
struct OwnRandom {
    drbg: Drbg,
    allowance: Allowance,
    calls: Arc<Calls>,
    slot: u32,
}

impl Source for OwnRandom {
    fn fill(&mut self, into: &mut [u8]) -> usize {
        let now = crate::time::now_ns();
        let count = self.allowance.take(now, into.len());
        match into.get_mut(..count) {
            Some(part) if count != 0 => self.drbg.draw(part),
            _ => self.calls.call_at(self.slot, self.allowance.when(into.len()).max(now.saturating_add(RANDOM_PAUSE))),
        }
        count
    }
}

/// A disk's pages, which nobody else reaches.
struct OwnFrames {
    calls: Arc<Calls>,
    slot: u32,
}

impl Frames for OwnFrames {
    fn read(&self, at: Pa, into: &mut [u8]) {
        el2::ram::read(at, into);
    }
    fn write(&mut self, at: Pa, from: &[u8]) {
        el2::ram::write(at, from);
    }
    fn wanted(&mut self) {
        self.calls.call(self.slot);
    }
}

/// What a disk begins as.
enum Base {
    /// An image of the bundle's.
    Boot(&'static [u8]),
    /// One that was uploaded.
    Upload(Uploaded),
}

impl store::Image for Base {
    fn size(&self) -> u64 {
        match self {
            Self::Boot(bytes) => bytes.len() as u64,
            Self::Upload(upload) => upload.size,
        }
    }
    fn whole(&self) -> Option<&[u8]> {
        match self {
            Self::Boot(bytes) => Some(bytes),
            Self::Upload(_) => None,
        }
    }
    fn read(&self, at: u64, into: &mut [u8]) {
        match self {
            Self::Boot(bytes) => store::Image::read(bytes, at, into),
            Self::Upload(upload) => upload.read(at, into),
        }
    }
}

/// An image and what its VM wrote.
type Image = Cow<Base, OwnFrames>;

/// Frames that a disk is given in a step.
const FRAMES: usize = 16;
/// Pages of a disk that are looked at in a step when it is given back.
const RELEASED: usize = 32;
/// Bytes that wait at a VM's port of a switch, at most.
const QUEUE: usize = 128 << 10;

/// Frames have come for a VM.
struct Ring {
    calls: Arc<Calls>,
    slot: u32,
}

impl Bell for Ring {
    fn ring(&self) {
        self.calls.call(self.slot);
    }
}

/// A VM's place at a switch, until the VM ends, and the way out of the machine from there.
struct Plug(Option<SwitchPort>, Option<Arc<Uplink>>);

impl Port for Plug {
    fn start(&mut self, checksums: bool) {
        if let Some(port) = &mut self.0 {
            port.start(checksums);
        }
    }
    fn stop(&mut self) {
        if let Some(port) = &mut self.0 {
            port.stop();
        }
    }
    fn send<E>(
        &mut self,
        frame: &Outgoing,
        most: usize,
        rest: impl FnMut(&mut [u8]) -> Result<(), E>,
    ) -> Result<Sent, E> {
        let Some(port) = &mut self.0 else { return Ok(Sent { copied: 0, more: false }) };
        let sent = port.send(frame, most, rest);
        if let Some(uplink) = &self.1 {
            uplink.send_on();
        }
        sent
    }
    fn receive<T>(&mut self, nth: usize, act: impl FnOnce(Incoming<'_>) -> T) -> Option<T> {
        self.0.as_mut()?.receive(nth, act)
    }
    fn discard(&mut self, count: usize) {
        if let Some(port) = &mut self.0 {
            port.discard(count);
        }
    }
    fn stats(&self) -> Stats {
        self.0.as_ref().map_or(Stats::default(), Port::stats)
    }
}

type Handle<D> = Arc<SpinLock<Mmio<D, SpiLine>>>;

/// A device, as Merus itself knows it.
enum Kind {
    Rng(Handle<Rng<OwnRandom>>),
    Image(Handle<Blk<Image>>),
    Host(Handle<Blk<Share>>),
    Net(Handle<Net<Plug>>),
}

impl Kind {
    fn handle(&self) -> DeviceHandle {
        match self {
            Self::Rng(device) => device.clone(),
            Self::Image(device) => device.clone(),
            Self::Host(device) => device.clone(),
            Self::Net(device) => device.clone(),
        }
    }

    /// What it has done.
    fn counts(&self) -> DeviceCounts {
        match self {
            Self::Rng(device) => {
                let device = device.lock();
                let stats = device.device().stats();
                let depth = device.device().is_waiting().into();
                let errors = device.stats().broken;
                DeviceCounts {
                    reads: stats.requests,
                    read_bytes: stats.bytes,
                    errors,
                    depth,
                    ..DeviceCounts::default()
                }
            }
            Self::Image(device) => of_disk(device),
            Self::Host(device) => of_disk(device),
            Self::Net(device) => {
                let device = device.lock();
                let (card, port) = (device.device().stats(), device.device().port().stats());
                let gone = [card.bad, card.down, card.small, port.missed, device.stats().broken];
                DeviceCounts {
                    reads: port.received,
                    read_bytes: port.received_bytes,
                    writes: port.sent,
                    written_bytes: port.sent_bytes,
                    errors: gone.iter().chain(&port.lost).fold(0, |sum, count| sum.saturating_add(*count)),
                    lost: port.lost,
                    depth: port.waiting,
                    ..DeviceCounts::default()
                }
            }
        }
    }

    /// A step, for a VM whose account is `account`. `true`: there is more to do.
    fn attend(&self, machine: &Machine, account: AccountId) -> bool {
        match self {
            Self::Image(device) => {
                let wants = device.lock().device().disk().wants();
                let frames = take_frames(machine, account, wants.min(FRAMES));
                let mut device = device.lock();
                let disk = device.device_mut().disk_mut();
                let got = give_frames(disk, frames, |frame| give_back(machine, account, frame));
                if got == 0 && wants != 0 {
                    disk.refuse();
                }
                let spare = take_spare(disk, |frame| give_back(machine, account, frame));
                let more = got != 0 && disk.wants() != 0 || spare;
                device.poke(0);
                more || device.is_due()
            }
            Self::Net(device) => {
                let mut device = device.lock();
                device.poke(RECEIVEQ);
                // The other queue may be due as well, and its driver's store must wait for this to end.
                device.is_due() && device.run_due()
            }
            Self::Host(device) => {
                let mut device = device.lock();
                device.poke(0);
                device.is_due()
            }
            Self::Rng(device) => {
                let mut device = device.lock();
                device.poke(REQUESTQ);
                device.is_due()
            }
        }
    }
}

/// Pages for a disk, charged to the VM: as many as there are, up to `most`.
fn take_frames(machine: &Machine, account: AccountId, most: usize) -> Vec<Pa> {
    let mut memory = machine.memory.lock();
    let mut frames = Vec::with_capacity(most);
    while frames.len() < most {
        // Their contents do not matter, and where they came from is the account's business.
        let Ok(page) = memory.pages(account, 1) else { break };
        frames.push(page.span().start());
    }
    frames
}

/// Gives a disk its frames; how many it took. What it does not want goes `back`.
fn give_frames(disk: &mut Image, frames: Vec<Pa>, mut back: impl FnMut(Pa)) -> usize {
    let mut given = 0;
    for frame in frames {
        match disk.give(frame) {
            Ok(()) => given += 1,
            Err(frame) => back(frame),
        }
    }
    given
}

/// Gives frames that a disk has to spare `back`, a step. `true`: it may have more.
fn take_spare(disk: &mut Image, mut back: impl FnMut(Pa)) -> bool {
    for _ in 0..FRAMES {
        match disk.take_back() {
            Some(frame) => back(frame),
            None => return false,
        }
    }
    true
}

fn give_back(machine: &Machine, account: AccountId, frame: Pa) {
    if let Some(page) = Span::new(frame, PAGE_SIZE) {
        machine.memory.lock().take_back_pages(account, page);
    }
}

/// A VM's devices.
pub struct Io {
    devices: Vec<(u32, Kind)>,
    calls: Arc<Calls>,
}

impl Io {
    /// Makes them; `disks`: where the images of its disks are; `memory` is the guest's.
    ///
    /// # Errors
    /// Why one cannot be made.
    pub fn new(
        machine: &Machine,
        (spec, disks): (&VmSpec, &[control::Source]),
        vgic: &Arc<VgicPort>,
        memory: &Arc<dyn GuestMemory>,
    ) -> Result<Self, String> {
        let calls = Arc::new(Calls {
            due: AtomicU32::new(0),
            attendant: AtomicU32::new(0),
            later: AtomicU64::new(u64::MAX),
            slow: AtomicU32::new(0),
            vgic: vgic.clone(),
        });
        let mut devices = Vec::new();
        for (slot, what) in spec.virtio_slots() {
            let line = SpiLine::new(vgic.clone(), map::SPI_BASE.wrapping_add(map::virtio_spi(slot)));
            let kind = match what {
                VirtioDevice::Rng => Kind::Rng(device(random(machine, calls.clone(), slot)?, line, memory)),
                VirtioDevice::Disk(number) => match host_disk(spec, number) {
                    Some(name) => {
                        let ring = Ring { calls: calls.clone(), slot };
                        let share = crate::host_disks::open(spec, number, name, Box::new(ring))?;
                        Kind::Host(device(Blk::new(share), line, memory))
                    }
                    None => {
                        let frames = OwnFrames { calls: calls.clone(), slot };
                        let source = disks.get(number).copied().unwrap_or(control::Source::Boot);
                        Kind::Image(device(image(machine, (spec, number), source, frames)?, line, memory))
                    }
                },
                VirtioDevice::Net(number) => {
                    let ring = Ring { calls: calls.clone(), slot };
                    Kind::Net(device(card(machine, spec, number, ring)?, line, memory))
                }
                VirtioDevice::PowerKey => continue,
            };
            devices.push((slot, kind));
        }
        Ok(Self { devices, calls })
    }

    /// Their windows.
    pub fn windows(&self) -> impl Iterator<Item = (Ipa, u64, DeviceHandle)> + '_ {
        self.devices.iter().map(|(slot, kind)| (map::virtio_base(*slot), map::VIRTIO_SIZE, kind.handle()))
    }

    /// What the device in `slot` has done.
    pub fn counts(&self, slot: u32) -> Option<DeviceCounts> {
        self.devices.iter().find(|(known, _)| *known == slot).map(|(_, kind)| kind.counts())
    }

    /// Works on what there were calls for, a step a device, for a vCPU that is on its way into its guest. `true`: there is more to do,
    /// after others had their turn.
    pub fn attend(&self, machine: &Machine, account: AccountId) -> bool {
        let due = self.calls.due.swap(0, Ordering::AcqRel);
        let mut left = 0;
        for (slot, kind) in self.devices.iter().filter(|(slot, _)| due & 1 << slot != 0) {
            left |= u32::from(kind.attend(machine, account)) << slot;
        }
        self.calls.due.fetch_or(left, Ordering::AcqRel);
        left != 0
    }

    /// vCPU `vcpu` has turned itself off: if it was the attendant, another one is.
    pub fn leaves(&self, vm: &Vm, vcpu: VcpuId) {
        while self.calls.attendant.load(Ordering::SeqCst) == vcpu {
            let Some(next) = vm.another_on(vcpu) else { return };
            self.calls.attendant.store(next, Ordering::SeqCst);
            if self.calls.due.load(Ordering::SeqCst) != 0 {
                self.calls.vgic.ask(next, Requests::DEVICES);
            }
            // Whoever turns itself off from here on finds itself the attendant.
            if vm.is_on(next) {
                return;
            }
            self.calls.attendant.store(vcpu, Ordering::SeqCst);
        }
    }

    /// The VM has ended, and nothing reaches its devices: it leaves its switches, and a step of giving back what its disks have taken.
    /// `true`: all has gone.
    pub fn give_back(&self, machine: &Machine, account: AccountId) -> bool {
        for (_, kind) in &self.devices {
            match kind {
                Kind::Rng(_) => {}
                Kind::Image(disk) => {
                    let mut frames = Vec::with_capacity(RELEASED);
                    let all = disk.lock().device_mut().disk_mut().release(RELEASED, |frame| frames.push(frame));
                    frames.into_iter().for_each(|frame| give_back(machine, account, frame));
                    if !all {
                        return false;
                    }
                }
                Kind::Host(disk) => {
                    let mut disk = disk.lock();
                    // Nothing of it is on its way when somebody else has the same part.
                    if disk.device_mut().settle() != 0 {
                        return false;
                    }
                    disk.device_mut().disk_mut().leave();
                }
                Kind::Net(card) => {
                    let port = card.lock().device_mut().port_mut().0.take();
                    drop(port);
                }
            }
        }
        true
    }

    /// After a reset of the VM, whose devices are reset: vCPU 0 is on, and nothing has happened.
    pub fn reset(&self) {
        self.calls.due.store(0, Ordering::SeqCst);
        self.calls.later.store(u64::MAX, Ordering::SeqCst);
        self.calls.attendant.store(0, Ordering::SeqCst);
    }
}

fn of_disk<D: host::disk::Disk>(device: &Handle<Blk<D>>) -> DeviceCounts {
    let device = device.lock();
    let stats = device.device().stats();
    DeviceCounts {
        reads: stats.reads,
        read_bytes: stats.read_bytes,
        writes: stats.writes,
        written_bytes: stats.written_bytes,
        others: stats.flushes.saturating_add(stats.discards),
        errors: stats.errors.saturating_add(device.stats().broken),
        depth: stats.depth,
        deepest: stats.deepest,
        ..DeviceCounts::default()
    }
}

fn device<D: Device>(device: D, line: SpiLine, memory: &Arc<dyn GuestMemory>) -> Handle<D> {
    Arc::new(SpinLock::new(Rank::Device, Mmio::new(device, line, memory.clone())))
}

fn random(machine: &Machine, calls: Arc<Calls>, slot: u32) -> Result<Rng<OwnRandom>, String> {
    let own = machine.entropy.lock().as_mut().map(Drbg::child);
    let drbg = own.ok_or("rng = true: the machine has no random numbers to give; leave it out")?;
    let allowance = Allowance::new(RANDOM_RATE, RANDOM_AT_ONCE);
    Ok(Rng::new(OwnRandom { drbg, allowance, calls, slot }))
}

/// What disk `number` is called on the machine, if it is there.
fn host_disk(spec: &VmSpec, number: usize) -> Option<&str> {
    match &spec.disks.get(number)?.source {
        DiskSource::Host(name) => Some(name),
        DiskSource::Image(_) => None,
    }
}

fn image(
    machine: &Machine,
    (spec, number): (&VmSpec, usize),
    source: control::Source,
    frames: OwnFrames,
) -> Result<Blk<Image>, String> {
    let disk = spec.disks.get(number).ok_or("a disk that is not described")?;
    let image = disk.image().ok_or("a disk that is no image")?;
    let base = match source {
        control::Source::Boot => {
            let from = image.offset as usize;
            machine.bundle.get(from..from.saturating_add(image.size as usize)).map(Base::Boot)
        }
        control::Source::Object(region) => {
            let uploads = machine.uploads.lock();
            uploads.extents(region).map(|extents| Base::Upload(Uploaded { extents: extents.into(), size: image.size }))
        }
    };
    let base = base.ok_or_else(|| format!("disk {number}: its image is not there"))?;
    let mut serial = [0; SERIAL];
    serial.iter_mut().zip(spec.serial(number).bytes()).for_each(|(to, byte)| *to = byte);
    let store = Cow::new(base, frames, image.size / SECTOR, disk.readonly, serial);
    Ok(Blk::new(store.ok_or_else(|| format!("disk {number}: it is larger than {} GiB", store::LARGEST >> 30))?))
}

fn card(machine: &Machine, spec: &VmSpec, number: usize, ring: Ring) -> Result<Net<Plug>, String> {
    let net = spec.nets.get(number).ok_or("a network card that is not described")?;
    let switch = machine.switches.get(&net.switch);
    let switch = switch.ok_or_else(|| format!("net {number}: the machine has no switch \"{}\"", net.switch))?;
    let mac = Mac(spec.mac(number).0);
    let port = switch.switch.attach(&port_config(net, mac), Box::new(ring));
    let port = port.map_err(|error| format!("net {number}: {error}"))?;
    Ok(Net::new(Plug(Some(port), switch.uplink.get().cloned()), net::Config { mac, mtu: net.mtu }))
}

fn port_config(net: &NetSpec, mac: Mac) -> PortConfig {
    let guest = PortConfig { isolated: net.isolated, mtu: net.mtu, ..PortConfig::guest(mac) };
    // As many of the longest frames as a port must have room for, whatever its MTU.
    PortConfig { queue: QUEUE.max(8 * guest.longest()), ..guest }
}

/// Bytes of the heap that a VM's devices take at most.
pub fn heap_for(spec: &VmSpec) -> usize {
    const A_DEVICE: usize = 16 << 10;
    let disks = spec.disks.iter().filter_map(|disk| disk.image());
    let disks: usize = disks.map(|image| (image.size >> 20) as usize).sum();
    let disks = disks + spec.disks.len() * A_DEVICE;
    let nets = spec.nets.iter().map(|net| A_DEVICE + port_config(net, Mac([0; 6])).memory());
    disks + nets.sum::<usize>() + if spec.rng { A_DEVICE } else { 0 }
}
