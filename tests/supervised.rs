//! What is learned of a conversation, against transformers: token ids, labels, grids and positions.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]

use lwv_data::{Dataset, Encoded, Encoder, EncoderSettings, Example};
use lwv_processor::{Grid, PositionBuilder, Processor};
use lwv_tests::{fixtures, read_json};
use serde_json::{Value, json};

fn examples(encoder: &Encoder) -> Vec<Example> {
    let paths = [fixtures().join("sft/tiny.jsonl")];
    let dataset = Dataset::open(&paths, Some(&fixtures())).unwrap();
    let encode = |index| {
        let conversation = dataset.get(index).unwrap();
        let Encoded::Example(example) = encoder.encode(&conversation).unwrap() else {
            panic!("no limit was set");
        };
        assert_eq!(
            encoder.token_count(&conversation).unwrap(),
            example.input_ids.len()
        );
        example
    };
    (0..dataset.len()).map(encode).collect()
}

fn check(example: &Example, expected: &Value, processor: &Processor, place: &str) {
    assert_eq!(json!(example.input_ids), expected["input_ids"], "{place}");
    assert_eq!(json!(example.labels), expected["labels"], "{place}");
    let grids: Vec<Grid> = example.images.iter().map(|image| image.grid).collect();
    let thw: Vec<[i64; 3]> = grids.iter().map(Grid::thw).collect();
    let expected_thw = expected
        .get("image_grid_thw")
        .cloned()
        .unwrap_or_else(|| json!([]));
    assert_eq!(json!(thw), expected_thw, "{place}");
    let merge = processor.image_processor().unwrap().merge_size;
    let positions = PositionBuilder::new(processor.image_token_id().unwrap(), merge)
        .extend(&example.input_ids, &grids)
        .unwrap();
    let rows: Vec<&[i64]> = positions.chunks(example.input_ids.len()).collect();
    assert_eq!(json!(rows), expected["position_ids"], "{place}");
}

#[test]
fn examples_are_the_same() {
    for case in ["flat_f32", "nested_f32"] {
        let processor = Processor::from_dir(&fixtures().join("tiny").join(case)).unwrap();
        let encoder = Encoder::new(processor, EncoderSettings::default());
        let expected = read_json(&fixtures().join("sft").join(case).join("expected.json"));
        let expected = expected["samples"].as_array().unwrap();
        let examples = examples(&encoder);
        assert_eq!(examples.len(), expected.len());
        for (index, (example, expected)) in examples.iter().zip(expected).enumerate() {
            check(example, expected, encoder.processor(), &format!("{case} {index}"));
        }
    }
}
