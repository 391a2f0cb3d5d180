//! The guest's initramfs: busybox, the virtio modules and the scripts that tests ask for.

use crate::cpio::Archive;
use crate::ctx;
use anyhow::{Context as _, Result, bail};
use object::{Object as _, ObjectSection as _};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use tar::{EntryType, Header};

/// The guest's `/init`.
const INIT: &str = include_str!("initramfs/init.sh");

/// What it does with disks and networks.
const IO: &str = include_str!("initramfs/io.sh");

/// What measures a guest's share of the CPUs.
const SHARE: &str = include_str!("initramfs/share.awk");

/// Modules that this and later work wants in the guest; what they depend on comes by itself. A kernel that has one built
/// in, or not at all (9p is absent from Debian's cloud kernel), is no error.
const MODULES: [&str; 16] = [
    "virtio_mmio",
    "virtio_pci",
    "virtio_blk",
    "virtio_net",
    "virtio_console",
    "virtio_rng",
    "virtio_balloon",
    "virtio_mem",
    "virtio_scsi",
    "virtio_input",
    "evdev",
    "virtio_pmem",
    "virtiofs",
    "vmw_vsock_virtio_transport",
    "vsock_diag",
    "9pnet_virtio",
];

/// Names under which `/init` calls busybox before it could install them itself.
const APPLETS: &str = "arp awk cat chmod cmp cut dd dmesg grep hexdump hostname httpd ifconfig mkdir modprobe mount nproc ping poweroff reboot rm sed seq setsid sh \
                       sha256sum sleep stat stty switch_root sync tee udhcpc umount uname wget";

/// A kernel module as its `.modinfo` section describes it.
struct Module {
    /// Content, uncompressed.
    bytes: Vec<u8>,
    /// Names of the modules that must be loaded before.
    depends: Vec<String>,
    /// Patterns of device names that it serves.
    aliases: Vec<String>,
}

/// Makes the archive from a tree of unpacked packages (`busybox-static` and one kernel of release `release`).
///
/// # Errors
/// When busybox or a module that another needs is missing, or a module is no ELF file.
pub fn make(tree: &Path, release: &str) -> Result<Vec<u8>> {
    let busybox = fs::read(tree.join(busybox(tree)?))?;
    let modules = closure(&module_files(tree, release)?)?;

    let mut archive = Archive::new();
    for dir in ["bin", "dev", "lib", "lib/modules"] {
        archive.dir(dir);
    }
    // The kernel opens it for /init's standard streams before anything is mounted.
    archive.char_device("dev/console", 0o600, 5, 1);
    archive.file("bin/busybox", 0o755, &busybox);
    for applet in APPLETS.split(' ') {
        archive.symlink(&format!("bin/{applet}"), "busybox");
    }
    let dir = format!("lib/modules/{release}");
    archive.dir(&dir);
    for (name, module) in &modules {
        archive.file(&format!("{dir}/{name}.ko"), 0o644, &module.bytes);
    }
    archive.file(&format!("{dir}/modules.dep"), 0o644, dep_file(&modules).as_bytes());
    archive.file(&format!("{dir}/modules.alias"), 0o644, alias_file(&modules).as_bytes());
    archive.file(&format!("{dir}/modules.symbols"), 0o644, b"");
    archive.file("init", 0o755, INIT.as_bytes());
    archive.file("io.sh", 0o644, IO.as_bytes());
    archive.file("share.awk", 0o644, SHARE.as_bytes());
    Ok(archive.finish())
}

/// Where busybox is in a tree of packages.
fn busybox(tree: &Path) -> Result<&'static str> {
    let found = ["bin/busybox", "usr/bin/busybox"].into_iter().find(|path| tree.join(path).is_file());
    found.with_context(|| format!("no busybox in {}", tree.display()))
}

