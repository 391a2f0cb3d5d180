use super::*;
use crate::tree::NodeWriter;
use proptest::prelude::*;
use std::vec;

/// QEMU 10.0: `-M virt,virtualization=on,gic-version=3 -smp 4 -m 1G -cpu cortex-a72`.
const VIRT_V3: &[u8] = include_bytes!("data/virt-gicv3.dtb");
/// QEMU 10.0: `-M virt,virtualization=on,gic-version=2 -smp 2 -m 1G -cpu cortex-a53`.
const VIRT_V2: &[u8] = include_bytes!("data/virt-gicv2.dtb");

fn span(start: u64, size: u64) -> Span<Pa> {
    Span::new(Pa::new(start), size).unwrap()
}

#[test]
#[cfg_attr(miri, ignore = "a long tree; a smaller one is read below")]
fn virt_with_a_gicv3_is_read() {
    let board = parse(VIRT_V3).unwrap();
    assert_eq!(board.model, "linux,dummy-virt");
    assert_eq!(board.ram, [span(0x4000_0000, 1 << 30)]);
    assert_eq!(board.reserved, []);
    assert_eq!(board.cpus, [0, 1, 2, 3].map(|mpidr| CpuNode { mpidr, enable: Enable::Psci }));
    let gic = Gic::V3 {
        dist: span(0x0800_0000, 0x1_0000),
        redist: vec![span(0x080a_0000, 0xf6_0000)],
        stride: None,
        maintenance_irq: 25,
    };
    assert_eq!(board.gic, gic);
    assert_eq!(board.uart, Some(Uart { kind: UartKind::Pl011, base: span(0x0900_0000, 0x1000), intid: Some(33) }));
    assert_eq!(board.control, None);
    assert_eq!((board.timer.phys, board.timer.virt, board.timer.hyp), (30, 27, 26));
    assert_eq!(board.psci, Some(Psci { conduit: Conduit::Smc, version: (1, 0) }));
    assert_eq!((board.initrd, board.bootargs.as_str()), (None, ""));
    assert_eq!(board.rng_seed.as_ref().map(|seed| seed.as_bytes().len()), Some(32));
}

#[test]
#[cfg_attr(miri, ignore = "a long tree; a smaller one is read below")]
fn virt_with_a_gicv2_is_read() {
    let board = parse(VIRT_V2).unwrap();
    let gic = Gic::V2 {
        dist: span(0x0800_0000, 0x1_0000),
        cpu: span(0x0801_0000, 0x1_0000),
        hyp: span(0x0803_0000, 0x1_0000),
        vcpu: span(0x0804_0000, 0x1_0000),
        maintenance_irq: 25,
    };
    assert_eq!((board.gic, board.cpus.len()), (gic, 2));
}

/// A board that is no `virt`: one cell an address, devices on a bus with an offset, spin tables, the serial port by an
/// alias, RAM in pieces.
fn other_board() -> Parts {
    board_with([1, 9, 0xf04], [1, 13, 8, 1, 14, 8, 1, 11, 8, 1, 10, 8])
}

