//! Images read back by another program's code: the crate `ext4-view`, and `e2fsck` and `debugfs` where they are.

use super::*;
use ext4_view::{Ext4, FileType};
use std::io::Write;
use std::process::{Command, Output};
use tar::{Builder, EntryType, Header};
use tempfile::TempDir;

/// A tar under construction.
struct Maker(Builder<Vec<u8>>);

impl Maker {
    fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    fn header(kind: EntryType, mode: u32, size: u64) -> Header {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        header.set_size(size);
        header
    }

    fn file(&mut self, name: &str, bytes: &[u8]) -> &mut Self {
        self.with(name, Self::header(EntryType::Regular, 0o644, bytes.len() as u64), bytes)
    }

    fn with(&mut self, name: &str, mut header: Header, bytes: &[u8]) -> &mut Self {
        self.0.append_data(&mut header, name, bytes).unwrap();
        self
    }

    /// A name as it stands there, which the library would not write.
    fn raw(&mut self, name: &[u8], mut header: Header, bytes: &[u8]) -> &mut Self {
        header.as_mut_bytes()[..name.len()].copy_from_slice(name);
        header.set_cksum();
        self.0.append(&header, bytes).unwrap();
        self
    }

    fn link(&mut self, kind: EntryType, name: &str, target: &str) -> &mut Self {
        self.0.append_link(&mut Self::header(kind, 0o777, 0), name, target).unwrap();
        self
    }

    fn device(&mut self, kind: EntryType, name: &str, major: u32, minor: u32) -> &mut Self {
        let mut header = Self::header(kind, 0o620, 0);
        header.set_gid(5);
        header.set_device_major(major).unwrap();
        header.set_device_minor(minor).unwrap();
        self.with(name, header, &[])
    }

    fn bytes(&mut self) -> Vec<u8> {
        self.0.finish().unwrap();
        self.0.get_ref().clone()
    }
}

/// A folder with this archive.
fn folder_with(archive: &[u8]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("root.tar"), archive).unwrap();
    folder
}

fn build_in(folder: &TempDir, size: Option<u64>, label: &str) -> Result<Built, ImageError> {
    let (from, output) = (folder.path().join("root.tar"), folder.path().join("root.img"));
    build(&Request { from: &from, output: &output, size, label }, |done, total| {
        assert!(done <= total, "{done} of {total}")
    })
}

/// The image's folder, what was told of it, and its content by another reader.
fn image(archive: &[u8], size: Option<u64>) -> (TempDir, Built, Ext4) {
    let folder = folder_with(archive);
    let built = build_in(&folder, size, "root").unwrap();
    assert_eq!(std::fs::metadata(folder.path().join("root.img")).unwrap().len(), built.size);
    let ext4 = Ext4::load_from_path(folder.path().join("root.img")).unwrap();
    (folder, built, ext4)
}

/// Runs a program of e2fsprogs on the image; `None`: it is not on this machine, which is said.
fn e2fs(folder: &TempDir, program: &str, arguments: &[&str]) -> Option<Output> {
    let at = ["/usr/sbin", "/sbin", "/usr/bin"].map(|place| Path::new(place).join(program));
    let Some(program) = at.iter().find(|path| path.exists()) else {
        eprintln!("skipped: there is no {program} on this machine; install e2fsprogs");
        return None;
    };
    Some(Command::new(program).args(arguments).arg(folder.path().join("root.img")).output().unwrap())
}

/// Nothing is wrong with the image, as `e2fsck` sees it.
fn check(folder: &TempDir) {
    let Some(output) = e2fs(folder, "e2fsck", &["-f", "-n"]) else { return };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}");
    // Five passes, and a line of figures: nothing else.
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with("Pass ")).collect();
    assert!(lines.len() == 1 && lines[0].contains("files") && lines[0].contains("blocks"), "{text}");
}

