//! Payloads: named by their SHA-256, sent once, resumed where the last attempt ended.

use crate::client::Client;
use crate::error::Error;
use proto::{Answer, Bytes, Call, Hash, MAX_CHUNK, Refusal};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Chunks on their way at once. Merus has room for 8 KiB that it has not looked at, so that even a line without flow control
/// loses none.
pub const WINDOW: usize = 3;
/// How often an upload is taken up again where nothing has come through.
const RETRIES: u32 = 3;

/// Where a payload's bytes are.
#[derive(Debug)]
enum Content {
    File(PathBuf, File),
    Bytes(Vec<u8>),
}

impl Content {
    /// `count` bytes from `offset` on, which must be there.
    fn read(&mut self, offset: u64, count: usize) -> Result<Vec<u8>, Error> {
        match self {
            Self::File(path, file) => {
                let fault = |source| Error::File { path: path.display().to_string(), source };
                let mut bytes = vec![0; count];
                file.seek(SeekFrom::Start(offset)).map_err(fault)?;
                file.read_exact(&mut bytes).map_err(fault)?;
                Ok(bytes)
            }
            Self::Bytes(bytes) => {
                let from = usize::try_from(offset).unwrap_or(usize::MAX);
                Ok(bytes.get(from..from.saturating_add(count)).unwrap_or_default().to_vec())
            }
        }
    }
}

/// A file, or what was made of one, to be uploaded.
#[derive(Debug)]
pub struct Payload {
    content: Content,
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
        Ok(Self { content: Content::File(path.into(), file), name, hash: Hash(sha.finalize().into()), size })
    }

    /// Bytes that are in no file, under that name.
    pub fn of(bytes: Vec<u8>, name: &str) -> Self {
        let hash = Hash(Sha256::digest(&bytes).into());
        Self { name: name.into(), hash, size: bytes.len() as u64, content: Content::Bytes(bytes) }
    }

    /// Sends what Merus does not have yet, [`WINDOW`] chunks ahead of their answers. `progress` hears how many bytes are there, from
    /// what was there at first on.
    ///
    /// # Errors
    /// As [`Client::call`]. What was sent stays with Merus for a while: the next attempt goes on from there.
    pub fn send(&mut self, client: &mut Client, mut progress: impl FnMut(u64)) -> Result<Uploaded, Error> {
        let (hash, size) = (self.hash, self.size);
        let put = Call::Put { hash, size, name: self.name.clone() };
        let mut there = client.uploaded(&put)?;
        let (mut sent, mut idle) = (0, 0);
        progress(there);
        while there < size {
            let before = there;
            let flown = self.fly(client, &mut there, &mut sent, &mut progress);
            if there < size {
                match flown {
                    Ok(()) => {}
                    // Somebody else has begun this upload anew, or a chunk before this one was lost.
                    Err(Error::Refused(Refusal::Offset { .. })) => {}
                    Err(error) => return Err(error),
                }
                // Asks where it goes on; with its own repetitions, it brings both sides into step again.
                there = client.uploaded(&put)?;
            }
            // An upload that gets nowhere would be followed for ever.
            idle = if there > before { 0 } else { idle + 1 };
            if idle > RETRIES || sent > size.saturating_mul(4) {
                return Err(Error::Refused(Refusal::Offset { expected: there }));
            }
        }
        Ok(Uploaded { hash, size, sent })
    }

    /// Sends chunks from `there` on until all are there, or one was not answered as expected.
    fn fly(
        &mut self,
        client: &mut Client,
        there: &mut u64,
        sent: &mut u64,
        progress: &mut impl FnMut(u64),
    ) -> Result<(), Error> {
        let hash = self.hash;
        let call = |offset, bytes| Call::Chunk { hash, offset, bytes: Bytes(bytes) };
        let nothing = call(0, Vec::new());
        let mut flying: Vec<(u32, u64)> = Vec::new();
        let mut next = *there;
        while *there < self.size {
            while flying.len() < WINDOW && next < self.size {
                let left = usize::try_from(self.size - next).unwrap_or(MAX_CHUNK);
                let bytes = self.content.read(next, MAX_CHUNK.min(left))?;
                let count = bytes.len() as u64;
                let Some(id) = client.post(&call(next, bytes))? else { return Ok(()) };
                next += count;
                *sent += count;
                flying.push((id, next));
            }
            let ids: Vec<u32> = flying.iter().map(|(id, _)| *id).collect();
            match client.next_reply(&ids, &nothing)? {
                // They come in the order of the calls: one before it has been lost.
                Some((id, _)) if ids.first() != Some(&id) => return Ok(()),
                Some((_, Ok(Answer::Uploaded(now)))) if flying.first().is_some_and(|(_, end)| *end <= now) => {
                    *there = now
                }
                Some((_, Err(refusal))) => return Err(Error::Refused(refusal)),
                Some(_) | None => return Ok(()),
            }
            flying.remove(0);
            progress(*there);
        }
        Ok(())
    }
}
