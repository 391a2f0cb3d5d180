use super::*;
use crate::image::Raw;
use crate::image::tests::kernel;
use crate::spec::tests::{payload, vm};
use crate::spec::{
    CpuClass, CpuMax, CpuSpec, DiskSource, DiskSpec, GroupSpec, GuestGic, Mac, NetSpec, PassthroughSpec, PayloadKind,
    PowerKey, SwitchSpec, VmSpec, faults, key,
};
use crate::tree::NodeWriter;
use proptest::prelude::*;
use std::format;
use std::vec;
use std::vec::Vec;

/// A bundle of these VMs and files, whose payloads are named by `image`.
fn pack(vms: &[VmSpec], files: &[(PayloadRef, Vec<u8>)]) -> Vec<u8> {
    let mut payloads: Vec<PayloadRef> = files.iter().map(|(payload, _)| payload.clone()).collect();
    for (payload, (_, bytes)) in payloads.iter_mut().zip(files) {
        payload.size = bytes.len() as u64;
        payload.crc32 = crc32fast::hash(bytes);
    }
    let mut out = lay_out(&mut payloads, vms, &groups(vms), &switches(vms)).unwrap();
    for (payload, (_, bytes)) in payloads.iter().zip(files) {
        assert_eq!(out.len() as u64, payload.offset);
        out.extend_from_slice(bytes);
        out.resize(out.len().next_multiple_of(4096), 0);
    }
    out
}

/// A group for each name that one of the VMs has, no two of them alike.
fn groups(vms: &[VmSpec]) -> Vec<GroupSpec> {
    let mut found: Vec<GroupSpec> = Vec::new();
    for name in vms.iter().filter_map(|vm| vm.group.clone()) {
        let n = found.len() as u32;
        let cpu_max = n.is_multiple_of(2).then_some(CpuMax { quota_us: 25_000, period_us: 100_000 });
        if found.iter().all(|group| group.name != name) {
            found.push(GroupSpec {
                name,
                weight: 50 + n,
                cpu_max,
                memory_max: (!n.is_multiple_of(3)).then_some(1 << 50),
            });
        }
    }
    found
}

/// A switch for each name that a VM's network card has, one of two with an uplink.
fn switches(vms: &[VmSpec]) -> Vec<SwitchSpec> {
    let mut found: Vec<SwitchSpec> = Vec::new();
    for name in vms.iter().flat_map(|vm| &vm.nets).map(|net| &net.switch) {
        if found.iter().all(|switch| switch.name != *name) {
            found.push(SwitchSpec { name: name.clone(), uplink: !found.len().is_multiple_of(2) });
        }
    }
    found
}

/// One VM with kernel and initrd.
fn example() -> Vec<u8> {
    let initrd = payload("initrd.gz", PayloadKind::Ramdisk, 5);
    let web = VmSpec { initrd: Some(initrd.clone()), ..vm("web") };
    pack(&[web], &[(payload("vmlinuz", PayloadKind::Kernel, 0), kernel(8192, 0, 8192, 8)), (initrd, b"hello".to_vec())])
}

/// One VM with all kinds of devices.
fn example_with_devices() -> Vec<u8> {
    let disk = |source| DiskSpec { source, readonly: true, serial: Some("root".to_string()) };
    let image = payload("root.img", PayloadKind::Disk, 0);
    let net = NetSpec { switch: "lan".to_string(), mac: Some(Mac([0x52; 6])), mtu: 9000, isolated: true };
    let disks = vec![disk(DiskSource::Image(image.clone())), disk(DiskSource::Host("DISK=0".to_string()))];
    let web = VmSpec { disks, nets: vec![net], rng: true, ..vm("web") };
    pack(&[web], &[(payload("vmlinuz", PayloadKind::Kernel, 0), kernel(8192, 0, 8192, 8)), (image, vec![0x55; 4096])])
}

fn refusal(bytes: &[u8]) -> String {
    Bundle::parse(bytes).unwrap_err().to_string()
}

/// Makes the header's sum right again after a change.
fn seal(bundle: &mut [u8]) {
    let crc32 = crc32fast::hash(&bundle[..40]);
    bundle[40..44].copy_from_slice(&crc32.to_le_bytes());
}

