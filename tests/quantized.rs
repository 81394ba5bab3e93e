//! Bundles of integers: what they compute, where their weights come from, and the comparison that guards them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]

use std::path::{Path, PathBuf};

use lwv_export::{
    Calibration, Progress, Quantization, Recipe, Rounding, export, sensitivity, verify::verify,
};
use lwv_model::{ElementType, Manifest, Precision, contract};
use lwv_runtime::DEFAULT_PREFILL_CHUNK;
use lwv_tests::{
    Case, OrtText, Quiet, copy_folder, cosine, engine, export_into, fixtures, least_cosine, library,
    lwv_export, lwv_quantize, lwv_write, mean_cosine, read_json, recipe, scratch,
};

/// The cases whose shapes differ most: pictures with a tied head, text with an untied one, and pictures in tiles.
const CASES: [&str; 3] = ["nested_f32", "qwen2", "idefics3"];

fn place(name: &str) -> PathBuf {
    scratch().join(format!("quantized-{name}"))
}

fn integers(case: &Case, name: &str, precision: Precision, quantization: Quantization) -> Recipe {
    let recipe = recipe(&case.dir, &place(name), precision, None);
    Recipe {
        quantization,
        ..recipe
    }
}

fn compensated(tokens: usize) -> Quantization {
    Quantization {
        rounding: Rounding::Compensated,
        calibration: Calibration {
            tokens: Some(tokens),
            ..Calibration::default()
        },
        ..Quantization::default()
    }
}

#[test]
fn more_bits_are_nearer_to_the_checkpoint() {
    for name in CASES {
        let case = Case::load(name);
        let cosine_of = |what: &str, precision, quantization| {
            let recipe = integers(&case, &format!("{name}-{what}"), precision, quantization);
            export_into(&recipe).unwrap();
            least_cosine(&case, &recipe.bundle)
        };
        let eight = cosine_of("int8", Precision::Int8, Quantization::default());
        let four = cosine_of("int4", Precision::Int4, Quantization::default());
        assert!(
            eight > 0.99 && four > 0.8 && eight > four,
            "{name}: {eight} and {four}"
        );
    }
}

#[test]
fn a_cache_of_eight_bits_takes_a_quarter_and_changes_little() {
    let case = Case::load(CASES[0]);
    let quantization = Quantization {
        int8_cache: true,
        ..Quantization::default()
    };
    let plain = integers(&case, "plain-cache", Precision::Int8, Quantization::default());
    let byte = integers(&case, "byte-cache", Precision::Int8, quantization);
    for recipe in [&plain, &byte] {
        export_into(recipe).unwrap();
    }
    let bytes = |bundle: &Path| {
        let mut decoder = engine(bundle, DEFAULT_PREFILL_CHUNK).decoder().unwrap();
        // Room for bytes is made by sixteen tokens.
        decoder.reserve(96).unwrap();
        decoder.kv_bytes()
    };
    assert_eq!(bytes(&plain.bundle), 4 * bytes(&byte.bundle));
    let [with, without] = [&byte.bundle, &plain.bundle].map(|bundle| least_cosine(&case, bundle));
    assert!(with > 0.995, "{with} with 8 bits in the cache, {without} without");
    let mut command = lwv_write();
    command.arg(&byte.bundle).args([
        "--prompt",
        "Hello",
        "--greedy",
        "--ignore-eos",
        "--max-new-tokens",
        "5",
        "--json",
    ]);
    let written = lwv_tests::Run::of(&mut command).json();
    assert_eq!(written["token_ids"].as_array().unwrap().len(), 5);
    let manifest = Manifest::from_dir(&byte.bundle).unwrap();
    let inputs = &manifest.graphs[contract::DECODER].contract.inputs;
    assert!(inputs.iter().any(|input| input.element_type == ElementType::Int8));
}

#[test]
fn calibration_reads_pictures_and_is_told_in_the_manifest() {
    let case = Case::load(CASES[0]);
    let recipe = integers(&case, "calibrated", Precision::Int4, compensated(600));
    export_into(&recipe).unwrap();
    let entry = Manifest::from_dir(&recipe.bundle).unwrap().quantization.unwrap();
    let calibration = entry.calibration.unwrap();
    assert_eq!((entry.rounding.as_str(), entry.block_size), ("compensated", 32));
    // 600 tokens of prose are two samples; two more have pictures.
    assert_eq!((calibration.samples, calibration.sha256.len()), (4, 64));
    assert!(
        calibration.tokens > 600 && entry.bits_per_weight > 5.0,
        "{calibration:?}"
    );
    let mean = mean_cosine(&case, &recipe.bundle);
    assert!(mean > 0.9, "{mean}");
    assert!(
        !recipe
            .bundle
            .with_file_name("quantized-calibrated.calibration")
            .exists()
    );
}

