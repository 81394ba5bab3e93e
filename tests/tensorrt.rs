//! Bundles for TensorRT, run on the CPU: integers that its engines take, and a cache that is joined.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]

use std::path::{Path, PathBuf};

use lwv_export::{ActivationRange, Calibration, Quantization, Recipe, Rounding};
use lwv_model::{Dimension, Manifest, Precision, Target, TensorRtVersion, contract};
use lwv_runtime::{DEFAULT_PREFILL_CHUNK, Device, Engine};
use lwv_tests::{
    Case, ExpectedPrompt, OnnxFile, OrtText, bundle, bundle_for, bundle_for_tensorrt, cosine, engine,
    export_into, least_cosine, library, lwv_export, random_checkpoint, recipe, scratch,
};
use serde_json::json;

/// Pictures with a tied head, text with an untied one, and pictures in tiles.
const CASES: [&str; 3] = ["nested_f32", "qwen2", "idefics3"];

fn place(name: &str) -> PathBuf {
    scratch().join(format!("tensorrt-{name}"))
}

fn integers(case: &Case, name: &str, precision: Precision, quantization: Quantization) -> Recipe {
    Recipe {
        target: Target::TensorRt,
        quantization: Quantization {
            calibration: Calibration {
                tokens: Some(600),
                ..Calibration::default()
            },
            ..quantization
        },
        ..recipe(&case.dir, &place(name), precision, None)
    }
}

fn export_integers(case: &Case, name: &str, precision: Precision, quantization: Quantization) -> PathBuf {
    let recipe = integers(case, name, precision, quantization);
    export_into(&recipe).unwrap();
    recipe.bundle
}

/// Least cosine of features with transformers'.
fn feature_cosine(case: &Case, bundle: &Path) -> f64 {
    let engine = engine(bundle, DEFAULT_PREFILL_CHUNK);
    let (expected, _) = case.tensor("one_image.image_features").unwrap();
    let prompt = case.prompts["one_image"].prompt(engine.processor());
    cosine(&expected, &OrtText::new(&engine, 1).features(&prompt))
}

#[test]
fn rounded_inputs_change_little_in_both_towers() {
    for name in CASES {
        let case = Case::load(name);
        for range in [
            ActivationRange::LeastError,
            ActivationRange::Largest,
            ActivationRange::Percentile,
            ActivationRange::Entropy,
        ] {
            let quantization = Quantization {
                activation_range: range,
                ..Quantization::default()
            };
            let bundle = export_integers(&case, &format!("{name}-{range:?}"), Precision::Int8, quantization);
            let found = least_cosine(&case, &bundle);
            assert!(found > 0.98, "{name}, {range:?}: {found}");
            if case.has_vision {
                let found = feature_cosine(&case, &bundle);
                assert!(found > 0.995, "{name}, {range:?}: features {found}");
            }
            let calibration = Manifest::from_dir(&bundle)
                .unwrap()
                .quantization
                .unwrap()
                .calibration;
            assert_eq!(calibration.unwrap().sha256.len(), 64);
        }
    }
}

#[test]
fn four_bits_lose_more_and_leave_the_tower_alone() {
    for name in CASES {
        let case = Case::load(name);
        for rounding in [Rounding::Nearest, Rounding::Compensated] {
            let quantization = Quantization {
                rounding,
                ..Quantization::default()
            };
            let bundle = export_integers(
                &case,
                &format!("{name}-{rounding:?}"),
                Precision::Int4,
                quantization,
            );
            let found = least_cosine(&case, &bundle);
            assert!(found > 0.75 && found < 0.9999, "{name}, {rounding:?}: {found}");
            let manifest = Manifest::from_dir(&bundle).unwrap();
            if case.has_vision {
                assert_eq!(
                    manifest.graphs[contract::VISION_ENCODER].precision,
                    Precision::Fp16
                );
                assert!(feature_cosine(&case, &bundle) > 0.9999);
            }
            assert_eq!(manifest.graphs[contract::DECODER].opset, 21);
        }
    }
}

