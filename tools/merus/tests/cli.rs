//! The program as a user meets it: exact messages, exit statuses, and what it leaves on disk.

use config::bundle::Bundle;
use config::image::Raw;
use config::spec::{CpuMax, PayloadKind};
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use tempfile::TempDir;

/// A folder with a kernel, an initrd, files that are no kernels, and this manifest.
fn folder(manifest: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let mut kernel = vec![0x55; 9000];
    kernel[8..16].copy_from_slice(&0u64.to_le_bytes());
    kernel[16..24].copy_from_slice(&(20u64 << 20).to_le_bytes());
    kernel[24..32].copy_from_slice(&10u64.to_le_bytes());
    kernel[56..60].copy_from_slice(b"ARM\x64");
    fs::write(at("vmlinuz"), &kernel).unwrap();
    fs::write(at("initrd.gz"), vec![0x1f; 5000]).unwrap();
    fs::write(at("vmlinuz.gz"), [&b"\x1f\x8b\x08"[..], &[0; 100]].concat()).unwrap();
    fs::write(at("zboot"), [&b"MZ\0\0zimg"[..], &[0; 100]].concat()).unwrap();
    fs::write(at("text"), "this is a text file, which is no kernel, however long one makes it").unwrap();
    fs::write(at("empty"), "").unwrap();
    fs::create_dir(at("dir")).unwrap();
    fs::write(at("merus.toml"), manifest).unwrap();
    folder
}

fn merus(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_merus")).args(arguments).current_dir(folder).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// What `merus check` says to this manifest, which it must refuse; `merus pack` must say the same and write nothing.
fn refusal(manifest: &str) -> String {
    let folder = folder(manifest);
    let check = merus(folder.path(), &["check", "merus.toml"]);
    let pack = merus(folder.path(), &["pack", "merus.toml", "-o", "out.merus"]);
    assert_eq!((check.status.code(), pack.status.code()), (Some(1), Some(1)), "{}", text(&check.stdout));
    assert_eq!((text(&check.stderr), text(&check.stdout)), (text(&pack.stderr), String::new()));
    assert!(!folder.path().join("out.merus").exists());
    text(&check.stderr)
}

const GOOD: &str = r#"# What to run.
[[vm]]
name = "web"
kernel = "vmlinuz"
initrd = "initrd.gz"
cmdline = "console=ttyAMA0 quiet"
memory = "256M"
vcpus = 2
cpu.weight = 200
cpu.max = "50%"
cpu.affinity = [0, 1]

[[vm]]
name = "db"
kernel = "vmlinuz"
memory = "64M"
"memory.max" = "128M"
vcpus = 1
"#;

/// [`GOOD`]'s first VM with one line, from 3 on, changed.
fn with_line(line: usize, text: &str) -> String {
    let lines = GOOD.lines().take(11).enumerate();
    lines.map(|(n, old)| format!("{}\n", if n + 1 == line { text } else { old })).collect()
}

#[test]
fn a_good_manifest_becomes_the_bundle_that_merus_reads() {
    let folder = folder(GOOD);
    let check = merus(folder.path(), &["check", "merus.toml"]);
    assert_eq!((text(&check.stdout), text(&check.stderr)), ("merus.toml: no fault found (2 VMs)\n".into(), "".into()));
    let pack = merus(folder.path(), &["pack", "merus.toml", "-o", "out.merus"]);
    assert_eq!((text(&pack.stdout), text(&pack.stderr)), ("out.merus: 2 VMs, 2 files, 1 MiB\n".into(), "".into()));
    assert!(check.status.success() && pack.status.success());

    let bytes = fs::read(folder.path().join("out.merus")).unwrap();
    assert!(bytes.len().is_multiple_of(4096));
    let bundle = Bundle::parse(&bytes).unwrap();
    let vms = bundle.vms().unwrap();
    let (web, db) = (&vms[0], &vms[1]);
    assert_eq!((web.name.as_str(), web.cmdline.as_str()), ("web", "console=ttyAMA0 quiet"));
    assert_eq!((web.memory, web.vcpus, web.cpu.weight, web.memory_max), (256 << 20, 2, 200, None));
    assert_eq!(web.cpu.max, Some(CpuMax { quota_us: 50_000, period_us: 100_000 }));
    assert_eq!(web.cpu.affinity, Some(vec![0, 1]));
    assert_eq!((db.memory, db.vcpus, db.cpu.weight, db.memory_max), (64 << 20, 1, 100, Some(128 << 20)));
    assert_eq!((&db.initrd, db.cmdline.as_str()), (&None, ""));
    // Both VMs use one copy of the kernel.
    assert_eq!((&web.kernel, bundle.payloads().len()), (&db.kernel, 2));
    for (payload, name) in [(&web.kernel, "vmlinuz"), (web.initrd.as_ref().unwrap(), "initrd.gz")] {
        let file = fs::read(folder.path().join(name)).unwrap();
        assert_eq!((payload.name.as_str(), bundle.payload(payload)), (name, Some(&file[..])));
        assert_eq!(payload.check(crc32fast::hash(&file)), Ok(()));
        assert_eq!(payload.sha256.unwrap()[..], <sha2::Sha256 as sha2::Digest>::digest(&file)[..]);
    }
    assert_eq!(web.initrd.as_ref().unwrap().kind, PayloadKind::Ramdisk);
    for vm in &vms {
        vm.layout(bundle.payload(&vm.kernel).unwrap()).unwrap();
    }
}

/// A kernel that is packed is unpacked, once for all VMs that have it; where a raw binary goes is in the bundle.
#[test]
fn kernels_are_made_ready_for_merus() {
    let manifest = "[[vm]]\nname = \"packed\"\nkernel = \"Image.gz\"\nmemory = \"64M\"\nvcpus = 1\n\
                    [[vm]]\nname = \"again\"\nkernel = \"./Image.gz\"\nmemory = \"32M\"\nvcpus = 1\n\
                    [[vm]]\nname = \"raw\"\nkernel = \"text\"\nload = 0x40080000\nentry = 0x40080004\nroom = \"1M\"\n\
                    memory = \"16M\"\nvcpus = 1\n";
    let folder = folder(manifest);
    let image = fs::read(folder.path().join("vmlinuz")).unwrap();
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut encoder, &image).unwrap();
    fs::write(folder.path().join("Image.gz"), encoder.finish().unwrap()).unwrap();
    let pack = merus(folder.path(), &["pack", "merus.toml", "-o", "out.merus"]);
    assert_eq!((text(&pack.stdout), text(&pack.stderr)), ("out.merus: 3 VMs, 2 files, 1 MiB\n".into(), "".into()));
    let bytes = fs::read(folder.path().join("out.merus")).unwrap();
    let bundle = Bundle::parse(&bytes).unwrap();
    let vms = bundle.vms().unwrap();
    for vm in &vms[..2] {
        assert_eq!((bundle.payload(&vm.kernel), vm.raw), (Some(&image[..]), Raw::default()));
        assert_eq!(vm.kernel.name, "Image.gz");
    }
    assert_eq!(vms[2].raw, Raw { load: Some(0x4008_0000), entry: Some(0x4008_0004), room: Some(1 << 20) });
    let inspect = text(&merus(folder.path(), &["inspect", "out.merus"]).stdout);
    assert!(inspect.contains("\n  kernel text at 0x40080000 (entry 0x40080004), initrd none\n"), "{inspect}");
}

