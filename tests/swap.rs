//! A bundle in another's place takes the memory that it takes alone.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]

use std::path::{Path, PathBuf};
use std::process::Command;

use lwv_model::Precision;
use lwv_runtime::{Engine, ErrorKind};
use lwv_tests::{Case, Run, bundle, engine, library, random_checkpoint, scratch, workspace};
use serde_json::json;

/// The bundle of a model with random weights, so wide that they are most of what a process has in memory.
fn wide_bundle(layers: usize) -> PathBuf {
    let place = scratch().join(format!("{layers}-layers"));
    let change = json!({
        "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": layers, "num_attention_heads": 16,
        "num_key_value_heads": 16,
    });
    random_checkpoint(&Case::load("llama").dir, &change, &place);
    bundle(&place, Precision::Fp32)
}

/// Bytes in memory after writing with each of the bundles, in a process of its own.
fn memory(bundles: &[&Path]) -> Vec<f64> {
    let run = Run::of(
        Command::new(env!("CARGO"))
            .args([
                "run",
                "--quiet",
                "--locked",
                "-p",
                "lwv-examples",
                "--example",
                "swap_bundles",
                "--",
            ])
            .args(bundles)
            .current_dir(workspace())
            .env("LWV_ONNXRUNTIME", library()),
    );
    assert_eq!(run.status, Some(0), "{}", run.stderr);
    let bytes = |line: &str| line.rsplit(' ').nth(1).unwrap().parse().unwrap();
    run.stdout.lines().map(bytes).collect()
}

#[test]
fn the_memory_of_the_bundle_before_is_freed() {
    let (large, small) = (wide_bundle(12), wide_bundle(6));
    let alone = memory(&[&small])[0];
    let swapped = memory(&[&large, &small]);
    assert!(swapped[0] > 1.4 * alone, "{swapped:?} bytes, {alone} alone");
    assert!(
        (swapped[1] - alone).abs() < 0.1 * alone,
        "{swapped:?} bytes, {alone} alone"
    );
}

#[test]
fn an_engine_that_is_in_use_is_not_swapped() {
    let bundle = bundle(&Case::load("llama").dir, Precision::Fp32);
    let other = || Engine::builder(&bundle).threads(1).library(library());
    let refused = |engine: Engine| engine.swap(other()).err().unwrap();
    let first = engine(&bundle, 64);
    let mut session = first.session().unwrap();
    let error = refused(first);
    assert_eq!(error.kind(), ErrorKind::Setting);
    assert!(error.to_string().contains("drop its sessions"), "{error}");
    session
        .extend(lwv_processor::Prompt {
            input_ids: vec![1, 2],
            images: Vec::new(),
        })
        .expect("the session goes on");
    let first = engine(&bundle, 64);
    let second = first.clone();
    refused(first);
    second.swap(other()).expect("the last handle can be swapped");
}
