//! Small programs to copy from: see the files beside this one, and run them with
//! `cargo run -p lwv-examples --example NAME`.
