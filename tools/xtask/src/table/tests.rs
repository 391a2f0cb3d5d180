//! The table's keys, products and errors.

use super::damage::FDT_MAGIC;
use super::*;

const DEFAULTS: &str = r#"
    [defaults]
    machine = "virt"
    cpu = "cortex-a72"
    smp = 2
    board_memory = "1G"
    vcpus = 2
    memory = "256M"
    timeout = 60
    forbid = ["Kernel panic"]
"#;

fn parse(rows: &str) -> Result<Table> {
    Table::parse(&format!("{DEFAULTS}{rows}"))
}

fn error(rows: &str) -> String {
    format!("{:#}", parse(rows).err().expect("an error"))
}

#[test]
fn a_row_takes_what_it_does_not_say_from_the_defaults() {
    let table = parse("[[row]]\nname = 'a-{vcpus}'\nguest = 'linux'\nvcpus = 4\nexpect = ['{vcpus} CPUs']").unwrap();
    let boot = &table.boots[0];
    assert_eq!((boot.name.as_str(), boot.machine.cpu.as_str(), boot.machine.smp), ("a-4", "cortex-a72", 2));
    assert_eq!(boot.expect.lines, ["4 CPUs"]);
    assert_eq!(boot.expect.forbidden, ["Kernel panic"]);
    assert_eq!(boot.expect.end, End::Exit(0));
    let manifest = &boot.bundle.as_ref().unwrap().manifest;
    assert!(manifest.contains("vcpus = 4\n") && manifest.contains("kernel = \"{kernel}\"\n"), "{manifest}");
}

#[test]
fn a_payload_row_names_its_test() {
    let table =
        parse("[[product]]\ntest = ['sgi', 'timer']\nrow = { name = 'el1-{test}', expect = ['{test}: ok'] }").unwrap();
    let names: Vec<_> = table.boots.iter().map(|boot| boot.name.as_str()).collect();
    assert_eq!(names, ["el1-sgi", "el1-timer"]);
    assert_eq!(table.boots[1].expect.lines, ["timer: ok"]);
    assert!(table.boots[1].bundle.as_ref().unwrap().manifest.contains("cmdline = \"test=timer\""));
}

#[test]
fn a_product_has_every_combination_and_flags_the_uncovered() {
    let table = parse(
        "[[product]]\ncpu = ['a', 'b']\nvcpus = [1, 2]\nsmp = [1, 2, 4]\ncovering = [['a', 1, 4], ['b', 2, 1]]\n\
         row = { name = '{cpu}-{vcpus}-{smp}', guest = 'linux' }",
    )
    .unwrap();
    assert_eq!(table.boots.len(), 12);
    let normal: Vec<_> = table.boots.iter().filter(|b| !b.all_only).map(|b| b.name.as_str()).collect();
    assert_eq!(normal, ["a-1-4", "b-2-1"]);
}

#[test]
fn the_ends_are_read() {
    let table = parse(
        "[[row]]\nname = 'a'\nno_bundle = true\nexit = 'fatal'\n\
         [[row]]\nname = 'b'\nguest = 'linux'\nexit = { after = 'up', count = 21 }\n\
         [[row]]\nname = 'c'\nguest = 'linux'\nexit = 3",
    )
    .unwrap();
    assert!(table.boots[0].bundle.is_none());
    let ends: Vec<_> = table.boots.iter().map(|boot| boot.expect.end.clone()).collect();
    assert_eq!(ends, [End::Fatal, End::After { line: "up".to_owned(), count: 21 }, End::Exit(3)]);
}

#[test]
fn contradictions_name_the_row() {
    assert!(error("[[row]]\nname = 'x'").contains("row x"));
    assert!(error("[[row]]\nname = 'x'\nguest = 'linux'\nno_bundle = true").contains("row x"));
    assert!(error("[[row]]\nname = 'x'\nguest = 'windows'").contains("`windows`"));
    assert!(error("[[row]]\nname = 'x'\nguets = 'linux'").contains("guets"));
    let twice = "[[row]]\nname = 'x'\nguest = 'linux'\n[[refusal]]\nname = 'x'\nmanifest = ''\nexpect = []";
    assert!(error(twice).contains("two rows"));
}

#[test]
fn what_is_booted_and_what_before_is_read() {
    let table = parse(
        "[[row]]\nname = 'a'\nguest = 'linux'\npreload = 'dirty'\n[[row]]\nname = 'b'\nguest = 'linux'\ndebug_fp = true",
    )
    .unwrap();
    let read: Vec<_> = table.boots.iter().map(|boot| (boot.preload, boot.debug_fp)).collect();
    assert_eq!(read, [(Some(Preload::Dirty), false), (None, true)]);
    let both = "[[row]]\nname = 'x'\nguest = 'linux'\npreload = 'dirty'\nload_at = '0x40200000'";
    assert!(error(both).contains("row x") && error(both).contains("`load_at`"));
    assert!(error("[[row]]\nname = 'x'\nguest = 'linux'\npreload = 'clean'").contains("clean"));
}

