//! Where on the disk everything goes: block groups as ext4 divides the disk, and behind each group's own structures the files' blocks one after
//! the other.
//!
//! Linux, Documentation/filesystems/ext4: "Layout", "Block Groups", "Special inodes", "The Contents of inode.i_block".

use super::BLOCK;
use super::tree::{Kind, LOST_AND_FOUND, Node, ROOT, Tree};
use std::collections::HashMap;

/// Blocks of a group: as many as a bitmap of one block tells apart.
pub(super) const GROUP: u32 = 8 * BLOCK as u32;
/// Bytes of an inode.
pub(super) const INODE: u32 = 256;
/// The numbers of the root, of the journal, and the first that is nobody's before.
pub(super) const ROOT_INODE: u32 = 2;
pub(super) const JOURNAL_INODE: u32 = 8;
pub(super) const FIRST_INODE: u32 = 11;
/// Bytes of a group's descriptor.
pub(super) const DESCRIPTOR: u32 = 32;
/// Bytes of a symbolic link that its inode has room for.
pub(super) const INLINE_LINK: usize = 59;
/// Extents that an inode has room for, and those of a block of them.
pub(super) const INLINE_EXTENTS: usize = 4;
pub(super) const BLOCK_EXTENTS: usize = (BLOCK as usize - 12) / 12;
/// Bytes of disk for each inode that is made, at least.
const BYTES_PER_INODE: u64 = 16 << 10;
/// Blocks of the folder for what is found: it cannot grow when it is needed.
const FOUND_BLOCKS: usize = 4;
/// A last group with fewer blocks than that for files is left out.
const LEAST_GROUP: u32 = 64;

/// Blocks that follow each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Extent {
    pub start: u32,
    pub count: u32,
}

/// A file's place.
#[derive(Clone, Debug, Default)]
pub(super) struct Inode {
    /// Its node in the tree; the journal has none.
    pub node: Option<usize>,
    /// Names that lead to it; for a folder also its own `.` and its folders' `..`.
    pub links: u64,
    /// In bytes.
    pub size: u64,
    /// Its blocks, in their order.
    pub extents: Vec<Extent>,
    /// The blocks with the extents, where the inode has no room for them.
    pub leaves: Vec<u32>,
    /// A folder's names, as they are written.
    pub folder: Vec<u8>,
}

/// How the disk is divided.
#[derive(Clone, Debug)]
pub(super) struct Geometry {
    /// Blocks of the file system.
    pub blocks: u32,
    /// Groups of [`GROUP`] blocks, of which the last may have fewer.
    pub groups: u32,
    /// Inodes of each group.
    pub inodes: u32,
}

impl Geometry {
    /// A disk of that many blocks with at least so many inodes.
    fn new(blocks: u32, needed: u64) -> Option<Self> {
        let with = |blocks: u32| {
            let groups = blocks.div_ceil(GROUP).max(1);
            let by_size = u64::from(blocks) * BLOCK / BYTES_PER_INODE;
            let all = by_size.max(needed + needed / 4);
            let inodes = all.div_ceil(groups.into()).next_multiple_of(u64::from(BLOCK as u32 / INODE));
            Self { blocks, groups, inodes: u32::try_from(inodes).unwrap_or(u32::MAX).min(GROUP) }
        };
        let mut geometry = with(blocks);
        let last = geometry.groups - 1;
        if geometry.end(last) - geometry.start(last) < geometry.own(last) + LEAST_GROUP {
            geometry = with(geometry.start(last));
        }
        let fits = geometry.blocks > 0 && u64::from(geometry.inodes) * u64::from(geometry.groups) >= needed;
        fits.then_some(geometry)
    }

    /// A group's first block.
    pub(super) fn start(&self, group: u32) -> u32 {
        group * GROUP
    }
    /// The block behind a group.
    pub(super) fn end(&self, group: u32) -> u32 {
        self.blocks.min(self.start(group).saturating_add(GROUP))
    }
    /// Whether a group begins with a copy of the superblock and the descriptors: the first two, and powers of 3, 5 and 7.
    pub(super) fn has_copy(group: u32) -> bool {
        let power = |base: u32| {
            let mut power = 1;
            while power < group {
                power *= base;
            }
            power == group
        };
        group <= 1 || [3, 5, 7].into_iter().any(power)
    }
    /// Blocks of the descriptors.
    pub(super) fn descriptors(&self) -> u32 {
        (self.groups * DESCRIPTOR).div_ceil(BLOCK as u32)
    }
    /// Blocks of a group's inodes.
    pub(super) fn table(&self) -> u32 {
        self.inodes * INODE / BLOCK as u32
    }
    /// Blocks of a group before its bitmaps.
    pub(super) fn copy(&self, group: u32) -> u32 {
        if Self::has_copy(group) { 1 + self.descriptors() } else { 0 }
    }
    /// Blocks that a group has for itself.
    pub(super) fn own(&self, group: u32) -> u32 {
        self.copy(group) + 2 + self.table()
    }
}

