//! From the firmware's call to Merus' ordinary entry.

use super::bundle::{self, File, Volume};
use super::options::{self, NoText};
use super::services::{Failed, Firmware, Pages, check};
use super::tree::{self, Chosen, Tree, TreeError};
use crate::early;
use addr::{BLOCK_SIZE, Pa, Span};
use core::arch::{asm, global_asm};
use core::fmt;
use uefi_raw::protocol::loaded_image::LoadedImageProtocol;
use uefi_raw::table::system::SystemTable;
use uefi_raw::{Guid, Handle, Status, guid};

// The firmware calls the first, on its own stack; boot_relocate clobbers x9-x14.
global_asm!(
    r#"
    .section .text.entry.efi, "ax"
    .global boot_efi_entry
boot_efi_entry:
    stp     x29, x30, [sp, #-16]!
    mov     x29, sp
    bl      boot_relocate
    ldp     x29, x30, [sp], #16
    b       boot_efi

    // In: x0 = the tree. The image and what it is to read is in memory, no cache holds anything newer. The firmware's timers stop,
    // its translation ends (this code lies where it is mapped), and what it left in the TLBs and the instruction cache is no more.
boot_efi_leave:
    msr     daifset, #0xf
    msr     CNTP_CTL_EL0, xzr
    msr     CNTV_CTL_EL0, xzr
    msr     CNTHP_CTL_EL2, xzr
    dsb     sy
    mrs     x9, SCTLR_EL2
    bic     x9, x9, #(1 << 0)       // M
    bic     x9, x9, #(1 << 2)       // C
    bic     x9, x9, #(1 << 12)      // I
    msr     SCTLR_EL2, x9
    isb
    ic      iallu
    tlbi    alle2
    dsb     sy
    isb
    b       boot_primary
    "#
);

// SAFETY: the assembly above, which takes one address and does not return.
unsafe extern "C" {
    fn boot_efi_leave(tree: u64) -> !;
}

const DEVICE_TREE: Guid = guid!("b1b621d5-f19c-41a5-830b-d9152c69aae0");
const ACPI: [Guid; 2] = [guid!("8868e871-e4f1-11d3-bc22-0080c73c8881"), guid!("eb9d2d30-2d88-11d3-9a16-0090273fc14d")];
/// What a command line, the bundle's place and the names of properties may add to a tree, in bytes.
const ADDED: usize = 4096;

/// Why Merus does not start.
enum Refusal {
    /// The firmware runs at this exception level.
    Level(u64),
    /// There is no device tree; whether there are ACPI's tables instead.
    NoTree { acpi: bool },
    /// The tree cannot be used.
    Tree(TreeError),
    /// The command line is too long.
    CommandLine,
    /// There is no bundle.
    NoBundle,
    /// The firmware failed.
    Failed(Failed),
}

impl From<Failed> for Refusal {
    fn from(failed: Failed) -> Self {
        Self::Failed(failed)
    }
}

impl From<TreeError> for Refusal {
    fn from(error: TreeError) -> Self {
        Self::Tree(error)
    }
}

impl Refusal {
    fn status(&self) -> Status {
        match self {
            Self::Level(_) | Self::NoTree { .. } => Status::UNSUPPORTED,
            Self::Tree(_) | Self::CommandLine => Status::INVALID_PARAMETER,
            Self::NoBundle => Status::NOT_FOUND,
            Self::Failed(failed) => failed.status,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Level(level) => write!(
                f,
                "the firmware runs at EL{level}, a hypervisor needs EL2: switch virtualization on (QEMU: -M virt,virtualization=on)"
            ),
            Self::NoTree { acpi } => write!(
                f,
                "{} and Merus reads a device tree only: switch ACPI off (QEMU: -M virt,acpi=off; else in the firmware's setup), or \
                 load a device tree (GRUB: devicetree /board.dtb)",
                if *acpi { "the firmware describes the board by ACPI," } else { "the firmware describes no board," }
            ),
            Self::Tree(error) => write!(f, "the firmware's device tree cannot be used: {error}"),
            Self::CommandLine => write!(f, "the command line is longer than {} bytes: shorten it", options::LONGEST),
            Self::NoBundle => f.write_str(
                "no bundle: make one with `merus pack merus.toml -o bundle.merus` and pass it as the initrd (GRUB: initrd \
                 /bundle.merus), or put it beside this image as bundle.merus",
            ),
            Self::Failed(failed) => failed.fmt(f),
        }
    }
}

/// The firmware's call.
#[unsafe(no_mangle)]
extern "efiapi" fn boot_efi(image: Handle, system: *const SystemTable) -> Status {
    // SAFETY: the firmware calls this with its handle and its table, and boot services are on.
    let firmware = unsafe { Firmware::new(image, system) };
    let refusal = match start(&firmware) {
        Ok(never) => match never {},
        Err(refusal) => refusal,
    };
    firmware.say(format_args!("{refusal}"));
    refusal.status()
}

/// There is no such value.
enum Never {}

fn start(firmware: &Firmware) -> Result<Never, Refusal> {
    let level: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mrs {}, CurrentEL", out(reg) level, options(nomem, nostack, preserves_flags)) };
    if level >> 2 != 2 {
        return Err(Refusal::Level(level >> 2));
    }
    let found = firmware.protocol(firmware.image(), &LoadedImageProtocol::GUID);
    let image = found.ok_or(Failed { what: "the image's own protocol", status: Status::NOT_FOUND })?;
    // SAFETY: the protocol of our own handle stays as long as we run.
    let image: &LoadedImageProtocol = unsafe { &*image.cast_const().cast() };
    let (tree, tree_size) = board(firmware)?;
    let mut line = [0; options::LONGEST];
    let line = match bundle::command_line(image, &mut line) {
        Ok(line) => line,
        Err(NoText::TooLong) => return Err(Refusal::CommandLine),
        Err(NoText::Binary) => {
            firmware.say(format_args!("the load options are no text, so no command line"));
            &[]
        }
    };
    let file = bundle(firmware, image, line, &tree)?;
    let initrd = match &file {
        Some(file) => Span::new(Pa::new(file.pages.address()), file.size as u64),
        None => tree.initrd(),
    };
    let initrd = initrd.ok_or(Refusal::NoBundle)?;
    let chosen = Chosen { bootargs: (!line.is_empty()).then_some(line), initrd: Some(initrd) };
    firmware.stop_watchdog();
    leave(firmware, &tree, tree_size, &chosen)
}

/// The board's tree, and its length.
fn board(firmware: &Firmware) -> Result<(Tree<'static>, usize), Refusal> {
    let no_tree = || Refusal::NoTree { acpi: ACPI.iter().any(|guid| firmware.table(*guid).is_some()) };
    let at = firmware.table(DEVICE_TREE).ok_or_else(no_tree)?;
    // SAFETY: the configuration table points to a tree, which is no shorter than its header, and as long as that says.
    let bytes = unsafe {
        let size = tree::total_size(core::slice::from_raw_parts(at, 8)).ok_or(TreeError::Malformed)?;
        if size as u64 > BLOCK_SIZE {
            return Err(TreeError::NoRoom.into());
        }
        core::slice::from_raw_parts(at, size)
    };
    let tree = Tree::new(bytes)?;
    // GRUB makes a tree of its own where there is none, for its initrd.
    if tree.has(b"cpus") { Ok((tree, bytes.len())) } else { Err(no_tree()) }
}

/// The bundle, loaded; `None`: it is where the tree's `/chosen` says.
fn bundle<'a>(
    firmware: &'a Firmware,
    image: &LoadedImageProtocol,
    line: &[u8],
    tree: &Tree<'_>,
) -> Result<Option<File<'a>>, Refusal> {
    if let Some(file) = bundle::offered(firmware)? {
        return Ok(Some(file));
    }
    let volume = Volume::of(firmware, image);
    if let Some((name, volume)) = options::initrd(line).zip(volume.as_ref()) {
        return Ok(Some(volume.named(name)?));
    }
    if tree.initrd().is_some() {
        return Ok(None);
    }
    match volume.map(Volume::beside).transpose()?.flatten() {
        Some(file) => Ok(Some(file)),
        None => Err(Refusal::NoBundle),
    }
}

