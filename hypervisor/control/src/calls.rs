//! Calls, and news from the host.

use crate::events::Events;
use crate::host::{Host, VmNumber};
use crate::objects::{Object, Objects};
use crate::registry::{MAX_VMS, Origin, Origins, Record, Registry};
use crate::rows::{device_rows, row};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use config::device::NewDevice;
use config::image::Raw;
use config::setting::{self, Setting};
use config::spec::{
    CpuSpec, DEFAULT_RNG, Fault, GIC_FORM, GuestGic, POWER_KEY_FORM, PassthroughSpec, PayloadKind, PayloadRef,
    PowerKey, SpecError, SwitchSpec, UNSAFE_DMA_FORM, VmSpec, key,
};
use proto::{Answer, Call, EventKind, NewVm, Page, Payload, Refusal, Reply, SpecFault, VmState};

/// Management of one machine.
pub struct Control {
    pub(crate) registry: Registry,
    pub(crate) objects: Objects,
    pub(crate) events: Events,
    /// The boot bundle's payloads.
    pub(crate) boot: Vec<PayloadRef>,
    /// The machine's switches.
    pub(crate) switches: Vec<SwitchSpec>,
    /// pCPUs of the machine.
    pcpus: u32,
    /// Frames that were no frames, over all channels.
    pub(crate) bad_frames: u64,
}

pub(crate) fn spec_fault(key: &str, why: impl ToString) -> Refusal {
    Refusal::Spec(SpecFault { key: key.into(), why: why.to_string() })
}

pub(crate) fn fault(error: SpecError) -> Refusal {
    spec_fault(error.key, error.fault)
}

/// How long a power key is held, in ns: as on QEMU's `virt`, and longer than a guest's driver waits for a key to settle.
const KEY_HELD: u64 = 100_000_000;

impl Control {
    /// Nothing runs yet. `boot`: the bundle's payloads, which VMs can be made of; `switches`: the machine's; `pcpus`: how many are up.
    pub fn new(boot: Vec<PayloadRef>, switches: Vec<SwitchSpec>, pcpus: u32) -> Self {
        Self {
            registry: Registry::default(),
            objects: Objects::default(),
            events: Events::new(),
            boot,
            switches,
            pcpus,
            bad_frames: 0,
        }
    }

