//! Tables that disks have, that nobody should have made, and that are noise; requests of several.

mod requests;
mod tables;
