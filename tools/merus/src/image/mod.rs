//! Makes an ext4 root file system of a tar, without root rights and without programs of the machine it runs on.
//!
//! The archive is read twice: once for what there is, so that everything has its place, and once for the bytes. Owners, modes, times,
//! symbolic and hard links, devices and pipes are as in the archive. The same archive, size and label give the same bytes: the identifiers are
//! made of them, and all times are the archive's.
//!
//! | module | what |
//! |---|---|
//! | `source` | the archive's bytes, unpacked |
//! | `tree` | what the archive holds, as a tree |
//! | `plan` | where on the disk everything goes |
//! | `layout` | the disk's structures as bytes |
//!
//! # Not modelled
//! Extended attributes (counted, so that somebody can be told), holes in files, what only `mke2fs` options ask for.

mod layout;
mod plan;
mod source;
mod tree;

use crate::image::plan::Plan;
use crate::image::source::Source;
use crate::image::tree::Tree;
use config::spec::Bytes;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::fs::{File, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Bytes of a block.
const BLOCK: u64 = 4096;
/// The most bytes of an image: what the structures that are written can speak of, and more than fits into a bundle.
const MAX_SIZE: u64 = 128 << 30;
/// The most bytes of a label (ext4's superblock).
const MAX_LABEL: usize = 16;

/// What an image is to be made of.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// The archive: tar, plain or packed by gzip or zstd.
    pub from: &'a Path,
    /// Where the image goes. It is whole or untouched.
    pub output: &'a Path,
    /// The image's length in bytes; `None`: what the files need and a quarter more.
    pub size: Option<u64>,
    /// The file system's label, at most 16 bytes; may be empty.
    pub label: &'a str,
}

/// What was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Built {
    /// The image's length in bytes.
    pub size: u64,
    /// Bytes that are free in it.
    pub free: u64,
    /// Files, folders, links and devices in it.
    pub files: u64,
    /// Those whose extended attributes were left out.
    pub without_attributes: u64,
}

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The archive cannot be opened or read.
    #[error("{}: cannot be read: {reason}; give the path of a tar", path.display())]
    Read {
        /// The archive.
        path: PathBuf,
        /// What the operating system says.
        reason: String,
    },
    /// It is packed in a way that is not read here.
    #[error("{}: is packed by {method}; unpack it first: {method} -d", path.display())]
    Packed {
        /// The archive.
        path: PathBuf,
        /// Its program.
        method: &'static str,
    },
    /// It is no tar, or damaged.
    #[error("{}: is no tar that can be read: {reason}; make it anew, by tar -cf", path.display())]
    Tar {
        /// The archive.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// It holds nothing.
    #[error("{}: holds no file; give another archive", path.display())]
    Empty {
        /// The archive.
        path: PathBuf,
    },
    /// A name that leads elsewhere, or that no file can have.
    #[error("the archive's \"{name}\" is no name of a file below the root; leave it out")]
    Name {
        /// The name.
        name: String,
    },
    /// A file in something that is no folder.
    #[error("the archive's \"{name}\" lies in \"{above}\", which is no folder; give its real place")]
    Below {
        /// The file.
        name: String,
        /// What is no folder.
        above: String,
    },
    /// A folder is in the place of a file.
    #[error("the archive's \"{name}\" is a folder before, and a file then; leave one out")]
    Folder {
        /// The name.
        name: String,
    },
    /// A hard link to nothing.
    #[error(
        "the archive's \"{name}\" is a hard link to \"{target}\", and no file of that name is before it; add that file"
    )]
    NoTarget {
        /// The link.
        name: String,
        /// What it is to be another name of.
        target: String,
    },
    /// A symbolic link that no kernel can follow.
    #[error("the archive's \"{name}\" is a symbolic link to {length} bytes of text, and 4095 are possible; shorten it")]
    LongLink {
        /// The link.
        name: String,
        /// Bytes of its text.
        length: usize,
    },
    /// Something that is neither file, folder, link, device nor pipe.
    #[error("the archive's \"{name}\" is of the unknown type {kind:?}; leave it out")]
    Kind {
        /// The name.
        name: String,
        /// As the archive says.
        kind: char,
    },
    /// More names of one file than ext4 counts.
    #[error(
        "the archive's \"{name}\" is one more hard link to its file than the 65000 that ext4 counts; give it a file of its own"
    )]
    Links {
        /// The link.
        name: String,
    },
    /// No label.
    #[error("\"{label}\" is no label; use at most {MAX_LABEL} bytes, none of them zero")]
    Label {
        /// As it was given.
        label: String,
    },
    /// The files do not fit.
    #[error("{} is too small for the files of the archive; give {} or more, or leave the size out", Bytes(*size), Bytes(*needs))]
    TooSmall {
        /// The length that was asked for, in bytes.
        size: u64,
        /// A length that is enough, in bytes.
        needs: u64,
    },
    /// More than an image can have.
    #[error("{} are more than the {} that an image can have; leave files out", Bytes(*size), Bytes(MAX_SIZE))]
    TooLarge {
        /// The length that was asked for or that would be needed, in bytes.
        size: u64,
    },
    /// The archive is not what it was when it was read first.
    #[error("{}: changed while it was read; try again", path.display())]
    Changed {
        /// The archive.
        path: PathBuf,
    },
    /// The image cannot be written.
    #[error("{}: cannot be written: {reason}", path.display())]
    Write {
        /// The image.
        path: PathBuf,
        /// What the operating system says.
        reason: String,
    },
}

