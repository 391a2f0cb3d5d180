use super::*;
use crate::tree::NodeWriter;
use std::vec;

/// QEMU 10.0: `-M virt,virtualization=on,gic-version=3 -smp 4 -m 1G -cpu cortex-a72`.
const VIRT_V3: &[u8] = include_bytes!("../data/virt-gicv3.dtb");

fn node(name: &str) -> NodeWriter {
    NodeWriter::new(name)
}

fn device_node(name: &str, kind: &str, at: u32, size: u32) -> NodeWriter {
    node(&std::format!("{name}@{at:x}")).property("compatible", kind).property("reg", [at, size])
}

/// A board like a Raspberry Pi 4, with `more` on its bus.
fn board(more: Vec<NodeWriter>) -> Vec<u8> {
    let spi = device_node("spi", "brcm,bcm2835-aux-spi", 0x7e21_5080, 0x40).property("interrupts", [0u32, 93, 4]);
    board_with(spi.property("status", "disabled"), more)
}

/// The same with another SPI master in the block of the mini-UART.
fn board_with(spi: NodeWriter, more: Vec<NodeWriter>) -> Vec<u8> {
    let gic = node("interrupt-controller@40041000")
        .property("compatible", "arm,gic-400")
        .property("phandle", 1u32)
        .property("reg", [0x4004_1000u32, 0x1000, 0x4004_2000, 0x2000, 0x4004_4000, 0x2000, 0x4004_6000, 0x2000])
        .property("interrupts", [1u32, 9, 0xf04]);
    let soc = node("soc")
        .property("#address-cells", 1u32)
        .property("#size-cells", 1u32)
        .property("ranges", [0x7e00_0000u32, 0, 0xfe00_0000, 0x180_0000, 0x4000_0000, 0, 0xff80_0000, 0x80_0000])
        .child(gic)
        .child(
            device_node("aux", "brcm,bcm2835-aux", 0x7e21_5000, 8)
                .property("phandle", 7u32)
                .property("#clock-cells", 1u32),
        )
        .child(
            device_node("serial", "brcm,bcm2835-aux-uart", 0x7e21_5040, 0x40)
                .property("interrupts", [0u32, 93, 4])
                .property("clocks", [7u32, 0])
                .property("pinctrl-0", 9u32)
                .property("cts-gpios", [9u32, 1, 0])
                .property("reg-shift", 2u32)
                .flag("skip-init"),
        )
        .child(spi)
        .child(
            device_node("timer", "brcm,bcm2835-system-timer", 0x7e00_3000, 0x1000)
                .property("interrupts", [0u32, 64, 4, 0, 65, 4]),
        );
    let soc = more.into_iter().fold(soc, NodeWriter::child);
    node("")
        .property("#address-cells", 2u32)
        .property("#size-cells", 1u32)
        .property("interrupt-parent", 1u32)
        .child(node("aliases").property("serial1", "/soc/serial@7e215040"))
        .child(
            node("clk")
                .property("compatible", "fixed-clock")
                .property("#clock-cells", 0u32)
                .property("clock-frequency", 54_000_000u32)
                .property("phandle", 3u32),
        )
        .child(
            node("half")
                .property("compatible", "fixed-factor-clock")
                .property("#clock-cells", 0u32)
                .property("clocks", 3u32)
                .property("clock-mult", 1u32)
                .property("clock-div", 2u32)
                .property("phandle", 4u32),
        )
        .child(soc)
        .blob()
}

fn ask(blob: &[u8], names: &[&str], unsafe_dma: bool) -> Result<Vec<Device>, String> {
    let names: Vec<String> = names.iter().map(|name| name.to_string()).collect();
    devices(blob, &names, unsafe_dma).map_err(|error| error.to_string())
}

const SERIAL: &str = "/soc/serial@7e215040";

#[test]
fn a_serial_port_behind_a_bus_is_found_by_path_and_by_alias() {
    let blob = board(vec![]);
    let found = ask(&blob, &[SERIAL], false).unwrap();
    let [serial] = &found[..] else { panic!("{found:?}") };
    assert_eq!((serial.path.as_str(), serial.name.as_str()), (SERIAL, "serial"));
    assert_eq!(serial.registers, [Span::new(Pa::new(0xfe21_5040), 0x40).unwrap()]);
    assert_eq!(serial.lines, [Line { intid: 125, edge: false }]);
    assert_eq!(serial.clocks, [None], "its gate's rate is nowhere in the tree");
    let names: Vec<&str> = serial.properties.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["compatible", "reg-shift", "skip-init"], "nothing that names other nodes");
    assert_eq!(ask(&blob, &["serial1"], false).unwrap(), found);
}