#[test]
fn a_firmware_alone_reads_a_disk() {
    let table = parse("[[row]]\nname = 'a'\nguest = 'linux'\nfirmware = 'u-boot'\nfrom_disk = true").unwrap();
    assert_eq!((table.boots[0].firmware, table.boots[0].from_disk), (Some(Firmware::UBoot), true));
    assert!(error("[[row]]\nname = 'x'\nguest = 'linux'\nfrom_disk = true").contains("`firmware`"));
    for (firmware, machine, needs) in [
        ("grub-linux", "virt", true),
        ("grub-chainloader", "virt", true),
        ("u-boot-efi", "virt", true),
        ("u-boot", "raspi4b", true),
        ("tf-a", "raspi4b", false),
    ] {
        let row = |disk: bool| {
            format!(
                "[[row]]\nname = 'x'\nguest = 'linux'\nfirmware = '{firmware}'\nmachine = '{machine}'\nfrom_disk = {disk}"
            )
        };
        assert!(parse(&row(needs)).is_ok() && error(&row(!needs)).contains("`from_disk`"), "{firmware}");
    }
    let both = "[[row]]\nname = 'x'\nguest = 'linux'\npreload = 'dirty'\nfirmware = 'u-boot'";
    assert!(error(both).contains("row x") && error(both).contains("`firmware`"));
}

#[test]
fn what_is_the_raspberry_pis_is_for_no_other_board() {
    for key in ["firmware = 'tf-a'", "mini_uart = true"] {
        let row = format!("[[row]]\nname = 'x'\nguest = 'linux'\n{key}");
        assert!(error(&row).contains("row x") && error(&row).contains("Raspberry Pi 4's"));
        let boot = &parse(&format!("{row}\nmachine = 'raspi4b'\nsmp = 1")).unwrap().boots[0];
        assert_eq!((boot.machine.second, boot.machine.smp), (key.starts_with("mini"), 1));
    }
}

#[test]
fn placeholders_become_paths() {
    let files = Files {
        kernel: "/k".into(),
        initrd: "/i".into(),
        tests: "/t".into(),
        text: "/a\"b".into(),
        shapes: [("tests-gz", "/z".into())].into(),
    };
    assert_eq!(files.fill("{kernel} {initrd} {tests} {tests-gz} {text} {other}"), "/k /i /t /z /a\\\"b {other}");
    assert_eq!(files.plain("put {tests-gz} {text}"), "put /z {text}");
    let rows = "[[product]]\nhow = ['gz', 'zst']\nrow = { name = 'x-{how}', manifest = 'kernel = \"{tests-{how}}\"' }";
    let table = parse(rows).unwrap();
    assert_eq!([&table.boots[0], &table.boots[1]].map(|boot| boot.names("tests-gz")), [true, false]);
    let table = parse("[[row]]\nname = 'x'\nno_bundle = true\nqemu = ['-drive', 'file={tests-gz}']").unwrap();
    assert_eq!(table.boots[0].machine.extra, ["-drive", "file={tests-gz}"]);
    assert!(table.boots[0].names("tests-gz") && !table.boots[0].names("gz"));
}

/// What runs at a low priority beside others must not notice it.
#[test]
fn what_something_comes_into_from_outside_is_not_counted() {
    let counted = |more: &str| {
        let text = format!("[[row]]\nname = 'x'\nguest = 'linux'\n{more}");
        parse(&text).unwrap().boots[0].counted
    };
    assert!(counted("icount = true") && counted("icount = true\nturns = 100"));
    for more in ["", "icount = true\nscript = [['a', 'b']]", "icount = true\nqemu = ['-netdev', 'user,id=n']"] {
        assert!(!counted(more), "{more}");
    }
    assert!(!counted("icount = true\ncontrol = [{ run = 'list' }]\nexit = 'control'"));
    // There is enough of it to fill what the others leave.
    let table = Table::parse(include_str!("../../../ci/qemu.toml")).unwrap();
    assert!(table.boots.iter().filter(|boot| boot.counted && !boot.all_only).count() > 10);
}

#[test]
fn damage_hits_what_it_says() {
    let mut bundle = vec![0u8; 3 * 4096 + 10];
    bundle[4096..4100].copy_from_slice(&FDT_MAGIC);
    let hit = |damage: Damage| {
        let mut copy = bundle.clone();
        damage.apply(&mut copy).unwrap();
        assert_eq!(copy.len(), bundle.len());
        (0..copy.len()).filter(|at| copy[*at] != bundle[*at]).collect::<Vec<_>>()
    };
    assert_eq!(hit(Damage::Magic), [0]);
    assert_eq!(hit(Damage::TreeByte), [4096 + 60]);
    assert_eq!(hit(Damage::PayloadByte), [3 * 4096]);
    let mut cut = bundle.clone();
    Damage::Truncate.apply(&mut cut).unwrap();
    assert_eq!(cut.len(), bundle.len() / 2);
    assert!(Damage::TreeByte.apply(&mut vec![0; 8192]).is_err());
    assert!(Damage::PayloadByte.apply(&mut Vec::new()).is_err());
}

#[test]
fn the_repository_has_a_readable_table() {
    let table = Table::parse(include_str!("../../../ci/qemu.toml")).unwrap();
    // The product's own: `linux-<cpu>-<vCPUs>v-<pCPUs>p`.
    let product = |boot: &&Boot| boot.name.starts_with("linux-") && boot.name.ends_with('p');
    let linux: Vec<_> = table.boots.iter().filter(product).collect();
    assert_eq!(linux.len(), 36);
    let dozen: Vec<_> = linux.iter().filter(|boot| !boot.all_only).collect();
    assert_eq!(dozen.len(), 12);
    // Each pair of (vCPUs, pCPUs) is among the dozen, and each CPU with each number of both.
    let last = |boot: &Boot, n| boot.name.rsplitn(4, '-').take(n).map(str::to_owned).collect::<Vec<_>>();
    let distinct = |n| dozen.iter().map(|boot| last(boot, n)).collect::<BTreeSet<_>>().len();
    assert_eq!((distinct(2), distinct(4)), (9, 12));
}