/// The same with these interrupts of the interrupt controller and the timer.
fn board_with(maintenance: [u32; 3], timer: [u32; 12]) -> Parts {
    let node = |name: &str| NodeWriter::new(name);
    let cpu = |n: u32| {
        node(&std::format!("cpu@{n}"))
            .property("device_type", "cpu")
            .property("reg", n)
            .property("enable-method", "spin-table")
            .property("cpu-release-addr", 0xd8 + 8 * u64::from(n))
    };
    let uart = |at: u32, spi: u32| {
        node(&std::format!("serial@{at:x}"))
            .property("compatible", vec!["arm,pl011", "arm,primecell"])
            .property("reg", [at, 0x200])
            .property("interrupts", [0u32, spi, 4])
    };
    let gic = node("interrupt-controller@40041000")
        .property("compatible", "arm,gic-400")
        .property("phandle", 1u32)
        .property("reg", [0x4004_1000u32, 0x1000, 0x4004_2000, 0x2000, 0x4004_4000, 0x2000, 0x4004_6000, 0x2000])
        .property("interrupts", maintenance);
    Parts {
        chosen: node("chosen")
            .property("stdout-path", "serial3:115200n8")
            .property("bootargs", "merus.idle=stay")
            .property("linux,initrd-start", 0x1000_0000u32)
            .property("linux,initrd-end", 0x1000_2000u64),
        aliases: node("aliases").property("serial3", "/soc/serial@7e201a00"),
        memory: vec![
            node("memory@40000000").property("device_type", "memory").property("reg", [0u32, 0x4000_0000, 0x4000_0000]),
            node("memory@0")
                .property("device_type", "memory")
                .property("reg", [0u32, 0, 0x3c00_0000, 1, 0, 0x1000_0000]),
            node("memory@3c000000").property("reg", [0u32, 0x3c00_0000, 0x400_0000]),
        ],
        reserved: node("reserved-memory")
            .property("#address-cells", 2u32)
            .property("#size-cells", 1u32)
            .flag("ranges")
            .child(node("fw@100000").property("reg", [0u32, 0x10_0000, 0x1000]))
            .child(node("pool").property("size", 0x10_0000u32)),
        cpus: node("cpus")
            .property("#address-cells", 1u32)
            .property("#size-cells", 0u32)
            .child(cpu(0))
            .child(cpu(1))
            .child(cpu(2).property("status", "fail")),
        soc: node("soc")
            .property("#address-cells", 1u32)
            .property("#size-cells", 1u32)
            .property("ranges", [0x7e00_0000u32, 0, 0xfe00_0000, 0x180_0000, 0x4000_0000, 0, 0xff80_0000, 0x80_0000])
            .child(gic)
            .child(
                node("watchdog@7e100000")
                    .property("compatible", vec!["brcm,bcm2711-pm", "brcm,bcm2835-pm-wdt"])
                    .property("reg", [0x7e10_0000u32, 0x114, 0x7e00_a000, 0x24]),
            )
            .child(
                node("mailbox@7e00b880")
                    .property("compatible", "brcm,bcm2835-mbox")
                    .property("reg", [0x7e00_b880u32, 0x40]),
            )
            .child(uart(0x7e20_1000, 121).property("status", "disabled"))
            .child(uart(0x7e20_1a00, 122)),
        timer: node("timer").property("compatible", "arm,armv8-timer").property("interrupts", timer),
    }
}

struct Parts {
    chosen: NodeWriter,
    aliases: NodeWriter,
    memory: Vec<NodeWriter>,
    reserved: NodeWriter,
    cpus: NodeWriter,
    soc: NodeWriter,
    timer: NodeWriter,
}

impl Parts {
    fn blob(self) -> Vec<u8> {
        self.blob_with(&[(0, 0x1000)])
    }

    /// With these memory reservations.
    fn blob_with(self, reservations: &[(u64, u64)]) -> Vec<u8> {
        let mut root = NodeWriter::new("")
            .property("model", "Some Board")
            .property("#address-cells", 2u32)
            .property("#size-cells", 1u32)
            .property("interrupt-parent", 1u32)
            .child(self.chosen)
            .child(self.aliases)
            .child(self.reserved)
            .child(self.cpus)
            .child(self.soc)
            .child(self.timer);
        for memory in self.memory {
            root = root.child(memory);
        }
        root.blob_with(reservations)
    }
}

#[test]
fn a_board_of_another_shape_is_read() {
    let board = parse(&other_board().blob()).unwrap();
    assert_eq!(board.model, "Some Board");
    assert_eq!(board.ram, [span(0, 0x8000_0000), span(0x1_0000_0000, 0x1000_0000)]);
    assert_eq!(board.reserved, [span(0, 0x1000), span(0x10_0000, 0x1000)]);
    let release = |at| Enable::SpinTable { release: Pa::new(at) };
    assert_eq!(board.cpus, [CpuNode { mpidr: 0, enable: release(0xd8) }, CpuNode { mpidr: 1, enable: release(0xe0) }]);
    let gic = Gic::V2 {
        dist: span(0xff84_1000, 0x1000),
        cpu: span(0xff84_2000, 0x2000),
        hyp: span(0xff84_4000, 0x2000),
        vcpu: span(0xff84_6000, 0x2000),
        maintenance_irq: 25,
    };
    assert_eq!(board.gic, gic);
    assert_eq!(board.uart, Some(Uart { kind: UartKind::Pl011, base: span(0xfe20_1a00, 0x200), intid: Some(154) }));
    assert_eq!((board.psci, board.power), (None, Some(span(0xfe10_0000, 0x114))));
    assert_eq!(board.mailbox, Some(span(0xfe00_b880, 0x40)));
    assert_eq!(board.initrd, Some(span(0x1000_0000, 0x2000)));
    assert_eq!(board.bootargs, "merus.idle=stay");
    assert_eq!((board.power_pins, board.counter_hz), (None, None));
    assert!(board.rng_seed.is_none());
}