/// Makes a tar of a root file system that does what the initramfs does, from a tree of unpacked packages: all of it, busybox' names and the
/// scripts. It is root's and of no time, and the same each time.
///
/// # Errors
/// When busybox is missing, or the tree cannot be read.
pub fn root(tree: &Path) -> Result<Vec<u8>> {
    let busybox = Path::new(busybox(tree)?);
    let bin = busybox.with_file_name("");
    let mut archive = Root(tar::Builder::new(Vec::new()));
    let missing = |name: &&Path| !tree.join(name).exists();
    for dir in ["dev", "etc", "mnt", "proc", "srv", "sys", "tmp", "var"].map(Path::new).into_iter().filter(missing) {
        archive.put(dir, EntryType::Directory, 0o755, &[])?;
    }
    archive.tree(tree, Path::new(""))?;
    // Where all of it is below usr, these are links that come with no package.
    for name in ["bin", "lib", "sbin"].map(Path::new).into_iter().filter(missing) {
        archive.link(name, &Path::new("usr").join(name))?;
    }
    for applet in APPLETS.split(' ') {
        archive.link(&bin.join(applet), Path::new("busybox"))?;
    }
    archive.put(&bin.join("init"), EntryType::Regular, 0o755, INIT.as_bytes())?;
    archive.put(Path::new("io.sh"), EntryType::Regular, 0o644, IO.as_bytes())?;
    archive.put(Path::new("share.awk"), EntryType::Regular, 0o644, SHARE.as_bytes())?;
    Ok(archive.0.into_inner()?)
}

/// A tar being written.
struct Root(tar::Builder<Vec<u8>>);

impl Root {
    /// What `at` leads to below `tree`.
    fn tree(&mut self, tree: &Path, at: &Path) -> Result<()> {
        let dir = tree.join(at);
        let entries = fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))?;
        let mut names = entries.map(|entry| Ok(entry?.file_name())).collect::<Result<Vec<_>>>()?;
        names.sort();
        for name in names {
            let (inner, path) = (at.join(&name), dir.join(&name));
            let data = fs::symlink_metadata(&path)?;
            let mode = data.permissions().mode() & 0o7777;
            if data.is_dir() {
                self.put(&inner, EntryType::Directory, mode, &[])?;
                self.tree(tree, &inner)?;
            } else if data.is_symlink() {
                self.link(&inner, &fs::read_link(&path)?)?;
            } else {
                self.put(&inner, EntryType::Regular, mode, &fs::read(&path)?)?;
            }
        }
        Ok(())
    }

    fn put(&mut self, name: &Path, kind: EntryType, mode: u32, content: &[u8]) -> Result<()> {
        let mut header = Self::header(kind, mode);
        header.set_size(content.len() as u64);
        Ok(self.0.append_data(&mut header, name, content)?)
    }

    fn link(&mut self, name: &Path, to: &Path) -> Result<()> {
        Ok(self.0.append_link(&mut Self::header(EntryType::Symlink, 0o777), name, to)?)
    }

    fn header(kind: EntryType, mode: u32) -> Header {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(0);
        header
    }
}

/// `modules.dep`: each module with all that it needs, the nearest first. Packages hold none; Debian runs depmod after
/// unpacking.
fn dep_file(modules: &BTreeMap<String, Module>) -> String {
    let mut text = String::new();
    for name in modules.keys() {
        let mut needs = Vec::new();
        collect_needs(modules, name, &mut needs);
        // Dependencies were pushed before their users; modprobe loads from the line's end.
        let list: String = needs.iter().rev().map(|need| format!(" {need}.ko")).collect();
        text.push_str(&format!("{name}.ko:{list}\n"));
    }
    text
}

fn collect_needs(modules: &BTreeMap<String, Module>, name: &str, needs: &mut Vec<String>) {
    for need in modules.get(name).map(|module| module.depends.as_slice()).unwrap_or_default() {
        if !needs.contains(need) {
            collect_needs(modules, need, needs);
            needs.push(need.clone());
        }
    }
}

/// `modules.alias`: which module serves a device of which name.
fn alias_file(modules: &BTreeMap<String, Module>) -> String {
    let mut text = String::new();
    for (name, module) in modules {
        for alias in &module.aliases {
            text.push_str(&format!("alias {alias} {name}\n"));
        }
    }
    text
}

