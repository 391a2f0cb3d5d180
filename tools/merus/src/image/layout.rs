//! The structures of an ext4 file system as bytes, little-endian but for the journal's.
//!
//! Linux, Documentation/filesystems/ext4: "Super Block", "Block Group Descriptors", "Index Nodes", "Extent Tree", "Journal (jbd2)". What is made has
//! extents, types beside names, sparse copies of the superblock, a journal, and inodes of 256 bytes; no checksums, which `tune2fs` can add.

use super::BLOCK;
use super::plan::{
    BLOCK_EXTENTS, Extent, FIRST_INODE, GROUP, Geometry, INLINE_EXTENTS, INLINE_LINK, INODE, Inode, JOURNAL_INODE, Plan,
};
use super::tree::{Kind, MAX_LINKS, Node, Tree};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Features (ext4: "The Super Block", fields `s_feature_compat`, `s_feature_incompat`, `s_feature_ro_compat`).
mod feature {
    pub const JOURNAL: u32 = 4;
    pub const ATTRIBUTES: u32 = 8;
    pub const FOLDER_INDEX: u32 = 0x20;
    pub const TYPES: u32 = 2;
    pub const EXTENTS: u32 = 0x40;
    pub const SPARSE_COPIES: u32 = 1;
    pub const LARGE_FILES: u32 = 2;
    pub const MANY_FOLDERS: u32 = 0x20;
    pub const LARGE_INODES: u32 = 0x40;
}

/// An inode's flag: its block map is a tree of extents.
const EXTENTS_FLAG: u32 = 0x8_0000;
/// Bytes of an inode behind the first 128 that are in use.
const EXTRA: u16 = 32;

/// Bytes that are written field by field.
struct Record(Vec<u8>);

impl Record {
    fn new(size: u64) -> Self {
        Self(vec![0; size as usize])
    }
    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }
    fn half(&mut self, at: usize, value: u16) {
        self.put(at, &value.to_le_bytes());
    }
    fn word(&mut self, at: usize, value: u32) {
        self.put(at, &value.to_le_bytes());
    }
}

/// Writes all but the files' bytes, of which `file` has those already; the rest of it is zero. `identity` is what the file system's
/// identifiers are made of.
pub(super) fn write(file: &File, tree: &Tree, plan: &Plan, label: &str, identity: &[u8; 32]) -> io::Result<()> {
    let at = |block: u32| u64::from(block) * BLOCK;
    for (index, inode) in plan.inodes.iter().enumerate() {
        let number = index as u32 + 1;
        let geometry = &plan.geometry;
        let (group, place) = (index as u32 / geometry.inodes, index as u32 % geometry.inodes);
        let table = geometry.start(group) + geometry.copy(group) + 2;
        let node = inode.node.map(|node| &tree.nodes[node]);
        let bytes = match node {
            Some(node) => of_node(node, inode),
            None if number == JOURNAL_INODE && inode.size > 0 => of_journal(inode, tree.newest),
            None => continue,
        };
        file.write_all_at(&bytes.0, at(table) + u64::from(place) * u64::from(INODE))?;
        for (leaf, extents) in inode.leaves.iter().zip(leaves(inode)) {
            file.write_all_at(&extents.0, at(*leaf))?;
        }
        let own: &[u8] = match node.map(|node| &node.kind) {
            Some(Kind::Link(text)) => text,
            _ => &inode.folder,
        };
        let mut rest = own;
        for extent in inode.extents.iter().filter(|_| !own.is_empty()) {
            let (now, then) = rest.split_at(rest.len().min(extent.count as usize * BLOCK as usize));
            file.write_all_at(now, at(extent.start))?;
            rest = then;
        }
    }
    let journal = &plan.inodes[(JOURNAL_INODE - 1) as usize];
    if let Some(first) = journal.extents.first() {
        file.write_all_at(&journal_head(journal.size / BLOCK), at(first.start))?;
    }
    let descriptors = groups(file, tree, plan)?;
    let mut head = superblock(tree, plan, label, identity);
    for group in (0..plan.geometry.groups).filter(|group| Geometry::has_copy(*group)) {
        head.half(0x5a, group as u16);
        let start = at(plan.geometry.start(group));
        // Before the first one is room for a boot sector.
        file.write_all_at(&head.0, if group == 0 { 1024 } else { start })?;
        file.write_all_at(&descriptors, start + BLOCK)?;
    }
    Ok(())
}

