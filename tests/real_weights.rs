//! SmolLM2-135M, real weights: what the importer makes of its GGUF file, and what bundle and candle make of that, against
//! transformers.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use lwv_model::{Checkpoint, Logits, Precision};
use lwv_runtime::{
    CancelToken, Device, Engine, ErrorKind, FinishReason, GenerationSettings, SamplerSettings,
};
use lwv_tests::{
    Difference, OrtText, bundle, cancelled, engine, fixtures, highest, library, read_json, workspace,
};
use lwv_train::Network;
use serde_json::Value;
use sha2::{Digest, Sha256};

/// Largest difference of a logit in f32. These logits reach 30, where f32 itself steps by 2e-6, and are sums over
/// 30 layers.
const LOGITS: f32 = 1e-4;

fn checkpoint() -> PathBuf {
    let folder = workspace().join(".cache/smollm2");
    assert!(
        folder.join("model.safetensors").exists(),
        "run scripts/check, which makes {}",
        folder.display()
    );
    folder
}

fn expected() -> Value {
    read_json(&fixtures().join("smollm2/expected.json"))
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

#[test]
#[ignore = "needs SmolLM2's weights; scripts/check fetches them and runs this"]
fn the_importer_makes_the_same_tensors() {
    let checkpoint = Checkpoint::open(&checkpoint()).unwrap();
    for (name, tensor) in expected()["tensors"].as_object().unwrap() {
        let shape: Vec<usize> = serde_json::from_value(tensor["shape"].clone()).unwrap();
        let info = checkpoint.find(name, &shape).unwrap();
        let digest: String = Sha256::digest(checkpoint.bytes(&info))
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        assert_eq!(digest, tensor["sha256"].as_str().unwrap(), "{name}");
    }
}

#[test]
#[ignore = "needs SmolLM2's weights; scripts/check fetches them and runs this"]
fn logits_are_those_of_transformers() {
    let recorded = Checkpoint::open_file(&fixtures().join("smollm2/expected.safetensors")).unwrap();
    let values = |name: &str| recorded.to_f32(&recorded.info(name).unwrap()).unwrap();
    let expected = expected();
    let stride = expected["vocabulary_stride"].as_u64().unwrap() as usize;
    let mut network = Network::open(&checkpoint(), None).unwrap();
    for name in ["chat", "raw"] {
        let prompt = &expected["prompts"][name];
        network.reset();
        let logits = network
            .extend(&ids(&prompt["input_ids"]), &[], Logits::EveryPosition)
            .unwrap();
        let logits: Vec<Vec<f32>> = logits.to_vec2().unwrap();
        let mut difference = Difference::default();
        let thinned = values(&format!("{name}.thinned_logits"));
        let positions = ids(&prompt["positions"]);
        for (position, expected) in positions
            .iter()
            .zip(thinned.chunks_exact(thinned.len() / positions.len()))
        {
            let row = &logits[*position as usize];
            let got: Vec<f32> = row.iter().step_by(stride).copied().collect();
            difference.add(|| format!("{name} position {position}"), expected, &got);
        }
        if name == "chat" {
            difference.add(
                || "chat, last position".into(),
                &values("chat.last_logits"),
                logits.last().unwrap(),
            );
        }
        difference.assert_within(&format!("candle, {name}"), LOGITS);
    }

    let engine = engine(&bundle(&checkpoint(), Precision::Fp32), 512);
    let prompt = engine
        .processor()
        .raw_prompt(expected["prompts"]["chat"]["text"].as_str().unwrap(), &[])
        .unwrap();
    assert_eq!(prompt.input_ids, ids(&expected["prompts"]["chat"]["input_ids"]));
    let mut text = OrtText::new(&engine, 64);
    text.extend(&prompt, |_, _| ());
    let mut difference = Difference::default();
    difference.add(
        || "chat, last position".into(),
        &values("chat.last_logits"),
        &text.logits(),
    );
    difference.assert_within("ONNX Runtime, chat", LOGITS);
}

#[test]
#[ignore = "needs SmolLM2's weights; scripts/check fetches them and runs this"]
fn two_hundred_greedy_tokens_are_those_of_transformers() {
    let expected = expected();
    let engine = engine(&bundle(&checkpoint(), Precision::Fp32), 512);
    for name in ["chat", "raw"] {
        let prompt = &expected["prompts"][name];
        let greedy = ids(&prompt["greedy_ids"]);
        assert_eq!(greedy.len(), 200);
        let mut text = OrtText::new(&engine, 300);
        let input_ids = ids(&prompt["input_ids"]);
        text.extend(
            &lwv_processor::Prompt {
                input_ids,
                images: Vec::new(),
            },
            |_, _| (),
        );
        let mut written = Vec::new();
        while written.len() < greedy.len() {
            let token = highest(&text.logits());
            written.push(token);
            text.step(token);
        }
        assert_eq!(written, greedy, "{name}");
    }
}

/// Within a quarter of a second, whatever it is at.
#[test]
#[ignore = "needs SmolLM2's weights; scripts/check fetches them and runs this"]
fn cancelling_ends_loading_reading_and_writing() {
    let folder = bundle(&checkpoint(), Precision::Fp32);
    let builder = || Engine::builder(&folder).device(Device::Cpu).library(library());
    let started = Instant::now();
    let engine = builder().build().unwrap();
    let whole = started.elapsed();
    let load = |cancel: &CancelToken| builder().cancel(cancel.clone()).build().err();
    let error = cancelled(whole / 3, load, Option::is_some).unwrap();
    assert_eq!(error.kind(), ErrorKind::Cancelled);

    let write = |prompt: &str, cancel: &CancelToken| {
        let mut session = engine.session().unwrap();
        session
            .extend(engine.processor().raw_prompt(prompt, &[]).unwrap())
            .unwrap();
        let settings = GenerationSettings {
            sampler: SamplerSettings::greedy(),
            ignore_eos: true,
            max_new_tokens: 4000,
            cancel: cancel.clone(),
            ..GenerationSettings::default()
        };
        let output = session.generate(settings).unwrap().complete().unwrap();
        assert_eq!(output.reason, FinishReason::Cancelled);
        (
            session.tokens().len() - session.cached_tokens(),
            output.token_ids.len(),
        )
    };
    let long = "The lighthouse keeper wrote down the weather. ".repeat(400);
    let while_reading = |(left, written): &(usize, usize)| *left > 0 && *written == 0;
    cancelled(
        Duration::from_millis(400),
        |cancel| write(&long, cancel),
        while_reading,
    );
    let while_writing = |(_, written): &(usize, usize)| (1..4000).contains(written);
    cancelled(
        Duration::from_millis(600),
        |cancel| write("Tea is", cancel),
        while_writing,
    );
}
