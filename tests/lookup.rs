//! Scores of several tokens in one run, and texts that are written by guesses.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]

use std::path::{Path, PathBuf};

use lwv_model::{Manifest, Precision, Target, contract};
use lwv_processor::Prompt;
use lwv_runtime::{Engine, GenerationSettings, Output, SamplerSettings};
use lwv_tests::{
    Case, Difference, OrtText, bundle, bundle_for, copy_folder, engine, read_json, scratch, write_json,
};
use onnx_protobuf::{Message, ModelProto};

/// Most that a score may differ when its token is computed with others: other sums of the same numbers.
const TOGETHER: f32 = 1e-5;

/// Guesses at once.
const LOOKUP: usize = 8;

/// A tiny model whose attention is our own, which takes the same whatever comes with it.
const OWN: [&str; 1] = ["llama"];

/// With one whose heads have a width that ONNX Runtime computes, and whose positions have three axes. Its last bits differ, and
/// layers of small integers, which round what they read, make more of them: so it is compared in floats.
const BOTH: [&str; 2] = ["llama", "flat_f32"];

/// Models to compare in each precision.
const COMPARED: [(Precision, &[&str]); 3] = [
    (Precision::Fp32, &BOTH),
    (Precision::Int8, &OWN),
    (Precision::Int4, &OWN),
];

fn each(names: &[&str], precision: Precision, mut check: impl FnMut(&Case, &Path)) {
    for name in names {
        let case = Case::load(name);
        check(&case, &bundle(&case.dir, precision));
    }
}

/// Prompts of a case, with what they were answered.
fn prompts<'c>(case: &'c Case, engine: &'c Engine) -> impl Iterator<Item = (&'c String, Prompt, &'c [u32])> {
    case.prompts.iter().map(|(name, expected)| {
        let prompt = expected.prompt(engine.processor());
        (name, prompt, &expected.greedy_ids[..])
    })
}

/// The answer twice in the prompt, so that there is something to guess: the model is made of random weights.
fn with_answer(mut prompt: Prompt, answer: &[u32]) -> Prompt {
    prompt.input_ids.extend(answer);
    prompt.input_ids.extend(answer);
    prompt
}

fn text(engine: &Engine, prompt: &Prompt) -> OrtText {
    let mut text = OrtText::new(engine, prompt.input_ids.len() + 64);
    text.extend(prompt, |_, _| ());
    text
}

#[test]
fn several_tokens_are_scored_as_one_by_one() {
    for (precision, names) in COMPARED {
        let mut difference = Difference::default();
        each(names, precision, |case, bundle| {
            let engine = engine(bundle, 64);
            for (name, prompt, answer) in prompts(case, &engine) {
                let (mut single, mut together) = (text(&engine, &prompt), text(&engine, &prompt));
                for ids in [&answer[..2], &answer[2..11], &answer[11..12], &answer[12..29]] {
                    let rows = together.steps(ids, ids.len());
                    for (at, (id, row)) in ids.iter().zip(&rows).enumerate() {
                        single.step(*id);
                        let place = || format!("{} {name}, {at} of {}", case.name, ids.len());
                        difference.add(place, &single.logits(), row);
                    }
                    assert_eq!(together.logits(), rows[rows.len() - 1]);
                }
            }
        });
        difference.assert_within(&format!("{precision:?}, tokens together"), TOGETHER);
    }
}

#[test]
fn what_is_taken_out_of_the_cache_leaves_nothing() {
    let mut difference = Difference::default();
    each(&BOTH, Precision::Fp32, |case, bundle| {
        let engine = engine(bundle, 64);
        for (name, prompt, answer) in prompts(case, &engine) {
            let (mut single, mut together) = (text(&engine, &prompt), text(&engine, &prompt));
            // The first three are right, the others are not.
            let mut guessed = answer[..9].to_vec();
            guessed[3..].iter_mut().for_each(|id| *id = (*id + 1) % 300);
            together.steps(&guessed, 3);
            answer[..4].iter().for_each(|id| single.step(*id));
            together.step(answer[3]);
            let place = || format!("{} {name}", case.name);
            difference.add(place, &single.logits(), &together.logits());
        }
    });
    difference.assert_within("after guesses that were wrong", TOGETHER);
}

