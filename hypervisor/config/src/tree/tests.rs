use super::*;
use dtoolkit::{Node, Property};
use proptest::prelude::*;
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
    let mut tree = dtoolkit::model::DeviceTree::new();
    tree.root = NodeWriter::new("").property("compatible", "some,board").child(child).build();
    tree.memory_reservations.push(dtoolkit::memreserve::MemoryReservation::new(0x1000, 0x2000));
    tree.to_dtb()
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
        let mut tree = dtoolkit::model::DeviceTree::new();
        tree.root = NodeWriter::new("").child(node).build();
        tree.to_dtb()
    };
    assert!(open(&nested(MAX_DEPTH)).is_ok());
    assert!(open(&nested(MAX_DEPTH + 1)).is_err());
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
