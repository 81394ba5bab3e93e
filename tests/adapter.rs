//! LoRA and rsLoRA adapters: what candle merges when it runs and what the exporter merges into a bundle, against PEFT.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use lwv_export::convert_adapter;
use lwv_model::{
    Adapter, Checkpoint, Logits, ModelConfig, Precision, WeightNames, contract, expected_weights,
};
use lwv_runtime::{DEFAULT_PREFILL_CHUNK, Engine};
use lwv_tests::{
    Case, Difference, OnnxFile, OrtText, bundle, bundle_for_adapters, bundle_with_adapter, copy_folder,
    engine, export_into, fixtures, highest, read_json, recipe, scratch, vectors, write_json,
};
use lwv_train::{Network, Tensor};

/// Most that a logit of the merged model may differ.
const LOGITS: f32 = 1e-4;

/// Most that a merged weight may differ.
const WEIGHTS: f32 = 1e-6;

/// A fixture keeps the logits of every fourth greedy step.
const STEP_STRIDE: usize = 4;

struct Fixture {
    name: &'static str,
    adapter: PathBuf,
    base: Case,
    prompt: String,
    positions: Vec<usize>,
    greedy_ids: Vec<u32>,
    /// Logits at `positions`.
    logits: Vec<Vec<f32>>,
    greedy_logits: Vec<Vec<f32>>,
    /// Canonical name → weight.
    merged: BTreeMap<String, Vec<f32>>,
}

impl Fixture {
    fn load(name: &'static str) -> Self {
        let adapter = fixtures().join("adapter").join(name);
        let expected = read_json(&adapter.join("expected.json"));
        let base = Case::load(expected["base"].as_str().unwrap().trim_start_matches("tiny/"));
        let mut tensors = vectors(&adapter.join("expected.safetensors"));
        let vocabulary = ModelConfig::from_dir(&base.dir).unwrap().text.vocab_size;
        let mut rows = |key: &str| -> Vec<Vec<f32>> {
            tensors
                .remove(key)
                .unwrap()
                .chunks_exact(vocabulary)
                .map(<[f32]>::to_vec)
                .collect()
        };
        let (logits, greedy_logits) = (rows("logits"), rows("greedy_logits"));
        let canonical = |name: &str| WeightNames::canonical(name.strip_prefix("merged.").unwrap());
        Self {
            name,
            adapter,
            prompt: expected["prompt"].as_str().unwrap().to_owned(),
            positions: serde_json::from_value(expected["positions"].clone()).unwrap(),
            greedy_ids: serde_json::from_value(expected["greedy_ids"].clone()).unwrap(),
            logits,
            greedy_logits,
            merged: tensors
                .iter()
                .map(|(name, weight)| (canonical(name), weight.clone()))
                .collect(),
            base,
        }
    }

    fn all() -> [Self; 2] {
        [Self::load("lora"), Self::load("rslora")]
    }

