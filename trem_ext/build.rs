//! Keeps the metadata from which cargo-pgrx writes the extension's SQL: the linker would drop the
//! section, which nothing refers to. cargo-pgrx can do the same through RUSTFLAGS, but then every
//! dependency is built twice, once with the flag and once without.

fn main() {
    println!("cargo:rustc-link-arg-cdylib=-Wl,--no-gc-sections");
    println!("cargo:rerun-if-changed=build.rs");
}
