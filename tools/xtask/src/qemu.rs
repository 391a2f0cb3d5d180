//! Starting QEMU and watching its console.