/// What `debugfs` says.
fn ask(folder: &TempDir, question: &str) -> Option<String> {
    let output = e2fs(folder, "debugfs", &["-R", question])?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// An archive with something of every kind.
fn everything() -> Vec<u8> {
    let mut maker = Maker::new();
    let mut root = Maker::header(EntryType::Directory, 0o751, 0);
    root.set_mtime(1_600_000_000);
    maker.raw(b"./", root, &[]);
    let mut srv = Maker::header(EntryType::Directory, 0o1777, 0);
    srv.set_uid(1000);
    srv.set_gid(70_000);
    maker.with("./srv/", srv, &[]);
    let mut program = Maker::header(EntryType::Regular, 0o4755, 5);
    program.set_uid(100_000);
    program.set_gid(4);
    program.set_mtime(1);
    maker.with("./bin/su", program, b"hello");
    let mut late = Maker::header(EntryType::Regular, 0o600, 0);
    late.set_mtime(5_000_000_000);
    maker.with("srv/empty", late, &[]);
    maker.link(EntryType::Link, "bin/login", "./bin/su");
    maker.link(EntryType::Symlink, "sh", "bin/su");
    maker.link(EntryType::Symlink, "long", &"x/".repeat(40));
    maker.link(EntryType::Symlink, "edge", &"y".repeat(59));
    maker.link(EntryType::Symlink, "edges", &"z".repeat(60));
    maker.device(EntryType::Char, "dev/console", 5, 1).device(EntryType::Block, "dev/vda", 254, 0);
    maker.device(EntryType::Block, "dev/far", 259, 4097);
    maker.with("dev/pipe", Maker::header(EntryType::Fifo, 0o600, 0), &[]);
    maker.file(&format!("deep/{}/file", "d".repeat(200)), &[7; 9000]);
    maker.bytes()
}

#[test]
fn everything_is_as_in_the_archive() {
    let (folder, built, ext4) = image(&everything(), Some(64 << 20));
    check(&folder);
    assert_eq!((built.size, built.without_attributes), (64 << 20, 0));
    // Folders that only names tell of are counted, too: /bin, /dev, /deep and the one in it.
    assert_eq!(built.files, 16);
    assert_eq!(ext4.label().to_str().unwrap(), "root");
    assert_eq!(ext4.read("/bin/su").unwrap(), b"hello");
    assert_eq!(ext4.read("/bin/login").unwrap(), b"hello");
    assert_eq!(ext4.read("/sh").unwrap(), b"hello");
    assert_eq!(ext4.read("/srv/empty").unwrap(), b"");
    assert_eq!(ext4.read(&*format!("/deep/{}/file", "d".repeat(200))).unwrap(), [7; 9000]);
    for (path, target) in [("/long", "x/".repeat(40)), ("/edge", "y".repeat(59)), ("/edges", "z".repeat(60))] {
        assert_eq!(ext4.read_link(path).unwrap().to_str().unwrap(), target);
    }
    let data = |path: &str| ext4.symlink_metadata(path).unwrap();
    let of = |path: &str| (data(path).uid(), data(path).gid(), data(path).mode() & 0o7777);
    assert_eq!(of("/"), (0, 0, 0o751));
    assert_eq!(of("/srv"), (1000, 70_000, 0o1777));
    assert_eq!(of("/bin/su"), (100_000, 4, 0o4755));
    assert_eq!(of("/bin"), (0, 0, 0o755));
    assert_eq!(of("/lost+found"), (0, 0, 0o700));
    assert_eq!(of("/dev/console"), (0, 5, 0o620));
    for (path, kind) in [
        ("/dev/console", FileType::CharacterDevice),
        ("/dev/vda", FileType::BlockDevice),
        ("/dev/pipe", FileType::Fifo),
        ("/sh", FileType::Symlink),
    ] {
        assert_eq!(data(path).file_type(), kind, "{path}");
    }
    let Some(stat) = ask(&folder, "stat /bin/su") else { return };
    assert!(stat.contains("Links: 2") && stat.contains("mtime: 0x00000001:00000000"), "{stat}");
    // In the year 2128, beyond 32 bits.
    let stat = ask(&folder, "stat /srv/empty").unwrap();
    assert!(stat.contains("mtime: 0x2a05f200:00000001"), "{stat}");
    assert!(ask(&folder, "stat /").unwrap().contains("mtime: 0x5f5e1000"));
    for (path, number) in [("console", "05:01"), ("vda", "254:00"), ("far", "259:4097")] {
        let stat = ask(&folder, &format!("stat /dev/{path}")).unwrap();
        assert!(stat.contains(&format!("Device major/minor number: {number}")), "{stat}");
    }
}

#[test]
fn the_same_archive_gives_the_same_bytes() {
    let archive = everything();
    let bytes = |label: &str, size| {
        let folder = folder_with(&archive);
        build_in(&folder, size, label).unwrap();
        std::fs::read(folder.path().join("root.img")).unwrap()
    };
    let first = bytes("a", None);
    std::thread::sleep(std::time::Duration::from_millis(1100));
    assert!(first == bytes("a", None), "one archive gave two images");
    // Two file systems that differ have two identifiers.
    let uuid = |image: &[u8]| image[1024 + 0x68..][..16].to_vec();
    assert_ne!(uuid(&first), uuid(&bytes("b", None)));
    assert_ne!(uuid(&first), uuid(&bytes("a", Some(64 << 20))));
    assert_eq!((uuid(&first)[6] >> 4, uuid(&first)[8] >> 6), (8, 2));
}

#[test]
fn packed_archives_are_read() {
    let archive = everything();
    let plain = image(&archive, None).0;
    let plain = std::fs::read(plain.path().join("root.img")).unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&archive[..1000]).unwrap();
    let mut members = gzip.finish().unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&archive[1000..]).unwrap();
    members.extend(gzip.finish().unwrap());
    let level = ruzstd::encoding::CompressionLevel::Fastest;
    let frame = |part: &[u8]| ruzstd::encoding::compress_to_vec(part, level);
    let skipped = [&b"\x50\x2a\x4d\x18\x03\0\0\0abc"[..], &[]].concat();
    let frames = [frame(&archive[..777]), skipped, frame(&archive[777..])].concat();
    for packed in [members, frames] {
        let (folder, ..) = image(&packed, None);
        assert!(plain == std::fs::read(folder.path().join("root.img")).unwrap());
        let cut = folder_with(&packed[..packed.len() / 2]);
        let error = build_in(&cut, None, "").unwrap_err().to_string();
        assert!(error.contains("root.tar: is no tar that can be read: "), "{error}");
        assert!(!cut.path().join("root.img").exists());
    }
    for (magic, method) in [(&b"\xfd7zXZ\0"[..], "xz"), (b"BZh9", "bzip2"), (b"\x04\x22\x4d\x18", "lz4")] {
        let error = build_in(&folder_with(magic), None, "").unwrap_err().to_string();
        assert!(error.ends_with(&format!("root.tar: is packed by {method}; unpack it first: {method} -d")), "{error}");
    }
}