/// What the fixtures' prompts and pictures need lies inside the sizes that engines are built for.
#[test]
fn every_free_dimension_has_a_profile() {
    for name in CASES {
        check_profiles(&Case::load(name));
    }
}

fn check_profiles(case: &Case) {
    let bundle = bundle_for(Target::TensorRt, &case.dir, Precision::Fp32);
    let manifest = Manifest::from_dir(&bundle).unwrap();
    for graph in manifest.graphs.values() {
        let profiles = &manifest.profiles[&graph.file];
        for input in &graph.contract.inputs {
            let is_free = input.dims.iter().any(|dim| matches!(dim, Dimension::Symbol(_)));
            assert_eq!(profiles.contains_key(&input.name), is_free, "{}", input.name);
            let Some(profile) = profiles.get(&input.name) else {
                continue;
            };
            let sizes = profile.min.iter().zip(&profile.opt).zip(&profile.max);
            for (((min, opt), max), dim) in sizes.zip(&input.dims) {
                assert!(min <= opt && opt <= max, "{}: {profile:?}", input.name);
                if let Dimension::Size(size) = dim {
                    assert_eq!([min, max], [size, size], "{}", input.name);
                }
            }
        }
    }
    let engine = engine(&bundle, usize::MAX);
    let longest = manifest.profiles[&contract::graph_file(contract::DECODER)][contract::INPUTS_EMBEDS].max[1];
    assert_eq!(engine.decoder().unwrap().chunk(), longest);
}

/// Going back and on again gives what a text gives that never went there, in memory of ours and in memory of the provider's, where
/// a card has the cache.
#[test]
fn a_joined_cache_goes_back() {
    let case = Case::load("qwen2");
    for precision in [Precision::Fp32, Precision::Fp16] {
        let bundle = bundle_for(Target::TensorRt, &case.dir, precision);
        let ours = Engine::builder(&bundle)
            .device(Device::Cpu)
            .threads(1)
            .library(library());
        goes_back(&ours.build().unwrap());
        let theirs = Engine::builder(&bundle)
            .device(Device::Cpu)
            .threads(1)
            .library(library());
        goes_back(&theirs.provider_memory().build().unwrap());
    }
}

fn goes_back(engine: &Engine) {
    let logits = |ids: &[u32], back: Option<(usize, &[u32])>| {
        let mut decoder = engine.decoder().unwrap();
        decoder.reserve(4).unwrap();
        let mut add = |ids: &[u32], kept: usize| {
            decoder.truncate(kept);
            let start = decoder.length();
            decoder.reserve(start + ids.len()).unwrap();
            decoder.embed(ids).unwrap();
            let positions: Vec<i64> = (start..start + ids.len()).map(|at| at as i64).collect();
            decoder.prefill(ids.len(), &positions).unwrap();
        };
        add(ids, 0);
        if let Some((length, more)) = back {
            add(more, length);
        }
        decoder.logits().to_vec()
    };
    let straight = logits(&[5, 6, 7, 40, 41, 42, 43], None);
    let around = logits(&[5, 6, 7, 8, 9, 10], Some((3, &[40, 41, 42, 43])));
    assert!(cosine(&straight, &around) > 0.999_999_9);
    assert!(cosine(&straight, &logits(&[5, 6, 7, 8, 9, 10, 43], None)) < 0.999);
}

