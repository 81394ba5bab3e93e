//! Both engines against transformers: candle, and the exported bundle on ONNX Runtime.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]

use std::path::PathBuf;

use lwv_model::{Logits, Precision, Target, TensorRtVersion};
use lwv_processor::{Processor, Prompt};
use lwv_runtime::{DEFAULT_PREFILL_CHUNK, Engine, GenerationSettings, SamplerSettings};
use lwv_tests::{
    Case, Difference, ExpectedPrompt, OrtText, bundle, bundle_for, bundle_for_tensorrt, cosine, engine,
    highest,
};
use lwv_train::{Network, Tensor};

/// Most that a value of these may differ from transformers', computed in f32 by both.
const IMAGE_FEATURES: f32 = 1e-4;
const INPUTS_EMBEDS: f32 = 1e-4;
const LOGITS: f32 = 1e-4;

/// Least cosine between logits of an f16 bundle and those of transformers in f32.
const F16_COSINE: f64 = 0.9999;

/// A fixture keeps the logits of every fourth greedy step.
const STEP_STRIDE: usize = 4;

/// A chunk that divides no prompt of the fixtures, and cuts images apart.
const ODD_CHUNK: usize = 7;

const GREEDY_STEPS: usize = 64;

/// Versions of TensorRT that brought operators which graphs for them use.
const TENSORRT_VERSIONS: [TensorRtVersion; 2] = [TensorRtVersion::new(10, 14), TensorRtVersion::new(10, 15)];

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// A case's bundles, one for each target and version of it.
fn bundles(case: &Case, precision: Precision) -> Vec<PathBuf> {
    let targets = [Target::Ort, Target::TensorRt].map(|target| bundle_for(target, &case.dir, precision));
    let versions = TENSORRT_VERSIONS.map(|version| bundle_for_tensorrt(version, &case.dir, precision));
    targets.into_iter().chain(versions).collect()
}

/// Runs `check` on every prompt of every case with the case's bundles.
fn on_bundles(
    precision: Precision,
    chunk: usize,
    mut check: impl FnMut(&Case, &str, &ExpectedPrompt, &Engine),
) {
    for case in Case::all() {
        for bundle in bundles(&case, precision) {
            let engine = engine(&bundle, chunk);
            for (name, expected) in &case.prompts {
                assert_eq!(expected.greedy_ids.len(), GREEDY_STEPS, "{} {name}", case.name);
                check(&case, name, expected, &engine);
            }
        }
    }
}

/// Runs `check` on every prompt of every case with the case's network.
fn on_networks(mut check: impl FnMut(&Case, &str, &Prompt, &mut Network)) {
    for case in Case::all() {
        let mut network = Network::open(&case.dir, None).unwrap();
        let processor = case.processor();
        for (name, expected) in &case.prompts {
            network.reset();
            check(&case, name, &expected.prompt(&processor), &mut network);
        }
    }
}

#[test]
fn image_features_of_candle() {
    let mut features = Difference::default();
    on_networks(|case, name, prompt, network| {
        if let Some((expected, _)) = case.tensor(&format!("{name}.image_features")) {
            let got = values(&network.image_features(&prompt.images).unwrap());
            features.add(|| format!("{} {name}", case.name), &expected, &got);
        }
    });
    features.assert_within("candle, image features", IMAGE_FEATURES);
}

#[test]
fn image_features_of_the_bundle() {
    let mut features = Difference::default();
    on_bundles(
        Precision::Fp32,
        DEFAULT_PREFILL_CHUNK,
        |case, name, expected, engine| {
            if let Some((recorded, _)) = case.tensor(&format!("{name}.image_features")) {
                let prompt = expected.prompt(engine.processor());
                let got = OrtText::new(engine, 1).features(&prompt);
                features.add(|| format!("{} {name}", case.name), &recorded, &got);
            }
        },
    );
    features.assert_within("ONNX Runtime, image features", IMAGE_FEATURES);
}

#[test]
fn inputs_of_the_decoder() {
    let (mut candle, mut ort) = (Difference::default(), Difference::default());
    on_networks(|case, name, prompt, network| {
        if let Some((expected, _)) = case.tensor(&format!("{name}.inputs_embeds")) {
            let got = values(&network.embed(&prompt.input_ids, &prompt.images).unwrap());
            candle.add(|| format!("{} {name}", case.name), &expected, &got);
        }
    });
    on_bundles(
        Precision::Fp32,
        DEFAULT_PREFILL_CHUNK,
        |case, name, expected, engine| {
            if let Some((recorded, _)) = case.tensor(&format!("{name}.inputs_embeds")) {
                let prompt = expected.prompt(engine.processor());
                let mut text = OrtText::new(engine, prompt.input_ids.len());
                text.extend(&prompt, |embeds, _| {
                    ort.add(|| format!("{} {name}", case.name), &recorded, embeds)
                });
            }
        },
    );
    candle.assert_within("candle, embeddings", INPUTS_EMBEDS);
    ort.assert_within("ONNX Runtime, embeddings", INPUTS_EMBEDS);
}