    /// Does what is asked, or refuses and changes nothing.
    pub fn call(&mut self, host: &mut dyn Host, call: Call) -> Reply {
        Ok(match call {
            Call::Machine => {
                let mut row = host.machine();
                row.bad_frames = self.bad_frames;
                Answer::Machine(row)
            }
            Call::List { from } => {
                let rows = self.registry.iter().skip(from as usize).map(|r| row(host, r));
                Answer::List(Page::fill(from.into(), 0, rows))
            }
            Call::Info { vm } => Answer::Info(row(host, self.find(&vm)?)),
            Call::Vcpus { vm, from } => {
                let record = self.find(&vm)?;
                let rows = (from..record.spec.vcpus).filter_map(|index| host.vcpu(record.number, index));
                Answer::Vcpus(Page::fill(from.into(), 0, rows))
            }
            Call::Devices { vm, from } => {
                let rows = device_rows(host, self.find(&vm)?).skip(from as usize);
                Answer::Devices(Page::fill(from.into(), 0, rows))
            }
            Call::Switches { from } => {
                let rows = self.switches.iter().skip(from as usize).filter_map(|spec| host.switch(&spec.name));
                Answer::Switches(Page::fill(from.into(), 0, rows))
            }
            Call::Pcpus { from } => {
                Answer::Pcpus(Page::fill(from.into(), 0, (from..self.pcpus).filter_map(|n| host.pcpu(n))))
            }
            Call::Groups { from } => {
                let rows = self
                    .registry
                    .groups
                    .iter()
                    .enumerate()
                    .skip(from as usize)
                    .map(|(n, g)| self.group_row(host, n, g));
                Answer::Groups(Page::fill(from.into(), 0, rows))
            }
            Call::Objects { from } => {
                Answer::Objects(Page::fill(from.into(), 0, self.object_rows().skip(from as usize)))
            }
            Call::Put { hash, size, name } => Answer::Uploaded(self.objects.put(host, hash, size, &name)?),
            Call::Chunk { hash, offset, bytes } => Answer::Uploaded(self.objects.chunk(host, &hash, offset, &bytes.0)?),
            Call::Forget { hash } => {
                if let Some(user) = self.registry.iter().find(|r| r.origins.has(&hash)) {
                    return Err(Refusal::InUse(format!("vm \"{}\"", user.spec.name)));
                }
                self.objects.forget(host, &hash)?;
                Answer::Done
            }
            Call::Create(new) => self.create(host, new)?,
            Call::Start { vm } => self.start(host, &vm)?,
            Call::Pause { vm } => {
                let number = self.go(&vm, &[VmState::Running], VmState::Pausing)?;
                host.pause(number);
                Answer::Done
            }
            Call::Resume { vm } => {
                let number = self.go(&vm, &[VmState::Paused], VmState::Running)?;
                host.resume(number);
                self.events.add(host.now_ns(), &vm, EventKind::Resumed);
                Answer::Done
            }
            Call::Reset { vm } => {
                let number = self.go(&vm, &[VmState::Running], VmState::Resetting)?;
                host.reset(number);
                Answer::Done
            }
            Call::Stop { vm, grace_ms } => self.stop(host, &vm, grace_ms)?,
            Call::Destroy { vm } => self.destroy(host, &vm)?,
            Call::Attach { vm, device } => self.attach(host, &vm, &device)?,
            Call::Detach { vm, device } => self.detach(host, &vm, &device)?,
            Call::Set { target, key, value } => self.set(host, &target, &key, &value)?,
            Call::MakeGroup { group } => self.make_group(host, &group)?,
            Call::Console { vm, from } => {
                let record = self.find(&vm)?;
                let mut part = host.console(record.number, from);
                part.live = !matches!(record.state, VmState::Stopped(_));
                Answer::Console(part)
            }
            Call::Type { vm, bytes } => {
                let record = self.find(&vm)?;
                if record.state != VmState::Running {
                    return Err(Refusal::State { is: record.state });
                }
                Answer::Typed(host.type_at(record.number, &bytes.0) as u32)
            }
            Call::Events { from } => Answer::Events(self.events.page(from)),
            Call::Log { from } => Answer::Log(host.log(from)),
            Call::Trace { pcpu, from } => Answer::Trace(host.trace(pcpu, from).ok_or(Refusal::NoSuchPcpu(pcpu))?),
            Call::SetTrace { on } => {
                host.set_tracing(on);
                Answer::Done
            }
        })
    }

    /// Puts the boot bundle's VM into the books, to run at once, and begins to make it. Its group has to be there.
    pub fn boot(&mut self, host: &mut dyn Host, spec: VmSpec) -> Result<(), Refusal> {
        {
            let origins = Origins::boot(&spec);
            self.admit(host, spec, origins, true)
        }
    }

    /// How many VMs are not stopped.
    pub fn alive(&self) -> usize {
        self.registry.iter().filter(|r| r.has_memory()).count()
    }

    /// A VM's name and state.
    pub fn state(&mut self, vm: VmNumber) -> Option<(String, VmState)> {
        self.registry.numbered(vm).map(|r| (r.name(), r.state))
    }

    /// A VM's number.
    pub fn number(&self, vm: &str) -> Option<VmNumber> {
        self.registry.find(vm).map(|record| record.number)
    }

    /// When [`Self::poll`] is due, in ns.
    pub fn deadline(&self) -> Option<u64> {
        self.registry.iter().flat_map(|r| [r.kill_at, r.key_up_at]).flatten().min()
    }

    /// Lets go of power keys that were held long enough, and ends those whose grace is over.
    pub fn poll(&mut self, host: &mut dyn Host) {
        let now = host.now_ns();
        for record in self.registry.iter_mut().filter(|r| r.key_up_at.is_some_and(|at| at <= now)) {
            record.key_up_at = None;
            host.release_power(record.number);
        }
        for record in self.registry.iter_mut().filter(|r| r.kill_at.is_some_and(|at| at <= now)) {
            (record.kill_at, record.key_up_at) = (None, None);
            if matches!(record.state, VmState::Running | VmState::Resetting | VmState::Paused) {
                record.state = VmState::Stopping;
                record.killed = true;
                host.kill(record.number);
            }
        }
    }

    // --- The calls. ---

    pub(crate) fn find(&self, vm: &str) -> Result<&Record, Refusal> {
        self.registry.find(vm).ok_or_else(|| Refusal::NoSuchVm(vm.into()))
    }

