//! Kernels that a manifest names, made ready for Merus: each file once for all VMs that ask for the same and have as much RAM.

use super::fields::Fields;
use crate::report::Kind;
use config::image::{HEADER_SIZE, Raw};
use config::spec::{PayloadRef, key};
use merus_client::kernel::{self, Kernel};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How much is unpacked for a VM that does not say how much RAM it has, in bytes.
const NO_MEMORY: u64 = 256 << 20;

/// A payload's bytes.
#[derive(Clone)]
pub enum Content {
    /// As they are in this file.
    File(PathBuf),
    /// As they were made of this file.
    Made(PathBuf, Arc<[u8]>),
}

impl Content {
    /// The file.
    pub fn path(&self) -> &Path {
        match self {
            Self::File(path) | Self::Made(path, _) => path,
        }
    }
}

/// A kernel that was made ready once, for all VMs that ask for the same. (What becomes of one goes by the RAM that there is for it, too.)
pub(super) struct Made {
    path: PathBuf,
    asked: Raw,
    memory: u64,
    bytes: Arc<[u8]>,
    raw: Raw,
}

impl Fields<'_, '_> {
    /// Unpacks a kernel, or lays it out, if its form asks for that. What cannot be is reported, and stays as it is: Merus refuses
    /// it as well.
    pub(super) fn make_ready(
        &mut self,
        kernel: &mut PayloadRef,
        raw: &mut Raw,
        memory: u64,
        files: &mut [Content],
        made: &mut Vec<Made>,
    ) {
        let index = kernel.image.parse().unwrap_or(usize::MAX);
        let Some(content) = files.get_mut(index).filter(|_| !self.lines.faulty.contains(&key::KERNEL)) else { return };
        let path = content.path().to_path_buf();
        let mut found = made.iter().position(|one| one.path == path && one.asked == *raw && one.memory == memory);
        if found.is_none() {
            // Without a size of RAM, which has been reported, any bound will do.
            let limit = if memory == 0 { NO_MEMORY } else { memory };
            match kernel::open(&path, *raw, limit) {
                Ok(None) => return,
                Ok(Some(Kernel { bytes, raw: becomes })) => {
                    found = Some(made.len());
                    // Mostly the RAM makes no difference: the bytes are kept once.
                    let same = made.iter().find(|one| *one.bytes == *bytes).map(|one| one.bytes.clone());
                    let bytes = same.unwrap_or_else(|| bytes.into());
                    made.push(Made { path: path.clone(), asked: *raw, memory, bytes, raw: becomes });
                }
                Err(error) => {
                    self.lines.faulty.push(key::KERNEL);
                    let text = format!("{}key {}: \"{}\" {error}", self.who, key::KERNEL, kernel.name);
                    self.report.add(&self.lines.of(key::KERNEL), Kind::Semantic, text);
                }
            }
        }
        if let Some(one) = found.and_then(|found| made.get(found)) {
            self.lines.head = one.bytes.iter().take(HEADER_SIZE).copied().collect();
            (*raw, kernel.size) = (one.raw, one.bytes.len() as u64);
            *content = Content::Made(path, one.bytes.clone());
        }
    }
}
