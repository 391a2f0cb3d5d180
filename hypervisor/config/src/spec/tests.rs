mod devices;

use super::*;
use crate::image::tests::kernel;
use std::format;
use std::string::ToString;
use std::vec;

/// A payload that nothing is wrong with.
pub(crate) fn payload(name: &str, kind: PayloadKind, size: u64) -> PayloadRef {
    PayloadRef { image: name.to_string(), name: name.to_string(), kind, offset: 0, size, crc32: 0, sha256: None }
}

/// A VM that nothing is wrong with.
pub(crate) fn vm(name: &str) -> VmSpec {
    VmSpec {
        name: name.to_string(),
        kernel: payload("vmlinuz", PayloadKind::Kernel, 8192),
        raw: Raw::default(),
        initrd: None,
        cmdline: "console=ttyAMA0".to_string(),
        memory: 256 << 20,
        vcpus: 2,
        cpu: CpuSpec::default(),
        memory_max: None,
        group: None,
        power_key: PowerKey::Both,
        gic: None,
        passthrough: PassthroughSpec::default(),
        rng: false,
        disks: Vec::new(),
        nets: Vec::new(),
    }
}

fn messages(vms: &[VmSpec]) -> Vec<String> {
    faults(vms, &[], &[]).iter().map(ToString::to_string).collect()
}

#[test]
fn limits_are_inclusive() {
    let most = VmSpec { name: "a".repeat(32), memory: 255 << 30, vcpus: 64, cmdline: "x".repeat(2047), ..vm("a") };
    let least = VmSpec {
        memory: 8 << 20,
        vcpus: 1,
        cpu: CpuSpec {
            weight: 1,
            max: Some(CpuMax { quota_us: 1_000, period_us: 1_000 }),
            affinity: Some(vec![0, u32::MAX]),
            class: CpuClass::Rt { priority: 99, budget_us: 50, period_us: 1_000 },
        },
        memory_max: Some(8 << 20),
        ..vm("a-b_0")
    };
    assert_eq!(messages(&[most, least]), [""; 0]);
}

#[test]
fn each_refusal_names_vm_key_reason_and_remedy() {
    let cpu = |change: fn(&mut CpuSpec)| {
        let mut spec = vm("web");
        change(&mut spec.cpu);
        spec
    };
    let max = |quota_us, period_us| VmSpec {
        cpu: CpuSpec { max: Some(CpuMax { quota_us, period_us }), ..CpuSpec::default() },
        ..vm("web")
    };
    let cases = [
        (vm(""), "key name: has 0 characters; use 1 to 32"),
        (vm(&"a".repeat(33)), &*format!("vm \"{}\": key name: has 33 characters; use 1 to 32", "a".repeat(33))),
        (vm("Web"), "vm \"Web\": key name: the character 'W' is not allowed; use a-z, 0-9, - and _"),
        (vm("a\nb"), "vm \"a\nb\": key name: the character '\\n' is not allowed; use a-z, 0-9, - and _"),
        (
            VmSpec { kernel: payload("k", PayloadKind::Kernel, 0), ..vm("web") },
            "vm \"web\": key kernel: \"k\" is empty; give another file",
        ),
        (
            VmSpec { initrd: Some(payload("i", PayloadKind::Ramdisk, 0)), ..vm("web") },
            "vm \"web\": key initrd: \"i\" is empty; give another file",
        ),
        (
            VmSpec { cmdline: "x".repeat(2048), ..vm("web") },
            "vm \"web\": key cmdline: has 2048 bytes; Linux keeps 2047: shorten it",
        ),
        (
            VmSpec { cmdline: "a\0b".to_string(), ..vm("web") },
            "vm \"web\": key cmdline: has the control character '\\0'; leave it out",
        ),
        (VmSpec { vcpus: 0, ..vm("web") }, "vm \"web\": key vcpus: 0 vCPUs cannot run anything; give 1 to 64"),
        (
            VmSpec { vcpus: 65, ..vm("web") },
            "vm \"web\": key vcpus: 65 vCPUs are more than are supported; give 1 to 64",
        ),
        (VmSpec { memory: 6 << 20, ..vm("web") }, "vm \"web\": key memory: 6M is too little; give at least 8M"),
        (VmSpec { memory: 0, ..vm("web") }, "vm \"web\": key memory: 0 bytes is too little; give at least 8M"),
        (
            VmSpec { memory: (16 << 20) + 1, ..vm("web") },
            "vm \"web\": key memory: 16777217 bytes is no multiple of 2M; give 16M or 18M",
        ),
        (
            VmSpec { memory: 256 << 30, ..vm("web") },
            "vm \"web\": key memory: 256G is more than the platform's 255G; give less",
        ),
        (
            VmSpec { memory: u64::MAX, ..vm("web") },
            "vm \"web\": key memory: 18446744073709551615 bytes is more than the platform's 255G; give less",
        ),
        (
            VmSpec { memory_max: Some(128 << 20), ..vm("web") },
            "vm \"web\": key memory.max: 128M is less than the VM's memory of 256M; give at least that",
        ),
        (cpu(|cpu| cpu.weight = 0), "vm \"web\": key cpu.weight: 0 is out of range; give 1 to 10000"),
        (cpu(|cpu| cpu.weight = 10_001), "vm \"web\": key cpu.weight: 10001 is out of range; give 1 to 10000"),
        (max(0, 100_000), "vm \"web\": key cpu.max: the quota of 0 us is too short; give at least 1000"),
        (max(1_000, 999), "vm \"web\": key cpu.max: the period of 999 us is out of range; give 1000 to 1000000"),
        (
            cpu(|cpu| cpu.affinity = Some(vec![])),
            "vm \"web\": key cpu.affinity: names no pCPU; name one at least, or leave the key out for all",
        ),
        (
            cpu(|cpu| cpu.affinity = Some(vec![1, 2, 1])),
            "vm \"web\": key cpu.affinity: names pCPU 1 twice; name it once",
        ),
        (
            cpu(|cpu| cpu.affinity = Some((0..513).collect())),
            "vm \"web\": key cpu.affinity: names 513 pCPUs; name at most 512",
        ),
    ];
    for (spec, message) in cases {
        assert_eq!(messages(&[spec]), [message]);
    }
}

