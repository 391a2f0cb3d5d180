//! Where the bundle comes from: the initrd that a boot loader offers, or a file on the volume that Merus was loaded from.
//!
//! | asked first | who puts it there |
//! |---|---|
//! | LoadFile2 of the vendor media device that Linux asks for its initrd | EDK2 for QEMU's `-initrd`, GRUB's and systemd-boot's `initrd` |
//! | `initrd=` on the command line, a path on that volume | a boot entry, the UEFI shell |
//! | `/chosen` of the device tree | older GRUBs' `initrd` |
//! | `bundle.merus` beside the image, then at the volume's root | a person with a memory stick |
//!
//! (Linux, Documentation/admin-guide/efi-stub.rst, "The initrd= option"; UEFI Specification, "Load File 2 Protocol", "File Protocol".)

use super::options::{self, Path};
use super::services::{Failed, Firmware, Pages, check};
use core::ffi::c_void;
use core::ptr::null_mut;
use uefi_raw::protocol::device_path::DevicePathProtocol;
use uefi_raw::protocol::file_system::{FileAttribute, FileMode, FileProtocolV1, SimpleFileSystemProtocol};
use uefi_raw::protocol::loaded_image::LoadedImageProtocol;
use uefi_raw::protocol::media::LoadFile2Protocol;
use uefi_raw::{Boolean, Guid, Handle, Status, guid};

const NAME: &str = "bundle.merus";
/// The vendor media device whose file is an initrd.
const INITRD_MEDIA: Guid = guid!("5568e427-68fc-4f3d-ac74-ca555231cc68");

/// A file in memory.
pub struct File<'a> {
    /// Where.
    pub pages: Pages<'a>,
    /// Its length in bytes.
    pub size: usize,
}

/// A device path of one vendor media node.
#[repr(C, packed)]
struct VendorMedia {
    head: [u8; 4],
    vendor: [u8; 16],
    end: [u8; 4],
}

/// What a loader offers as the initrd, if one does.
pub fn offered(firmware: &Firmware) -> Result<Option<File<'_>>, Failed> {
    const WHAT: &str = "the initrd that the boot loader offers";
    const MEDIA: u8 = 4;
    const VENDOR: u8 = 3;
    const END: [u8; 4] = [0x7f, 0xff, 4, 0];
    let path = VendorMedia { head: [MEDIA, VENDOR, 20, 0], vendor: INITRD_MEDIA.to_bytes(), end: END };
    let (mut rest, mut handle): (*const DevicePathProtocol, Handle) = ((&raw const path).cast(), null_mut());
    // SAFETY: the path is ours and ends with an end node; so do our variables live long enough.
    let status = unsafe { (firmware.boot().locate_device_path)(&LoadFile2Protocol::GUID, &mut rest, &mut handle) };
    if status != Status::SUCCESS {
        return Ok(None);
    }
    let Some(loader) = firmware.protocol(handle, &LoadFile2Protocol::GUID) else { return Ok(None) };
    let loader: *mut LoadFile2Protocol = loader.cast();
    let load = |size: &mut usize, buffer: *mut c_void| {
        // SAFETY: the protocol is the handle's; it writes at most `size` bytes to the buffer.
        unsafe { ((*loader).load_file)(loader, rest, Boolean::FALSE, size, buffer) }
    };
    let mut size = 0;
    let status = load(&mut size, null_mut());
    if status != Status::BUFFER_TOO_SMALL || size == 0 {
        // Nothing to load is no initrd.
        return if size == 0 { Ok(None) } else { check(WHAT, status).map(|()| None) };
    }
    let pages = firmware.pages(size)?;
    check(WHAT, load(&mut size, pages.address() as *mut c_void))?;
    Ok(Some(File { pages, size }))
}

/// The volume that Merus was loaded from, and the directory there.
pub struct Volume<'a> {
    firmware: &'a Firmware,
    root: *mut FileProtocolV1,
    directory: Path,
}

impl<'a> Volume<'a> {
    /// The volume of the loaded image, if it has one that is a file system.
    pub fn of(firmware: &'a Firmware, image: &LoadedImageProtocol) -> Option<Self> {
        let system = firmware.protocol(image.device_handle, &SimpleFileSystemProtocol::GUID)?;
        let system: *mut SimpleFileSystemProtocol = system.cast();
        let mut root = null_mut();
        // SAFETY: the protocol is the handle's, the variable ours.
        let status = unsafe { ((*system).open_volume)(system, &mut root) };
        let directory = directory(image.file_path);
        (status == Status::SUCCESS && !root.is_null()).then_some(Self { firmware, root, directory })
    }