#[test]
#[cfg_attr(miri, ignore = "the board above, read five times more")]
fn without_a_known_choice_the_first_usable_serial_port_is_taken() {
    for path in ["/soc/serial@7e201000", "/soc/nothing", "serial9", "", ":"] {
        let mut parts = other_board();
        parts.chosen = NodeWriter::new("chosen").property("stdout-path", path);
        let uart = parse(&parts.blob()).unwrap().uart.unwrap();
        assert_eq!(uart.base.start(), Pa::new(0xfe20_1a00), "{path}");
    }
}

#[test]
#[cfg_attr(miri, ignore = "the board above, read once more")]
fn another_serial_port_that_can_interrupt_is_for_control() {
    let mut parts = other_board();
    let port = |at: u32| {
        NodeWriter::new(std::format!("serial@{at:x}")).property("compatible", "arm,pl011").property("reg", [at, 0x200])
    };
    parts.soc = parts.soc.child(port(0x7e20_1400)).child(port(0x7e20_1600).property("interrupts", [0u32, 123, 4]));
    let board = parse(&parts.blob()).unwrap();
    assert_eq!(board.uart.unwrap().base.start(), Pa::new(0xfe20_1a00));
    let control = board.control.unwrap();
    assert_eq!((control.base.start(), control.intid), (Pa::new(0xfe20_1600), Some(155)));
}

/// The board above with a BCM2835's mini-UART, which `stdout-path` names, and with `bluetooth` in the PL011's place.
fn board_with_mini_uart(stdout: &str, pl011: NodeWriter) -> Parts {
    let mut parts = other_board();
    let mini = NodeWriter::new("serial@7e215040")
        .property("compatible", "brcm,bcm2835-aux-uart")
        .property("reg", [0x7e21_5040u32, 0x40])
        .property("interrupts", [0u32, 93, 4]);
    let aux =
        NodeWriter::new("aux@7e215000").property("compatible", "brcm,bcm2835-aux").property("reg", [0x7e21_5000u32, 8]);
    let pl011 = pl011.property("compatible", "arm,pl011").property("reg", [0x7e20_1000u32, 0x200]);
    parts.aliases = NodeWriter::new("aliases")
        .property("serial0", "/soc/serial@7e201000")
        .property("serial1", "/soc/serial@7e215040");
    parts.chosen = NodeWriter::new("chosen").property("stdout-path", stdout);
    parts.soc = NodeWriter::new("soc")
        .property("#address-cells", 1u32)
        .property("#size-cells", 1u32)
        .property("ranges", [0x7e00_0000u32, 0, 0xfe00_0000, 0x180_0000, 0x4000_0000, 0, 0xff80_0000, 0x80_0000])
        .child(
            NodeWriter::new("interrupt-controller@40041000")
                .property("compatible", "arm,gic-400")
                .property("phandle", 1u32)
                .property(
                    "reg",
                    [0x4004_1000u32, 0x1000, 0x4004_2000, 0x2000, 0x4004_4000, 0x2000, 0x4004_6000, 0x2000],
                )
                .property("interrupts", [1u32, 9, 4]),
        )
        .child(pl011.property("interrupts", [0u32, 121, 4]))
        .child(aux)
        .child(mini);
    parts
}

/// The two of that board.
fn mini_and_pl011() -> (Uart, Uart) {
    let mini = Uart {
        kind: UartKind::Mini { aux: Some(span(0xfe21_5000, 8)) },
        base: span(0xfe21_5040, 0x40),
        intid: Some(125),
    };
    (mini, Uart { kind: UartKind::Pl011, base: span(0xfe20_1000, 0x200), intid: Some(153) })
}

