use super::*;
use crate::image::tests::kernel;
use crate::passthrough::Passthrough;
use crate::spec::tests::{payload, vm};
use crate::spec::{DiskSource, DiskSpec, NetSpec, PayloadKind, PowerKey};
use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::{Node, Property};
use std::collections::BTreeSet;
use std::string::{String, ToString};

fn tree_of(spec: &VmSpec, draw: &mut dyn FnMut(&mut [u8]) -> bool) -> Vec<u8> {
    let layout = spec.layout(&kernel(8192, 0, 32 << 20, 8)).unwrap();
    generate(spec, &layout, GuestGic::V3, &Passthrough::default(), draw).unwrap().as_bytes().to_vec()
}

/// Draws as many sevens as are asked for.
fn sevens(bytes: &mut [u8]) -> bool {
    bytes.fill(7);
    true
}

fn bytes<'a>(tree: &Fdt<'a>, path: &str, name: &str) -> &'a [u8] {
    let node: FdtNode<'a> = tree.find_node(path).unwrap_or_else(|| panic!("no node {path}"));
    let property = node.property(name).unwrap_or_else(|| panic!("no property {name} in {path}"));
    property.value_as::<&'a [u8]>().unwrap()
}

fn cells(tree: &Fdt<'_>, path: &str, name: &str) -> Vec<u32> {
    bytes(tree, path, name).as_chunks::<4>().0.iter().map(|cell| u32::from_be_bytes(*cell)).collect()
}

fn text(tree: &Fdt<'_>, path: &str, name: &str) -> String {
    String::from_utf8(bytes(tree, path, name).to_vec()).unwrap()
}

#[test]
fn a_machine_with_a_gicv2_gives_its_guests_one() {
    let spec = VmSpec { vcpus: 3, ..vm("web") };
    let layout = spec.layout(&kernel(8192, 0, 32 << 20, 8)).unwrap();
    let blob = generate(&spec, &layout, GuestGic::V2, &Passthrough::default(), &mut sevens).unwrap();
    let tree = Fdt::new(blob.as_bytes()).unwrap();
    assert_eq!(text(&tree, "/intc@8000000", "compatible"), "arm,cortex-a15-gic\0");
    assert_eq!(cells(&tree, "/intc@8000000", "reg"), [0, 0x0800_0000, 0, 0x1_0000, 0, 0x0801_0000, 0, 0x1_0000]);
    assert!(tree.find_node("/intc@8000000").unwrap().property("#redistributor-regions").is_none());
    assert_eq!(cells(&tree, "/timer", "interrupts"), [1, 13, 0x704, 1, 14, 0x704, 1, 11, 0x704]);
    let all = VmSpec { vcpus: 8, ..vm("web") };
    let blob = generate(&all, &layout, GuestGic::V2, &Passthrough::default(), &mut sevens).unwrap();
    let tree = Fdt::new(blob.as_bytes()).unwrap();
    assert_eq!(cells(&tree, "/timer", "interrupts")[2], 0xff04);
    let more = VmSpec { vcpus: 9, ..vm("web") };
    let error = generate(&more, &layout, GuestGic::V2, &Passthrough::default(), &mut sevens);
    assert_eq!(error, Err(TreeError::TooManyVcpus { vcpus: 9 }));
}

