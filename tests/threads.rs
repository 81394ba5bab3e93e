//! How many threads a processor computes with is measured once for a bundle, and remembered.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]

use std::path::Path;
use std::sync::{Arc, Mutex};

use lwv_model::Precision;
use lwv_runtime::{Device, Engine, EngineBuilder, LoadProgress, ThreadChoices};
use lwv_tests::{Case, bundle, library, random_checkpoint, scratch};
use serde_json::json;

/// Loads a bundle; returns the engine and the numbers of threads that were measured.
fn load(bundle: &Path, settings: impl FnOnce(EngineBuilder) -> EngineBuilder) -> (Engine, Vec<usize>) {
    let measured = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&measured);
    let builder = Engine::builder(bundle)
        .device(Device::Cpu)
        .library(library())
        .on_progress(move |progress| {
            if let LoadProgress::Measuring {
                threads,
                index,
                count,
            } = progress
            {
                assert!(index < count, "{index} of {count}");
                seen.lock().unwrap().push(threads);
            }
        });
    let engine = settings(builder).build().unwrap();
    let measured = measured.lock().unwrap().clone();
    (engine, measured)
}

#[test]
fn threads_are_measured_once_for_a_bundle() {
    let place = scratch().join("wide");
    // Weights of 32 MiB and more.
    let change = json!({
        "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 3, "num_attention_heads": 16,
        "num_key_value_heads": 16,
    });
    random_checkpoint(&Case::load("llama").dir, &change, &place);
    let wide = bundle(&place, Precision::Fp32);
    let folder = tempfile::tempdir().unwrap();
    let choose = |builder: EngineBuilder| builder.choose_threads(ThreadChoices::new(folder.path()));

    let cores = std::thread::available_parallelism().unwrap().get();
    let (first, measured) = load(&wide, choose);
    if cores == 1 {
        assert!(measured.is_empty(), "there is no choice");
        return;
    }
    // Each number once, and the best of them without spinning.
    assert!(
        measured.len() >= 3 && measured[..measured.len() - 1].contains(measured.last().unwrap()),
        "{measured:?}"
    );
    assert!(measured.contains(&first.threads()), "{measured:?}");
    let (second, measured) = load(&wide, choose);
    assert_eq!(
        (second.threads(), measured),
        (first.threads(), vec![]),
        "remembered"
    );

    let (named, measured) = load(&wide, |builder| choose(builder).threads(1));
    assert_eq!(
        (named.threads(), measured),
        (1, vec![]),
        "who names a number gets it"
    );
    let small = bundle(&Case::load("llama").dir, Precision::Fp32);
    assert!(load(&small, choose).1.is_empty(), "too small to matter");
}
