//! Load options and paths: UTF-16 that firmware, GRUB or a shell hand over.

/// The most bytes that a command line may have: Linux' own limit on AArch64.
pub const LONGEST: usize = 2048;

/// Why load options are no command line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoText {
    /// Something else than printable ASCII: boot options may hold what their maker likes.
    Binary,
    /// Longer than [`LONGEST`].
    TooLong,
}

/// The command line in load options, written into `out`; it ends where `units` do or at a zero. Spaces around it are dropped.
///
/// # Errors
/// It is no text, or too long.
pub fn command_line(units: impl Iterator<Item = u16>, out: &mut [u8; LONGEST]) -> Result<&[u8], NoText> {
    let mut length = 0;
    for unit in units.take_while(|unit| *unit != 0) {
        let byte = u8::try_from(unit).ok().filter(|byte| matches!(byte, b' '..=b'~' | b'\t' | b'\r' | b'\n'));
        *out.get_mut(length).ok_or(NoText::TooLong)? = byte.ok_or(NoText::Binary)?;
        length += 1;
    }
    Ok(out.get(..length).unwrap_or_default().trim_ascii())
}

/// The value of the last `initrd=` of a command line.
pub fn initrd(line: &[u8]) -> Option<&[u8]> {
    let words = line.split(u8::is_ascii_whitespace);
    words.filter_map(|word| word.strip_prefix(b"initrd=")).rfind(|path| !path.is_empty())
}

/// The most units that a path may have, its zero included.
pub const PATH: usize = 512;

/// A path on a volume, for the firmware: with backslashes, from the root, and a zero behind it.
#[derive(Clone, Debug)]
pub struct Path {
    units: [u16; PATH],
    length: usize,
}

impl Path {
    /// The root.
    pub const fn root() -> Self {
        Self { units: [0; PATH], length: 0 }
    }

    /// This path and what follows of it; `None` where it becomes too long.
    #[must_use]
    pub fn join(mut self, part: impl Iterator<Item = u16>) -> Option<Self> {
        const BACKSLASH: u16 = b'\\' as u16;
        let part =
            part.take_while(|unit| *unit != 0).map(|unit| if unit == u16::from(b'/') { BACKSLASH } else { unit });
        for unit in core::iter::once(BACKSLASH).chain(part) {
            let doubled = unit == BACKSLASH && self.length.checked_sub(1).is_some_and(|n| self.units[n] == BACKSLASH);
            if !doubled {
                // The last unit stays zero.
                *self.units[..PATH - 1].get_mut(self.length)? = unit;
                self.length += 1;
            }
        }
        Some(self)
    }

    /// The directory that it is in.
    #[must_use]
    pub fn parent(mut self) -> Self {
        while let Some(last) = self.length.checked_sub(1) {
            self.length = last;
            if core::mem::take(&mut self.units[last]) == u16::from(b'\\') {
                break;
            }
        }
        self
    }

    /// Its units, a zero last.
    pub fn units(&self) -> &[u16] {
        &self.units[..=self.length]
    }
}

impl core::fmt::Display for Path {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let characters = char::decode_utf16(self.units[..self.length].iter().copied());
        characters.map(|c| c.unwrap_or('?')).try_for_each(|c| core::fmt::Write::write_char(f, c))
    }
}