#[test]
fn all_faults_are_found() {
    let bad = VmSpec { vcpus: 0, memory: 1, ..vm("Web") };
    assert_eq!(faults(&[bad.clone(), bad], &[], &[]).len(), 7);
    assert_eq!(messages(&[]), ["there is no VM; describe one in a [[vm]] table"]);
    let crowd: Vec<VmSpec> = (0..65).map(|n| vm(&format!("vm{n}"))).collect();
    assert_eq!(messages(&crowd), ["there are more VMs than the 64 that one bundle can hold; leave some out"]);
    let twins = faults_by_place(&[vm("a"), vm("b"), vm("a")], &[], &[]);
    assert_eq!(twins.len(), 1);
    assert_eq!(twins[0].0, Place::Vm(2));
    assert_eq!(twins[0].1.to_string(), "vm \"a\": key name: the name is taken by another VM; choose another one");
}

#[test]
fn groups_are_checked_by_themselves_and_with_their_vms() {
    let group = |name: &str| GroupSpec { name: name.to_string(), weight: 100, cpu_max: None, memory_max: None };
    let of = |name: &str, group: &str| VmSpec { group: Some(group.to_string()), ..vm(name) };
    let told = |vms: &[VmSpec], groups: &[GroupSpec]| -> Vec<(Place, String)> {
        faults_by_place(vms, groups, &[]).into_iter().map(|(place, fault)| (place, fault.to_string())).collect()
    };
    assert_eq!(told(&[of("a", "x"), of("b", "x")], &[group("x"), group("y")]), []);
    assert_eq!(
        told(&[vm("a"), of("b", "z")], &[group("x")]),
        [(
            Place::Vm(1),
            "vm \"b\": key group: there is no group \"z\"; describe it in a [[group]] table, or correct the name"
                .into()
        )]
    );
    let cap = CpuMax { quota_us: 10, period_us: 100_000 };
    let bad = GroupSpec { weight: 0, cpu_max: Some(cap), memory_max: Some(256 << 20), ..group("x") };
    assert_eq!(
        told(&[of("a", "x"), of("b", "x")], &[group("x"), bad]),
        [
            (Place::Group(1), "group \"x\": key cpu.weight: 0 is out of range; give 1 to 10000".into()),
            (Place::Group(1), "group \"x\": key cpu.max: the quota of 10 us is too short; give at least 1000".into()),
            (Place::Group(1), "group \"x\": key name: the name is taken by another group; choose another one".into()),
            (
                Place::Group(1),
                "group \"x\": key memory.max: 256M is less than the 512M of its VMs together; give at least that"
                    .into()
            ),
        ]
    );
    let crowd: Vec<GroupSpec> = (0..65).map(|n| group(&format!("g{n}"))).collect();
    assert_eq!(
        told(&[vm("a")], &crowd),
        [(Place::Whole, "there are more groups than the 64 that one machine can have; leave some out".into())]
    );
}

