//! What QEMU's Raspberry Pi 4 is started with: its tree in other shapes, and TF-A in front of the image.
//!
//! QEMU's machine always has 4 CPUs and two UARTs; how many CPUs there are and which UART the console is on is for the tree to say.
//! Where TF-A runs first nobody but us has a word in the tree: QEMU neither loads it nor tells it of RAM, bundle or command line.

use crate::qemu::Machine;
use anyhow::{Context as _, Result, bail, ensure};
use dtoolkit::fdt::Fdt;
use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};
use dtoolkit::{Node, ToPropertyValue};
use std::fs;
use std::path::{Path, PathBuf};

/// QEMU's name of the machine.
pub const NAME: &str = "raspi4b";
/// The mini-UART's node.
const MINI_UART: &str = "/soc/serial@7e215040";
/// The SD controller that QEMU's card is at.
const CARD: &str = "/soc/mmc@7e300000";
/// Where the image is put for TF-A: where a Raspberry Pi's firmware loads a kernel.
const IMAGE_AT: u32 = 0x8_0000;
/// Where QEMU itself puts a tree for a kernel.
const TREE_AT: u32 = 0x0800_0000;
/// Where the bundle is put.
const BUNDLE_AT: u32 = 0x1000_0000;
/// The RAM that QEMU's firmware leaves to the CPUs, in bytes from 0.
const RAM: u32 = 0x3c00_0000;
/// What the first of the four words says in which the firmware tells TF-A of the image and its tree, until it has (TF-A,
/// "Raspberry Pi 4"): magic, version, address of the tree, address of the image.
const STUB_MAGIC: u32 = 0x5afe_570b;
/// Where these words are in bl31.bin.
const STUB_AT: usize = 0xf0;

/// How a tree differs from the board's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// CPUs that it names; the others stay where they wait.
    pub cpus: u32,
    /// Whether the console is the mini-UART.
    pub mini_uart: bool,
    /// Whether there is an SD card. QEMU has it at the controller that the board has Wi-Fi at.
    pub card: bool,
    /// What it says beside that where QEMU does not add it.
    pub handed: Option<Handed>,
}

/// What a boot loader writes into a tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Handed {
    /// Bytes of the bundle, if there is one.
    pub bundle: Option<u32>,
    /// Merus' command line.
    pub bootargs: Option<String>,
}

/// The tree `blob` of the board in that shape.
///
/// # Errors
/// It has not the nodes that the Raspberry Pi 4's has.
pub fn shaped(blob: &[u8], shape: &Shape) -> Result<Vec<u8>> {
    let fdt = Fdt::new(blob).map_err(|error| anyhow::anyhow!("the board's tree: {error}"))?;
    let mut tree = DeviceTree::from_fdt(&fdt);
    let cpus = tree.find_node_mut("/cpus").context("no /cpus")?;
    let names: Vec<String> = cpus.children_mut().map(|cpu| cpu.name().to_owned()).collect();
    let names = names.iter().filter(|name| name.starts_with("cpu@"));
    ensure!((1..=names.clone().count()).contains(&(shape.cpus as usize)), "the board has no {} CPUs", shape.cpus);
    for name in names.skip(shape.cpus as usize) {
        cpus.remove_child(name);
    }
    if shape.mini_uart {
        set(tree.find_node_mut(MINI_UART).context("no mini-UART")?, "status", "okay")?;
        set(tree.find_node_mut("/aliases").context("no /aliases")?, "serial1", MINI_UART)?;
        set(tree.find_node_mut("/chosen").context("no /chosen")?, "stdout-path", "serial1:115200n8")?;
    }
    if shape.card {
        let host = tree.find_node_mut(CARD).context("no SD controller")?;
        set(host, "status", "okay")?;
        host.remove_child("wifi@1");
        host.remove_property("non-removable");
    }
    if let Some(handed) = &shape.handed {
        set(tree.find_node_mut("/memory@0").context("no /memory@0")?, "reg", [0, 0, RAM])?;
        let chosen = tree.find_node_mut("/chosen").context("no /chosen")?;
        if let Some(size) = handed.bundle {
            set(chosen, "linux,initrd-start", BUNDLE_AT)?;
            set(chosen, "linux,initrd-end", BUNDLE_AT + size)?;
        }
        if let Some(bootargs) = &handed.bootargs {
            set(chosen, "bootargs", bootargs.as_str())?;
        }
    }
    Ok(tree.to_dtb())
}

