//! Firmware of boards, out of Debian's packages: only the files that are used are kept.

use super::packages::{MAIN, Package, Recipe};
use crate::ctx::Ctx;
use anyhow::Result;
use std::path::PathBuf;

/// A firmware.
pub struct Firmware {
    recipe: Recipe,
    /// What of its packages is kept: the file there, and its name in the directory.
    files: &'static [(&'static str, &'static str)],
}

/// U-Boot.
pub const U_BOOT: Firmware = Firmware {
    recipe: Recipe {
        name: "u-boot",
        title: "U-Boot",
        number: 1,
        packages: &[Package::Named("u-boot-qemu"), Package::Named("u-boot-rpi")],
        components: MAIN,
    },
    files: &[("usr/lib/u-boot/qemu_arm64/u-boot.bin", "virt.bin"), ("usr/lib/u-boot/rpi_4/u-boot.bin", "raspi4b.bin")],
};

/// TF-A for the Raspberry Pi 4.
pub const TF_A: Firmware = Firmware {
    recipe: Recipe {
        name: "tf-a",
        title: "TF-A",
        number: 1,
        packages: &[Package::Named("arm-trusted-firmware")],
        components: MAIN,
    },
    files: &[("usr/lib/arm-trusted-firmware/rpi4/bl31.bin", "raspi4b.bin")],
};

/// UEFI for QEMU's `virt`, and GRUB, which starts from it.
pub const UEFI: Firmware = Firmware {
    recipe: Recipe {
        name: "uefi",
        title: "UEFI and GRUB",
        number: 1,
        packages: &[Package::Named("qemu-efi-aarch64"), Package::Named("grub-efi-arm64-bin")],
        components: MAIN,
    },
    files: &[
        ("usr/share/qemu-efi-aarch64/QEMU_EFI.fd", "virt.fd"),
        ("usr/lib/grub/arm64-efi/monolithic/grubaa64.efi", "grub.efi"),
    ],
};

/// Finds or fetches the files: the directory that has them.
///
/// # Errors
/// When Debian's archive cannot be reached or has changed its shape.
pub fn ensure(ctx: &Ctx, firmware: &Firmware) -> Result<PathBuf> {
    firmware.recipe.ensure_files(ctx, firmware.files)
}