/// Where everything goes.
pub(super) struct Plan {
    pub geometry: Geometry,
    /// By number, from 1.
    pub inodes: Vec<Inode>,
    /// The block behind the last one of a file.
    pub next: u32,
}

/// Gives blocks away, one after the other.
struct Allocator<'a> {
    geometry: &'a Geometry,
    next: u32,
}

impl Allocator<'_> {
    /// So many blocks; `None`: the disk is full.
    fn take(&mut self, count: u64) -> Option<Vec<Extent>> {
        let (mut left, mut extents) = (count, Vec::new());
        while left > 0 {
            let group = self.next / GROUP;
            if group >= self.geometry.groups {
                return None;
            }
            let (first, end) = (self.geometry.start(group) + self.geometry.own(group), self.geometry.end(group));
            let start = self.next.max(first);
            let part = u64::from(end.saturating_sub(start)).min(left) as u32;
            if part > 0 {
                extents.push(Extent { start, count: part });
                left -= u64::from(part);
            }
            // The next group's, where this one has none left.
            self.next = if part > 0 { start + part } else { self.geometry.start(group).checked_add(GROUP)? };
        }
        Some(extents)
    }
}

/// Blocks of a journal for a disk of that many, as `mke2fs` chooses them; none on the smallest.
fn journal_blocks(blocks: u32) -> u64 {
    match blocks {
        0..2048 => 0,
        2048..32768 => 1024,
        32768..262_144 => 4096,
        262_144..524_288 => 8192,
        524_288..4_194_304 => 16384,
        _ => 32768,
    }
}

/// About how many blocks the files take, with their inodes.
pub(super) fn estimate(tree: &Tree) -> u64 {
    let of = |node: &Node| match &node.kind {
        Kind::File { size, .. } => size.div_ceil(BLOCK),
        Kind::Folder(names) => names.keys().map(|name| name.len() as u64 + 16).sum::<u64>() / BLOCK + 1,
        _ => 0,
    };
    let blocks: u64 = tree.nodes.iter().map(of).fold(0, u64::saturating_add);
    let inodes = tree.nodes.len() as u64 * u64::from(INODE) / BLOCK;
    let own = blocks.saturating_add(inodes);
    own.saturating_add(journal_blocks(u32::try_from(own + own / 2 + 2048).unwrap_or(u32::MAX)))
}

impl Plan {
    /// A plan for a disk of that many blocks; `None`: it does not fit.
    pub(super) fn new(tree: &Tree, blocks: u32) -> Option<Self> {
        let mut inodes = vec![Inode::default(); FIRST_INODE as usize - 1];
        let mut numbers = HashMap::new();
        number(tree, &mut inodes, &mut numbers);
        write_folders(tree, &mut inodes, &numbers);
        let geometry = Geometry::new(blocks, inodes.len() as u64)?;
        let mut allocator = Allocator { geometry: &geometry, next: 0 };
        let journal = journal_blocks(geometry.blocks);
        // The journal first: it is to be in one piece.
        let first = (JOURNAL_INODE - 1) as usize;
        inodes[first].size = journal * BLOCK;
        let order = std::iter::once(first).chain((0..inodes.len()).filter(|n| *n != first));
        for n in order.collect::<Vec<_>>() {
            let inode = &mut inodes[n];
            let inline = inode
                .node
                .is_some_and(|node| matches!(&tree.nodes[node].kind, Kind::Link(text) if text.len() <= INLINE_LINK));
            if inline || inode.size == 0 {
                continue;
            }
            inode.extents = allocator.take(inode.size.div_ceil(BLOCK))?;
            if inode.extents.len() > INLINE_EXTENTS {
                let leaves = allocator.take(inode.extents.len().div_ceil(BLOCK_EXTENTS) as u64)?;
                inode.leaves = leaves.iter().flat_map(|leaf| leaf.start..leaf.start + leaf.count).collect();
                if inode.leaves.len() > INLINE_EXTENTS {
                    return None;
                }
            }
        }
        let next = allocator.next;
        Some(Self { geometry, inodes, next })
    }

    /// The image's length in bytes.
    pub(super) fn size(&self) -> u64 {
        u64::from(self.geometry.blocks) * BLOCK
    }

    /// Blocks of a group that something has.
    pub(super) fn used(&self, group: u32) -> u32 {
        let (start, end) = (self.geometry.start(group), self.geometry.end(group));
        self.next.clamp(start + self.geometry.own(group), end) - start
    }

    /// Blocks that nothing has.
    pub(super) fn free_blocks(&self) -> u64 {
        let geometry = &self.geometry;
        let free = |group| geometry.end(group) - geometry.start(group) - self.used(group);
        (0..geometry.groups).map(|group| u64::from(free(group))).sum()
    }

    /// Files, folders, links and devices, without what every file system has.
    pub(super) fn files(&self) -> u64 {
        let own = |inode: &&Inode| inode.node.is_some();
        // The root and the folder for what is found.
        (self.inodes.iter().filter(own).count() as u64).saturating_sub(2)
    }

