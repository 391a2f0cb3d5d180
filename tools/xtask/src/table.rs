//! The QEMU table: which configurations the test command boots.