/// An ELF file is laid out for each VM's own RAM: one that is linked for what one VM has and another has not is that `Image` there.
#[test]
fn an_elf_file_is_laid_out_for_each_vm() {
    let linked = 0x4200_0000_u64;
    for sizes in [["64M", "24M"], ["24M", "64M"]] {
        let vm = |name, size| format!("[[vm]]\nname = \"{name}\"\nkernel = \"elf\"\nmemory = \"{size}\"\nvcpus = 1\n");
        let folder = folder(&(vm("a", sizes[0]) + &vm("b", sizes[1])));
        let image = fs::read(folder.path().join("vmlinuz")).unwrap();
        let mut elf = vec![0; 64 + 56];
        elf[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        // Type EXEC, machine AArch64, version 1.
        elf[16..21].copy_from_slice(&[2, 0, 183, 0, 1]);
        let size = image.len() as u64;
        // Entry and program headers; a segment's place in the file, addresses, sizes.
        for (at, word) in [(24, linked), (32, 64), (72, 120), (80, linked), (88, linked), (96, size), (104, size)] {
            elf[at..at + 8].copy_from_slice(&word.to_le_bytes());
        }
        elf[52..57].copy_from_slice(&[64, 0, 56, 0, 1]);
        elf[64] = 1;
        elf.extend_from_slice(&image);
        fs::write(folder.path().join("elf"), elf).unwrap();
        let pack = merus(folder.path(), &["pack", "merus.toml", "-o", "out.merus"]);
        assert!(pack.status.success(), "{}", text(&pack.stderr));
        let bytes = fs::read(folder.path().join("out.merus")).unwrap();
        let load = Bundle::parse(&bytes).unwrap().vms().unwrap().iter().map(|vm| vm.raw.load).collect::<Vec<_>>();
        assert_eq!(load, sizes.map(|size| (size == "64M").then_some(linked)));
    }
}

/// Where a raw binary goes is refused with its line; nothing else is said about a VM whose binary has no place.
#[test]
fn a_raw_binary_s_place_is_checked_with_its_line() {
    let cases = [
        ("load = \"here\"", ":6: vm \"a\": key load: \"here\" is no address; write a number such as 0x40080000"),
        ("load = 0x50000000", ":6: vm \"a\": key load: 0x50000000 to 0x50000042 is not all in the VM's RAM"),
        ("entry = 0x40000000", ":6: vm \"a\": key entry: is of a raw binary's; set `load`, too"),
        ("load = 0x40000000\nentry = 0x40000002", ":7: vm \"a\": key entry: 0x40000002 is no multiple of 4"),
        ("load = 0x40000000\nroom = 65", ":7: vm \"a\": key room: 0x41 is less than the kernel's 0x42 bytes"),
        ("load = 0x40200000\nroom = \"14M\"", ":3: vm \"a\": key memory: 16 MiB do not hold kernel, initrd and device"),
    ];
    for (lines, message) in cases {
        let kernel = if lines.starts_with("entry") { "vmlinuz" } else { "text" };
        let manifest = format!(
            "[[vm]]\nname = \"a\"\nmemory = \"16M\"\nvcpus = 1\nkernel = \"{kernel}\"\n{lines}\ninitrd = \"initrd.gz\"\n"
        );
        let said = refusal(&manifest);
        assert!(said.starts_with(&format!("merus.toml{message}")) && said.lines().count() == 1, "{lines}: {said}");
    }
}

#[test]
fn groups_come_with_their_settings_and_vms_name_them() {
    let groups = "[[group]]\nname = \"team\"\ncpu.weight = 300\ncpu.max = \"25%\"\nmemory.max = \"512M\"\n\n\
                  [[group]]\nname = \"rest\"\n\n";
    let member = GOOD.replacen("vcpus = 2", "vcpus = 2\ngroup = \"team\"", 1);
    let folder = folder(&format!("{groups}{member}"));
    let pack = merus(folder.path(), &["pack", "merus.toml", "-o", "out.merus"]);
    assert_eq!(text(&pack.stderr), "");
    let bytes = fs::read(folder.path().join("out.merus")).unwrap();
    let bundle = Bundle::parse(&bytes).unwrap();
    let found = bundle.groups_unchecked().unwrap();
    let team = (found[0].name.as_str(), found[0].weight, found[0].cpu_max, found[0].memory_max);
    assert_eq!(team, ("team", 300, Some(CpuMax { quota_us: 25_000, period_us: 100_000 }), Some(512 << 20)));
    let rest = (found[1].name.as_str(), found[1].weight, found[1].cpu_max, found[1].memory_max);
    assert_eq!((rest, found.len()), (("rest", 100, None, None), 2));
    assert_eq!(bundle.vms().unwrap()[0].group.as_deref(), Some("team"));
    let inspect = text(&merus(folder.path(), &["inspect", "out.merus"]).stdout);
    assert!(inspect.contains("group \"team\": cpu.weight 300, cpu.max 25000 100000, memory.max 512M\n"), "{inspect}");
}

#[test]
fn what_is_wrong_with_a_group_has_its_line() {
    let member = GOOD.replacen("vcpus = 2", "vcpus = 2\ngroup = \"team\"", 1);
    let cases = [
        (
            "[[group]]\nname = \"tame\"\n",
            ":0: vm \"web\": key group: there is no group \"team\"; describe it in a [[group]]",
        ),
        ("[[group]]\ncpu.weight = 1\n", ":1: group \"#1\": key name: is missing"),
        ("[[group]]\nname = \"team\"\ncpu.weight = 0\n", ":3: group \"team\": key cpu.weight: 0 is out of range"),
        ("[[group]]\nname = \"team\"\ncpu.max = \"x\"\n", ":3: group \"team\": key cpu.max: \"x\" is no cap"),
        (
            "[[group]]\nname = \"team\"\nmemory.max = \"8M\"\n",
            ":3: group \"team\": key memory.max: 8M is less than the 256M of",
        ),
        (
            "[[group]]\nname = \"team\"\nvcpus = 1\n",
            ":3: group \"team\": key vcpus: is unknown; the keys are name, cpu.weight",
        ),
        (
            "[[group]]\nname = \"team\"\ncpu.wieght = 1\n",
            ":3: group \"team\": key cpu.wieght: is unknown; did you mean `cpu.weight`?",
        ),
        (
            "[[group]]\nname = \"team\"\n[[group]]\nname = \"team\"\n",
            ":4: group \"team\": key name: the name is taken by another group",
        ),
        ("[group]\nname = \"team\"\n", ":1: key group: is one table; write [[group]]"),
    ];
    for (groups, wanted) in cases {
        let folder = folder(&format!("{groups}{member}"));
        let check = merus(folder.path(), &["check", "merus.toml"]);
        let found = text(&check.stderr) + &text(&check.stdout);
        let line = groups.lines().count() + member.lines().position(|l| l.starts_with("group")).unwrap() + 1;
        let wanted = wanted.replacen(":0:", &format!(":{line}:"), 1);
        assert!(!check.status.success() && found.contains(&wanted), "{groups}: {wanted} is not in: {found}");
    }
}

#[test]
fn paths_are_relative_to_the_manifest() {
    let folder = folder(GOOD);
    let above = folder.path().parent().unwrap();
    let manifest = folder.path().join("merus.toml");
    let out = folder.path().join("out.merus");
    let pack = merus(above, &["pack", manifest.to_str().unwrap(), "-o", out.to_str().unwrap()]);
    assert!(pack.status.success(), "{}", text(&pack.stderr));
}

#[test]
fn each_fault_is_one_line_with_file_line_vm_and_key() {
    let cases = [
        (
            4,
            r#"kernel = "nothing""#,
            r#"key kernel: "nothing" cannot be read: there is no such file; give another path"#,
        ),
        (4, r#"kernel = "dir""#, r#"key kernel: "dir" cannot be read: it is a directory; give another path"#),
        (4, r#"kernel = "empty""#, r#"key kernel: "empty" is empty; give another file"#),
        (
            4,
            r#"kernel = "text""#,
            r#"key kernel: "text" is no arm64 Image: the bytes `ARM\x64` are not at offset 56; give a kernel, or say by `load` where a raw binary goes"#,
        ),
        (
            4,
            r#"kernel = "vmlinuz.gz""#,
            r#"key kernel: "vmlinuz.gz" is a damaged gzip file (corrupt deflate stream); copy or make it again"#,
        ),
        (
            4,
            r#"kernel = "zboot""#,
            r#"key kernel: "zboot" is an EFI zboot image packed with "", and only gzip and zstd are unpacked; give the plain Image"#,
        ),
        (
            5,
            r#"initrd = "nothing""#,
            r#"key initrd: "nothing" cannot be read: there is no such file; give another path"#,
        ),
        (5, r#"initrd = "empty""#, r#"key initrd: "empty" is empty; give another file"#),
        (6, "cmdline = 1", "key cmdline: is of the type integer; write text in quotation marks"),
        (
            7,
            r#"memory = "1T""#,
            r#"key memory: "1T" is no size; write a size such as "256M" (K, M or G; or a number of bytes)"#,
        ),
        (7, r#"memory = "512G""#, "key memory: 512G is more than the platform's 255G; give less"),
        (7, r#"memory = "6M""#, "key memory: 6M is too little; give at least 8M"),
        (7, r#"memory = "33M""#, "key memory: 33M is no multiple of 2M; give 32M or 34M"),
        (7, r#"memory = "16M""#, "key memory: 16 MiB do not hold kernel, initrd and device tree; give at least 24M"),
        (8, "vcpus = 0", "key vcpus: 0 vCPUs cannot run anything; give 1 to 64"),
        (8, "vcpus = 65", "key vcpus: 65 vCPUs are more than are supported; give 1 to 64"),
        (8, "vcpus = -1", "key vcpus: -1 is out of range; write a whole number from 0"),
        (8, "vcpus = \"two\"", "key vcpus: is of the type string; write a whole number from 0"),
        (9, "cpu.weight = 0", "key cpu.weight: 0 is out of range; give 1 to 10000"),
        (9, "cpu.wieght = 200", "key cpu.wieght: is unknown; did you mean `cpu.weight`?"),
        (
            9,
            "turbo = true",
            "key turbo: is unknown; the keys are name, kernel, load, entry, room, initrd, cmdline, memory, vcpus, cpu.weight, cpu.max, \
             cpu.affinity, cpu.class, memory.max, group, power-key, gic, passthrough, unsafe-dma, rng, disk, net",
        ),
        (
            9,
            "passthrough = [\"soc/serial\"]",
            "key passthrough: \"soc/serial\" is no device; write its path in the board's device tree, such as /soc/serial@7e215040, or an alias",
        ),
        (9, "passthrough = [\"/a\", \"/a\"]", "key passthrough: names /a twice; name it once"),
        (9, "unsafe-dma = 1", "key unsafe-dma: is of the type integer; write true or false"),
        (
            10,
            "cpu.max = \"much\"",
            r#"key cpu.max: "much" is no cap; write a share of one pCPU such as "50%", "QUOTA PERIOD" in microseconds, or "max""#,
        ),
        (10, "cpu.max = \"0%\"", "key cpu.max: the quota of 0 us is too short; give at least 1000"),
        (11, "cpu.affinity = 3", "key cpu.affinity: is of the type integer; write a list such as [0, 1]"),
        (11, "cpu.affinity = [1, 1]", "key cpu.affinity: names pCPU 1 twice; name it once"),
        (
            11,
            "\"memory.max\" = \"128M\"",
            "key memory.max: 128M is less than the VM's memory of 256M; give at least that",
        ),
    ];
    for (line, changed, message) in cases {
        assert_eq!(
            refusal(&with_line(line, changed)),
            format!("merus.toml:{line}: vm \"web\": {message}\n"),
            "{changed}"
        );
    }
    assert_eq!(
        refusal(&with_line(3, "name = \"Web\"")),
        "merus.toml:3: vm \"Web\": key name: the character 'W' is not allowed; use a-z, 0-9, - and _\n"
    );
}

/// [`GOOD`]'s second VM, with these lines for its memory.
fn with_memory(lines: &str) -> String {
    format!("[[vm]]\nname = \"db\"\nkernel = \"vmlinuz\"\nvcpus = 1\n{lines}\n")
}

#[test]
fn ram_and_its_cap_can_be_written_in_each_way_that_toml_has() {
    let ways = [
        "memory = { size = \"64M\", max = \"128M\" }",
        "memory.size = \"64M\"\nmemory.max = \"128M\"",
        "memory.max = \"128M\"\nmemory.size = \"64M\"",
        "[vm.memory]\nsize = \"64M\"\nmax = \"128M\"",
        "memory = \"64M\"\n\"memory.max\" = \"128M\"",
        "\"memory.size\" = \"64M\"\n\"memory.max\" = \"128M\"",
    ];
    for way in ways {
        let folder = folder(&with_memory(way));
        let pack = merus(folder.path(), &["pack", "merus.toml", "-o", "out.merus"]);
        assert!(pack.status.success(), "{way}: {}", text(&pack.stderr));
        let bytes = fs::read(folder.path().join("out.merus")).unwrap();
        let vms = Bundle::parse(&bytes).unwrap().vms().unwrap();
        assert_eq!((vms[0].memory, vms[0].memory_max), (64 << 20, Some(128 << 20)), "{way}");
    }
    let folder = folder(&with_memory("memory.size = \"64M\""));
    assert!(merus(folder.path(), &["check", "merus.toml"]).status.success());
}

#[test]
fn how_ram_and_its_cap_are_written_is_told_where_it_went_wrong() {
    let together = "give RAM and its cap together: memory = { size = \"256M\", max = \"300M\" }";
    let cases = [
        (
            "memory = \"64M\"\nmemory.max = \"128M\"",
            format!("6: cannot extend value of type string with a dotted key; {together}"),
        ),
        ("memory.max = \"128M\"\nmemory = \"64M\"", format!("6: duplicate key; {together}")),
        ("memory = \"64M\"\n[vm.memory]\nmax = \"128M\"", format!("6: duplicate key; {together}")),
        ("memory.max = \"128M\"", "1: vm \"db\": key memory: is missing; set memory.size beside memory.max".into()),
        (
            "memory = \"64M\"\n\"memory.size\" = \"32M\"",
            "6: vm \"db\": key memory: is given twice; give it once".into(),
        ),
        (
            "memory = { size = \"64M\", max = \"128M\" }\n\"memory.max\" = \"1G\"",
            "6: vm \"db\": key memory.max: is given twice; give it once".into(),
        ),
        (
            "memory = { size = \"64M\", max = \"32M\" }",
            "5: vm \"db\": key memory.max: 32M is less than the VM's memory of 64M; give at least that".into(),
        ),
        ("memory.size = \"6M\"", "5: vm \"db\": key memory: 6M is too little; give at least 8M".into()),
    ];
    for (lines, message) in cases {
        assert_eq!(refusal(&with_memory(lines)), format!("merus.toml:{message}\n"), "{lines}");
    }
    let unknown = refusal(&with_memory("memory = { size = \"64M\", most = \"128M\" }"));
    assert_eq!(unknown, "merus.toml:5: vm \"db\": key memory.most: is unknown; did you mean `memory.max`?\n");
}

#[test]
fn what_is_missing_is_told_at_the_vm() {
    for (line, label, key) in [(3, "#1", "name"), (4, "web", "kernel"), (7, "web", "memory"), (8, "web", "vcpus")] {
        assert_eq!(
            refusal(&with_line(line, "")),
            format!("merus.toml:2: vm \"{label}\": key {key}: is missing; set it\n")
        );
    }
    let folder = folder(&with_line(5, ""));
    assert!(merus(folder.path(), &["check", "merus.toml"]).status.success(), "a VM needs no initrd");
}

#[test]
fn all_faults_are_told_at_once_in_the_order_of_their_lines() {
    let manifest = format!("colour = 1\n{}{}", with_line(8, "vcpu = 2"), GOOD.replace("200", "0"));
    assert_eq!(
        refusal(&manifest),
        "merus.toml:1: key colour: is unknown; all settings belong in [[vm]], [[group]] or [[switch]] tables\n\
         merus.toml:3: vm \"web\": key vcpus: is missing; set it\n\
         merus.toml:9: vm \"web\": key vcpu: is unknown; did you mean `vcpus`?\n\
         merus.toml:15: vm \"web\": key name: the name is taken by another VM; choose another one\n\
         merus.toml:21: vm \"web\": key cpu.weight: 0 is out of range; give 1 to 10000\n"
    );
}

#[test]
fn what_is_no_manifest_is_refused() {
    assert_eq!(refusal(""), "merus.toml: there is no VM; describe one in a [[vm]] table\n");
    assert_eq!(
        refusal("[vm]\nname = \"a\"\n"),
        "merus.toml: there is no VM; describe one in a [[vm]] table\n\
         merus.toml:1: key vm: is one table; write [[vm]], one a VM\n"
    );
    assert_eq!(refusal("[[vm]]\nname = \"a\"\nname = \"b\"\n"), "merus.toml:3: duplicate key; correct the TOML\n");
    let folder = folder("");
    let check = merus(folder.path(), &["check", "nothing.toml"]);
    assert_eq!(check.status.code(), Some(1));
    assert_eq!(
        text(&check.stderr),
        "nothing.toml: cannot be read: there is no such file; give the path of a manifest\n"
    );
}

#[test]
fn no_check_writes_what_merus_must_refuse_and_nothing_else() {
    let cases = [
        (4, "kernel = \"text\"", "\"text\" is no arm64 Image"),
        (4, "kernel = \"vmlinuz.gz\"", "\"vmlinuz.gz\" is compressed with gzip; give the file itself to `merus pack`"),
        (9, "load = 0x3ff00000", "0x3ff00000 to 0x3ff02328 is not all in the VM's RAM"),
        (7, "memory = \"512G\"", "512G is more than the platform's 255G"),
        (8, "vcpus = 0", "0 vCPUs cannot run anything"),
        (8, "vcpus = 65", "65 vCPUs are more than are supported"),
    ];
    for (line, changed, fault) in cases {
        let folder = folder(&with_line(line, changed));
        let pack = merus(folder.path(), &["pack", "merus.toml", "-o", "out.merus", "--no-check"]);
        assert!(pack.status.success(), "{changed}: {}", text(&pack.stderr));
        let bytes = fs::read(folder.path().join("out.merus")).unwrap();
        let bundle = Bundle::parse(&bytes).unwrap();
        let refusal = bundle.vms().and_then(|vms| vms[0].layout(bundle.payload(&vms[0].kernel).unwrap())).unwrap_err();
        assert!(refusal.to_string().contains(fault), "{changed}: {refusal}");
        let inspect = merus(folder.path(), &["inspect", "out.merus"]);
        assert_eq!(inspect.status.code(), Some(1));
        assert!(text(&inspect.stderr).contains(fault), "{}", text(&inspect.stderr));
    }
    for (line, changed) in [(4, "kernel = \"nothing\""), (8, "vcpus = \"two\""), (9, "colour = 1"), (7, "")] {
        let folder = folder(&with_line(line, changed));
        let pack = merus(folder.path(), &["pack", "merus.toml", "-o", "out.merus", "--no-check"]);
        assert_eq!((pack.status.code(), folder.path().join("out.merus").exists()), (Some(1), false), "{changed}");
    }
}

#[test]
fn inspect_lists_a_bundle_and_finds_damage() {
    let folder = folder(GOOD);
    let out = folder.path().join("out.merus");
    assert!(merus(folder.path(), &["pack", "merus.toml", "-o", "out.merus"]).status.success());
    let inspect = merus(folder.path(), &["inspect", "out.merus"]);
    assert_eq!((inspect.status.code(), text(&inspect.stderr)), (Some(0), String::new()));
    let listing = text(&inspect.stdout);
    for part in [
        "  kernel vmlinuz: 9000 bytes at 0x2000, crc32 ",
        "vm \"web\": 2 vCPUs, 256M of memory\n  cpu.weight 200, cpu.max 50000 100000, cpu.affinity [0, 1]\n",
        "vm \"db\": 1 vCPU, 64M of memory (128M at most)\n",
        "  kernel vmlinuz, initrd initrd.gz\n  cmdline \"console=ttyAMA0 quiet\"\n",
    ] {
        assert!(listing.contains(part), "{listing}");
    }
    let good = fs::read(&out).unwrap();
    let damage = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        fs::write(&out, bytes).unwrap();
        let inspect = merus(folder.path(), &["inspect", "out.merus"]);
        assert_eq!(inspect.status.code(), Some(1));
        text(&inspect.stderr)
    };
    let size = good.len();
    assert_eq!(
        damage(&|bytes| bytes.truncate(size - 1)),
        format!("out.merus: the bundle is truncated: {} of {size} bytes are there; copy it again\n", size - 1)
    );
    let message = damage(&|bytes| bytes[0x2100] ^= 1);
    assert!(message.starts_with("out.merus: payload \"vmlinuz\" is corrupted (crc32 0x"), "{message}");
    let message = damage(&|bytes| bytes[0x1100] ^= 1);
    assert!(message.starts_with("out.merus: the bundle's tree is corrupted (crc32 0x"), "{message}");
    assert_eq!(
        text(&merus(folder.path(), &["inspect", "vmlinuz"]).stderr),
        "vmlinuz: this is no bundle (it does not begin with MERUSBDL); make one with `merus pack`\n"
    );
}

#[test]
fn a_bundle_is_written_whole_or_not_at_all() {
    let folder = folder(GOOD);
    fs::write(folder.path().join("out.merus"), "before").unwrap();
    fs::remove_file(folder.path().join("initrd.gz")).unwrap();
    assert_eq!(merus(folder.path(), &["pack", "merus.toml", "-o", "out.merus"]).status.code(), Some(1));
    assert_eq!(fs::read(folder.path().join("out.merus")).unwrap(), b"before");
    fs::write(folder.path().join("initrd.gz"), "x").unwrap();
    let files = || fs::read_dir(folder.path()).unwrap().count();
    let before = files();
    let pack = merus(folder.path(), &["pack", "merus.toml", "-o", "dir"]);
    assert_eq!(
        text(&pack.stderr),
        "merus: dir: the bundle cannot be written: it is a directory; give the path of a file\n"
    );
    let pack = merus(folder.path(), &["pack", "merus.toml", "-o", "nowhere/out.merus"]);
    assert_eq!(pack.status.code(), Some(1));
    let message = text(&pack.stderr);
    assert!(message.starts_with("merus: nowhere/out.merus: the bundle cannot be written: nowhere: "), "{message}");
    assert!(merus(folder.path(), &["pack", "merus.toml", "-o", "out.merus"]).status.success());
    assert_eq!(files(), before, "a temporary file is left");
    assert!(Bundle::parse(&fs::read(folder.path().join("out.merus")).unwrap()).is_ok());
}

/// Two VMs with an image in common, a switch between them, and one that says all there is to say.
const DEVICES: &str = r#"[[switch]]
name = "lan"

[[vm]]
name = "web"
kernel = "vmlinuz"
memory = "64M"
vcpus = 1
[[vm.disk]]
image = "root.img"
[[vm.disk]]
image = "./data.img"
readonly = true
serial = "data"
[[vm.net]]
switch = "lan"

[[vm]]
name = "db"
kernel = "vmlinuz"
memory = "64M"
vcpus = 1
rng = true
[[vm.disk]]
image = "root.img"
[[vm.net]]
switch = "lan"
mac = "52:54:00:00:00:01"
mtu = 9000
isolated = true
"#;

/// [`folder`] with images: two that are whole, one that is cut, one that is no disk's.
fn folder_with_images(manifest: &str) -> TempDir {
    let folder = folder(manifest);
    let at = |name: &str| folder.path().join(name);
    fs::write(at("root.img"), vec![0x11; 10240]).unwrap();
    fs::write(at("data.img"), vec![0x22; 512]).unwrap();
    let mut cut = vec![0; 4096];
    cut[450] = 0x83;
    cut[454..462].copy_from_slice(&[1, 0, 0, 0, 8, 0, 0, 0]);
    cut[510..512].copy_from_slice(&[0x55, 0xaa]);
    fs::write(at("cut.img"), cut).unwrap();
    fs::write(at("odd.img"), [0; 700]).unwrap();
    folder
}

/// What `merus check` finds, but that the devices are not made yet; without the manifest's name.
fn found(manifest: &str) -> Vec<String> {
    let folder = folder_with_images(manifest);
    let stderr = text(&merus(folder.path(), &["check", "merus.toml"]).stderr);
    let lines = stderr.lines().filter(|line| !line.contains("this Merus gives its guests no"));
    lines.map(|line| line.strip_prefix("merus.toml").unwrap().to_string()).collect()
}

#[test]
fn disks_and_nets_are_packed_one_copy_of_an_image() {
    assert_eq!(found(DEVICES), [""; 0]);
    let folder = folder_with_images(DEVICES);
    let pack = merus(folder.path(), &["pack", "merus.toml", "-o", "out.merus", "--no-check"]);
    assert_eq!((text(&pack.stdout), text(&pack.stderr)), ("out.merus: 2 VMs, 3 files, 1 MiB\n".into(), "".into()));
    let bytes = fs::read(folder.path().join("out.merus")).unwrap();
    let bundle = Bundle::parse(&bytes).unwrap();
    let vms = bundle.vms_unchecked().unwrap();
    let (web, db) = (&vms[0], &vms[1]);
    let root = web.disks[0].image().unwrap();
    assert_eq!((root, root.kind), (db.disks[0].image().unwrap(), PayloadKind::Disk));
    assert_eq!((bundle.payload(root), root.offset % 4096), (Some(&[0x11; 10240][..]), 0));
    let data = web.disks[1].image().unwrap();
    assert_eq!((bundle.payload(data), data.offset % 4096), (Some(&[0x22; 512][..]), 0));
    assert_eq!((web.disks[1].readonly, web.serial(1).as_str(), web.serial(0).as_str()), (true, "data", "disk0"));
    assert_eq!((db.rng, db.mac(0).to_string().as_str(), db.nets[0].mtu), (true, "52:54:00:00:00:01", 9000));
    assert!(db.nets[0].isolated && !web.nets[0].isolated);
    let inspect = text(&merus(folder.path(), &["inspect", "out.merus"]).stdout);
    for line in [
        "  disk root.img: 10240 bytes at 0x",
        "  disk ./data.img: 512 bytes at 0x",
        "switch \"lan\"\n",
        "  disk 0: slot 0, image root.img, serial disk0\n  disk 1: slot 1, image ./data.img, readonly, serial data\n",
        &format!("  net 0: slot 2, switch lan, mac {}, mtu 1500\n", web.mac(0)),
        "  rng: slot 0\n  disk 0: slot 1, image root.img, serial disk0\n",
        "  net 0: slot 2, switch lan, mac 52:54:00:00:00:01, mtu 9000, isolated\n",
    ] {
        assert!(inspect.contains(line), "{line}: {inspect}");
    }
    assert_eq!(inspect.matches("root.img: ").count(), 1);
}

#[test]
fn each_fault_of_a_device_has_its_line() {
    let cases = [
        (
            "image = \"root.img\"\n[[vm.disk]]\nimage = \"./data.img\"",
            "image = \"rot.img\"\n[[vm.disk]]\nimage = \"cut.img\"",
            &[
                ":10: vm \"web\": disk 0: key image: \"rot.img\" cannot be read: there is no such file; give another path",
                ":12: vm \"web\": disk 1: key image: \"cut.img\" has 4K, and its partition table (MBR) speaks of 4608 bytes; copy it \
                 again, or lengthen it",
            ][..],
        ),
        (
            "image = \"root.img\"\n[[vm.disk]]\nimage = \"./data.img\"",
            "[[vm.disk]]\nimage = \"odd.img\"\nhost = \"DISK=0\"",
            &[
                ":9: vm \"web\": disk 0: names neither an image nor a host disk; set `image` or `host`",
                ":11: vm \"web\": disk 1: key image: \"odd.img\" has 700 bytes, which is no multiple of 512; is it a disk's image, \
                 and whole?",
                ":12: vm \"web\": disk 1: key host: is beside `image`, and a disk is one of both; leave one out",
            ],
        ),
        (
            "image = \"./data.img\"",
            "host = \"LABEL=web\"",
            &[
                ":12: vm \"web\": disk 1: key host: \"LABEL=web\" names no host disk; write \"PARTLABEL=NAME\", \"PARTUUID=ID\" or \
                 \"DISK=NUMBER\"",
            ],
        ),
        (
            "image = \"./data.img\"",
            "image = 1",
            &[":12: vm \"web\": disk 1: key image: is of the type integer; write text in quotation marks"],
        ),
        (
            "serial = \"data\"",
            "serail = \"data\"",
            &[":14: vm \"web\": disk 1: key serail: is unknown; did you mean `serial`?"],
        ),
        (
            "name = \"lan\"",
            "name = \"wan\"\nuplink = true",
            &[
                ":17: vm \"web\": net 0: key switch: there is no switch \"lan\"; describe it in a [[switch]] table, or correct the \
                 name",
                ":28: vm \"db\": net 0: key switch: there is no switch \"lan\"; describe it in a [[switch]] table, or correct the \
                 name",
            ],
        ),
        (
            "mac = \"52:54:00:00:00:01\"\nmtu = 9000",
            "mac = \"52:54:00:00:00\"\nmtu = 10",
            &[
                ":28: vm \"db\": net 0: key mac: \"52:54:00:00:00\" is no MAC; write a MAC such as \"52:54:00:00:00:01\"",
                ":29: vm \"db\": net 0: key mtu: 10 is out of range; give 68 to 9000",
            ],
        ),
        (
            "[[vm.net]]\nswitch = \"lan\"\nmac",
            "[[vm.net]]\nswitch = \"lan\"\nmac = \"52:54:00:00:00:01\"\n[[vm.net]]\nswitch = \"lan\"\nmac",
            &[
                ":31: vm \"db\": net 1: key mac: 52:54:00:00:00:01 is the address of a net of vm \"db\" already; give each its own",
            ],
        ),
        (
            "[[vm.net]]\nswitch = \"lan\"\nmac",
            "[[vm.net]]\nmac",
            &[":26: vm \"db\": net 0: key switch: is missing; set it"],
        ),
        ("rng = true", "rng = \"yes\"", &[":23: vm \"db\": key rng: is of the type string; write true or false"]),
        (
            "[[switch]]",
            "[switch]",
            &[
                ":1: key switch: is one table; write [[switch]], one a switch, or put it into a [[vm.net]] table",
                ":16: vm \"web\": net 0: key switch: there is no switch \"lan\"; describe it in a [[switch]] table, or correct the \
                 name",
                ":27: vm \"db\": net 0: key switch: there is no switch \"lan\"; describe it in a [[switch]] table, or correct the \
                 name",
            ],
        ),
        (
            "[[vm.disk]]\nimage = \"root.img\"\n[[vm.disk]]",
            "[vm.disk]",
            &[":9: vm \"web\": key disk: is one table; write [[vm.disk]], one a disk"],
        ),
    ];
    for (old, new, expected) in cases {
        assert!(DEVICES.contains(old), "{old}");
        let (before, after) = DEVICES.split_once(old).unwrap();
        assert_eq!(found(&format!("{before}{new}{after}")), expected, "{new}");
    }
}

#[test]
fn more_devices_than_slots_are_refused() {
    let disks = "[[vm.disk]]\nimage = \"data.img\"\n".repeat(31);
    let vm = "[[vm]]\nname = \"web\"\nkernel = \"vmlinuz\"\nmemory = \"64M\"\nvcpus = 1\n";
    assert_eq!(found(&format!("{vm}{disks}")), [""; 0]);
    assert_eq!(
        found(&format!("{vm}rng = true\n{disks}")),
        [":1: vm \"web\": has 32 devices of virtio (rng, disks and nets together); there is room for 31: give fewer"]
    );
}

#[test]
fn an_image_is_built_and_packed() {
    let folder = folder_with_images(&DEVICES.replace("./data.img", "built.img"));
    let mut tar = tar::Builder::new(fs::File::create(folder.path().join("rootfs.tar")).unwrap());
    let mut header = tar::Header::new_gnu();
    header.set_size(3);
    header.set_mode(0o755);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_700_000_000);
    tar.append_data(&mut header, "sbin/init", &b"#!\n"[..]).unwrap();
    tar.finish().unwrap();
    let build = |arguments: &[&str]| {
        let output = merus(folder.path(), &[&["image", "build", "--from", "rootfs.tar"], arguments].concat());
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let good = build(&["-o", "built.img", "--size", "8M", "--label", "root"]);
    assert_eq!(good.0, Some(0), "{}", good.2);
    assert!(good.1.starts_with("built.img: 8M, 2 files, ") && good.1.ends_with(" KiB free\n"), "{}", good.1);
    assert_eq!(fs::metadata(folder.path().join("built.img")).unwrap().len(), 8 << 20);
    let pack = merus(folder.path(), &["pack", "-o", "out.merus", "--no-check"]);
    assert_eq!(text(&pack.stdout), "out.merus: 2 VMs, 3 files, 9 MiB\n");
    let bad = build(&["-o", "bad.img", "--size", "64K"]);
    assert_eq!((bad.0, bad.1.as_str()), (Some(1), ""));
    assert!(bad.2.starts_with("merus: 64K is too small for the files of the archive; give "), "{}", bad.2);
    assert!(!folder.path().join("bad.img").exists());
    assert_eq!(build(&["-o", "bad.img", "--size", "much"]).0, Some(2));
}
