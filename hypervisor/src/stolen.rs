//! The memory in which a VM is shown how long its vCPUs waited for a pCPU (Arm DEN 0057): read only for the guest.
//!
//! It is the VM's own, charged to it, from its making to its end; a reset leaves it as it is. What is written, and when, is
//! `vm`'s to say ([`vm::Shown`]).

use crate::machine::{CpuOps, Machine, TablePages};
use addr::{Address, PAGE_SIZE, Pa, Span};
use alloc::string::{String, ToString};
use alloc::vec;
use config::map;
use el2::space::GuestSpace;
use guest_smccc::pv_time;
use memory::{AccountId, GuestRam, HandOver};

/// The records of a VM's vCPUs.
#[derive(Debug)]
pub struct StolenTime {
    memory: Span<Pa>,
}

impl StolenTime {
    /// Records that say nothing yet, for `vcpus` vCPUs, mapped where the platform has them. On an error nothing is left behind
    /// but tables of `space`.
    pub fn new(machine: &Machine, account: AccountId, vcpus: u32, space: &GuestSpace) -> Result<Self, String> {
        let window = pv_time::window(map::PV_TIME_BASE, vcpus).filter(|window| window.size() <= map::PV_TIME_SIZE);
        let window = window.ok_or("its stolen time has no place")?;
        let pages = machine.memory.lock().pages(account, (window.size() / PAGE_SIZE) as usize);
        let pages = pages.map_err(|_| "no memory for its stolen time")?;
        let memory = pages.span();
        // As its RAM: zeroed, and cleaned for a guest whose caches are off.
        let prepared = GuestRam::new(window.start(), [memory])
            .and_then(|ram| HandOver::first(&ram, vec![pages], machine.coherency()))
            .and_then(|mut fresh| fresh.zero(memory.size(), &mut CpuOps(&machine.features)));
        let mut tables = TablePages { memory: &machine.memory, account };
        if prepared.is_some_and(|extent| space.map_read_only(extent, &mut tables).is_ok()) {
            return Ok(Self { memory });
        }
        machine.memory.lock().take_back_pages(account, memory);
        Err("its stolen time cannot be mapped".to_string())
    }
    /// What it takes of the machine.
    pub fn memory(&self) -> Span<Pa> {
        self.memory
    }
    /// Writes vCPU `vcpu`'s stolen time, `ns`: one access, as the guest reads it.
    pub fn show(&self, vcpu: u32, ns: u64) {
        if let Some(at) = self.memory.start().checked_add(pv_time::stolen_at(vcpu)) {
            el2::ram::store_entry(at, ns);
        }
    }
}