#[test]
#[cfg_attr(miri, ignore = "finds a node thirty times; the next test writes and reads a tree as well")]
fn the_guest_sees_the_virt_map() {
    let spec = VmSpec { initrd: Some(payload("initrd", PayloadKind::Ramdisk, 4097)), ..vm("web") };
    let blob = tree_of(&spec, &mut sevens);
    let tree = Fdt::new(&blob).unwrap();
    assert_eq!(text(&tree, "/", "compatible"), "linux,dummy-virt\0");
    assert_eq!(text(&tree, "/chosen", "bootargs"), "console=ttyAMA0\0");
    assert_eq!(text(&tree, "/chosen", "stdout-path"), "/pl011@9000000\0");
    assert_eq!(cells(&tree, "/chosen", "linux,initrd-start"), [0, 0x4800_0000]);
    assert_eq!(cells(&tree, "/chosen", "linux,initrd-end"), [0, 0x4800_1001]);
    assert_eq!(bytes(&tree, "/chosen", "rng-seed"), [7; 64]);
    assert_eq!(cells(&tree, "/chosen", "kaslr-seed"), [0x0707_0707; 2]);
    assert_eq!(cells(&tree, "/memory@40000000", "reg"), [0, 0x4000_0000, 0, 0x1000_0000]);
    assert_eq!(cells(&tree, "/intc@8000000", "reg"), [0, 0x0800_0000, 0, 0x1_0000, 0, 0x080a_0000, 0, 0x4_0000]);
    assert_eq!(cells(&tree, "/pl011@9000000", "reg"), [0, 0x0900_0000, 0, 0x1000]);
    assert_eq!(cells(&tree, "/pl011@9000000", "interrupts"), [0, 1, 4]);
    assert_eq!(text(&tree, "/pl011@9000000", "compatible"), "arm,pl011\0arm,primecell\0");
    assert_eq!(cells(&tree, "/pl031@9010000", "interrupts"), [0, 2, 4]);
    assert_eq!(cells(&tree, "/timer", "interrupts"), [1, 13, 4, 1, 14, 4, 1, 11, 4]);
    assert_eq!(cells(&tree, "/pl061@9030000", "reg"), [0, 0x0903_0000, 0, 0x1000]);
    assert_eq!(cells(&tree, "/pl061@9030000", "interrupts"), [0, 7, 4]);
    assert_eq!(text(&tree, "/pl061@9030000", "compatible"), "arm,pl061\0arm,primecell\0");
    assert_eq!(cells(&tree, "/pl061@9030000", "#gpio-cells"), [2]);
    assert!(bytes(&tree, "/pl061@9030000", "gpio-controller").is_empty());
    assert!(bytes(&tree, "/timer", "always-on").is_empty());
    assert_eq!(text(&tree, "/psci", "method"), "hvc\0");
    assert_eq!(text(&tree, "/psci", "compatible"), "arm,psci-1.0\0arm,psci-0.2\0");
    // The power key, as `virt` has it but for its phandles.
    let virt = Fdt::new(include_bytes!("../board/data/virt-gicv3.dtb")).unwrap();
    for (path, names) in [
        ("/pl061@9030000", &["compatible", "reg", "interrupts", "#gpio-cells", "gpio-controller", "clock-names"][..]),
        ("/gpio-keys", &["compatible"]),
        ("/gpio-keys/poweroff", &["label", "linux,code"]),
        ("/virtio_mmio@a003e00", &["compatible", "reg", "interrupts", "dma-coherent"]),
    ] {
        for name in names {
            assert_eq!(bytes(&tree, path, name), bytes(&virt, path, name), "{path} {name}");
        }
    }
    assert_eq!(cells(&tree, "/gpio-keys/poweroff", "gpios")[1..], cells(&virt, "/gpio-keys/poweroff", "gpios")[1..]);
    assert_eq!(cells(&tree, "/gpio-keys/poweroff", "gpios")[0], cells(&tree, "/pl061@9030000", "phandle")[0]);
    // References point at what they should.
    assert_eq!(cells(&tree, "/", "interrupt-parent"), cells(&tree, "/intc", "phandle"));
    assert_eq!(cells(&tree, "/pl031@9010000", "clocks"), cells(&tree, "/apb-pclk", "phandle"));
}

#[test]
fn each_power_key_has_its_nodes() {
    for kind in [PowerKey::Both, PowerKey::Gpio, PowerKey::Virtio, PowerKey::None] {
        let blob = tree_of(&VmSpec { power_key: kind, ..vm("web") }, &mut sevens);
        let tree = Fdt::new(&blob).unwrap();
        let has = |path| tree.find_node(path).is_some();
        assert_eq!([has("/pl061@9030000"), has("/gpio-keys")], [matches!(kind, PowerKey::Both | PowerKey::Gpio); 2]);
        assert_eq!(has("/virtio_mmio@a003e00"), matches!(kind, PowerKey::Both | PowerKey::Virtio));
        assert_eq!(PowerKey::parse(kind.name()), Some(kind));
    }
    assert_eq!(PowerKey::parse("acpi"), None);
}

