//! Devices of the board that VMs have: who has which, and the way of their interrupts.
//!
//! | step | what |
//! |---|---|
//! | [`find`] | the devices that a VM asks for, from the board's tree, and their places in the guest |
//! | [`Given::lend`] | their registers are this VM's alone (`memory::Space`), and so are their interrupts |
//! | [`Given::map`], [`Given::link`] | stage 2 maps the registers; the VM's controller has the interrupts |
//! | [`taken`] | a pCPU has taken one: it is pending for its vCPU, which is told, and the next one comes to where that is |
//! | [`Given::hold`] | the VM pauses or stops: no interrupt of it is taken any more |
//! | [`Given::give_back`] | the VM has ended: interrupts off and inactive, registers unmapped before; another VM may have them |
//!
//! What the device itself is doing when its VM ends, it goes on doing: Merus knows no way to reset a device that it has no driver for.
//! Whoever has it next finds it as it was left.

use crate::gic::{self, GivenLines};
use crate::guest::Guest;
use crate::machine::{Machine, TablePages};
use addr::{Ipa, Pa, Span};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use config::board;
use config::passthrough::Passthrough;
use config::spec::{VmSpec, key};
use core::sync::atomic::Ordering;
use el2::space::GuestSpace;
use memory::Window;
use proto::Refusal;
use sched::EntityId;
use sync::{Rank, SpinLock};
use vm::VgicPort;

/// What a VM has been given.
pub struct Given {
    /// The devices and their places.
    pub what: Passthrough,
    machine: &'static Machine,
    /// The entity of the VM's vCPU 0.
    first: u32,
    windows: SpinLock<Vec<Window>>,
}

/// The devices that `spec` asks for, with their places in a guest with this RAM. (Reads the board's tree in one go: a VM that is given
/// devices is made when nobody waits for anything shorter.)
pub fn find(machine: &Machine, spec: &VmSpec, ram: Span<Ipa>) -> Result<Passthrough, Refusal> {
    let asked = &spec.passthrough;
    if asked.devices.is_empty() {
        return Ok(Passthrough::default());
    }
    let refused = |why: &dyn ToString| super::construct::refused_spec(key::PASSTHROUGH, why.to_string());
    let read = |tree: &[u8]| board::devices(tree, &asked.devices, asked.unsafe_dma);
    let devices = boot::with_tree(machine.fdt, read).ok_or_else(|| refused(&"the board has no device tree"))?;
    let devices = devices.map_err(|error| refused(&error))?;
    for registers in devices.iter().flat_map(|device| &device.registers) {
        // What could not be had anywhere is said before there is a place for it.
        let mut space = machine.space.lock();
        match space.lend(*registers) {
            Ok(window) => space.take_back(window),
            Err(overlap) => return Err(refused(&overlap)),
        }
    }
    for line in devices.iter().flat_map(|device| &device.lines) {
        machine.routes.lock().is_free(line.intid).map_err(|taken| refused(&taken))?;
    }
    Passthrough::new(devices, ram, machine.geometry.ipa_bits()).map_err(|error| refused(&error))
}

impl Given {
    /// Makes them the VM's whose vCPU 0 is entity `first`, or says whose they are.
    pub fn lend(machine: &'static Machine, what: Passthrough, first: u32) -> Result<Self, Refusal> {
        let refused = |why: String| super::construct::refused_spec(key::PASSTHROUGH, why);
        let given = Self { what, machine, first, windows: SpinLock::new(Rank::Vm, Vec::new()) };
        for (pages, _) in &given.what.pages {
            let lent = machine.space.lock().lend(*pages);
            // What was lent up to here goes back with `given`.
            let window = lent.map_err(|overlap| refused(overlap.to_string()))?;
            given.windows.lock().push(window);
        }
        let lent = machine.routes.lock().lend(first, &given.pairs());
        lent.map_err(|taken| refused(taken.to_string()))?;
        Ok(given)
    }

    /// Its interrupts: the guest's number and the machine's.
    fn pairs(&self) -> Vec<(u32, u32)> {
        self.what.lines.iter().map(|(line, intid)| (*intid, line.intid)).collect()
    }

    /// Puts the registers into the guest's address space.
    pub fn map(&self, space: &GuestSpace, pages: &mut TablePages<'_>) -> Result<(), String> {
        for window in self.windows.lock().iter() {
            let at = self.what.pages.iter().find(|(span, _)| *span == window.span()).map(|(_, at)| *at);
            let at = at.ok_or("registers without a place")?;
            let mapped = space.map_device(at, window, pages);
            mapped.map_err(|error| format!("the registers at {} cannot be mapped: {error:?}", window.span()))?;
        }
        Ok(())
    }

