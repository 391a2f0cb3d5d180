//! Writing cpio archives in the "newc" format that Linux unpacks as an initramfs.
//!
//! The format is that of the Linux kernel's documentation, "initramfs buffer format": each member is a header of 6 magic
//! characters and thirteen 8-digit hexadecimal fields, the name with its NUL, and the content, name and content padded to
//! 4 bytes. Owner and times are always 0, so that the same members make the same bytes. Not written: hard links, members
//! of 4 GiB or more.

/// An archive being written.
pub struct Archive {
    bytes: Vec<u8>,
    members: u32,
}

/// Mode bits of the member types (as in POSIX `st_mode`), and their mask.
const TYPE: u32 = 0o170_000;
const DIR: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;
const CHAR: u32 = 0o020_000;

impl Archive {
    /// An empty archive.
    pub fn new() -> Self {
        Self { bytes: Vec::new(), members: 0 }
    }

    /// Adds a directory. Parents must have been added before (Linux does not make them).
    pub fn dir(&mut self, name: &str) {
        self.member(name, DIR | 0o755, (0, 0), &[]);
    }

    /// Adds a file; `mode` is its permission bits.
    pub fn file(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.member(name, FILE | mode, (0, 0), content);
    }

    /// Adds a symbolic link that points to `to`.
    pub fn symlink(&mut self, name: &str, to: &str) {
        self.member(name, LINK | 0o777, (0, 0), to.as_bytes());
    }

    /// Adds a character device. No privilege is needed: it is only bytes here.
    pub fn char_device(&mut self, name: &str, mode: u32, major: u32, minor: u32) {
        self.member(name, CHAR | mode, (major, minor), &[]);
    }

    /// Ends the archive and returns its bytes, padded to 512 as is usual.
    pub fn finish(mut self) -> Vec<u8> {
        self.member("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
        self.bytes
    }

    fn member(&mut self, name: &str, mode: u32, rdev: (u32, u32), content: &[u8]) {
        let links = if mode & TYPE == DIR { 2 } else { 1 };
        self.members += 1;
        let fields = [
            self.members,
            mode,
            0, // uid
            0, // gid
            links,
            0, // mtime
            u32::try_from(content.len()).expect("an initramfs member has less than 4 GiB"),
            0, // device, major
            0, // device, minor
            rdev.0,
            rdev.1,
            u32::try_from(name.len() + 1).expect("a member's name is short"),
            0, // checksum: only of the "crc" format
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One member as a reader sees it: name, mode, rdev, content.
    type Member = (String, u32, (u32, u32), Vec<u8>);

    /// Reads an archive by the format's description, independently of the writer's code.
    fn read(bytes: &[u8]) -> Vec<Member> {
        let mut at = 0;
        let mut members = Vec::new();
        loop {
            assert_eq!(&bytes[at..at + 6], b"070701", "magic at {at}");
            let field = |n: usize| {
                let text = std::str::from_utf8(&bytes[at + 6 + 8 * n..at + 14 + 8 * n]).unwrap();
                u32::from_str_radix(text, 16).unwrap()
            };
            let (mode, size, rdev, name_size) =
                (field(1), field(6) as usize, (field(9), field(10)), field(11) as usize);
            let name = std::str::from_utf8(&bytes[at + 110..at + 110 + name_size - 1]).unwrap().to_owned();
            assert_eq!(bytes[at + 110 + name_size - 1], 0);
            let content = (at + 110 + name_size).div_ceil(4) * 4;
            if name == "TRAILER!!!" {
                assert!(bytes[content..].iter().all(|byte| *byte == 0));
                return members;
            }
            members.push((name, mode, rdev, bytes[content..content + size].to_vec()));
            at = (content + size).div_ceil(4) * 4;
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let mut archive = Archive::new();
        archive.dir("dev");
        archive.char_device("dev/console", 0o600, 5, 1);
        // Every padding: names and contents of 1 to 5 bytes.
        for n in 1..=5 {
            archive.file(&"n".repeat(n), 0o644, &vec![n as u8; 6 - n]);
        }
        archive.symlink("init", "dev");
        let bytes = archive.finish();
        assert_eq!(bytes.len() % 512, 0);
        let members = read(&bytes);
        assert_eq!(members.len(), 8);
        assert_eq!(members[0], ("dev".into(), 0o040_755, (0, 0), vec![]));
        assert_eq!(members[1], ("dev/console".into(), 0o020_600, (5, 1), vec![]));
        for n in 1..=5 {
            assert_eq!(members[1 + n], ("n".repeat(n), 0o100_644, (0, 0), vec![n as u8; 6 - n]));
        }
        assert_eq!(members[7], ("init".into(), 0o120_777, (0, 0), b"dev".to_vec()));
    }
}