/// Writes the groups' bitmaps, and gives their descriptors.
fn groups(file: &File, tree: &Tree, plan: &Plan) -> io::Result<Vec<u8>> {
    let geometry = &plan.geometry;
    let mut descriptors = Vec::new();
    for group in 0..geometry.groups {
        let (start, used) = (geometry.start(group), plan.used(group));
        let bitmaps = start + geometry.copy(group);
        let there = geometry.end(group) - start;
        let blocks = bitmap(|n| n < used || n >= there);
        let first = group * geometry.inodes;
        let taken = (plan.inodes.len() as u32).saturating_sub(first).min(geometry.inodes);
        let inodes = bitmap(|n| n < taken || n >= geometry.inodes);
        file.write_all_at(&blocks, u64::from(bitmaps) * BLOCK)?;
        file.write_all_at(&inodes, (u64::from(bitmaps) + 1) * BLOCK)?;
        let is_folder =
            |inode: &&Inode| inode.node.is_some_and(|node| matches!(tree.nodes[node].kind, Kind::Folder(_)));
        let own = plan.inodes.iter().skip(first as usize).take(geometry.inodes as usize);
        let folders = own.filter(is_folder).count() as u32;
        let mut record = Record::new(super::plan::DESCRIPTOR.into());
        record.word(0, bitmaps);
        record.word(4, bitmaps + 1);
        record.word(8, bitmaps + 2);
        // A group's counts have 16 bits each, and fit.
        record.half(12, (there - used) as u16);
        record.half(14, (geometry.inodes - taken) as u16);
        record.half(16, folders as u16);
        descriptors.extend_from_slice(&record.0);
    }
    Ok(descriptors)
}

/// A bitmap of one block.
fn bitmap(is_set: impl Fn(u32) -> bool) -> Vec<u8> {
    let byte = |n: u32| (0..8).fold(0, |byte, bit| byte | u8::from(is_set(8 * n + bit)) << bit);
    (0..GROUP / 8).map(byte).collect()
}

fn superblock(tree: &Tree, plan: &Plan, label: &str, identity: &[u8; 32]) -> Record {
    use feature::*;
    let (geometry, now) = (&plan.geometry, tree.newest as u32);
    let journal = &plan.inodes[(JOURNAL_INODE - 1) as usize];
    let inodes = geometry.inodes * geometry.groups;
    let mut record = Record::new(1024);
    record.word(0x00, inodes);
    record.word(0x04, geometry.blocks);
    record.word(0x0c, plan.free_blocks() as u32);
    record.word(0x10, inodes - plan.inodes.len() as u32);
    // Blocks, and the clusters that are none, of 1 KiB shifted by 2.
    record.word(0x18, 2);
    record.word(0x1c, 2);
    record.word(0x20, GROUP);
    record.word(0x24, GROUP);
    record.word(0x28, geometry.inodes);
    record.word(0x30, now);
    // Never checked for having been mounted often.
    record.half(0x36, u16::MAX);
    record.half(0x38, 0xef53);
    // Clean; goes on after errors; made by Linux; with inodes of any size.
    record.half(0x3a, 1);
    record.half(0x3c, 1);
    record.word(0x40, now);
    record.word(0x4c, 1);
    record.word(0x54, FIRST_INODE);
    record.half(0x58, INODE as u16);
    let with_journal = if journal.size > 0 { JOURNAL } else { 0 };
    record.word(0x5c, ATTRIBUTES | FOLDER_INDEX | with_journal);
    record.word(0x60, TYPES | EXTENTS);
    record.word(0x64, SPARSE_COPIES | LARGE_FILES | MANY_FOLDERS | LARGE_INODES);
    let (mut uuid, mut seed) = ([0; 16], [0; 16]);
    uuid.copy_from_slice(&identity[..16]);
    seed.copy_from_slice(&identity[16..]);
    // RFC 9562, "UUID Version 8": its maker's own way.
    uuid[6] = uuid[6] & 0x0f | 0x80;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    record.put(0x68, &uuid);
    record.put(0x78, label.as_bytes());
    record.put(0xec, &seed);
    // Names are hashed by half MD4, their bytes taken as signed.
    record.0[0xfc] = 1;
    record.word(0x160, 1);
    // Attributes of users, and access lists.
    record.word(0x100, 0xc);
    record.word(0x108, now);
    if journal.size > 0 {
        record.word(0xe0, JOURNAL_INODE);
        record.0[0xfd] = 1;
        record.put(0x10c, &map(journal));
        record.word(0x10c + 60, (journal.size >> 32) as u32);
        record.word(0x10c + 64, journal.size as u32);
    }
    record.half(0x15c, EXTRA);
    record.half(0x15e, EXTRA);
    record
}

/// The head of a journal with nothing in it, big-endian.
fn journal_head(blocks: u64) -> Vec<u8> {
    const MAGIC: u32 = 0xc03b_3998;
    const SUPERBLOCK_V2: u32 = 4;
    // Kind; sequence of its own; size of a block, blocks; first block of the log, first sequence; and, at 64, one user.
    let words = [MAGIC, SUPERBLOCK_V2, 0, BLOCK as u32, blocks as u32, 1, 1];
    let mut out: Vec<u8> = words.into_iter().flat_map(u32::to_be_bytes).collect();
    out.resize(64, 0);
    out.extend_from_slice(&1u32.to_be_bytes());
    out.resize(1024, 0);
    out
}

/// The seconds and the two bits above them, and nanoseconds, of which there are none.
fn time(seconds: i64) -> (u32, u32) {
    let seconds = seconds.clamp(0, (1 << 34) - 1);
    let low = seconds as u32;
    let above = (seconds - i64::from(low as i32)) >> 32;
    (low, above as u32 & 3)
}

