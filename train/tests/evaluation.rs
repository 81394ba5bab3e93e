//! What is held out, and when it is measured.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use lwv_train::recipe::{Recipe, SaveStrategy, Stage, TrainingRecipe};
use lwv_train::{Curve, Outcome, Samples, Supervised, Trainer};

/// Three samples; none may be drawn for both sides.
const SAMPLES: [&str; 3] = [
    r#"{"instruction": "Write about the river.", "output": "The river stood in the garden."}"#,
    r#"{"instruction": "Write about the garden.", "output": "Then the story begins."}"#,
    r#"{"instruction": "Write a story.", "output": "42 houses stood beside the river."}"#,
];

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str, samples: &[&str]) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, samples.join("\n")).unwrap();
        path
    }

    fn recipe(&self, train: &[&str], held_out: &[&str]) -> TrainingRecipe {
        TrainingRecipe {
            model: Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/tiny/llama"),
            dataset: vec![self.file("train.jsonl", train)],
            eval_dataset: vec![self.file("held-out.jsonl", held_out)],
            output_dir: self.0.path().join("out"),
            save_strategy: SaveStrategy::No,
            per_device_train_batch_size: 8,
            max_steps: Some(2),
            learning_rate: 1e-2,
            ..TrainingRecipe::default()
        }
    }

    fn train(&self, recipe: TrainingRecipe) -> (Outcome, Curve) {
        let metrics = self.0.path().join("steps.jsonl");
        let cancelled = Arc::new(AtomicBool::new(false));
        let recipe = Recipe {
            training: recipe,
            preference: None,
        };
        let trainer = Trainer::<Supervised>::open(recipe, None, Some(&metrics), cancelled, &|_| ()).unwrap();
        (trainer.run(&|_| ()).unwrap(), Curve::read(&metrics).unwrap())
    }
}

fn open(recipe: &TrainingRecipe) -> Result<Samples, String> {
    Samples::open(recipe, Stage::Sft, &AtomicBool::new(false), &|_, _| ()).map_err(|error| error.to_string())
}

#[test]
fn the_evaluation_dataset_is_never_trained_on() {
    let folder = Folder::new();
    let samples = open(&folder.recipe(&SAMPLES[..2], &SAMPLES[2..])).unwrap();
    assert_eq!((samples.train, samples.held_out), (vec![0, 1], vec![2]));
    assert_eq!(
        samples.dataset.get(2).unwrap().answers().next().unwrap(),
        "42 houses stood beside the river."
    );
}

#[test]
fn nothing_to_evaluate_on_is_an_error() {
    let folder = Folder::new();
    let error = open(&folder.recipe(&SAMPLES, &["{}"])).err().unwrap();
    assert!(
        error.starts_with("no sample of `eval-dataset` can be evaluated on: 1 samples cannot be used"),
        "{error}"
    );
}

#[test]
fn the_first_evaluation_comes_before_the_first_step() {
    let folder = Folder::new();
    let recipe = TrainingRecipe {
        eval_steps: Some(1),
        ..folder.recipe(&SAMPLES, &SAMPLES)
    };
    let (outcome, curve) = folder.train(recipe);
    let steps: Vec<usize> = curve.held_out.iter().map(|(step, _)| *step).collect();
    assert_eq!(steps, [0, 1, 2]);
    // The same samples, by the same weights: the training's loss of a step is the held-out one before it.
    for ((_, held_out), (_, training)) in curve.held_out.iter().zip(&curve.training) {
        assert!((held_out - training).abs() < 1e-4, "{held_out} {training}");
    }
    assert!(curve.held_out[1].1 < curve.held_out[0].1, "it does not learn");
    let after_steps = curve.held_out[1..].iter().map(|(_, loss)| *loss);
    assert_eq!(outcome.best_eval_loss, after_steps.reduce(f64::min));
}

#[test]
fn what_training_starts_from_is_not_the_best() {
    let folder = Folder::new();
    let recipe = TrainingRecipe {
        learning_rate: 10.0,
        ..folder.recipe(&SAMPLES, &SAMPLES)
    };
    let (outcome, curve) = folder.train(recipe);
    let [(0, before), (2, after)] = curve.held_out[..] else {
        panic!("{:?}", curve.held_out);
    };
    assert!(after > before, "a rate of 10 should ruin the model");
    assert_eq!(outcome.best_eval_loss, Some(after));
}