    /// Links the interrupts to the VM's own. They are off until the guest switches them on.
    pub fn link(&self, port: &Arc<VgicPort>) {
        if self.what.lines.is_empty() {
            return;
        }
        {
            // Under one lock for all VMs: several interrupts' triggers are in one register.
            let _one_at_a_time = self.machine.routes.lock();
            self.what.lines.iter().for_each(|(line, _)| gic::shared().configure(line.intid, line.edge));
        }
        port.change(|vgic| {
            vgic.link_spis(Arc::new(GivenLines), &self.pairs());
            // Not pending from before.
            vgic.end_links();
        });
        self.machine.routes.lock().link(self.first, port);
    }

    /// Has the interrupts begin at the pCPU of the guest's first vCPU.
    pub fn launch(&self, guest: &Guest) {
        let home = self.machine.slot(guest.entity(0)).map(|slot| slot.home.load(Ordering::Acquire));
        if let Some(pcpu) = home.and_then(|home| self.machine.pcpus.get(home)) {
            self.what.lines.iter().for_each(|(line, _)| gic::route_spi(line.intid, pcpu));
        }
    }

    /// While held, no interrupt of theirs is taken.
    pub fn hold(&self, guest: &Guest, held: bool) {
        if !self.what.lines.is_empty() {
            guest.vm.vgic().change(|vgic| vgic.hold_links(held));
        }
    }

    /// Ends it: nothing maps the registers any more, and no vCPU runs.
    pub fn give_back(&self) {
        if self.what.is_empty() {
            return;
        }
        // Off first: from the next line on they may be another VM's, which would lose what is forgotten here.
        let linked = self.what.lines.first().and_then(|(line, _)| self.machine.routes.lock().find(line.intid));
        if let Some((_, port, _)) = linked.filter(|(_, _, owner)| *owner == self.first) {
            port.change(|vgic| vgic.end_links());
        }
        self.machine.routes.lock().take_back(self.first);
        let windows = core::mem::take(&mut *self.windows.lock());
        windows.into_iter().for_each(|window| self.machine.space.lock().take_back(window));
    }

    /// Lines for a person: what the VM has, and what is to be known of it.
    pub fn say(&self, guest: &Guest) {
        let name = &guest.spec.name;
        for device in &self.what.devices {
            let at = device
                .registers
                .first()
                .and_then(|span| self.what.registers(*span))
                .map_or(0, |at| at.start().as_u64());
            crate::console::say!("vm \"{name}\": has {} at {at:#x}", device.path);
            if device.clocks.iter().any(Option::is_none) {
                crate::console::say!(
                    "vm \"{name}\": the rate of a clock of {} is not known: it is given as 0",
                    device.path
                );
            }
        }
        if guest.spec.passthrough.unsafe_dma && !self.what.is_empty() {
            for (ipa, span) in guest.ram.extents() {
                crate::console::say!("vm \"{name}\": unsafe-dma: its memory at {ipa:#x} is the machine's at {span}");
            }
        }
    }
}

impl Drop for Given {
    fn drop(&mut self) {
        self.give_back();
    }
}

/// Whether an interrupt that this pCPU has taken, and whose priority it has dropped, is some VM's. If so, it stays active until that
/// guest ends its own.
#[cold]
#[inline(never)]
pub fn taken(machine: &Machine, pintid: u32) -> bool {
    let found = machine.routes.lock().find(pintid);
    let Some((intid, port, first)) = found else { return false };
    let target = port.change(|vgic| {
        vgic.spi_fired(intid);
        vgic.spi_target(intid)
    });
    let slot = target.and_then(|vcpu| machine.slot(EntityId(first.wrapping_add(vcpu))));
    let home = slot.map(|slot| slot.home.load(Ordering::Relaxed)).filter(|home| *home != el2::number());
    if let Some(pcpu) = home.and_then(|home| machine.pcpus.get(home)) {
        gic::route_spi(pintid, pcpu);
    }
    true
}

/// Whether one of `specs` asks for the registers that `span` begins with: then Merus leaves them alone.
pub fn is_asked_for(fdt: Pa, specs: &[VmSpec], span: Span<Pa>) -> bool {
    asked_for(fdt, specs).iter().any(|other| other.overlaps(&span))
}

/// The registers that `specs` ask for.
pub fn asked_for(fdt: Pa, specs: &[VmSpec]) -> Vec<Span<Pa>> {
    let mut registers = Vec::new();
    for spec in specs.iter().filter(|spec| !spec.passthrough.devices.is_empty()) {
        let read = |tree: &[u8]| board::devices(tree, &spec.passthrough.devices, true);
        let devices = boot::with_tree(fdt, read).and_then(Result::ok).unwrap_or_default();
        registers.extend(devices.into_iter().flat_map(|device| device.registers));
    }
    registers
}