/// TF-A's bl31.bin, told where image and tree are as the board's firmware tells it.
fn told(mut bl31: Vec<u8>) -> Result<Vec<u8>> {
    let Some((words, _)) = bl31.get_mut(STUB_AT..).and_then(|rest| rest.split_first_chunk_mut::<16>()) else {
        bail!("bl31.bin ends at {} bytes", bl31.len());
    };
    ensure!(words[..4] == STUB_MAGIC.to_le_bytes(), "bl31.bin has no stub magic: Debian has changed its form");
    for (word, value) in words.chunks_exact_mut(4).zip([0, 0, TREE_AT, IMAGE_AT]) {
        word.copy_from_slice(&value.to_le_bytes());
    }
    Ok(bl31)
}

/// Has TF-A's `bl31` run first, which starts the machine's image and stays for PSCI; files are made in `dir`.
///
/// # Errors
/// Those of the file system; what of TF-A or of the tree is not as it was.
pub fn start_by_tf_a(machine: &mut Machine, bl31: &Path, tree: &Path, mut shape: Shape, dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let stub = dir.join("bl31.bin");
    fs::write(&stub, told(fs::read(bl31).with_context(|| format!("cannot read {}", bl31.display()))?)?)?;
    let bundle = machine.initrd.take();
    let size = |path: &PathBuf| anyhow::Ok(u32::try_from(fs::metadata(path)?.len())?);
    let bundle_size = bundle.as_ref().map(size).transpose().with_context(|| format!("{bundle:?}"))?;
    ensure!(bundle_size.unwrap_or(0) < RAM - BUNDLE_AT, "the bundle does not fit into RAM");
    shape.handed = Some(Handed { bundle: bundle_size, bootargs: machine.append.take() });
    let own = write_tree(tree, &shape, dir)?;
    machine.dtb = None;
    machine.loaded = vec![(stub, 0), (machine.kernel.clone(), IMAGE_AT.into()), (own, TREE_AT.into())];
    machine.loaded.extend(bundle.map(|bundle| (bundle, BUNDLE_AT.into())));
    Ok(())
}

/// Writes the tree at `tree` in another shape into `dir`.
///
/// # Errors
/// Those of [`shaped`] and of the file system.
pub fn write_tree(tree: &Path, shape: &Shape, dir: &Path) -> Result<PathBuf> {
    let path = dir.join("board.dtb");
    let blob = fs::read(tree).with_context(|| format!("cannot read {}", tree.display()))?;
    crate::ctx::write_if_changed(&path, &shaped(&blob, shape).with_context(|| format!("in {}", tree.display()))?)?;
    Ok(path)
}

