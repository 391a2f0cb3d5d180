//! Bundles that are broken on purpose.

use anyhow::{Context as _, Result};
use serde::Deserialize;

/// What is done to a packed bundle before it is booted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Damage {
    /// The second half is cut off.
    Truncate,
    /// One bit of the last payload is flipped.
    PayloadByte,
    /// One bit of the device tree is flipped.
    TreeByte,
    /// The magic is another one.
    Magic,
}

/// The magic of a flattened device tree.
pub(super) const FDT_MAGIC: [u8; 4] = 0xd00d_feed_u32.to_be_bytes();

impl Damage {
    /// Damages a bundle.
    ///
    /// # Errors
    /// The bytes do not look like a bundle.
    pub fn apply(self, bundle: &mut Vec<u8>) -> Result<()> {
        let pages = bundle.len() / 4096;
        let at = match self {
            Self::Truncate => {
                bundle.truncate(bundle.len() / 2);
                return Ok(());
            }
            Self::Magic => 0,
            // The first byte of the last page: there is no page without a payload's byte after the tree's.
            Self::PayloadByte => bundle.len().checked_sub(1).context("an empty bundle")? / 4096 * 4096,
            Self::TreeByte => {
                let tree = (1..pages).find(|page| bundle[page * 4096..].starts_with(&FDT_MAGIC));
                tree.context("no device tree at a page's start")? * 4096 + 60
            }
        };
        *bundle.get_mut(at).context("too short for a bundle")? ^= 0x10;
        Ok(())
    }
}
