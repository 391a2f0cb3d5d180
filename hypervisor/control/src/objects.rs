//! Payloads that were uploaded: each has the name of its hash, so that it is sent once and used often.
//!
//! An upload takes its memory at once and grows from its beginning; whoever comes again with the same hash and length goes on where
//! it ended. When the last byte has come, the SHA-256 of all of them decides: the object is there, or nothing is left of it.

use crate::host::{Host, Region};
use alloc::string::String;
use alloc::vec::Vec;
use proto::{Hash, MAX_CHUNK, ObjectRow, Refusal};
use sha2::{Digest, Sha256};

/// The most objects and uploads together.
pub const MAX_OBJECTS: usize = 64;
/// The most characters of an object's name that are kept.
const NAME: usize = 64;
/// The bytes of an object's beginning that are kept at hand: a kernel's header.
pub const HEAD: usize = config::image::HEADER_SIZE;

/// One upload.
pub struct Object {
    pub name: String,
    pub hash: Hash,
    pub size: u64,
    /// How many bytes are there.
    pub there: u64,
    pub region: Region,
    /// CRC-32 of all bytes, once they are there.
    pub crc32: u32,
    pub head: Vec<u8>,
    state: Option<(Sha256, crc32fast::Hasher)>,
}

impl Object {
    /// Whether all of it is there and checked.
    pub fn is_whole(&self) -> bool {
        self.state.is_none()
    }

    pub fn row(&self, users: u32) -> ObjectRow {
        ObjectRow {
            name: self.name.clone(),
            hash: Some(self.hash),
            size: self.size,
            there: self.there,
            boot: false,
            users,
        }
    }
}

/// All uploads.
#[derive(Default)]
pub struct Objects {
    list: Vec<Object>,
}

impl Objects {
    pub fn iter(&self) -> impl Iterator<Item = &Object> {
        self.list.iter()
    }

    pub fn find(&self, hash: &Hash) -> Option<&Object> {
        self.list.iter().find(|o| o.hash == *hash)
    }

    /// A whole object.
    pub fn whole(&self, hash: &Hash) -> Option<&Object> {
        self.find(hash).filter(|o| o.is_whole())
    }

    /// Begins an upload or finds it; returns how much is there.
    pub fn put(&mut self, host: &mut dyn Host, hash: Hash, size: u64, name: &str) -> Result<u64, Refusal> {
        if let Some(object) = self.list.iter().find(|o| o.hash == hash) {
            // The hash is of all bytes, so another length can only be a mistake.
            return if object.size == size { Ok(object.there) } else { Err(Refusal::Hash) };
        }
        if size == 0 {
            return Err(Refusal::Malformed("an upload of no bytes".into()));
        }
        if self.list.len() >= MAX_OBJECTS {
            return Err(Refusal::Limit { what: "uploaded payloads; forget one".into(), most: MAX_OBJECTS as u64 });
        }
        let region = host.object_room(size)?;
        self.list.push(Object {
            name: name.chars().filter(|c| !c.is_control()).take(NAME).collect(),
            hash,
            size,
            there: 0,
            region,
            crc32: 0,
            head: Vec::new(),
            state: Some((Sha256::new(), crc32fast::Hasher::new())),
        });
        Ok(0)
    }

    /// The next bytes of an upload; returns how much is there.
    pub fn chunk(&mut self, host: &mut dyn Host, hash: &Hash, offset: u64, bytes: &[u8]) -> Result<u64, Refusal> {
        let missing = || Refusal::NoSuchObject(alloc::format!("{hash}"));
        let place = self.list.iter().position(|o| o.hash == *hash).ok_or_else(missing)?;
        let object = self.list.get_mut(place).ok_or_else(missing)?;
        if bytes.len() > MAX_CHUNK {
            return Err(Refusal::Limit { what: "bytes a chunk".into(), most: MAX_CHUNK as u64 });
        }
        let end = offset.checked_add(bytes.len() as u64).filter(|end| *end <= object.size);
        let end = end.ok_or(Refusal::Offset { expected: object.there })?;
        let known = object.there.checked_sub(offset).ok_or(Refusal::Offset { expected: object.there })?;
        let Some((sha, crc)) = object.state.as_mut().filter(|_| end > object.there) else {
            return Ok(object.there);
        };
        let fresh = usize::try_from(known).ok().and_then(|known| bytes.get(known..)).unwrap_or(&[]);
        host.object_write(object.region, object.there, fresh);
        sha.update(fresh);
        crc.update(fresh);
        let head = HEAD.saturating_sub(object.head.len()).min(fresh.len());
        object.head.extend_from_slice(fresh.get(..head).unwrap_or(&[]));
        object.there = end;
        if end < object.size {
            return Ok(end);
        }
        if let Some((sha, crc)) = object.state.take() {
            if <[u8; 32]>::from(sha.finalize()) != object.hash.0 {
                let region = object.region;
                self.list.remove(place);
                host.object_free(region);
                return Err(Refusal::Hash);
            }
            object.crc32 = crc.finalize();
        }
        Ok(end)
    }

    /// Gives up an object.
    pub fn forget(&mut self, host: &mut dyn Host, hash: &Hash) -> Result<(), Refusal> {
        let place = self.list.iter().position(|o| o.hash == *hash);
        let place = place.ok_or_else(|| Refusal::NoSuchObject(alloc::format!("{hash}")))?;
        host.object_free(self.list.remove(place).region);
        Ok(())
    }
}
