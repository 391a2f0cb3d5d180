//! Opens a flattened device tree that may be malformed, and builds nodes for one that is written.
//!
//! The library's own check refuses names over 31 characters, which the Devicetree Specification asks for and real
//! boards' trees do not hold (`snps,dis-u2-freeclk-exists-quirk`). Its accessors panic where neither that check nor an
//! equal one was made. So [`open`] makes its own for trees whose only fault are their names.
//!
//! Devicetree Specification, release 0.4, chapter "Flattened Devicetree (DTB) Format".

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use dtoolkit::ToPropertyValue;
use dtoolkit::error::FdtErrorKind;
use dtoolkit::fdt::Fdt;

/// Nodes within nodes that are accepted; boards have six or so.
pub(crate) const MAX_DEPTH: usize = 32;

/// The big-endian word at `at`, if it is there.
fn word(data: &[u8], at: usize) -> Option<u32> {
    data.get(at..)?.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

/// Opens a tree at the start of `data`, which may be longer; names may be of any length. `Err` says what is wrong.
pub(crate) fn open(data: &[u8]) -> Result<Fdt<'_>, String> {
    let total = word(data, 4).and_then(|total| usize::try_from(total).ok());
    let Some(data) = total.and_then(|total| data.get(..total)) else {
        return Err("it is shorter than it says".to_string());
    };
    match Fdt::new(data) {
        Ok(fdt) => Ok(fdt),
        Err(error) => match error.kind {
            FdtErrorKind::InvalidNodeName | FdtErrorKind::InvalidPropertyName if is_sound(data) => {
                Ok(Fdt::new_unchecked(data))
            }
            _ => Err(error.to_string()),
        },
    }
}

/// Whether structure, strings and reservations of a tree with a valid header (which the caller has had checked) are
/// sound, names aside.
fn is_sound(data: &[u8]) -> bool {
    let at = |offset| word(data, offset).and_then(|value| usize::try_from(value).ok());
    // Header: off_dt_struct, off_dt_strings, size_dt_strings, size_dt_struct.
    let (Some(start), Some(strings), Some(strings_size), Some(size)) = (at(8), at(12), at(32), at(36)) else {
        return false;
    };
    let end = |from: usize, size: usize| from.checked_add(size);
    let (Some(structure), Some(strings)) = (
        end(start, size).and_then(|end| data.get(start..end)),
        end(strings, strings_size).and_then(|end| data.get(strings..end)),
    ) else {
        return false;
    };
    walks_to_its_end(structure, strings) == Some(())
}

/// Follows the tokens of `structure`: `Some` if they make one tree whose strings all end.
fn walks_to_its_end(structure: &[u8], strings: &[u8]) -> Option<()> {
    use token::{BEGIN, END, LAST, PROP};
    const NOP: u32 = 4;
    let mut depth = 0usize;
    let mut at = 0usize;
    // Properties come before a node's children.
    let mut properties_allowed = false;
    loop {
        let token = word(structure, at)?;
        at = at.checked_add(4)?;
        match token {
            BEGIN => {
                let name = text(structure.get(at..)?)?;
                at = at.checked_add(name.len())?.checked_add(1)?.checked_next_multiple_of(4)?;
                if (depth == 0) != name.is_empty() || depth >= MAX_DEPTH {
                    return None;
                }
                depth = depth.checked_add(1)?;
                properties_allowed = true;
            }
            PROP if properties_allowed => {
                let length = usize::try_from(word(structure, at)?).ok()?;
                let name = usize::try_from(word(structure, at.checked_add(4)?)?).ok()?;
                text(strings.get(name..)?)?;
                let value = at.checked_add(8)?;
                let end = value.checked_add(length)?;
                at = end.checked_next_multiple_of(4)?;
            }
            END => {
                depth = depth.checked_sub(1)?;
                properties_allowed = false;
                if depth == 0 {
                    return (word(structure, at)? == LAST).then_some(());
                }
            }
            NOP => {}
            _ => return None,
        }
    }
}

/// The string before the first NUL of `bytes`.
fn text(bytes: &[u8]) -> Option<&str> {
    core::ffi::CStr::from_bytes_until_nul(bytes).ok()?.to_str().ok()
}

/// A node to be written, made part by part. All names are Merus' own or were read from a tree, so they are valid.
///
/// Its parts are encoded as they come, so that a tree costs little more than its bytes: a VM's start waits for its tree. Names of
/// properties stay text until the whole tree knows where in its strings each is.
pub(crate) struct Writer<'n> {
    /// The token, the name, the properties.
    own: Block<'n>,
    /// The nodes within.
    children: Block<'n>,
}

/// One whose properties all have Merus' own names.
pub(crate) type NodeWriter = Writer<'static>;

/// A part of the structure block.
#[derive(Default)]
struct Block<'n> {
    bytes: Vec<u8>,
    /// Where the offset of a property's name belongs.
    names: Vec<(usize, &'n str)>,
}

impl Block<'_> {
    fn word(&mut self, value: u32) {
        self.bytes.extend_from_slice(&value.to_be_bytes());
    }
    fn append(&mut self, other: &Self) {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(&other.bytes);
        self.names.extend(other.names.iter().map(|(place, name)| (place.saturating_add(at), *name)));
    }
}

