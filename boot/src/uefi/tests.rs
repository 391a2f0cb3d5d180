//! The new tree as Merus reads it, memory maps, and what loaders hand over as text.

use super::memory::{MemoryMap, Use};
use super::options::{self, NoText, Path};
use super::tree::{Chosen, Tree, TreeError, total_size};
use addr::{Pa, Span};
use config::board;
use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};
use dtoolkit::{Node, Property};
use std::format;
use std::string::{String, ToString};
use std::vec;
use std::vec::Vec;

/// QEMU's tree of its board, as its firmware passes it on.
const VIRT: &[u8] = include_bytes!("../../../hypervisor/config/src/board/data/virt-gicv3.dtb");

const WRITE_BACK: u64 = 8;
const RUNTIME: u64 = 1 << 63;

fn span(start: u64, size: u64) -> Span<Pa> {
    Span::new(Pa::new(start), size).unwrap()
}

/// A descriptor each: type, start, pages, attributes.
fn map(stride: usize, descriptors: &[(u32, u64, u64, u64)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (kind, start, pages, attributes) in descriptors {
        let end = bytes.len() + stride;
        bytes.extend(kind.to_le_bytes());
        bytes.extend([0xa5; 4]);
        bytes.extend([*start, 0xa5a5_a5a5, *pages, *attributes].iter().flat_map(|n| n.to_le_bytes()));
        bytes.resize(end, 0xa5);
    }
    bytes
}

fn spans(map: &MemoryMap<'_>, which: Use) -> Vec<Span<Pa>> {
    let mut found = Vec::new();
    map.each::<()>(which, &mut |span| {
        found.push(span);
        Ok(())
    })
    .unwrap();
    found
}

/// A board's memory map: RAM from 1 GiB on, with the firmware's islands in it and a device.
fn board_map() -> Vec<u8> {
    map(
        48,
        &[
            (11, 0x0400_0000, 0x4000, 1 | RUNTIME),
            (7, 0x4000_0000, 0x1_0000, WRITE_BACK),
            (4, 0x5000_0000, 0x100, WRITE_BACK),
            (2, 0x5010_0000, 0x100, WRITE_BACK),
            (6, 0x5020_0000, 0x10, WRITE_BACK | RUNTIME),
            (5, 0x5021_0000, 0x10, WRITE_BACK | RUNTIME),
            (3, 0x5022_0000, 0x10, WRITE_BACK),
            (0, 0x5023_0000, 0x10, WRITE_BACK),
            (9, 0x5024_0000, 0x10, WRITE_BACK),
            (7, 0x1_0000_0000, 0x10_0000, WRITE_BACK),
        ],
    )
}

fn rewritten(old: &[u8], map: &[u8], chosen: &Chosen<'_>) -> Result<Vec<u8>, TreeError> {
    let mut out = vec![0xee; 1 << 20];
    let size = Tree::new(old)?.rewrite(&MemoryMap::new(map, 48).unwrap(), chosen, &mut out)?;
    assert!(out[size..].iter().all(|byte| *byte == 0xee), "written behind its end");
    out.truncate(size);
    assert_eq!(total_size(&out), Some(size));
    Ok(out)
}

#[test]
fn a_memory_map_says_what_is_free_and_what_is_kept() {
    let bytes = board_map();
    let map = MemoryMap::new(&bytes, 48).unwrap();
    // Conventional, boot services' and loaders' memory that touch are one.
    let free = [span(0x4000_0000, 0x1020_0000), span(0x5022_0000, 0x1_0000), span(0x1_0000_0000, 1 << 32)];
    assert_eq!(spans(&map, Use::Free), free);
    assert_eq!(spans(&map, Use::Kept), [span(0x5020_0000, 0x2_0000), span(0x5024_0000, 0x1_0000)]);
}

#[test]
fn memory_that_is_no_ordinary_ram_is_nobodys() {
    let odd = [
        (7, 0x1000, 1, 1),                            // it cannot be cached
        (7, 0x2000, 1, WRITE_BACK | 1 << 18),         // for a purpose of its own
        (8, 0x3000, 1, WRITE_BACK),                   // broken
        (14, 0x4000, 1, WRITE_BACK),                  // persistent
        (15, 0x5000, 1, WRITE_BACK),                  // not accepted
        (0x8000_0000, 0x6000, 1, WRITE_BACK),         // an operating system's own
        (7, u64::MAX - 0xfff, 2, WRITE_BACK),         // wraps
        (7, 0x7000, u64::MAX / 4096 + 2, WRITE_BACK), // wraps
        (7, 0x8000, 0, WRITE_BACK),                   // empty
    ];
    let mut bytes = map(40, &odd);
    bytes.extend([7, 0, 0, 0]); // a descriptor cut off
    let whole = MemoryMap::new(&bytes, 40).unwrap();
    assert_eq!((spans(&whole, Use::Free), spans(&whole, Use::Kept)), (vec![], vec![]));
    let runtime = map(40, &[(7, 0x1000, 1, WRITE_BACK | RUNTIME)]);
    assert_eq!(spans(&MemoryMap::new(&runtime, 40).unwrap(), Use::Kept), [span(0x1000, 0x1000)]);
    assert!(MemoryMap::new(&bytes, 39).is_none() && MemoryMap::new(&bytes, 0).is_none());
}

/// What Merus makes of the new tree: RAM is the map's, what stays the firmware's is reserved, the rest is as it was.
#[test]
fn merus_reads_from_the_new_tree_what_uefi_said() {
    let chosen = Chosen { bootargs: Some(b"merus.idle=stay x=1"), initrd: Some(span(0x5010_0000, 0x1234)) };
    let new = rewritten(VIRT, &board_map(), &chosen).unwrap();
    let (old, board) = (board::parse(VIRT).unwrap(), board::parse(&new).unwrap());
    // The hole is what the map calls reserved.
    let ram = [span(0x4000_0000, 0x1023_0000), span(0x5024_0000, 0x1_0000), span(0x1_0000_0000, 1 << 32)];
    assert_eq!(board.ram, ram);
    assert_eq!(board.reserved, [span(0x5020_0000, 0x2_0000), span(0x5024_0000, 0x1_0000)]);
    assert_eq!(board.bootargs, "merus.idle=stay x=1");
    assert_eq!(board.initrd, Some(span(0x5010_0000, 0x1234)));
    assert_eq!((board.model, board.cpus, board.gic), (old.model, old.cpus, old.gic));
    assert_eq!((board.uart, board.psci, board.ppis), (old.uart, old.psci, old.ppis));
    assert!(old.rng_seed.is_some() && board.rng_seed.is_some(), "/chosen keeps what is not replaced");
}

#[test]
fn a_second_rewriting_replaces_the_first() {
    let first = Chosen { bootargs: Some(b"first"), initrd: Some(span(0x4000_0000, 0x1000)) };
    let once = rewritten(VIRT, &board_map(), &first).unwrap();
    assert_eq!(Tree::new(&once).unwrap().initrd(), Some(span(0x4000_0000, 0x1000)));
    let kept = rewritten(&once, &map(48, &[(7, 0x8000_0000, 0x100, WRITE_BACK)]), &Chosen::default()).unwrap();
    let board = board::parse(&kept).unwrap();
    assert_eq!((board.bootargs.as_str(), board.initrd), ("first", Some(span(0x4000_0000, 0x1000))));
    assert_eq!(board.ram, [span(0x8000_0000, 0x10_0000)]);
    // The old tree's reservations stay: its maker may know more than the map says.
    assert_eq!(board.reserved, [span(0x5020_0000, 0x2_0000), span(0x5024_0000, 0x1_0000)]);
    let second = Chosen { bootargs: Some(b""), initrd: Some(span(0x4100_0000, 8)) };
    let board = board::parse(&rewritten(&kept, &board_map(), &second).unwrap()).unwrap();
    assert_eq!((board.bootargs.as_str(), board.initrd), ("", Some(span(0x4100_0000, 8))));
}

fn property(name: &str, value: &[u8]) -> DeviceTreeProperty {
    DeviceTreeProperty::new(name, value.to_vec()).unwrap()
}

/// A small tree with other cells, no `/chosen`, and memory nodes of both forms.
fn small(address_cells: u8, size_cells: u8) -> Vec<u8> {
    let mut tree = DeviceTree::new();
    tree.root.add_property(property("#address-cells", &[0, 0, 0, address_cells]));
    tree.root.add_property(property("#size-cells", &[0, 0, 0, size_cells]));
    for (name, memory) in [("memory@0", true), ("cpus", false), ("ram@5000", true), ("memory-controller@1", false)] {
        let mut node = DeviceTreeNode::new(name).unwrap();
        node.add_property(property("x", b"1234"));
        node.add_child(DeviceTreeNode::new("inner").unwrap());
        if memory {
            node.add_property(property("device_type", b"memory\0"));
        }
        tree.root.add_child(node);
    }
    tree.to_dtb()
}

#[test]
fn other_cells_other_nodes() {
    let bytes = map(48, &[(7, 0x8000_0000, 0x10_0000, WRITE_BACK), (7, 0x2_0000_0000, 1, WRITE_BACK)]);
    let read = |cells: (u8, u8)| {
        let new = rewritten(&small(cells.0, cells.1), &bytes, &Chosen { bootargs: Some(b"a"), initrd: None }).unwrap();
        let tree = DeviceTree::from_fdt(&dtoolkit::fdt::Fdt::new(&new).unwrap());
        let names: Vec<String> = tree.root.children().map(|node| node.name().to_string()).collect();
        assert_eq!(names, ["cpus", "memory-controller@1", "chosen", "memory"]);
        let reg = tree.find_node("/memory").unwrap().property("reg").unwrap().value().to_vec();
        reg.chunks(4).map(|cell| u32::from_be_bytes(cell.try_into().unwrap())).collect::<Vec<_>>()
    };
    assert_eq!(read((2, 2)), [0, 0x8000_0000, 1, 0, 2, 0, 0, 0x1000]);
    // What 32 bits cannot say is said in pieces, or not at all.
    assert_eq!(read((2, 1)), [0, 0x8000_0000, 0x8000_0000, 1, 0, 0x8000_0000, 2, 0, 0x1000]);
    assert_eq!(read((1, 1)), [0x8000_0000, 0x8000_0000]);
    let error = rewritten(&small(3, 2), &bytes, &Chosen::default());
    assert_eq!(error, Err(TreeError::Cells));
}

#[test]
fn a_tree_that_describes_no_board_is_known() {
    let virt = Tree::new(VIRT).unwrap();
    assert!(
        virt.has(b"cpus") && virt.has(b"chosen") && virt.has(b"memory") && !virt.has(b"cpu") && !virt.has(b"cpu@0")
    );
    let empty = DeviceTree::new().to_dtb();
    assert!(!Tree::new(&empty).unwrap().has(b"cpus"));
    assert_eq!(Tree::new(&empty).unwrap().initrd(), None);
}

/// Whatever is wrong with a tree, nothing panics, and what is written is a tree or nothing.
#[test]
fn damaged_trees_are_refused_or_rewritten() {
    let (bytes, chosen) = (board_map(), Chosen { bootargs: Some(b"a"), initrd: Some(span(0x4000_0000, 1)) });
    let map = MemoryMap::new(&bytes, 48).unwrap();
    let mut out = vec![0; 1 << 16];
    let mut refused = 0;
    for at in (0..64).chain((64..VIRT.len()).step_by(37)) {
        for flip in [0x01, 0x80, 0xff] {
            let mut bad = VIRT.to_vec();
            bad[at] ^= flip;
            let Ok(tree) = Tree::new(&bad) else {
                refused += 1;
                continue;
            };
            let _ = (tree.initrd(), tree.has(b"cpus"));
            match tree.rewrite(&map, &chosen, &mut out) {
                Ok(size) => assert!(Tree::new(&out[..size]).is_ok(), "byte {at:#x}"),
                Err(_) => refused += 1,
            }
        }
    }
    assert!(refused > 50, "{refused}");
    let tree = Tree::new(VIRT).unwrap();
    let size = tree.rewrite(&map, &chosen, &mut out).unwrap();
    for short in [0, 39, 40, 100, size - 1] {
        assert_eq!(tree.rewrite(&map, &chosen, &mut out[..short]), Err(TreeError::NoRoom), "{short}");
    }
    assert!(Tree::new(&VIRT[..VIRT.len() - 1]).is_err() || total_size(VIRT) != Some(VIRT.len()));
    assert_eq!(total_size(b"MERUSBDL"), None);
}

fn line(text: &str) -> Result<String, NoText> {
    let mut out = [0; options::LONGEST];
    options::command_line(text.encode_utf16(), &mut out).map(|line| String::from_utf8(line.to_vec()).unwrap())
}

#[test]
fn load_options_are_a_command_line_or_not() {
    assert_eq!(line("merus.idle=stay  b \0behind"), Ok("merus.idle=stay  b".to_string()));
    assert_eq!(line(""), Ok(String::new()));
    assert_eq!(line("\u{1}\u{2}"), Err(NoText::Binary));
    assert_eq!(line("größer"), Err(NoText::Binary));
    assert_eq!(line(&"x".repeat(options::LONGEST)), Ok("x".repeat(options::LONGEST)));
    assert_eq!(line(&"x".repeat(options::LONGEST + 1)), Err(NoText::TooLong));
}

#[test]
fn the_last_initrd_of_a_command_line_counts() {
    assert_eq!(options::initrd(b"a initrd=/b initrd=\\c\\d e"), Some(&b"\\c\\d"[..]));
    assert_eq!(options::initrd(b"noinitrd=/b initrd= initrd"), None);
}

#[test]
fn paths_are_the_firmwares() {
    let join = |base: Path, part: &str| base.join(part.encode_utf16());
    let image = join(Path::root(), "/EFI\\BOOT//BOOTAA64.EFI\0rest").unwrap();
    assert_eq!(format!("{image}"), "\\EFI\\BOOT\\BOOTAA64.EFI");
    assert_eq!(image.units().last(), Some(&0));
    assert_eq!(image.units().len(), 23);
    let beside = join(image.parent(), "bundle.merus").unwrap();
    assert_eq!(format!("{beside}"), "\\EFI\\BOOT\\bundle.merus");
    assert_eq!(format!("{}", join(Path::root().parent(), "x").unwrap()), "\\x");
    assert_eq!(format!("{}", join(join(Path::root(), "\\").unwrap(), "x").unwrap()), "\\x");
    assert!(join(Path::root(), &"x".repeat(options::PATH)).is_none());
    assert_eq!(join(Path::root(), &"x".repeat(options::PATH - 2)).unwrap().units().len(), options::PATH);
}
