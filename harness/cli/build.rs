//! Has the linker compress the debug information of the shipped executable: line tables make three quarters of its 64 MB,
//! and every run hashes it. Backtraces keep their lines, since the standard library reads compressed sections.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "linux") {
        println!("cargo::rustc-link-arg-bins=-Wl,--compress-debug-sections=zlib");
    }
}