#[test]
fn every_position_of_prompts_by_candle() {
    let mut logits = Difference::default();
    on_networks(|case, name, prompt, network| {
        if let Some((expected, shape)) = case.tensor(&format!("{name}.prompt_logits")) {
            assert_eq!(shape[0], prompt.input_ids.len());
            let got = network
                .extend(&prompt.input_ids, &prompt.images, Logits::EveryPosition)
                .unwrap();
            logits.add(|| format!("{} {name}", case.name), &expected, &values(&got));
        }
    });
    logits.assert_within("candle, logits of every position", LOGITS);
}

/// A bundle gives the last position's logits only, so here every token is a chunk of its own.
#[test]
fn every_position_of_prompts_by_the_bundle() {
    let mut logits = Difference::default();
    on_bundles(Precision::Fp32, 1, |case, name, expected, engine| {
        if let Some(rows) = case.rows(&format!("{name}.prompt_logits")) {
            let prompt = expected.prompt(engine.processor());
            let mut text = OrtText::new(engine, prompt.input_ids.len());
            let mut position = 0;
            text.extend(&prompt, |_, got| {
                let place = || format!("{} {name}, position {position}", case.name);
                logits.add(place, &rows[position], got);
                position += 1;
            });
            assert_eq!(position, rows.len());
        }
    });
    logits.assert_within("ONNX Runtime, logits of every position", LOGITS);
}

/// Compares the logits of greedy steps with those recorded, and each step's best token with the reference's, which is
/// then appended: so all tokens are those of greedy decoding as long as no assertion fails.
struct GreedySteps<'a> {
    place: String,
    ids: &'a [u32],
    recorded: Option<Vec<Vec<f32>>>,
}

impl<'a> GreedySteps<'a> {
    fn new(case: &Case, name: &str, expected: &'a ExpectedPrompt) -> Self {
        Self {
            place: format!("{} {name}", case.name),
            ids: &expected.greedy_ids,
            recorded: case.rows(&format!("{name}.step_logits")),
        }
    }

    /// The recorded logits of `step`, where there are some.
    fn logits(&self, step: usize) -> Option<&[f32]> {
        let rows = self
            .recorded
            .as_ref()
            .filter(|_| step.is_multiple_of(STEP_STRIDE))?;
        Some(&rows[step / STEP_STRIDE])
    }

    fn check(&self, step: usize, got: &[f32], difference: &mut Difference) {
        assert_eq!(highest(got), self.ids[step], "{}, token {step}", self.place);
        if let Some(expected) = self.logits(step) {
            difference.add(|| format!("{}, step {step}", self.place), expected, got);
        }
    }
}

#[test]
fn greedy_tokens_of_candle() {
    let mut logits = Difference::default();
    on_networks(|case, name, prompt, network| {
        let steps = GreedySteps::new(case, name, &case.prompts[name]);
        let mut got = network
            .extend(&prompt.input_ids, &prompt.images, Logits::LastPosition)
            .unwrap();
        for (step, id) in steps.ids.iter().enumerate() {
            steps.check(step, &values(&got), &mut logits);
            got = network.step(*id).unwrap();
        }
    });
    logits.assert_within("candle, logits of greedy steps", LOGITS);
}

#[test]
fn greedy_tokens_of_the_bundle() {
    let mut logits = Difference::default();
    on_bundles(
        Precision::Fp32,
        DEFAULT_PREFILL_CHUNK,
        |case, name, expected, engine| {
            let steps = GreedySteps::new(case, name, expected);
            let mut text = prefilled(engine, expected);
            for (step, id) in steps.ids.iter().enumerate() {
                steps.check(step, &text.logits(), &mut logits);
                text.step(*id);
            }
        },
    );
    logits.assert_within("ONNX Runtime, logits of greedy steps", LOGITS);
}

fn prefilled(engine: &Engine, expected: &ExpectedPrompt) -> OrtText {
    let prompt = expected.prompt(engine.processor());
    let mut text = OrtText::new(engine, prompt.input_ids.len() + GREEDY_STEPS);
    text.extend(&prompt, |_, _| ());
    text
}

#[test]
fn f16_image_features_point_the_same_way() {
    let mut least = (1.0, String::new());
    on_bundles(
        Precision::Fp16,
        DEFAULT_PREFILL_CHUNK,
        |case, name, expected, engine| {
            if let Some((recorded, _)) = case.tensor(&format!("{name}.image_features")) {
                let prompt = expected.prompt(engine.processor());
                let found = cosine(&recorded, &OrtText::new(engine, 1).features(&prompt));
                if found < least.0 {
                    least = (found, format!("{} {name}", case.name));
                }
            }
        },
    );
    report(&format!(
        "f16 image features, least cosine {:.7} at {}",
        least.0, least.1
    ));
    assert!(least.0 >= F16_COSINE, "cosine {} at {}", least.0, least.1);
}