fn write(engine: &Engine, prompt: &Prompt, sampler: &SamplerSettings, lookup_tokens: usize) -> Output {
    let mut session = engine.session().unwrap();
    session.extend(prompt.clone()).unwrap();
    let settings = GenerationSettings {
        sampler: sampler.clone(),
        max_new_tokens: 96,
        ignore_eos: true,
        lookup_tokens,
        ..GenerationSettings::default()
    };
    session.generate(settings).unwrap().complete().unwrap()
}

#[test]
fn texts_are_the_same_with_guesses() {
    let sampled = |seed| SamplerSettings {
        temperature: 0.7,
        repetition_penalty: 1.1,
        seed,
        ..SamplerSettings::default()
    };
    let samplers = [SamplerSettings::greedy(), sampled(1), sampled(2)];
    let (mut guessed, mut accepted) = (0, 0);
    for (precision, names) in COMPARED {
        each(names, precision, |case, bundle| {
            let engine = engine(bundle, 64);
            for (name, prompt, answer) in prompts(case, &engine) {
                let prompt = with_answer(prompt, answer);
                for sampler in &samplers {
                    let plain = write(&engine, &prompt, sampler, 0);
                    let looked_up = write(&engine, &prompt, sampler, LOOKUP);
                    assert_eq!(plain.token_ids, looked_up.token_ids, "{} {name}", case.name);
                    assert_eq!(plain.text, looked_up.text);
                    assert_eq!((plain.stats.guessed_tokens, plain.reason), (0, looked_up.reason));
                    guessed += looked_up.stats.guessed_tokens;
                    accepted += looked_up.stats.accepted_tokens;
                }
            }
        });
    }
    assert!(accepted > 100 && guessed >= accepted, "{accepted} of {guessed}");
}

/// A bundle as it was made before decoders scored several positions.
fn of_one_position(case: &Case) -> PathBuf {
    const NEW: [&str; 2] = [contract::SCORED_POSITIONS, contract::LAST_LOGITS];
    let (made, old) = (
        bundle(&case.dir, Precision::Fp32),
        scratch().join("of-one-position"),
    );
    copy_folder(&made, &old);
    copy_folder(&made.join("onnx"), &old.join("onnx"));
    let file = contract::graph_file(contract::DECODER);
    let bytes = std::fs::read(old.join(&file)).unwrap();
    let mut model = ModelProto::parse_from_bytes(&bytes).unwrap();
    let graph = model.graph.as_mut().unwrap();
    // The number is a constant of the graph then.
    graph.input.retain(|border| !NEW.contains(&border.name.as_str()));
    graph.output.retain(|border| !NEW.contains(&border.name.as_str()));
    let bytes = model.write_to_bytes().unwrap();
    std::fs::write(old.join(&file), &bytes).unwrap();
    let mut manifest = read_json(&old.join(Manifest::FILE));
    let decoder = manifest["graphs"][contract::DECODER].as_object_mut().unwrap();
    assert!(decoder.remove("optional_inputs").is_some());
    let outputs = decoder["outputs"].as_array_mut().unwrap();
    outputs.retain(|output| output["name"] != contract::LAST_LOGITS);
    manifest["files"][&file]["bytes"] = bytes.len().into();
    write_json(&old.join(Manifest::FILE), &manifest);
    old
}

#[test]
fn bundles_whose_decoder_scores_one_position_are_written_from_without_guesses() {
    let case = Case::load("llama");
    let bundles = [
        of_one_position(&case),
        bundle_for(Target::TensorRt, &case.dir, Precision::Fp32),
    ];
    for bundle in bundles {
        let engine = engine(&bundle, 64);
        assert_eq!(engine.decoder().unwrap().longest_step(), 1);
        for (name, prompt, answer) in prompts(&case, &engine) {
            let output = write(&engine, &prompt, &SamplerSettings::greedy(), LOOKUP);
            assert_eq!(output.token_ids[..answer.len()], *answer, "{name}");
            assert_eq!(output.stats.guessed_tokens, 0);
        }
    }
}