#[test]
#[cfg_attr(miri, ignore = "the board above, read thrice more")]
fn of_two_kinds_of_serial_ports_the_console_is_the_chosen_one_and_the_other_is_for_control() {
    let (mini, pl011) = mini_and_pl011();
    let node = || NodeWriter::new("serial@7e201000");
    let cases = [("serial1:115200n8", mini, pl011), ("serial0:115200n8", pl011, mini), ("/nothing", pl011, mini)];
    for (stdout, console, control) in cases {
        let blob = board_with_mini_uart(stdout, node()).blob();
        let board = parse(&blob).unwrap();
        assert_eq!((board.uart, board.control), (Some(console), Some(control)), "{stdout}");
        // What has to do for last words is the same port.
        assert_eq!(last_resort(&blob).0, Some(Uart { intid: None, ..console }), "{stdout}");
    }
    // One that is off is none.
    let board = parse(&board_with_mini_uart("serial0", node().property("status", "disabled")).blob()).unwrap();
    assert_eq!((board.uart, board.control), (Some(mini), None));
}

#[test]
#[cfg_attr(miri, ignore = "the board above, read thrice more")]
fn a_serial_port_with_a_device_at_its_other_end_is_for_neither() {
    let (mini, pl011) = mini_and_pl011();
    let bluetooth = || NodeWriter::new("bluetooth").property("compatible", "brcm,bcm43438-bt");
    let wired = || NodeWriter::new("serial@7e201000").child(bluetooth());
    for stdout in ["serial1", "serial0"] {
        let board = parse(&board_with_mini_uart(stdout, wired()).blob()).unwrap();
        assert_eq!((board.uart, board.control), (Some(mini), None), "{stdout}");
    }
    // A device that is off is not there.
    let off = NodeWriter::new("serial@7e201000").child(bluetooth().property("status", "disabled"));
    let board = parse(&board_with_mini_uart("serial0", off).blob()).unwrap();
    assert_eq!((board.uart, board.control), (Some(pl011), Some(mini)));
}

/// A board with a Secure PL061 and the nodes that say what its pins do, changed by `change`.
fn board_with_pins(change: fn(&str, NodeWriter) -> NodeWriter) -> Board {
    let mut parts = other_board();
    let secure = |name: &str, compatible: &str| {
        let node = NodeWriter::new(name).property("compatible", compatible).property("status", "disabled");
        change(name, node)
    };
    parts.memory.extend([
        secure("gpio-restart", "gpio-restart").property("gpios", [9u32, 1, 0]),
        secure("gpio-poweroff", "gpio-poweroff").property("gpios", [9u32, 0, 0]),
        secure("pl061@90b0000", "arm,pl061").property("phandle", 9u32).property("reg", [0u32, 0x90b_0000, 0x1000]),
    ]);
    parse(&parts.blob()).unwrap()
}

#[test]
#[cfg_attr(miri, ignore = "the board above, read four times more")]
fn the_pins_that_end_the_machine_are_the_secure_sides() {
    let pins = PowerPins { registers: span(0x90b_0000, 0x1000), off: Some(0), reset: Some(1) };
    assert_eq!(board_with_pins(|_, node| node.property("secure-status", "okay")).power_pins, Some(pins));
    // What the Secure side may not use is not there for it.
    let no_off = |name: &str, node: NodeWriter| match name {
        "gpio-poweroff" => node.property("secure-status", "disabled"),
        _ => node.property("secure-status", "okay"),
    };
    assert_eq!(board_with_pins(no_off).power_pins, Some(PowerPins { off: None, ..pins }));
    let no_gpio = |name: &str, node: NodeWriter| match name {
        "pl061@90b0000" => node,
        _ => node.property("secure-status", "okay"),
    };
    assert_eq!(board_with_pins(no_gpio).power_pins, None);
    assert_eq!(parse(&other_board().blob()).unwrap().power_pins, None);
}

#[test]
#[cfg_attr(miri, ignore = "the board above, read five times more")]
fn a_power_pin_of_another_form_is_none() {
    for gpios in [vec![9u32, 0, 1], vec![9, 8, 0], vec![9, 0], vec![7, 0, 0], vec![]] {
        let mut parts = other_board();
        parts.memory.extend([
            NodeWriter::new("gpio-poweroff").property("compatible", "gpio-poweroff").property("gpios", gpios),
            NodeWriter::new("pl061@90b0000")
                .property("compatible", "arm,pl061")
                .property("phandle", 9u32)
                .property("reg", [0u32, 0x90b_0000, 0x1000]),
        ]);
        assert_eq!(parse(&parts.blob()).unwrap().power_pins, None);
    }
}