/// All modules of the kernel by name (`-` and `_` are the same to the kernel; here it is always `_`).
fn module_files(tree: &Path, release: &str) -> Result<BTreeMap<String, PathBuf>> {
    let dirs = ["lib/modules", "usr/lib/modules"].map(|dir| tree.join(dir).join(release));
    let dir = dirs.iter().find(|dir| dir.is_dir());
    let mut todo = vec![dir.with_context(|| format!("no modules of {release} in {}", tree.display()))?.clone()];
    let mut files = BTreeMap::new();
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))? {
            let entry = entry?;
            let file_name = entry.file_name().to_string_lossy().into_owned();
            if entry.file_type()?.is_dir() {
                todo.push(entry.path());
            } else if let Some((name, "" | ".xz" | ".gz" | ".zst")) = file_name.split_once(".ko") {
                files.insert(name.replace('-', "_"), entry.path());
            }
        }
    }
    Ok(files)
}

/// [`MODULES`] and everything they depend on.
fn closure(files: &BTreeMap<String, PathBuf>) -> Result<BTreeMap<String, Module>> {
    let mut modules = BTreeMap::new();
    let mut todo: Vec<String> = MODULES.iter().map(|name| (*name).to_owned()).collect();
    let mut needed = BTreeSet::new();
    while let Some(name) = todo.pop() {
        if modules.contains_key(&name) {
            continue;
        }
        let Some(path) = files.get(&name) else {
            if needed.contains(&name) {
                bail!("the kernel package lacks the module {name}, which another one needs");
            }
            continue;
        };
        let module = read_module(path)?;
        needed.extend(module.depends.iter().cloned());
        todo.extend(module.depends.iter().cloned());
        modules.insert(name, module);
    }
    if !modules.contains_key("virtio_mmio") {
        bail!("the kernel package has no module virtio_mmio: it cannot be one of Debian's arm64 cloud kernels");
    }
    Ok(modules)
}

fn read_module(path: &Path) -> Result<Module> {
    let read = || fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    // Newer Debian releases compress modules. Busybox loads them plain, so they go in plain.
    let bytes = match path.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => unpack("xz", path)?,
        Some("gz") => unpack("gzip", path)?,
        Some("zst") => unpack("zstd", path)?,
        _ => read()?,
    };
    let file = object::File::parse(&*bytes).with_context(|| format!("{} is no ELF file", path.display()))?;
    let info = file.section_by_name(".modinfo").with_context(|| format!("{} has no .modinfo", path.display()))?;
    let info = String::from_utf8_lossy(info.data()?).into_owned();
    let values = |key: &'static str| {
        info.split('\0')
            .filter_map(move |item| item.split_once('='))
            .filter(move |item| item.0 == key)
            .map(|item| item.1)
    };
    let depends = values("depends").flat_map(|list| list.split(',')).filter(|name| !name.is_empty());
    let depends = depends.map(|name| name.replace('-', "_")).collect();
    let aliases = values("alias").map(str::to_owned).collect();
    drop(file);
    Ok(Module { bytes, depends, aliases })
}

