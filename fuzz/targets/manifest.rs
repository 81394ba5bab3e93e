//! Bundles: whatever `lwv.json` and `config.json` hold, they are a bundle that can be asked about, or an error with words.
//! The input is the one file, a zero, and the other.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use lwv_runtime::{Bundle, MemoryEstimate};
use tempfile::TempDir;

static FOLDER: LazyLock<TempDir> = LazyLock::new(|| tempfile::tempdir().expect("a temporary folder"));

fuzz_target!(|bytes: &[u8]| {
    let split = bytes.iter().position(|byte| *byte == 0);
    let (manifest, config) = bytes.split_at(split.unwrap_or(bytes.len()));
    let folder = FOLDER.path();
    let write =
        |name: &str, content: &[u8]| std::fs::write(folder.join(name), content).expect("room for a file");
    write("lwv.json", manifest);
    write("config.json", config.get(1..).unwrap_or_default());
    match Bundle::open(folder) {
        Ok(bundle) => {
            let estimate = MemoryEstimate::of(&bundle, usize::MAX, usize::MAX);
            assert!(estimate.total() >= estimate.kv);
            let _ = bundle.verify_hashes(|done, total| assert!(done <= total));
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