#[test]
#[cfg_attr(miri, ignore = "the board above, read once more")]
fn the_counters_frequency_is_the_timers() {
    let mut parts = other_board();
    parts.timer = parts.timer.property("clock-frequency", 54_000_000u32);
    assert_eq!(parse(&parts.blob()).unwrap().counter_hz, Some(54_000_000));
}

#[test]
#[cfg_attr(miri, ignore = "the board above, read seven times more")]
fn a_module_is_an_initrd() {
    let board = |reg: &[u32], cells: Option<u32>, named: bool| {
        let mut parts = other_board();
        let module = NodeWriter::new("module@50000000")
            .property("compatible", vec!["multiboot,module", "multiboot,ramdisk"])
            .property("reg", reg.to_vec());
        let mut chosen = NodeWriter::new("chosen").child(module);
        if let Some(cells) = cells {
            chosen = chosen.property("#address-cells", cells).property("#size-cells", cells);
        }
        if named {
            chosen = chosen.property("linux,initrd-start", 0x1000_0000u32).property("linux,initrd-end", 0x1000_2000u32);
        }
        parts.chosen = chosen;
        parse(&parts.blob()).map(|board| board.initrd).map_err(|error| std::format!("{error}"))
    };
    let module = Some(span(0x5000_0000, 0x3000));
    assert_eq!(board(&[0, 0x5000_0000, 0, 0x3000], None, false), Ok(module));
    assert_eq!(board(&[0, 0x5000_0000, 0, 0x3000], Some(2), false), Ok(module));
    assert_eq!(board(&[0x5000_0000, 0x3000], Some(1), false), Ok(module));
    // The boot protocol's own words come first.
    assert_eq!(board(&[0, 0x5000_0000, 0, 0x3000], None, true), Ok(Some(span(0x1000_0000, 0x2000))));
    for (reg, cells) in [(&[0u32, 1, 2, 3, 4][..], None), (&[1, 2, 3, 4], Some(1)), (&[u32::MAX; 4], None)] {
        assert!(board(reg, cells, false).unwrap_err().contains("node /chosen/module@50000000: property reg"));
    }
}

#[test]
#[cfg_attr(miri, ignore = "the board above, read once more")]
fn timers_can_be_told_apart_by_name() {
    let mut parts = other_board();
    parts.timer = NodeWriter::new("timer")
        .property("compatible", "arm,armv8-timer")
        .property("interrupt-names", vec!["phys", "virt", "hyp-phys", "hyp-virt"])
        .property("interrupts-extended", vec![1u32, 1, 14, 8, 1, 1, 11, 8, 1, 1, 10, 8, 1, 1, 12, 8]);
    let timer = parse(&parts.blob()).unwrap().timer;
    assert_eq!(timer, TimerIrqs { virt: 27, phys: 30, hyp: 26, hyp_virt: Some(28) });
}

#[test]
#[cfg_attr(miri, ignore = "the boards above, read once more")]
fn the_private_interrupts_are_the_trees() {
    assert_eq!(parse(VIRT_V3).unwrap().ppis, Ppis { maintenance: 25, hyp_timer: 26, virtual_timer: 27 });
    let board = parse(&board_with([1, 1, 4], [1, 13, 8, 1, 14, 8, 1, 0, 8, 1, 15, 8]).blob()).unwrap();
    assert_eq!(board.ppis, Ppis { maintenance: 17, hyp_timer: 31, virtual_timer: 16 });
    assert_eq!(board.ppis.mask(), 1 << 17 | 1 << 31 | 1 << 16);
}