/// Makes an image. `progress` hears how many bytes of how many were read, both readings together.
///
/// # Errors
/// [`ImageError`]; nothing is left behind then.
pub fn build(request: &Request<'_>, mut progress: impl FnMut(u64, u64)) -> Result<Built, ImageError> {
    let label = request.label;
    if label.len() > MAX_LABEL || label.contains('\0') {
        return Err(ImageError::Label { label: label.to_owned() });
    }
    let asked = request.size.map(|size| size.next_multiple_of(BLOCK));
    if let Some(size) = asked.filter(|size| *size > MAX_SIZE) {
        return Err(ImageError::TooLarge { size });
    }
    let source = Source::open(request.from)?;
    let total = source.size().saturating_mul(2);
    let (tree, digest) = Tree::read(&source, &mut |read| progress(read, total))?;
    let plan = match asked {
        Some(size) => match Plan::new(&tree, blocks_of(size)) {
            Some(plan) => plan,
            None => return Err(ImageError::TooSmall { size, needs: least(&tree)?.size() }),
        },
        None => least(&tree)?,
    };
    let output = request.output;
    let wrong = |error: &io::Error| ImageError::Write { path: output.to_owned(), reason: error.to_string() };
    let folder = output.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // As if made by `open` with the usual mode: the umask still applies.
    let permissions = Permissions::from_mode(0o666);
    let temporary = tempfile::Builder::new().prefix(".merus-").permissions(permissions).tempfile_in(folder);
    let temporary = temporary.map_err(|error| wrong(&error))?;
    let size = asked.unwrap_or(plan.size());
    let file = temporary.as_file();
    file.set_len(size).map_err(|error| wrong(&error))?;
    let again = fill(file, &source, &tree, &plan, &wrong, &mut |read| progress(source.size() + read, total))?;
    if again != digest {
        return Err(ImageError::Changed { path: request.from.to_owned() });
    }
    let mut identity = Sha256::new_with_prefix(digest);
    identity.update(size.to_le_bytes());
    identity.update(label);
    layout::write(file, &tree, &plan, label, &identity.finalize().into()).map_err(|error| wrong(&error))?;
    file.sync_all().map_err(|error| wrong(&error))?;
    temporary.persist(output).map_err(|error| wrong(&error.error))?;
    Ok(Built {
        size,
        free: plan.free_blocks() * BLOCK,
        files: plan.files(),
        without_attributes: tree.without_attributes,
    })
}

/// Whole blocks of that many bytes.
fn blocks_of(size: u64) -> u32 {
    u32::try_from(size.min(MAX_SIZE) / BLOCK).unwrap_or(u32::MAX)
}

/// A plan with a quarter of what the files take left free, in whole MiB.
fn least(tree: &Tree) -> Result<Plan, ImageError> {
    const MIB: u64 = 1 << 20;
    let need = plan::estimate(tree).saturating_mul(BLOCK);
    let mut size = need.saturating_add(need / 4).saturating_add(MIB).next_multiple_of(MIB);
    while size <= MAX_SIZE {
        match Plan::new(tree, blocks_of(size)) {
            Some(plan) => return Ok(plan),
            None => size = (size + size / 16).next_multiple_of(MIB),
        }
    }
    Err(ImageError::TooLarge { size })
}

/// Writes the files' bytes. What is returned is the archive's digest.
fn fill(
    file: &File,
    source: &Source,
    tree: &Tree,
    plan: &Plan,
    wrong: &dyn Fn(&io::Error) -> ImageError,
    progress: &mut dyn FnMut(u64),
) -> Result<[u8; 32], ImageError> {
    let places: HashMap<u64, _> = plan.contents(tree).collect();
    let (mut buffer, zeroes) = (vec![0; 1 << 18], vec![0; 1 << 18]);
    let changed = || ImageError::Changed { path: source.path().to_owned() };
    // The first reading came to the end of each.
    let short = |error: io::Error| match error.kind() {
        io::ErrorKind::UnexpectedEof => changed(),
        _ => source.damaged(&error),
    };
    tree::each_entry(source, progress, |number, entry| {
        let Some(inode) = places.get(&number) else { return Ok(()) };
        let mut left = inode.size;
        for extent in &inode.extents {
            let (mut at, mut room) = (u64::from(extent.start) * BLOCK, u64::from(extent.count) * BLOCK);
            while left > 0 && room > 0 {
                let part = left.min(room).min(buffer.len() as u64) as usize;
                entry.read_exact(&mut buffer[..part]).map_err(short)?;
                // The image is zero where nothing was written.
                if buffer[..part] != zeroes[..part] {
                    file.write_all_at(&buffer[..part], at).map_err(|error| wrong(&error))?;
                }
                (at, room, left) = (at + part as u64, room - part as u64, left - part as u64);
            }
        }
        if left > 0 || entry.read(&mut buffer[..1]).map_err(|error| source.damaged(&error))? > 0 {
            return Err(changed());
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests;
