//! What a training leaves behind.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "support/training.rs"]
mod training;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use lwv_model::{Checkpoint, Logits};
use lwv_processor::Processor;
use lwv_train::recipe::Recipe;
use lwv_train::{Measure, Network};
use serde_json::Value;
use training::{Run, Training, contents, copy_folder, names, tiny};

/// Files of the fixtures that are no part of a checkpoint.
const REFERENCES: [&str; 2] = ["expected.json", "expected.safetensors"];

fn read(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// A folder as transformers reads it: the base's side files, all of its tensors, their types.
fn assert_like_base(base: &Path, dir: &Path) {
    let (base_files, files) = (contents(base), contents(dir));
    let side_files = base_files
        .iter()
        .filter(|(name, _)| !name.contains("safetensors") && !REFERENCES.contains(&name.as_str()));
    let mut compared = 0;
    for (name, bytes) in side_files {
        assert!(files.get(name) == Some(bytes), "{}: `{name}`", dir.display());
        compared += 1;
    }
    assert!(compared >= 4);
    let (base, out) = (Checkpoint::open(base).unwrap(), Checkpoint::open(dir).unwrap());
    let tensors = |checkpoint: &Checkpoint| -> Vec<(String, String)> {
        let types = checkpoint.names().map(|name| {
            let view = checkpoint.view(name).unwrap();
            (name.to_owned(), format!("{:?} {:?}", view.dtype(), view.shape()))
        });
        types.collect::<BTreeSet<_>>().into_iter().collect()
    };
    assert_eq!(tensors(&base), tensors(&out));
    assert!(!dir.join("model.safetensors.index.json").exists());
}

/// Names of tensors that have other bytes in `out`.
fn changed(base: &Path, out: &Path) -> BTreeSet<String> {
    let (base, out) = (Checkpoint::open(base).unwrap(), Checkpoint::open(out).unwrap());
    let changed = base
        .names()
        .filter(|name| base.view(name).unwrap().data() != out.view(name).unwrap().data());
    changed.map(str::to_owned).collect()
}

#[test]
fn checkpoints_are_like_their_base() {
    for case in ["nested_f32", "flat_bf16", "llama", "qwen2"] {
        let training = Training::of(case, "--max-steps 3 --save-steps 2 --learning-rate 1e-2");
        let run = training.finish("");
        assert_eq!(training.checkpoints(), [2, 3]);
        assert_like_base(&tiny(case), training.output());
        assert_like_base(&tiny(case), &training.checkpoint(2));
        let summary = run.json();
        assert_eq!(
            (&summary["step"], &summary["interrupted"], &summary["left_out"]),
            (&3.into(), &false.into(), &0.into())
        );
        assert_eq!(
            summary["output"].as_str().unwrap(),
            training.output().to_str().unwrap()
        );
        let last = training.metrics().pop().unwrap();
        assert_eq!(summary["loss"], last["loss"]);
        let recipe = Recipe::load(&training.out("recipe.json")).unwrap().training;
        assert_eq!((recipe.max_steps, recipe.learning_rate), (Some(3), 1e-2));
        // Nothing to go on from is part of the model.
        for name in ["trainer_state.json", "optimizer.safetensors"] {
            assert!(!training.out(name).exists());
            assert!(training.checkpoint(3).join(name).exists());
        }
    }
}

#[test]
fn weights_are_saved_in_the_asked_type() {
    for (name, config) in [("bf16", "bfloat16"), ("f16", "float16"), ("f32", "float32")] {
        let training = Training::of("nested_f32", "--max-steps 1");
        training.finish(&format!("--save-dtype {name}"));
        let config_file = read(&training.out("config.json")).to_string();
        assert!(config_file.contains(config), "{config_file}");
        let out = Checkpoint::open(training.output()).unwrap();
        let types: BTreeSet<String> = out
            .names()
            .map(|name| out.view(name).unwrap().dtype().to_string())
            .collect();
        assert_eq!(types, BTreeSet::from([name.to_uppercase()]));
    }
}

/// Chat templates beside the main one stand in a folder.
#[test]
fn folders_of_side_files_come_along() {
    let training = Training::of("llama", "--max-steps 2 --save-steps 1");
    let model = training.file("model");
    copy_folder(&tiny("llama"), &model);
    let template = Path::new("additional_chat_templates/tool_use.jinja");
    std::fs::create_dir(model.join("additional_chat_templates")).unwrap();
    std::fs::write(model.join(template), "{{ messages }}").unwrap();
    let training = training.with_model(&model);
    training.finish("");
    training.finish("--resume");
    for dir in [training.output(), &training.checkpoint(1)] {
        assert_eq!(
            std::fs::read_to_string(dir.join(template)).unwrap(),
            "{{ messages }}"
        );
    }
}

/// An output folder may hold an older model of several files.
#[test]
fn older_weights_are_replaced() {
    let training = Training::of("nested_f32", "--max-steps 1");
    copy_folder(&tiny("nested_f32"), training.output());
    std::fs::write(training.out("notes.txt"), "mine").unwrap();
    training.finish("");
    assert_like_base(&tiny("nested_f32"), training.output());
    let weights = names(training.output())
        .into_iter()
        .filter(|name| name.starts_with("model"))
        .collect::<Vec<_>>();
    assert_eq!(weights, ["model.safetensors"]);
    assert!(training.out("notes.txt").exists());
}

#[test]
fn frozen_parts_keep_their_bytes() {
    let is_vision = |name: &str| name.contains("visual.");
    let is_projector = |name: &str| name.contains("visual.merger.");
    for case in ["nested_f32", "flat_bf16"] {
        let train = |arguments: &str| {
            let training = Training::of(case, "--num-train-epochs 1 --learning-rate 1e-2");
            training.finish(arguments);
            changed(&tiny(case), training.output())
        };
        let language = train("");
        assert!(!language.is_empty() && !language.iter().any(|name| is_vision(name)));
        let projector = train("--freeze-language-model --freeze-multi-modal-projector false");
        assert!(!projector.is_empty() && projector.iter().all(|name| is_projector(name)));
        let tower = train("--freeze-language-model --freeze-vision-tower false");
        assert!(!tower.is_empty());
        assert!(tower.iter().all(|name| is_vision(name) && !is_projector(name)));
    }
}

#[test]
fn the_newest_checkpoints_are_kept() {
    let training = Training::of(
        "llama",
        "--num-train-epochs 2 --save-steps 3 --save-total-limit 2",
    );
    training.finish("");
    assert_eq!(training.checkpoints(), [15, 16]);
    let epochs = Training::of("llama", "--num-train-epochs 3 --save-strategy epoch");
    epochs.finish("");
    assert_eq!(epochs.checkpoints(), [8, 16, 24]);
    let none = Training::of("llama", "--num-train-epochs 1 --save-strategy no");
    none.finish("");
    assert!(none.checkpoints().is_empty());
    assert_like_base(&tiny("llama"), none.output());
    assert!(!changed(&tiny("llama"), none.output()).is_empty());
}

/// With this learning rate the held-out loss falls first and grows later.
#[test]
fn the_best_checkpoint_is_kept() {
    let training = Training::of(
        "llama",
        "--val-size 2 --num-train-epochs 12 --save-steps 6 --eval-steps 3 --save-total-limit 1 --keep-best \
         --learning-rate 1e-2 --lr-scheduler-type constant",
    );
    let summary = training.finish("").json();
    let metrics = training.metrics();
    let losses: Vec<(u64, f64)> = metrics
        .iter()
        .filter_map(|line| Some((line["step"].as_u64()?, line["eval_loss"].as_f64()?)))
        .collect();
    let evaluated: Vec<u64> = losses.iter().map(|(step, _)| *step).collect();
    assert_eq!(evaluated, (0..=24).map(|time| 3 * time).collect::<Vec<_>>());
    let tokens: BTreeSet<u64> = metrics
        .iter()
        .filter_map(|line| line["eval_tokens"].as_u64())
        .collect();
    assert!(tokens.len() == 1 && !tokens.contains(&0), "{tokens:?}");

    // What training starts from is no candidate.
    let best = losses[1..].iter().min_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
    assert!(best.0 < 72, "the last is the best: {losses:?}");
    assert_eq!(summary["best_eval_loss"], best.1);
    assert_eq!(training.checkpoints(), [best.0 as usize, 72]);
    let weights = |dir: &Path| std::fs::read(dir.join("model.safetensors")).unwrap();
    assert!(weights(training.output()) == weights(&training.checkpoint(best.0 as usize)));
    assert!(weights(training.output()) != weights(&training.checkpoint(72)));
    let state = read(&training.checkpoint(72).join("trainer_state.json"));
    assert_eq!(state["best_model_checkpoint"], format!("checkpoint-{}", best.0));
}

/// Scores after every token of a text.
fn logits(checkpoint: &Path, adapter: Option<&Path>) -> Vec<f32> {
    let ids = Processor::from_dir(checkpoint)
        .unwrap()
        .raw_prompt("Write a story about the river, 42 houses.", &[])
        .unwrap()
        .input_ids;
    let mut network = Network::open(checkpoint, adapter).unwrap();
    let logits = network.extend(&ids, &[], Logits::EveryPosition).unwrap();
    logits.flatten_all().unwrap().to_vec1().unwrap()
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn a_merged_adapter_is_the_adapter() {
    for (case, arguments) in [
        ("nested_f32", "--lora-rank 4"),
        ("nested_f32", "--lora-target q_proj,v_proj --use-rslora"),
        ("llama", "--lora-alpha 3"),
    ] {
        let settings = "--finetuning-type lora --num-train-epochs 2 --learning-rate 2e-2";
        let training = Training::of(case, &format!("{settings} {arguments}"));
        training.finish("");
        assert!(!training.out("model.safetensors").exists());
        let merged = training.file("merged");
        let mut command = Command::new(env!("CARGO_BIN_EXE_lwv-train"));
        command.arg("merge").arg(tiny(case));
        let run = Run::of(command.arg(training.output()).arg(&merged));
        assert_eq!(run.status, Some(0), "{}", run.stderr);
        assert_like_base(&tiny(case), &merged);

        let [plain, adapted, whole] = [
            logits(&tiny(case), None),
            logits(&tiny(case), Some(training.output())),
            logits(&merged, None),
        ];
        assert!(largest_difference(&plain, &adapted) > 1e-2);
        let difference = largest_difference(&adapted, &whole);
        assert!(difference < 1e-5, "{case} {arguments}: {difference}");
    }
}

#[test]
fn a_trained_model_can_be_trained_further() {
    let settings = "--max-steps 8 --no-shuffle --learning-rate 1e-2 --val-size 0";
    for case in ["llama", "flat_bf16"] {
        let first = Training::of(case, settings);
        first.finish("");
        let second = Training::of(case, settings).with_model(first.output());
        second.finish("");
        assert_like_base(&tiny(case), second.output());
        let loss = |training: &Training| training.metrics()[0]["loss"].as_f64().unwrap();
        assert!(loss(&second) < loss(&first) - 0.1);
        // A checkpoint is a model too, and what it has to go on from does not come along.
        let third = Training::of(case, settings).with_model(&first.checkpoint(8));
        third.finish("");
        assert_eq!(third.metrics(), second.metrics());
        assert!(
            contents(third.output())["model.safetensors"] == contents(second.output())["model.safetensors"]
        );
    }
    let lora = format!("{settings} --finetuning-type lora");
    let first = Training::of("llama", &lora);
    first.finish("");
    let second = Training::of("llama", &lora);
    second.finish(&format!("--adapter {}", first.output().display()));
    let loss = |training: &Training| training.metrics()[0]["loss"].as_f64().unwrap();
    assert!(loss(&second) < loss(&first) - 0.1);
    let refused = Training::of("llama", &lora);
    refused
        .run(&format!("--lora-rank 3 --adapter {}", first.output().display()))
        .assert_failed(1, &["rank 3", "adapter_model.safetensors"]);
}

#[test]
fn long_samples_are_left_out_and_counted() {
    let all = Training::of("nested_f32", "--num-train-epochs 1");
    all.finish("");
    let measures = read(&all.out("lengths.json"))["measures"].take();
    let measures: Vec<Measure> = serde_json::from_value(measures).unwrap();
    let lengths: Vec<usize> = measures.iter().map(|measure| measure.tokens).collect();
    let mut sorted = lengths.clone();
    sorted.sort_unstable();
    assert_eq!(all.steps_done(), sorted.len());
    let limit = sorted[4];
    let short = lengths.iter().filter(|length| **length <= limit).count();
    let training = Training::of(
        "nested_f32",
        &format!("--num-train-epochs 1 --max-length {limit}"),
    );
    let run = training.finish("");
    assert_eq!(run.json()["left_out"], lengths.len() - short);
    assert_eq!(training.steps_done(), short);
    let trained: u64 = training
        .metrics()
        .iter()
        .map(|line| line["tokens"].as_u64().unwrap())
        .sum();
    assert_eq!(trained as usize, sorted[..short].iter().sum::<usize>());
    let longest = sorted[sorted.len() - 1];
    run.assert_says(&[&format!(
        "{} samples are longer than `max-length`, the longest has {longest} tokens",
        lengths.len() - short
    )]);
    Training::of("nested_f32", &format!("--max-length {limit} --strict"))
        .run("")
        .assert_failed(1, &["max-length", "--strict"]);
}

#[test]
fn events_for_tensorboard() {
    let training = Training::of("llama", "--num-train-epochs 1 --val-size 2");
    let events = training.file("events");
    training.finish(&format!("--logging-dir {}", events.display()));
    let names = names(&events);
    assert!(
        names.len() == 1 && names[0].starts_with("events.out.tfevents."),
        "{names:?}"
    );
    let bytes = std::fs::read(events.join(&names[0])).unwrap();
    let count = |tag: &str| {
        bytes
            .windows(tag.len())
            .filter(|window| *window == tag.as_bytes())
            .count()
    };
    assert_eq!((count("train/loss"), count("eval/loss")), (6, 2));
    assert_eq!(training.steps_done(), 6);
}
