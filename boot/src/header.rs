//! The first 4 KiB of the image: the headers by which firmware and boot loaders know it, one file for all of them.
//!
//! | who loads it | which header it reads |
//! |---|---|
//! | QEMU's `-kernel`, U-Boot's `booti`, the Raspberry Pi's firmware | Linux' `Image` header at 0: enter at 0, MMU off |
//! | UEFI, GRUB, systemd-boot | "MZ" at 0, the offset at 0x3c, PE32+ there: enter at `boot_efi_entry`, MMU on |
//!
//! "MZ" are the first two bytes of the first instruction; the rest of it is chosen so that it only changes the flags. The page is
//! no section of the PE image: it has no right but to be read, and nothing in it is executed while UEFI's translation is on.
//!
//! Linux, Documentation/arch/arm64/booting.rst, "Call the kernel image"; Microsoft, "PE Format"; UEFI Specification, "UEFI Images".

use core::arch::global_asm;

global_asm!(
    r#"
    .section .head.text, "ax"
    .global _start
_start:
    ccmp    x18, #0, #13, pl        // code0: "MZ", and no harm
    b       boot_primary            // code1
    .quad   0                       // text_offset
    .quad   __image_end - _start    // image_size
    .quad   0xa                     // flags: little endian, 4 KiB pages, anywhere in memory
    .quad   0
    .quad   0
    .quad   0
    .ascii  "ARM\x64"
    .word   pe_header - _start      // where "MZ" says that the other header is

pe_header:
    .ascii  "PE\0\0"
    .hword  0xaa64                  // machine: AArch64
    .hword  (pe_sections_end - pe_sections) / 40
    .word   0                       // no date: the same sources make the same image
    .word   0                       // no COFF symbols
    .word   0
    .hword  pe_sections - pe_optional
    .hword  0x0226                  // executable, no line numbers, any address, no debug information in it
pe_optional:
    .hword  0x20b                   // PE32+
    .byte   0, 0                    // linker version
    .word   __text_end - pe_text    // size of code
    .word   __pe_initialised_size // size of initialised data
    .word   __pe_other_size // size of other data
    .word   boot_efi_entry - _start // entry point
    .word   pe_text - _start        // base of code
    .quad   0                       // preferred address: none
    .word   {page}                  // section alignment
    .word   {file_unit}             // file alignment
    .hword  0, 0                    // operating system version
    // As an image with an EFI stub of Linux' says that it takes an initrd by LoadFile2; GRUB asks.
    .hword  1, 0                    // image version
    .hword  0, 0                    // subsystem version
    .word   0
    .word   __image_end - _start    // size of image, what is not in the file included
    .word   pe_text - _start        // size of headers
    .word   0                       // checksum: for drivers
    .hword  10                      // subsystem: EFI application
    .hword  0x0100                  // no part of it is both writable and executable
    .quad   0, 0, 0, 0              // stack and heap: UEFI has its own idea
    .word   0
    .word   (pe_directories_end - pe_directories) / 8
pe_directories:
    .quad   0                       // exports
    .quad   0                       // imports
    .quad   0                       // resources
    .quad   0                       // exceptions
    .quad   0                       // certificates: appended where somebody signs the file
    .word   pe_relocations - _start // base relocations
    .word   12
pe_directories_end:

pe_sections:
    .ascii  ".text\0\0\0"
    .word   __text_end - pe_text    // size in memory
    .word   pe_text - _start        // where in memory
    .word   __text_end - pe_text    // size in the file
    .word   pe_text - _start        // where in the file: the file is the memory's image
    .word   0, 0, 0
    .word   0x60000020              // code; execute, read
    .ascii  ".rodata\0"
    .word   __pe_rodata_size
    .word   __text_end - _start
    .word   __pe_rodata_size
    .word   __text_end - _start
    .word   0, 0, 0
    .word   0x40000040              // data; read
    .ascii  ".data\0\0\0"
    .word   __pe_data_size
    .word   __rodata_end - _start
    .word   __pe_data_file_size
    .word   __rodata_end - _start
    .word   0, 0, 0
    .word   0xc0000040              // data; read, write
pe_sections_end:

    .balign {page}
pe_text:

    .section .rodata.pe_relocations, "a"
    .balign 4
    // One block with nothing to do: the image relocates itself, but some loaders move only what has relocations.
pe_relocations:
    .word   0, 12
    .hword  0, 0
    "#,
    page = const addr::PAGE_SIZE,
    file_unit = const FILE_UNIT,
);

/// What the file's size and the places of its parts are multiples of, in bytes (the least that PE allows).
const FILE_UNIT: u64 = 512;
