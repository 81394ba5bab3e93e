//! What is remembered of the reference that pairs are compared with.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "support/pairs.rs"]
mod pairs;
#[path = "support/training.rs"]
mod training;

use std::f64::consts::LN_2;
use std::path::Path;

use pairs::{ends, many, pairs, reference, reference_file};
use serde_json::{Value, json};
use training::{Training, assert_same, contents, fixtures, names};

/// Settings of a training of three steps, each on all pairs.
const SHORT: &str = "--max-steps 3 --learning-rate 1e-3 --gradient-accumulation-steps 16";

/// As [`Training::finish`], with all that is remembered in `cache`.
fn finish_with(training: &Training, cache: &Path) {
    training.finish(&format!("--reference-cache {}", cache.display()));
}

#[test]
fn a_lora_asks_the_checkpoint_itself() {
    for case in ["nested_f32", "llama"] {
        let [full, lora] = ["", "--finetuning-type lora --lora-rank 4"].map(|settings| {
            let training = Training::preferred(case, SHORT);
            training.finish(settings);
            assert!((training.told(1)["loss"].as_f64().unwrap() - LN_2).abs() < 1e-12);
            let file = reference_file(&training.out("reference"));
            (file.file_name().unwrap().to_owned(), reference(&training))
        });
        assert_eq!(ends(&full.1).len(), pairs(case).len());
        assert!(full == lora);
    }
}

#[test]
fn an_adapter_that_was_there_is_part_of_the_reference() {
    let lora = format!("{SHORT} --finetuning-type lora --no-shuffle");
    let first = Training::preferred("nested_f32", &lora.replace("1e-3", "2e-2"));
    first.finish("");
    let second = Training::preferred("nested_f32", &lora);
    second.finish(&format!("--adapter {}", first.output().display()));
    let [before, after] = [&first, &second].map(|training| training.told(1));
    assert!((after["loss"].as_f64().unwrap() - LN_2).abs() < 1e-12, "{after}");
    assert_eq!(after["reward_margin"], 0.0);
    assert_ne!(before["logp_chosen"], after["logp_chosen"]);
    let [base, adapted] = [&first, &second].map(|training| reference_file(&training.out("reference")));
    assert_ne!(base.file_name(), adapted.file_name());
}

#[test]
fn trainings_share_a_cache() {
    let first = Training::preferred("nested_f32", SHORT);
    let cache = first.file("cache");
    finish_with(&first, &cache);
    assert!(!first.out("reference").exists());
    let before = contents(&cache);
    let second = Training::preferred("nested_f32", SHORT);
    finish_with(&second, &cache);
    assert!(contents(&cache) == before);
    let alone = Training::preferred("nested_f32", SHORT);
    alone.finish("");
    assert_eq!(alone.metrics(), second.metrics());
    assert!(reference(&alone) == before.values().next().unwrap()[..]);

    // Other pairs come after those that are there, other models have files of their own.
    let more = Training::preferred("nested_f32", SHORT).with_pairs(&many()[..2]);
    finish_with(&more, &cache);
    let grown = std::fs::read(reference_file(&cache)).unwrap();
    let known = &before.values().next().unwrap()[..];
    assert!(grown.starts_with(known) && ends(&grown).len() == ends(known).len() + 2);
    let other = Training::preferred("llama", SHORT);
    finish_with(&other, &cache);
    let trained = Training::preferred("nested_f32", SHORT).with_model(first.output());
    finish_with(&trained, &cache);
    assert_eq!(names(&cache).len(), 3);
}

/// A pair that comes twice is asked about once, whatever it weighs.
#[test]
fn a_pair_is_known_by_what_the_model_reads() {
    let mut all = pairs("nested_f32");
    let mut heavy = all[0].clone();
    heavy["weight"] = json!(2.5);
    all.push(heavy);
    let training = Training::preferred("nested_f32", SHORT).with_pairs(&all);
    training.finish("");
    assert_eq!(ends(&reference(&training)).len(), all.len() - 1);
}

/// Trains, takes something away from what was remembered, and trains again from the beginning.
fn check_mended(spoil: impl Fn(&Training)) {
    let training = Training::preferred("nested_f32", SHORT);
    training.finish("");
    let before = (reference(&training), training.metrics());
    spoil(&training);
    std::fs::remove_dir_all(training.checkpoint(3)).unwrap();
    std::fs::remove_file(training.file("metrics.jsonl")).unwrap();
    training.finish("");
    assert_eq!(training.metrics(), before.1);
    assert!(reference(&training) == before.0);
}

#[test]
fn what_is_lost_is_asked_again() {
    let cut = |training: &Training, length: fn(&[usize]) -> usize| {
        let bytes = reference(training);
        let length = length(&ends(&bytes));
        std::fs::write(reference_file(&training.out("reference")), &bytes[..length]).unwrap();
    };
    // In the middle of the last record, of an earlier one, between two, before the first.
    check_mended(|training| cut(training, |ends| ends[ends.len() - 1] - 6));
    check_mended(|training| cut(training, |ends| ends[3] + 20));
    check_mended(|training| cut(training, |ends| ends[3]));
    check_mended(|training| cut(training, |_| 0));
    check_mended(|training| std::fs::remove_dir_all(training.out("reference")).unwrap());
    check_mended(|training| std::fs::write(training.out("reference.json"), "{").unwrap());
}

