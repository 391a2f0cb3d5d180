//! Reads the header of a guest's kernel and says where kernel, initrd and device tree go in the guest's RAM.
//!
//! Linux, "Booting AArch64 Linux", section "Call the kernel image" (the header and the placement rules). Any payload with
//! that header will do: Linux, U-Boot, Xen, a test program.

mod layout;
pub use layout::{FDT_MAX, GuestLayout, LayoutError};

use thiserror::Error;

/// The bytes that the header takes: what [`parse`] needs to see of a kernel.
pub const HEADER_SIZE: usize = 64;

/// The translation granule that a kernel was built for (flags, bits 2:1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PageSize {
    /// The header does not say.
    Unspecified,
    /// 4 KiB.
    K4,
    /// 16 KiB.
    K16,
    /// 64 KiB.
    K64,
}

/// The fields of an arm64 `Image` header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ImageHeader {
    /// Bytes from a 2 MiB boundary at which the image must be placed.
    pub text_offset: u64,
    /// Bytes from the image's first one that belong to the kernel while it starts, what is not in the file included.
    pub image_size: u64,
    /// The granule that it was built for.
    pub page_size: PageSize,
    /// Whether it may lie anywhere in RAM (flags, bit 3); else it wants to be near the start of RAM. It always is here.
    pub anywhere: bool,
}

/// Why a file is no kernel that Merus can start.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum ImageError {
    /// Shorter than the header.
    #[error("is no arm64 Image: the file has {size} bytes and the header alone takes 64; give the kernel's Image file")]
    TooShort {
        /// Length of the file in bytes.
        size: u64,
    },
    /// Compressed as a whole.
    #[error("is compressed with {method}; unpack it (`{command}`) and give the Image inside")]
    Compressed {
        /// The method's name.
        method: &'static str,
        /// The command that unpacks it.
        command: &'static str,
    },
    /// An EFI program that unpacks the kernel by itself.
    #[error(
        "is an EFI zboot image, which only EFI firmware can unpack; give the plain Image (`arch/arm64/boot/Image` in the \
         kernel's build tree)"
    )]
    Zboot,
    /// An ELF file.
    #[error("is an ELF file; give the flat arm64 Image (`objcopy -O binary` makes one where its header is linked in)")]
    Elf,
    /// No header at offset 0.
    #[error("is no arm64 Image: the bytes `ARM\\x64` are not at offset 56; give the kernel's Image file")]
    NoMagic,
    /// Built for a big-endian CPU.
    #[error("is a big-endian kernel; give one built for little-endian")]
    BigEndian,
    /// A header of before Linux 3.17, which does not tell the kernel's size.
    #[error("does not tell its size (image_size is 0, as before Linux 3.17); give a newer kernel")]
    NoSize,
    /// A text offset or size that no kernel has.
    #[error(
        "has a header that makes no sense: text_offset {text_offset:#x}, image_size {image_size:#x}; the file is damaged"
    )]
    Nonsense {
        /// The header's text offset in bytes.
        text_offset: u64,
        /// The header's image size in bytes.
        image_size: u64,
    },
}

/// Reads a kernel's header from its first bytes (all of the file, or [`HEADER_SIZE`] bytes at least).
pub fn parse(kernel: &[u8]) -> Result<ImageHeader, ImageError> {
    if let Some(error) = known_stranger(kernel) {
        return Err(error);
    }
    let Some(header) = kernel.first_chunk::<HEADER_SIZE>() else {
        return Err(ImageError::TooShort { size: kernel.len() as u64 });
    };
    if header.get(56..60) != Some(b"ARM\x64") {
        return Err(ImageError::NoMagic);
    }
    let word = |at: usize| {
        let bytes = header.get(at..).and_then(|b| b.first_chunk::<8>()).copied();
        u64::from_le_bytes(bytes.unwrap_or_default())
    };
    let (text_offset, image_size, flags) = (word(8), word(16), word(24));
    if flags & 1 != 0 {
        return Err(ImageError::BigEndian);
    }
    if image_size == 0 {
        return Err(ImageError::NoSize);
    }
    // An entry point must be a whole instruction, and 2^48 bytes are far beyond any guest.
    if text_offset >> 48 != 0 || image_size >> 48 != 0 || !text_offset.is_multiple_of(4) {
        return Err(ImageError::Nonsense { text_offset, image_size });
    }
    let page_size = match (flags >> 1) & 3 {
        0 => PageSize::Unspecified,
        1 => PageSize::K4,
        2 => PageSize::K16,
        _ => PageSize::K64,
    };
    Ok(ImageHeader { text_offset, image_size, page_size, anywhere: flags & 8 != 0 })
}

/// Files that people give in place of an Image, by their first bytes.
fn known_stranger(kernel: &[u8]) -> Option<ImageError> {
    const COMPRESSED: [(&[u8], &str, &str); 6] = [
        (b"\x1f\x8b", "gzip", "gunzip"),
        (b"\xfd7zXZ\0", "xz", "unxz"),
        (b"\x28\xb5\x2f\xfd", "zstd", "unzstd"),
        (b"\x04\x22\x4d\x18", "lz4", "unlz4"),
        (b"\x02\x21\x4c\x18", "lz4", "unlz4"),
        (b"BZh", "bzip2", "bunzip2"),
    ];
    if let Some((_, method, command)) = COMPRESSED.iter().find(|(magic, ..)| kernel.starts_with(magic)) {
        return Some(ImageError::Compressed { method, command });
    }
    if kernel.starts_with(b"\x7fELF") {
        return Some(ImageError::Elf);
    }
    // Linux, include/linux/pe.h and drivers/firmware/efi/libstub/zboot-header.S: "MZ", then "zimg" at offset 4.
    (kernel.starts_with(b"MZ") && kernel.get(4..8) == Some(b"zimg")).then_some(ImageError::Zboot)
}

#[cfg(test)]
pub(crate) mod tests;
