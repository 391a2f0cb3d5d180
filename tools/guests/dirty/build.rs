//! Links the image with the repository's linker script.
fn main() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../..");
    println!("cargo:rerun-if-changed={root}/linker.ld");
    println!("cargo:rustc-link-arg-bins=-T{root}/linker.ld");
}