/// Each device is where `virt` has that slot, in the order that a kernel looks for them in.
#[test]
#[cfg_attr(miri, ignore = "another tree; those above show what Miri looks for")]
fn virtio_devices_are_in_their_slots() {
    let disk = DiskSpec {
        source: DiskSource::Image(payload("root.img", PayloadKind::Disk, 4096)),
        readonly: false,
        serial: None,
    };
    let net = NetSpec { switch: "lan".to_string(), mac: None, mtu: 1500, isolated: false };
    let spec = VmSpec { rng: true, disks: vec![disk; 2], nets: vec![net], ..vm("web") };
    let blob = tree_of(&spec, &mut sevens);
    let tree = Fdt::new(&blob).unwrap();
    let virt = Fdt::new(include_bytes!("../board/data/virt-gicv3.dtb")).unwrap();
    let names: Vec<String> =
        tree.root().children().map(|n| n.name().to_string()).filter(|name| name.starts_with("virtio")).collect();
    let slots = ["a000000", "a000200", "a000400", "a000600", "a003e00"].map(|at| std::format!("virtio_mmio@{at}"));
    assert_eq!(names, slots);
    for path in slots.map(|name| std::format!("/{name}")) {
        for name in ["compatible", "reg", "interrupts", "dma-coherent"] {
            assert_eq!(bytes(&tree, &path, name), bytes(&virt, &path, name), "{path} {name}");
        }
    }
    assert_eq!(spec.virtio_slots().count(), 5);
}

#[test]
fn what_is_not_given_is_left_out() {
    // A source that has run dry after the first seed has none, too.
    for seeds in [0, 1].into_iter().take(if cfg!(miri) { 1 } else { 2 }) {
        let mut left = seeds;
        let mut draw = |bytes: &mut [u8]| {
            let has = left != 0;
            left -= i32::from(has);
            has && sevens(bytes)
        };
        let blob = tree_of(&vm("web"), &mut draw);
        let chosen = Fdt::new(&blob).unwrap().find_node("/chosen").unwrap();
        for name in ["linux,initrd-start", "linux,initrd-end", "rng-seed", "kaslr-seed"] {
            assert!(chosen.property(name).is_none(), "{name}");
        }
        assert!(!blob.windows(8).any(|part| part == [7; 8]));
    }
}

#[test]
#[cfg_attr(miri, ignore = "a long tree; smaller ones are written and read above")]
fn a_guest_of_64_vcpus_gets_all_of_them() {
    let spec = VmSpec { vcpus: 64, ..vm("big") };
    let blob = tree_of(&spec, &mut sevens);
    assert!(blob.len() < 64 << 10);
    let tree = Fdt::new(&blob).unwrap();
    let cpus = tree.find_node("/cpus").unwrap();
    let nodes: Vec<_> = cpus.children().filter(|node| node.name_without_address() == "cpu").collect();
    let regs: Vec<u32> = nodes.iter().map(|node| node.property("reg").unwrap().value_as::<u32>().unwrap()).collect();
    assert_eq!(regs, (0..4).flat_map(|c| (0..16).map(move |n| c << 8 | n)).collect::<Vec<u32>>());
    assert!(nodes.iter().all(|node| node.property("enable-method").unwrap().value_as::<&str>() == Ok("psci")));
    assert_eq!(cells(&tree, "/intc@8000000", "reg")[7], 64 * 0x2_0000);
    // The map names each CPU once, by 16s.
    let phandles = |node: &FdtNode<'_>, name| node.property(name).map(|p| p.value_as::<u32>().unwrap());
    let all: BTreeSet<u32> = nodes.iter().filter_map(|node| phandles(node, "phandle")).collect();
    let socket = tree.find_node("/cpus/cpu-map/socket0").unwrap();
    let clusters: Vec<BTreeSet<u32>> = socket
        .children()
        .map(|cluster| cluster.children().filter_map(|core| phandles(&core, "cpu")).collect())
        .collect();
    assert_eq!(clusters.iter().map(BTreeSet::len).collect::<Vec<_>>(), [16; 4]);
    assert_eq!(clusters.into_iter().flatten().collect::<BTreeSet<u32>>(), all);
}

