//! A training that was stopped in whatever way ends as if it had not been.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "support/training.rs"]
mod training;

use std::process::{Command, Stdio};

use training::{Training, assert_same, contents};

/// Three passes over eight samples, in an order that changes, with two checkpoints a pass.
const STEPS: [(&str, &str); 3] = [
    ("--learning-rate", "1e-3"),
    ("--num-train-epochs", "3"),
    ("--save-steps", "4"),
];

/// `settings`, and those of [`STEPS`] that are not among them.
fn with_steps(settings: &str) -> String {
    let defaults = STEPS.iter().filter(|(name, _)| !settings.contains(name));
    let all: String = defaults.map(|(name, value)| format!("{name} {value} ")).collect();
    all + settings
}

fn training(case: &str, settings: &str) -> Training {
    Training::of(case, &with_steps(settings))
}

fn preferred(case: &str, settings: &str) -> Training {
    Training::preferred(case, &with_steps(settings))
}

/// Trains in one go, and killed after each of `kills` steps.
fn check(case: &str, settings: &str, kills: &[usize]) {
    compare(&training(case, settings), &training(case, settings), kills);
}

fn compare(whole: &Training, resumed: &Training, kills: &[usize]) {
    whole.finish("");
    for (count, step) in kills.iter().enumerate() {
        let before = resumed.steps_done();
        assert!(before < *step);
        resumed.kill_after(*step, if count == 0 { "" } else { "--resume" });
        // Else nothing would be gone on with.
        assert!(!resumed.checkpoints().is_empty());
    }
    resumed.finish("--resume");
    assert_same(whole, resumed);
}

#[test]
fn killed_while_training_all_weights() {
    check("llama", "", &[5, 9, 14]);
    check(
        "nested_f32",
        "--warmup-ratio 0.2 --lr-scheduler-type cosine",
        &[6, 10],
    );
}

/// The checkpoint holds weights in 16 bits, the optimizer's file all of them.
#[test]
fn killed_while_training_narrow_weights() {
    check("flat_bf16", "", &[5, 13]);
    check("qwen2", "--save-dtype f16", &[6]);
}

/// What is frozen is rounded in the checkpoint, and yet computed with as it was.
#[test]
fn killed_while_saving_narrower_than_the_base() {
    check("nested_f32", "--save-dtype bf16", &[6]);
}

#[test]
fn killed_while_training_a_lora() {
    check("nested_f32", "--finetuning-type lora --lora-rank 4", &[5, 14]);
    check(
        "flat_bf16",
        "--finetuning-type lora --use-rslora --weight-decay 0.1",
        &[9],
    );
}

#[test]
fn killed_while_learning_pairs() {
    let check = |case: &str, settings: &str, kills: &[usize]| {
        compare(&preferred(case, settings), &preferred(case, settings), kills);
    };
    check("nested_f32", "--pref-ftx 0.1 --edit-weight 2", &[5, 14]);
    check("nested_f32", "--finetuning-type lora --lora-rank 4", &[6]);
    check(
        "flat_bf16",
        "--freeze-vision-tower false --val-size 2 --eval-steps 3",
        &[9],
    );
    check(
        "llama",
        "--per-device-train-batch-size 2 --gradient-accumulation-steps 2 --max-steps 12",
        &[5],
    );
}

#[test]
fn killed_with_accumulation_and_lengths_in_groups() {
    let batches = "--per-device-train-batch-size 2 --gradient-accumulation-steps 3 --max-steps 18";
    check("llama", batches, &[5, 10]);
    check(
        "nested_f32",
        &format!("{batches} --group-by-length --weight-decay 0.01"),
        &[7],
    );
}

#[test]
fn moments_on_disk_and_in_memory() {
    check("llama", "--optimizer-offload disk", &[5]);
    let [disk, memory] = ["disk", "none"].map(|place| {
        let training = training("llama", &format!("--optimizer-offload {place}"));
        training.finish("");
        training
    });
    assert_same(&disk, &memory);
}