#[test]
fn private_interrupts_that_make_no_sense_are_refused() {
    let gic = "/soc/interrupt-controller@40041000: property interrupts: ";
    let timer = "/timer: property interrupts: ";
    let good = [1, 13, 8, 1, 14, 8, 1, 11, 8, 1, 10, 8];
    let with = |virt: [u32; 2], hyp: [u32; 2]| [1, 13, 8, 1, 14, 8, virt[0], virt[1], 8, hyp[0], hyp[1], 8];
    let neither = "names an interrupt that is neither an SPI nor a PPI";
    let private = "has a timer's interrupt that is no PPI, so not each CPU's own";
    let cases = [
        ([0, 9, 4], good, gic, "has a maintenance interrupt that is no PPI, so not each CPU's own"),
        ([1, 16, 4], good, gic, neither),
        ([2, 9, 4], good, gic, neither),
        ([1, 10, 4], good, timer, "has the interrupt controller's maintenance interrupt for a timer"),
        ([1, 11, 4], good, timer, "has the interrupt controller's maintenance interrupt for a timer"),
        ([1, 9, 4], with([1, 11], [1, 11]), timer, "has one interrupt for the virtual and the hypervisor timer"),
        ([1, 9, 4], with([0, 11], [1, 10]), timer, private),
        ([1, 9, 4], with([1, 11], [0, 10]), timer, private),
        ([1, 9, 4], with([1, 16], [1, 10]), timer, neither),
        ([1, 9, 4], with([1, 11], [7, 10]), timer, neither),
    ];
    for (maintenance, interrupts, node, fault) in cases.into_iter().step_by(if cfg!(miri) { 9 } else { 1 }) {
        let error = parse(&board_with(maintenance, interrupts).blob()).unwrap_err();
        assert_eq!(error.to_string(), std::format!("the board's device tree: node {node}{fault}"));
    }
}

#[test]
#[cfg_attr(miri, ignore = "a long tree; a smaller one is read above")]
fn the_seed_is_found_where_it_is_to_be_wiped() {
    let mut tree = VIRT_V3.to_vec();
    let board = parse(&tree).unwrap();
    let (seed, at) = (board.rng_seed.unwrap(), board.rng_seed_at.unwrap());
    assert_eq!(&tree[at.clone()], seed.as_bytes());
    tree[at.clone()].fill(0);
    assert_eq!(parse(&tree).unwrap().rng_seed.unwrap().as_bytes(), [0; 32]);
    // Nothing but the seed has gone.
    tree[at].copy_from_slice(seed.as_bytes());
    assert_eq!(tree, VIRT_V3);
    assert_eq!(parse(&other_board().blob()).unwrap().rng_seed_at, None);
    // However short it is.
    let mut parts = other_board();
    parts.chosen = NodeWriter::new("chosen").property("rng-seed", [0xa5u8, 0x5a, 0xa5]);
    let tree = parts.blob();
    assert_eq!(&tree[parse(&tree).unwrap().rng_seed_at.unwrap()], [0xa5, 0x5a, 0xa5]);
}

#[test]
fn a_refusal_names_node_and_property() {
    fn refusal(change: fn(&mut Parts)) -> String {
        let mut parts = other_board();
        change(&mut parts);
        parse(&parts.blob()).unwrap_err().to_string()
    }
    let node = "the board's device tree: node ";
    type Change = fn(&mut Parts);
    let cases: [(Change, &str); 9] = [
        (|p| p.memory.clear(), "the board's device tree has no memory"),
        (|p| p.cpus = NodeWriter::new("cpus"), "the board's device tree has no usable CPU"),
        (|p| p.soc = NodeWriter::new("soc"), "the board's device tree has no interrupt controller (GICv3 or GICv2)"),
        (|p| p.timer = NodeWriter::new("timer"), "the board's device tree has no architected timer"),
        (
            |p| p.memory.push(NodeWriter::new("memory@1").property("reg", [1u32, 2])),
            "/memory@1: property reg: is not made of the cells that its parent tells",
        ),
        (
            |p| p.memory.push(NodeWriter::new("memory@1").property("reg", [u32::MAX, u32::MAX, 2])),
            "/memory@1: property reg: wraps around the end of memory",
        ),
        (
            |p| {
                p.soc = NodeWriter::new("soc")
                    .child(NodeWriter::new("gic").property("compatible", "arm,gic-v3").property("reg", [0u32, 0, 1]))
            },
            "/soc: property ranges: is missing",
        ),
        (
            |p| {
                p.chosen =
                    NodeWriter::new("chosen").property("linux,initrd-start", 8u32).property("linux,initrd-end", 4u32)
            },
            "/chosen: property linux,initrd-end: is below linux,initrd-start",
        ),
        (
            |p| {
                p.timer = NodeWriter::new("timer")
                    .property("compatible", "arm,armv8-timer")
                    .property("interrupts", [1u32, 13, 8])
            },
            "/timer: property interrupts: lacks the physical timer's",
        ),
    ];
    // A few of them are enough for Miri.
    for (change, message) in cases.into_iter().step_by(if cfg!(miri) { 7 } else { 1 }) {
        let expected = if message.starts_with('/') { std::format!("{node}{message}") } else { message.to_string() };
        assert_eq!(refusal(change), expected);
    }
    assert_eq!(
        parse(b"").unwrap_err().to_string(),
        "the board's device tree cannot be read: it is shorter than it says"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 1 } else { 400 }))]

    #[test]
    fn a_mangled_tree_never_panics(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..10),
        cut in prop::option::of(any::<prop::sample::Index>()),
        other: bool,
    ) {
        let mut blob = if other { other_board().blob() } else { VIRT_V3.to_vec() };
        for (index, value) in changes {
            let at = index.index(blob.len());
            blob[at] = value;
        }
        if let Some(cut) = cut {
            blob.truncate(cut.index(blob.len()));
        }
        let _ = parse(&blob);
    }
}

