//! The guest's initramfs: busybox, the virtio modules and the scripts that tests ask for.