/// A bundle whose tree is `root`, all sums right, and `tail` bytes after it.
fn with_tree(root: NodeWriter, tail: usize) -> Vec<u8> {
    let tree = root.blob();
    let mut out = example();
    out.truncate(4096);
    out[12..16].copy_from_slice(&crc32fast::hash(&tree).to_le_bytes());
    out[32..40].copy_from_slice(&(tree.len() as u64).to_le_bytes());
    out.extend_from_slice(&tree);
    out.resize(out.len().next_multiple_of(4096) + tail, 0);
    let total = (out.len() as u64).to_le_bytes();
    out[16..24].copy_from_slice(&total);
    seal(&mut out);
    out
}

fn image_node(name: &str, at: u64, size: u64) -> NodeWriter {
    NodeWriter::new(name)
        .property("description", name)
        .property("type", "kernel")
        .property("data-position", at)
        .property("data-size", size)
        .child(NodeWriter::new("hash-1").property("algo", "crc32").property("value", 0u32))
}

fn with_images(images: &[(u64, u64)]) -> Vec<u8> {
    let node = |n: usize, (at, size): &(u64, u64)| image_node(&format!("k{n}"), *at, *size);
    let images = images.iter().enumerate().fold(NodeWriter::new("images"), |node_, (n, i)| node_.child(node(n, i)));
    with_tree(NodeWriter::new("").child(images), 8192)
}

/// The message for a good VM's node with properties before its own, of which the first of a name counts.
fn vm_refusal(first: fn(NodeWriter) -> NodeWriter) -> String {
    let node = first(NodeWriter::new("vm@0"))
        .property(key::NAME, "web")
        .property(key::KERNEL, "k0")
        .property(key::MEMORY, 256u64 << 20)
        .property(key::VCPUS, 1u32)
        .property(key::CPU_WEIGHT, 100u32);
    node_refusal(node)
}

