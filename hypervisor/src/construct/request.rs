//! A VM that is asked for, against what there is: its account, its frames, Merus' own memory for it, its vCPUs' places; and in words
//! what there is too little of.

use super::assemble::put_together;
use super::ended::{dismantle, unmap};
use super::{Construction, Stage};
use crate::gic;
use crate::guest::Guest;
use crate::machine::Machine;
use crate::passthrough::Given;
use crate::placing;
use crate::slots::MAX_ENTITIES;
use alloc::format;
use alloc::string::ToString;
use alloc::sync::Arc;
use alloc::vec::Vec;
use config::cpu_model::CpuModel;
use config::image::GuestLayout;
use config::spec::{PayloadRef, VmSpec, admit_one, admit_pages};
use control::{Payloads, Source, VmNumber};
use memory::{AccountId, Dirty, HandOver, MemoryError, Reach};
use proto::{Refusal, SpecFault};

/// What a VM takes beside its RAM at least, in bytes: translation tables, and Merus' records of it.
const LEAST_BESIDE_RAM: u64 = 32 << 10;
/// Bytes of the heap that Merus' records of a VM take at most, without its vCPUs, and with the guest tree that is made for its start.
const HEAP_A_VM: usize = 128 << 10;
/// Bytes of the heap that each of its vCPUs takes at most.
const HEAP_A_VCPU: usize = 8 << 10;

/// A VM to be made.
pub struct Request<'a> {
    /// What it is to be; checked by itself.
    pub spec: &'a VmSpec,
    /// Its number, free until now.
    pub number: VmNumber,
    /// Its group's place.
    pub group: Option<usize>,
    /// Where its payloads are.
    pub payloads: &'a Payloads,
}

/// Puts a VM together, all but its memory's contents. On an error nothing is left behind.
pub fn begin(machine: &'static Machine, request: &Request<'_>) -> Result<Construction, Refusal> {
    let spec = request.spec;
    let mut head = [0; config::image::HEADER_SIZE];
    read_payload(machine, request.payloads.kernel, &spec.kernel, 0, &mut head)
        .ok_or_else(|| Refusal::NoSuchObject(format!("\"{}\" in the bundle", spec.kernel.name)))?;
    let layout = spec.layout(&head).map_err(|e| refused_spec(e.key, e.fault))?;
    let shown_mmfr0 = CpuModel::mmfr0(&machine.ids, machine.geometry.ipa_bits() as u8);
    admit_pages(spec, &layout, shown_mmfr0).map_err(|e| refused_spec(e.key, e.fault))?;
    admit_one(spec, gic::of_guests()).map_err(|e| refused_spec(e.key, e.fault))?;
    let ipa_bits = machine.geometry.ipa_bits();
    if layout.ram.end().as_u64() > 1 << ipa_bits {
        let why = format!("ends above the {ipa_bits} address bits of the machine's stage 2; give less");
        return Err(refused_spec(config::spec::key::MEMORY, why));
    }
    let given = crate::passthrough::find(machine, spec, layout.ram)?;
    let room = HEAP_A_VM + HEAP_A_VCPU * spec.vcpus as usize + crate::io::heap_for(spec);
    machine.heap_room(room).map_err(|e| no_memory(machine, e, room as u64))?;
    let limit = Refusal::Limit { what: "vCPUs in all; destroy a VM".into(), most: MAX_ENTITIES.into() };
    let first = machine.entities.lock().take(spec.vcpus).ok_or(limit)?;
    let made = match machine.vcpu_room(first, spec.vcpus) {
        Ok(()) => {
            Given::lend(machine, given, first).and_then(|given| with_entities(machine, request, layout, first, given))
        }
        Err(error) => Err(no_memory(machine, error, room as u64)),
    };
    if made.is_err() {
        machine.entities.lock().give(first, spec.vcpus);
    }
    made
}

