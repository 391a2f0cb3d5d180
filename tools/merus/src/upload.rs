//! Payloads: named by their SHA-256, sent once, resumed where the last attempt ended.

use crate::client::Client;
use crate::error::Error;
use proto::{Bytes, Call, Hash, MAX_CHUNK, Refusal};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// A file to be uploaded.
#[derive(Debug)]
pub struct Payload {
    path: PathBuf,
    file: File,
    /// What people will call it.
    pub name: String,
    /// Its SHA-256.
    pub hash: Hash,
    /// Its length in bytes.
    pub size: u64,
}

/// What an upload came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Uploaded {
    /// The object's name from now on.
    pub hash: Hash,
    /// Its length in bytes.
    pub size: u64,
    /// How many of them had to be sent; 0 if all was there.
    pub sent: u64,
}

impl Payload {
    /// Opens a file and finds out its hash. Without `name`, the file's.
    ///
    /// # Errors
    /// [`Error::File`]; an empty file is none.
    pub fn open(path: &Path, name: Option<&str>) -> Result<Self, Error> {
        let fault = |source| Error::File { path: path.display().to_string(), source };
        let mut file = File::open(path).map_err(fault)?;
        let mut sha = Sha256::new();
        let (mut size, mut buffer) = (0, vec![0; 1 << 16]);
        loop {
            let count = file.read(&mut buffer).map_err(fault)?;
            if count == 0 {
                break;
            }
            sha.update(&buffer[..count]);
            size += count as u64;
        }
        if size == 0 {
            return Err(fault(std::io::Error::other("it is empty; an upload needs bytes")));
        }
        let own = || path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let name = name.map_or_else(own, str::to_owned);
        Ok(Self { path: path.into(), file, name, hash: Hash(sha.finalize().into()), size })
    }

    /// Sends what Merus does not have yet. `progress` hears how many bytes are there, from what was there at first on.
    ///
    /// # Errors
    /// As [`Client::call`]. What was sent stays with Merus for a while: the next attempt goes on from there.
    pub fn send(&mut self, client: &mut Client, mut progress: impl FnMut(u64)) -> Result<Uploaded, Error> {
        let (hash, size) = (self.hash, self.size);
        let mut there = client.uploaded(&Call::Put { hash, size, name: self.name.clone() })?;
        let mut sent = 0;
        progress(there);
        while there < size {
            let mut bytes = vec![0; MAX_CHUNK.min(usize::try_from(size - there).unwrap_or(MAX_CHUNK))];
            let fault = |source| Error::File { path: self.path.display().to_string(), source };
            self.file.seek(SeekFrom::Start(there)).map_err(fault)?;
            self.file.read_exact(&mut bytes).map_err(fault)?;
            let count = bytes.len() as u64;
            let now = match client.uploaded(&Call::Chunk { hash, offset: there, bytes: Bytes(bytes) }) {
                // Somebody else has begun this upload anew: take up where that is.
                Err(Error::Refused(Refusal::Offset { expected })) if expected < there => expected,
                Ok(now) if now > there => now,
                // An answer that leads nowhere would be followed for ever.
                Ok(expected) | Err(Error::Refused(Refusal::Offset { expected })) => {
                    return Err(Error::Refused(Refusal::Offset { expected }));
                }
                Err(error) => return Err(error),
            };
            sent += count;
            there = now;
            if sent > size.saturating_mul(4) {
                return Err(Error::Refused(Refusal::Offset { expected: there }));
            }
            progress(there);
        }
        Ok(Uploaded { hash, size, sent })
    }
}