#[test]
fn calibration_reads_datasets_with_pictures() {
    let case = Case::load(CASES[0]);
    let calibration = Calibration {
        datasets: vec![fixtures().join("sft/tiny.jsonl")],
        media_dir: Some(fixtures()),
        tokens: Some(400),
    };
    let quantization = Quantization {
        calibration,
        ..compensated(0)
    };
    let recipe = integers(&case, "dataset", Precision::Int4, quantization);
    export_into(&recipe).unwrap();
    let entry = Manifest::from_dir(&recipe.bundle).unwrap().quantization.unwrap();
    let seen = entry.calibration.unwrap();
    assert!(seen.samples > 1 && seen.tokens <= 400, "{seen:?}");
}

#[test]
fn calibration_without_samples_is_refused() {
    let case = Case::load(CASES[1]);
    let recipe = integers(&case, "no-samples", Precision::Int4, compensated(0));
    let error = export(&recipe, &Quiet, &mut |_, _| Ok(None)).unwrap_err();
    assert!(error.to_string().contains("there are no samples"), "{error}");
    assert!(!recipe.bundle.exists());
}

/// Tasks whose steps were told.
#[derive(Default)]
struct Steps(std::sync::Mutex<Vec<&'static str>>);

impl Progress for Steps {
    fn graph(&self, _: &str) {}
    fn read(&self, _: u64) {}
    fn total(&self, _: u64) {}
    fn step(&self, task: &'static str, _: usize, _: usize) {
        self.0.lock().unwrap().push(task);
    }
}

#[test]
fn a_calibration_that_was_stopped_is_not_made_again() {
    let case = Case::load(CASES[1]);
    let recipe = integers(&case, "resumed", Precision::Int4, compensated(600));
    let stopped = export(&recipe, &Quiet, &mut |_, _| {
        Err(lwv_export::Error::NoEngine("stopping"))
    });
    assert!(stopped.is_err() && !recipe.bundle.exists());
    let folder = recipe.bundle.with_file_name("quantized-resumed.calibration");
    let layer = folder.join("layer-00000.safetensors");
    let times = || std::fs::metadata(&layer).unwrap().modified().unwrap();
    let before = times();
    // A later layer is lost, as if the process had been killed before it.
    std::fs::remove_file(folder.join("layer-00001.safetensors")).unwrap();
    let again = export(&recipe, &Quiet, &mut |_, _| {
        assert_eq!(times(), before, "the first layer was made again");
        Ok(None)
    });
    again.unwrap();
    let calibrated = Steps::default();
    let written = export(&recipe, &calibrated, &mut |_, _| {
        Err(lwv_export::Error::NoEngine("stopping"))
    });
    assert!(written.is_err() && calibrated.0.lock().unwrap().contains(&"calibrating"));
    let known = Steps::default();
    export(&recipe, &known, &mut |_, _| Ok(None)).unwrap();
    assert_eq!(*known.0.lock().unwrap(), [""; 0], "nothing was left to calibrate");
    let whole = integers(&case, "in-one-go", Precision::Int4, compensated(600));
    export_into(&whole).unwrap();
    let hashes = |bundle: &Path| {
        let files = Manifest::from_dir(bundle).unwrap().files.into_iter();
        let graphs = files.filter(|(name, _)| name.starts_with("onnx/"));
        graphs
            .map(|(name, entry)| (name, entry.sha256))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        hashes(&recipe.bundle),
        hashes(&whole.bundle),
        "what goes on is what is made in one go"
    );
}

#[test]
fn a_bundle_in_floats_gives_the_same_as_its_checkpoint() {
    for name in CASES {
        let case = Case::load(name);
        let floats = recipe(
            &case.dir,
            &place(&format!("{name}-floats")),
            Precision::Fp32,
            None,
        );
        export_into(&floats).unwrap();
        let from_checkpoint = integers(
            &case,
            &format!("{name}-direct"),
            Precision::Int4,
            Quantization::default(),
        );
        let from_bundle = Recipe {
            checkpoint: floats.bundle.clone(),
            bundle: place(&format!("{name}-again")),
            ..from_checkpoint.clone()
        };
        for recipe in [&from_checkpoint, &from_bundle] {
            export_into(recipe).unwrap();
        }
        let [direct, again] =
            [&from_checkpoint, &from_bundle].map(|recipe| Manifest::from_dir(&recipe.bundle).unwrap());
        for (file, entry) in direct.files.iter().filter(|(name, _)| name.starts_with("onnx/")) {
            assert_eq!(again.files.get(file), Some(entry), "{name}: {file}");
        }
    }
}

/// A copy of a case's checkpoint in which `damage` has changed the values of one matrix.
fn damaged(case: &Case, matrix: &str, damage: impl Fn(f32) -> f32) -> PathBuf {
    let folder = place("damaged-checkpoint");
    copy_folder(&case.dir, &folder);
    let path = folder.join("model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let names: serde_json::Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    let bounds = names[matrix]["data_offsets"].as_array().unwrap();
    let [start, end] = [0, 1].map(|i| 8 + header + bounds[i].as_u64().unwrap() as usize);
    for value in bytes[start..end].chunks_exact_mut(4) {
        let changed = damage(f32::from_le_bytes(value.try_into().unwrap()));
        value.copy_from_slice(&changed.to_le_bytes());
    }
    std::fs::write(path, bytes).unwrap();
    folder
}

#[test]
fn the_comparison_fails_when_a_layer_is_damaged() {
    let case = Case::load("llama");
    let sound = integers(&case, "sound", Precision::Int8, Quantization::default());
    export_into(&sound).unwrap();
    let passed = |bundle: &Path| verify(&sound, bundle, Some(&library()), &Quiet).unwrap().passed;
    assert!(
        passed(&sound.bundle),
        "{}",
        read_json(&sound.bundle.join("parity.json"))
    );
    let checkpoint = damaged(&case, "model.layers.1.mlp.down_proj.weight", |weight| {
        -2.0 * weight
    });
    let broken = Recipe {
        checkpoint,
        bundle: place("broken"),
        ..sound.clone()
    };
    export_into(&broken).unwrap();
    assert!(!passed(&broken.bundle));
    let report = read_json(&broken.bundle.join("parity.json"));
    assert!(!report["failures"].as_array().unwrap().is_empty(), "{report}");
}

/// A copy of a case's checkpoint that computes the same in f32, but whose vision tower overflows in 16 bits: in every
/// feed-forward layer one factor of the product is far too large, and what reads the product as much too small.
fn overflowing(case: &Case) -> PathBuf {
    let folder = place("overflowing-checkpoint");
    copy_folder(&case.dir, &folder);
    for file in std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
    {
        if file.extension().is_some_and(|ending| ending == "safetensors")
            && file.file_stem().unwrap() != "expected"
        {
            scale_feed_forward(&file, 2_f32.powi(22));
        }
    }
    folder
}

fn scale_feed_forward(path: &Path, factor: f32) {
    let mut bytes = std::fs::read(path).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let names: serde_json::Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    for (name, info) in names.as_object().unwrap() {
        let factor = match name {
            _ if !name.contains("visual.blocks.") => continue,
            _ if name.contains("mlp.up_proj") => factor,
            _ if name.ends_with("mlp.down_proj.weight") => 1.0 / factor,
            _ => continue,
        };
        let [start, end] = [0, 1].map(|i| 8 + header + info["data_offsets"][i].as_u64().unwrap() as usize);
        for value in bytes[start..end].chunks_exact_mut(4) {
            let scaled = f32::from_le_bytes(value.try_into().unwrap()) * factor;
            value.copy_from_slice(&scaled.to_le_bytes());
        }
    }
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn what_would_overflow_in_16_bits_stays_in_32() {
    let case = Case::load("nested_f32");
    let checkpoint = overflowing(&case);
    let features_of = |what: &str, guard| {
        let recipe = recipe(&checkpoint, &place(what), Precision::Fp16, None);
        export_into(&Recipe {
            guard,
            ..recipe.clone()
        })
        .unwrap();
        let engine = engine(&recipe.bundle, DEFAULT_PREFILL_CHUNK);
        let prompt = case.prompts["one_image"].prompt(engine.processor());
        let features = OrtText::new(&engine, prompt.input_ids.len()).features(&prompt);
        (features, Manifest::from_dir(&recipe.bundle).unwrap().islands)
    };
    let (expected, _) = case.tensor("one_image.image_features").unwrap();
    let (unguarded, none) = features_of("unguarded", false);
    assert!(
        none.is_empty() && unguarded.iter().any(|value| !value.is_finite()),
        "it does not overflow"
    );
    let (guarded, islands) = features_of("guarded", true);
    assert!(
        islands
            .keys()
            .all(|name| name.contains("visual.") && name.contains("mlp.")),
        "{islands:?}"
    );
    assert!(!islands.is_empty());
    let found = cosine(&expected, &guarded);
    assert!(found > 0.9999, "{found}");
}

#[test]
fn a_calm_checkpoint_has_no_islands() {
    let case = Case::load("nested_f32");
    let recipe = recipe(&case.dir, &place("calm"), Precision::Fp16, None);
    export_into(&Recipe {
        guard: true,
        ..recipe.clone()
    })
    .unwrap();
    assert!(Manifest::from_dir(&recipe.bundle).unwrap().islands.is_empty());
}

#[test]
fn a_bundle_that_loses_too_much_is_not_kept_and_the_worst_parts_are_named() {
    let case = Case::load("llama");
    let out = place("not-kept");
    // A model of 32 channels loses more by four bits than the bounds allow.
    let run = |more: &[&str]| {
        let mut command = lwv_quantize();
        command.arg(&case.dir).arg(&out).args([
            "--scheme",
            "int4",
            "--rounding",
            "nearest",
            "--block-size",
            "256",
        ]);
        lwv_tests::Run::of(command.args(more))
    };
    run(&[]).assert_failed(1, &["was not kept", "model.layers.", "--force", "parity.json"]);
    assert!(!out.exists() && out.with_file_name("quantized-not-kept.parity.json").exists());
    assert_eq!(run(&["--force", "--json"]).json()["parity"]["passed"], false);
    assert!(out.join("lwv.json").exists());
}

#[test]
fn every_part_of_the_decoder_is_measured() {
    let case = Case::load("qwen2");
    let recipe = integers(&case, "measured", Precision::Int4, Quantization::default());
    let losses = sensitivity(&recipe, &Quiet).unwrap();
    let layers = read_json(&case.dir.join("config.json"))["num_hidden_layers"]
        .as_u64()
        .unwrap() as usize;
    assert_eq!(losses.len(), 2 * layers + 1);
    assert!(
        losses
            .iter()
            .all(|part| part.mean_divergence > 0.0 && part.weights > 0),
        "{losses:?}"
    );
}

#[test]
fn a_budget_gives_some_parts_more_bits() {
    let case = Case::load("qwen2");
    let quantization = Quantization {
        bits_per_weight: Some(6.5),
        ..Quantization::default()
    };
    let recipe = integers(&case, "budget", Precision::Int4, quantization);
    export_into(&recipe).unwrap();
    let entry = Manifest::from_dir(&recipe.bundle).unwrap().quantization.unwrap();
    assert!(
        entry.bits_per_weight > 5.0 && entry.bits_per_weight <= 6.5,
        "{entry:?}"
    );
    let overrides = &read_json(&recipe.bundle.join("recipe.json"))["quantization"]["overrides"];
    assert!(overrides.as_object().unwrap().values().all(|bits| bits == 8));
    assert!(!overrides.as_object().unwrap().is_empty());
}

#[test]
fn one_command_quantizes_compares_and_tells() {
    let case = Case::load("qwen2");
    let (floats, out) = (place("command-floats"), place("command-out"));
    let mut command = lwv_export();
    command.args([&case.dir, &floats]).arg("--fp32");
    lwv_tests::Run::of(command.arg("--json")).json();
    let mut command = lwv_quantize();
    command
        .arg(&floats)
        .arg(&out)
        .args(["--scheme", "int8", "--json"]);
    let result = lwv_tests::Run::of(&mut command).json();
    assert_eq!(result["parity"]["passed"], true);
    assert_eq!(result["graphs"][contract::DECODER]["precision"], "int8");
    let report = read_json(&out.join("parity.json"));
    for figure in [
        "mean_divergence",
        "percentile_99_divergence",
        "top_1_agreement",
        "perplexity_ratio",
    ] {
        assert!(report["held_out"][figure].is_number(), "{figure} in {report}");
    }
}

#[test]
fn what_cannot_be_is_refused() {
    let case = Case::load("qwen2");
    let out = place("refused");
    let run = |words: &[&str]| {
        let mut command = lwv_export();
        command.arg(&case.dir).arg(&out).args(words);
        lwv_tests::Run::of(&mut command)
    };
    run(&["--int4", "--block-size", "48"]).assert_failed(1, &["--block-size", "48"]);
    run(&["--fp16", "--rounding", "nearest"]).assert_failed(1, &["--rounding", "--int4"]);
    run(&["--int8", "--bits-per-weight", "5"]).assert_failed(1, &["--bits-per-weight", "--int4"]);
    run(&["--int4", "--calibration", "nowhere.jsonl"]).assert_failed(1, &["nowhere.jsonl"]);
    assert!(!out.exists());
    let integers = integers(
        &case,
        "source-of-integers",
        Precision::Int8,
        Quantization::default(),
    );
    export_into(&integers).unwrap();
    let mut command = lwv_quantize();
    command.arg(&integers.bundle).arg(&out).args(["--scheme", "int4"]);
    lwv_tests::Run::of(&mut command).assert_failed(1, &["source-of-integers", "integers already"]);
}