    pub(crate) fn find_mut(&mut self, vm: &str) -> Result<&mut Record, Refusal> {
        self.registry.find_mut(vm).ok_or_else(|| Refusal::NoSuchVm(vm.into()))
    }

    /// From one of `states` to `to`.
    fn go(&mut self, vm: &str, states: &[VmState], to: VmState) -> Result<VmNumber, Refusal> {
        let record = self.find_mut(vm)?;
        if !states.contains(&record.state) {
            return Err(Refusal::State { is: record.state });
        }
        record.state = to;
        Ok(record.number)
    }

    fn create(&mut self, host: &mut dyn Host, new: NewVm) -> Result<Answer, Refusal> {
        let (kernel, of_kernel) = self.payload(&new.kernel, PayloadKind::Kernel)?;
        let initrd = new.initrd.as_ref().map(|p| self.payload(p, PayloadKind::Ramdisk)).transpose()?;
        let mut spec = VmSpec {
            name: new.name,
            kernel,
            raw: Raw::default(),
            initrd: initrd.as_ref().map(|(p, _)| p.clone()),
            cmdline: new.cmdline.unwrap_or_default(),
            memory: new.memory,
            vcpus: new.vcpus,
            cpu: CpuSpec::default(),
            memory_max: None,
            group: new.group,
            power_key: PowerKey::default(),
            gic: None,
            passthrough: PassthroughSpec::default(),
            rng: DEFAULT_RNG,
            disks: Vec::new(),
            nets: Vec::new(),
        };
        let of_initrd = initrd.map_or(Origin::Boot, |(_, from)| from);
        let mut origins = Origins { kernel: of_kernel, initrd: of_initrd, disks: Vec::new() };
        for line in new.settings.lines().filter(|line| !line.trim().is_empty()) {
            let (key, value) =
                line.split_once('=').ok_or_else(|| spec_fault(line.trim(), "has no value; write KEY=VALUE"))?;
            if key.trim() == key::POWER_KEY {
                let form = || Fault::Form { value: value.into(), form: POWER_KEY_FORM };
                spec.power_key = PowerKey::parse(value).ok_or_else(|| spec_fault(key.trim(), form()))?;
                continue;
            }
            if let Some(taken) = setting::raw(key.trim(), value, &mut spec.raw) {
                taken.map_err(|fault| spec_fault(key.trim(), fault))?;
                continue;
            }
            match key.trim() {
                key::GIC => {
                    let form = || Fault::Form { value: value.into(), form: GIC_FORM };
                    spec.gic = Some(GuestGic::parse(value).ok_or_else(|| spec_fault(key.trim(), form()))?);
                    continue;
                }
                key::PASSTHROUGH => {
                    spec.passthrough.devices = PassthroughSpec::parse_devices(value);
                    continue;
                }
                key::UNSAFE_DMA => {
                    let form = || Fault::Form { value: value.into(), form: UNSAFE_DMA_FORM };
                    let word = PassthroughSpec::parse_unsafe_dma(value);
                    spec.passthrough.unsafe_dma = word.ok_or_else(|| spec_fault(key.trim(), form()))?;
                    continue;
                }
                _ => {}
            }
            if let Some(device) = NewDevice::of(key.trim(), value.trim()) {
                let device = device.map_err(|(key, fault)| spec_fault(key, fault))?;
                self.equip(&mut spec, &mut origins.disks, device)?;
                continue;
            }
            let setting = Setting::parse(key.trim(), value).map_err(|f| spec_fault(key.trim(), f))?;
            setting.apply(&mut spec);
        }
        self.admit(host, spec, origins, false)?;
        Ok(Answer::Done)
    }

    fn admit(&mut self, host: &mut dyn Host, spec: VmSpec, origins: Origins, run: bool) -> Result<(), Refusal> {
        let now = host.now_ns();
        if let Some(error) = spec.faults().into_iter().next() {
            return Err(fault(error));
        }
        if self.registry.find(&spec.name).is_some() {
            return Err(Refusal::NameTaken(spec.name));
        }
        if let Some(group) = spec.group.as_ref().filter(|name| self.registry.group(name).is_none()) {
            return Err(Refusal::NoSuchGroup(group.clone()));
        }
        self.check_affinity(spec.cpu.affinity.as_deref())?;
        self.check_devices(&spec)?;
        let limit = Refusal::Limit { what: "VMs; destroy one".into(), most: MAX_VMS as u64 };
        let number = self.registry.free_number().ok_or(limit)?;
        host.create(number, &spec, self.registry.group_of(&spec), origins.sources())?;
        let state = VmState::Creating;
        self.events.add(now, &spec.name, EventKind::Making);
        self.registry.add(Record {
            number,
            spec,
            origins,
            state,
            run,
            resets: 0,
            kill_at: None,
            key_up_at: None,
            killed: false,
        });
        Ok(())
    }

