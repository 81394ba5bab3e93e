//! Gives the shared library the name that programs look for: it changes with `LWV_ABI_VERSION`, so that a program never
//! runs with a library that it was not compiled for.
use std::env;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("linux") {
        println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,liblwv.so.1");
    }
}