/// Writes the new tree, takes the machine over and enters the image. What comes back is an error while the firmware still is.
fn leave(firmware: &Firmware, old: &Tree<'_>, old_size: usize, chosen: &Chosen<'_>) -> Result<Never, Refusal> {
    let map_size = firmware.memory_map_size();
    let mut buffer = firmware.pages(map_size)?;
    // A descriptor becomes an entry of a reservation or of RAM, neither longer than itself; RAM may be cut into several entries.
    let size = (old_size + ADDED + 2 * buffer.bytes().len()).min(BLOCK_SIZE as usize);
    let mut new = firmware.pages(size)?;
    let mut tries = 0;
    loop {
        let (map, key) = firmware.memory_map(buffer.bytes())?;
        old.rewrite(&map, chosen, new.bytes())?;
        // SAFETY: the key is the map's; on success nothing of the firmware is used any more.
        let status = unsafe { (firmware.boot().exit_boot_services)(firmware.image(), key) };
        if status == Status::SUCCESS {
            break;
        }
        tries += 1;
        // The map may have changed in between, even by the call itself. After the first call only these two may be called.
        if status != Status::INVALID_PARAMETER || tries == 4 {
            check("leaving boot services", status)?;
        }
    }
    hand_over(&new, chosen)
}

/// Has memory hold what Merus will read with its caches off, and enters the image. The firmware is no more.
fn hand_over(tree: &Pages<'_>, chosen: &Chosen<'_>) -> ! {
    let spans = [Some(early::image()), Span::new(Pa::new(tree.address()), tree.size()), chosen.initrd];
    for span in spans.into_iter().flatten() {
        early::flush(span.start().as_u64(), span.size());
    }
    // SAFETY: all of the image, the tree and the bundle is in memory. What else the caches hold, this stack's words among it, nobody reads
    // past them before it has been written anew and cleaned. Merus starts over from its first instruction.
    unsafe { boot_efi_leave(tree.address()) }
}