    pub(crate) fn check_affinity(&self, cpus: Option<&[u32]>) -> Result<(), Refusal> {
        match cpus.unwrap_or(&[]).iter().find(|cpu| **cpu >= self.pcpus) {
            Some(cpu) => Err(spec_fault(key::CPU_AFFINITY, Fault::AffinityAbsent { cpu: *cpu, cpus: self.pcpus })),
            None => Ok(()),
        }
    }

    pub(crate) fn payload(&self, wanted: &Payload, kind: PayloadKind) -> Result<(PayloadRef, Origin), Refusal> {
        match wanted {
            Payload::Boot(name) => {
                let found = self.boot.iter().find(|p| p.name == *name && p.kind == kind);
                let found = found.or_else(|| self.boot.iter().find(|p| p.name == *name));
                let found = found.ok_or_else(|| Refusal::NoSuchObject(format!("\"{name}\" in the boot bundle")))?;
                Ok((found.clone(), Origin::Boot))
            }
            Payload::Object(hash) => {
                let object = self.objects.whole(hash).ok_or_else(|| Refusal::NoSuchObject(format!("{hash}")))?;
                Ok((reference(object, kind), Origin::Object(*hash, object.region)))
            }
        }
    }

    fn start(&mut self, host: &mut dyn Host, vm: &str) -> Result<Answer, Refusal> {
        let record = self.find(vm)?;
        match record.state {
            VmState::Created => {
                let number = self.go(vm, &[VmState::Created], VmState::Running)?;
                host.start(number);
                self.events.add(host.now_ns(), vm, EventKind::Started);
            }
            VmState::Stopped(_) => {
                let group = self.registry.group_of(&record.spec);
                let now = host.now_ns();
                host.create(record.number, &record.spec, group, record.origins.sources())?;
                let record = self.find_mut(vm)?;
                record.state = VmState::Creating;
                record.run = true;
                self.events.add(now, vm, EventKind::Making);
            }
            // It is told once: when it is made, it runs.
            VmState::Creating if !record.run => self.find_mut(vm)?.run = true,
            is => return Err(Refusal::State { is }),
        }
        Ok(Answer::Done)
    }

    fn stop(&mut self, host: &mut dyn Host, vm: &str, grace_ms: u32) -> Result<Answer, Refusal> {
        let now = host.now_ns();
        let record = self.find_mut(vm)?;
        let number = record.number;
        let asked = grace_ms != 0 && record.state == VmState::Running && host.press_power(number);
        if asked {
            record.key_up_at = Some(now.saturating_add(KEY_HELD));
            record.kill_at = Some(now.saturating_add(u64::from(grace_ms).saturating_mul(1_000_000)));
            self.events.add(now, vm, EventKind::Asked);
            return Ok(Answer::Done);
        }
        match record.state {
            // One that resets itself again and again is hardly ever met running.
            VmState::Running | VmState::Resetting | VmState::Paused | VmState::Created | VmState::Creating => {}
            is => return Err(Refusal::State { is }),
        }
        record.state = VmState::Stopping;
        record.killed = true;
        record.run = false;
        host.kill(number);
        Ok(Answer::Done)
    }

    fn destroy(&mut self, host: &mut dyn Host, vm: &str) -> Result<Answer, Refusal> {
        let record = self.find(vm)?;
        match record.state {
            VmState::Created | VmState::Stopped(_) => {}
            is => return Err(Refusal::State { is }),
        }
        host.destroy(record.number);
        self.registry.remove(vm);
        self.events.add(host.now_ns(), vm, EventKind::Destroyed);
        Ok(Answer::Done)
    }
}

fn reference(object: &Object, kind: PayloadKind) -> PayloadRef {
    PayloadRef {
        image: String::new(),
        name: object.name.clone(),
        kind,
        offset: 0,
        size: object.size,
        crc32: object.crc32,
        sha256: Some(object.hash.0),
    }
}