/// Sets or adds a property.
///
/// # Errors
/// The name is none.
pub fn set(node: &mut DeviceTreeNode, name: &str, value: impl ToPropertyValue) -> Result<()> {
    match node.property_mut(name) {
        Some(property) => property.set_value(value),
        None => {
            let property = DeviceTreeProperty::new(name, value);
            node.add_property(property.map_err(|error| anyhow::anyhow!("{name}: {error}"))?);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use dtoolkit::Property;

    fn node(name: &str, children: Vec<DeviceTreeNode>) -> DeviceTreeNode {
        let mut node = DeviceTreeNode::new(name).unwrap();
        children.into_iter().for_each(|child| node.add_child(child));
        node
    }

    /// As little of a Raspberry Pi 4's tree as there can be.
    fn board() -> Vec<u8> {
        let mut tree = DeviceTree::new();
        let cpus = (0..4).map(|n| node(&format!("cpu@{n}"), vec![]));
        let cpus = cpus.chain([node("l2-cache0", vec![])]).collect();
        let parts = [
            node("cpus", cpus),
            node("chosen", vec![]),
            node("aliases", vec![]),
            node("memory@0", vec![]),
            node("soc", vec![node("serial@7e215040", vec![]), node("mmc@7e300000", vec![node("wifi@1", vec![])])]),
        ];
        parts.into_iter().for_each(|part| tree.root.add_child(part));
        tree.to_dtb()
    }

    fn read<R>(blob: &[u8], read: impl Fn(&DeviceTree) -> R) -> R {
        read(&DeviceTree::from_fdt(&Fdt::new(blob).unwrap()))
    }

    fn words(tree: &DeviceTree, node: &str, name: &str) -> Option<Vec<u32>> {
        let value: Vec<u8> = Node::property(&tree.find_node(node)?, name)?.value().to_vec();
        Some(value.chunks_exact(4).map(|word| u32::from_be_bytes(word.try_into().unwrap())).collect())
    }

    #[test]
    fn a_tree_names_as_many_cpus_as_are_asked_for() {
        for cpus in 1..=4 {
            let blob = shaped(&board(), &Shape { cpus, ..Shape::default() }).unwrap();
            for n in 0..4 {
                assert_eq!(read(&blob, |tree| tree.find_node(&format!("/cpus/cpu@{n}")).is_some()), n < cpus);
            }
            assert!(read(&blob, |tree| tree.find_node("/cpus/l2-cache0").is_some()));
            assert_eq!(read(&blob, |tree| words(tree, "/chosen", "stdout-path")), None);
            assert_eq!(read(&blob, |tree| words(tree, "/memory@0", "reg")), None);
        }
        for cpus in [0, 5] {
            let error = shaped(&board(), &Shape { cpus, ..Shape::default() }).unwrap_err().to_string();
            assert_eq!(error, format!("the board has no {cpus} CPUs"));
        }
    }

    #[test]
    fn a_card_is_where_the_board_has_something_else() {
        for card in [false, true] {
            let blob = shaped(&board(), &Shape { cpus: 4, card, ..Shape::default() }).unwrap();
            assert_eq!(read(&blob, |tree| tree.find_node("/soc/mmc@7e300000/wifi@1").is_none()), card);
            let status =
                |tree: &DeviceTree| Node::property(&tree.find_node("/soc/mmc@7e300000").unwrap(), "status").is_some();
            assert_eq!(read(&blob, status), card);
        }
    }

    #[test]
    fn where_nobody_else_does_it_says_where_ram_and_bundle_are() {
        let handed = Handed { bundle: Some(0x1000), bootargs: Some("merus.idle=stay".into()) };
        let blob =
            shaped(&board(), &Shape { cpus: 4, mini_uart: true, handed: Some(handed), ..Shape::default() }).unwrap();
        assert_eq!(read(&blob, |tree| words(tree, "/memory@0", "reg")), Some(vec![0, 0, RAM]));
        let at = |name: &str| read(&blob, |tree| words(tree, "/chosen", name)).unwrap();
        assert_eq!(at("linux,initrd-start"), [BUNDLE_AT]);
        assert_eq!(at("linux,initrd-end"), [BUNDLE_AT + 0x1000]);
        let text = |node: &str, name: &str| {
            read(&blob, |tree| {
                let node = tree.find_node(node).unwrap();
                Node::property(&node, name).unwrap().value().to_vec()
            })
        };
        assert_eq!(text("/chosen", "bootargs"), b"merus.idle=stay\0");
        assert_eq!(text("/chosen", "stdout-path"), b"serial1:115200n8\0");
        assert_eq!(text(MINI_UART, "status"), b"okay\0");
    }

    #[test]
    fn tf_a_is_told_in_the_words_that_it_left_for_that() {
        let mut bl31 = vec![0xaa; 0x200];
        bl31[STUB_AT..STUB_AT + 4].copy_from_slice(&STUB_MAGIC.to_le_bytes());
        let told_so = told(bl31.clone()).unwrap();
        let word = |at: usize| u32::from_le_bytes(told_so[STUB_AT + at..][..4].try_into().unwrap());
        assert_eq!([word(0), word(4), word(8), word(12)], [0, 0, TREE_AT, IMAGE_AT]);
        assert!(told_so[..STUB_AT].iter().chain(&told_so[STUB_AT + 16..]).all(|byte| *byte == 0xaa));
        assert!(told(vec![0; 0x200]).unwrap_err().to_string().contains("no stub magic"));
        assert!(told(bl31[..STUB_AT + 15].to_vec()).unwrap_err().to_string().contains("ends at 255 bytes"));
    }
}