#[test]
fn interrupts_keep_their_trigger_and_clocks_their_rate() {
    let edge = device_node("gpio", "arm,pl061", 0x7e30_0000, 0x1000)
        .property("interrupts", [0u32, 100, 1, 0, 101, 4])
        .property("clocks", [3u32, 4, 99, 3])
        .property("clock-names", vec!["a", "b", "c", "d"]);
    let found = ask(&board(vec![edge]), &["/soc/gpio@7e300000", "/soc/timer@7e003000"], false).unwrap();
    assert_eq!(found[0].lines, [Line { intid: 132, edge: true }, Line { intid: 133, edge: false }]);
    assert_eq!(found[0].clocks, [Some(54_000_000), Some(27_000_000), None, None], "behind one unknown all are");
    assert_eq!(found[1].lines.len(), 2);
}

#[test]
fn what_cannot_be_given_says_why() {
    let at = |name: &str, kind: &str| device_node(name, kind, 0x7e30_0000, 0x1000);
    let ours = "/soc/gpio@7e300000";
    let cases: Vec<(NodeWriter, &str, &str)> = vec![
        (at("x", "arm,pl061"), "/soc/gone", "no such node"),
        (at("x", "arm,pl061"), "serial7", "no such node"),
        (at("gpio", "arm,pl061").property("status", "disabled"), ours, "/soc/gpio@7e300000 is disabled"),
        (node("gpio@7e300000").property("compatible", "arm,pl061"), ours, "no registers"),
        (device_node("gpio", "arm,pl061", 0x10, 0x10), "/soc/gpio@10", "no registers"),
        (
            at("gpio", "arm,pl061").child(device_node("uart", "arm,pl011", 0x7e30_0ff8, 8)),
            "/soc/gpio@7e300000/uart@7e300ff8",
            "no registers",
        ),
        (at("gpio", "vendor,gpu"), ours, "vendor,gpu is not known to leave memory alone"),
        (at("gpio", "arm,pl011").property("dmas", [1u32, 2]), ours, "property dmas"),
        (at("gpio", "arm,pl061").property("interrupts", [1u32, 5, 4]), ours, "its interrupt 21 is no shared one"),
        (at("gpio", "arm,pl061").property("interrupts", [0u32, 5, 8]), ours, "its interrupt 37 is no shared one"),
        (
            at("gpio", "arm,pl061").property("interrupts", 5u32).property("interrupt-parent", 7u32),
            ours,
            "another controller",
        ),
        (
            at("gpio", "arm,pl061").property("interrupts", [0u32, 64, 4]),
            ours,
            "/soc/timer@7e003000 has the same interrupt, 96",
        ),
    ];
    for (more, name, message) in cases {
        let error = ask(&board(vec![more]), &[name], false).unwrap_err();
        assert!(error.starts_with(&std::format!("{name}: ")) && error.contains(message), "{error}");
    }
    assert!(ask(b"", &[SERIAL], false).is_err());
}

#[test]
fn a_page_with_another_device_is_given_with_that_or_not_at_all() {
    let gpio = || device_node("gpio", "arm,pl061", 0x7e30_0000, 0x100);
    let pwm = || device_node("pwm", "brcm,bcm2835-pwm", 0x7e30_0800, 0x100);
    let (one, other) = ("/soc/gpio@7e300000", "/soc/pwm@7e300800");
    let blob = board(vec![gpio(), pwm()]);
    let error = ask(&blob, &[one], false).unwrap_err();
    assert!(error.contains("/soc/pwm@7e300800 has registers on the same page, 0xfe300000; name both"), "{error}");
    assert_eq!(ask(&blob, &[one, other], false).unwrap().len(), 2);
    // One that is off is in nobody's way, if its kind is harmless.
    assert!(ask(&board(vec![gpio(), pwm().property("status", "disabled")]), &[one], false).is_ok());
    let master = device_node("dma", "vendor,dma", 0x7e30_0800, 0x100).property("status", "disabled");
    assert!(ask(&board(vec![gpio(), master]), &[one], false).unwrap_err().contains("/soc/dma@7e300800"));
    // The gate of its own clock, as long as nobody else's clocks are there.
    assert!(ask(&board(vec![]), &[SERIAL], false).is_ok());
    let spi = device_node("spi", "brcm,bcm2835-aux-spi", 0x7e40_0000, 0x40).property("clocks", [7u32, 1]);
    let error = ask(&board(vec![spi]), &[SERIAL], false).unwrap_err();
    assert!(error.contains("/soc/aux@7e215000 has registers on the same page"), "{error}");
}

