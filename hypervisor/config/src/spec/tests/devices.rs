//! Disks, network cards and switches.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

fn disk(name: &str, size: u64) -> DiskSpec {
    DiskSpec { source: DiskSource::Image(payload(name, PayloadKind::Disk, size)), readonly: false, serial: None }
}

fn host(selector: &str, readonly: bool) -> DiskSpec {
    DiskSpec { source: DiskSource::Host(selector.to_string()), readonly, serial: None }
}

fn net(switch: &str, mac: Option<Mac>) -> NetSpec {
    NetSpec { switch: switch.to_string(), mac, mtu: DEFAULT_MTU, isolated: false }
}

fn switch(name: &str) -> SwitchSpec {
    SwitchSpec { name: name.to_string(), uplink: false }
}

fn with(name: &str, disks: &[DiskSpec], nets: &[NetSpec]) -> VmSpec {
    VmSpec { disks: disks.to_vec(), nets: nets.to_vec(), ..vm(name) }
}

/// All faults, in words.
fn told(vms: &[VmSpec], switches: &[SwitchSpec]) -> Vec<(Place, String)> {
    let found = faults_by_place(vms, &[], switches).into_iter();
    found.map(|(place, fault)| (place, fault.to_string())).collect()
}

#[test]
fn each_fault_of_a_disk_is_told() {
    let serial = |serial: &str| DiskSpec { serial: Some(serial.to_string()), ..disk("root.img", 4096) };
    let cases: [(&[DiskSpec], &str); 11] = [
        (&[disk("root.img", 0)], "disk 0: key image: \"root.img\" is empty; give another file"),
        (
            &[disk("a.img", 512), disk("root.img", 1000)],
            "disk 1: key image: \"root.img\" has 1000 bytes, which is no multiple of 512; is it a disk's image, and whole?",
        ),
        (&[serial("")], "disk 0: key serial: \"\" is no serial; use 1 to 20 printable ASCII characters without spaces"),
        (
            &[serial("123456789012345678901")],
            "disk 0: key serial: \"123456789012345678901\" is no serial; use 1 to 20 printable ASCII characters without spaces",
        ),
        (
            &[serial("a b")],
            "disk 0: key serial: \"a b\" is no serial; use 1 to 20 printable ASCII characters without spaces",
        ),
        (
            &[serial("x"), serial("x")],
            "disk 1: key serial: \"x\" is the serial of another of the VM's disks; choose another one",
        ),
        // The first one's is made of its number.
        (
            &[disk("root.img", 512), serial("disk0")],
            "disk 1: key serial: \"disk0\" is the serial of another of the VM's disks; choose another one",
        ),
        (
            &[host("web", false)],
            "disk 0: key host: \"web\" names no host disk; write \"PARTLABEL=NAME\", \"PARTUUID=ID\" or \"DISK=NUMBER\"",
        ),
        (
            &[host("PARTUUID=xyz", false)],
            "disk 0: key host: \"PARTUUID=xyz\" names no host disk; write \"PARTLABEL=NAME\", \"PARTUUID=ID\" or \"DISK=NUMBER\"",
        ),
        (
            &[host("DISK=256", false)],
            "disk 0: key host: \"DISK=256\" names no host disk; write \"PARTLABEL=NAME\", \"PARTUUID=ID\" or \"DISK=NUMBER\"",
        ),
        (
            &[host("PARTLABEL=", false)],
            "disk 0: key host: \"PARTLABEL=\" names no host disk; write \"PARTLABEL=NAME\", \"PARTUUID=ID\" or \"DISK=NUMBER\"",
        ),
    ];
    for (disks, message) in cases {
        let at = Place::Disk { vm: 0, disk: disks.len() - 1 };
        assert_eq!(told(&[with("web", disks, &[])], &[]), [(at, format!("vm \"web\": {message}"))]);
    }
    assert_eq!(told(&[with("web", &[disk("root.img", 512), serial("12345678901234567890")], &[])], &[]), []);
    assert_eq!(with("web", &[disk("a", 512), serial("x")], &[]).faults().len(), 0);
    let two = with("web", &[disk("a", 512), serial("x")], &[]);
    assert_eq!((two.serial(0), two.serial(1)), ("disk0".to_string(), "x".to_string()));
}