fn unpack(program: &str, path: &Path) -> Result<Vec<u8>> {
    let mut command = Command::new(program);
    command.arg("-dc").arg(path);
    let output = command.output().with_context(|| format!("cannot start `{program}` (install its package)"))?;
    if !output.status.success() {
        bail!("`{}` failed: {}", ctx::shown(&command), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(depends: &[&str], aliases: &[&str]) -> Module {
        let own = |list: &[&str]| list.iter().map(|item| (*item).to_owned()).collect();
        Module { bytes: Vec::new(), depends: own(depends), aliases: own(aliases) }
    }

    #[test]
    fn dependencies_are_listed_from_the_nearest_to_the_farthest() {
        let modules = BTreeMap::from([
            ("failover".to_owned(), module(&[], &[])),
            ("net_failover".to_owned(), module(&["failover"], &[])),
            ("virtio".to_owned(), module(&[], &[])),
            ("virtio_net".to_owned(), module(&["virtio", "net_failover"], &["virtio:d00000001v*"])),
        ]);
        assert_eq!(
            dep_file(&modules),
            "failover.ko:\nnet_failover.ko: failover.ko\nvirtio.ko:\n\
             virtio_net.ko: net_failover.ko failover.ko virtio.ko\n"
        );
        assert_eq!(alias_file(&modules), "alias virtio:d00000001v* virtio_net\n");
    }

    #[test]
    fn a_root_has_the_packages_and_what_calls_them() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("usr/bin")).unwrap();
        fs::write(at("usr/bin/busybox"), b"BB").unwrap();
        fs::set_permissions(at("usr/bin/busybox"), fs::Permissions::from_mode(0o755)).unwrap();
        std::os::unix::fs::symlink("libx.so.1", at("usr/libx.so")).unwrap();
        let bytes = root(dir.path()).unwrap();
        assert!(bytes == root(dir.path()).unwrap(), "not the same again");
        let mut found = BTreeMap::new();
        for entry in tar::Archive::new(&*bytes).entries().unwrap() {
            let entry = entry.unwrap();
            let header = entry.header();
            assert_eq!((header.uid().unwrap(), header.gid().unwrap(), header.mtime().unwrap()), (0, 0, 0));
            let link = entry.link_name().unwrap().map(|link| link.display().to_string());
            let name = entry.path().unwrap().display().to_string();
            assert!(found.insert(name.trim_end_matches('/').to_owned(), (header.mode().unwrap(), link)).is_none());
        }
        let link = |to: &str| (0o777, Some(to.to_owned()));
        assert_eq!(found["usr/bin/busybox"], (0o755, None));
        assert_eq!(found["usr/bin/sh"], link("busybox"));
        assert_eq!(found["usr/libx.so"], link("libx.so.1"));
        assert_eq!([&found["bin"], &found["sbin"]], [&link("usr/bin"), &link("usr/sbin")]);
        assert_eq!(found["usr/bin/init"], (0o755, None));
        // A package that brings a directory of that name has it stay one.
        fs::create_dir(at("bin")).unwrap();
        fs::rename(at("usr/bin/busybox"), at("bin/busybox")).unwrap();
        let bytes = root(dir.path()).unwrap();
        let mut archive = tar::Archive::new(&*bytes);
        let names = archive.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().display().to_string());
        let names: Vec<_> = names.filter(|name| name.contains("bin") && !name.starts_with("bin/s")).collect();
        assert_eq!(names[..3].join(" ").replace("/ ", " "), "bin bin/busybox usr/bin");
        assert!(names.contains(&"bin/init".to_owned()), "{names:?}");
    }

    /// The script must not call what it has not: a missing applet shows only in the guest.
    #[test]
    fn init_calls_no_other_program_than_those_linked() {
        let shell = [
            "export",
            "wait",
            "for",
            "case",
            "esac",
            "done",
            "do",
            "if",
            "fi",
            "then",
            "else",
            "elif",
            "while",
            "read",
            "return",
            "mounted",
            "printf",
            "set",
            "off",
            "turns",
            "stream",
            "continue",
            "echo",
            "busybox",
            "exec",
            "until",
            "exit",
            "load",
            "devices",
            "watch",
            "keys",
            "demo",
            "port",
            "end",
            "share",
            "work",
            "behind",
            "done_by_all",
            "rounds",
            "normal",
            "memory",
            "pieces",
            "hash_of",
            "fill",
            "hold",
            "disk",
            "network",
            "serve",
            "fetch",
            "drawn",
            "random",
            "leave",
            "first",
            "answers",
            "between",
            "many",
            "poses_as",
            "rules",
            "churn",
            "holds",
            "crash",
            "witness",
            "page",
            "own_root",
            "web",
            "user",
            "autopsy",
            // Those of a root's packages.
            "e2fsck",
            "mke2fs",
        ];
        for line in INIT.lines().chain(IO.lines()).map(str::trim_start) {
            let word: String = line.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            let rest = &line[word.len()..];
            // Patterns of `case`, functions, variables, comments, the ends of blocks.
            if word.is_empty() || rest.starts_with([')', '(', '.', ':', '*', '=', ',']) {
                continue;
            }
            assert!(
                shell.contains(&&*word) || APPLETS.split(' ').any(|applet| applet == word),
                "{line:?} calls {word}"
            );
        }
        for applet in APPLETS.split(' ') {
            assert!(INIT.contains(applet) || IO.contains(applet), "{applet} is linked for nothing");
        }
    }
}
