//! What all devices' saved states have in common.

use core::fmt;

/// Why a saved state is refused. The device is left as it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RestoreError {
    /// The state was written in another format; the version found.
    Version(u16),
    /// A field holds what the device can never hold; the field's name.
    OutOfRange(&'static str),
}

impl fmt::Display for RestoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version(found) => write!(f, "the saved state has format {found}, which this version cannot read"),
            Self::OutOfRange(field) => write!(f, "the saved state is damaged: {field} is out of range"),
        }
    }
}

impl core::error::Error for RestoreError {}