#[test]
fn a_part_of_the_machines_disks_has_one_writer() {
    let taken = |vms: &[VmSpec]| -> Vec<String> {
        told(vms, &[]).into_iter().map(|(_, text)| text).filter(|text| text.contains("written to")).collect()
    };
    let a = |selector, readonly| with("a", &[host(selector, readonly)], &[]);
    let b = |selector, readonly| with("b", &[host(selector, readonly)], &[]);
    assert_eq!(
        taken(&[a("PARTLABEL=web", false), b("PARTLABEL=web", false)]),
        [
            "vm \"b\": disk 0: key host: PARTLABEL=web is written to by a disk of vm \"a\" already; give each its own, or make \
          one of them readonly"
        ]
    );
    assert_eq!(taken(&[a("PARTUUID=AB-01", false), b("PARTUUID=ab-01", false)]).len(), 1);
    assert_eq!(taken(&[with("a", &[host("DISK=1", false), host("DISK=1", false)], &[])]).len(), 1);
    assert_eq!(taken(&[a("PARTLABEL=web", true), b("PARTLABEL=web", false)]), [""; 0]);
    assert_eq!(taken(&[a("PARTLABEL=web", false), b("PARTLABEL=Web", false)]), [""; 0]);
    // Whoever writes to an image writes to a copy of its own.
    assert_eq!(told(&[with("a", &[disk("r", 512)], &[]), with("b", &[disk("r", 512)], &[])], &[]), []);
}

#[test]
fn each_fault_of_a_net_or_a_switch_is_told() {
    let mac = |text: &str| Some(Mac::parse(text).unwrap());
    let at = |vm, net| Place::Net { vm, net };
    let cases: [(Vec<VmSpec>, Vec<SwitchSpec>, Place, &str); 8] = [
        (
            vec![with("a", &[], &[net("wan", None)])],
            vec![switch("lan")],
            at(0, 0),
            "vm \"a\": net 0: key switch: there is no switch \"wan\"; describe it in a [[switch]] table, or correct the name",
        ),
        (
            vec![with("a", &[], &[net("lan", mac("00:00:00:00:00:00"))])],
            vec![switch("lan")],
            at(0, 0),
            "vm \"a\": net 0: key mac: 00:00:00:00:00:00 is nobody's address; give another one, or leave the key out for one \
             made of the VM's name",
        ),
        (
            vec![with("a", &[], &[net("lan", mac("53:54:00:00:00:01"))])],
            vec![switch("lan")],
            at(0, 0),
            "vm \"a\": net 0: key mac: 53:54:00:00:00:01 is a multicast address (the first byte is odd); give another one, such \
             as 52:54:00:00:00:01",
        ),
        (
            vec![
                with("a", &[], &[net("lan", mac("52:54:00:00:00:01"))]),
                with("b", &[], &[net("x", None), net("x", mac("52:54:00:00:00:01"))]),
            ],
            vec![switch("lan"), switch("x")],
            at(1, 1),
            "vm \"b\": net 1: key mac: 52:54:00:00:00:01 is the address of a net of vm \"a\" already; give each its own",
        ),
        // One that was derived is as good as one that was given.
        (
            vec![with("a", &[], &[net("lan", None)]), with("b", &[], &[net("lan", Some(Mac::derived("a", 0)))])],
            vec![switch("lan")],
            at(1, 0),
            &format!(
                "vm \"b\": net 0: key mac: {} is the address of a net of vm \"a\" already; give each its own",
                Mac::derived("a", 0)
            ),
        ),
        (
            vec![with("a", &[], &[NetSpec { mtu: 67, ..net("lan", None) }])],
            vec![switch("lan")],
            at(0, 0),
            "vm \"a\": net 0: key mtu: 67 is out of range; give 68 to 9000",
        ),
        (
            vec![vm("a")],
            vec![switch("lan"), switch("x"), switch("lan")],
            Place::Switch(2),
            "switch \"lan\": key name: the name is taken by another switch; choose another one",
        ),
        (
            vec![vm("a")],
            vec![switch("lan"), switch("Lan")],
            Place::Switch(1),
            "switch \"Lan\": key name: the character 'L' is not allowed; use a-z, 0-9, - and _",
        ),
    ];
    for (vms, switches, place, message) in cases {
        assert_eq!(told(&vms, &switches), [(place, message.to_string())]);
    }
    let many: Vec<SwitchSpec> = (0..17).map(|n| switch(&format!("s{n}"))).collect();
    assert_eq!(
        told(&[vm("a")], &many),
        [(Place::Whole, "there are more switches than the 16 that one machine can have; leave some out".to_string())]
    );
    assert_eq!(told(&[vm("a")], &many[..16]), []);
    let good = [NetSpec { mtu: 9000, isolated: true, ..net("lan", mac("52:54:00:00:00:01")) }, net("lan", None)];
    assert_eq!(told(&[with("a", &[], &good), with("b", &[], &[net("lan", None)])], &[switch("lan")]), []);
}