    fn check_step(&self, step: usize, got: &[f32], difference: &mut Difference) {
        assert_eq!(highest(got), self.greedy_ids[step], "{} token {step}", self.name);
        if step.is_multiple_of(STEP_STRIDE) {
            let place = || format!("{} step {step}", self.name);
            difference.add(place, &self.greedy_logits[step / STEP_STRIDE], got);
        }
    }
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn candle_with_an_adapter() {
    let mut difference = Difference::default();
    for fixture in Fixture::all() {
        let prompt = fixture.base.prompts[&fixture.prompt].prompt(&fixture.base.processor());
        let mut network = Network::open(&fixture.base.dir, Some(&fixture.adapter)).unwrap();
        network.reset();
        let all = network
            .extend(&prompt.input_ids, &prompt.images, Logits::EveryPosition)
            .unwrap();
        let all: Vec<Vec<f32>> = all.to_vec2().unwrap();
        for (position, expected) in fixture.positions.iter().zip(&fixture.logits) {
            difference.add(
                || format!("{} position {position}", fixture.name),
                expected,
                &all[*position],
            );
        }
        let mut got = all.last().unwrap().clone();
        for (step, id) in fixture.greedy_ids.iter().enumerate() {
            fixture.check_step(step, &got, &mut difference);
            got = values(&network.step(*id).unwrap());
        }
    }
    difference.assert_within("candle with an adapter, logits", LOGITS);
}

/// Compares a bundle, of which every token is a chunk of its own, since it gives the last position's logits only.
fn compare(fixture: &Fixture, engine: &Engine, difference: &mut Difference) {
    let prompt = fixture.base.prompts[&fixture.prompt].prompt(engine.processor());
    let mut text = OrtText::new(engine, prompt.input_ids.len() + fixture.greedy_ids.len());
    let mut all: Vec<Vec<f32>> = Vec::new();
    text.extend(&prompt, |_, logits| all.push(logits.to_vec()));
    for (position, expected) in fixture.positions.iter().zip(&fixture.logits) {
        let place = || format!("{} position {position}", fixture.name);
        difference.add(place, expected, &all[*position]);
    }
    for (step, id) in fixture.greedy_ids.iter().enumerate() {
        fixture.check_step(step, &text.logits(), difference);
        text.step(*id);
    }
}

#[test]
fn bundle_with_a_merged_adapter() {
    let mut difference = Difference::default();
    for fixture in Fixture::all() {
        let folder = bundle_with_adapter(&fixture.base.dir, Precision::Fp32, &fixture.adapter);
        compare(&fixture, &engine(&folder, 1), &mut difference);
    }
    difference.assert_within("bundle with a merged adapter, logits", LOGITS);
}

#[test]
fn bundle_with_a_loaded_adapter() {
    let mut difference = Difference::default();
    let fixture = Fixture::load("lora");
    let folder = bundle_for_adapters(&fixture.base.dir, Precision::Fp32);
    let file = scratch().join("lora.onnx_adapter");
    convert_adapter(&fixture.adapter, &folder, &file).unwrap();
    let engine = engine(&folder, 1).with_adapter(&file).unwrap();
    compare(&fixture, &engine, &mut difference);
    difference.assert_within("bundle with a loaded adapter, logits", LOGITS);
}

#[test]
fn merged_weights() {
    let (mut loaded, mut exported) = (Difference::default(), Difference::default());
    for fixture in Fixture::all() {
        let config = ModelConfig::from_dir(&fixture.base.dir).unwrap();
        let checkpoint = Checkpoint::open(&fixture.base.dir).unwrap();
        let adapter = Adapter::open(&fixture.adapter).unwrap();
        let shapes: BTreeMap<String, Vec<usize>> = expected_weights(&config).into_iter().collect();
        let bundle = bundle_with_adapter(&fixture.base.dir, Precision::Fp32, &fixture.adapter);
        let graphs = [contract::DECODER, contract::VISION_ENCODER];
        let in_bundle: BTreeMap<String, Vec<f32>> = graphs
            .iter()
            .flat_map(|graph| OnnxFile::read(&bundle, graph).weights())
            .collect();
        for (name, expected) in &fixture.merged {
            let place = || format!("{} {name}", fixture.name);
            let shape = &shapes[name];
            let mut weight = checkpoint.to_f32(&checkpoint.find(name, shape).unwrap()).unwrap();
            adapter
                .update(name, shape)
                .unwrap()
                .unwrap()
                .add_to(&mut weight, 0);
            loaded.add(place, expected, &weight);
            exported.add(place, expected, &in_bundle[name]);
        }
    }
    loaded.assert_within("weights merged when loaded", WEIGHTS);
    exported.assert_within("weights merged into a bundle", WEIGHTS);
}

/// Lest all of the above passes with adapters that change nothing.
#[test]
fn adapters_matter() {
    for fixture in Fixture::all() {
        let plain = engine(&bundle(&fixture.base.dir, Precision::Fp32), DEFAULT_PREFILL_CHUNK);
        let prompt = fixture.base.prompts[&fixture.prompt].prompt(plain.processor());
        let mut text = OrtText::new(&plain, prompt.input_ids.len());
        text.extend(&prompt, |_, _| ());
        let mut difference = 0.0_f32;
        for (a, b) in text.logits().iter().zip(&fixture.greedy_logits[0]) {
            difference = difference.max((a - b).abs());
        }
        assert!(difference > 0.01, "{}: {difference}", fixture.name);
    }
}

/// Both ways of using an adapter refuse it, naming the module and the adapter's file.
fn assert_refused(checkpoint: &Path, adapter: &Path, words: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("bundle");
    let exported = export_into(&recipe(checkpoint, &place, Precision::Fp32, Some(adapter))).unwrap_err();
    let run = Network::open(checkpoint, Some(adapter))
        .err()
        .map(|e| e.to_string());
    let errors = [
        exported.to_string(),
        run.unwrap_or_else(|| "candle took it".to_owned()),
    ];
    for error in errors {
        for word in words {
            assert!(error.contains(word), "`{word}` is not in: {error}");
        }
    }
    assert_eq!(
        std::fs::read_dir(folder.path()).unwrap().count(),
        0,
        "something was left"
    );
}

#[test]
fn an_adapter_of_another_size() {
    let [lora, rslora] = Fixture::all();
    let module = "model.layers.0.self_attn.q_proj";
    assert_refused(
        &rslora.base.dir,
        &lora.adapter,
        &["adapter_model.safetensors", module],
    );
    assert_refused(&lora.base.dir, &rslora.adapter, &["adapter_model.safetensors"]);
}

#[test]
fn an_adapter_of_a_module_that_is_not_there() {
    let rslora = Fixture::load("rslora");
    // A model without a vision tower, for an adapter that changes one.
    assert_refused(
        &Case::load("llama").dir,
        &rslora.adapter,
        &["adapter_model.safetensors", "visual.blocks.0.mlp"],
    );
}

#[test]
fn an_adapter_of_another_rank_than_it_says() {
    let lora = Fixture::load("lora");
    let folder = tempfile::tempdir().unwrap();
    copy_folder(&lora.adapter, folder.path());
    let path = folder.path().join("adapter_config.json");
    let mut config = read_json(&path);
    config["r"] = 8.into();
    write_json(&path, &config);
    assert_refused(
        &lora.base.dir,
        folder.path(),
        &["adapter_model.safetensors", "layers.0.", "_proj"],
    );
}
