//! How many threads a processor computes with is measured once for a bundle, and remembered.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]

use std::path::{Path, PathBuf};
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

/// A bundle with weights of 32 MiB and more.
fn wide(name: &str) -> PathBuf {
    let place = scratch().join(name);
    let change = json!({
        "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 3, "num_attention_heads": 16,
        "num_key_value_heads": 16,
    });
    random_checkpoint(&Case::load("llama").dir, &change, &place);
    bundle(&place, Precision::Fp32)
}

#[test]
fn threads_are_measured_once_for_a_bundle() {
    let wide = wide("wide");
    let folder = tempfile::tempdir().unwrap();
    // Other tests run meanwhile.
    let choices = ThreadChoices::new(folder.path()).beside_other_work();
    let choose = |builder: EngineBuilder| builder.choose_threads(choices.clone());

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

/// Programs that compute for nothing, until they are dropped.
#[cfg(target_os = "linux")]
struct OtherPrograms(Vec<std::process::Child>);

#[cfg(target_os = "linux")]
impl OtherPrograms {
    fn start(count: usize) -> Self {
        let endless = || {
            let mut shell = std::process::Command::new("sh");
            shell.args(["-c", "while :; do :; done"]).spawn().unwrap()
        };
        Self((0..count).map(|_| endless()).collect())
    }
}

#[cfg(target_os = "linux")]
impl Drop for OtherPrograms {
    fn drop(&mut self) {
        for program in &mut self.0 {
            let _ = program.kill();
            let _ = program.wait();
        }
    }
}

#[test]
#[cfg(target_os = "linux")]
fn what_is_measured_beside_other_programs_is_not_remembered() {
    let cores = std::thread::available_parallelism().unwrap().get();
    if cores == 1 {
        return;
    }
    let wide = wide("wide_and_disturbed");
    let folder = tempfile::tempdir().unwrap();
    let choose = |builder: EngineBuilder| builder.choose_threads(ThreadChoices::new(folder.path()));
    let usual = load(&wide, |builder| builder).0.threads();
    let others = OtherPrograms::start(cores);
    let (engine, measured) = load(&wide, choose);
    drop(others);
    assert!(!measured.is_empty());
    assert_eq!(engine.threads(), usual);
    let files = std::fs::read_dir(folder.path()).unwrap();
    assert_eq!(files.count(), 0, "nothing is remembered");
}