#[test]
#[cfg_attr(miri, ignore = "parts of what reads a board that can be used, over a long tree")]
fn a_board_that_cannot_be_used_can_still_be_told_so() {
    // The board's own tree, its interrupt controller renamed to something unknown.
    let mut tree = VIRT_V3.to_vec();
    let name = b"arm,gic-v3";
    let at = tree.windows(name.len()).position(|w| w == name).unwrap();
    tree[at] = b'x';
    assert!(parse(&tree).is_err());
    let (uart, psci) = last_resort(&tree);
    assert_eq!(uart.unwrap().base.start(), Pa::new(0x0900_0000));
    assert_eq!(psci.unwrap().conduit, Conduit::Smc);
    assert_eq!(last_resort(&[0; 64]), (None, None));
}

/// Pages below 6 GiB, somewhere: on the first GiB half of the time, where the devices' reservations are.
fn some_pages(most: u64) -> impl Strategy<Value = Span<Pa>> {
    let start = prop_oneof![0..0x4_0000_u64, 0..0x18_0000_u64];
    (start, 0..most, 0..0x1000_u64, 0..0x1000_u64)
        .prop_map(|(page, pages, before, behind)| span((page << 12) + before, (pages << 12) + behind))
}

/// A property `reg` with addresses of two cells and sizes of one.
fn cells_of(span: Span<Pa>) -> [u32; 3] {
    let start = span.start().as_u64();
    [(start >> 32) as u32, start as u32, span.size() as u32]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 1 } else { 300 }))]

    /// What `start` does with any tree: image, tree, bundle, reservations, registers and what is lent never share a byte.
    #[test]
    fn whatever_a_tree_says_nothing_overlaps(
        ram in prop::collection::vec(some_pages(0x4_0000), 1..5),
        reserved in prop::collection::vec((some_pages(0x1_0000), any::<bool>(), any::<bool>()), 0..6),
        memreserve in prop::collection::vec(some_pages(0x1_0000), 0..4),
        bundle in some_pages(0x8000),
        image in some_pages(0x400),
        tree_at in some_pages(0x20),
        wanted in prop::collection::vec(some_pages(8), 0..6),
    ) {
        use ::memory::{Plan, Use};
        let mut parts = other_board();
        let node = |name: std::string::String| NodeWriter::new(name);
        parts.memory = ram.iter().enumerate().map(|(n, span)| {
            node(std::format!("memory@{n}")).property("device_type", "memory").property("reg", cells_of(*span))
        }).collect();
        parts.reserved = reserved.iter().enumerate().fold(
            NodeWriter::new("reserved-memory").property("#address-cells", 2u32).property("#size-cells", 1u32).flag("ranges"),
            |parent, (n, (span, fixed, no_map))| {
                let mut child = node(std::format!("r@{n}"));
                child = match fixed {
                    true => child.property("reg", cells_of(*span)),
                    // The operating system is to find a place: nothing is taken.
                    false => child.property("size", 0x10_0000u32).property("alloc-ranges", cells_of(*span)),
                };
                parent.child(if *no_map { child.flag("no-map") } else { child })
            },
        );
        parts.chosen = NodeWriter::new("chosen")
            .property("linux,initrd-start", bundle.start().as_u64())
            .property("linux,initrd-end", bundle.end().as_u64());
        let pairs: Vec<_> = memreserve.iter().map(|span| (span.start().as_u64(), span.size())).collect();
        // (An entry of zeroes ends the block.)
        let pairs: Vec<_> = pairs.into_iter().filter(|pair| *pair != (0, 0)).collect();
        let Ok(board) = parse(&parts.blob_with(&pairs)) else { return Ok(()) };
        let mut plan = Plan::new(&board.ram, image);
        let mut own = vec![image];
        let claims = [(Use::Tree, Some(tree_at)), (Use::Bundle, board.initrd)];
        for (of, at) in claims.into_iter().filter_map(|(of, at)| Some((of, at?))) {
            if plan.claim(of, at).is_ok() {
                own.push(at);
            }
        }
        for at in &board.reserved {
            prop_assert!(plan.claim(Use::Reserved, *at).is_ok());
        }
        let Gic::V2 { dist, cpu, hyp, vcpu, .. } = board.gic else { panic!() };
        let mut registers = vec![dist, cpu, hyp, vcpu];
        registers.extend(board.uart.map(|uart| uart.base).into_iter().chain(board.power));
        let taken: Vec<_> = registers.into_iter().filter(|at| plan.device(*at).is_ok()).collect();
        let (mut space, free) = plan.settle();
        let windows: Vec<_> = wanted.iter().filter_map(|at| space.lend(*at).ok()).collect();
        let fixed = reserved.iter().filter(|(_, fixed, _)| *fixed).map(|(at, ..)| at);
        let held: Vec<_> = own.iter().chain(fixed).chain(&memreserve).chain(&taken).copied().collect();
        for free in &free {
            let free = free.span();
            prop_assert!(board.ram.iter().any(|ram| ram.encloses(&free)));
            prop_assert!(!held.iter().any(|at| at.overlaps(&free)), "{free} of {held:?}");
            prop_assert!(!windows.iter().any(|window| window.span().overlaps(&free)));
        }
        for (n, window) in windows.iter().enumerate() {
            let window = window.span();
            prop_assert!(!ram.iter().chain(&held).any(|at| at.overlaps(&window)));
            prop_assert!(!windows.iter().skip(n + 1).any(|other| other.span().overlaps(&window)));
        }
        for (n, one) in own.iter().enumerate() {
            prop_assert!(!own.iter().skip(n + 1).any(|other| other.overlaps(one)));
            prop_assert!(!taken.iter().any(|device| device.overlaps(one)));
        }
    }
}