    /// The file that the command line's `initrd=` names.
    ///
    /// # Errors
    /// There is none, or it cannot be read: who names a file means it.
    pub fn named(&self, name: &[u8]) -> Result<File<'a>, Failed> {
        let what = "the file that initrd= names";
        let path = Path::root().join(name.iter().map(|byte| u16::from(*byte)));
        self.read(what, &path.ok_or(Failed { what, status: Status::INVALID_PARAMETER })?)
    }

    /// `bundle.merus` beside the image, or at the root.
    ///
    /// # Errors
    /// It is there but cannot be read.
    pub fn beside(self) -> Result<Option<File<'a>>, Failed> {
        let places = [self.directory.clone(), Path::root()];
        for path in places.into_iter().filter_map(|directory| directory.join(NAME.encode_utf16())) {
            match self.read(NAME, &path) {
                Err(Failed { status: Status::NOT_FOUND, .. }) => {}
                found => return found.map(Some),
            }
        }
        Ok(None)
    }

    fn read(&self, what: &'static str, path: &Path) -> Result<File<'a>, Failed> {
        let mut file = null_mut();
        let (name, none) = (path.units().as_ptr(), FileAttribute::empty());
        // SAFETY: the root is open, the name ends with a zero.
        check(what, unsafe { ((*self.root).open)(self.root, &mut file, name, FileMode::READ, none) })?;
        let read = self.read_open(what, file);
        // SAFETY: opened above, not used after this.
        let _ = unsafe { ((*file).close)(file) };
        if read.is_ok() {
            self.firmware.say(format_args!("the bundle is {path} of the volume that Merus was loaded from"));
        }
        read
    }

    fn read_open(&self, what: &'static str, file: *mut FileProtocolV1) -> Result<File<'a>, Failed> {
        /// "To the end", as a position.
        const END: u64 = u64::MAX;
        let mut size = 0;
        // SAFETY: the file is open, the variable ours.
        unsafe {
            check(what, ((*file).set_position)(file, END))?;
            check(what, ((*file).get_position)(file, &mut size))?;
            check(what, ((*file).set_position)(file, 0))?;
        }
        let size = size as usize;
        let mut pages = self.firmware.pages(size)?;
        let mut done = 0;
        while let Some(rest) = pages.bytes().get_mut(done..size).filter(|rest| !rest.is_empty()) {
            let mut length = rest.len();
            // SAFETY: the file is open; the firmware writes at most `length` bytes.
            check(what, unsafe { ((*file).read)(file, &mut length, rest.as_mut_ptr().cast()) })?;
            if length == 0 {
                return Err(Failed { what, status: Status::END_OF_FILE });
            }
            done = done.saturating_add(length);
        }
        Ok(File { pages, size })
    }
}

impl Drop for Volume<'_> {
    fn drop(&mut self) {
        // SAFETY: opened by `of`, not used after this.
        let _ = unsafe { ((*self.root).close)(self.root) };
    }
}

/// The directory of the file that a device path names; the root where it names none.
fn directory(path: *const DevicePathProtocol) -> Path {
    const MEDIA_FILE: [u8; 2] = [4, 4];
    const END: u8 = 0x7f;
    let mut node: *const u8 = path.cast();
    let mut found = Path::root();
    while !node.is_null() {
        // SAFETY: each node begins with its type and its length, and the path ends with an end node.
        let head = unsafe { node.cast::<[u8; 4]>().read() };
        let length = usize::from(u16::from_le_bytes([head[2], head[3]]));
        if head[0] == END || length < head.len() {
            break;
        }
        if head[..2] == MEDIA_FILE {
            let units = (head.len()..length - 1).step_by(2).map(|at| {
                // SAFETY: within the node's length; it need not be aligned.
                unsafe { node.add(at).cast::<u16>().read_unaligned() }
            });
            match found.join(units) {
                Some(longer) => found = longer,
                None => return Path::root(),
            }
        }
        // SAFETY: the next node is behind this one.
        node = unsafe { node.add(length) };
    }
    found.parent()
}

/// The command line of the loaded image, in `out`.
pub fn command_line<'a>(
    image: &LoadedImageProtocol,
    out: &'a mut [u8; options::LONGEST],
) -> Result<&'a [u8], options::NoText> {
    let first: *const u16 = image.load_options.cast();
    let count = if first.is_null() { 0 } else { image.load_options_size as usize / 2 };
    // SAFETY: the firmware gives so many bytes; they need not be aligned.
    options::command_line((0..count).map(|n| unsafe { first.add(n).read_unaligned() }), out)
}
