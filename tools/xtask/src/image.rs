//! What every loader must find in `merus.img`: Linux' arm64 `Image` header and a PE/COFF header that say the same.
//!
//! The headers are the hypervisor's own (`boot/src/header.rs`); here the finished file is read with a library that knows nothing of
//! them, so that a mistake there or in the linker script ends the build and not a boot.
//!
//! Linux, Documentation/arch/arm64/booting.rst, "Call the kernel image"; Microsoft, "PE Format"; UEFI Specification, "UEFI Images".

use anyhow::{Context as _, Result, ensure};
use object::LittleEndian as LE;
use object::pe;
use object::read::pe::PeFile64;

/// What the parts of a PE file are padded to, in bytes.
const FILE_UNIT: usize = 512;
/// What its sections are aligned to, in bytes: UEFI gives them their rights by page.
const PAGE: u32 = 4096;

/// What is at the start of an arm64 `Image`.
struct Header<'a>(&'a [u8]);

impl Header<'_> {
    fn number(&self, at: usize) -> u64 {
        self.0.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u64::from_le_bytes(*bytes))
    }
}

/// Pads a flat image, whose end is where its sections' last byte is, to whole units of a PE file.
pub fn pad(image: &mut Vec<u8>) {
    image.resize(image.len().next_multiple_of(FILE_UNIT), 0);
}

/// Holds that `file` is both an arm64 `Image` and an EFI application, that the two headers agree, and that no part of it is both
/// writable and executable.
///
/// # Errors
/// What is wrong with it.
pub fn check(file: &[u8]) -> Result<()> {
    let linux = Header(file);
    ensure!(file.get(0x38..0x3c) == Some(b"ARM\x64"), "no arm64 Image");
    let (text_offset, size, flags) = (linux.number(8), linux.number(16), linux.number(24));
    ensure!(text_offset == 0 && flags == 0xa, "an Image for {text_offset:#x}, with flags {flags:#x}");
    // "MZ" is the start of an instruction: CCMP of 64 bits with an immediate, which changes no more than the flags.
    let first = linux.number(0) as u32;
    ensure!(first & 0xffe0_0c10 == 0xfa40_0800, "the first instruction, {first:#x}, is no CCMP");
    let branch = (linux.number(0) >> 32) as u32;
    ensure!(branch >> 26 == 0b00_0101, "the second instruction, {branch:#x}, is no branch");

    let pe = PeFile64::parse(file).context("no PE image")?;
    let (coff, optional) = (&pe.nt_headers().file_header, &pe.nt_headers().optional_header);
    ensure!(coff.machine.get(LE) == pe::IMAGE_FILE_MACHINE_ARM64, "it is not for AArch64");
    let (wanted, not) = (pe::IMAGE_FILE_EXECUTABLE_IMAGE, pe::IMAGE_FILE_RELOCS_STRIPPED | pe::IMAGE_FILE_DLL);
    ensure!(coff.characteristics.get(LE) & (wanted | not) == wanted, "it is no program that may be loaded anywhere");
    ensure!(optional.subsystem.get(LE) == pe::IMAGE_SUBSYSTEM_EFI_APPLICATION, "it is no EFI application");
    let nx = optional.dll_characteristics.get(LE).contains(pe::IMAGE_DLLCHARACTERISTICS_NX_COMPAT);
    ensure!(nx, "it does not say that its data need not be executable");
    ensure!(optional.section_alignment.get(LE) == PAGE, "its sections are not aligned to pages");
    ensure!(optional.file_alignment.get(LE) == FILE_UNIT as u32, "its sections' contents are not where they must be");
    // GRUB offers an initrd by LoadFile2 from here on.
    ensure!(optional.major_image_version.get(LE) >= 1, "its version is of an image that knows no LoadFile2");
    let whole = u64::from(optional.size_of_image.get(LE));
    ensure!(whole == size, "{whole:#x} bytes of memory by the one header, {size:#x} by the other");
    sections(file, &pe)?;
    relocations(&pe)
}

/// There is a relocation directory, so that the image may be loaded anywhere, and nothing in it is to be done.
fn relocations(pe: &PeFile64<'_>) -> Result<()> {
    let blocks = pe.data_directories().relocation_blocks(pe.data(), &pe.section_table())?;
    let mut blocks = blocks.context("no relocation directory")?;
    let mut count = 0;
    while let Some(block) = blocks.next()? {
        count += 1;
        for relocation in block {
            ensure!(relocation.typ == pe::IMAGE_REL_BASED_ABSOLUTE, "a relocation that the image does itself");
        }
    }
    ensure!(count != 0, "an empty relocation directory");
    Ok(())
}