#[test]
fn sd_controllers_are_those_that_are_on_and_have_nothing_else_at_their_wires() {
    let host = |at: u32, spi: u32, kind: &str| {
        NodeWriter::new(std::format!("mmc@{at:x}"))
            .property("compatible", kind)
            .property("reg", [at, 0x100])
            .property("interrupts", [0u32, spi, 4])
    };
    let wifi = || NodeWriter::new("wifi@1").property("reg", 1u32);
    let mut parts = other_board();
    parts.soc = parts
        .soc
        .child(host(0x7e30_0000, 126, "brcm,bcm2835-sdhci").child(wifi()))
        .child(host(0x7e34_0000, 127, "brcm,bcm2711-emmc2"))
        .child(host(0x7e35_0000, 127, "brcm,bcm2711-emmc2").property("status", "disabled"))
        .child(host(0x7e36_0000, 128, "brcm,bcm2835-sdhci").child(wifi().property("status", "disabled")))
        .child(host(0x7e37_0000, 128, "brcm,bcm2835-sdhost"))
        // Nothing tells where its interrupt goes.
        .child(host(0x7e38_0000, 129, "brcm,bcm2835-sdhci").property("interrupt-parent", 7u32));
    let found = sd_hosts(&parts.blob()).unwrap();
    let expected = [(0xfe34_0000, 159), (0xfe36_0000, 160)];
    assert_eq!(found, expected.map(|(at, intid)| SdHost { registers: span(at, 0x100), intid }));
    assert!(sd_hosts(&[]).is_err());
}