fn with_entities(
    machine: &'static Machine,
    request: &Request<'_>,
    layout: GuestLayout,
    first: u32,
    given: Given,
) -> Result<Construction, Refusal> {
    let (account, extents) = open_account(machine, request)?;
    let heap = crate::HEAP.used();
    let made = put_together(machine, request, layout, (first, given), account, &extents)
        .map_err(|why| starved(machine, account).unwrap_or(Refusal::Unsupported(why)));
    let own = crate::HEAP.used().saturating_sub(heap) as u64;
    let made = made.and_then(|mut guest| {
        // Merus' own records of the VM are charged to it as well.
        let charged = machine.memory.lock().frames.charge(account, own);
        match charged {
            Ok(()) => {
                guest.records = own;
                Ok(Arc::<Guest>::from(guest))
            }
            Err(error) => {
                unmap(machine, &guest);
                Err(no_memory(machine, error, own))
            }
        }
    });
    let guest: Arc<Guest> = match made {
        Ok(guest) => guest,
        Err(refusal) => {
            let mut memory = machine.memory.lock();
            for extent in &extents {
                memory.take_back(account, extent.span());
            }
            let _ = memory.frames.close_account(account);
            return Err(refusal);
        }
    };
    if let Some(place) = machine.vms.lock().get_mut(usize::from(request.number.0)) {
        place.guest = Some(guest.clone());
    }
    if let Err(refusal) = placing::admit(machine, &guest, request.group) {
        dismantle(machine, &guest);
        return Err(refusal);
    }
    let Some(memory) = HandOver::first(&guest.ram, extents, machine.coherency()) else {
        dismantle(machine, &guest);
        return Err(Refusal::Unsupported("its memory is another's".into()));
    };
    Ok(Construction { guest, stage: Stage::Zero(memory) })
}

/// An account for the VM, in its group's, and its RAM out of it.
fn open_account(machine: &Machine, request: &Request<'_>) -> Result<(AccountId, Vec<Dirty>), Refusal> {
    let spec = request.spec;
    let limit = spec.memory_max.unwrap_or(u64::MAX);
    let group = request.group.and_then(|group| machine.groups.lock().get(group).copied());
    let mut memory = machine.memory.lock();
    let account = match group {
        Some(group) => memory.frames.open_account_in(group, limit),
        None => memory.frames.open_account(limit),
    };
    // A device that reaches memory by itself may reach the first GiB only.
    let reach = if spec.passthrough.unsafe_dma { Reach::Small } else { Reach::Any };
    let made = account.and_then(|account| match memory.guest_ram(account, spec.memory, reach) {
        Ok(extents) => Ok((account, extents)),
        Err(error) => {
            let _ = memory.frames.close_account(account);
            Err(error)
        }
    });
    drop(memory);
    made.map_err(|error| no_memory(machine, error, spec.memory))
}

/// A refusal of one of the VM's settings.
pub fn refused_spec(key: &str, why: impl ToString) -> Refusal {
    Refusal::Spec(SpecFault { key: key.into(), why: why.to_string() })
}

/// A lack of memory in words: whose, and how much is left. Looks at the groups and at memory, one after the other.
pub fn no_memory(machine: &Machine, error: MemoryError, asked: u64) -> Refusal {
    let (left, of) = match error {
        MemoryError::OverLimit { left, of } => {
            let group = machine.groups.lock().iter().position(|group| *group == of);
            (left, group.map_or_else(|| "the VM's memory.max".to_string(), |_| "the group's memory.max".to_string()))
        }
        _ => (machine.memory.lock().frames.free_bytes(), "the machine".to_string()),
    };
    Refusal::NoMemory { asked, left, of }
}

/// The refusal of a VM whose account has no room for more than its RAM, if that is so: its limit may leave none for translation tables.
fn starved(machine: &Machine, account: AccountId) -> Option<Refusal> {
    let charged = machine.memory.lock().frames.charge(account, LEAST_BESIDE_RAM);
    match charged {
        Ok(()) => {
            machine.memory.lock().frames.uncharge(account, LEAST_BESIDE_RAM);
            None
        }
        Err(error) => Some(no_memory(machine, error, LEAST_BESIDE_RAM)),
    }
}

/// Fills `into` from byte `at` of a payload; `None`: it is not there.
fn read_payload(machine: &Machine, source: Source, payload: &PayloadRef, at: u64, into: &mut [u8]) -> Option<()> {
    let here = usize::try_from(payload.size.checked_sub(at)?).ok()?.min(into.len());
    let into = into.get_mut(..here)?;
    match source {
        Source::Boot => {
            let from = usize::try_from(payload.offset.checked_add(at)?).ok()?;
            into.copy_from_slice(machine.bundle.get(from..from.checked_add(here)?)?);
        }
        Source::Object(region) => machine.uploads.lock().read(region, at, into),
    }
    Some(())
}