/// Many files, files over several groups, a folder of many blocks, and a disk that ends shortly after a group.
#[test]
fn large_archives_fill_many_groups() {
    let mut maker = Maker::new();
    for n in 0..3000 {
        maker.file(&format!("many/{n:0>100}"), n.to_string().as_bytes());
    }
    for n in 0..200 {
        maker.with(&format!("folders/{n}"), Maker::header(EntryType::Directory, 0o755, 0), &[]);
    }
    let mut big = vec![0; 150 << 20];
    big.chunks_mut(1 << 16).zip(1u32..).for_each(|(part, n)| part[..4].copy_from_slice(&n.to_le_bytes()));
    maker.file("big", &big);
    let (folder, built, ext4) = image(&maker.bytes(), None);
    check(&folder);
    assert!(built.size > 150 << 20 && built.free > 20 << 20, "{built:?}");
    assert!(ext4.read("/big").unwrap() == big);
    assert_eq!(ext4.read_dir("/many").unwrap().count(), 3002);
    for n in [0, 1, 1499, 2999] {
        assert_eq!(ext4.read_to_string(&*format!("/many/{n:0>100}")).unwrap(), n.to_string());
    }
    // A last group that has room for nothing is left out; one that has room for little is there.
    for extra in [4096, 8 << 20] {
        let (folder, built, _) = image(&everything(), Some((256 << 20) + extra));
        assert_eq!(built.size, (256 << 20) + extra);
        check(&folder);
    }
}

