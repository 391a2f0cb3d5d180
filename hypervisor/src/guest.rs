//! One VM with everything that is the kernel's business: its memory, its runners, its place at the console.

use crate::console;
use crate::console::VmSink;
use crate::io::Io;
use crate::machine::{Machine, machine};
use crate::passthrough::Given;
use crate::power::PowerKeys;
use crate::stolen::StolenTime;
use ::console::SourceId;
use addr::{Address, Ipa, Span};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use bus::{Absent, GuestMemory};
use config::image::GuestLayout;
use config::spec::VmSpec;
use control::{Payloads, Usage, VmNumber};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use devices::pl011::Pl011;
use devices::pl031::WallClock;
use el2::ram::Extent;
use el2::space::GuestSpace;
use el2::world::GuestState;
use memory::{AccountId, GuestRam, HandedOver};
use sched::{Affinity, Class, EntityId};
use sync::SpinLock;
use trace::VcpuTrace;
use vgic::VcpuId;
use vm::{Shown, SpiLine, StopReason, Vcpu, Vm, VmId, Waker};

/// The guest's serial port.
pub type GuestUart = Pl011<SpiLine, VmSink>;

/// A VM.
pub struct Guest {
    /// Its shared parts.
    pub vm: Vm,
    /// Stage 2.
    pub space: GuestSpace,
    /// What stands behind its RAM.
    pub ram: GuestRam,
    /// What it is shown of the time that others had its pCPUs.
    pub stolen: StolenTime,
    /// What it was made from.
    pub spec: VmSpec,
    /// Its number.
    pub number: VmNumber,
    /// Where its payloads come from.
    pub payloads: Payloads,
    /// Bytes of Merus' own records of it, charged to it.
    pub records: u64,
    /// Where its parts go.
    pub layout: GuestLayout,
    /// The entity of its vCPU 0; the others follow.
    pub first: u32,
    /// Devices of the board that it has.
    pub given: Given,
    /// Its place at the console.
    pub source: SourceId,
    /// Its serial port.
    pub uart: Arc<SpinLock<GuestUart>>,
    /// Its power keys.
    pub power: PowerKeys,
    /// Its other virtio devices.
    pub io: Io,
    /// Who pays for its memory.
    pub account: AccountId,
    /// Physical minus virtual counter, in ticks.
    pub counter_offset: AtomicU64,
    /// By pCPU: which of its vCPUs ran there last, plus one; 0 for none.
    pub last_ran: Vec<AtomicU32>,
    /// While it stops: vCPUs and pCPUs that have not let go yet.
    pub stopping: AtomicU32,
    /// Why it stops.
    pub reason: SpinLock<Option<StopReason>>,
    /// How often it has been reset.
    pub resets: AtomicU32,
    /// The proof that its memory is its own and clean, while it runs: its vCPUs are started by it.
    pub handed: SpinLock<Option<Arc<HandedOver>>>,
    /// Histograms of its vCPUs; empty if tracing was off when it was made.
    pub traces: Vec<VcpuTrace>,
    /// A report about it is being printed.
    pub reporting: AtomicBool,
    /// The same before it is launched.
    pub ready: SpinLock<Option<HandedOver>>,
    /// When it was paused, in ticks.
    pub paused_at: AtomicU64,
    /// It is not wanted any more while it is being made.
    pub cancelled: AtomicBool,
    /// The pCPUs on which its vCPUs may run, while their class ties them to none.
    pub allowed: SpinLock<Affinity>,
    /// Their class.
    pub class: SpinLock<Class>,
}

impl Guest {
    /// The entity of vCPU `vcpu`.
    pub fn entity(&self, vcpu: VcpuId) -> EntityId {
        EntityId(self.first.wrapping_add(vcpu))
    }
    /// The histograms of vCPU `vcpu`, if there are any.
    #[inline]
    pub fn trace(&self, vcpu: VcpuId) -> Option<&VcpuTrace> {
        self.traces.get(vcpu as usize)
    }
    /// What it has used so far.
    pub fn usage(&self, machine: &Machine) -> Usage {
        let memory = machine.memory.lock().frames.account(self.account).map_or(0, |account| account.used);
        let mut usage = Usage { memory, console: console::printed(self.source), ..Usage::default() };
        for id in self.entities() {
            let Some(slot) = machine.slot(id) else { continue };
            usage.exits = usage.exits.saturating_add(slot.counts.lock().total());
            let home = slot.home.load(Ordering::Acquire);
            let (_, stats) = crate::rows::now(machine, id, home);
            let slept = crate::time::ns(slot.slept.load(Ordering::Relaxed));
            usage.ran_ns = usage.ran_ns.saturating_add(stats.ran_ns.saturating_sub(slept));
            usage.waited_ns = usage.waited_ns.saturating_add(stats.waited_ns);
            usage.throttled_ns = usage.throttled_ns.saturating_add(stats.throttled_ns);
        }
        usage
    }
    /// All its entities.
    pub fn entities(&self) -> impl Iterator<Item = EntityId> + use<> {
        let first = self.first;
        (0..self.spec.vcpus).map(move |n| EntityId(first.wrapping_add(n)))
    }
}