    /// The files' inodes, each with the number of the entry that has its bytes.
    pub(super) fn contents<'a>(&'a self, tree: &'a Tree) -> impl Iterator<Item = (u64, &'a Inode)> {
        self.inodes.iter().filter_map(|inode| match tree.nodes[inode.node?].kind {
            Kind::File { entry, .. } => Some((entry, inode)),
            _ => None,
        })
    }
}

/// Gives every node that a name leads to its number, and counts those names.
fn number(tree: &Tree, inodes: &mut Vec<Inode>, numbers: &mut HashMap<usize, u32>) {
    let root = (ROOT_INODE - 1) as usize;
    (inodes[root].node, inodes[root].links) = (Some(ROOT), 2);
    numbers.insert(ROOT, ROOT_INODE);
    let mut folders = vec![ROOT];
    while let Some(folder) = folders.pop() {
        let Kind::Folder(names) = &tree.nodes[folder].kind else { continue };
        // The folder for what is found has the first number.
        let first = names.get(LOST_AND_FOUND).filter(|_| folder == ROOT).copied();
        for node in first.into_iter().chain(names.values().copied().filter(|node| Some(*node) != first)) {
            let number = *numbers.entry(node).or_insert_with(|| {
                inodes.push(Inode { node: Some(node), size: size_of(&tree.nodes[node].kind), ..Inode::default() });
                inodes.len() as u32
            });
            let inode = &mut inodes[number as usize - 1];
            inode.links += 1;
            if matches!(tree.nodes[node].kind, Kind::Folder(_)) {
                inode.links += 1;
                inodes[numbers[&folder] as usize - 1].links += 1;
                folders.push(node);
            }
        }
    }
}

/// What a node that is no folder has for its length.
fn size_of(kind: &Kind) -> u64 {
    match kind {
        Kind::File { size, .. } => *size,
        Kind::Link(text) => text.len() as u64,
        _ => 0,
    }
}

/// Writes the names of all folders.
fn write_folders(tree: &Tree, inodes: &mut [Inode], numbers: &HashMap<usize, u32>) {
    let mut above = HashMap::from([(ROOT, ROOT_INODE)]);
    for (folder, number) in numbers {
        let Kind::Folder(names) = &tree.nodes[*folder].kind else { continue };
        let folders = names.values().filter(|node| matches!(tree.nodes[**node].kind, Kind::Folder(_)));
        above.extend(folders.map(|node| (*node, *number)));
    }
    for (folder, number) in numbers {
        let Kind::Folder(names) = &tree.nodes[*folder].kind else { continue };
        let own = [(&b"."[..], *number, 2), (b"..", above[folder], 2)];
        let others = names.iter().map(|(name, node)| (&name[..], numbers[node], type_of(&tree.nodes[*node].kind)));
        let least = if *number == FIRST_INODE { FOUND_BLOCKS } else { 1 };
        let inode = &mut inodes[*number as usize - 1];
        inode.folder = entries(own.into_iter().chain(others), least);
        inode.size = inode.folder.len() as u64;
    }
}

/// The type that stands beside a name (ext4: "Linear (Classic) Directories").
fn type_of(kind: &Kind) -> u8 {
    match kind {
        Kind::File { .. } => 1,
        Kind::Folder(_) => 2,
        Kind::Character(..) => 3,
        Kind::Block(..) => 4,
        Kind::Pipe => 5,
        Kind::Link(_) => 7,
    }
}

/// Names with their inodes, in whole blocks, of which there are at least so many; the last one of a block has what is left of it.
fn entries<'a>(names: impl Iterator<Item = (&'a [u8], u32, u8)>, least: usize) -> Vec<u8> {
    let block = BLOCK as usize;
    let (mut out, mut last) = (Vec::new(), None);
    let close = |out: &mut Vec<u8>, last: &mut Option<usize>| {
        let end = out.len().next_multiple_of(block);
        if let Some(at) = last.take() {
            out[at + 4..at + 6].copy_from_slice(&((end - at) as u16).to_le_bytes());
        }
        out.resize(end, 0);
    };
    for (name, inode, kind) in names {
        let length = (8 + name.len()).next_multiple_of(4);
        if !out.is_empty() && out.len() % block + length > block || (out.len() % block == 0 && last.is_some()) {
            close(&mut out, &mut last);
        }
        last = Some(out.len());
        out.extend_from_slice(&inode.to_le_bytes());
        out.extend_from_slice(&(length as u16).to_le_bytes());
        out.extend_from_slice(&[name.len() as u8, kind]);
        out.extend_from_slice(name);
        out.resize(out.len().next_multiple_of(4), 0);
    }
    close(&mut out, &mut last);
    while out.len() < least * block {
        // One entry of nothing.
        let at = out.len();
        out.resize(at + block, 0);
        out[at + 4..at + 6].copy_from_slice(&(block as u16).to_le_bytes());
    }
    out
}