#[test]
fn another_device_of_the_block_that_merus_port_is_in_cannot_be_had() {
    // The mini-UART is Merus' console; an SPI master of the same block is on, with the page and the interrupt of both.
    let spi = "/soc/spi@7e215080";
    let on = device_node("spi", "brcm,bcm2835-aux-spi", 0x7e21_5080, 0x40).property("interrupts", [0u32, 93, 4]);
    let elsewhere = device_node("spi", "brcm,bcm2835-aux-spi", 0x7e40_0000, 0x40).property("interrupts", [0u32, 93, 4]);
    assert!(ask(&board(vec![]), &[spi], false).unwrap_err().contains("/soc/spi@7e215080 is disabled"));
    let blob = board_with(on, vec![elsewhere]);
    let error = ask(&blob, &[spi], false).unwrap_err();
    assert!(error.contains("/soc/aux@7e215000 has registers on the same page, 0xfe215000"), "{error}");
    let error = ask(&blob, &["/soc/spi@7e400000"], false).unwrap_err();
    assert!(error.contains("/soc/serial@7e215040 has the same interrupt, 125"), "{error}");
    // All of the block at once is in the way of nothing in the tree: the plan and the table of interrupts know who uses it.
    let all = ["/soc/aux@7e215000", SERIAL, spi, "/soc/spi@7e400000"];
    let found = ask(&blob, &all, false).unwrap();
    let mut plan = memory::Plan::new(&[], Span::empty(Pa::new(0)));
    for own in [0xfe21_5040, 0xfe21_5000] {
        plan.device(Span::new(Pa::new(own), 8).unwrap()).unwrap();
    }
    let (mut space, _) = plan.settle();
    for device in &found[..3] {
        let refused = space.lend(device.registers[0]).unwrap_err().to_string();
        assert!(refused.contains("overlaps 0xfe215000..0xfe216000 (registers that Merus uses)"), "{refused}");
    }
    assert!(space.lend(found[3].registers[0]).is_ok());
    assert!(found[1..].iter().all(|device| device.lines[0].intid == 125), "refused by `vgic::Routes`");
}

#[test]
fn a_port_with_the_interrupt_of_merus_port_cannot_be_had() {
    // All PL011s of a BCM2711 have one interrupt. The console's is on; what it shares its line with is named.
    let pl011 = |at| device_node("serial", "arm,pl011", at, 0x200).property("interrupts", [0u32, 121, 4]);
    let blob = board(vec![pl011(0x7e20_1000), pl011(0x7e20_1400).property("status", "disabled"), pl011(0x7e20_1600)]);
    let error = ask(&blob, &["/soc/serial@7e201600"], false).unwrap_err();
    assert!(error.contains("/soc/serial@7e201000 has the same interrupt, 153; name both for this VM"), "{error}");
}

#[test]
fn a_bus_master_is_given_if_that_was_said() {
    let gpu = device_node("gpu", "vendor,gpu", 0x7e30_0000, 0x1000).property("dma-coherent", 0u32);
    let blob = board(vec![gpu]);
    assert!(ask(&blob, &["/soc/gpu@7e300000"], false).unwrap_err().contains("unsafe-dma = true"));
    let found = ask(&blob, &["/soc/gpu@7e300000"], true).unwrap();
    assert!(found[0].properties.iter().all(|(name, _)| name != "dma-coherent"));
}

#[test]
#[cfg_attr(miri, ignore = "a long tree, four times")]
fn devices_of_virt_can_be_given() {
    let found = ask(VIRT_V3, &["/pl031@9010000", "/pl061@9030000"], false).unwrap();
    assert_eq!(found[0].registers, [Span::new(Pa::new(0x0901_0000), 0x1000).unwrap()]);
    assert_eq!((found[0].lines[0].intid, found[1].lines[0].intid), (34, 39));
    assert_eq!(found[0].clocks, [Some(24_000_000)]);
    let error = ask(VIRT_V3, &["/virtio_mmio@a000000"], false).unwrap_err();
    assert!(error.contains("property dma-coherent"), "{error}");
    assert!(ask(VIRT_V3, &["/intc@8000000"], false).unwrap_err().contains("arm,gic-v3 is not known"));
    assert!(ask(VIRT_V3, &["/memory@40000000"], false).is_err());
}
