#![allow(dead_code, reason = "each test file that takes this in uses a part of it")]

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::training::{Training, lines, names};

/// The pairs of answers that fit the tiny checkpoint `case`.
pub(crate) fn pairs(case: &str) -> Vec<Value> {
    let lines = lines(Training::preferred(case, "").dataset());
    lines
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// So many pairs that asking about them takes a while.
pub(crate) fn many() -> Vec<Value> {
    let pair = |number: usize| {
        json!({"instruction": format!("Write a story about {number} houses."),
            "chosen": format!("The {number} houses stood beside the river, and the story begins in the garden."),
            "rejected": format!("{number} houses, then {number} houses, then the end."), "images": []})
    };
    (0..400).map(pair).collect()
}

/// Fails unless `key` of both is the same up to `tolerance`, which is relative above 1.
pub(crate) fn assert_close(a: &Value, b: &Value, key: &str, tolerance: f64) {
    let [x, y] = [a, b].map(|line| line[key].as_f64().unwrap());
    let difference = (x - y).abs() / x.abs().max(1.0);
    assert!(difference <= tolerance, "{key}: {x} and {y}");
}

/// The only file of log-probabilities in a folder.
pub(crate) fn reference_file(folder: &Path) -> PathBuf {
    let names = names(folder);
    assert!(names.len() == 1 && names[0].ends_with(".logps"), "{names:?}");
    folder.join(&names[0])
}

/// Bytes of a record before its log-probabilities, and of its check sum.
pub(crate) const HEAD: usize = 40;
pub(crate) const CHECK: usize = 4;

/// Where each record ends.
pub(crate) fn ends(bytes: &[u8]) -> Vec<usize> {
    let mut ends = vec![];
    let mut start = 0;
    while start < bytes.len() {
        let count =
            |place: usize| u32::from_le_bytes(bytes[start + place..][..4].try_into().unwrap()) as usize;
        start += HEAD + 4 * (count(32) + count(36)) + CHECK;
        ends.push(start);
    }
    assert_eq!(start, bytes.len(), "a record is cut short");
    ends
}

pub(crate) fn reference(training: &Training) -> Vec<u8> {
    std::fs::read(reference_file(&training.out("reference"))).unwrap()
}
