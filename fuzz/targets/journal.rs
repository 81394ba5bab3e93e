//! Drafts: whatever their file holds, they open with what is before the damage, and open again as they were opened, or there is an
//! error with words. The input begins with a byte: where it is even the rest is the file, else each line of it is made a record with
//! its number, length and checksum, since those are not to be guessed.
#![no_main]

use std::fmt::Write;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use lwv_runtime::Draft;
use tempfile::TempDir;

static FOLDER: LazyLock<TempDir> = LazyLock::new(|| tempfile::tempdir().expect("a temporary folder"));

fuzz_target!(|bytes: &[u8]| {
    let Some((form, rest)) = bytes.split_first() else {
        return;
    };
    let path = FOLDER.path().join("draft");
    for old in ["draft", "draft.copy", "draft.damaged"] {
        let _ = std::fs::remove_file(FOLDER.path().join(old));
    }
    let content = match form % 2 {
        0 => rest.to_vec(),
        _ => journal(rest),
    };
    std::fs::write(&path, content).expect("room for a file");
    match Draft::open(&path) {
        Ok((draft, recovery)) => {
            assert!(!recovery.to_string().is_empty());
            let (header, state) = (format!("{:?}", draft.header()), draft.state().clone());
            let _ = state.manuscript.text();
            drop(draft);
            let (again, recovery) = Draft::open(&path).expect("what was opened opens again");
            assert!(recovery.is_clean());
            assert_eq!(format!("{:?}", again.header()), header);
            assert!(*again.state() == state);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});

fn journal(records: &[u8]) -> Vec<u8> {
    let mut lines = Vec::new();
    for (number, record) in records.split(|byte| *byte == b'\n').enumerate() {
        let head = number.to_string();
        let signed = [head.as_bytes(), b" ", record].concat();
        let mut checksum = String::new();
        for byte in &hmac_sha256::Hash::hash(&signed)[..8] {
            let _ = write!(checksum, "{byte:02x}");
        }
        lines.extend(format!("{head} {} {checksum} ", record.len()).into_bytes());
        lines.extend(record);
        lines.push(b'\n');
    }
    lines
}
