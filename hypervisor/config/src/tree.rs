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
use dtoolkit::model::{DeviceTreeNode, DeviceTreeProperty};

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
    const BEGIN: u32 = 1;
    const END: u32 = 2;
    const PROP: u32 = 3;
    const NOP: u32 = 4;
    const LAST: u32 = 9;
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

/// A node to be written, made part by part. All names are Merus' own, so they are valid.
pub(crate) struct NodeWriter(DeviceTreeNode);

impl NodeWriter {
    pub(crate) fn new(name: impl Into<String>) -> Self {
        Self(DeviceTreeNode::new_unchecked(name))
    }
    pub(crate) fn property(mut self, name: &str, value: impl ToPropertyValue) -> Self {
        self.0.add_property(DeviceTreeProperty::new_unchecked(name, value));
        self
    }
    /// A property without a value: it is there or not.
    pub(crate) fn flag(self, name: &str) -> Self {
        self.property(name, Vec::<u8>::new())
    }
    /// A list of 64-bit numbers, two cells each.
    pub(crate) fn wide(self, name: &str, values: &[u64]) -> Self {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_be_bytes()).collect();
        self.property(name, bytes)
    }
    pub(crate) fn child(mut self, child: Self) -> Self {
        self.0.add_child(child.0);
        self
    }
    pub(crate) fn build(self) -> DeviceTreeNode {
        self.0
    }
}

#[cfg(test)]
mod tests;
