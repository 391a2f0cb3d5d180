//! Reads the header of a guest's kernel and says where kernel, initrd and device tree go in the guest's RAM.
//!
//! Linux, "Booting AArch64 Linux", section "Call the kernel image" (the header and the placement rules). Any payload with
//! that header will do: Linux, U-Boot, Xen, a test program. A binary without it is placed by [`Raw`], if its description has one.
//!
//! Nothing is unpacked here: the host's program does that, so that Merus sees plain bytes. What comes packed all the same is refused
//! by the name of its form ([`form`]).

mod layout;
pub use layout::{FDT_MAX, GuestLayout, LayoutError, Raw};

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

impl PageSize {
    /// Its name in messages: KiB; `None` where the header does not say.
    pub fn kib(self) -> Option<u32> {
        match self {
            Self::Unspecified => None,
            Self::K4 => Some(4),
            Self::K16 => Some(16),
            Self::K64 => Some(64),
        }
    }

    /// Whether a CPU with this ID_AA64MMFR0_EL1 can run such a kernel (Arm ARM, "ID_AA64MMFR0_EL1", TGran4, TGran16 and TGran64).
    pub fn is_in(self, mmfr0: u64) -> bool {
        let field = |shift: u32| (mmfr0 >> shift) & 15;
        match self {
            Self::Unspecified => true,
            Self::K4 => field(28) != 15,
            Self::K16 => field(20) != 0,
            Self::K64 => field(24) != 15,
        }
    }
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
    #[error(
        "is no arm64 Image: the file has {size} bytes and the header alone takes 64; give a kernel, or say by `load` where a raw binary goes"
    )]
    TooShort {
        /// Length of the file in bytes.
        size: u64,
    },
    /// Compressed as a whole, in a way that the host's program unpacks.
    #[error("is compressed with {method}; give the file itself to `merus pack` or `merus ctl create`, which unpack it")]
    Packed {
        /// The method's name.
        method: &'static str,
    },
    /// Compressed as a whole, in another way.
    #[error("is compressed with {method}; unpack it (`{command}`) and give the Image inside")]
    Compressed {
        /// The method's name.
        method: &'static str,
        /// The command that unpacks it.
        command: &'static str,
    },
    /// An EFI program that unpacks the kernel by itself.
    #[error("is an EFI zboot image; give the file itself to `merus pack` or `merus ctl create`, which unpack it")]
    Zboot,
    /// An ELF file.
    #[error("is an ELF file; give the file itself to `merus pack` or `merus ctl create`, which lay it out")]
    Elf,
    /// No header at offset 0.
    #[error(
        "is no arm64 Image: the bytes `ARM\\x64` are not at offset 56; give a kernel, or say by `load` where a raw binary goes"
    )]
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
    if let Some(error) = form(kernel).refusal() {
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

/// What kind of file a kernel comes in, by its first bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// Compressed with gzip (`Image.gz`).
    Gzip,
    /// Compressed with zstd (`Image.zst`).
    Zstd,
    /// Compressed with something that nothing here unpacks.
    Compressed {
        /// The method's name.
        method: &'static str,
        /// The command that unpacks it.
        command: &'static str,
    },
    /// An EFI program with the kernel inside (`vmlinuz.efi`).
    Zboot,
    /// An ELF file (`vmlinux`).
    Elf,
    /// Anything else: an `Image`, or a raw binary.
    Plain,
}

impl Form {
    /// Why Merus starts no file of this form; `None` for a plain one.
    pub fn refusal(self) -> Option<ImageError> {
        match self {
            Self::Gzip => Some(ImageError::Packed { method: "gzip" }),
            Self::Zstd => Some(ImageError::Packed { method: "zstd" }),
            Self::Compressed { method, command } => Some(ImageError::Compressed { method, command }),
            Self::Zboot => Some(ImageError::Zboot),
            Self::Elf => Some(ImageError::Elf),
            Self::Plain => None,
        }
    }
}

/// The form of a kernel, by its first eight bytes.
pub fn form(kernel: &[u8]) -> Form {
    const MAGICS: [(&[u8], Form); 9] = [
        (b"\x1f\x8b", Form::Gzip),
        (b"\x28\xb5\x2f\xfd", Form::Zstd),
        (b"\xfd7zXZ\0", Form::Compressed { method: "xz", command: "unxz" }),
        // LZMA's properties byte and the dictionary sizes that its tools write.
        (b"\x5d\0\0", Form::Compressed { method: "lzma", command: "unlzma" }),
        (b"\x04\x22\x4d\x18", Form::Compressed { method: "lz4", command: "unlz4" }),
        (b"\x02\x21\x4c\x18", Form::Compressed { method: "lz4", command: "unlz4" }),
        (b"\x89LZO\0", Form::Compressed { method: "lzo", command: "lzop -d" }),
        (b"BZh", Form::Compressed { method: "bzip2", command: "bunzip2" }),
        (b"\x7fELF", Form::Elf),
    ];
    if let Some((_, form)) = MAGICS.iter().find(|(magic, _)| kernel.starts_with(magic)) {
        return *form;
    }
    // Linux, include/linux/pe.h and drivers/firmware/efi/libstub/zboot-header.S: "MZ", then "zimg" at offset 4.
    if kernel.starts_with(b"MZ") && kernel.get(4..8) == Some(b"zimg") { Form::Zboot } else { Form::Plain }
}

#[cfg(test)]
pub(crate) mod tests;