/// The message for a bundle with this node for a VM.
fn node_refusal(node: NodeWriter) -> String {
    let images = NodeWriter::new("images").child(image_node("k0", 8192, 1));
    let merus = NodeWriter::new("merus").child(node);
    let bundle = with_tree(NodeWriter::new("").child(images).child(merus), 8192);
    match Bundle::parse(&bundle).unwrap().vms() {
        Ok(vms) => format!("{} taken", vms.len()),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_bundle_gives_back_what_was_packed() {
    let bytes = example();
    let bundle = Bundle::parse(&bytes).unwrap();
    let vms = bundle.vms().unwrap();
    assert_eq!(vms.len(), 1);
    assert_eq!((vms[0].name.as_str(), vms[0].memory, vms[0].vcpus), ("web", 256 << 20, 2));
    let initrd = vms[0].initrd.as_ref().unwrap();
    assert_eq!(bundle.payload(initrd), Some(&b"hello"[..]));
    assert_eq!(initrd.check(crc32fast::hash(b"hello")), Ok(()));
    let kernel = bundle.payload(&vms[0].kernel).unwrap();
    assert!(vms[0].layout(kernel).is_ok());
    assert!(kernel.as_ptr().addr().wrapping_sub(bytes.as_ptr().addr()).is_multiple_of(4096));
}

#[test]
fn the_header_is_what_the_format_says() {
    let bytes = example();
    assert_eq!(&bytes[..8], b"MERUSBDL");
    assert_eq!(bytes[8..12], [2, 0, 0, 0]);
    assert_eq!(bytes[16..24], (bytes.len() as u64).to_le_bytes());
    assert_eq!(bytes[24..32], 4096u64.to_le_bytes());
    assert_eq!(bytes[4096..4100], [0xd0, 0x0d, 0xfe, 0xed]);
    assert!(bytes[44..4096].iter().all(|byte| *byte == 0));
}

#[test]
#[cfg_attr(miri, ignore = "a bundle read once more")]
fn a_ramdisk_may_be_longer_than_the_bundle() {
    let mut bytes = example();
    let size = bytes.len() as u64;
    bytes.extend_from_slice(&[0xaa; 100]);
    assert_eq!(Bundle::parse(&bytes).unwrap().size(), size);
}

#[test]
fn what_is_no_bundle_is_refused() {
    for bytes in [&b""[..], b"MERUSBD", b"\xd0\x0d\xfe\xed", &[0; 5000]] {
        assert_eq!(refusal(bytes), "this is no bundle (it does not begin with MERUSBDL); make one with `merus pack`");
    }
}

#[test]
fn a_truncated_bundle_is_refused() {
    let bytes = example();
    let size = bytes.len();
    assert_eq!(
        refusal(&bytes[..100]),
        "the bundle is truncated: 100 bytes, and the header alone takes 4096; copy it again"
    );
    assert_eq!(
        refusal(&bytes[..size - 1]),
        format!("the bundle is truncated: {} of {size} bytes are there; copy it again", size - 1)
    );
    for length in (0..size).step_by(if cfg!(miri) { 997 } else { 1 }) {
        assert!(Bundle::parse(&bytes[..length]).is_err(), "{length} of {size} bytes were taken");
    }
}

#[test]
fn a_corrupted_bundle_is_refused() {
    let good = example();
    let mut bytes = good.clone();
    bytes[8] = 3;
    seal(&mut bytes);
    assert_eq!(
        refusal(&bytes),
        "the bundle has format version 3, this Merus reads 2; pack it with the `merus` that came with it"
    );
    let mut bytes = good.clone();
    bytes[24] ^= 0x10;
    let message = refusal(&bytes);
    assert!(message.starts_with("the bundle's header is corrupted (crc32 0x"), "{message}");
    let mut bytes = good.clone();
    bytes[4200] ^= 1;
    let message = refusal(&bytes);
    assert!(message.starts_with("the bundle's tree is corrupted (crc32 0x"), "{message}");
    assert!(message.ends_with("; copy or pack it again"), "{message}");
    // Every single flipped bit in the header's fields and the tree is noticed; Miri tries a few.
    let tree_end = 4096 + u64::from_le_bytes(good[32..40].try_into().unwrap()) as usize;
    for at in (0..44).chain(4096..tree_end).step_by(if cfg!(miri) { 101 } else { 1 }) {
        let mut bytes = good.clone();
        bytes[at] ^= 1 << (at % 8);
        assert!(Bundle::parse(&bytes).is_err(), "a flipped bit at {at:#x} went unnoticed");
    }
}

#[test]
#[cfg_attr(miri, ignore = "a bundle read once more")]
fn a_corrupted_payload_is_refused_by_its_sum() {
    let mut bytes = example();
    let last = bytes.len() - 4096;
    bytes[last] ^= 0x20;
    let bundle = Bundle::parse(&bytes).unwrap();
    let initrd = bundle.vms().unwrap()[0].initrd.clone().unwrap();
    assert_eq!(
        initrd.check(crc32fast::hash(bundle.payload(&initrd).unwrap())).unwrap_err().to_string(),
        "payload \"initrd.gz\" is corrupted (crc32 0xf7d18982, expected 0x3610a686); copy or pack the bundle again"
    );
}

#[test]
fn places_outside_the_bundle_are_refused() {
    // A few of each are enough for Miri.
    let few = if cfg!(miri) { 4 } else { 1 };
    let places = [(0u64, 100u64), (4097, 8), (1 << 40, 8), (4096, 1 << 40), (u64::MAX - 4095, 4096)];
    for (offset, size) in places.into_iter().step_by(few) {
        let mut bytes = example();
        bytes[24..32].copy_from_slice(&offset.to_le_bytes());
        bytes[32..40].copy_from_slice(&size.to_le_bytes());
        seal(&mut bytes);
        assert_eq!(
            refusal(&bytes),
            format!("the bundle's tree lies outside the bundle ({size} bytes at {offset:#x}); pack it again")
        );
    }
    let places = [(8193, 1), (8192, 8193), (16384, 1), (1 << 40, 1), (u64::MAX - 4095, 4096), (4096, u64::MAX)];
    for (offset, size) in places.into_iter().step_by(few) {
        assert_eq!(
            refusal(&with_images(&[(offset, size)])),
            format!("payload \"k0\" has a wrong place ({size} bytes at {offset:#x}); pack the bundle again")
        );
    }
    assert!(Bundle::parse(&with_images(&[(8192, 8192)])).is_ok());
    assert!(Bundle::parse(&with_images(&[(12288, 4096), (8192, 4096)])).is_ok());
    assert_eq!(refusal(&with_images(&[(0, 1)])), "payload \"k0\" overlaps the tree; pack the bundle again");
    assert_eq!(refusal(&with_images(&[(4096, 1)])), "payload \"k0\" overlaps the tree; pack the bundle again");
    assert_eq!(
        refusal(&with_images(&[(8192, 4097), (12288, 1)])),
        "payload \"k1\" overlaps payload \"k0\"; pack the bundle again"
    );
}

#[test]
fn a_tree_that_is_none_or_lacks_a_part_is_refused() {
    let bare = NodeWriter::new("").child(NodeWriter::new("images").child(NodeWriter::new("k0")));
    assert_eq!(refusal(&with_tree(bare, 0)), "the bundle's tree has no usable type in k0; pack it again");
    let unhashed = NodeWriter::new("k0")
        .property("description", "k")
        .property("type", "kernel")
        .property("data-position", 8192u64)
        .property("data-size", 1u64);
    let unhashed = NodeWriter::new("").child(NodeWriter::new("images").child(unhashed));
    assert_eq!(refusal(&with_tree(unhashed, 0)), "the bundle's tree has no usable crc32 in k0; pack it again");
    // Too long a tree for Miri.
    if !cfg!(miri) {
        let crowd: Vec<(u64, u64)> = (0..257).map(|_| (8192, 0)).collect();
        assert_eq!(refusal(&with_images(&crowd)), "the bundle has more than 256 payloads; leave some out");
    }
    let mut bytes = example();
    bytes[4096] = 0;
    let size = u64::from_le_bytes(bytes[32..40].try_into().unwrap()) as usize;
    let crc32 = crc32fast::hash(&bytes[4096..4096 + size]);
    bytes[12..16].copy_from_slice(&crc32.to_le_bytes());
    seal(&mut bytes);
    let message = refusal(&bytes);
    assert!(message.starts_with("the bundle's tree is no device tree ("), "{message}");
}

#[test]
fn settings_are_checked_again_when_a_bundle_is_opened() {
    assert_eq!(vm_refusal(|vm| vm), "1 taken");
    type Change = fn(NodeWriter) -> NodeWriter;
    let cases: [(Change, &str); 7] = [
        (|vm| vm.property(key::VCPUS, 0u32), "vm \"web\": key vcpus: 0 vCPUs cannot run anything; give 1 to 64"),
        (
            |vm| vm.property(key::VCPUS, 65u32),
            "vm \"web\": key vcpus: 65 vCPUs are more than are supported; give 1 to 64",
        ),
        (
            |vm| vm.property(key::MEMORY, 1u64 << 40),
            "vm \"web\": key memory: 1024G is more than the platform's 255G; give less",
        ),
        (|vm| vm.property(key::VCPUS, 1u64), "vm \"web\": key vcpus: is damaged in the bundle; pack it again"),
        (|vm| vm.property(key::CPU_MAX, 1u64), "vm \"web\": key cpu.max: is damaged in the bundle; pack it again"),
        (|vm| vm.property(key::KERNEL, "k1"), "vm \"web\": key kernel: the bundle has no payload `k1`; pack it again"),
        (
            |vm| vm.property("gpu", 1u32),
            "vm \"web\": the bundle's setting `gpu` is unknown to this Merus; use the `merus` program that came with it",
        ),
    ];
    assert_eq!(node_refusal(NodeWriter::new("vm@0")), "vm \"vm@0\": key name: is missing; set it");
    assert_eq!(
        node_refusal(NodeWriter::new("other")),
        "the bundle's setting `other` is unknown to this Merus; use the `merus` program that came with it"
    );
    // A few of them are enough for Miri.
    for (change, message) in cases.into_iter().step_by(if cfg!(miri) { 4 } else { 1 }) {
        assert_eq!(vm_refusal(change), message);
    }
}

/// Each fault of a disk, a network card or a switch that only a bundle can have.
#[test]
fn damaged_devices_are_named() {
    type Change = fn(NodeWriter) -> NodeWriter;
    let disk = |node: Change| {
        let good = NodeWriter::new("vm@0")
            .property(key::NAME, "web")
            .property(key::KERNEL, "k0")
            .property(key::MEMORY, 256u64 << 20)
            .property(key::VCPUS, 1u32)
            .property(key::CPU_WEIGHT, 100u32);
        node_refusal(node(good))
    };
    let cases: [(Change, &str); 9] = [
        (
            |vm| vm.child(NodeWriter::new("disk@0")),
            "vm \"web\": disk 0: names neither an image nor a host disk; set `image` or `host`",
        ),
        (
            |vm| vm.child(NodeWriter::new("disk@0").property("image", "k0").property("host", "DISK=0")),
            "vm \"web\": disk 0: key host: is beside `image`, and a disk is one of both; leave one out",
        ),
        (
            |vm| vm.child(NodeWriter::new("disk@0").property("image", "k9")),
            "vm \"web\": disk 0: key image: the bundle has no payload `k9`; pack it again",
        ),
        (
            |vm| vm.child(NodeWriter::new("disk@0").property("image", "k0").property("cache", 1u32)),
            "vm \"web\": disk 0: the bundle's setting `cache` is unknown to this Merus; use the `merus` program that came with it",
        ),
        (|vm| vm.child(NodeWriter::new("net@0")), "vm \"web\": net 0: key switch: is missing; set it"),
        (
            |vm| vm.child(NodeWriter::new("net@0").property("switch", "lan").property("mac", 1u32)),
            "vm \"web\": net 0: key mac: is damaged in the bundle; pack it again",
        ),
        (
            |vm| vm.child(NodeWriter::new("net@0").property("switch", "lan").property("mtu", 65536u32)),
            "vm \"web\": net 0: key mtu: 65536 is out of range; give 68 to 9000",
        ),
        (
            |vm| vm.child(NodeWriter::new("gpu@0")),
            "vm \"web\": the bundle's setting `gpu@0` is unknown to this Merus; use the `merus` program that came with it",
        ),
        (|vm| vm.property("rng", 2u32), "vm \"web\": key rng: is damaged in the bundle; pack it again"),
    ];
    for (node, message) in cases.into_iter().step_by(if cfg!(miri) { 4 } else { 1 }) {
        assert_eq!(disk(node), message);
    }
    if cfg!(miri) {
        return;
    }
    // More disks than any VM can have are counted as far as the refusal needs.
    let many = |vm: NodeWriter| {
        (0..100).fold(vm, |vm, n| vm.child(NodeWriter::new(format!("disk@{n:x}")).property("image", "k0")))
    };
    let node = many(NodeWriter::new("vm@0").property(key::NAME, "web").property(key::KERNEL, "k0"))
        .property(key::MEMORY, 256u64 << 20)
        .property(key::VCPUS, 1u32)
        .property(key::CPU_WEIGHT, 100u32);
    assert_eq!(
        node_refusal(node),
        "vm \"web\": has 32 devices of virtio (rng, disks and nets together); there is room for 31: give fewer"
    );
}

/// An image that was cut is refused by whoever opens the bundle.
#[test]
#[cfg_attr(miri, ignore = "a bundle read once more")]
fn a_disk_that_was_cut_is_refused() {
    let mut image = vec![0u8; 4096];
    let entry = [0x80, 0, 2, 0, 0x83, 0, 0, 0, 1, 0, 0, 0, 8, 0, 0, 0];
    image[446..462].copy_from_slice(&entry);
    image[510..512].copy_from_slice(&[0x55, 0xaa]);
    let disk =
        DiskSpec { source: DiskSource::Image(payload("root.img", PayloadKind::Disk, 0)), readonly: true, serial: None };
    let web = VmSpec { disks: vec![disk], ..vm("web") };
    let files = [
        (payload("vmlinuz", PayloadKind::Kernel, 0), kernel(8192, 0, 8192, 8)),
        (payload("root.img", PayloadKind::Disk, 0), image),
    ];
    let bytes = pack(&[web], &files);
    let bundle = Bundle::parse(&bytes).unwrap();
    let vms = bundle.vms_unchecked().unwrap();
    assert_eq!(vms[0].disks[0].image().unwrap().offset % 4096, 0);
    let told: Vec<_> = bundle.image_faults(&vms).iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "vm \"web\": disk 0: key image: \"root.img\" has 4K, and its partition table (MBR) speaks of 4608 bytes; copy it \
          again, or lengthen it"
        ]
    );
    assert!(bundle.vms().is_err());
}