#[test]
fn more_than_the_map_holds_is_refused() {
    let spec = VmSpec { vcpus: 124, ..vm("big") };
    let layout = spec.layout(&kernel(8192, 0, 32 << 20, 8)).unwrap();
    assert_eq!(
        generate(&spec, &layout, GuestGic::V3, &Passthrough::default(), &mut sevens),
        Err(TreeError::TooManyVcpus { vcpus: 124 })
    );
    // 3 MiB are too long for Miri.
    if !cfg!(miri) {
        let long = VmSpec { cmdline: "x".repeat(3 << 20), ..vm("long") };
        let error =
            generate(&long, &layout, GuestGic::V3, &Passthrough::default(), &mut sevens).unwrap_err().to_string();
        assert!(error.ends_with("and has 2097152; shorten its command line"), "{error}");
    }
}

#[test]
fn seeds_are_not_shown() {
    let layout = vm("web").layout(&kernel(8192, 0, 32 << 20, 8)).unwrap();
    let tree = generate(&vm("web"), &layout, GuestGic::V3, &Passthrough::default(), &mut sevens).unwrap();
    assert_eq!(std::format!("{tree:?}"), std::format!("GuestTree({} bytes)", tree.as_bytes().len()));
    assert_eq!(std::format!("{:?}", crate::seed::Seed::new(&[7; 3])), "Seed(3 bytes)");
}

#[test]
#[cfg_attr(miri, ignore = "another tree; those above show what Miri looks for")]
fn a_device_that_was_given_is_in_the_tree_with_fixed_clocks() {
    use crate::board::{Device, Line};
    use addr::{Pa, Span};
    let device = Device {
        path: "/soc/serial@7e215040".to_string(),
        name: "serial".to_string(),
        registers: vec![Span::new(Pa::new(0xfe21_5040), 0x40).unwrap()],
        lines: vec![Line { intid: 34, edge: false }, Line { intid: 125, edge: true }],
        clocks: vec![Some(500_000_000), None, Some(500_000_000)],
        properties: vec![
            ("compatible".to_string(), b"brcm,bcm2835-aux-uart\0".to_vec()),
            ("a,boards-own".to_string(), vec![1, 2, 3]),
        ],
    };
    let spec = vm("web");
    let layout = spec.layout(&kernel(8192, 0, 32 << 20, 8)).unwrap();
    let given = Passthrough::new(vec![device], layout.ram, 40).unwrap();
    let blob = generate(&spec, &layout, GuestGic::V3, &given, &mut sevens).unwrap();
    let tree = Fdt::new(blob.as_bytes()).unwrap();
    let node = "/serial@fe215040";
    assert_eq!(cells(&tree, node, "reg"), [0, 0xfe21_5040, 0, 0x40]);
    assert_eq!(text(&tree, node, "compatible"), "brcm,bcm2835-aux-uart\0");
    assert_eq!(bytes(&tree, node, "a,boards-own"), [1, 2, 3]);
    // The clock's number is the guest's own, so this one is another; the second stays.
    assert_eq!(cells(&tree, node, "interrupts"), [0, 112, 4, 0, 93, 1]);
    assert_eq!(cells(&tree, node, "interrupt-parent"), cells(&tree, "/intc@8000000", "phandle"));
    assert_eq!(cells(&tree, node, "clocks"), [0x40, 0x41, 0x40]);
    assert_eq!(cells(&tree, "/clock-500000000", "clock-frequency"), [500_000_000]);
    assert_eq!(
        (cells(&tree, "/clock-0", "clock-frequency"), cells(&tree, "/clock-0", "phandle")),
        (vec![0], vec![0x41])
    );
}