/// More extents than an inode has room for: a file over more than four groups.
#[test]
fn a_file_of_many_extents_has_a_tree_of_them() {
    // Zeroes, of which the file system of this machine need keep none, and marks at the groups' ends.
    let size = 600u64 << 20;
    let folder = tempfile::tempdir().unwrap();
    let tar = File::create(folder.path().join("root.tar")).unwrap();
    let mut header = Maker::header(EntryType::Regular, 0o644, size);
    header.set_path("big").unwrap();
    header.set_cksum();
    tar.write_all_at(header.as_bytes(), 0).unwrap();
    let marks: Vec<u64> = (0..6).map(|n| n * (100 << 20) + 12_345).collect();
    marks.iter().for_each(|at| tar.write_all_at(&at.to_le_bytes(), 512 + at).unwrap());
    tar.set_len(512 + size + 1024).unwrap();
    build_in(&folder, None, "").unwrap();
    check(&folder);
    let ext4 = Ext4::load_from_path(folder.path().join("root.img")).unwrap();
    let mut file = ext4.open("/big").unwrap();
    for at in marks {
        let mut bytes = [0; 8];
        file.seek_to(at).unwrap();
        assert_eq!((file.read_bytes(&mut bytes).unwrap(), u64::from_le_bytes(bytes)), (8, at));
    }
}

/// More extents than a block of them holds, which an image that is small enough to be made here does not have.
#[test]
fn extents_are_found_again_through_their_tree() {
    let folder = folder_with(&Maker::new().file("big", b"x").bytes());
    let source = Source::open(&folder.path().join("root.tar")).unwrap();
    let (mut tree, _) = Tree::read(&source, &mut |_| {}).unwrap();
    let file = tree.nodes.iter_mut().find(|node| matches!(node.kind, tree::Kind::File { .. })).unwrap();
    let blocks = (100u64 << 30) / BLOCK;
    file.kind = tree::Kind::File { size: blocks * BLOCK - 1, entry: 0 };
    let plan = Plan::new(&tree, blocks_of(120 << 30)).unwrap();
    let (_, inode) = plan.contents(&tree).next().unwrap();
    assert_eq!((inode.extents.len(), inode.leaves.len()), (813, 3));
    // No extent has a block that its group has for itself, nor one of another.
    for (n, extent) in inode.extents.iter().enumerate() {
        let group = extent.start / plan::GROUP;
        assert!(extent.start >= plan.geometry.start(group) + plan.geometry.own(group));
        assert!(extent.start + extent.count <= plan.geometry.end(group));
        assert!(n == 0 || inode.extents[n - 1].start + inode.extents[n - 1].count <= extent.start);
    }
    let (map, leaves) = layout::extent_tree(inode);
    let word = |bytes: &[u8], at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let half = |bytes: &[u8], at: usize| u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap());
    let (mut next, mut found) = (0, Vec::new());
    assert_eq!((half(&map, 0), half(&map, 2), half(&map, 4), half(&map, 6)), (0xf30a, 3, 4, 1));
    for (n, leaf) in leaves.iter().enumerate() {
        assert_eq!((word(&map, 12 + 12 * n), word(&map, 16 + 12 * n)), (next, inode.leaves[n]));
        assert_eq!((half(leaf, 0), half(leaf, 4), half(leaf, 6)), (0xf30a, 340, 0));
        for n in 0..usize::from(half(leaf, 2)) {
            let at = 12 + 12 * n;
            assert_eq!(word(leaf, at), next);
            found.push(plan::Extent { start: word(leaf, at + 8), count: half(leaf, at + 4).into() });
            next += u32::from(half(leaf, at + 4));
        }
    }
    assert_eq!((u64::from(next), &found), (blocks, &inode.extents));
}

#[test]
fn the_smallest_images_have_no_journal() {
    let mut maker = Maker::new();
    let archive = maker.file("init", b"#!").bytes();
    for (size, journal) in [(1 << 20, false), (64 << 20, true)] {
        let (folder, _, ext4) = image(&archive, Some(size));
        check(&folder);
        assert_eq!(ext4.read("/init").unwrap(), b"#!");
        let Some(features) = ask(&folder, "features") else { continue };
        assert_eq!(features.contains("has_journal"), journal, "{features}");
    }
}

