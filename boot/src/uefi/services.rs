//! What Merus asks of the firmware while boot services last: words on its console, memory, tables and protocols.
//!
//! (UEFI Specification, "Services - Boot Services" and "Protocols - Console Support".)

use super::memory::MemoryMap;
use core::ffi::c_void;
use core::fmt::{self, Write};
use core::ptr::{null, null_mut};
use uefi_raw::table::boot::{AllocateType, BootServices, MemoryDescriptor, MemoryType};
use uefi_raw::table::system::SystemTable;
use uefi_raw::{Guid, Handle, Status};

const PAGE: usize = addr::PAGE_SIZE as usize;

/// A call that failed: what it was for, and the firmware's answer.
#[derive(Clone, Copy, Debug)]
pub struct Failed {
    /// What could not be done.
    pub what: &'static str,
    /// What the firmware said.
    pub status: Status,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: the firmware says {:?}", self.what, self.status)
    }
}

/// Turns the firmware's answer into a result.
pub fn check(what: &'static str, status: Status) -> Result<(), Failed> {
    // Warnings are no errors.
    if status.is_error() { Err(Failed { what, status }) } else { Ok(()) }
}

/// The firmware, as long as it offers boot services.
pub struct Firmware {
    image: Handle,
    system: &'static SystemTable,
    boot: &'static BootServices,
}

impl Firmware {
    /// The firmware that started this image.
    ///
    /// # Safety
    /// Both are what the firmware gave the image's entry point, and boot services have not been left.
    pub unsafe fn new(image: Handle, system: *const SystemTable) -> Self {
        // SAFETY: as the caller says; the tables stay where they are until boot services are left.
        unsafe { Self { image, system: &*system, boot: &*(*system).boot_services } }
    }

    /// This image's handle.
    pub fn image(&self) -> Handle {
        self.image
    }

    /// The boot services.
    pub fn boot(&self) -> &BootServices {
        self.boot
    }

    /// Says one line on the firmware's console.
    pub fn say(&self, line: fmt::Arguments<'_>) {
        let mut console = Console { firmware: self, units: [0; 64], used: 0 };
        let _ = write!(console, "merus: {line}\r\n");
        console.flush();
    }

    /// The table with this identity.
    pub fn table(&self, guid: Guid) -> Option<*const u8> {
        let count = self.system.number_of_configuration_table_entries;
        let first = self.system.configuration_table;
        (0..count).find_map(|n| {
            // SAFETY: the system table says that there are so many.
            let entry = unsafe { &*first.add(n) };
            (entry.vendor_guid == guid && !entry.vendor_table.is_null())
                .then_some(entry.vendor_table.cast_const().cast())
        })
    }

    /// The protocol `guid` of `handle`.
    pub fn protocol(&self, handle: Handle, guid: &Guid) -> Option<*mut c_void> {
        if handle.is_null() {
            return None;
        }
        let mut found = null_mut();
        // SAFETY: the handle is the firmware's, the rest are our own variables.
        let status = unsafe { (self.boot.handle_protocol)(handle, guid, &mut found) };
        (status == Status::SUCCESS && !found.is_null()).then_some(found)
    }

    /// Memory for `bytes` bytes, in whole zeroed pages, that stays Merus' when boot services are left.
    pub fn pages(&self, bytes: usize) -> Result<Pages<'_>, Failed> {
        let count = bytes.div_ceil(PAGE).max(1);
        let mut at = 0;
        // SAFETY: asks for pages anywhere; the variable is ours.
        let status =
            unsafe { (self.boot.allocate_pages)(AllocateType::ANY_PAGES, MemoryType::LOADER_DATA, count, &mut at) };
        check("memory", status)?;
        // SAFETY: the pages are ours alone, mapped where they are.
        unsafe { core::ptr::write_bytes(at as *mut u8, 0, count * PAGE) };
        Ok(Pages { firmware: self, at, count })
    }

    /// The memory map as it is now, in `buffer`, with the key that leaving boot services takes.
    pub fn memory_map<'a>(&self, buffer: &'a mut [u8]) -> Result<(MemoryMap<'a>, usize), Failed> {
        let (mut size, mut key, mut stride, mut version) = (buffer.len(), 0, 0, 0);
        let map: *mut MemoryDescriptor = buffer.as_mut_ptr().cast();
        // SAFETY: the firmware writes at most `size` bytes to the buffer.
        let status = unsafe { (self.boot.get_memory_map)(&mut size, map, &mut key, &mut stride, &mut version) };
        check("the memory map", status)?;
        let map = buffer.get(..size).and_then(|bytes| MemoryMap::new(bytes, stride));
        Ok((map.ok_or(Failed { what: "the memory map", status: Status::UNSUPPORTED })?, key))
    }

    /// Bytes that the memory map takes now, with room for what allocating memory for it may add.
    pub fn memory_map_size(&self) -> usize {
        let (mut size, mut key, mut stride, mut version) = (0, 0, 0, 0);
        // SAFETY: with no room the firmware writes only how much it needs.
        let _ = unsafe { (self.boot.get_memory_map)(&mut size, null_mut(), &mut key, &mut stride, &mut version) };
        size + 32 * stride.max(64)
    }

    /// Has the firmware not reset the machine because nothing happens for minutes.
    pub fn stop_watchdog(&self) {
        // SAFETY: no data comes with the code 0. Firmware without a watchdog refuses, which is as good.
        let _ = unsafe { (self.boot.set_watchdog_timer)(0, 0, 0, null()) };
    }
}

/// Pages of the firmware's memory; given back when they are dropped, so what is to survive is not dropped.
pub struct Pages<'a> {
    firmware: &'a Firmware,
    at: u64,
    count: usize,
}

impl Pages<'_> {
    /// Where they are.
    pub fn address(&self) -> u64 {
        self.at
    }

    /// How many bytes they have.
    pub fn size(&self) -> u64 {
        self.count as u64 * addr::PAGE_SIZE
    }

    /// Their bytes.
    pub fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the pages are ours alone until they are dropped, and were written when they were allocated.
        unsafe { core::slice::from_raw_parts_mut(self.at as *mut u8, self.count * PAGE) }
    }
}

impl Drop for Pages<'_> {
    fn drop(&mut self) {
        // SAFETY: what was allocated, once.
        let _ = unsafe { (self.firmware.boot.free_pages)(self.at, self.count) };
    }
}

/// The firmware's console, by small pieces.
struct Console<'a> {
    firmware: &'a Firmware,
    /// A zero stays last.
    units: [u16; 64],
    used: usize,
}

impl Console<'_> {
    fn flush(&mut self) {
        let console = self.firmware.system.stdout;
        if let Some(end) = self.units.get_mut(self.used) {
            *end = 0;
        }
        self.used = 0;
        if !console.is_null() {
            // SAFETY: the protocol is the system table's, the text is ours and ends with a zero.
            let _ = unsafe { ((*console).output_string)(console, self.units.as_ptr()) };
        }
    }
}

impl Write for Console<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for unit in text.encode_utf16() {
            if self.used == self.units.len() - 1 {
                self.flush();
            }
            if let Some(place) = self.units.get_mut(self.used) {
                *place = unit;
                self.used += 1;
            }
        }
        Ok(())
    }
}