/// The checkpoint that is gone on from is the first to be removed.
#[test]
fn old_checkpoints_are_removed_after_going_on_too() {
    check("flat_bf16", "--save-total-limit 1", &[6, 11]);
    check("llama", "--save-total-limit 1 --save-strategy epoch", &[9]);
}

#[test]
fn held_out_samples_and_the_best_checkpoint() {
    check(
        "nested_f32",
        "--val-size 3 --eval-steps 2 --keep-best --save-total-limit 2 --learning-rate 3e-2",
        &[5, 9],
    );
}

/// From an older checkpoint than the newest: what is written last stays.
#[test]
fn going_on_from_an_older_checkpoint() {
    let whole = training("llama", "--save-total-limit 2");
    whole.finish("");
    assert_eq!(whole.checkpoints(), [20, 24]);
    let resumed = training("llama", "");
    resumed.finish("");
    let older = format!(
        "--save-total-limit 2 --resume {}",
        resumed.checkpoint(8).display()
    );
    resumed.finish(&older);
    assert_same(&whole, &resumed);
}

/// Lost before its first checkpoint, a training begins anew.
#[test]
fn killed_before_the_first_checkpoint() {
    for settings in ["--save-steps 20", "--save-steps 12 --val-size 2"] {
        let whole = training("llama", settings);
        whole.finish("");
        let resumed = training("llama", settings);
        resumed.kill_after(3, "");
        assert!(resumed.checkpoints().is_empty());
        resumed.finish("--resume");
        assert_same(&whole, &resumed);
    }
}

/// A finished training has nothing to go on with, and says so by ending well.
#[test]
fn going_on_after_the_end_changes_nothing() {
    let training = training("llama", "");
    training.finish("");
    let before = (contents(training.output()), training.metrics());
    let run = training.finish("--resume");
    assert_eq!(run.json()["step"], 24);
    assert_eq!(before.1, training.metrics());
    assert!(before.0 == contents(training.output()));
}

/// Killed at any time, also while it saves: each step writes a checkpoint and removes one.
#[test]
fn killed_at_any_time() {
    let settings = "--save-steps 1 --save-total-limit 2";
    kill_often(&training("flat_bf16", settings), &training("flat_bf16", settings));
}

/// Also while the reference is asked.
#[test]
fn killed_at_any_time_with_pairs() {
    let settings = "--save-steps 1 --save-total-limit 2 --max-steps 8";
    kill_often(
        &preferred("nested_f32", settings),
        &preferred("nested_f32", settings),
    );
}

fn kill_often(whole: &Training, resumed: &Training) {
    let started = std::time::Instant::now();
    whole.finish("");
    let seconds = started.elapsed();
    for trial in 0..10 {
        let mut child = resumed
            .command("--resume")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Between a tenth and a half of what the whole takes.
        std::thread::sleep(seconds.mul_f64(0.1 + 0.04 * f64::from(trial * 7 % 11)));
        child.kill().unwrap();
        child.wait().unwrap();
        if resumed.output().exists() {
            resumed.checkpoints();
        }
    }
    resumed.finish("--resume");
    assert_same(whole, resumed);
    let partial = |name: &String| name.ends_with(".partial") || name.ends_with(".old");
    let left = training::names(resumed.output());
    assert!(!left.iter().any(partial), "{left:?}");
}

/// Ctrl-C saves what there is.
#[test]
fn interrupted() {
    for settings in ["--save-steps 100", "--save-steps 100 --finetuning-type lora"] {
        let whole = training("nested_f32", settings);
        whole.finish("");
        let resumed = training("nested_f32", settings);
        let mut child = resumed.start_until(3, "");
        let signalled = Command::new("kill")
            .args(["-INT", &child.id().to_string()])
            .status();
        assert!(signalled.unwrap().success());
        assert_eq!(child.wait().unwrap().code(), Some(130));
        let done = resumed.steps_done();
        assert!((3..24).contains(&done), "{done}");
        assert_eq!(resumed.checkpoints(), [done]);
        resumed.finish("--resume");
        assert_same(&whole, &resumed);
    }
}
