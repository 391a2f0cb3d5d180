//! What is on a card, read back from its image and from a directory.

use super::*;
use crate::disk::tests::read;

/// Files to make a card of, each with other bytes.
struct Made {
    dir: tempfile::TempDir,
}

impl Made {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (n, name) in rpi4::FILES.iter().chain(&["merus.img", "bundle.merus", "u-boot.bin"]).enumerate() {
            let bytes: Vec<u8> = (0..100_000 * n as u32 + 7).map(|i| (i * 31 + n as u32) as u8).collect();
            fs::write(dir.path().join(name), bytes).unwrap();
        }
        Self { dir }
    }
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

#[test]
fn a_card_has_every_file_to_the_byte() {
    let made = Made::new();
    let (image, bundle, u_boot) = (made.path("merus.img"), made.path("bundle.merus"), made.path("u-boot.bin"));
    for through in [None, Some(u_boot.as_path())] {
        let card = Card {
            firmware: made.dir.path(),
            image: &image,
            bundle: Some(&bundle),
            append: "merus.idle=stay",
            u_boot: through,
        };
        let (img, dir) = (made.path("card.img"), made.path("card"));
        card.disk().unwrap().write(&img).unwrap();
        card.write(&dir).unwrap();
        let mut names = vec!["merus.img", "bundle.merus"];
        names.extend(rpi4::FILES);
        names.extend(through.map(|_| "u-boot.bin"));
        for name in names {
            let expected = fs::read(made.path(name)).unwrap();
            assert!(read(&img, name) == expected, "{name} in the image");
            assert!(fs::read(dir.join(name)).unwrap() == expected, "{name} in the directory");
        }
        assert_eq!(read(&img, "cmdline.txt"), b"merus.idle=stay\n");
        assert_eq!(read(&img, "config.txt"), fs::read(dir.join("config.txt")).unwrap());
    }
    assert!(read(&made.path("card.img"), "boot.scr").windows(9).any(|text| text == b"merus.img"));
}

#[test]
fn the_firmware_is_told_what_to_load_and_where() {
    let made = Made::new();
    let (image, bundle) = (made.path("merus.img"), made.path("bundle.merus"));
    let mut card = Card { firmware: made.dir.path(), image: &image, bundle: Some(&bundle), append: "", u_boot: None };
    let config = card.config();
    let lines: Vec<&str> = config.lines().collect();
    assert_eq!(lines[0], OURS);
    assert_eq!(
        lines[1..],
        [
            "arm_64bit=1",
            "kernel=merus.img",
            "kernel_address=0x200000",
            "initramfs bundle.merus 0x8000000",
            "device_tree=bcm2711-rpi-4-b.dtb",
            "enable_gic=1",
            "enable_uart=1"
        ]
    );
    card.u_boot = Some(&image);
    let config = card.config();
    assert!(config.contains("\nkernel=u-boot.bin\n") && !config.contains("merus"), "{config}");
}

#[test]
fn what_is_wrong_is_refused_and_nothing_of_others_is_overwritten() {
    let made = Made::new();
    let (image, bundle) = (made.path("merus.img"), made.path("bundle.merus"));
    let card = Card { firmware: made.dir.path(), image: &image, bundle: Some(&bundle), append: "a\nb", u_boot: None };
    assert!(card.disk().unwrap_err().to_string().contains("one line"));
    let card = Card { append: "", ..card };
    let theirs = made.path("theirs");
    fs::create_dir(&theirs).unwrap();
    fs::write(theirs.join("config.txt"), "dtparam=audio=on\n").unwrap();
    assert!(card.write(&theirs).unwrap_err().to_string().contains("move it away"));
    // So is one that is no UTF-8.
    fs::write(theirs.join("config.txt"), b"# G\xfcnther's\ndtparam=audio=on\n").unwrap();
    assert!(card.write(&theirs).unwrap_err().to_string().contains("move it away"));
    assert_eq!(fs::read_dir(&theirs).unwrap().count(), 1);
    // One of ours is written anew.
    let ours = made.path("ours");
    card.write(&ours).unwrap();
    card.write(&ours).unwrap();
    let absent = made.path("absent");
    let error = Card { bundle: Some(&absent), ..card }.disk().unwrap_err().to_string();
    assert!(error.contains("cannot read") && error.contains("absent"), "{error}");
    let large = made.path("large");
    fs::File::create(&large).unwrap().set_len(LARGEST_BUNDLE + 1).unwrap();
    let card = Card { firmware: made.dir.path(), image: &image, bundle: Some(&large), append: "", u_boot: None };
    assert!(card.disk().unwrap_err().to_string().contains("room for 512 MiB"));
}
