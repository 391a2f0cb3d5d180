use super::*;
use proptest::prelude::*;
use std::vec;

/// QEMU 10.0: `-M virt,virtualization=on,gic-version=3 -smp 4 -m 1G -cpu cortex-a72`, and with a GICv2.
const VIRT_V3: &[u8] = include_bytes!("../data/virt-gicv3.dtb");
const VIRT_V2: &[u8] = include_bytes!("../data/virt-gicv2.dtb");

fn span(start: u64, size: u64) -> Span<Pa> {
    Span::new(Pa::new(start), size).unwrap()
}

#[test]
#[cfg_attr(miri, ignore = "a long tree")]
fn virt_has_its_places() {
    for tree in [VIRT_V3, VIRT_V2] {
        let places = virtio(tree).unwrap();
        assert_eq!(places.mmio.len(), 32);
        for n in 0..32_u64 {
            let place = VirtioMmio { registers: span(0x0a00_0000 + n * 0x200, 0x200), intid: 48 + n as u32 };
            assert!(places.mmio.contains(&place), "{n}");
        }
        let [pci] = places.pci.as_slice() else { panic!("one bridge") };
        assert_eq!((pci.config, pci.bus), (span(0x40_1000_0000, 1 << 20), 0));
        assert_eq!(pci.windows, [span(0x1000_0000, 0x2eff_0000), span(0x80_0000_0000, 1 << 39)]);
        // Wires turn with the device's number, and a device's functions have the same.
        for (device, function, pin, intid) in
            [(0, 0, 1, 35), (1, 0, 1, 36), (1, 7, 4, 35), (3, 0, 2, 35), (31, 0, 1, 38)]
        {
            assert_eq!(pci.intid(device, function, pin), Some(intid), "{device}.{function} {pin}");
        }
        assert_eq!((pci.intid(0, 0, 0), pci.intid(0, 0, 5)), (None, None));
    }
}

#[test]
#[cfg_attr(miri, ignore = "a long tree")]
fn what_cannot_be_understood_is_no_place() {
    let of = |from: &[u8], to: &[u8]| {
        let mut tree = VIRT_V3.to_vec();
        let places: Vec<usize> = (0..tree.len() - from.len()).filter(|at| tree[*at..].starts_with(from)).collect();
        assert!(!places.is_empty());
        for at in places {
            tree[at..at + to.len()].copy_from_slice(to);
        }
        virtio(&tree).unwrap()
    };
    let cells = |cells: &[u32]| cells.iter().flat_map(|cell| cell.to_be_bytes()).collect::<Vec<u8>>();
    // One entry of the map goes to another controller, or is edge triggered.
    let start = cells(&[0x1800, 0, 0, 4]);
    let at = VIRT_V3.windows(16).position(|part| part == start).expect("an entry of the map");
    let entry = VIRT_V3[at..at + 40].to_vec();
    assert_eq!(entry[20..], cells(&[0, 0, 0, 5, 4]));
    let mut other = entry.clone();
    other[19] ^= 1;
    assert_eq!((of(&entry, &other).pci, of(&entry, &other).mmio.len()), (vec![], 32));
    let mut edge = entry.clone();
    edge[39] = 1;
    assert_eq!(of(&entry, &edge).pci, []);
    // A window that is elsewhere on the bus.
    let window = cells(&[0x0200_0000, 0, 0x1000_0000]);
    let places = of(&window, &cells(&[0x0200_0000, 0, 0]));
    assert_eq!(places.pci[0].windows, [span(0x80_0000_0000, 1 << 39)]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 2 } else { 300 }))]

    #[test]
    fn no_tree_makes_it_panic(at in prop::collection::vec((0..VIRT_V2.len(), any::<u8>()), 1..40)) {
        let mut tree = VIRT_V2.to_vec();
        at.iter().for_each(|(at, byte)| tree[*at] = *byte);
        if let Ok(places) = virtio(&tree) {
            for pci in &places.pci {
                let _ = pci.intid(31, 7, 4);
                prop_assert_eq!(pci.config.size(), BUS);
            }
        }
    }
}
