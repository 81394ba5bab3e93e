//! Attention by our own kernel beside ONNX Runtime's: the same graphs, the same texts.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]

use std::path::{Path, PathBuf};

use lwv_export::{Quantization, Recipe};
use lwv_model::Precision;
use lwv_runtime::{Device, Engine};
use lwv_tests::{Case, Random, bundle, export_into, library, random_checkpoint, recipe, scratch};
use serde_json::json;

/// Furthest that scores may be apart: sums of 32 bits in another order.
const ROUNDING: f32 = 2e-5;

/// How far scores may be apart where something is rounded to 8 bits, as a part of how far that moves them at all. A value next to
/// a half may round the other way after sums in another order, but few are.
const ROUNDED_OTHERWISE: f32 = 0.5;

fn engine(bundle: &Path, chunk: usize, own: bool) -> Engine {
    let builder = Engine::builder(bundle).device(Device::Cpu).threads(2);
    let builder = builder.prefill_chunk(chunk).library(library());
    let builder = if own { builder } else { builder.library_kernels() };
    builder.build().unwrap()
}

/// Scores after prompts of growing length, and after going back and on.
fn scores(engine: &Engine) -> Vec<Vec<f32>> {
    let mut decoder = engine.decoder().unwrap();
    // Little first, so that the cache has to grow.
    decoder.reserve(8).unwrap();
    let axes = engine.bundle().config().position_axes();
    let last_id = engine.bundle().config().text.vocab_size - 1;
    let mut random = Random::new(7);
    let mut scores = Vec::new();
    for count in [1, 1, 6, 60, 1, 150, 3, 1] {
        if count == 3 {
            decoder.truncate(100);
        }
        let start = decoder.length();
        decoder.reserve(start + count).unwrap();
        let ids: Vec<u32> = (0..count).map(|_| random.between(0, last_id) as u32).collect();
        for (index, ids) in ids.chunks(decoder.chunk()).enumerate() {
            let first = start + index * decoder.chunk();
            let positions: Vec<i64> = (0..axes)
                .flat_map(|_| (first..first + ids.len()).map(|position| position as i64))
                .collect();
            decoder.embed(ids).unwrap();
            decoder.prefill(ids.len(), &positions).unwrap();
        }
        scores.push(decoder.logits().to_vec());
    }
    scores
}

/// How far two texts' scores are apart at most.
fn furthest(a: &[Vec<f32>], b: &[Vec<f32>]) -> f32 {
    let scores = a.iter().flatten().zip(b.iter().flatten());
    scores.fold(0.0, |furthest, (a, b)| f32::max(furthest, (a - b).abs()))
}

/// Compares scores of both kernels, in chunks of several sizes.
fn compare(bundle: &Path, limit: f32) {
    for chunk in [64, 17, 512] {
        let [own, of_library] = [true, false].map(|own| scores(&engine(bundle, chunk, own)));
        let apart = furthest(&own, &of_library);
        assert!(
            apart <= limit,
            "{}, chunk {chunk}: {apart}, {limit} is allowed",
            bundle.display()
        );
        assert_ne!(own, of_library, "both were computed by the same kernel");
    }
}

#[test]
fn floats_give_the_same_scores() {
    for name in ["llama", "nested_f32"] {
        compare(&bundle(&Case::load(name).dir, Precision::Fp32), ROUNDING);
    }
}

/// Queries, keys and values in one tensor, rotated inside.
#[test]
fn packed_rows_give_the_same_scores() {
    let bytes = integers(
        &Case::load("llama").dir,
        "attention-int8",
        Quantization::default(),
    );
    let floats = bundle(&Case::load("llama").dir, Precision::Fp32);
    let [rounded, exact] = [&bytes, &floats].map(|bundle| scores(&engine(bundle, 64, false)));
    compare(&bytes, ROUNDED_OTHERWISE * furthest(&rounded, &exact));
}

#[test]
fn eight_bits_give_the_same_scores() {
    compare_eight_bits(&Case::load("llama").dir, "attention");
}

/// Heads as wide as those of real models, whose bytes may lie in blocks.
#[test]
fn eight_bits_of_wide_heads_give_the_same_scores() {
    for dim in [64, 128] {
        let name = format!("attention-{dim}");
        let checkpoint = scratch().join(&name);
        random_checkpoint(&Case::load("llama").dir, &json!({"head_dim": dim}), &checkpoint);
        compare_eight_bits(&checkpoint, &name);
    }
}

fn compare_eight_bits(checkpoint: &Path, name: &str) {
    let quantization = Quantization {
        int8_cache: true,
        ..Quantization::default()
    };
    let floats = integers(
        checkpoint,
        &format!("{name}-float-cache"),
        Quantization::default(),
    );
    let bytes = integers(checkpoint, &format!("{name}-int8-cache"), quantization);
    let [with, without] = [&bytes, &floats].map(|bundle| scores(&engine(bundle, 64, false)));
    let moved = furthest(&with, &without);
    assert!(moved > 0.0, "the cache changes nothing");
    compare(&bytes, ROUNDED_OTHERWISE * moved);
}

fn integers(checkpoint: &Path, name: &str, quantization: Quantization) -> PathBuf {
    let folder = scratch().join(name);
    let recipe = Recipe {
        quantization,
        ..recipe(checkpoint, &folder, Precision::Int8, None)
    };
    export_into(&recipe).unwrap();
    folder
}
