//! Writes a bundle.

use crate::manifest::{Content, Plan, reason};
use anyhow::{Context, Result, anyhow, bail, ensure};
use config::bundle::{self, ALIGN};
use config::spec::{DiskSpec, PayloadKind, PayloadRef, VmSpec};
use sha2::{Digest, Sha256};
use std::fs::{File, Permissions};
use std::io::{BufWriter, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// `1 VM`, `2 VMs`.
pub fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// Packs `plan` into the file `output`, which is whole or untouched. Returns a line that says what was written.
pub fn write(plan: &Plan, output: &Path) -> Result<String> {
    let mut vms = plan.vms.clone();
    let mut payloads: Vec<PayloadRef> = Vec::new();
    let mut files: Vec<Content> = Vec::new();
    // Files whose sums are known: a disk's image that many VMs share is long.
    let mut summed: Vec<(&Path, PayloadRef)> = Vec::new();
    for payload in vms.iter_mut().flat_map(payloads_of) {
        let index: usize = payload.image.parse().context("a payload without a file")?;
        let content = plan.files.get(index).context("a payload without a file")?;
        match summed.iter().find(|(path, _)| *path == content.path() && matches!(content, Content::File(_))) {
            Some((_, same)) => (payload.size, payload.crc32, payload.sha256) = (same.size, same.crc32, same.sha256),
            None => sum_up(payload, content)?,
        }
        if matches!(content, Content::File(_)) {
            summed.push((content.path(), payload.clone()));
        }
        // One copy of what several VMs use.
        let same = |other: &&PayloadRef| other.kind == payload.kind && other.sha256 == payload.sha256;
        match payloads.iter().find(same) {
            Some(other) => payload.image = other.image.clone(),
            None => {
                let kind = match payload.kind {
                    PayloadKind::Kernel => "kernel",
                    PayloadKind::Ramdisk => "ramdisk",
                    PayloadKind::Disk => "disk",
                };
                payload.image = format!("{kind}-{}", payloads.len() + 1);
                payloads.push(payload.clone());
                files.push(content.clone());
            }
        }
    }
    let head = bundle::lay_out(&mut payloads, &vms, &plan.groups, &plan.switches)?;
    let total = emit(output, &head, &payloads, &files)
        .with_context(|| format!("{}: the bundle cannot be written", output.display()))?;
    let size = total.div_ceil(1 << 20);
    Ok(format!("{}: {}, {}, {size} MiB", output.display(), count(vms.len(), "VM"), count(files.len(), "file")))
}

fn payloads_of(vm: &mut VmSpec) -> impl Iterator<Item = &mut PayloadRef> {
    let images = vm.disks.iter_mut().filter_map(DiskSpec::image_mut);
    [Some(&mut vm.kernel), vm.initrd.as_mut()].into_iter().flatten().chain(images)
}

fn each_block(content: &Content, mut with: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let path = match content {
        Content::File(path) => path,
        Content::Made(_, bytes) => return with(bytes),
    };
    let cannot = |error: &std::io::Error| anyhow!("{}: cannot be read: {}", path.display(), reason(error));
    let mut file = File::open(path).map_err(|error| cannot(&error))?;
    let mut block = vec![0; 1 << 20];
    loop {
        match file.read(&mut block).map_err(|error| cannot(&error))? {
            0 => return Ok(()),
            length => with(&block[..length])?,
        }
    }
}

/// Fills in a payload's length and sums.
fn sum_up(payload: &mut PayloadRef, content: &Content) -> Result<()> {
    let (mut crc32, mut sha256, mut size) = (crc32fast::Hasher::new(), Sha256::new(), 0);
    each_block(content, |block| {
        crc32.update(block);
        sha256.update(block);
        size += block.len() as u64;
        Ok(())
    })?;
    (payload.size, payload.crc32, payload.sha256) = (size, crc32.finalize(), Some(sha256.finalize().into()));
    Ok(())
}

/// Writes to a file beside `output` and puts it in its place when all of it is there.
fn emit(output: &Path, head: &[u8], payloads: &[PayloadRef], files: &[Content]) -> Result<u64> {
    ensure!(!output.is_dir(), "it is a directory; give the path of a file");
    let folder = output.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // As if made by `open` with the usual mode: the umask still applies.
    let permissions = Permissions::from_mode(0o666);
    let file = tempfile::Builder::new().prefix(".merus-").permissions(permissions).tempfile_in(folder);
    let file = file.map_err(|error| anyhow!("{}: {}", folder.display(), reason(&error)))?;
    let mut out = BufWriter::new(file);
    out.write_all(head)?;
    let mut at = head.len() as u64;
    for (payload, content) in payloads.iter().zip(files) {
        ensure!(payload.offset == at, "a payload is out of order");
        let mut crc32 = crc32fast::Hasher::new();
        each_block(content, |block| {
            crc32.update(block);
            at += block.len() as u64;
            Ok(out.write_all(block)?)
        })?;
        if at != payload.offset + payload.size || payload.check(crc32.finalize()).is_err() {
            bail!("{}: the file changed while it was read; try again", content.path().display());
        }
        let end = at.next_multiple_of(ALIGN);
        out.write_all(&vec![0; (end - at) as usize])?;
        at = end;
    }
    let file = out.into_inner().map_err(|error| error.into_error())?;
    file.as_file().sync_all()?;
    file.persist(output).map_err(|error| error.error)?;
    Ok(at)
}