/// Going on with a training, too.
#[test]
fn what_is_lost_is_asked_again_after_a_kill() {
    let settings = "--max-steps 8 --save-steps 2 --learning-rate 1e-3";
    let whole = Training::preferred("nested_f32", settings);
    whole.finish("");
    let resumed = Training::preferred("nested_f32", settings);
    resumed.kill_after(4, "");
    let bytes = reference(&resumed);
    std::fs::write(
        reference_file(&resumed.out("reference")),
        &bytes[..ends(&bytes)[4] - 1],
    )
    .unwrap();
    resumed.finish("--resume");
    assert_same(&whole, &resumed);
}

/// Another cache that knows the model, but other pairs.
#[test]
fn another_cache_is_filled() {
    let training = Training::preferred("nested_f32", &format!("{SHORT} --save-strategy no"));
    training.finish("");
    let cache = training.file("cache");
    let other = Training::preferred("nested_f32", SHORT).with_pairs(&many()[..2]);
    finish_with(&other, &cache);
    finish_with(&training, &cache);
    let count = ends(&std::fs::read(reference_file(&cache)).unwrap()).len();
    assert_eq!(count, 2 + pairs("nested_f32").len());
}

/// Pairs that were too long before are asked about when they are not any more.
#[test]
fn longer_pairs_are_asked_about_later() {
    let training = Training::preferred("llama", "--num-train-epochs 1 --save-strategy no");
    training.finish("");
    let measures = std::fs::read_to_string(training.out("lengths.json")).unwrap();
    let measures: Value = serde_json::from_str(&measures).unwrap();
    let mut lengths: Vec<u64> = measures["measures"]
        .as_array()
        .unwrap()
        .iter()
        .map(|measure| measure["longest"].as_u64().unwrap())
        .collect();
    lengths.sort_unstable();
    let all = lengths.len();
    let later = Training::preferred("llama", "--num-train-epochs 1 --save-strategy no");
    let run = later.finish(&format!("--max-length {}", lengths[3]));
    let short = ends(&reference(&later)).len();
    assert_eq!(run.json()["left_out"], all - short);
    assert!((1..all).contains(&short));
    later.finish("");
    assert_eq!(ends(&reference(&later)).len(), all);
}

#[test]
fn a_pair_that_changes_is_asked_about_again() {
    let training = Training::preferred("llama", SHORT);
    training.finish("");
    let before = reference(&training);
    std::fs::remove_dir_all(training.checkpoint(3)).unwrap();
    let mut changed = pairs("llama");
    changed[7]["chosen"] = "Goodbye!".into();
    let training = training.with_pairs(&changed);
    training.finish("");
    let after = reference(&training);
    assert!(after.starts_with(&before));
    assert_eq!(ends(&after).len(), ends(&before).len() + 1);
}

/// Nothing tells that a picture has changed but the picture itself.
#[test]
fn a_picture_that_changes_is_told() {
    let training = Training::preferred("nested_f32", "--num-train-epochs 1 --save-strategy no");
    let picture = training.file("picture.png");
    let copy = |name: &str| std::fs::copy(fixtures().join("images").join(name), &picture).unwrap();
    copy("sized_56x56.png");
    let pair = json!({"instruction": "<image>a", "chosen": "b", "rejected": "c", "images": [picture]});
    let training = training.with_pairs(&[pairs("nested_f32")[7].clone(), pair]);
    training.finish("");
    copy("a_64x48.png");
    training
        .run("")
        .assert_failed(1, &["data.jsonl:2", "picture has changed", "reference.json"]);
    std::fs::remove_file(training.out("reference.json")).unwrap();
    training.finish("");
    assert_eq!(ends(&reference(&training)).len(), 3);
}

#[test]
fn without_a_reference_nothing_is_asked() {
    let training = Training::preferred("llama", SHORT);
    training.finish("--reference-free --no-shuffle");
    let left = names(training.output());
    assert!(!left.iter().any(|name| name.contains("reference")), "{left:?}");
    let step = training.told(1);
    let margin = 0.1 * (step["logp_chosen"].as_f64().unwrap() - step["logp_rejected"].as_f64().unwrap());
    assert!((step["reward_margin"].as_f64().unwrap() - margin).abs() < 1e-9);
}

#[test]
fn a_cache_that_another_training_fills_is_left_alone() {
    let training = Training::preferred("llama", SHORT);
    training.finish("");
    std::fs::remove_dir_all(training.checkpoint(3)).unwrap();
    let path = reference_file(&training.out("reference"));
    let file = std::fs::File::open(&path).unwrap();
    file.lock().unwrap();
    let before = reference(&training);
    training.run("").assert_failed(
        1,
        &[path.to_str().unwrap(), "another training", "--reference-cache"],
    );
    assert!(reference(&training) == before);
    drop(file);
    training.finish("");
}

#[test]
fn a_cache_that_cannot_be_written() {
    let training = Training::preferred("llama", SHORT);
    let file = training.file("file");
    std::fs::write(&file, "mine").unwrap();
    let folder = file.join("cache");
    training
        .run(&format!("--reference-cache {}", folder.display()))
        .assert_failed(1, &[folder.to_str().unwrap()]);
    training
        .run(&format!("--reference-cache {}", file.display()))
        .assert_failed(1, &[file.to_str().unwrap()]);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "mine");
}