#[test]
fn a_switch_has_so_many_ports() {
    assert_eq!((MAX_PORTS, *MTUS.start()), (switch::PORTS, switch::SMALLEST_MTU));
    let with_nets = |n: usize, nets| with(&format!("vm{n}"), &[], &vec![net("lan", None); nets]);
    let mut vms: Vec<VmSpec> = (0..4).map(|n| with_nets(n, 16)).collect();
    assert_eq!(told(&vms, &[switch("lan")]), []);
    vms.push(with_nets(4, 1));
    let full = "vm \"vm4\": net 0: key switch: \"lan\" has 64 ports already, its uplink counted; take another switch";
    assert_eq!(told(&vms, &[switch("lan")]), [(Place::Net { vm: 4, net: 0 }, full.to_string())]);
    // An uplink is one of them.
    let found = told(&vms[..4], &[SwitchSpec { uplink: true, ..switch("lan") }]);
    assert!(found.iter().any(|(place, _)| *place == Place::Net { vm: 3, net: 15 }), "{found:?}");
}

#[test]
fn every_device_has_its_slot() {
    let spec = VmSpec { rng: true, ..with("a", &[disk("a", 512), disk("b", 512)], &[net("lan", None)]) };
    let slots = |spec: &VmSpec| spec.virtio_slots().collect::<Vec<_>>();
    use VirtioDevice as V;
    assert_eq!(slots(&spec), [(0, V::Rng), (1, V::Disk(0)), (2, V::Disk(1)), (3, V::Net(0)), (31, V::PowerKey)]);
    let fewer = VmSpec { rng: false, power_key: PowerKey::Gpio, ..spec.clone() };
    assert_eq!(slots(&fewer), [(0, V::Disk(0)), (1, V::Disk(1)), (2, V::Net(0))]);
    // The power key's is kept, whether there is one or not.
    let full = |disks: usize, power_key| VmSpec {
        rng: true,
        disks: (0..disks).map(|_| disk("a", 512)).collect(),
        power_key,
        ..vm("full")
    };
    let last = full(30, PowerKey::Both);
    assert_eq!((slots(&last).len(), last.faults()), (32, vec![]));
    for key in [PowerKey::Both, PowerKey::None] {
        let error = full(31, key).faults().remove(0).to_string();
        assert_eq!(
            error,
            "vm \"full\": has 32 devices of virtio (rng, disks and nets together); there is room for 31: give fewer"
        );
        assert!(slots(&full(1000, key)).len() <= 32);
    }
}

#[test]
#[cfg_attr(miri, ignore = "thousands of addresses")]
fn derived_addresses_are_local_and_stay() {
    // They are the VM's at each start, so they must not change with Merus either.
    assert_eq!(Mac::derived("web", 0).to_string(), "22:0b:8d:11:9d:c3");
    assert_eq!(Mac::derived("web", 1).to_string(), "46:c9:86:a1:42:fd");
    let names = (0..64).map(|n| format!("vm{n}"));
    let all: Vec<Mac> = names.flat_map(|name| (0..31).map(move |port| Mac::derived(&name, port))).collect();
    assert!(all.iter().all(|Mac([first, ..])| first & 3 == 2));
    let bytes = |at: usize| all.iter().map(|mac| mac.0[at]).collect::<BTreeSet<u8>>().len();
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
    assert!((1..6).all(|at| bytes(at) == 256) && bytes(0) == 64);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 256 }))]

    #[test]
    fn macs_are_read_as_they_are_written(bytes: [u8; 6], text in "[0-9a-f:]{0,20}") {
        let mac = Mac(bytes);
        prop_assert_eq!(Mac::parse(&mac.to_string()), Some(mac));
        prop_assert_eq!(Mac::parse(&mac.to_string().to_uppercase()), Some(mac));
        if let Some(mac) = Mac::parse(&text) {
            prop_assert_eq!(mac.to_string(), text);
        }
    }
}
