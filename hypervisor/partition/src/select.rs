//! Which part of the machine's disks a name means.

use crate::table::Table;
use alloc::string::{String, ToString};
use thiserror::Error;

/// A part of a disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Part {
    /// The disk's number.
    pub disk: usize,
    /// Its first byte there.
    pub at: u64,
    /// Its bytes.
    pub size: u64,
}

/// Why a name means no part.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum SelectError {
    /// There is none.
    #[error("no disk of the machine has {name}")]
    Absent {
        /// The name.
        name: String,
    },
    /// There are several.
    #[error("{name} is on disk {one} and on disk {other}; name it by its PARTUUID")]
    Several {
        /// The name.
        name: String,
        /// The one's disk.
        one: usize,
        /// The other's.
        other: usize,
    },
}

/// The part that `name` means, among disks with these tables (`None`: one that has no table to be had).
/// `PARTLABEL=` and `PARTUUID=` mean partitions, `DISK=` and a number a whole disk.
///
/// # Errors
/// It means none, or several.
pub fn find(name: &str, disks: &[(u64, Option<&Table>)]) -> Result<Part, SelectError> {
    let (kind, which) = name.split_once('=').unwrap_or_default();
    if kind == "DISK" {
        let number = which.parse::<usize>().ok();
        let disk = number.and_then(|number| Some((number, disks.get(number)?.0)));
        return match disk {
            Some((disk, size)) => Ok(Part { disk, at: 0, size }),
            None => Err(SelectError::Absent { name: name.to_string() }),
        };
    }
    let mut found = disks.iter().enumerate().flat_map(|(disk, (_, table))| {
        let partitions = table.iter().flat_map(|table| &table.partitions);
        partitions.map(move |partition| (disk, partition))
    });
    let mut wanted = found.by_ref().filter(|(_, partition)| match kind {
        "PARTLABEL" => !which.is_empty() && partition.label == which,
        "PARTUUID" => partition.id.eq_ignore_ascii_case(which),
        _ => false,
    });
    match (wanted.next(), wanted.next()) {
        (Some((disk, part)), None) => Ok(Part { disk, at: part.at, size: part.size }),
        (Some((one, _)), Some((other, _))) => Err(SelectError::Several { name: name.to_string(), one, other }),
        (None, _) => Err(SelectError::Absent { name: name.to_string() }),
    }
}
