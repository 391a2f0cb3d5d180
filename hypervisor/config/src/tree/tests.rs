use super::*;
use dtoolkit::{Node, Property};
use proptest::prelude::*;
use std::vec;
use std::vec::Vec;

/// Visits all names and values; gives back how many bytes they have.
fn visit(node: dtoolkit::fdt::FdtNode<'_>) -> usize {
    let own: usize = node.properties().map(|p| p.name().len() + p.value().len()).sum();
    node.name().len() + own + node.children().map(visit).sum::<usize>()
}

fn long_names() -> Vec<u8> {
    let child = NodeWriter::new("usb@1000")
        .flag("snps,dis-u2-freeclk-exists-quirk")
        .property("reg", 0x1000u32)
        .child(NodeWriter::new("a-node-name-of-more-than-thirty-one-characters").flag("x"));
    NodeWriter::new("").property("compatible", "some,board").child(child).blob_with(&[(0x1000, 0x2000)])
}

#[test]
fn names_may_be_longer_than_the_specification_allows() {
    let blob = long_names();
    assert!(Fdt::new(&blob).is_err(), "the library accepts long names now: is_sound can go");
    let tree = open(&blob).unwrap();
    let bytes = visit(tree.root());
    // "compatible" and its value, the first child with two properties, its child with one.
    assert_eq!(bytes, 10 + 11 + 8 + 32 + 3 + 4 + 46 + 1);
    let mut padded = blob.clone();
    padded.extend_from_slice(&[0xff; 64]);
    assert_eq!(visit(open(&padded).unwrap().root()), bytes);
}

#[test]
fn a_tree_that_is_cut_off_is_refused() {
    let blob = long_names();
    for length in (0..blob.len()).step_by(if cfg!(miri) { 29 } else { 1 }) {
        assert!(open(&blob[..length]).is_err(), "{length} bytes were taken");
    }
}

#[test]
fn nodes_are_not_nested_without_end() {
    let nested = |depth: usize| {
        let mut node = NodeWriter::new("a-node-name-of-more-than-thirty-one-characters");
        for _ in 2..depth {
            node = NodeWriter::new("n").child(node);
        }
        NodeWriter::new("").child(node).blob()
    };
    assert!(open(&nested(MAX_DEPTH)).is_ok());
    assert!(open(&nested(MAX_DEPTH + 1)).is_err());
}

#[test]
fn what_is_written_is_read_back_by_the_library() {
    let blob = NodeWriter::new("")
        .property("compatible", vec!["a,b", "c"])
        .child(NodeWriter::new("x@1").property("reg", [1u32, 2]).flag("dma-coherent").child(NodeWriter::new("deep")))
        .child(NodeWriter::new("y").property("reg", 7u64).property("compatible", "d"))
        .blob_with(&[(0x1000, 0x2000)]);
    let tree = Fdt::new(&blob).unwrap();
    let reservations: Vec<_> = tree.memory_reservations().map(|r| (r.address(), r.size())).collect();
    assert_eq!(reservations, [(0x1000, 0x2000)]);
    let names =
        |node: dtoolkit::fdt::FdtNode<'_>| -> Vec<String> { node.children().map(|n| n.name().to_string()).collect() };
    assert_eq!(names(tree.root()), ["x@1", "y"]);
    assert_eq!(names(tree.find_node("/x@1").unwrap()), ["deep"]);
    let value = |path: &str, name: &str| tree.find_node(path).unwrap().property(name).unwrap().value().to_vec();
    assert_eq!(value("/", "compatible"), b"a,b\0c\0");
    assert_eq!(value("/x@1", "reg"), [0, 0, 0, 1, 0, 0, 0, 2]);
    assert_eq!(value("/x@1", "dma-coherent"), []);
    assert_eq!(value("/y", "reg"), [0, 0, 0, 0, 0, 0, 0, 7]);
    assert_eq!(value("/y", "compatible"), b"d\0");
    // A name that comes twice is stored once.
    assert_eq!(blob.windows(11).filter(|w| *w == b"compatible\0").count(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 1 } else { 2000 }))]

    /// The accessors panic on a tree that is not sound, so visiting all of it shows that the check is as strict.
    #[test]
    fn what_is_opened_can_be_visited(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6)) {
        let mut blob = long_names();
        for (index, value) in changes {
            let at = index.index(blob.len());
            blob[at] = value;
        }
        if let Ok(tree) = open(&blob) {
            visit(tree.root());
            tree.memory_reservations().count();
        }
    }
}