/// The sections follow each other to the image's end, lie in the file as in memory, and have one right too few rather than one too many.
fn sections(file: &[u8], pe: &PeFile64<'_>) -> Result<()> {
    let optional = &pe.nt_headers().optional_header;
    let mut memory_end = optional.size_of_headers.get(LE);
    let mut file_end = memory_end;
    ensure!(memory_end.is_multiple_of(PAGE), "the headers are no whole pages");
    let entry = optional.address_of_entry_point.get(LE);
    let mut entered = false;
    for section in pe.section_table().iter() {
        let name = String::from_utf8_lossy(section.raw_name()).into_owned();
        let (at, size) = (section.virtual_address.get(LE), section.virtual_size.get(LE));
        let (file_at, file_size) = (section.pointer_to_raw_data.get(LE), section.size_of_raw_data.get(LE));
        let rights = section.characteristics.get(LE);
        let may = |right| rights.contains(right);
        ensure!(at == memory_end && at.is_multiple_of(PAGE), "{name} is not behind what is before it");
        ensure!(file_at == at && file_at == file_end, "{name} is at {file_at:#x} of the file, at {at:#x} in memory");
        ensure!(
            file_size <= size && file_size.is_multiple_of(FILE_UNIT as u32),
            "{name} has {file_size} bytes in the file"
        );
        ensure!(may(pe::IMAGE_SCN_MEM_READ), "{name} cannot be read");
        let (write, execute) = (may(pe::IMAGE_SCN_MEM_WRITE), may(pe::IMAGE_SCN_MEM_EXECUTE));
        ensure!(!(write && execute), "{name} is both writable and executable");
        ensure!(execute == may(pe::IMAGE_SCN_CNT_CODE), "{name} is executable, and not code, or the other way round");
        entered |= execute && (at..at + size).contains(&entry);
        memory_end = (at + size).next_multiple_of(PAGE);
        file_end = file_at + file_size;
    }
    ensure!(memory_end == optional.size_of_image.get(LE), "the sections end at {memory_end:#x}, the image does not");
    ensure!(file_end as usize == file.len(), "the sections end at {file_end:#x} of the file, which has {}", file.len());
    ensure!(entered, "the entry point {entry:#x} is not in code");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(file: &mut [u8], at: usize, bytes: &[u8]) {
        file[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// The smallest file that is both: a page of headers, code, data with a relocation block, and memory behind it.
    fn good() -> Vec<u8> {
        let mut file = vec![0; 0x2200];
        let words = |numbers: &[u32]| numbers.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<_>>();
        put(&mut file, 0, &words(&[0xfa40_5a4d, 0x1400_0400, 0, 0, 0x5000, 0, 0xa, 0]));
        put(&mut file, 0x38, b"ARM\x64\x40\0\0\0PE\0\0");
        put(&mut file, 0x44, &[0x64, 0xaa, 2, 0]);
        put(&mut file, 0x54, &[112 + 6 * 8, 0, 0x22, 0]);
        let optional = 0x58;
        put(&mut file, optional, &[0x0b, 0x02]);
        put(&mut file, optional + 16, &words(&[0x1010, 0x1000, 0, 0, 0x1000, 0x200]));
        put(&mut file, optional + 44, &[1]);
        put(&mut file, optional + 56, &words(&[0x5000, 0x1000, 0, 0x0100_000a]));
        put(&mut file, optional + 108, &words(&[6]));
        put(&mut file, optional + 112 + 5 * 8, &words(&[0x2000, 12]));
        let sections = optional + 112 + 6 * 8;
        for (n, (name, numbers, rights)) in [
            (b".text", [0x1000, 0x1000, 0x1000, 0x1000], 0x6000_0020),
            (b".data", [0x3000, 0x2000, 0x200, 0x2000], 0xc000_0040),
        ]
        .iter()
        .enumerate()
        {
            put(&mut file, sections + 40 * n, *name);
            put(&mut file, sections + 40 * n + 8, &words(numbers));
            put(&mut file, sections + 40 * n + 36, &words(&[*rights]));
        }
        put(&mut file, 0x2000, &words(&[0, 12, 0]));
        file
    }

    #[test]
    fn a_file_that_is_both_passes() {
        check(&good()).unwrap();
        let mut file = vec![1; FILE_UNIT + 1];
        pad(&mut file);
        assert_eq!((file.len(), file[FILE_UNIT], file[FILE_UNIT + 1]), (2 * FILE_UNIT, 1, 0));
        pad(&mut file);
        assert_eq!(file.len(), 2 * FILE_UNIT);
    }

    #[test]
    fn what_a_loader_would_stumble_over_is_named() {
        let sections = 0x58 + 112 + 6 * 8;
        let reason = |at: usize, bytes: &[u8]| {
            let mut file = good();
            put(&mut file, at, bytes);
            format!("{:#}", check(&file).unwrap_err())
        };
        for (at, bytes, why) in [
            (0x38, &b"X"[..], "no arm64 Image"),
            (3, &[0xd5], "no CCMP"),
            (7, &[0x94], "no branch"),
            (0x11, &[0x60], "by the other"),
            (8, &[8], "an Image for 0x8"),
            (0x40, b"N", "no PE image"),
            (0x56, &[0x23], "loaded anywhere"),
            (0x58 + 32, &[0, 2], "aligned to pages"),
            (0x58 + 44, &[0], "LoadFile2"),
            (0x58 + 68, &[11], "no EFI application"),
            (0x58 + 71, &[0], "executable"),
            (0x58 + 112 + 5 * 8, &[0; 8], "relocation directory"),
            (0x2009, &[0xa0], "the image does itself"),
            (0x58 + 16, &[0, 0x20], "is not in code"),
            (sections + 39, &[0xe0], "writable and executable"),
            (sections + 39, &[0x20], "cannot be read"),
            (sections + 40 + 12, &[0, 0x30], "not behind"),
            (sections + 40 + 20, &[0, 0x10], "of the file"),
            (sections + 40 + 16, &[0x10, 2], "bytes in the file"),
            (sections + 40 + 9, &[0x40], "the image does not"),
            (sections + 40 + 17, &[0], "which has"),
        ] {
            let said = reason(at, bytes);
            assert!(said.contains(why), "{at:#x}: {said}");
        }
        let mut longer = good();
        longer.push(0);
        assert!(format!("{:#}", check(&longer).unwrap_err()).contains("which has"));
        assert!(check(b"MZ").is_err() && check(&[]).is_err());
    }
}