#[test]
fn a_gicv2_has_eight_cpus() {
    let of = |vcpus| VmSpec { vcpus, ..vm("wide") };
    assert_eq!((admit_one(&of(8), GuestGic::V2), admit_one(&of(9), GuestGic::V3)), (Ok(()), Ok(())));
    assert_eq!(
        admit_one(&of(9), GuestGic::V2).unwrap_err().to_string(),
        "vm \"wide\": key vcpus: 9 vCPUs are more than the 8 that guests of a machine with a GICv2 can have; give fewer"
    );
    let asks = |gic| VmSpec { gic: Some(gic), ..vm("old") };
    assert_eq!(admit_one(&asks(GuestGic::V2), GuestGic::V2), Ok(()));
    assert_eq!(
        admit_one(&asks(GuestGic::V2), GuestGic::V3).unwrap_err().to_string(),
        "vm \"old\": key gic: asks for a GICv2, but Merus gives the guests of this machine a GICv3, which is what its hardware \
         helps with; leave the key out, or use a machine with a GICv2"
    );
    assert_eq!(admit_one(&asks(GuestGic::V3), GuestGic::V2).unwrap_err().key, key::GIC);
    // Whatever the machine.
    let faults = VmSpec { vcpus: 9, ..asks(GuestGic::V2) }.faults();
    assert_eq!(faults.iter().map(|e| e.key).collect::<Vec<_>>(), [key::VCPUS]);
    let machine = Machine { cpus: 2, free_memory: 512 << 20, gic: GuestGic::V2 };
    assert!(admit(&[vm("a"), of(9)], machine).is_err());
}

#[test]
fn the_machine_must_have_room_for_all_together() {
    let machine = Machine { cpus: 2, free_memory: 512 << 20, gic: GuestGic::V3 };
    assert_eq!(admit(&[vm("a"), vm("b")], machine), Ok(()));
    assert_eq!(
        admit(&[vm("a"), vm("b"), vm("c")], machine).unwrap_err().to_string(),
        "vm \"c\": key memory: 256M do not fit: the machine has 0 bytes free for this VM; give this or another VM less, \
         or the machine more"
    );
    let huge = VmSpec { memory: 128 << 30, ..vm("huge") };
    assert_eq!(
        admit(&[huge], machine).unwrap_err().to_string(),
        "vm \"huge\": key memory: 128G do not fit: the machine has 512M free for this VM; give this or another VM less, \
         or the machine more"
    );
    let mut pinned = vm("pinned");
    pinned.cpu.affinity = Some(vec![0, 2]);
    assert_eq!(
        admit(&[pinned], machine).unwrap_err().to_string(),
        "vm \"pinned\": key cpu.affinity: names pCPU 2, but the machine has 2 (0 to 1); name one of them"
    );
}

#[test]
fn kernel_and_memory_are_checked_together() {
    let file = kernel(8192, 0, 40 << 20, 8);
    let spec = vm("web");
    assert_eq!(spec.layout(&file[..64]).unwrap().kernel.size(), 40 << 20);
    let small = VmSpec { memory: 32 << 20, ..vm("web") };
    assert_eq!(
        small.layout(&file).unwrap_err().to_string(),
        "vm \"web\": key memory: 32 MiB do not hold kernel, initrd and device tree; give at least 42M"
    );
    assert_eq!(
        spec.layout(&[0; 64]).unwrap_err().to_string(),
        "vm \"web\": key kernel: \"vmlinuz\" is no arm64 Image: the bytes `ARM\\x64` are not at offset 56; give a \
         kernel, or say by `load` where a raw binary goes"
    );
}

