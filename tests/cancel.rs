//! Whatever a model is at, cancelling ends it within a quarter of a second and keeps what was written.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use lwv_model::Precision;
use lwv_processor::RgbImage;
use lwv_runtime::{
    CancelToken, Device, Engine, EngineBuilder, ErrorKind, Event, FinishReason, GenerationSettings,
    LoadProgress, SamplerSettings, Session,
};
use lwv_tests::{Case, bundle, cancelled, library, random_checkpoint, scratch};
use serde_json::json;

/// The bundle of a model that is at work for a second or more: random weights of 100 MB, a vision tower of 16 layers.
fn slow_bundle() -> PathBuf {
    static CHECKPOINT: OnceLock<PathBuf> = OnceLock::new();
    let checkpoint = CHECKPOINT.get_or_init(|| {
        let place = scratch().join("slow");
        let change = json!({
            "hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8, "num_attention_heads": 64,
            "num_key_value_heads": 8,
            "vision_config": {"hidden_size": 256, "intermediate_size": 512, "num_heads": 4, "depth": 16,
                "out_hidden_size": 512},
        });
        random_checkpoint(&Case::load("flat_f32").dir, &change, &place);
        place
    });
    bundle(checkpoint, Precision::Fp32)
}

fn builder() -> EngineBuilder {
    Engine::builder(slow_bundle())
        .device(Device::Cpu)
        .threads(1)
        .library(library())
}

fn greedy(cancel: &CancelToken, tokens: usize) -> GenerationSettings {
    GenerationSettings {
        sampler: SamplerSettings::greedy(),
        max_new_tokens: tokens,
        ignore_eos: true,
        cancel: cancel.clone(),
        ..GenerationSettings::default()
    }
}

#[test]
fn loading_ends_in_the_middle_of_a_graph() {
    builder().build().unwrap();
    let started = Instant::now();
    builder().build().unwrap();
    let whole = started.elapsed();
    let load = |cancel: &CancelToken| builder().cancel(cancel.clone()).build().err();
    let error = cancelled(whole / 3, load, Option::is_some).unwrap();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
}

#[test]
fn hashing_ends_at_the_next_piece_of_a_file() {
    let cancel = CancelToken::new();
    let of_the_callback = cancel.clone();
    let (sender, seen) = std::sync::mpsc::channel();
    let built = builder()
        .check_hashes()
        .cancel(cancel)
        .on_progress(move |progress| {
            sender.send(progress).unwrap();
            of_the_callback.cancel();
        })
        .build();
    assert_eq!(built.err().unwrap().kind(), ErrorKind::Cancelled);
    let seen: Vec<LoadProgress> = seen.iter().collect();
    assert!(
        matches!(seen[..], [LoadProgress::Hashing { done, total }] if done <= 1 << 20 && total > 100 << 20),
        "{seen:?}"
    );
}

#[test]
fn prefill_ends_within_a_chunk_and_goes_on_from_it() {
    let engine = builder().build().unwrap();
    let prompt = engine
        .processor()
        .raw_prompt(&"a b c d ".repeat(500), &[])
        .unwrap();
    let tokens = prompt.input_ids.len();
    assert!(tokens > 2048);
    let read = |session: &mut Session, cancel: &CancelToken| {
        session.generate(greedy(cancel, 1)).unwrap().complete().unwrap()
    };
    let begun = |cancel: &CancelToken| {
        let mut session = engine.session().unwrap();
        session.extend(prompt.clone()).unwrap();
        let output = read(&mut session, cancel);
        (session, output)
    };
    let (mut session, cut) = cancelled(Duration::from_millis(300), begun, |(session, _)| {
        session.cached_tokens() < tokens
    });
    assert_eq!(cut.reason, FinishReason::Cancelled);
    assert_eq!((cut.token_ids.len(), cut.text.as_str()), (0, ""));
    let kept = session.cached_tokens();
    let rest = read(&mut session, &CancelToken::new());
    assert_eq!(rest.stats.prefilled_tokens, tokens - kept);
    assert_eq!(rest.token_ids, begun(&CancelToken::new()).1.token_ids);
}

#[test]
fn the_encoding_of_an_image_ends_in_the_middle() {
    let engine = builder().build().unwrap();
    let mut processor = engine.processor().clone();
    processor.image_processor_mut().unwrap().max_pixels = 1 << 20;
    let image = RgbImage::from_fn(560, 560, |x, y| [x as u8, y as u8, (x ^ y) as u8]);
    let text = &Case::load("flat_f32").prompts["one_image"].text;
    let prompt = processor.raw_prompt(text, &[image]).unwrap();
    assert!(prompt.images[0].grid.patches() >= 1600);
    let read = |cancel: &CancelToken| -> Vec<Event> {
        let mut session = engine.session().unwrap();
        session.extend(prompt.clone()).unwrap();
        let events = session.generate(greedy(cancel, 1)).unwrap();
        events.map(|event| event.unwrap()).collect()
    };
    let is_encoded = |event: &Event| matches!(event, Event::ImageEncoded { .. });
    let events = cancelled(Duration::from_millis(300), read, |events| {
        !events.iter().any(is_encoded)
    });
    let Some(Event::Finished { reason, .. }) = events.last() else {
        panic!("{events:?}");
    };
    assert_eq!(*reason, FinishReason::Cancelled);
}

#[test]
fn writing_ends_and_keeps_what_was_written() {
    let engine = builder().build().unwrap();
    let prompt = engine.processor().raw_prompt("a b c", &[]).unwrap();
    let write = |cancel: &CancelToken, tokens| {
        let mut session = engine.session().unwrap();
        session.extend(prompt.clone()).unwrap();
        let output = session
            .generate(greedy(cancel, tokens))
            .unwrap()
            .complete()
            .unwrap();
        (session, output)
    };
    let (mut session, cut) = cancelled(
        Duration::from_millis(500),
        |cancel| write(cancel, 4000),
        |(_, cut)| (1..4000).contains(&cut.token_ids.len()),
    );
    let count = cut.token_ids.len();
    assert_eq!(cut.reason, FinishReason::Cancelled);
    assert_eq!(cut.stats.generated_tokens, count);
    assert_eq!(session.tokens()[prompt.input_ids.len()..], cut.token_ids);
    // What comes after it is what would have come.
    let rest = session
        .generate(greedy(&CancelToken::new(), 3))
        .unwrap()
        .complete()
        .unwrap();
    let (_, whole) = write(&CancelToken::new(), count + 3);
    assert_eq!([cut.token_ids, rest.token_ids].concat(), whole.token_ids);
    assert!(whole.text.starts_with(&cut.text));
}
