//! Writing cpio archives in the "newc" format that Linux unpacks as an initramfs.