/// Later entries take the place of earlier ones.
#[test]
fn an_archive_may_say_a_thing_twice() {
    let mut maker = Maker::new();
    maker.file("a", b"old").file("b", b"kept").file("etc", b"a file").link(EntryType::Link, "old-a", "a");
    maker.file("a", b"new").link(EntryType::Symlink, "b", "a");
    maker.with("etc", Maker::header(EntryType::Directory, 0o700, 0), &[]).file("etc/x", b"x");
    let (folder, _, ext4) = image(&maker.bytes(), None);
    check(&folder);
    for (path, bytes) in [("/a", &b"new"[..]), ("/old-a", b"old"), ("/b", b"new"), ("/etc/x", b"x")] {
        assert_eq!(ext4.read(path).unwrap(), bytes, "{path}");
    }
    assert_eq!(ext4.symlink_metadata("/etc").unwrap().mode() & 0o7777, 0o700);
}

#[test]
fn each_refusal_says_what_to_do() {
    let header = || Maker::header(EntryType::Regular, 0o644, 1);
    type Make<'a> = &'a mut dyn FnMut(&mut Maker);
    let cases: [(Make<'_>, &str); 10] = [
        (&mut |_| {}, "root.tar: holds no file; give another archive"),
        (
            &mut |maker| _ = maker.raw(b"../etc/shadow", header(), b"x"),
            "the archive's \"../etc/shadow\" is no name of a file below the root; leave it out",
        ),
        (
            &mut |maker| _ = maker.raw(b"./", header(), b"x").raw(b"/", Maker::header(EntryType::Symlink, 0, 0), &[]),
            "the archive's \"/\" is a symbolic link to 0 bytes of text, and 4095 are possible; shorten it",
        ),
        (
            &mut |maker| _ = maker.file("a", b"x").file("a/b", b"x"),
            "the archive's \"a\" lies in \"a\", which is no folder; give its real place",
        ),
        (
            &mut |maker| _ = maker.link(EntryType::Symlink, "bin", "usr/bin").file("bin/x/y", b"x"),
            "the archive's \"bin/x\" lies in \"bin\", which is no folder; give its real place",
        ),
        (
            &mut |maker| _ = maker.file("a/b", b"x").file("a", b"x"),
            "the archive's \"a\" is a folder before, and a file then; leave one out",
        ),
        (
            &mut |maker| _ = maker.link(EntryType::Link, "a", "b").file("b", b"x"),
            "the archive's \"a\" is a hard link to \"b\", and no file of that name is before it; add that file",
        ),
        (
            &mut |maker| _ = maker.link(EntryType::Symlink, "a", &"x".repeat(5000)),
            "the archive's \"a\" is a symbolic link to 5000 bytes of text, and 4095 are possible; shorten it",
        ),
        (
            &mut |maker| _ = maker.raw(b"a", Maker::header(EntryType::new(b'Z'), 0, 0), &[]),
            "the archive's \"a\" is of the unknown type 'Z'; leave it out",
        ),
        (
            &mut |maker| _ = maker.file(&"n".repeat(256), b"x"),
            &format!("the archive's \"{}\" is no name of a file below the root; leave it out", "n".repeat(256)),
        ),
    ];
    for (make, message) in cases {
        let mut maker = Maker::new();
        make(&mut maker);
        let folder = folder_with(&maker.bytes());
        let error = build_in(&folder, None, "").unwrap_err().to_string();
        assert!(error.ends_with(message), "{error}");
        assert!(!folder.path().join("root.img").exists());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "something was left behind");
    }
    let none = tempfile::tempdir().unwrap();
    let error = build_in(&none, None, "").unwrap_err().to_string();
    assert!(error.contains("root.tar: cannot be read: ") && error.ends_with("; give the path of a tar"), "{error}");
    let text = folder_with(&b"this is a text file, which is no tar, however long one makes it. ".repeat(20));
    let error = build_in(&text, None, "").unwrap_err().to_string();
    assert!(error.contains("root.tar: is no tar that can be read: "), "{error}");
}