#[test]
fn f16_bundles_point_the_same_way() {
    let mut least = (1.0, String::new());
    let mut compared = 0;
    on_bundles(
        Precision::Fp16,
        DEFAULT_PREFILL_CHUNK,
        |case, name, expected, engine| {
            let steps = GreedySteps::new(case, name, expected);
            let mut text = prefilled(engine, expected);
            for (step, id) in steps.ids.iter().enumerate() {
                if let Some(recorded) = steps.logits(step) {
                    let found = cosine(recorded, &text.logits());
                    assert!(!found.is_nan(), "{} step {step}", steps.place);
                    compared += 1;
                    if found < least.0 {
                        least = (found, format!("{}, step {step}", steps.place));
                    }
                }
                text.step(*id);
            }
        },
    );
    assert!(compared > 400, "{compared} steps were compared");
    report(&format!("f16, least cosine {:.7} at {}", least.0, least.1));
    assert!(least.0 >= F16_COSINE, "cosine {} at {}", least.0, least.1);
}

#[expect(clippy::print_stderr, reason = "shown with `--nocapture` and on failure")]
fn report(line: &str) {
    eprintln!("{line}");
}

/// What a session writes greedily after `turns`.
fn written(engine: &Engine, turns: Vec<Prompt>) -> Vec<u32> {
    let mut session = engine.session().unwrap();
    let settings = |max_new_tokens| GenerationSettings {
        sampler: SamplerSettings::greedy(),
        max_new_tokens,
        ..GenerationSettings::default()
    };
    let last = turns.len() - 1;
    for (index, turn) in turns.into_iter().enumerate() {
        session.extend(turn).unwrap();
        if index < last {
            // Nothing is written, but what is there goes into the cache.
            session.generate(settings(0)).unwrap().complete().unwrap();
            assert_eq!(session.cached_tokens(), session.tokens().len());
        }
    }
    session
        .generate(settings(GREEDY_STEPS))
        .unwrap()
        .complete()
        .unwrap()
        .token_ids
}

#[test]
fn sessions_write_the_same_tokens() {
    on_bundles(
        Precision::Fp32,
        DEFAULT_PREFILL_CHUNK,
        |case, name, expected, engine| {
            let prompt = expected.prompt(engine.processor());
            assert_eq!(
                written(engine, vec![prompt]),
                expected.greedy_ids,
                "{} {name}",
                case.name
            );
        },
    );
}

#[test]
fn small_chunks_write_the_same_tokens() {
    on_bundles(Precision::Fp32, ODD_CHUNK, |case, name, expected, engine| {
        let prompt = expected.prompt(engine.processor());
        assert_eq!(
            written(engine, vec![prompt]),
            expected.greedy_ids,
            "{} {name}",
            case.name
        );
    });
}

/// The conversation up to where the assistant speaks first, and the rest: what it said, and the second turn.
fn two_turns(expected: &ExpectedPrompt, processor: &Processor) -> [Prompt; 2] {
    let begins = ["<|im_start|>assistant\n", "Assistant:"];
    let find = |begins: &&str| expected.text.find(begins).map(|at| at + begins.len());
    let end = begins.iter().find_map(find).unwrap();
    let pictures = expected.pictures();
    let (first, second) = expected.text.split_at(end);
    let turns = [
        processor.raw_prompt(first, &pictures[..1]).unwrap(),
        processor.raw_continuation(second, &pictures[1..]).unwrap(),
    ];
    let ids = [&turns[0].input_ids[..], &turns[1].input_ids].concat();
    assert_eq!(ids, expected.input_ids);
    turns
}

#[test]
fn a_later_turn_with_its_image_extends_the_cache() {
    let mut logits = Difference::default();
    for case in Case::with_vision() {
        let expected = &case.prompts["two_turns"];
        let [first, second] = two_turns(expected, &case.processor());
        for chunk in [DEFAULT_PREFILL_CHUNK, ODD_CHUNK] {
            let engine = engine(&bundle(&case.dir, Precision::Fp32), chunk);
            let ids = written(&engine, vec![first.clone(), second.clone()]);
            assert_eq!(ids, expected.greedy_ids, "{}, chunks of {chunk}", case.name);
        }
        let mut network = Network::open(&case.dir, None).unwrap();
        network.reset();
        let steps = GreedySteps::new(&case, "two_turns", expected);
        network
            .extend(&first.input_ids, &first.images, Logits::LastPosition)
            .unwrap();
        let mut got = network
            .extend(&second.input_ids, &second.images, Logits::LastPosition)
            .unwrap();
        for (step, id) in steps.ids.iter().enumerate() {
            steps.check(step, &values(&got), &mut logits);
            got = network.step(*id).unwrap();
        }
    }
    logits.assert_within("candle, logits after a later turn", LOGITS);
}

/// Lest everything above passes with images that change nothing.
#[test]
fn images_matter() {
    for name in ["flat_f32", "idefics3"] {
        let case = Case::load(name);
        let engine = engine(&bundle(&case.dir, Precision::Fp32), DEFAULT_PREFILL_CHUNK);
        let expected = &case.prompts["one_image"];
        let mut prompt = expected.prompt(engine.processor());
        prompt.images[0].values.fill(0.0);
        assert_ne!(written(&engine, vec![prompt]), expected.greedy_ids, "{name}");
    }
}
