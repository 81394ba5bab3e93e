//! IterDPO against TRL's DPOTrainer: ids, what the reference thinks, and every step (tests/fixtures/dpo).
#![allow(clippy::unwrap_used, clippy::expect_used)]
#![allow(clippy::print_stdout, reason = "how far off things are is worth knowing")]

#[path = "support/fixture.rs"]
mod fixture;
#[path = "support/training.rs"]
mod training;

use std::path::{Path, PathBuf};

use fixture::{Fixture, canonical, relative_distance, thinned};
use lwv_data::{Dataset, Encoded, Encoder, EncoderSettings};
use lwv_model::Checkpoint;
use lwv_processor::Processor;
use serde_json::Value;
use training::{Training, fixtures};

/// Losses of hundreds are held to as many digits as others.
const LOSS: f64 = 1e-4;
const NORM: f64 = 1e-3;
const REWARD: f64 = 1e-4;
const LOGP: f64 = 1e-3;
const WEIGHTS: f64 = 1e-4;

fn folder(case: &str) -> PathBuf {
    fixtures().join("dpo").join(case)
}

fn expected(case: &str) -> Value {
    let path = folder(case).join("expected.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// The recorded recipe as arguments.
fn arguments(recipe: &Value) -> String {
    let list = |key: &str| -> Option<String> {
        let items = recipe[key].as_array()?.iter();
        let items: Vec<String> = items.map(|item| item.to_string().replace('"', "")).collect();
        Some(items.join(","))
    };
    let mut arguments = format!(
        "--no-shuffle --save-strategy no --lr-scheduler-type cosine --weight-decay {} --learning-rate {} \
         --max-steps {} --per-device-train-batch-size {} --gradient-accumulation-steps {} --warmup-steps {} \
         --max-grad-norm {} --pref-beta {} --dpo-label-smoothing {} --pref-loss {}",
        recipe["weight_decay"],
        recipe["learning_rate"],
        recipe["steps"],
        recipe["micro_batch"],
        recipe["accumulation"],
        recipe["warmup_steps"],
        recipe["max_grad_norm"],
        recipe["beta"],
        recipe["label_smoothing"],
        list("loss_type").unwrap(),
    );
    if let Some(weights) = list("loss_weights") {
        arguments += &format!(" --pref-loss-weights {weights}");
    }
    if let Some(alpha) = recipe["ld_alpha"].as_f64() {
        arguments += &format!(" --ld-alpha {alpha}");
    }
    arguments
}

/// Compares the metrics of every step.
fn check_steps(training: &Training, trajectory: &Value, case: &str) {
    let metrics = training.metrics();
    let want = |key: &str, step: usize| trajectory[key][step].as_f64().unwrap();
    let worst = |key: &str, told: &str, scale: &dyn Fn(f64) -> f64| {
        let steps = metrics.iter().enumerate().map(|(step, line)| {
            let want = want(key, step);
            (line[told].as_f64().unwrap() - want).abs() / scale(want)
        });
        steps.fold(0.0, f64::max)
    };
    assert_eq!(metrics.len(), trajectory["loss"].as_array().unwrap().len());
    let loss = worst("loss", "loss", &|want| want.abs().max(1.0));
    let norm = worst("gradient_norm", "grad_norm", &|want| want);
    let one = |_: f64| 1.0;
    let rewards = ["reward_chosen", "reward_rejected", "reward_margin"].map(|key| worst(key, key, &one));
    let logps = ["logp_chosen", "logp_rejected"].map(|key| worst(key, key, &one));
    println!(
        "{case}: loss {loss:.1e}, norm {norm:.1e}, rewards {:.1e}, log-probabilities {:.1e}",
        rewards.iter().copied().fold(0.0, f64::max),
        logps[0].max(logps[1]),
    );
    assert!(loss < LOSS && norm < NORM, "{case}: loss {loss}, norm {norm}");
    assert!(
        rewards.iter().all(|reward| *reward < REWARD),
        "{case}: {rewards:?}"
    );
    assert!(logps.iter().all(|logp| *logp < LOGP), "{case}: {logps:?}");
    assert_eq!(worst("learning_rate", "learning_rate", &one), 0.0);
    for (step, line) in metrics.iter().enumerate() {
        // A difference that is only rounding says nothing of who is right.
        if want("reward_margin", step).abs() > 10.0 * REWARD {
            let accuracy = line["reward_accuracy"].as_f64().unwrap();
            assert_eq!(accuracy, want("reward_accuracy", step), "{case}, step {step}");
        }
    }
}

/// Compares the trained weights that were written.
fn check_weights(training: &Training, case: &str) {
    let recorded = Checkpoint::open_file(&folder(case).join("expected.safetensors")).unwrap();
    let file = training.out("adapter_model.safetensors");
    let trained = if file.exists() {
        Checkpoint::open_file(&file).unwrap()
    } else {
        Checkpoint::open(training.output()).unwrap()
    };
    let read = |from: &Checkpoint, name: &str| from.to_f32(&from.info(name).unwrap()).unwrap();
    let mut worst: f64 = 0.0;
    let mut count = 0;
    for name in recorded.names() {
        let wanted = canonical(name.strip_prefix("final.").unwrap());
        let own = trained.names().find(|name| canonical(name) == wanted);
        let own = own.unwrap_or_else(|| panic!("`{wanted}` was not written"));
        let want = read(&recorded, name);
        worst = worst.max(relative_distance(
            &thinned(&read(&trained, own), want.len()),
            &want,
        ));
        count += 1;
    }
    println!("{case}: {count} weights, off by {worst:.1e} at most");
    assert!(count > 0 && worst < WEIGHTS, "{case}: {worst}");
}

/// What the encoder makes of every pair is what TRL trained on.
fn check_ids(case: &str, model: &Path, file: &str) {
    let dataset = Dataset::open(&[folder(file)], Some(&fixtures())).unwrap();
    let encoder = Encoder::new(Processor::from_dir(model).unwrap(), EncoderSettings::default());
    let expected = expected(case);
    let pairs = expected["pairs"].as_array().unwrap();
    assert_eq!(pairs.len(), dataset.len());
    for (index, pair) in pairs.iter().enumerate() {
        let Encoded::Example(example) = encoder.encode_pair(&dataset.pair(index).unwrap()).unwrap() else {
            panic!("pair {index} is too long");
        };
        for (answer, key) in example.answers.iter().zip(["chosen", "rejected"]) {
            let ids: Vec<u32> = serde_json::from_value(pair[key]["input_ids"].clone()).unwrap();
            let labels: Vec<i64> = serde_json::from_value(pair[key]["labels"].clone()).unwrap();
            assert_eq!(
                (&answer.input_ids, &answer.labels),
                (&ids, &labels),
                "{case}, pair {index}"
            );
        }
    }
}

fn check(training: &Training, case: &str) {
    training.finish("");
    check_steps(training, &expected(case)["trajectory"], case);
    check_weights(training, case);
}

fn settings(case: &str, more: &str) -> String {
    format!("{} {more}", arguments(&expected(case)["trajectory"]["recipe"]))
}

/// The settings of the recorded adapter, which training starts from.
fn adapter(case: &str) -> String {
    let dir = folder(case);
    format!(
        "--finetuning-type lora --lora-rank 4 --lora-alpha 8 --adapter {}",
        dir.display()
    )
}

const EVERYTHING: &str = "--freeze-vision-tower false --freeze-multi-modal-projector false";

#[test]
fn ids_are_those_of_trl() {
    check_ids("tiny_full", &training::tiny("nested_f32"), "tiny.jsonl");
}

#[test]
fn whole_weights() {
    let case = "tiny_full";
    check(
        &Training::preferred("nested_f32", &settings(case, EVERYTHING)),
        case,
    );
}

#[test]
fn a_frozen_vision_tower_and_batches_of_two() {
    let case = "tiny_frozen";
    check(&Training::preferred("flat_f32", &settings(case, "")), case);
}

#[test]
fn a_new_adapter_whose_reference_is_the_model_without_it() {
    let case = "tiny_lora";
    check(
        &Training::preferred("nested_f32", &settings(case, &adapter(case))),
        case,
    );
}

#[test]
fn an_adapter_that_is_trained_on_is_its_own_reference() {
    let case = "tiny_lora_again";
    check(
        &Training::preferred("nested_f32", &settings(case, &adapter(case))),
        case,
    );
}

#[test]
fn every_loss() {
    let expected = expected("losses");
    let sections = expected
        .as_object()
        .unwrap()
        .iter()
        .filter(|(name, _)| *name != "base");
    let mut count = 0;
    for (name, trajectory) in sections {
        let settings = format!("{} {EVERYTHING}", arguments(&trajectory["recipe"]));
        let training = Training::preferred("nested_f32", &settings);
        training.finish("");
        check_steps(&training, trajectory, name);
        count += 1;
    }
    assert_eq!(count, 14);
}

#[test]
#[ignore = "needs SmolLM2's weights; scripts/check fetches them and runs this"]
fn smollm2() {
    let case = "smollm2";
    let model = Fixture::smollm2_checkpoint();
    check_ids(case, &model, "text.jsonl");
    let training = Training::preferred("llama", &settings(case, "")).with_model(&model);
    check(&training, case);
}

#[test]
#[ignore = "needs SmolLM2's weights; scripts/check fetches them and runs this"]
fn smollm2_with_an_adapter() {
    let case = "smollm2_lora";
    let model = Fixture::smollm2_checkpoint();
    let start = tempfile::tempdir().unwrap();
    let dir = start.path().join("start");
    fixture::write_hashed_lora(&model, &expected(case)["adapter"], &dir);
    let more = format!(
        "--finetuning-type lora --lora-rank 8 --lora-alpha 16 --adapter {}",
        dir.display()
    );
    let training = Training::preferred("llama", &settings(case, &more)).with_model(&model);
    check(&training, case);
}