#[test]
fn a_raw_binary_s_place_is_checked_against_ram_and_file() {
    let of = |load, entry, room| VmSpec { raw: Raw { load, entry, room }, memory: 16 << 20, ..vm("web") };
    let good = of(Some(0x4008_0000), Some(0x4008_0044), Some(1 << 20));
    assert_eq!(messages(&[good.clone(), VmSpec { name: "db".into(), ..of(Some(0x40ff_e000), None, None) }]), [""; 0]);
    // Its first bytes are nobody's business.
    assert_eq!(good.layout(b"\x1f\x8b").unwrap().entry.as_u64(), 0x4008_0044);
    let cases = [
        (of(None, Some(0x4000_0000), None), "key entry: is of a raw binary's; set `load`, too, or leave it out"),
        (of(None, None, Some(1)), "key room: is of a raw binary's; set `load`, too, or leave it out"),
        (
            of(Some(0x3fff_f000), None, None),
            "key load: 0x3ffff000 to 0x40001000 is not all in the VM's RAM, which is 0x40000000 to 0x41000000; give \
             another address, or more memory",
        ),
        (of(Some(0x40ff_f000), None, None), "key load: 0x40fff000 to 0x41001000 is not all in the VM's RAM"),
        (of(Some(0x4000_0000), None, Some(u64::MAX)), "key load: 0x40000000 to 0xffffffffffffffff is not all in"),
        (of(Some(u64::MAX), None, None), "key load: 0xffffffffffffffff to 0xffffffffffffffff is not all in"),
        (of(Some(0x4008_0002), None, None), "key load: 0x40080002 is no multiple of 4; give one"),
        (of(Some(0x4008_0000), Some(0x4008_0001), None), "key entry: 0x40080001 is no multiple of 4; give one"),
        (
            of(Some(0x4008_0000), Some(0x4008_2000), None),
            "key entry: 0x40082000 is not in the kernel, which is 0x40080000 to 0x40082000; give an address there",
        ),
        (of(Some(0x4008_0000), Some(0), None), "key entry: 0x0 is not in the kernel"),
        (
            of(Some(0x4008_0000), None, Some(0x1000)),
            "key room: 0x1000 is less than the kernel's 0x2000 bytes; give at least that, or leave it out",
        ),
    ];
    for (spec, message) in cases {
        let found = messages(&[spec]);
        assert!(matches!(&found[..], [one] if one.starts_with(&format!("vm \"web\": {message}"))), "{found:?}");
    }
}

#[test]
fn pages_that_the_machine_lacks_are_refused_before_the_guest_hangs() {
    let (a72, a76) = (0x0000_1124, 0x0010_1122);
    let layout = |flags| vm("web").layout(&kernel(8192, 0, 1 << 20, flags)).unwrap();
    for (flags, mmfr0) in [(0, a72), (2, a72), (6, a72), (4, a76)] {
        assert_eq!(admit_pages(&vm("web"), &layout(flags), mmfr0), Ok(()), "{flags}");
    }
    let refusal = |flags, mmfr0| admit_pages(&vm("web"), &layout(flags), mmfr0).unwrap_err().to_string();
    assert_eq!(
        refusal(4, a72),
        "vm \"web\": key kernel: \"vmlinuz\" was built for pages of 16 KiB, and this machine's CPUs have 4 and 64 KiB; \
         give a kernel for one of those"
    );
    assert!(refusal(6, 0x0f10_0000).contains("CPUs have 4 and 16 KiB;"));
    assert!(refusal(2, 0xff10_0000).contains("CPUs have 16 KiB;"));
}

#[test]
fn sizes_are_shown_as_the_manifest_writes_them() {
    for (bytes, text) in
        [(0, "0 bytes"), (1, "1 bytes"), (1536, "1536 bytes"), (2048, "2K"), (3 << 20, "3M"), (4 << 30, "4G")]
    {
        assert_eq!(Bytes(bytes).to_string(), text);
    }
}
