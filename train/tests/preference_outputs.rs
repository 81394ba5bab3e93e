//! What a training on pairs leaves behind.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "support/pairs.rs"]
mod pairs;
#[path = "support/training.rs"]
mod training;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use lwv_model::{Checkpoint, Logits};
use lwv_processor::Processor;
use lwv_train::recipe::Recipe;
use lwv_train::{Network, PreferenceLossType};
use pairs::pairs;
use serde_json::Value;
use training::{Run, Training, fixtures, names, tiny};

const SHORT: &str = "--max-steps 3 --learning-rate 1e-2";

fn keys(line: &Value) -> BTreeSet<&str> {
    line.as_object().unwrap().keys().map(String::as_str).collect()
}

fn lines(training: &Training) -> Vec<Value> {
    let text = std::fs::read_to_string(training.file("metrics.jsonl")).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn lines_have_the_promised_keys() {
    let training = Training::preferred("nested_f32", SHORT);
    let summary = training.finish("--val-size 2 --eval-steps 1").json();
    let lines = lines(&training);
    let (steps, evaluations): (Vec<&Value>, Vec<&Value>) =
        lines.iter().partition(|line| line.get("loss").is_some());
    assert_eq!((steps.len(), evaluations.len()), (3, 4));
    for line in steps {
        let promised = [
            "step",
            "loss",
            "grad_norm",
            "learning_rate",
            "tokens",
            "seconds",
            "reward_accuracy",
            "reward_margin",
            "reward_chosen",
            "reward_rejected",
            "logp_chosen",
            "logp_rejected",
        ];
        assert_eq!(keys(line), BTreeSet::from(promised));
        assert!(line.as_object().unwrap().values().all(Value::is_number));
        let number = |key: &str| line[key].as_f64().unwrap();
        let margin = number("reward_chosen") - number("reward_rejected");
        assert!((number("reward_margin") - margin).abs() < 1e-12);
        assert!(number("logp_chosen") < 0.0 && number("logp_rejected") < 0.0);
    }
    for (step, line) in evaluations.iter().enumerate() {
        let promised = [
            "step",
            "eval_loss",
            "eval_pairs",
            "eval_reward_accuracy",
            "eval_reward_margin",
            "eval_logp_chosen",
            "eval_logp_rejected",
        ];
        assert_eq!(keys(line), BTreeSet::from(promised));
        assert_eq!((&line["step"], &line["eval_pairs"]), (&step.into(), &2.into()));
    }
    assert_eq!(summary["step"], 3);
    assert_eq!(summary["loss"], lines[lines.len() - 2]["loss"]);
    let best = evaluations[1..]
        .iter()
        .map(|line| line["eval_loss"].as_f64().unwrap())
        .fold(f64::INFINITY, f64::min);
    assert_eq!(summary["best_eval_loss"], best);
}

#[test]
fn other_pairs_can_be_evaluated_on() {
    let training = Training::preferred("llama", SHORT);
    let held_out = training.file("held-out.jsonl");
    let (train, rest) = (&pairs("llama")[..3], &pairs("llama")[3..]);
    let text: Vec<String> = rest.iter().map(Value::to_string).collect();
    std::fs::write(&held_out, text.join("\n")).unwrap();
    let training = training.with_pairs(train);
    training.finish(&format!("--eval-dataset {} --keep-best", held_out.display()));
    let evaluations: Vec<Value> = lines(&training)
        .into_iter()
        .filter(|line| line.get("eval_loss").is_some())
        .collect();
    let counts: Vec<&Value> = evaluations.iter().map(|line| &line["eval_pairs"]).collect();
    assert_eq!(counts, [rest.len(); 2]);
    // The reference was asked about them, too: before the first step nothing is preferred.
    assert_eq!(evaluations[0]["eval_reward_margin"], 0.0);
    assert_ne!(evaluations[1]["eval_reward_margin"], 0.0);
}

#[test]
fn settings_are_kept_beside_the_output() {
    let training = Training::preferred("llama", SHORT);
    training.finish(
        "--pref-beta 0.3 --pref-loss sigmoid,sft --pref-loss-weights 1,0.5 --pref-ftx 0.1 --ld-alpha 0.5 \
         --edit-weight 2 --dpo-label-smoothing 0.1 --vision-cache-mib 7",
    );
    for dir in [training.output(), &training.checkpoint(3)] {
        let recipe = Recipe::load(&dir.join("recipe.json")).unwrap();
        let preference = recipe.preference.unwrap();
        assert_eq!((preference.pref_beta, preference.pref_ftx), (0.3, 0.1));
        assert_eq!(
            preference.pref_loss,
            [PreferenceLossType::Sigmoid, PreferenceLossType::Sft]
        );
        assert_eq!(preference.pref_loss_weights, [1.0, 0.5]);
        assert_eq!((preference.ld_alpha, preference.edit_weight), (0.5, 2.0));
        assert_eq!(
            (preference.dpo_label_smoothing, preference.vision_cache_mib),
            (0.1, 7)
        );
        let text = std::fs::read_to_string(dir.join("recipe.json")).unwrap();
        assert!(text.contains("\"pref-beta\": 0.3") && text.contains("\"dpo-label-smoothing\": 0.1"));
    }
    // With no setting of its own, a training has the method's defaults.
    let plain = Training::preferred("llama", "--max-steps 1");
    plain.finish("");
    let recipe = Recipe::load(&plain.out("recipe.json")).unwrap();
    assert_eq!(
        (
            recipe.training.learning_rate,
            recipe.preference.unwrap().pref_beta
        ),
        (1e-6, 0.1)
    );
}

/// `lwv-train plan` with these arguments.
fn plan(training: &Training, more: &str) -> Run {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lwv-train"));
    command.args(["plan", "--device", "cpu", "--model"]);
    command
        .arg(tiny("nested_f32"))
        .arg("--dataset")
        .arg(training.dataset());
    command.arg("--media-dir").arg(fixtures());
    command.arg("--output-dir").arg(training.output());
    Run::of(command.args(more.split_whitespace()))
}

#[test]
fn a_plan_is_made_of_pairs() {
    let training = Training::preferred("nested_f32", "--num-train-epochs 1");
    let run = plan(&training, "--pref-beta 0.2 --json");
    assert_eq!(run.status, Some(0), "{}", run.stderr);
    for row in ["trained parameters", "tokens of longest batch", "peak"] {
        assert!(run.stdout.contains(row), "{}", run.stdout);
    }
    let planned = run.json();
    assert_eq!(planned["samples"], pairs("nested_f32").len());
    assert!(!training.output().exists());
    training.finish("");
    let longest = training
        .metrics()
        .iter()
        .map(|line| line["tokens"].as_u64().unwrap())
        .max();
    assert_eq!(planned["plan"]["longest_batch"], longest.unwrap());
    assert!(planned["plan"]["patches"].as_u64().unwrap() > 0);
    let staged = plan(&training, "--stage iter-dpo --json").json();
    assert_eq!(staged["plan"], planned["plan"]);
    // A bigger batch needs more, and smaller ones are the advice.
    let bigger = plan(
        &training,
        "--stage iter-dpo --per-device-train-batch-size 3 --json",
    );
    let peak = |plan: &Value| plan["plan"]["peak"].as_u64().unwrap();
    assert!(peak(&bigger.json()) > peak(&planned));
    assert!(bigger.stdout.contains("--per-device-train-batch-size 1"));
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

#[test]
fn what_was_trained_loads_and_is_another_model() {
    for case in ["nested_f32", "flat_bf16", "llama"] {
        let before = logits(&tiny(case), None);
        let full = Training::preferred(case, SHORT);
        full.finish("");
        assert_eq!(full.checkpoints(), [3]);
        let lora = Training::preferred(case, SHORT);
        lora.finish("--finetuning-type lora");
        assert!(!lora.out("model.safetensors").exists());
        for after in [
            logits(full.output(), None),
            logits(&tiny(case), Some(lora.output())),
        ] {
            assert_eq!(after.len(), before.len());
            assert!(after.iter().all(|score| score.is_finite()));
            let change = after
                .iter()
                .zip(&before)
                .map(|(a, b)| (a - b).abs())
                .fold(0.0, f32::max);
            assert!(change > 1e-3, "{case}: {change}");
        }
    }
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
fn what_is_frozen_keeps_its_bytes() {
    let is_vision = |name: &str| name.contains("visual.");
    let is_projector = |name: &str| name.contains("visual.merger.");
    for case in ["nested_f32", "flat_bf16"] {
        let train = |arguments: &str| {
            let training = Training::preferred(case, "--num-train-epochs 1 --learning-rate 1e-2");
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
fn events_for_tensorboard() {
    let training = Training::preferred("llama", SHORT);
    let events = training.file("events");
    training.finish(&format!("--logging-dir {} --val-size 2", events.display()));
    let names = names(&events);
    let bytes = std::fs::read(events.join(&names[0])).unwrap();
    let count = |tag: &str| {
        bytes
            .windows(tag.len())
            .filter(|window| *window == tag.as_bytes())
            .count()
    };
    for tag in ["reward_margin", "reward_accuracy", "logp_chosen", "logp_rejected"] {
        assert_eq!(count(&format!("train/{tag}")), 3, "{tag}");
        assert_eq!(count(&format!("eval/{tag}")), 2, "{tag}");
    }
}

#[test]
fn losses_of_pairs_can_be_drawn() {
    let training = Training::preferred("llama", SHORT);
    training.finish("--val-size 2");
    let picture = training.file("loss.svg");
    let mut command = Command::new(env!("CARGO_BIN_EXE_lwv-train"));
    command
        .arg("plot")
        .arg(training.file("metrics.jsonl"))
        .arg(&picture);
    let run = Run::of(&mut command);
    assert_eq!(run.status, Some(0), "{}", run.stderr);
    assert!(std::fs::read_to_string(&picture).unwrap().contains("<svg"));
}