prop_compose! {
    fn any_disk()(
        host in prop::option::of("[a-z]{1,36}"),
        readonly: bool,
        serial in prop::option::of("[!-~]{1,20}"),
    ) -> DiskSpec {
        let source = match host {
            Some(label) => DiskSource::Host(format!("PARTLABEL={label}")),
            None => DiskSource::Image(payload("root.img", PayloadKind::Disk, 0)),
        };
        DiskSpec { source, readonly, serial }
    }
}

prop_compose! {
    fn any_net()(
        switch in "[a-z0-9_-]{1,32}",
        mac in prop::option::of(any::<[u8; 5]>()),
        mtu in 68u16..=9000,
        isolated: bool,
    ) -> NetSpec {
        let mac = mac.map(|[a, b, c, d, e]| Mac([0x52, a, b, c, d, e]));
        NetSpec { switch, mac, mtu, isolated }
    }
}

prop_compose! {
    fn any_vm()(
        name in "[a-z0-9_-]{1,30}",
        cmdline in "[ -~]{0,200}",
        memory in 8u64..1000,
        vcpus in 1u32..=64,
        weight in 1u32..=10_000,
        max in prop::option::of((1_000u64..10_000_000, 1_000u64..=1_000_000)),
        affinity in prop::option::of(prop::collection::btree_set(any::<u32>(), 1..9)),
        extra in prop::option::of(0u64..1 << 40),
        initrd: bool,
        class in prop_oneof![
            Just(CpuClass::Fair),
            Just(CpuClass::Partition),
            (1u32..=99, 50u64..=1_000, 1_000u64..=1_000_000)
                .prop_map(|(priority, budget_us, period_us)| CpuClass::Rt { priority, budget_us, period_us }),
        ],
        group in prop::option::of("[a-z0-9_-]{1,32}"),
        // (There is a limit to how many of them stand side by side.)
        (passthrough, power_key, gic, load, (rng, disks, nets)) in (
            (prop::collection::vec("/[a-z]{1,9}@[0-9]{1,4}", 0..4), any::<bool>())
                .prop_map(|(devices, unsafe_dma)| PassthroughSpec { devices, unsafe_dma }),
            prop_oneof![
                Just(PowerKey::Both), Just(PowerKey::Gpio), Just(PowerKey::Virtio), Just(PowerKey::None)
            ],
            prop::option::of(prop_oneof![Just(GuestGic::V2), Just(GuestGic::V3)]),
            prop::option::of((0u64..1 << 20, any::<bool>(), prop::option::of((1u64 << 20)..(2 << 20)))),
            (any::<bool>(), prop::collection::vec(any_disk(), 0..3), prop::collection::vec(any_net(), 0..3)),
        ),
    ) -> VmSpec {
        let memory = memory << 21;
        VmSpec {
            name, cmdline, memory, vcpus,
            kernel: payload("vmlinuz", PayloadKind::Kernel, 0),
            raw: load.map_or(Raw::default(), |(at, entry, room)| Raw {
                load: Some(0x4000_0000 + at * 4),
                entry: entry.then_some(0x4000_0000 + at * 4),
                room,
            }),
            initrd: initrd.then(|| payload("initrd.gz", PayloadKind::Ramdisk, 0)),
            cpu: CpuSpec {
                weight,
                max: max.map(|(quota_us, period_us)| CpuMax { quota_us, period_us }),
                affinity: affinity.map(|cpus| cpus.into_iter().collect()),
                class,
            },
            memory_max: extra.map(|extra| memory + extra),
            group,
            power_key,
            gic: gic.filter(|gic| *gic == GuestGic::V3 || vcpus <= crate::map::GICV2_VCPUS),
            passthrough,
            rng,
            disks,
            nets,
        }
    }
}