/// A vCPU with all its state; owned by its slot, or by the pCPU that runs it.
pub struct Runner {
    /// Which entity it is.
    pub id: EntityId,
    /// Whose vCPU.
    pub guest: Arc<Guest>,
    /// Its own state.
    pub vcpu: Vcpu,
    /// What it has in the processor's registers while it is not loaded.
    pub state: GuestState,
    /// The pCPU that keeps its deadlines.
    pub timers_on: usize,
    /// What it has been shown of its stolen time.
    pub shown: Shown,
}

/// How a VM's vCPUs are reached from inside `vm`.
pub struct KernelWaker {
    /// The entity of vCPU 0.
    pub first: u32,
}

impl Waker for KernelWaker {
    fn wake(&self, _: VmId, vcpu: VcpuId) {
        if let Some(machine) = machine() {
            machine.wake(EntityId(self.first.wrapping_add(vcpu)));
        }
    }
    fn start(&self, _: VmId, vcpu: VcpuId) {
        if let Some(machine) = machine() {
            machine.cpu_on(EntityId(self.first.wrapping_add(vcpu)));
        }
    }
}

/// Seconds since the machine started: there is no clock on the board that Merus reads.
pub struct Uptime;

impl WallClock for Uptime {
    fn seconds(&self) -> u64 {
        crate::time::now_ns() / 1_000_000_000
    }
}

/// A VM's RAM, for those who may look into it: whoever walks the guest's own tables, and devices. It never moves.
pub struct GuestRamAccess {
    span: Span<Ipa>,
    /// Each extent's first guest address, and its memory; ascending, without holes.
    extents: Box<[(Ipa, Extent)]>,
}

impl GuestRamAccess {
    /// A way into `ram`; `None` if not all of that is declared RAM. Allocates.
    pub fn new(ram: &GuestRam) -> Option<Self> {
        let extents = ram.extents().iter().map(|(first, span)| Some((*first, Extent::new(*span)?)));
        Some(Self { span: ram.span(), extents: extents.collect::<Option<_>>()? })
    }

    /// In which extent `at` is, and where. (It may be beyond its end.)
    #[inline]
    fn place(&self, at: Ipa) -> Option<(&Extent, u64)> {
        let (first, extent) = match &*self.extents {
            // Most guests' RAM is in one piece, and devices ask for each buffer.
            [only] => only,
            extents => extents.get(extents.partition_point(|(first, _)| *first <= at).checked_sub(1)?)?,
        };
        Some((extent, at.offset_from(*first)?))
    }

    /// What does not lie in one extent: all of it can be reached, and `part` does each piece.
    #[cold]
    #[inline(never)]
    fn pieces(
        &self,
        at: Ipa,
        len: usize,
        mut part: impl FnMut(&Extent, u64, core::ops::Range<usize>) -> bool,
    ) -> Result<(), Absent> {
        self.pin(at, len as u64)?;
        let mut done = 0;
        while done < len {
            let from = at.checked_add(done as u64).ok_or(Absent { at })?;
            let absent = Absent { at: from };
            let (extent, offset) = self.place(from).ok_or(absent)?;
            let here = extent.size().checked_sub(offset).filter(|here| *here != 0).ok_or(absent)?;
            let end = len.min(done.saturating_add(here as usize));
            if !part(extent, offset, done..end) {
                return Err(absent);
            }
            done = end;
        }
        Ok(())
    }
}

impl GuestMemory for GuestRamAccess {
    fn is_ram(&self, at: Ipa, size: u64) -> bool {
        self.span.contains_range(at, size)
    }
    fn read(&self, at: Ipa, to: &mut [u8]) -> Result<(), Absent> {
        if self.place(at).is_some_and(|(extent, offset)| extent.read(offset, to)) {
            return Ok(());
        }
        self.pieces(at, to.len(), |extent, offset, range| {
            to.get_mut(range).is_some_and(|part| extent.read(offset, part))
        })
    }
    fn read_pair(&self, at: Ipa) -> Result<[u64; 2], Absent> {
        if let Some(pair) = self.place(at).and_then(|(extent, offset)| extent.read_pair(offset)) {
            return Ok(pair);
        }
        let mut words = [[0; 8]; 2];
        self.read(at, words.as_flattened_mut())?;
        Ok(words.map(u64::from_le_bytes))
    }
    fn write(&self, at: Ipa, from: &[u8]) -> Result<(), Absent> {
        if self.place(at).is_some_and(|(extent, offset)| extent.write(offset, from)) {
            return Ok(());
        }
        self.pieces(at, from.len(), |extent, offset, range| {
            from.get(range).is_some_and(|part| extent.write(offset, part))
        })
    }
    fn load_u16(&self, at: Ipa) -> Result<u16, Absent> {
        let loaded = self.place(at).and_then(|(extent, offset)| extent.load_u16(offset));
        loaded.ok_or(Absent { at })
    }
    fn store_u16(&self, at: Ipa, value: u16) -> Result<(), Absent> {
        let stored = self.place(at).is_some_and(|(extent, offset)| extent.store_u16(offset, value));
        if stored { Ok(()) } else { Err(Absent { at }) }
    }
    #[inline]
    fn pin(&self, at: Ipa, size: u64) -> Result<(), Absent> {
        if self.is_ram(at, size) { Ok(()) } else { Err(Absent { at }) }
    }
}
