//! What an archive holds, as a tree.

use super::ImageError;
use super::source::Source;
use sha2::{Digest, Sha256};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read};
use std::rc::Rc;
use tar::{Archive, Entry, EntryType};

/// The most bytes of a file's name, without the folders that it lies in.
const MAX_NAME: usize = 255;
/// The most bytes of a symbolic link's text: a kernel reads it with a zero behind it into a page.
const MAX_LINK: usize = 4095;
/// The most names of one file.
pub(super) const MAX_LINKS: u64 = 65000;
/// The root's place among the nodes.
pub(super) const ROOT: usize = 0;
/// The folder that a check of the file system puts what it finds into, which must be there.
pub(super) const LOST_AND_FOUND: &[u8] = b"lost+found";

/// What a node is.
#[derive(Debug)]
pub(super) enum Kind {
    /// A folder, with the nodes in it by name.
    Folder(BTreeMap<Vec<u8>, usize>),
    /// A file of so many bytes, which are those of this entry of the archive.
    File { size: u64, entry: u64 },
    /// A symbolic link.
    Link(Vec<u8>),
    /// A character device.
    Character(u32, u32),
    /// A block device.
    Block(u32, u32),
    /// A pipe.
    Pipe,
}

/// A file of any kind.
#[derive(Debug)]
pub(super) struct Node {
    pub kind: Kind,
    /// The permissions with set-uid, set-gid and sticky.
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    /// In seconds since 1970.
    pub time: i64,
}

/// What an archive holds.
#[derive(Debug)]
pub(super) struct Tree {
    /// Those that nothing leads to were replaced by later entries of the archive.
    pub nodes: Vec<Node>,
    /// The newest time.
    pub newest: i64,
    /// Entries with extended attributes.
    pub without_attributes: u64,
    /// Names of files that have several.
    names: HashMap<usize, u64>,
}

/// Goes over an archive's entries, each with its number. What is returned is the SHA-256 of what was read.
pub(super) fn each_entry(
    source: &Source,
    progress: &mut dyn FnMut(u64),
    mut with: impl FnMut(u64, &mut Entry<'_, Hashing<'_>>) -> Result<(), ImageError>,
) -> Result<[u8; 32], ImageError> {
    let (count, hash) = (Rc::new(Cell::new(0)), Rc::new(RefCell::new(Sha256::new())));
    let inner = source.reader(count.clone())?;
    let mut archive = Archive::new(Hashing { inner, hash: hash.clone() });
    let entries = archive.entries().map_err(|error| source.damaged(&error))?;
    for (number, entry) in entries.enumerate() {
        let mut entry = entry.map_err(|error| source.damaged(&error))?;
        with(number as u64, &mut entry)?;
        progress(count.get());
    }
    drop(archive);
    Ok(Rc::into_inner(hash).map(RefCell::into_inner).unwrap_or_default().finalize().into())
}

/// A reader that sums up what is read.
pub(super) struct Hashing<'a> {
    inner: Box<dyn Read + 'a>,
    hash: Rc<RefCell<Sha256>>,
}

impl Read for Hashing<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hash.borrow_mut().update(&buffer[..read]);
        Ok(read)
    }
}

/// A name for a message.
fn shown(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}

/// The parts of a path below the root; a leading slash and `.` lead nowhere.
fn parts(path: &[u8]) -> Result<Vec<&[u8]>, ImageError> {
    let parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".").collect();
    let wrong = |part: &&&[u8]| **part == b".." || part.len() > MAX_NAME || part.contains(&0);
    match parts.iter().find(wrong) {
        Some(_) => Err(ImageError::Name { name: shown(path) }),
        None => Ok(parts),
    }
}

impl Tree {
    /// Reads the archive. Its digest is returned as well.
    pub(super) fn read(source: &Source, progress: &mut dyn FnMut(u64)) -> Result<(Self, [u8; 32]), ImageError> {
        let root = Node { kind: Kind::Folder(BTreeMap::new()), mode: FOLDER_UNSPOKEN, uid: 0, gid: 0, time: 0 };
        let mut tree = Self { nodes: vec![root], newest: 0, without_attributes: 0, names: HashMap::new() };
        let mut any = false;
        let digest = each_entry(source, progress, |number, entry| {
            any = true;
            tree.add(source, number, entry)
        })?;
        if !any {
            return Err(ImageError::Empty { path: source.path().to_owned() });
        }
        tree.complete()?;
        Ok((tree, digest))
    }

    /// Folders that the archive does not speak of are as old as all of it.
    fn complete(&mut self) -> Result<(), ImageError> {
        let newest = self.newest;
        let place = self.folder(&[LOST_AND_FOUND], newest)?;
        if self.nodes[place].mode == FOLDER_UNSPOKEN {
            self.nodes[place].mode = 0o700;
        }
        for node in self.nodes.iter_mut().filter(|node| node.mode == FOLDER_UNSPOKEN) {
            (node.mode, node.time) = (0o755, newest);
        }
        Ok(())
    }