#[test]
fn sizes_and_labels_are_checked() {
    let archive = Maker::new().file("a", &vec![1; 3 << 20]).bytes();
    let folder = folder_with(&archive);
    let told = |size, label: &str| build_in(&folder, size, label).unwrap_err().to_string();
    let error = told(Some(1 << 20), "");
    let needs = error.strip_prefix("1M is too small for the files of the archive; give ").unwrap();
    let needs = needs.strip_suffix(" or more, or leave the size out").unwrap();
    // What it says is enough.
    let enough = config::setting::size(needs).unwrap();
    assert_eq!(build_in(&folder, Some(enough), "").unwrap().size, enough);
    check(&folder);
    assert_eq!(told(Some(1 << 40), ""), "1024G are more than the 128G that an image can have; leave files out");
    let long = "seventeen letters";
    assert_eq!(told(None, long), format!("\"{long}\" is no label; use at most 16 bytes, none of them zero"));
    assert_eq!(told(Some(0), ""), error.replacen("1M is", "0 bytes is", 1));
    // A size of no whole blocks is rounded up.
    assert_eq!(build_in(&folder, Some((8 << 20) - 100), "sixteen letters!").unwrap().size, 8 << 20);
}

/// Bytes that are others the second time, and files that are longer or shorter then.
#[test]
fn an_archive_that_changes_gives_no_image() {
    let of = |bytes: &[u8]| Maker::new().file("a", bytes).file("b", b"x").bytes();
    for then in [of(b"yes"), of(b"no, and more"), of(b"n"), Maker::new().file("a", b"no!").bytes()] {
        let folder = folder_with(&of(b"no!"));
        let (from, output) = (folder.path().join("root.tar"), folder.path().join("root.img"));
        let mut calls = 0;
        let result = build(&Request { from: &from, output: &output, size: None, label: "" }, |_, _| {
            // After the second and last of its files.
            calls += 1;
            if calls == 2 {
                std::fs::write(&from, &then).unwrap();
            }
        });
        assert!(matches!(result, Err(ImageError::Changed { .. })), "{result:?}");
        assert!(!output.exists());
    }
}

#[test]
fn attributes_that_are_left_out_are_counted() {
    let mut maker = Maker::new();
    maker.0.append_pax_extensions([("SCHILY.xattr.security.capability", &b"\x01\0\0\x02"[..])]).unwrap();
    maker.file("ping", b"x");
    maker.0.append_pax_extensions([("comment", &b"nothing"[..])]).unwrap();
    maker.file("other", b"x");
    assert_eq!(image(&maker.bytes(), None).1.without_attributes, 1);
}

/// What `tar` of this machine makes is read, whatever its form.
#[test]
fn archives_of_gnu_tar_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let files = folder.path().join("files");
    std::fs::create_dir(&files).unwrap();
    let long = "n".repeat(180);
    std::fs::write(files.join(&long), "long").unwrap();
    let sparse = File::create(files.join("sparse")).unwrap();
    sparse.write_all_at(b"end", 3 << 20).unwrap();
    for form in ["gnu", "pax", "ustar", "gnu --sparse"] {
        let archive = folder.path().join("root.tar");
        let mut command = Command::new("tar");
        command.arg("-cf").arg(&archive).arg("-C").arg(&files).arg("--owner=root:0").arg("--group=users:100");
        command.args(format!("--format={form}").split(' ')).arg(".");
        match command.output() {
            Ok(output) if output.status.success() => {}
            Ok(_) if form == "ustar" => continue,
            _ => return eprintln!("skipped: there is no GNU tar on this machine"),
        }
        build_in(&folder, None, "").unwrap();
        check(&folder);
        let ext4 = Ext4::load_from_path(folder.path().join("root.img")).unwrap();
        assert_eq!(ext4.read(&*format!("/{long}")).unwrap(), b"long", "{form}");
        let bytes = ext4.read("/sparse").unwrap();
        assert_eq!((bytes.len(), &bytes[3 << 20..]), ((3 << 20) + 3, &b"end"[..]), "{form}");
        assert_eq!(ext4.metadata("/sparse").unwrap().gid(), 100);
    }
}