/// Tokens of the structure block (chapter "Flattened Devicetree (DTB) Format", section "Structure Block").
mod token {
    pub const BEGIN: u32 = 1;
    pub const END: u32 = 2;
    pub const PROP: u32 = 3;
    pub const LAST: u32 = 9;
}

/// Bytes of the header, and of an entry of the memory reservation block.
const HEADER: usize = 40;
const RESERVATION: usize = 16;
const MAGIC: u32 = 0xd00d_feed;
const VERSION: u32 = 17;
const COMPATIBLE: u32 = 16;

impl<'n> Writer<'n> {
    pub(crate) fn new(name: impl AsRef<str>) -> Self {
        let mut own = Block { bytes: Vec::with_capacity(256), names: Vec::with_capacity(8) };
        own.word(token::BEGIN);
        own.bytes.extend_from_slice(name.as_ref().as_bytes());
        // Its end, and what there is to the next word.
        let end = own.bytes.len().saturating_add(1);
        own.bytes.resize(end.next_multiple_of(4), 0);
        Self { own, children: Block::default() }
    }
    pub(crate) fn property(mut self, name: &'n str, value: impl ToPropertyValue) -> Self {
        let length = value.property_value_len();
        let at = self.begin(name, length);
        if let Some(to) = self.own.bytes.get_mut(at..).and_then(|rest| rest.get_mut(..length)) {
            value.write_property_value(to);
        }
        self
    }
    /// A property without a value: it is there or not.
    pub(crate) fn flag(mut self, name: &'n str) -> Self {
        self.begin(name, 0);
        self
    }
    /// A list of 64-bit numbers, two cells each.
    pub(crate) fn wide(mut self, name: &'n str, values: &[u64]) -> Self {
        let at = self.begin(name, size_of_val(values));
        let places = self.own.bytes.get_mut(at..).unwrap_or_default().chunks_exact_mut(size_of::<u64>());
        places.zip(values).for_each(|(to, value)| to.copy_from_slice(&value.to_be_bytes()));
        self
    }
    /// A property of zeroes; where they are.
    fn begin(&mut self, name: &'n str, length: usize) -> usize {
        self.own.word(token::PROP);
        // A value never comes near 4 GiB.
        self.own.word(length as u32);
        self.own.names.push((self.own.bytes.len(), name));
        self.own.word(0);
        let at = self.own.bytes.len();
        self.own.bytes.resize(at.saturating_add(length).next_multiple_of(4), 0);
        at
    }
    pub(crate) fn child(mut self, child: Self) -> Self {
        if self.children.bytes.capacity() == 0 {
            // More than most trees have in all; what is left over goes when the tree is put together.
            self.children = Block { bytes: Vec::with_capacity(1024), names: Vec::with_capacity(32) };
        }
        self.children.append(&child.own);
        self.children.append(&child.children);
        self.children.word(token::END);
        self
    }
    /// The tree whose root this is.
    pub(crate) fn blob(self) -> Vec<u8> {
        self.blob_with(&[])
    }
    /// The same with memory reservations: address and size.
    pub(crate) fn blob_with(self, reservations: &[(u64, u64)]) -> Vec<u8> {
        let Self { own: mut structure, children } = self;
        structure.append(&children);
        structure.word(token::END);
        structure.word(token::LAST);
        let mut strings = Vec::with_capacity(512);
        let mut known: Vec<(&str, u32)> = Vec::with_capacity(48);
        for (place, name) in &structure.names {
            let offset = known.iter().find(|(other, _)| other == name).map(|(_, offset)| *offset);
            let offset = offset.unwrap_or_else(|| {
                let offset = strings.len() as u32;
                strings.extend_from_slice(name.as_bytes());
                strings.push(0);
                known.push((name, offset));
                offset
            });
            if let Some(to) = structure.bytes.get_mut(*place..).and_then(|rest| rest.first_chunk_mut()) {
                *to = offset.to_be_bytes();
            }
        }
        let reserved = RESERVATION.saturating_mul(reservations.len().saturating_add(1));
        let at_structure = HEADER.saturating_add(reserved);
        let at_strings = at_structure.saturating_add(structure.bytes.len());
        let total = at_strings.saturating_add(strings.len());
        let mut blob = Vec::with_capacity(total);
        let sizes = [strings.len(), structure.bytes.len()].map(|size| size as u32);
        let places = [total, at_structure, at_strings, HEADER].map(|at| at as u32);
        let header = [MAGIC].into_iter().chain(places).chain([VERSION, COMPATIBLE, 0]).chain(sizes);
        header.for_each(|word| blob.extend_from_slice(&word.to_be_bytes()));
        for (at, size) in reservations.iter().chain(&[(0, 0)]) {
            blob.extend_from_slice(&at.to_be_bytes());
            blob.extend_from_slice(&size.to_be_bytes());
        }
        blob.extend_from_slice(&structure.bytes);
        blob.extend_from_slice(&strings);
        blob
    }
}

#[cfg(test)]
mod tests;
