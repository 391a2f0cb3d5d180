//! Kernels in the forms they come in: what is compressed is unpacked and ELF files are laid out here, on the host, so that Merus gets
//! plain bytes and stays small.
//!
//! | form | becomes |
//! |---|---|
//! | arm64 `Image`, raw binary | itself |
//! | gzip, zstd | what is inside |
//! | EFI zboot | its payload, by gzip or zstd |
//! | ELF64 | its segments from the first byte to the last, as an `Image` where that is what it holds, else with load address and entry |
//!
//! Forms may be nested, three deep. Whatever a file claims, no more than the VM's RAM is unpacked, nor more than [`MOST`].

mod elf;
#[cfg(test)]
mod tests;
mod unpack;

use config::image::{self, Form, ImageError, Raw};
use config::map;
use config::spec::Bytes;
use std::path::Path;
use std::{fs, io};

/// Forms around the kernel, at most.
const DEPTH: usize = 3;
/// Bytes that any kernel may come to: what is unpacked lies in this machine's memory.
pub const MOST: u64 = 1 << 30;
/// Bytes that tell a form.
const HEAD: usize = 64;

/// A kernel as Merus wants it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Kernel {
    /// All its bytes.
    pub bytes: Vec<u8>,
    /// Where they go, if they have no header that says so.
    pub raw: Raw,
}

/// Why a kernel cannot be made ready. Each text goes on after the file's name, and says what to do.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// It cannot be read.
    #[error("cannot be read: {0}; give another path")]
    File(io::Error),
    /// A form that is not unpacked here.
    #[error("{0}")]
    Form(ImageError),
    /// What was compressed does not come out.
    #[error("is a damaged {method} file ({reason}); copy or make it again")]
    Damaged {
        /// How it was compressed.
        method: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// More comes out than the VM has RAM, or than [`MOST`].
    #[error("unpacks to more than {} (the VM's memory, and {} at most); give the VM more, or a smaller kernel", Bytes(*limit), Bytes(MOST))]
    TooLarge {
        /// The bound in bytes.
        limit: u64,
    },
    /// Forms within forms within forms.
    #[error("is packed more than {DEPTH} times over; unpack it first")]
    TooDeep,
    /// A zboot header whose payload is not in the file.
    #[error(
        "is an EFI zboot image whose payload ({size} bytes at {offset}) is not in the file of {have} bytes; copy it again"
    )]
    ZbootPlace {
        /// Where the payload would begin.
        offset: u32,
        /// Its length in bytes.
        size: u32,
        /// Bytes that are there.
        have: usize,
    },
    /// A payload that is not unpacked here.
    #[error(
        "is an EFI zboot image packed with \"{method}\", and only gzip and zstd are unpacked; give the plain Image"
    )]
    ZbootMethod {
        /// As its header says.
        method: String,
    },
    /// An ELF file that is no kernel.
    #[error("is an ELF file {0}")]
    Elf(String),
}

/// Makes the kernel at `path` ready for a VM with `memory` bytes of RAM; `asked` is what its description says about where it goes.
/// `None`: the file is plain and goes as it is.
///
/// # Errors
/// [`KernelError`].
pub fn open(path: &Path, asked: Raw, memory: u64) -> Result<Option<Kernel>, KernelError> {
    let mut head = Vec::new();
    let file = fs::File::open(path).map_err(KernelError::File)?;
    io::Read::read_to_end(&mut io::Read::take(file, HEAD as u64), &mut head).map_err(KernelError::File)?;
    if image::form(&head) == Form::Plain {
        return Ok(None);
    }
    prepare(fs::read(path).map_err(KernelError::File)?, asked, memory).map(Some)
}

/// The same with a file's bytes; a plain one stays as it is.
///
/// # Errors
/// [`KernelError`].
pub fn prepare(file: Vec<u8>, asked: Raw, memory: u64) -> Result<Kernel, KernelError> {
    let limit = memory.min(MOST);
    let mut bytes = file;
    for _ in 0..=DEPTH {
        bytes = match image::form(&bytes) {
            Form::Plain => return Ok(Kernel { bytes, raw: asked }),
            Form::Elf => return elf::lay_out(&bytes, asked, memory.min(map::RAM_MAX)),
            Form::Gzip => unpack::gzip(&bytes, limit)?,
            Form::Zstd => unpack::zstd(&bytes, limit)?,
            Form::Zboot => unpack::zboot(&bytes, limit)?,
            other => return Err(other.refusal().map_or(KernelError::TooDeep, KernelError::Form)),
        };
    }
    Err(KernelError::TooDeep)
}
