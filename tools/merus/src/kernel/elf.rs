//! ELF files, laid out as they would lie in memory.

use super::{Kernel, KernelError};
use config::image::{self, Raw};
use config::map;
use object::elf::{
    ELFCLASS64, ELFDATA2LSB, EM_AARCH64, ET_DYN, ET_EXEC, FileHeader64, FileType, PT_LOAD, ProgramHeader64,
};
use object::read::elf::{FileHeader, ProgramHeader};
use object::{LittleEndian, pod};

/// A segment that is to be loaded.
struct Segment<'a> {
    physical: u64,
    virt: u64,
    bytes: &'a [u8],
    /// Bytes in memory, those of the file included.
    size: u64,
}

impl Segment<'_> {
    fn end(&self) -> u64 {
        self.physical.saturating_add(self.size)
    }
}

fn fault(text: impl Into<String>) -> KernelError {
    KernelError::Elf(text.into())
}

/// Lays an AArch64 ELF file out for a VM with `memory` bytes of RAM.
///
/// One of type EXEC goes where its segments' physical addresses say. One of type DYN goes where `asked` says, or where its addresses
/// say if that is RAM; it must relocate itself. One that begins with the header of an arm64 `Image` (a `vmlinux`) is that `Image`,
/// unless it is to go elsewhere.
pub(super) fn lay_out(file: &[u8], asked: Raw, memory: u64) -> Result<Kernel, KernelError> {
    let header = header(file)?;
    let kind = header.e_type.get(LittleEndian);
    let segments = segments(file, header)?;
    let low = segments.iter().map(|segment| segment.physical).min().unwrap_or(0);
    let high = segments.iter().map(Segment::end).max().unwrap_or(0);
    let span = high - low;
    let limit = memory.min(super::MOST);
    if span > limit {
        return Err(KernelError::TooLarge { limit });
    }
    let bytes = flat(&segments, low)?;
    let entry = header.e_entry.get(LittleEndian);
    let entry =
        segments.iter().find(|s| s.virt <= entry && entry - s.virt < s.size).map(|s| entry - s.virt + s.physical);
    let entry = entry.ok_or_else(|| {
        fault(format!(
            "whose entry, {:#x}, is in none of its segments; link it again",
            header.e_entry.get(LittleEndian)
        ))
    })?;
    let ram = map::RAM_BASE.as_u64();
    let is_in_ram = low >= ram && high <= ram.saturating_add(memory);
    let is_image = asked.load.is_none() && entry == low && image::parse(&bytes).is_ok();
    let load = match asked.load {
        Some(load) if kind == ET_DYN => load,
        Some(_) => {
            return Err(fault(
                "of type EXEC, which has addresses of its own; leave `load` out, or link it as a position-independent one",
            ));
        }
        None if is_image && !(kind == ET_EXEC && is_in_ram) => return Ok(Kernel { bytes, raw: asked }),
        None if is_in_ram => low,
        None => return Err(outside(kind, low, high, memory)),
    };
    let raw = Raw {
        load: Some(load),
        entry: Some(asked.entry.unwrap_or(load.saturating_add(entry - low))),
        room: Some(asked.room.unwrap_or(0).max(span)),
    };
    Ok(Kernel { bytes, raw })
}

fn outside(kind: FileType, low: u64, high: u64, memory: u64) -> KernelError {
    let ram = map::RAM_BASE.as_u64();
    let also = if kind == ET_DYN { ", or say by `load` where it goes" } else { "" };
    fault(format!(
        "for {low:#x} to {high:#x}, and the VM's RAM is {ram:#x} to {:#x}; link it for that{also}",
        ram.saturating_add(memory)
    ))
}

/// The header of an AArch64 kernel.
fn header(file: &[u8]) -> Result<&FileHeader64<LittleEndian>, KernelError> {
    let short = || fault("that ends within its header; copy it again");
    // Class and byte order are told by single bytes, before anything that depends on them.
    let (class, order) = (*file.get(4).ok_or_else(short)?, *file.get(5).ok_or_else(short)?);
    if class != ELFCLASS64.0 {
        return Err(fault("for a 32-bit CPU; give one for AArch64"));
    }
    if order != ELFDATA2LSB.0 {
        return Err(fault("for a big-endian CPU; give one built for little-endian"));
    }
    let (header, _) = pod::from_bytes::<FileHeader64<LittleEndian>>(file).map_err(|()| short())?;
    let machine = header.e_machine.get(LittleEndian);
    if machine != EM_AARCH64 {
        return Err(fault(format!("for another machine (number {}); give one for AArch64", machine.0)));
    }
    let kind = header.e_type.get(LittleEndian);
    if kind != ET_EXEC && kind != ET_DYN {
        return Err(fault(format!("of type {}, which is no program; link it first", kind.0)));
    }
    Ok(header)
}

/// The segments that take memory.
fn segments<'a>(file: &'a [u8], header: &FileHeader64<LittleEndian>) -> Result<Vec<Segment<'a>>, KernelError> {
    let headers = header.program_headers(LittleEndian, file);
    let headers: &[ProgramHeader64<LittleEndian>] =
        headers.map_err(|_| fault("whose program headers are not in the file; copy it again"))?;
    let mut found: Vec<Segment<'a>> = Vec::new();
    for (n, header) in headers.iter().enumerate().filter(|(_, header)| header.p_type(LittleEndian) == PT_LOAD) {
        let (physical, virt) = (header.p_paddr(LittleEndian), header.p_vaddr(LittleEndian));
        let size = header.p_memsz(LittleEndian);
        let bytes = header.data(LittleEndian, file);
        let bytes = bytes.map_err(|()| fault(format!("whose segment {n} is not all in the file; copy it again")))?;
        if bytes.len() as u64 > size || physical.checked_add(size).is_none() || virt.checked_add(size).is_none() {
            return Err(fault(format!(
                "whose segment {n} makes no sense ({size:#x} bytes at {physical:#x}); link it again"
            )));
        }
        if size > 0 {
            found.push(Segment { physical, virt, bytes, size });
        }
    }
    if found.is_empty() {
        return Err(fault("with nothing to load; give a linked one"));
    }
    found.sort_by_key(|segment| segment.physical);
    match found.windows(2).find(|pair| matches!(pair, [one, next] if one.end() > next.physical)) {
        Some([_, next]) => Err(fault(format!("with two segments at {:#x}; link it again", next.physical))),
        _ => Ok(found),
    }
}

/// All bytes from `low` to the last that the file has.
fn flat(segments: &[Segment<'_>], low: u64) -> Result<Vec<u8>, KernelError> {
    let mut bytes = Vec::new();
    for segment in segments.iter().filter(|segment| !segment.bytes.is_empty()) {
        let at = usize::try_from(segment.physical - low).map_err(|_| fault("that is too large for this machine"))?;
        bytes.resize(at, 0);
        bytes.extend_from_slice(segment.bytes);
    }
    if bytes.is_empty() { Err(fault("with nothing but zeroes; give a linked one")) } else { Ok(bytes) }
}