/// All that Merus asks of a bundle; payloads must lie in it.
fn use_all(bytes: &[u8]) {
    let Ok(bundle) = Bundle::parse(bytes) else { return };
    for payload in bundle.payloads() {
        let inside = bundle.payload(payload).expect("a payload outside the bundle");
        assert_eq!(inside.len() as u64, payload.size);
        let start = inside.as_ptr().addr() - bytes.as_ptr().addr();
        assert!(start as u64 == payload.offset && start + inside.len() <= bytes.len());
    }
    let _ = bundle.vms();
    let _ = bundle.switches_unchecked();
    if let Ok(vms) = bundle.vms_unchecked() {
        bundle.image_faults(&vms);
        for vm in vms {
            let _ = vm.layout(bundle.payload(&vm.kernel).unwrap());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 1 } else { 128 }))]

    #[test]
    fn any_spec_survives_the_bundle(vms in prop::collection::vec(any_vm(), 1..5), sha256: Option<[u8; 32]>) {
        let mut vms = vms;
        for (n, vm) in vms.iter_mut().enumerate() {
            vm.name = format!("{}-{n}", &vm.name[..vm.name.len().min(29)]);
            // What two of a kind must not share is another test's.
            vm.disks.dedup_by(|one, other| one.serial.is_some() && one.serial == other.serial);
        }
        let mut kernel_ref = payload("vmlinuz", PayloadKind::Kernel, 0);
        kernel_ref.sha256 = sha256;
        let files = [
            (kernel_ref, kernel(5000, 0, 5000, 8)),
            (payload("initrd.gz", PayloadKind::Ramdisk, 0), vec![7; 4097]),
            (payload("root.img", PayloadKind::Disk, 0), vec![8; 8192]),
        ];
        let bytes = pack(&vms, &files);
        let bundle = Bundle::parse(&bytes).unwrap();
        for (payload, (_, bytes)) in bundle.payloads().iter().zip(&files) {
            prop_assert_eq!(bundle.payload(payload), Some(bytes.as_slice()));
        }
        for vm in &mut vms {
            vm.kernel = bundle.payloads()[0].clone();
            vm.initrd = vm.initrd.take().map(|_| bundle.payloads()[1].clone());
            for image in vm.disks.iter_mut().filter_map(DiskSpec::image_mut) {
                *image = bundle.payloads()[2].clone();
            }
        }
        prop_assert_eq!(bundle.payloads()[0].sha256, sha256);
        prop_assert_eq!(bundle.groups_unchecked().unwrap(), groups(&vms));
        prop_assert_eq!(bundle.switches_unchecked().unwrap(), switches(&vms));
        prop_assert_eq!(&bundle.vms_unchecked().unwrap(), &vms);
        let refused = faults(&vms, &groups(&vms), &switches(&vms));
        prop_assert_eq!(refused, []);
        prop_assert_eq!(bundle.vms().err(), None);
    }

    /// Changes that the sums would reveal are made with the sums corrected, so that all checks behind them are reached.
    #[test]
    fn a_mangled_bundle_never_panics(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in prop::option::of(any::<prop::sample::Index>()),
        tree_only: bool,
        sealed: bool,
        devices: bool,
    ) {
        let mut bytes = if devices { example_with_devices() } else { example() };
        let tree_size = u64::from_le_bytes(bytes[32..40].try_into().unwrap()) as usize;
        for (index, value) in changes {
            let at = if tree_only { 4096 + index.index(tree_size) } else { index.index(bytes.len()) };
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if sealed && bytes.len() > 4096 + tree_size {
            let crc32 = crc32fast::hash(&bytes[4096..4096 + tree_size]);
            bytes[12..16].copy_from_slice(&crc32.to_le_bytes());
            seal(&mut bytes);
        }
        use_all(&bytes);
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..if cfg!(miri) { 500 } else { 9000 }), magic: bool) {
        let mut bytes = bytes;
        if magic && bytes.len() > 44 {
            bytes[..8].copy_from_slice(&MAGIC);
            bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
            seal(&mut bytes);
        }
        use_all(&bytes);
    }
}