/// Operators that came with a version are in graphs for it and for no older one.
#[test]
fn newer_versions_have_newer_operators() {
    let case = Case::load(CASES[0]);
    let operators = [
        ("Attention", 14),
        ("RMSNormalization", 15),
        ("RotaryEmbedding", 15),
    ];
    for minor in [3, 13, 14, 15] {
        let version = TensorRtVersion::new(10, minor);
        let bundle = bundle_for_tensorrt(version, &case.dir, Precision::Fp16);
        let manifest = Manifest::from_dir(&bundle).unwrap();
        assert_eq!(manifest.tensorrt_version, Some(version));
        assert_eq!(
            manifest.graphs[contract::DECODER].opset,
            if minor < 14 { 18 } else { 23 }
        );
        let decoder = OnnxFile::read(&bundle, contract::DECODER);
        let used = decoder.operators();
        for (name, since) in operators {
            assert_eq!(used.contains(name), since <= minor, "{name} for {version}");
        }
    }
    let manifest = Manifest::from_dir(&bundle(&case.dir, Precision::Fp16)).unwrap();
    assert_eq!(manifest.tensorrt_version, None);
}

/// In a tower of several heads, which no fixture has wide enough for attention in one operator.
#[test]
fn attention_in_one_operator_sees_the_same_pictures() {
    let case = Case::load("nested_f32");
    let checkpoint = place("several-heads");
    let vision = json!({"vision_config": {"hidden_size": 32, "num_heads": 2}});
    random_checkpoint(&case.dir, &vision, &checkpoint);
    let features = |bundle: &Path| -> Vec<Vec<f32>> {
        let engine = engine(bundle, DEFAULT_PREFILL_CHUNK);
        let prompts = case.prompts.values().filter(|prompt| !prompt.images.is_empty());
        let of_prompt =
            |prompt: &ExpectedPrompt| OrtText::new(&engine, 1).features(&prompt.prompt(engine.processor()));
        prompts.map(of_prompt).collect()
    };
    let expected = features(&bundle(&checkpoint, Precision::Fp32));
    assert!(expected.len() > 2);
    for minor in [13, 14, 15] {
        let version = TensorRtVersion::new(10, minor);
        let bundle = bundle_for_tensorrt(version, &checkpoint, Precision::Fp16);
        let tower = OnnxFile::read(&bundle, contract::VISION_ENCODER);
        assert_eq!(tower.operators().contains("Attention"), minor > 13);
        for (expected, found) in expected.iter().zip(features(&bundle)) {
            let found = cosine(expected, &found);
            assert!(found > 0.9999, "{version}: {found}");
        }
    }
}

#[test]
fn integers_go_with_newer_operators() {
    let case = Case::load(CASES[0]);
    for (precision, least) in [(Precision::Int8, 0.98), (Precision::Int4, 0.75)] {
        let recipe = Recipe {
            tensorrt_version: Some(TensorRtVersion::new(10, 15)),
            ..integers(
                &case,
                &format!("newer-{precision:?}"),
                precision,
                Quantization::default(),
            )
        };
        export_into(&recipe).unwrap();
        let found = least_cosine(&case, &recipe.bundle);
        assert!(found > least, "{precision:?}: {found}");
    }
}

#[test]
fn a_version_must_be_one_that_graphs_are_written_for() {
    let case = Case::load("qwen2");
    let out = place("version");
    for (words, told) in [
        (&["--tensorrt-version", "10.15"][..], "--target tensorrt"),
        (&["--target", "tensorrt", "--tensorrt-version", "8.6"], "10.3"),
    ] {
        let mut command = lwv_export();
        command.arg(&case.dir).arg(&out).args(words);
        lwv_tests::Run::of(&mut command).assert_failed(1, &["--tensorrt-version", told]);
    }
    assert!(!out.exists());
}

#[test]
fn what_engines_cannot_do_is_refused() {
    let case = Case::load("qwen2");
    let out = place("refused");
    for (option, words) in [
        ("--int8-cache", &["--int4", "--int8-cache"][..]),
        ("--head-bits", &["--int4", "--head-bits", "8"]),
        ("--bits-per-weight", &["--int4", "--bits-per-weight", "5.5"]),
    ] {
        let mut command = lwv_export();
        command
            .arg(&case.dir)
            .arg(&out)
            .args(["--target", "tensorrt"])
            .args(words);
        lwv_tests::Run::of(&mut command).assert_failed(1, &[option, "--target ort"]);
    }
    assert!(!out.exists());
}
