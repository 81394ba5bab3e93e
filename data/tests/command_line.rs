//! Exit statuses, and what is said with them.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

const GOOD: &str = r#"{"instruction": "Write a story.", "output": "The house stood beside the river."}"#;
const EMPTY: &str = r#"{"instruction": "Write a story.", "output": ""}"#;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures")
}

/// A folder with `data.jsonl`.
fn dataset(lines: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("data.jsonl"), lines.join("\n")).unwrap();
    folder
}

fn lwv_data(folder: &Path, arguments: &str) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lwv-data"));
    command.current_dir(folder).args(arguments.split_whitespace());
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().unwrap();
    let [stdout, stderr] = [stdout, stderr].map(|text| String::from_utf8(text).unwrap());
    assert!(!stderr.contains("panicked"), "{stderr}");
    (status.code(), stdout, stderr)
}

fn json(stdout: &str) -> Value {
    serde_json::from_str(stdout.lines().last().unwrap()).unwrap()
}

#[test]
fn sound_datasets_are_status_0() {
    let folder = dataset(&[GOOD, GOOD]);
    let (status, stdout, stderr) = lwv_data(folder.path(), "validate data.jsonl --json");
    assert_eq!((status, stderr.as_str()), (Some(0), ""));
    assert_eq!(
        (&json(&stdout)["samples"], &json(&stdout)["unusable"]),
        (&2.into(), &0.into())
    );
    let (status, stdout, _) = lwv_data(folder.path(), "stats data.jsonl --json --plot lengths.svg");
    assert_eq!((status, &json(&stdout)["samples"]), (Some(0), &2.into()));
    assert!(folder.path().join("lengths.svg").exists());
    assert!(folder.path().join("lengths.svg.recipe.json").exists());
    let tiny = format!(
        "validate {0}/sft/tiny.jsonl --media-dir {0} --model {0}/tiny/nested_f32",
        fixtures().display()
    );
    let (status, stdout, stderr) = lwv_data(folder.path(), &tiny);
    assert_eq!(status, Some(0), "{stderr}");
    assert!(stdout.contains("8 samples"), "{stdout}");
}

#[test]
fn unusable_samples_are_status_1() {
    let folder = dataset(&[GOOD, EMPTY, "{"]);
    let (status, stdout, stderr) = lwv_data(folder.path(), "validate data.jsonl --json");
    assert_eq!((status, &json(&stdout)["unusable"]), (Some(1), &2.into()));
    for word in ["data.jsonl:2", "empty", "data.jsonl:3", "JSON"] {
        assert!(stderr.contains(word), "`{word}` is not in: {stderr}");
    }
    let (status, _, stderr) = lwv_data(folder.path(), "stats data.jsonl");
    assert_eq!(status, Some(1), "{stderr}");
}

#[test]
fn long_samples_are_counted_or_unusable() {
    let folder = dataset(&[GOOD]);
    let limited = format!(
        "validate data.jsonl --json --max-length 3 --model {}/tiny/llama",
        fixtures().display()
    );
    let (status, stdout, stderr) = lwv_data(folder.path(), &limited);
    assert_eq!(status, Some(0), "{stderr}");
    assert_eq!(json(&stdout)["too_long"], 1);
    let (status, stdout, _) = lwv_data(folder.path(), &(limited + " --strict"));
    assert_eq!((status, &json(&stdout)["unusable"]), (Some(1), &1.into()));
}

#[test]
fn what_cannot_be_read_is_status_1() {
    let folder = dataset(&["", " "]);
    for (arguments, culprit) in [
        ("validate data.jsonl", "data.jsonl"),
        ("validate no-such.jsonl", "no-such.jsonl"),
        ("stats no-such-folder", "no-such-folder"),
        ("validate data.jsonl --model no-such-model", "no-such-model"),
    ] {
        let (status, _, stderr) = lwv_data(folder.path(), arguments);
        assert_eq!(status, Some(1), "{arguments}: {stderr}");
        assert!(
            stderr.starts_with("error: ") && stderr.contains(culprit),
            "{stderr}"
        );
    }
}

#[test]
fn wrong_usage_is_status_2() {
    let folder = dataset(&[GOOD]);
    for (arguments, culprit) in [
        ("validate data.jsonl --mox-length 3", "--mox-length"),
        ("validate data.jsonl --model m --max-length many", "many"),
        ("validate data.jsonl --max-length 3", "--model"),
        ("validate", "DATASET"),
        ("measure data.jsonl", "measure"),
    ] {
        let (status, _, stderr) = lwv_data(folder.path(), arguments);
        assert_eq!(status, Some(2), "{arguments}: {stderr}");
        assert!(stderr.contains(culprit), "`{culprit}` is not in: {stderr}");
    }
}
