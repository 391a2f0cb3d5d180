//! Writing a tree's blocks: words, nodes and properties, and addresses as its root counts them.

use super::{BEGIN_NODE, PROP, TreeError};
use addr::{Pa, Span};

/// How the root's children write addresses and sizes.
#[derive(Clone, Copy)]
pub(super) struct Cells {
    pub(super) address: usize,
    pub(super) size: usize,
}

impl Cells {
    pub(super) fn learn(&mut self, property: &[u8], value: &[u8]) -> Result<(), TreeError> {
        let cells = match property {
            b"#address-cells" => &mut self.address,
            b"#size-cells" => &mut self.size,
            _ => return Ok(()),
        };
        *cells = match value {
            [0, 0, 0, n @ 1..=2] => usize::from(*n),
            _ => return Err(TreeError::Cells),
        };
        Ok(())
    }

    /// Writes the part of `span` that can be written, in pieces where its size needs them.
    pub(super) fn write(self, span: Span<Pa>, out: &mut Writer<'_>) -> Result<(), TreeError> {
        const LARGEST: u64 = 1 << 31;
        let (mut at, mut end) = (span.start().as_u64(), span.end().as_u64());
        if self.address == 1 {
            end = end.min(1 << 32);
        }
        while at < end {
            let size = if self.size == 1 { (end - at).min(LARGEST) } else { end - at };
            out.number(at, self.address)?;
            out.number(size, self.size)?;
            at += size;
        }
        Ok(())
    }
}

/// Writes from `at` on.
pub(super) struct Writer<'a> {
    pub(super) out: &'a mut [u8],
    pub(super) at: usize,
}

impl Writer<'_> {
    pub(super) fn bytes(&mut self, bytes: &[u8]) -> Result<(), TreeError> {
        let place = self.out.get_mut(self.at..).and_then(|rest| rest.get_mut(..bytes.len()));
        place.ok_or(TreeError::NoRoom)?.copy_from_slice(bytes);
        self.at += bytes.len();
        Ok(())
    }
    pub(super) fn word(&mut self, word: u32) -> Result<(), TreeError> {
        self.bytes(&word.to_be_bytes())
    }
    /// The low `cells` words of a number.
    pub(super) fn number(&mut self, number: u64, cells: usize) -> Result<(), TreeError> {
        if cells == 2 {
            self.word((number >> 32) as u32)?;
        }
        self.word(number as u32)
    }
    pub(super) fn align(&mut self, to: usize) -> Result<(), TreeError> {
        while !self.at.is_multiple_of(to) {
            self.bytes(&[0])?;
        }
        Ok(())
    }
    pub(super) fn begin(&mut self, name: &[u8]) -> Result<(), TreeError> {
        self.word(BEGIN_NODE)?;
        self.bytes(name)?;
        self.bytes(&[0])?;
        self.align(4)
    }
    pub(super) fn property(&mut self, name: u32, value: &[u8]) -> Result<(), TreeError> {
        self.property_of(name, &mut |out| out.bytes(value))
    }
    /// A property whose value is what `write` writes.
    pub(super) fn property_of(
        &mut self,
        name: u32,
        write: &mut dyn FnMut(&mut Self) -> Result<(), TreeError>,
    ) -> Result<(), TreeError> {
        self.word(PROP)?;
        let length = self.at;
        self.word(0)?;
        self.word(name)?;
        let start = self.at;
        write(self)?;
        let end = self.at;
        self.at = length;
        self.word((end - start) as u32)?;
        self.at = end;
        self.align(4)
    }
}
