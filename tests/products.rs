//! Products with weights of small integers by our own kernel beside ONNX Runtime's: the same graphs, scores as near to the
//! checkpoint's.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]

use std::path::{Path, PathBuf};

use lwv_export::{Quantization, Recipe};
use lwv_model::Precision;
use lwv_runtime::{Device, Engine};
use lwv_tests::{Case, Random, bundle, export_into, library, recipe, scratch};

/// Tokens that are read together: one, as many as are guessed, more than that.
const CHUNKS: [usize; 3] = [1, 17, 64];

const TOKENS: usize = 120;

/// Scores after every chunk of a text.
fn scores(bundle: &Path, chunk: usize, own: bool) -> Vec<f32> {
    let builder = Engine::builder(bundle).device(Device::Cpu).threads(2);
    let builder = builder.prefill_chunk(chunk).library(library());
    let builder = if own { builder } else { builder.library_kernels() };
    let engine = builder.build().unwrap();
    let mut decoder = engine.decoder().unwrap();
    decoder.reserve(TOKENS).unwrap();
    let axes = engine.bundle().config().position_axes();
    let last_id = engine.bundle().config().text.vocab_size - 1;
    let mut random = Random::new(11);
    let ids: Vec<u32> = (0..TOKENS).map(|_| random.between(0, last_id) as u32).collect();
    let mut scores = Vec::new();
    for (index, ids) in ids.chunks(chunk).enumerate() {
        let positions = index * chunk..index * chunk + ids.len();
        let positions: Vec<i64> = (0..axes)
            .flat_map(|_| positions.clone().map(|at| at as i64))
            .collect();
        decoder.embed(ids).unwrap();
        decoder.prefill(ids.len(), &positions).unwrap();
        scores.extend_from_slice(decoder.logits());
    }
    scores
}

fn integers(precision: Precision, block_size: usize) -> PathBuf {
    let folder = scratch().join(format!("products-{precision:?}-{block_size}"));
    let case = Case::load("llama");
    let quantization = Quantization {
        block_size,
        ..Quantization::default()
    };
    let recipe = Recipe {
        quantization,
        ..recipe(&case.dir, &folder, precision, None)
    };
    export_into(&recipe).unwrap();
    folder
}

/// Mean square of differences.
fn distance(a: &[f32], b: &[f32]) -> f64 {
    let squares = a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2));
    squares.sum::<f64>() / a.len() as f64
}

#[test]
fn scores_are_as_near_to_the_checkpoint() {
    let floats = bundle(&Case::load("llama").dir, Precision::Fp32);
    for (precision, block_size) in [
        (Precision::Int4, 32),
        (Precision::Int8, 32),
        (Precision::Int8, 16),
    ] {
        let integers = integers(precision, block_size);
        for chunk in CHUNKS {
            let exact = scores(&floats, chunk, false);
            let [own, of_library] = [true, false].map(|own| scores(&integers, chunk, own));
            let [own, of_library] = [&own, &of_library].map(|scores| distance(scores, &exact));
            assert!(
                own <= 1.1 * of_library,
                "{precision:?}, blocks of {block_size}, chunks of {chunk}: {own}, ONNX Runtime {of_library}"
            );
        }
    }
}