/// What all inodes have.
fn basic(mode: u16, inode: &Inode, seconds: i64) -> Record {
    let mut record = Record::new(INODE.into());
    record.half(0x00, mode);
    record.word(0x04, inode.size as u32);
    record.word(0x6c, (inode.size >> 32) as u32);
    let (low, above) = time(seconds);
    // Access, change, modification; creation.
    [0x08, 0x0c, 0x10, 0x90].into_iter().for_each(|at| record.word(at, low));
    [0x84, 0x88, 0x8c, 0x94].into_iter().for_each(|at| record.word(at, above));
    // A folder with more says that it has one (ext4, feature `dir_nlink`); of other files there are not so many names.
    record.half(0x1a, if inode.links > MAX_LINKS { 1 } else { inode.links as u16 });
    // In units of 512 bytes.
    let blocks: u64 =
        inode.extents.iter().map(|extent| u64::from(extent.count)).sum::<u64>() + inode.leaves.len() as u64;
    record.word(0x1c, (blocks * (BLOCK / 512)) as u32);
    record.half(0x80, EXTRA);
    record
}

fn of_journal(inode: &Inode, seconds: i64) -> Record {
    let mut record = basic(0o100_600, &Inode { links: 1, ..inode.clone() }, seconds);
    record.word(0x20, EXTENTS_FLAG);
    record.put(0x28, &map(inode));
    record
}

fn of_node(node: &Node, inode: &Inode) -> Record {
    let kind: u16 = match &node.kind {
        Kind::File { .. } => 0o100_000,
        Kind::Folder(_) => 0o040_000,
        Kind::Link(_) => 0o120_000,
        Kind::Character(..) => 0o020_000,
        Kind::Block(..) => 0o060_000,
        Kind::Pipe => 0o010_000,
    };
    let mut record = basic(kind | node.mode, inode, node.time);
    record.half(0x02, node.uid as u16);
    record.half(0x78, (node.uid >> 16) as u16);
    record.half(0x18, node.gid as u16);
    record.half(0x7a, (node.gid >> 16) as u16);
    match &node.kind {
        Kind::Link(text) if text.len() <= INLINE_LINK => record.put(0x28, text),
        Kind::Character(major, minor) | Kind::Block(major, minor) => {
            let (major, minor) = (*major, *minor);
            if major < 256 && minor < 256 {
                record.word(0x28, major << 8 | minor);
            } else {
                record.word(0x2c, minor & 0xff | major << 8 | (minor & !0xff) << 12);
            }
        }
        Kind::Pipe => {}
        Kind::File { .. } | Kind::Folder(_) | Kind::Link(_) => {
            record.word(0x20, EXTENTS_FLAG);
            record.put(0x28, &map(inode));
        }
    }
    record
}

/// The head of a list of extents, or of the blocks that hold them.
fn extent_head(record: &mut Record, entries: usize, most: usize, depth: u16) {
    record.half(0, 0xf30a);
    record.half(2, entries as u16);
    record.half(4, most as u16);
    record.half(6, depth);
}

/// Extents, from this block of the file on; the block behind them.
fn put_extents(record: &mut Record, extents: &[Extent], mut first: u32) -> u32 {
    for (n, extent) in extents.iter().enumerate() {
        let at = 12 + 12 * n;
        record.word(at, first);
        record.half(at + 4, extent.count as u16);
        record.word(at + 8, extent.start);
        first += extent.count;
    }
    first
}

/// What an inode says of its blocks, 60 bytes.
fn map(inode: &Inode) -> Vec<u8> {
    let mut record = Record::new(60);
    if inode.leaves.is_empty() {
        extent_head(&mut record, inode.extents.len(), INLINE_EXTENTS, 0);
        put_extents(&mut record, &inode.extents, 0);
        return record.0;
    }
    extent_head(&mut record, inode.leaves.len(), INLINE_EXTENTS, 1);
    let mut first = 0;
    for (n, (leaf, extents)) in inode.leaves.iter().zip(inode.extents.chunks(BLOCK_EXTENTS)).enumerate() {
        record.word(12 + 12 * n, first);
        record.word(12 + 12 * n + 4, *leaf);
        first += extents.iter().map(|extent| extent.count).sum::<u32>();
    }
    record.0
}

/// The blocks with the extents of an inode that has no room for them.
fn leaves(inode: &Inode) -> impl Iterator<Item = Record> {
    let mut first = 0;
    inode.extents.chunks(BLOCK_EXTENTS).map(move |extents| {
        let mut record = Record::new(BLOCK);
        extent_head(&mut record, extents.len(), BLOCK_EXTENTS, 0);
        first = put_extents(&mut record, extents, first);
        record
    })
}

/// An inode's map and the blocks that it leads to.
#[cfg(test)]
pub(super) fn extent_tree(inode: &Inode) -> (Vec<u8>, Vec<Vec<u8>>) {
    (map(inode), leaves(inode).map(|leaf| leaf.0).collect())
}