    fn add(&mut self, source: &Source, number: u64, entry: &mut Entry<'_, Hashing<'_>>) -> Result<(), ImageError> {
        let wrong = |error: io::Error| source.damaged(&error);
        let kind = entry.header().entry_type();
        if kind == EntryType::XGlobalHeader {
            return Ok(());
        }
        let attributes = entry.pax_extensions().map_err(wrong)?;
        let has = |key: &[u8]| key.starts_with(b"SCHILY.xattr.") || key.starts_with(b"LIBARCHIVE.xattr.");
        if attributes.is_some_and(|mut all| all.any(|one| one.is_ok_and(|one| has(one.key_bytes())))) {
            self.without_attributes += 1;
        }
        let path = entry.path_bytes().into_owned();
        let parts = parts(&path)?;
        let header = entry.header();
        let number_of = |value: io::Result<u64>| value.map(|value| value as u32).map_err(wrong);
        let node = Node {
            kind: Kind::Pipe,
            mode: (header.mode().map_err(wrong)? & 0o7777) as u16,
            uid: number_of(header.uid())?,
            gid: number_of(header.gid())?,
            time: header.mtime().map_err(wrong)?.min(i64::MAX as u64) as i64,
        };
        self.newest = self.newest.max(node.time);
        let device = |entry: &Entry<'_, _>| -> Result<(u32, u32), ImageError> {
            let (major, minor) = (entry.header().device_major(), entry.header().device_minor());
            Ok((major.map_err(wrong)?.unwrap_or(0), minor.map_err(wrong)?.unwrap_or(0)))
        };
        let target = || entry.link_name_bytes().unwrap_or_default().into_owned();
        let kind = match kind {
            EntryType::Directory => return self.add_folder(&parts, node),
            EntryType::Link => return self.add_name(&path, &parts, &target()),
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                // What old archives say of a folder.
                if path.ends_with(b"/") {
                    return self.add_folder(&parts, node);
                }
                Kind::File { size: entry.size(), entry: number }
            }
            EntryType::Symlink => match target() {
                long if long.len() > MAX_LINK || long.is_empty() => {
                    return Err(ImageError::LongLink { name: shown(&path), length: long.len() });
                }
                target => Kind::Link(target),
            },
            EntryType::Char => device(entry).map(|(major, minor)| Kind::Character(major, minor))?,
            EntryType::Block => device(entry).map(|(major, minor)| Kind::Block(major, minor))?,
            EntryType::Fifo => Kind::Pipe,
            other => return Err(ImageError::Kind { name: shown(&path), kind: char::from(other.as_byte()) }),
        };
        self.nodes.push(Node { kind, ..node });
        let index = self.nodes.len() - 1;
        self.put(&path, &parts, index)
    }

    /// Gives a node a name, in the place of what has it.
    fn put(&mut self, path: &[u8], parts: &[&[u8]], node: usize) -> Result<(), ImageError> {
        let Some((name, above)) = parts.split_last() else { return Err(ImageError::Name { name: shown(path) }) };
        let folder = self.folder(above, 0)?;
        let before = match &self.nodes[folder].kind {
            Kind::Folder(names) => names.get(*name).copied(),
            _ => None,
        };
        if before.is_some_and(|before| matches!(self.nodes[before].kind, Kind::Folder(_))) {
            return Err(ImageError::Folder { name: shown(path) });
        }
        if let Kind::Folder(names) = &mut self.nodes[folder].kind {
            names.insert(name.to_vec(), node);
        }
        Ok(())
    }

    /// Another name of a file that is there.
    fn add_name(&mut self, path: &[u8], parts_of: &[&[u8]], target: &[u8]) -> Result<(), ImageError> {
        let found = self.find(&parts(target)?);
        let Some(node) = found.filter(|node| !matches!(self.nodes[*node].kind, Kind::Folder(_))) else {
            return Err(ImageError::NoTarget { name: shown(path), target: shown(target) });
        };
        let names = self.names.entry(node).or_insert(1);
        *names += 1;
        if *names > MAX_LINKS {
            return Err(ImageError::Links { name: shown(path) });
        }
        self.put(path, parts_of, node)
    }

    fn find(&self, parts: &[&[u8]]) -> Option<usize> {
        parts.iter().try_fold(ROOT, |at, part| match &self.nodes[at].kind {
            Kind::Folder(names) => names.get(*part).copied(),
            _ => None,
        })
    }

    fn add_folder(&mut self, parts: &[&[u8]], node: Node) -> Result<(), ImageError> {
        // A folder takes the place of a file.
        if let Some((name, above)) = parts.split_last() {
            let above = self.folder(above, 0)?;
            let file = |at: &usize| !matches!(self.nodes[*at].kind, Kind::Folder(_));
            let before = self.find(parts).filter(file);
            if let (Some(_), Kind::Folder(names)) = (before, &mut self.nodes[above].kind) {
                names.remove(*name);
            }
        }
        let at = self.folder(parts, 0)?;
        let there = &mut self.nodes[at];
        (there.mode, there.uid, there.gid, there.time) = (node.mode, node.uid, node.gid, node.time);
        Ok(())
    }

    /// The folder of this path, made where it is missing.
    fn folder(&mut self, parts: &[&[u8]], time: i64) -> Result<usize, ImageError> {
        let mut at = ROOT;
        for (depth, part) in parts.iter().enumerate() {
            let new = self.nodes.len();
            let Kind::Folder(names) = &mut self.nodes[at].kind else {
                let (name, above) = (parts.join(&b'/'), parts[..depth].join(&b'/'));
                return Err(ImageError::Below { name: shown(&name), above: shown(&above) });
            };
            at = *names.entry(part.to_vec()).or_insert(new);
            if at == new {
                let kind = Kind::Folder(BTreeMap::new());
                self.nodes.push(Node { kind, mode: FOLDER_UNSPOKEN, uid: 0, gid: 0, time });
            }
        }
        match &self.nodes[at].kind {
            Kind::Folder(_) => Ok(at),
            _ => Err(ImageError::Below { name: shown(&parts.join(&b'/')), above: shown(&parts.join(&b'/')) }),
        }
    }
}

/// The mode, until all of the archive is read, of a folder that only names of files in it tell of.
const FOLDER_UNSPOKEN: u16 = u16::MAX;
